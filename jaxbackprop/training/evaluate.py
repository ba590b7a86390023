"""What a network's predictions are worth: the mean loss, and the figure that people quote, over arrays or `Blocks`."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop import blocks as reading
from jaxbackprop.arithmetic import wide
from jaxbackprop.blocks import Blocks
from jaxbackprop.gradient import predict
from jaxbackprop.losses import LossLike, as_loss
from jaxbackprop.model import Model, Sweep
from jaxbackprop.network import Network, Params
from jaxbackprop.programs.factored import losses_of
from jaxbackprop.refusals import are_like, is_network
from jaxbackprop.training.inputs import Data, _require_data
from jaxbackprop.training.steps import Row


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
    if not isinstance(data, Blocks):
        sums = {name: float(found) for name, found in _figure_sums(model, params, *data, 1.0).items()}
        examples = np.shape(data[0])[0]
    else:
        sums, examples = {}, data.examples
        for span in reading.read_ahead(reading.spans(replace(data, lanes=1), EVALUATED_ROWS, seed=0)):
            x, y, weight = (a.reshape(-1, *a.shape[2:]) for a in (span.x, span.y, span.weight))
            for name, found in _figure_sums(model, params, x, y, weight).items():
                sums[name] = sums.get(name, 0.0) + float(found)
    means = {name: found / examples for name, found in sums.items()}
    return {name: math.sqrt(mean) if name == "rmse" else mean for name, mean in means.items()}


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
