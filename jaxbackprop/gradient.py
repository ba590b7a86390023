"""The gradient of a batch's loss, as users call it: `value_and_grad`, and the same rule behind `jax.custom_vjp`.

    L = Σ_b c_b L_b        dL/dW_ts = Σ_b c_b dW_ts,b        dL/dx_b = c_b dh_x,b        dL/dc_b = L_b

with c_b = 1 for the sum over a batch, 1/B for its mean. c enters at dyhat, where it costs one number an example, and
not a pass over the parameters at the end. The sums over b are those of scaling/streaming.py, in tiles where that is faster.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxbackprop.arithmetic import Precision, weighted_sum, wide
from jaxbackprop.backprop import backward, factored_by, forward, per_example, sweep_batch
from jaxbackprop.doors import asks, bare, is_batch_of, is_input
from jaxbackprop.factors import total
from jaxbackprop.losses import LossLike, as_loss
from jaxbackprop.model import Model
from jaxbackprop.network import INPUT, Network, Params
from jaxbackprop.refusals import is_network
from jaxbackprop.scaling.streaming import Sums, add_up, compiled, is_tile


@asks(is_input)
def predict(
    network: Network, params: Params, x: Float[Array, "*b d"], precision: Precision = None
) -> Float[Array, "*b k"]:
    """Compute yhat for one example (d,) or a batch (b, d).

    Raises:
        ValueError: parameters or an x that do not fit the wiring, or an unknown precision.
        TypeError: no network, or something that is not an array where one is needed.

    >>> predict(net, params, x).shape
    (5, 1)
    """

    def one(x):
        return bare(forward)(network, params, x, precision).h[network.output]

    return one(x) if jnp.ndim(x) == 1 else jax.vmap(one)(x)


def value_and_grad(
    network: Network,
    loss: LossLike,
    reduction: str = "mean",
    precision: Precision = None,
    tile: int | None = None,
) -> Callable:
    """Return a function that computes the loss over a batch and its hand-derived gradient, compiled.

    With example weights c (1 where none are given): "sum" is Σ_b c_b L_b, "mean" is Σ_b c_b L_b / Σ_b c_b, so that
    examples of weight 0 are padding. Weights that add up to 0 have no mean: value and gradient are then not finite. So
    are those of a class that does not exist, and of NaN or infinity in parameters or data. Shapes and dtypes are looked at,
    numbers never, as that would wait for the device at every call: targets of the cross entropies outside 0 … 1, which `fit`
    and `evaluate` refuse, are taken as they are.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        reduction: "mean" or "sum".
        precision: of all products, as in `jax.lax.Precision`.
        tile: examples swept at a time, whose activations are all the temporary memory there is; by default what is
            fastest on this device.

    Returns:
        (params, x (b, d), y (b, …), weight (b,) or None) → (value, gradient of params' shapes and dtypes), a `jax.jit`ted
        function.

    Raises:
        ValueError: an unknown name, or shapes or dtypes that do not fit; the message says which and what fits.
        TypeError: something that is not an array where one is needed, a list say; or no network.

    >>> value, grads = value_and_grad(net, "half_squared_error")(params, x, y)
    >>> jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    True
    """
    return compiled(_value_and_grad, _model(network, loss, precision), is_reduction(reduction), is_tile(tile))


def _value_and_grad(model: Model, reduction: str, tile: int | None, params, x, y, weight=None):
    is_batch_of(model, params, x, y, weight)
    return _sums(model, params, x, y, _coefficients(reduction, jnp.shape(x)[0], weight), tile)


def plain_loss(network: Network, loss: LossLike, reduction: str = "mean", precision: Precision = None) -> Callable:
    """Return the same scalar loss(params, x, y, weight=None) in plain JAX, which `jax.grad` differentiates by itself.

    What the hand-derived gradient is checked against and timed beside. The arguments are those of
    `value_and_grad`, and so is what it raises.

    >>> bool(plain_loss(net, "huber")(params, x, y) == loss_function(net, "huber")(params, x, y))
    True
    """
    model, reduction = _model(network, loss, precision), is_reduction(reduction)

    def scalar_loss(params, x, y, weight=None):
        is_batch_of(model, params, x, y, weight)
        return _plain(model, reduction, params, x, y, weight)

    return scalar_loss


def _plain(model, reduction, params, x, y, weight):
    values = jax.vmap(model.loss.value)(bare(predict)(model.network, params, x, model.precision), y)
    return weighted_sum(values, _coefficients(reduction, jnp.shape(x)[0], weight))


def loss_function(network: Network, loss: LossLike, reduction: str = "mean", precision: Precision = None) -> Callable:
    """Return a scalar loss(params, x, y, weight=None) whose `jax.grad` IS the hand-derived rule.

    Differentiable with respect to params, x and weight (for the mean, dL/dc_b = (L_b − L) / Σ c); y is data. The
    arguments are those of `value_and_grad`.

    Raises:
        TypeError: it is differentiated with respect to y, or by `jax.jvp` or `jax.jacfwd`, for which `plain_loss` is there.

    >>> dparams, dx = jax.grad(loss_function(net, "huber"), argnums=(0, 1))(params, x, y)
    >>> dx.shape
    (5, 2)
    """
    model, reduction = _model(network, loss, precision), is_reduction(reduction)

    def scalar_loss(params, x, y, weight=None):
        is_batch_of(model, params, x, y, weight)
        return _in_reverse("loss_function", "plain_loss", _loss, model, reduction, _as_dicts(params), x, y, weight)

    return scalar_loss


def apply(network: Network, precision: Precision = None) -> Callable:
    """Return apply(params, x) → yhat, differentiable by the hand-derived rule in params and x, inside any larger model.

    Give it the whole batch (b, d) rather than vmapping it over examples: the sum over the batch is then contracted
    once per edge, where `jax.vmap` would form every example's gradient first.

    Args:
        network: the wiring.
        precision: of all products, as in `jax.lax.Precision`.

    Raises:
        ValueError: parameters or an input that do not fit the wiring.
        TypeError: something that is not an array where one is needed, a list say; or no network; or `jax.jvp` and `jax.jacfwd`,
            for which `predict` is there.

    >>> jax.grad(lambda params, x: jnp.sum(jnp.sin(apply(net)(params, x))))(params, x)["h0"]["x"].shape
    (3, 2)
    """
    is_network(network, precision)

    def yhat_of(params, x):
        is_input(network, params, x)
        yhat = _in_reverse("apply", "predict", _apply, network, precision, _as_dicts(params), jnp.atleast_2d(x))
        return yhat if jnp.ndim(x) == 2 else yhat[0]

    return yhat_of


def _in_reverse(name: str, plain: str, rule: Callable, *args) -> Any:
    """Call what has a rule for reverse mode alone; forward mode is refused by its name."""
    try:
        return rule(*args)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        ways = "jax.grad, jax.vjp, jax.linearize and jax.hessian"
        raise TypeError(
            f"{name} has a derivative rule for {ways}, none for jax.jvp and jax.jacfwd: there use jaxbackprop.{plain}"
        ) from error


def _model(network, loss, precision) -> Model:
    is_network(network, precision)
    return Model(network, as_loss(loss), precision)


def is_reduction(reduction: Any) -> str:
    """Refuse a reduction that does not exist."""
    if not isinstance(reduction, str) or reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}: expected 'mean' or 'sum'")
    return reduction


def _sums(model: Model, params, x, y, c, tile: int | None = None):
    value, grads = add_up(Sums(per_example(*model), _total(model.precision), tile), params, x, y, c=c)
    return value, _typed_like(params, grads)


def _typed_like(params, grads):
    """A gradient in its parameters' own dtypes, as of `jax.grad`: where x has a wider one, the sweep does too."""
    return jax.tree.map(lambda p, d: d.astype(jnp.result_type(p)), _as_dicts(params), grads)


def _as_dicts(params):
    """Plain dicts, for subclasses too: a rule must return what it was given."""
    return {t: dict(edges) for t, edges in params.items()}


@lru_cache(maxsize=16)
def _total(precision: Precision) -> Callable:
    """One readout for each precision: what is compiled is looked up by it."""
    return partial(total, precision=precision)


def _coefficients(reduction, examples, weight):
    """What each example's loss is multiplied by: c_b for the sum, c_b / Σ c for the mean; one number where all are alike."""
    if weight is None:
        return 1.0 if reduction == "sum" else 1 / examples
    c = jnp.asarray(weight, wide(jnp.result_type(weight)))
    return c if reduction == "sum" else c / jnp.sum(c)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _loss(model, reduction, params, x, y, weight):
    return _plain(model, reduction, params, x, y, weight)


def _loss_forward(model, reduction, params, x, y, weight):
    if any(leaf.perturbed for leaf in jax.tree.leaves(y, is_leaf=lambda leaf: hasattr(leaf, "perturbed"))):
        raise TypeError(
            "loss_function is differentiated with respect to y, which the hand-derived rule takes as data: "
            "use jaxbackprop.apply with a loss of your own"
        )
    by_example = any(leaf.perturbed for leaf in (x, *(() if weight is None else (weight,))))
    params, x, y, weight = jax.tree.map(
        lambda leaf: leaf.value, (params, x, y, weight), is_leaf=lambda leaf: hasattr(leaf, "perturbed")
    )
    c = _coefficients(reduction, x.shape[0], weight)
    if not by_example:
        value, dparams = _sums(model, params, x, y, c)
        return value, (dparams, None, None)
    values, fg, dx = sweep_batch(model, params, x, y, c)
    value = weighted_sum(values, c)
    if weight is None:
        dweight = None
    else:
        # of Σ c L: L_b; of Σ c L / Σ c: (L_b − L) / Σ c
        per_weight = values if reduction == "sum" else (values - value) / jnp.sum(weight, dtype=wide(weight.dtype))
        dweight = per_weight.astype(weight.dtype)
    return value, (_typed_like(params, bare(total)(fg, precision=model.precision)), dx.astype(x.dtype), dweight)


def _loss_backward(_model, _reduction, residuals, dvalue):
    # None, a gradient of zero, for what nobody asked for
    dparams, dx, dweight = jax.tree.map(lambda d: dvalue.astype(d.dtype) * d, residuals)
    return dparams, dx, None, dweight


_loss.defvjp(_loss_forward, _loss_backward, symbolic_zeros=True)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(network, precision, params, x):
    return bare(predict)(network, params, x, precision)


def _apply_forward(network, precision, params, x):
    f = jax.vmap(lambda x: bare(forward)(network, params, x, precision))(x)
    return f.h[network.output], (params, f)


def _apply_backward(network, precision, residuals, dyhat):
    params, f = residuals
    b = jax.vmap(lambda f, dyhat: bare(backward)(network, params, f, dyhat, precision))(f, dyhat)
    dparams = bare(total)(factored_by(network, f, b), precision=precision)
    return _typed_like(params, dparams), b.dh[INPUT].astype(f.h[INPUT].dtype)


_apply.defvjp(_apply_forward, _apply_backward)
