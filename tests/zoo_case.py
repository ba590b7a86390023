"""What a case of the zoo is made of: a loss of one example, parameters, a batch.

A case is a function of `rnd`, a source of numbers seeded by the name of the case. Call it in float64. All lengths in a case
differ where they can, so that a transpose fails.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

B = 4  # examples


class Case(NamedTuple):
    """The loss of one example, the parameters, the batch, and how the loss takes them."""

    loss: Callable
    params: Any
    batch: tuple
    in_axes: Any = 0  # of the batch
    argnums: Any = 0  # of the parameters
    has_aux: bool = False
    tolerance: float = 1e-10


class Random:
    """Numbers for one case: rnd(2, 3) is normal, rnd.ids(7, 4) are integers below 7."""

    def __init__(self, name):
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def __call__(self, *shape):
        return jnp.asarray(self.rng.normal(size=shape))

    def ids(self, below, *shape):
        return jnp.asarray(self.rng.integers(0, below, size=shape))

    def keys(self):
        return jax.random.split(jax.random.key(int(self.rng.integers(99))), B)

    def like(self, tree):
        """Every leaf drawn anew, in float64."""
        return jax.tree.map(lambda a: self(*jnp.shape(a)), tree)


def bend(z):
    """A scalar whose derivative is another at each entry, and not linear."""
    return sum(jnp.sum(jnp.sin(a + jnp.arange(a.size).reshape(a.shape))) for a in jax.tree.leaves(z))


def of(f, params, *batch, **options):
    """The case whose loss bends f(params, *example)."""
    return Case(lambda p, *example: bend(f(p, *example)), params, batch, **options)


def loose(f, params, *batch):
    """A case with float32 or less inside."""
    return of(f, params, *batch, tolerance=2e-5)


def of_matrix(f, shape, *example):
    """f(W, x) of one leaf and one input."""
    return lambda rnd: of(f, rnd(*shape), rnd(B, *example))


def looked_up(f, shape, below, *ids, low=0):
    """f(W, ids) of one leaf and ids of an example."""
    return lambda rnd: of(f, rnd(*shape), rnd.ids(below - low, B, *ids) + low)
