"""The elementwise functions that `grade` knows, each with its first and second derivative beside it, in float64."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Map = Callable[[np.ndarray], np.ndarray]


class Function(NamedTuple):
    """An elementwise function and its derivatives; `kinked` where the first one jumps at 0."""

    value: Map
    derivative: Map
    second: Map
    kinked: bool = False


_erf = np.vectorize(math.erf, otypes=[float])
_TANH_GELU = math.sqrt(2 / math.pi)


def _sigmoid(z):
    return 0.5 + 0.5 * np.tanh(0.5 * z)


def _d_sigmoid(z):
    return _sigmoid(z) * _sigmoid(-z)


def _normal_cdf(z):
    return 0.5 * (1 + _erf(z / math.sqrt(2)))


def _dd_sigmoid(z):
    return _d_sigmoid(z) * (1 - 2 * _sigmoid(z))


def _normal(z):
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _gelu_u(z):
    """The argument of GELU's tanh, with its first and second derivative."""
    c, k = _TANH_GELU, 0.044715
    return c * (z + k * z**3), c * (1 + 3 * k * z * z), 6 * c * k * z


def _gelu_tanh(z):
    return 0.5 * z * (1 + np.tanh(_gelu_u(z)[0]))


def _d_gelu_tanh(z):
    u, du, _ = _gelu_u(z)
    return 0.5 * (1 + np.tanh(u)) + 0.5 * z * (1 - np.tanh(u) ** 2) * du


def _dd_gelu_tanh(z):
    u, du, ddu = _gelu_u(z)
    t = np.tanh(u)
    return (1 - t * t) * (du + 0.5 * z * (ddu - 2 * t * du * du))


def _dd_tanh(z):
    return -2 * np.tanh(z) * (1 - np.tanh(z) ** 2)


def _steps(below: float, above: float) -> Map:
    return lambda z: np.where(z < 0, below, above)


# relu'(0) = 1: the exercise's branch "otherwise" includes 0
FUNCTIONS = {
    "relu": Function(lambda z: np.where(z < 0, 0, z), _steps(0.0, 1.0), np.zeros_like, kinked=True),
    "leaky_relu": Function(lambda z: np.where(z < 0, z / 100, z), _steps(0.01, 1.0), np.zeros_like, kinked=True),
    "abs": Function(np.abs, _steps(-1.0, 1.0), np.zeros_like, kinked=True),
    "step": Function(_steps(0.0, 1.0), np.zeros_like, np.zeros_like, kinked=True),
    "sign": Function(np.sign, np.zeros_like, np.zeros_like, kinked=True),
    "elu": Function(
        lambda z: np.where(z < 0, np.expm1(np.minimum(z, 0)), z),
        lambda z: np.exp(np.minimum(z, 0)),
        lambda z: np.where(z < 0, np.exp(np.minimum(z, 0)), 0.0),
        kinked=True,
    ),
    "identity": Function(lambda z: z, np.ones_like, np.zeros_like),
    "tanh": Function(np.tanh, lambda z: 1 - np.tanh(z) ** 2, _dd_tanh),
    "sigmoid": Function(_sigmoid, _d_sigmoid, _dd_sigmoid),
    "softplus": Function(lambda z: np.logaddexp(0, z), _sigmoid, _d_sigmoid),
    "silu": Function(
        lambda z: z * _sigmoid(z),
        lambda z: _sigmoid(z) + z * _d_sigmoid(z),
        lambda z: 2 * _d_sigmoid(z) + z * _dd_sigmoid(z),
    ),
    "gelu": Function(
        lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal(z), lambda z: (2 - z * z) * _normal(z)
    ),
    "gelu_tanh": Function(_gelu_tanh, _d_gelu_tanh, _dd_gelu_tanh),
    "normal_cdf": Function(_normal_cdf, _normal, lambda z: -z * _normal(z)),
    "normal_pdf": Function(_normal, lambda z: -z * _normal(z), lambda z: (z * z - 1) * _normal(z)),
    "exp": Function(np.exp, np.exp, np.exp),
    "log": Function(np.log, lambda z: 1 / z, lambda z: -1 / z**2),
    "sin": Function(np.sin, np.cos, lambda z: -np.sin(z)),
    "cos": Function(np.cos, lambda z: -np.sin(z), lambda z: -np.cos(z)),
    "sinh": Function(np.sinh, np.cosh, np.sinh),
    "cosh": Function(np.cosh, np.sinh, np.cosh),
    "sqrt": Function(np.sqrt, lambda z: 0.5 / np.sqrt(z), lambda z: -0.25 * z**-1.5),
}


def some_function(name: str) -> Function:
    """A smooth function that stands for any: what an activation is that the text gives no formula for."""
    a = 0.3 + 0.05 * (sum(map(ord, name)) % 7)
    return Function(
        lambda z: np.tanh(z) + a * np.sin(z + a),
        lambda z: 1 - np.tanh(z) ** 2 + a * np.cos(z + a),
        lambda z: _dd_tanh(z) - a * np.sin(z + a),
    )
