"""The kernel for TPUs: Pallas' own, with the sums kept on the chip from one block to the next.

The grid is (P, n), with the second axis in order; S_p stays in on-chip memory (VMEM) from one block to the next while the next
block is fetched. What is traced on a block is `sweep` and the readout: there is no second derivation. Compiled for v5e and v6e
by `experiments/tpu_compilation.py`, never run on one. The compiler (libtpu 0.0.42) refuses v3 and v4.

Source: the Pallas documentation's matrix product, for a sum that stays on the chip while the grid moves on.
"""

from math import prod

import jax
import jax.numpy as jnp

from jaxbackprop.network import widths
from jaxbackprop.programs.flat import CALLS, equations, flat, inside, run
from jaxbackprop.scaling.kernel_parts import Spec, added, divide_up, part_of, plan_of, refuse

ROWS = 16  # a block is a multiple: the rows of a bfloat16 tile
VMEM = 16 * 2**20  # bytes: what the compiler allows a kernel on v5e unless told otherwise; on v6e it allows more


def on_tpu(params, *rows, spec: Spec, like, interpret: bool = False):
    """Sum over the blocks of a batch in one kernel."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    batch = rows[0].shape[0]
    block, refusal = _block_that_fits(spec, params, rows, like, interpret)
    if refusal:
        return refuse(like, refusal)
    plan = plan_of(batch, block, spec.programs or 1)
    rows = [_filled(a, (plan.rows, *a.shape[1:])) for a in rows]
    part, sums = part_of(spec, plan, params, rows, spec.sums.sweep.swept)
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
    return added(parts, like)


def _unordered(function):
    """The same without the barriers in it, which tell a compiler what comes first: kernels cannot lower them."""

    def rule(step, *operands):
        return list(operands) if _is_barrier(step) else step.bind(*operands)

    def run_on(*args):
        closed, like = jax.make_jaxpr(function, return_shape=True)(*args)
        # a call is entered only where one is in it: arrays that a call holds come with it, others would have to be handed over
        called = [jaxpr for equation in closed.jaxpr.eqns for jaxpr in inside(equation.params)]
        inner = any(_is_barrier(equation) for jaxpr in called for equation in equations(jaxpr.jaxpr))
        program = flat(closed, inlined=CALLS if inner else ())
        return jax.tree.unflatten(jax.tree.structure(like), run(program, jax.tree.leaves(args), rule))

    return run_on


def _is_barrier(step):
    return step.primitive.name == "optimization_barrier"


def _block_that_fits(spec, params, rows, like, interpret) -> tuple[int, str]:
    """How many examples a block has; and why there is no kernel, if there is none."""
    batch, network = rows[0].shape[0], spec.sums.sweep.model.network
    blocks = [spec.block] if spec.block else [1024, 512, 256, 128, 64, 32, ROWS]
    blocks = [min(block, ROWS * divide_up(batch, ROWS)) for block in blocks]
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
    return prod(outer) * 8 * divide_up(rows, 8) * 128 * divide_up(columns, 128) * itemsize


def _matrix(shape) -> tuple[int, ...]:
    return (1,) * (2 - len(shape)) + tuple(shape)


def _filled(a, shape):
    """`a` with zeros after it on each axis."""
    return jnp.pad(a, [(0, n - size) for n, size in zip(shape, a.shape, strict=True)])
