"""Ways to make a batch's gradient: the hand-derived sweep or `jax.grad`, over the same shuffled batches.

Both give the same trajectory. That of private training is in privacy.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxbackprop.factors import total
from jaxbackprop.gradient import value_and_grad
from jaxbackprop.model import Sweep
from jaxbackprop.scaling.streaming import stream
from jaxbackprop.training.steps import GradientMethod, Problem, mean_loss

WHOLE = 2**62  # a tile that holds any batch


def shuffled_batches(
    key: Key[Array, ""], examples: int, batch_size: int
) -> tuple[Int[Array, "steps b"], Float[Array, "steps b"]]:
    """Shuffle the examples' indices into full batches; what the last one lacks is padded with weight 0.

    >>> rows, weight = shuffled_batches(jax.random.key(0), examples=5, batch_size=2)
    >>> rows.shape, weight.sum(axis=1).tolist()
    ((3, 2), [2.0, 2.0, 1.0])
    """
    steps = -(-examples // batch_size)
    padding = steps * batch_size - examples
    rows = jnp.pad(permutation(key, examples), (0, padding))
    weight = jnp.pad(jnp.ones(examples), (0, padding))
    return rows.reshape(steps, batch_size), weight.reshape(steps, batch_size)


def permutation(key: Key[Array, ""], examples: int) -> Int[Array, " examples"]:
    """Draw `jax.random.permutation(key, examples)`, number for number, at a fraction of its price on a CPU.

    A shuffle sorts the examples by random 32-bit numbers, often enough that ties do not show. JAX sorts two arrays by
    the first; here (number, place) is one 64-bit number, number in front, which sorts the same and several times faster.

    >>> bool(jnp.all(permutation(jax.random.key(0), 1000) == jax.random.permutation(jax.random.key(0), 1000)))
    True
    """
    rows = jnp.arange(examples)
    for _ in range(math.ceil(3 * math.log(examples) / math.log(2**32 - 1))):
        key, bits_key = jax.random.split(key)
        bits = jax.random.bits(bits_key, (examples,), jnp.uint32)
        with jax.enable_x64(True):
            packed = (bits.astype(jnp.uint64) << 32) | jnp.arange(examples, dtype=jnp.uint64)
            place = jnp.astype(jax.lax.sort(packed) & (2**32 - 1), rows.dtype)
        rows = rows[place]
    return rows


def _by_hand(problem: Problem) -> Callable:
    # laid over a mesh a batch is swept whole: tiles would be cut across the devices
    tile = None if problem.mesh is None else WHOLE
    if isinstance(problem.model, Sweep):
        summed = stream(problem.model, total, tile=tile)

        def run(params, x, y, weight):
            count = jnp.maximum(jnp.sum(weight), 1)
            return jax.tree.map(lambda a: (a / count).astype(a.dtype), summed(params, x, y, weight=weight))
    else:
        run = value_and_grad(problem.model.network, problem.model.loss, tile=tile)
    return lambda params, x, y, weight, _key: run(params, x, y, weight)


def _by_jax_grad(problem: Problem) -> Callable:
    run = jax.value_and_grad(mean_loss(problem.model))
    return lambda params, x, y, weight, _key: run(params, x, y, weight)


GRADIENTS: dict[str, GradientMethod] = {
    "hand": GradientMethod(shuffled_batches, _by_hand),
    "jax.grad": GradientMethod(shuffled_batches, _by_jax_grad),
}
