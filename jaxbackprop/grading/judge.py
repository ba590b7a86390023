"""The verdict on each equation of a text: is it so, does it only inherit an error, and what is wrong with it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxbackprop.grading.arrays import array_of, is_array
from jaxbackprop.grading.choice import choose, holds, marked, worlds
from jaxbackprop.grading.claims import Claim, claims_of, is_derived, is_number, number_of
from jaxbackprop.grading.comparison import RELATIVE, Outcome, compare, differs, sides
from jaxbackprop.grading.correction import right_line
from jaxbackprop.grading.derivatives import value_of, with_adjoints
from jaxbackprop.grading.diagnosis import Budget, diagnose, example, said
from jaxbackprop.grading.expression import Expr, ShapeError, UnknownError, adjoint, has_local, names, nodes
from jaxbackprop.grading.grammar import Unread
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.numbers import array_verdict, number_verdict
from jaxbackprop.grading.points import at_numbers, at_value, build, with_given
from jaxbackprop.grading.reading import Reading, read
from jaxbackprop.grading.report import INHERITED, RIGHT, UNJUDGED, UNREAD, WRONG, Verdict
from jaxbackprop.grading.sections import Part, parts
from jaxbackprop.grading.shapes import Layout
from jaxbackprop.grading.slips import repaired
from jaxbackprop.grading.stages import continued, placed
from jaxbackprop.grading.statements import as_equations
from jaxbackprop.grading.telling import Judged, basis, joined, told, with_slips
from jaxbackprop.grading.unjudged import STEP, is_computed, not_known, nothing_said, shared
from jaxbackprop.grading.updates import Update, toward, update_of
from jaxbackprop.grading.values import Node
from jaxbackprop.grading.wiring import completed, from_network
from jaxbackprop.grading.wording import loops
from jaxbackprop.grading.world import Loss, Values, World

T = TypeVar("T")


class Court(NamedTuple):
    """What claims are judged by.

    Attributes:
        world: the text's values and derivatives, a forward slip mended.
        numbers: the same as plain numbers, for derivatives of one matrix by another; None where it is that already.
        written: with the forward slip left in; None where there is none.
        point: at the numbers that the text gives; None where it leaves one open.
        matrices: the same as matrices, where capitals alone are multiplied and may be either; None elsewhere.
        given: with the numbers that the text gives, and any for the others; None where it gives none.
        evidence: name -> the backward claims that its forward equation contradicts.
        mixed: a text that derives a quantity first with numbers and then with matrices does so from this line on.
    """

    world: World
    numbers: World | None
    written: World | None
    point: World | None
    given: World | None
    matrices: World | None
    evidence: dict[str, list[Claim]]
    mixed: int


@dataclass(frozen=True)
class Progress:
    """What has been found on the way down a text.

    Attributes:
        own: name -> the adjoint that a wrong line claims, which the lines below may have used.
        earlier: the claims so far, with their status.
        budget: what the search for mistakes may still cost.
        outcomes, faults: what came of an equation, so that one which stands there twice is compared once.
        lines: left side -> the right line.
        stated: name -> the number that a wrong line gives for its adjoint.
    """

    own: dict[str, np.ndarray] = field(default_factory=dict)
    earlier: list[tuple[Claim, str]] = field(default_factory=list)
    budget: Budget = field(default_factory=Budget)
    outcomes: dict[tuple[Expr, Expr, bool], Outcome | None] = field(default_factory=dict)
    faults: dict[tuple[Expr, Expr], Judged] = field(default_factory=dict)
    lines: dict[Expr, Expr | None] = field(default_factory=dict)
    stated: dict[str, float] = field(default_factory=dict)


@np.errstate(all="ignore")  # a formula may divide by zero or overflow: that shows in its value
def judge(text: str, network: Any = None) -> Verdict:
    """Judge each equation of the text; see `jaxbackprop.grade`."""
    claims = as_equations(claims_of(chains(text)), loops(text))
    if not claims:
        raise ValueError("the text has no equation: write one per line, such as dL/dz1 = dL/dh1 * g'(z1)")
    said = re.search(r"(?i)\b(numerator|denominator)[ -]+layout", text)
    return joined([_part(part, network, said[1].lower() if said else "") for part in parts(claims, text)])


def _part(part: Part, network: Any, layout: str) -> Verdict:
    """The verdict on what stands together; of the definitions above it nothing is said again."""
    steps = placed([*part.context, *part.own])
    stated = continued(read(steps.claims), steps)._replace(layout=layout)
    if network is None:
        reading, words = completed(stated)
    else:
        reading, words = from_network(network, stated), "the network that was given"
    court = convene(reading, stated if network is not None else None)
    if court is None:
        lines = with_slips(list(reading.claims), [_unfit(c) for c in reading.claims], "L")
        return told(list(lines)[len(part.context) :], f"network: {words}", steps)
    progress, judged = Progress(), []
    reading = court.world.reading
    for claim in reading.claims:
        verdict = _judged(court, claim, progress)
        progress.earlier.append((claim, verdict.status))
        if verdict.status == WRONG and not verdict.label and claim.read:
            progress.own.update(_own(court.world, claim))
            at = _own(court.point, claim) if court.point is not None else {}
            progress.stated.update({v: a.item() for v, a in at.items() if a.size == 1})
        judged.append(verdict)
    lines = with_slips(list(reading.claims), _with_completed(reading.claims, judged), reading.loss or "L")
    words = "; ".join(w for w in (words, steps.words) if w)
    return told(list(lines)[len(part.context) :], basis(court.world, court.point is not None, words), steps)


def _with_completed(claims: Sequence[Claim], judged: list[Judged]) -> list[Judged]:
    """What a later line finishes is right if that is."""
    told: list[Judged] = []
    for i, claim in reversed(list(enumerate(claims))):
        after = zip(claims[i + 1 :], reversed(told), strict=True)
        ends = [v.status for c, v in after if c.row == claim.completed and c.left == claim.left]
        right = bool(claim.completed and ends) and set(ends) == {RIGHT}
        told.append(Judged(RIGHT, f"with line {claim.completed}") if right else judged[i])
    return told[::-1]


def _unfit(claim: Claim) -> Judged:
    return _unread(claim) or Judged(UNJUDGED, "the forward equations do not fit together")


def _unread(claim: Claim) -> Judged | None:
    side = claim.left if isinstance(claim.left, Unread) else claim.right
    if isinstance(side, Unread) and isinstance(claim.left, Expr) and is_array(claim.raw):
        return Judged(UNJUDGED, "numbers: they hold for one choice of the inputs only, and are not judged")
    return Judged(UNREAD, side.reason) if isinstance(side, Unread) else None


def convene(reading: Reading, stated: Reading | None = None) -> Court | None:
    """Find what the claims are about, and work out its values and derivatives; `stated`: beside a network that is given."""
    world = choose(reading)
    if world is None:
        return None
    if stated is None:
        mended, evidence = repaired(world)
        written = world if evidence else None
    else:
        mended, evidence, written = world, {}, _as_written(world, stated)
    numbers = None
    if mended.layout.vectors:
        loss = Loss(mended.loss.formula, mended.loss.words)
        numbers = _quietly(lambda: build(mended.reading, Layout(), loss, mended.generic))
        numbers = numbers and numbers._replace(deltas=mended.deltas)
    return Court(
        mended,
        numbers,
        written,
        at_numbers(mended),
        with_given(mended),
        _as_matrices(mended),
        evidence,
        _mixed(reading),
    )


def _as_matrices(world: World) -> World | None:
    """C = A B: in capitals alone a text of numbers may be one of matrices."""
    definitions = world.reading.definitions.items()
    capital = all(
        re.fullmatch("[A-Z]", v) for v in {*world.reading.free, *(v for v, _ in definitions if v != world.reading.loss)}
    )
    products = any(n.op == "product" and len({*n.args}) > 1 for _, (_, e) in definitions for n in nodes(e))
    if world.layout.vectors or world.reading.given or not (capital and products):
        return None
    return next((w for w in worlds(world.reading, (Layout(True), Layout(True, True)))), None)


def _as_written(world: World, stated: Reading) -> World | None:
    """The given network with the text's own forward equations, where they differ."""
    known = world.reading.definitions
    own = {v: d for v, d in stated.definitions.items() if v in known and v in world.reading.rows}
    if not set(stated.definitions) - {world.reading.loss} or all(known[v] == d for v, d in own.items()):
        return None
    reading = world.reading._replace(definitions=known | own)
    return _quietly(lambda: build(reading, world.layout, world.loss, world.generic))


def _quietly(make: Callable[[], T]) -> T | None:
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


def _judged(court: Court, claim: Claim, progress: Progress) -> Judged:
    left, right, world = claim.left, claim.right, court.world
    if isinstance(left, Unread) or isinstance(right, Unread):
        numbers = array_of(claim.raw)
        if numbers is not None and court.point is not None and isinstance(left, Expr):
            return _with_its_loss(world, left, array_verdict(court.point, left, numbers))
        return _unread(claim) or Judged(UNREAD)
    if claim.completed:
        return Judged(UNJUDGED, f"line {claim.completed} finishes it, and is judged")
    if is_number(right) and court.point is not None and left.op in ("name", "derivative"):
        return _with_its_loss(world, left, _numbered(court.point, claim, left, right, progress))
    step = None if is_computed(world, left) else update_of(left, right)
    if step is not None and step.of[0] in world.values and not claim.bare:
        return _stepped(court, step, claim.row, progress)
    contradicted = left.op == "name" and left.args[0] in court.evidence and not claim.bare
    why = "" if contradicted else nothing_said(world, claim, left, right)
    if why:
        return Judged(UNJUDGED, why)
    drawn = left.op == "name" and left.args[0] in {*world.reading.free} - names(right)
    if drawn and not (claim.bare or is_derived(right)):
        return _solved(world, left, right)
    if claim.relation == "→":
        left = _pointed_at(court, claim, left)
    if left.op in ("call", "partial"):
        world = _with_dummy(world, left)
        court = court._replace(world=world, numbers=court.numbers and _with_dummy(court.numbers, left))
    try:
        found = _equal(court, left, right, claim.row, progress)
    except UnknownError as error:
        return Judged(UNJUDGED, str(error))
    if found is not None:
        return _right(world, claim, found, left, right, court.matrices)
    if court.given is not None and any(n.op == "number" for n in nodes(right)):
        outcome = _quietly(lambda: compare(court.given, left, right))  # type: ignore[arg-type]
        if outcome is not None and outcome.equal and not outcome.empty:
            return Judged(RIGHT, "at the numbers given", left=left)
    follows = claim.before is not None and not is_number(claim.before)
    if (court.given is not None or follows) and court.point is None and is_number(right):
        return Judged(UNJUDGED, "a number: not all that it needs is given")
    if claim.bare:
        return Judged(UNREAD, f"a formula without =, which is not {world.called(left)} of the line above")
    why = not_known(world, left, right) or ("np.ones gives it its shape" if "ones(" in claim.raw else "")
    if why:
        return Judged(UNJUDGED, why)
    inherited = _inherited(court, claim, left, right, progress)
    if inherited:
        return Judged(INHERITED, inherited)
    if (left, right) not in progress.faults:
        progress.faults[left, right] = _wrong(court, left, right, progress)
    return progress.faults[left, right]._replace(left=left)


def _numbered(point: World, claim: Claim, left: Expr, right: Expr, progress: Progress) -> Judged:
    """The verdict on a number; one that follows from a wrong number above inherits."""
    verdict = number_verdict(point, left, right, claim.before)
    mine, _ = _asked(point, left)
    others = {v: np.full_like(point.adjoints[v], x) for v, x in progress.stated.items() if v != mine}
    if verdict.status != WRONG:
        return verdict
    follows = claim.before is None or not is_number(claim.before)
    if others and follows and number_verdict(with_adjoints(point, others), left, right).status == RIGHT:
        return Judged(
            INHERITED, f"it is right with {', '.join(point.called(adjoint(v)) for v in others)} as written above"
        )
    if mine in point.adjoints and point.adjoints[mine].size == 1:
        progress.stated[mine] = number_of(right)
    return verdict


def _with_its_loss(world: World, left: Expr, verdict: Judged) -> Judged:
    """A number of a derivative is not wrong where the loss is assumed, or none."""
    open_ = world.loss.formula is not None or (world.outputs and not {*world.outputs} & world.reading.upstream.keys())
    if verdict.status == WRONG and left.op == "derivative" and not left.args[0][0] and open_:
        return Judged(UNJUDGED, "the text has no loss from which it could follow")
    return verdict


def _solved(world: World, left: Expr, right: Expr) -> Judged:
    """w = (Xᵀ X)⁻¹ Xᵀ y, of a w that nothing computes: right where the derivative by w is 0 there."""
    v = left.args[0]
    zero = _quietly(lambda: at_value(world, v, value_of(world, right, (left,))).adjoints[v])
    before = world.adjoints[v]
    if zero is not None and np.abs(before).max() > 0 and np.abs(zero).max() <= RELATIVE * np.abs(before).max():
        return Judged(RIGHT, f"there {world.called(adjoint(v))} is 0")
    return Judged(
        UNJUDGED, f"{v} is not computed: a value that it may have, and whether it is the right one is not judged"
    )


def _stepped(court: Court, step: Update, row: int, progress: Progress) -> Judged:
    """A step of the training: right where it goes down the derivative."""
    by, said = adjoint(*step.of), toward(step)
    if step.gradient.op == "name" and step.gradient.args[0] in court.world.reading.free:
        return Judged(UNJUDGED, STEP)  # w_{t+1} = w_t − η g_t, of a g of which nothing is said
    if is_number(said):
        down = court.point is not None and number_verdict(court.point, by, said).status == RIGHT
        return Judged(RIGHT, f"a step down {court.world.called(by)}") if down else Judged(UNJUDGED, STEP)
    try:
        found = _equal(court, by, said, row, progress)
    except UnknownError:
        return Judged(UNJUDGED, STEP)
    if found is not None and not found.empty:
        return Judged(RIGHT, f"a step down {court.world.called(by)}")
    added = court.world.opposite and any(v.startswith("δ") for v in names(said))
    if found is None and (step.down or added) and step.of[0] not in names(said):
        verdict = _wrong(court, by, said, progress)
        return verdict._replace(
            reason=f"a step along what is not {court.world.called(by)}: {verdict.reason}", correction=""
        )
    return Judged(UNJUDGED, STEP)


def _right(world: World, claim: Claim, found: Outcome, left: Expr, right: Expr, matrices: World | None) -> Judged:
    """A line whose sides are equal, or say nothing."""
    if found.empty == "0 on both sides":
        return Judged(UNJUDGED, "both sides are 0 wherever one looks: it says nothing")
    if found.empty:
        return Judged(UNJUDGED, f"{world.called(right)} has no finite value at the points tried")
    if matrices is not None and left.op == "derivative" and not holds(matrices, claim._replace(left=left, right=right)):
        return Judged(UNJUDGED, "right of numbers; of matrices the order counts, and what is transposed")
    if claim.bare:
        remark = f"read as going on from the line above: {world.called(left)} = {world.called(right)}"
        return Judged(RIGHT, remark, left=left)
    one_step = "of this step alone, what comes in is taken for given" if shared(world, left, right) else ""
    return Judged(RIGHT, found.remark or _assumed(world, claim.left, right) or one_step, left=left)


def _assumed(world: World, left: Expr | Unread, right: Expr) -> str:
    """Lines that hold because of a loss that the text does not give say so."""
    if world.loss.formula is None or left.op not in ("derivative", "name"):  # type: ignore[union-attr]
        return ""
    free = names(world.loss.formula) - world.reading.definitions.keys()
    return f"for L = {world.loss.words}".replace(" (assumed)", "") if names(right) & free else ""


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


def _equal(court: Court, left: Expr, right: Expr, row: int, progress: Progress) -> Outcome | None:
    """The outcome where the sides are equal or say nothing; None where they differ."""
    as_numbers = court.numbers is not None and not marked(right)
    as_numbers = as_numbers and (has_local(left) or has_local(right) or row < court.mixed)
    key = (left, right, as_numbers)
    if key not in progress.outcomes:
        trials = [court.world, court.numbers] if as_numbers else [court.world]
        progress.outcomes[key] = _compared([w for w in trials if w is not None], left, right, row < court.mixed)
    return progress.outcomes[key]


def _compared(trials: list[World], left: Expr, right: Expr, mixed: bool) -> Outcome | None:
    """As `_equal`, under the first reading that can compare them; of a text that is mixed, that lets them be equal."""
    unknown: UnknownError | None = None
    fits = False
    for world in trials:
        try:
            outcome = compare(world, left, right)
        except UnknownError as error:
            unknown = unknown or error
            continue
        except ShapeError:
            outcome = None
        fits = True
        if outcome is not None and (outcome.equal or outcome.empty):
            return outcome
        if not mixed:
            break
    if unknown is not None and not fits:
        raise unknown
    return None


# --- what follows from an error --------------------------------------------------------------------------------------


def _asked(world: World, left: Expr) -> tuple[str, tuple[str, ...]]:
    """The name whose adjoint a left side is, and its letters; "" for none."""
    if left.op == "derivative" and not left.args[0][0]:
        return left.args[1]
    return (world.deltas.get(left.args[0], ""), left.args[1]) if left.op == "name" else ("", ())


def _own(world: World, claim: Claim) -> dict[str, np.ndarray]:
    """The adjoint that a wrong line claims, to be taken for granted below it."""
    v, letters = _asked(world, claim.left)  # type: ignore[arg-type]
    found = _quietly(lambda: sides(world, claim.left, claim.right).right) if v in world.values else None  # type: ignore
    if found is None or letters != tuple(sorted(letters)) or found.size != world.values[v].array.size:
        return {}
    return {v: found.reshape(world.values[v].array.shape)}


def _inherited(court: Court, claim: Claim, left: Expr, right: Expr, progress: Progress) -> str:
    """Why the line is right if an earlier wrong one is taken for granted; "" where it is not."""
    world = court.world
    if _before(claim, progress) in (WRONG, INHERITED) and claim.before is not None:
        both = _quietly(lambda: sides(world, claim.before, right))  # type: ignore[arg-type]
        if both is not None and not differs(*both).any():
            return "it follows from the term before it, which is wrong"
    mine, _ = _asked(world, left)
    if not mine:
        return ""
    trials = []
    others = {v: a for v, a in progress.own.items() if v != mine}
    if others:
        called = ", ".join(world.called(adjoint(v)) for v in others)
        trials.append((with_adjoints(world, others), f"with {called} as written above"))
    if court.written is not None:
        trials.append((court.written, "with the forward equations as written"))
    for trial, words in trials:
        outcome = _quietly(lambda trial=trial: compare(trial, left, right))
        if outcome is not None and outcome.equal:
            formula = right_line(world, left)
            shown = f"; with the right ones it is {world.called(left)} = {world.called(formula)}" if formula else ""
            return f"it is right {words}{shown}"
    return ""


def _before(claim: Claim, progress: Progress) -> str:
    """The status of the term before this one in its chain."""
    for other, status in reversed(progress.earlier):
        if other.row == claim.row and other.terms == claim.terms and other.right == claim.before:
            return status
    return RIGHT


# --- what is wrong ---------------------------------------------------------------------------------------------------


def _wrong(court: Court, left: Expr, right: Expr, progress: Progress) -> Judged:
    world = court.world
    if left.op == "name" and left.args[0] in court.evidence:
        line = f"{world.called(left)} = {world.called(world.reading.definitions[left.args[0]][1])}"
        against = dict.fromkeys(f"{world.called(c.left)} (line {c.row})" for c in court.evidence[left.args[0]])  # type: ignore
        return Judged(WRONG, f"it contradicts the backward lines: {', '.join(against)} hold for {line}", line)
    try:
        value_of(world, left, (right,))
    except UnknownError:
        world = court.numbers or world
    except ShapeError as error:  # the left side is at fault
        return Judged(UNJUDGED, str(error))
    found = _quietly(lambda: diagnose(world, left, right, progress.budget))
    words, healed = (said(world, found), found.healed) if found is not None else ("the two sides differ", None)
    try:
        sides(world, left, right)
    except ShapeError as error:
        words = f"{error}: {words}" if healed is not None else str(error)
    except UnknownError:  # it could be compared under another reading alone
        pass
    if left not in progress.lines:
        progress.lines[left] = right_line(world, left)
    formula = progress.lines[left] if progress.lines[left] is not None else healed
    line = f"{world.called(left)} = {world.called(formula)}" if formula is not None else ""
    label = found.parts[0] if found is not None and found.kind == "another" else None
    relabelled = f"{world.called(label)} = {world.called(right)}" if isinstance(label, Expr) else ""
    shown = ", and ".join(x for x in (relabelled, line) if x)
    reason = "; ".join(x for x in (words, example(world, left, right), f"right: {shown}" if shown else "") if x)
    return Judged(WRONG, reason, relabelled or line, label=bool(relabelled))
