"""Activations: each g with its derivative g' beside it, both elementwise.

The derivative is written in the form that keeps its relative precision where the textbook form cancels: σ' is
σ(z) σ(−z) rather than σ (1 − σ), and tanh' is 4 σ(2z) σ(−2z) rather than 1 − tanh². Each is finite for every finite z.
At a kink the branch "otherwise" decides, as in the exercise: relu'(0) = leaky_relu'(0) = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float
from numpy import pi

from jaxbackprop.pairs import as_written, entry_of


@as_written
class Activation(NamedTuple):
    """Elementwise functions: `value(z)` is h = g(z), `derivative(z)` is g'(z).

    Attributes:
        value: g.
        derivative: g'; where it is left out `as_activation` takes it by `jax.vjp`. At a kink JAX then chooses.
        name: what it is known by.
        gain: the variance of the weights before it, in units of 1 / fan-in; see `network.init`.
        text: how it is written before "(z)"; "" where h is z itself.

    >>> square = Activation(value=lambda z: z**2, derivative=lambda z: 2 * z)
    >>> float(square.derivative(jnp.float32(3)))
    6.0
    """

    value: Callable[[Array], Array]
    derivative: Callable[[Array], Array] = None  # pyright: ignore[reportAssignmentType]
    name: str = ""
    gain: float = 1.0
    text: str = "g"


ActivationLike = str | Activation | tuple | Callable  # a name, an `Activation`, a pair (value, derivative), or g alone

Z = Float[Array, "*n"]


def identity(z: Z) -> Z:
    """g(z) = z."""
    return z


def d_identity(z: Z) -> Z:
    """g'(z) = 1."""
    return jnp.ones_like(z)


def relu(z: ArrayLike) -> Array:
    """g(z) = 0 for z < 0, z otherwise.

    Written as a maximum, which the compiler draws into the product that reads it. A single unit is read by no matrix product,
    and a maximum, which looks for NaN, costs more than a choice. `jax.grad` of it is `d_relu`, 1 at z = 0, not a maximum's ½.
    """
    return _relu(z)


@jax.custom_jvp
def _relu(z):
    return jnp.where(jnp.less(z, 0), 0, z) if jnp.shape(z)[-1:] == (1,) else jnp.maximum(z, 0)


_relu.defjvps(lambda dz, _h, z: jnp.where(z < 0, 0, dz))


def d_relu(z: Z) -> Z:
    """g'(z) = 0 for z < 0, 1 otherwise."""
    return jnp.where(z < 0, 0, jnp.ones_like(z))


def leaky_relu(z: Z) -> Z:
    """g(z) = z / 100 for z < 0, z otherwise."""
    return jnp.where(z < 0, 0.01 * z, z)


def d_leaky_relu(z: Z) -> Z:
    """g'(z) = 1 / 100 for z < 0, 1 otherwise."""
    return jnp.where(z < 0, 0.01, jnp.ones_like(z))


def elu(z: Z) -> Z:
    """g(z) = eᶻ − 1 for z < 0, z otherwise."""
    return jnp.where(z < 0, jnp.expm1(jnp.minimum(z, 0)), z)


def d_elu(z: Z) -> Z:
    """g'(z) = eᶻ for z < 0, 1 otherwise."""
    return jnp.exp(jnp.minimum(z, 0))


def gelu(z: Z) -> Z:
    """g(z) = z Φ(z), with Φ the normal distribution function, by erf (Hendrycks and Gimpel 2016)."""
    return z * _normal_cdf(z)


def d_gelu(z: Z) -> Z:
    """g'(z) = Φ(z) + z φ(z), because Φ' = φ, the normal density."""
    return _normal_cdf(z) + z * jnp.exp(-z * z / 2) / (2 * pi) ** 0.5


def gelu_tanh(z: Z) -> Z:
    """g(z) = ½ z (1 + tanh u) = z σ(2u), u = √(2/π) (z + 0.044715 z³): the usual approximation of gelu."""
    return z * jax.nn.sigmoid(2 * _gelu_u(z))


def d_gelu_tanh(z: Z) -> Z:
    """g'(z) = σ(2u) + z σ'(2u) 2u', u' = √(2/π) (1 + 3 · 0.044715 z²)."""
    near = jnp.clip(z, -40, 40)  # beyond, σ' is 0 even in float64; unclipped, u' would overflow and 0 · inf be NaN
    du = (2 / pi) ** 0.5 * (1 + 3 * 0.044715 * near * near)
    return jax.nn.sigmoid(2 * _gelu_u(z)) + near * d_sigmoid(2 * _gelu_u(near)) * 2 * du


def silu(z: Z) -> Z:
    """g(z) = z σ(z)."""
    return z * jax.nn.sigmoid(z)


def d_silu(z: Z) -> Z:
    """g'(z) = σ(z) + z σ'(z) = σ(z) (1 + z σ(−z))."""
    return jax.nn.sigmoid(z) * (1 + z * jax.nn.sigmoid(-z))


def softplus(z: Z) -> Z:
    """g(z) = log(1 + eᶻ) = log(e⁰ + eᶻ), by a function whose `jax.grad` is right at 0 too."""
    return jnp.logaddexp(z, 0)


def d_softplus(z: Z) -> Z:
    """g'(z) = σ(z)."""
    return jax.nn.sigmoid(z)


def tanh(z: Z) -> Z:
    """g(z) = tanh z."""
    return jnp.tanh(z)


def d_tanh(z: Z) -> Z:
    """g'(z) = 1 − tanh² z = 4 σ(2z) σ(−2z)."""
    return 4 * d_sigmoid(2 * z)


def sigmoid(z: Z) -> Z:
    """g(z) = σ(z) = 1 / (1 + e^−z)."""
    return jax.nn.sigmoid(z)


def d_sigmoid(z: Z) -> Z:
    """g'(z) = σ(z) (1 − σ(z)) = σ(z) σ(−z)."""
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def _normal_cdf(z: Z) -> Z:
    # erfc keeps the left tail, where (1 + erf) / 2 rounds to zero.
    return jax.lax.erfc(-z / 2**0.5) / 2


def _gelu_u(z: Z) -> Z:
    return (2 / pi) ** 0.5 * (z + 0.044715 * z * z * z)


HALVED = 2.0  # the gain before a rectifier, which lets half of the variance through (He et al. 2015)

_ALL = (
    Activation(identity, d_identity, "identity", text=""),
    Activation(relu, d_relu, "relu", HALVED, "relu"),
    Activation(leaky_relu, d_leaky_relu, "leaky_relu", HALVED, "leaky_relu"),
    Activation(elu, d_elu, "elu", HALVED, "elu"),
    Activation(gelu, d_gelu, "gelu", HALVED, "gelu"),
    Activation(gelu_tanh, d_gelu_tanh, "gelu_tanh", HALVED, "gelu_tanh"),
    Activation(silu, d_silu, "silu", HALVED, "silu"),
    Activation(softplus, d_softplus, "softplus", text="softplus"),
    Activation(tanh, d_tanh, "tanh", text="tanh"),
    Activation(sigmoid, d_sigmoid, "sigmoid", text="sigmoid"),
)
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({g.name: g for g in _ALL})


def as_activation(given: ActivationLike) -> Activation:
    """Return the activation of that name; or a function, or a pair (value, derivative), as an `Activation`.

    What it returns has a derivative: g' as given, or `jax.vjp`'s. Of the same functions it is the same activation.
    A ValueError says the nearest name that there is, a TypeError what is neither a name nor functions.

    >>> float(as_activation(jnp.square).derivative(jnp.float32(3)))
    6.0
    """
    return entry_of("activation", ACTIVATIONS, given)
