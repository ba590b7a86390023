"""The same sweep in ONE kernel: forward, backward and all sums of a block of examples, with the weights on the chip.

`stream` sums a readout tile by tile, and between any two products the compiler may write a tile's z, h and dz to
memory and read them back. Here a Pallas kernel holds params and the sums on the chip, takes in a block of x and y, and
gives out nothing but the sums. P programs share the batch, and program p has blocks p·n … p·n + n − 1:

    S_p = Σ_i readout(sweep(block p·n + i))        i = 0 … n − 1, in that order        then Σ_p S_p, outside the kernel

so that the order of additions is fixed, and two runs give the same bits. On the chip everything is float32 at least,
whatever is stored, but for the operands of an NVIDIA GPU's matrix products; the result is rounded once, at the end.

TPU: kernel_tpu.py. NVIDIA GPUs: kernel_gpu.py. Elsewhere there is no kernel; `stream` computes the same.

Source: Müller et al. 2021, "Real-time neural radiance caching for path tracing" (a whole network in one kernel pays off
while it is narrow).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Literal

import jax
import jax.numpy as jnp

from jaxbackprop.arithmetic import Precision
from jaxbackprop.backprop import per_example
from jaxbackprop.losses import LossLike
from jaxbackprop.network import Network
from jaxbackprop.scaling.kernel_gpu import on_gpu
from jaxbackprop.scaling.kernel_parts import Spec, refuse, sums_of
from jaxbackprop.scaling.kernel_tpu import ROWS, on_tpu
from jaxbackprop.scaling.streaming import Readout, Sums, as_readout, compiled, is_sum

KERNELS = {False: None, True: on_tpu, "tpu": on_tpu, "gpu": on_gpu}  # by interpret


def fused(
    network: Network,
    loss: LossLike,
    readout: Readout | None = None,
    block: int | None = None,
    programs: int | None = None,
    precision: Precision = None,
    interpret: bool | Literal["tpu", "gpu"] = False,
) -> Callable:
    """Return a function that sums the losses and a readout over a batch in one kernel; otherwise as `stream`.

    Not differentiable: it returns the gradient. A block that `block` does not fill is filled up with examples whose h and
    dz are 0, so a readout must get nothing from those: sums of products do, a count of all examples does not.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, or a pair (value, derivative).
        readout: `FactoredGradient` → a pytree of sums over its examples, traced inside the kernel; `total` by default. Keep
            it in a variable: a new lambda each time is a new program each time.
        block: examples at a time, a multiple of 16, on a GPU a power of 2; by default what fits, on a TPU up to 1,024.
        programs: P; by default 1 on a TPU (2 is for a chip whose two cores work as one, v5p), on a GPU 512.
        precision: of the sweep's products, as in `jax.lax.Precision`.
        interpret: run the kernel step by step as plain JAX, anywhere, slowly: for tests. "tpu" or True the one for TPUs,
            "gpu" the one for GPUs.

    Returns:
        (params, x (b, d), y (b, …), weight (b,) or None) → (Σ_b c_b L_b, Σ over blocks of readout), with the dtypes
        that `stream` returns. Weights enter at dyhat.

    Raises:
        ValueError: a device that is neither a TPU nor an NVIDIA GPU, and interpret=False; a network too wide for the
            device's kernel; an activation, a loss, a readout or a size that Pallas cannot lower there; a readout that is no
            sum; shapes or dtypes that do not fit. What depends on the device is raised when the program is lowered for it.
        TypeError: as `stream`.

    >>> clipped_sum = fused(net, "huber", lambda fg: jbp.total(jbp.clip(fg, 1.0)), block=16, interpret=True)
    >>> value, grads = clipped_sum(params, x, y)
    >>> grads["h0"]["x"].shape
    (3, 2)
    """
    sweep = per_example(network, loss, precision)
    readout = as_readout(readout)
    if block is not None and (not _is_count(block) or block % ROWS):
        raise ValueError(f"block is {block!r}: expected a multiple of {ROWS}, such as 256")
    if programs is not None and not _is_count(programs):
        raise ValueError(f"programs is {programs!r}: expected an integer of at least 1")
    if not isinstance(interpret, bool | str) or interpret not in KERNELS:
        raise ValueError(f'interpret is {interpret!r}: expected False, or "tpu" (the same as True) or "gpu"')
    return compiled(_fused, Spec(Sums(sweep, readout, None), block, programs), KERNELS[interpret])


def _fused(spec, step_by_step, params, x, y, weight=None):
    sweep = spec.sums.sweep
    sweep.door(sweep.model, params, x, y, weight=weight)
    is_sum(spec.sums, params, x, y)
    rows = [jnp.asarray(a) for a in (x, y, weight) if a is not None]
    like = jax.eval_shape(partial(sums_of, spec, swept=sweep.swept), params, *rows)
    if step_by_step is not None:
        return step_by_step(params, *rows, spec=spec, like=like, interpret=True)

    def elsewhere(*_):
        return refuse(
            like,
            "fused has a kernel for TPU and for NVIDIA GPUs, none for this device: use jaxbackprop.stream, which computes the "
            "same, or give interpret=True to run the kernel step by step, slowly",
        )

    there = {"tpu": partial(on_tpu, spec=spec, like=like), "cuda": partial(on_gpu, spec=spec, like=like)}
    return jax.lax.platform_dependent(params, *rows, **there, cpu=elsewhere, default=elsewhere)


def _is_count(n) -> bool:
    return not isinstance(n, bool) and isinstance(n, Integral) and int(n) >= 1
