"""The points at which a text's equations are compared: random ones, that cover every pattern of units on and off.

Reading, Layout, Loss --build()--> World
"""

import re

import numpy as np

from jaxbackprop.grading.claims import is_derived, said, sides_of
from jaxbackprop.grading.derivatives import defined, value_of, with_adjoints
from jaxbackprop.grading.expression import Expr, ShapeError, UnknownError, has, name, names, nodes, show
from jaxbackprop.grading.functions import FUNCTIONS, Function
from jaxbackprop.grading.reading import Reading, formulae_of, ordered
from jaxbackprop.grading.shapes import INPUT, RATE, TARGET, Asked, Layout, Sized, infer
from jaxbackprop.grading.values import Node, Rules
from jaxbackprop.grading.words import EVERY, LOSSES
from jaxbackprop.grading.world import Loss, Values, World, as_node, letter_sizes, resolved

SHARES = frozenset("ea")  # of how much a label is smoothed
DRAWN, KEPT, POINTS = 256, 48, 24  # points drawn for numbers, kept of them; points for vectors


def asked_of(reading: Reading) -> Asked:
    """What a text derives by, and how its lines add up."""
    sides = sides_of(reading.claims)
    derived = [(v.args[1][0], e) for v, e in said(reading.claims) if v.op == "derivative"]
    shared = {
        v for v, e in derived if any(n.op == "reduce" and n.args[:2] in (("sum", 0), ("sum", 1)) for n in nodes(e))
    }
    spread = {v for v, e in derived if not has(e, "reduce", "sum", "transpose")}
    whole = {v for v, e in derived if any(_adds_up(f) for f in (e, *e.args) if isinstance(f, Expr))}
    weights = {
        n.args[0]
        for _, e in reading.definitions.values()
        for m in nodes(e)
        if m.op == "matmul"
        for n in m.args
        if n.op == "name"
    }
    turned = {n.args[0].args for e in sides for n in nodes(e) if n.op == "transpose" and n.args[0].op == "name"}
    columns = frozenset(v for v, letters in turned if len(letters) == 1)
    return Asked(reading.parameters, frozenset(shared), frozenset(spread), frozenset(whole - weights), columns)


def _adds_up(e: Expr) -> bool:
    return e.op == "reduce" and e.args[0] in ("sum", "npsum") and e.args[1] is None


def build(reading: Reading, layout: Layout, loss: Loss, generic: str = "any", seed: int = 0) -> World:
    """Draw points and compute every value and adjoint there.

    Raises:
        ShapeError: the equations do not fit together so.
        UnknownError: one of them cannot be evaluated.
    """
    if loss.formula is not None:
        definitions = {**reading.definitions, "": ((), loss.formula)}
        reading = reading._replace(definitions=ordered(definitions))
    sized = infer(reading.definitions, layout, asked_of(reading))
    rng = np.random.default_rng(seed)
    plain = not layout.vectors and all(not s[0] for s in sized.names.values())
    counts = _counts(reading, sized, layout)
    draws = _draw(reading, sized, counts, layout, rng, DRAWN if plain else POINTS)
    rules = Rules(rows=layout.rows, flat=layout.flat, dot=layout.dot)
    empty = World(
        reading,
        layout,
        loss,
        sized,
        Values({}),
        {},
        (),
        {},
        generic,
        rules,
        zero=np.zeros(DRAWN if plain else POINTS, bool),
        counts=counts,
    )
    if plain:
        draws = _patterns(empty, draws)
        zero = np.zeros(len(next(iter(draws.values()))) if draws else 1, bool)
        zero[-1:] = True
        units = {text for text, _ in gates(empty._replace(values=_run(empty, draws)))}
        for v, a in draws.items():
            if INPUT.fullmatch(v) or v in units:
                a[-1:] = 0
        empty = empty._replace(zero=zero)
    found = empty._replace(values=_run(empty, draws))
    return with_adjoints(found._replace(kinks=tuple(gates(found))))


def at_numbers(world: World) -> World | None:
    """The world at the one point that the text gives numbers for; None where it leaves some open."""
    reading = world.reading
    needed = [v for v in reading.free if v in world.sized.names and not RATE.fullmatch(v)]
    given = {v: np.full((1, 1), x) for v, x in reading.given.items()}
    given |= {v: _as_used(world, v, a) for v, a in reading.arrays.items()}
    if not needed or any(v not in given for v in needed) or (world.layout.vectors and not reading.arrays):
        return None
    drawn = [v for v in world.sized.names if v not in reading.definitions]
    draws = {v: given.get(v, np.ones((1, 1)))[None] for v in drawn}
    try:
        return with_adjoints(at_point(world, draws))
    except (ShapeError, UnknownError, ValueError):  # the numbers do not fit together so
        return None


def _as_used(world: World, v: str, a: np.ndarray) -> np.ndarray:
    """A vector of numbers as the column, the row or the letters of a name; a matrix as it is."""
    slots, rows, columns = world.sized.names.get(v, ((), 2, 1))
    if a.ndim == 2:
        return a if not slots else a[..., None, None]
    return a[:, None, None] if slots else a[None, :] if rows == 1 < columns else a[:, None]


def with_given(world: World) -> World | None:
    """The world with the numbers that the text gives, at the points drawn for what it leaves open; None without any."""
    given = {v: x for v, x in world.reading.given.items() if v in world.reading.free and v in world.values}
    if world.layout.vectors or not given:
        return None
    draws = {v: a.array for v, a in world.values.items() if v not in world.reading.definitions}
    draws |= {v: np.full_like(draws[v], x) for v, x in given.items() if v in draws}
    here = world._replace(zero=np.zeros_like(world.zero), kinks=())
    return with_adjoints(here._replace(values=_run(here, draws)))


def at_value(world: World, v: str, value: Node) -> World:
    """The world with another value of a name that is drawn."""
    draws = {u: a.array for u, a in world.values.items() if u not in world.reading.definitions}
    if value.letters or value.array.shape[-2:] != draws[v].shape[1:]:
        raise ShapeError(f"{v} has another shape")
    draws[v] = np.broadcast_to(value.array, draws[v].shape)
    here = world._replace(kinks=())
    return with_adjoints(here._replace(values=_run(here, draws)))


def at_point(world: World, given: dict[str, np.ndarray]) -> World:
    """The world at one point: these arrays, (1, letters..., rows, columns), and what is computed from them; no adjoints."""
    here = world._replace(sized=world.sized._replace(names={}), kinks=(), zero=np.zeros(1, bool))
    values = _run(here, given)
    return here._replace(values=values, sized=_with_sizes(here.sized, values))


def _run(world: World, draws: dict[str, np.ndarray]) -> Values:
    """Forward: the definitions one after the other."""
    values = Values({v: as_node(a) for v, a in draws.items()})
    for v, (letters, e) in world.reading.definitions.items():
        here = world._replace(values=values, sized=_with_sizes(world.sized, values))
        values[v] = defined(here, (v, letters), e)
    return values


def _with_sizes(sized: Sized, values: Values) -> Sized:
    """Of what is not sized, the sizes of its value."""
    return sized._replace(names={v: (a.array.shape[1:-2], *a.shape) for v, a in values.items()} | sized.names)


# --- draws ----------------------------------------------------------------------------------------------------------


def _draw(reading: Reading, sized: Sized, counts, layout: Layout, rng, points: int) -> dict[str, np.ndarray]:
    targets, classes = _targets(reading), _classes(reading)
    drawn = {}
    for v, (slots, rows, columns) in sized.names.items():
        if v in reading.definitions:
            continue
        shape = (points, *slots, rows, columns)
        if v in counts or (reading.whole and v in reading.ends):  # beyond the last step nothing comes back
            drawn[v] = np.full(shape, float(counts.get(v, 0)))
            continue
        a = rng.normal(size=shape) * (0.8 if layout.vectors else 1.3)
        a[2::4] = rng.uniform(0.1, 0.9, size=a[2::4].shape)
        a[3::4] = rng.uniform(0.3, 2, size=a[3::4].shape) * rng.choice((-1, 1), size=a[3::4].shape)
        if v in EVERY and rows == columns == 1 and v not in reading.parameters:  # the d_k of √d_k
            a = np.abs(a) + 0.1
        if v == "α":  # the slope of a leaky ReLU
            a = rng.uniform(0.05, 0.9, size=shape)
        if v in targets or v in classes:  # the probabilities of a target add up to 1
            a = rng.uniform(0.1, 1, size=shape)
            axis = -1 if layout.rows else -2
            if slots and rows == columns == 1:
                axis = _of_classes(reading, layout, len(slots))
            axis = axis if a.shape[axis] > 1 else -1 if axis == -2 else -2
            a = a / a.sum(axis=axis, keepdims=True) if a.shape[axis] > 1 else a
            a = (a == a.max(axis=axis, keepdims=True)).astype(float) if v in classes else a
        if v in reading.symmetric and rows == columns:
            a = (a + np.swapaxes(a, -1, -2)) / 2
        drawn[v] = a
    return drawn


def _of_classes(reading: Reading, layout: Layout, letters: int) -> int:
    """The axis of a family along which its classes lie: the one along which a softmax adds up, k in Σ_k e^{z_ik}."""
    for _, e in reading.definitions.values():
        for n in nodes(e) if e.op == "/" else ():
            if n.op == "sum" and len(n.args[0]) == 1:
                k = n.args[0][0]
                of = [v.args[1] for v in nodes(n) if v.op == "name" and k in v.args[1] and len(v.args[1]) == letters]
                if of:
                    return 1 + of[0].index(k)
    return 1 if layout.vectors and not layout.rows else letters


def _targets(reading: Reading) -> set[str]:
    """Free names of a loss that is a cross-entropy of a softmax."""
    formulae = [e for _, e in reading.definitions.values()]
    used = {n.args[0] for e in formulae for n in nodes(e) if n.op in ("call", "reduce")}
    soft = used & {"softmax", "log_softmax", "logsumexp"} or {"exp", "log"} <= used
    if not soft:
        return set()
    losses = {v for v in reading.definitions if v in ("", reading.loss) or re.split(r"[\d_]", v)[0] in LOSSES}
    inside = {v: names(e) for v, (_, e) in reading.definitions.items()}
    targets = {v: {u for u in its if TARGET.fullmatch(u)} for v, its in inside.items()}
    smoothed = {
        v for v, its in inside.items() if targets[v] and all(RATE.fullmatch(u) or u in SHARES for u in its - targets[v])
    }
    losses |= smoothed - {reading.loss}  # q = (1 − ε) y + ε / K
    others = {u for v in inside.keys() - losses for u in inside[v]}
    return {u for v in losses for u in inside[v]} - reading.definitions.keys() - others


def _classes(reading: Reading) -> set[str]:
    """Names that pick an entry: the y of p[range(n), y] is 1 there, and 0 elsewhere."""
    picked = (n.args[2] for e in formulae_of(reading) for n in nodes(e) if n.op == "reduce" and n.args[0] == "pick")
    return {e.args[0].args[0] for e in picked if e.op == "hadamard" and e.args[0].op == "name"}


def _counts(reading: Reading, sized: Sized, layout: Layout) -> dict[str, int]:
    """Names for how many there are: of examples, or of what a sum runs over."""
    found: dict[str, int] = {}
    own = {*reading.definitions, *reading.notes}  # the m of m = 0.9 m + 0.1 dW counts nothing
    own |= {
        c.left.args[0]
        for c in reading.claims
        if isinstance(c.left, Expr) and c.left.op == "name" and isinstance(c.right, Expr) and is_derived(c.right)
    }
    for e in formulae_of(reading):
        for n in nodes(e):
            if n.op == "sum" and n.args[2] and n.args[2] not in own:
                found.setdefault(n.args[2], letter_sizes(sized, [n]).get(n.args[0][0], 1))
        sums = [n for n in nodes(e) if n.op == "sum"]
        for v in names(e) & set(EVERY) if sums else ():
            if v not in own and not sized.names.get(v, ((), 1, 1))[0]:  # d_n counts nothing
                found.setdefault(v, letter_sizes(sized, [e]).get(sums[0].args[0][0], 1))
        for v, n in _widths(e, sized):
            if v not in own:
                found.setdefault(v, n)
    for u, (letters, e) in reading.definitions.items():  # q_i = (1 − ε) y_i + ε / K
        for v in names(e) & {"K", "C"} - own if not has(e, "sum", "reduce") else ():
            divides = any(n.op == "/" and n.args[1] == name(v) for n in nodes(e))
            if letters and divides:
                found.setdefault(v, letter_sizes(sized, [e]).get(letters[-1], 1))
            elif divides and u in sized.names:
                found.setdefault(v, max(sized.names[u][1:]))
    if layout.batch:
        for v in EVERY[:7]:
            if v not in own:
                found.setdefault(v, sized.examples)
    return found


def _widths(e: Expr, sized: Sized) -> list[tuple[str, int]]:
    """The C of x.sum(-1) / C: how much is added up along an axis."""
    found = []
    for n in nodes(e):
        match n:
            case Expr("/", (Expr("reduce", (_, int(axis), of)), Expr("name", (count, ())))) if count in EVERY:
                sizes = [sized.names[v][1 + axis % 2] for v in names(of) if v in sized.names]
                found += [(count, max(sizes))] if sizes else []
    return found


# --- units on and off -----------------------------------------------------------------------------------------------


def _patterns(world: World, draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of the points drawn, some of each pattern of units on and off."""
    values = _run(world, draws)
    signs = [np.sign(a.reshape(len(a), -1)) for _, a in gates(world._replace(values=values)) if len(a) == DRAWN]
    if not signs:
        return {v: a[: POINTS + 1].copy() for v, a in draws.items()}
    seen: dict[bytes, int] = {}
    keep = []
    for i, pattern in enumerate(np.concatenate(signs, axis=1)):
        key = pattern.tobytes()
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= 5 and len(keep) < KEPT:
            keep.append(i)
    return {v: a[[*keep, 0]] for v, a in draws.items()}


def gates(world: World) -> list[tuple[str, np.ndarray]]:
    """What decides on which branch a value is, where the definitions have a kink: (formula, its value)."""
    found: dict[str, np.ndarray] = {}
    for _, e in world.reading.definitions.values():
        for n in nodes(e):
            if n.op == "call" and not n.args[1] and _kinked(world, n):
                inside = n.args[2]
            elif n.op == "compare":
                inside = (
                    n.args[1]
                    if n.args[2].op == "number"
                    else n.args[2]
                    if n.args[1].op == "number"
                    else Expr("+", (n.args[1], Expr("negative", (n.args[2],))))
                )
            else:
                continue
            if show(inside) not in found:
                try:
                    found[show(inside)] = value_of(world, inside).array
                except (ShapeError, UnknownError):
                    continue
    return list(found.items())


def _kinked(world: World, call: Expr) -> bool:
    function = resolved(world, call.args[0], call.args[2])
    if isinstance(function, Function):
        return function.kinked
    return any(
        n.op == "cases" or (n.op == "call" and n.args[0] in FUNCTIONS and FUNCTIONS[n.args[0]].kinked)
        for n in nodes(function[1])
    )
