"""What the core refuses, and in which words: wirings, keys, dtypes, numbers, and what should be shaped like the parameters.

A network is known here by what it has, `inputs` and `layers`: this module stands below network.py.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxbackprop.spelling import unknown
from jaxbackprop.words import FLOATING, is_array, is_of_kind


def is_network(network: Any, precision: Any = None) -> None:
    """Refuse what is not a wiring, and a precision that JAX does not know."""
    if not isinstance(getattr(network, "layers", None), tuple):
        found = type(network).__name__
        raise TypeError(f"network is a {found}: expected a jaxbackprop.Network, such as mlp((8, 64, 1))")
    is_precision(precision)


def is_precision(precision: Any) -> None:
    """Refuse a precision that JAX does not know."""
    try:
        None if precision is None else _product_shape(precision)
    except (TypeError, ValueError):
        raise ValueError(
            f"precision is {precision!r}: expected None, 'default', 'high', 'highest' or another jax.lax.Precision"
        ) from None


@lru_cache(maxsize=64)
def _product_shape(precision):
    one = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(partial(jax.lax.dot, precision=precision), one, one)


def is_wiring(network: Any, known: list[str], bias: str) -> None:
    """Refuse a wiring that cannot work, naming the layer; known are the names that stand before the first."""
    is_width("the input", network.inputs)
    if not isinstance(network.layers, tuple):
        raise TypeError(f"layers is a {type(network.layers).__name__}: expected a tuple of jaxbackprop.Layer")
    if not network.layers:
        raise ValueError("a network needs at least one layer: give layers=(Layer('yhat', 1, ('x',)),)")
    for layer in network.layers:
        if not hasattr(layer, "sources"):
            raise TypeError(f"layers holds {layer!r}: expected a jaxbackprop.Layer")
    for layer in network.layers:
        is_layer(layer, known, [later.name for later in network.layers], bias)
        try:
            is_elementwise(layer.g)
        except (ValueError, TypeError) as error:
            raise type(error)(f"layer {layer.name!r}: {error}") from None
        known = [*known, layer.name]


def is_width(where: str, width: Any) -> None:
    """Refuse a width that is no integer of at least 1."""
    if isinstance(width, bool) or not isinstance(width, Integral):
        raise TypeError(f"{where} has width {width!r}: expected an integer of at least 1")
    if width < 1:
        raise ValueError(f"{where} has width {width}: expected at least 1")


def is_layer(layer: Any, known: list[str], later: list[str], bias: str) -> None:
    """Refuse a layer that cannot be computed once the known ones are."""
    where, sources = f"layer {layer.name!r}", layer.sources
    if not isinstance(layer.name, str) or layer.name in ("", bias):
        raise ValueError(f"{where}: a name is a string, not empty and not {bias!r}")
    if layer.name in known:
        raise ValueError(f"{where}: the name is used twice: give each layer its own")
    is_width(where, layer.width)
    if not isinstance(sources, tuple) or not sources:
        raise ValueError(f"{where}: sources is {sources!r}: expected a tuple of names, such as ('x',)")
    for source in sources:
        if source not in known and source in later:
            raise ValueError(
                f"{where}: reads {source!r}, which is not computed before it: only earlier layers can be sources"
            )
        if source not in known:
            raise ValueError(f"{where}: {unknown('source', str(source), known)}")
    if len(set(sources)) < len(sources):
        raise ValueError(f"{where}: reads a source twice, {sources}: one edge is enough, weights add")
    if not isinstance(layer.bias, bool | np.bool_):
        raise TypeError(f"{where}: bias is {layer.bias!r}: expected True or False")


@lru_cache(maxsize=512)
def is_elementwise(activation: Any) -> None:
    """Refuse an activation whose value or derivative has another shape than what it is given."""
    z = jax.ShapeDtypeStruct((3,), jnp.float32)
    for what, function, wanted in (
        ("value", activation.value, [(3,)]),
        ("derivative", activation.derivative, [(3,), ()]),
    ):
        found = jnp.shape(jax.eval_shape(function, z))
        if found not in wanted:
            raise ValueError(f"the activation's {what} has shape {found} for z of shape (3,): it must act elementwise")


def is_dtype(dtype: Any) -> np.dtype:
    """The dtype of parameters to draw; refuse one that is none, and 64 bits where they are off."""
    try:
        given = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        given = None
    if given is None or given.name not in ("float32", "float64", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: expected 'float32', 'float64', 'bfloat16' or 'float16'")
    if jax.dtypes.canonicalize_dtype(given) != given:
        raise ValueError(f"dtype is {given}, and 64-bit types are off: call this under jax.enable_x64(True)")
    return given


def is_key(key: Any) -> Any:
    """Refuse what is not one key, new style or old; return it."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    old = dtype == jnp.uint32 and shape is not None and len(shape) == 1
    if not new and not old:
        given = f"has shape {shape} and dtype {dtype}" if dtype is not None else f"is a {type(key).__name__}"
        raise TypeError(f"key {given}: expected one key, such as jax.random.key(0)")
    return key


def is_boolean(**options: Any) -> None:
    """Refuse an option that is neither True nor False."""
    for name, option in options.items():
        if not isinstance(option, bool | np.bool_):
            raise TypeError(f"{name} is {option!r}: expected True or False")


def is_positive(name: str, number: Any) -> Any:
    """The number, if it is a positive one; otherwise refused where its value is known, NaN where it is traced."""
    is_array(name, number, "a positive number")
    if jnp.shape(number) != ():
        raise ValueError(f"{name} has shape {jnp.shape(number)}: expected one positive number")
    dtype = jnp.result_type(number)
    if not any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"{name} has dtype {dtype}: expected a positive number")
    if isinstance(number, Tracer):
        return jnp.where((number > 0) & (number < jnp.inf), number, jnp.nan)
    if not 0 < np.asarray(number) < np.inf:
        raise ValueError(f"{name} is {number}: expected a positive number")
    return number


def are_like(name: str, given: Any, shapes: Any, hint: str = "take jaxbackprop.init") -> None:
    """Refuse parameters, or what is shaped like them, that are not nested and shaped so, naming the first that is not."""
    if isinstance(shapes, dict):
        if not isinstance(given, Mapping) or set(given) != set(shapes):
            has = f"has {sorted(map(str, given))}" if isinstance(given, Mapping) else f"is a {type(given).__name__}"
            raise ValueError(f"{name} {has}, expected a dict with {sorted(shapes)}: {hint}")
        for key, part in shapes.items():
            are_like(f"{name}[{key!r}]", given[key], part, hint)
        return
    if not _is_shape(shapes):  # nested otherwise: lists, modules of a framework
        wanted, found = (jax.tree.structure(tree, is_leaf=_is_shape) for tree in (shapes, given))
        if wanted != found:
            raise ValueError(f"{name} is nested as {found}, expected {wanted}")
        for (path, shape), leaf in zip(
            jax.tree_util.tree_leaves_with_path(shapes, is_leaf=_is_shape), jax.tree.leaves(given), strict=True
        ):
            are_like(f"{name}{jax.tree_util.keystr(path)}", leaf, shape, hint)
        return
    is_array(name, given)
    if jnp.shape(given) != shapes:
        raise ValueError(f"{name} has shape {jnp.shape(given)}, expected {shapes}")
    is_of_kind(name, given, FLOATING)


def _is_shape(node: Any) -> bool:
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


def are_floating(name: str, params: Any) -> None:
    """Refuse parameters that hold something else than floating-point numbers, naming the first."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        where = f"{name}{jax.tree_util.keystr(path)}"
        is_array(where, leaf)
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(
                f"{where} has dtype {jnp.result_type(leaf)}: expected floating point; give what is not trained as another "
                "argument, with None in in_axes"
            )
