"""A convolution as a product: z[t] = W h[t], where h[t] is what the kernel's window sees of the input at place t.

In letters, for one image: input (N, C, *places), kernel (O, C/g, *k), output (N, O, *places), in whatever order they lie.

    l   the g groups of channels          t   N and the places of the output
    m   *k and the C/g channels           n   the O/g channels of the output
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Window(NamedTuple):
    """How a kernel goes over its input; static. Lengths are one for each of the places' axes.

    Attributes:
        axes: where N, C and the places are among the axes of the input.
        kernel: how long the kernel is.
        strides: from one place to the next.
        padding: zeros before and after; below 0 what is cut off.
        spread: of the input, its neighbours so far apart, zeros between (a transposed convolution).
        dilation: of the kernel, the same.
        groups: of channels, each with a kernel of its own.
    """

    axes: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def patches(h: jax.Array, window: Window) -> jax.Array:
    """What the window sees at each place: (l, t, m) of one input.

    >>> window = Window((0, 1, 2), (2,), (1,), ((0, 0),), (1,), (1,), 1)
    >>> patches(jnp.arange(3.0).reshape(1, 1, 3), window).tolist()
    [[[0.0, 1.0], [1.0, 2.0]]]
    """
    n, c, *places = window.axes
    h = jnp.transpose(h, (n, *places, c))
    around = [(*pad, spread - 1) for pad, spread in zip(window.padding, window.spread, strict=True)]
    h = jax.lax.pad(h, jnp.zeros((), h.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    for i in range(len(places)):  # (N, …, places i, …, k, C) → the same with the kernel's axis i before C
        h = jnp.stack(list(_slices(h, 1 + i, window, i)), axis=-2)
    N, d = h.shape[0], len(places)
    h = h.reshape((*h.shape[:-1], window.groups, h.shape[-1] // window.groups))
    h = jnp.moveaxis(h, -2, 0)
    return h.reshape(window.groups, N * int(np.prod(h.shape[2 : 2 + d], dtype=int)), -1)


def _slices(h, axis: int, window: Window, i: int):
    """For each number of the kernel along an axis, what it meets at each place."""
    reach = (window.kernel[i] - 1) * window.dilation[i] + 1
    places = max(0, (h.shape[axis] - reach) // window.strides[i] + 1)
    for k in range(window.kernel[i]):
        start = k * window.dilation[i]
        last = start + (places - 1) * window.strides[i] + 1
        yield jax.lax.slice_in_dim(h, start, max(last, start), window.strides[i], axis)
