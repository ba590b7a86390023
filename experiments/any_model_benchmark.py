"""What do per-example readouts of any model cost, beside a plain gradient and beside others' ways? By model.

    python experiments/any_model_benchmark.py [--only PATTERN] [--minutes M]
    python experiments/any_model_benchmark.py --quick --out /tmp/here

The models are those of any_models.py: plain JAX, a loss of one example. Each is read by `jbp.factored(loss)`, by
`vmap(jax.grad(loss))`, and its clipped sum by jax_privacy at the best of several microbatch sizes. All are compared before
they are timed, in turn, beside the plain gradient of the mean loss. The most telling comes first, and figures are written as
soon as they are there. What others publish is printed beside: their ratios, on their machines.
"""

import argparse
import importlib
import importlib.util
import re
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import any_models as models
import jax
import jax.numpy as jnp
import measure
import numpy as np
import rivals

import jaxbackprop as jbp

MAX_NORM = 0.1  # below the norms of nearly all examples: each norm then matters in the sum
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
MICROBATCHES = (1, 4, 16, 64, None)  # None: all examples at once
CLIPPED, NORMS, NOISE = "clipped sum", "norms", "noise scale"
PLAIN, OURS, VMAP, PRIVACY = "jax.grad of the mean", "jbp.factored", "vmap(jax.grad)", "jax_privacy"
FAILURES = (RuntimeError, MemoryError, ValueError, TypeError, NotImplementedError)


class Size(NamedTuple):
    """A model, and how many examples."""

    name: str
    make: Callable[[], models.Model]
    batch: int
    dtype: str = "float32"


def sizes(device: str) -> list[Size]:
    """The most telling first. On an accelerator larger batches, and larger models."""
    if device == "quick":
        return [Size("LSTM, tiny", partial(models.lstm, 16, 8, vocabulary=100), 8)]
    more = 1 if device == "cpu" else 8
    gpt, gpt2 = partial(models.gpt, layers=4), partial(models.gpt, 768, 12, vocabulary=50257)
    everywhere = [
        Size("GPT d=128, T=64", partial(gpt, 128, positions=64), 32 * more),
        Size("ResNet, GroupNorm", models.resnet, 64 * more),
        Size("ViT, 32×32", models.vit, 32 * more),
        Size("LoRA on GPT d=256, T=64", partial(models.lora, 256, 4, 64), 16 * more),
        Size("LSTM d=128, T=64", models.lstm, 64 * more),
        Size("GPT d=256, T=64", partial(gpt, 256, positions=64), 16 * more),
        Size("GPT d=128, T=128", partial(gpt, 128, positions=128), 16 * more),
    ]
    if device == "cpu":
        return everywhere
    large = [Size(f"GPT-2 124M, T={t}", partial(gpt2, positions=t), b, "bfloat16") for t, b in GPT2.items()]
    return [*large[:2], *everywhere, large[2], Size("GPT d=128, T=1024", partial(gpt, 128, positions=1024), 16)]


GPT2 = {128: 64, 512: 16, 1024: 8}  # positions, and how many examples

# From the papers, on their machines, with their models. Throughput is relative to plain training, time is one over it.
PUBLISHED = [
    {"method": m, "model": model, "published": says, "times_plain": times, "source": source}
    for m, model, says, times, source in (
        ("book-keeping", "GPT2", "throughput 0.80", "1.25", "Bu et al. 2023, figures 4 and 5"),
        ("book-keeping", "RoBERTa-large", "throughput 0.70 to 0.76", "1.32 to 1.43", "the same"),
        ("book-keeping", "BEiT-large", "throughput 0.70 to 0.75", "1.33 to 1.43", "the same"),
        ("book-keeping", "VGG11 at 224×224", "throughput 0.50", "2.0", "the same"),
        ("ghost clipping", "GPT2", "throughput 0.61", "1.64", "the same"),
        ("mixed ghost clipping", "ResNet, CIFAR10", "time 2.4 to 3.0", "2.4 to 3.0", "Bu et al. 2022, table 4"),
        ("ghost clipping", "BERT", "time 1.2 to 1.4", "1.2 to 1.4", "Opacus"),
    )
]


# The programs, each a function of the loss' own arguments


def plain(model: models.Model, _readout: str) -> Callable:
    def mean(*args):
        return jnp.mean(jax.vmap(model.loss, (None, *model.in_axes))(*args))

    return jax.grad(mean)


def ours(model: models.Model, readout: str) -> Callable:
    sweep = jbp.factored(model.loss, in_axes=model.in_axes)

    def read(*args):
        fg = sweep(*args)[1]
        if readout == NOISE:
            return comparable(jbp.noise_scale(fg))
        return jbp.norms(fg) if readout == NORMS else jbp.total(jbp.clip(fg, MAX_NORM))

    return read


def comparable(noise: jbp.variance.NoiseScale):
    """Not |G|² itself, a small difference of large numbers, but what it is the difference of."""
    return noise.trace, noise.trace + noise.squared_norm


def vmapped(model: models.Model, readout: str) -> Callable:
    """What one writes without us: all gradients, squared, scaled, summed."""
    gradients = rivals.per_example_gradients(model.loss, (None, *model.in_axes))

    def read(*args):
        grads = gradients(*args)
        if readout == CLIPPED:
            return rivals.clipped_sum(grads, MAX_NORM)
        squares = rivals.squared_norms(grads)
        return trace_of(grads, squares) if readout == NOISE else jnp.sqrt(squares)

    return read


def trace_of(grads, squares):
    """tr(Σ), and the examples' mean squared norm."""
    of_mean = sum(jnp.sum(jnp.square(jnp.mean(g, 0, dtype=jnp.float32))) for g in jax.tree.leaves(grads))
    return (jnp.mean(squares) - of_mean) * len(squares) / (len(squares) - 1), jnp.mean(squares)


def privacy(model: models.Model, _readout: str, microbatch: int | None) -> Callable:
    warnings.filterwarnings("ignore", "optax.global_norm is deprecated")
    batched = tuple(1 + i for i, axis in enumerate(model.in_axes) if axis is not None)
    clipped = importlib.import_module("jax_privacy").clipped_grad(
        model.loss,
        l2_clip_norm=MAX_NORM,
        batch_argnums=batched,
        keep_batch_dim=False,
        microbatch_size=microbatch,
    )
    return lambda *args: clipped(*args)


# Measuring


class Built(NamedTuple):
    """A compiled program: the seconds of tracing and compiling, and the bytes beside its arguments."""

    run: Callable[..., Any]
    seconds: float
    temporary_bytes: int
    output_bytes: int


def build(function: Callable, args: tuple) -> Built:
    """Trace and compile from nothing. Arguments may be shapes: nothing runs."""
    jax.clear_caches()
    began = time.perf_counter()
    run = jax.jit(function).lower(*args).compile()
    seconds, memory = time.perf_counter() - began, run.memory_analysis()
    assert memory is not None
    return Built(run, seconds, memory.temp_size_in_bytes, memory.output_size_in_bytes)


def fitting(function: Callable, args: tuple) -> Built:
    """Build it, or refuse what the device has no memory for."""
    built = build(function, args)
    measure.require_memory(built.temporary_bytes + built.output_bytes)
    return built


def best_microbatch(model: models.Model, args: tuple, batch: int) -> tuple[Built, str]:
    """Try several, until one is much slower than the best."""
    tried: dict[Any, tuple[float, Built]] = {}
    for size in MICROBATCHES:
        if size is not None and (batch % size or size == batch):
            continue
        try:
            built = fitting(privacy(model, CLIPPED, size), args)
        except FAILURES as error:
            if not tried and size is None:
                raise
            print(f"jax_privacy, microbatches of {size or batch}: {measure.reason(error)}")
            continue
        tried[size or batch] = measure.best_of(partial(built.run, *args), times=2), built
        if len(tried) > 1 and list(tried.values())[-1][0] > 2 * min(seconds for seconds, _ in tried.values()):
            break
    best = min(tried, key=lambda size: tried[size][0])
    return tried[best][1], f"microbatch {best} of {', '.join(map(str, tried))}"


def methods(readout: str) -> dict[str, Callable]:
    peers: dict[str, Callable] = {VMAP: vmapped}
    if readout == CLIPPED and importlib.util.find_spec("jax_privacy"):
        peers[PRIVACY] = privacy
    return {PLAIN: plain, OURS: ours} | peers


def cost(size: Size, readout: str, seconds: float, say: Callable) -> list[dict]:
    """A row for each method of one readout; with the reason where there is no time."""
    about = {"model": size.name, "batch": size.batch, "dtype": size.dtype, "readout": readout}
    model = size.make().cast(size.dtype)
    args = (model.params, *model.shared, *model.examples(size.batch))
    rows, built, results = {}, {}, {}
    for name, method in methods(readout).items():
        say(f"{size.name}, {readout}: {name}")
        row = rows[name] = about | {"method": name, "reason": None, "note": ""}
        try:
            if method is privacy:
                built[name], row["note"] = best_microbatch(model, args, size.batch)
            else:
                built[name] = fitting(method(model, readout), args)
            results[name] = jax.device_get(built[name].run(*args))
        except FAILURES as error:
            built.pop(name, None)
            row["reason"] = measure.reason(error)
    rows[OURS]["note"] = formed(model, args)
    validate(rows, built, results, TOLERANCE[size.dtype])
    try:
        time_all(rows, built, args, seconds)
    except FAILURES as error:
        for name in built:
            rows[name]["reason"] = f"while timing: {measure.reason(error)}"
    print(summary(size, readout, rows))
    return list(rows.values())


def summary(size: Size, readout: str, rows: dict[str, dict]) -> str:
    """One line: times the plain gradient."""
    times = {name: row.get("times_plain") or row["reason"] for name, row in rows.items() if name != PLAIN}
    figures = ", ".join(f"{name} {measure.figure(value)}" for name, value in times.items())
    return f"{size.name}, {size.batch} examples, {readout}, times a plain gradient: {figures}"


def formed(model: models.Model, args: tuple) -> str:
    """Which parameters' gradients are formed, as they could not be followed."""
    axes = (None, *model.in_axes)
    one = [a if axis is None else jax.tree.map(lambda a: a[0], a) for axis, a in zip(axes, args, strict=True)]
    found = [row.parameter for row in jbp.explain(model.loss)(*one).rows if row.use.startswith("formed")]
    return f"formed: {', '.join(dict.fromkeys(found))}" if found else ""


def validate(rows: dict[str, dict], built: dict[str, Built], results: dict[str, Any], allowed: float) -> None:
    """Each against vmap(jax.grad), or jax_privacy where that does not fit; what is off is not timed."""
    reference = next((name for name in (VMAP, PRIVACY) if name in results), None)
    for name in results.keys() - {PLAIN}:
        off = None if reference is None else measure.largest_difference(results[name], results[reference])
        rows[name]["difference"] = off
        if off is None or not off <= allowed:
            rows[name]["reason"] = "nothing to compare with" if off is None else f"WRONG by {off:.2g}: not timed"
            del built[name]


def time_all(rows: dict[str, dict], built: dict[str, Built], args: tuple, seconds: float) -> None:
    """Each in turn, after two calls that do not count."""
    times = measure.in_turn({n: partial(b.run, *args) for n, b in built.items()}, seconds, rounds=7, fewest=3)
    for name, program in built.items():
        rows[name] |= {
            "ms": 1e3 * measure.median(times[name]),
            "times_plain": measure.ratio(times, name, PLAIN) if PLAIN in times else None,
            "temporary_MB": program.temporary_bytes / 1e6,
            "temporary_ratio": program.temporary_bytes / built[PLAIN].temporary_bytes if PLAIN in built else None,
            "compile_s": program.seconds,
            "rounds": len(times[name]),
        }


def compilation(name: str, make: Callable[[], models.Model], batch: int, say: Callable) -> list[dict]:
    """Tracing and compiling the clipped sum of a deep model."""
    model, rows = make(), []
    args = (model.params, *model.shared, *model.examples(batch))
    for method, function in {PLAIN: plain, OURS: ours, VMAP: vmapped}.items():
        say(f"{name}: compiling {method}")
        rows.append({"model": name, "method": method, "compile_s": build(function(model, CLIPPED), args).seconds})
    return rows


def largest_batches(size: Size, budget: float, say: Callable) -> list[dict]:
    """How many examples a clipped sum takes within so many bytes, by what the compiler says; nothing runs."""
    model, rows = size.make().cast(size.dtype), []

    def bytes_of(method, batch):
        examples = jax.eval_shape(lambda: model.examples(batch))
        built = build(method(model, CLIPPED), (model.params, *model.shared, *examples))
        return built.temporary_bytes + built.output_bytes

    for name, method in {OURS: ours, VMAP: vmapped}.items():
        say(f"{size.name}: the largest batch of {name}")
        batch = largest(lambda b, method=method: bytes_of(method, b) <= budget)
        rows.append({"model": size.name, "method": name, "budget_GB": budget / 1e9, "largest_batch": batch})
    return rows


def largest(fits: Callable[[int], bool]) -> int:
    """By doubling, then by bisection, to an eighth below the true one."""
    low, high = 0, 8
    while fits(high):
        low, high = high, 2 * high
    while high - low > max(1, low // 8):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# The picture, and the command


def plot(rows: list[dict], path: Path) -> None:
    """A bar for each model and method: the time, and the temporaries, over the plain gradient's."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["readout"] == CLIPPED and row["method"] != PLAIN]
    names = {row["model"]: f"{row['model']}\nbatch {row['batch']}, {row['dtype']}" for row in rows}
    figure = Figure(figsize=(10.5, 1.6 + 0.75 * len(names)), layout="constrained")
    panels = {"times_plain": "time", "temporary_ratio": "temporary memory"}
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (key, title) in zip(axes, panels.items(), strict=True):
        for i, (method, color) in enumerate(COLORS.items()):
            found = {row["model"]: row for row in rows if row["method"] == method}
            draw_bars(axis, [found.get(name, {}) for name in names], key, 0.27 * (i - 1), color)
        style(axis, f"{title} of the clipped sum, in plain gradients", list(names.values()))
    axes[-1].invert_yaxis()
    handles = [axes[-1].barh([0], [0], left=1, color=color, label=method) for method, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False)
    measure.save_picture(figure, path)


COLORS = {OURS: "#4269d0", VMAP: "#97bbf5", PRIVACY: "#efb118"}


def draw_bars(axis, found: list[dict], key: str, shift: float, color: str) -> None:
    """Of one method, from 1. What was not timed is a word."""
    for i, row in enumerate(found):
        value = row.get(key)
        if value:
            axis.barh(i + shift, value - 1, 0.25, left=1, color=color)
        text = f"{value:.2f}" if value and value < 10 else f"{value:.0f}" if value else (row.get("reason") or "")[:30]
        at, shade = (max(value or 1, 1), i + shift), "black" if value else "#888"
        axis.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=8, color=shade)


def style(axis, title: str, names: list[str]) -> None:
    axis.axvline(1, color="#444", linewidth=0.8)
    axis.set_xscale("log", subs=[2, 5])
    axis.set_title(title, fontsize=10)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    for of_ticks in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        of_ticks(lambda value, _: f"{value:g}")
    axis.margins(x=0.1)


def write(folder: Path, found: dict[str, list[dict]], about: dict) -> Path:
    """Figures and picture."""
    lists = {name: rows for name, rows in found.items() if rows and name != "rows"}
    path = measure.save("any_model", found["rows"], folder, stamp=about, published=PUBLISHED, **lists)
    if any(row.get("ms") and row["readout"] == CLIPPED for row in found["rows"]):
        plot(found["rows"], path.with_suffix(".png"))
    return path


def work(given: argparse.Namespace, device: str) -> Iterator[tuple[str, Callable]]:
    """(which list, function of `say`): the clipped sums, compilation and memory, then the other readouts."""
    chosen = [s._replace(dtype=given.dtype or s.dtype) for s in sizes(device) if re.search(given.only, s.name)]
    seconds, budget = (0.2, 3e5) if given.quick else (4.0, 2e9 if device == "cpu" else 2e10)
    depth, width = (1, 16) if given.quick else (12, 128)
    yield from (("rows", partial(cost, size, CLIPPED, seconds)) for size in chosen)
    if re.search(given.only, deep := f"GPT d={width}, {depth} layers"):
        yield "compilation", partial(compilation, deep, partial(models.gpt, width, depth, 64), 8)
    small = [size for size in chosen if "GPT-2" not in size.name]  # they compile soon, and this takes a dozen of times
    yield from (("largest", partial(largest_batches, size, budget)) for size in small[:2])
    yield from (("rows", partial(cost, size, readout, seconds)) for size in chosen for readout in (NORMS, NOISE))


def tables(found: dict[str, list[dict]]) -> None:
    """All that there is."""
    columns = (
        "model",
        "batch",
        "readout",
        "method",
        "ms",
        "times_plain",
        "temporary_MB",
        "temporary_ratio",
        "compile_s",
    )
    timed = [{c: row[c] for c in columns} for row in found["rows"] if row.get("ms")]
    remarks = [(r, r["reason"] or r["note"]) for r in found["rows"]]
    remarks = [
        {"model": r["model"], "readout": r["readout"], "method": r["method"], "note": n} for r, n in remarks if n
    ]
    for title, table in (
        ("Readouts: time and temporary memory beside one plain gradient (medians, in turn)", timed),
        ("Tracing and compiling the clipped sum", found["compilation"]),
        ("The largest batch within the memory, by what the compiler says", found["largest"]),
        ("Remarks", remarks),
        ("Published elsewhere: time over plain training, from their papers, on their machines", PUBLISHED),
    ):
        if table:
            measure.show(title, table)


def main(argv: list[str] | None = None) -> int:
    """Return 1 if a result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models; writes only to --out")
    parser.add_argument("--only", default="", help="the models whose name has this pattern")
    parser.add_argument("--minutes", type=float, default=np.inf, help="begin nothing new after so many")
    parser.add_argument("--dtype", choices=TOLERANCE, help="of all models; by default float32, of GPT-2 bfloat16")
    parser.add_argument("--out", type=Path, help="folder for figures and plot, experiments/results by default")
    given = parser.parse_args(argv)
    folder = given.out or (None if given.quick else measure.RESULTS)
    about, began = measure.stamp(), time.perf_counter()
    units = list(work(given, "quick" if given.quick else jax.devices()[0].platform))
    found: dict[str, list[dict]] = {"rows": [], "compilation": [], "largest": []}
    if not units:
        parser.error(f"no model has {given.only!r} in its name")
    if not importlib.util.find_spec(PRIVACY):
        print("jax_privacy is not installed: skipped (pip install jax-privacy)")
    path = None
    with measure.progress(len(units)) as say, jax.default_matmul_precision("highest"):
        for done, (kind, unit) in enumerate(units):
            if time.perf_counter() - began > 60 * given.minutes:
                print(f"{given.minutes:g} minutes are over: {len(units) - done} of {len(units)} parts left out")
                break
            found[kind] += unit(say)
            say("", steps=1)
            path = write(folder, found, about) if folder else path
    tables(found)
    print(f"{about['device']}, {time.perf_counter() - began:.0f} s" + (f"; {path} and .png" if path else ""))
    return int(any((row["reason"] or "").startswith("WRONG") for row in found["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
