"""Epochs: in one call, in parts, or as they are read.

A short epoch runs in one call. A long one runs in parts of a second or two, between which training can be saved, watched and
stopped; and where data are read from a disk, a part is what was read ahead. The parts take the very steps that the whole would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks
from jaxbackprop.scaling.mesh import DATA, copied, params_shardings, place_params, placed
from jaxbackprop.scaling.processes import agree
from jaxbackprop.training.methods import shuffled_batches
from jaxbackprop.training.secret import blank
from jaxbackprop.training.steps import (
    Problem,
    Progress,
    Row,
    TrainState,
    diverged,
    drawn_batches,
    next_key,
    train_steps,
    whole_epoch,
)

ONE_CALL_FLOPS = 2e10  # an epoch of so many is run in one call, of which a CPU core makes about as many a second
ONE_CALL_STEPS = 200_000  # nor more than so many: each takes some microseconds, however small
PART_SECONDS = 1.5


class Epoch(NamedTuple):
    """An epoch of certain data: how many steps it has, and the parts that it is taken in.

    Attributes:
        steps: how many.
        parts: what is left of an epoch, part by part: after each where training is, and whether all is finite.
    """

    steps: int
    parts: Callable[[Progress], Iterator[tuple[Progress, bool]]]


def epoch_of(problem: Problem, data: tuple[Array, Array] | Blocks) -> Epoch:
    """An epoch of these data, laid over the problem's mesh, if any.

    Raises:
        ValueError: the gradient draws from all examples, and they are not in memory.
    """
    if not isinstance(data, Blocks):
        return _in_memory(problem, *(data if problem.mesh is None else copied(problem.mesh, data)))
    if problem.gradient.batches is not shuffled_batches:
        raise ValueError("this gradient draws each batch from all examples: give data in memory, arrays x and y")
    devices, processes = (1, 1) if problem.mesh is None else (problem.mesh.shape[DATA], jax.process_count())
    return _from_blocks(problem, reading.shared(data, problem.batch_size, processes, devices))


# buffers are not donated: where an epoch diverges, or is interrupted, the state before it is what there is to keep
@partial(jax.jit, static_argnums=0)
def epoch_in_one_call(problem, state, x, y):
    """A whole epoch as one program: the new state, the steps' sums, and whether all is finite."""
    state, sums = whole_epoch(problem, state, x, y)
    return state, sums, _finite(state, sums)


@partial(jax.jit, static_argnums=(0, 2))
def _draw(problem, key, examples):
    return tuple(drawn_batches(problem, key, examples))


@partial(jax.jit, static_argnums=(0, 1))
def _part(problem, batch, state, sums, arrays, start, stop):
    state, sums = train_steps(problem, state, sums, lambda i: batch(i, start, *arrays), start, stop)
    return state, sums, _finite(state, sums)


def _of_drawn(i, _start, x, y, rows, weight):
    return x[rows[i]], y[rows[i]], weight[i]


def _of_read(i, start, x, y, weight):
    return x[i - start], y[i - start], weight[i - start]


_key_after = jax.jit(next_key)


def _finite(state, sums):
    leaves = [leaf for leaf in jax.tree.leaves(state.params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in [*leaves, sums]]))


def _after(problem: Problem, batch: Callable, progress: Progress, arrays: tuple, stop: int) -> tuple[Progress, bool]:
    """Where training is after the steps up to number `stop`, and whether all is finite; an epoch that ends draws the next key."""
    state, sums, good = _part(problem, batch, progress.state, progress.sums, arrays, progress.position, stop)
    key = _key_after(state.key) if stop == len(sums) else state.key
    return Progress(state._replace(key=key), sums, stop), bool(good)


def _in_memory(problem: Problem, x: Array, y: Array) -> Epoch:
    rows, _ = jax.eval_shape(lambda key: _draw(problem, key, len(x)), jax.random.key(0))
    steps, batch = rows.shape

    def in_one_call(progress):
        state, sums, good = epoch_in_one_call(problem, progress.state, x, y)
        yield Progress(state, sums, steps), bool(good)

    def in_parts(progress):
        arrays = (x, y, *_draw(problem, progress.state.key, len(x)))
        ahead = 1  # step; from then on as many as take PART_SECONDS
        while (start := progress.position) < steps:
            began = time.perf_counter()
            progress, good = _after(problem, _of_drawn, progress, arrays, min(start + ahead, steps))
            taken = (time.perf_counter() - began) / (progress.position - start)  # a step
            ahead = agreed(problem.mesh, max(1, min(int(PART_SECONDS / taken), steps)))
            yield progress, good

    def parts(progress):
        return (in_one_call if steps <= _steps_a_call(progress.state, batch) else in_parts)(progress)

    return Epoch(steps, parts)


def _steps_a_call(state: TrainState, batch: int) -> int:
    """Steps that take about a second on a CPU core, so that a wish to stop is soon granted."""
    numbers = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return max(1, min(int(ONE_CALL_FLOPS / (6 * numbers * batch)), ONE_CALL_STEPS))


def agreed(mesh: Mesh | None, number: int) -> int:
    """The largest over the processes that train together; one whose devices are all its own decides alone."""
    return number if mesh is None else agree(number)[0]


def _from_blocks(problem: Problem, blocks: Blocks) -> Epoch:
    steps = reading.steps_of(blocks, problem.batch_size)
    part = reading.Part() if problem.mesh is None else reading.Part(jax.process_index(), jax.process_count())
    x64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def put(span):  # on the reading thread, for which 64-bit types would be off
        with jax.enable_x64(x64):
            return _put(problem.mesh, span), span.first + span.steps

    def as_read(progress):
        most, seed = _steps_a_call(progress.state, problem.batch_size), _seed(progress.state.key)
        spans = reading.spans(blocks, problem.batch_size, seed, progress.position, part, most)
        for arrays, stop in reading.read_ahead(map(put, spans)):
            progress, good = _after(problem, _of_read, progress, arrays, stop)
            yield progress, good

    return Epoch(steps, as_read)


def _put(mesh: Mesh | None, span: reading.Span):
    """A span on its device; over a mesh each process puts the rows that it has read."""
    if mesh is None:
        return jax.device_put((span.x, span.y, span.weight))
    rows = NamedSharding(mesh, PartitionSpec(None, DATA))
    x, y = (jax.make_array_from_process_local_data(rows, a) for a in (span.x, span.y))
    return x, y, copied(mesh, span.weight)


@jax.jit
def _bits(key):
    return jax.random.bits(jax.random.split(key, 3)[1], (2,), jnp.uint32)


def _seed(key) -> int:
    high, low = np.asarray(_bits(key)).tolist()
    return high << 32 | low


def over_mesh(problem: Problem, progress: Progress) -> Progress:
    """Lay the state over the mesh, if any: copied, and wide layers, with what the optimizer keeps of them, shared out."""
    import optax

    mesh, network, (state, sums, position) = problem.mesh, problem.network, progress
    if mesh is None:
        return progress
    copy = partial(copied, mesh)
    if network is None:
        return Progress(copy(state), copy(sums), position)
    shardings = params_shardings(mesh, network)
    opt_state = optax.tree_utils.tree_map_params(
        problem.optimizer, placed, state.opt_state, shardings, transform_non_params=copy
    )
    laid = TrainState(place_params(mesh, network, state.params), opt_state, copy(state.key), copy(state.step))
    return Progress(laid, copy(sums), position)


class Reached(NamedTuple):
    """How far training is, which is what an interruption finds: the last whole part's progress, and each epoch's row."""

    progress: Progress
    history: list[Row]


def shown(problem: Problem, reached: Reached) -> Reached:
    """What may be saved, returned, or handed to a callback: all but a secret key."""
    if not problem.gradient.secret:
        return reached
    progress, state = reached.progress, reached.progress.state
    return reached._replace(progress=progress._replace(state=state._replace(key=blank(state.key))))


def reached_in_turn(
    problem: Problem, epoch: Epoch, reached: Reached, held_out: Callable[[PyTree[Array]], Row], epochs: int
) -> Iterator[tuple[Reached, Row | None]]:
    """Train, and after each part say what is reached, with the epoch's row where it has ended or is no longer finite."""
    began = time.perf_counter() - (reached.history[-1]["seconds"] if reached.history else 0)
    while len(reached.history) < epochs:
        progress, good = reached.progress, True
        for progress, good in epoch.parts(reached.progress):
            if not good or progress.position == epoch.steps:
                break
            reached = reached._replace(progress=progress)
            yield shown(problem, reached), None
        figures = {"loss": _mean(progress.sums, good)} | held_out(progress.state.params)
        row = {"epoch": len(reached.history) + 1, **figures, "seconds": time.perf_counter() - began}
        ended = Progress(progress.state, jnp.zeros_like(progress.sums), 0)
        reached = Reached(reached.progress if diverged([row]) else ended, [*reached.history, row])
        yield shown(problem, reached), row


def _mean(sums, good: bool) -> float:
    """The mean loss of the steps taken; NaN where a parameter is not finite, as the next loss would be."""
    value, count = np.asarray(sums, np.float64).sum(axis=0)
    if count == 0:  # every step's Poisson draw chose nobody
        return 0.0
    return float(value / count) if good or not math.isfinite(value) else math.nan
