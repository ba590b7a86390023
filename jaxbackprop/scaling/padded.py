"""A program on arrays whose axes are rounded up: what lies beyond an axis' own length may be anything, and is never read.

Triton, the compiler of kernels for GPUs, wants axes of 2ⁿ numbers, and at least 16 in its matrix products. Zeros beyond an axis'
end would do for products, but not for a layer after a sigmoid, σ(0) = ½, nor for a loss, where Σⱼ e^0 counts. So nothing is
asked of what lies there. In place of (n, m) there is

    a of shape (P(n), P(m)), of which a[:n, :m] counts        P(1) = 1,  P(n) = 2ⁱ, the smallest that is n and 16 at least

and each step of a program keeps to that:

    elementwise                  as it is
    a sum, a maximum             what lies beyond is first replaced by what changes nothing there: 0, −∞
    a product, Σ_k a[i,k] b[k,j]   0 beyond, along k, in both (0 · inf would be NaN)
    one column of several        picked by a sum over a mask

It is written for one loss no more than for another: the steps are read from the jaxpr, and one that is not known here is
refused (`PaddingError`). Two more things are the GPU's: a product of which one side is a single row or column is multiplied and
summed, as a matrix product would fill it up to 16; and a maximum there forgets NaN, so that it is put back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, DTypeLike

from jaxbackprop.arithmetic import wide
from jaxbackprop.programs.flat import Constant, Program, Step, run, shape_of

FEWEST = 16  # numbers on each side of a matrix product


class PaddingError(ValueError):
    """A program with a step that has no rule here."""


def padded_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """P of each axis.

    >>> padded_shape((1, 3, 16, 65))
    (1, 16, 16, 128)
    """
    return tuple(1 if n == 1 else max(FEWEST, 1 << (n - 1).bit_length()) for n in shape)


def opened(program: Program) -> tuple[Program, list[Array]]:
    """The program with the arrays that it holds as further inputs, and these: a kernel has to be given them."""
    reads = [read for step in program.steps for read in step.reads] + list(program.outputs)
    own = {id(c): c for c in reads if isinstance(c, Constant) and (isinstance(c.value, jax.Array) or np.ndim(c.value))}
    number = {key: len(program.shapes) + i for i, key in enumerate(own)}
    arrays = [jnp.asarray(c.value) for c in own.values()]
    steps = tuple(step._replace(reads=tuple(number.get(id(r), r) for r in step.reads)) for step in program.steps)
    shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in zip(number.values(), arrays, strict=True)}
    outputs = tuple(number.get(id(out), out) for out in program.outputs)
    inputs = (*program.inputs, *number.values())
    return replace(program, steps=steps, inputs=inputs, outputs=outputs, shapes=program.shapes | shapes), arrays


def run_padded(program: Program, leaves: list[Array], operands: DTypeLike) -> list[Array]:
    """Run a program on padded arrays; what it returns is padded.

    Matrix products have operands of the dtype given, and sums in float32 at least. Raises `PaddingError`.
    """
    live = program.live

    def rule(step: Step, *arrays):
        if live.isdisjoint(step.writes):
            return [None] * len(step.writes)
        if step.name in ELEMENTWISE and any(isinstance(a, Tracer) or np.ndim(a) for a in arrays):
            return step.bind(*arrays)
        if step.name in ELEMENTWISE:  # of written numbers alone, which Triton does not take
            with jax.ensure_compile_time_eval():
                return [np.asarray(a)[()] for a in step.bind(*arrays)]
        shapes, result = [shape_of(program, read) for read in step.reads], program.shapes[step.writes[0]]
        if step.name == "dot_general":
            return [_product(step, shapes, result, operands, *arrays)]
        if step.name not in RULES:
            raise PaddingError(f"{step.name}{_at(step)} has no form there")
        found = RULES[step.name](step, shapes, result, *arrays)
        return found if step.primitive.multiple_results else [found]

    return run(program, leaves, rule)


def _at(step):
    return f", at {step.line}," if step.line else ""


# what Triton has, number by number
ELEMENTWISE = frozenset(
    """
    abs acos acosh add and asin asinh atan atan2 atanh cbrt ceil convert_element_type cos cosh div eq erf_inv exp exp2
    expm1 floor ge gt integer_pow is_finite le log log1p logistic lt mul ne neg nextafter not or pow rem rsqrt select_n sign sin
    sinh sqrt square sub tan tanh xor
    """.split()  # noqa: SIM905
)


def _within(a, shape, axes, beyond):
    """`a`, with one number wherever an index on one of the axes is beyond its length."""
    for axis in axes:
        if a.shape[axis] != shape[axis]:
            index = lax.broadcasted_iota(jnp.int32, a.shape, axis)
            a = lax.select(index < shape[axis], a, jnp.full(a.shape, beyond, a.dtype))
    return a


def _lowest(dtype):
    return -np.inf if jnp.issubdtype(dtype, jnp.floating) else np.iinfo(dtype).min


def _highest(dtype):
    return np.inf if jnp.issubdtype(dtype, jnp.floating) else np.iinfo(dtype).max


# ---- a maximum and a minimum, of which NaN is part


def _extreme(which, _step, _shapes, _result, a, b):
    found = which(a, b)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        return found
    for x in (a, b):
        if jnp.shape(x) == found.shape:  # the number beside an array is one that is written there
            found = lax.select(x != x, x, found)
    return found


def _clamped(step, shapes, result, low, a, high):
    return _extreme(lax.min, step, shapes, result, _extreme(lax.max, step, shapes, result, a, low), high)


def _extreme_over(beyond, step, shapes, _result, a):
    axes, (shape,) = step.settings["axes"], shapes
    (found,) = step.bind(_within(a, shape, axes, beyond(a.dtype)))
    if not jnp.issubdtype(a.dtype, jnp.floating):
        return found
    nans = lax.reduce_max(_within((a != a).astype(jnp.int32), shape, axes, 0), axes)
    return lax.select(nans > 0, jnp.full_like(found, np.nan), found)


def _sum(step, shapes, _result, a):
    return step.bind(_within(a, shapes[0], step.settings["axes"], 0))[0]


def _logical(beyond, extreme, step, shapes, _result, a):
    """`all` and `any`, as the least and the greatest of 0 and 1."""
    axes = step.settings["axes"]
    return extreme(_within(a.astype(jnp.int32), shapes[0], axes, beyond), axes) > 0


# ---- shapes


def _broadcast(step, _shapes, result, a, *_):
    return lax.broadcast_in_dim(a, padded_shape(result.shape), step.settings["broadcast_dimensions"])


def _reshaped(step, shapes, result, a):
    (shape,) = shapes
    alone = [n for n in shape if n != 1] == [n for n in result.shape if n != 1]
    if not alone and (padded_shape(shape), padded_shape(result.shape)) != (shape, result.shape):
        raise PaddingError(f"a reshape from {shape} to {result.shape}{_at(step)} has no form there")
    return a if shape == result.shape else lax.reshape(a, padded_shape(result.shape))


def _counted(step, _shapes, result):
    return lax.broadcasted_iota(result.dtype, padded_shape(result.shape), step.settings["dimension"])


def _same(_step, _shapes, _result, a):
    return a


def _turned(step, _shapes, _result, a):
    return step.bind(a)[0]


def _column(a, axis, index):
    """One of several along an axis, which is kept: all others count as 0."""
    at = lax.broadcasted_iota(jnp.int32, a.shape, axis) == index
    picked = lax.reduce_sum(lax.select(at, a, jnp.zeros_like(a)), (axis,))
    return lax.reshape(picked, (*a.shape[:axis], 1, *a.shape[axis + 1 :]))


def _sliced(step, shapes, result, a):
    (shape,), starts = shapes, step.settings["start_indices"]
    for axis, (n, m, start) in enumerate(zip(shape, result.shape, starts, strict=True)):
        if n == m:
            continue
        if m != 1:
            raise PaddingError(f"a slice of {m} of {n}{_at(step)} has no form there: one, or all of them, has")
        a = _column(a, axis, start)
    return a


def _put_in(step, shapes, result, a, value):
    """What a slice of one is in the backward pass: one column among others that are all one number."""
    for axis, (n, m, (low, _, _)) in enumerate(
        zip(shapes[0], result.shape, step.settings["padding_config"], strict=True)
    ):
        if n == m:
            continue
        if n != 1:
            raise PaddingError(f"filling {n} up to {m}{_at(step)} has no form there: filling up one has")
        size = (*a.shape[:axis], padded_shape((m,))[0], *a.shape[axis + 1 :])
        at = lax.broadcasted_iota(jnp.int32, size, axis) == low
        a = lax.select(at, jnp.broadcast_to(a, size), jnp.broadcast_to(value, size).astype(a.dtype))
    return a


def _side_by_side(step, shapes, result, *arrays):
    axis = step.settings["dimension"]
    if any(shape[axis] != 1 for shape in shapes):
        raise PaddingError(f"a concatenation of more than single columns{_at(step)} has no form there")
    return _columns(arrays, padded_shape(result.shape), axis)


def _stacked(step, shapes, result, *arrays):
    axis = step.settings["axis"]
    size = padded_shape((*shapes[0][:axis], 1, *shapes[0][axis:]))
    return _columns([lax.reshape(a, size) for a in arrays], padded_shape(result.shape), axis)


def _unstacked(step, shapes, result, a):
    axis = step.settings["axis"]
    return [lax.reshape(_column(a, axis, i), padded_shape(result.shape)) for i in range(shapes[0][axis])]


def _columns(arrays, size, axis):
    index, found = lax.broadcasted_iota(jnp.int32, size, axis), jnp.broadcast_to(arrays[0], size)
    for i, a in enumerate(arrays[1:], 1):
        found = lax.select(index < i, found, jnp.broadcast_to(a, size))
    return found


# ---- products


def _product(step, shapes, result, operands, a, b):
    """Σ_k a[i,k] b[k,j]: a matrix product, or where one side is one row or column the sum of products."""
    (in_a, in_b), (batch_a, batch_b) = step.settings["dimension_numbers"]
    a, b = _within(a, shapes[0], in_a, 0), _within(b, shapes[1], in_b, 0)
    summed_in, dtype = wide(jnp.result_type(a, b)), result.dtype
    if a.ndim == b.ndim == 2 and len(in_a) == 1 and 1 not in (*a.shape, *b.shape):
        a, b = a.astype(operands), b.astype(operands)
        numbers, precision = step.settings["dimension_numbers"], step.settings["precision"]
        return lax.dot_general(a, b, numbers, precision, preferred_element_type=summed_in).astype(dtype)
    a, b = a.astype(summed_in), b.astype(summed_in)
    free_a, free_b = (
        [i for i in range(x.ndim) if i not in (*summed, *batch)]
        for x, summed, batch in ((a, in_a, batch_a), (b, in_b, batch_b))
    )
    if any(a.shape[i] != 1 for i in free_a) and any(b.shape[i] != 1 for i in free_b):
        if batch_a or any(a.shape[i] != 1 for i in in_a) or (a.ndim, b.ndim) != (2, 2):
            raise PaddingError(
                f"a product of arrays of shapes {shapes[0]} and {shapes[1]}{_at(step)} has no form there"
            )
        return (_as_rows(a, in_a[0]) * _as_columns(b, in_b[0])).astype(dtype)
    turned = all(a.shape[i] == 1 for i in free_a)
    large, small, at = (b, a, (*batch_b, *in_b)) if turned else (a, b, (*batch_a, *in_a))
    of_small = (*batch_a, *in_a) if turned else (*batch_b, *in_b)
    small = _placed(small, of_small, at, large.ndim)
    total = lax.reduce_sum(large * small, in_b if turned else in_a)
    order = list(batch_b if turned else batch_a) + (free_b if turned else free_a)
    if order != sorted(order):
        raise PaddingError(f"a product whose result is turned{_at(step)} has no form there")
    return lax.reshape(total, padded_shape(result.shape)).astype(dtype)


def _as_rows(a, summed):
    return a if summed == 1 else lax.reshape(a, (a.shape[1], 1))


def _as_columns(b, summed):
    return b if summed == 0 else lax.reshape(b, (1, b.shape[0]))


def _placed(a, axes, at, ndim):
    """`a`, whose other axes have length 1, with its `axes` where `at` says, in an array of so many axes."""
    order = sorted(range(len(at)), key=lambda i: at[i])
    kept = [axes[i] for i in order]
    if kept != sorted(kept):
        a = lax.transpose(a, [*kept, *(i for i in range(a.ndim) if i not in kept)])
        kept = list(range(len(kept)))
    sizes = dict(zip(sorted(at), (a.shape[i] for i in kept), strict=True))
    shape = tuple(sizes.get(i, 1) for i in range(ndim))
    return a if shape == a.shape else lax.reshape(a, shape)


RULES: dict[str, Callable[..., Any]] = {
    "add_any": lambda _step, _shapes, _result, a, b: a + b,
    "broadcast_in_dim": _broadcast,
    "clamp": _clamped,
    "concatenate": _side_by_side,
    "copy": _same,
    "iota": _counted,
    "max": partial(_extreme, lax.max),
    "min": partial(_extreme, lax.min),
    "optimization_barrier": lambda _step, _shapes, _result, *arrays: list(arrays),  # what is done in order needs none
    "pad": _put_in,
    "reduce_and": partial(_logical, 1, lax.reduce_min),
    "reduce_max": partial(_extreme_over, _lowest),
    "reduce_min": partial(_extreme_over, _highest),
    "reduce_or": partial(_logical, 0, lax.reduce_max),
    "reduce_sum": _sum,
    "reshape": _reshaped,
    "slice": _sliced,
    "squeeze": _reshaped,
    "stack": _stacked,
    "stop_gradient": _same,
    "transpose": _turned,
    "unstack": _unstacked,
}
