"""A use of a parameter, and how its gradient meets the leaf: letters for axes, and the way back to the leaf's own order."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from jaxbackprop.arithmetic import Precision, contract, wide


class Use(NamedTuple):
    """Where a parameter enters linearly: which leaf of the parameters, how, and with which factors.

    kind is "outer", "rows" or "whole"; dz and h are keys (h of ids, for rows); positions are the axes that h has beside b and m:
    "", "t", "l" or "lt"; axes is the order in which the leaf's axes are those of l, n and m, None where they are so already.
    """

    leaf: int
    kind: str
    dz: str
    h: str = ""
    positions: str = ""
    axes: tuple[int, ...] | None = None


def examples_of(fg: Any) -> int:
    """How many examples there are: b."""
    return jnp.shape(next(iter(fg.dz.values())))[0]


def factors_of(fg: Any, use: Use) -> tuple[Any, Array]:
    """h, or ids, or None; and dz."""
    return fg.h.get(use.h), fg.dz[use.dz]


def product(indices: str, use: Use, *arrays: Array, precision: Precision = None) -> Array:
    """A contraction over b, n and m, with the positions of the use put in: "bn,bm->nm" is bltn, bltm → lnm."""
    stack = "l" * ("l" in use.positions)
    terms = indices.replace("->", ",>").split(",")
    terms = [f"b{use.positions}{t[1:]}" if t in ("bn", "bm") else t.replace("n", f"{stack}n") for t in terms]
    return contract(",".join(terms).replace(",>", "->"), *arrays, precision=precision)


def each(fg: Any, use: Use, h: Any, dz: Array) -> Array:
    """G[b] of one use: (b, l, n, m), or shaped like the leaf."""
    if use.kind == "outer":
        return product("bn,bm->bnm", use, dz, h)
    return jax.vmap(partial(scattered, fg, use))(h, dz) if use.kind == "rows" else dz


def scattered(fg: Any, use: Use, ids: Array, dz: Array) -> Array:
    """Σ_t e[id[t]] dz[t]ᵀ of a lookup: rows added where they were read, (rows, n)."""
    rows, dtype = fg.shapes[use.leaf][use.axes[0] if use.axes else 0], wide(dz.dtype)
    return jnp.zeros((rows, dz.shape[-1]), dtype).at[ids].add(dz.astype(dtype)).astype(dz.dtype)


def by_leaf(fg: Any, of_use: Any, *batch: int) -> PyTree[Array]:
    """Σ of something over the uses of each leaf, with the leaf's axes, nested like the parameters; 0 where there is no use."""
    found: list[Any] = [None] * len(fg.shapes)
    for use in fg.uses:
        G = as_leaf(fg, use, of_use(use, *factors_of(fg, use)), *batch)
        found[use.leaf] = G if found[use.leaf] is None else found[use.leaf] + G
    dtype = next(iter(fg.dz.values())).dtype
    zeros = (jnp.zeros((*batch, *shape), dtype) for shape in fg.shapes)
    return jax.tree.unflatten(fg.tree, [zero if G is None else G for G, zero in zip(found, zeros, strict=True)])


def as_leaf(fg: Any, use: Use, G: Array, *batch: int) -> Array:
    """G (…, l, n, m) with the leaf's own axes."""
    if use.axes is None or use.kind == "whole":
        return G
    shape, front = fg.shapes[use.leaf], range(len(batch))
    back = [len(batch) + use.axes.index(i) for i in range(len(shape))]
    return jnp.transpose(G.reshape((*batch, *(shape[i] for i in use.axes))), [*front, *back])


def formed(fg: Any, uses: Sequence[Use], leaf: int, *batch: int) -> Array:
    """Σ_u G_u[b] of some uses of one leaf, (b, *leaf); 0 where there are none."""
    G = sum((as_leaf(fg, use, each(fg, use, *factors_of(fg, use)), *batch) for use in uses), start=jnp.zeros(()))
    return jnp.broadcast_to(G, (*batch, *fg.shapes[leaf])).astype(next(iter(fg.dz.values())).dtype)
