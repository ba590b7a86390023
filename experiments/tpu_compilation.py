"""Do the gradients compile for TPUs, and what do they ask for? For v5e and v6e, ahead of time, on a machine without a TPU.

    python experiments/tpu_compilation.py [--quick] [--out FOLDER]             (libtpu: pip install '.[tpu]')

The compiler is the real one; nothing runs, so nothing here says that a program is right or fast on a TPU. The plain
gradient, the streamed one and the fused kernel, each as the sum and as the clipped sum.
"""

import importlib.metadata
import importlib.util
import time
from functools import partial
from typing import Any

import ahead  # before JAX, which it tells of the platform

# isort: split
import measure
from ahead import clipped
from jax.experimental import topologies

import jaxbackprop as jbp

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
BATCH = 16384
NETWORKS = {
    "1-1-1-1": (jbp.skip_mlp((1, 1, 1, 1)), "half_squared_error"),
    "8-64-64-1": (jbp.skip_mlp((8, 64, 64, 1)), "half_squared_error"),
    "64-128-128-10": (jbp.mlp((64, 128, 128, 10)), "softmax_cross_entropy"),
    "1024-1024-1024-10": (jbp.mlp((1024, 1024, 1024, 10)), "softmax_cross_entropy"),
}


def programs(network: jbp.Network, loss: str) -> dict:
    def whole_batch(params, x, y):
        values, fg = jbp.per_example(network, loss)(params, x, y)
        return values.sum(), clipped(fg)

    return {
        "plain": jbp.value_and_grad(network, loss, "sum"),
        "plain, clipped": whole_batch,
        "stream": jbp.stream(network, loss),
        "stream, clipped": jbp.stream(network, loss, clipped),
        "fused": jbp.fused(network, loss),
        "fused, clipped": jbp.fused(network, loss, clipped),
    }


SIZES = ("temp_bytes", "argument_bytes", "output_bytes")


def figures(function, arguments: tuple, device: Any) -> dict:
    """Seconds, and what it asks for."""
    began = time.perf_counter()
    memory = ahead.compiled(function, arguments, device, "tpu").memory_analysis()
    found = {"seconds": time.perf_counter() - began}
    return found | {name: getattr(memory, f"{name.split('_')[0]}_size_in_bytes", None) for name in SIZES}


def main() -> None:
    given = measure.arguments(__doc__, "one network on one topology")
    ahead.require(importlib.util.find_spec("libtpu"), "pip install '.[tpu]' (about 700 MB)")
    rows = []
    for topology in TOPOLOGIES[:1] if given.quick else TOPOLOGIES:
        device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
        for name in ["8-64-64-1"] if given.quick else NETWORKS:
            network, loss = NETWORKS[name]
            for dtype in ("float32", "bfloat16"):
                arguments = ahead.arguments(network, loss, dtype, BATCH)
                for program, function in programs(network, loss).items():
                    what = {"topology": topology, "network": name, "dtype": dtype, "program": program}
                    found = partial(figures, function, arguments, device)
                    rows.append(ahead.tried(found, ("seconds", *SIZES), **what))
    ahead.report(f"compiled for a TPU that is not here, {BATCH:,} examples", rows)
    about = {"device": f"none; compiled ahead of time for {', '.join(TOPOLOGIES)}"}
    about |= {"libtpu": importlib.metadata.version("libtpu")}
    ahead.write(given, "tpu_compilation-v5e-v6e.json", rows, about, batch=BATCH)


if __name__ == "__main__":
    main()
