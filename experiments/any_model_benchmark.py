"""What do per-example readouts of any model cost, beside a plain gradient and beside others' ways? By model.

    python experiments/any_model_benchmark.py [--only PATTERN] [--minutes M]
    python experiments/any_model_benchmark.py --quick --out /tmp/here

The models are those of any_models.py: plain JAX, a loss of one example. Each is read by `jbp.factored(loss)`, by
`vmap(jax.grad(loss))`, and its clipped sum by jax_privacy at the best of several microbatch sizes. All are compared before
they are timed, in turn, beside the plain gradient of the mean loss. The most telling comes first, and figures are written as
soon as they are there. What others publish is printed beside: their ratios, on their machines.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import any_models as models
import jax
import jax.numpy as jnp
import measure
import numpy as np
import rivals
from contest import FAILURES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator

import jaxbackprop as jbp

MAX_NORM = 0.1  # below the norms of nearly all examples: each norm then matters in the sum
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
CLIPPED, NORMS, NOISE = "clipped sum", "norms", "noise scale"
PLAIN, OURS, VMAP, PRIVACY = "jax.grad of the mean", "jbp.factored", "vmap(jax.grad)", "jax_privacy"
COLORS = {OURS: "#4269d0", VMAP: "#97bbf5", PRIVACY: "#efb118"}


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


METHODS = {PLAIN: plain, OURS: ours, VMAP: vmapped}


# Measuring


def build(function: Callable, args: tuple) -> measure.Compiled:
    """Trace and compile from nothing. Arguments may be shapes: nothing runs."""
    jax.clear_caches()
    return measure.compiled(function, *args)


def fitting(function: Callable, args: tuple) -> measure.Compiled:
    """Build it, or refuse what the device has no memory for."""
    built = build(function, args)
    measure.require_memory(built.temporary_bytes + built.output_bytes)
    return built


def best_privacy(model: models.Model, args: tuple, batch: int) -> tuple[measure.Compiled, str]:
    """jax_privacy's clipped sum at its best microbatch size."""
    batched = tuple(1 + i for i, axis in enumerate(model.in_axes) if axis is not None)
    clipped = partial(rivals.jax_privacy, model.loss, batched, MAX_NORM)
    best, built, tried = rivals.best_microbatch(lambda size: fitting(clipped(size), args), args, batch)
    return built, f"microbatch {best or batch} of {tried}"


def cost(size: Size, readout: str, seconds: float, say: Callable) -> list[dict]:
    """A row for each method of one readout; with the reason where there is no time."""
    about = {"model": size.name, "batch": size.batch, "dtype": size.dtype, "readout": readout}
    model = size.make().cast(size.dtype)
    args = (model.params, *model.shared, *model.examples(size.batch))
    names = [*METHODS, *([PRIVACY] if readout == CLIPPED and not rivals.missing(PRIVACY) else [])]
    rows = {name: about | {"method": name, "reason": None, "note": ""} for name in names}
    built, results = {}, {}
    for name in names:
        say(f"{size.name}, {readout}: {name}")
        try:
            if name == PRIVACY:
                built[name], rows[name]["note"] = best_privacy(model, args, size.batch)
            else:
                built[name] = fitting(METHODS[name](model, readout), args)
            results[name] = jax.device_get(built[name].run(*args))
        except FAILURES as error:
            built.pop(name, None)
            rows[name]["reason"] = measure.reason(error)
    rows[OURS]["note"] = formed(model, args)
    validate(rows, built, results, TOLERANCE[size.dtype])
    try:
        time_all(rows, built, args, seconds)
    except FAILURES as error:
        for name in built:
            rows[name]["reason"] = f"while timing: {measure.reason(error)}"
    return list(rows.values())


def formed(model: models.Model, args: tuple) -> str:
    """Which parameters' gradients are formed, as they could not be followed."""
    axes = (None, *model.in_axes)
    one = [a if axis is None else jax.tree.map(lambda a: a[0], a) for axis, a in zip(axes, args, strict=True)]
    found = [row.parameter for row in jbp.explain(model.loss)(*one).rows if row.use.startswith("formed")]
    return f"formed: {', '.join(dict.fromkeys(found))}" if found else ""


def validate(
    rows: dict[str, dict], built: dict[str, measure.Compiled], results: dict[str, Any], allowed: float
) -> None:
    """Each against vmap(jax.grad), or jax_privacy where that does not fit; what is off is not timed."""
    reference = next((name for name in (VMAP, PRIVACY) if name in results), None)
    for name in results.keys() - {PLAIN}:
        off = None if reference is None else measure.largest_difference(results[name], results[reference])
        rows[name]["difference"] = off
        if off is None or not off <= allowed:
            rows[name]["reason"] = "nothing to compare with" if off is None else f"WRONG by {off:.2g}: not timed"
            del built[name]


def time_all(rows: dict[str, dict], built: dict[str, measure.Compiled], args: tuple, seconds: float) -> None:
    """Each in turn, after two calls that do not count."""
    times = measure.in_turn({n: partial(b.run, *args) for n, b in built.items()}, seconds, rounds=7, fewest=3)
    for name, program in built.items():
        rows[name] |= {
            "ms": 1e3 * measure.median(times[name]),
            "times_plain": measure.ratio(times, name, PLAIN) if PLAIN in times else None,
            "temporary_MB": program.temporary_bytes / 1e6,
            "temporary_ratio": program.temporary_bytes / built[PLAIN].temporary_bytes if PLAIN in built else None,
            "compile_s": program.compile_seconds,
            "rounds": len(times[name]),
        }


def compilation(name: str, make: Callable[[], models.Model], batch: int, say: Callable) -> list[dict]:
    """Tracing and compiling the clipped sum of a deep model."""
    model = make()
    args, rows = (model.params, *model.shared, *model.examples(batch)), []
    for method, function in METHODS.items():
        say(f"{name}: compiling {method}")
        seconds = build(function(model, CLIPPED), args).compile_seconds
        rows.append({"model": name, "method": method, "compile_s": seconds})
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


def plot(rows: list[dict]) -> Figure:
    """A bar for each model and method: the time, and the temporaries, over the plain gradient's."""
    rows = [row for row in rows if row["readout"] == CLIPPED and row["method"] in COLORS]
    names = {row["model"]: f"{row['model']}\nbatch {row['batch']}, {row['dtype']}" for row in rows}
    figure = Figure(figsize=(10.5, 1.6 + 0.75 * len(names)))
    axes = figure.subplots(1, 2, sharey=True)
    for axis, column, what in zip(axes, ("times_plain", "temporary_ratio"), ("time", "temporary memory"), strict=True):
        draw(axis, rows, list(names), column)
        axis.set_title(f"{what} of the clipped sum, in plain gradients", fontsize=10)
    axes[0].set_yticks(range(len(names)), names.values(), fontsize=9)
    axes[0].invert_yaxis()
    handles = [Patch(color=color, label=method) for method, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def draw(axis: Axes, rows: list[dict], names: list[str], column: str) -> None:
    """A bar for each row, those of a model together."""
    shifts = dict(zip(COLORS, (-0.27, 0, 0.27), strict=True))
    bars = [
        measure.Bar(
            names.index(row["model"]) + shifts[row["method"]], row.get(column), (row["reason"] or "")[:30], color
        )
        for row in rows
        for color in [COLORS[row["method"]]]
    ]
    measure.draw_ratios(axis, bars, height=0.25)
    axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    axis.xaxis.set_minor_formatter(lambda value, _: f"{value:g}")
    axis.margins(x=0.1)


def work(given: argparse.Namespace, device: str) -> Iterator[tuple[str, Callable]]:
    """(which list, function of `say`): the clipped sums, compilation and memory, then the other readouts."""
    chosen = [size for size in sizes(device) if re.search(given.only, size.name)]
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
    rows, remarked = found["rows"], [r | {"said": r["reason"] or r["note"]} for r in found["rows"]]
    costs = ("ms", "times_plain", "temporary_MB", "temporary_ratio", "compile_s")
    title = "Readouts: time and temporary memory beside one plain gradient (medians, in turn)"
    measure.show(title, [r for r in rows if r.get("ms")], ("model", "batch", "readout", "method", *costs))
    measure.show("Tracing and compiling the clipped sum", found["compilation"])
    measure.show("The largest batch within the memory, by what the compiler says", found["largest"])
    measure.show("Remarks", [r for r in remarked if r["said"]], ("model", "readout", "method", "said"))
    measure.show("Published elsewhere: time over plain training, from their papers, on their machines", PUBLISHED)


def main() -> int:
    """Return 1 if a result was wrong."""
    parser = measure.Parser(__doc__, "tiny models: a minute")
    parser.add_argument("--only", default="", metavar="PATTERN", help="the models whose name has this pattern")
    parser.add_argument("--minutes", type=measure.positive, default=np.inf, help="begin nothing new after so many")
    given, began = parser.given(), time.perf_counter()
    units = list(work(given, "quick" if given.quick else jax.devices()[0].platform))
    found: dict[str, list[dict]] = {"rows": [], "compilation": [], "largest": []}
    lists: dict[str, list[dict]] = {}
    if not units:
        parser.error(f"no model has {given.only!r} in its name")
    with measure.progress(len(units)) as say, jax.default_matmul_precision("highest"):
        for done, (kind, unit) in enumerate(units):
            if time.perf_counter() - began > 60 * given.minutes:
                print(f"{given.minutes:g} minutes are over: {len(units) - done} of {len(units)} parts left out")
                break
            found[kind] += unit(say)
            say("", steps=1)
            lists = {name: rows for name, rows in found.items() if rows and name != "rows"} | {"published": PUBLISHED}
            if given.folder:
                measure.save("any_model", found["rows"], given.folder, stamp=given.stamp, **lists)
    tables(found)
    drawn = any(row.get("ms") and row["readout"] == CLIPPED for row in found["rows"])
    draw = partial(plot, found["rows"]) if drawn else None
    measure.publish(given, "any_model", found["rows"], draw, **lists)
    return int(any((row["reason"] or "").startswith("WRONG") for row in found["rows"]))


if __name__ == "__main__":
    raise SystemExit(main())
