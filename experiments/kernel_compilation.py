"""What does the compiler make of the kernel for NVIDIA GPUs? Registers, spills and shared memory, for an H100 or H200 (sm_90).

    python experiments/kernel_compilation.py [--quick] [--out FOLDER]
    (on a machine without a GPU: pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12)

The compilers, XLA's Triton and NVIDIA's ptxas, are the real ones; nothing runs, so nothing here says that a program is right or
fast. Programs that fit one multiprocessor at a time are those of its registers (65,536) and its shared memory (228 KB, of which
each program takes 1 KB more than it asks for).
"""

import os
import re
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import ahead  # before JAX, which it tells of the platform

# isort: split
import measure
from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

import jaxbackprop as jbp

FOLDER = tempfile.TemporaryDirectory(prefix="kernel")
DUMPS = Path(FOLDER.name) / "dumps"
DUMPS.mkdir()

BATCH = 2**20
HALF, SOFTMAX = "half_squared_error", "softmax_cross_entropy"
NETWORKS = {
    "1-1-1-1": (jbp.skip_mlp((1, 1, 1, 1)), HALF),
    "8-16-16-1": (jbp.skip_mlp((8, 16, 16, 1)), HALF),
    "8-32-32-1": (jbp.skip_mlp((8, 32, 32, 1)), HALF),
    "8-64-64-1": (jbp.skip_mlp((8, 64, 64, 1)), HALF),
    "20-50-50-3, dense": (jbp.dense_mlp((20, 50, 50, 3), "tanh", bias=True), HALF),
    "64-128-128-10": (jbp.mlp((64, 128, 128, 10)), SOFTMAX),
    "64-128-128-10, dense": (jbp.dense_mlp((64, 128, 128, 10), bias=True), SOFTMAX),
    "64-256-256-10": (jbp.mlp((64, 256, 256, 10)), SOFTMAX),
}


READOUTS = {"total": jbp.total, "clipped": ahead.clipped}
FIGURES = ("rows", "warps", "registers", "spilled_bytes", "shared_bytes", "programs_at_a_time", "warps_at_a_time")


def figures(function, arguments: tuple, device: Any) -> dict:
    """Of one kernel."""
    shutil.rmtree(DUMPS)
    DUMPS.mkdir()
    with use_abstract_mesh(AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", None, "gpu"))):
        ahead.compiled(function, arguments, device, "cuda")
    return written_down()


def written_down() -> dict:
    """Read from what XLA wrote down, and from ptxas on its PTX."""
    launches = next(DUMPS.glob("*jit__fused*thunk_sequence.txt")).read_text()
    launch = re.search(r"fused_sweep_(\d+)_rows grid: .*? threads: \[(\d+).*? shared_memory: (\d+)", launches)
    ptx = next(path for path in DUMPS.glob("*jit__fused*.ptx") if ".entry fused_sweep" in path.read_text())
    command = [(ahead.TOOLS or Path()) / "bin" / "ptxas", "-v", "-arch=sm_90a", ptx, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    pattern = r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    used = re.search("fused_sweep.*?" + pattern, said, re.DOTALL)
    if launch is None or used is None:
        raise RuntimeError(f"cannot read: {launches} {said}")
    rows, threads, shared = map(int, launch.groups())
    stores, loads, registers = map(int, used.groups())
    at_a_time = min(65_536 // (-(-registers // 8) * 8 * threads), 233_472 // (shared + 1024), 2048 // threads)
    warps = threads // 32
    return dict(
        zip(FIGURES, (rows, warps, registers, stores + loads, shared, at_a_time, at_a_time * warps), strict=True)
    )


def main() -> None:
    ahead.flags(f"--xla_dump_to={DUMPS}")
    given = measure.arguments(__doc__, "one network")
    device, rows = ahead.h200(), []
    for name, (network, loss) in NETWORKS.items():
        for dtype in ("float32", "bfloat16") if not given.quick or name == "8-64-64-1" else ():
            arguments = ahead.arguments(network, loss, dtype, BATCH)
            for what, readout in READOUTS.items():
                found = partial(figures, jbp.fused(network, loss, readout), arguments, device)
                rows.append(ahead.tried(found, FIGURES, network=name, dtype=dtype, readout=what))
    ahead.report(f"compiled for sm_90 without one, {BATCH:,} examples", rows)
    about = {"device": "none; compiled ahead of time for sm_90, as in h200.txtpb"}
    ahead.write(given, "kernel_compilation-sm90.json", rows, about, batch=BATCH)


if __name__ == "__main__":
    main()
