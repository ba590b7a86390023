"""Losses: each L(yhat, y) with dL/dyhat beside it, for ONE example; `yhat` is a vector of outputs (k,).

A loss sums over the outputs of an example. Means are over examples, and taken elsewhere (`backprop.value_and_grad`).
Softmax and sigmoid belong to their losses, never to the last layer: L is then computed from the logits, stable for
logits of any size, and the derivative is the famous difference, probability minus target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxbackprop import formulas
from jaxbackprop.formulas import Show, Written
from jaxbackprop.pairs import as_written, entry_of


class Figure(NamedTuple):
    """What people quote beside a loss, as the mean of one number an example; where it is an "rmse", the root of that mean.

    Attributes:
        name: "accuracy" or "rmse".
        of: (yhat (b, k), y) → (b,); y has yhat's shape where it has as many numbers.
    """

    name: str
    of: Callable[[Array, Array], Array]


@as_written
class Loss(NamedTuple):
    """Functions of one example: `value(yhat, y)` is L, `derivative(yhat, y)` is dL/dyhat, shaped like yhat.

    Attributes:
        value: L.
        derivative: dL/dyhat; where it is left out `as_loss` takes it by `jax.vjp`.
        name: what it is known by.
        figure: what people quote for it, if anything.
        text: (yhat, y, show) → `Written`, if its formula is known; yhat and y in NumPy, `show` writes a number.

    >>> absolute = Loss(value=lambda yhat, y: jnp.sum(jnp.abs(yhat - y)), derivative=lambda yhat, y: jnp.sign(yhat - y))
    >>> float(absolute.value(jnp.array([1.0, 5.0]), jnp.array([3.0, 2.0])))
    5.0
    >>> as_loss(lambda yhat, y: jnp.sum((yhat - y) ** 4)).derivative(jnp.array([3.0, 1.0]), jnp.array([2.0, 2.0])).tolist()
    [4.0, -4.0]
    """

    value: Callable[[Array, Array], Array]
    derivative: Callable[[Array, Array], Array] = None  # pyright: ignore[reportAssignmentType]
    name: str = ""
    figure: Figure | None = None
    text: Callable[[np.ndarray, np.ndarray, Show], Written] | None = None


LossLike = str | Loss | tuple | Callable  # a name, a `Loss`, a pair (value, derivative), or L alone

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
    class outside 0 … k−1 gives NaN, so that it cannot pass for a number; pₖ outside 0 … 1 is not checked here.
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


def names_a_class(loss: Loss, y: Any) -> bool:
    """Whether targets y are classes, of which there are as many as outputs."""
    return loss.value is softmax_cross_entropy and jnp.issubdtype(y.dtype, jnp.integer)


# What people quote.


def _right_class(yhat, y):
    y = y if jnp.issubdtype(y.dtype, jnp.integer) else jnp.argmax(y, axis=1)
    known = jnp.all(jnp.isfinite(yhat), axis=1)  # argmax would find a class among NaN, too
    return ((jnp.argmax(yhat, axis=1) == y.reshape(-1)) & known).astype(jnp.float32)


def _right_sides(yhat, y):
    return jnp.mean((yhat > 0) == (y > 0.5), axis=1)


def _squared_error(yhat, y):
    return jnp.mean(jnp.square(yhat - y), axis=1)


RMSE = Figure("rmse", _squared_error)

_ALL = (
    Loss(half_squared_error, d_half_squared_error, "half_squared_error", RMSE, formulas.half_squared_error),
    Loss(huber, d_huber, "huber", RMSE, formulas.huber),
    Loss(
        softmax_cross_entropy,
        d_softmax_cross_entropy,
        "softmax_cross_entropy",
        Figure("accuracy", _right_class),
        formulas.softmax_cross_entropy,
    ),
    Loss(
        sigmoid_binary_cross_entropy,
        d_sigmoid_binary_cross_entropy,
        "sigmoid_binary_cross_entropy",
        Figure("accuracy", _right_sides),
        formulas.sigmoid_binary_cross_entropy,
    ),
)
LOSSES: Mapping[str, Loss] = MappingProxyType({loss.name: loss for loss in _ALL})


def as_loss(given: LossLike) -> Loss:
    """Return the loss of that name; or a function, or a pair (value, derivative), as a `Loss`.

    What it returns has a derivative: dL/dyhat as given, or `jax.vjp`'s. Of the same functions it is the same loss.
    A ValueError says the nearest name that there is, a TypeError what is neither a name nor functions.

    >>> as_loss("huber") == LOSSES["huber"]
    True
    """
    return entry_of("loss", LOSSES, given)
