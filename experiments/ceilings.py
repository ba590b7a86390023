"""What a device can do, measured, and the least time that this allows (a roofline): by flops, by bytes, by handing out a call."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure

DTYPES = ("float32", "bfloat16")
GRADIENT, CLIPPED, NORMS = "gradient", "clipped sum", "norms"


class Ceilings(NamedTuple):
    """Bytes a second by dtype, flop/s by dtype and precision, seconds of a call that does nothing: awaited, and queued."""

    bandwidth: dict[str, float]
    products: dict[str, float]
    call: float
    queued: float
    details: list[dict]

    def allow(self, dtype: str, least_bytes: float, flops: float) -> tuple[float, str]:
        """The least seconds of a queued call, and which of the ceilings binds."""
        seconds = {
            "memory": least_bytes / self.bandwidth[dtype],
            "products": flops / self.products[dtype],
            "call": self.queued,
        }
        binds = max(seconds, key=lambda name: seconds[name])
        return seconds[binds], binds

    def highest(self, other: "Ceilings") -> "Ceilings":
        """Of two measurements the better, of everything."""

        def best(a, b):
            return {key: max(a[key], b[key]) for key in a}

        return Ceilings(
            best(self.bandwidth, other.bandwidth),
            best(self.products, other.products),
            min(self.call, other.call),
            min(self.queued, other.queued),
            [max(pair, key=lambda line: line["rate"]) for pair in zip(self.details, other.details, strict=True)],
        )


def under(ceilings: Ceilings, row: dict) -> dict:
    """The row with what it reached, beside what the ceilings allow."""
    if not row.get("ms"):
        return row
    least, binds = ceilings.allow(row["dtype"], row["least_bytes"], row["flops"])
    return row | {
        "share_of_ceiling": 1e3 * least / row["ms"],
        "binds": binds,
        "gflops": row["flops"] / row["ms"] / 1e6,
        "intensity": row["flops"] / row["least_bytes"],
    }


# ---- sizes


def grown(
    seconds_of: Callable[[int], float], fits: Callable[[int], bool], start: int, target: float, power: int = 1
) -> tuple[int, float, str]:
    """Double a size until a call takes `target` seconds; the size, its time, and why it is not larger.

    As many doublings at a time as the target is away, if time grows with this power of the size, and as fit. A start for
    which memory is too short is halved.

    >>> grown(lambda n: 1 + n / 100, lambda n: True, start=100, target=20)
    (3200, 33.0, '')
    >>> grown(lambda n: 1 + n / 100, lambda n: n < 1000, start=100, target=20)
    (800, 9.0, 'more does not fit')
    """
    size, seconds = _first(seconds_of, start)
    if size < start:
        return size, seconds, f"{measure.NO_MEMORY} at {2 * size:,}"
    too_large, why = math.inf, "more does not fit"
    while seconds < target:
        doublings = max(1, math.ceil(math.log2(target / max(seconds, 1e-9)) / power))
        larger = (size * 2**k for k in range(doublings, 0, -1))
        chosen = next((n for n in larger if n < too_large and fits(n)), None)
        if chosen is None:
            return size, seconds, why
        try:
            seconds = seconds_of(chosen)
            size = chosen
        except (MemoryError, RuntimeError) as error:
            too_large, why = chosen, f"{measure.reason(error)} at {chosen:,}"
    return size, seconds, ""


def _first(seconds_of, start):
    try:
        return start, seconds_of(start)
    except (MemoryError, RuntimeError) as error:
        if start < 2 or not measure.reason(error).startswith(measure.NO_MEMORY):
            raise
    return _first(seconds_of, start // 2)


# ---- the ceilings


def measured(long_enough: float, bytes_first: int, rows_first: int) -> Ceilings:
    """Arrays grow until a call takes `long_enough` seconds, and 20 empty calls: neither caches nor calls are measured."""
    call, queued = empty_call()
    target = max(long_enough, 20 * call)
    bandwidth, products, details = {}, {}, []

    def keep(ceiling, what, dtype, rate, size):
        key = f"{dtype} highest" if what.endswith("highest") else dtype
        ceiling[key] = max(ceiling.get(key, 0.0), rate)
        details.append({"ceiling": what, "dtype": dtype, "rate": rate, "size": size})

    for dtype in DTYPES:
        for what, make, passes in (("read and write", _scale, 2), ("read", _sum, 1)):
            size, seconds, _ = grown(_timing(partial(make, dtype=dtype)), _fits(1, 2), bytes_first, target)
            keep(bandwidth, what, dtype, passes * size / seconds, size)
        for what, precision in (("products", None), ("products, highest", "highest"))[: 1 + (dtype == "float32")]:
            make = partial(_product, dtype=dtype, precision=precision)
            n, seconds, _ = grown(_timing(make), _fits(2, 4 * 3), rows_first, target, power=3)
            keep(products, what, dtype, 2 * n**3 / seconds, n)
    products["float32"] = max(products["float32"], products["float32 highest"])  # the default may round, it need not
    return Ceilings(bandwidth, products, call, queued, details)


def empty_call() -> tuple[float, float]:
    """Seconds of a compiled call that does nothing to speak of: waited for, and one of many in a queue."""
    zero = jnp.zeros(())
    run = measure.compiled(lambda a: a + 1, zero).run
    times = measure.queued_in_turn({"": measure.Queue(lambda: run(zero))}, seconds=0.1)[""]
    return measure.median(times.awaited), measure.median(times.queued)


def _timing(make: Callable[[int], Callable]) -> Callable[[int], float]:
    return lambda size: measure.best_of(make(size), queue=5)


def _fits(power: int, bytes_each: int) -> Callable[[int], bool]:
    return lambda size: bytes_each * size**power <= measure.memory()[1] / 4


def _scale(size, dtype):
    # in place: a new array each time would measure how fast the host hands out pages
    run = jax.jit(lambda a: a * jnp.asarray(1.5, a.dtype), donate_argnums=0)
    state = [jnp.ones(size // jnp.dtype(dtype).itemsize, dtype)]

    def again():
        state[0] = run(state[0])
        return state[0]

    return again


def _sum(size, dtype):
    a = jnp.ones(size // jnp.dtype(dtype).itemsize, dtype)
    run = jax.jit(lambda a: jnp.sum(a, dtype=jnp.float32))
    return lambda: run(a)


def _product(n, dtype, precision):
    a = jax.random.normal(jax.random.key(0), (n, n), dtype)  # of ones alone it would need less power, and be faster
    run = jax.jit(lambda a: jnp.dot(a, a, precision=precision))
    return lambda: run(a)


# ---- what must be done at the least


def network_flops(params: dict, quantity: str) -> int:
    """Of the products, for one example: 2 a weight for z, for dh and for dW; x needs no dh, norms no dW."""
    edges = jax.tree_util.tree_leaves_with_path(params)
    passes = 4 if quantity == NORMS else 6
    return sum((passes - 2 if path[-1].key == "x" else passes) * leaf.size for path, leaf in edges)


def gpt_flops(params: dict, quantity: str) -> int:
    """Of one sequence of T tokens: as in a network, for each token and weight, the embedding as head included.

    Attention multiplies T × T scores by d numbers twice, forward, and each product has two in the backward pass.
    """
    positions, width = params["positions"].shape
    weights = params["tokens"].size + sum(p["w"].size for b in params["blocks"] for p in b.values() if "w" in p)
    passes = 4 if quantity == NORMS else 6
    return positions * (passes * weights + 12 * len(params["blocks"]) * positions * width)


def least_bytes(params: Any, data: Any, quantity: str) -> int:
    """Parameters and data read once, and what is asked for written once."""
    read, once = _bytes((params, data)), _bytes(params)
    batch = len(jax.tree.leaves(data)[0])
    return read + (4 * batch if quantity == NORMS else once)


def _bytes(tree: Any) -> int:
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree))
