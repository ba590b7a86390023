"""The kind of device that a command computes on; and when a CPU takes a small step sooner than a GPU.

In Python the choice is JAX's own: `jax.config.update("jax_platforms", "cpu")` before anything is computed.

A step of training is a product for each edge forward and two back, and the optimizer's passes over the parameters. For P
parameters and a batch of B examples that is

    flops ≈ 6 P B         2 a weight and example forward, 2 for dW = dz^T h, 2 for dh = W^T dz
    bytes ≈ 10 · 4 P      W read forward and back, dW written; Adam reads W, dW and two moments, writes W and the moments

and a CPU takes about

    CPU_STEP + flops / CPU_FLOPS + bytes / CPU_BANDWIDTH

A GPU is handed a step as many kernels, one after the other. However small they are that takes about GPU_STEP, which is taken for
the least that a step takes there. Where the CPU's sum is below it, the GPU waits more than it computes. On a TPU nothing was
measured, and nothing is said; nor is it of a batch that is laid over several devices.
"""

import math
import os
from contextlib import contextmanager

import jax

from jaxbackprop.spelling import unknown

KINDS = ("cpu", "gpu", "tpu")

# Measured on one H200 and on 2 CPU cores: another machine differs. A network 64-32-32-10 at batches of 32 on the
# digits took 5,100 steps a second on the first, 20,400 on the second. No committed result holds the first of these yet:
# experiments/training_benchmark.py measures it.
GPU_STEP = 1 / 5100  # s
# The line for 2 cores of an AMD EPYC goes through `fit` of skip_mlp, 3,712 parameters, at batches of 8 and of 512, in
# experiments/results/training-cpu.json. Large products reach 153 Gflop/s on the same cores (accelerator-cpu.json), small ones
# nothing like it.
CPU_STEP = 22e-6  # s
CPU_FLOPS = 26e9  # a second
CPU_BANDWIDTH = 50e9  # bytes a second, read and written: accelerator-cpu.json
# What is estimated was up to 1.6 times off what was measured: below that, nothing is said.
WORTH_SAYING = 1.6


def cpu_seconds(parameters: int, batch_size: int) -> float:
    """Estimate what a step of training takes on a CPU.

    >>> f"{cpu_seconds(3392, 32) * 1e6:.0f} µs"
    '50 µs'
    """
    flops, passed = 6 * parameters * batch_size, 10 * 4 * parameters
    return CPU_STEP + flops / CPU_FLOPS + passed / CPU_BANDWIDTH


def advice(platform: str, parameters: int, batch_size: int) -> str | None:
    """Say that a CPU would be faster than this kind of device, where that is to be expected of a step.

    >>> advice("gpu", 3392, 32)
    'a step of 32 examples through 3,392 parameters is too small for a GPU: starting it takes about 0.2 ms, all of it on a CPU \
about 0.05 ms; try --device cpu, about 3.9 times as fast (by figures of one H200 and of 2 CPU cores; others differ)'
    >>> advice("cpu", 3392, 32), advice("gpu", 3392, 4096)
    (None, None)
    """
    seconds = cpu_seconds(parameters, batch_size)
    times = GPU_STEP / seconds
    if platform != "gpu" or times < WORTH_SAYING:
        return None
    step = f"a step of {batch_size:,} examples through {parameters:,} parameters"
    takes = f"starting it takes about {GPU_STEP * 1e3:.1g} ms, all of it on a CPU about {seconds * 1e3:.1g} ms"
    cure = f"try --device cpu, about {times:.2g} times as fast"
    return f"{step} is too small for a GPU: {takes}; {cure} (by figures of one H200 and of 2 CPU cores; others differ)"


def platform() -> str:
    """The kind of device that JAX computes on.

    >>> platform() in KINDS
    True
    """
    return jax.devices()[0].platform


@contextmanager
def preferred(kind: str | None):
    """Let JAX look for the CPU alone where that is wanted, should it not have looked yet: the GPU is neither waited for nor held.

    A GPU or TPU is JAX's own choice where there is one.
    """
    before = jax.config.values["jax_platforms"]
    if kind == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        yield
    finally:
        jax.config.update("jax_platforms", before)


def require(kind: str | None) -> None:
    """Refuse a kind of device that JAX does not compute on here; None is JAX's own choice.

    Raises:
        ValueError: there is none, or JAX was told to use another.

    >>> require(None)
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(unknown("device", str(kind), KINDS))
    told = jax.config.values["jax_platforms"]
    told = f" (JAX_PLATFORMS is {told!r})" if told else ""
    try:
        found = platform()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that it has found one
        raise ValueError(f"JAX finds no device to compute on{told}: {error or 'there is none of that kind'}") from None
    if kind in (None, found):
        return
    if kind == "cpu":
        raise ValueError(f"--device cpu: JAX computes on a {found.upper()} in this process already: start another one")
    raise ValueError(
        f"--device {kind}: JAX computes on a {found.upper()} here{told}: give --device {found}; a GPU needs the extra cuda, "
        "a TPU tpu"
    )


def require_room(parameters: int) -> None:
    """Refuse to train a network of which parameters, gradient and Adam's two moments alone are more than there is memory.

    Raises:
        ValueError: in float32 they do not fit.

    >>> require_room(641)
    """
    of_device, needed = jax.devices()[0].memory_stats() or {}, 4 * 4 * parameters
    of_machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    there = of_device.get("bytes_limit") or of_machine
    if needed > there:
        takes = f"to train {parameters:,} parameters takes {needed / 2**30:,.0f} GB"
        raise ValueError(f"{takes}, and there are {there / 2**30:,.0f} GB of memory: give a smaller --hidden")
