"""Training: a pure step, epochs as compiled programs, `fit`, and many networks trained in one program.

The loop knows nothing about how a gradient is made: "hand" and "jax.grad" give the same trajectory. An epoch is a loop of
steps inside one program. A short one runs in one call. A long one runs in parts of a second or two, between which training
can be saved, watched and stopped; and where data are read from a disk, a part is what was read ahead. The parts take the very
steps that the whole would.
"""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree, Shaped

from jaxbackprop.arithmetic import wide
from jaxbackprop.backprop import per_example
from jaxbackprop.checkpoint import Checkpoints, Keeper, digest_of
from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks, Rows, examples_of
from jaxbackprop.factors import total
from jaxbackprop.gradient import plain_loss, predict, value_and_grad
from jaxbackprop.losses import LOSSES, LossLike, as_loss, names_a_class
from jaxbackprop.model import Model, Sweep
from jaxbackprop.network import Network, Params, count_parameters, init
from jaxbackprop.programs.factored import losses_of
from jaxbackprop.refusals import are_floating, are_like, is_key, is_network
from jaxbackprop.scaling.mesh import DATA, MODEL, copied, params_shardings, place_params, placed
from jaxbackprop.scaling.processes import agree, noticing_loss
from jaxbackprop.scaling.streaming import stream
from jaxbackprop.secret import Secret, forget, keep, obtained, warn_if_guessable
from jaxbackprop.words import FLOATING, fits, require_positive, unknown

if TYPE_CHECKING:
    import optax  # imported where it is used: it costs as much again as this package

Data = tuple[ArrayLike, ArrayLike]
Row = dict[str, int | float]

ONE_CALL_FLOPS = 2e10  # an epoch of so many is run in one call, of which a CPU core makes about as many a second
ONE_CALL_STEPS = 200_000  # nor more than so many: each takes some microseconds, however small
PART_SECONDS = 1.5


# of probabilities: of any other targets they have no least value
CROSS_ENTROPIES = LOSSES["softmax_cross_entropy"], LOSSES["sigmoid_binary_cross_entropy"]
WHOLE = 2**62  # a tile that holds any batch


class TrainState(NamedTuple):
    """All that training carries from one step to the next."""

    params: PyTree[Array]
    opt_state: Any
    key: Key[Array, ""]
    step: Int[Array, ""]


class Problem(NamedTuple):
    """What is trained and how; hashable, so that one compiled epoch serves every `fit` of the same problem."""

    model: Model | Sweep
    optimizer: Any  # an optax.GradientTransformation; in `fit_many` what makes one from a learning rate
    batch_size: int
    gradient: GradientMethod
    mesh: Mesh | None = None  # over which each batch is laid
    numbers: int = 0  # how many the parameters are; of a network it is known

    @property
    def sweep(self) -> Sweep:
        """Every example's loss and factored gradient: what a gradient method needs to know of the model."""
        return self.model if isinstance(self.model, Sweep) else per_example(*self.model)

    @property
    def network(self) -> Network | None:
        """The wiring, if it is one."""
        return None if isinstance(self.model, Sweep) else self.model.network


class GradientMethod(NamedTuple):
    """How an epoch's batches are drawn, and how a batch's gradient is made: all that distinguishes ways of training.

    Attributes:
        batches: (key, examples, batch_size) → rows (steps, b) and their weight (steps, b).
        value_and_grad: Problem → ((params, x, y, weight, key) → (value, gradient)).
        secret: whether what it draws protects somebody: `fit` then draws its key from the operating system where none is
            given, and keeps it out of all that is saved, returned or shown.
    """

    batches: Callable
    value_and_grad: Callable[[Problem], Callable]
    secret: bool = False


def train_step(
    problem: Problem,
    state: TrainState,
    x: Shaped[Array, "b ..."],
    y: Shaped[Array, "b ..."],
    weight: Float[Array, " b"],
    key: Key[Array, ""],
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step: predict, loss, gradient, update. Pure; returns the new state and the loss before the step."""
    import optax

    value, grads = problem.gradient.value_and_grad(problem)(state.params, x, y, weight, key)
    mean = partial(_mean_loss(problem.model), x=x, y=y, weight=weight)
    updates, opt_state = _update(problem)(grads, state.opt_state, state.params, value, mean)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.key, state.step + 1), value


def _update(problem: Problem) -> Callable:
    """(gradient, its state, params, value, params → value) → the optimizer's update, which may ask for these by name.

    A line search evaluates the loss again. Where the gradient protects somebody, the loss is not to be told.
    """
    import optax

    def update(grads, opt_state, params, value, mean):
        told = {} if problem.gradient.secret else {"value": value, "grad": grads, "value_fn": mean}
        return optax.with_extra_args_support(problem.optimizer).update(grads, opt_state, params, **told)

    return update


class Progress(NamedTuple):
    """Where an epoch is: the state after `position` of its steps, and of each step so far [Σ_b c_b L_b, Σ_b c_b].

    The state's key stays that of the epoch's beginning, from which its order is drawn, until the epoch ends.
    """

    state: TrainState
    sums: Float[ArrayLike, "steps 2"]
    position: int


def train_steps(
    problem: Problem,
    state: TrainState,
    sums: Float[Array, "steps 2"],
    batch: Callable,
    start: ArrayLike,
    stop: ArrayLike,
) -> tuple[TrainState, Float[Array, "steps 2"]]:
    """Take the steps from number `start` to `stop` of an epoch. Pure; batch(i) gives step i's (x, y, weight)."""
    step_key = jax.random.split(state.key, 3)[2]

    def step(i, carried):
        state, sums = carried
        x, y, weight = _laid(problem.mesh, *batch(i))
        weight = weight.astype(x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32)
        state, value = train_step(problem, state, x, y, weight, jax.random.fold_in(step_key, i))
        count = jnp.sum(weight)
        return state, sums.at[i].set(jnp.stack([value * count, count]).astype(sums.dtype))

    return jax.lax.fori_loop(start, stop, step, (state, sums))


def train_epoch(
    problem: Problem, state: TrainState, x: Shaped[Array, "n ..."], y: Shaped[Array, "n ..."]
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step for each batch of a fresh draw. Pure; returns the new state and the mean of the examples' losses."""
    state, sums = _whole(problem, state, x, y)
    value, count = jnp.sum(sums, axis=0)
    return state, value / count


def _whole(problem, state, x, y):
    rows, weight = _drawn_batches(problem, state.key, x.shape[0])
    sums = jnp.zeros((len(rows), 2), wide(x.dtype))
    state, sums = train_steps(problem, state, sums, lambda i: (x[rows[i]], y[rows[i]], weight[i]), 0, len(rows))
    return state._replace(key=_next_key(state.key)), sums


def _drawn_batches(problem: Problem, key, examples: int):
    """Which rows are each step's batch, and their weight; padded to a multiple of the devices that they are laid over."""
    rows, weight = problem.gradient.batches(jax.random.split(key, 3)[1], examples, problem.batch_size)
    padding = 0 if problem.mesh is None else -rows.shape[1] % problem.mesh.shape[DATA]
    return (jnp.pad(a, ((0, 0), (0, padding))) for a in (rows, weight))


def _next_key(key):
    return jax.random.split(key, 3)[0]


@jax.jit
def _key_after_epochs(key, epochs):
    return jax.lax.fori_loop(0, epochs, lambda _, key: _next_key(key), key)


@jax.jit
def _blank(key):
    blank = jnp.zeros_like(jax.random.key_data(key))
    is_new = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return jax.random.wrap_key_data(blank, impl=jax.random.key_impl(key)) if is_new else blank


def _laid(mesh: Mesh | None, x, y, weight):
    """The partitioner is told where a batch's examples are; the rest follows."""
    if mesh is None:
        return x, y, weight
    # the weight is everywhere: each device has the sum of it, by which the loss is divided, without asking the others
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((DATA,), ()))
    return jax.lax.with_sharding_constraint((x, y, weight), (rows, rows, everywhere))


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
    run = jax.value_and_grad(_mean_loss(problem.model))
    return lambda params, x, y, weight, _key: run(params, x, y, weight)


def _mean_loss(model: Model | Sweep) -> Callable:
    """(params, x, y, weight=None) → Σ_b c_b L_b / Σ_b c_b, which `jax.grad` differentiates."""
    if not isinstance(model, Sweep):
        return plain_loss(model.network, model.loss)

    def mean(params, x, y, weight=None):
        values = losses_of(model, params, x, y)
        return jnp.mean(values) if weight is None else jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1)

    return mean


GRADIENTS: dict[str, GradientMethod] = {
    "hand": GradientMethod(shuffled_batches, _by_hand),
    "jax.grad": GradientMethod(shuffled_batches, _by_jax_grad),
}


def start(problem: Problem, key: Key[Array, ""], params: PyTree[Array] | None = None, dtype=jnp.float32) -> TrainState:
    """Make the state that training starts from: drawn parameters, or the given ones."""
    network: Any = problem.network
    own: Any = drawn(network, key, dtype) if params is None else params
    return TrainState(own, problem.optimizer.init(own), _two_keys(key)[0], jnp.zeros((), jnp.int32))


def drawn(network: Network, key: Key[Array, ""], dtype=jnp.float32) -> Params:
    """Draw the parameters that training from this key starts with."""
    return init(network, _two_keys(key)[1], dtype)


@jax.jit
def _two_keys(key):
    key, init_key = jax.random.split(key)
    return key, init_key


_start = jax.jit(start, static_argnums=0)


# ---- an epoch in one call, in parts, or as it is read


Feed = Callable[[Progress], Iterator[tuple[Progress, bool]]]  # after each part: where training is, whether it is finite


# buffers are not donated: where an epoch diverges, or is interrupted, the state before it is what there is to keep
@partial(jax.jit, static_argnums=0)
def _epoch(problem, state, x, y):
    state, sums = _whole(problem, state, x, y)
    return state, sums, _finite(state, sums)


@partial(jax.jit, static_argnums=(0, 2))
def _draw(problem, key, examples):
    return tuple(_drawn_batches(problem, key, examples))


@partial(jax.jit, static_argnums=0)
def _drawn_part(problem, state, sums, x, y, rows, weight, start, stop):
    state, sums = train_steps(problem, state, sums, lambda i: (x[rows[i]], y[rows[i]], weight[i]), start, stop)
    return state, sums, _finite(state, sums)


@partial(jax.jit, static_argnums=0)
def _read_part(problem, state, sums, x, y, weight, start, stop):
    def batch(i):
        return x[i - start], y[i - start], weight[i - start]

    state, sums = train_steps(problem, state, sums, batch, start, stop)
    return state, sums, _finite(state, sums)


_key_after = jax.jit(_next_key)


def _finite(state, sums):
    leaves = [leaf for leaf in jax.tree.leaves(state.params) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in [*leaves, sums]]))


def _in_memory(problem: Problem, x: Array, y: Array) -> tuple[Feed, int]:
    """An epoch of data in memory, and how many steps it has."""
    rows, _ = jax.eval_shape(lambda key: _draw(problem, key, len(x)), jax.random.key(0))
    steps, batch = rows.shape

    def in_one_call(progress):
        state, sums, good = _epoch(problem, progress.state, x, y)
        yield Progress(state, sums, steps), bool(good)

    def in_parts(progress):
        state, sums, position = progress
        drawn = _draw(problem, state.key, len(x))
        ahead = 1  # step; from then on as many as take PART_SECONDS
        while position < steps:
            stop, began = min(position + ahead, steps), time.perf_counter()
            state, sums, good = _drawn_part(problem, state, sums, x, y, *drawn, position, stop)
            good = bool(good)
            taken = time.perf_counter() - began
            ahead = _agreed(problem.mesh, max(1, min(int((stop - position) * PART_SECONDS / taken), steps)))
            position = stop
            state = state._replace(key=_key_after(state.key)) if position == steps else state
            yield Progress(state, sums, position), good

    return (in_one_call if steps <= _steps_a_call(problem, batch) else in_parts), steps


def _steps_a_call(problem: Problem, batch: int) -> int:
    """Steps that take about a second on a CPU core, so that a wish to stop is soon granted."""
    numbers = problem.numbers if problem.network is None else count_parameters(problem.network)
    return max(1, min(int(ONE_CALL_FLOPS / (6 * numbers * batch)), ONE_CALL_STEPS))


def _agreed(mesh: Mesh | None, number: int) -> int:
    """The largest over the processes that train together; one whose devices are all its own decides alone."""
    return number if mesh is None else agree(number)[0]


def _from_blocks(problem: Problem, blocks: Blocks) -> tuple[Feed, int]:
    """An epoch of data read from a disk, and how many steps it has."""
    steps = reading.steps_of(blocks, problem.batch_size)
    part = reading.Part() if problem.mesh is None else reading.Part(jax.process_index(), jax.process_count())
    most, x64 = _steps_a_call(problem, problem.batch_size), jax.dtypes.canonicalize_dtype(np.float64) == np.float64

    def put(span):  # on the reading thread, for which 64-bit types would be off
        with jax.enable_x64(x64):
            return _put(problem.mesh, span)

    def as_read(progress):
        state, sums, position = progress
        seed = _seed(state.key)
        spans = reading.spans(blocks, problem.batch_size, seed, position, part, most)
        for x, y, weight, first, count in reading.read_ahead(map(put, spans)):
            state, sums, good = _read_part(problem, state, sums, x, y, weight, first, first + count)
            position = first + count
            state = state._replace(key=_key_after(state.key)) if position == steps else state
            yield Progress(state, sums, position), bool(good)

    return as_read, steps


def _put(mesh: Mesh | None, span: reading.Span):
    """A span on its device; over a mesh each process puts the rows that it has read."""
    if mesh is None:
        return *jax.device_put((span.x, span.y, span.weight)), span.first, span.steps
    rows = NamedSharding(mesh, PartitionSpec(None, DATA))
    x, y = (jax.make_array_from_process_local_data(rows, a) for a in (span.x, span.y))
    return x, y, copied(mesh, span.weight), span.first, span.steps


@jax.jit
def _bits(key):
    return jax.random.bits(jax.random.split(key, 3)[1], (2,), jnp.uint32)


def _seed(key) -> int:
    high, low = np.asarray(_bits(key)).tolist()
    return high << 32 | low


class _Reached(NamedTuple):
    """What an interruption finds: the last whole part's progress, and the rows of the epochs before it."""

    progress: Progress
    history: list[Row]


def fit(
    network: Network | Sweep,
    loss: LossLike | None,
    optimizer: optax.GradientTransformation,
    data: Data | Blocks,
    *,
    epochs: int,
    batch_size: int,
    key: Key[Array, ""] | None = None,
    gradient: str | GradientMethod = "hand",
    params: PyTree[ArrayLike] | None = None,
    validation: Data | Blocks | None = None,
    callbacks: Sequence[Callable[[TrainState, Row], Any]] = (),
    checkpoints: Checkpoints | None = None,
    monitor: Callable[[int, int, int], Any] | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, list[Row]]:
    """Train a network, or any model.

    Args:
        network: the wiring; or any `Sweep`, such as `factored(loss)` of a loss(params, x, y).
        loss: a name from `losses.LOSSES`, or a pair (value, derivative); None of a `Sweep`, which has its own.
        optimizer: any `optax.GradientTransformation`; what it asks for is given, as `optax.lbfgs` does for its line search: the
            loss of the batch, its gradient, and the loss as a function of params.
        data: (x (n, d), y (n, …)), or `Blocks` that are read as they are needed; the parameters take x's dtype.
        epochs: how often every example is used.
        batch_size: examples a step; the last batch of an epoch is padded with weight 0.
        key: a `jax.random.key`, for the first parameters and the shuffles. With `private_gradient` it is a secret, and is
            best left out: it is then drawn from the operating system, and the state that comes back holds a blank one.
        gradient: "hand" or "jax.grad", the same trajectory; or a `GradientMethod`, such as `private_gradient(…)`.
        params: what to start from; drawn from `key` by default. Of a `Sweep` they have to be given.
        validation: (x, y), or `Blocks`, to evaluate after each epoch.
        callbacks: each is called (state, row) after each epoch; training stops when one returns True.
        checkpoints: where and how often to keep what training carries. Where the folder holds a checkpoint of this same
            training, it goes on from there, to `epochs` in all: the same call again continues what was interrupted,
            bit for bit, in mid-epoch too. A secret key that was drawn lies in the folder meanwhile, see secret.py.
        monitor: called (epoch, steps done, steps of the epoch) within long epochs, every second or two; training stops,
            saved, when it returns True.
        mesh: from `data_mesh`: each batch is laid over its devices, those of other processes too; the trajectory is that
            of one device within rounding. Layers of width 1,024 and more are shared out over its model axis.

    Returns:
        The last `TrainState`, and a row for each whole epoch: "epoch", "loss" (mean over the epoch, as it went), "seconds"
        (of training), and with `validation` "validation_loss" and, where the loss has one, "validation_accuracy"
        or "validation_rmse". Where a loss or a parameter is not finite training stops: that epoch's row is the last, and
        the state is the last good one.

    Raises:
        ValueError: data, parameters or settings that do not fit, or a checkpoint of another training, or of more epochs; the
            message says which and what fits.
        TypeError: something else than an optimizer, a key, `Checkpoints`, a mesh or a function where one is needed.
        OSError: a checkpoint cannot be written; those that were there still are.

    >>> import optax
    >>> from jaxbackprop.network import mlp
    >>> x = jnp.linspace(-1, 1, 50)[:, None]
    >>> state, history = fit(mlp((1, 16, 1), "tanh", bias=True), "half_squared_error", optax.adam(0.03),
    ...                      (x, x**2), epochs=60, batch_size=10, key=jax.random.key(0))
    >>> history[-1]["loss"] < 0.1 * history[0]["loss"]
    True
    """
    require_positive("epochs", epochs)
    method = _method(gradient)
    _require_settings(network, optimizer, key, method, callbacks, checkpoints, monitor, mesh)
    model = _model(network, loss, params)
    if params is not None:
        _require_finite_params(network, params)
    data = _require_data("data", network, loss, data)
    held_out = None if validation is None else _require_data("validation", network, loss, validation)
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves(params)) if isinstance(model, Sweep) else 0
    problem = Problem(model, optimizer, _batch_size(batch_size, data, mesh), method, mesh, numbers)
    feed, steps = _feed(problem, data)
    folder = checkpoints and Path(checkpoints.folder)
    secret = obtained(key, folder) if method.secret else None
    own_key = secret.key if secret else is_key(key)
    dtype = data.like[0].dtype if isinstance(data, Blocks) else data[0].dtype
    # drawn by a program of its own, which every fit of this network shares: drawing takes as long to compile as training
    own: Any = jax.tree.map(jnp.asarray, params)
    if params is None and isinstance(network, Network):
        own = drawn(network, own_key, dtype)
    state = _start(problem._replace(mesh=None), own_key, own)
    _require_update(problem, state)
    progress = _over_mesh(problem, Progress(state, np.zeros((steps, 2), wide(dtype)), 0))
    started, keeper = _Reached(progress, []), None
    if checkpoints is not None:
        keeper = Keeper(checkpoints, _made_for(problem, data, own_key, state) | dict(checkpoints.made_for))
        started = _going_on(problem, keeper, started, secret, epochs)
    reached = _shown(problem, started)

    def measured(progress: Progress, good: bool) -> Row:
        return {"loss": _mean(progress.sums, good)} | _held_out(model, progress.state.params, held_out)

    try:
        with noticing_loss():
            for reached, row in _reached_in_turn(problem, feed, steps, started, measured, epochs):
                good = row is None or is_finite(row)
                if keeper and row and good:
                    keeper.note(*reached)
                if keeper and _agreed(mesh, good and keeper.due(None if row is None else len(reached.history))):
                    keeper.save(*reached)
                if row is None:
                    wishes = [monitor and monitor(len(reached.history) + 1, reached.progress.position, steps)]
                else:  # every one is called, whatever the first says
                    wishes = [callback(reached.progress.state, row) for callback in callbacks]
                if row and not good:
                    _warn_of_divergence(row)
                # `is`: 1, or an array, that a callback happens to return is no wish
                if _agreed(mesh, not good or any(wish is True for wish in wishes)):
                    break
    finally:
        if keeper:
            keeper.save_last(*reached)
    if secret and folder and _has_ended(reached.history, epochs):
        forget(folder)
    return reached.progress.state, reached.history


def _going_on(problem: Problem, keeper: Keeper, fresh: _Reached, secret: Secret | None, epochs: int) -> _Reached:
    """Where training goes on from: the newest checkpoint, with the secret that was kept out of it; or from the beginning."""
    progress = fresh.progress
    restored = keeper.load(progress._replace(position=np.zeros((), np.int32)), epochs)
    started = fresh
    if restored:
        saved = restored.state._replace(position=int(restored.state.position))
        if secret:
            key = _key_after_epochs(progress.state.key, len(restored.history))
            saved = saved._replace(state=saved.state._replace(key=key))
        started = _Reached(_over_mesh(problem, saved), restored.history)
    if secret and not _has_ended(started.history, epochs):
        keep(keeper.folder, secret, new=restored is None)
    keeper.begin(started.history)
    return started


def _has_ended(history: Sequence[Row], epochs: int) -> bool:
    return len(history) >= epochs or any(not is_finite(row) for row in history[-1:])


def _shown(problem: Problem, reached: _Reached) -> _Reached:
    """What may be saved, returned, or handed to a callback: all but a secret key."""
    if not problem.gradient.secret:
        return reached
    progress, state = reached.progress, reached.progress.state
    return reached._replace(progress=progress._replace(state=state._replace(key=_blank(state.key))))


def _reached_in_turn(
    problem: Problem,
    feed: Feed,
    steps: int,
    reached: _Reached,
    measured: Callable[[Progress, bool], Row],
    epochs: int,
) -> Iterator[tuple[_Reached, Row | None]]:
    """Train, and after each part say what is reached, with the epoch's row where it has ended or is no longer finite."""
    began = time.perf_counter() - (reached.history[-1]["seconds"] if reached.history else 0)
    while len(reached.history) < epochs:
        progress, good = reached.progress, True
        for progress, good in feed(reached.progress):
            if not good or progress.position == steps:
                break
            reached = reached._replace(progress=progress)
            yield _shown(problem, reached), None
        row = {"epoch": len(reached.history) + 1, **measured(progress, good), "seconds": time.perf_counter() - began}
        ended = Progress(progress.state, jnp.zeros_like(progress.sums), 0)
        reached = _Reached(ended if is_finite(row) else reached.progress, [*reached.history, row])
        yield _shown(problem, reached), row


def is_finite(row: Row) -> bool:
    """Whether training has not diverged in this epoch.

    >>> is_finite({"epoch": 1, "loss": math.nan})
    False
    """
    return math.isfinite(row["loss"]) and math.isfinite(row.get("validation_loss", 0))


def _held_out(model, params, data) -> Row:
    figures = {} if data is None else _figures(model, params, data)
    return {f"validation_{name}": figure for name, figure in figures.items()}


def _feed(problem: Problem, data: tuple[Array, Array] | Blocks) -> tuple[Feed, int]:
    if not isinstance(data, Blocks):
        return _in_memory(problem, *(data if problem.mesh is None else copied(problem.mesh, data)))
    if problem.gradient.batches is not shuffled_batches:
        raise ValueError("this gradient draws each batch from all examples: give data in memory, arrays x and y")
    devices, processes = (1, 1) if problem.mesh is None else (problem.mesh.shape[DATA], jax.process_count())
    return _from_blocks(problem, reading.shared(data, problem.batch_size, processes, devices))


def _over_mesh(problem: Problem, progress: Progress) -> Progress:
    """Lay the state over the mesh, if any: copied, and wide layers, with what the optimizer keeps of them, shared out."""
    import optax

    mesh, state = problem.mesh, progress.state
    if mesh is None:
        return progress
    if problem.network is None:
        return Progress(copied(mesh, state), copied(mesh, progress.sums), progress.position)
    params = place_params(mesh, problem.network, state.params)
    opt_state = optax.tree_utils.tree_map_params(
        problem.optimizer,
        placed,
        state.opt_state,
        params_shardings(mesh, problem.network),
        transform_non_params=lambda leaf: copied(mesh, leaf),
    )
    return Progress(
        TrainState(params, opt_state, copied(mesh, state.key), copied(mesh, state.step)),
        copied(mesh, progress.sums),
        progress.position,
    )


def _mean(sums, good: bool) -> float:
    """The mean loss of the steps taken; NaN where a parameter is not finite, as the next loss would be."""
    value, count = np.asarray(sums, np.float64).sum(axis=0)
    if count == 0:  # every step's Poisson draw chose nobody
        return 0.0
    return float(value / count) if good or not math.isfinite(value) else math.nan


def _made_for(problem: Problem, data, key, state) -> dict[str, str]:
    """What has to be the same for training to go on, as far as it can be said in words."""
    params, problem = state.params, problem._replace(mesh=None)  # the same over other devices
    x, y = (a[:1] for a in (data.like if isinstance(data, Blocks) else data))
    mean = _mean_loss(problem.model)
    step = partial(_update(problem), mean=partial(mean, x=x, y=y))
    update = _program(step, params, state.opt_state, params, jnp.zeros((), wide(x.dtype)))
    loss = _program(mean, params, x, y)
    method = next((name for name, known in GRADIENTS.items() if known == problem.gradient), None)
    if method is None:
        run = problem.gradient.value_and_grad(problem)
        method = f"own method {_program(run, params, x, y, jnp.ones(1, x.dtype), state.key)}"
    drawn_by = {} if problem.gradient.secret else {"key": np.asarray(jax.random.key_data(key)).tobytes().hex()}
    read_in = f", read in {reading.ORDER}" if isinstance(data, Blocks) else ""
    return {
        "network": str(problem.network or "any model"),
        "loss": (None if isinstance(problem.model, Sweep) else problem.model.loss.name) or "own loss",
        "gradient": method,
        "batch size": str(problem.batch_size),
        "data set": f"{examples_of(data)} examples, {fingerprint_of(data)}{read_in}",
        **drawn_by,
        f"optimizer (its update in jax {jax.__version__})": update,
        f"activation or loss (in jax {jax.__version__})": loss,
    }


def fingerprint_of(data: tuple[ArrayLike, ArrayLike] | Blocks) -> str:
    """What tells these data from others: what `Blocks` say of themselves, or a digest of the arrays.

    >>> fingerprint_of((np.ones((3, 1)), np.ones(3))) == fingerprint_of((np.ones((3, 1)), np.zeros(3)))
    False
    """
    return data.fingerprint if isinstance(data, Blocks) else digest_of(*data)[:16]


def _program(function: Callable, *args) -> str:
    """A digest of what a function computes of such arguments, and with which constants, such as a learning rate."""
    made = jax.make_jaxpr(function)(*args)
    text = re.sub("0x[0-9a-f]+", "", str(made))  # addresses differ from process to process
    return digest_of(np.frombuffer(text.encode(), np.uint8), *made.consts)[:16]


def _warn_of_divergence(row: Row) -> None:
    found = f"the loss is {row['loss']:.3g} after epoch {row['epoch']}"
    if "validation_loss" in row:
        found += f", held out {row['validation_loss']:.3g}"
    hint = "try a lower learning rate, or look for huge values in the data"
    warnings.warn(f"{found}: training stopped, the state is the last good one; {hint}", RuntimeWarning, stacklevel=3)


def fit_many(
    network: Network,
    loss: LossLike,
    optimizer: Callable[[Float[Array, ""]], optax.GradientTransformation],
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    keys: Key[Array, "*keys"],
    learning_rates: Float[Array, "*rates"],
    gradient: str | GradientMethod = "hand",
) -> tuple[TrainState, Float[Array, "n epochs"]]:
    """Train n networks of one wiring in one program, each from its own key and at its own learning rate.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        optimizer: makes the optimizer from a learning rate, such as `optax.adam`.
        data: (x (n, d), y (n, …)), the same for all.
        epochs: how often every example is used.
        batch_size: examples a step.
        keys: a `jax.random.key` for each network, `jax.random.split(key, n)`; of `secret_key()` where the gradient is private.
        learning_rates: one for each network.
        gradient: as in `fit`.

    Returns:
        A `TrainState` whose leaves have a first axis of length n, and each network's loss after each epoch. Network i
        is what `fit` gives for keys[i] and optimizer(learning_rates[i]).

    Raises:
        ValueError: as `fit`; or not one learning rate for each key.

    >>> import optax
    >>> from jaxbackprop.network import mlp
    >>> x = jnp.linspace(-1, 1, 50)[:, None]
    >>> _, losses = fit_many(mlp((1, 8, 1), bias=True), "huber", optax.sgd, (x, x**2), epochs=3, batch_size=10,
    ...                      keys=jax.random.split(jax.random.key(0), 4), learning_rates=jnp.array([0.01, 0.03, 0.1, 0.3]))
    >>> losses.shape
    (4, 3)
    """
    require_positive("epochs", epochs)
    x, y = _require_arrays("data", network, loss, data)
    learning_rates = jnp.asarray(learning_rates)
    if keys.ndim != 1 or learning_rates.shape != keys.shape:
        raise ValueError(
            f"keys has shape {keys.shape}, learning_rates {learning_rates.shape}: give one of each for each network"
        )
    method = _method(gradient)
    if method.secret:
        warn_if_guessable(keys)
    return _fit_many(
        Problem(Model(network, as_loss(loss)), optimizer, _batch_size(batch_size, (x, y)), method),
        epochs,
        keys,
        learning_rates,
        _drawn_many(network, keys, x.dtype),
        x,
        y,
    )


@partial(jax.jit, static_argnums=(0, 2))
def _drawn_many(network, keys, dtype):
    # one after the other, because draws side by side take twice as long to compile
    return jax.lax.map(lambda key: drawn(network, key, dtype), keys)


@partial(jax.jit, static_argnums=(0, 1))
def _fit_many(family: Problem, epochs, keys, learning_rates, params, x, y):
    def one(key, learning_rate, params):
        problem = family._replace(optimizer=family.optimizer(learning_rate))
        return jax.lax.scan(
            lambda state, _: train_epoch(problem, state, x, y), start(problem, key, params), length=epochs
        )

    return jax.vmap(one)(keys, learning_rates, params)


def evaluate(network: Network, loss: LossLike, params: Params, data: Data | Blocks) -> Row:
    """Compute the mean loss and, where the loss has one, the figure that people quote, over (x, y) or `Blocks`.

    Returns:
        {"loss": …}, with "accuracy" (a fraction) for the two cross entropies and "rmse" for half_squared_error and huber.

    Raises:
        ValueError: parameters or data that do not fit; the message says which and what fits.

    >>> from jaxbackprop.network import mlp
    >>> net = mlp((2, 3, 2))
    >>> sorted(evaluate(net, "softmax_cross_entropy", init(net, jax.random.key(0)), (jnp.ones((4, 2)), jnp.zeros(4, int))))
    ['accuracy', 'loss']
    """
    is_network(network)
    are_like("params", params, network.shapes)
    return _figures(Model(network, as_loss(loss)), params, _require_data("data", network, loss, data))


def _figures(model, params, data) -> Row:
    sums: Row = {}
    for x, y, weight in _pieces(data):
        for name, found in _figure_sums(model, params, x, y, weight).items():
            sums[name] = sums.get(name, 0.0) + float(found)
    means = {name: found / examples_of(data) for name, found in sums.items()}
    return {name: math.sqrt(mean) if name == "rmse" else mean for name, mean in means.items()}


def _pieces(data: Data | Blocks) -> Iterator[tuple[Any, Any, Any]]:
    """All rows in their order, x, y and weight: arrays as a whole, `Blocks` some thousand rows at a time, read ahead."""
    if isinstance(data, Blocks):
        return reading.read_ahead(reading.in_order(data, min(EVALUATED_ROWS, data.examples)))
    return iter([(*data, 1.0)])


def answers(network: Network, params: Params, data: Data | Blocks) -> tuple[np.ndarray, np.ndarray]:
    """The target of every row, and the network's answer beside it: a class (n,), or the outputs (n, k) where y has them.

    >>> from jaxbackprop.network import mlp
    >>> net = mlp((2, 1))
    >>> y, yhat = answers(net, {"yhat": {"x": jnp.ones((1, 2))}}, (jnp.ones((3, 2)), jnp.zeros((3, 1))))
    >>> yhat.tolist()
    [[2.0], [2.0], [2.0]]
    """
    found = []
    for x, y, weight in _pieces(data):
        real = np.broadcast_to(weight, len(x)) > 0
        yhat = np.asarray(predict(network, params, jnp.asarray(x)))
        found.append((np.asarray(y)[real], (yhat.argmax(1) if np.ndim(y) == 1 else yhat)[real]))
    targets, guesses = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return targets, guesses


EVALUATED_ROWS = 8192


@partial(jax.jit, static_argnums=0)
def _figure_sums(model, params, x, y, weight):
    if isinstance(model, Sweep):
        return {"loss": jnp.sum(weight * losses_of(model, params, x, y))}
    network, loss, _ = model
    yhat = predict(network, params, x)
    figures = {"loss": jax.vmap(loss.value)(yhat, y)}
    if loss.figure:
        figures[loss.figure.name] = loss.figure.of(yhat, y.reshape(yhat.shape) if y.size == yhat.size else y)
    return {name: jnp.sum(weight * figure.astype(wide(figure.dtype))) for name, figure in figures.items()}


def _require_settings(network, optimizer, key, method, callbacks, checkpoints, monitor, mesh) -> None:
    if not isinstance(network, Sweep):
        is_network(network)
    if key is not None or not method.secret:
        is_key(key)
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}: expected one of optax's, such as optax.adam(1e-3)")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks is {callbacks!r}: expected a list of functions of (state, row)")
    if monitor is not None and not callable(monitor):
        raise TypeError(f"monitor is {monitor!r}: expected a function of (epoch, steps done, steps of the epoch)")
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(
            f"checkpoints is {checkpoints!r}: expected Checkpoints, such as jaxbackprop.Checkpoints('folder')"
        )
    if mesh is not None and (not isinstance(mesh, Mesh) or mesh.axis_names != (DATA, MODEL)):
        raise TypeError(f"mesh is {mesh!r}: expected what jaxbackprop.data_mesh makes")


def _require_update(problem: Problem, state: TrainState) -> None:
    """Refuse an optimizer that asks for the loss where it is not to be told."""
    if not problem.gradient.secret:
        return
    try:
        jax.eval_shape(lambda state: _update(problem)(state.params, state.opt_state, state.params, None, None), state)
    except TypeError as error:
        raise ValueError(
            f"the optimizer asks for the loss ({error}), which a private gradient does not protect: take one that is "
            "content with the gradient, such as optax.adam(1e-3)"
        ) from error


def _require_data(name, network, loss, data) -> tuple[Array, Array] | Blocks:
    if not isinstance(data, Blocks):
        return _require_arrays(name, network, loss, data)

    dtypes = [jax.dtypes.canonicalize_dtype(a.dtype) for a in data.like]  # here: 64-bit types are on or off by thread

    def read(i: int) -> Rows:
        where, found = f"block {i} of {name}", zip("xy", data.read(i), dtypes, strict=True)
        x, y = (_as_dtype(f"{where}: {what}", np.asarray(a), dtype) for what, a, dtype in found)
        _require_rows(where, network, loss, x, y)
        if len(x) != data.lengths[i]:
            raise ValueError(f"{where} has {len(x)} rows, its length is said to be {data.lengths[i]}")
        return x, y

    return replace(data, read=read)


def _require_arrays(name, network, loss, data) -> tuple[Array, Array]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        what = f"holds {len(data)} things" if isinstance(data, tuple | list) else f"is a {type(data).__name__}"
        raise ValueError(f"{name} {what}: expected a pair (x, y), or Blocks")
    x, y = (jnp.asarray(_numbers(f"{name}: {what}", a)) for what, a in zip("xy", data, strict=True))
    _require_rows(name, network, loss, x, y)
    return x, y


def _numbers(name, given):
    if isinstance(given, jax.Array):
        return given
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.number, jnp.bool_)):
        raise ValueError(f"{name} is a {type(given).__name__} that makes no array of numbers: expected numbers")
    return _as_dtype(name, array, jax.dtypes.canonicalize_dtype(array.dtype.newbyteorder("=")))


def _as_dtype(name: str, given: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A dtype that JAX has here, 32 bits where 64 are off; what is too large for it becomes infinity, or is refused."""
    if given.dtype == dtype:
        return given
    if jnp.issubdtype(dtype, jnp.integer):
        if not np.can_cast(given.dtype, dtype, "same_kind"):
            raise ValueError(f"{name} holds {given.dtype}, where block 0 holds whole numbers: store one kind")
        most = np.iinfo(dtype)
        if given.size and (given.min() < most.min or given.max() > most.max):
            raise ValueError(
                f"{name} holds {given.min():,} to {given.max():,}, beyond {dtype}: give floats, or classes from 0"
            )
    with np.errstate(over="ignore"):
        return given.astype(dtype)


def _model(network, loss, params) -> Model | Sweep:
    """What is trained: a network and its loss, or a sweep that has its own."""
    if not isinstance(network, Sweep):
        return Model(network, as_loss(loss))
    if loss is not None:
        raise ValueError(f"loss is {loss!r}, beside a Sweep, which has its own: give None")
    if getattr(network.model, "argnums", 0) != 0:
        raise ValueError("fit calls the sweep with (params, x, y): make it with argnums=0")
    if params is None:
        raise ValueError("params is None, and a Sweep does not say how to draw them: give params to start from")
    return network


def _require_rows(name, network, loss, x, y) -> None:
    if not isinstance(network, Sweep):
        fits({"d": network.inputs}, x=(x, "b d", FLOATING))
    if x.ndim == 0 or len(x) == 0 or y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"{name}: x has shape {x.shape}, y {y.shape}: give at least one example, and one target for each"
        )
    x, y = np.asarray(x), np.asarray(y)  # NumPy has nothing to compile
    for what, values in (("x", x), ("y", y)):
        if jnp.issubdtype(values.dtype, jnp.floating) and not np.isfinite(values).all():
            rows = np.flatnonzero(~np.isfinite(values).reshape(len(values), -1).all(axis=1))
            raise ValueError(
                f"{name}: {what} holds NaN or infinity in {len(rows):,} rows, first in row {rows[0]}: correct or drop them"
            )
    if isinstance(network, Sweep):
        return
    is_class = names_a_class(as_loss(loss), y)
    if as_loss(loss) in CROSS_ENTROPIES and not is_class and not ((y >= 0) & (y <= 1)).all():
        row = int(np.flatnonzero(~((y >= 0) & (y <= 1)).reshape(len(y), -1).all(axis=1))[0])
        raise ValueError(
            f"{name}: y holds {y.min():g} to {y.max():g}, first outside 0 to 1 in row {row}: {as_loss(loss).name} needs "
            "probabilities; half_squared_error takes any numbers"
        )
    if is_class:
        low, high, classes = int(y.min()), int(y.max()), network.layers[-1].width
        if low < 0 or high >= classes:
            raise ValueError(
                f"{name}: y holds classes {low} to {high}, the network has {classes} outputs: 0 to {classes - 1}"
            )


def _require_finite_params(network, params) -> None:
    if isinstance(network, Sweep):
        are_floating("params", params)
    else:
        are_like("params", params, network.shapes)
    for path, w in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(w, np.float64)).all():
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} holds NaN or infinity: there is nothing to go on from"
            )


def _method(gradient) -> GradientMethod:
    if isinstance(gradient, GradientMethod):
        return gradient
    if gradient not in GRADIENTS:
        raise ValueError(unknown("gradient", str(gradient), GRADIENTS))
    return GRADIENTS[gradient]


def _batch_size(batch_size, data, mesh=None) -> int:
    require_positive("batch_size", batch_size)
    if isinstance(data, Blocks):
        return reading.filled_batch(data, int(batch_size), 1 if mesh is None else mesh.shape[DATA])
    return min(int(batch_size), examples_of(data))
