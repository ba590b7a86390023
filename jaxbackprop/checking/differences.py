"""Slopes of a function by finite differences in float64, each with the error that it may have.

Along a direction v the symmetric difference D(t) = (f(p + t v) − f(p − t v)) / 2t is off by O(t²) from the curvature and by
noise / t from rounding. Two of them, a tenth apart, say how much the second is off:

    error of D(t/10)  ≤  |D(t) − D(t/10)|  +  6 noise / (t/10)                  (a bound: t² alone would say a 99th)

Steps shrink until rounding is the larger part of that; the one with the smallest error counts, among those with no kink between
p − t v and p + t v: every decision's side is compared (`decisions.py`). The noise is measured: the scatter of f over points too
near each other to differ otherwise (Moré and Wild 2011), as a standard deviation σ: that of D(t) is 0.7 σ / t.

Where a decision sits exactly on its kink at p, no step is clear of it. Then there are two slopes, one on each side, and any
number between them is a right derivative.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

STEP_SIZES = tuple(10.0**-k for k in range(2, 9))  # in units of the parameter's own size
SCATTER = 7  # evaluations that the noise is measured by
NEAR = (1e-12, 1e-9, 1e-6)  # how near each other they are: what is rounded inside moves in steps of its own
BEYOND = 6  # times its standard deviation: what rounding stays below
FAIR = 100  # where kinks cannot be seen, every step counts whose error is at most so many times the smallest


class Seen(NamedTuple):
    """The function at one point, and the pattern of sides that its decisions took there."""

    value: float
    pattern: int


Along = Callable[[float], Seen]


class Slope(NamedTuple):
    """What differences say about one direction.

    Attributes:
        low: the slope, or the smaller of the two slopes at a kink.
        high: the slope, or the larger one.
        error: what either may be off by.
        kind: "smooth", "near" a kink (smaller steps were needed) or "at" one.
        given: the slope that the gradient under test predicts, ⟨gradient, v⟩.
    """

    low: float
    high: float
    error: float
    kind: str
    given: float

    def allows(self, slack: float) -> bool:
        """Whether the prediction is within the error, and the slack of its own rounding."""
        margin = self.error + slack
        return bool(self.low - margin <= self.given <= self.high + margin)  # NaN is not

    @property
    def difference(self) -> float:
        """By how much the prediction misses the slope, or the interval of slopes."""
        return float(max(self.low - self.given, self.given - self.high, 0.0))


def noise_of(along: Along, size: float) -> float:
    """The rounding noise of f: the scatter, about a smooth curve, of values at points that hardly differ.

    >>> line = lambda t: Seen(1.0 + t, 0)
    >>> noise_of(line, 1.0) < 1e-15
    True
    """
    found = [np.finfo(np.float64).eps * abs(along(0.0).value)]
    for near in NEAR:
        seen = [along(k * near * size) for k in range(SCATTER)]
        if len({one.pattern for one in seen}) == 1:
            fourth = np.diff([one.value for one in seen], 4)  # of noise σ the fourth differences have √70 σ
            found.append(float(np.max(np.abs(fourth))) / 70**0.5)
    return float(max(found))


def slope(along: Along, size: float, noise: float, given: float, all_kinks_seen: bool = True) -> Slope:
    """The slope of f along one direction.

    Args:
        along: t → f(p + t v).
        size: the unit of t.
        noise: of f, by `noise_of`.
        given: the slope that the gradient under test predicts.
        all_kinks_seen: False where f has parts that cannot be looked into: then the step counts that agrees best with the
            prediction, among those with a fair error, as a kink in between moves out while t shrinks.

    >>> along = lambda t: Seen(abs(1.0 + t), int(np.sign(1.0 + t)))
    >>> slope(along, 1.0, 1e-16, given=1.0).kind
    'smooth'
    >>> at_kink = slope(lambda t: Seen(abs(t), int(np.sign(t))), 1.0, 1e-16, given=0.3)
    >>> at_kink.kind, at_kink.allows(0.0)
    ('at', True)
    """
    start = along(0.0)
    central, ahead, behind = [], [], []
    crossed = False
    for t in (size * step for step in STEP_SIZES):
        plus, minus = along(t), along(-t)
        clear = start.pattern == plus.pattern == minus.pattern
        crossed = crossed or not clear
        ahead.append(_Estimate((plus.value - start.value) / t, 2 * noise / t))
        behind.append(_Estimate((start.value - minus.value) / t, 2 * noise / t))
        if clear and np.isfinite(plus.value - minus.value):
            central.append(_Estimate((plus.value - minus.value) / (2 * t), noise / t))
            if all_kinks_seen and len(central) > 1 and BEYOND * noise / t > _best(central)[1]:
                break  # rounding is the larger part: smaller steps only get worse
    if len(central) > 1:
        middle, error = _best(central, None if all_kinks_seen else given)
        return Slope(middle, middle, error, "near" if crossed else "smooth", given)
    (a, error_a), (b, error_b) = _best(ahead), _best(behind)
    return Slope(min(a, b), max(a, b), max(error_a, error_b), "at", given)


class _Estimate(NamedTuple):
    slope: float
    noise: float


def _best(estimates: list[_Estimate], agreeing_with: float | None = None) -> tuple[float, float]:
    """The estimate with the smallest error and that error, from pairs of neighbouring steps."""
    with np.errstate(invalid="ignore"):
        errors = [abs(a.slope - b.slope) + BEYOND * b.noise for a, b in itertools.pairwise(estimates)]
    errors = [error if np.isfinite(error) else np.inf for error in errors]
    best = min(range(len(errors)), key=errors.__getitem__)
    if agreeing_with is not None:
        fair = [i for i, error in enumerate(errors) if error <= FAIR * errors[best]]
        best = min(fair, key=lambda i: abs(estimates[i + 1].slope - agreeing_with) - errors[i])
    return estimates[best + 1].slope, errors[best]
