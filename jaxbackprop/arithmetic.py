"""Products and sums that keep their digits: accumulated in float32 at least, rounded once, at the end."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from operator import mul
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, DTypeLike

Precision = jax.lax.PrecisionLike
NARROW = 3  # up to this width the batch is best the minor axis; measured on CPU, experiments/README.md


def contract(indices: str, *operands: Array, precision: Precision = None, dtype: DTypeLike | None = None) -> Array:
    """`jnp.einsum` that accumulates in float32 at least, whatever the operands' dtype, and rounds once, at the end.

    Of more than two operands the pairs are multiplied in the order that costs the fewest flops. Where there is nothing to
    sum but axes of length 1, or both operands have the same axes, multiplication replaces a slow matrix product. The result
    has the operands' dtype, or the one that is asked for.

    >>> ones = jnp.ones(4096, jnp.bfloat16)
    >>> float(contract("i,i->", ones, ones))  # a bfloat16 accumulator would stop at 256
    4096.0
    >>> contract("bm,cm,bn,cn->bc", *[jnp.ones((2, 3))] * 4).tolist()
    [[9.0, 9.0], [9.0, 9.0]]
    """
    terms, result = indices.split("->")
    terms, dtype = terms.split(","), dtype or jnp.result_type(*operands)
    arrays: list[Any] = list(operands)
    path = [] if len(arrays) < 3 else jnp.einsum_path(indices, *arrays, optimize="optimal")[0][:-1]
    for places in path:
        i, j = sorted(places, reverse=True)
        letters, pair = [terms.pop(i), terms.pop(j)], [arrays.pop(i), arrays.pop(j)]
        kept = "".join(k for k in sorted({*letters[0], *letters[1]}) if any(k in term for term in (result, *terms)))
        terms, arrays = [*terms, kept], [*arrays, _product(letters, kept, pair, precision)]
    return _product(terms, result, arrays, precision).astype(dtype)


def _product(terms: list[str], result: str, arrays: list[Any], precision: Precision) -> Array:
    """The sum over what is not in the result, of one operand or the product of two, in float32 at least."""
    dtype = wide(jnp.result_type(*arrays))
    sizes = {i: n for term, a in zip(terms, arrays, strict=True) for i, n in zip(term, a.shape, strict=True)}
    if [len(term) for term in terms] == [2, 1] and max(sizes.values()) > NARROW:
        # the order decides where `jax.vmap` leaves the batch: a vector first makes it rows, a matrix first the minor axis
        terms, arrays = terms[::-1], arrays[::-1]
    summed = [i for i in sizes if i not in result and sizes[i] != 1]
    if all(set(summed) <= set(term) for term in terms) and (not summed or len({*map(frozenset, terms)}) == 1):
        order = result + "".join(summed)
        product = reduce(mul, [_aligned(t, a.astype(dtype), order) for t, a in zip(terms, arrays, strict=True)])
        return jnp.sum(product, axis=tuple(range(len(result), len(order)))) if summed else product
    terms, arrays = _merged(terms, result, arrays)
    indices = f"{','.join(terms)}->{result}"
    return jnp.einsum(indices, *arrays, precision=precision, preferred_element_type=dtype)


def _merged(terms: list[str], result: str, arrays: list[Any]) -> tuple[list[str], list[Any]]:
    """Indices that both operands have side by side, and that are summed, as one: a product over two is slow on a CPU."""
    if len(terms) != 2 or any(len(set(term)) < len(term) for term in terms):
        return terms, arrays
    one, other = terms
    pair = next((one[i : i + 2] for i in range(len(one) - 1) if one[i : i + 2] in other), None)
    if pair is None or set(pair) & set(result):
        return terms, arrays
    joined = [
        a.reshape(*a.shape[: (i := t.index(pair))], -1, *a.shape[i + 2 :]) for t, a in zip(terms, arrays, strict=True)
    ]
    return _merged([term.replace(pair, pair[0]) for term in terms], result, joined)


def _aligned(term: str, a: Array, order: str) -> Array:
    """`a`, of the indices `term`, with an axis for each index of the order; what is left out has length 1."""
    kept = [i for i in order if i in term]
    a = jnp.transpose(a, [term.index(i) for i in (*kept, *(i for i in term if i not in order))])
    return a.reshape([a.shape[kept.index(i)] if i in kept else 1 for i in order])


def wide(dtype: DTypeLike) -> DTypeLike:
    """The dtype to accumulate in: float32 at least.

    >>> wide(jnp.bfloat16), wide(jnp.float32)
    (dtype('float32'), dtype('float32'))
    """
    return jnp.promote_types(dtype, jnp.float32)


def widened(tree: Any) -> Any:
    """A tree whose floating-point arrays are in float32 at least; half precision is then rounded once, when all is done.

    >>> [a.dtype.name for a in widened([jnp.ones(2, jnp.bfloat16), jnp.arange(2)])]
    ['float32', 'int32']
    """
    return jax.tree.map(
        lambda a: a.astype(wide(a.dtype)) if hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


def scaled(d: Array, c: ArrayLike) -> Array:
    """`d` times c, one number or one for each example on the first axis; in float32 at least, rounded once.

    >>> scaled(jnp.ones((2, 2)), jnp.array([1.0, 3.0])).tolist()
    [[1.0, 1.0], [3.0, 3.0]]
    """
    if isinstance(c, float) and c == 1:
        return d
    c = jnp.asarray(c, wide(d.dtype))
    c = c.reshape(c.shape + (1,) * (d.ndim - 1)) if c.ndim == 1 else c
    return (d.astype(c.dtype) * c).astype(d.dtype)


def weighted_sum(values: Array, c: ArrayLike) -> Array:
    """Σ_b c_b L_b; c is one number, or one for each example.

    >>> float(weighted_sum(jnp.array([1.0, 2.0]), 0.5))
    1.5
    """
    dtype = wide(values.dtype)
    return jnp.sum(values.astype(dtype) * jnp.asarray(c, dtype)).astype(values.dtype)


LARGEST = 2**23  # numbers between arrays and what is made of them


def tiled(of_examples: Callable, numbers: int, *factors: Any, largest: int | None = None) -> Any:
    """A function of arrays of examples, so many at a time that no array between has more than `LARGEST` numbers.

    numbers is how many lie between for each example; 0 of them want no tiles. Examples come first, in arrays and result.
    """
    batch, tile = len(factors[-1]), max(1, (largest or LARGEST) // max(1, numbers))
    if numbers == 0 or tile >= batch:
        return of_examples(*factors)
    count = -(-batch // tile)
    tile = -(-batch // count)

    def part(i):  # the last tile may begin within the one before it: nothing is copied to fill it up
        start = jnp.minimum(i * tile, batch - tile)
        return of_examples(*jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, start, tile), factors))

    parts = jax.lax.map(part, jnp.arange(count))
    rest, joined = batch - (count - 1) * tile, lambda a: a.reshape(-1, *a.shape[2:])
    return joined(parts) if rest == tile else jnp.concatenate([joined(parts[:-1]), parts[-1, tile - rest :]])
