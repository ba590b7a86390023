"""Losses: each L(yhat, y) with dL/dyhat beside it, for ONE example; `yhat` is a vector of outputs (k,).

A loss sums over the outputs of an example. Means are over examples, and taken elsewhere (`backprop.value_and_grad`).
Softmax and sigmoid belong to their losses, never to the last layer: L is then computed from the logits, stable for
logits of any size, and the derivative is the famous difference, probability minus target.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from jaxbackprop._names import look_up


class Loss(NamedTuple):
    """A pair of functions of one example: `value(yhat, y)` is L, `derivative(yhat, y)` is dL/dyhat, shaped like yhat.

    >>> absolute = Loss(value=lambda yhat, y: jnp.sum(jnp.abs(yhat - y)), derivative=lambda yhat, y: jnp.sign(yhat - y))
    >>> float(absolute.value(jnp.array([1.0, 5.0]), jnp.array([3.0, 2.0])))
    5.0
    """

    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array]


Outputs = Float[Array, " k"]
Target = Num[Array, "*k"]
Scalar = Float[Array, ""]


def half_squared_error(yhat: Outputs, y: Target) -> Scalar:
    """L = ½ Σₖ (yhatₖ − yₖ)²; optax calls it `l2_loss`."""
    return jnp.sum(jnp.square(yhat - _values(yhat, y))) / 2


def d_half_squared_error(yhat: Outputs, y: Target) -> Outputs:
    """dL/dyhatₖ = yhatₖ − yₖ."""
    return yhat - _values(yhat, y)


def huber(yhat: Outputs, y: Target) -> Scalar:
    """L = Σₖ (½ r² if |r| ≤ 1, |r| − ½ otherwise), r = yhatₖ − yₖ (Huber 1964, δ = 1)."""
    r = jnp.abs(yhat - _values(yhat, y))
    a = jnp.minimum(r, 1)
    return jnp.sum(a * (r - a / 2))  # one formula for both branches: r² never overflows


def d_huber(yhat: Outputs, y: Target) -> Outputs:
    """dL/dyhatₖ = r for |r| ≤ 1, the sign of r otherwise."""
    return jnp.clip(yhat - _values(yhat, y), -1, 1)


def softmax_cross_entropy(yhat: Outputs, y: Target) -> Scalar:
    """L = Σₖ pₖ (log Σⱼ e^yhatⱼ − yhatₖ).

    y is a class 0 … k−1, an integer, whose pₖ is 1 and all others 0; or it is the vector p of probabilities itself. A
    class outside 0 … k−1 gives NaN, so that it cannot pass for a number.
    """
    p = _probabilities(yhat, y)
    cost = -jax.nn.log_softmax(yhat)
    # where p is 0 an infinitely unlikely class costs nothing: 0 · inf would be NaN
    return jnp.sum(jnp.where((p == 0) & (cost == jnp.inf), 0, p * cost))


def d_softmax_cross_entropy(yhat: Outputs, y: Target) -> Outputs:
    """dL/dyhatₖ = softmax(yhat)ₖ Σⱼ pⱼ − pₖ, where Σⱼ pⱼ is 1 for probabilities."""
    p = _probabilities(yhat, y)
    return jax.nn.softmax(yhat) * jnp.sum(p) - p


def sigmoid_binary_cross_entropy(yhat: Outputs, y: Target) -> Scalar:
    """L = −Σₖ (yₖ log σ(yhatₖ) + (1 − yₖ) log σ(−yhatₖ)) = Σₖ (log(1 + e^yhatₖ) − yₖ yhatₖ).

    yₖ is 0 or 1, or a probability. `jnp.logaddexp`, whose own derivative is right at yhat = 0 too: of the textbook's
    max(yhat, 0) + log(1 + e^−|yhat|) `jax.grad` makes 0 there, for the two kinks that cancel.
    """
    return jnp.sum(jnp.logaddexp(yhat, 0) - _values(yhat, y) * yhat)


def d_sigmoid_binary_cross_entropy(yhat: Outputs, y: Target) -> Outputs:
    """dL/dyhatₖ = σ(yhatₖ) − yₖ."""
    return jax.nn.sigmoid(yhat) - _values(yhat, y)


def _values(yhat: Outputs, y: Target) -> Outputs:
    """y shaped and typed like yhat; a plain number will do where there is one output."""
    if y.shape != yhat.shape and not (y.shape == () and yhat.shape == (1,)):
        raise ValueError(f"a target has shape {y.shape}, the output has {yhat.shape}: give one value for each output")
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise ValueError(f"a target is {y.dtype}: expected real numbers, such as y.real")
    return jnp.reshape(y, yhat.shape).astype(yhat.dtype)


def _probabilities(yhat: Outputs, y: Target) -> Outputs:
    """y as a vector of probabilities: a class becomes a one-hot vector, NaN if there is no such class."""
    (k,) = yhat.shape
    if y.shape == (k,) and jnp.issubdtype(y.dtype, jnp.floating):
        return y.astype(yhat.dtype)
    if y.shape != () or not jnp.issubdtype(y.dtype, jnp.integer):
        raise ValueError(
            f"a target is {y.dtype} of shape {y.shape}: softmax_cross_entropy needs an integer class (shape ()), "
            f"0 to {k - 1}, or floating-point probabilities of shape {yhat.shape}"
        )
    one_hot = (jnp.arange(k) == y).astype(yhat.dtype)
    return jnp.where((y >= 0) & (y < k), one_hot, jnp.nan)


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "half_squared_error": Loss(half_squared_error, d_half_squared_error),
        "huber": Loss(huber, d_huber),
        "softmax_cross_entropy": Loss(softmax_cross_entropy, d_softmax_cross_entropy),
        "sigmoid_binary_cross_entropy": Loss(sigmoid_binary_cross_entropy, d_sigmoid_binary_cross_entropy),
    }
)


def as_loss(name_or_pair: str | Loss | tuple) -> Loss:
    """Return the loss of that name, or the pair (value, derivative) as a `Loss`.

    Raises:
        ValueError: no loss has that name; the message says the nearest.
        TypeError: neither a name nor a pair of functions.

    >>> as_loss("huber") == LOSSES["huber"]
    True
    """
    return Loss(*look_up("loss", LOSSES, name_or_pair))
