"""The verdict on each claim of a text: is it so, does it only inherit an error, and what is wrong with it."""

import re
from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.grading.court import Claim, Court, claims_of, convene, has_local, holds, marked, same_names, size
from jaxbackprop.grading.formula import Expr, ShapeError, UnknownError, adjoint, has, name, names, show
from jaxbackprop.grading.notation import Unread
from jaxbackprop.grading.remarks import correction, example, why
from jaxbackprop.grading.report import INHERITED, RIGHT, UNREAD, WRONG, Line, short
from jaxbackprop.grading.statements import chains
from jaxbackprop.grading.wiring import gates, numbers_only
from jaxbackprop.grading.worlds import World, differs, value_of, with_adjoints

DIAGNOSED = 800  # symbols in the wrong lines whose cause is looked for; beyond, only the right line is given


@np.errstate(all="ignore")  # a formula may divide by zero or overflow: that shows in its value
def judge(text: str, network: Any = None) -> Iterable[Line]:
    """Judge each equation of the text; see `jaxbackprop.grade`."""
    claims = claims_of(same_names(chains(text)))
    if not claims:
        raise ValueError("the text has no equation: write one per line, such as dL/dz1 = dL/dh1 * g'(z1)")
    court = convene(claims, network)
    judged = [_judge(court, claim) for claim in claims]
    return _with_slips(claims, judged)


class Judged(NamedTuple):
    """Status, reason and the right line of one claim."""

    status: str
    reason: str = ""
    correction: str = ""
    left: Expr | None = None  # where an arrow points at something else than the chain's first term


def _judge(court: Court, claim: Claim) -> Judged:
    verdict = _judged(court, claim)
    court.status.append((claim, verdict.status))
    left, right = claim.left, claim.right
    if verdict.status == WRONG and isinstance(left, Expr) and isinstance(right, Expr) and claim.relation != "→":
        relabelled = verdict.reason.startswith("this is dL/d")  # only the left side is wrong: nothing hangs on it
        if left.op == "derivative" and left.args[0] == "L" and not relabelled:
            court.own[court.wiring.of(left.args[1])] = right
    return verdict


def _judged(court: Court, claim: Claim) -> Judged:
    left, right = claim.left, claim.right
    if isinstance(left, Unread):
        return Judged(UNREAD, left.reason)
    if isinstance(right, Unread):
        return Judged(UNREAD, right.reason)
    given = left == adjoint("yhat") and court.wiring.of("yhat") == court.wiring.output
    if (left.op == "name" or given) and numbers_only(right) and left != name("L"):
        return Judged(UNREAD, "a number: it holds for one choice of the inputs only, and is not judged")
    if claim.relation == "→":
        left = _pointed_at(court, claim, left)
    world = _world_for(court, left, right)
    try:
        remark = _right(court, world, left, right)
        if remark is None and world is court.matrix and not marked(right):
            world_remark = _right(court, court.scalar, left, right) if court.scalars_only else None
            if world_remark is not None:
                return Judged(RIGHT, world_remark)
    except UnknownError as error:
        return Judged(UNREAD, str(error))
    except ShapeError:
        remark = None
    if remark is not None:
        if claim.bare:
            remark = f"read as going on from the line above: {show(left)} = {show(right)}"
        return Judged(RIGHT, remark, left=left)
    if claim.bare:
        return Judged(UNREAD, f"a formula without =, which is not {show(left)} of the line above")
    inherited = _inherited(court, claim, world, left, right)
    if inherited:
        return Judged(INHERITED, inherited)
    return _wrong(court, world, left, right)._replace(left=left)


def _pointed_at(court: Court, claim: Claim, left: Expr) -> Expr:
    """A = B (C) -> D: the arrow says what C is, unless D is A."""
    factors = claim.before.args if claim.before is not None and claim.before.op == "product" else ()
    if factors and not holds(court.scalar, claim._replace(left=left)):
        return factors[-1]
    return left


def _world_for(court: Court, left: Expr, right: Expr) -> World:
    if (
        court.matrix is None
        or (has_local(right) and not marked(right))
        or (left.op == "derivative" and left.args[0] != "L")
    ):
        return court.scalar
    if marked(right):
        return court.matrix
    return court.scalar if court.scalars_only or left.op != "derivative" else court.matrix


def _right(court: Court, world: World, left: Expr, right: Expr) -> str | None:
    """The remark with which the equation is right ("" for none), or None where it is wrong."""
    if left.op == "call" and left.args[2].op == "name" and left.args[2].args[0] not in world.values:
        world = _with_dummy(world, left.args[2].args[0])
    if _equal(world, left, right) is not None:
        return _equal(world, left, right)
    if world.shapes is None and has_local(Expr("+", (left, right))):
        for reading in ("literal", "total") if left.op == "derivative" and left.args[0] != "L" else ("literal",):
            if _equal(world._replace(reading=reading, cache={}), left, right) is not None:
                return ""
    if not has(right, "cases", "call") or _differ_away_from_kinks(world, left, right):
        return None
    units = gates(court.wiring)
    every = product((0, -1, 1), repeat=len(units)) if len(units) <= 3 else [(s,) * len(units) for s in (-1, 1)]
    for sides in every:
        other = {z: side for z, side in zip(units, sides, strict=True) if side}
        if other and _equal(_other_slopes(court, world, other), left, right) is not None:
            where = ", ".join(f"{z} = 0" for z in other if z in _units_of(court, right))
            return (
                f"it differs from the convention only at {where or 'the kink'}, where any slope between the "
                "one-sided ones may be chosen: the stated branch takes the other"
            )
    return None


def _differ_away_from_kinks(world: World, left: Expr, right: Expr) -> bool:
    """Whether the two sides differ at a point where no unit is at 0: then no choice of slopes can help."""
    smooth = np.full(world.points, True)
    for z in gates(world.wiring):
        smooth &= (world.values[z] != 0).all(axis=(1, 2))
    truth, value = value_of(world, left), value_of(world, right)
    return truth.shape != value.shape or bool((differs(truth, value) & smooth).any())


def _units_of(court: Court, expr: Expr) -> set[str]:
    return {court.wiring.of(v) for v in names(expr)}


def _other_slopes(court: Court, world: World, sides: dict[str, int]) -> World:
    key = (world.shapes is None, tuple(sorted(sides.items())))
    if key not in court.cache:
        court.cache[key] = with_adjoints(world._replace(kinks=sides, cache={}))
    return court.cache[key]


def _with_dummy(world: World, variable: str) -> World:
    """For g(z) = ...: values for a z that no equation of the network has."""
    z = np.linspace(-2, 2, world.points)[:, None, None].copy()
    z[0] = 0
    return world._replace(values=world.values | {variable: z}, cache={})


def _equal(world: World, left: Expr, right: Expr) -> str | None:
    truth, value = value_of(world, left), value_of(world, right)
    if truth.shape != value.shape:
        return None
    bad = differs(truth, value)
    if not np.isfinite(truth).any() or not np.isfinite(value).any():
        raise UnknownError(f"{show(right)} has no finite value at the points tried")
    if not bad.any():
        return ""
    silent = np.isnan(value).any(axis=(1, 2))
    if has(right, "cases") and not (bad & ~silent).any():
        zero = np.zeros_like(bad)
        for z in gates(world.wiring):
            zero |= (world.values[z] == 0).any(axis=(1, 2))
        for v in names(right) & world.values.keys():
            zero |= (world.values[v] == 0).any(axis=(1, 2))
        if not (bad & ~zero).any():
            return "it leaves open what holds at the kink itself"
    return None


def _inherited(court: Court, claim: Claim, world: World, left: Expr, right: Expr) -> str:
    """Why the line is right if an earlier wrong one is taken for granted; "" where it is not."""
    earlier = next(
        (status for c, status in reversed(court.status) if c.terms is claim.terms and c.right == claim.before), RIGHT
    )
    if earlier in (WRONG, INHERITED) and claim.before is not None:
        try:
            if not differs(value_of(world, claim.before), value_of(world, right)).any():
                return "it follows from the term before it, which is wrong"
        except ValueError:
            pass
    if left.op != "derivative" or left.args[0] != "L":
        return ""
    own = {v: e for v, e in court.own.items() if v != court.wiring.of(left.args[1])}
    trials = (
        [(with_adjoints(world, own), "with " + ", ".join(f"dL/d{v}" for v in own) + " as written above")] if own else []
    )
    if court.as_written is not None and world.shapes is None:
        trials.append((court.as_written, "with the forward equations as written"))
    for trial, words in trials:
        try:
            v = trial.wiring.of(left.args[1])
            truth, value = trial.canonical[v], value_of(trial, right)
        except (ValueError, KeyError):
            continue
        if truth.shape == value.shape and not differs(truth, value).any():
            return f"it is right {words}; with the right ones it is {correction(world, left)}"
    return ""


def _wrong(court: Court, world: World, left: Expr, right: Expr) -> Judged:
    if left.op == "call" and left.args[2].op == "name" and left.args[2].args[0] not in world.values:
        world = _with_dummy(world, left.args[2].args[0])
    truth = value_of(world, left)
    right_line = correction(world, left)
    if left.op == "name" and court.wiring.of(left.args[0]) in court.evidence:
        against = court.evidence[court.wiring.of(left.args[0])]
        lines = ", ".join(dict.fromkeys(f"{show(c.left)} (line {c.row})" for c in against if isinstance(c.left, Expr)))
        words = f"it contradicts the backward lines: {lines} hold for {right_line}"
        return Judged(WRONG, words, right_line)
    words = "the two sides differ"
    if sum(court.spent) < DIAGNOSED:
        court.spent.append(size(right))
        words = why(world, left, right, truth)
    label = re.fullmatch(r"this is (dL/d\w+), not dL/d\w+", words)
    if label:
        relabelled = f"{label[1]} = {show(right)}"
        parts = [
            words,
            example(world, left, right, truth),
            f"right: {relabelled}" + f", and {right_line}" * bool(right_line),
        ]
        return Judged(WRONG, "; ".join(p for p in parts if p), relabelled)
    if left == adjoint("yhat") and not right_line:
        words = "dL/dyhat is the adjoint that is given: the text has no loss from which it could follow"
    parts = [words, example(world, left, right, truth), f"right: {right_line}" if right_line else ""]
    return Judged(WRONG, "; ".join(p for p in parts if p), right_line)


# --- the lines -------------------------------------------------------------------------------------------------------


def _with_slips(claims: list[Claim], judged: list[Judged]) -> Iterable[Line]:
    """Number the slips: wrong lines in a row about one quantity are one slip, said twice or taken back."""
    slip, current = 0, None
    quantities = [_quantity(c, j) for c, j in zip(claims, judged, strict=True)]
    for i, (claim, verdict) in enumerate(zip(claims, judged, strict=True)):
        reason, number = verdict.reason, None
        if current is not None and quantities[i] != current[0]:
            current = None
        if verdict.status == WRONG:
            if current is None:
                slip += 1
                current = (quantities[i], claim.row)
                again = next(
                    (
                        c.row
                        for c, j, q in zip(claims[i + 1 :], judged[i + 1 :], quantities[i + 1 :], strict=True)
                        if q == quantities[i] and c.row != claim.row and _adjacent(quantities, claims, i, c)
                    ),
                    None,
                )
                if again is not None:
                    reason += f"; line {again} comes back to it"
            else:
                reason += f"; the same slip as line {current[1]}" if claim.row != current[1] else ""
            number = slip
        yield Line(
            claim.text,
            quantities[i],
            verdict.status,
            reason,
            claim.row,
            _formula(claim, verdict),
            verdict.correction,
            number,
        )


def _adjacent(quantities: list[str], claims: list[Claim], i: int, later: Claim) -> bool:
    j = next(k for k in range(i, len(claims)) if claims[k] is later)
    return all(q == quantities[i] for q in quantities[i : j + 1])


def _quantity(claim: Claim, verdict: Judged) -> str:
    if claim.bare and verdict.status == UNREAD:
        return ""
    return show(claim.left) if isinstance(claim.left, Expr) else short(claim.text, 40)


def _formula(claim: Claim, verdict: Judged) -> str:
    if isinstance(claim.left, Unread) or isinstance(claim.right, Unread):
        return ""
    if claim.bare:
        return show(claim.right)
    return f"{show(verdict.left or claim.left)} {'->' if claim.relation == '→' else '='} {show(claim.right)}"
