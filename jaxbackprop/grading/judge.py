"""The verdict on each equation of a text: is it so, does it only inherit an error, and what is wrong with it."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.grading.choice import choose, holds, marked
from jaxbackprop.grading.comparison import compare, differs, sides
from jaxbackprop.grading.correction import right_line
from jaxbackprop.grading.counters import counter, spoken
from jaxbackprop.grading.derivatives import value_of, with_adjoints
from jaxbackprop.grading.diagnosis import diagnose, example, said
from jaxbackprop.grading.expression import (
    Expr,
    ShapeError,
    UnknownError,
    adjoint,
    has,
    has_local,
    names,
    nodes,
    show,
    show_variable,
    symbols,
)
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.numbers import number_verdict
from jaxbackprop.grading.points import at_numbers, build
from jaxbackprop.grading.reading import Claim, Reading, claims_of, is_number, read
from jaxbackprop.grading.report import INHERITED, RIGHT, UNJUDGED, UNREAD, WRONG, Line, Verdict, short
from jaxbackprop.grading.shapes import Layout
from jaxbackprop.grading.slips import repaired
from jaxbackprop.grading.stages import continued, placed
from jaxbackprop.grading.values import Node
from jaxbackprop.grading.wiring import completed, from_network
from jaxbackprop.grading.world import Loss, Values, World


class Court(NamedTuple):
    """What claims are judged by.

    Attributes:
        world: the text's values and derivatives, a forward slip mended.
        numbers: the same as plain numbers, for derivatives of one matrix by another; None where it is that already.
        written: with the forward slip left in; None where there is none.
        point: at the numbers that the text gives; None where it gives none.
        evidence: name -> the backward claims that its forward equation contradicts.
        mixed: a text that derives a quantity first with numbers and then with matrices does so from this line on.
    """

    world: World
    numbers: World | None
    written: World | None
    point: World | None
    evidence: dict[str, list[Claim]]
    mixed: int


class Judged(NamedTuple):
    """Status, reason and the right line of one claim; `left` where an arrow points elsewhere than at its chain's first term."""

    status: str
    reason: str = ""
    correction: str = ""
    left: Expr | None = None
    label: bool = False


@np.errstate(all="ignore")  # a formula may divide by zero or overflow: that shows in its value
def judge(text: str, network: Any = None) -> Verdict:
    """Judge each equation of the text; see `jaxbackprop.grade`."""
    claims, counted = placed(claims_of(chains(text)))
    if not claims:
        raise ValueError("the text has no equation: write one per line, such as dL/dz1 = dL/dh1 * g'(z1)")
    reading = continued(read(claims))
    stated = reading
    if network is None:
        reading, words = completed(reading)
    else:
        reading, words = from_network(network, reading), "the network that was given"
    court = convene(reading, stated if network is not None else None)
    if court is None:
        lines = [_unfit(c) for c in reading.claims]
        return _told(_with_slips(list(reading.claims), lines, "L"), f"network: {words}", counted)
    own: dict[str, np.ndarray] = {}
    earlier: list[tuple[Claim, str]] = []
    spent, lines_known = [0], {}
    judged = []
    for claim in court.world.reading.claims:
        verdict = _judged(court, claim, own, earlier, spent, lines_known)
        earlier.append((claim, verdict.status))
        if verdict.status == WRONG and not verdict.label:
            own |= _own(court.world, claim)
        judged.append(verdict)
    lines = _with_slips(list(court.world.reading.claims), judged, court.world.reading.loss or "L")
    return _told(lines, _basis(court, "; ".join(w for w in (words, counted) if w)), counted)


def _told(lines: Iterable[Line], basis: str, counted: str) -> Verdict:
    """The verdict, with letters again for what a letter counts."""
    if not counted:
        return Verdict(tuple(lines), basis)
    parts = ("quantity", "reason", "formula", "correction")
    return Verdict(tuple(x._replace(**{k: spoken(getattr(x, k)) for k in parts}) for x in lines), spoken(basis))


def _unfit(claim: Claim) -> Judged:
    side = claim.left if isinstance(claim.left, Unread) else claim.right
    if isinstance(side, Unread):
        return Judged(UNREAD, side.reason)
    return Judged(UNJUDGED, "the forward equations do not fit together")


def convene(reading: Reading, stated: Reading | None = None) -> Court | None:
    """Find what the claims are about, and work out its values and derivatives."""
    world = choose(reading)
    if world is None:
        return None
    mended, evidence, written = world, {}, None
    if stated is None:
        mended, evidence = repaired(world)
        written = world if evidence else None
    elif set(stated.definitions) - {reading.loss}:
        same = {v: d for v, d in stated.definitions.items() if v in reading.definitions and v in reading.rows}
        if any(reading.definitions[v] != d for v, d in same.items()):
            written = _quietly(
                lambda: build(
                    reading._replace(definitions=reading.definitions | same), world.layout, world.loss, world.generic
                )
            )
    numbers = None
    if mended.layout.vectors:
        numbers = _quietly(
            lambda: build(mended.reading, Layout(), Loss(mended.loss.formula, mended.loss.words), mended.generic)
        )
        numbers = numbers and numbers._replace(deltas=mended.deltas)
    return Court(mended, numbers, written, at_numbers(mended), evidence, _mixed(reading))


def _quietly(make):
    try:
        return make()
    except (ShapeError, UnknownError):
        return None


def _mixed(reading: Reading) -> int:
    """The line on which a quantity is derived again, now with matrices; 0 where none is."""
    if any(marked(e) for _, e in reading.definitions.values()):
        return 0
    plain: set[Expr] = set()
    for c in reading.claims:
        if c.read and c.left.op == "derivative" and not has_local(c.right):  # type: ignore[union-attr, arg-type]
            if not marked(c.right):  # type: ignore[arg-type]
                plain.add(c.left)  # type: ignore[arg-type]
            elif c.left in plain:
                return c.row
    return 0


# --- one claim -------------------------------------------------------------------------------------------------------


def _judged(court: Court, claim: Claim, own, earlier, spent, lines) -> Judged:
    left, right, world = claim.left, claim.right, court.world
    for side in (left, right):
        if isinstance(side, Unread):
            return Judged(UNREAD, side.reason)
    assert isinstance(left, Expr)
    assert isinstance(right, Expr)
    unjudged = _not_a_claim(court, claim, left, right)
    if unjudged is not None:
        return unjudged
    if claim.relation == "→":
        left = _pointed_at(court, claim, left)
    if left.op in ("call", "partial"):
        world = _with_dummy(world, left)
        court = court._replace(world=world, numbers=court.numbers and _with_dummy(court.numbers, left))
    try:
        found = _equal(court, left, right, claim.row)
    except UnknownError as error:
        return Judged(UNJUDGED, str(error))
    if found is not None and found.empty:
        words = {"0 on both sides": "both sides are 0 wherever one looks: it says nothing"}
        return Judged(
            UNJUDGED, words.get(found.empty, f"{world.called(right)} has no finite value at the points tried")
        )
    if found is not None:
        remark = found.remark
        if claim.bare:
            remark = f"read as going on from the line above: {world.called(left)} = {world.called(right)}"
        one_step = "of this step alone, what comes in is taken for given" if _shared(world, left, right) else ""
        return Judged(RIGHT, remark or _assumed(world, claim) or one_step, left=left)
    if claim.bare:
        return Judged(UNREAD, f"a formula without =, which is not {world.called(left)} of the line above")
    if world.reading.loss in world.reading.unread and _mentions_loss(left, right):
        return Judged(UNJUDGED, _unread_words(world.reading, world.reading.loss))
    lost = next((c.row for c in world.reading.claims if isinstance(c.left, Unread)), 0)
    if lost and world.reading.loss not in world.reading.definitions and _mentions_loss(left, right):
        return Judged(UNJUDGED, f"the loss may stand in line {lost}, which was not read")
    repeated = [v for v in _shared(world, left, right) if world.reading.shared[v] > 1]
    if repeated:
        return Judged(UNJUDGED, f"{repeated[0]} is the same at every step, and how many there are is not said")
    inherited = _inherited(court, claim, left, right, own, earlier)
    return Judged(INHERITED, inherited) if inherited else _wrong(court, left, right, spent, lines)._replace(left=left)


def _assumed(world: World, claim: Claim) -> str:
    """Lines that hold because of a loss that the text does not give say so."""
    if world.loss.formula is None or not claim.read:
        return ""
    free = {v for v in names(world.loss.formula) if v not in world.reading.definitions}
    return (
        f"for L = {world.loss.words}".replace(" (assumed)", "")
        if names(claim.right) & free and claim.left.op in ("derivative", "name")  # type: ignore
        else ""
    )  # type: ignore[union-attr]


def _shared(world: World, *formulae: Expr) -> list[str]:
    """The names that all steps share and that a derivative is taken by."""
    by = {n.args[1][0] for e in formulae for n in nodes(e) if n.op == "derivative"}
    return sorted(by & world.reading.shared.keys())


def _mentions_loss(*formulae: Expr) -> bool:
    return any(n.op == "derivative" and not n.args[0][0] for e in formulae for n in nodes(e))


def _unread_words(reading: Reading, v: str) -> str:
    return f"{v}'s definition in line {reading.unread[v][0]} was not read"


def _not_a_claim(court: Court, claim: Claim, left: Expr, right: Expr) -> Judged | None:
    """What says nothing that could be judged: a step, a number, a word, what hangs on a line that was not read."""
    world, reading = court.world, court.world.reading
    if _is_step(left, right):
        return Judged(UNJUDGED, "a step of the training, not a derivative")
    given = left in map(adjoint, world.outputs)
    if is_number(right):
        if court.point is not None and left.op in ("name", "derivative"):
            return number_verdict(court.point, left, right, Judged)
        if left.op == "name" or given:
            return Judged(UNJUDGED, "a number: it holds for one choice of the inputs only, and is not judged")
    if given and right.op != "derivative" and not has(right, "derivative"):
        return (
            Judged(
                UNJUDGED,
                f"{world.called(left)} is the adjoint that is given: the text has no loss from which it could follow",
            )
            if not holds(world, claim)
            else None
        )
    hanging = _hangs_on(world, left, right)
    if hanging:
        return Judged(UNJUDGED, _unread_words(reading, hanging))
    if left.op == "name" and left.args[0] in court.evidence and not claim.bare:
        return None
    if left.op == "name" and _is_only_a_word(reading, left.args[0]):
        return Judged(UNJUDGED, f"it defines {left.args[0]}, which nothing else in the text is about")
    return None


def _is_step(left: Expr, right: Expr) -> bool:
    """w = w - 0.1 dL/dw, and w_{t+1} = w_t - ...; w_new = w - ..."""
    if left.op != "name" or right.op != "+":
        return False
    counted = counter(left.args[0])
    old = counted[0] if counted else left.args[0].partition("_")[0]

    def is_old(v: str) -> bool:
        found = counter(v)
        return (found[0] if found else v) == old

    return left in right.args or (
        has(right, "derivative") and any(t.op == "name" and is_old(t.args[0]) for t in right.args)
    )


def _is_only_a_word(reading: Reading, v: str) -> bool:

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
                bottom = (
                    n.args[1][0] if n.op == "derivative" else world.deltas.get(n.args[0], "") if n.op == "name" else ""
                )
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


def _pointed_at(court: Court, claim: Claim, left: Expr) -> Expr:
    """A = B (C) -> D: the arrow says what C is, unless D is A."""
    factors = claim.before.args if claim.before is not None and claim.before.op == "product" else ()
    if factors and not holds(court.world, claim._replace(left=left)):
        return factors[-1]
    return left


def _with_dummy(world: World, left: Expr) -> World:
    """For g(z) = ...: values for a z that no equation of the network has."""
    new = [v for n in nodes(left) if n.op == "name" for v in (n.args[0],) if v not in world.values]
    if not new:
        return world
    z = np.linspace(-2, 2, world.points)[:, None, None].copy()
    zero = np.zeros(world.points, bool)
    if world.points > 1:
        z[-1], zero[-1] = 0, True
    return world._replace(values=Values(world.values | {v: Node(z) for v in new}), zero=zero)


def _equal(court: Court, left: Expr, right: Expr, row: int):
    """The outcome where the sides are equal or say nothing; None where they differ."""
    unknown: UnknownError | None = None
    trials = [court.world]
    local = has_local(left) or has_local(right)
    if court.numbers is not None and not marked(right) and (local or row < court.mixed):
        trials.append(court.numbers)
    fits = False
    for world in trials:
        try:
            outcome = compare(world, left, right)
        except UnknownError as error:
            unknown = unknown or error
            continue
        except ShapeError:
            fits = True
            continue
        fits = True
        if outcome.equal or outcome.empty:
            return outcome
    if unknown is not None and not fits:
        raise unknown
    return None


# --- what follows from an error --------------------------------------------------------------------------------------


def _own(world: World, claim: Claim) -> dict[str, np.ndarray]:
    """The adjoint that a wrong line claims, to be taken for granted below it."""
    left, right = claim.left, claim.right
    if not (isinstance(left, Expr) and isinstance(right, Expr)):
        return {}
    if left.op == "derivative" and not left.args[0][0]:
        v, letters = left.args[1]
    elif left.op == "name" and left.args[0] in world.deltas:
        v, letters = world.deltas[left.args[0]], left.args[1]
    else:
        return {}
    try:
        value = sides(world, left, right).right
    except (ShapeError, UnknownError):
        return {}
    if letters != tuple(sorted(letters)) or v not in world.values or value.size != world.values[v].array.size:
        return {}
    return {v: value.reshape(world.values[v].array.shape)}


def _inherited(court: Court, claim: Claim, left: Expr, right: Expr, own, earlier) -> str:
    """Why the line is right if an earlier wrong one is taken for granted; "" where it is not."""
    world = court.world
    before = next(
        (s for c, s in reversed(earlier) if c.row == claim.row and c.terms == claim.terms and c.right == claim.before),
        RIGHT,
    )
    if before in (WRONG, INHERITED) and claim.before is not None:
        try:
            a, b = sides(world, claim.before, right)
            if not differs(a, b).any():
                return "it follows from the term before it, which is wrong"
        except (ShapeError, UnknownError):
            pass
    mine = (
        left.args[1][0]
        if left.op == "derivative" and not left.args[0][0]
        else world.deltas.get(left.args[0], "")
        if left.op == "name"
        else ""
    )
    if not mine:
        return ""
    trials = []
    others = {v: a for v, a in own.items() if v != mine}
    if others:
        called = ", ".join(world.called(adjoint(v)) for v in others)
        trials.append((with_adjoints(world, others), f"with {called} as written above"))
    if court.written is not None:
        trials.append((court.written, "with the forward equations as written"))
    for trial, words in trials:
        try:
            if compare(trial, left, right).equal:
                formula = right_line(world, left)
                shown = f"; with the right ones it is {world.called(left)} = {world.called(formula)}" if formula else ""
                return f"it is right {words}{shown}"
        except (ShapeError, UnknownError):
            continue
    return ""


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _wrong(court: Court, left: Expr, right: Expr, spent: list[int], lines: dict[Expr, Expr | None]) -> Judged:
    world = court.world
    if left.op == "name" and left.args[0] in court.evidence:
        formula = world.reading.definitions[left.args[0]][1]
        line = f"{world.called(left)} = {world.called(formula)}"
        against = dict.fromkeys(f"{world.called(c.left)} (line {c.row})" for c in court.evidence[left.args[0]])  # type: ignore
        return Judged(WRONG, f"it contradicts the backward lines: {', '.join(against)} hold for {line}", line)
    try:
        value_of(world, left, (right,))
    except UnknownError:
        world = court.numbers or world
    except ShapeError as error:  # the left side is at fault
        return Judged(UNJUDGED, str(error))
    words, shape, healed, label = "the two sides differ", "", None, None
    try:
        sides(world, left, right)
    except ShapeError as error:
        shape = str(error)
    found = _quietly(lambda: diagnose(world, left, right, spent))
    if found is not None:
        words, healed = said(world, found), found.healed
        label = found.parts[0] if found.kind == "another" else None
    if shape:
        words = f"{shape}: {words}" if healed is not None else shape
    if left not in lines:
        lines[left] = right_line(world, left)
    formula = lines[left] if lines[left] is not None else healed
    line = f"{world.called(left)} = {world.called(formula)}" if formula is not None else ""
    if isinstance(label, Expr):
        relabelled = f"{world.called(label)} = {world.called(right)}"
        parts = [words, example(world, left, right), f"right: {relabelled}" + f", and {line}" * bool(line)]
        return Judged(WRONG, "; ".join(p for p in parts if p), relabelled, label=True)
    parts = [words, example(world, left, right), f"right: {line}" if line else ""]
    return Judged(WRONG, "; ".join(p for p in parts if p), line)


# --- the lines -------------------------------------------------------------------------------------------------------


def _basis(court: Court, words: str) -> str:
    """What the text was judged as."""
    world = court.world
    reading, sized = world.reading, world.sized
    if world.loss.formula is None and reading.loss in reading.definitions:
        loss = f"{reading.loss} of line {reading.rows.get(reading.loss, '?')}"
    elif world.loss.words:
        loss = world.loss.words
    elif world.outputs:
        shown = ", ".join(f"dL/d{show_variable((v, ()))}" for v in world.outputs)
        loss = f"none, {shown} {'is' if len(world.outputs) == 1 else 'are'} given"
    else:
        loss = "none"
    parts = [f"network: {words if words.startswith(('the ', 'no ')) else f'from {words}'}", f"loss: {loss}"]
    if world.layout.vectors:
        what = (
            "a batch of examples as " + ("rows" if world.layout.rows else "columns")
            if world.layout.batch
            else "one example as a " + ("row" if world.layout.rows else "column")
        )
        shapes = [
            f"{v} ({'x'.join(str(n) for n in (*s[0], s[1], s[2]))})" for v, s in list(sized.names.items())[:8] if v
        ]
        parts.append(f"vectors and matrices, {what}: {', '.join(shapes)}")
        if world.loss.each:
            parts.append("derivatives of an example's quantities are those of its own loss")
    elif any(s[0] for s in sized.names.values()):
        parts.append("numbers with indices")
    else:
        parts.append("numbers")
    if world.turned_adjoints:
        parts.append("gradients are laid out as rows")
    if court.point is not None:
        parts.append("at the numbers given")
    return "; ".join(parts)


def _with_slips(claims: list[Claim], judged: list[Judged], loss: str) -> Iterator[Line]:
    """Number the slips: wrong lines in a row about one quantity are one slip, said twice or taken back."""
    slip, current = 0, None
    quantities = [_quantity(c, j, loss) for c, j in zip(claims, judged, strict=True)]
    for i, (claim, verdict) in enumerate(zip(claims, judged, strict=True)):
        reason, number = verdict.reason, None
        if current is not None and quantities[i] != current[0]:
            current = None
        if verdict.status == WRONG:
            if current is None:
                slip += 1
                current = (quantities[i], claim.row)
                again = _comes_back(i, claims, judged, quantities)
                reason += f"; line {again} comes back to it" if again is not None else ""
            else:
                reason += f"; the same slip as line {current[1]}" if claim.row != current[1] else ""
            number = slip
        yield Line(
            claim.text,
            quantities[i],
            verdict.status,
            reason,
            claim.row,
            _formula(claim, verdict, loss),
            verdict.correction,
            number,
        )


def _comes_back(i: int, claims, judged, quantities) -> int | None:
    """The line on which the same mistake is made again, with nothing else in between."""
    for j in range(i + 1, len(claims)):
        if quantities[j] != quantities[i]:
            return None
        if judged[j].status == WRONG and claims[j].row != claims[i].row:
            return claims[j].row
    return None


def _quantity(claim: Claim, verdict: Judged, loss: str) -> str:
    if claim.bare and verdict.status in (UNREAD, UNJUDGED):
        return ""
    return show(claim.left, loss) if isinstance(claim.left, Expr) else short(claim.text, 40)


def _formula(claim: Claim, verdict: Judged, loss: str) -> str:
    if isinstance(claim.left, Unread) or isinstance(claim.right, Unread):
        return ""
    if claim.bare:
        return show(claim.right, loss)
    return (
        f"{show(verdict.left or claim.left, loss)} {'->' if claim.relation == '→' else '='} {show(claim.right, loss)}"
    )
