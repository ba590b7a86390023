"""Steps that are linear in a view of a parameter, each as one of two things, in the letters of factors.py.

    outer   z[l,t,n] = Σ_m W[l,n,m] h[l,t,m]      dot_general, of any order and number of axes; convolutions by their windows
    rows    z[t,n] = W[id[t],n]                    gather, dynamic_slice

A rule says how h (l, t, m), or the ids (t), come from the other operands, and where a number τ (l, t, n) goes in z. All else in
which a parameter enters has no rule: it is differentiated as it stands, and its gradient formed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import GatherScatterMode

from jaxbackprop.programs.axes import View, reshaped
from jaxbackprop.programs.flat import Step
from jaxbackprop.strides import Group, size_of
from jaxbackprop.windows import Window

Shapes = tuple[jax.ShapeDtypeStruct, ...]


class Linear(NamedTuple):
    """A step z = A(h) W, for one example and one step of every loop around.

    Attributes:
        kind: "outer" or "rows".
        axes: what l, n and m (for rows l, the rows, and n) are of the parameter.
        sizes: l, t and n of the tap.
        h: the step's operands → h (l, t, m) or ids (l, t); of a convolution its input.
        tap: (τ (l, t, n), *operands) → what is added to z.
        window: of a convolution.
    """

    kind: str
    axes: tuple[Group, Group, Group]
    sizes: tuple[int, int, int]
    h: Callable[..., jax.Array]
    tap: Callable[..., jax.Array]
    window: Window | None = None


def linear(step: Step, position: int, view: View, shapes: Shapes, z: jax.ShapeDtypeStruct) -> Linear | None:
    """How a step is linear in the view that is its operand at this position; None where no rule is known."""
    real = all(jnp.issubdtype(shape.dtype, jnp.floating) for shape in (shapes[position], z))
    rule = _RULES.get(step.name)
    return rule(step.settings, position, view, shapes, z) if rule and real else None


def _joined(view: View, axes: Sequence[int]) -> Group:
    """Some axes of a view as one, the first outermost."""
    return sum((view.axes[i] for i in axes), ())


def _dot_general(settings, position, view, shapes, _z):
    contracted, batch = ((axes[position], axes[1 - position]) for axes in settings["dimension_numbers"])
    (wm, hm), (wl, hl), H = contracted, batch, shapes[1 - position]
    if not jnp.issubdtype(H.dtype, jnp.floating):
        return None
    wn = [i for i in range(len(view.axes)) if i not in (*wm, *wl)]
    ht = [i for i in range(H.ndim) if i not in (*hm, *hl)]
    axes = _joined(view, wl), _joined(view, wn), _joined(view, wm)
    l, n, m = map(size_of, axes)
    batch_sizes, places = [H.shape[i] for i in hl], [H.shape[i] for i in ht]
    outputs, t = [shapes[position].shape[i] for i in wn], int(np.prod(places, dtype=int))

    def h(*operands):
        return jnp.transpose(operands[1 - position], (*hl, *ht, *hm)).reshape(l, t, m)

    def tap(tau, *_operands):
        if position == 1:
            return tau.reshape(*batch_sizes, *places, *outputs)
        return jnp.swapaxes(tau, 1, 2).reshape(*batch_sizes, *outputs, *places)

    return Linear("outer", axes, (l, t, n), h, tap)


def _convolution(settings, position, view, shapes, z):
    numbers, groups = settings["dimension_numbers"], settings["feature_group_count"]
    O, C, *kernel = numbers.rhs_spec
    shape = shapes[position].shape
    view = view if position == 1 and settings["batch_group_count"] == 1 else None
    split = view and reshaped(view, (*shape[:O], groups, shape[O] // groups, *shape[O + 1 :]))
    if split is None:
        return None
    after = lambda i: i + (i > O)  # noqa: E731  where axis i stands when O has become two
    m = sum((split.axes[after(i)] for i in (*kernel, C)), ())
    axes = (split.axes[O], split.axes[O + 1], m)
    window = Window(
        tuple(numbers.lhs_spec),
        tuple(shape[i] for i in kernel),
        tuple(settings["window_strides"]),
        tuple(map(tuple, settings["padding"])),
        tuple(settings["lhs_dilation"] or (1,) * len(kernel)),
        tuple(settings["rhs_dilation"] or (1,) * len(kernel)),
        groups,
    )
    N, channels, *places = numbers.out_spec
    sizes, n = [z.shape[i] for i in (N, *places)], shape[O] // groups

    def tap(tau, *_operands):  # (g, N·places, O/g) → z, whose axes are N, places and channels
        tau = jnp.moveaxis(tau.reshape(groups, *sizes, n), 0, -2).reshape(*sizes, groups * n)
        return jnp.transpose(tau, np.argsort((N, *places, channels)).tolist())

    t = int(np.prod(sizes, dtype=int))
    return Linear("outer", axes, (groups, t, n), lambda lhs, _: lhs, tap, window)


# where ids are out of range
_MODES = (GatherScatterMode.CLIP, GatherScatterMode.FILL_OR_DROP, GatherScatterMode.PROMISE_IN_BOUNDS)


def _gather(settings, position, view, shapes, _z):
    numbers, sizes = settings["dimension_numbers"], settings["slice_sizes"]
    (W, indices) = shapes
    read = tuple(numbers.start_index_map)
    others = [i for i in range(W.ndim) if i not in read]
    plain = position == 0 and len(read) == 1 and tuple(numbers.collapsed_slice_dims) == read
    plain = plain and settings["mode"] in _MODES
    if not plain or numbers.operand_batching_dims or any(sizes[i] != W.shape[i] for i in others):
        return None
    rows, places, width = W.shape[read[0]], indices.shape[:-1], [W.shape[i] for i in others]
    where = tuple(numbers.offset_dims)
    elsewhere = [i for i in range(len(places) + len(width)) if i not in where]
    t, drops = int(np.prod(places, dtype=int)), settings["mode"] != GatherScatterMode.CLIP

    def ids(_, indices):
        indices = indices.astype(jnp.promote_types(indices.dtype, jnp.int32))
        return jnp.clip(indices.reshape(1, t), 0, rows - 1)

    def tap(tau, _, indices):
        indices = indices.astype(jnp.promote_types(indices.dtype, jnp.int32))
        read = (indices >= 0) & (indices < rows) | (not drops)  # out of range nothing is added, as in JAX's own rule
        tau = jnp.where(read.reshape(1, t, 1), tau, 0).reshape(*places, *width)
        return jnp.transpose(tau, np.argsort((*elsewhere, *where)).tolist())

    axes = ((), view.axes[read[0]], _joined(view, others))
    return Linear("rows", axes, (1, t, int(np.prod(width, dtype=int))), ids, tap)


def _dynamic_slice(settings, position, view, shapes, _z):
    W, sizes = shapes[0], settings["slice_sizes"]
    cut = [i for i in range(W.ndim) if sizes[i] != W.shape[i]]
    if position != 0 or len(cut) != 1:
        return None
    (axis,), others = cut, [i for i in range(W.ndim) if i != cut[0]]
    rows, t = W.shape[axis], sizes[axis]

    def ids(_, *starts):
        return (jnp.clip(starts[axis].astype(jnp.int32), 0, rows - t) + jnp.arange(t, dtype=jnp.int32))[None]

    def tap(tau, *_operands):
        return jnp.moveaxis(tau.reshape(t, *(W.shape[i] for i in others)), 0, axis)

    axes = ((), view.axes[axis], _joined(view, others))
    return Linear("rows", axes, (1, t, W.size // rows), ids, tap)


_RULES = {
    "dot_general": _dot_general,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    "dynamic_slice": _dynamic_slice,
}
