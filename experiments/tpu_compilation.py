"""Do the gradients compile for TPUs, and what do they ask for? For v5e and v6e, ahead of time, on a machine without a TPU.

    python experiments/tpu_compilation.py [--quick]             (libtpu: pip install '.[tpu]')

The compiler is the real one; nothing runs, so nothing here says that a program is right or fast on a TPU. The plain
gradient, the streamed one and the fused kernel, each as the sum and as the clipped sum.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask about
os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")

import jax
import measure
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding

import jaxbackprop as jbp

TOPOLOGIES = ("v5e:2x2", "v6e:2x2")
BATCH = 16384
NETWORKS = {
    "1-1-1-1": (jbp.skip_mlp((1, 1, 1, 1)), "half_squared_error"),
    "8-64-64-1": (jbp.skip_mlp((8, 64, 64, 1)), "half_squared_error"),
    "64-128-128-10": (jbp.mlp((64, 128, 128, 10)), "softmax_cross_entropy"),
    "1024-1024-1024-10": (jbp.mlp((1024, 1024, 1024, 10)), "softmax_cross_entropy"),
}


def clipped(fg: jbp.FactoredGradient):
    return jbp.total(jbp.clip(fg, 1.0))


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


def arguments(network: jbp.Network, loss: str, dtype: str, device) -> tuple:
    """Shapes that belong to the device: without them `compile` would compile for the CPU."""

    def on_device(like):
        return jax.ShapeDtypeStruct(like.shape, like.dtype, sharding=SingleDeviceSharding(device))

    k = network.layers[-1].width
    y = (
        jax.ShapeDtypeStruct((BATCH,), "int32")
        if loss.startswith("softmax")
        else jax.ShapeDtypeStruct((BATCH, k), dtype)
    )
    params = jax.eval_shape(lambda: jbp.init(network, jax.random.key(0), dtype))
    return jax.tree.map(on_device, (params, jax.ShapeDtypeStruct((BATCH, network.inputs), dtype), y))


def compile_one(function, args, **what) -> dict:
    began = time.perf_counter()
    try:
        program = jax.jit(function).trace(*args).lower(lowering_platforms=("tpu",)).compile()
    except (ValueError, NotImplementedError, RuntimeError) as error:
        return {**what, "outcome": str(error).splitlines()[0], "seconds": None} | dict.fromkeys(SIZES)
    seconds = time.perf_counter() - began
    memory = program.memory_analysis()
    sizes = {name: getattr(memory, f"{name.split('_')[0]}_size_in_bytes", None) for name in SIZES}
    return {**what, "outcome": "compiles", "seconds": seconds} | sizes


SIZES = ("temp_bytes", "argument_bytes", "output_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one network on one topology; writes nothing")
    quick = parser.parse_args().quick
    if importlib.util.find_spec("libtpu") is None:
        print("libtpu, the TPU's compiler, is not installed: pip install '.[tpu]' (about 700 MB)", file=sys.stderr)
        raise SystemExit(2)
    rows = []
    for topology in TOPOLOGIES[:1] if quick else TOPOLOGIES:
        device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
        for name in ["8-64-64-1"] if quick else NETWORKS:
            network, loss = NETWORKS[name]
            for dtype in ("float32", "bfloat16"):
                args = arguments(network, loss, dtype, device)
                rows += [
                    compile_one(f, args, topology=topology, network=name, dtype=dtype, program=program)
                    for program, f in programs(network, loss).items()
                ]
    reasons = [row["outcome"] for row in rows if row["outcome"] != "compiles"]
    shown = [row | {"outcome": "compiles" if row["outcome"] == "compiles" else "no"} for row in rows]
    measure.show(f"compiled for a TPU that is not here, {BATCH:,} examples (nothing was run)", shown)
    for reason in dict.fromkeys(reasons):
        print(f"no: {reason}")
    if not quick:
        stamp = measure.stamp() | {
            "device": f"none; compiled ahead of time for {', '.join(TOPOLOGIES)}",
            "libtpu": importlib.metadata.version("libtpu"),
        }
        path = measure.RESULTS / "tpu_compilation-v5e-v6e.json"
        path.write_text(json.dumps({"stamp": stamp, "batch": BATCH, "rows": rows}, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
