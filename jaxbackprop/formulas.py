"""How a loss of one example is written: in symbols, and in its numbers, as tracing shows it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Written(NamedTuple):
    """A loss of one example in symbols and in numbers: `yhat − y`, and `1.5 − 2` for each output.

    Where the loss makes a prediction p of the output, `prediction` is its formula, its numbers and its values.
    """

    value: str
    value_numbers: str
    derivative: str
    derivative_numbers: list[str]
    prediction: tuple[str, list[str], np.ndarray] | None = None


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
    """`losses.softmax_cross_entropy`: p is the prediction, y the target."""
    y = np.asarray(y, np.float64) if y.ndim else (np.arange(len(yhat)) == y).astype(np.float64)
    shift = yhat.max() if yhat.max() > 100 else 0.0  # beyond 700 exp overflows
    powers = np.exp(yhat - shift)
    p, mass = powers / powers.sum(), float(y.sum())
    scaled = abs(mass - 1) > 1e-9  # weights rather than probabilities
    times = f"·{show(mass)}" if scaled else ""
    derivative = "p Σ y − y" if scaled else "p − y"
    slopes = [f"{show(a)}{times} − {bracketed(show(b))}" for a, b in zip(p, y, strict=True)]
    parts = [f"exp({show(v)}) / {show(powers.sum())}" for v in yhat - shift]
    return Written("−Σ y log p", _minus_logs(y, p, show), derivative, slopes, ("softmax(yhat)", parts, p))


def sigmoid_binary_cross_entropy(yhat: np.ndarray, y: np.ndarray, show: Show) -> Written:
    """`losses.sigmoid_binary_cross_entropy`: p is the prediction, y the target."""
    y = np.reshape(np.asarray(y, np.float64), yhat.shape)
    p, rest = (np.exp(-np.logaddexp(0, sign * yhat)) for sign in (-1, 1))
    numbers = _minus_logs(np.ravel([y, 1 - y], "F"), np.ravel([p, rest], "F"), show)
    prediction = ("σ(yhat)", [f"σ({show(v)})" for v in yhat], p)
    return Written("−Σ (y log p + (1 − y) log (1 − p))", numbers, "p − y", _gaps(p, y, show), prediction)


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
