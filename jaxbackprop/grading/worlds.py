"""The true values and adjoints of a network at sample points.

    Wiring --sample()--> World: every value, every adjoint, every local derivative, at every on/off pattern and z = 0

The adjoints come from the hand-written chain rule of `formula.pullback`, in reverse order of the forward equations:
dL/dv is the sum over the equations in which v stands. Scalars and matrices share the code: a scalar is a 1 by 1 matrix.
"""

from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.formula import (
    FUNCTIONS,
    ONE,
    Expr,
    ShapeError,
    UnknownError,
    adjoint,
    evaluate,
    name,
    names,
    nodes,
    plus,
    pullback,
    show,
    slope,
)
from jaxbackprop.grading.wiring import Wiring, free_variables, function_at, gates

DRAWS = 1500  # from which they are chosen
MATRIX_POINTS = 24
POINTS = 96  # at most, in a scalar world
TINY = 1e-300


class World(NamedTuple):
    """A wiring with numbers in: what each symbol is worth at every sample point.

    Attributes:
        wiring: the network.
        values: variable -> array (points, rows, columns), inputs and weights included.
        shapes: variable -> (rows, columns); None for scalars.
        kinks: variable -> -1 or +1, the side from which a slope at exactly 0 is taken, where not the stated one.
        reading: how a local derivative such as dz2/dh0 is meant: see `local`.
        adjoints: variable -> array, filled by `with_adjoints`.
        canonical: the same before a student's own formulae were put in.
        cache: what was already worked out.
    """

    wiring: Wiring
    values: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, int]] | None
    kinks: dict[str, int]
    reading: str
    adjoints: dict[str, np.ndarray]
    canonical: dict[str, np.ndarray]
    cache: dict

    @property
    def points(self) -> int:
        """How many sample points."""
        return max((v.shape[0] for v in self.values.values()), default=1)


def sample(wiring: Wiring, matrix: bool = False) -> World:
    """Points that cover every on/off pattern of the hidden units, and z = 0 exactly.

    Raises:
        ShapeError: (matrix) the forward equations do not make sense for matrices.
    """
    rng = np.random.default_rng(0)
    shapes = infer_shapes(wiring) if matrix else None
    draws = MATRIX_POINTS if matrix else DRAWS
    free = free_variables(wiring)
    values = {}
    for v in [*free, "dL/d" + wiring.output]:  # the adjoint of the output is given: any number will do
        rows, columns = (shapes or {}).get(wiring.of(v.removeprefix("dL/d")), (1, 1))
        # two decimals read well in a counterexample; away from 0, so that nothing vanishes by accident
        size = rng.integers(20, 200, (draws, rows, columns)) / 100
        values[v] = size * rng.choice((-1, 1), (draws, rows, columns))
    # in two rows of five, silence one variable, or all that one unit hangs on: then its z is exactly 0
    groups = [[v] for v in free if v != "y"]
    groups += [
        [v for v in map(wiring.of, names(wiring.definitions[z])) if v in free]
        for z in gates(wiring)
        if z in wiring.definitions
    ]
    for row in range(draws * 3 // 5, draws):
        for v in groups[row % len(groups)] if groups else ():
            values[v][row] = 0
    world = World(wiring, values, shapes, {}, "direct", {}, {}, {})
    with np.errstate(all="ignore"):
        _run(world)
    return with_adjoints(world if matrix else _chosen(world))


def _run(world: World):
    for v, expr in world.wiring.definitions.items():
        value = evaluate(expr, lambda e: leaf(world, e))
        draws = world.points
        world.values[v] = np.broadcast_to(value, (draws, *value.shape[1:]))


def _chosen(world: World) -> World:
    """A few points of every pattern of signs, zero included."""
    units = [world.values[z][:, 0, 0] for z in gates(world.wiring)]
    signs = np.sign(np.nan_to_num(np.stack(units or [np.zeros(world.points)], axis=1)))
    _, pattern, count = np.unique(signs, axis=0, return_inverse=True, return_counts=True)
    each = max(2, min(8, POINTS // len(count)))
    rows = np.concatenate([np.flatnonzero(pattern.reshape(-1) == p)[:each] for p in range(len(count))])[: 2 * POINTS]
    rows = np.sort(rows)
    return world._replace(values={v: a[rows] for v, a in world.values.items()}, cache={})


def contributions(wiring: Wiring, shapes: dict | None = None) -> dict[str, list[tuple[str, Expr]]]:
    """variable -> [(the variable whose equation it stands in, its share of the adjoint)], only what reaches the output."""
    needed, stack = set(), [wiring.output]
    while stack:
        v = stack.pop()
        if v not in needed:
            needed.add(v)
            stack += [wiring.of(n) for n in names(wiring.definitions.get(v, ONE))]
    found: dict[str, list[tuple[str, Expr]]] = {v: [] for v in needed}
    shape_of = None if shapes is None else (lambda e: shape(e, wiring, shapes))
    for t in reversed(list(wiring.definitions)):
        if t in needed:
            for v, share in pullback(wiring.definitions[t], ONE if t == "L" else adjoint(t), shape_of):
                found[wiring.of(v)].append((t, share))
    return found


def formula_of(wiring: Wiring, variable: str, shapes: dict | None = None) -> Expr | None:
    """The right formula for dL/d(variable), in terms of the adjoints after it; None where it is given."""
    v = wiring.of(variable)
    shares = contributions(wiring, shapes).get(v)
    if shares is None or (v == wiring.output):
        return None
    return plus([share for _, share in reversed(shares)])


def with_adjoints(world: World, own: dict[str, Expr] | None = None) -> World:
    """Fill in the adjoints, backwards; `own` holds a student's formulae, put in the place of the right ones."""
    wiring, points = world.wiring, world.points
    filled = world._replace(adjoints={}, canonical={}, cache={})
    shares = contributions(wiring, world.shapes)
    order = [
        wiring.output,
        *(v for v in reversed(list(wiring.definitions)) if v != wiring.output),
        *free_variables(wiring),
    ]
    with np.errstate(all="ignore"):
        for v in order:
            if v == "L":
                value = np.ones((1, 1, 1))
            elif v == wiring.output:
                value = world.values["dL/d" + v]
            else:
                rows, columns = (world.shapes or {}).get(v, (1, 1))
                value = np.zeros((1, rows, columns))
                for _, share in shares.get(v, []):
                    value = value + evaluate(share, lambda e: leaf(filled, e))
            filled.canonical[v] = filled.adjoints[v] = np.broadcast_to(value, (points, *value.shape[1:]))
            if own and v in own:
                try:
                    mine = evaluate(own[v], lambda e: leaf(filled, e))
                    filled.adjoints[v] = np.broadcast_to(mine, (points, *mine.shape[1:]))
                except ValueError:
                    pass  # it hangs on what comes later, or its shapes do not fit: the right value stays
    return filled


def leaf(world: World, expr: Expr) -> np.ndarray:
    """The value of a name, a derivative, a partial or a call.

    Raises:
        UnknownError: the symbol is not in this network.
    """
    wiring = world.wiring
    match expr.op, expr.args:
        case "name", (text,):
            v = wiring.of(text)
            if v in world.values:
                return world.values[v]
            if v in wiring.notes:
                if v not in world.cache:
                    world.cache[v] = evaluate(wiring.notes[v], lambda e: leaf(world, e))
                return world.cache[v]
            if text.startswith("delta") and text[5:]:
                return leaf(world, adjoint("z" + text[5:]))  # the usual shorthand
            raise UnknownError(_unknown(wiring, text))
        case "derivative", ("L", bottom):
            v = wiring.of(bottom)
            if v in world.adjoints:
                return world.adjoints[v]
            raise UnknownError(_unknown(wiring, bottom))
        case "derivative", (top, bottom):
            return local(world, top, bottom)
        case "partial", (body, bottom):
            if world.shapes is not None:
                raise UnknownError(f"{show(expr)} is not read in a matrix derivation")
            terms = [
                evaluate(share, lambda e: leaf(world, e))
                for v, share in pullback(body, ONE)
                if wiring.of(v) == wiring.of(bottom)
            ]
            return sum(terms, np.zeros((1, 1, 1)))
        case "call", (function, primes, argument):
            return _call(world, function, primes, argument)
    raise UnknownError(f"cannot read {show(expr)}")


def _unknown(wiring: Wiring, text: str) -> str:
    known = [*wiring.definitions, *free_variables(wiring)]
    return f"{text} is not in the network, which has {', '.join(known[:24])}"


def _call(world: World, function: str, primes: int, argument: Expr) -> np.ndarray:
    z = evaluate(argument, lambda e: leaf(world, e))
    if function == "diag":
        raise UnknownError("diag(...) is not read: write the product entry by entry, with ⊙")
    if function == "sum":
        return z.sum(axis=(1, 2), keepdims=True)
    if primes > 1:
        raise UnknownError(f"{show(Expr('call', (function, primes, argument)))}: second derivatives are not read")
    which = function_at(world.wiring, function, argument)
    if primes:
        side = world.kinks.get(world.wiring.of(argument.args[0]), 0) if argument.op == "name" else 0
        z = np.where(z == 0, side * TINY, z) if side else z
    if which in FUNCTIONS:
        return FUNCTIONS[which].derivative(z) if primes else FUNCTIONS[which].value(z)
    variable, body = world.wiring.functions[which]
    body = slope(body, variable) if primes else body

    def inner(e: Expr) -> np.ndarray:
        return z if e == name(variable) else leaf(world, e)

    return evaluate(body, inner) + 0 * z


def local(world: World, top: str, bottom: str) -> np.ndarray:
    """d(top)/d(bottom).

    Where `bottom` stands in the equation of `top`, the derivative is that of this one equation, as in the exercise's
    dL/dh0 = dL/dz1 dz1/dh0 + dL/dz2 dz2/dh0; otherwise it runs along every path. `reading` "literal" takes dyhat/dh0
    along every path although yhat is only another name of z2; "total" takes every derivative so.
    """
    wiring = world.wiring
    a, b = wiring.of(top), wiring.of(bottom)
    for variable, text in ((a, top), (b, bottom)):
        if variable not in world.values and variable != "L":
            raise UnknownError(_unknown(wiring, text))
    key = (top, bottom)
    if key in world.cache:
        return world.cache[key]
    if a == b:
        return np.ones((1, 1, 1))
    direct = any(wiring.of(v) == b for v in names(wiring.definitions.get(a, ONE)))
    if world.reading == "total" or (world.reading == "literal" and top != a):
        direct = False
    find = _scalar_local if world.shapes is None else _matrix_local
    world.cache[key] = find(world, a, b, direct)
    return world.cache[key]


def _scalar_local(world: World, a: str, b: str, direct: bool) -> np.ndarray:
    wiring = world.wiring
    carried = {a: np.ones((1, 1, 1))}
    upstream = world._replace(adjoints=carried, cache={})
    for t in [a] if direct else list(reversed(wiring.definitions)):
        if t in carried and t != b:
            for v, share in pullback(wiring.definitions[t], adjoint(t)):
                v = wiring.of(v)
                carried[v] = carried.get(v, np.zeros((1, 1, 1))) + evaluate(share, lambda e: leaf(upstream, e))
    return carried.get(b, np.zeros((1, 1, 1)))


def _matrix_local(world: World, a: str, b: str, direct: bool) -> np.ndarray:
    """A Jacobian where it is a matrix (w1) or, for an activation, its diagonal as a vector (g'(z1))."""
    wiring, shapes = world.wiring, world.shapes or {}
    if direct:
        shares = [
            e
            for v, e in pullback(wiring.definitions[a], adjoint(a), lambda e: shape(e, wiring, shapes))
            if wiring.of(v) == b
        ]
        if len(shares) == 1:
            match shares[0].op, shares[0].args:
                case "derivative", _:
                    return np.ones((1, 1, 1))
                case "matmul", (Expr(op="transpose", args=(w,)), Expr(op="derivative")):
                    return evaluate(w, lambda e: leaf(world, e))
                case "hadamard", (Expr(op="derivative"), diagonal):
                    return evaluate(diagonal, lambda e: leaf(world, e))
    raise UnknownError(f"d{a}/d{b} is not a matrix, or runs along several: it is not read in a matrix derivation")


def value_of(world: World, expr: Expr) -> np.ndarray:
    """The value of a formula at every point; division by zero and overflow are no errors, they show as such."""
    with np.errstate(all="ignore"):
        value = evaluate(expr, lambda e: leaf(world, e))
    return np.broadcast_to(value, (world.points, *value.shape[1:]))


def differs(truth: np.ndarray, value: np.ndarray) -> np.ndarray:
    """The points at which two values differ by more than rounding; where the truth is undefined they do not."""
    with np.errstate(all="ignore"):
        near = np.abs(truth - value) <= 1e-9 * (1 + np.abs(truth) + np.abs(value))
    return np.logical_not(np.all(near | np.isnan(truth), axis=(1, 2)))


# --- shapes ----------------------------------------------------------------------------------------------------------


def shape(expr: Expr, wiring: Wiring, shapes: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """(rows, columns) of a formula in a matrix derivation."""
    blank = {v: np.zeros((1, *s)) for v, s in shapes.items()}
    world = World(wiring, blank, shapes, {}, "direct", {wiring.of(v): a for v, a in blank.items()}, {}, {})
    with np.errstate(all="ignore"):
        _, rows, columns = evaluate(expr, lambda e: leaf(world, e)).shape
    return rows, columns


def infer_shapes(wiring: Wiring) -> dict[str, tuple[int, int]]:
    """A shape for every variable, all sizes different, so that a transpose left out does not fit.

    Whatever is computed, x, y and biases are columns (rows, if the text writes h0 @ w1); what multiplies them is a matrix.

    Raises:
        ShapeError: sizes cannot be given.
    """
    parent: list[int] = [0]  # 0 is the size 1

    def find(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    def fresh() -> int:
        parent.append(len(parent))
        return len(parent) - 1

    def unify(i: int, j: int):
        i, j = sorted((find(i), find(j)))
        parent[j] = i

    def vector(v: str) -> bool:
        return v in wiring.definitions or v in ("x", "y") or v.startswith("b")

    products = [n for e in wiring.definitions.values() for n in nodes(e) if n.op in ("product", "matmul")]
    pairs = [(p.args[i], p.args[i + 1]) for p in products for i in range(len(p.args) - 1)]
    ends = [(vector(wiring.of(a.args[0])), vector(wiring.of(b.args[0]))) for a, b in pairs if a.op == b.op == "name"]
    as_rows = (True, False) in ends
    weights = {wiring.of(v) for p in products for f in p.args for v in names(f) if not vector(wiring.of(v))}
    sizes: dict[str, tuple[int, int]] = {}

    def of(v: str) -> tuple[int, int]:
        if v not in sizes:
            one = (0, fresh()) if as_rows else (fresh(), 0)
            sizes[v] = (fresh(), fresh()) if v in weights else one
        return sizes[v]

    def size(e: Expr) -> tuple[int, int]:
        match e.op, e.args:
            case "name", (text,):
                return of(wiring.of(text))
            case "transpose", (a,):
                rows, columns = size(a)
                return columns, rows
            case (("product" | "matmul"), factors):
                result = None
                for factor in factors:
                    if not names(factor):
                        continue
                    s = size(factor)
                    if result is None:
                        result = s
                    elif 0 not in (*result, *s) or (0 in result) != (0 in s):
                        unify(result[1], s[0])
                        result = (result[0], s[1])
                    else:
                        unify(result[0], s[0])
                        unify(result[1], s[1])
                return result or (0, 0)
            case (("number" | "compare" | "and" | "otherwise"), _):
                return (0, 0)
        found = [size(a) for a in e.args if isinstance(a, Expr) and names(a)]
        for other in found[1:]:
            unify(found[0][0], other[0])
            unify(found[0][1], other[1])
        return found[0] if found else (0, 0)

    for v, expr in wiring.definitions.items():
        if v == "L":
            sizes["L"] = (0, 0)
            size(expr)
            continue
        for i, j in zip(of(v), size(expr), strict=True):
            unify(i, j)
    roots = {find(i) for s in sizes.values() for i in s} - {0}
    given = {0: 1} | {root: n for n, root in enumerate(sorted(roots), start=2)}
    shapes = {v: (given[find(s[0])], given[find(s[1])]) for v, s in sizes.items()}
    if len(roots) > 40:
        raise ShapeError("more than 40 layers")
    for v, expr in wiring.definitions.items():
        if v != "L" and shape(expr, wiring, shapes) != shapes[v]:
            raise ShapeError(f"{v} = {show(expr)} does not fit as matrices")
    return shapes
