"""The kernel for NVIDIA GPUs: the sweep with the examples as rows, from x and y to the sums without a write between.

For a block of rows b, one example each, the equations of backprop.py turned on their side: z_t, h_t, dz_t and dh_t are
(rows, width of t), and W_ts is as it is stored, (width of t, width of s).

    forward   z_t = Σ_s h_s W_tsᵀ + b_t        h_t = g_t(z_t)        h_x = x,   yhat = h of the last layer
    (1)       dh_s = Σ over edges s→t of  dz_t W_ts                  for the last layer instead  dh = c dL/dyhat
    (2)       dz_t = dh_t · g_t'(z_t)
    (3)       is the readout's: of `total`  Σ_b c_b dW_ts,b = dz_tᵀ h_s,  Σ_b c_b db_t,b = Σ_b dz_t,b

Program p takes block after block and adds what the readout makes of each; the P sums are added outside, in float32. On the
chip axes are rounded up to powers of 2 (padded.py); nothing is padded in memory, an example is read as it lies. z, dz and all
sums are float32; operands of matrix products are rounded to what is stored, as tensor cores take them. By default those of
float32 multiply as TF32, as XLA's do there: precision="highest" is slow.

How much is on the chip is decided by what the compiler says of it for an H200 (`experiments/kernel_compilation.py`). Weights
stay in shared memory where they fit, in both orders that the products ask for, or are read anew for each block, from the
cache; the sums stay in registers, or in the program's own slice of the result. Rows and warps are those that spill few
registers, but for width 64: 64 rows and 4 warps, which spill some, were the best of a few for a sketch of this kernel by hand
that RAN on an H200 (commit ae1662f, 8-64-64-1, 4,194,304 examples: 3.0 times as fast as `jax.grad` in float32, 2.5 clipped;
2.5 and 2.2 in bfloat16). A sketch that traced the vmapped sweep was 3 to 9 times slower than that, which is why the sweep is
written here once more. This kernel, as it is written, has NOT been run on a GPU yet: it compiles for sm_90, and its values
were seen step by step on a CPU.

Route: Pallas' Triton backend, which traces anybody's activation, loss and readout. It is deprecated from JAX 0.11 on (a
`DeprecationWarning` when a program is lowered, which Python shows to nobody by default) and lowers up to 0.12 at least. Its
two successors would need all that is below `on_gpu` anew: jax-triton takes kernels in Triton's own language, and so no JAX
functions; Mosaic GPU traces them, but must be run to be trusted.
"""

from functools import partial, reduce
from math import prod
from operator import add, and_
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbackprop.arithmetic import contract, scaled
from jaxbackprop.backprop import factored_by
from jaxbackprop.model import Backward, Forward
from jaxbackprop.network import BIAS, INPUT, widths
from jaxbackprop.programs.flat import CALLS, flat
from jaxbackprop.scaling.kernel_parts import Spec, added, part_of, plan_of, refuse
from jaxbackprop.scaling.padded import PaddingError, opened, padded_shape, run_padded

PROGRAMS = 512  # some for each of an H200's 132 processors; 256 to 1,024 were alike for the sketch
SHARED = 232_448  # bytes of shared memory that one program may have on an H100 or H200
REGISTERS = 112  # of a thread's 255, for sums


def swept(model, params, x, y, weight=None):
    """Sweep a block of examples, (b, …) all: losses (b,) and the factored gradient of weight · L."""
    network, loss, precision = model
    z, h = {}, {INPUT: x}
    for t in network.layers:
        paths = [contract("bs,ts->bt", h[s], params[t.name][s], precision=precision) for s in t.sources]
        z[t.name] = reduce(add, paths + ([params[t.name][BIAS]] if t.bias else []))
        h[t.name] = jax.vmap(t.g.value)(z[t.name])
    yhat = h[network.output]
    values, dyhat = jax.vmap(loss.value)(yhat, y), jax.vmap(loss.derivative)(yhat, y)
    dz, dh = {}, {network.output: scaled(dyhat, 1.0 if weight is None else weight)}
    for t in reversed(network.layers):  # all that read t are done
        dh.setdefault(t.name, jnp.zeros_like(h[t.name]))  # where nothing reads it
        dz[t.name] = dh[t.name] * jax.vmap(t.g.derivative)(z[t.name])  # (2)
        for s in t.sources:  # (1): each path adds its part
            path = contract("bt,ts->bs", dz[t.name], params[t.name][s], precision=precision)
            dh[s] = dh[s] + path if s in dh else path
    return values, factored_by(network, Forward(z, h), Backward(dz, dh))


class Launch(NamedTuple):
    """How a block is computed.

    Attributes:
        rows: examples in a block.
        warps: of 32 threads, for a program.
        weights_stay: in shared memory, from block to block.
        sums_stay: in registers, from block to block.
    """

    rows: int
    warps: int
    weights_stay: bool
    sums_stay: bool


def on_gpu(params, *rows, spec: Spec, like, interpret: bool = False):
    """Sum over the blocks of a batch in one kernel."""
    try:
        launch = launch_of(spec, params, rows, like)
        plan = plan_of(len(rows[0]), launch.rows, spec.programs or PROGRAMS)
        part, sums = part_of(spec, plan, params, rows, swept)
        leaves = jax.tree.leaves(params)
        blocks = [jax.ShapeDtypeStruct((plan.block, *a.shape[1:]), a.dtype) for a in rows]
        program, own = opened(flat(jax.make_jaxpr(part)(jnp.int32(0), params, *blocks), inlined=CALLS))
        on_block = partial(run_padded, program, operands=jnp.result_type(rows[0], *leaves))
        inputs = (program.shapes[number] for number in program.inputs)
        jax.eval_shape(on_block, [jax.ShapeDtypeStruct(padded_shape(a.shape), a.dtype) for a in inputs])
    except PaddingError as reason:
        return refuse(like, f"fused's kernel for NVIDIA GPUs: {reason}; jaxbackprop.stream computes the same")

    def summed(first, weights, examples):
        return on_block([first, *weights[: len(leaves)], *examples, *weights[len(leaves) :]])

    return added(_parts(plan, launch, summed, [*leaves, *own], rows, sums, interpret), like)


def _parts(plan, launch, summed, weights, rows, sums, interpret):
    """Each program's sums, (programs, …)."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    load, store = partial(_load, triton), partial(_store, triton)

    def kernel(*refs):
        refs, outs = refs[: -len(sums)], refs[-len(sums) :]
        of_weights, of_rows = refs[: len(weights)], refs[len(weights) :]
        begin = pl.program_id(0) * np.int32(plan.blocks)
        # what is loaded here is kept by the compiler; `volatile` keeps it from keeping what is loaded below
        kept = [load(ref) for ref in of_weights] if launch.weights_stay else None

        def add_block(i, sofar):
            first = (begin + i) * np.int32(plan.block)
            W = kept or [load(ref, volatile=True) for ref in of_weights]
            new = summed(first, W, [load(ref, first, plan.block) for ref in of_rows])
            if launch.sums_stay:
                return [a + b for a, b in zip(sofar, new, strict=True)]
            if not interpret:  # other threads of the program than read it now may have written it, a block before
                triton.debug_barrier()
            for out, b in zip(outs, new, strict=True):
                store(out, load(out) + b)
            return sofar

        zeros = [jnp.zeros(padded_shape(a.shape), a.dtype) for a in sums]
        if not launch.sums_stay:
            for out, zero in zip(outs, zeros, strict=True):
                store(out, zero)
        total = lax.fori_loop(np.int32(0), np.int32(plan.blocks), add_block, zeros if launch.sums_stay else np.int32(0))
        if launch.sums_stay:
            for out, a in zip(outs, total, strict=True):
                store(out, a)

    def of_program(a):
        return pl.BlockSpec((None, *a.shape), lambda p: (p, *(0,) * a.ndim))

    return pl.pallas_call(
        kernel,
        grid=(plan.programs,),
        out_specs=[*map(of_program, sums)],
        out_shape=[jax.ShapeDtypeStruct((plan.programs, *a.shape), a.dtype) for a in sums],
        compiler_params=triton.CompilerParams(num_warps=launch.warps, num_stages=1),
        interpret=interpret,
        name=f"fused_sweep_{plan.block}_rows",  # what a profiler shows
    )(*weights, *rows)


def launch_of(spec: Spec, params, rows, like) -> Launch:
    """How a block is computed, from how wide the network is and what is summed. Raises `PaddingError`."""
    model: Any = spec.sums.sweep.model
    network, leaves = model.network, jax.tree.leaves(params)
    if any(a.dtype == jnp.float64 for a in (*leaves, *rows)):
        raise PaddingError("float64 has no form there, float32 has")
    (width,), sums = padded_shape((max(widths(network).values()),)), [_numbers(a.shape) for a in jax.tree.leaves(like)]
    warps = 4 if width <= 64 else 8
    few = 64 if sum(sums) <= 48 * 32 * warps and width <= 64 else 16
    block = spec.block or (1024 if width == 1 else few)
    if block & (block - 1):
        raise PaddingError(f"block is {block}, expected a power of 2")
    size = jnp.result_type(rows[0], *leaves).itemsize
    largest = size * max(_numbers(shape) for t in network.shapes.values() for shape in t.values())
    values = 4 * block * width * size  # z, h, dz and dh of a layer
    needed = largest + values
    if needed > SHARED:
        raise PaddingError(
            f"the network {network} is too wide, it needs about {needed:,} bytes of shared memory and there are {SHARED:,}"
        )
    sums_stay = sum(sums) <= REGISTERS * 32 * warps
    resident = _resident(network, size) + values + (0 if sums_stay else 4 * max(sums))  # a sum on its way
    return Launch(block, warps, resident <= 0.95 * SHARED, sums_stay)


def _resident(network, size):
    """Bytes of all weights, those of edges from layers in two orders: z asks for one, dh for the other."""
    edges = [(s, _numbers(shape)) for t in network.shapes.values() for s, shape in t.items()]
    return size * sum(n * (1 if s in (INPUT, BIAS) else 2) for s, n in edges)


def _numbers(shape):
    return prod(padded_shape(shape))


def _load(triton, ref, first=0, rows=None, volatile=False):
    """An array, padded; or of the examples so many, from `first` on. What is beyond the array is 0."""
    if not ref.shape:
        return ref[...]
    at, there = _indices(ref.shape, ref.shape if rows is None else (rows, *ref.shape[1:]), first)
    return triton.load(ref.at[at], mask=there, other=jnp.zeros((), ref.dtype), volatile=volatile)


def _store(triton, ref, a):
    if not ref.shape:
        ref[...] = a
    else:
        at, there = _indices(ref.shape, ref.shape, 0)
        triton.store(ref.at[at], a, mask=there)


def _indices(whole, shape, first):
    """Where the numbers of a padded array are, and which of them there are."""
    size = padded_shape(shape)
    row, *others = (lax.broadcasted_iota(jnp.int32, size, axis) for axis in range(len(size)))
    at = (row + first, *others)
    return at, reduce(and_, (i < n for i, n in zip(at, whole, strict=True)))
