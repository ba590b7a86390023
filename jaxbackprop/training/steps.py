"""A step of training as a pure function, and an epoch as a loop of steps inside one program.

The loop knows nothing about how a gradient is made, nor how batches are drawn: a `GradientMethod` says both.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree, Shaped

from jaxbackprop.arithmetic import wide
from jaxbackprop.backprop import per_example
from jaxbackprop.gradient import plain_loss
from jaxbackprop.model import Model, Sweep
from jaxbackprop.network import Network, Params, init
from jaxbackprop.programs.factored import losses_of
from jaxbackprop.scaling.mesh import DATA

Row = dict[str, int | float]  # what is known of an epoch


def diverged(history: Sequence[Row]) -> bool:
    """Whether the last epoch's loss is not finite.

    >>> diverged([{"epoch": 1, "loss": math.nan}]), diverged([])
    (True, False)
    """
    return any(not math.isfinite(row["loss"] + row.get("validation_loss", 0)) for row in history[-1:])


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
    mean = partial(mean_loss(problem.model), x=x, y=y, weight=weight)
    updates, opt_state = update(problem)(grads, state.opt_state, state.params, value, mean)
    params: Any = optax.apply_updates(state.params, updates)
    return TrainState(params, opt_state, state.key, state.step + 1), value


TOLD = ("value", "grad", "value_fn")  # a line search refuses any other


def update(problem: Problem) -> Callable:
    """(gradient, its state, params, value, params → value) → the optimizer's update, which may ask for these by name.

    A line search evaluates the loss again, SAM its gradient. Where the gradient protects somebody, the loss is not to be told.
    """
    import optax

    transform = optax.with_extra_args_support(problem.optimizer)
    named = inspect.signature(transform.update).parameters
    asked = {*named, *(TOLD if any(one.kind == one.VAR_KEYWORD for one in named.values()) else ())}

    def update(grads, opt_state, params, value, mean):
        known = (value, grads, mean, lambda params, _: jax.grad(mean)(params))
        told = {name: a for name, a in zip((*TOLD, "grad_fn"), known, strict=True) if name in asked}
        told = {} if problem.gradient.secret else told
        return transform.update(grads, opt_state, params, **told)

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
    state, sums = whole_epoch(problem, state, x, y)
    value, count = jnp.sum(sums, axis=0)
    return state, value / count


def whole_epoch(problem, state, x, y):
    """Take an epoch's steps: the new state, and of each step [Σ_b c_b L_b, Σ_b c_b]."""
    rows, weight = drawn_batches(problem, state.key, x.shape[0])
    sums = jnp.zeros((len(rows), 2), wide(x.dtype))
    state, sums = train_steps(problem, state, sums, lambda i: (x[rows[i]], y[rows[i]], weight[i]), 0, len(rows))
    return state._replace(key=next_key(state.key)), sums


def drawn_batches(problem: Problem, key, examples: int):
    """Which rows are each step's batch, and their weight; padded to a multiple of the devices that they are laid over."""
    rows, weight = problem.gradient.batches(jax.random.split(key, 3)[1], examples, problem.batch_size)
    padding = 0 if problem.mesh is None else -rows.shape[1] % problem.mesh.shape[DATA]
    return (jnp.pad(a, ((0, 0), (0, padding))) for a in (rows, weight))


def next_key(key):
    """The key of the next epoch."""
    return jax.random.split(key, 3)[0]


def _laid(mesh: Mesh | None, x, y, weight):
    """The partitioner is told where a batch's examples are; the rest follows."""
    if mesh is None:
        return x, y, weight
    # the weight is everywhere: each device has the sum of it, by which the loss is divided, without asking the others
    rows, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((DATA,), ()))
    return jax.lax.with_sharding_constraint((x, y, weight), (rows, rows, everywhere))


def mean_loss(model: Model | Sweep) -> Callable:
    """(params, x, y, weight=None) → Σ_b c_b L_b / Σ_b c_b, which `jax.grad` differentiates."""
    if not isinstance(model, Sweep):
        return plain_loss(model.network, model.loss)

    def mean(params, x, y, weight=None):
        values = losses_of(model, params, x, y)
        return jnp.mean(values) if weight is None else jnp.sum(weight * values) / jnp.maximum(jnp.sum(weight), 1)

    return mean


def start(problem: Problem, key: Key[Array, ""], params: PyTree[Array] | None = None, dtype=jnp.float32) -> TrainState:
    """Make the state that training starts from: drawn parameters, or the given ones."""
    network: Any = problem.network
    own: Any = drawn(network, key, dtype) if params is None else params
    return TrainState(own, problem.optimizer.init(own), two_keys(key)[0], jnp.zeros((), jnp.int32))


def drawn(network: Network, key: Key[Array, ""], dtype=jnp.float32) -> Params:
    """Draw the parameters that training from this key starts with."""
    return init(network, two_keys(key)[1], dtype)


@jax.jit
def two_keys(key):
    """A training's key as two: that of its first epoch, and that of its parameters."""
    key, init_key = jax.random.split(key)
    return key, init_key


begun = jax.jit(start, static_argnums=0)


@jax.jit
def key_after_epochs(key, epochs):
    """The key that so many epochs leave."""
    return jax.lax.fori_loop(0, epochs, lambda _, key: next_key(key), key)
