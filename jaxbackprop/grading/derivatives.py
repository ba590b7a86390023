"""Derivatives at the points: adjoints by reverse mode over the text's equations, one value by another, second ones.

A formula may have them in it: `value_of` gives the value of any.
"""

import numpy as np

from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.curvature import Jet, jet
from jaxbackprop.grading.expression import Expr, UnknownError, Variable, has, name, names, nodes, show
from jaxbackprop.grading.reading import Reading
from jaxbackprop.grading.values import Node, Scope, at_entry, evaluate, pull
from jaxbackprop.grading.words import EVERY
from jaxbackprop.grading.world import Values, World, resolved, scope_by, stored, unknown

MOST = 64  # entries of a quantity whose every derivative is taken


def scope_of(world: World, formulae: list[Expr]) -> Scope:
    """What any formula is evaluated in; all of `formulae` say how far its letters run."""
    return scope_by(world, formulae, _derived)


def value_of(world: World, expr: Expr, beside: tuple[Expr, ...] = ()) -> Node:
    """The value of a formula; `beside` are others that say how far its letters run."""
    return evaluate(expr, scope_of(world, [expr, *beside]))


def defined(world: World, variable: Variable, expr: Expr) -> Node:
    """The value that a formula gives a name; the letters that it has stand for no one entry there."""
    world = world._replace(sized=world.sized._replace(fixed=world.sized.fixed - {*variable[1]}))
    return stored(value_of(world, expr, (name(*variable),)), variable[1])


def pulled(world: World, variable: Variable, expr: Expr, seed: np.ndarray) -> dict[str, np.ndarray]:
    """What comes back to each name in the formula that defines a name, of its adjoint `seed`."""
    starts = {u: Node(world.values[u].array, world.values[u].letters) for u in names(expr) if u in world.values}
    value = defined(world._replace(values=Values(starts)), variable, expr)
    found = pull(value, np.broadcast_to(seed, value.array.shape))
    return {u: found[id(start)] for u, start in starts.items() if id(start) in found}


def _derived(world: World, expr: Expr) -> Node:
    match expr.op, expr.args:
        case "derivative", (top, bottom):
            return _local(world, top, bottom)
        case "second", variables:
            return _second(world, *variables)
        case "partial", (body, bottom):
            return _partial(world, body, bottom)
    raise UnknownError(f"cannot evaluate {show(expr)}")


# --- adjoints -------------------------------------------------------------------------------------------------------


def with_adjoints(world: World, own: dict[str, np.ndarray] | None = None) -> World:
    """Backward: the adjoint of every name; those in `own` are taken for given, and what is computed before them follows."""
    key = "" if "" in world.values else world.reading.loss
    stated = key in world.values and (key == "" or key in world.reading.definitions)
    outputs = () if stated else outputs_of(world.reading)
    rng = np.random.default_rng(1)
    seeds = {v: rng.normal(size=world.values[v].array.shape) for v in outputs if v in world.values}
    numbers = {v for v, a in seeds.items() if a[0].size == 1}
    seeds |= {v: np.full_like(seeds[v], x) for v, x in world.reading.upstream.items() if v in numbers}
    if not outputs and key in world.values:
        seeds = {key: _seed(world, world.values[key])}
    return world._replace(adjoints=_backward(world, seeds, own or {}), outputs=outputs)


def _seed(world: World, node: Node) -> np.ndarray:
    """One for each entry of the loss: several are added up, or averaged over the examples."""
    scale = 1.0 / world.sized.examples if world.loss.mean else 1.0
    return np.full(node.array.shape, scale)


def _backward(world: World, seeds: dict[str, np.ndarray], own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Reverse mode through one definition after the other, so that an adjoint can be put in on the way."""
    total: dict[str, np.ndarray] = {v: np.broadcast_to(s, world.values[v].array.shape) for v, s in seeds.items()}
    scale = _scales(world) if world.loss.each else {}
    for v, (letters, e) in reversed(world.reading.definitions.items()):
        if v in own:
            total[v] = own[v] / scale.get(v, 1)
        if v not in total:
            continue
        for u, part in pulled(world, (v, letters), e, total[v]).items():
            total[u] = total.get(u, 0) + part
    adjoints = {v: np.broadcast_to(total.get(v, 0.0), n.array.shape) for v, n in world.values.items()}
    adjoints = {v: a * scale.get(v, 1) for v, a in adjoints.items()}
    return adjoints | {v: a for v, a in own.items() if v in adjoints}


def _scales(world: World) -> dict[str, int]:
    """Of what differs from example to example: how many examples there are."""
    reading, sized = world.reading, world.sized
    by = letter_of_examples(reading)
    if by:
        slots = {n.args[0]: (sized.names[n.args[0]], n.args[1].index(by)) for n in _named(reading) if by in n.args[1]}
        of = {v: s[0][at] if s[0] else s[2] for v, (s, at) in slots.items()}  # of a matrix: a column
        if not (world.layout.batch and any(not sized.names[v][0] for v in of)):
            return {v: n for v, n in of.items() if v != reading.loss}
    along = 1 if world.layout.rows else 2
    many = sized.examples
    return {
        v: many
        for v in world.values
        if world.layout.batch and many in (sized.names[v][along], *sized.names[v][0]) and many > 1
    }


def _named(reading: Reading) -> list[Expr]:
    heads = [name(v, letters) for v, (letters, _) in reading.definitions.items()]
    inside = [n for _, e in reading.definitions.values() for n in nodes(e) if n.op == "name"]
    return [n for n in heads + inside if n.args[0] in reading.definitions or n.args[0] in reading.free]


def letter_of_examples(reading: Reading) -> str:
    """The i of J = 1/m Σ_i L_i; "" where the loss is no mean over a letter."""
    loss = reading.definitions.get(reading.loss, ((), None))[1]
    sums = _means(loss) if loss is not None else []
    return sums[0].args[0][0] if len(sums) == 1 else ""


def own_losses(reading: Reading) -> bool:
    """Whether dz_i may be the derivative of L_i alone: of J = 1/m Σ_i L_i, or beside dw = 1/m Σ_i dz_i x_i."""
    by = letter_of_examples(reading)
    if not by:
        return False
    (mean,) = _means(reading.definitions[reading.loss][1])
    rights = [c.right for c in reading.claims if isinstance(c.right, Expr)]
    inside = [n for e in rights for m in _means(e) for n in nodes(m)]
    of_all = any(has(e, "derivative") and names(e) & {*EVERY[:7]} and not has(e, "sum") for e in rights)  # 1/m dZ X^T
    return of_all or mean.args[1].op == "name" or any(n.op == "derivative" and by in n.args[1][1] for n in inside)


def _means(e: Expr) -> list[Expr]:
    """The sums over one letter, if a formula divides by how many there are."""
    counted = any(n.op == "name" and n.args[0] in EVERY for n in nodes(e))
    return [n for n in nodes(e) if n.op == "sum" and len(n.args[0]) == 1] if counted else []


def outputs_of(reading: Reading) -> tuple[str, ...]:
    """What the adjoint is given of, where the text has no loss: of each layer or step that a letter counts, else one."""
    used = {v for _, e in reading.definitions.values() for v in names(e)}
    sinks = [v for v in reading.definitions if v not in used]
    counted = tuple(v for v in sinks if counter(v))
    sides = [c.right for c in reading.claims if isinstance(c.right, Expr)]
    asked = {n.args[1][0] for e in sides for n in nodes(e) if n.op == "derivative" and not n.args[0][0]}
    given = tuple(v for v in sinks if v in asked)
    if len(given) > 1 and not counted:  # the adjoint of each is given
        return given
    return counted or tuple(v for v in (output_of(reading),) if v)


def output_of(reading: Reading) -> str:
    """yhat, or the last thing computed; "" where nothing is."""
    used = {v for _, e in reading.definitions.values() for v in names(e)}
    sinks = [v for v in reading.definitions if v not in used]
    if "yhat" in sinks or ("yhat" in used and "yhat" in reading.definitions):
        return "yhat"
    asked = {
        n.args[1][0]
        for c in reading.claims
        for s in (c.left, c.right)
        if isinstance(s, Expr)
        for n in nodes(s)
        if n.op == "derivative"
    }
    first = min(
        (c.row for c in reading.claims if isinstance(c.left, Expr) and c.left.op == "derivative"), default=10**9
    )
    early = [v for v in sinks if reading.rows.get(v, 0) <= first]
    for group in ([v for v in early if v in asked], early, sinks):
        if group:
            return group[-1]
    return ""


# --- one value by another -------------------------------------------------------------------------------------------


def _local(world: World, top: Variable, bottom: Variable) -> Node:
    """dz2/dh0: through what lies directly between, or through everything where nothing does."""
    (t, upper), (b, lower) = top, bottom
    if t in world.deltas or b in world.deltas:
        raise UnknownError(f"a derivative of {t}")
    for v in (t, b):
        if v not in world.values:
            raise UnknownError(unknown(world, v))
    definitions = world.reading.definitions
    if (
        t not in definitions
        and b in definitions
        and not upper
        and not lower
        and world.values[t].array.size == world.points
    ):
        inverse = _local(world, bottom, top)  # dp/ds, of s = ln(p/(1 − p))
        return Node(1 / inverse.array)
    head = t
    while world.total == "literal" and head in definitions and definitions[head][1].op == "name" and head != b:
        head = definitions[head][1].args[0]
    direct = definitions.get(head) if t != b and world.total != "total" else None
    direct = direct if direct is not None and b in names(direct[1]) else None
    found, key = world.values.jacobians, (t, b, direct, world.rules)
    if key not in found:
        found[key] = _jacobian(world, t, b, direct)
    jacobian = found[key]
    return _laid_out(world, jacobian, len(world.values[t].letters), upper, len(world.values[b].letters), lower)


def _partial(world: World, body: Expr, bottom: Variable) -> Node:
    b, lower = bottom
    if b not in world.values:
        raise UnknownError(unknown(world, b))
    if has(body, "derivative", "second"):
        raise UnknownError("a derivative of a formula with derivatives is not judged")
    value = value_of(world, body)
    upper = value.letters
    if world.total == "total":  # through everything that lies between
        definitions = {**world.reading.definitions, "∂": (upper, body)}
        values = Values(world.values | {"∂": stored(value, upper)})
        world = world._replace(reading=world.reading._replace(definitions=definitions), values=values)
        jacobian = _jacobian(world, "∂", b, None)
    else:
        jacobian = _jacobian(world, "", b, (upper, body))
    return _laid_out(world, jacobian, len(upper), upper, len(world.values[b].letters), lower)


def _second(world: World, top: Variable, one: Variable, two: Variable) -> Node:
    """d²L/dw², d²L/dw db: of numbers."""
    t = top[0] or ("" if "" in world.values else world.reading.loss)
    for v in (t, one[0], two[0]):
        if v not in world.values:
            raise UnknownError(unknown(world, v or "the loss"))
    if world.layout.vectors or any(a.letters for a in world.values.values()):
        raise UnknownError("a second derivative of vectors is not judged")
    known = {}
    for v, node in world.values.items():
        a = np.broadcast_to(node.array, (world.points, 1, 1))
        known[v] = Jet(a, np.full_like(a, v == one[0]), np.full_like(a, v == two[0]), np.zeros_like(a))
    for v, (_, e) in world.reading.definitions.items():
        if v not in (one[0], two[0]):
            known[v] = jet(e, known, lambda f, a: resolved(world, f, a))
        elif one != two:
            raise UnknownError("a second derivative by two names of which one is computed is not judged")
    return Node(np.broadcast_to(known[t].both, (world.points, 1, 1)))


def _jacobian(world: World, t: str, b: str, direct: tuple[tuple[str, ...], Expr] | None) -> np.ndarray:
    """Every derivative of one value by another, (points, ...top, ...bottom): a copy of the points for each entry of the top."""
    like = value_of(world, direct[1], (name(t, direct[0]),)) if direct and not t else world.values[t]
    entries = int(np.prod(like.array.shape[1:]))
    if entries > MOST:
        raise UnknownError(f"{entries} derivatives at once are not judged")
    n = world.points

    def tile(a: np.ndarray) -> np.ndarray:
        return np.tile(np.broadcast_to(a, (n, *a.shape[1:])), (entries,) + (1,) * (a.ndim - 1))

    tiled = Values({v: Node(tile(x.array), x.letters) for v, x in world.values.items()})
    start = tiled[b]
    here = world._replace(values=tiled)
    if direct:
        value = defined(here, (t, direct[0]), direct[1])
    elif t == b:
        value = start
    else:
        reached = {b}
        for v, (letters, e) in world.reading.definitions.items():
            if reached & names(e) and v != b:
                reached.add(v)
                tiled[v] = defined(here, (v, letters), e)
        value = tiled[t]
    seeds = np.eye(entries).reshape(entries, 1, *like.array.shape[1:])
    seed = np.broadcast_to(seeds, (entries, n, *like.array.shape[1:])).reshape(entries * n, *like.array.shape[1:])
    if value.array.ndim != seed.ndim:
        raise UnknownError("an index that the formula does not have")
    if value.array.shape != seed.shape:
        value = Node(np.broadcast_to(value.array, seed.shape), value.letters, ((value, lambda d: d),))
    found = pull(value, seed).get(id(start), np.zeros_like(start.array))
    found = np.broadcast_to(found, start.array.shape).reshape(entries, n, *start.array.shape[1:])
    return np.moveaxis(found, 0, 1).reshape(n, *like.array.shape[1:], *start.array.shape[1:])


def _laid_out(world: World, jacobian: np.ndarray, tops: int, upper, bottoms: int, lower) -> Node:
    """The derivatives as an array of letters, rows and columns."""
    n, shape = jacobian.shape[0], jacobian.shape[1:]
    (tr, tc), (br, bc) = shape[tops : tops + 2], shape[-2:]
    up, low = shape[:tops], shape[tops + 2 : tops + 2 + bottoms]
    upper, up, (tr, tc) = _as_used(upper, up, (tr, tc), world.layout.rows)
    lower, low, (br, bc) = _as_used(lower, low, (br, bc), world.layout.rows)
    a = jacobian.reshape(n, *up, tr, tc, *low, br, bc)
    a = np.moveaxis(a, range(1 + len(up), 3 + len(up)), range(1 + len(up) + len(low), 3 + len(up) + len(low)))
    letters = (*upper, *lower)
    while len(set(letters)) < len(letters):
        twice = next(x for x in letters if letters.count(x) > 1)
        i, j = letters.index(twice), len(letters) - 1 - letters[::-1].index(twice)
        a = np.moveaxis(np.diagonal(a, axis1=1 + i, axis2=1 + j), -1, 1 + i)
        letters = letters[:j] + letters[j + 1 :]
    order = sorted(range(len(letters)), key=lambda i: letters[i])
    a = a.transpose(0, *(1 + i for i in order), *range(1 + len(letters), 5 + len(letters)))
    lead = a.shape[: 1 + len(letters)]
    if tr * tc == 1:
        matrix = a.reshape(*lead, br, bc)
        matrix = np.swapaxes(matrix, -1, -2) if world.local == "turned" else matrix
    elif br * bc == 1:
        matrix = a.reshape(*lead, tr, tc)
    elif 1 in (tr, tc) and 1 in (br, bc):
        matrix = a.reshape(*lead, tr * tc, br * bc)
        if world.local == "columns":
            matrix = np.swapaxes(matrix, -1, -2)
        if world.local == "diagonal":
            matrix = _entries(matrix, (tr, tc) == (br, bc)).reshape(*lead, tr, tc)
    elif world.local == "diagonal" and (tr, tc) == (br, bc):
        matrix = _entries(a.reshape(*lead, tr * tc, br * bc), True).reshape(*lead, tr, tc)
    else:
        raise UnknownError("a derivative of a matrix by a matrix")
    return at_entry(Node(matrix, tuple(letters[i] for i in order)), world.sized.fixed)


def _as_used(letters, slots, matrix, rows: bool):
    """Letters and slots of a derivative's top or bottom as the text writes them."""
    if len(letters) == len(slots):
        return letters, slots, matrix
    if not letters:
        return (), (), (tuple(slots) if len(slots) == 2 else (1, slots[0]) if rows else (slots[0], 1))
    inside = [n for n in matrix if n > 1] if len(letters) == 1 else list(matrix)
    if slots or len(inside) > len(letters):
        raise UnknownError("a name with another number of indices")
    return letters, tuple(inside + [1] * (len(letters) - len(inside))), (1, 1)


def _entries(matrix: np.ndarray, square: bool) -> np.ndarray:
    """The diagonal of a derivative that is diagonal."""
    off = matrix - matrix * np.eye(matrix.shape[-1]) if square and matrix.shape[-1] == matrix.shape[-2] else None
    if off is None or np.nanmax(np.abs(off), initial=0) > 0:
        raise UnknownError("a derivative that is no diagonal")
    return np.diagonal(matrix, axis1=-2, axis2=-1)
