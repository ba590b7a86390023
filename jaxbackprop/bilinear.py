"""Inner products of two gradients in factors, without forming either: ⟨Σ_u G_u, Σ_v H_v⟩ = Σ_uv ⟨G_u, H_v⟩.

Uses of a parameter add before anything is squared: norms, the Gram matrix, a tied embedding, a layer applied twice are all
this sum. Letters as in factors.py, with u a position of the second gradient and c an example of it:

    outer·outer   Σ_tu (h[t]·k[u]) (dz[t]·ez[u])        bltm, clum, bltn, clun → bc
    rows·rows     Σ_tu [id[t] = jd[u]] dz[t]·ez[u]      bctu, btn, cun → bc
    rows·outer    Σ_tu (dz[t]·k[u]) ez[u][id[t]]        bctu, btm, cum → bc
    whole·any     Σ_k G[k] H[k]                         bk, ck → bc

and the same with b for c where each example is paired with itself. The order of a product is chosen by its flops: |h|² |dz|² at
one position, the Gram of positions at few, the gradient formed once at many. Uses of different parts of a parameter share
nothing.

Memory beside the factors: products of so many examples, and positions u, at a time that no array between has more than
`arithmetic.LARGEST` numbers, or than one example's gradient or one position needs.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbackprop import arithmetic
from jaxbackprop.arithmetic import Precision, contract, tiled, wide
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.strides import are_apart, size_of
from jaxbackprop.views import LARGEST_SEEN, examples_of, formed, letters_of, opened, seen_by, stored


def dot(fg: FactoredGradient, gh: FactoredGradient, leaf: int, out: str, precision: Precision = None) -> Array:
    """⟨dW[b], dV[c]⟩ of one leaf, in float32 at least: "b" for each example with itself in `gh`, "bc" for all pairs."""
    us, vs = ([use for use in f.uses if use.leaf == leaf] for f in (fg, gh))
    if fg is gh and out == "b":  # half of a symmetric sum
        pairs = [(u, v, 1 if u is v else 2) for i, u in enumerate(us) for v in us[: i + 1]]
    else:
        pairs = [(u, v, 1) for u in us for v in vs]
    shape = [examples_of(f) for f, _ in zip((fg, gh), out, strict=False)]
    parts = [times * _dot(fg, u, gh, v, out, precision) for u, v, times in pairs if not _are_apart(fg, u, v)]
    return sum(parts, start=jnp.zeros(shape))


def _dot(fg, u, gh, v, out, precision):
    if (u.kind, v.kind) == ("outer", "rows"):
        return _dot(gh, v, fg, u, out, precision).T
    (h, dz), (k, ez) = (stored(f, use) for f, use in ((fg, u), (gh, v)))
    turned = v.kind == "outer" and _are_turned(fg, u, v)  # Gᵀ = Σ_t h[t] dz[t]ᵀ: the factors change places
    if not turned and not _are_alike(fg, u, v):
        h, k, dz, ez = None, None, *(_flat(f, use) for f, use in ((fg, u), (gh, v)))
        return _by_examples(_whole, 0, (h, dz), (k, ez), out, precision)
    rule = {
        ("outer", "outer"): partial(_outer, u.positions, v.positions), ("rows", "rows"): _rows, ("rows", "outer"): _rows_outer
    }[u.kind, v.kind]  # fmt: skip

    def opened_first(h, dz, k, ez, out, precision):
        (h, dz), (k, ez) = opened(u, h, dz), opened(v, k, ez)
        k, ez = (ez, k) if turned else (k, ez)
        t, s = (d.shape[-2] if "t" in use.positions else 1 for d, use in ((dz, u), (ez, v)))
        most = max(1, arithmetic.LARGEST // max(1, t))  # positions u at a time
        # where a gradient is small enough it is formed
        if s <= most or (u.kind == "outer" and dz.shape[-1] * h.shape[-1] <= arithmetic.LARGEST):
            return rule(h, dz, k, ez, out, precision)
        tiles = _cut(k, -1 if v.kind == "rows" else -2, most), _cut(ez, -2, most)
        return jax.lax.map(lambda tile: rule(h, dz, tile[0], tile[1], out, precision), tiles).sum(0)

    numbers = _between(fg, u, v, dz, ez) + seen_by(fg, u) + seen_by(gh, v)
    largest = LARGEST_SEEN if u.window or v.window else None
    return _by_examples(opened_first, numbers, (h, dz), (k, ez), out, precision, largest)


def _by_examples(rule, numbers, one, other, out, precision, largest=None):
    if out == "bc":
        return tiled(lambda *one: rule(*one, *other, out, precision), numbers * len(other[1]), *one, largest=largest)
    return tiled(lambda *both: rule(*both, out, precision), numbers, *one, *other, largest=largest)


def _between(fg, u, v, dz, ez) -> int:
    """How many numbers lie between the factors of an example and its product: the smaller of a Gram and a gradient."""
    l, n, m = map(size_of, letters_of(fg, u))
    t, s = (d.shape[-2] if "t" in use.positions else 1 for d, use in ((dz, u), (ez, v)))
    if u.kind == "rows":
        return t * s
    return l * min(t * s, n * m) if t * s > 1 else 0


def _outer(p, q, h, dz, k, ez, out, precision):
    c, q = out[-1], q.replace("t", "u")
    total = partial(contract, precision=precision, dtype=wide(dz.dtype))
    if not p + q:  # one position: products that the edges of a layer share
        return total(f"bk,{c}k->{out}", h, k) * total(f"bk,{c}k->{out}", dz, ez)
    return total(f"b{p}m,{c}{q}m,b{p}n,{c}{q}n->{out}", h, k, dz, ez)


def _cut(a, axis, most):
    """An axis in tiles of so many, which come first; the last is filled up with zeros."""
    axis += a.ndim
    a = jnp.pad(a, [(0, -n % most if i == axis else 0) for i, n in enumerate(a.shape)])
    return jnp.moveaxis(a.reshape(*a.shape[:axis], -1, most, *a.shape[axis + 1 :]), axis, 0)


def _rows(h, dz, k, ez, out, precision):
    h, dz, k, ez = _with_positions(h, dz, k, ez)
    same = h[:, :, None] == k[:, None] if out == "b" else h[:, None, :, None] == k[None, :, None, :]
    indices = f"{out}tu,btn,{out[-1]}un->{out}"
    return contract(indices, same.astype(dz.dtype), dz, ez, precision=precision, dtype=wide(dz.dtype))


def _rows_outer(h, dz, k, ez, out, precision):
    """h looks up the rows n of the matrix that k goes into: ez[u][id[t]], (b, [c,] t, u)."""
    h, dz, k, ez = _with_positions(h, dz, k, ez)
    at = jax.vmap(lambda ez, h: ez[:, h].T)(ez, h) if out == "b" else jnp.transpose(ez[:, :, h], (2, 0, 3, 1))
    return contract(f"{out}tu,btm,{out[-1]}um->{out}", at, dz, k, precision=precision, dtype=wide(dz.dtype))


def _with_positions(h, dz, k, ez):
    """One position where there is no axis of them."""
    (h, dz), (k, ez) = ((a, d) if d.ndim == 3 else (a[:, None], d[:, None]) for a, d in ((h, dz), (k, ez)))
    return h, dz, k, ez


def _whole(_h, G, _k, H, out, precision):
    return contract(f"bk,{out[-1]}k->{out}", G, H, precision=precision, dtype=wide(G.dtype))


def _are_apart(fg, u, v):
    """Whether no number of the leaf is in both."""
    if "whole" in (u.kind, v.kind):
        return False
    views = [(use.offset, sum(letters_of(fg, use), ())) for use in (u, v)]
    return are_apart(int(np.prod(fg.shapes[u.leaf], dtype=int)), *views)


def _are_alike(fg, u, v):
    """Whether the letters of both are the same numbers of the leaf."""
    if "whole" in (u.kind, v.kind) or u.offset != v.offset:
        return False
    return letters_of(fg, u) == letters_of(fg, v) and ("l" in u.positions) == ("l" in v.positions)


def _are_turned(fg, u, v):
    """Whether v has the matrix the other way round than u."""
    if "whole" in (u.kind, v.kind) or _are_alike(fg, u, v):
        return False
    l, n, m = letters_of(fg, u)
    return u.offset == v.offset and letters_of(fg, v) == (l, m, n)


def _flat(fg, use):
    """G[b] formed, as one row an example."""
    return formed(fg, [use], use.leaf, examples_of(fg)).reshape(examples_of(fg), -1)
