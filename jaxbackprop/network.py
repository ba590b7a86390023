"""A network is a wiring: layers that sum weighted edges from earlier layers, and the forward pass for ONE example.

Each layer t has a width, a list of sources s (the input "x" or earlier layers) and an activation g_t:

    z_t = Σ over edges s→t of  W_ts h_s  (+ b_t)        h_t = g_t(z_t)        h_x = x

A skip connection is nothing special, only one more source. The last layer is the output: yhat = h_last.
Parameters are nested dicts, params[t][s] = W_ts of shape (width of t, width of s), params[t]["bias"] = b_t.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from numbers import Integral
from operator import mul
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key

from jaxbackprop._names import unknown
from jaxbackprop.activations import ActivationLike, as_activation

Params = dict[str, dict[str, Float[Array, "..."]]]
Precision = jax.lax.PrecisionLike

INPUT = "x"
BIAS = "bias"
NARROW = 3  # up to this width the batch is the minor axis; measured on CPU, experiments/README.md


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
        _require_width("the input", self.inputs)
        if not isinstance(self.layers, tuple):
            raise TypeError(f"layers is a {type(self.layers).__name__}: expected a tuple of jaxbackprop.Layer")
        if not self.layers:
            raise ValueError("a network needs at least one layer: give layers=(Layer('yhat', 1, ('x',)),)")
        for layer in self.layers:
            if not isinstance(layer, Layer):
                raise TypeError(f"layers holds {layer!r}: expected a jaxbackprop.Layer")
        known = [INPUT]
        for layer in self.layers:
            _require_layer(layer, known, later=[other.name for other in self.layers])
            known.append(layer.name)

    def __str__(self):
        """Say the wiring in one line."""
        steps = (f"{', '.join(t.sources)} → {t.name} {t.width} {_activation_name(t)}" for t in self.layers)
        wiring = "; ".join(steps).replace(INPUT, f"{INPUT} {self.inputs}", 1)
        return f"{wiring} ({count_parameters(self):,} parameters)"


def widths(network: Network) -> dict[str, int]:
    """The width of the input and of every layer, by name.

    >>> widths(mlp((8, 64, 1)))
    {'x': 8, 'h0': 64, 'yhat': 1}
    """
    require_network(network)
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

    Args:
        widths: input, hidden layers, output.
        activation: of the hidden layers; the output's is the identity.
        bias: whether each layer has one.

    >>> print(mlp((8, 64, 1), activation="tanh", bias=True))
    x 8 → h0 64 tanh; h0 → yhat 1 identity (641 parameters)
    """
    return _build(widths, activation, bias, hidden=lambda earlier: earlier[-1:], output=lambda earlier: earlier[-1:])


def skip_mlp(widths: Sequence[int], activation: ActivationLike = "relu", bias: bool = False) -> Network:
    """The exercise's wiring at any depth: each layer feeds the next, and every hidden layer feeds yhat.

    `skip_mlp((1, 1, 1, 1))` is the exercise: w0 = params["h0"]["x"], w1 = params["h1"]["h0"],
    w2 = params["yhat"]["h1"], w3 = params["yhat"]["h0"]. The arguments are those of `mlp`.

    >>> print(skip_mlp((8, 64, 64, 1)))
    x 8 → h0 64 relu; h0 → h1 64 relu; h1, h0 → yhat 1 identity (4,736 parameters)
    """
    return _build(
        widths, activation, bias, hidden=lambda earlier: earlier[-1:], output=lambda earlier: earlier[1:] or earlier
    )


def dense_mlp(widths: Sequence[int], activation: ActivationLike = "relu", bias: bool = False) -> Network:
    """Every layer, and the input, feeds every later layer. The arguments are those of `mlp`.

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


def init(network: Network, key: Key[Array, ""], dtype: DTypeLike = jnp.float32) -> Params:
    """Draw the parameters: weights from N(0, gain / fan-in), biases 0, in one compiled call.

    The fan-in of a layer counts all its sources, so that z keeps the size of h however many paths meet in it. The gain
    is 2 before a rectifier, which lets half of the variance through (He et al. 2015), and 1 otherwise (LeCun et al. 1998).

    Args:
        network: the wiring.
        key: a `jax.random.key`.
        dtype: float32, float64 (under `jax.enable_x64`), bfloat16 or float16.

    Returns:
        params[t][s] of shape (width of t, width of s), params[t]["bias"] of shape (width of t,).

    Raises:
        ValueError: another dtype, or float64 without 64-bit types.
        TypeError: something that is not one key.

    >>> params = init(skip_mlp((8, 64, 32, 1)), jax.random.key(0))
    >>> params["yhat"]["h1"].shape, params["yhat"]["h0"].shape
    ((1, 32), (1, 64))
    """
    require_network(network)
    require_key(key)
    return _init(network, key, _require_dtype(dtype))  # one name for a dtype: "float32" and jnp.float32 are one program


@partial(jax.jit, static_argnames=("network", "dtype"))
def _init(network, key, dtype):
    width = widths(network)
    params = {}
    for t, layer_key in zip(network.layers, jax.random.split(key, len(network.layers)), strict=True):
        scale = (as_activation(t.activation).gain / sum(width[s] for s in t.sources)) ** 0.5
        keys = jax.random.split(layer_key, len(t.sources))
        params[t.name] = {
            s: scale * jax.random.normal(k, (t.width, width[s]), dtype) for s, k in zip(t.sources, keys, strict=True)
        }
        if t.bias:
            params[t.name][BIAS] = jnp.zeros(t.width, dtype)
    return params


class Forward(NamedTuple):
    """Every value of the forward pass, by layer: z before the activation, h after it; h["x"] is the input."""

    z: dict[str, Array]
    h: dict[str, Array]


def forward(network: Network, params: Params, x: Float[Array, " d"], precision: Precision = None) -> Forward:
    """Compute every z and h for one example; for a batch, `jax.vmap` over x.

    Args:
        network: the wiring.
        params: as `init` gives them.
        x: one example, (d,).
        precision: of the products W h, as in `jax.lax.Precision`.

    Raises:
        ValueError: parameters or an input that do not fit the wiring.
        TypeError: something that is not an array where one is needed, a list say.

    >>> net = mlp((2, 3, 1))
    >>> f = forward(net, init(net, jax.random.key(0)), jnp.ones(2))
    >>> f.z["h0"].shape, f.h["yhat"].shape
    ((3,), (1,))
    """
    require_network(network, precision)
    require_params(network, params)
    require_input(network, x, ndims=(1,))
    z, h = {}, {INPUT: x}
    for t in network.layers:
        z[t.name] = sum_paths([weigh(network, "ts,s->t", params[t.name][s], h[s], precision) for s in t.sources])
        if t.bias:
            z[t.name] += params[t.name][BIAS]
        h[t.name] = as_activation(t.activation).value(z[t.name])
        if jnp.shape(h[t.name]) != z[t.name].shape:
            raise ValueError(
                f"layer {t.name!r}: the activation's value has shape {jnp.shape(h[t.name])} for z of shape "
                f"{z[t.name].shape}: it must act elementwise"
            )
    return Forward(z, h)


def predict(
    network: Network, params: Params, x: Float[Array, "*b d"], precision: Precision = None
) -> Float[Array, "*b k"]:
    """Compute yhat for one example (d,) or a batch (b, d).

    Raises:
        ValueError: parameters or an input that do not fit the wiring.

    >>> net = mlp((2, 3, 1))
    >>> predict(net, init(net, jax.random.key(0)), jnp.ones((5, 2))).shape
    (5, 1)
    """
    require_network(network, precision)
    require_input(network, x, ndims=(1, 2))

    def one(x):
        return forward(network, params, x, precision).h[network.layers[-1].name]

    return one(x) if jnp.ndim(x) == 1 else jax.vmap(one)(x)


def batch_axis(network: Network) -> int:
    """Where a batch is best put when one example's computation is vmapped: 0, the major axis, or −1, the minor one.

    Wide layers are then rows, and W is read once however small the batch; narrow ones are long vectors.

    >>> batch_axis(mlp((784, 64, 10))), batch_axis(mlp((1, 3, 1)))
    (0, -1)
    """
    return -1 if max(widths(network).values()) <= NARROW else 0


def weigh(network: Network, indices: str, W: Array, vector: Array, precision: Precision = None) -> Array:
    """`contract(indices, W, vector)`, for a W of the network and one example's vector.

    The order of the two decides where `jax.vmap` leaves the batch: W first keeps it the minor axis, (t, b).
    """
    if batch_axis(network) == -1:
        return contract(indices, W, vector, precision=precision)
    first, second, result = re.split(",|->", indices)
    return contract(f"{second},{first}->{result}", vector, W, precision=precision)


def contract(indices: str, *operands: Array, precision: Precision = None) -> Array:
    """`jnp.einsum` that accumulates in float32 at least, whatever the operands' dtype, and rounds once, at the end.

    Where all that is summed over has size 1 there is no sum, and plain multiplication replaces a slow matrix product.

    >>> ones = jnp.ones(4096, jnp.bfloat16)
    >>> float(contract("i,i->", ones, ones))  # a bfloat16 accumulator would stop at 256
    4096.0
    """
    require_precision(precision)
    dtype = jnp.result_type(*operands)
    inputs, result = indices.split("->")
    sizes = {
        i: n for term, a in zip(inputs.split(","), operands, strict=True) for i, n in zip(term, a.shape, strict=True)
    }
    if all(n == 1 for i, n in sizes.items() if i not in result):
        terms = zip(inputs.split(","), operands, strict=True)
        return reduce(mul, [_aligned(term, a.astype(wide(dtype)), result) for term, a in terms]).astype(dtype)
    return jnp.einsum(indices, *operands, precision=precision, preferred_element_type=wide(dtype)).astype(dtype)


def _aligned(term: str, a: Array, result: str) -> Array:
    """`a`, of the indices `term`, with an axis for each index of the result; what is left out has size 1."""
    kept = [i for i in result if i in term]
    a = jnp.transpose(a, [term.index(i) for i in (*kept, *(i for i in term if i not in result))])
    return a.reshape([a.shape[kept.index(i)] if i in kept else 1 for i in result])


def wide(dtype: DTypeLike) -> DTypeLike:
    """The dtype to accumulate in: float32 at least.

    >>> wide(jnp.bfloat16), wide(jnp.float32)
    (dtype('float32'), dtype('float32'))
    """
    return jnp.promote_types(dtype, jnp.float32)


def widened(tree: Any) -> Any:
    """A tree whose floating-point arrays are in float32 at least; half precision is then rounded once, when all is done.

    >>> [a.dtype.name for a in widened([jnp.ones(2, jnp.bfloat16), jnp.arange(2)])]
    ['float32', 'int32']
    """
    return jax.tree.map(
        lambda a: a.astype(wide(a.dtype)) if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def sum_paths(terms: list[Array]) -> Array:
    """Add what arrives over several paths; one path is left as it is."""
    total, *others = terms
    for term in others:
        total = total + term
    return total


def require_network(network: Any, precision: Any = None) -> None:
    """Refuse what is not a wiring, and a precision that JAX does not know."""
    if not isinstance(network, Network):
        raise TypeError(
            f"network is a {type(network).__name__}: expected a jaxbackprop.Network, such as mlp((8, 64, 1))"
        )
    require_precision(precision)


def require_precision(precision: Any) -> None:
    """Refuse a precision that JAX does not know."""
    if precision is None:
        return
    try:
        _product_shape(precision)
    except (TypeError, ValueError):
        raise ValueError(
            f"precision is {precision!r}: expected None, 'default', 'high', 'highest' or another jax.lax.Precision"
        ) from None


@lru_cache(maxsize=64)
def _product_shape(precision):
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(partial(jax.lax.dot, precision=precision), one, one)


def require_array(where: str, given: Any, expected: str = "an array, such as jax.numpy.asarray gives") -> None:
    """Refuse what is neither an array that JAX takes nor a plain number."""
    if not hasattr(given, "dtype") and not isinstance(given, int | float | complex):
        raise TypeError(f"{where} is a {type(given).__name__}: expected {expected}")
    try:
        jnp.result_type(given)
    except TypeError:
        raise TypeError(
            f"{where} has dtype {getattr(given, 'dtype', None)}, which JAX does not have: expected numbers"
        ) from None


def require_key(key: Any) -> Any:
    """Refuse what is not one key, new style or old; return it."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    old = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    if not new and not old:
        given = f"has shape {shape} and dtype {dtype}" if dtype is not None else f"is a {type(key).__name__}"
        raise TypeError(f"key {given}: expected one key, such as jax.random.key(0)")
    return key


def require_params(network: Network, params: Any, name: str = "params") -> None:
    """Refuse parameters that do not fit the wiring, naming the first that does not.

    >>> net = mlp((2, 3, 1))
    >>> require_params(net, init(mlp((2, 4, 1)), jax.random.key(0)))
    Traceback (most recent call last):
        ...
    ValueError: params['h0']['x'] has shape (4, 2), the network needs (3, 2)
    """
    width = widths(network)
    wanted: dict[str, dict[str, tuple[int, ...]]] = {
        t.name: {s: (t.width, width[s]) for s in t.sources} for t in network.layers
    }
    for t in network.layers:
        if t.bias:
            wanted[t.name][BIAS] = (t.width,)
    _require_keys(name, params, wanted)
    for layer, shapes in wanted.items():
        _require_keys(f"{name}[{layer!r}]", params[layer], shapes)
        for source, shape in shapes.items():
            given, where = params[layer][source], f"{name}[{layer!r}][{source!r}]"
            require_array(where, given)
            if jnp.shape(given) != shape:
                raise ValueError(f"{where} has shape {jnp.shape(given)}, the network needs {shape}")
            if not jnp.issubdtype(jnp.result_type(given), jnp.floating):
                raise ValueError(f"{where} has dtype {jnp.result_type(given)}: weights must be floating point")


def require_input(network: Network, x: Any, ndims: tuple[int, ...]) -> None:
    """Refuse an input whose shape or dtype does not fit the wiring."""
    require_array("x", x)
    shapes = " or ".join({1: f"({network.inputs},)", 2: f"(b, {network.inputs})"}[ndim] for ndim in ndims)
    if jnp.ndim(x) not in ndims or jnp.shape(x)[-1] != network.inputs:
        raise ValueError(f"x has shape {jnp.shape(x)}, the network needs {shapes}")
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        raise ValueError(f"x has dtype {jnp.result_type(x)}, the network needs floating point: x.astype('float32')")


def _require_keys(where: str, given, wanted: dict) -> None:
    if not isinstance(given, dict) or set(given) != set(wanted):
        has = f"has {sorted(map(str, given))}" if isinstance(given, dict) else f"is a {type(given).__name__}"
        raise ValueError(f"{where} {has}, the network needs a dict with {sorted(wanted)}: take jaxbackprop.init")


def _require_width(where: str, width: Any) -> None:
    if isinstance(width, bool) or not isinstance(width, Integral):
        raise TypeError(f"{where} has width {width!r}: expected an integer of at least 1")
    if width < 1:
        raise ValueError(f"{where} has width {width}: expected at least 1")


def _require_layer(layer: Layer, known: list[str], later: list[str]) -> None:
    where = f"layer {layer.name!r}"
    if not isinstance(layer.name, str) or layer.name in ("", BIAS):
        raise ValueError(f"{where}: a name is a string, not empty and not {BIAS!r}")
    if layer.name in known:
        raise ValueError(f"{where}: the name is used twice: give each layer its own")
    _require_width(where, layer.width)
    if isinstance(layer.sources, str) or not isinstance(layer.sources, tuple) or not layer.sources:
        raise ValueError(f"{where}: sources is {layer.sources!r}: expected a tuple of names, such as ('x',)")
    for source in layer.sources:
        if source not in known and source in later:
            raise ValueError(
                f"{where}: reads {source!r}, which is not computed before it: only earlier layers can be sources"
            )
        if source not in known:
            raise ValueError(f"{where}: {unknown('source', str(source), known)}")
    if len(set(layer.sources)) < len(layer.sources):
        raise ValueError(f"{where}: reads a source twice, {layer.sources}: one edge is enough, weights add")
    if not isinstance(layer.bias, bool | np.bool_):
        raise TypeError(f"{where}: bias is {layer.bias!r}: expected True or False")
    try:
        as_activation(layer.activation)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{where}: {error}") from None


def _require_dtype(dtype: Any) -> np.dtype:
    try:
        given = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        given = None
    if given is None or given.name not in ("float32", "float64", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: expected 'float32', 'float64', 'bfloat16' or 'float16'")
    if jax.dtypes.canonicalize_dtype(given) != given:
        raise ValueError(f"dtype is {given}, and 64-bit types are off: call this under jax.enable_x64(True)")
    return given


def _activation_name(layer: Layer) -> str:
    return as_activation(layer.activation).name or "own activation"
