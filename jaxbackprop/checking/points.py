"""Where a gradient is checked: at the given parameters, and at drawn ones until every decision was seen on both sides, or not.

A mistake shows only where it matters. In the scalar exercise a missing mask changes nothing at 72 of 100 random points,
because the unit is on, or because nothing reaches it. So many points are drawn, each is run once, forward only, to see on
which side every decision (`decisions.py`) falls there, and the few that together show the most are kept.

Noise in units of a parameter's own size may never reach a fixed margin, as of a hinge. Where sides are left unseen the drawn
points are scaled, up and down, by powers of 4 to a million times. What stays unseen then is reported.

Only parameters are drawn: the data may obey rules that the derivation relies on (targets that sum to one, say). So may a
matrix that is symmetric: where a step wants one, as a Cholesky factor does, it stays so.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.decisions import counted, decisions, ties, value_and_sides
from jaxbackprop.checking.leaves import is_symmetric, mirrored
from jaxbackprop.programs.flat import Program

DRAWS, FEWEST_DRAWS = 128, 8  # points that are looked at
ENTRIES = 4_000_000  # in all of them together: of many parameters there are fewer points
SPREADS = (0.1, 0.5, 1.0, 2.0)  # of the noise, in units of a parameter's own root mean square
SCALES = tuple(4.0**power for k in range(1, 11) for power in (k, -k))  # of points that are to show what no other did
FEWEST, MOST = 3, 32  # points that are kept
EFFORT = 512  # units times points: small programs are cheap, and have the rare patterns


class Points(NamedTuple):
    """Parameters to check at, the given ones first, and what they show.

    Attributes:
        params: each shaped like the given ones.
        below: (points, units), the sides that each two-sided decision took, examples of a batch counted together.
        above: the same for the other side.
        scaled: which points are of another scale than the given one.
    """

    params: list[Any]
    below: np.ndarray
    above: np.ndarray
    scaled: np.ndarray

    @property
    def units(self) -> int:
        """How many two-sided decisions there are."""
        return self.below.shape[1]

    @property
    def seen(self) -> np.ndarray:
        """Which of them were seen on both sides."""
        return np.logical_and(self.below.any(axis=0), self.above.any(axis=0))

    @property
    def both_sides(self) -> int:
        """How many were."""
        return int(self.seen.sum())

    def only(self, these: Sequence[int]) -> "Points":
        """Some of the points."""
        return Points([self.params[k] for k in these], *(a[list(these)] for a in self[1:]))


def move(params, rng: np.random.Generator, spread: float, mirror: bool = False):
    """Add normal noise to each parameter, `spread` times its own root mean square (or 1 where it is all zero).

    From a spread of 1 on each entry's sign is drawn too: else the units of a narrow network would hardly change sides together.
    With `mirror` matrices that are symmetric stay so.
    """

    def moved(leaf):
        leaf = np.asarray(leaf)
        noise = (spread * root_mean_square(leaf) * rng.standard_normal(leaf.shape, np.float32)).astype(leaf.dtype)
        sign = rng.choice(np.array([-1, 1], leaf.dtype), leaf.shape) if spread >= 1 else leaf.dtype.type(1)
        there = (sign * leaf + noise).astype(leaf.dtype)
        return mirrored(there) if mirror and is_symmetric(leaf) else there

    return jax.tree.map(moved, params)


class Look(NamedTuple):
    """What one forward run shows.

    Attributes:
        value: of the program.
        pattern: a number that stands for the sides of all decisions.
        tied: whether any of them sits exactly on its kink.
        below: for each unit whether it was below in any example.
        above: for each unit whether it was above in any example.
        held: what stop_gradient was given.
    """

    value: Any
    pattern: Any
    tied: Any
    below: Any
    above: Any
    held: Any


def look(program: Program, batch: int | None, params, data, hold: Any = False, held: Sequence[Any] = ()) -> Look:
    """Run the program once, forward, and see on which side each decision falls. Compiled, it serves every point."""
    value, sides, given = value_and_sides(program, jax.tree.leaves((params, data)), hold, held)
    of = list(zip(sides, decisions(program), strict=True))
    may_tie, two_sided = ({step.number for step in steps} for steps in (ties(program), counted(program)))
    signs = [_by_unit(side, batch) for side, step in of if step.number in two_sided]
    tied = [jnp.any(side == 0) for side, step in of if step.number in may_tie]
    below = [jnp.any(sign < 0, axis=0).reshape(-1) for sign in signs]
    above = [jnp.any(sign > 0, axis=0).reshape(-1) for sign in signs]
    nothing = [jnp.zeros(0, bool)]
    pattern = sum((_hash(side, i) for i, side in enumerate(sides)), start=jnp.uint64(0))
    any_tied = jnp.any(jnp.array(tied)) if tied else jnp.array(False)
    return Look(value, pattern, any_tied, jnp.concatenate(below or nothing), jnp.concatenate(above or nothing), given)


def places(program: Program, batch: int | None, params, data) -> list[str]:
    """For each unit where it is decided, in words."""
    shapes = jax.eval_shape(lambda leaves: value_and_sides(program, leaves)[1], jax.tree.leaves((params, data)))
    two_sided = {step.number for step in counted(program)}
    of = [(side, step) for side, step in zip(shapes, decisions(program), strict=True) if step.number in two_sided]
    units = [side.shape[1:] if batch and side.shape[:1] == (batch,) else side.shape for side, _ in of]
    said = [f"{step.name} at {step.line}" if step.line else step.name for _, step in of]
    return [words for words, shape in zip(said, units, strict=True) for _ in range(math.prod(shape))]


def draw(look: Callable[[Any], Look], params, rng: np.random.Generator, mirror: bool = False) -> Points:
    """Move the parameters many times, and look at each point; the given one first, and where the value is finite."""
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
    count = int(np.clip(ENTRIES // max(size, 1), FEWEST_DRAWS, DRAWS))
    at = [params] + [move(params, rng, SPREADS[i % len(SPREADS)], mirror) for i in range(count)]
    seen = [look(moved) for moved in at]
    finite = [i for i, there in enumerate(seen) if np.isfinite(there.value) or i == 0]
    below, above = (np.stack([np.asarray(getattr(seen[i], side)) for i in finite]) for side in ("below", "above"))
    found = Points([at[i] for i in finite], below, above, np.zeros(len(finite), bool))
    for scale in SCALES:
        for spread in SPREADS[: max(1, count // len(SCALES))]:
            if found.seen.all():
                return found
            scaled = jax.tree.map(
                lambda leaf, scale=scale: (leaf * scale).astype(leaf.dtype), move(params, rng, spread, mirror)
            )
            there = look(scaled)
            shown = np.asarray(there.below), np.asarray(there.above)
            new = any((a & ~b.any(axis=0)).any() for a, b in zip(shown, (found.below, found.above), strict=True))
            if new and np.isfinite(there.value):
                more = (np.concatenate([a, np.array([b])]) for a, b in zip(found[1:], (*shown, True), strict=True))
                found = Points([*found.params, scaled], *more)
    return found


def choose(draws: Points) -> Points:
    """Keep the given point, then what shows most that is new, then other patterns, up to a number that the size allows.

    What shows something new has more room: a side that was drawn and not kept would be called unseen.
    """
    seen = np.concatenate([draws.below, draws.above], axis=1)
    room = int(np.clip(EFFORT // max(draws.units, 1), FEWEST, MOST)) if draws.units else FEWEST
    chosen, left = [0], list(range(1, len(seen)))
    while left and len(chosen) < MOST:
        covered = seen[chosen].any(axis=0)
        patterns = {seen[i].tobytes() for i in chosen}
        gain = (seen[left] & ~covered).sum(axis=1).tolist()
        best = max(
            range(len(left)), key=lambda j: (gain[j], seen[left[j]].tobytes() not in patterns)
        )  # first of equals
        if len(chosen) >= room and not gain[best]:
            break
        chosen.append(left.pop(best))
    return draws.only(chosen)


def batch_size(data: Sequence[Any]) -> int | None:
    """The length of the first axis of all arrays in the data, if they share one.

    >>> batch_size((np.ones((5, 3)), np.ones(5))), batch_size((np.ones(5), np.ones(4))), batch_size((1.0,))
    (5, None, None)
    """
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(data) if jnp.ndim(leaf)}
    return lengths.pop() if len(lengths) == 1 else None


def _by_unit(side, batch):
    """An axis of examples in front: the batch, where there is one, else of length 1."""
    return side if batch and side.ndim and side.shape[0] == batch else side[None]


def _hash(side, seed):
    """Σ side · odd numbers that look random, mod 2⁶⁴: equal sides give equal numbers, others with probability 2⁻⁶⁴."""
    position = jnp.arange(1, side.size + 1, dtype=jnp.uint64) + jnp.uint64(seed << 40)
    mixed = position * jnp.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> jnp.uint64(29))) * jnp.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> jnp.uint64(32))) | jnp.uint64(1)
    return jnp.sum(side.reshape(-1).astype(jnp.uint64) * mixed)


def root_mean_square(leaf) -> float:
    """The size of a parameter's entries, 1 where all are zero: the unit of noise and of steps."""
    return float(np.sqrt(np.mean(np.square(np.asarray(leaf, np.float64))))) or 1.0 if np.size(leaf) else 1.0
