"""What steps that only move numbers make of a parameter: a view of it, by its strides (jaxbackprop/strides.py)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.programs.flat import Step
from jaxbackprop.strides import Axis, Group, axes_of, levels


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


def moved(view: View, step: Step, result: jax.ShapeDtypeStruct) -> View | None:
    """The view that a step makes of another; None where it is none.

    >>> from jaxbackprop.programs.flat import flatten
    >>> program = flatten(lambda w: w.T.reshape(6), jnp.ones((2, 3)))
    >>> view = of_leaf(0, program.shapes[0])
    >>> for step in program.steps:
    ...     view = moved(view, step, program.shapes[step.writes[0]])
    >>> view.axes
    ((Axis(size=3, stride=1), Axis(size=2, stride=3)),)
    """
    rule = _MOVES.get(step.name)
    found = rule(view, step.settings, result) if rule and len(step.reads) == 1 else None
    ranges = found and levels(found.numbers, found.offset, sum((*found.stack, *found.axes), ()))
    return found if ranges is not None else None


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
    if 0 in result.shape:
        return None
    axes = []
    steps = settings["strides"] or (1,) * len(view.axes)
    for group, start, step, size in zip(view.axes, settings["start_indices"], steps, result.shape, strict=True):
        if sum(axis.size > 1 for axis in group) > 1 and (start, step, size) != (0, 1, _length(group)):
            return None
        for axis in group:  # one, or all of them as they are
            view = view._replace(offset=view.offset + start * axis.stride)
        whole = (start, step, size) == (0, 1, _length(group))
        axes.append(group if whole else (Axis(size, group[0].stride * step),) if size > 1 else ())
    return view._replace(axes=tuple(axes))


def _length(group: Group) -> int:
    length = 1
    for axis in group:
        length *= axis.size
    return length


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


def _reshaped(view, _settings, result):
    """Also of `broadcast_in_dim` where nothing is repeated: its axes stay in order."""
    return reshaped(view, result.shape)


_MOVES: dict[str, Callable[[View, dict[str, Any], jax.ShapeDtypeStruct], View | None]] = {
    **dict.fromkeys(("convert_element_type", "copy", "copy_p", "name", "sharding_constraint"), _same),
    **dict.fromkeys(("reshape", "squeeze", "expand_dims", "broadcast_in_dim"), _reshaped),
    "transpose": _transposed,
    "rev": _reversed,
    "slice": _sliced,
}
