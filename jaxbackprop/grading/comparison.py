"""Whether the two sides of an equation are equal as numbers."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.claims import is_number
from jaxbackprop.grading.derivatives import value_of, with_adjoints
from jaxbackprop.grading.expression import ZERO, Expr, ShapeError, UnknownError, has, has_local, nodes
from jaxbackprop.grading.values import Node, transpose
from jaxbackprop.grading.world import World

RELATIVE, ABSOLUTE = 1e-8, 1e-10  # what float64 loses on the way, but where a difference nearly cancels
LAYOUTS = {  # of the derivative of one vector by another
    "": ("rows", "columns", "diagonal", "turned"),
    "numerator": ("rows", "turned", "diagonal"),
    "denominator": ("columns", "diagonal"),
}
NOTHING = 1e-12  # what rounding leaves of 0
CANCELLED, OFTEN = 1e-4, 0.3  # there it may lose more, at few points: 1 - p where p is all but 1


class Sides(NamedTuple):
    """Both sides at the same points, with the same letters: (points, letters..., rows, columns)."""

    left: np.ndarray
    right: np.ndarray


class Outcome(NamedTuple):
    """Whether the sides are equal; `empty` where both are 0, or one never finite, in all that was drawn."""

    equal: bool
    empty: str = ""
    remark: str = ""


def sides(world: World, left: Expr, right: Expr) -> Sides:
    """The values of both sides.

    Raises:
        ShapeError: of different shapes.
        UnknownError: one of them cannot be evaluated.
    """
    a, b = value_of(world, left, (right,)), value_of(world, right, (left,))
    if world.layout.rows and a.shape == b.shape[::-1] and 1 in a.shape and has(right, "sum"):
        b = transpose(b)  # Σ_n z_n, of the rows of Z: they are vectors
    if a.shape != b.shape and not (is_number(right) or _is_zero(right)):
        raise ShapeError(
            f"its shape is {b.shape[0]}x{b.shape[1]} where {world.called(left)} is {a.shape[0]}x{a.shape[1]}"
        )
    letters = tuple(sorted({*a.letters, *b.letters}))
    x, y = (_with(n, letters) for n in (a, b))
    try:
        x, y, _ = np.broadcast_arrays(x, y, np.zeros((world.points, *(1,) * (x.ndim - 1))))
    except ValueError:
        raise ShapeError("an index runs over two different ranges") from None
    return Sides(x, y)


def _by_cases(e: Expr) -> bool:
    """Whether a side says by several cases what holds everywhere, and not only under one condition."""
    return any(n.op == "cases" and len(n.args) > 2 for n in nodes(e))


def _is_zero(e: Expr) -> bool:
    """Whether a side is 0 where it is anything: 0 if z < 0."""
    return e.op == "cases" and {*e.args[1::2]} == {ZERO}


def _with(node: Node, letters) -> np.ndarray:
    index = tuple(slice(None) if x in node.letters else None for x in letters)
    return node.array[(slice(None), *index)]


def differs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two values differ by more than rounding; only where both are finite."""
    with np.errstate(all="ignore"):
        size, finite = np.maximum(np.abs(a), np.abs(b)), np.isfinite(a) & np.isfinite(b)
        strictly = finite & (np.abs(a - b) > RELATIVE * size + ABSOLUTE)
        if strictly.sum() > OFTEN * (finite & (size > 0)).sum():
            return strictly
        return np.asarray(finite & (np.abs(a - b) > CANCELLED * size + ABSOLUTE))


def at_points(mask: np.ndarray) -> np.ndarray:
    """Whether anything is true, point by point."""
    return mask.reshape(len(mask), -1).any(axis=1)  # type: ignore


def compare(world: World, left: Expr, right: Expr) -> Outcome:
    """Compare under every reading of what the formula leaves open, and with either slope at a kink.

    Raises:
        ShapeError: the shapes fit under no reading.
        UnknownError: a side can be evaluated under none.
    """
    refusals: list[ShapeError | UnknownError] = []
    compared = False
    for variant in variants(world, left, right):
        try:
            outcome = _compared(variant, left, right)
        except (ShapeError, UnknownError) as refusal:
            refusals.append(refusal)
            continue
        compared = True
        if not (outcome.equal or outcome.empty):
            outcome = _at_the_kink(variant, left, right)
        if outcome:
            return outcome
    if compared:
        return Outcome(False)
    raise next((r for r in refusals if isinstance(r, ShapeError)), refusals[-1])


def variants(world: World, left: Expr, right: Expr) -> Iterator[World]:
    """The world under each way to read what these formulae leave open, the plainest first."""
    both = Expr("+", (left, right))
    local = has_local(both) and world.layout.vectors
    locals_ = LAYOUTS[world.reading.layout] if local else ("rows",)
    through = (left.op == "derivative" and left.args[0][0]) or has(both, "partial")
    totals = ("", "literal", "total") if through else ("",)
    sums = (False, True) if world.layout.batch and _plain_sum(right) else (False,)
    krons = (False, True) if has(both, "outer") else (False,)
    for kron, batch, total, local in itertools.product(krons, sums, totals, locals_):
        yield world._replace(local=local, total=total, rules=world.rules._replace(batch=batch, kron=kron))


def _plain_sum(expr: Expr) -> bool:
    return any(n.op == "reduce" and n.args[0] == "sum" and n.args[1] is None for n in nodes(expr))


def _compared(world: World, left: Expr, right: Expr) -> Outcome:
    a, b = sides(world, left, right)
    main = ~world.zero & ~_on_a_kink(world)
    finite = np.isfinite(a) & np.isfinite(b)
    if not at_points(finite)[main].any():
        return Outcome(False, "never finite")
    bad = differs(a, b)
    if at_points(bad)[main].any() or (_by_cases(right) and at_points(np.isnan(b) & np.isfinite(a))[main].any()):
        return Outcome(False)
    if left.op == "derivative" and not np.where(np.isfinite(a), np.abs(a), 0).max() > NOTHING:
        return Outcome(True, "0 on both sides")
    remark = ""
    if has(right, "cases") and at_points(np.isnan(b) & np.isfinite(a)).any():
        remark = "it leaves open what holds at the kink itself"
    elif at_points(bad).any():
        remark = _kink_words(_zeros(world, at_points(bad)))
    return Outcome(True, remark=remark)


def _on_a_kink(world: World) -> np.ndarray:
    """Points of vectors where something stands exactly at a kink, as the relu of what is off: there no slope is the right one."""
    on = np.zeros(world.points, bool)
    for _, a in world.kinks if world.layout.vectors else ():
        on |= at_points(a == 0) if len(a) == len(on) else False
    return on if not on.all() else ~on


def _zeros(world: World, where: np.ndarray) -> list[str]:
    """The units that are exactly at their kink at these points."""
    return [z for z, a in world.kinks if len(a) == len(where) and (at_points(a == 0) & where).any()]


def _kink_words(units: list[str]) -> str:
    where = ", ".join(f"{z} = 0" for z in units)
    return (
        f"it differs from the convention only at {where or 'the kink'}, where any slope between the one-sided ones may "
        "be chosen: the stated branch takes the other"
    )


def _at_the_kink(world: World, left: Expr, right: Expr) -> Outcome | None:
    """Right with the other slope at some kinks: then it differs from the convention there alone."""
    if world.layout.vectors or not has(right, "cases", "call"):
        return None
    a, b = sides(world, left, right)
    bad = at_points(differs(a, b)) & ~world.zero
    units = [(z, at_points(v == 0)) for z, v in world.kinks if len(v) == len(bad)]
    at_zero = np.any([hit for _, hit in units], axis=0) if units else np.zeros(len(bad), bool)
    if (bad & ~at_zero).any():
        return None
    touched = [z for z, hit in units if (hit & bad).any()]
    for turned in [frozenset(touched), *(frozenset({z}) for z in touched)]:
        other = world._replace(rules=world.rules._replace(turned=turned))
        other = with_adjoints(other)
        found = _compared(other, left, right)
        if found.equal:
            used = [z for z in touched if z in turned]
            return Outcome(True, found.empty, _kink_words(used))
    other = with_adjoints(world._replace(rules=world.rules._replace(turned=frozenset(touched))))
    slopes = np.stack([a, sides(other, left, right).left])
    between = (slopes.min(0) <= b) & (b <= slopes.max(0))  # sign(0) = 0, of |z|
    return Outcome(True, "", _kink_words(touched)) if touched and between[bad].all() else None
