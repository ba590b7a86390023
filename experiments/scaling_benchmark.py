"""How does the time of a gradient grow with examples, width and depth? By hand and by jax.grad, on any device.

    python experiments/scaling_benchmark.py                       # everything, into experiments/results
    python experiments/scaling_benchmark.py --quick               # seconds, writes nothing
    python experiments/scaling_benchmark.py --out /tmp/here --seconds 0.5

Three series: the exercise's own network 1-1-1-1 over the number of examples, as many as fit in memory up to 100 million;
the exercise's wiring over the width of its layers; and over its depth, every hidden layer feeding the output. The exponent
is the slope of a least-squares line through the logarithms, over the upper half of the range (of the logarithm of the size).
The gradients are compared with jax.grad in float64 before they are timed: a large batch repeats a slice of 65,536 examples.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cases
import jax
import measure
import numpy as np
from contest import BASELINE, FAILURES, full_by_default, on_device, second
from rivals import plain_loss, scalar_loss

import jaxbackprop as jbp


class Series(NamedTuple):
    """One axis: what grows, over which sizes, and the widths and the number of examples that a size stands for."""

    axis: str
    sizes: tuple[int, ...]
    shape: Callable[[int], tuple[tuple[int, ...], int]]
    title: str


EXAMPLES, BATCH, DEEP_BATCH, DEEP_WIDTH = "examples", 256, 1024, 64
SERIES = (
    Series(EXAMPLES, tuple(10**n for n in range(3, 9)), lambda n: (cases.EXERCISE, n), "1-1-1-1"),
    Series("width", tuple(2**n for n in range(12)), lambda n: ((n, n, n, n), BATCH), f"batch {BATCH}"),
    Series(
        "depth",
        tuple(2**n for n in range(7)),
        lambda n: ((DEEP_WIDTH,) * (n + 2), DEEP_BATCH),
        f"width {DEEP_WIDTH}, batch {DEEP_BATCH:,}",
    ),
)
HAND, AUTO, ELEMENTWISE = "by hand", BASELINE, "jax.grad, elementwise"


def programs(axis: str, widths: tuple[int, ...]) -> dict[str, Callable]:
    """What is timed: (params, x, y) → (value, gradient)."""
    found = {
        HAND: jbp.value_and_grad(jbp.skip_mlp(widths), cases.LOSS),
        AUTO: jax.value_and_grad(plain_loss),
    }
    return found | ({ELEMENTWISE: jax.value_and_grad(scalar_loss)} if axis == EXAMPLES else {})


def measure_size(series: Series, size: int, seconds: float, say: Callable[..., None]) -> list[dict]:
    """Validate, then time, each program at one size; a row for each, with the reason where there is no time."""
    widths, batch = series.shape(size)
    ways = programs(series.axis, widths)
    rows = {name: {"axis": series.axis, "size": size, "method": name, "reason": None} for name in ways}
    say(f"{series.axis} {size:,}")
    try:
        case = cases.make_case(cases.network(widths), batch, "float32")
        expected = cases.mean_gradient(case)
    except FAILURES as error:
        return [row | {"reason": measure.reason(error)} for row in rows.values()]
    built, allowed = {}, cases.tolerance("float32", batch)
    for name in sorted(ways, key=lambda name: name != AUTO):  # first, for what it says of the arithmetic
        try:
            program = on_device(ways[name], case, second)
            given = program.call() if full_by_default() else program.in_full()
        except FAILURES as error:
            rows[name]["reason"] = measure.reason(error)
            continue
        error = measure.relative_error(program.mean(given), expected)
        rows[name]["difference"] = error
        if name == AUTO:
            allowed = cases.tolerance("float32", batch, error)
        # a peer is timed all the same: this is what one gets from it
        if name == HAND and not error <= allowed:
            rows[name]["reason"] = f"WRONG by {error:.2g}: not timed"
            continue
        built[name] = program
    try:
        times = measure.in_turn({n: p.queue.run for n, p in built.items()}, seconds, rounds=7, fewest=3)
    except FAILURES as error:
        return [row | {"reason": row["reason"] or measure.reason(error)} for row in rows.values()]
    for name, program in built.items():
        rows[name] |= {
            "ms": 1e3 * measure.median(times[name]),
            "times_faster": measure.ratio(times, AUTO, name) if AUTO in times else None,
            "compile_s": program.compile_seconds,
            "temporary_MB": (program.temporary_bytes or 0) / 1e6,
        }
    return list(rows.values())


def exponent(sizes: list[int], times: list[float]) -> tuple[float, int] | None:
    """The least-squares slope of log time over log size, from the geometric middle of the range on; and where that is.

    None where fewer than three sizes are left to fit.
    """
    if not sizes:
        return None
    middle = (min(sizes) * max(sizes)) ** 0.5
    upper = [(size, t) for size, t in zip(sizes, times, strict=True) if size >= middle]
    if len(upper) < 3:
        return None
    log_size, log_time = np.log(np.array(upper, float)).T
    slope = np.polyfit(log_size, log_time, 1)[0]
    return float(slope), upper[0][0]


def line_of(rows: list[dict], axis: str, method: str) -> tuple[list[int], list[float]]:
    """Sizes and milliseconds of one line of the plot."""
    line = [row for row in rows if (row["axis"], row["method"]) == (axis, method) and row.get("ms")]
    return [row["size"] for row in line], [row["ms"] for row in line]


def exponents(rows: list[dict]) -> list[dict]:
    """A fit for each line."""
    found = []
    for axis, method in dict.fromkeys((row["axis"], row["method"]) for row in rows):
        fit = exponent(*line_of(rows, axis, method))
        found.append({"axis": axis, "method": method, "exponent": fit and fit[0], "fitted_from": fit and fit[1]})
    return found


def table(rows: list[dict]) -> list[dict]:
    """A line for each size: the milliseconds of each method, and what ours costs to compile."""
    lines: dict[tuple, dict] = {}
    for row in rows:
        line = lines.setdefault((row["axis"], row["size"]), {"axis": row["axis"], "size": row["size"]})
        line[f"{row['method']}, ms"] = row.get("ms") or "-"
        if row["method"] in (HAND, AUTO):
            line[f"{row['method']}, compile s"] = row.get("compile_s") or "-"
    columns = dict.fromkeys(name for line in lines.values() for name in line)
    return [{name: line.get(name) for name in columns} for line in lines.values()]


STYLES = {HAND: ("#4269d0", "o"), AUTO: ("#8a8a8a", "D"), ELEMENTWISE: ("#efb118", "s")}


def plot(rows: list[dict], path: Path) -> None:
    """A panel for each axis, both logarithmic, the fitted exponent in the legend."""
    from matplotlib.figure import Figure

    series = [s for s in SERIES if any(row["axis"] == s.axis and row.get("ms") for row in rows)]
    fits = {(fit["axis"], fit["method"]): fit for fit in exponents(rows)}
    figure = Figure(figsize=(4.6 * len(series), 4.2), layout="constrained")
    for axis, one in zip(figure.subplots(1, len(series), squeeze=False)[0], series, strict=True):
        for method, (color, marker) in STYLES.items():
            sizes, times = line_of(rows, one.axis, method)
            if not sizes:
                continue
            fit = fits[one.axis, method]
            slope = f": exponent {fit['exponent']:.2f} from {fit['fitted_from']:,} on" if fit["exponent"] else ""
            axis.plot(sizes, times, f"{marker}-", color=color, markersize=5, linewidth=1.5, label=method + slope)
        reason = next((r["reason"] for r in rows if r["axis"] == one.axis and r["reason"]), None)
        if reason:
            axis.text(
                0.98, 0.02, "some sizes did not fit", transform=axis.transAxes, ha="right", fontsize=8, color="#888"
            )
        axis.set(xscale="log", yscale="log", xlabel=one.axis, title=one.title)
        axis.title.set_fontsize(10)
        if one.axis != EXAMPLES:
            axis.set_xticks(one.sizes[::2], [f"{size:,}" for size in one.sizes[::2]])
            axis.minorticks_off()
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter("")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(color="#ececec", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.set_ylim(top=axis.get_ylim()[1] * 6)  # room for the legend
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    figure.axes[0].set_ylabel("ms for one gradient")
    measure.save_picture(figure, path)


def main(argv: list[str] | None = None) -> int:
    """Return 1 if a gradient of ours was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small size of each; writes only to --out")
    parser.add_argument("--seconds", type=float, help="of timing for each size (1.5; 0.1 with --quick)")
    parser.add_argument("--out", type=Path, help="folder for figures and plot, experiments/results by default")
    given = parser.parse_args(argv)
    seconds = given.seconds or (0.1 if given.quick else 1.5)
    folder = given.out or (None if given.quick else measure.RESULTS)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    about, began = measure.stamp(), time.perf_counter()
    work = [(s, size) for s in SERIES for size in (s.sizes[1:2] if given.quick else s.sizes)]
    rows = []
    with measure.progress(len(work)) as say:
        for series, size in work:
            rows += measure_size(series, size, seconds, say)
            say("", steps=1)
    print(
        f"{about['device']}, {about['memory_GB']} GB, {about['processor']} x {about['processors']}, jax {about['jax']}"
    )
    measure.show("Time for one gradient, float32 (medians, run in turn)", table(rows))
    fits = exponents(rows)
    measure.show("Fitted exponents: time grows as size to this power over the upper half of the range", fits)
    failed = [{k: row[k] for k in ("axis", "size", "method", "reason")} for row in rows if row["reason"]]
    if failed:
        measure.show("Not timed", failed)
    print(f"{time.perf_counter() - began:.0f} s")
    if folder is not None:
        path = measure.save("scaling", rows, folder, stamp=about, exponents=fits)
        if any(row.get("ms") for row in rows):
            plot(rows, path.with_suffix(".png"))
        print(f"{path} and .png")
    return int(any((row["reason"] or "").startswith("WRONG") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
