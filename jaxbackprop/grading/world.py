"""A text's equations with numbers in: every value, and by reverse mode every derivative, at random points.

Reading, Layout, Loss --build()--> World --value_of()--> the value of any formula
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.curvature import Jet, jet
from jaxbackprop.grading.expression import (
    Expr,
    ShapeError,
    UnknownError,
    Variable,
    has,
    name,
    names,
    nodes,
    replace,
    show,
    show_variable,
    size,
)
from jaxbackprop.grading.functions import FUNCTIONS, Function, some_function
from jaxbackprop.grading.reading import Reading, is_generic, ordered
from jaxbackprop.grading.shapes import INPUT, RATE, Layout, Sized, infer
from jaxbackprop.grading.values import TURNED, Node, Rules, Scope, apply, at_first, evaluate, pull

DRAWN, KEPT, POINTS = 256, 48, 24  # points drawn for numbers, kept of them; points for vectors
MOST = 64  # entries of a quantity whose every derivative is taken
EVERY = ("n", "m", "N", "M", "B", "batch", "D", "d", "K", "H", "C")  # names for how many there are


class Loss(NamedTuple):
    """What the derivatives are of.

    Attributes:
        formula: of the loss, where the text gives none; None for its own, or for none at all.
        words: how the report says it.
        mean: the sum over examples is divided by their number.
        each: derivatives of what differs from example to example are those of the example's own loss.
    """

    formula: Expr | None = None
    words: str = ""
    mean: bool = False
    each: bool = False


class World(NamedTuple):
    """Values and derivatives at some points.

    Attributes:
        reading, layout, loss: what the text is taken for.
        sized: the size of every name.
        values: the value of every name.
        adjoints: the derivative of the loss with respect to every name.
        outputs: what the derivative is given of, where there is no loss.
        deltas: what δ stands for -> a name.
        generic: what an activation is that the text gives no formula for, "any" or "relu".
        rules: how to read what a formula leaves open.
        local: how a derivative of one vector by another is laid out: "rows" dz/dh = W, "columns" Wᵀ, "diagonal".
        total: what such a derivative goes through: "" the definition alone where it has the name, else all that lies
            between; "literal" the definition alone, "total" all.
        turned_adjoints: gradients are laid out the other way: "", "vectors" as rows, "all".
        zero: the points at which the inputs are 0.
        kinks: what decides on which branch a value is -> its value, at the points.
        counts: names for how many there are, of examples or of what a sum runs over.
    """

    reading: Reading
    layout: Layout
    loss: Loss
    sized: Sized
    values: dict[str, Node]
    adjoints: dict[str, np.ndarray]
    outputs: tuple[str, ...]
    deltas: dict[str, str]
    generic: str = "any"
    rules: Rules = Rules()
    local: str = "rows"
    total: str = ""
    turned_adjoints: str = ""
    zero: np.ndarray = np.zeros(0, bool)
    counts: Mapping[str, int] = MappingProxyType({})
    kinks: tuple[tuple[str, np.ndarray], ...] = ()
    cache: dict = {}  # noqa: RUF012  (derivatives found, by what they were found for; a fresh one for each build)

    @property
    def points(self) -> int:
        """How many points there are."""
        return len(self.zero)

    def called(self, expr: Expr) -> str:
        """A formula as the text writes it."""
        return show(expr, self.reading.loss or "L")


def build(reading: Reading, layout: Layout, loss: Loss, generic: str = "any", seed: int = 0) -> World:
    """Draw points and compute every value and adjoint there.

    Raises:
        ShapeError: the equations do not fit together so.
        UnknownError: one of them cannot be evaluated.
    """
    if loss.formula is not None:
        definitions = {**reading.definitions, "": ((), loss.formula)}
        reading = reading._replace(definitions=ordered(definitions))
    sized = infer(reading.definitions, layout)
    rng = np.random.default_rng(seed)
    plain = not layout.vectors and all(not s[0] for s in sized.names.values())
    counts = _counts(reading, sized, layout)
    draws = _draw(reading, sized, counts, layout, rng, DRAWN if plain else POINTS)
    rules = Rules(rows=layout.rows)
    empty = World(
        reading,
        layout,
        loss,
        sized,
        {},
        {},
        (),
        {},
        generic,
        rules,
        zero=np.zeros(DRAWN if plain else POINTS, bool),
        counts=counts,
        cache={},
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
    needed = [v for v in world.reading.free if v in world.sized.names and not RATE.fullmatch(v)]
    if world.layout.vectors or not needed or any(v not in world.reading.given for v in needed):
        return None
    draws = {
        v: np.full((1, 1, 1), world.reading.given.get(v, 1.0))
        for v in world.sized.names
        if v not in world.reading.definitions
    }
    small = world._replace(values={}, kinks=(), zero=np.zeros(1, bool))
    return with_adjoints(small._replace(values=_run(small, draws)))


# --- points ----------------------------------------------------------------------------------------------------------


def _draw(reading: Reading, sized: Sized, counts, layout: Layout, rng, points: int) -> dict[str, np.ndarray]:
    targets = _targets(reading)
    drawn = {}
    for v, (slots, rows, columns) in sized.names.items():
        if v in reading.definitions:
            continue
        shape = (points, *slots, rows, columns)
        if v in counts:
            drawn[v] = np.full(shape, float(counts[v]))
            continue
        a = rng.normal(size=shape) * (0.8 if layout.vectors else 1.3)
        a[2::4] = rng.uniform(0.1, 0.9, size=a[2::4].shape)
        a[3::4] = rng.uniform(0.3, 2, size=a[3::4].shape) * rng.choice((-1, 1), size=a[3::4].shape)
        if v in targets:  # the probabilities of a target add up to 1
            a = rng.uniform(0.1, 1, size=shape)
            axis = len(slots) if slots else -1 if layout.rows else -2
            axis = axis if a.shape[axis] > 1 else -1 if axis == -2 else -2
            a = a / a.sum(axis=axis, keepdims=True) if a.shape[axis] > 1 else a
        drawn[v] = a
    return drawn


def _targets(reading: Reading) -> set[str]:
    """Free names of a loss that is a cross-entropy of a softmax."""
    formulae = [e for _, e in reading.definitions.values()]
    used = {n.args[0] for e in formulae for n in nodes(e) if n.op in ("call", "reduce")}
    soft = used & {"softmax", "log_softmax", "logsumexp"} or {"exp", "log"} <= used
    if not soft:
        return set()
    loss = reading.definitions.get("") or reading.definitions.get(reading.loss)
    others = {v for u, (_, e) in reading.definitions.items() if u not in ("", reading.loss) for v in names(e)}
    return {v for v in names(loss[1]) if v not in reading.definitions and v not in others} if loss else set()


def _counts(reading: Reading, sized: Sized, layout: Layout) -> dict[str, int]:
    """Names for how many there are: of examples, or of what a sum runs over."""
    found: dict[str, int] = {}
    formulae = [e for _, e in reading.definitions.values()]
    formulae += [e for c in reading.claims for e in (c.left, c.right) if isinstance(e, Expr)]
    for e in formulae:
        for n in nodes(e):
            if n.op == "sum" and n.args[2] and n.args[2] not in reading.definitions:
                found.setdefault(n.args[2], letter_sizes(sized, [n]).get(n.args[0][0], 1))
        sums = [n for n in nodes(e) if n.op == "sum"]
        for v in names(e) & set(EVERY) if sums else ():
            if v not in reading.definitions:
                found.setdefault(v, letter_sizes(sized, [e]).get(sums[0].args[0][0], 1))
    if layout.batch:
        for v in EVERY[:6]:
            if v not in reading.definitions:
                found.setdefault(v, sized.examples)
    return found


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


# --- values ----------------------------------------------------------------------------------------------------------


def _run(world: World, draws: dict[str, np.ndarray]) -> dict[str, Node]:
    """Forward: the definitions one after the other."""
    values: dict[str, Node] = {v: as_node(a) for v, a in draws.items()}
    world = world._replace(values=values)
    for v, (letters, e) in world.reading.definitions.items():
        values[v] = stored(evaluate(e, scope_of(world, [e, name(v, letters)])), letters, world.sized.names.get(v))
    return values


def as_node(array: np.ndarray) -> Node:
    """A name's value: its slots are axes numbered 0, 1, ..."""
    return Node(array, tuple(str(i) for i in range(array.ndim - 3)))


def stored(node: Node, letters: tuple[str, ...], slots) -> Node:
    """A value whose letters are a name's slots."""
    array_letters = tuple(str(letters.index(x)) if x in letters else x for x in node.letters)
    if slots and len(slots[0]) > len(node.letters):
        raise UnknownError("an index that the formula does not have")
    return _relabelled(node, array_letters)


def _relabelled(node: Node, labels: tuple[str, ...]) -> Node:
    """The same value with other letters, put in order."""
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    axes = (0, *(1 + i for i in order), len(labels) + 1, len(labels) + 2)
    back = tuple(int(i) for i in np.argsort(axes))
    return Node(node.array.transpose(axes), tuple(labels[i] for i in order), ((node, lambda d: d.transpose(back)),))


def with_letters(node: Node, letters: tuple[str, ...], rows: bool) -> Node:
    """A name's value as it is used: w_ji, or the matrix W of what is w_ji elsewhere."""
    slots = len(node.letters)
    if letters and len(letters) != slots:
        node = _unpacked(node, len(letters))
    elif slots and not letters:
        return _packed(node, rows)
    if len(set(letters)) < len(letters):
        raise UnknownError(f"the index {letters[0]} twice in one name")
    return _relabelled(node, letters) if letters else node


def _unpacked(node: Node, many: int) -> Node:
    if node.letters:
        raise UnknownError("a name with another number of indices")
    shape = node.array.shape
    inside = [n for n in shape[1:] if n > 1] if many == 1 else list(shape[1:])
    if len(inside) > many:
        raise UnknownError("one index of a matrix")
    inside += [1] * (many - len(inside))
    return Node(
        node.array.reshape(shape[0], *inside, 1, 1),
        tuple(map(str, range(many))),
        ((node, lambda d: d.reshape(d.shape[0], *shape[1:])),),
    )


def _packed(node: Node, rows: bool) -> Node:
    shape = node.array.shape
    if len(node.letters) > 2 or shape[-2:] != (1, 1):
        raise UnknownError("a name without its indices")
    new = shape[1:3] if len(node.letters) == 2 else (1, shape[1]) if rows else (shape[1], 1)
    return Node(node.array.reshape(shape[0], *new), (), ((node, lambda d: d.reshape(d.shape[0], *shape[1:])),))


def letter_sizes(sized: Sized, formulae: list[Expr]) -> dict[str, int]:
    """How far each letter runs in some formulae."""
    found: dict[str, int] = {}
    if not any(slots for slots, _, _ in sized.names.values()) and not any(
        n.op in ("sum", "delta") for e in formulae for n in nodes(e)
    ):
        return found

    def learn(variable: Variable):
        text, letters = variable
        slots, rows, columns = sized.names.get(text, ((), 1, 1))
        if letters and len(letters) != len(slots):
            slots = (tuple(n for n in (rows, columns) if n > 1) or (1,)) if len(letters) == 1 else (rows, columns)
        for x, n in zip(letters, slots, strict=False):
            found.setdefault(x, n)

    for e in formulae:
        for n in nodes(e):
            if n.op == "name":
                learn(n.args)
            elif n.op == "derivative":
                learn(n.args[0])
                learn(n.args[1])
    for e in formulae:
        for n in nodes(e):
            if n.op == "delta":
                for j, k in (n.args, n.args[::-1]):
                    if j in found:
                        found.setdefault(k, found[j])
    return found


def scope_of(world: World, formulae: list[Expr]) -> Scope:
    """What a formula is evaluated in; all of `formulae` say how far its letters run."""
    sizes = letter_sizes(world.sized, formulae)
    for e in formulae if sizes and world.deltas else ():  # δ_j has the size of what it stands for
        for n in nodes(e):
            if n.op == "name" and n.args[0] in world.deltas:
                sizes = letter_sizes(world.sized, [name(world.deltas[n.args[0]], n.args[1])]) | sizes
    return Scope(lambda e: leaf(world, e, formulae), sizes, world.rules, world.sized.fixed)


def value_of(world: World, expr: Expr, beside: tuple[Expr, ...] = ()) -> Node:
    """The value of a formula; `beside` are others that say how far its letters run."""
    return evaluate(expr, scope_of(world, [expr, *beside]))


def leaf(world: World, expr: Expr, formulae: list[Expr]) -> Node:
    """The value of a name, a derivative or a call."""
    match expr.op, expr.args:
        case "name", variable:
            return _name(world, variable, formulae)
        case "derivative", (("", _), bottom):
            return _adjoint(world, bottom)
        case "derivative", (top, bottom):
            return _local(world, top, bottom)
        case "second", variables:
            return _second(world, *variables)
        case "partial", (body, bottom):
            return _partial(world, body, bottom)
        case "call", (function, primes, *arguments):
            if len(arguments) > 1:
                raise UnknownError(f"the function {function} of {len(arguments)} arguments is not known")
            return _call(world, function, primes, arguments[0], formulae)
    raise UnknownError(f"cannot evaluate {show(expr)}")


def _name(world: World, variable: Variable, formulae: list[Expr]) -> Node:
    text, letters = variable
    note = world.reading.notes.get(text + "".join(letters))
    if text in world.values:
        return at_first(with_letters(world.values[text], letters, world.layout.rows), world.sized.fixed)
    if note is not None and note != name(*variable):
        return evaluate(note, scope_of(world, [note, *formulae]))
    if text in world.deltas:
        return _adjoint(world, (world.deltas[text], letters))
    if text == world.reading.loss and "" in world.values:
        return world.values[""]
    if text in world.counts:
        return Node(np.full((1, 1, 1), float(world.counts[text])))
    raise UnknownError(_unknown(world, show_variable(variable)))


def _unknown(world: World, text: str) -> str:
    if text in world.reading.unread:
        return f"{text}'s definition in line {world.reading.unread[text][0]} was not read"
    there = ", ".join(v for v in [*world.reading.definitions, *world.reading.free] if v)[:200]
    return f"{text} is not in the network, which has {there}"


def _adjoint(world: World, bottom: Variable) -> Node:
    text, letters = bottom
    if text not in world.adjoints:
        raise UnknownError(_unknown(world, show_variable(bottom)))
    node = at_first(with_letters(as_node(world.adjoints[text]), letters, world.layout.rows), world.sized.fixed)
    vector = 1 in node.shape
    if world.turned_adjoints == "all" or (world.turned_adjoints == "vectors" and vector):
        node = Node(np.swapaxes(node.array, -1, -2), node.letters)
    return node


def resolved(world: World, function: str, argument: Expr) -> Function | tuple[str, Expr]:
    """Which function a call means: g(z1) is whatever acts on z1, unless the text says what g is."""
    functions = world.reading.functions
    stem = function.rstrip("0123456789_")
    for known in (function, stem):
        if known in functions:
            return functions[known]
        if known in FUNCTIONS:
            return FUNCTIONS[known]
    if stem == "σ":
        return FUNCTIONS["sigmoid"]
    for _, e in world.reading.definitions.values():
        if e.op == "call" and e.args[2] == argument and e.args[0] != function:
            acting = e.args[0]
            if acting in FUNCTIONS or acting in functions or acting.startswith("σ"):
                return functions.get(acting) or FUNCTIONS.get(acting) or FUNCTIONS["sigmoid"]
    if not is_generic(function) and len(stem) > 1:
        raise UnknownError(f"the function {function} is not known")
    return FUNCTIONS["relu"] if world.generic == "relu" else some_function(stem)


def _call(world: World, function: str, primes: int, argument: Expr, formulae: list[Expr]) -> Node:
    inside = evaluate(argument, scope_of(world, [argument, *formulae]))
    found = resolved(world, function, argument)

    def means(f: str, a: Expr):
        return resolved(world, f, a)

    turned = show(argument) in world.rules.turned
    if isinstance(found, Function):
        return apply(found, inside, primes, turned)
    variable, body = found
    if primes > 1:
        start = inside.array
        return Node(jet(body, {variable: Jet(start, np.ones_like(start), np.ones_like(start), 0 * start)}, means).both, inside.letters)
    start = Node(inside.array, inside.letters)

    def own(e: Expr) -> Node:
        if e.op == "name" and e.args[0] == variable:
            return start if primes else inside
        if e.op == "call":
            return apply(FUNCTIONS[e.args[0]], evaluate(e.args[2], scope), e.args[1], turned)
        raise UnknownError(f"{show(e)} in {function}")

    scope = Scope(own, {}, world.rules)
    if turned:
        body = _turned(body)
    value = evaluate(body, scope)
    if not primes:
        return value
    slope = pull(value, np.broadcast_to(np.ones(1), value.array.shape)).get(id(start), np.zeros_like(start.array))
    return Node(np.broadcast_to(slope, start.array.shape) + 0.0, start.letters)


def _turned(body: Expr) -> Expr:
    """A formula by cases with the other branch taken at the kink itself."""
    return replace(
        body, lambda e: Expr("compare", (TURNED.get(e.args[0], e.args[0]), *e.args[1:])) if e.op == "compare" else None
    )


# --- derivatives -----------------------------------------------------------------------------------------------------


def with_adjoints(world: World, own: dict[str, np.ndarray] | None = None) -> World:
    """Backward: the adjoint of every name; those in `own` are taken for given, and what is computed before them follows."""
    key = "" if "" in world.values else world.reading.loss
    stated = key in world.values and (key == "" or key in world.reading.definitions)
    outputs = () if stated else outputs_of(world.reading)
    rng = np.random.default_rng(1)
    seeds = {v: rng.normal(size=world.values[v].array.shape) for v in outputs if v in world.values}
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
    scale = world.sized.examples if world.loss.each else 1
    for v, (letters, e) in reversed(world.reading.definitions.items()):
        if v in own:
            total[v] = own[v] / (scale if _by_example(world, v) else 1)
        if v not in total:
            continue
        starts = {u: Node(world.values[u].array, world.values[u].letters) for u in names(e) if u in world.values}
        here = world._replace(values=starts)
        value = stored(evaluate(e, scope_of(here, [e, name(v, letters)])), letters, world.sized.names.get(v))
        found = pull(value, np.broadcast_to(total[v], value.array.shape))
        for u, start in starts.items():
            if id(start) in found:
                total[u] = total.get(u, 0) + found[id(start)]
    adjoints = {v: np.broadcast_to(total.get(v, 0.0), n.array.shape) for v, n in world.values.items()}
    if world.loss.each:
        adjoints = {v: a * world.sized.examples if _by_example(world, v) else a for v, a in adjoints.items()}
    return adjoints | {v: a for v, a in own.items() if v in adjoints}


def _by_example(world: World, v: str) -> bool:
    return world.layout.batch and world.sized.names[v][1 if world.layout.rows else 2] == world.sized.examples > 1


def outputs_of(reading: Reading) -> tuple[str, ...]:
    """What the adjoint is given of, where the text has no loss: of each layer or step that a letter counts, else one."""
    used = {v for _, e in reading.definitions.values() for v in names(e)}
    sinks = [v for v in reading.definitions if v not in used]
    counted = tuple(v for v in sinks if counter(v))
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


def _local(world: World, top: Variable, bottom: Variable) -> Node:
    """dz2/dh0: through what lies directly between, or through everything where nothing does."""
    (t, upper), (b, lower) = top, bottom
    if t in world.deltas or b in world.deltas:
        raise UnknownError(f"a derivative of {t}")
    for v in (t, b):
        if v not in world.values:
            raise UnknownError(_unknown(world, v))
    definitions = world.reading.definitions
    head = t
    while world.total == "literal" and head in definitions and definitions[head][1].op == "name" and head != b:
        head = definitions[head][1].args[0]
    direct = definitions.get(head) if t != b and world.total != "total" else None
    direct = direct if direct is not None and b in names(direct[1]) else None
    key = (id(world.values), t, b, direct is None, world.rules)
    if key not in world.cache:
        world.cache[key] = (_jacobian(world, t, b, direct), world.values)  # kept, so that no other has its id
    jacobian = world.cache[key][0]
    return _laid_out(world, jacobian, len(world.values[t].letters), upper, len(world.values[b].letters), lower)


def _partial(world: World, body: Expr, bottom: Variable) -> Node:
    b, lower = bottom
    if b not in world.values:
        raise UnknownError(_unknown(world, b))
    if has(body, "derivative", "second"):
        raise UnknownError("a derivative of a formula with derivatives is not judged")
    value = value_of(world, body)
    upper = value.letters
    if world.total == "total":  # through everything that lies between
        definitions = {**world.reading.definitions, "∂": (upper, body)}
        values = {**world.values, "∂": stored(value, upper, None)}
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
            raise UnknownError(_unknown(world, v or "the loss"))
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
    tiled = {
        v: Node(
            np.tile(np.broadcast_to(x.array, (n, *x.array.shape[1:])), (entries,) + (1,) * (x.array.ndim - 1)),
            x.letters,
        )
        for v, x in world.values.items()
    }
    start = tiled[b]
    here = world._replace(values=tiled)
    if direct:
        letters, e = direct
        value = stored(evaluate(e, scope_of(here, [e, name(t, letters)])), letters, None)
    elif t == b:
        value = start
    else:
        reached = {b}
        for v, (letters, e) in world.reading.definitions.items():
            if reached & names(e) and v != b:
                reached.add(v)
                tiled[v] = stored(evaluate(e, scope_of(here, [e, name(v, letters)])), letters, world.sized.names.get(v))
        value = tiled[t]
    seeds = np.eye(entries).reshape(entries, 1, *like.array.shape[1:])
    seed = np.broadcast_to(seeds, (entries, n, *like.array.shape[1:])).reshape(entries * n, *like.array.shape[1:])
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
    return at_first(Node(matrix, tuple(letters[i] for i in order)), world.sized.fixed)


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


def cost(reading: Reading) -> int:
    """How many symbols the equations have."""
    return sum(size(e) for c in reading.claims for e in (c.left, c.right) if isinstance(e, Expr))
