"""The exercise: one small network with a skip connection, and its gradient derived by hand, for ONE example.

Forward, in the notes' order. w3 is the skip connection: h0 reaches yhat directly as well as through h1.

    z0 = w0 x            h0 = g(z0)            g(z) = 0  if z < 0
    z1 = w1 h0           h1 = g(z1)                   z  otherwise
    z2 = w2 h1 + w3 h0   yhat = z2             L = ½ Σ (yhat − y)²

Backward. `dfoo` is dL/dfoo; each line is the chain rule applied to the forward line named on its right.

    dz2 = dyhat                        from  yhat = z2
    dh1 = w2ᵀ dz2                      from  z2 = w2 h1 + …
    dz1 = dh1 · g'(z1)                 from  h1 = g(z1)
    dh0 = w1ᵀ dz1 + w3ᵀ dz2            from  z1 = w1 h0  and  z2 = … + w3 h0: "because of skip connection"
    dz0 = dh0 · g'(z0)                 from  h0 = g(z0)
    dw0 = dz0 xᵀ    dw1 = dz1 h0ᵀ      from  z0 = w0 x   and  z1 = w1 h0
    dw2 = dz2 h1ᵀ   dw3 = dz2 h0ᵀ      from  z2 = w2 h1 + w3 h0

The convention at the kink: the branch "otherwise" includes z = 0, so g'(0) = 1 here (`jax.nn.relu` says 0,
`jnp.maximum` 0.5). XLA treats subnormal numbers as zero, so that g' of the smallest negative subnormal is 1 too.

Where the handwritten notes slip, and what is right:

    "z1 = w1 · z0"                       z1 = w1 h0: their own dL/dh0 and dL/dw1 use h0
    "dL/dz0 = dL/dyhat · 1" (boxed)      dL/dz2: it is z2 that equals yhat
    "{z1, z1 ≥ 0; 0, z1 < 0}" in dL/dz1  {1, z1 ≥ 0; 0, z1 < 0}: they wrote the value of g for g', and again in dL/dz0

Everything here reads the same for plain numbers, where each product is an ordinary one, and for matrices w of
shape (outputs, inputs) with vectors x, z, h. For a batch: `jax.vmap(gradient, in_axes=(None, 0, 0))`.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

_outer = partial(jnp.tensordot, axes=0)  # dz hᵀ: a matrix for vectors, a plain product for numbers


class Weights(NamedTuple):
    """The four weights: numbers, or w0 (n0, d), w1 (n1, n0), w2 (n2, n1) and the skip connection w3 (n2, n0)."""

    w0: ArrayLike
    w1: ArrayLike
    w2: ArrayLike
    w3: ArrayLike


class Forward(NamedTuple):
    """Every value of the forward pass, in the order in which it is computed; z2 is yhat."""

    z0: Array
    h0: Array
    z1: Array
    h1: Array
    z2: Array


class Backward(NamedTuple):
    """Every adjoint, in the order of the derivation; dw0 … dw3 have the shapes of w0 … w3."""

    dz2: Array
    dh1: Array
    dz1: Array
    dh0: Array
    dz0: Array
    dw0: Array
    dw1: Array
    dw2: Array
    dw3: Array


def g(z: ArrayLike) -> Array:
    """g(z) = 0 for z < 0, z otherwise."""
    return jnp.where(jnp.less(z, 0), 0, z)


def dg(z: ArrayLike) -> Array:
    """g'(z) = 0 for z < 0, 1 otherwise."""
    return jnp.where(jnp.less(z, 0), 0, jnp.ones_like(z))


def forward(w: Weights, x: ArrayLike) -> Forward:
    """Compute the network's values for one example; a ValueError names what does not fit, a TypeError what is no number.

    >>> [float(value) for value in forward(Weights(0.5, 2.0, -1.0, 3.0), 2.0)]
    [1.0, 1.0, 2.0, 2.0, 1.0]
    """
    _require_shapes(w, x)
    z0 = jnp.dot(w.w0, x)
    h0 = g(z0)
    z1 = jnp.dot(w.w1, h0)
    h1 = g(z1)
    z2 = jnp.dot(w.w2, h1) + jnp.dot(w.w3, h0)
    return Forward(z0, h0, z1, h1, z2)


def backward(w: Weights, x: ArrayLike, f: Forward, dyhat: ArrayLike) -> Backward:
    """Compute every adjoint for one example, in the notes' order: f is `forward(w, x)`, dyhat is dL/dyhat.

    >>> w, x = Weights(0.5, 2.0, -1.0, 3.0), 2.0
    >>> float(backward(w, x, forward(w, x), dyhat=1.0).dh0)  # w1 dz1 + w3 dz2 = 2·(−1) + 3·1: both paths count
    1.0
    """
    _require_shapes(w, x, f=f, dyhat=dyhat)
    dz2 = jnp.asarray(dyhat)
    dh1 = jnp.dot(jnp.transpose(w.w2), dz2)
    dz1 = dh1 * dg(f.z1)
    dh0 = jnp.dot(jnp.transpose(w.w1), dz1) + jnp.dot(jnp.transpose(w.w3), dz2)
    dz0 = dh0 * dg(f.z0)
    dw0, dw1 = _outer(dz0, x), _outer(dz1, f.h0)
    dw2, dw3 = _outer(dz2, f.h1), _outer(dz2, f.h0)
    return Backward(dz2, dh1, dz1, dh0, dz0, dw0, dw1, dw2, dw3)


def loss(w: Weights, x: ArrayLike, y: ArrayLike) -> Array:
    """L = ½ Σ (yhat − y)², half the squared error of one example.

    >>> float(loss(Weights(0.5, 2.0, -1.0, 3.0), 2.0, 0.0))
    0.5
    """
    _require_shapes(w, x, y=y)
    return jnp.sum(jnp.square(forward(w, x).z2 - y)) / 2


def gradient(w: Weights, x: ArrayLike, y: ArrayLike) -> Weights:
    """Compute dL/dw for L = ½ Σ (yhat − y)² of one example, each shaped like its weight.

    >>> [float(value) for value in gradient(Weights(0.5, 2.0, -1.0, 3.0), 2.0, 0.0)]
    [2.0, -1.0, 2.0, 1.0]
    """
    _require_shapes(w, x, y=y)
    f = forward(w, x)
    b = backward(w, x, f, dyhat=f.z2 - y)
    return Weights(b.dw0, b.dw1, b.dw2, b.dw3)


def _require_shapes(w: Weights, x, f=None, **like_yhat) -> None:
    """Refuse what does not fit together, naming the first that does not."""
    for name, given, kind in (("w", w, Weights), *([] if f is None else [("f", f, Forward)])):
        if not isinstance(given, kind):
            raise TypeError(f"{name} is a {type(given).__name__}: expected exercise.{kind.__name__}")
    values = {} if f is None else {f"f.{name}": value for name, value in f._asdict().items()}
    shapes = {name: _shape(name, value) for name, value in {"x": x, **w._asdict(), **values, **like_yhat}.items()}
    d, n0, n1, n2 = (shapes[name][:1] or (() if shapes["x"] == () else (name,)) for name in ("x", "w0", "w1", "w2"))
    fit = {"x": d, "w0": n0 + d, "w1": n1 + n0, "w2": n2 + n1, "w3": n2 + n0, "0": n0, "1": n1}
    for name, shape in shapes.items():
        wanted = fit.get(name, fit.get(name[-1], n2)) if name in fit or name[:2] == "f." else n2
        if shape != wanted:
            found = f"{name} has shape {shape}, expected {wanted}"
            raise ValueError(f"{found}: f is forward(w, x), w (outputs, inputs), of one example; vmap over a batch")


def _shape(name, given):
    if not hasattr(given, "dtype") and not isinstance(given, int | float | complex):
        raise TypeError(f"{name} is a {type(given).__name__}: expected a number or an array")
    if isinstance(given, np.ndarray | np.generic) and given.dtype.kind not in "biufcV":
        raise TypeError(f"{name} has dtype {given.dtype}, which JAX does not have: expected numbers")
    return jnp.shape(given)
