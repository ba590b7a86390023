"""A network is a wiring: layers that sum weighted edges from earlier layers, and apply an activation.

Each layer t has a width, a list of sources s (the input "x" or earlier layers) and an activation g_t:

    z_t = Σ over edges s→t of  W_ts h_s  (+ b_t)        h_t = g_t(z_t)        h_x = x

A skip connection is nothing special, only one more source. The last layer is the output: yhat = h_last.
Parameters are nested dicts, params[t][s] = W_ts of shape (width of t, width of s), params[t]["bias"] = b_t.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from jaxbackprop.activations import Activation, ActivationLike, as_activation
from jaxbackprop.refusals import is_dtype, is_key, is_network, is_wiring

Params = dict[str, dict[str, Float[Array, "..."]]]

INPUT, BIAS = "x", "bias"


@dataclass(frozen=True)
class Layer:
    """One layer: its name, its width, the layers (or "x") that feed it, its activation, and whether it has a bias.

    >>> Layer("yhat", 1, ("h1", "h0"), "identity")
    Layer(name='yhat', width=1, sources=('h1', 'h0'), activation='identity', bias=False)
    """

    name: str
    width: int
    sources: tuple[str, ...]
    activation: ActivationLike = "identity"
    bias: bool = False

    @property
    def g(self) -> Activation:
        """The activation, with its derivative."""
        return as_activation(self.activation)


@dataclass(frozen=True)
class Network:
    """A wiring: the input's width, and the layers in the order in which they are computed; the last one is yhat.

    Hashable, so that it can be static in `jax.jit`.

    Raises:
        ValueError: a wiring that cannot work; the message names the layer.
        TypeError: something that is not a width, a layer or a name where one is needed.

    >>> net = Network(8, (Layer("h0", 64, ("x",), "relu"), Layer("yhat", 1, ("h0", "x"))))
    >>> print(net)
    x 8 → h0 64 relu; h0, x → yhat 1 identity (584 parameters)
    """

    inputs: int
    layers: tuple[Layer, ...]

    def __post_init__(self):
        """Refuse a wiring that cannot work while the mistake is still in view."""
        is_wiring(self, [INPUT], BIAS)

    def __str__(self):
        """Say the wiring in one line."""
        steps = (f"{', '.join(t.sources)} → {t.name} {t.width} {t.g.name or 'own activation'}" for t in self.layers)
        wiring = "; ".join(steps).replace(INPUT, f"{INPUT} {self.inputs}", 1)
        return f"{wiring} ({count_parameters(self):,} parameters)"

    @property
    def output(self) -> str:
        """The name of the last layer, whose h is yhat."""
        return self.layers[-1].name

    @property
    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """The shape of every parameter, nested as they are."""
        width = widths(self)
        return {
            t.name: {s: (t.width, width[s]) for s in t.sources} | ({BIAS: (t.width,)} if t.bias else {})
            for t in self.layers
        }


def widths(network: Network) -> dict[str, int]:
    """The width of the input and of every layer, by name.

    >>> widths(mlp((8, 64, 1)))
    {'x': 8, 'h0': 64, 'yhat': 1}
    """
    is_network(network)
    return {INPUT: network.inputs} | {layer.name: layer.width for layer in network.layers}


def count_parameters(network: Network) -> int:
    """How many numbers the weights and biases hold.

    >>> count_parameters(mlp((8, 64, 1), bias=True))
    641
    """
    width = widths(network)
    return sum(t.width * (sum(width[s] for s in t.sources) + t.bias) for t in network.layers)


def mlp(widths: Sequence[int], activation: ActivationLike = "relu", bias: bool = False) -> Network:
    """Each layer feeds the next: x → h0 → h1 → … → yhat.

    widths are those of input, hidden layers and output; the activation is the hidden layers', the output's is the identity.
    A ValueError says which width, name or activation does not work, a TypeError what is none.

    >>> print(mlp((8, 64, 1), activation="tanh", bias=True))
    x 8 → h0 64 tanh; h0 → yhat 1 identity (641 parameters)
    """
    return _build(widths, activation, bias, hidden=lambda earlier: earlier[-1:], output=lambda earlier: earlier[-1:])


def skip_mlp(widths: Sequence[int], activation: ActivationLike = "relu", bias: bool = False) -> Network:
    """The exercise's wiring at any depth: each layer feeds the next, and every hidden layer feeds yhat.

    `skip_mlp((1, 1, 1, 1))` is the exercise: w0 = params["h0"]["x"], w1 = params["h1"]["h0"],
    w2 = params["yhat"]["h1"], w3 = params["yhat"]["h0"]. The arguments are those of `mlp`, and so is what it raises.

    >>> print(skip_mlp((8, 64, 64, 1)))
    x 8 → h0 64 relu; h0 → h1 64 relu; h1, h0 → yhat 1 identity (4,736 parameters)
    """
    return _build(
        widths, activation, bias, hidden=lambda earlier: earlier[-1:], output=lambda earlier: earlier[1:] or earlier
    )


def dense_mlp(widths: Sequence[int], activation: ActivationLike = "relu", bias: bool = False) -> Network:
    """Every layer, and the input, feeds every later layer. The arguments are those of `mlp`, and so is what it raises.

    >>> print(dense_mlp((8, 16, 16, 1)))
    x 8 → h0 16 relu; h0, x → h1 16 relu; h1, h0, x → yhat 1 identity (552 parameters)
    """
    return _build(widths, activation, bias, hidden=lambda earlier: earlier, output=lambda earlier: earlier)


def _build(widths, activation, bias, *, hidden, output) -> Network:
    if not isinstance(widths, Sequence | np.ndarray):
        raise TypeError(f"widths is {widths!r}: expected a sequence of integers, such as (8, 64, 1)")
    if len(widths) < 2:
        raise ValueError(
            f"widths is {tuple(widths)}: expected the input's and the output's at least, such as (8, 64, 1)"
        )
    inputs, *hidden_widths, outputs = widths
    earlier, layers = [INPUT], []
    for i, width in enumerate(hidden_widths):
        layers.append(Layer(f"h{i}", width, tuple(reversed(hidden(earlier))), activation, bias))
        earlier.append(f"h{i}")
    layers.append(Layer("yhat", outputs, tuple(reversed(output(earlier))), "identity", bias))
    return Network(inputs, tuple(layers))


def init(network: Network, key: Key[Array, ""], dtype: DTypeLike = "float32") -> Params:
    """Draw the parameters: weights from N(0, gain / fan-in), biases 0, in one compiled call.

    The fan-in counts all of a layer's sources, so that z keeps the size of h however many paths meet. The gain is the
    activation's: 2 for a rectifier, which lets half of the variance through (He et al. 2015), else 1 (LeCun et al. 1998).

    Args:
        network: the wiring.
        key: a `jax.random.key`.
        dtype: float32, float64 (under `jax.enable_x64`), bfloat16 or float16.

    Returns:
        params[t][s] of shape (width of t, width of s), params[t]["bias"] of shape (width of t,). A ValueError refuses another
        dtype, and float64 without 64-bit types, a TypeError what is not one key.

    >>> params = init(skip_mlp((8, 64, 32, 1)), jax.random.key(0))
    >>> params["yhat"]["h1"].shape, params["yhat"]["h0"].shape
    ((1, 32), (1, 64))
    """
    is_network(network)
    is_key(key)
    return _init(network, key, is_dtype(dtype))  # one name for a dtype: "float32" and jnp.float32 are one program


@partial(jax.jit, static_argnames=("network", "dtype"))
def _init(network, key, dtype):
    width = widths(network)
    params = {}
    for t, layer_key in zip(network.layers, jax.random.split(key, len(network.layers)), strict=True):
        scale = (t.g.gain / sum(width[s] for s in t.sources)) ** 0.5
        keys = jax.random.split(layer_key, len(t.sources))
        params[t.name] = {
            s: scale * jax.random.normal(k, (t.width, width[s]), dtype) for s, k in zip(t.sources, keys, strict=True)
        }
        if t.bias:
            params[t.name][BIAS] = jnp.zeros(t.width, dtype)
    return params
