"""What the kernels of all devices share: how a batch is shared out, what is summed of a block, how the parts are added."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jaxbackprop.arithmetic import weighted_sum, widened
from jaxbackprop.scaling.streaming import Sums


class Spec(NamedTuple):
    """What is static in a kernel."""

    sums: Sums
    block: int | None
    programs: int | None


class Plan(NamedTuple):
    """How a batch is shared out: to `programs`, each `blocks` of `block` rows; rows from `batch` on only fill up."""

    batch: int
    block: int
    programs: int
    blocks: int

    @property
    def rows(self) -> int:
        """All rows, with those that fill up."""
        return self.programs * self.blocks * self.block


def plan_of(batch: int, block: int, programs: int) -> Plan:
    """The fewest blocks for each program, and no more programs than have one.

    >>> plan_of(batch=70, block=16, programs=3)
    Plan(batch=70, block=16, programs=3, blocks=2)
    """
    blocks = divide_up(divide_up(batch, block), programs)
    return Plan(batch, block, divide_up(batch, block * blocks), blocks)


def sums_of(spec: Spec, params, x, y, weight=None, *, swept: Callable, given=lambda values, fg: (values, fg)):
    """What is summed, over one block of examples; `given` leaves out what only fills the block up."""
    values, fg = given(*swept(spec.sums.sweep.model, params, x, y, weight=weight))
    return weighted_sum(values, 1.0 if weight is None else weight), spec.sums.readout(fg)


def part_of(spec: Spec, plan: Plan, params, rows, swept: Callable):
    """Return what the kernel computes of the block whose first row is `first`, as a flat list, and what that looks like."""

    def given(first, values, fg):
        if plan.rows == plan.batch:
            return values, fg
        # not by weight 0, which would leave h as it is, and 0 · inf
        row = first + jnp.arange(plan.block)
        return _where(row < plan.batch, values), jax.tree.map(lambda a: _where(row[:, None] < plan.batch, a), fg)

    def part(first, params, *rows):
        params, rows = widened((params, rows))
        sums = sums_of(spec, params, *rows, swept=swept, given=partial(given, first))
        return jax.tree.leaves(widened(sums))

    block = [jax.ShapeDtypeStruct((plan.block, *a.shape[1:]), a.dtype) for a in rows]
    return part, jax.eval_shape(part, jnp.int32(0), params, *block)


def added(parts, like):
    """Add up what the programs give, each (programs, …), and round it to what was asked for."""
    leaves, tree = jax.tree.flatten(like)
    totals = [jnp.sum(part, axis=0, dtype=part.dtype) for part in parts]
    # a vector was stored as a row
    return jax.tree.unflatten(
        tree, [a.reshape(leaf.shape).astype(leaf.dtype) for a, leaf in zip(totals, leaves, strict=True)]
    )


def divide_up(n: int, d: int) -> int:
    """n / d, rounded up."""
    return -(-n // d)


def _where(keep, a):
    return jnp.where(keep, a, jnp.zeros_like(a))


def refuse(like, message: str):
    """Outputs like those asked for, of an operation that no device has: a device is known only when it is lowered for one."""
    leaves, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, _refusal.bind(like=tuple((a.shape, a.dtype) for a in leaves), message=message))


def _shapes(*, like, message):  # noqa: ARG001
    return [ShapedArray(shape, dtype) for shape, dtype in like]


def _refuse_to_lower(_context, *, like, message):  # noqa: ARG001
    raise ValueError(message)


_refusal = Primitive("fused_refused")
_refusal.multiple_results = True
_refusal.def_abstract_eval(_shapes)
mlir.register_lowering(_refusal, _refuse_to_lower)
