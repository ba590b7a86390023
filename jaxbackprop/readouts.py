"""Readouts: what can be contracted from every example's gradient without ever forming one.

The sweep leaves the pair (h, dz) for a batch; example b's gradient is the sum of Σ_t dz[b,t] h[b,t]ᵀ over the uses of each
parameter. Each function here is one contraction of that pair. Letters as in factors.py; t and u fall away for a network.

    total       dW      = Σ_b c[b] dW[b]            bltn, bltm → lnm                  (factors.py, with materialise and inner)
    norms       n²[b]   = ⟨dW[b], dW[b]⟩            bltm, blum, bltn, blun → b        (this, and gram, by bilinear.py)
    gram        K[b,c]  = ⟨dW[b], dW[c]⟩            bltm, clum, bltn, clun → bc
    clip        dz[b]   ← dz[b] min(1, C / n[b])
    moments     E[dW²]  = Σ_b dW[b]² / B            bltm, blum, bltn, blun → lnm      (variance.py, with noise_scale)
    project     S[b]    = P_out dW[b] P_inᵀ         btn, qn, btm, pm → bqp            (sketches.py, with compact)
    kronecker   E[h hᵀ], E[dz dzᵀ]                  btm, btk → mk and btn, btk → nk

Sources: Goodfellow 2015, "Efficient per-example gradient computations" (the norm); Li et al. 2021, "Large language
models can be strong differentially private learners", and Bu et al. 2022, "Scalable and efficient training of large
convolutional neural networks with differential privacy" (clipping without forming gradients).

NaN and infinity in an example reach every figure that it is part of; `clip` alone leaves such examples out. What is not a
`FactoredGradient` is refused by a TypeError.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float, Int

from jaxbackprop.arithmetic import NARROW, Precision, scaled
from jaxbackprop.bilinear import dot
from jaxbackprop.doors import are_of_one_model, asks, is_factored
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.refusals import is_boolean, is_positive
from jaxbackprop.views import smaller
from jaxbackprop.words import paths_of

FEW = 8  # layers whose squared norms are added as a sum is written


@asks(is_factored)
def squared_norms(fg: FactoredGradient) -> dict[str, Float[Array, " b"]]:
    """Each example's squared gradient norm, layer by layer; over all layers they add up.

    Of a network n²[b] = |dz_t[b]|² (Σ_s |h_s[b]|² + bias), because the edges of a layer share dz: 2 B (widths) flops, and no
    more memory than the answer; in float32 at least, as squares of small numbers vanish earlier. A layer is what stands
    before the last name of a parameter's path.

    >>> sorted(squared_norms(fg))
    ['h0', 'yhat']
    """
    squares = {}
    for leaf, layer in enumerate(layers_of(fg)):
        squares[layer] = squares.get(layer, 0) + dot(fg, fg, leaf, "b")
    return squares


def names_of(fg: FactoredGradient) -> list[tuple[str, ...]]:
    """The path of each leaf, as its names."""
    return paths_of(jax.tree.unflatten(fg.tree, range(len(fg.shapes))))


def layers_of(fg: FactoredGradient) -> list[str]:
    """The layer of each leaf: what stands before the last name of its path."""
    return ["/".join(path[:-1] or path) for path in names_of(fg)]


@asks(is_factored)
def norms(fg: FactoredGradient) -> Float[Array, " b"]:
    """Each example's gradient norm over all parameters, n[b]; Goodfellow 2015. 2 B (widths) flops for a network.

    Differentiable, in a penalty say: at a gradient of 0, where a norm has its kink, the slope is 0.
    A ValueError says which shape is not that of one batch, a TypeError what is no factored gradient.

    >>> norms(fg).shape
    (5,)
    """
    squared = _squared_norm(fg)
    return jnp.where(squared == 0, 0, jnp.sqrt(jnp.where(squared == 0, 1, squared)))


def _squared_norm(fg):
    return _added(squared_norms(fg))


def _added(squares):
    """Σ over the layers; of many by a product with ones: a sum of k terms is compiled anew into every array that it scales."""
    if len(squares) <= FEW:
        return sum(squares.values(), start=jnp.zeros(()))
    stacked = jnp.stack([*squares.values()])
    return jnp.dot(jnp.ones(len(squares), stacked.dtype), stacked, precision="highest")


@asks(is_factored)
def clip(fg: FactoredGradient, max_norm: ArrayLike, per_layer: bool = False, nan_safe: bool = True) -> FactoredGradient:
    """Scale down each example's gradient to a norm of at most `max_norm`: dz[b,t] ← dz[b,t] min(1, C / n[b]).

    The result is a factored gradient like any other: `total(clip(fg, 1.0))` is the clipped sum at the price of one
    plain gradient (Li et al. 2021, Bu et al. 2022). An example whose gradient is not finite has no direction to keep:
    it is left out, as zeros; `count_not_finite(fg)` says how many are. 2 B N flops for the norms, B N for the scaling.
    So is an example whose squared norm overflows.

    Args:
        fg: the factored gradients of a batch.
        max_norm: C > 0; where it is traced, and not a positive number, the gradients are NaN.
        per_layer: clip each layer's part by itself, to C / √(number of layers), so that the whole still keeps to C.
        nan_safe: leave out what is not finite. False spares a pass over every h: such an example makes the sum NaN.

    Raises:
        ValueError: `max_norm` is not a positive number.
        TypeError: it is no number at all, or `per_layer` or `nan_safe` is not True or False.

    >>> bool(jnp.all(norms(clip(fg, 0.1)) <= 0.1 * (1 + 1e-6)))
    True
    """
    bound: Any = is_positive("max_norm", max_norm)
    is_boolean(per_layer=per_layer, nan_safe=nan_safe)
    fg = to_clip(fg)
    squares = squared_norms(fg)
    whole = _added(squares)
    if not isinstance(bound, Tracer):
        bound = min(float(bound), float(jnp.finfo(whole.dtype).max))
    finite, left_out = jnp.isfinite(whole), 0.0 if nan_safe else jnp.nan
    if per_layer:
        part = bound / len(squares) ** 0.5
        by_layer = {layer: _factor(square, part, finite, left_out) for layer, square in squares.items()}
        factor = {use.dz: by_layer[layer] for use, layer in _each_use_of_one_layer(fg)}
    else:
        factor = dict.fromkeys(fg.dz, _factor(whole, bound, finite, left_out))

    def kept(a, where):  # h too: 0 · inf would still poison the sum
        is_number = nan_safe and jnp.issubdtype(a.dtype, jnp.floating)
        return jnp.where(where.reshape(-1, *[1] * (a.ndim - 1)), a, 0) if is_number else a

    dz = {}
    for key, d in fg.dz.items():
        # one after the other, each in place: together they would want room for as many again; the narrowest are elementwise
        if d.size > NARROW * len(d):
            d, factor = jax.lax.optimization_barrier((d, factor))
        dz[key] = kept(scaled(d, factor[key]), factor[key] != 0)  # NaN, of a bound that is none, is kept
    return replace(fg, h={key: kept(h, finite) for key, h in fg.h.items()}, dz=dz)


def to_clip(fg: FactoredGradient) -> FactoredGradient:
    """The same gradients, for a norm and a sum of each: where forming one is cheaper than its factors, it is formed once.

    The Gram of T positions takes about T² (n + m) products, the gradient T n m: they are formed where T (n + m) > n m.
    """
    return smaller(fg, [use.leaf for use in fg.uses if "t" in use.positions])


def _each_use_of_one_layer(fg):
    """Each use with its layer; a dz that two layers share cannot be scaled for one of them."""
    layers, found = layers_of(fg), {}
    for use in fg.uses:
        if found.setdefault(use.dz, layers[use.leaf]) != layers[use.leaf]:
            raise ValueError(
                f"layers {found[use.dz]!r} and {layers[use.leaf]!r} share an adjoint: clip them as a whole, per_layer=False"
            )
        yield use, layers[use.leaf]


def _factor(square, bound, finite, otherwise):
    """min(1, C / n), or what is given where n is not finite; at n = 0 it is 1, whatever C, unless C is 0 in this dtype."""
    n = jnp.maximum(jnp.sqrt(square), jnp.finfo(square.dtype).tiny)
    return jnp.where(finite, jnp.minimum(1, jnp.asarray(bound, square.dtype) / n), otherwise)


@asks(is_factored)
def count_not_finite(fg: FactoredGradient) -> Int[Array, ""]:
    """How many examples have a gradient whose squared norm is not finite, and are left out by `clip`; safe under jit.

    >>> int(count_not_finite(fg))
    0
    """
    return jnp.sum(~jnp.isfinite(_squared_norm(fg)))


@asks(are_of_one_model)
def gram(
    fg: FactoredGradient, other: FactoredGradient | None = None, precision: Precision = None
) -> Float[Array, "b c"]:
    """Inner products of all pairs of gradients, K[b,c] = ⟨dW[b], dV[c]⟩: the empirical tangent kernel of the loss.

    2 B C (widths) flops and B C numbers for a network, where forming the gradients would take 2 B C (parameters) flops.

    Args:
        fg: the factored gradients of B examples.
        other: those of C more examples, of parameters of the same shapes, else a ValueError; `fg` itself by default.
        precision: of the contractions.

    >>> gram(fg).shape
    (5, 5)
    """
    other = fg if other is None else other
    found = sum((dot(fg, other, leaf, "bc", precision) for leaf in range(len(fg.shapes))), start=jnp.zeros(()))
    return found.astype(jnp.result_type(*fg.dz.values()))
