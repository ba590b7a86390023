"""What a network's predictions are worth: the mean loss, and the figure that people quote, over arrays or `Blocks`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.arithmetic import wide
from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks, examples_of
from jaxbackprop.gradient import predict
from jaxbackprop.losses import LossLike, as_loss
from jaxbackprop.model import Model, Sweep
from jaxbackprop.network import Network, Params
from jaxbackprop.programs.factored import losses_of
from jaxbackprop.refusals import are_like, is_network
from jaxbackprop.training.inputs import Data, require_data
from jaxbackprop.training.steps import Row


def evaluate(network: Network, loss: LossLike, params: Params, data: Data | Blocks) -> Row:
    """Compute the mean loss and, where the loss has one, the figure that people quote, over (x, y) or `Blocks`.

    Returns:
        {"loss": …}, with "accuracy" (a fraction) for the two cross entropies and "rmse" for half_squared_error and huber.

    Raises:
        ValueError: parameters or data that do not fit; the message says which and what fits.

    >>> from jaxbackprop.network import mlp
    >>> net = mlp((2, 3, 2))
    >>> sorted(evaluate(net, "softmax_cross_entropy", jbp.init(net, jax.random.key(0)), (jnp.ones((4, 2)), jnp.zeros(4, int))))
    ['accuracy', 'loss']
    """
    is_network(network)
    are_like("params", params, network.shapes)
    return mean_figures(Model(network, as_loss(loss)), params, require_data("data", network, loss, data))


def mean_figures(model, params, data) -> Row:
    """The means over all rows of the loss and of the figure that the loss has, by name."""
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
