"""Which parameters a mistake truly makes wrong, found without any checker; mistakes that are without effect are not planted.

In float64, at the given point and at random ones (fresh data, fresh parameters at three scales), the planted gradient is compared
with the right one. A mistake that nowhere changes any entry by more than 1e-9 of its parameter's largest is without effect:
another spot is tried, three at most.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from checker_mistakes import NO_EFFECT, Mistake, candidates
from checker_networks import Case, draw_data, draw_params, given_point

from jaxbackprop.network import BIAS

SCALES, POINTS_A_SCALE = (0.3, 1.0, 3.0), 8


class Effect(NamedTuple):
    """For every parameter, how far a mistake moves its gradient, relative to the largest entry."""

    here: dict[str, float]
    anywhere: dict[str, float]

    @property
    def wrong(self) -> frozenset[str]:
        """The parameters that the mistake makes wrong."""
        return frozenset(path for path, size in self.anywhere.items() if size > NO_EFFECT)


def points_of(case: Case) -> list[tuple]:
    """The given point, then random ones, in float64."""
    rng = np.random.default_rng((1, case.number))
    random = [
        (draw_params(case.network, rng, scale), *draw_data(case.network, case.loss, len(case.x), rng))
        for scale in SCALES
        for _ in range(POINTS_A_SCALE)
    ]
    return [given_point(case), *random]


def by_path(grads) -> dict[str, np.ndarray]:
    """The leaves, by the path of each."""
    return {jax.tree_util.keystr(path): np.asarray(g) for path, g in jax.tree_util.tree_leaves_with_path(grads)}


def moved(given: np.ndarray, right: np.ndarray) -> float:
    """The largest difference, relative to the largest entry of either; infinite where there is no number."""
    if not np.all(np.isfinite(given)):
        return np.inf
    size = max(np.max(np.abs(given)), np.max(np.abs(right)))
    return float(np.max(np.abs(given - right)) / size) if size > 1e-100 else 0.0


def effect_of(gradient: Callable, points: list[tuple], right: list[dict[str, np.ndarray]]) -> Effect:
    """Compare with the right gradient at every point; the first is the given one."""
    sizes = []
    for point, expected in zip(points, right, strict=True):
        given = by_path(gradient(*point))
        sizes.append({path: moved(given[path], e) for path, e in expected.items()})
    return Effect(sizes[0], {path: max(size[path] for size in sizes) for path in sizes[0]})


class Planted(NamedTuple):
    """A mistake with the parameters that it makes wrong, and the largest effect on any at the given point."""

    mistake: Mistake
    wrong: frozenset[str]
    here: float


def plant(case: Case) -> tuple[list[Planted], dict[str, int]]:
    """Mistakes that are mistakes; and how many spots were without effect, by kind."""
    planted, without_effect = [], Counter()
    with jax.enable_x64(True):
        points = points_of(case)
        right = [by_path(case.gradient(*point)) for point in points]
        require_right(case, points[0], right[0])
        grads = {t.name: {} for t in case.network.layers}
        for t in case.network.layers:
            grads[t.name] = {s: right[0][f"[{t.name!r}][{s!r}]"] for s in (*t.sources, *([BIAS] if t.bias else []))}
        spots = candidates(case, grads, np.random.default_rng((2, case.number)))
        for kind, mistakes in spots.items():
            for m in mistakes:
                if m.wrong is not None:
                    planted.append(Planted(m, m.wrong, np.inf))
                    break
                effect = effect_of(m.gradient, points, right)
                if effect.wrong:
                    planted.append(Planted(m, effect.wrong, max(effect.here.values())))
                    break
                without_effect[kind] += 1
    return planted, dict(without_effect)


def require_right(case: Case, point: tuple, grads: dict[str, np.ndarray]) -> None:
    """Refuse to go on if the sweep without a mistake is not the gradient."""
    expected = by_path(jax.jit(jax.grad(case.value))(*point))
    worst = max(moved(grads[path], e) for path, e in expected.items())
    if not worst <= NO_EFFECT:
        raise SystemExit(f"network {case.number}: the right gradient differs from jax.grad by {worst:.1g}")
