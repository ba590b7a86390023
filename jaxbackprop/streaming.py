"""Readouts accumulated tile by tile: what is summed over a batch needs the memory of one tile, however large the batch.

A readout that sums over examples, such as `total`, or `lambda fg: total(clip(fg, 1.0))`, may be summed over parts of the
batch just as well: Σ_b = Σ_tiles Σ_b∈tile. So sweep one tile, read it out, add, go on; one compiled `lax.scan`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxbackprop.backprop import FactoredGradient, LossLike, require_batch, sweep_batch, total, weighted_sum
from jaxbackprop.losses import as_loss
from jaxbackprop.network import Network, Precision, wide

Readout = Callable[[FactoredGradient], Any]


def stream(
    network: Network, loss: LossLike, readout: Readout = total, tile: int = 1024, precision: Precision = None
) -> Callable:
    """Return a function that sums the losses and a readout over a batch, with the memory of one tile.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        readout: `FactoredGradient` → a pytree of sums over its examples. Keep it in a variable: a new lambda each
            time is a new program each time.
        tile: examples swept at a time.
        precision: of the sweep's products, as in `jax.lax.Precision`.

    Returns:
        (params, x (b, d), y (b, …), weight (b,) or None) → (Σ_b c_b L_b, Σ over tiles of readout). Weights enter at
        dyhat, before the readout: with 0 and 1 they choose examples. What `tile` leaves over is one smaller tile.

    Raises:
        ValueError: a tile below 1, or shapes or dtypes that do not fit.

    >>> from jaxbackprop.factored import clip
    >>> from jaxbackprop.network import init, mlp
    >>> net = mlp((2, 3, 1))
    >>> clipped_sum = stream(net, "huber", lambda fg: total(clip(fg, 1.0)), tile=4)
    >>> value, grads = clipped_sum(init(net, jax.random.key(0)), jnp.ones((10, 2)), jnp.zeros((10, 1)))
    >>> grads["h0"]["x"].shape
    (3, 2)
    """
    if isinstance(tile, bool) or not hasattr(tile, "__index__") or tile < 1:
        raise ValueError(f"tile is {tile!r}: expected an integer of at least 1")
    loss = as_loss(loss)

    def summed(params, x, y, weight=None):
        require_batch(network, params, x, y, weight)
        return _stream(
            params,
            x,
            y,
            weight,
            network=network,
            loss=loss,
            readout=readout,
            tile=min(int(tile), len(x)),
            precision=precision,
        )

    return summed


@partial(jax.jit, static_argnames=("network", "loss", "readout", "tile", "precision"))
def _stream(params, x, y, weight, *, network, loss, readout, tile, precision):
    def part(start, size):
        rows = [
            None if a is None else jax.lax.dynamic_slice_in_dim(jnp.asarray(a), start, size) for a in (x, y, weight)
        ]
        c = 1.0 if weight is None else rows[2]
        values, fg, _ = sweep_batch(params, *rows[:2], c, network=network, loss=loss, precision=precision)
        return weighted_sum(values, c), readout(fg)

    def add(sums, part):
        # sums in float32 at least, whatever the dtype of the parts
        return jax.tree.map(lambda a, b: a + b.astype(a.dtype), sums, part)

    like = jax.eval_shape(lambda: part(0, tile))
    sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _accumulator(leaf.dtype)), like)
    full, rest = divmod(x.shape[0], tile)
    sums, _ = jax.lax.scan(lambda sums, start: (add(sums, part(start, tile)), None), sums, tile * jnp.arange(full))
    if rest:
        sums = add(sums, part(full * tile, rest))
    return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), sums, like)


def _accumulator(dtype):
    return wide(dtype) if jnp.issubdtype(dtype, jnp.floating) else dtype
