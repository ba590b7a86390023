"""A derivation's own network at given numbers: every value, and every derivative of the loss with the right formula for it."""

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.choice import choose
from jaxbackprop.grading.correction import right_line
from jaxbackprop.grading.expression import adjoint, show, show_variable
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.points import at_numbers
from jaxbackprop.grading.reading import claims_of, read
from jaxbackprop.grading.world import World
from jaxbackprop.words import extra

STEP = 1e-6


class Quantity(NamedTuple):
    """One row: a name, its formula, its value; for a derivative also the central difference of the loss."""

    name: str
    formula: str
    value: float
    difference: float | None = None


def work(text: str, given: Mapping[str, float]) -> tuple[Quantity, ...]:
    """Work a text's forward equations through at given numbers, and back: numbers only, no vectors.

    The numbers may stand in the text (x = 2) or be given; a number that is given counts. Each derivative is found by
    reverse mode over the equations, and stands beside (L(v + ε) − L(v − ε)) / 2ε.

    Raises:
        ValueError: the text has no loss, it is written for vectors, or a number is missing.

    >>> rows = work("z = w x; L = 1/2 (z - y)^2", {"w": 3, "x": 2, "y": 5})
    >>> [(row.name, row.formula, row.value) for row in rows][:4]
    [('z', 'w * x', 6.0), ('L', '1 / 2 * (z - y)^2', 0.5), ('dL/dz', 'z - y', 1.0), ('dL/dw', 'dL/dz * x', 2.0)]
    """
    extra("lark", "the parser lark", "trace of a derivation", "grade")
    reading = read(claims_of(chains(text)))
    if reading.loss not in reading.definitions:
        raise ValueError("the text defines no loss: write one, such as L = 1/2 (yhat - y)^2")
    missing = [v for v in reading.free if v not in {*reading.given, *given}]
    if missing:
        raise ValueError(f"no number for {', '.join(missing)}: give each, as in {missing[0]}=0.5")
    unknown = [v for v in given if v not in reading.free]
    if unknown:
        raise ValueError(f"{unknown[0]} is not free in the equations: they need {', '.join(reading.free)}")
    with np.errstate(all="ignore"):
        world = choose(reading._replace(given=reading.given | {v: float(x) for v, x in given.items()}))
        point = at_numbers(world) if world is not None else None
        if world is None or point is None:
            raise ValueError("the text is written for vectors: only numbers are worked through")
        return tuple(_rows(world, point))


def _rows(world: World, point: World):
    reading = point.reading
    for v, (_, e) in reading.definitions.items():
        yield Quantity(show_variable((v, ())), show(e, reading.loss), _value(point, v))
    names = [v for v in reversed(reading.definitions) if v != reading.loss]
    for v in [*names, *reading.free]:
        formula = right_line(world, adjoint(v))
        shown = show(formula, reading.loss) if formula is not None else ""
        slope = float(point.adjoints[v].ravel()[0])
        yield Quantity(f"d{reading.loss}/d{v}", shown, slope, _difference(point, v) if v in reading.free else None)


def _value(point: World, v: str) -> float:
    return float(point.values[v].array.ravel()[0])


def _difference(point: World, v: str) -> float:
    given = point.reading.given
    ends = []
    for sign in (1, -1):
        moved = at_numbers(point._replace(reading=point.reading._replace(given={**given, v: given[v] + sign * STEP})))
        assert moved is not None
        ends.append(_value(moved, point.reading.loss))
    return (ends[0] - ends[1]) / (2 * STEP)


def table(rows: tuple[Quantity, ...]) -> str:
    """The rows in aligned columns, values forward and derivatives backward.

    >>> print(table(work("L = w x", {"w": 3, "x": 2})))
    forward
    L      = w * x  = 6
    backward             differences
    dL/dw  = x      = 2  2
    dL/dx  = w      = 3  3
    """
    cells = [
        (r.name, f"= {r.formula}", f"= {r.value:.6g}", "" if r.difference is None else f"{r.difference:.6g}")
        for r in rows
    ]
    wide = [max(len(c[i]) for c in cells) for i in range(3)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(cell, (*wide, 0), strict=True)).rstrip() for cell in cells]
    first = next((i for i, r in enumerate(rows) if re.match(r"d.+/d", r.name)), len(rows))
    head = "backward".ljust(sum(wide) + 6) + "differences"
    return "\n".join(("forward", *lines[:first], head, *lines[first:]))
