"""Slips in the forward equations: one that two or more backward lines contradict, and that one change reconciles."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from jaxbackprop.grading.choice import holds, with_deltas
from jaxbackprop.grading.claims import Claim, sides_of
from jaxbackprop.grading.diagnosis import shares
from jaxbackprop.grading.expression import Expr, ShapeError, UnknownError, name, names, replace, size, symbols
from jaxbackprop.grading.points import build
from jaxbackprop.grading.reading import ordered
from jaxbackprop.grading.wiring import exercise
from jaxbackprop.grading.world import World

REPAIRS = 20_000  # symbols evaluated in the search for a forward slip


class Repaired(NamedTuple):
    """The world with the forward equation that the text means; `evidence`: name -> the lines that say so."""

    world: World
    evidence: dict[str, list[Claim]]


def repaired(world: World) -> Repaired:
    """Find forward slips: the changed equation must make two more quantities right, and no line wrong that was right."""
    backward = [c for c in world.reading.claims if c.read and c.left.op == "derivative" and not c.left.args[0][0]][:80]  # type: ignore[union-attr]
    evidence: dict[str, list[Claim]] = {}
    for _ in range(3):
        good = [c for c in backward if holds(world, c)]
        bad = [c for c in backward if c not in good]
        best, gain = None, []
        most = REPAIRS // (1 + sum(size(c.right) for c in bad) + 8 * len(world.reading.definitions))  # type: ignore[arg-type]
        for v, expr in islice(_alternatives(world), most) if len({c.left for c in bad}) > 1 else ():
            changed = _changed(world, v, expr)
            # what no longer reaches the output has the adjoint 0, and makes every line about it true: 0 = 0
            if changed is None or not set(_reached(world)) <= set(_reached(changed)):
                continue
            now = [c for c in bad if holds(changed, c)]
            if len({c.left for c in now}) > max(1, len({c.left for c in gain})) and all(
                holds(changed, c) for c in good
            ):
                best, gain = (v, changed), now
        if best is None:
            break
        world = best[1]
        evidence[best[0]] = gain
    return Repaired(world, evidence)


def _changed(world: World, v: str, expr: Expr) -> World | None:
    definitions = {u: (k, expr if u == v else e) for u, (k, e) in world.reading.definitions.items() if u != ""}
    reading = world.reading._replace(definitions=ordered(definitions))
    if len(reading.definitions) < len(definitions):
        return None
    try:
        return with_deltas(build(reading, world.layout, world.loss, world.generic))
    except (ShapeError, UnknownError):
        return None


def _reached(world: World) -> Iterator[str]:
    return (v for v in world.reading.definitions if v != "" and (shares(world, v) or v in world.outputs))


def _alternatives(world: World) -> Iterator[tuple[str, Expr]]:
    """Other equations that might have been meant: the exercise's, the text's others, one symbol changed."""
    reading = world.reading
    mine = [v for v in reading.definitions if v in reading.rows and v not in ("", reading.loss)]
    sides = sides_of(reading.claims)
    known = {*world.values}.union(*map(symbols, sides))
    for v in mine:
        others = [exercise()[v][1]] if v in exercise() else []
        for other in (*others, *reading.alternatives.get(v, [])):
            # by a name that the text has not, what it is computed from would be cut off
            if other != reading.definitions[v][1] and names(other) <= known:
                yield v, other
    values = ["x", *(v for v in reading.definitions if v not in ("", reading.loss))]
    for v in mine:
        letters, e = reading.definitions[v]
        if letters or e.op in ("call", "name", "cases"):
            continue
        for old in sorted(names(e)):
            kind = values if old in values else sorted(names(e) - set(values))
            for new in kind:
                if new not in (old, v) and new in world.values:
                    yield v, replace(e, lambda n, old=old, new=new: name(new) if n == name(old) else None)
