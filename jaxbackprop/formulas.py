"""How a loss of one example is written: in symbols, and in its numbers, as tracing shows it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Written(NamedTuple):
    """A loss of one example in symbols and in numbers: `yhat − y`, and `1.5 − 2` for each output."""

    value: str
    value_numbers: str
    derivative: str
    derivative_numbers: list[str]


Show = Callable[[Any], str]  # a number as it is to be written


def half_squared_error(yhat: np.ndarray, y: np.ndarray, show: Show) -> Written:
    """`losses.half_squared_error`."""
    gaps = _gaps(yhat, y, show)
    squares = " + ".join(f"({gap})²" for gap in gaps)
    several = len(yhat) > 1
    formula, numbers = ("½ Σ (yhat − y)²", f"½·({squares})") if several else ("½ (yhat − y)²", f"½·{squares}")
    return Written(formula, numbers, "yhat − y", gaps)


def huber(yhat: np.ndarray, y: np.ndarray, show: Show) -> Written:
    """`losses.huber`."""
    gaps = _gaps(yhat, y, show)
    near = np.abs(yhat - np.reshape(y, yhat.shape)) <= 1
    branches = [f"½·({gap})²" if quadratic else f"|{gap}| − ½" for gap, quadratic in zip(gaps, near, strict=True)]
    formula = "Σ huber(yhat − y)" if len(yhat) > 1 else "huber(yhat − y)"
    return Written(formula, " + ".join(branches), "clip(yhat − y, −1, 1)", [f"clip({gap}, −1, 1)" for gap in gaps])


def softmax_cross_entropy(yhat: np.ndarray, y: np.ndarray, show: Show) -> Written:
    """`losses.softmax_cross_entropy`."""
    p = np.asarray(y, np.float64) if y.ndim else (np.arange(len(yhat)) == y).astype(np.float64)
    s = np.exp(yhat - yhat.max()) / np.exp(yhat - yhat.max()).sum()
    mass = float(p.sum())
    scaled = abs(mass - 1) > 1e-9  # weights rather than probabilities
    times = f"·{show(mass)}" if scaled else ""
    derivative = "softmax(yhat) Σ y − y" if scaled else "softmax(yhat) − y"
    slopes = [f"{show(a)}{times} − {bracketed(show(b))}" for a, b in zip(s, p, strict=True)]
    return Written("−Σ y log softmax(yhat)", _minus_logs(p, s, show), derivative, slopes)


def sigmoid_binary_cross_entropy(yhat: np.ndarray, y: np.ndarray, show: Show) -> Written:
    """`losses.sigmoid_binary_cross_entropy`."""
    p = np.reshape(np.asarray(y, np.float64), yhat.shape)
    s, rest = (np.exp(-np.logaddexp(0, sign * yhat)) for sign in (-1, 1))
    numbers = _minus_logs(np.ravel([p, 1 - p], "F"), np.ravel([s, rest], "F"), show)
    return Written("−Σ (y log σ(yhat) + (1 − y) log σ(−yhat))", numbers, "σ(yhat) − y", _gaps(s, p, show))


def _gaps(a: np.ndarray, b: np.ndarray, show: Show) -> list[str]:
    return [f"{show(a)} − {bracketed(show(b))}" for a, b in zip(a, np.reshape(b, a.shape), strict=True)]


def _minus_logs(p: np.ndarray, s: np.ndarray, show: Show) -> str:
    """−Σ p log s; what has p = 0 costs nothing and is left out."""
    logs = [(a, f"log({show(b)})") for a, b in zip(p, s, strict=True) if a]
    terms = [log if a == 1 else f"{bracketed(show(a))}·{log}" for a, log in logs]
    return f"−{terms[0]}" if len(terms) == 1 and p.max() == 1 else f"−({' + '.join(terms) or '0'})"


def bracketed(shown: str) -> str:
    """A number as it stands within a formula: in brackets where it is negative.

    >>> bracketed("−0.7"), bracketed("1.3")
    ('(−0.7)', '1.3')
    """
    return f"({shown})" if shown.startswith("−") else shown
