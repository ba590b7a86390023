"""Worked numbers: z = 6, dL/dw = 12, at the values that a text gives."""

from jaxbackprop.grading.derivatives import value_of
from jaxbackprop.grading.expression import Expr, ShapeError, UnknownError, nodes, number, replace
from jaxbackprop.grading.report import RIGHT, UNJUDGED, WRONG
from jaxbackprop.grading.telling import Judged
from jaxbackprop.grading.world import World

ROUNDED = 1.5  # units of the last digit: half a unit of its own, and what was rounded before


def number_verdict(point: World, left: Expr, right: Expr) -> Judged:
    """Compare a number with the value at the point that the text gives, as far as its digits go."""
    if left.op == "name" and left.args[0] in point.reading.given and left.args[0] not in point.reading.definitions:
        return Judged(RIGHT, "given")
    try:
        truth = float(value_of(point, left).array.ravel()[0])
        value = float(value_of(point, right).array.ravel()[0])
    except (ShapeError, UnknownError) as error:
        return Judged(UNJUDGED, str(error))
    if abs(truth - value) <= tolerance(point, right) + 1e-9 * max(abs(truth), abs(value)):
        return Judged(RIGHT, "at the numbers given")
    line = f"{point.called(left)} = {truth:.6g}"
    words = {True: "the sign is wrong", False: "the number is wrong"}[abs(truth + value) <= 1e-6 * abs(truth)]
    return Judged(WRONG, f"{words}: at the numbers given {point.called(left)} is {truth:.6g}; right: {line}", line)


def tolerance(point: World, right: Expr) -> float:
    """How far the value may be off because its numbers were rounded to the digits that are written."""
    whole = float(value_of(point, right).array.ravel()[0])
    total = 0.0
    for n in {n for n in nodes(right) if n.op == "number" and n.args[1]}:
        x, digit = n.args
        moved = replace(right, lambda e, n=n, x=x, digit=digit: number(x + digit) if e == n else None)
        total += abs(float(value_of(point, moved).array.ravel()[0]) - whole)
    return ROUNDED * total
