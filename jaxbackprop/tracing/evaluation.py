"""A text's formula at given numbers: in NumPy, in JAX for `jax.grad`, or in words, `0.5·2 + (−1)`.

One evaluator for the three: they differ in what a number, a leaf and a function are. Within a formula every value has an
axis for each index letter in it, in alphabetical order and 1 where it does not depend on it, then rows and columns.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.formulas import bracketed
from jaxbackprop.grading.expression import Expr, ShapeError, UnknownError, show
from jaxbackprop.grading.values import COMPARE


class Scope(NamedTuple):
    """What a formula is evaluated in.

    Attributes:
        number: what a constant is.
        leaf: the value of a name or a derivative, with the axes above.
        call: the value of a function: its name, its primes, its argument's value and formula.
        where: choose by a guard.
        letters: the formula's index letters, in order.
        sizes: how far each runs.
        rows: examples are rows.
        exact: numbers, no words: exponentials are taken of differences from the largest.
    """

    number: Callable[[float], Any]
    leaf: Callable[[Expr, Scope], Any]
    call: Callable[[str, int, Any, Expr], Any]
    where: Callable[[Any, Any, Any], Any]
    letters: tuple[str, ...] = ()
    sizes: Mapping[str, int] = MappingProxyType({})
    rows: bool = False
    exact: bool = True

    def lone(self, value: float):
        """A constant, with all axes."""
        return np.full((1,) * (len(self.letters) + 2), self.number(value))


def evaluate(expr: Expr, scope: Scope):
    """The value of a formula.

    Raises:
        ShapeError: two values that cannot be added or multiplied.
        UnknownError: an operation that is not worked through.
    """
    value = lambda e: evaluate(e, scope)  # noqa: E731
    match expr.op, expr.args:
        case "number", (x, _):
            return scope.lone(x)
        case (("name" | "derivative"), _):
            return scope.leaf(expr, scope)
        case "call", (function, primes, a):
            return scope.call(function, primes, value(a), a)
        case "+", terms:
            return reduce(lambda a, b: operator.add(*_fit(a, b, expr)), map(value, terms))
        case "negative", (a,):
            return -value(a)
        case "product", factors:
            return reduce(lambda a, b: _product(a, b, expr), map(value, factors))
        case "matmul", (a, b):
            return _matmul(value(a), value(b), expr)
        case "hadamard", (a, b):
            return operator.mul(*_fit(value(a), value(b), expr))
        case "outer", (a, b):
            return _column(value(a)) @ _column(value(b)).swapaxes(-1, -2)
        case "/", (a, b):
            return operator.truediv(*_fit(value(a), value(b), expr))
        case "^", (a, b):
            return operator.pow(*_fit(value(a), value(b), expr))
        case "transpose", (a,):
            return value(a).swapaxes(-1, -2)
        case "delta", (j, k):
            place = [scope.sizes[x] if x in (j, k) else 1 for x in scope.letters]
            return np.eye(scope.sizes[j]).reshape(*place, 1, 1)
        case "sum", (letters, a, _):
            inside = value(a)
            axes = tuple(scope.letters.index(x) for x in letters)
            absent = np.prod([scope.sizes[x] for x, i in zip(letters, axes, strict=True) if inside.shape[i] == 1])
            total = inside.sum(axis=axes, keepdims=True)
            return total if absent == 1 else total * scope.lone(float(absent))
        case "reduce", (how, axis, a):
            return _reduce(how, axis, value(a), scope)
        case "cases", branches:
            pairs = list(zip(branches[::2], branches[1::2], strict=True))
            total = value(pairs[-1][1])
            for guard, branch in reversed(pairs[:-1]):
                total = scope.where(value(guard), value(branch), total)
            return total
        case "compare", (sign, a, b):
            return COMPARE[sign](*_fit(value(a), value(b), expr))
        case "and", (a, b):
            return value(a) & value(b)
    raise UnknownError(f"{show(expr)} is not worked through with numbers")


def _sized(a) -> str:
    return f"{a.shape[-2]}x{a.shape[-1]}"


def _fit(a, b, expr: Expr):
    """Both, where one has the other's rows and columns, or single ones in their place."""
    shapes = a.shape[-2:], b.shape[-2:]
    wide = tuple(map(max, *shapes))
    if wide not in shapes or any(m != n and 1 not in (m, n) for m, n in zip(*shapes, strict=True)):
        raise ShapeError(f"{show(expr)}: a {_sized(a)} and a {_sized(b)} array do not fit together")
    return a, b


def _matmul(a, b, expr: Expr):
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"{show(expr)}: a {_sized(a)} array cannot multiply a {_sized(b)} one")
    return a @ b


def _product(a, b, expr: Expr):
    """Of matrices where the shapes fit, else entry by entry."""
    shapes = a.shape[-2:], b.shape[-2:]
    if (1, 1) not in shapes and shapes[0][1] == shapes[1][0]:
        return a @ b
    try:
        return operator.mul(*_fit(a, b, expr))
    except ShapeError:
        return _matmul(a, b, expr)


def _column(a):
    return a if a.shape[-1] == 1 else a.swapaxes(-1, -2)


def _axes(how: str, axis: int | None, a, scope: Scope) -> tuple[int, ...]:
    """Which axes are added up; of a softmax without one the classes of each example."""
    if axis is not None:
        return (-2,) if axis in (0, -2) else (-1,)
    if "softmax" not in how:
        return tuple(range(a.ndim)) if a.shape[-2:] == (1, 1) else (-2, -1)
    if a.shape[-2:] == (1, 1) and scope.letters:
        return (max(i for i, n in enumerate(a.shape[:-2]) if n > 1),)
    first, other = (-1, -2) if scope.rows else (-2, -1)
    return (first,) if a.shape[first] > 1 else (other,)


def _reduce(how: str, axis: int | None, a, scope: Scope):
    axes = _axes(how, axis, a, scope)
    total = lambda part: part.sum(axis=axes, keepdims=True)  # noqa: E731
    call = lambda function, part: scope.call(function, 0, part, Expr("number", (0.0, 0.0)))  # noqa: E731
    match how:
        case "sum" | "npsum":
            return total(a)
        case "mean":
            return total(a) / scope.lone(float(np.prod([a.shape[i] for i in axes])))
        case "norm":
            return call("sqrt", total(a * a))
        case "max" | "min":
            return getattr(a, how)(axis=axes, keepdims=True)
        case "softmax" | "log_softmax" | "logsumexp":
            most = a.max(axis=axes, keepdims=True) if scope.exact else None
            powers = call("exp", a if most is None else a - most)
            if how == "softmax":
                return powers / total(powers)
            log = call("log", total(powers))
            log = log if most is None else log + most
            return log if how == "logsumexp" else a - log
        case "tr":
            return (a * np.eye(a.shape[-1])).sum(axis=(-2, -1), keepdims=True)
        case "vec":
            return a.swapaxes(-1, -2).reshape(*a.shape[:-2], -1, 1)
    raise UnknownError(f"{how} is not worked through with numbers")


# --- in words --------------------------------------------------------------------------------------------------------


class Shown:
    """A number as it is written with others: `0.5·2 − 1`; arrays of these add and multiply as those of numbers do."""

    __slots__ = ("binds", "minus", "text", "value")

    def __init__(self, text: str, value: float, binds: int = 3, minus: Shown | None = None):
        self.text, self.value, self.binds, self.minus = text, value, binds, minus

    def inside(self, binds: int) -> str:
        """As it stands within something that binds so."""
        return f"({self.text})" if self.binds < binds else bracketed(self.text)

    def __add__(self, other):
        minus = other.minus
        # of a product that begins with a sign, the number in brackets
        plus = re.sub(r"^−[\d.e−]+(?=·)", r"(\g<0>)", other.text) if other.binds == 2 else other.text
        shown = f"− {minus.inside(2)}" if minus else f"+ {bracketed(plus) if other.binds > 1 else plus}"
        return Shown(f"{self.text} {shown}", self.value + other.value, 1)

    def __neg__(self):
        if self.text == "0":
            return Shown("0", 0.0, 3, self)
        return self.minus or Shown(f"−{self.inside(2)}", -self.value, 1, self)

    def __sub__(self, other):
        return self + -other

    def _joined(self, sign: str, other, value: float, left: int, right: int, binds: int):
        first = self.text if self.binds >= left and binds == 2 else self.inside(left)
        return Shown(f"{first}{sign}{other.inside(right)}", value, binds)

    def __mul__(self, other):
        if not isinstance(other, Shown):  # of an identity matrix
            return self if other else Shown("0", 0.0)
        return self._joined("·", other, self.value * other.value, 2, 2, 2)

    def __rmul__(self, other):
        return self * other

    def __truediv__(self, other):
        if self.text.isdigit() and other.text.isdigit():
            return Shown(
                "½" if (self.text, other.text) == ("1", "2") else f"{self.text}/{other.text}", self.value / other.value
            )
        return self._joined(" / ", other, self.value / other.value if other.value else np.nan, 2, 3, 2)

    def __pow__(self, other):
        if other.text == "2":
            return Shown(f"{self.inside(4) if self.binds < 3 else bracketed(self.text)}²", self.value**2)
        return self._joined("^", other, self.value**other.value, 3, 3, 2)

    def __ge__(self, other):
        return self.value >= other.value

    def __gt__(self, other):
        return self.value > other.value

    def __le__(self, other):
        return self.value <= other.value

    def __lt__(self, other):
        return self.value < other.value
