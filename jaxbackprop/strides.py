"""A parameter's numbers as another array: each axis walks through them with a stride, from an offset, as in NumPy.

What transpose, reshape, slice, squeeze and rev make of a parameter W is W.ravel()[offset + Σ i_k stride_k], where each number
of W is there once, or not at all. So the way there and back needs no steps to be kept, and two views are the same where their
axes are.

    levels      W.ravel() cut at every stride, largest first: each axis is a range in a level of its own
    seen        W → the view                    put back        the view → W, 0 elsewhere: the transpose of `seen`
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Axis(NamedTuple):
    """So many numbers, each so far from the one before it; backwards where the stride is below 0."""

    size: int
    stride: int


Group = tuple[Axis, ...]  # what one axis of an array is made of, the outermost first


def axes_of(shape: Sequence[int]) -> tuple[Group, ...]:
    """The axes of an array as it lies; of length 1 they are made of nothing.

    >>> axes_of((2, 1, 3))
    ((Axis(size=2, stride=3),), (), (Axis(size=3, stride=1),))
    """
    strides = np.cumprod([1, *reversed(shape[1:])])[::-1] if shape else ()
    return tuple((Axis(int(n), int(s)),) if n != 1 else () for n, s in zip(shape, strides, strict=True))


def size_of(group: Group) -> int:
    """How long the axis is."""
    return int(np.prod([axis.size for axis in group], dtype=int))


class Level(NamedTuple):
    """A range [start, start + size) of an axis that is `full` long, and the axis of the view that it is."""

    full: int
    start: int
    axis: Axis


def levels(numbers: int, offset: int, axes: Group) -> list[Level] | None:
    """So many numbers cut at every stride, the largest first; None where the axes are not ranges of what is cut so.

    >>> levels(24, 12, (Axis(4, 3), Axis(3, 1)))  # the second of two matrices (4, 3)
    [Level(full=8, start=4, axis=Axis(size=4, stride=3)), Level(full=3, start=0, axis=Axis(size=3, stride=1))]
    """
    first = offset + sum((axis.size - 1) * min(axis.stride, 0) for axis in axes)  # where the range begins
    found, whole = [], numbers
    for axis in sorted(axes, key=lambda axis: -abs(axis.stride)):
        stride = abs(axis.stride)
        if whole % stride:
            return None
        full, start = whole // stride, first // stride
        if start < 0 or start + axis.size > full:
            return None
        found, first, whole = [*found, Level(full, start, axis)], first - start * stride, stride
    if whole > 1:
        if first >= whole:
            return None
        found.append(Level(whole, first, Axis(1, 1)))
    return found if whole > 1 or first == 0 else None


def seen(W: Any, offset: int, groups: Sequence[Group]) -> jax.Array:
    """The view of W with an axis for each group.

    >>> seen(jnp.arange(6), 1, [(Axis(2, 3),)]).tolist()
    [1, 4]
    """
    axes, cut = _cut(W.size, offset, groups)
    ranges = tuple(slice(level.start, level.start + level.axis.size) for level in cut)
    order = [level.axis for level in cut if level.axis in axes]
    view = W.reshape([level.full for level in cut])[ranges].reshape([axis.size for axis in order])
    view = jnp.transpose(view, [order.index(axis) for axis in axes])
    view = jnp.flip(view, [i for i, axis in enumerate(axes) if axis.stride < 0])
    return view.reshape([size_of(group) for group in groups])


def put_back(G: jax.Array, shape: Sequence[int], offset: int, groups: Sequence[Group], leading: int = 0) -> jax.Array:
    """What `seen` gives, put where it was in an array of this shape, 0 elsewhere; so many axes lead.

    >>> put_back(jnp.ones(2), (2, 3), 1, [(Axis(2, 3),)]).tolist()
    [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]
    """
    front, (axes, cut) = G.shape[:leading], _cut(int(np.prod(shape, dtype=int)), offset, groups)
    G = G.reshape((*front, *(axis.size for axis in axes)))
    G = jnp.flip(G, [leading + i for i, axis in enumerate(axes) if axis.stride < 0])
    order = [level.axis for level in cut if level.axis in axes]
    G = jnp.transpose(G, [*range(leading), *(leading + axes.index(axis) for axis in order)])
    G = G.reshape((*front, *(level.axis.size for level in cut)))
    around = [(level.start, level.full - level.start - level.axis.size) for level in cut]
    G = jnp.pad(G, [(0, 0)] * leading + around) if any(map(any, around)) else G
    return G.reshape((*front, *shape))


def are_apart(numbers: int, one: tuple[int, Group], other: tuple[int, Group]) -> bool:
    """Whether two views, (offset, axes), of so many numbers are known to share none: cut alike, in one level apart.

    >>> are_apart(24, (0, (Axis(4, 3), Axis(3, 1))), (12, (Axis(3, 1), Axis(4, 3))))
    True
    """
    first, second = levels(numbers, *one), levels(numbers, *other)
    if first is None or second is None or [level.full for level in first] != [level.full for level in second]:
        return False
    pairs = zip(first, second, strict=True)
    return any(a.start + a.axis.size <= b.start or b.start + b.axis.size <= a.start for a, b in pairs)


def _cut(numbers: int, offset: int, groups: Sequence[Group]) -> tuple[Group, list[Level]]:
    axes = tuple(axis for group in groups for axis in group)
    cut = levels(numbers, offset, axes)
    if cut is None:
        raise ValueError(f"{axes} from {offset} are no ranges among {numbers} numbers")
    return axes, cut
