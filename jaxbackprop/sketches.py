"""Smaller gradients: the smaller of factors and gradient, random projections of both factors, Kronecker factors.

    compact     what T (n + m) numbers of factors cost against n m of the gradient
    project     S[b] = P_out dW[b] P_inᵀ = Σ_t (P_out dz[t]) (P_in h[t])ᵀ                 btn, qn, btm, pm → bqp
    kronecker   A = E[Σ_t h hᵀ],  S = E[Σ_t dz dzᵀ] / T                                    btm, btk → mk and btn, btk → nk

Sources: Choe et al. 2024, "What is your data worth to GPT?" (LoGra: projections from the factors); Martens and Grosse 2015,
"Optimizing neural networks with Kronecker-factored approximate curvature"; Grosse and Martens 2016 (of convolutions).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Key, PyTree

from jaxbackprop.arithmetic import Precision, contract, wide
from jaxbackprop.doors import asks, is_factored
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.readouts import names_of
from jaxbackprop.refusals import is_key
from jaxbackprop.strides import size_of
from jaxbackprop.views import examples_of, factors_of, formed, letters_of, smaller
from jaxbackprop.words import require_positive


@asks(is_factored)
def compact(fg: FactoredGradient) -> FactoredGradient:
    """The same gradients, each leaf's kept as factors or formed, whichever is the smaller to keep.

    Of a product T (n + m) numbers an example against n m of its gradient; of a lookup T (n + 1) against rows · n.
    A TypeError says what is no factored gradient.

    >>> [use.kind for use in compact(fg).uses if fg.shapes[use.leaf] == (1, 3)]  # 1 + 3 numbers against 3
    ['whole']
    """
    return smaller(fg, range(len(fg.shapes)))


@asks(lambda fg, key, size, **_: (is_factored(fg), is_key(key), require_positive("size", size)))
def project(fg: FactoredGradient, key: Key[Array, ""], size: int) -> PyTree[Float[Array, "b q p"]]:
    """Sketch each leaf's gradient: S[b] = P_out dW[b] P_inᵀ = Σ_t (P_out dz[t]) (P_in h[t])ᵀ, size × size numbers a leaf.

    The entries of P_out and P_in are drawn from N(0, 1 / size), so that E[PᵀP] = I, and an inner product of sketches is an
    unbiased estimate of that of the gradients: E⟨S[b], S[c]⟩ = ⟨dW[b], dW[c]⟩. A leaf that is no matrix, or that is used both
    ways round, is projected as a vector, by size² rows of N(0, 1 / size²). LoGra, Choe et al. 2024.

    Args:
        fg: the factored gradients of a batch.
        key: of P; the same key gives the same P, so that sketches of different batches can be compared.
        size: q = p, the side of a sketch.

    Returns:
        (b, size, size) for each leaf, nested like the parameters.

    Raises:
        ValueError: size is no integer of at least 1.
        TypeError: no factored gradient, or not one key.

    >>> project(fg, jax.random.key(0), 2)["h0"]["x"].shape
    (5, 2, 2)
    """
    keys, b = jax.random.split(key, len(fg.shapes)), examples_of(fg)

    def normal(key, width, rows):
        return jax.random.normal(key, (rows, width), wide(next(iter(fg.dz.values())).dtype)) / rows**0.5

    def sketch(leaf):
        uses = [use for use in fg.uses if use.leaf == leaf]
        one_way = len({(use.offset, letters_of(fg, use)) for use in uses if use.kind != "whole"}) == 1 and all(
            use.kind != "whole" and "l" not in use.positions for use in uses
        )
        if not one_way:
            G = formed(fg, uses, leaf, b).reshape(b, -1)
            return contract("bk,rk->br", G, normal(keys[leaf], G.shape[1], size * size)).reshape(b, size, size)
        return sum(_sketch(fg, use, keys[leaf], normal, size) for use in uses)

    return jax.tree.unflatten(fg.tree, [sketch(leaf) for leaf in range(len(fg.shapes))])


def _sketch(fg, use, key, normal, size):
    (h, dz), (key_n, key_m), t = factors_of(fg, use), jax.random.split(key), use.positions
    if use.kind == "outer":
        P_out, P_in = normal(key_n, dz.shape[-1], size), normal(key_m, h.shape[-1], size)
        return contract(f"b{t}n,qn,b{t}m,pm->bqp", dz, P_out, h, P_in)
    # the matrix is (rows, n): its outputs are looked up, e[id], and dz takes the place of h
    P_out, P_in = (
        normal(key_n, size_of(letters_of(fg, use)[1]), size),
        normal(key_m, dz.shape[-1], size),
    )
    return contract(f"b{t}q,b{t}n,pn->bqp", P_out.T[h], dz, P_in)


class KroneckerFactors(NamedTuple):
    """A = E[Σ_t h hᵀ] (m, m) and S = E[Σ_t dz dzᵀ] / T (n, n) of one use: the empirical Fisher is about S ⊗ A."""

    A: Float[Array, "*l m m"]
    S: Float[Array, "*l n n"]


@asks(is_factored)
def kronecker(fg: FactoredGradient, precision: Precision = None) -> dict[str, tuple[KroneckerFactors, ...]]:
    """K-FAC's factors of every matrix: for each of its uses as a product A = E[Σ_t h hᵀ] and S = E[Σ_t dz dzᵀ] / T.

    With one position E[(dz hᵀ) ⊗ (dz hᵀ)] ≈ S ⊗ A, exact where h and dz are independent (Martens and Grosse 2015); with T
    as for convolutions whose adjoints are independent from place to place (Grosse and Martens 2016). The mean is over the
    batch, the loss's own targets in it: the empirical Fisher.

    Returns:
        by the name of the leaf, such as "h0/x", the factors of each of its outer uses.

    Raises:
        ValueError: an unknown precision.
        TypeError: no factored gradient.

    >>> [factor.shape for factor in kronecker(fg)["h0/x"][0]]
    [(2, 2), (3, 3)]
    """
    found: dict[str, tuple[KroneckerFactors, ...]] = {}
    names = names_of(fg)
    for use in (use for use in fg.uses if use.kind == "outer"):
        (h, dz), p, stack = factors_of(fg, use), use.positions, "l" * ("l" in use.positions)
        T = max(1, h.shape[1 + p.index("t")]) if "t" in p else 1
        A = contract(f"b{p}m,b{p}k->{stack}mk", h, h, precision=precision) / len(h)
        S = contract(f"b{p}n,b{p}k->{stack}nk", dz, dz, precision=precision) / (len(h) * T)
        name = "/".join(names[use.leaf])
        found[name] = (*found.get(name, ()), KroneckerFactors(A, S))
    return found
