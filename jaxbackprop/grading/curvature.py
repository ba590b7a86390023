"""Second derivatives of numbers: forward mode in two directions at once.

A value carries its derivative along each direction, and the second one along both: for c = a b, with a' along the first
direction and a˙ along the second,

    c' = a' b + a b'        c˙ = a˙ b + a b˙        c'˙ = a'˙ b + a' b˙ + a˙ b' + a b'˙
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.expression import Expr, UnknownError, show
from jaxbackprop.grading.functions import FUNCTIONS, Function
from jaxbackprop.grading.values import COMPARE


class Jet(NamedTuple):
    """A value, its derivative along either direction, and along both."""

    value: np.ndarray
    first: np.ndarray
    other: np.ndarray
    both: np.ndarray


def constant(value: np.ndarray) -> Jet:
    """A value that no direction moves."""
    return Jet(value, *(np.zeros_like(value),) * 3)


def _times(a: Jet, b: Jet) -> Jet:
    both = a.both * b.value + a.first * b.other + a.other * b.first + a.value * b.both
    return Jet(a.value * b.value, a.first * b.value + a.value * b.first, a.other * b.value + a.value * b.other, both)


def _of(function: Function, a: Jet) -> Jet:
    """f(a): its second derivative is f''(a) a' a˙ + f'(a) a'˙."""
    slope, curve = function.derivative(a.value), function.second(a.value)
    return Jet(function.value(a.value), slope * a.first, slope * a.other, curve * a.first * a.other + slope * a.both)


def _power(a: Jet, b: Jet) -> Jet:
    if any(np.any(part) for part in b[1:]):  # e^{b log a}
        return _of(FUNCTIONS["exp"], _times(b, _of(FUNCTIONS["log"], a)))
    n = b.value
    power = Function(
        lambda x: x**n,
        lambda x: np.where(n == 0, 0, n * x ** (n - 1)),
        lambda x: np.where((n == 0) | (n == 1), 0, n * (n - 1) * x ** (n - 2)),
    )
    return _of(power, a)


def jet(expr: Expr, known: Mapping[str, Jet], function: Callable[[str, Expr], Function | tuple[str, Expr]]) -> Jet:
    """A formula of numbers; `function` says what a call means.

    Raises:
        UnknownError: an operation of vectors, a name that is not known, or a derivative of a derivative's.
    """

    def inner(e: Expr) -> Jet:
        return jet(e, known, function)

    match expr.op, expr.args:
        case "number", (x, _):
            return constant(np.full((1, 1, 1), x))
        case "name", (text, ()) if text in known:
            return known[text]
        case "+", terms:
            return Jet(*(np.asarray(sum(parts)) for parts in zip(*map(inner, terms), strict=True)))
        case "negative", (a,):
            return Jet(*(-part for part in inner(a)))
        case (("product" | "hadamard" | "matmul"), (first, *rest)):
            total = inner(first)
            for factor in rest:
                total = _times(total, inner(factor))
            return total
        case "/", (a, b):
            return _times(inner(a), _power(inner(b), constant(np.full((1, 1, 1), -1.0))))
        case "^", (a, b):
            return _power(inner(a), inner(b))
        case ("transpose", (a,)) | ("reduce", ("sum" | "npsum" | "pick", _, a)):
            return inner(a)
        case "call", (called, 0, a):
            found = function(called, a)
            return (
                _of(found, inner(a)) if isinstance(found, Function) else jet(found[1], {found[0]: inner(a)}, function)
            )
        case "cases", branches:
            total = constant(np.full((1, 1, 1), np.nan))
            for guard, branch in reversed(list(zip(branches[::2], branches[1::2], strict=True))):
                here = _holds(guard, inner)
                total = Jet(*(np.where(here, x, y) for x, y in zip(inner(branch), total, strict=True)))
            return total
    raise UnknownError(f"a second derivative through {show(expr)} is not judged")


def _holds(guard: Expr, value: Callable[[Expr], Jet]) -> np.ndarray:
    if guard.op == "otherwise":
        return np.full((1, 1, 1), True)
    if guard.op == "and":
        return _holds(guard.args[0], value) & _holds(guard.args[1], value)
    sign, a, b = guard.args
    return COMPARE[sign](value(a).value, value(b).value)
