"""The same sweep in ONE kernel: forward, backward and all sums of a block of examples, with the weights on the chip.

`stream` sums a readout tile by tile, and between any two products the compiler may write a tile's z, h and dz to
memory and read them back. Here a Pallas kernel holds params and the sums on the chip, takes in a block of x and y, and
gives out nothing but the sums. What it traces on a block is the sweep and the readout: there is no second
derivation. P programs share the batch, and program p has blocks p·n … p·n + n − 1:

    S_p = Σ_i readout(sweep(block p·n + i))        i = 0 … n − 1, in that order        then Σ_p S_p, outside the kernel

so that the order of additions is fixed, and two runs give the same bits. On the chip everything is float32 at least,
whatever is stored; the result is rounded once, at the end.

TPU: the grid is (P, n), with the second axis in order; S_p stays in on-chip memory (VMEM) from one block to the next
while the next block is fetched. Compiled for v5e and v6e by `experiments/tpu_compilation.py`, never run on one. The
compiler (libtpu 0.0.42) refuses v3 and v4.

NVIDIA: no kernel yet. Pallas' Triton route is deprecated from JAX 0.11 on; its successor, Mosaic GPU, has to be run to be
trusted. There `stream` computes the same.

Sources: Müller et al. 2021, "Real-time neural radiance caching for path tracing" (a whole network in one kernel pays off
while it is narrow); the Pallas documentation's matrix product, for a sum that stays on the chip while the grid moves on.
"""

from collections.abc import Callable
from functools import partial
from math import prod
from numbers import Integral
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from jaxbackprop.arithmetic import Precision, weighted_sum, widened
from jaxbackprop.backprop import per_example
from jaxbackprop.factors import total
from jaxbackprop.losses import LossLike
from jaxbackprop.network import Network, widths
from jaxbackprop.programs.flat import flatten, run
from jaxbackprop.scaling.streaming import Readout, Sums, compiled, is_readout, is_sum

ROWS = 16  # a block is a multiple: the rows of a bfloat16 tile
VMEM = 16 * 2**20  # bytes: what the compiler allows a kernel on v5e unless told otherwise; on v6e it allows more


def fused(
    network: Network,
    loss: LossLike,
    readout: Readout = total,
    block: int | None = None,
    programs: int | None = None,
    precision: Precision = None,
    interpret: bool = False,
) -> Callable:
    """Return a function that sums the losses and a readout over a batch in one kernel; otherwise as `stream`.

    Not differentiable: it returns the gradient. A block that `block` does not fill is filled up with examples whose h and
    dz are 0, so a readout must get nothing from those: sums of products do, a count of all examples does not.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        readout: `FactoredGradient` → a pytree of sums over its examples, traced inside the kernel. Keep it in a
            variable: a new lambda each time is a new program each time.
        block: examples at a time, a multiple of 16; by default as many as fit, up to 1,024.
        programs: P, 1 by default; 2 for a chip whose two cores work as one (v5p).
        precision: of the sweep's products, as in `jax.lax.Precision`.
        interpret: run the kernel step by step as plain JAX, anywhere, slowly: for tests.

    Returns:
        (params, x (b, d), y (b, …), weight (b,) or None) → (Σ_b c_b L_b, Σ over blocks of readout), with the dtypes
        that `stream` returns. Weights enter at dyhat.

    Raises:
        ValueError: a device that is not a TPU, and interpret=False; a network too wide for on-chip
            memory; an activation or a size that Pallas cannot lower there; a readout that is no sum; shapes or dtypes
            that do not fit. What depends on the device is raised when the program is lowered for it.
        TypeError: as `stream`.

    >>> clipped_sum = fused(net, "huber", lambda fg: total(jbp.clip(fg, 1.0)), block=16, interpret=True)
    >>> value, grads = clipped_sum(params, x, y)
    >>> grads["h0"]["x"].shape
    (3, 2)
    """
    sweep = per_example(network, loss, precision)
    is_readout(readout)
    if block is not None and (not _is_count(block) or block % ROWS):
        raise ValueError(f"block is {block!r}: expected a multiple of {ROWS}, such as 256")
    if programs is not None and not _is_count(programs):
        raise ValueError(f"programs is {programs!r}: expected an integer of at least 1")
    return compiled(_fused, _Spec(Sums(sweep, readout, None), block, programs), bool(interpret))


class _Spec(NamedTuple):
    """What is static in a kernel."""

    sums: Sums
    block: int | None
    programs: int | None


def _fused(spec, interpret, params, x, y, weight=None):
    sweep = spec.sums.sweep
    sweep.door(sweep.model, params, x, y, weight=weight)
    is_sum(spec.sums, params, x, y)
    rows = [jnp.asarray(a) for a in (x, y, weight) if a is not None]
    like = jax.eval_shape(partial(_sums, spec), params, *rows)
    if interpret:
        return _on_tpu(params, *rows, spec=spec, like=like, interpret=True)

    def elsewhere(*_):
        return _refuse(
            like,
            "fused has a kernel for TPU, none for this device: use jaxbackprop.stream, which computes the same, or give "
            "interpret=True to run the kernel step by step, slowly",
        )

    on_tpu = partial(_on_tpu, spec=spec, like=like)
    return jax.lax.platform_dependent(params, *rows, tpu=on_tpu, cpu=elsewhere, default=elsewhere)


def _sums(spec, params, x, y, weight=None, given=lambda values, fg: (values, fg)):
    """What is summed, over one block of examples; `given` leaves out what only fills the block up."""
    values, fg = given(*spec.sums.sweep.swept(spec.sums.sweep.model, params, x, y, weight=weight))
    return weighted_sum(values, 1.0 if weight is None else weight), spec.sums.readout(fg)


class _Plan(NamedTuple):
    """How a batch is shared out: to `programs`, each `blocks` of `block` rows; rows from `batch` on only fill up."""

    batch: int
    block: int
    programs: int
    blocks: int

    @property
    def rows(self) -> int:
        return self.programs * self.blocks * self.block


def _plan(batch, block, programs) -> _Plan:
    blocks = _divide_up(_divide_up(batch, block), programs)
    return _Plan(batch, block, _divide_up(batch, block * blocks), blocks)


def _part(spec, plan, params, rows):
    """Return what the kernel computes of the block whose first row is `first`, as a flat list, and what that looks like."""

    def given(first, values, fg):
        if plan.rows == plan.batch:
            return values, fg
        # not by weight 0, which would leave h as it is, and 0 · inf
        row = first + jnp.arange(plan.block)
        return _where(row < plan.batch, values), jax.tree.map(lambda a: _where(row[:, None] < plan.batch, a), fg)

    def part(first, params, *rows):
        params, rows = widened((params, rows))
        sums = _sums(spec, params, *rows, given=partial(given, first))
        return jax.tree.leaves(widened(sums))

    block = [jax.ShapeDtypeStruct((plan.block, *a.shape[1:]), a.dtype) for a in rows]
    return part, jax.eval_shape(part, jnp.int32(0), params, *block)


def _unordered(function):
    """The same without the barriers in it, which tell a compiler what comes first: kernels cannot lower them."""

    def rule(step, *operands):
        return list(operands) if step.name == "optimization_barrier" else step.bind(*operands)

    def run_on(*args):
        program = flatten(function, *args)
        return jax.tree.unflatten(program.structure, run(program, jax.tree.leaves(args), rule))

    return run_on


def _added(parts, like):
    """Add up what the programs give, each (programs, …), and round it to what was asked for."""
    leaves, tree = jax.tree.flatten(like)
    totals = [jnp.sum(part, axis=0, dtype=part.dtype) for part in parts]
    # a vector was stored as a row
    return jax.tree.unflatten(
        tree, [a.reshape(leaf.shape).astype(leaf.dtype) for a, leaf in zip(totals, leaves, strict=True)]
    )


def _on_tpu(params, *rows, spec, like, interpret=False):
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    batch = rows[0].shape[0]
    block, refusal = _block_that_fits(spec, params, rows, like, interpret)
    if refusal:
        return _refuse(like, refusal)
    plan = _plan(batch, block, spec.programs or 1)
    rows = [_filled(a, (plan.rows, *a.shape[1:])) for a in rows]
    part, sums = _part(spec, plan, params, rows)
    # the last two axes of what is stored are tiled: a bias is one row there, one number an example a column
    leaves, tree = jax.tree.flatten(params)
    resident = [jnp.reshape(a, _matrix(a.shape)) for a in leaves]
    fetched = [a[:, None] if a.ndim == 1 else a for a in rows]
    stored = [_matrix(a.shape) for a in sums]

    def kernel(*refs):
        ins, outs = refs[: len(leaves) + len(rows)], refs[len(leaves) + len(rows) :]
        shapes = [a.shape for a in leaves] + [(block, *a.shape[1:]) for a in rows]
        arrays = [jnp.reshape(ref[...], shape) for ref, shape in zip(ins, shapes, strict=True)]
        first = (pl.program_id(0) * plan.blocks + pl.program_id(1)) * block

        @pl.when(pl.program_id(1) == 0)
        def _():
            for out in outs:
                out[...] = jnp.zeros(out.shape, out.dtype)

        new = _unordered(part)(first, jax.tree.unflatten(tree, arrays[: len(leaves)]), *arrays[len(leaves) :])
        for out, leaf in zip(outs, new, strict=True):
            out[...] += jnp.reshape(leaf, out.shape)

    def whole(a):
        return pl.BlockSpec(a.shape, lambda *_: (0,) * a.ndim)

    def by_block(a):
        return pl.BlockSpec((block, *a.shape[1:]), lambda p, i: (p * plan.blocks + i, *(0,) * (a.ndim - 1)))

    def of_program(shape):
        return pl.BlockSpec((None, *shape), lambda p, _: (p, *(0,) * len(shape)))

    parts = pl.pallas_call(
        kernel,
        grid=(plan.programs, plan.blocks),
        in_specs=[*map(whole, resident), *map(by_block, fetched)],
        out_specs=[*map(of_program, stored)],
        out_shape=[jax.ShapeDtypeStruct((plan.programs, *s), a.dtype) for s, a in zip(stored, sums, strict=True)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        interpret=interpret,
        name="fused_sweep",
    )(*resident, *fetched)
    return _added(parts, like)


def _block_that_fits(spec, params, rows, like, interpret) -> tuple[int, str]:
    """How many examples a block has; and why there is no kernel, if there is none."""
    batch, network = rows[0].shape[0], spec.sums.sweep.model.network
    blocks = [spec.block] if spec.block else [1024, 512, 256, 128, 64, 32, ROWS]
    blocks = [min(block, ROWS * _divide_up(batch, ROWS)) for block in blocks]
    needs = {block: _vmem_bytes(network, params, rows, like, block) for block in blocks}
    block = next((block for block in blocks if needs[block] <= VMEM), blocks[-1])
    if needs[block] > VMEM:
        return block, (
            f"the network {network} is too wide for one kernel: it needs about {needs[block]:,} bytes of on-chip memory with "
            f"blocks of {block}, and there are {VMEM:,}; use jaxbackprop.stream"
        )
    if not interpret and (names := [t.name for t in network.layers if t.g.name in ("elu", "gelu")]):
        return block, (
            f"layer {names[0]!r}: Pallas cannot lower the functions in elu and gelu for a TPU: use gelu_tanh, silu or relu "
            "there, or jaxbackprop.stream"
        )
    return block, ""


def _vmem_bytes(network, params, rows, like, block) -> int:
    """Bytes that the TPU's kernel needs on the chip, estimated from above: the values' factor of 4 is for tanh and silu."""
    weights = sum(_tiled(p.shape, p.dtype.itemsize) for p in jax.tree.leaves(params))
    sums = sum(_tiled(leaf.shape, 4) for leaf in jax.tree.leaves(like))
    fetched = sum(_tiled((block, *a.shape[1:]) if a.ndim > 1 else (block, 1), a.dtype.itemsize) for a in rows)
    # z, h, dz and dh of every layer and of x
    values = sum(4 * _tiled((block, width), 4) for width in widths(network).values())
    # a block and the sums are there twice, so that copies overlap with work
    return weights + 2 * sums + 2 * fetched + values


def _tiled(shape, itemsize) -> int:
    """Bytes of an array on the chip: its last two axes are rounded up to whole tiles of 8 by 128."""
    *outer, rows, columns = _matrix(shape)
    return prod(outer) * 8 * _divide_up(rows, 8) * 128 * _divide_up(columns, 128) * itemsize


def _matrix(shape) -> tuple[int, ...]:
    return (1,) * (2 - len(shape)) + tuple(shape)


def _divide_up(n, d) -> int:
    return -(-n // d)


def _filled(a, shape):
    """`a` with zeros after it on each axis."""
    return jnp.pad(a, [(0, n - size) for n, size in zip(shape, a.shape, strict=True)])


def _where(keep, a):
    return jnp.where(keep, a, jnp.zeros_like(a))


def _refuse(like, message: str):
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


def _is_count(n) -> bool:
    return not isinstance(n, bool) and isinstance(n, Integral) and int(n) >= 1
