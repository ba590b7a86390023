"""An H200 to compile for, on a machine that has none. To be imported before JAX compiles anything.

The compilers are the real ones, XLA's and NVIDIA's; kernels are chosen without being tried. `h200.txtpb` describes the GPU.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # there is no driver to find

import jax
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

INSTALL = "pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12"
FOUND = importlib.util.find_spec("nvidia.cuda_nvcc") if importlib.util.find_spec("nvidia") else None
TOOLS = Path(next(iter(FOUND.submodule_search_locations or ()))) if FOUND else None


def flags(*more: str) -> None:
    """Tell XLA where the tools are, and what else; read when the first program is compiled."""
    if TOOLS:
        own = (f"--xla_gpu_cuda_data_dir={TOOLS}", "--xla_gpu_autotune_level=0")
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *own, *more])


def device() -> Any:
    """The GPU that is not here; where the compiler is missing too, the program ends with a line that says so, and 2."""
    if TOOLS is None:
        print(f"the compiler for CUDA is not installed: {INSTALL} (1.2 GB)", file=sys.stderr)
        raise SystemExit(2)
    described = Path(__file__).with_name("h200.txtpb").read_text()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="1x1x1", topology="1x1x1", target_config=described
    )
    return topology.devices[0]


def shapes_on(device: Any, arguments: Any) -> Any:
    """Shapes that belong to the device: without them `compile` would compile for the CPU."""
    place = SingleDeviceSharding(device)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arguments)
