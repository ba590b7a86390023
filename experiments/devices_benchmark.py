"""What a step over several devices costs beside one device, and what it would be on more machines than there are.

    python experiments/devices_benchmark.py                       # all devices here; on a CPU four virtual ones
    python experiments/devices_benchmark.py --quick               # seconds, writes nothing

Measured: a training step (Adam, float32) of a whole batch on one device; of the same batch over n devices; of the part that
each of n devices has, on one alone; and the one all-reduce of a step, between the devices here and between two processes.

Estimated, and no more than that: the weak-scaling efficiency over N machines, each with its own part of the batch,

    E(N) = t / (t + r(N)),     r(N) = 2 (N − 1) a + 2 (N − 1)/N · bytes / w

t is the step's time on one machine; r(N) that of a ring all-reduce of `bytes`, the gradient's and the loss's; a (seconds a
message) and w (bytes a second) are fitted to the all-reduces measured between two processes, where N = 2: between your
machines they are others. Nothing is taken to overlap: the first layer's gradient comes last, and the update waits for it.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if "jax" not in sys.modules:  # virtual devices are made when JAX starts; on an accelerator this changes nothing
    os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

import jax
import measure
import numpy as np
import optax

import jaxbackprop as jbp
from jaxbackprop.losses import as_loss
from jaxbackprop.model import Model
from jaxbackprop.scaling import mesh as scaling
from jaxbackprop.scaling import processes
from jaxbackprop.training.methods import GRADIENTS
from jaxbackprop.training.steps import Problem, start, train_steps


class Case(NamedTuple):
    """Widths, and the examples of a batch."""

    widths: tuple[int, ...]
    batch: int


CASES = (Case((8, 64, 64, 1), 65_536), Case((64, 128, 128, 10), 16_384), Case((784, 512, 512, 10), 2_048))
ADAM = optax.adam(1e-3)
STEPS = 10  # in one program: virtual devices stall each other where many programs wait
SIZES = (2**10, 2**16, 2**20, 2**22)  # numbers of an all-reduce
MACHINES = (2, 4, 8, 64)


def program(case: Case, examples: int, devices: int):
    """A compiled run of some steps over the first devices, and its arguments."""
    network = jbp.skip_mlp(case.widths, "relu", bias=True)
    mesh = jbp.data_mesh(jax.devices()[:devices])
    problem = Problem(Model(network, as_loss("half_squared_error")), ADAM, examples, GRADIENTS["hand"], mesh)
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(examples, n)).astype("float32") for n in (case.widths[0], case.widths[-1]))
    state = scaling.copied(mesh, start(problem._replace(mesh=None), jax.random.key(0)))
    sums = scaling.copied(mesh, np.zeros((STEPS, 2), "float32"))
    batch = scaling.place_batch(mesh, x, y)

    @jax.jit
    def steps(state, sums, x, y, weight):
        return train_steps(problem, state, sums, lambda _: (x, y, weight), 0, STEPS)

    return steps.lower(state, sums, *batch).compile(), (state, sums, *batch)


def gradient_bytes(case: Case) -> int:
    """What a step adds up between devices: the gradient and the loss, in float32."""
    return 4 * (jbp.network.count_parameters(jbp.skip_mlp(case.widths, "relu", bias=True)) + 1)


def all_reduce(mesh, numbers: int):
    """An all-reduce of so many float32 numbers, ten in one program, each waiting for the last."""
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(scaling.DATA))
    shape = (mesh.shape[scaling.DATA], numbers)
    x = jax.make_array_from_callback(shape, rows, lambda part: np.ones(shape, "float32")[part])

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=rows.spec, out_specs=rows.spec, check_vma=False)
    def run(x):
        return jax.lax.fori_loop(0, 10, lambda _, x: jax.lax.psum(x, scaling.DATA) / shape[0], x)

    return run, x


def all_reduce_seconds(mesh, numbers: int) -> float:
    run, x = all_reduce(mesh, numbers)
    jax.block_until_ready(run(x))
    times = []
    for _ in range(7):
        began = time.perf_counter()
        jax.block_until_ready(run(x))
        times.append((time.perf_counter() - began) / 10)
    return measure.median(times)


def as_process(process_id: int, port: int) -> None:
    """One of two processes: time all-reduces between them; the first prints."""
    processes.join(f"127.0.0.1:{port}", 2, process_id)
    mesh = jbp.data_mesh(
        [d for i in range(2) for d in jax.devices() if d.process_index == i][:: jax.local_device_count()]
    )
    found = [(4 * n, all_reduce_seconds(mesh, n)) for n in SIZES]
    if process_id == 0:
        print("\n" + json.dumps(found), flush=True)


def between_processes() -> list[tuple[int, float]]:
    """Bytes and seconds of all-reduces between two processes on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, __file__, "--port", str(port), "--process-id"]
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    pair = [
        subprocess.Popen([*command, str(i)], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    return [(size, seconds) for size, seconds in json.loads(outputs[0].strip().splitlines()[-1])]


def fitted(measured: list[tuple[int, float]]) -> tuple[float, float]:
    """a and w of r(2) = 2 a + bytes / w: the smallest all-reduce gives a, the largest then w."""
    (few, fast), (many, slow) = measured[0], measured[-1]
    w = (many - few) / (slow - fast)
    return max(fast - few / w, 0) / 2, w


def efficiency(step: float, size: int, machines: int, a: float, w: float) -> float:
    ring = 2 * (machines - 1) * a + 2 * (machines - 1) / machines * size / w
    return step / (step + ring)


def agreement(programs) -> float:
    """The largest difference of the parameters after the steps, relative to each array's largest entry."""
    first, *others = (run(*arguments)[0].params for run, arguments in programs)
    return max((measure.largest_difference(params, first) for params in others), default=0.0)


def measured_case(case: Case, counts: list[int], seconds: float) -> list[dict[str, Any]]:
    programs = {("whole", n): program(case, case.batch, n) for n in counts}
    apart = agreement(programs.values())
    programs |= {("part", n): program(case, case.batch // n, 1) for n in counts if n > 1}
    runs = {str(name): partial(run, *arguments) for name, (run, arguments) in programs.items()}
    times = measure.in_turn(runs, seconds=seconds, rounds=5)
    rows = []
    for n in counts:
        rows.append(
            {
                "network": "-".join(map(str, case.widths)),
                "batch": case.batch,
                "devices": n,
                "step_ms": 1e3 * measure.median(times[str(("whole", n))]) / STEPS,
                "examples_per_s": case.batch * STEPS / measure.median(times[str(("whole", n))]),
                "times_one_device": measure.ratio(times, str(("whole", counts[0])), str(("whole", n))),
                "part_alone_ms": 1e3 * measure.median(times[str(("part", n))]) / STEPS if n > 1 else None,
                "all_reduce_bytes": gradient_bytes(case) if n > 1 else 0,
                "difference": apart,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small batches, short; writes nothing")
    parser.add_argument("--out", type=Path, default=measure.RESULTS, metavar="FOLDER")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--process-id", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.port:
        as_process(given.process_id, given.port)
        return
    counts = [n for n in (1, 2, 4, 8) if n <= len(jax.devices())]
    cases = [case._replace(batch=case.batch // 16) for case in CASES[:1]] if given.quick else CASES
    rows, estimates = [], []
    with measure.progress(len(cases) + 1) as say:
        between = between_processes()
        a, w = fitted(between)
        say("all-reduce", steps=1)
        for case in cases:
            own = measured_case(case, counts, 1.0 if given.quick else 20.0)
            rows += own
            step = own[0]["step_ms"] / 1e3
            for machines in MACHINES:
                share = efficiency(step, gradient_bytes(case), machines, a, w)
                about = {"network": own[0]["network"], "batch_a_machine": case.batch}
                estimates.append({**about, "machines": machines, "efficiency": share})
            say(str(case.widths), steps=1)
    measure.show("A step over devices", rows)
    measure.show(
        "All-reduce between two processes", [{"bytes": size, "ms": 1e3 * seconds} for size, seconds in between]
    )
    print(f"a = {1e6 * a:.0f} µs a message, w = {w / 1e9:.2f} GB/s")
    measure.show("Weak-scaling efficiency, estimated (see the docstring)", estimates)
    if not given.quick:
        more = {"between_processes": between, "message_s": a, "bytes_per_s": w, "estimates": estimates}
        print(measure.save("devices", rows, given.out, **more))


if __name__ == "__main__":
    main()
