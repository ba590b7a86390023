"""Who is right where two gradients differ: differences of the value decide, entry by entry and along random directions."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbackprop.checking import differences, points
from jaxbackprop.checking.comparison import Comparison, Subject
from jaxbackprop.checking.decisions import opaque, wants_symmetry
from jaxbackprop.checking.diagnosis import Evidence
from jaxbackprop.checking.differences import Slope
from jaxbackprop.checking.leaves import eps, is_symmetric, on_host

CONFIRMED = 64  # entries that differ from jax.grad and are looked at by differences, at most


class Direction(NamedTuple):
    """±1, or up to that, on some entries of one raveled parameter, at one point; whether its gradient is disputed there."""

    point: int
    entries: np.ndarray
    disputed: bool


class Looked(NamedTuple):
    """What differences say about one direction.

    Attributes:
        disputed: whether the gradient under test and `jax.grad` differ there.
        slope: the slope by differences.
        slack: what the prediction may be off by from rounding.
        apart: how far the gradient under test and `jax.grad` are apart.
    """

    disputed: bool
    slope: Slope
    slack: float
    apart: float

    @property
    def agrees(self) -> bool:
        """Whether differences allow the gradient under test.

        They refute a gradient that is `jax.grad`'s where there is one slope only: units that sit on their kinks together
        may give a derivative, by the chain rule, that lies outside the two slopes. They confirm one that is not
        `jax.grad`'s where they are exact enough to tell the two apart.
        """
        if not self.disputed:
            return self.slope.kind == "at" or self.slope.allows(self.slack)
        return self.slope.allows(self.slack) and self.slope.error <= 0.1 * self.apart


def confirmed(subject: Subject, looked: list[Looked]) -> bool:
    """Whether differences confirm a gradient that is not `jax.grad`'s."""
    return subject.disputed and all(one.agrees for one in looked) and any(one.disputed for one in looked)


def look(seen: Comparison, rng: np.random.Generator) -> list[list[Looked]]:
    """Slopes for each parameter: a few at the given point; and where the two gradients differ, until one refutes it."""
    along, found = _slopes(seen, rng), []
    for i, subject in enumerate(seen.subjects):
        found.append([])
        if (e := subject.evidence) is None or not e.right[0].size:
            continue
        for direction in _directions(e, rng):
            found[i].append(along(i, e, direction))
            if direction.disputed and not found[i][-1].agrees:
                break
    return found


def _slopes(seen: Comparison, rng) -> Callable[[int, Evidence, Direction], Looked]:
    """What differences say of parameter i along a direction, as a function."""
    reference, host_data = seen.reference, on_host(seen.data)
    mirror, all_kinks_seen = bool(wants_symmetry(reference.program)), not opaque(reference.program)
    structure = jax.tree.structure(seen.at.params[0])
    held: dict[int, Any] = {}  # by point
    noise: dict[tuple[int, int], float] = {}  # by point and parameter

    def run(leaves, hold: bool, values):
        return reference.look(jax.tree.unflatten(structure, leaves), host_data, hold, values)

    def along(i: int, e: Evidence, direction: Direction) -> Looked:
        point, entries, disputed = direction
        here = seen.leaves(point)
        if point not in held:
            held[point] = run(here, False, reference.nothing_held).held
        v = _vector(here[i], entries, mirror, rng)

        def at(t: float) -> differences.Seen:
            there = run([*here[:i], here[i] + t * v, *here[i + 1 :]], True, held[point])
            return differences.Seen(float(there.value), int(there.pattern))

        size = points.root_mean_square(here[i])
        if (point, i) not in noise:
            rounded = eps(reference.dtype) * abs(at(0.0).value)
            noise[point, i] = max(differences.noise_of(at, size), rounded)
        G, R = (float((v * g)[v != 0].sum()) for g in (e.given[point], e.right[point]))
        slope = differences.slope(at, size, noise[point, i], G, all_kinks_seen)
        apart = abs(G - R) if np.isfinite(R) else np.inf
        return Looked(disputed, slope, float(e.slack[point] * np.abs(v).sum()), apart)

    return along


def _vector(leaf: np.ndarray, entries: np.ndarray, mirror: bool, rng) -> np.ndarray:
    v = np.zeros(leaf.size)
    v[entries] = rng.choice([-1.0, 1.0], len(entries))
    if len(entries) > 1:  # else errors of equal size, as of two halves of a matrix, may cancel
        v[entries] *= rng.uniform(0.5, 1.0, len(entries))
    v = v.reshape(leaf.shape)
    return v + v.swapaxes(-1, -2) if mirror and is_symmetric(leaf) else v


def _directions(e: Evidence, rng) -> Iterator[Direction]:
    """Two entries and all at once at the given point; where the two gradients differ the largest errors, then all of them."""
    entries = e.right[0].size
    some = {int(np.argmax(np.abs(e.right[0]))), int(rng.integers(entries))}
    yield from (Direction(0, np.array([entry]), False) for entry in sorted(some))
    yield Direction(0, np.arange(entries), False)
    wrong, error = (a.reshape(len(e.right), -1) for a in (e.wrong, e.error))
    disputed = [int(k) for k in np.flatnonzero(wrong.any(axis=1))]
    for k in {k for k in (0, e.worst_point) if k in disputed}:
        worst = np.argsort(-np.where(wrong[k], error[k], -1))[: min(CONFIRMED, int(wrong[k].sum()))]
        yield from (Direction(k, np.array([entry]), True) for entry in worst)
    for k in disputed:
        yield Direction(k, np.flatnonzero(wrong[k]), True)
