"""One evaluator, for numbers, vectors, matrices, batches and indexed sums; and reverse mode over it.

Every value is an array of shape (points, letters..., rows, columns): a number has one row and one column, a column
vector one column, and w_ji has an axis for j and one for i. A product of matrices contracts columns with rows, a sum
over a letter contracts that letter: both are einsums. Each step keeps how an adjoint goes back through it, so that
`pull` is backpropagation over the text's own equations.

Numbers may be NumPy's, JAX's, or words with a value (`tracing.words`): a `Scope` says what a constant, a name and a
function are.
"""

import itertools
import operator
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.expression import ONE, Expr, ShapeError, UnknownError, negated, show
from jaxbackprop.grading.functions import FUNCTIONS, Function

COMPARE = {
    ">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
TURNED = {">=": ">", ">": ">=", "<=": "<", "<": "<="}  # the other choice at the kink itself
_count = itertools.count()


class Rules(NamedTuple):
    """How to read what a formula leaves open.

    Attributes:
        rows: examples are rows, so that a softmax is along the columns.
        batch: `sum` without an axis sums over the examples only.
        kron: ⊗ is the Kronecker product, not the outer one.
        bound: letters that a sum around runs over: of Σ_n ‖y_n‖² the norm is that of one y_n.
        turned: the arguments at whose kink the other slope is taken.
        flat: vectors have one axis, as NumPy's: v @ h is a number, dz @ W is W^T dz.
        dot: w · x of two columns is a number.
    """

    rows: bool = False
    batch: bool = False
    kron: bool = False
    bound: frozenset[str] = frozenset()
    turned: frozenset[str] = frozenset()
    flat: bool = False
    dot: bool = False


class Node:
    """A value, its index letters in order, and the values it was made of, each with its share of an adjoint."""

    __slots__ = ("array", "letters", "order", "parents")

    def __init__(self, array: np.ndarray, letters: tuple[str, ...] = (), parents: tuple = ()):
        self.array, self.letters, self.parents, self.order = array, letters, parents, next(_count)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.array.shape[-2], self.array.shape[-1]


def pull(node: Node, seed: np.ndarray) -> dict[int, np.ndarray]:
    """Reverse mode: the adjoint of every value that `node` was made of, by `id`, given its own."""
    adjoints, nodes = {id(node): seed}, {node.order: node}
    while nodes:
        at = nodes.pop(max(nodes))
        for parent, share in at.parents:
            part = share(adjoints[id(at)])
            adjoints[id(parent)] = adjoints.get(id(parent), 0) + part
            nodes[parent.order] = parent
    return adjoints


# --- steps -----------------------------------------------------------------------------------------------------------


def _spread(node: Node, letters: tuple[str, ...]) -> np.ndarray:
    """The array with an axis for each of these letters, of size 1 where the value does not depend on it."""
    index = tuple(slice(None) if letter in node.letters else None for letter in letters)
    return node.array[(slice(None), *index, slice(None), slice(None))]


def _gathered(adjoint: np.ndarray, node: Node, letters: tuple[str, ...]) -> np.ndarray:
    """An adjoint summed over what the value was repeated along."""
    like = _spread(node, letters)
    axes = tuple(i for i, (a, b) in enumerate(zip(adjoint.shape, like.shape, strict=True)) if b == 1 and a != 1)
    summed = adjoint.sum(axis=axes, keepdims=True) if axes else adjoint
    return np.broadcast_to(summed, like.shape).reshape(node.array.shape)


def _union(*nodes: Node) -> tuple[str, ...]:
    return tuple(sorted({letter for node in nodes for letter in node.letters}))


def _fitting(a: Node, b: Node, verb: str, expr: Expr) -> tuple[str, ...]:
    """The letters of both; refused where rows and columns do not fit."""
    wide = tuple(max(i, j) for i, j in zip(a.shape, b.shape, strict=True))
    fits = all(1 in (i, j) or i == j for i, j in zip(a.shape, b.shape, strict=True)) and wide in (a.shape, b.shape)
    if not fits:
        raise ShapeError(f"in {show(expr)} a {sized(a)} and a {sized(b)} array cannot be {verb}")
    return _union(a, b)


def sized(node: Node) -> str:
    """2x3."""
    return f"{node.shape[0]}x{node.shape[1]}"


def _binary(a: Node, b: Node, operation, to_a, to_b, verb: str, expr: Expr) -> Node:
    letters = _fitting(a, b, verb, expr)
    x, y = _spread(a, letters), _spread(b, letters)
    try:
        array = operation(x, y)
    except ValueError:
        raise ShapeError(f"in {show(expr)} an index runs over two different ranges") from None
    parents = (
        (a, lambda d: _gathered(to_a(d, x, y), a, letters)),
        (b, lambda d: _gathered(to_b(d, x, y), b, letters)),
    )
    return Node(array, letters, parents)


def add(a: Node, b: Node, expr: Expr) -> Node:
    """a + b."""
    return _binary(a, b, operator.add, lambda d, *_: d, lambda d, *_: d, "added", expr)


def times(a: Node, b: Node, expr: Expr) -> Node:
    """a ⊙ b, entry by entry."""
    return _binary(a, b, operator.mul, lambda d, _, y: d * y, lambda d, x, _: d * x, "multiplied entry by entry", expr)


def over(a: Node, b: Node, expr: Expr) -> Node:
    """a / b, entry by entry."""
    return _binary(a, b, operator.truediv, lambda d, _, y: d / y, lambda d, x, y: -d * x / y**2, "divided", expr)


def raised(a: Node, b: Node, expr: Expr) -> Node:
    """a ^ b, entry by entry."""

    def to_b(d, x, y):
        return d * x**y * np.log(np.where(x > 0, x, 1))

    return _binary(a, b, operator.pow, lambda d, x, y: d * y * x ** (y - 1), to_b, "raised to a power", expr)


def inverse(a: Node, expr: Expr) -> Node:
    """A⁻¹ of a square matrix, and d -> −A⁻ᵀ d A⁻ᵀ."""
    try:
        array = np.linalg.inv(a.array)
    except np.linalg.LinAlgError:
        raise UnknownError(f"{show(expr)} has no inverse at a point") from None
    turned = np.swapaxes(array, -1, -2)
    return Node(array, a.letters, ((a, lambda d: -(turned @ d @ turned)),))


def matmul(a: Node, b: Node, expr: Expr) -> Node:
    """A B."""
    if a.shape[1] != b.shape[0]:
        words = f"in {show(expr)} a {sized(a)} matrix cannot multiply a {sized(b)} one; a transpose is missing"
        raise ShapeError(words)
    letters = _union(a, b)
    x, y = _spread(a, letters), _spread(b, letters)
    try:
        array = x @ y
    except ValueError:
        raise ShapeError(f"in {show(expr)} an index runs over two different ranges") from None
    parents = (
        (a, lambda d: _gathered(d @ np.swapaxes(y, -1, -2), a, letters)),
        (b, lambda d: _gathered(np.swapaxes(x, -1, -2) @ d, b, letters)),
    )
    return Node(array, letters, parents)


def _flat(a: Node, b: Node, expr: Expr) -> Node:
    """A @ B where a vector is an array of one axis, here a column: v @ h is vᵀ h, and v @ W is Wᵀ v."""
    if a.shape[1] == 1 != b.shape[0] == a.shape[0]:
        return matmul(transpose(b), a, expr)
    return matmul(a, b, expr)


def negative(a: Node) -> Node:
    """-a."""
    return Node(-a.array, a.letters, ((a, lambda d: -d),))


def product(a: Node, b: Node, expr: Expr) -> Node:
    """A product written without saying which: of matrices where the shapes fit, else entry by entry."""
    if (1, 1) not in (a.shape, b.shape) and a.shape[1] == b.shape[0]:
        return matmul(a, b, expr)
    try:
        return times(a, b, expr)
    except ShapeError:
        return matmul(a, b, expr)  # raises, and names the transpose


def _dotted(a: Node, b: Node, expr: Expr) -> Node:
    """w · x of two columns as wᵀ x."""
    alike = a.shape[1] == b.shape[1] == 1 != a.shape[0] == b.shape[0]
    return matmul(transpose(a), b, expr) if alike else product(a, b, expr)


def _products(factors: list[Node], expr: Expr, product: Callable[[Node, Node, Expr], Node] = product) -> Node:
    """From left to right; where that does not fit, from right to left: g'(z0) w1^T dz1 is meant so."""
    try:
        total = factors[0]
        for factor in factors[1:]:
            total = product(total, factor, expr)
    except ShapeError as error:
        total = factors[-1]
        for factor in reversed(factors[:-1]):
            try:
                total = product(factor, total, expr)
            except ShapeError:
                raise error from None
    return total


def transpose(a: Node) -> Node:
    """Aᵀ."""
    return Node(np.swapaxes(a.array, -1, -2), a.letters, ((a, lambda d: np.swapaxes(d, -1, -2)),))


def apply(function: Function, a: Node, primes: int = 0, turned: bool = False) -> Node:
    """f(a), f'(a) or f''(a), entry by entry."""
    if primes > 2:
        raise UnknownError("a third derivative is not judged")
    z = a.array

    def slope():
        derivative = function.derivative(z)
        if turned and function.kinked:  # the slope from the left
            derivative = np.where(z == 0, function.derivative(np.full_like(z, -1e-300)), derivative)
        return derivative

    if primes == 2:
        return Node(function.second(z) + 0 * z, a.letters)
    if primes:
        return Node(slope() + 0 * z, a.letters, ((a, lambda d: d * function.second(z)),))
    return Node(np.asarray(function.value(z), float), a.letters, ((a, lambda d: d * slope()),))


def reduced(a: Node, axes: tuple[int, ...], how: str = "sum") -> Node:
    """The sum, or the largest or smallest entry, over some axes, kept with size 1; letters among them are dropped."""
    axes = tuple(axis % a.array.ndim for axis in axes)
    array = getattr(a.array, how)(axis=axes, keepdims=True)
    gone = tuple(axis for axis in axes if axis < a.array.ndim - 2)
    letters = tuple(x for i, x in enumerate(a.letters, 1) if i not in gone)

    def share(d):
        repeated = np.broadcast_to(d.reshape(d.shape[0], *array.shape[1:]), (d.shape[0], *a.array.shape[1:]))
        return repeated if how == "sum" else repeated * (a.array == array)

    return Node(array.squeeze(gone) if gone else array, letters, ((a, share),))


def at_entry(a: Node, fixed: frozenset[str]) -> Node:
    """One entry along each letter that stands for one: of c the first, of a second such letter another."""
    for letter in sorted(fixed & {*a.letters}):
        axis = 1 + a.letters.index(letter)
        n, letters = a.array.shape[axis], tuple(x for x in a.letters if x != letter)
        at = entry_of(letter, fixed, n)

        def share(d, n=n, axis=axis, at=at):
            part = np.expand_dims(d, axis)
            return np.concatenate([part if i == at else np.zeros_like(part) for i in range(n)], axis)

        a = Node(a.array.take(at, axis), letters, ((a, share),))
    return a


def entry_of(letter: str, fixed: frozenset[str], n: int) -> int:
    """Which of n entries a letter stands for."""
    return sorted(fixed).index(letter) % n


def select(guards: list[Node], branches: list[Node], total: Node, expr: Expr) -> Node:
    """Cases: where a guard is the first that holds, its branch; `total` where none does."""
    for guard, branch in reversed(list(zip(guards, branches, strict=True))):
        mask = Node(guard.array, guard.letters)
        letters = _union(mask, branch, total)
        _fitting(branch, total, "joined", expr)
        for part in (branch, total):
            _fitting(mask, part if part.shape != (1, 1) else mask, "joined", expr)
        g, x, y = (_spread(n, letters) for n in (mask, branch, total))
        if any(
            len({n for n in sizes if n != 1}) > 1 for sizes in zip(g.shape[1:], x.shape[1:], y.shape[1:], strict=True)
        ):
            raise ShapeError(f"in {show(expr)} an index runs over two different ranges")
        parents = (
            (branch, lambda d, g=g, n=branch, k=letters: _gathered(np.where(g, d, 0), n, k)),
            (total, lambda d, g=g, n=total, k=letters: _gathered(np.where(g, 0, d), n, k)),
        )
        total = Node(_where(g, x, y), letters, parents)
    return total


def _where(guard, x, y):
    library = next((a.__array_namespace__() for a in (guard, x, y) if not isinstance(a, np.ndarray)), np)
    return library.where(guard, x, y)


# --- formulae --------------------------------------------------------------------------------------------------------


def constant(x: float) -> Node:
    """A number."""
    return Node(np.full((1, 1, 1), x))


class Scope(NamedTuple):
    """What a formula is evaluated in.

    Attributes:
        leaf: the value of a name, a derivative or a call.
        sizes: how far each letter runs.
        rules: how to read what a formula leaves open.
        fixed: letters that stand for one entry.
        number: the value of a constant.
        function: a known function of a value, entry by entry: exp, log, sqrt.
    """

    leaf: Callable[[Expr], Node]
    sizes: Mapping[str, int]
    rules: Rules = Rules()
    fixed: frozenset[str] = frozenset()
    number: Callable[[float], Node] = constant
    function: Callable[[str, Node], Node] = lambda called, a: apply(FUNCTIONS[called], a)


def evaluate(expr: Expr, scope: Scope) -> Node:
    """The value of a formula.

    Raises:
        ShapeError: two values that cannot be added or multiplied.
        UnknownError: a symbol or an operation that means nothing here.
    """

    def value(e: Expr) -> Node:
        return evaluate(e, scope)

    match expr.op, expr.args:
        case "number", (x, _):
            return scope.number(x)
        case (("name" | "derivative" | "second" | "partial" | "call"), _):
            return scope.leaf(expr)
        case "delta", (j, k):
            n = scope.sizes.get(j) or scope.sizes.get(k) or 1
            eye = np.eye(n).reshape(1, n, n, 1, 1)
            return at_entry(Node(eye, tuple(sorted((j, k)))), scope.fixed) if j != k else constant(1.0)
        case "+", terms:
            return _sum(terms, scope, expr)
        case "negative", (a,):
            return negative(value(a))
        case "product", factors:
            return _products([value(f) for f in factors], expr, _dotted if scope.rules.dot else product)
        case "matmul", (a, b):
            return (_flat if scope.rules.flat else matmul)(value(a), value(b), expr)
        case "hadamard", (a, b):
            return times(value(a), value(b), expr)
        case (("outer" | "kron"), (a, b)):
            return _outer(value(a), value(b), expr, expr.op == "kron" or scope.rules.kron)
        case "/", (a, b):
            return over(value(a), value(b), expr)
        case "^", (a, b):
            base = value(a)
            square = b == negated(ONE) and base.shape[0] == base.shape[1] > 1
            return inverse(base, expr) if square else raised(base, value(b), expr)
        case "transpose", (a,):
            return transpose(value(a))
        case "sum", (letters, a, _):
            inside = scope._replace(rules=scope.rules._replace(bound=scope.rules.bound | {*letters}))
            return _over_letters(evaluate(a, inside), letters, scope, expr)
        case "reduce", (how, axis, a):
            return _reduce(how, axis, value(a), scope, expr)
        case "cases", branches:
            guards = [_guard(g, scope) for g in branches[::2]]
            return select(guards, [value(b) for b in branches[1::2]], scope.number(np.nan), expr)
        case (("compare" | "and" | "otherwise"), _):
            guard = _guard(expr, scope)
            return Node(guard.array.astype(float), guard.letters)
    raise UnknownError(f"cannot evaluate {expr.op}")


def _sum(terms: tuple[Expr, ...], scope: Scope, expr: Expr) -> Node:
    """a + b; the I of A + λ I is as large as A."""
    unit = [t for t in terms if _unit(t) is not None] if len(terms) > 1 else []
    total = None
    for term in (t for t in terms if t not in unit):
        part = evaluate(term, scope)
        total = part if total is None else add(total, part, expr)
    for term in unit:
        factor, sign = _unit(term)  # type: ignore[misc]
        try:
            part = evaluate(term, scope)  # it may be a name of the text
        except UnknownError:
            if total is None or total.shape[0] != total.shape[1] or total.shape == (1, 1):
                raise
            eye = Node(sign * np.eye(total.shape[0])[None])
            part = times(evaluate(factor, scope), eye, expr) if factor is not None else eye
        total = part if total is None else add(total, part, expr)
    return total  # type: ignore[return-value]


def _unit(term: Expr) -> tuple[Expr | None, float] | None:
    """The factor and the sign of I, λ I, −I; None of another term."""
    match term:
        case Expr("negative", (a,)):
            inside = _unit(a)
            return inside and (inside[0], -inside[1])
        case Expr("name", ("I", ())):
            return None, 1.0
        case Expr("product", (*factors, Expr("name", ("I", ())))):
            return (Expr("product", tuple(factors)) if len(factors) > 1 else factors[0]), 1.0
    return None


def _over_letters(a: Node, letters: tuple[str, ...], scope: Scope, expr: Expr) -> Node:
    """Σ over letters; one that the formula does not have counts how far it runs."""
    axes = tuple(1 + a.letters.index(x) for x in dict.fromkeys(letters) if x in a.letters)
    total = reduced(a, axes) if axes else a
    absent = float(np.prod([scope.sizes.get(x, 1) for x in letters if x not in a.letters]))
    return total if absent == 1 else times(total, scope.number(absent), expr)


def _guard(expr: Expr, scope: Scope) -> Node:
    if expr.op == "otherwise":
        return constant(True)
    if expr.op == "and":
        first, second = (_guard(a, scope) for a in expr.args)
        letters = _union(first, second)
        return Node(_spread(first, letters) & _spread(second, letters), letters)
    sign, a, b = expr.args
    x, y = evaluate(a, scope), evaluate(b, scope)
    letters = _fitting(x, y, "compared", expr)
    return Node(COMPARE[sign](_spread(x, letters), _spread(y, letters)), letters)


def _column(a: Node) -> Node:
    return a if a.shape[1] == 1 else transpose(a)


def _outer(a: Node, b: Node, expr: Expr, kron: bool) -> Node:
    if not kron:
        return matmul(_column(a), transpose(_column(b)), expr)
    letters = _union(a, b)
    x, y = _spread(a, letters), _spread(b, letters)
    (m, n), (p, q) = a.shape, b.shape
    blocks = x[..., :, None, :, None] * y[..., None, :, None, :]

    def to_a(d):
        return _gathered((d.reshape(*d.shape[:-2], m, p, n, q) * y[..., None, :, None, :]).sum((-3, -1)), a, letters)

    def to_b(d):
        return _gathered((d.reshape(*d.shape[:-2], m, p, n, q) * x[..., :, None, :, None]).sum((-4, -2)), b, letters)

    return Node(blocks.reshape(*blocks.shape[:-4], m * p, n * q), letters, ((a, to_a), (b, to_b)))


def _axes(axis: int | None, a: Node, rules: Rules, along_classes: bool = False) -> tuple[int, ...]:
    """Which axes `axis` means; without one all, or the classes of each example."""
    if axis is not None:
        return (-2,) if axis in (0, -2) else (-1,)
    if a.shape == (1, 1) and a.letters:
        last = next((i for i, x in enumerate(a.letters, 1) if x not in "nm"), 1)
        return (last,) if along_classes else tuple(i for i, x in enumerate(a.letters, 1) if x not in rules.bound)
    if along_classes:
        first, other = (-1, -2) if rules.rows else (-2, -1)
        return (first,) if a.array.shape[first] > 1 else (other,)
    return (-2, -1)


def _reduce(how: str, axis: int | None, a: Node, scope: Scope, expr: Expr) -> Node:
    rules = scope.rules
    if how in ("sum", "npsum") and axis is None and rules.batch:
        axis = 0 if rules.rows else 1
    match how:
        case "sum" | "npsum" | "pick":
            return reduced(a, _axes(axis, a, rules))
        case "mean":
            total = reduced(a, _axes(axis, a, rules))
            return over(total, scope.number(a.array[0].size / total.array[0].size), expr)
        case "norm":
            return scope.function("sqrt", reduced(times(a, a, expr), _axes(axis, a, rules)))
        case "var" | "std":
            centred = add(a, negative(_reduce("mean", axis, a, scope, expr)), expr)
            variance = _reduce("mean", axis, times(centred, centred, expr), scope, expr)
            return variance if how == "var" else scope.function("sqrt", variance)
        case "logsumexp" | "softmax" | "log_softmax":
            by_class = how != "logsumexp" or axis is not None or a.shape[0] > 1 < a.shape[1]
            return _softmax(how, a, _axes(axis, a, rules, by_class), scope, expr)
        case "max" | "min":
            return reduced(a, _axes(axis, a, rules), how)
        case "tr":
            if a.shape[0] != a.shape[1]:
                raise ShapeError(f"in {show(expr)} a {sized(a)} matrix is not square")
            return reduced(times(a, Node(np.eye(a.shape[0])[None]), expr), (-2, -1))
        case "diag":
            return _diag(a, expr)
        case "vec":
            shape = a.array.shape
            array = np.swapaxes(a.array, -1, -2).reshape(*shape[:-2], -1, 1)

            def share(d):
                return np.swapaxes(d.reshape(*d.shape[:-2], shape[-1], shape[-2]), -1, -2)

            return Node(array, a.letters, ((a, share),))
    raise UnknownError(f"cannot evaluate {how}")


def _softmax(how: str, a: Node, axes: tuple[int, ...], scope: Scope, expr: Expr) -> Node:
    """e^a / Σ e^a, its logarithm, or log Σ e^a; numbers less the largest, which changes nothing and cannot overflow."""
    words = a.array.dtype == object
    most = None if words else reduced(a, axes, "max")
    lower = add(a, negative(Node(most.array, most.letters)), expr) if most else a
    e = scope.function("exp", lower)
    total = reduced(e, axes)
    if how == "softmax":
        return over(e, total, expr)
    log = scope.function("log", total)
    if how == "log_softmax":
        return add(lower, negative(log), expr)
    return add(log, Node(most.array, most.letters), expr) if most else log


def _diag(a: Node, expr: Expr) -> Node:
    """A vector as a diagonal matrix, a matrix's diagonal as a column."""
    n = max(a.shape)
    eye = Node(np.eye(n)[None])
    if 1 in a.shape:
        return times(matmul(_column(a), Node(np.ones((1, 1, n))), expr), eye, expr)
    if a.shape[0] != a.shape[1]:
        raise ShapeError(f"in {show(expr)} a {sized(a)} matrix is not square")
    return matmul(times(a, eye, expr), Node(np.ones((1, n, 1))), expr)
