"""Small models in plain JAX that more than one experiment trains: a convolutional network for the digits."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

CHANNELS, CLASSES = (16, 32), 10


def draw_convnet(key) -> dict:
    """Parameters of two 3 × 3 convolutions and a head, 9,930 numbers; weights of variance 1 / inputs."""
    first, second = CHANNELS
    shapes = {"conv1": (first, 1, 3, 3), "conv2": (second, first, 3, 3), "head": (CLASSES, second * 16)}
    keys, params = jax.random.split(key, len(shapes)), {}
    for key, (name, shape) in zip(keys, shapes.items(), strict=True):
        gain = math.prod(shape[1:]) ** -0.5
        params[name] = {"w": gain * jax.random.normal(key, shape), "b": jnp.zeros(shape[0])}
    return params


def convolved(layer: dict, h: jax.Array, stride: int = 1) -> jax.Array:
    """One image (channels, rows, columns) under a 3 × 3 kernel, the border padded with zeros."""
    z = jax.lax.conv_general_dilated(h[None], layer["w"], (stride, stride), ((1, 1), (1, 1)))[0]
    return z + layer["b"][:, None, None]


def convnet(params: dict, x: ArrayLike) -> jax.Array:
    """The ten logits of one digit, 64 pixels; ReLU, the second convolution with stride 2."""
    h = jax.nn.relu(convolved(params["conv1"], jnp.reshape(x, (1, 8, 8))))
    h = jax.nn.relu(convolved(params["conv2"], h, stride=2))
    return params["head"]["w"] @ h.reshape(-1) + params["head"]["b"]


def convnet_loss(params: dict, x: ArrayLike, y: ArrayLike) -> jax.Array:
    """The cross-entropy of one digit."""
    return -jax.nn.log_softmax(convnet(params, x))[y]


def convnet_accuracy(params: dict, x: ArrayLike, y: ArrayLike) -> jax.Array:
    """The share of digits whose largest logit is that of their class."""
    logits = jax.vmap(convnet, (None, 0))(params, x)
    return jnp.mean(jnp.argmax(logits, axis=1) == y)
