"""`fit`: trains, and meanwhile measures, saves, and asks whether to go on.

How a gradient is made does not matter here: "hand" and "jax.grad" give the same trajectory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, Key, PyTree

from jaxbackprop.arithmetic import wide
from jaxbackprop.data.blocks import Blocks
from jaxbackprop.losses import LossLike
from jaxbackprop.model import Model, Sweep
from jaxbackprop.network import Network
from jaxbackprop.refusals import is_key
from jaxbackprop.scaling.processes import noticing_loss
from jaxbackprop.training import inputs
from jaxbackprop.training.checkpoints import Checkpoints
from jaxbackprop.training.epochs import Epoch, Reached, agreed, epoch_of, over_mesh, reached_in_turn, shown
from jaxbackprop.training.evaluate import mean_figures
from jaxbackprop.training.identity import made_for
from jaxbackprop.training.keeper import Keeper
from jaxbackprop.training.secret import Secret, forget, keep, obtained
from jaxbackprop.training.steps import (
    GradientMethod,
    Problem,
    Progress,
    Row,
    TrainState,
    begun,
    diverged,
    drawn,
    key_after_epochs,
)

if TYPE_CHECKING:
    import optax  # imported where it is used: it costs as much again as this package


def fit(
    network: Network | Sweep,
    loss: LossLike | None,
    optimizer: optax.GradientTransformation,
    data: inputs.Data | Blocks,
    *,
    epochs: int,
    batch_size: int,
    key: Key[Array, ""] | None = None,
    gradient: str | GradientMethod = "hand",
    params: PyTree[ArrayLike] | None = None,
    validation: inputs.Data | Blocks | None = None,
    callbacks: Sequence[Callable[[TrainState, Row], Any]] = (),
    checkpoints: Checkpoints | None = None,
    monitor: Callable[[int, int, int], Any] | None = None,
    mesh: Mesh | None = None,
) -> tuple[TrainState, list[Row]]:
    """Train a network, or any model.

    Args:
        network: the wiring; or any `Sweep`, such as `factored(loss)` of a loss(params, x, y).
        loss: a name from `losses.LOSSES`, or a pair (value, derivative); None of a `Sweep`, which has its own.
        optimizer: any `optax.GradientTransformation` of plain params; what it asks for is given, as `optax.lbfgs` does for its
            line search: the loss of the batch, its gradient, and both as functions of params.
        data: (x (n, d), y (n, …)), or `Blocks` that are read as they are needed; the parameters take x's dtype.
        epochs: how often every example is used.
        batch_size: examples a step; the last batch of an epoch is padded with weight 0.
        key: a `jax.random.key`, for the first parameters and the shuffles; needed, but with `private_gradient`, where it is a
            secret and best left out: it is then drawn from the operating system, and the state that comes back holds a blank one.
        gradient: "hand" or "jax.grad", the same trajectory; or a `GradientMethod`, such as `private_gradient(…)`.
        params: what to start from; drawn from `key` by default. Of a `Sweep` they have to be given.
        validation: (x, y), or `Blocks`, to evaluate after each epoch.
        callbacks: each is called (state, row) after each epoch; training stops when one returns True.
        checkpoints: where and how often to keep what training carries. Where the folder holds a checkpoint of this same
            training, it goes on from there, to `epochs` in all: the same call again continues what was interrupted,
            bit for bit, in mid-epoch too. After a divergence the same call with a lower learning rate goes on from the last
            good state; a private one does not, as its noise would be used twice. A secret key that was drawn lies in the
            folder meanwhile, see secret.py.
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
    inputs.require_settings(epochs, optimizer, callbacks, checkpoints, monitor, mesh)
    method, model = inputs.method_of(gradient), inputs.model_of(network, loss, params)
    inputs.require_key(key, method.secret, params)
    data = inputs.require_data("data", network, loss, data)
    validation = None if validation is None else inputs.require_data("validation", network, loss, validation)
    problem = Problem(model, optimizer, inputs.batch_size_of(batch_size, data, mesh), method, mesh)
    epoch = epoch_of(problem, data)
    secret = obtained(key, checkpoints and Path(checkpoints.folder)) if method.secret else None
    own_key = secret.key if secret else is_key(key)
    fresh = _fresh(problem, epoch, own_key, params, data)
    keeper = checkpoints and Keeper(checkpoints, made_for(problem, data, own_key, fresh.state), mesh)
    started = _going_on(problem, fresh, keeper, secret, epochs)

    reached, held_out = shown(problem, started), partial(_held_out, model, validation)
    try:
        with noticing_loss():
            for reached, row in reached_in_turn(problem, epoch, started, held_out, epochs):
                if keeper:
                    keeper.keep_due(*reached, row)
                stop = _is_to_stop(reached, row, epoch.steps, callbacks, monitor) or diverged(reached.history)
                if agreed(mesh, stop):
                    break
    finally:
        if keeper:
            keeper.save_last(*reached)

    if diverged(reached.history):
        _say_divergence(reached.history[-1], None if secret else keeper)
    if secret and keeper and _has_ended(reached.history, epochs):
        forget(keeper.folder)
    return reached.progress.state, reached.history


def _fresh(problem: Problem, epoch: Epoch, key, params, data) -> Progress:
    """Where training begins: with drawn parameters, or the given ones."""
    dtype = data.like[0].dtype if isinstance(data, Blocks) else data[0].dtype
    own: Any = jax.tree.map(jnp.asarray, params)
    # drawn by a program of its own, which every fit of this network shares: drawing takes as long to compile as training
    if params is None and problem.network:
        own = drawn(problem.network, key, dtype)
    state = begun(problem._replace(mesh=None), key, own)
    inputs.require_update(problem, state)
    return Progress(state, np.zeros((epoch.steps, 2), wide(dtype)), 0)


def _going_on(problem: Problem, fresh: Progress, keeper: Keeper | None, secret: Secret | None, epochs: int) -> Reached:
    """Where training goes on from: the newest checkpoint, with the secret that was kept out of it; or from the beginning."""
    fresh = over_mesh(problem, fresh)
    if keeper is None:
        return Reached(fresh, [])
    started, restored = Reached(fresh, []), keeper.load(fresh, epochs)
    if restored:
        saved = restored.state
        if secret:
            key = key_after_epochs(fresh.state.key, len(restored.history))
            saved = saved._replace(state=saved.state._replace(key=key))
        started = Reached(over_mesh(problem, saved), restored.history)
    if secret and not _has_ended(started.history, epochs):
        keep(keeper.folder, secret, new=restored is None)
    if keeper.checkpoints.on_start:  # nothing can be refused any more
        keeper.checkpoints.on_start(started.history)
    return started


def _is_to_stop(reached: Reached, row: Row | None, steps: int, callbacks, monitor) -> bool:
    """Tell the callbacks of an epoch, or the monitor of a part of one, and hear whether one of them wishes to stop."""
    progress, history = reached
    if row is None:
        wishes = [monitor and monitor(len(history) + 1, progress.position, steps)]
    else:  # every one is called, whatever the first says
        wishes = [callback(progress.state, row) for callback in callbacks]
    return any(wish is True for wish in wishes)  # `is`: 1, or an array, that a callback happens to return is no wish


def _held_out(model: Model | Sweep, data, params: PyTree[Array]) -> Row:
    figures = {} if data is None else mean_figures(model, params, data)
    return {f"validation_{name}": figure for name, figure in figures.items()}


def _has_ended(history: Sequence[Row], epochs: int) -> bool:
    return len(history) >= epochs or diverged(history)


def _say_divergence(row: Row, keeper: Keeper | None) -> None:
    """Warn, and let the same call with another optimizer go on from the last good state, where that is kept."""
    found = f"the loss is {row['loss']:.3g} after epoch {row['epoch']}"
    if "validation_loss" in row:
        found += f", held out {row['validation_loss']:.3g}"
    hint = "try a lower learning rate, or look for huge values in the data"
    if keeper:
        keeper.mark_divergence(row)
        hint += "; the same call with a lower rate goes on from that state"
    warnings.warn(f"{found}: training stopped, the state is the last good one; {hint}", RuntimeWarning, stacklevel=3)
