"""What do per-example readouts cost, beside one plain gradient and beside others' ways to them? Over network and batch.

    python experiments/per_example_benchmark.py [--quick]

The networks have biases, relu and softmax cross-entropy; weights, data and float32 (no shorter products) are the same for
all. Every method is first compared with `vmap(jax.grad)`, and timed only if it agrees. The peers are jax_privacy, Opacus
and BackPACK, on PyTorch; one that is not installed is named and skipped. PyTorch's ratio to its own plain backward pass
says what the method costs; the ratio to `jax.grad`, what the user waits.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
import rivals

import jaxbackprop as jbp

SIZES = {
    (784, 512, 512, 10): (64, 256, 1024),
    (64, 128, 128, 10): (64, 1024, 4096),
    (5120, 2560, 1280): (16, 64, 256),  # the MLP that Opacus publishes its own figures for
}
MAX_NORM = 1.0
TILE = 256  # of the streamed sum, and at most half the batch: whole, it keeps every dz beside every h
MICROBATCHES = (1, 4, 16, 64)  # what jax_privacy is tried with, on 64 examples or fewer
LARGEST_BYTES = 4e9  # of per-example gradients held at once; two or three times as much is in use while they are
TOLERANCE = 1e-4
# torch.norm over the 13 million float32 entries of a gradient is 3.5e-4 too small: Opacus' own figure, said and timed
TORCH_NORM_TOLERANCE = 2e-3
SLOW, VERY_SLOW = 0.25, 1.5  # seconds a call; such programs are timed apart, in fewer rounds
ROUNDS = {0: 9, 1: 3, 2: 1}
PEERS = ("jax_privacy", "torch", "opacus", "backpack")
DISTRIBUTIONS = {"backpack": "backpack-for-pytorch", "jax_privacy": "jax-privacy"}


class Program(NamedTuple):
    """One method: what it reads out, a call without arguments, and how its result compares with the reference."""

    readout: str
    method: str
    framework: str
    run: Callable[[], Any]
    comparable: Callable[[Any], Any]
    temporary_bytes: int | None = None


class Case(NamedTuple):
    """One network and batch. `layers` holds the same weights as `params`, as plain pairs (W, b)."""

    network: jbp.Network
    params: dict
    layers: list
    x: jax.Array
    y: jax.Array

    @property
    def batch(self) -> int:
        """How many examples."""
        return len(self.x)

    @property
    def gradient_bytes(self) -> int:
        """What one example's gradient takes."""
        return 4 * jbp.network.count_parameters(self.network)

    def __str__(self) -> str:
        widths = (self.network.inputs, *(layer.width for layer in self.network.layers))
        return f"{'-'.join(map(str, widths))}, batch {self.batch:,}"


def make_case(widths: tuple[int, ...], batch: int) -> Case:
    """One class is common, and the network knows it: some examples' gradients are below the norm bound, some above."""
    network = jbp.mlp(widths, activation="relu", bias=True)
    keys = jax.random.split(jax.random.key(0), 5)
    params = jbp.init(network, keys[0])
    for layer, key in zip(network.layers, jax.random.split(keys[1], len(network.layers)), strict=True):
        params[layer.name]["bias"] = 0.1 * jax.random.normal(key, (layer.width,))
    params["yhat"]["bias"] = params["yhat"]["bias"].at[0].set(np.log(widths[-1]) + 4)
    x = jax.random.normal(keys[2], (batch, widths[0]))
    y = jax.random.bernoulli(keys[3], 0.5, (batch,)) * jax.random.randint(keys[4], (batch,), 0, widths[-1])
    return Case(network, params, pairs(network, params), x, y)


def pairs(network: jbp.Network, params: dict) -> list:
    """Our dict of parameters or gradients as plain pairs (W, b)."""
    return [(params[t.name][t.sources[0]], params[t.name]["bias"]) for t in network.layers]


# Plain JAX


def logits(layers, x):
    """The network as one would write it."""
    for W, b in layers[:-1]:
        x = jax.nn.relu(x @ W.T + b)
    W, b = layers[-1]
    return x @ W.T + b


def plain_loss(layers, x, y):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(layers, x), y))


gradients = rivals.per_example_gradients(plain_loss)


def vmap_clipped(layers, x, y):
    return rivals.clipped_sum(gradients(layers, x, y), MAX_NORM)


def vmap_norms(layers, x, y):
    return jnp.sqrt(rivals.squared_norms(gradients(layers, x, y)))


def reference(case: Case) -> dict[str, Any]:
    """Every readout from the gradients of `vmap(jax.grad)`, formed for a few examples at a time."""

    @jax.jit
    def part(layers, x, y):
        grads = gradients(layers, x, y)
        clipped = rivals.clipped_sum(grads, MAX_NORM)
        sums = jax.tree.map(lambda g, c: (jnp.sum(g, axis=0), c, jnp.sum(jnp.square(g), axis=0)), grads, clipped)
        return jnp.sqrt(rivals.squared_norms(grads)), sums

    size = max(1, int(0.5e9 / case.gradient_bytes))
    norms, sums = [], None
    for i in range(0, case.batch, size):
        n, more = part(case.layers, case.x[i : i + size], case.y[i : i + size])
        norms.append(np.asarray(n))
        sums = more if sums is None else jax.tree.map(jnp.add, sums, more)
    mean, clipped, second = jax.tree.transpose(jax.tree.structure(case.layers), jax.tree.structure((0, 0, 0)), sums)
    mean, second = (jax.tree.map(lambda s: s / case.batch, s) for s in (mean, second))
    variance = jax.tree.map(lambda m2, m: m2 - m**2, second, mean)
    return {
        "gradient": mean,
        "clipped sum": clipped,
        "norms": np.concatenate(norms),
        "moments": (mean, variance),
    }


# The programs


def clipped_sum(fg):
    return jbp.total(jbp.clip(fg, MAX_NORM))


def jax_programs(case: Case) -> Iterator[Program]:
    """`jax.grad`, ours, and what one writes without us."""
    network, loss = case.network, "softmax_cross_entropy"

    def program(readout, method, function, params, comparable):
        compiled = measure.compiled(function, params, case.x, case.y)
        run = lambda: compiled.run(params, case.x, case.y)  # noqa: E731
        return Program(readout, method, "JAX", run, comparable, compiled.temporary_bytes)

    def ours(readout, method, function, comparable):
        return program(readout, method, function, case.params, comparable)

    def read(readout):
        return lambda params, x, y: readout(jbp.per_example(network, loss)(params, x, y)[1])

    def as_pairs(params):
        return pairs(network, params)

    def same(result):
        return result

    yield program("gradient", "jax.grad", jax.grad(plain_loss), case.layers, same)
    hand, streamed = (
        jbp.value_and_grad(network, loss),
        jbp.stream(network, loss, clipped_sum, min(TILE, case.batch // 2)),
    )
    yield ours("gradient", "jbp.value_and_grad", hand, lambda r: as_pairs(r[1]))
    yield ours(
        "gradient",
        "jbp.total(per_example)",
        read(jbp.total),
        lambda r: jax.tree.map(lambda g: g / case.batch, as_pairs(r)),
    )
    yield ours("clipped sum", "jbp.total(clip(…))", read(clipped_sum), as_pairs)
    yield ours("clipped sum", "jbp.stream(…clip…), in tiles", streamed, lambda r: as_pairs(r[1]))
    yield ours("norms", "jbp.norms", read(jbp.norms), same)
    yield ours("moments", "jbp.moments", read(jbp.moments), lambda r: tuple(map(as_pairs, r)))
    yield program("norms", "vmap(jax.grad), norms", vmap_norms, case.layers, same)
    if fits(case, "vmap(jax.grad), clipped"):
        yield program("clipped sum", "vmap(jax.grad), clipped", vmap_clipped, case.layers, same)


def jax_privacy_program(case: Case) -> Program:
    """`jax_privacy.clipped_grad` at the best microbatch size; larger ones are not tried once they are twice as slow."""
    clipped_grad = importlib.import_module("jax_privacy").clipped_grad

    def compiled(size, x, y):
        clipped = clipped_grad(
            plain_loss, l2_clip_norm=MAX_NORM, batch_argnums=(1, 2), keep_batch_dim=False, microbatch_size=size
        )
        return measure.compiled(lambda *args: clipped(*args), case.layers, x, y)

    examples = 64 if 64 * case.gradient_bytes < 1e9 else 16
    x, y = case.x[:examples], case.y[:examples]
    tried: dict[int, float] = {}
    for size in MICROBATCHES:
        if size <= len(x) and not (tried and tried[max(tried)] > 2 * min(tried.values())):
            trial = compiled(size, x, y)
            tried[size] = seconds_of(lambda run=trial.run: run(case.layers, x, y))
    best = min(tried, key=lambda size: tried[size])
    times = ", ".join(f"{size}: {1e3 * t:.3g} ms" for size, t in tried.items())
    note(f"{case}: jax_privacy with microbatches of {best} ({len(x)} examples with {times})")
    chosen = compiled(best, case.x, case.y)

    def run():
        return chosen.run(case.layers, case.x, case.y)

    return Program("clipped sum", "jax_privacy, best microbatch", "JAX", run, lambda r: r, chosen.temporary_bytes)


def torch_programs(case: Case, missing: set[str]) -> Iterator[Program]:
    """PyTorch's own backward pass, Opacus and BackPACK, on the same weights."""
    torch: Any = importlib.import_module("torch")
    device = "cpu" if jax.devices()[0].platform == "cpu" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        note(f"PyTorch has no {jax.devices()[0].platform} device here: Opacus and BackPACK skipped")
        return
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    warnings.filterwarnings("ignore", "Full backward hook is firing when gradients are computed with respect to module")

    def tensor(a):
        return torch.from_numpy(np.array(a)).to(device)

    x, y = tensor(case.x), tensor(case.y).long()
    mean, total = torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(reduction="sum")

    def model():
        modules = []
        for W, b in case.layers:
            linear = torch.nn.utils.skip_init(torch.nn.Linear, W.shape[1], W.shape[0], device=device)
            linear.load_state_dict({"weight": tensor(W), "bias": tensor(b)})
            modules += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*modules[:-1])

    def as_pairs(flat):
        arrays = [t.detach().cpu().numpy() for t in flat]
        return list(zip(arrays[::2], arrays[1::2], strict=True))

    def program(readout, method, run, comparable=as_pairs):
        def finished():
            result = run()
            if device == "cuda":
                torch.cuda.synchronize()
            return result

        return Program(readout, method, "PyTorch", finished, comparable)

    def taken(module, name):
        """Return what a backward pass left on the parameters, and leave nothing for the next one."""
        values = [getattr(p, name) for p in module.parameters()]
        for p in module.parameters():
            setattr(p, name, None)
            p.grad = None
        return values

    plain = model()

    def backward():
        mean(plain(x), y).backward()
        return taken(plain, "grad")

    yield program("gradient", "torch backward", backward)
    if "opacus" not in missing:
        grad_sample: Any = importlib.import_module("opacus.grad_sample")
        optimizers: Any = importlib.import_module("opacus.optimizers")
        clipping: Any = importlib.import_module("opacus.utils.fast_gradient_clipping_utils")
        settings = {
            "noise_multiplier": 0.0,
            "max_grad_norm": MAX_NORM,
            "expected_batch_size": None,
            "loss_reduction": "sum",
        }
        ghost = grad_sample.GradSampleModuleFastGradientClipping(
            model(), loss_reduction="sum", max_grad_norm=MAX_NORM, use_ghost_clipping=True
        )
        optimizer = torch.optim.SGD(ghost.parameters(), lr=0.0)
        ghost_optimizer = optimizers.DPOptimizerFastGradientClipping(optimizer, **settings)
        ghost_loss = clipping.DPLossFastGradientClipping(ghost, ghost_optimizer, total, loss_reduction="sum")

        def opacus_ghost():
            ghost_loss(ghost(x), y).backward()
            return taken(ghost, "grad")

        yield program("clipped sum", "Opacus, ghost", opacus_ghost)
        if fits(case, "Opacus, per sample"):
            sampled = grad_sample.GradSampleModule(model(), loss_reduction="sum")
            sampled_optimizer = optimizers.DPOptimizer(torch.optim.SGD(sampled.parameters(), lr=0.0), **settings)

            def opacus_per_sample():
                total(sampled(x), y).backward()
                sampled_optimizer.clip_and_accumulate()  # its step() without the noise and the step
                result = [p.summed_grad for p in sampled.parameters()]
                sampled_optimizer.zero_grad(set_to_none=True)
                return result

            yield program("clipped sum", "Opacus, per sample", opacus_per_sample)
    if "backpack" not in missing:
        backpack: Any = importlib.import_module("backpack")
        extensions: Any = importlib.import_module("backpack.extensions")

        def extended(extension, name):
            module = backpack.extend(model())

            def run():
                with backpack.backpack(extension):
                    total(module(x), y).backward()
                return taken(module, name)

            return run

        l2 = extended(extensions.BatchL2Grad(), "batch_l2")
        yield program(
            "norms", "BackPACK BatchL2Grad", lambda: torch.stack(l2()).sum(0).sqrt(), lambda n: n.cpu().numpy()
        )

        variance = backpack.extend(model())

        def backpack_variance():
            with backpack.backpack(extensions.Variance()):
                total(variance(x), y).backward()
            gradient = [p.grad / case.batch for p in variance.parameters()]
            return gradient, taken(variance, "variance")

        yield program("moments", "BackPACK Variance", backpack_variance, lambda r: tuple(map(as_pairs, r)))
        if fits(case, "BackPACK BatchGrad, clipped"):
            batch_grad = extended(extensions.BatchGrad(), "grad_batch")

            def backpack_clipped():
                grads = batch_grad()
                # the norm of the rows' norms: over a whole gradient at once float32 loses three digits
                n = torch.stack([g.norm(dim=-1).reshape(case.batch, -1).norm(dim=-1) for g in grads]).norm(dim=0)
                c = (MAX_NORM / n).clamp(max=1.0)
                return [torch.einsum("i,i...", c, g) for g in grads]

            yield program("clipped sum", "BackPACK BatchGrad, clipped", backpack_clipped)


NOTES: list[str] = []


def note(line: str) -> None:
    """Say what is left out or chosen, once, and keep it for the file."""
    if line not in NOTES:
        NOTES.append(line)
        print(line)


def fits(case: Case, method: str) -> bool:
    """Whether the gradients of all examples may be formed at once."""
    size = case.batch * case.gradient_bytes
    if size > LARGEST_BYTES:
        note(f"{case}: {method} skipped, its per-example gradients would take {size / 1e9:.3g} GB")
    return size <= LARGEST_BYTES


def seconds_of(run: Callable[[], Any]) -> float:
    """About how long a call takes: the best of up to three, or of what 0.5 s allow."""
    best, began = float("inf"), time.perf_counter()
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(run())
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > 0.5:
            break
    return best


def validated(case: Case, program: Program, expected: dict[str, Any]) -> tuple[float, float]:
    """Compare with the reference, or stop; return the largest difference, and about how long a call takes."""
    began = time.perf_counter()
    result = jax.block_until_ready(program.run())
    once = time.perf_counter() - began
    difference = measure.largest_difference(program.comparable(result), expected[program.readout])
    if program.method == "Opacus, per sample" and TOLERANCE < difference <= TORCH_NORM_TOLERANCE:
        note(f"{case}: {program.method} is off by {difference:.2g}, as torch.norm is on long rows; timed all the same")
    elif not difference <= TOLERANCE:
        raise SystemExit(f"{case}: {program.method} is off by {difference:.2g}; nothing is timed")
    return difference, once if once > 2 * VERY_SLOW else seconds_of(program.run)


def measure_one(widths: tuple[int, ...], batch: int, missing: set[str], seconds: float) -> list[dict]:
    """Validate, then time, every method at one size."""
    case = make_case(widths, batch)
    expected = reference(case)
    clipped = float(np.mean(expected["norms"] > MAX_NORM))
    programs = list(jax_programs(case))
    if "jax_privacy" not in missing:
        programs.append(jax_privacy_program(case))
    if "torch" not in missing:
        programs += torch_programs(case, missing)
    checked = {p.method: validated(case, p, expected) for p in programs}
    # Apart: PyTorch, whose idle threads spin for a while, and what is slow. Each beside the plain gradients.
    own = {"JAX": "jax.grad", "PyTorch": "torch backward"}
    times, of = {}, {p.method: p for p in programs}
    for framework in own:
        for slowness, rounds in ROUNDS.items():
            group = [p for p in programs if p.framework == framework and slowness_of(checked[p.method][1]) == slowness]
            if group:
                beside = ["jax.grad", own[framework], *(p.method for p in group)]
                timed = measure.in_turn({m: of[m].run for m in dict.fromkeys(beside)}, seconds / (1 + slowness), rounds)
                times |= {p.method: timed for p in group}
    grad = of["jax.grad"]
    return [
        {
            "network": "-".join(map(str, widths)),
            "batch": batch,
            "readout": p.readout,
            "method": p.method,
            "ms": 1e3 * measure.median(times[p.method][p.method]),
            "times_jax_grad": measure.ratio(times[p.method], p.method, "jax.grad"),
            "times_own": measure.ratio(times[p.method], p.method, own[p.framework]),
            "temporary_MB": None if p.temporary_bytes is None else p.temporary_bytes / 1e6,
            "temporary_ratio": None if p.temporary_bytes is None else p.temporary_bytes / (grad.temporary_bytes or 1),
            "difference": checked[p.method][0],
            "rounds": len(times[p.method][p.method]),
            "clipped_share": clipped,
        }
        for p in sorted(programs, key=lambda p: READOUTS.index(p.readout))
    ]


READOUTS = ("gradient", "clipped sum", "norms", "moments")


def slowness_of(once: float) -> int:
    return (once > SLOW) + (once > VERY_SLOW)


# The picture

COLORS = {"jaxbackprop": "#4269d0", "other JAX": "#97bbf5", "PyTorch": "#efb118"}


def family(method: str) -> str:
    if method.startswith("jbp."):
        return "jaxbackprop"
    return "PyTorch" if method.split(",")[0].split()[0] in ("torch", "Opacus", "BackPACK") else "other JAX"


def plot(rows: list[dict], path) -> None:
    """A panel for each network at its largest batch: each method's time over its framework's plain gradient."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = {(r["readout"], r["method"]): None for r in sorted(rows, key=lambda r: READOUTS.index(r["readout"]))}
    at, y, headings = {}, 0.0, {}
    for readout, method in names:
        if readout not in headings:
            y += 0.6
            headings[readout] = y
            y += 1
        at[method] = y
        y += 1
    networks = list(dict.fromkeys(r["network"] for r in rows))
    figure = Figure(figsize=(4.2 + 2.9 * len(networks), 0.25 * y + 1.2), layout="constrained")
    axes = figure.subplots(1, len(networks), squeeze=False, sharey=True, sharex=True)[0]
    largest = max(r["times_own"] for r in rows)
    for axis, network in zip(axes, networks, strict=True):
        batch = max(r["batch"] for r in rows if r["network"] == network)
        here = {r["method"]: r["times_own"] for r in rows if (r["network"], r["batch"]) == (network, batch)}
        axis.axvline(1, color="#888", linewidth=0.8, zorder=0)
        for method, position in at.items():
            color, value = COLORS[family(method)], here.get(method)
            if value is None:
                axis.text(
                    1.12,
                    position,
                    f"over {LARGEST_BYTES / 1e9:g} GB",
                    va="center",
                    fontsize=8,
                    color="#888",
                    style="italic",
                )
                continue
            axis.plot([1, value], [position, position], color=color, linewidth=2.4, solid_capstyle="butt")
            axis.plot([value], [position], "o", color=color, markersize=6)
            text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            axis.annotate(
                text,
                (max(value, 1), position),
                (7, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                fontweight="bold" if family(method) == "jaxbackprop" else "normal",
            )
        axis.set(xscale="log", title=f"{network}\nbatch {batch:,}", xlim=(0.25, 3 * largest))
        axis.title.set_fontsize(10)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.8, zorder=-1)
        axis.set_axisbelow(True)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes[0].set_yticks([*headings.values(), *at.values()], [*headings, *at], fontsize=9)
    for label in axes[0].get_yticklabels()[: len(headings)]:
        label.set_fontweight("bold")
    axes[0].set_ylim(y, 0)
    said = "time, as a multiple of the same framework's plain gradient (log scale)"
    axes[len(axes) // 2].set_xlabel(said, fontsize=10)
    handles = [Line2D([], [], color=c, marker="o", linewidth=2.4, label=name) for name, c in COLORS.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    measure.save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size, a fifth of the time; writes nothing")
    quick = parser.parse_args().quick
    missing = {name for name in PEERS if importlib.util.find_spec(name) is None}
    for name in sorted(missing):
        note(f"{name} is not installed: skipped (pip install {DISTRIBUTIONS.get(name, name)})")
    sizes = [((64, 128, 128, 10), 64)] if quick else [(w, b) for w, batches in SIZES.items() for b in batches]
    rows = []
    with jax.default_matmul_precision("highest"):
        for widths, batch in sizes:
            began = time.perf_counter()
            rows += measure_one(widths, batch, missing, seconds=1.0 if quick else 3.0)
            print(f"{'-'.join(map(str, widths))}, batch {batch:,}: {time.perf_counter() - began:.0f} s")
    shown = [{k: v for k, v in row.items() if k not in ("difference", "rounds", "clipped_share")} for row in rows]
    measure.show("Per-example readouts: time and temporary memory beside one plain gradient (medians, in turn)", shown)
    if not quick:
        versions = {n: importlib.metadata.version(DISTRIBUTIONS.get(n, n)) for n in PEERS if n not in missing}
        path = measure.save("per_example", rows, peers=versions, notes=NOTES)
        plot(rows, path.with_suffix(".png"))
        print(f"{path} and .png")


if __name__ == "__main__":
    main()
