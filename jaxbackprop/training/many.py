"""Many networks of one wiring, trained in one program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxbackprop.losses import LossLike, as_loss
from jaxbackprop.model import Model
from jaxbackprop.network import Network
from jaxbackprop.training.inputs import Data, batch_size_of, method_of, require_arrays, require_update
from jaxbackprop.training.secret import warn_if_guessable
from jaxbackprop.training.steps import GradientMethod, Problem, TrainState, drawn, start, train_epoch
from jaxbackprop.words import require_positive

if TYPE_CHECKING:
    import optax  # imported where it is used: it costs as much again as this package


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
    x, y = require_arrays("data", network, loss, data)
    learning_rates = jnp.asarray(learning_rates)
    if keys.ndim != 1 or learning_rates.shape != keys.shape:
        raise ValueError(
            f"keys has shape {keys.shape}, learning_rates {learning_rates.shape}: give one of each for each network"
        )
    method = method_of(gradient)
    if method.secret:
        warn_if_guessable(keys)
    return _fit_many(
        Problem(Model(network, as_loss(loss)), optimizer, batch_size_of(batch_size, (x, y)), method),
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
        begun = start(problem, key, params)
        require_update(problem, begun)
        return jax.lax.scan(lambda state, _: train_epoch(problem, state, x, y), begun, length=epochs)

    return jax.vmap(one)(keys, learning_rates, params)
