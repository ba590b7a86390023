"""Lines that say nothing which could be judged: a step, a number, a word, what hangs on a line that was not read."""

import re

from jaxbackprop.grading.choice import holds
from jaxbackprop.grading.claims import Claim, is_generic, is_number
from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.expression import ZERO, Expr, adjoint, has, names, nodes, symbols
from jaxbackprop.grading.functions import FUNCTIONS, Function
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.meanings import OPAQUE
from jaxbackprop.grading.reading import Reading
from jaxbackprop.grading.updates import goes_up, is_update
from jaxbackprop.grading.words import LOSSES
from jaxbackprop.grading.world import World, resolved

STEP = "a step of the training, not a derivative"


def nothing_said(world: World, claim: Claim, left: Expr, right: Expr) -> str:
    """Why the line is not judged, before it is compared; "" where it is."""
    if is_update(left, right) and not is_computed(world, left):
        return STEP
    of_losses = {world.reading.loss, *LOSSES} - {"", *world.values} | {world.reading.loss} - {""}
    if left.op == "derivative" and has(right, "derivative") and left.args[1][0] in of_losses:
        return f"a differential: write d{left.args[1][0]}/d… for a derivative"
    given = left in map(adjoint, world.outputs)
    if is_number(right) and (left.op == "name" or (given and world.layout.vectors)):
        return "a number: it holds for one choice of the inputs only, and is not judged"
    if given and not has(right, "derivative"):
        follows = f"{world.called(left)} is the adjoint that is given: the text has no loss from which it could follow"
        return "" if holds(world, claim) else follows
    hanging = _hangs_on(world, left, right)
    if hanging:
        return _not_read(world.reading, hanging)
    if left.op == "name" and _sounds_derived(world, left.args[0]) and not _leads_on(world, left.args[0]):
        return f"what {world.called(left)} stands for is not said: write dL/d… for a derivative"
    if left.op == "name" and _is_only_a_word(world.reading, left.args[0]):
        return f"it defines {left.args[0]}, which nothing else in the text is about"
    return ""


def not_known(world: World, left: Expr, right: Expr) -> str:
    """Why a line that does not hold is not wrong: its loss was not read, or a step's share of a sum is meant; "" for no why."""
    reading = world.reading
    if any(n.op in ("derivative", "second") and not n.args[0][0] for e in (left, right) for n in nodes(e)):
        if reading.loss in reading.unread:
            return _not_read(reading, reading.loss)
        lost = next((c.row for c in reading.claims if isinstance(c.left, Unread)), 0)
        if lost and reading.loss not in reading.definitions:
            return f"the loss may stand in line {lost}, which was not read"
    outputs = {*map(adjoint, world.outputs)}
    every = (n for c in reading.claims if isinstance(c.right, Expr) for n in nodes(c.right))
    said = any(n in outputs or (n.op == "name" and n.args[0].startswith("δ")) for n in every)
    said = said or not reading.definitions.keys() <= reading.rows.keys()  # of a network that is given
    if left.op == "derivative" and not left.args[0][0] and outputs and not said and not has(right, "derivative"):
        return "the text has no loss from which it could follow"
    led = {"", reading.loss} & {*reading.definitions}
    aside = next((v for v in sorted(names(right)) if v in reading.definitions and led and not _leads_on(world, v)), "")
    if aside and left.op == "derivative":
        return f"what {aside} stands for is not said: write dL/d… for a derivative"
    opaque = next((v for v, (_, e) in reading.definitions.items() if any(map(_is_opaque, nodes(e)))), "")
    if opaque and not has(right, "derivative", "partial") and not any(v.startswith("δ") for v in names(right)):
        return f"what {opaque} is a function of is said, and not which function it is"
    if left.op == "call" and left.args[1] and any(not c.read and f"{left.args[0]}(" in c.text for c in reading.claims):
        return f"what {left.args[0]} is may stand in a line that was not read"
    if left.op == "call" and left.args[1] and is_generic(left.args[0]) and not _is_given(world, left):
        return f"which function {left.args[0]} is is not said"
    if is_number(right) and any(n.op == "number" and n.args[1] for n in nodes(right)):
        return "a number: it holds for one choice of the inputs only, and is not judged"
    if is_number(right) and any(not c.read and not c.completed for c in reading.claims):
        return "a number: not all that it needs may have been read"
    added = any("+=" in c.text and goes_up(c.left, c.right, True) for c in reading.claims if c.read)  # type: ignore[arg-type]
    if added and left.op == "derivative":
        return "the steps add derivatives: they may stand for the negative ones"
    if _is_differential(world, left, right):
        return f"a differential: write dL/d{left.args[1][0]} for a derivative"
    if _of_one_example(world, left, right):
        return "of which example it speaks is not said"
    if _may_be_a_condition(reading, left, right):
        return "it may be a condition, such as a derivative that is set to 0"
    if dead := _leads_nowhere(world, left, right):
        return f"the equations do not lead from {dead} to {reading.loss or 'the output'}"
    whole = {*reading.definitions, *reading.free}
    for v in sorted(symbols(left) | symbols(right)):
        if (found := counter(v)) and found[1] == "t" and found[0] in whole:
            return f"{v} may be an entry of {found[0]}, which the text has too"
    inside = _above(reading, names(left) | names(right)) & reading.ends
    if inside and not reading.whole:
        return f"it needs {min(inside)}, of which nothing is said"
    repeated = [v for v in shared(world, left, right) if reading.shared[v] > 1]
    return f"{repeated[0]} is the same at every step, and how many there are is not said" if repeated else ""


def _is_differential(world: World, left: Expr, right: Expr) -> bool:
    """dy = dW x + W dx, of y = W x: not of the loss."""
    if left.op != "derivative" or left.args[1][0] not in world.reading.definitions:
        return False
    by = {n.args[1][0] for n in nodes(right) if n.op == "derivative"}
    return len(by) > 1 and by <= names(world.reading.definitions[left.args[1][0]][1])


def _of_one_example(world: World, left: Expr, right: Expr) -> bool:
    """Whether x may be one x_i, a vector; or y one y_i, beside an x_j that may be an entry of it."""
    used = [n.args for e in (left, right) for n in nodes(e) if n.op == "name"]
    families = {v: world.values[v].shape[0] > 1 for v, _ in used if v in world.values and world.values[v].letters}
    bare = [v for v, letters in used if not letters and v in families and v[0].islower()]
    beside = any(families.get(v) and len(letters) == 1 for v, letters in used) and not has(right, "sum")
    return any(families[v] or beside for v in bare)


def _is_given(world: World, call: Expr) -> bool:
    function = resolved(world, call.args[0], call.args[2])
    return not isinstance(function, Function) or function in FUNCTIONS.values()


def _is_opaque(e: Expr) -> bool:
    return e.op == "call" and e.args[0].startswith(OPAQUE)


def _may_be_a_condition(reading: Reading, left: Expr, right: Expr) -> bool:
    """X^T X w = X^T y, and dL/dw = 0 for a parameter."""
    if right == ZERO and left.op == "derivative":
        return left.args[1][0] in reading.free or counter(left.args[1][0]) is not None
    quantities = ("name", "derivative", "second", "call", "partial", "reduce", "transpose")
    return left.op not in quantities and not has(left, "derivative", "second", "partial")


def _leads_nowhere(world: World, left: Expr, right: Expr) -> str:
    """A name that a derivative is taken by, and that the loss is not computed from; "" for none."""
    reading = world.reading
    used = _above(reading, {"", reading.loss} & {*reading.definitions} or {*world.outputs})
    by = [n.args[1][0] for e in (left, right) for n in nodes(e) if n.op == "derivative" and not n.args[0][0]]
    by += [world.deltas.get(n.args[0], "") for e in (left, right) for n in nodes(e) if n.op == "name"]
    return next((v for v in by if v in world.values and v not in used), "")


def shared(world: World, *formulae: Expr) -> list[str]:
    """The names that all steps share and that a derivative is taken by; of a loss over all steps that is none of one step's."""
    reading = world.reading
    derived = [n.args for e in formulae for n in nodes(e) if n.op == "derivative"]
    by = {bottom for (top, _), (bottom, _) in derived if top or not reading.whole}
    return sorted(by & reading.shared.keys())


def _sounds_derived(world: World, v: str) -> bool:
    """Whether a name may stand for a derivative: l1_delta, gW2, y_bar."""
    base = re.fullmatch(r"g_?([A-Za-z]\w*)|(\w+?)_?bar(\d*)", v)
    of = (base[1] or f"{base[2]}{base[3]}") if base else ""
    return re.search(r"(?i)delta|error|grad|adjoint", v) is not None or (of in world.values and of != v)


def is_computed(world: World, left: Expr) -> bool:
    """Whether a name is a value on the way to the loss: x_cent = x − α μ is no step."""
    return left.op == "name" and left.args[0] in world.reading.definitions and _leads_on(world, left.args[0])


def _leads_on(world: World, v: str) -> bool:
    """Whether the loss is computed from a name."""
    reading = world.reading
    return v in _above(reading, {"", reading.loss} & {*reading.definitions})


def _not_read(reading: Reading, v: str) -> str:
    return f"{v}'s definition in line {reading.unread[v][0]} was not read"


def _is_only_a_word(reading: Reading, v: str) -> bool:
    """Whether a line defines a name of several letters, or another name, that no other line is about."""
    alias = v in reading.definitions and reading.definitions[v][1].op == "name" and v != "yhat"
    if not alias and (not (v.isalpha() and v.isascii() and len(v) > 2) or v == "yhat" or v == reading.loss):
        return False
    about = [c for c in reading.claims for e in (c.left, c.right) if isinstance(e, Expr) and v in symbols(e)]
    return len(about) == 1 if not alias else len(reading.claims) == 1


def _hangs_on(world: World, left: Expr, right: Expr) -> str:
    """The name whose definition was not read and on which a derivative in this line depends; "" for none."""
    reading = world.reading
    for p, (_, inside) in reading.unread.items():
        if p == reading.loss or p in reading.definitions:
            continue
        above = _above(reading, {*inside} & {*reading.definitions, *reading.free, *world.values})
        for e in (left, right):
            for n in nodes(e):
                by = n.op in ("derivative", "second")
                bottom = n.args[1][0] if by else world.deltas.get(n.args[0], "") if n.op == "name" else ""
                if bottom and (bottom in above or bottom not in world.values):
                    return p
    return ""


def _above(reading: Reading, found: set[str]) -> set[str]:
    """These names and all that they are computed from."""
    above, new = set(found), set(found)
    while new:
        new = {u for v in new if v in reading.definitions for u in names(reading.definitions[v][1])} - above
        above |= new
    return above
