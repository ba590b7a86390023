"""Inner products of two gradients in factors, without forming either: ⟨Σ_u G_u, Σ_v H_v⟩ = Σ_uv ⟨G_u, H_v⟩.

Uses of a parameter add before anything is squared: norms, the Gram matrix, a tied embedding, a layer applied twice are all
this sum. Letters as in factors.py, with u a position of the second gradient and c an example of it:

    outer·outer   Σ_tu (h[t]·k[u]) (dz[t]·ez[u])        bltm, clum, bltn, clun → bc
    rows·rows     Σ_tu [id[t] = jd[u]] dz[t]·ez[u]      bctu, btn, cun → bc
    rows·outer    Σ_tu (dz[t]·k[u]) ez[u][id[t]]        bctu, btm, cum → bc
    whole·any     Σ_k G[k] H[k]                         bk, ck → bc

and the same with b for c where each example is paired with itself. The order of a product is chosen by its flops: |h|² |dz|² at
one position, the Gram of positions at few, the gradient formed once at many.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbackprop.arithmetic import Precision, contract
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.strides import are_apart
from jaxbackprop.views import examples_of, factors_of, formed, letters_of


def dot(fg: FactoredGradient, gh: FactoredGradient, leaf: int, out: str, precision: Precision = None) -> Array:
    """⟨dW[b], dV[c]⟩ of one leaf: "b" for each example with itself in `gh`, "bc" for all pairs."""
    us, vs = ([use for use in f.uses if use.leaf == leaf] for f in (fg, gh))
    if fg is gh and out == "b":  # half of a symmetric sum
        pairs = [(u, v, 1 if u is v else 2) for i, u in enumerate(us) for v in us[: i + 1]]
    else:
        pairs = [(u, v, 1) for u in us for v in vs]
    shape = [examples_of(f) for f, _ in zip((fg, gh), out, strict=False)]
    return sum((times * _dot(fg, u, gh, v, out, precision) for u, v, times in pairs), start=jnp.zeros(shape))


def _dot(fg, u, gh, v, out, precision):
    if (u.kind, v.kind) == ("outer", "rows"):
        return _dot(gh, v, fg, u, out, precision).T
    if _are_apart(fg, u, v):
        return jnp.zeros([examples_of(f) for f, _ in zip((fg, gh), out, strict=False)])
    (h, dz), (k, ez), c = factors_of(fg, u), factors_of(gh, v), out[-1]
    if v.kind == "outer" and _are_turned(fg, u, v):  # Gᵀ = Σ_t h[t] dz[t]ᵀ: the factors change places
        k, ez, v = ez, k, v._replace(axes=letters_of(fg, u))
    p, q = u.positions, v.positions.replace("t", "u")
    if not _are_alike(fg, u, v):
        G, H = (_flat(f, use) for f, use in ((fg, u), (gh, v)))
        return contract(f"bk,{c}k->{out}", G, H, precision=precision)
    if u.kind == v.kind == "outer" and not p + q:  # one position: products that the edges of a layer share
        hh, dd = (contract(f"bk,{c}k->{out}", *pair, precision=precision) for pair in ((h, k), (dz, ez)))
        return hh * dd
    if u.kind == v.kind == "outer":
        return contract(f"b{p}m,{c}{q}m,b{p}n,{c}{q}n->{out}", h, k, dz, ez, precision=precision)
    (h, dz), (k, ez) = (a if p else (a[0][:, None], a[1][:, None]) for a, p in (((h, dz), p), ((k, ez), q)))
    if v.kind == "rows":
        same = h[:, :, None] == k[:, None] if c == "b" else h[:, None, :, None] == k[None, :, None, :]
        return contract(f"{out}tu,btn,{c}un->{out}", same.astype(dz.dtype), dz, ez, precision=precision)
    # u looks up the rows n of the matrix that v multiplies: ez[u][id[t]], (b, [c,] t, u)
    at = jax.vmap(lambda ez, h: ez[:, h].T)(ez, h) if c == "b" else jnp.transpose(ez[:, :, h], (2, 0, 3, 1))
    return contract(f"{out}tu,btm,{c}um->{out}", at, dz, k, precision=precision)


def _are_apart(fg, u, v):
    """Whether no number of the leaf is in both."""
    if "whole" in (u.kind, v.kind):
        return False
    views = [(use.offset, sum(letters_of(fg, use), ())) for use in (u, v)]
    return are_apart(int(np.prod(fg.shapes[u.leaf], dtype=int)), *views)


def _are_alike(fg, u, v):
    """Whether the letters of both are the same numbers of the leaf; of a lookup without l."""
    if "whole" in (u.kind, v.kind) or u.offset != v.offset or letters_of(fg, u) != letters_of(fg, v):
        return False
    return ("l" in u.positions) == ("l" in v.positions) and (u.kind == "outer" or "l" not in u.positions)


def _are_turned(fg, u, v):
    """Whether v has the matrix the other way round than u."""
    if "whole" in (u.kind, v.kind) or _are_alike(fg, u, v):
        return False
    l, n, m = letters_of(fg, u)
    return letters_of(fg, v) == (l, m, n)


def _flat(fg, use):
    """G[b] formed, as one row an example."""
    return formed(fg, [use], use.leaf, examples_of(fg)).reshape(examples_of(fg), -1)
