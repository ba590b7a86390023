"""What steps that only move numbers make of a parameter: a view of it, by its strides (jaxbackprop/strides.py)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.programs.flat import Step
from jaxbackprop.strides import Axis, Group, axes_of, levels, size_of


class View(NamedTuple):
    """An array that holds numbers of a parameter, each once.

    Attributes:
        leaf: which parameter.
        numbers: how many it has.
        axes: of the array, each by its strides in the parameter.
        offset: in the parameter, where the array begins.
        stack: for each loop around, the axis that it takes a member of each step; nothing where every step sees the same.
    """

    leaf: int
    numbers: int
    axes: tuple[Group, ...]
    offset: int = 0
    stack: tuple[Group, ...] = ()


def of_leaf(leaf: int, shape: jax.ShapeDtypeStruct) -> View | None:
    """The parameter itself; None for one that has no numbers, or none to differentiate by."""
    whole = jnp.issubdtype(shape.dtype, jnp.floating) and shape.size > 0
    return View(leaf, shape.size, axes_of(shape.shape)) if whole else None


def moved(view: View, step: Step, results: Sequence[jax.ShapeDtypeStruct]) -> list[View] | None:
    """The views that a step makes of another; None where it does more than move its numbers.

    >>> from jaxbackprop.programs.flat import flatten
    >>> program = flatten(lambda w: w.T.reshape(6), jnp.ones((2, 3)))
    >>> view = of_leaf(0, program.shapes[0])
    >>> for step in program.steps:
    ...     (view,) = moved(view, step, [program.shapes[step.writes[0]]])
    >>> view.axes
    ((Axis(size=3, stride=1), Axis(size=2, stride=3)),)
    """
    if step.name not in _MOVES or len(step.reads) != 1:
        return None
    found = _MOVES[step.name](view, step.settings, results[0])
    found = found if isinstance(found, list) else [found]
    return found if all(each is not None and _has_ranges(each) for each in found) else None


def _has_ranges(view):
    return levels(view.numbers, view.offset, sum((*view.stack, *view.axes), ())) is not None


def _same(view, _settings, result):
    return view if jnp.issubdtype(result.dtype, jnp.floating) else None


def _transposed(view, settings, _result):
    return view._replace(axes=tuple(view.axes[i] for i in settings["permutation"]))


def _reversed(view, settings, _result):
    for i in settings["dimensions"]:
        last = sum((axis.size - 1) * axis.stride for axis in view.axes[i])
        back = tuple(Axis(axis.size, -axis.stride) for axis in view.axes[i])
        view = view._replace(axes=(*view.axes[:i], back, *view.axes[i + 1 :]), offset=view.offset + last)
    return view


def _sliced(view, settings, result):
    steps = settings["strides"] or (1,) * len(view.axes)
    for i, (start, step, size) in enumerate(zip(settings["start_indices"], steps, result.shape, strict=True)):
        view = view and _cut(view, i, start, step, size)
    return view


def _split(view, settings, _result):
    starts = np.cumsum([0, *settings["sizes"][:-1]])
    return [_cut(view, settings["axis"], int(a), 1, size) for a, size in zip(starts, settings["sizes"], strict=True)]


def _cut(view, i, start, step, size):
    """So many numbers of axis i, from a start, so far apart; None where that is no axis with a stride, or nothing."""
    group = view.axes[i]
    if (start, step, size) == (0, 1, size_of(group)):
        return view
    if size == 0 or len(group) != 1:
        return None
    axis = (Axis(size, group[0].stride * step),) if size > 1 else ()
    axes = (*view.axes[:i], axis, *view.axes[i + 1 :])
    return view._replace(axes=axes, offset=view.offset + start * group[0].stride)


def reshaped(view: View, shape: tuple[int, ...]) -> View | None:
    """The view with axes of other lengths, in the same order; None where they do not cut or join into these."""
    queue, groups = [axis for group in view.axes for axis in group], []
    for n in shape:
        group: list[Axis] = []
        while n > 1:
            if not queue:
                return None
            axis = queue.pop(0)
            if axis.size > n:  # cut it: the outer part is here, the inner one waits
                inner, rest = divmod(axis.size, n)
                if rest:
                    return None
                axis, waiting = Axis(n, axis.stride * inner), Axis(inner, axis.stride)
                queue.insert(0, waiting)
            n, rest = divmod(n, axis.size)
            if rest:
                return None
            group.append(axis)
        groups.append(tuple(group))
    return None if queue else view._replace(axes=tuple(groups))


def _reshaped(view, settings, result):
    """As the axes lie, or in another order of them, as `jnp.reshape(…, order="F")` takes them first."""
    order = settings["dimensions"]
    return reshaped(view if order is None else _transposed(view, {"permutation": order}, None), result.shape)


def _in_order(view, _settings, result):
    """Axes of length 1 come or go; of `broadcast_in_dim` where nothing is repeated."""
    return reshaped(view, result.shape)


_MOVES: dict[str, Callable[[View, dict[str, Any], Any], Any]] = {
    **dict.fromkeys(("convert_element_type", "copy", "name", "sharding_constraint"), _same),
    **dict.fromkeys(("squeeze", "expand_dims", "broadcast_in_dim"), _in_order),
    "reshape": _reshaped,
    "transpose": _transposed,
    "rev": _reversed,
    "slice": _sliced,
    "split": _split,
}
