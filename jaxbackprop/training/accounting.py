"""What private training spends: (ε, δ), for data sets that differ by adding or removing one example.

It is computed by Google's `dp-accounting` (extra `privacy`) for exactly what privacy.py does: the Poisson-subsampled Gaussian
mechanism, composed over the steps. The sampler draws 32-bit integers and compares, so that its q is a multiple of 2⁻³², and
that very q is accounted for. Batches are padded to a fixed capacity that a draw exceeds with probability below 10⁻¹⁵; this
too is taken from δ.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial
from numbers import Integral, Real
from typing import NamedTuple

import numpy as np
from jaxtyping import Array

from jaxbackprop.spelling import extra
from jaxbackprop.words import require_positive

TAIL = 1e-15  # the probability that a Poisson draw exceeds its fixed capacity


def sampling_probability(examples: int, batch_size: int) -> float:
    """The probability q with which `poisson_batches` chooses an example: exactly a multiple of 2⁻³².

    >>> sampling_probability(1000, 250)
    0.25
    """
    return threshold(examples, batch_size) / 2**32


def threshold(examples: int, batch_size: int) -> int:
    """2³² q, the integer below which a 32-bit draw chooses an example."""
    return max(1, min(2**32, round(2**32 * batch_size / examples)))


def capacity(examples: int, batch_size: int) -> int:
    """The fixed size of a padded batch: what a Poisson draw exceeds with probability below 1e-15."""
    from scipy.stats import binom

    return int(min(examples, binom.isf(TAIL, examples, sampling_probability(examples, batch_size))))


class Spent(NamedTuple):
    """What a run spends: (epsilon, delta), for data sets that differ by adding or removing one example."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Plan:
    """The shape of a run that decides what it spends: how many examples, batch size, epochs.

    Raises:
        ValueError: one of them below 1, or a batch larger than all examples.
        TypeError: something that is not an integer.

    >>> Plan(examples=1000, batch_size=100, epochs=5).steps
    50
    """

    examples: int
    batch_size: int
    epochs: int

    def __post_init__(self):
        for name, number in asdict(self).items():
            if isinstance(number, bool) or not isinstance(number, Integral):
                raise TypeError(f"{name} is {number!r}: expected an integer of at least 1")
            require_positive(name, int(number))
            object.__setattr__(self, name, int(number))  # NumPy's would overflow
        if self.batch_size > self.examples:
            raise ValueError(f"batch_size is {self.batch_size}: expected at most the {self.examples} examples")

    @property
    def steps(self) -> int:
        """Draws in all."""
        return self.epochs * -(-self.examples // self.batch_size)


def spent(plan: Plan, noise_multiplier: float, delta: float) -> Spent:
    """What training by `private_gradient(C, noise_multiplier)` spends; it does not depend on C.

    Args:
        plan: examples, batch size and epochs, as given to `fit`.
        noise_multiplier: σ > 0.
        delta: δ between 0 and 1; below 1 / examples to mean something.

    Raises:
        ValueError: a number out of its range.
        TypeError: no `Plan`, or something that is no number.
        ImportError: the extra `privacy` is not installed.

    >>> 1 < spent(Plan(examples=1000, batch_size=100, epochs=10), noise_multiplier=2.0, delta=1e-5).epsilon < 5
    True
    """
    _require_plan(plan)
    delta, noise_multiplier = _delta(delta), as_number("noise_multiplier", noise_multiplier)
    if not 0 < noise_multiplier < math.inf:
        raise ValueError(
            f"noise_multiplier is {noise_multiplier}: expected a positive number, without noise there is no privacy"
        )
    accountant = _accountant()
    accountant.compose(_event(plan, noise_multiplier))
    epsilon = float(accountant.get_epsilon(_usable(delta)))
    _require_tail_within(plan, epsilon, delta)
    return Spent(epsilon, delta)


def calibrate(plan: Plan, epsilon: float, delta: float) -> float:
    """The smallest noise multiplier σ, to 1e-3, with which `plan` spends at most (epsilon, delta).

    Raises:
        ValueError: a number out of its range.
        TypeError: no `Plan`, or something that is no number.
        ImportError: the extra `privacy` is not installed.

    >>> plan = Plan(examples=1000, batch_size=100, epochs=10)
    >>> 2.9 < spent(plan, calibrate(plan, epsilon=3.0, delta=1e-5), delta=1e-5).epsilon <= 3.0
    True
    """
    _require_plan(plan)
    delta, epsilon = _delta(delta), as_number("epsilon", epsilon)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}: expected a positive number, such as 3")
    _require_tail_within(plan, epsilon, delta)
    accounting = _dp_accounting()
    event, bracket = partial(_event, plan), accounting.LowerEndpointAndGuess(0, 1)
    return float(accounting.calibrate_dp_mechanism(_accountant, event, epsilon, _usable(delta), bracket, tol=1e-3))


def _event(plan, noise_multiplier):
    accounting = _dp_accounting()
    if noise_multiplier == 0:
        return accounting.NonPrivateDpEvent()
    one = accounting.PoissonSampledDpEvent(
        sampling_probability(plan.examples, plan.batch_size), accounting.GaussianDpEvent(noise_multiplier)
    )
    return accounting.SelfComposedDpEvent(one, plan.steps)


def _accountant():
    return _dp_accounting(".pld").PLDAccountant(_dp_accounting().NeighboringRelation.ADD_OR_REMOVE_ONE)


def _dp_accounting(part=""):
    return extra(f"dp_accounting{part}", "dp-accounting", "private training", "privacy")


def _usable(delta):
    """A thousandth of δ is kept back for draws that exceed the capacity."""
    return delta * (1 - 1e-3)


def _require_tail_within(plan, epsilon, delta):
    # a mechanism that differs from an (ε, δ) one with probability η at most is (ε, δ + (1 + e^ε) η)
    if plan.steps * TAIL * (1 + math.exp(min(epsilon, 700))) > 1e-3 * delta:
        raise ValueError(
            f"epsilon {epsilon:.3g} over {plan.steps} steps leaves nothing of delta {delta:g} for draws beyond the capacity: "
            "such an epsilon protects nobody; take a smaller one, or more noise"
        )


def _require_plan(plan):
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is a {type(plan).__name__}: expected a Plan(examples, batch_size, epochs)")


def as_number(name, number) -> float:
    """A number of any kind as a float.

    Raises:
        TypeError: something else.
    """
    if isinstance(number, Array | np.ndarray) and number.shape == ():
        number = number.item()
    if isinstance(number, bool | np.bool_) or not isinstance(number, Real):
        raise TypeError(f"{name} is {number!r}: expected a number")
    return float(number)


def _delta(delta) -> float:
    delta = as_number("delta", delta)
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}: expected a number between 0 and 1, below 1 / examples, such as 1e-5")
    return delta
