"""The elementwise functions that `grade` knows, each with its derivative beside it, in float64."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Map = Callable[[np.ndarray], np.ndarray]


class Function(NamedTuple):
    """An elementwise function and its derivative; `kinked` where the derivative jumps at 0."""

    value: Map
    derivative: Map
    kinked: bool = False


_erf = np.vectorize(math.erf, otypes=[float])
_TANH_GELU = math.sqrt(2 / math.pi)


def _sigmoid(z):
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def _d_sigmoid(z):
    return _sigmoid(z) * _sigmoid(-z)


def _normal_cdf(z):
    return 0.5 * (1 + _erf(z / math.sqrt(2)))


def _gelu_u(z):
    return _TANH_GELU * (z + 0.044715 * z**3)


def _d_gelu_tanh(z):
    u = np.tanh(_gelu_u(z))
    return 0.5 * (1 + u) + 0.5 * z * (1 - u * u) * _TANH_GELU * (1 + 3 * 0.044715 * z * z)


# relu'(0) = 1: the exercise's branch "otherwise" includes 0
FUNCTIONS = {
    "relu": Function(lambda z: np.where(z < 0, 0, z), lambda z: np.where(z < 0, 0.0, 1.0), kinked=True),
    "leaky_relu": Function(lambda z: np.where(z < 0, z / 100, z), lambda z: np.where(z < 0, 0.01, 1.0), kinked=True),
    "abs": Function(np.abs, lambda z: np.where(z < 0, -1.0, 1.0), kinked=True),
    "step": Function(lambda z: np.where(z < 0, 0.0, 1.0), np.zeros_like, kinked=True),
    "sign": Function(np.sign, np.zeros_like, kinked=True),
    "elu": Function(
        lambda z: np.where(z < 0, np.expm1(np.minimum(z, 0)), z), lambda z: np.exp(np.minimum(z, 0)), kinked=True
    ),
    "identity": Function(lambda z: z, np.ones_like),
    "tanh": Function(np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": Function(_sigmoid, _d_sigmoid),
    "softplus": Function(lambda z: np.logaddexp(0, z), _sigmoid),
    "silu": Function(lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) + z * _d_sigmoid(z)),
    "gelu": Function(
        lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    ),
    "gelu_tanh": Function(lambda z: 0.5 * z * (1 + np.tanh(_gelu_u(z))), _d_gelu_tanh),
    "exp": Function(np.exp, np.exp),
    "log": Function(np.log, lambda z: 1 / z),
    "sin": Function(np.sin, np.cos),
    "cos": Function(np.cos, lambda z: -np.sin(z)),
    "sqrt": Function(np.sqrt, lambda z: 0.5 / np.sqrt(z)),
}


def some_function(name: str) -> Function:
    """A smooth function that stands for any: what an activation is that the text gives no formula for."""
    a = 0.3 + 0.05 * (sum(map(ord, name)) % 7)
    return Function(lambda z: np.tanh(z) + a * np.sin(z + a), lambda z: 1 - np.tanh(z) ** 2 + a * np.cos(z + a))
