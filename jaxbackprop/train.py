"""Training: a pure step, an epoch as one compiled program, `fit`, and many networks trained in one program.

The loop knows nothing about how a gradient is made: "hand" and "jax.grad" give the same trajectory.
"""

import math
import re
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, Num

from jaxbackprop._names import unknown
from jaxbackprop.backprop import LossLike
from jaxbackprop.checkpoint import Checkpoints, Keeper, digest_of
from jaxbackprop.gradient import plain_loss, value_and_grad
from jaxbackprop.losses import LOSSES, Loss, as_loss
from jaxbackprop.network import Network, Params, init, predict, require_input, require_params

if TYPE_CHECKING:
    import optax  # imported where it is used: it costs as much again as this package

Data = tuple[ArrayLike, ArrayLike]
Row = dict[str, int | float]


class TrainState(NamedTuple):
    """All that training carries from one step to the next."""

    params: Params
    opt_state: Any
    key: Key[Array, ""]
    step: Int[Array, ""]


class Problem(NamedTuple):
    """What is trained and how; hashable, so that one compiled epoch serves every `fit` of the same problem."""

    network: Network
    loss: Loss
    optimizer: Any  # an optax.GradientTransformation; in `fit_many` what makes one from a learning rate
    batch_size: int
    gradient: "GradientMethod"


class GradientMethod(NamedTuple):
    """How an epoch's batches are drawn, and how a batch's gradient is made: all that distinguishes ways of training.

    Attributes:
        batches: (key, examples, batch_size) → rows (steps, b) and their weight (steps, b).
        value_and_grad: Problem → ((params, x, y, weight, key) → (value, gradient)).
    """

    batches: Callable
    value_and_grad: Callable[[Problem], Callable]


def train_step(
    problem: Problem,
    state: TrainState,
    x: Float[Array, "b d"],
    y: Num[Array, "b ..."],
    weight: Float[Array, " b"],
    key: Key[Array, ""],
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step: predict, loss, gradient, update. Pure; returns the new state and the loss before the step."""
    import optax

    value, grads = problem.gradient.value_and_grad(problem)(state.params, x, y, weight, key)
    updates, opt_state = problem.optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.key, state.step + 1), value


def train_epoch(
    problem: Problem, state: TrainState, x: Float[Array, "n d"], y: Num[Array, "n ..."]
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step for each batch of a fresh draw. Pure; returns the new state and the mean of the examples' losses."""
    key, batch_key, step_key = jax.random.split(state.key, 3)
    rows, weight = problem.gradient.batches(batch_key, x.shape[0], problem.batch_size)

    def step(state, batch):
        rows, weight, key = batch
        state, value = train_step(problem, state, x[rows], y[rows], weight.astype(x.dtype), key)
        return state, value * jnp.sum(weight)

    batches = (rows, weight, jax.random.split(step_key, len(rows)))
    state, values = jax.lax.scan(step, state._replace(key=key), batches)
    return state, jnp.sum(values) / jnp.sum(weight)


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
    run = value_and_grad(problem.network, problem.loss)
    return lambda params, x, y, weight, _key: run(params, x, y, weight)


def _by_jax_grad(problem: Problem) -> Callable:
    run = jax.value_and_grad(plain_loss(problem.network, problem.loss))
    return lambda params, x, y, weight, _key: run(params, x, y, weight)


GRADIENTS: dict[str, GradientMethod] = {
    "hand": GradientMethod(shuffled_batches, _by_hand),
    "jax.grad": GradientMethod(shuffled_batches, _by_jax_grad),
}


def start(problem: Problem, key: Key[Array, ""], params: Params | None = None, dtype=jnp.float32) -> TrainState:
    """Make the state that training starts from: drawn parameters, or the given ones."""
    own: Params = drawn(problem.network, key, dtype) if params is None else params
    return TrainState(own, problem.optimizer.init(own), _two_keys(key)[0], jnp.zeros((), jnp.int32))


def drawn(network: Network, key: Key[Array, ""], dtype=jnp.float32) -> Params:
    """Draw the parameters that training from this key starts with."""
    return init(network, _two_keys(key)[1], dtype)


@jax.jit
def _two_keys(key):
    key, init_key = jax.random.split(key)
    return key, init_key


_start = jax.jit(start, static_argnums=0)
# buffers are not donated: where an epoch diverges, or is interrupted, the state before it is what there is to keep
_epoch = jax.jit(train_epoch, static_argnums=0)


def fit(
    network: Network,
    loss: LossLike,
    optimizer: "optax.GradientTransformation",
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    key: Key[Array, ""],
    gradient: str | GradientMethod = "hand",
    params: Params | None = None,
    validation: Data | None = None,
    callbacks: Sequence[Callable[[TrainState, Row], Any]] = (),
    checkpoints: Checkpoints | None = None,
) -> tuple[TrainState, list[Row]]:
    """Train a network.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        optimizer: any `optax.GradientTransformation`.
        data: (x (n, d), y (n, …)); the parameters take x's dtype.
        epochs: how often every example is used.
        batch_size: examples a step; the last batch of an epoch is padded with weight 0.
        key: a `jax.random.key`, for the first parameters and the shuffles.
        gradient: "hand" or "jax.grad", the same trajectory; or a `GradientMethod`, such as `private_gradient(…)`.
        params: what to start from; drawn from `key` by default.
        validation: (x, y) to evaluate after each epoch.
        callbacks: each is called (state, row) after each epoch; training stops when one returns True.
        checkpoints: where and how often to keep what training carries. Where the folder holds a checkpoint of this same
            training, it goes on from there, to `epochs` in all: the same call again continues what was interrupted,
            bit for bit.

    Returns:
        The last `TrainState`, and a row for each epoch: "epoch", "loss" (mean over the epoch, as it went), "seconds"
        (of training), and with `validation` "validation_loss" and, where the loss has one, "validation_accuracy"
        or "validation_rmse". Where a loss is not finite training stops: its row is the last, and the state is the
        last good one, of the epoch before.

    Raises:
        ValueError: data, parameters or settings that do not fit, or a checkpoint of another training; the message says
            which and what fits.
        OSError: a checkpoint cannot be written; those that were there still are.

    >>> import optax
    >>> from jaxbackprop.network import mlp
    >>> x = jnp.linspace(-1, 1, 50)[:, None]
    >>> state, history = fit(mlp((1, 16, 1), "tanh", bias=True), "half_squared_error", optax.adam(0.03),
    ...                      (x, x**2), epochs=60, batch_size=10, key=jax.random.key(0))
    >>> history[-1]["loss"] < 0.1 * history[0]["loss"]
    True
    """
    x, y = _require_data("data", network, loss, data)
    problem = Problem(network, as_loss(loss), optimizer, _batch_size(batch_size, len(x)), _method(gradient))
    if params is not None:
        require_params(network, params)
    _require_positive("epochs", epochs)
    # drawn by a program of its own, which every fit of this network shares: drawing takes as long to compile as training
    state = _start(problem, key, drawn(network, key, x.dtype) if params is None else params)
    held_out = None if validation is None else _require_data("validation", network, loss, validation)
    keeper, reached = None, (state, [])
    if checkpoints is not None:
        keeper = Keeper(checkpoints, _made_for(problem, (x, y), key, state) | dict(checkpoints.made_for))
        if restored := keeper.load(state):
            reached = restored.state, restored.history
    state, history = reached
    began = time.perf_counter() - (history[-1]["seconds"] if history else 0)
    try:
        for epoch in range(len(history) + 1, epochs + 1):
            new, value = _epoch(problem, state, x, y)
            row: Row = {"epoch": epoch, "loss": float(value), "seconds": time.perf_counter() - began}
            if held_out is not None:
                figures = evaluate(network, loss, new.params, held_out)
                row |= {f"validation_{name}": figure for name, figure in figures.items()}
            good = math.isfinite(row["loss"]) and math.isfinite(row.get("validation_loss", 0))
            # in one assignment: an interruption finds the state and the history of the same epoch
            reached = state, history = new if good else state, [*history, row]
            if keeper and good and keeper.due(epoch):
                keeper.save(*reached)
            answers = [callback(state, row) for callback in callbacks]  # every one is called, whatever the first says
            if not good:
                _warn_of_divergence(row)
            if not good or any(answer is True for answer in answers):
                break
    finally:
        if keeper:
            keeper.save_last(*reached)
    return reached


def _made_for(problem: Problem, data: tuple[Array, Array], key, state) -> dict[str, str]:
    """What has to be the same for training to go on, as far as it can be said in words."""
    update = jax.make_jaxpr(problem.optimizer.update)(state.params, state.opt_state, state.params)
    # its constants, such as the learning rate, are in the text; addresses differ from process to process
    text = re.sub("0x[0-9a-f]+", "", str(update))
    optimizer = digest_of(np.frombuffer(text.encode(), np.uint8))[:16]
    method = next((name for name, known in GRADIENTS.items() if known == problem.gradient), "own method")
    return {
        "network": str(problem.network),
        "loss": next((name for name, known in LOSSES.items() if known == problem.loss), "own loss"),
        "gradient": method,
        "batch size": str(problem.batch_size),
        "data set": f"{data[0].shape[0]} examples, {digest_of(*data)[:16]}",
        "key": np.asarray(jax.random.key_data(key)).tobytes().hex(),
        f"optimizer (its update in jax {jax.__version__})": optimizer,
    }


def _warn_of_divergence(row: Row) -> None:
    found = f"the loss is {row['loss']:.3g} after epoch {row['epoch']}"
    if "validation_loss" in row:
        found += f", held out {row['validation_loss']:.3g}"
    hint = "try a lower learning rate, or look for huge values in the data"
    warnings.warn(
        f"{found}: training stopped, the state is that of the epoch before; {hint}", RuntimeWarning, stacklevel=3
    )


def fit_many(
    network: Network,
    loss: LossLike,
    optimizer: Callable[[Float[Array, ""]], "optax.GradientTransformation"],
    data: Data,
    *,
    epochs: int,
    batch_size: int,
    keys: Key[Array, "..."],
    learning_rates: Float[Array, "..."],
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
        keys: a `jax.random.key` for each network, `jax.random.split(key, n)`.
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
    x, y = _require_data("data", network, loss, data)
    _require_positive("epochs", epochs)
    learning_rates = jnp.asarray(learning_rates)
    if keys.ndim != 1 or learning_rates.shape != keys.shape:
        raise ValueError(
            f"keys has shape {keys.shape}, learning_rates {learning_rates.shape}: give one of each for each network"
        )
    return _fit_many(
        Problem(network, as_loss(loss), optimizer, _batch_size(batch_size, len(x)), _method(gradient)),
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


def evaluate(network: Network, loss: LossLike, params: Params, data: Data) -> Row:
    """Compute the mean loss and, where the loss has one, the figure that people quote, over (x, y).

    Returns:
        {"loss": …}, with "accuracy" (a fraction) for the two cross entropies and "rmse" for half_squared_error and huber.

    >>> from jaxbackprop.network import mlp
    >>> net = mlp((2, 3, 2))
    >>> sorted(evaluate(net, "softmax_cross_entropy", init(net, jax.random.key(0)), (jnp.ones((4, 2)), jnp.zeros(4, int))))
    ['accuracy', 'loss']
    """
    figures = _evaluate(network, loss if isinstance(loss, str) else as_loss(loss), params, *data)
    return {name: float(figure) for name, figure in figures.items()}


@partial(jax.jit, static_argnums=(0, 1))
def _evaluate(network, loss, params, x, y):
    yhat = predict(network, params, x)
    figures = {"loss": jnp.mean(jax.vmap(as_loss(loss).value)(yhat, y))}
    if loss in METRICS:
        name, metric = METRICS[loss]
        figures[name] = metric(yhat, y.reshape(yhat.shape) if y.size == yhat.size else y)
    return figures


def _class_accuracy(yhat, y):
    y = y if jnp.issubdtype(y.dtype, jnp.integer) else jnp.argmax(y, axis=1)
    return jnp.mean(jnp.argmax(yhat, axis=1) == y.reshape(-1))


METRICS: dict[object, tuple[str, Callable]] = {
    "softmax_cross_entropy": ("accuracy", _class_accuracy),
    "sigmoid_binary_cross_entropy": ("accuracy", lambda yhat, y: jnp.mean((yhat > 0) == (y > 0.5))),
    "half_squared_error": ("rmse", lambda yhat, y: jnp.sqrt(jnp.mean(jnp.square(yhat - y)))),
    "huber": ("rmse", lambda yhat, y: jnp.sqrt(jnp.mean(jnp.square(yhat - y)))),
}


def _require_data(name, network, loss, data) -> tuple[Array, Array]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(f"{name} is a {type(data).__name__}: expected a pair (x, y)")
    x, y = map(jnp.asarray, data)
    require_input(network, x, ndims=(2,))
    if len(x) == 0 or y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"{name}: x has shape {x.shape}, y {y.shape}: give at least one example, and one target for each"
        )
    if loss == "softmax_cross_entropy" and jnp.issubdtype(y.dtype, jnp.integer):
        given = np.asarray(y)  # NumPy has nothing to compile
        low, high, classes = int(given.min()), int(given.max()), network.layers[-1].width
        if low < 0 or high >= classes:
            raise ValueError(
                f"{name}: y holds classes {low} to {high}, the network has {classes} outputs: 0 to {classes - 1}"
            )
    return x, y


def _method(gradient) -> GradientMethod:
    if isinstance(gradient, GradientMethod):
        return gradient
    if gradient not in GRADIENTS:
        raise ValueError(unknown("gradient", str(gradient), GRADIENTS))
    return GRADIENTS[gradient]


def _batch_size(batch_size, examples) -> int:
    _require_positive("batch_size", batch_size)
    return min(int(batch_size), examples)


def _require_positive(name, number) -> None:
    if isinstance(number, bool) or not hasattr(number, "__index__") or number < 1:
        raise ValueError(f"{name} is {number!r}: expected an integer of at least 1")
