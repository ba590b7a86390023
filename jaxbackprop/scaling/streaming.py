"""Readouts accumulated tile by tile: what is summed over a batch needs the memory of one tile, however large the batch.

A readout that sums over examples, such as `total`, or `lambda fg: total(clip(fg, 1.0))`, may be summed over parts of the
batch just as well: Σ_b = Σ_tiles Σ_b∈tile. So sweep one tile, read it out, add, go on; one compiled `lax.scan`. It is
also faster where a tile's activations stay in the cache that the whole batch's would leave.

The same holds within a tile, whose parts may be single examples. In a network of the very narrowest layers the sum over
a tile costs more than all else. There each example is read out by itself, side by side in long vectors ("lanes"), the
lanes of all tiles are added elementwise, and one sum over the lanes is left for the end.

Both are of a CPU. An accelerator sweeps the whole batch at once where its memory has room.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache, partial, wraps
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.arithmetic import weighted_sum, wide, widened
from jaxbackprop.backprop import per_example
from jaxbackprop.factors import FactoredGradient, total
from jaxbackprop.model import Sweep
from jaxbackprop.network import Network
from jaxbackprop.programs.factored import factored
from jaxbackprop.words import require_hashable

Readout = Callable[[FactoredGradient], Any]

# Measured on two CPU cores with 512 KB of cache each and 32 MB together; experiments/README.md.
LANES = 40  # up to so many parameters a tile is read out in lanes,
LANE_NUMBERS = 2**17  # which hold at most so many numbers
# Up to here a batch's activations are as fast whole. From 32 MiB on glibc asks the system for memory at every call, and each
# page of it is a fault: 8-8-8-8 and 131,072 examples in half precision took 2.3 times as long as jax.grad with 33.6 MB, as long
# with 25.2. The estimate below is above what is taken: 37.7 MB where that is 29.4.
CPU_WHOLE_BYTES = 40 * 2**20
CPU_TILE_BYTES = 24 * 2**20  # beyond, in tiles that stay in the cache
SMALLEST_TILE = 1024  # adding a tile's gradient to the sum, a pass over the parameters, must not be felt
# On an H200 the whole batch at once was 1 to 7 times as fast as tiles of 1 GiB, in lanes least of all: there are none there.
ACCELERATOR_SHARE = 0.75  # of what is free a batch may take; more is swept
ACCELERATOR_TILE_BYTES = 2**30  # in tiles of so much
UNKNOWN_BYTES = 2**33  # where the device does not say what is free


class Sums(NamedTuple):
    """What is summed, and how: all that is static in its compiled program."""

    sweep: Sweep
    readout: Readout
    tile: int | None


@lru_cache(maxsize=512)
def compiled(function: Callable, *static: Any) -> Callable:
    """One program for each function and what is static in it, however often it is asked for.

    What does not fit is refused while tracing: a program that runs again has nothing to check.
    """

    @wraps(function)
    def program(*args, **kwargs):
        return function(*static, *args, **kwargs)

    program.__signature__ = inspect.signature(partial(function, *static))  # pyright: ignore[reportAttributeAccessIssue]
    return jax.jit(program)


def stream(
    network: Network | Sweep | Callable,
    loss: Any = None,
    readout: Readout | None = None,
    tile: int | None = None,
    precision: Any = None,
) -> Callable:
    """Return a function that sums the losses and a readout over a batch, with the memory of one tile; compiled.

    Args:
        network: the wiring; or any `Sweep`, or the loss of one example that `factored` makes one of, and then what follows is
            the readout: `stream(loss, readout, tile=64)`.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        readout: `FactoredGradient` → a pytree of sums over its examples; `total` by default. Keep it in a variable: a new
            lambda each time is a new program each time. One that gives something for each example is refused; a mean is
            not told from a sum.
        tile: examples swept at a time; by default what suits the device.
        precision: of the sweep's products, as in `jax.lax.Precision`.

    Returns:
        (params, x (b, d), y (b, …), weight=None (b,)) → (Σ_b c_b L_b, Σ over tiles of readout); of a `Sweep`
        (params, *batch, weight=None). Weights enter at
        dyhat, before the readout: with 0 and 1 they choose examples. What the tiles leave over is one smaller tile.

    Raises:
        ValueError: a tile below 1, a readout that is no sum, a loss with aux, or shapes or dtypes that do not fit.
        TypeError: no network, no function as readout, or something that is not an array where one is needed.

    >>> clipped_sum = stream(net, "huber", lambda fg: total(jbp.clip(fg, 1.0)), tile=4)
    >>> value, grads = clipped_sum(params, x, y)
    >>> grads["h0"]["x"].shape
    (3, 2)
    """
    if callable(network):
        sweep = network if isinstance(network, Sweep) else factored(network)
        of_batch, readout = summed, readout if loss is None else loss
    else:
        of_batch, sweep = _summed_pairs, per_example(network, loss, precision)
    if getattr(sweep.model, "has_aux", False):
        raise ValueError("the sweep gives aux beside the losses, which no sum keeps: make it without has_aux")
    return compiled(of_batch, Sums(sweep, as_readout(readout), is_tile(tile)))


def _summed_pairs(sums, params, x, y, weight=None):
    return summed(sums, params, x, y, weight=weight)


def summed(sums: Sums, *args, weight=None):
    """Σ_b c_b L_b and Σ over tiles of the readout, of a batch that is asked for first. To be compiled."""
    params, batch = sums.sweep.arranged(sums.sweep.model, args)
    sums.sweep.door(sums.sweep.model, params, *batch, weight=weight)
    is_sum(sums, params, *batch)
    return add_up(sums, params, *batch, c=1.0 if weight is None else weight)


def add_up(sums: Sums, params, *batch, c):
    """Σ_b c_b L_b and Σ over tiles of the readout; c is one number, or one for each example. To be compiled."""
    # by the device that the program is lowered for, which need not be the one that it is traced on
    cpu, other = (_way(sums, params, batch, platform) for platform in ("cpu", "other"))
    if cpu == other:
        return _in_tiles(sums, cpu, params, batch, c)
    on_cpu, elsewhere = (partial(_in_tiles, sums, way) for way in (cpu, other))
    return jax.lax.platform_dependent(params, batch, c, cpu=on_cpu, default=elsewhere)


class Way(NamedTuple):
    """How a batch is gone through: how many examples at a time, read out in lanes or not, and in float32 at least or not."""

    tile: int
    in_lanes: bool
    widened: bool


def _way(sums: Sums, params, batch, platform: str) -> Way:
    """What suits a platform."""
    examples, numbers, on_cpu = _examples(batch), _numbers(params), platform == "cpu"
    tile = min(sums.tile, examples) if sums.tile else best_tile(sums.sweep, params, batch, platform)
    # A CPU turns half precision into float32 for each product, and back, unless it has units for it. Elsewhere too the
    # narrowest layers are elementwise, and would be rounded at each step.
    in_float32 = _is_half((params, batch)) and (on_cpu or numbers <= LANES)
    return Way(tile, on_cpu and tile < examples and numbers <= LANES, in_float32)


def _is_half(tree) -> bool:
    dtypes = map(jnp.result_type, jax.tree.leaves(tree))
    return any(jnp.issubdtype(dtype, jnp.floating) and wide(dtype) != dtype for dtype in dtypes)


def _in_tiles(sums: Sums, way: Way, params, batch, c):
    examples, tile = _examples(batch), way.tile

    def swept(start, size, dtypes):
        def part(a):
            return a if jnp.ndim(a) == 0 else jax.lax.dynamic_slice_in_dim(jnp.asarray(a), start, size)

        weights, *tiles, weight = dtypes((params, *jax.tree.map(part, (*batch, c))))
        values, fg = sums.sweep.swept(sums.sweep.model, weights, *tiles, weight=weight)
        return values, weight, fg

    def read(values, c, fg):
        return weighted_sum(values, c), sums.readout(fg)

    def read_in_lanes(values, c, fg):
        one = jax.vmap(lambda example: sums.readout(jax.tree.map(lambda a: a[None], example)), out_axes=-1)
        return values * c, one(fg)

    dtypes = widened if way.widened else _as_given
    like = jax.eval_shape(lambda: read(*swept(0, tile, _as_given)))
    full, rest = divmod(examples, tile)
    if full == 1 and not rest:
        return _typed_like(read(*swept(0, tile, dtypes)), like)
    each = read_in_lanes if way.in_lanes else read
    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(lambda: each(*widened(swept(0, tile, dtypes))))
    )
    found, _ = jax.lax.scan(
        lambda sofar, i: (jax.tree.map(jnp.add, sofar, each(*widened(swept(i * tile, tile, dtypes)))), None),
        zeros,
        jnp.arange(full),
    )
    if way.in_lanes:
        found = jax.tree.map(lambda a: jnp.sum(a, axis=-1), found)
    if rest:
        found = jax.tree.map(jnp.add, found, read(*widened(swept(full * tile, rest, dtypes))))
    return _typed_like(found, like)


def _as_given(tree):
    return tree


def _typed_like(found, like):
    return jax.tree.map(lambda a, like: a.astype(like.dtype), found, like)


def best_tile(sweep: Sweep, params, batch, platform: str) -> int:
    """How many examples to sweep at a time on a platform, where possible so many that tiles divide the batch.

    >>> best_tile(jbp.per_example(net, "huber"), params, (x, y), "cpu")
    5
    """
    examples, numbers = _examples(batch), _numbers(params)
    on_cpu = platform == "cpu"
    bytes_each = _bytes_of_an_example(sweep, on_cpu, params, batch)
    if not on_cpu:
        room = int(ACCELERATOR_SHARE * free_bytes(jax.devices()[0]))
        fits = bytes_each * examples <= room
        largest = examples if fits else min(room, ACCELERATOR_TILE_BYTES) // bytes_each
    elif numbers <= LANES:
        largest = min(LANE_NUMBERS // numbers, max(examples // 8, SMALLEST_TILE))
    elif bytes_each * examples <= CPU_WHOLE_BYTES:
        largest = examples
    else:
        largest = max(CPU_TILE_BYTES // bytes_each, SMALLEST_TILE)
    fewest = -(-examples // max(largest, 1))
    return next((examples // n for n in range(fewest, 2 * fewest) if examples % n == 0), -(-examples // fewest))


def _bytes_of_an_example(sweep, on_cpu, params, batch) -> int:
    """Of z, h and dz while it is swept: 3/2 of the h and dz that it leaves; on a CPU in float32, as is a batch made so."""

    def left(params, *batch):
        _, fg = sweep.swept(sweep.model, params, *batch)
        return (widened(fg), widened(batch) if _is_half(batch) else ()) if on_cpu else fg

    arrays = jax.tree.leaves(jax.eval_shape(left, params, *batch))
    return max(1, sum(a.size * a.dtype.itemsize for a in arrays) * 3 // (2 * _examples(batch)))


def free_bytes(device: Any) -> int:
    """Of an accelerator's memory, while the program is traced: the batch and the parameters have taken theirs by then."""
    stats = (device.memory_stats() or {}) if device.platform != "cpu" else {}
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0) if "bytes_limit" in stats else UNKNOWN_BYTES


def _examples(batch) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _numbers(params) -> int:
    return sum(p.size for p in jax.tree.leaves(jax.eval_shape(lambda params: params, params)))


def as_readout(readout: Any) -> Readout:
    """The readout, `total` where none is given; refuse what is not a function, or cannot be looked up by."""
    readout = total if readout is None else readout
    if not callable(readout):
        raise TypeError(
            f"readout is a {type(readout).__name__}: expected a function of a FactoredGradient, such as total"
        )
    require_hashable("readout", readout)
    return readout


def is_sum(sums: Any, params, *batch) -> None:
    """Refuse a readout that gives other shapes for other numbers of examples: it does not sum over them."""
    if sums.readout is total:
        return

    def read(examples):
        _, fg = sums.sweep.swept(sums.sweep.model, params, *batch)
        return sums.readout(jax.tree.map(lambda a: jnp.zeros((examples, *a.shape[1:]), a.dtype), fg))

    two, three = (jax.eval_shape(partial(read, examples)) for examples in (2, 3))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(two), jax.tree.leaves(three), strict=False):
        if a.shape != b.shape:
            raise ValueError(
                f"readout{jax.tree_util.keystr(path)} has shape {a.shape} for 2 examples and {b.shape} for 3: expected a sum "
                "over the examples; take per_example for what each of them has"
            )


def is_tile(tile: Any) -> int | None:
    """Refuse a tile that is neither None nor a positive integer."""
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, Integral) or tile < 1):
        raise ValueError(f"tile is {tile!r}: expected an integer of at least 1, or None for what suits the device")
    return None if tile is None else int(tile)
