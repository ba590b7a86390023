"""Formulae as trees: evaluated with numbers, differentiated by hand-written rules, and printed.

A formula is an `Expr(op, args)`: a leaf holds text or a number, every other node holds formulae. The same tree serves
the scalar and the matrix derivation, because every value is an array of shape (points, rows, columns): a scalar is
1 by 1, a vector is a column, and a product is whichever product the shapes allow.

    op            args                                       written
    number        value                                      2
    name          name                                       w1
    derivative    top, bottom                                dL/dz1, dz2/dh0
    partial       formula, name                              ∂(w1 h0)/∂w1
    +             terms                                      a + b
    negative      a                                          -a
    product       factors                                    a * b, a b, a · b
    matmul        a, b                                       a @ b
    hadamard      a, b                                       a ⊙ b
    outer         a, b                                       a ⊗ b, outer(a, b)
    /  ^          a, b                                       a / b, a ^ b
    transpose     a                                          a^T
    call          function, primes, arguments                g'(z1)
    cases         guard, value, guard, value, ...            {1, z1 >= 0; 0, z1 < 0}
    compare       sign, a, b                                 a >= b      (a guard)
    and           guards                                     a >= 0 and b >= 0
    otherwise                                                else
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np


class Expr(NamedTuple):
    """One node of a formula; see the table above.

    >>> show(Expr("+", (number(1.0), name("z1"))))
    '1 + z1'
    """

    op: str
    args: tuple = ()


class ShapeError(ValueError):
    """Two values whose shapes do not fit; the message says which."""


class UnknownError(ValueError):
    """A symbol that means nothing here; the message names it."""


def number(value: float) -> Expr:
    """A constant."""
    return Expr("number", (float(value),))


def name(text: str) -> Expr:
    """A variable."""
    return Expr("name", (text,))


def adjoint(of: str) -> Expr:
    """dL/d(of)."""
    return Expr("derivative", ("L", of))


ZERO, ONE, OTHERWISE = number(0), number(1), Expr("otherwise")


def children(expr: Expr) -> list[Expr]:
    """The formulae directly inside a formula."""
    return [a for a in expr.args if isinstance(a, Expr)]


def nodes(expr: Expr) -> Iterator[Expr]:
    """Every formula inside a formula, itself first."""
    stack = [expr]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(children(node)))


def names(expr: Expr) -> set[str]:
    """The variables in a formula, those of its derivatives left out."""
    return {node.args[0] for node in nodes(expr) if node.op == "name"}


def has(expr: Expr, *ops: str) -> bool:
    """Whether a formula contains one of these operations."""
    return any(node.op in ops for node in nodes(expr))


def depth(expr: Expr) -> int:
    """How deep a formula nests; found without recursion, because it guards the functions that recurse."""
    deepest, level = 0, [expr]
    while level:
        deepest += 1
        level = [child for node in level for child in children(node)]
    return deepest


def replace(expr: Expr, change: Callable[[Expr], Expr | None]) -> Expr:
    """A copy in which every node for which `change` returns a formula is that formula."""
    new = change(expr)
    if new is not None:
        return new
    return Expr(expr.op, tuple(replace(a, change) if isinstance(a, Expr) else a for a in expr.args))


def spots(expr: Expr) -> Iterator[tuple[Expr, Callable[[Expr], Expr]]]:
    """Every node together with a function that puts another one in its place."""
    yield expr, lambda new: new
    for index, child in enumerate(expr.args):
        if isinstance(child, Expr):
            for node, put in spots(child):

                def put_here(new, put=put, index=index):
                    return Expr(expr.op, (*expr.args[:index], put(new), *expr.args[index + 1 :]))

                yield node, put_here


# --- functions -------------------------------------------------------------------------------------------------------


class Function(NamedTuple):
    """An elementwise function and its derivative; `kinked` where the derivative jumps at 0."""

    value: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    kinked: bool = False


_erf = np.vectorize(math.erf, otypes=[float])
_TANH_GELU = math.sqrt(2 / math.pi)


def _sigmoid(z):
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def _d_sigmoid(z):
    return _sigmoid(z) * _sigmoid(-z)


def _normal_cdf(z):
    return 0.5 * (1 + _erf(z / math.sqrt(2)))


def _gelu_u(z):
    return _TANH_GELU * (z + 0.044715 * z**3)


def _d_gelu_tanh(z):
    u = np.tanh(_gelu_u(z))
    return 0.5 * (1 + u) + 0.5 * z * (1 - u * u) * _TANH_GELU * (1 + 3 * 0.044715 * z * z)


# relu'(0) = 1: the exercise's branch "otherwise" includes 0
FUNCTIONS = {
    "relu": Function(lambda z: np.where(z < 0, 0, z), lambda z: np.where(z < 0, 0.0, 1.0), kinked=True),
    "leaky_relu": Function(lambda z: np.where(z < 0, z / 100, z), lambda z: np.where(z < 0, 0.01, 1.0), kinked=True),
    "abs": Function(np.abs, lambda z: np.where(z < 0, -1.0, 1.0), kinked=True),
    "step": Function(lambda z: np.where(z < 0, 0.0, 1.0), np.zeros_like, kinked=True),
    "sign": Function(np.sign, np.zeros_like, kinked=True),
    "elu": Function(
        lambda z: np.where(z < 0, np.expm1(np.minimum(z, 0)), z), lambda z: np.exp(np.minimum(z, 0)), kinked=True
    ),
    "identity": Function(lambda z: z, np.ones_like),
    "tanh": Function(np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": Function(_sigmoid, _d_sigmoid),
    "softplus": Function(lambda z: np.logaddexp(0, z), _sigmoid),
    "silu": Function(lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) + z * _d_sigmoid(z)),
    "gelu": Function(
        lambda z: z * _normal_cdf(z),
        lambda z: _normal_cdf(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi),
    ),
    "gelu_tanh": Function(lambda z: 0.5 * z * (1 + np.tanh(_gelu_u(z))), _d_gelu_tanh),
    "exp": Function(np.exp, np.exp),
    "log": Function(np.log, lambda z: 1 / z),
    "sin": Function(np.sin, np.cos),
    "cos": Function(np.cos, lambda z: -np.sin(z)),
    "sqrt": Function(np.sqrt, lambda z: 0.5 / np.sqrt(z)),
}


# --- values ----------------------------------------------------------------------------------------------------------

Leaf = Callable[[Expr], np.ndarray]  # the value of a name, a derivative, a partial or a call
COMPARE = {
    ">=": np.greater_equal,
    ">": np.greater,
    "<=": np.less_equal,
    "<": np.less,
    "==": np.equal,
    "!=": np.not_equal,
}


def evaluate(expr: Expr, leaf: Leaf) -> np.ndarray:
    """The value of a formula, of shape (points, rows, columns).

    Args:
        expr: the formula, at most a hundred levels deep.
        leaf: gives the value of each name, derivative, partial and call.

    Raises:
        ShapeError: two values that cannot be added or multiplied.
    """

    def value(e: Expr) -> np.ndarray:
        return evaluate(e, leaf)

    match expr.op, expr.args:
        case "number", (x,):
            return np.full((1, 1, 1), x)
        case (("name" | "derivative" | "partial" | "call"), _):
            return leaf(expr)
        case "+", (first, *rest):
            total = value(first)
            for term in rest:
                total = _elementwise(np.add, total, value(term), "added", expr)
            return total
        case "negative", (a,):
            return -value(a)
        case "product", factors:
            return _product([value(f) for f in factors], expr)
        case "matmul", (a, b):
            return _matmul(value(a), value(b), expr)
        case "hadamard", (a, b):
            return _elementwise(np.multiply, value(a), value(b), "multiplied entry by entry", expr)
        case "outer", (a, b):
            return _matmul(_column(value(a)), np.swapaxes(_column(value(b)), 1, 2), expr)
        case "/", (a, b):
            return _elementwise(np.divide, value(a), value(b), "divided", expr)
        case "^", (a, b):
            return _elementwise(np.power, value(a), value(b), "raised to a power", expr)
        case "transpose", (a,):
            return np.swapaxes(value(a), 1, 2)
        case "cases", branches:
            result = np.full((1, 1, 1), np.nan)  # where no guard holds, the formula says nothing
            for guard, branch in reversed(list(zip(branches[::2], branches[1::2], strict=True))):
                result = _where(_guard(guard, leaf), value(branch), result, expr)
            return result
        case (("compare" | "and" | "otherwise"), _):
            return _guard(expr, leaf).astype(float)
    raise UnknownError(f"cannot evaluate {expr.op}")


def _guard(expr: Expr, leaf: Leaf) -> np.ndarray:
    if expr.op == "otherwise":
        return np.full((1, 1, 1), True)
    if expr.op == "and":
        first, second = (_guard(a, leaf) for a in expr.args)
        return first & second
    sign, a, b = expr.args
    return _elementwise(COMPARE[sign], evaluate(a, leaf), evaluate(b, leaf), "compared", expr)


def _is_scalar(a: np.ndarray) -> bool:
    return a.shape[1:] == (1, 1)


def _size(a: np.ndarray) -> str:
    return f"{a.shape[1]}x{a.shape[2]}"


def _elementwise(operation, a, b, verb, expr) -> np.ndarray:
    if a.shape[1:] != b.shape[1:] and not _is_scalar(a) and not _is_scalar(b):
        raise ShapeError(f"in {show(expr)} a {_size(a)} and a {_size(b)} array cannot be {verb}")
    return operation(a, b)


def _where(guard, yes, no, expr) -> np.ndarray:
    _elementwise(np.add, yes, no, "joined", expr)  # only to see that the shapes agree
    return _elementwise(lambda g, rest: np.where(g, yes, rest), guard, no, "joined", expr)


def _matmul(a, b, expr) -> np.ndarray:
    if a.shape[2] != b.shape[1]:
        raise ShapeError(
            f"in {show(expr)} a {_size(a)} matrix cannot multiply a {_size(b)} one; a transpose is missing"
        )
    return a @ b


def _column(a: np.ndarray) -> np.ndarray:
    return a if a.shape[2] == 1 else np.swapaxes(a, 1, 2)


def _times(a, b, expr) -> np.ndarray:
    """A product written without saying which: matrix product where the shapes fit, else entry by entry."""
    scalar = _is_scalar(a) or _is_scalar(b)
    if not scalar and a.shape[2] == b.shape[1]:
        return a @ b
    if scalar or a.shape[1:] == b.shape[1:]:
        return a * b
    return _matmul(a, b, expr)  # raises


def _product(factors: list[np.ndarray], expr: Expr) -> np.ndarray:
    """From left to right; where that does not fit, from right to left: g'(z0) w1^T dz1 is meant so."""
    try:
        total = factors[0]
        for factor in factors[1:]:
            total = _times(total, factor, expr)
    except ShapeError:
        total = factors[-1]
        for factor in reversed(factors[:-1]):
            total = _times(factor, total, expr)
    return total


# --- derivatives -----------------------------------------------------------------------------------------------------

Shape = Callable[[Expr], tuple[int, int]]


def times(a: Expr, b: Expr, op: str = "product") -> Expr:
    """a * b, with the factor 1 and numbers multiplied out."""
    a, b = _folded(a), _folded(b)
    if ZERO in (a, b):
        return ZERO
    if op != "matmul" and ONE in (a, b):
        return b if a == ONE else a
    if a.op == b.op == "number":
        return number(a.args[0] * b.args[0])
    if op == "product":
        left, right = ([_folded(f) for f in (e.args if e.op == "product" else (e,))] for e in (a, b))
        if left[0].op == right[0].op == "number":
            return times(number(left[0].args[0] * right[0].args[0]), _joined((*left[1:], *right[1:])))
        return Expr("product", (*left, *right))
    return Expr(op, (a, b))


def _folded(expr: Expr) -> Expr:
    match expr.op, expr.args:
        case "/", (Expr(op="number", args=(a,)), Expr(op="number", args=(b,))) if b:
            return number(a / b)
    return expr


def _joined(factors: tuple) -> Expr:
    return factors[0] if len(factors) == 1 else Expr("product", factors) if factors else ONE


def plus(terms: list[Expr]) -> Expr:
    """The sum of the terms that are not 0."""
    kept = [t for t in terms if t != ZERO]
    return ZERO if not kept else kept[0] if len(kept) == 1 else Expr("+", tuple(kept))


def pullback(expr: Expr, seed: Expr, shape: Shape | None = None) -> list[tuple[str, Expr]]:
    """The chain rule, backwards through one formula: (variable, its share of the adjoint) for every occurrence.

    With d = the adjoint of the whole formula:  a + b gives d and d;  a b gives d b and a d (matrices: d b^T and a^T d);
    f(a) gives d f'(a);  a^n gives d n a^(n-1).

    Args:
        expr: the formula.
        seed: its adjoint, d.
        shape: for matrices, the (rows, columns) of a formula; None for scalars.

    >>> [(v, show(e)) for v, e in pullback(Expr("product", (name("w1"), name("h0"))), adjoint("z1"))]
    [('w1', 'dL/dz1 * h0'), ('h0', 'dL/dz1 * w1')]
    """
    entry = "product" if shape is None else "hadamard"
    match expr.op, expr.args:
        case "name", (text,):
            return [(text, seed)]
        case "+", terms:
            return [pair for term in terms for pair in pullback(term, seed, shape)]
        case "negative", (a,):
            return pullback(a, Expr("negative", (seed,)), shape)
        case "transpose", (a,):
            return pullback(a, seed if shape is None else Expr("transpose", (seed,)), shape)
        case (("product" | "matmul" | "hadamard"), (*first, b)):
            a = _joined(tuple(first))
            op = entry
            if shape is not None and expr.op != "hadamard":
                rows, columns = shape(a), shape(b)
                if (1, 1) not in (rows, columns) and rows[1] == columns[0]:
                    to_a = times(seed, Expr("transpose", (b,)), "matmul")
                    to_b = times(Expr("transpose", (a,)), seed, "matmul")
                    return pullback(a, to_a, shape) + pullback(b, to_b, shape)
                op = "product" if (1, 1) in (rows, columns) else "hadamard"
            return pullback(a, times(seed, b, op), shape) + pullback(b, times(seed, a, op), shape)
        case "/", (a, b):
            to_a = Expr("/", (seed, b))
            to_b = Expr("negative", (times(seed, Expr("/", (a, Expr("^", (b, number(2))))), entry),))
            return pullback(a, to_a, shape) + (pullback(b, to_b, shape) if names(b) else [])
        case "^", (a, Expr(op="number", args=(n,))):
            power = a if n == 2 else Expr("^", (a, number(n - 1)))
            return pullback(a, times(times(number(n), seed), power, entry), shape)
        case "call", ("sum", _, a):
            return pullback(a, seed, shape)
        case "call", (function, primes, a):
            return pullback(a, times(seed, Expr("call", (function, primes + 1, a)), entry), shape)
        case "cases", branches:
            found = []
            for guard, branch in zip(branches[::2], branches[1::2], strict=True):
                for text, share in pullback(branch, seed, shape):
                    found.append((text, _only(branches[::2], guard, share)))
            return found
        case "number", _:
            return []
    if not names(expr):
        return []
    raise UnknownError(f"cannot differentiate {show(expr)}")


def _only(guards, guard, share: Expr) -> Expr:
    """`share` where this guard is the one that decides, 0 elsewhere."""
    return Expr("cases", tuple(x for g in guards for x in (g, share if g is guard else ZERO)))


def slope(body: Expr, variable: str) -> Expr:
    """The derivative of a function of one variable, branch by branch where it has cases."""
    if body.op == "cases":
        pairs = zip(body.args[::2], body.args[1::2], strict=True)
        return Expr("cases", tuple(x for guard, branch in pairs for x in (guard, slope(branch, variable))))
    return plus([share for text, share in pullback(body, ONE) if text == variable])


# --- print -----------------------------------------------------------------------------------------------------------

_BINDING = {"+": 1, "negative": 2, "hadamard": 2, "product": 3, "matmul": 3, "outer": 3, "/": 3, "^": 5, "transpose": 5}


def show(expr: Expr, above: int = 0) -> str:
    """A formula in plain text, as `grade` reads it.

    >>> show(Expr("product", (adjoint("h1"), Expr("call", ("g", 1, name("z1"))))))
    "dL/dh1 * g'(z1)"
    """
    binding = _BINDING.get(expr.op, 9)
    text = _show(expr, binding)
    return f"({text})" if binding < above else text


def _show(expr: Expr, binding: int) -> str:
    match expr.op, expr.args:
        case "number", (x,):
            return f"{x:.6g}"
        case "name", (text,):
            return text
        case "derivative", (top, bottom):
            return f"d{top}/d{bottom}"
        case "partial", (a, bottom):
            return f"∂({show(a)})/∂{bottom}"
        case "+", (first, *rest):
            parts = [(" - ", t.args[0], 2) if t.op == "negative" else (" + ", t, 1) for t in rest]
            return show(first, 1) + "".join(sign + show(term, above) for sign, term, above in parts)
        case "negative", (a,):
            return f"-{show(a, 3)}"
        case "product", factors:
            # a second factor that divides, or begins with a sign, needs its parentheses
            return " * ".join(show(f, 3 if i == 0 else 4) for i, f in enumerate(factors))
        case (("matmul" | "hadamard" | "outer" | "/" | "^"), (a, b)):
            sign = {"matmul": " @ ", "hadamard": " ⊙ ", "outer": " ⊗ ", "/": " / ", "^": "^"}[expr.op]
            return f"{show(a, binding + (expr.op == '^'))}{sign}{show(b, binding + 1)}"
        case "transpose", (a,):
            return f"{show(a, 6)}^T"
        case "call", (function, primes, *arguments):
            return f"{function}{chr(39) * primes}({', '.join(show(a) for a in arguments)})"
        case "cases", branches:
            pairs = zip(branches[1::2], branches[::2], strict=True)
            return "{" + "; ".join(f"{show(value)}, {show(guard)}" for value, guard in pairs) + "}"
        case "compare", (sign, a, b):
            return f"{show(a)} {sign} {show(b)}"
        case "and", (a, b):
            return f"{show(a)} and {show(b)}"
        case "otherwise", _:
            return "otherwise"
    raise UnknownError(f"cannot print {expr.op}")
