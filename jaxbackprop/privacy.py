"""Private training: each example's influence on the parameters bounded, and hidden in noise (Abadi et al. 2016).

One step of DP-SGD on n examples, with sampling probability q, clipping norm C and noise multiplier σ:

    sample     each example b independently with probability q            (Poisson sampling, so the batch's size varies)
    clip       g_b ← g_b min(1, C / |g_b|)                                 `factored.clip`: no per-example gradient is formed
    noise      g = (Σ_b g_b + N(0, σ² C² I)) / (q n)                       noise on the SUM; divided by the EXPECTED size

What the steps spend together, (ε, δ) for data sets that differ by adding or removing one example, is computed by Google's
`dp-accounting` (extra `privacy`) for exactly this: the Poisson-subsampled Gaussian mechanism, composed over the steps.
The sampler draws 32-bit integers and compares, so that its q is a multiple of 2⁻³², and that very q is accounted for.
Batches are padded to a fixed capacity that a draw exceeds with probability below 10⁻¹⁵; this too is taken from δ.

What is protected: the parameters after every step, and whatever is computed from them without the training data.
What is NOT: the training loss in metrics, curves and checkpoints, which is computed on the raw examples, and the digest in
checkpoints by which other data are told from these; n itself; the mean and scale that features are standardised by and the
classes, unless they are said beforehand (`--scale none`, `--bounds`, `--classes`); what the screen says of the data and of
the check of the gradient; a choice of settings by looking at several runs; the held-out examples, whose figures are measured
but never trained on. An example is one row.

All this hides an example only from those who cannot draw the same samples and noise. Their key is a secret: it is drawn from
the operating system, never from `--seed`, and what becomes of it stands in secret.py. It has 64 bits, and JAX's counter-based
generator (threefry) is no cryptographic one; noise is drawn in floating point, which an adversary who sees exact bits might
exploit (Mironov 2012). With several processes the first draws the key, and the network between them carries it in the clear.

How it was tried: tests/test_privacy_audit.py. An attacker who knows all but the secret guesses which of two data sets was
trained on, apart in one row, in four hundred runs, each with a secret of its own. For any (ε, δ) that the run spends, no guess
between two equally likely ones is right with a probability above (e^ε + δ) / (1 + e^ε) (Kairouz, Oh and Viswanath 2015,
theorem 2.1), so that the right guesses of m runs exceed the upper quantile of Binomial(m, that) about never.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from jaxbackprop.arithmetic import wide
from jaxbackprop.factors import total
from jaxbackprop.readouts import clip
from jaxbackprop.refusals import is_positive
from jaxbackprop.scaling.streaming import stream
from jaxbackprop.train import GradientMethod, Problem

TAIL = 1e-15  # the probability that a Poisson draw exceeds its fixed capacity


def private_gradient(max_norm: float, noise_multiplier: float) -> GradientMethod:
    """Make the gradient method of DP-SGD: `fit(..., gradient=private_gradient(1.0, 1.1))`.

    `fit`'s batch_size is the expected one, q n. Each step's sample and noise have keys of their own, derived from `fit`'s,
    which therefore is a SECRET: who knows it, or can guess it, subtracts the noise. Leave it out, and `fit` draws one from the
    operating system; or draw one yourself, `key=jaxbackprop.secret_key()`, to repeat a run. `jax.random.key(0)` protects
    nobody: `fit` warns of a key made from an integer (what was split off one it cannot tell).

    Args:
        max_norm: C, the bound on an example's gradient norm.
        noise_multiplier: σ, the noise's standard deviation in units of C; `calibrate` finds it from (ε, δ). At 0 there
            is no noise, and no privacy.

    Raises:
        ValueError: a bound that is not positive, or a negative noise multiplier.
        TypeError: something that is no number.

    >>> import optax
    >>> from jaxbackprop.network import mlp
    >>> from jaxbackprop.train import fit
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> state, history = fit(mlp((1, 8, 1)), "huber", optax.sgd(0.1), (x, x**2), epochs=2, batch_size=16,
    ...                      gradient=private_gradient(max_norm=1.0, noise_multiplier=1.1))
    >>> int(state.step)
    8
    """
    is_positive("max_norm", max_norm)
    noise_multiplier = _number("noise_multiplier", noise_multiplier)
    if not 0 <= noise_multiplier < math.inf:
        raise ValueError(f"noise_multiplier is {noise_multiplier}: expected a number of at least 0")
    return GradientMethod(
        poisson_batches, partial(_private_value_and_grad, float(max_norm), noise_multiplier), secret=True
    )


def _private_value_and_grad(max_norm: float, noise_multiplier: float, problem: Problem):
    clipped_sum = stream(problem.sweep, lambda fg: total(clip(fg, max_norm)))

    def value_and_grad(params, x, y, weight, key):
        value, sums = clipped_sum(params, x, y, weight=weight)
        flat, unflatten = ravel_pytree(sums)
        noise = noise_multiplier * max_norm * jax.random.normal(key, flat.shape, wide(flat.dtype))
        mean = ((flat + noise) / problem.batch_size).astype(flat.dtype)
        return value / jnp.maximum(jnp.sum(weight), 1).astype(value.dtype), unflatten(mean)

    return value_and_grad


def poisson_batches(
    key: Key[Array, ""], examples: int, batch_size: int
) -> tuple[Int[Array, "steps b"], Float[Array, "steps b"]]:
    """Draw each batch of an epoch by choosing each example independently with probability q = batch_size / examples.

    Fixed shapes: rows are padded to `capacity` and the padding has weight 0. An epoch is ⌈examples / batch_size⌉ draws.

    >>> rows, weight = poisson_batches(jax.random.key(0), examples=1000, batch_size=100)
    >>> rows.shape, bool(jnp.all(jnp.abs(weight.sum(axis=1) - 100) < 50))
    ((10, 183), True)
    """
    threshold, room = _threshold(examples, batch_size), capacity(examples, batch_size)

    def draw(key):
        chosen = jax.random.bits(key, (examples,), jnp.uint32) <= jnp.uint32(threshold - 1)
        (rows,) = jnp.nonzero(chosen, size=room, fill_value=0)
        return rows, (jnp.arange(room) < jnp.sum(chosen)).astype(jnp.float32)

    return jax.lax.map(draw, jax.random.split(key, -(-examples // batch_size)))


def sampling_probability(examples: int, batch_size: int) -> float:
    """The probability q with which `poisson_batches` chooses an example: exactly a multiple of 2⁻³².

    >>> sampling_probability(1000, 250)
    0.25
    """
    return _threshold(examples, batch_size) / 2**32


def _threshold(examples, batch_size):
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
        for name in ("examples", "batch_size", "epochs"):
            if isinstance(getattr(self, name), bool) or not isinstance(getattr(self, name), Integral):
                raise TypeError(f"{name} is {getattr(self, name)!r}: expected an integer of at least 1")
            object.__setattr__(self, name, int(getattr(self, name)))  # NumPy's would overflow
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected an integer of at least 1")
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
    delta, noise_multiplier = _delta(delta), _number("noise_multiplier", noise_multiplier)
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
    delta, epsilon = _delta(delta), _number("epsilon", epsilon)
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}: expected a positive number, such as 3")
    _require_tail_within(plan, epsilon, delta)
    accounting = _dp_accounting()
    bracket = accounting.LowerEndpointAndGuess(0, 1)
    return float(
        accounting.calibrate_dp_mechanism(
            _accountant, partial(_event, plan), epsilon, _usable(delta), bracket, tol=1e-3
        )
    )


def _event(plan, noise_multiplier):
    accounting = _dp_accounting()
    if noise_multiplier == 0:
        return accounting.NonPrivateDpEvent()
    one = accounting.PoissonSampledDpEvent(
        sampling_probability(plan.examples, plan.batch_size), accounting.GaussianDpEvent(noise_multiplier)
    )
    return accounting.SelfComposedDpEvent(one, plan.steps)


def _accountant():
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant(_dp_accounting().NeighboringRelation.ADD_OR_REMOVE_ONE)


def _dp_accounting():
    try:
        import dp_accounting
    except ImportError:
        raise ImportError("private training needs dp-accounting: pip install 'jaxbackprop[privacy]'") from None
    return dp_accounting


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


def _number(name, number) -> float:
    if isinstance(number, Array | np.ndarray) and number.shape == ():
        number = number.item()
    if isinstance(number, bool | np.bool_) or not isinstance(number, Real):
        raise TypeError(f"{name} is {number!r}: expected a number")
    return float(number)


def _delta(delta) -> float:
    delta = _number("delta", delta)
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}: expected a number between 0 and 1, below 1 / examples, such as 1e-5")
    return delta
