"""Worked numbers: z = 6, dL/dw = 12, at the values that a text gives."""

import numpy as np

from jaxbackprop.grading.arrays import Numbers
from jaxbackprop.grading.claims import is_number, number_of
from jaxbackprop.grading.derivatives import value_of
from jaxbackprop.grading.expression import (
    Expr,
    ShapeError,
    UnknownError,
    adjoint,
    name,
    negated,
    nodes,
    number,
    replace,
)
from jaxbackprop.grading.report import RIGHT, UNJUDGED, WRONG
from jaxbackprop.grading.telling import Judged
from jaxbackprop.grading.updates import RATE
from jaxbackprop.grading.values import Node
from jaxbackprop.grading.world import Values, World

EXACT = 1e-6
ROUNDED = 1.5  # units of the last digit: half a unit of its own, and what was rounded before


def number_verdict(point: World, left: Expr, right: Expr, before: Expr | None = None) -> Judged:
    """Compare a number with the value at the point that the text gives, as far as its digits go.

    `before` is the term before it: a number may be worked out from what the text has rounded.
    """
    note = point.reading.notes.get(left.args[0]) if left.op == "name" else None
    if left.op == "name" and left.args[0] in {*point.reading.given} - {*point.reading.definitions} and note is None:
        try:
            return _given(point, left.args[0], right, before)
        except (ShapeError, UnknownError) as error:
            return Judged(UNJUDGED, str(error))
    try:
        found = value_of(point, note or left).array
        if found.size != 1:
            return Judged(UNJUDGED, f"one number, where {point.called(left)} has {found.size}")
        truth = float(found.ravel()[0])
        value = float(value_of(point, right).array.ravel()[0])
    except (ShapeError, UnknownError) as error:
        return Judged(UNJUDGED, str(error))
    rounded = tolerance(point, right)
    rounded = min(rounded, max(rounded / 3, abs(truth) / 10))  # of a single digit only its own rounding
    rounded = _exactly(truth, right) or rounded
    if abs(truth - value) <= rounded + 1e-9 * max(abs(truth), abs(value)):
        return Judged(RIGHT, "at the numbers given")
    if before is not None and _follows(point, before, right, value):
        return Judged(RIGHT, "from the numbers as the text rounds them")
    line = f"{point.called(left)} = {truth:.6g}"
    words = {True: "the sign is wrong", False: "the number is wrong"}[abs(truth + value) <= 1e-6 * abs(truth)]
    return Judged(WRONG, f"{words}: at the numbers given {point.called(left)} is {truth:.6g}; right: {line}", line)


def array_verdict(point: World, left: Expr, numbers: Numbers) -> Judged:
    """Compare a vector or a matrix of numbers with the value at the point that the text gives, entry by entry."""
    if left.op == "name" and left.args[0] in point.reading.arrays:
        given = point.reading.arrays[left.args[0]]
        same = given.shape == numbers.entries.shape and np.allclose(given, numbers.entries)
        return Judged(RIGHT, "given") if same else Judged(UNJUDGED, "other numbers than were given")
    try:
        node = value_of(point, left)
    except (ShapeError, UnknownError) as error:
        return Judged(UNJUDGED, str(error))
    truth = node.array[0] if not node.letters else node.array[0, ..., 0, 0]
    entries, digits = numbers
    if entries.ndim == 1 or 1 in truth.shape:
        truth, entries, digits = truth.ravel(), entries.ravel(), digits.ravel()
    line = f"{point.called(left)} = {_typed(truth)}"
    if truth.shape != entries.shape:
        turned = truth.ndim == 2 and truth.T.shape == entries.shape
        words = "it should be transposed" if turned else f"it has {truth.size} entries at the numbers given"
        return Judged(WRONG, f"{words}; right: {line}", line)
    off = np.abs(truth - entries) > ROUNDED * digits + EXACT * (1 + np.abs(truth))
    if not off.any():
        return Judged(RIGHT, "at the numbers given")
    words = (
        "the sign is wrong" if np.allclose(truth, -entries, atol=ROUNDED * digits.max()) else "the numbers are wrong"
    )
    return Judged(WRONG, f"{words}: at the numbers given {point.called(left)} is {_typed(truth)}; right: {line}", line)


def _typed(a: np.ndarray) -> str:
    """Numbers as a person types them."""
    return f"[{', '.join(_typed(x) for x in a)}]" if a.ndim else f"{float(a) + 0.0:.4g}"


def _given(point: World, v: str, right: Expr, before: Expr | None) -> Judged:
    """What a number is given as; or a step from there, w = 1 − 0.1 · 2 = 0.8."""
    first, value = point.reading.given[v], float(value_of(point, right).array.ravel()[0])
    near = tolerance(point, right) + 1e-9 * abs(value)
    slope = float(point.adjoints[v].ravel()[0]) if v in point.adjoints else 0.0
    plain = right.op == "number" or right == negated(number(-value))
    if plain and abs(value - first) <= near:
        return Judged(RIGHT, "given")
    if before is not None and before.op != "name":
        known = {name(u): number(x) for u, x in point.reading.given.items() if RATE.fullmatch(u)}
        worked = float(value_of(point, replace(before, known.get)).array.ravel()[0])
        if is_number(before) and abs(worked - value) > near:
            return Judged(WRONG, f"the number is wrong: {point.called(before)} is {worked:.6g}")
        if abs(worked - value) <= near and not (is_number(before) and _from(first, slope, before) < 0):
            return Judged(RIGHT, "at the numbers given")
    rates = [x for u, x in point.reading.given.items() if RATE.fullmatch(u)]
    by = rates[0] * slope if len(rates) == 1 else abs(value - first) * (1 if slope > 0 else -1)
    downward = _from(first, slope, right)
    if not downward and len(rates) == 1:
        downward = int(abs(first - by - value) <= near) - int(abs(first + by - value) <= near)
    if slope and downward > 0:
        return Judged(RIGHT, f"a step down {point.called(adjoint(v))}")
    if slope and downward < 0:
        down = f"{v} = {first - by:.6g}"
        return Judged(WRONG, f"the step goes up {point.called(adjoint(v))} = {slope:.6g}; right: {down}", down)
    return Judged(UNJUDGED, "a step of the training, not a derivative")


def _from(first: float, slope: float, right: Expr) -> int:
    """1 where numbers are a step down, w = 2 − 0.01 · (−18), of a w that was 2 and whose dL/dw is −18; −1 where up; else 0."""
    if right.op != "+" or len(right.args) != 2 or right.args[0] != number(first) or not slope:
        return 0
    change = right.args[1]
    has_slope = any(n.op == "number" and abs(n.args[0] - abs(slope)) <= 1e-3 * abs(slope) for n in nodes(change))
    return has_slope * (1 if number_of(change) * slope < 0 else -1)


def _follows(point: World, before: Expr, right: Expr, value: float) -> bool:
    """Whether a number is that of the term before it, with the numbers that the text has for what is computed."""
    stated = {
        c.left.args[0]: float(value_of(point, c.right).array.ravel()[0])  # type: ignore
        for c in point.reading.claims
        if c.read and c.left.op == "name" and not c.left.args[1] and is_number(c.right)  # type: ignore
    }
    values = {v: Node(np.full_like(a.array, stated[v])) if v in stated else a for v, a in point.values.items()}
    try:
        found = float(value_of(point._replace(values=Values(values)), before).array.ravel()[0])
    except (ShapeError, UnknownError):
        return False
    return abs(found - value) <= (_exactly(found, right) or tolerance(point, right)) + 1e-9 * abs(value)


def _exactly(truth: float, right: Expr) -> float:
    """Half a unit of a number's last digit, if the truth has no more digits: then nothing was rounded; else 0."""
    digit = right.args[1] if right.op == "number" else 0.0
    return digit / 2 if digit and abs(truth / digit - round(truth / digit)) < EXACT else 0.0


def tolerance(point: World, right: Expr) -> float:
    """How far the value may be off because its numbers were rounded to the digits that are written."""
    whole = float(value_of(point, right).array.ravel()[0])
    total = 0.0
    for n in {n for n in nodes(right) if n.op == "number" and n.args[1]}:
        x, digit = n.args
        moved = replace(right, lambda e, n=n, x=x, digit=digit: number(x + digit) if e == n else None)
        total += abs(float(value_of(point, moved).array.ravel()[0]) - whole)
    return ROUNDED * total
