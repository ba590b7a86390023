"""A text's names and calls at random points: what a formula is worth where the values and adjoints are known.

`points` draws the points, `derivatives` finds the adjoints, and what else derives one value by another.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.claims import is_generic
from jaxbackprop.grading.curvature import Jet, jet
from jaxbackprop.grading.expression import (
    Expr,
    UnknownError,
    Variable,
    has,
    name,
    nodes,
    replace,
    show,
    show_variable,
)
from jaxbackprop.grading.functions import FUNCTIONS, Function, some_function
from jaxbackprop.grading.meanings import OPAQUE
from jaxbackprop.grading.reading import Reading
from jaxbackprop.grading.shapes import EXAMPLES, Layout, Sized
from jaxbackprop.grading.values import TURNED, Node, Rules, Scope, apply, at_entry, constant, entry_of, evaluate, pull
from jaxbackprop.grading.words import LOSSES


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


class Values(dict[str, Node]):
    """The value of every name; with what was found of the derivatives of one by another, which hold for these values."""

    def __init__(self, values: Mapping[str, Node]):
        super().__init__(values)
        self.jacobians: dict[tuple, np.ndarray] = {}


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
        local: how a derivative of one vector by another is laid out: "rows" dz/dh = W, "columns" Wᵀ, "diagonal"; "turned":
            as "rows", and that of a number by a vector is a row too.
        total: what such a derivative goes through: "" the definition alone where it has the name, else all that lies
            between; "literal" the definition alone, "total" all.
        turned_adjoints: gradients are laid out the other way: "", "vectors" as rows, "all".
        zero: the points at which the inputs are 0.
        kinks: what decides on which branch a value is -> its value, at the points.
        counts: names for how many there are, of examples or of what a sum runs over.
        opposite: δ is the derivative with a minus: δ = (t − o) o (1 − o), beside Δw = η δ h.
    """

    reading: Reading
    layout: Layout
    loss: Loss
    sized: Sized
    values: Values
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
    opposite: bool = False

    @property
    def points(self) -> int:
        """How many points there are."""
        return len(self.zero)

    def called(self, expr: Expr) -> str:
        """A formula as the text writes it."""
        return show(expr, self.reading.loss or "L")


# --- names as they are stored, and as they are used -----------------------------------------------------------------


def as_node(array: np.ndarray) -> Node:
    """A name's value: its slots are axes numbered 0, 1, ..."""
    return Node(array, tuple(str(i) for i in range(array.ndim - 3)))


def stored(node: Node, letters: tuple[str, ...]) -> Node:
    """A value whose letters are a name's slots."""
    array_letters = tuple(str(letters.index(x)) if x in letters else x for x in node.letters)
    if len(letters) > len(node.letters):
        raise UnknownError("an index that the formula does not have")
    return _relabelled(node, array_letters)


def _relabelled(node: Node, labels: tuple[str, ...]) -> Node:
    """The same value with other letters, put in order."""
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    axes = (0, *(1 + i for i in order), len(labels) + 1, len(labels) + 2)
    back = tuple(int(i) for i in np.argsort(axes))
    return Node(node.array.transpose(axes), tuple(labels[i] for i in order), ((node, lambda d: d.transpose(back)),))


def _family_letters(world: World, text: str) -> tuple[str, ...]:
    """The letters by which the definitions count a family: the i of x_i, of which x_ji is an entry."""
    inside = (n for _, e in world.reading.definitions.values() for n in nodes(e))
    return next((n.args[1] for n in inside if n.op == "name" and n.args[0] == text and n.args[1]), ())


def with_letters(node: Node, letters: tuple[str, ...], layout: Layout, own: tuple[str, ...] = ()) -> Node:
    """A name's value as it is used: w_ji, or the matrix W of what is w_ji elsewhere; x_ji of a family x_i of vectors."""
    slots, rows = len(node.letters), layout.rows
    if len(own) == slots == len(letters) - 1 and {*own} < {*letters} and node.array.shape[-1] == 1:
        (j,) = {*letters} - {*own}
        shape, numbered = node.array.shape, tuple(map(str, range(slots + 1)))
        back = ((node, lambda d: d.reshape(d.shape[0], *shape[1:])),)
        return _relabelled(Node(node.array.reshape(*shape[:-1], 1, 1), numbered, back), (*own, j))
    if len(letters) == 1 and not slots and _of_examples(node.array.shape[-2:], layout):  # z^(i) of Z, as a column
        axis = 1 if rows else 2
        back = ((node, lambda d: np.moveaxis(d[..., 0], 1, axis)),)
        return Node(np.moveaxis(node.array, axis, 1)[..., None], letters, back)
    if letters and len(letters) != slots:
        node = _unpacked(node, len(letters))
    elif slots and not letters:
        of_examples = layout.batch and node.array.shape[1] == EXAMPLES
        return _packed(node, rows ^ of_examples, rows or layout.table)
    if len(set(letters)) < len(letters):
        raise UnknownError(f"the index {letters[0]} twice in one name")
    return _relabelled(node, letters) if letters else node


def _of_examples(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether each row of a matrix, or each column, is an example's."""
    return layout.batch and shape[not layout.rows] == EXAMPLES and shape[layout.rows] > 1


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


def _packed(node: Node, row: bool, rows: bool) -> Node:
    """Y of y_i: numbers in a row or a column, or columns side by side (as rows one below the other)."""
    shape = node.array.shape
    if len(node.letters) == 1 and shape[-1] == 1 < shape[-2]:
        axis = 1 if rows else 2
        back = ((node, lambda d: np.moveaxis(d, axis, 1)[..., None]),)
        return Node(np.moveaxis(node.array[..., 0], 1, axis), (), back)
    if len(node.letters) > 2 or shape[-2:] != (1, 1):
        raise UnknownError("a name without its indices")
    new = shape[1:3] if len(node.letters) == 2 else (1, shape[1]) if row else (shape[1], 1)
    return Node(node.array.reshape(shape[0], *new), (), ((node, lambda d: d.reshape(d.shape[0], *shape[1:])),))


def letter_sizes(sized: Sized, formulae: list[Expr]) -> dict[str, int]:
    """How far each letter runs in some formulae."""
    found: dict[str, int] = {}
    if not any(slots for slots, _, _ in sized.names.values()) and not any(has(e, "sum", "delta") for e in formulae):
        return found

    def learn(variable: Variable):
        text, letters = variable
        slots, rows, columns = sized.names.get(text, ((), 1, 1))
        if letters and len(letters) != len(slots):
            one = columns if columns == EXAMPLES else next((n for n in (rows, columns) if n > 1), 1)
            slots = (one,) if len(letters) == 1 else (rows, columns)
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


# --- what a formula is evaluated in ---------------------------------------------------------------------------------


Derived = Callable[[World, Expr], Node]  # the value of a derivative that is no adjoint


def scope_by(world: World, formulae: list[Expr], derived: Derived) -> Scope:
    """What a formula is evaluated in; all of `formulae` say how far its letters run."""
    sizes = letter_sizes(world.sized, formulae)
    for e in formulae if sizes and world.deltas else ():  # δ_j has the size of what it stands for
        for n in nodes(e):
            if n.op == "name" and n.args[0] in world.deltas:
                sizes = letter_sizes(world.sized, [name(world.deltas[n.args[0]], n.args[1])]) | sizes

    def leaf(expr: Expr) -> Node:
        match expr.op, expr.args:
            case "name", variable:
                return _name(world, variable, formulae, derived)
            case "derivative", (("", _), bottom):
                return _adjoint(world, bottom)
            case "call", (function, primes, argument):
                inside = evaluate(argument, scope_by(world, [argument, *formulae], derived))
                return called(world, function, primes, argument, inside)
            case "call", (function, *_):
                raise UnknownError(f"the function {function} is not known with more than one argument")
        return derived(world, expr)

    return Scope(leaf, sizes, world.rules, world.sized.fixed)


def _name(world: World, variable: Variable, formulae: list[Expr], derived: Derived) -> Node:
    text, letters = variable
    note = world.reading.notes.get(text + "".join(letters))
    if text in world.values:
        own = _family_letters(world, text) if len(letters) == len(world.values[text].letters) + 1 > 1 else ()
        return at_entry(with_letters(world.values[text], letters, world.layout, own), world.sized.fixed)
    if text == "e" and {*letters} <= world.sized.fixed and letters:  # of the class c: 1 there, and 0 elsewhere
        inside = (n for _, e in world.reading.definitions.values() for n in nodes(e))
        known = (world.sized.names.get(n.args[0]) for n in inside if n.op == "name" and n.args[1] == letters)
        n = max((max(*s[0], *s[1:]) for s in known if s), default=1)
        one = np.eye(n)[entry_of(letters[0], world.sized.fixed, n)]
        return Node(one[None, None, :] if world.layout.rows else one[None, :, None])
    if note is not None and note != name(*variable):
        return evaluate(note, scope_by(world, [note, *formulae], derived))
    if text in world.deltas:
        found = _adjoint(world, (world.deltas[text], letters))
        return Node(-found.array, found.letters) if world.opposite else found
    if text == world.reading.loss and "" in world.values:
        return world.values[""]
    if text in world.counts:
        return constant(float(world.counts[text]))
    if text in world.reading.given and not letters:  # the y = 1 of a − y, of L = −log a
        return constant(world.reading.given[text])
    raise UnknownError(unknown(world, show_variable(variable)))


def unknown(world: World, text: str) -> str:
    """Why a name has no value."""
    if text in world.reading.unread:
        return f"{text}'s definition in line {world.reading.unread[text][0]} was not read"
    there = ", ".join(v for v in [*world.reading.definitions, *world.reading.free] if v and "‹" not in v)[:200]
    return f"{text} is not in the network, which has {there}"


def _adjoint(world: World, bottom: Variable) -> Node:
    text, letters = bottom
    if text not in world.adjoints:
        raise UnknownError(unknown(world, show_variable(bottom)))
    node = at_entry(with_letters(as_node(world.adjoints[text]), letters, world.layout), world.sized.fixed)
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
    if stem in LOSSES:
        raise UnknownError(f"{stem}({show(argument)}) is not given")
    if not is_generic(function) and len(stem) > 1:
        raise UnknownError(f"the function {function} is not known")
    return FUNCTIONS["relu"] if world.generic == "relu" and not function.startswith(OPAQUE) else some_function(stem)


def called(world: World, function: str, primes: int, argument: Expr, inside: Node) -> Node:
    """f(a), f'(a) or f''(a), for a function of the text's own too."""
    found = resolved(world, function, argument)
    turned = show(argument) in world.rules.turned
    if isinstance(found, Function):
        return apply(found, inside, primes, turned)
    variable, body = found
    start = Node(inside.array, inside.letters)

    def second() -> np.ndarray:
        one = np.ones_like(start.array)
        return jet(body, {variable: Jet(start.array, one, one, 0 * one)}, lambda f, a: resolved(world, f, a)).both

    def own(e: Expr) -> Node:
        if e.op == "name" and e.args[0] == variable:
            return start if primes else inside
        if e.op == "call":
            known = FUNCTIONS["sigmoid" if e.args[0] == "σ" else e.args[0]]
            return apply(known, evaluate(e.args[2], scope), e.args[1], turned)
        raise UnknownError(f"{show(e)} in {function}")

    if primes > 1:
        return Node(second(), start.letters)
    scope = Scope(own, {}, world.rules)
    value = evaluate(_turned(body) if turned else body, scope)
    if not primes:
        return value
    slope = pull(value, np.broadcast_to(np.ones(1), value.array.shape)).get(id(start), np.zeros_like(start.array))
    return Node(np.broadcast_to(slope, start.array.shape) + 0.0, start.letters, ((inside, lambda d: d * second()),))


def _turned(body: Expr) -> Expr:
    """A formula by cases with the other branch taken at the kink itself."""
    return replace(
        body, lambda e: Expr("compare", (TURNED.get(e.args[0], e.args[0]), *e.args[1:])) if e.op == "compare" else None
    )
