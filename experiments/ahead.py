"""Devices to compile for, on a machine that has none. To be imported before JAX compiles anything.

The compilers are the real ones; nothing runs. For an H200 they are XLA's and NVIDIA's; kernels are chosen without being tried,
and `h200.txtpb` describes the GPU.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # there is no driver to find
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # nor a TPU to ask about
os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")

import jax
import measure
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import jaxbackprop as jbp

INSTALL = "pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12"
FOUND = importlib.util.find_spec("nvidia.cuda_nvcc") if importlib.util.find_spec("nvidia") else None
TOOLS = Path(next(iter(FOUND.submodule_search_locations or ()))) if FOUND else None


def flags(*more: str) -> None:
    """Tell XLA where the tools are, and what else; read when the first program is compiled."""
    if TOOLS:
        own = (f"--xla_gpu_cuda_data_dir={TOOLS}", "--xla_gpu_autotune_level=0")
        os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *own, *more])


def require(found: Any, what: str) -> None:
    """End with a line that says what to install, and 2, where a compiler is missing."""
    if found is None:
        print(f"the compiler is not installed: {what}", file=sys.stderr)
        raise SystemExit(2)


def h200() -> Any:
    """The GPU that is not here."""
    require(TOOLS, f"{INSTALL} (1.2 GB)")
    described = Path(__file__).with_name("h200.txtpb").read_text()
    where = {"topology_name": "1x1x1", "topology": "1x1x1", "target_config": described}
    return topologies.get_topology_desc(platform="cuda", **where).devices[0]


def compiled(function: Callable, arguments: Any, device: Any, platform: str) -> Any:
    """For the device, for arguments of these shapes: without its sharding `compile` would compile for the CPU."""
    place = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place), arguments)
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).compile()


def arguments(network: jbp.Network, loss: str, dtype: str, batch: int) -> tuple:
    """The shapes of parameters, x and y."""
    k, labels = network.layers[-1].width, loss.startswith("softmax")
    y = jax.ShapeDtypeStruct((batch,), "int32") if labels else jax.ShapeDtypeStruct((batch, k), dtype)
    params = jax.eval_shape(lambda: jbp.init(network, jax.random.key(0), dtype))
    return params, jax.ShapeDtypeStruct((batch, network.inputs), dtype), y


def clipped(fg: jbp.FactoredGradient, nan_safe: bool = True):
    return jbp.total(jbp.clip(fg, 1.0, nan_safe=nan_safe))


def tried(figures: Callable[[], dict], columns: Iterable[str], **what) -> dict:
    """What came of compiling: figures, or in one line why there are none."""
    try:
        return {**what, "outcome": "compiles"} | figures()
    except (ValueError, NotImplementedError, RuntimeError) as error:
        return {**what, "outcome": str(error).splitlines()[0]} | dict.fromkeys(columns)


def report(title: str, rows: list[dict]) -> None:
    """A table, and below it why what does not compile does not."""
    shown = [row | {"outcome": "compiles" if row["outcome"] == "compiles" else "no"} for row in rows]
    measure.show(f"{title} (nothing was run)", shown)
    for reason in dict.fromkeys(row["outcome"] for row in rows if row["outcome"] != "compiles"):
        print(f"no: {reason}")


def write(given: argparse.Namespace, name: str, rows: list[dict], about: dict, **more) -> None:
    """results/NAME.json: it is of no device that is here."""
    if given.folder:
        measure.replace(given.folder / name, measure.as_lines({"stamp": given.stamp | about, **more, "rows": rows}))
        print(given.folder / name)
