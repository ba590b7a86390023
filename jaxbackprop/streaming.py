"""Readouts accumulated tile by tile: what is summed over a batch needs the memory of one tile, however large the batch.

A readout that sums over examples, such as `total`, or `lambda fg: total(clip(fg, 1.0))`, may be summed over parts of the
batch just as well: Σ_b = Σ_tiles Σ_b∈tile. So sweep one tile, read it out, add, go on; one compiled `lax.scan`. It is
also faster where a tile's activations stay in the cache that the whole batch's would leave.

The same holds within a tile, whose parts may be single examples. In a network of the very narrowest layers the sum over
a tile costs more than all else. There each example is read out by itself, side by side in long vectors ("lanes"), the
lanes of all tiles are added elementwise, and one sum over the lanes is left for the end.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop._names import require_hashable
from jaxbackprop.backprop import FactoredGradient, LossLike, require_batch, sweep_batch, total, weighted_sum
from jaxbackprop.losses import Loss, as_loss
from jaxbackprop.network import Network, Precision, count_parameters, require_network, widened, widths

Readout = Callable[[FactoredGradient], Any]

# Measured on two CPU cores with 512 KB of cache each and 32 MB together; experiments/README.md. On an accelerator a tile
# should be large.
LANES = 40  # up to so many parameters a tile is read out in lanes,
LANE_NUMBERS = 2**17  # which hold at most so many numbers
CPU_WHOLE_BYTES = 48 * 2**20  # up to here a batch's activations are as fast whole,
CPU_TILE_BYTES = 24 * 2**20  # beyond, in tiles that stay in the cache
ACCELERATOR_TILE_BYTES = 2**30
SMALLEST_TILE = 1024  # adding a tile's gradient to the sum, a pass over the parameters, must not be felt


class Sums(NamedTuple):
    """What is summed, and how: all that is static in its compiled program."""

    network: Network
    loss: Loss
    readout: Readout
    tile: int | None
    precision: Precision


def stream(
    network: Network, loss: LossLike, readout: Readout = total, tile: int | None = None, precision: Precision = None
) -> Callable:
    """Return a function that sums the losses and a readout over a batch, with the memory of one tile; compiled.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        readout: `FactoredGradient` → a pytree of sums over its examples. Keep it in a variable: a new lambda each
            time is a new program each time. One that gives something for each example is refused; a mean is not told
            from a sum.
        tile: examples swept at a time; by default what suits the device.
        precision: of the sweep's products, as in `jax.lax.Precision`.

    Returns:
        (params, x (b, d), y (b, …), weight (b,) or None) → (Σ_b c_b L_b, Σ over tiles of readout). Weights enter at
        dyhat, before the readout: with 0 and 1 they choose examples. What the tiles leave over is one smaller tile.

    Raises:
        ValueError: a tile below 1, a readout that is no sum, or shapes or dtypes that do not fit.
        TypeError: no network, no function as readout, or something that is not an array where one is needed.

    >>> from jaxbackprop.factored import clip
    >>> from jaxbackprop.network import init, mlp
    >>> net = mlp((2, 3, 1))
    >>> clipped_sum = stream(net, "huber", lambda fg: total(clip(fg, 1.0)), tile=4)
    >>> value, grads = clipped_sum(init(net, jax.random.key(0)), jnp.ones((10, 2)), jnp.zeros((10, 1)))
    >>> grads["h0"]["x"].shape
    (3, 2)
    """
    require_network(network, precision)
    require_readout(readout)
    return _compiled(Sums(network, as_loss(loss), readout, require_tile(tile), precision))


@lru_cache(maxsize=512)
def _compiled(sums: Sums) -> Callable:
    # what does not fit is refused while tracing: a program that runs again has nothing to check
    @jax.jit
    def summed(params, x, y, weight=None):
        require_batch(sums.network, params, x, y, weight)
        require_sums(sums, params, x, y)
        return add_up(sums, params, x, y, 1.0 if weight is None else weight)

    return summed


def add_up(sums: Sums, params, x, y, c):
    """Σ_b c_b L_b and Σ over tiles of the readout; c is one number, or one for each example. To be compiled."""
    examples = jnp.shape(x)[0]
    if sums.tile:
        return _in_tiles(sums, min(sums.tile, examples), params, x, y, c)
    cpu, other = (best_tile(sums.network, jnp.result_type(x), examples, platform) for platform in ("cpu", "other"))
    if cpu == other:
        return _in_tiles(sums, cpu, params, x, y, c)
    # by the device that the program is lowered for, which need not be the one that it is traced on
    on_cpu, elsewhere = (partial(_in_tiles, sums, tile) for tile in (cpu, other))
    return jax.lax.platform_dependent(params, x, y, c, cpu=on_cpu, default=elsewhere)


def _in_tiles(sums: Sums, tile: int, params, x, y, c):
    network, readout, examples = sums.network, sums.readout, jnp.shape(x)[0]

    def swept(start, size):
        parts = [
            a if jnp.ndim(a) == 0 else jax.lax.dynamic_slice_in_dim(jnp.asarray(a), start, size) for a in (x, y, c)
        ]
        values, fg, _ = sweep_batch(params, *parts, network=network, loss=sums.loss, precision=sums.precision)
        return values, parts[-1], fg

    def read(values, c, fg):
        return weighted_sum(values, c), readout(fg)

    def read_in_lanes(values, c, fg):
        one = jax.vmap(lambda example: readout(jax.tree.map(lambda a: a[None], example)), out_axes=-1)
        return values * c, one(fg)

    full, rest = divmod(examples, tile)
    if full == 1 and not rest:
        return read(*swept(0, tile))
    in_lanes = count_parameters(network) <= LANES
    each = read_in_lanes if in_lanes else read
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: each(*widened(swept(0, tile)))))
    found, _ = jax.lax.scan(
        lambda sofar, i: (jax.tree.map(jnp.add, sofar, each(*widened(swept(i * tile, tile)))), None),
        zeros,
        jnp.arange(full),
    )
    if in_lanes:
        found = jax.tree.map(lambda a: jnp.sum(a, axis=-1), found)
    if rest:
        found = jax.tree.map(jnp.add, found, read(*widened(swept(full * tile, rest))))
    like = jax.eval_shape(lambda: read(*swept(0, tile)))
    return jax.tree.map(lambda a, like: a.astype(like.dtype), found, like)


def best_tile(network: Network, dtype, examples: int, platform: str) -> int:
    """How many examples to sweep at a time on a platform, where possible so many that tiles divide the batch.

    >>> from jaxbackprop.network import mlp
    >>> best_tile(mlp((8, 64, 1)), jnp.float32, 10, "cpu")
    10
    """
    numbers = count_parameters(network)
    activations = 3 * sum(widths(network).values()) * jnp.dtype(dtype).itemsize  # z, h and dz
    if platform != "cpu":
        largest = max(ACCELERATOR_TILE_BYTES // activations, 1)
    elif numbers <= LANES:
        largest = min(LANE_NUMBERS // numbers, max(examples // 8, SMALLEST_TILE))
    elif activations * examples <= CPU_WHOLE_BYTES:
        largest = examples
    else:
        largest = max(CPU_TILE_BYTES // activations, SMALLEST_TILE)
    fewest = -(-examples // largest)
    return next((examples // n for n in range(fewest, 2 * fewest) if examples % n == 0), -(-examples // fewest))


def require_readout(readout: Any) -> None:
    """Refuse what is not a function, or cannot be looked up by."""
    if not callable(readout):
        raise TypeError(
            f"readout is a {type(readout).__name__}: expected a function of a FactoredGradient, such as total"
        )
    require_hashable("readout", readout)


def require_sums(sums: Any, params, x, y) -> None:
    """Refuse a readout that gives other shapes for other numbers of examples: it does not sum over them."""
    if sums.readout is total:
        return

    def read(examples):
        args = {"network": sums.network, "loss": sums.loss, "precision": sums.precision}
        fg = sweep_batch(params, x, y, **args)[1]
        return sums.readout(jax.tree.map(lambda a: jnp.zeros((examples, *a.shape[1:]), a.dtype), fg))

    two, three = (jax.eval_shape(partial(read, examples)) for examples in (2, 3))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(two), jax.tree.leaves(three), strict=False):
        if a.shape != b.shape:
            raise ValueError(
                f"readout{jax.tree_util.keystr(path)} has shape {a.shape} for 2 examples and {b.shape} for 3: expected a sum "
                "over the examples; take per_example for what each of them has"
            )


def require_tile(tile: Any) -> int | None:
    """Refuse a tile that is neither None nor a positive integer."""
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, Integral) or tile < 1):
        raise ValueError(f"tile is {tile!r}: expected an integer of at least 1, or None for what suits the device")
    return None if tile is None else int(tile)
