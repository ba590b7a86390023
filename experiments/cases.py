"""What is differentiated: networks wired as in the exercise, and a GPT, on batches that repeat a slice of examples.

A batch of millions that repeats its first 65,536 examples, or fewer, has the same mean gradient as those: the program that is
timed is itself compared with `vmap(jax.grad)` in float64 over the slice, and that takes seconds at any batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import any_models
import jax
import jax.numpy as jnp
import measure
import numpy as np
from any_models import cast
from ceilings import CLIPPED, GRADIENT, NORMS, gpt_flops, least_bytes, network_flops
from rivals import clipped_sum, loss_of_one, per_example_gradients, plain_loss, squared_norms

import jaxbackprop as jbp

LOSS, MAX_NORM = "half_squared_error", 1.0
EXERCISE = (1, 1, 1, 1)
LARGEST_SLICE, LARGEST_ENTRIES, LARGEST_FLOPS = 65_536, 2**28, 3e10  # examples, entries of all their gradients, flops


class Subject(NamedTuple):
    """A network or a model, its loss as one would write it, and how to draw as many examples as one likes."""

    name: str
    params: Callable[[], Any]
    examples: Callable[[int], tuple]
    loss: Callable  # the mean over a batch
    loss_of_one: Callable
    flops: Callable[[Any, str], float]  # of one example, for a quantity
    widths: tuple[int, ...] | None = None


class Case(NamedTuple):
    """A subject with its parameters and data on the device; from example `period` on the data repeat."""

    subject: Subject
    dtype: str
    params: Any
    data: tuple[jax.Array, ...]
    period: int

    @property
    def batch(self) -> int:
        """How many examples."""
        return len(self.data[0])

    @property
    def slice(self) -> tuple[jax.Array, ...]:
        """The examples that are repeated."""
        return tuple(a[: self.period] for a in self.data)

    def work(self, quantity: str) -> dict[str, float]:
        """The flops and bytes that a quantity needs at the least."""
        return {
            "flops": self.batch * self.subject.flops(self.params, quantity),
            "least_bytes": least_bytes(self.params, self.data, quantity),
        }


def network(widths: tuple[int, ...]) -> Subject:
    """The exercise's wiring: every hidden layer feeds yhat."""

    def params():
        return jbp.init(jbp.skip_mlp(widths), jax.random.key(0))

    def examples(batch):
        kx, ky = jax.random.split(jax.random.key(1))
        return jax.random.normal(kx, (batch, widths[0])), jax.random.normal(ky, (batch, widths[-1]))

    return Subject("-".join(map(str, widths)), params, examples, plain_loss, loss_of_one, network_flops, widths)


def gpt(width: int, layers: int, positions: int, vocabulary: int = 1000) -> Subject:
    """Next-token loss of a small GPT; its embedding is also its head."""
    model = any_models.gpt(width, layers, positions, vocabulary)

    def loss(params, sequences):
        return jnp.mean(jax.vmap(model.loss, (None, 0))(params, sequences))

    name = f"GPT d={width}, T={positions}, {layers} layers"
    return Subject(name, lambda: model.params, model.examples, loss, model.loss, gpt_flops)


def make_case(subject: Subject, batch: int, dtype: str) -> Case:
    """Data and parameters are drawn in float32: drawn in bfloat16 they would take a few hundred values only."""
    params = cast(subject.params(), dtype)
    period = period_of(batch, most_compared(subject, params))
    drawn = jax.eval_shape(lambda: cast(subject.examples(batch), dtype))
    measure.require_memory(2 * sum(a.size * a.dtype.itemsize for a in drawn))

    @partial(jax.jit, static_argnums=0)
    def repeated(times):
        examples = cast(subject.examples(period), dtype)
        return jax.tree.map(lambda a: jnp.tile(a, (times, *[1] * (a.ndim - 1))), examples)

    return Case(subject, dtype, params, jax.block_until_ready(repeated(batch // period)), period)


def most_compared(subject: Subject, params: Any) -> int:
    """The examples that a slice may have, so that the reference takes seconds and not minutes."""
    entries = LARGEST_ENTRIES // sum(a.size for a in jax.tree.leaves(params))
    return max(1, min(LARGEST_SLICE, entries, int(LARGEST_FLOPS / subject.flops(params, GRADIENT))))


def period_of(batch: int, most: int) -> int:
    """The largest divisor of the batch up to `most`.

    >>> period_of(10_000_000, 65_536)
    62500
    """
    return next(size for size in range(min(batch, most), 0, -1) if batch % size == 0)


# ---- the reference


def in_float64(function: Callable, *args, tile: int | None = None) -> list[Any]:
    """In float64 on the host, whatever the device can do: the results of tiles of the data, which follow the parameters."""
    try:
        host = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may leave it out
        host = jax.devices()[0]
    with jax.enable_x64(True), jax.default_device(host):
        params, *data = jax.tree.map(np.asarray, args)
        params, *data = (jax.tree.map(jnp.asarray, cast(a, "float64")) for a in (params, *data))
        run, size = jax.jit(function), tile or len(data[0])
        parts = [run(params, *(a[i : i + size] for a in data)) for i in range(0, len(data[0]), size)]
        return jax.tree.map(np.asarray, parts)


def reference(case: Case) -> dict[str, Any]:
    """The mean gradient, the mean clipped gradient and the slice's norms, by `vmap(jax.grad)`: nothing of ours is in it."""

    def readouts(params, *data):
        grads = per_example_gradients(case.subject.loss_of_one, (None, *[0] * len(data)))(params, *data)
        return (
            jax.tree.map(lambda g: jnp.sum(g, 0), grads),
            clipped_sum(grads, MAX_NORM),
            jnp.sqrt(squared_norms(grads)),
        )

    numbers = sum(a.size for a in jax.tree.leaves(case.params))
    parts = in_float64(readouts, case.params, *case.slice, tile=max(1, min(case.period, 2**23 // numbers)))
    sums, clipped, norms = zip(*parts, strict=True)
    return {GRADIENT: _mean(sums, case.period), CLIPPED: _mean(clipped, case.period), NORMS: np.concatenate(norms)}


def _mean(parts, count: int) -> Any:
    return jax.tree.map(lambda *leaves: sum(leaves) / count, *parts)


def tolerance(dtype: str, batch: int, of_jax_grad: float = 0.0) -> float:
    """What arithmetic explains, relative to the norm of a parameter's gradient; a term left out would be far outside.

    float32: a sum of B terms one after the other strays by about ε √B. bfloat16: some 25 roundings. In either there are
    units whose z rounds to the other side of zero, and their masks differ from float64's; no bound by itself covers
    that, but `jax.grad` rounds the same z: a few times its own error, and never beyond 0.1.
    """
    rounding = {"float32": 2e-5 + 2 * 2**-24 * batch**0.5, "bfloat16": 0.1}[dtype]
    return max(rounding, min(4 * of_jax_grad, 0.1))
