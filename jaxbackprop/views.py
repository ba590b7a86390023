"""A use of a parameter, and how its gradient meets the leaf: letters for axes, and the way back to the leaf's own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, PyTree

from jaxbackprop.arithmetic import Precision, contract, tiled, wide
from jaxbackprop.strides import Group, axes_of, put_back, seen, size_of
from jaxbackprop.windows import Window, patches
from jaxbackprop.words import unused


class Use(NamedTuple):
    """Where a parameter enters linearly; static.

    Attributes:
        leaf: of the parameters.
        kind: "outer", "rows" or "whole".
        dz: its key.
        h: the key of h, or of ids for rows.
        positions: the axes that dz has beside b and n: "", "t", "l" or "lt".
        axes: what l, n and m (for rows l, the rows, and n) are of the leaf; None where they are its own, in this order.
        offset: of the leaf's numbers, where they begin.
        window: of a convolution: h is its input, (b, l, t, …), and what the window sees is the h of the letters.
    """

    leaf: int
    kind: str
    dz: str
    h: str = ""
    positions: str = ""
    axes: tuple[Group, Group, Group] | None = None
    offset: int = 0
    window: Window | None = None


def examples_of(fg: Any) -> int:
    """How many examples there are: b."""
    return jnp.shape(next(iter(fg.dz.values())))[0]


def stored(fg: Any, use: Use) -> tuple[Any, Array]:
    """h, or ids, or None, or the input of a convolution; and dz."""
    return fg.h.get(use.h), fg.dz[use.dz]


def factors_of(fg: Any, use: Use) -> tuple[Any, Array]:
    """h, or ids, or None; and dz."""
    return opened(use, *stored(fg, use))


def opened(use: Use, h: Any, dz: Array) -> tuple[Any, Array]:
    """h of the letters; of a convolution what its window sees of the input."""
    if use.window is None:
        return h, dz
    window = use.window
    h = jax.vmap(jax.vmap(jax.vmap(lambda h: patches(h, window))))(h)  # (b, l, t, l', t', m)
    return jnp.moveaxis(h, 3, 2).reshape(*dz.shape[:-1], h.shape[-1]), dz


LARGEST_SEEN = 2**20  # numbers that windows see, at a time


def seen_by(fg: Any, use: Use) -> int:
    """How many numbers of an example a convolution's windows see."""
    dz = fg.dz[use.dz]
    return int(np.prod(dz.shape[1:-1], dtype=int)) * size_of(letters_of(fg, use)[2]) if use.window else 0


def letters_of(fg: Any, use: Use) -> tuple[Group, Group, Group]:
    """What l, n and m are of the leaf."""
    if use.axes is not None:
        return use.axes
    *stack, n, m = axes_of(fg.shapes[use.leaf])
    return sum(stack, ()), n, m


def product(
    indices: str, use: Use, *arrays: Array, precision: Precision = None, dtype: DTypeLike | None = None
) -> Array:
    """A contraction over b, n and m, with the positions of the use put in: "bn,bm->nm" is bltn, bltm → lnm."""
    stack, (terms, result) = "l" * ("l" in use.positions), indices.split("->")
    full = {"bn": f"b{use.positions}n", "bm": f"b{use.positions}m"}
    *terms, result = [
        full.get(term, "b" * term.startswith("b") + (stack if term != "b" else "") + term.removeprefix("b"))
        for term in (*terms.split(","), result)
    ]
    return contract(f"{','.join(terms)}->{result}", *arrays, precision=precision, dtype=dtype)


def outer(batch: str, use: Use, h: Array, dz: Array, precision: Precision = None, dtype: Any = None) -> Array:
    """Σ_t dz[b,t] h[b,t]ᵀ, summed over b for batch "", (b,) l, n, m; made as the leaf lies, which spares turning it on a CPU."""
    _, n, m = use.axes or ((), (), ())
    if n and m and abs(n[-1].stride) < abs(m[-1].stride):
        return jnp.swapaxes(product(f"bm,bn->{batch}mn", use, h, dz, precision=precision, dtype=dtype), -1, -2)
    return product(f"bn,bm->{batch}nm", use, dz, h, precision=precision, dtype=dtype)


def each(fg: Any, use: Use) -> Array:
    """G[b] of one use: (b, l, n, m), or shaped like the leaf."""
    h, dz = stored(fg, use)
    if use.kind == "outer":
        form = lambda h, dz: outer("b", use, *opened(use, h, dz))  # noqa: E731
        return tiled(form, seen_by(fg, use), h, dz, largest=LARGEST_SEEN) if use.window else form(h, dz)
    return jax.vmap(partial(scattered, fg, use))(h, dz) if use.kind == "rows" else dz


def total_of(fg: Any, use: Use, h: Any, dz: Array, precision: Precision) -> Array:
    """Σ_b G[b] of an outer use; of a convolution a tile of examples after the other."""
    make = lambda h, dz: outer("", use, *opened(use, h, dz), precision, dtype_of(fg, use.leaf))  # noqa: E731
    most = max(1, LARGEST_SEEN // max(1, seen_by(fg, use)))
    if use.window is None or most >= len(dz):
        return make(h, dz)
    tile = next(n for n in range(most, 0, -1) if len(dz) % n == 0)
    tiles = jax.tree.map(lambda a: a.reshape(-1, tile, *a.shape[1:]), (h, dz))
    zero = jnp.zeros_like(jax.eval_shape(make, h, dz))
    return jax.lax.scan(lambda sofar, part: (sofar + make(*part), None), zero, tiles)[0]


def scattered(fg: Any, use: Use, ids: Array, dz: Array) -> Array:
    """Σ_t e[id[t]] dz[t]ᵀ of a lookup: rows added where they were read, (rows, n)."""
    rows, dtype = size_of(letters_of(fg, use)[1]), wide(dz.dtype)
    return jnp.zeros((rows, dz.shape[-1]), dtype).at[ids].add(dz.astype(dtype)).astype(dz.dtype)


def summed_over(dz: Array) -> Array:
    """Σ_b dz[b]; of formed matrices as a product with ones, which on a CPU is 20 times as fast as a sum over the first axis."""
    if dz.ndim < 3:
        return jnp.sum(dz.astype(wide(dz.dtype)), axis=0).astype(dz.dtype)
    return contract("b,bk->k", jnp.ones(len(dz), dz.dtype), dz.reshape(len(dz), -1)).reshape(dz.shape[1:])


def dtype_of(fg: Any, leaf: int) -> DTypeLike:
    """Of the leaf; where it is not said, as of a network, that of all."""
    return fg.dtypes[leaf] if fg.dtypes else next(iter(fg.dz.values())).dtype


def by_leaf(fg: Any, of_use: Any, *batch: int) -> PyTree[Array]:
    """Σ of something over the uses of each leaf, with the leaf's axes, nested like the parameters; 0 where there is no use."""
    found: list[Any] = [None] * len(fg.shapes)
    for use in fg.uses:
        G = as_leaf(fg, use, of_use(use), *batch)
        found[use.leaf] = G if found[use.leaf] is None else found[use.leaf] + G
    full = [jnp.zeros((*batch, *shape)) if G is None else G for G, shape in zip(found, fg.shapes, strict=True)]
    return jax.tree.unflatten(fg.tree, [G.astype(dtype_of(fg, leaf)) for leaf, G in enumerate(full)])


def as_leaf(fg: Any, use: Use, G: Array, *batch: int) -> Array:
    """G (…, l, n, m) with the leaf's own axes."""
    if use.axes is None or use.kind == "whole":
        return G
    return put_back(G, fg.shapes[use.leaf], use.offset, use.axes, len(batch))


def as_letters(use: Use, W: Array) -> Array:
    """What is shaped like the leaf as (l, n, m), or without l; the whole of it for `whole`."""
    if use.axes is None or use.kind == "whole":
        return W
    W = seen(W, use.offset, use.axes)
    return W if "l" in use.positions else W[0]


def formed(fg: Any, uses: Sequence[Use], leaf: int, *batch: int) -> Array:
    """Σ_u G_u[b] of some uses of one leaf, (b, *leaf); 0 where there are none."""
    G = sum((as_leaf(fg, use, each(fg, use), *batch) for use in uses), start=jnp.zeros(()))
    return jnp.broadcast_to(G, (*batch, *fg.shapes[leaf])).astype(dtype_of(fg, leaf))


def numbers_of(fg: Any, use: Use) -> int:
    """How many numbers of factors an example has: T (n + m); of a lookup T (n + 1)."""
    dz = fg.dz[use.dz]
    beside = {"outer": size_of(letters_of(fg, use)[2]), "rows": 1, "whole": 0}[use.kind]
    return int(np.prod(dz.shape[1:], dtype=int)) + beside * int(np.prod(dz.shape[1:-1], dtype=int))


def smaller(fg: Any, leaves: Sequence[int]) -> Any:
    """The same gradients, each of these leaves' kept as factors or formed, whichever is the smaller to keep."""
    whole, uses = {}, []
    for leaf, shape in enumerate(fg.shapes):
        own = [use for use in fg.uses if use.leaf == leaf]
        factors = sum(numbers_of(fg, use) for use in own if use.kind != "whole")
        if leaf in leaves and int(np.prod(shape, dtype=int)) < factors:
            name = unused(f"leaf {leaf}", fg.dz)
            whole[name], own = formed(fg, own, leaf, examples_of(fg)), [Use(leaf, "whole", name)]
        uses += own
    h, dz = ({getattr(use, kind) for use in uses} for kind in ("h", "dz"))
    kept = {key: a for key, a in fg.dz.items() if key in dz} | whole
    return replace(fg, h={key: a for key, a in fg.h.items() if key in h}, dz=kept, uses=tuple(uses))
