"""Private training: each example's influence on the parameters bounded, and hidden in noise (Abadi et al. 2016).

One step of DP-SGD on n examples, with sampling probability q, clipping norm C and noise multiplier σ:

    sample     each example b independently with probability q            (Poisson sampling, so the batch's size varies)
    clip       g_b ← g_b min(1, C / |g_b|)                                 `factored.clip`: no per-example gradient is formed
    noise      g = (Σ_b g_b + N(0, σ² C² I)) / (q n)                       noise on the SUM; divided by the EXPECTED size

What the steps spend together, (ε, δ), is computed in accounting.py.

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
from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, Key

from jaxbackprop.arithmetic import wide
from jaxbackprop.factors import total
from jaxbackprop.readouts import clip
from jaxbackprop.refusals import is_positive
from jaxbackprop.scaling.streaming import stream
from jaxbackprop.training.accounting import as_number, capacity, threshold
from jaxbackprop.training.steps import GradientMethod, Problem


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
    >>> from jaxbackprop.training.fit import fit
    >>> x = jnp.linspace(-1, 1, 64)[:, None]
    >>> state, history = fit(mlp((1, 8, 1)), "huber", optax.sgd(0.1), (x, x**2), epochs=2, batch_size=16,
    ...                      gradient=private_gradient(max_norm=1.0, noise_multiplier=1.1))
    >>> int(state.step)
    8
    """
    is_positive("max_norm", max_norm)
    noise_multiplier = as_number("noise_multiplier", noise_multiplier)
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
    chosen_below, room = threshold(examples, batch_size), capacity(examples, batch_size)

    def draw(key):
        chosen = jax.random.bits(key, (examples,), jnp.uint32) <= jnp.uint32(chosen_below - 1)
        (rows,) = jnp.nonzero(chosen, size=room, fill_value=0)
        return rows, (jnp.arange(room) < jnp.sum(chosen)).astype(jnp.float32)

    return jax.lax.map(draw, jax.random.split(key, -(-examples // batch_size)))
