"""The kernel for NVIDIA GPUs: the sweep with the examples as rows, the weights and the sums in registers.

For a block of rows b, one example each, x and y as they come, the equations of backprop.py turned on their side: h_s is
(rows, width of s), and W_ts as it is stored, (width of t, width of s).

    forward   z_t = Σ_s h_s W_tsᵀ + b_t        h_t = g_t(z_t)        h_x = x,   yhat = h of the last layer
    (1)       dh_s = Σ over edges s→t of  dz_t W_ts                  for the last layer instead  dh = c dL/dyhat
    (2)       dz_t = dh_t · g_t'(z_t)
    (3)       the readout: of `total` Σ_b c_b dW_ts,b = dz_tᵀ h_s,  Σ_b c_b db_t,b = Σ_b dz_t,b

Program p reads block after block, adds what the readout makes of each, and writes its sum once, so that nothing else is
written; the P sums are added outside, in float32. An example is read as it lies, no copy is padded: on the chip axes are
rounded up to powers of 2 (padded.py), which any loss, any activation and any readout can be that padded.py has the steps of.
z, dz and all sums are float32; the operands of matrix products are rounded to what is stored, as the tensor cores take them.

"""

from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxbackprop.arithmetic import contract, scaled
from jaxbackprop.backprop import factored_by
from jaxbackprop.model import Backward, Forward
from jaxbackprop.network import BIAS, INPUT, widths
from jaxbackprop.programs.flat import CALLS, Program, flat
from jaxbackprop.scaling.kernel_parts import Spec, added, divide_up, part_of, plan_of, refuse
from jaxbackprop.scaling.padded import NotPadded, held, padded_shape, run_padded

PROGRAMS = 512  # some for each of an H200's 132 processors; 256 to 1,024 were alike there


def swept(model, params, x, y, weight=None):
    """Sweep a block of examples, (b, …) all: losses (b,) and the factored gradient of weight · L."""
    network, loss, precision = model
    z, h = {}, {INPUT: x}
    for t in network.layers:
        paths = [contract("bs,ts->bt", h[s], params[t.name][s], precision=precision) for s in t.sources]
        z[t.name] = reduce(add, paths + ([params[t.name][BIAS]] if t.bias else []))
        h[t.name] = t.g.value(z[t.name])
    yhat = h[network.output]
    values, dyhat = jax.vmap(loss.value)(yhat, y), jax.vmap(loss.derivative)(yhat, y)
    dz, dh = {}, {network.output: scaled(dyhat, 1.0 if weight is None else weight)}
    for t in reversed(network.layers):  # all that read t are done
        dh.setdefault(t.name, jnp.zeros_like(h[t.name]))  # where nothing reads it
        dz[t.name] = dh[t.name] * t.g.derivative(z[t.name])  # (2)
        for s in t.sources:  # (1): each path adds its part
            path = contract("bt,ts->bs", dz[t.name], params[t.name][s], precision=precision)
            dh[s] = dh[s] + path if s in dh else path
    return values, factored_by(network, Forward(z, h), Backward(dz, dh))


class _Kernel(NamedTuple):
    """What a program does with a block: all that is static in it."""

    part: Program
    sums: Any
    operands: Any


def on_gpu(params, *rows, spec: Spec, like, interpret: bool = False):
    """Sum over the blocks of a batch in one kernel."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    batch, (block, warps, refusal) = rows[0].shape[0], _launch(spec, params, rows)
    if refusal:
        return refuse(like, refusal)
    plan = plan_of(batch, block, spec.programs or PROGRAMS)
    part, sums = part_of(spec, plan, params, rows, swept)
    leaves = jax.tree.leaves(params)
    blocks = [jax.ShapeDtypeStruct((block, *a.shape[1:]), a.dtype) for a in rows]
    program = flat(jax.make_jaxpr(part)(jnp.int32(0), params, *blocks), inlined=CALLS)
    own = [jnp.asarray(c.value) for c in held(program)]
    operands = jnp.result_type(rows[0], *leaves)
    resident = [*leaves, *own]

    def kernel(*refs):
        n, m = len(resident), len(resident) + len(rows)
        weights = [_load(triton, ref, ref.shape, ()) for ref in refs[:n]]

        begin = pl.program_id(0) * np.int32(plan.blocks)

        def step(i, sofar):
            first = (begin + i) * np.int32(block)
            examples = [_load(triton, ref, (block, *ref.shape[1:]), first) for ref in refs[n:m]]
            new = run_padded(program, [first, *weights[: len(leaves)], *examples], weights[len(leaves) :], operands)
            return [a + b for a, b in zip(sofar, new, strict=True)]

        zeros = [jnp.zeros(padded_shape(a.shape), a.dtype) for a in sums]
        for ref, total in zip(refs[m:], lax.fori_loop(np.int32(0), np.int32(plan.blocks), step, zeros), strict=True):
            _store(triton, ref, total)

    def of_program(shape):
        return pl.BlockSpec((None, *shape), lambda p: (p, *(0,) * len(shape)))

    call = pl.pallas_call(
        kernel,
        grid=(plan.programs,),
        out_specs=[of_program(a.shape) for a in sums],
        out_shape=[jax.ShapeDtypeStruct((plan.programs, *a.shape), a.dtype) for a in sums],
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=1),
        interpret=interpret,
        name="fused_sweep",
    )
    return added(call(*resident, *rows), like)


def _launch(spec, params, rows):
    return spec.block or 64, 4, ""


def _load(triton, ref, shape, first):
    """An array of that shape, padded; of the examples those from `first` on. What is beyond the array is 0."""
    if not shape:
        return ref[...]
    at, there = _indices(ref.shape, shape, first)
    return triton.load(ref.at[at], mask=there, other=jnp.zeros((), ref.dtype))


def _store(triton, ref, a):
    if not ref.shape:
        ref[...] = a
    else:
        at, there = _indices(ref.shape, ref.shape, ())
        triton.store(ref.at[at], a, mask=there)


def _indices(whole, shape, first):
    """Where the numbers of a padded array are, and which of them there are."""
    size = padded_shape(shape)
    at = [lax.broadcasted_iota(jnp.int32, size, axis) for axis in range(len(size))]
    if not isinstance(first, tuple):
        at[0] = at[0] + first
    there = reduce(lambda a, b: a & b, (i < n for i, n in zip(at, whole, strict=True)))
    return tuple(at), there
