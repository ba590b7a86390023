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

import json
import os
import socket
import subprocess
import sys
from functools import partial
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
    """Of one."""
    run, x = all_reduce(mesh, numbers)
    return measure.median([measure.best_of(lambda: run(x), times=1) for _ in range(7)]) / 10


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
    env = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    pair = [measure.in_process(as_process, i, port, env=env, stderr=subprocess.DEVNULL) for i in range(2)]
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
    whole = {n: program(case, case.batch, n) for n in counts}
    apart = agreement(whole.values())
    parts = {n: program(case, case.batch // n, 1) for n in counts if n > 1}
    named = {f"whole {n}": made for n, made in whole.items()} | {f"part {n}": made for n, made in parts.items()}
    times = measure.in_turn({name: partial(run, *args) for name, (run, args) in named.items()}, seconds, rounds=5)
    step = {name: measure.median(found) / STEPS for name, found in times.items()}
    return [
        {
            "network": "-".join(map(str, case.widths)),
            "batch": case.batch,
            "devices": n,
            "step_ms": 1e3 * step[f"whole {n}"],
            "examples_per_s": case.batch / step[f"whole {n}"],
            "times_one_device": measure.ratio(times, f"whole {counts[0]}", f"whole {n}"),
            "part_alone_ms": 1e3 * step[f"part {n}"] if n > 1 else None,
            "all_reduce_bytes": gradient_bytes(case) if n > 1 else 0,
            "difference": apart,
        }
        for n in counts
    ]


def estimated(case: Case, row: dict, a: float, w: float) -> list[dict]:
    """The efficiency over more machines, from the row of one device."""
    about, step = {"network": row["network"], "batch_a_machine": case.batch}, row["step_ms"] / 1e3
    return [about | {"machines": n, "efficiency": efficiency(step, gradient_bytes(case), n, a, w)} for n in MACHINES]


def main() -> None:
    given = measure.arguments(__doc__, "small batches, short")
    counts = [n for n in (1, 2, 4, 8) if n <= len(jax.devices())]
    cases = [case._replace(batch=case.batch // 16) for case in CASES[:1]] if given.quick else CASES
    rows, estimates = [], []
    between = between_processes()
    a, w = fitted(between)
    for case in measure.followed(cases):
        own = measured_case(case, counts, 1.0 if given.quick else 20.0)
        rows += own
        estimates += estimated(case, own[0], a, w)
    measure.show("A step over devices", rows)
    measure.show("All-reduce between two processes", [{"bytes": size, "ms": 1e3 * s} for size, s in between])
    print(f"a = {1e6 * a:.0f} µs a message, w = {w / 1e9:.2f} GB/s")
    measure.show("Weak-scaling efficiency, estimated (see the docstring)", estimates)
    more = {"between_processes": between, "message_s": a, "bytes_per_s": w, "estimates": estimates}
    measure.publish(given, "devices", rows, **more)


if __name__ == "__main__":
    main()
