"""Equation (3) for any use of a parameter: its gradient in factors, and what is linear in it.

A parameter W enters the loss of one example through its uses u, each linear in it: z = A_u(h) W. Paths add, so that
dW = Σ_u G_u, and with dz = dL/dz each G_u is one of three things:

    outer   z[t] = W h[t]        G = Σ_t dz[t] h[t]ᵀ         a product; t its positions, one for a network's layer
    rows    z[t] = W[id[t]]      G = Σ_t e[id[t]] dz[t]ᵀ     a lookup: outer, with h[t] = e[id[t]] never formed
    whole   z = W + …            G = dz                      the gradient itself: a bias, a scale, what was formed

Letters: b example; l member of a stack of matrices; t position; n output, m input. Arrays are h (b,l,t,m), or ids (b,t), and dz
(b,l,t,n); which of l and t a use has, it says: a network's has neither.

    total         dW = Σ_b c[b] Σ_u G_u[b]      bltn, bltm → lnm
    materialise   dW[b]                         bltn, bltm → blnm
    inner         v[b] = ⟨dW[b], V⟩             bltn, lnm, bltm → b
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxbackprop import views
from jaxbackprop.arithmetic import Precision, contract, scaled
from jaxbackprop.doors import asks, is_direction, is_factored, is_weighted
from jaxbackprop.tables import Tabled, of_factors
from jaxbackprop.views import Use, as_letters, by_leaf, examples_of, factors_of, product


@partial(jax.tree_util.register_dataclass, data_fields=("h", "dz"), meta_fields=("uses", "tree", "shapes", "dtypes"))
@dataclass(frozen=True, repr=False)
class FactoredGradient(Tabled):
    """Every example's gradient, in factors, the memory of the activations: of an edge s→t dW of b is dz[t][b] h[s][b]ᵀ.

    `per_example` and `factored` return one; it prints as a table. A pytree: `jax.jit` takes and returns it. What reads it
    (`norms`, `total`, …) raises a ValueError where shapes are not those of one batch, a TypeError for anything else.

    Attributes:
        h: by name the inputs of products, (b, l, t, m), or ids, (b, t); of l and t those that the use has.
        dz: by name dL/dz, (b, l, t, n), or (b, …) with the parameter's own shape for a whole use.
        uses: where each parameter enters, a `Use` each.
        tree, shapes, dtypes: of the parameters: how they are nested, and of each leaf the shape and, where known, the dtype.

    >>> [(use.kind, fg.shapes[use.leaf], fg.dz[use.dz].shape) for use in fg.uses if use.dz == "h0"]
    [('whole', (3,), (5, 3)), ('outer', (3, 2), (5, 3))]
    """

    h: dict[str, Any]
    dz: dict[str, Any]
    uses: tuple[Use, ...]
    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...] = ()

    table = of_factors


@asks(is_weighted)
def total(fg: FactoredGradient, weight: Float[Array, " b"] | None = None, precision: Precision = None) -> PyTree[Array]:
    """Sum the examples' gradients: dW = Σ_b c[b] dW[b], nested like the parameters.

    2 B T (parameters) flops, as the plain gradient has; T is 1 for a network. weight is c, one number for each example, all 1
    by default. A ValueError says what does not fit, a TypeError what is no gradient.

    >>> total(fg)["h0"]["x"].shape
    (3, 2)
    """

    def summed(use):
        h, dz = views.stored(fg, use)
        dz = dz if weight is None else scaled(dz, jnp.asarray(weight))
        if use.kind == "outer":
            return views.total_of(fg, use, h, dz, precision)
        if use.kind == "rows":
            return views.scattered(fg, use, h.reshape(-1), dz.reshape(-1, dz.shape[-1]))
        return views.summed_over(dz)

    return by_leaf(fg, summed)


@asks(is_factored)
def materialise(fg: FactoredGradient) -> PyTree[Array]:
    """Form the per-example gradients themselves, dW[b], nested like the parameters: what all the others avoid.

    A ValueError says which shape does not fit, a TypeError what is no factored gradient.

    >>> materialise(fg)["h0"]["x"].shape
    (5, 3, 2)
    """
    return by_leaf(fg, partial(views.each, fg), examples_of(fg))


@asks(is_direction)
def inner(fg: FactoredGradient, direction: PyTree[Array], precision: Precision = None) -> Float[Array, " b"]:
    """Each example's gradient along V: v[b] = ⟨dW[b], V⟩, its first-order influence on a loss whose gradient V is.

    V is shaped like the parameters, else a ValueError; a TypeError says what is no gradient or no array.

    >>> bool(jnp.allclose(inner(fg, total(fg)), jbp.gram(fg).sum(axis=1), rtol=1e-5))
    True
    """

    def along(use, h, dz):
        W = as_letters(use, jax.tree.leaves(direction)[use.leaf])
        if use.kind == "outer":
            return product("bn,nm,bm->b", use, dz, W, h, precision=precision)
        if use.kind == "rows":
            return contract("bk,bk->b", dz.reshape(len(dz), -1), W[h].reshape(len(dz), -1))
        return contract("bk,k->b", dz.reshape(len(dz), -1), W.reshape(-1))

    return sum((along(use, *factors_of(fg, use)) for use in fg.uses), start=jnp.zeros(()))
