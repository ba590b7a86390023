"""The door: asked once, in front; behind it the mathematics is bare.

    @asks(is_example)                       what is_example refuses never reaches forward
    def forward(network, params, x, …): …

    bare(forward)(network, params, x)       the same without the door, for those who have passed it

Networks, passes and factored gradients are known here by what they have: this module stands below them.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxbackprop.refusals import are_like, is_network, is_precision
from jaxbackprop.strides import size_of
from jaxbackprop.words import ANY, FLOATING, REAL, fits, is_array

F = TypeVar("F", bound=Callable)


def asks(door: Callable) -> Callable[[F], F]:
    """Put a door, a function of the same arguments that refuses, before a function."""

    def behind(function: F) -> F:
        @wraps(function)
        def asked(*args, **kwargs):
            door(*args, **kwargs)
            return function(*args, **kwargs)

        return asked  # pyright: ignore[reportReturnType]

    return behind


def bare(function: F) -> F:
    """The function behind its door."""
    return inspect.unwrap(function)  # pyright: ignore[reportReturnType]


# ---- one example


def is_example(network: Any, params: Any, x: Any, precision: Any = None) -> None:
    """Refuse what is not one example of the network."""
    is_network(network, precision)
    are_like("params", params, network.shapes)
    fits({"d": network.inputs}, x=(x, "d", FLOATING))


def is_input(network: Any, params: Any, x: Any, precision: Any = None) -> None:
    """Refuse what is neither one example of the network nor a batch."""
    is_network(network, precision)
    are_like("params", params, network.shapes)
    fits({"d": network.inputs}, x=(x, "d | b d", FLOATING))


def is_swept(network: Any, loss: Any, params: Any, x: Any, y: Any, weight: Any = 1.0, precision: Any = None) -> None:
    """Refuse what is not one example with a target, and a loss that does not take them."""
    is_example(network, params, x, precision)
    is_array("y", y)
    is_array("weight", weight)
    if jnp.shape(weight) != ():
        raise ValueError(f"weight has shape {jnp.shape(weight)}: expected one number, as this is one example")
    _is_loss(network, loss, x, jax.ShapeDtypeStruct(jnp.shape(y), jnp.result_type(y)))


def _is_loss(network, loss, x, y):
    yhat = jax.ShapeDtypeStruct((network.layers[-1].width,), jnp.result_type(x))
    value, dyhat = (jnp.shape(jax.eval_shape(part, yhat, y)) for part in (loss.value, loss.derivative))
    if value != () or dyhat != yhat.shape:
        raise ValueError(
            f"the loss gives a value of shape {value} and dL/dyhat of shape {dyhat} for one example: expected () and "
            f"{yhat.shape}, yhat's own shape"
        )


def is_pass(network: Any, params: Any, f: Any, dyhat: Any, precision: Any = None) -> None:
    """Refuse values that are not those of one example of the network, and an adjoint not shaped like yhat."""
    is_network(network, precision)
    are_like("params", params, network.shapes)
    if not all(hasattr(f, part) for part in ("z", "h")):
        raise TypeError(f"f is a {type(f).__name__}: expected what jaxbackprop.forward returns for one example")
    z = {t.name: (t.width,) for t in network.layers}
    for kind, arrays, wanted in (("z", f.z, z), ("h", f.h, {"x": (network.inputs,)} | z)):
        found = {node: jnp.shape(a) for node, a in arrays.items()}
        if found != wanted:
            raise ValueError(
                f"f.{kind} has shapes {found}, expected {wanted}: take forward of one example; vmap over a batch"
            )
    is_array("dyhat", dyhat)
    yhat = z[network.layers[-1].name]
    if jnp.shape(dyhat) != yhat:
        raise ValueError(f"dyhat has shape {jnp.shape(dyhat)}, yhat has {yhat}: give one dL/dyhat for each output")


# ---- a batch


def are_weights(weight: Any, examples: int) -> None:
    """Refuse example weights that are not one number for each example."""
    if weight is not None:
        fits({"b": examples}, weight=(weight, "b", REAL))


def is_batch_of(model: Any, params: Any, x: Any, y: Any, weight: Any = None) -> None:
    """Refuse a batch whose parts do not fit the model's wiring, each other, or its loss."""
    are_like("params", params, model.network.shapes)
    d, x_fits = {"d": model.network.inputs}, (x, "b d", FLOATING)
    if fits(d, x=x_fits)["b"] == 0:  # said before what does not go with it
        raise ValueError("x has no examples, shape (0, …): give at least one")
    fits(d, x=x_fits, y=(y, "b …", ANY), **({} if weight is None else {"weight": (weight, "b", REAL)}))
    _is_loss(model.network, model.loss, x, jax.ShapeDtypeStruct(jnp.shape(y)[1:], jnp.result_type(y)))


# ---- factored gradients, known by what they have


def is_factored(fg: Any, *_more, name: str = "fg", precision: Any = None, **_named) -> int:
    """Refuse what is not the factored gradient of one batch; how many examples it has."""
    if not all(hasattr(fg, field) for field in ("h", "dz", "uses", "shapes")):
        raise TypeError(
            f"{name} is a {type(fg).__name__}: expected the FactoredGradient that per_example's function returns second"
        )
    b = (jnp.shape(next(iter(fg.dz.values()))) or ("b",))[0]
    for use in fg.uses:
        for key, a, wanted in _declared(fg, use):
            shape, sizes = jnp.shape(a), (b, *wanted)
            if len(shape) != len(sizes) or any(w not in (n, "…") for n, w in zip(shape, sizes, strict=True)):
                declared = ", ".join(map(str, ("b", *wanted)))
                raise ValueError(
                    f"{name}.{key} has shape {shape}, expected ({declared}), with one b for all: for more axes take jax.vmap"
                )
    is_precision(precision)
    return int(b)


def _declared(fg, use):
    """The arrays of a use, each with what its shape after b should be; "…" for a length that nothing says."""
    shape, between = fg.shapes[use.leaf], ("…",) * len(use.positions)
    if use.kind == "whole":
        return [(f"dz[{use.dz!r}]", fg.dz[use.dz], shape)]
    n, m = map(size_of, use.axes[1:]) if use.axes else shape[-2:]
    n, h = (m, between) if use.kind == "rows" else (n, (*between, m))
    if use.window is not None:  # h is the input that the window goes over
        h = ("…",) * (2 + len(use.window.axes))
    return [(f"h[{use.h!r}]", fg.h[use.h], h), (f"dz[{use.dz!r}]", fg.dz[use.dz], (*between, n))]


def is_weighted(fg: Any, weight: Any = None, precision: Any = None) -> None:
    """Refuse a factored gradient, or weights of its examples, that are none."""
    are_weights(weight, is_factored(fg, precision=precision))


def is_direction(fg: Any, direction: Any, precision: Any = None) -> None:
    """Refuse a direction that is not shaped like the parameters."""
    is_factored(fg, precision=precision)
    are_like("direction", direction, jax.tree.unflatten(fg.tree, fg.shapes), "it is shaped like the parameters")


def are_of_one_model(fg: Any, other: Any = None, precision: Any = None) -> None:
    """Refuse two factored gradients of differently shaped parameters."""
    is_factored(fg, precision=precision)
    if other is not None:
        is_factored(other, name="other")
        if (fg.tree, fg.shapes) != (other.tree, other.shapes):
            found, wanted = (jax.tree.unflatten(f.tree, f.shapes) for f in (other, fg))
            raise ValueError(f"other is of another network, with parameters {found}; expected {wanted}")
