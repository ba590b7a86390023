"""How does the time of a gradient grow with examples, width and depth? By hand and by jax.grad, on any device.

    python experiments/scaling_benchmark.py                       # everything, into experiments/results
    python experiments/scaling_benchmark.py --quick               # seconds, writes nothing
    python experiments/scaling_benchmark.py --out /tmp/here --seconds 0.5

Three series: the exercise's own network 1-1-1-1 over the number of examples, as many as fit in memory up to 100 million;
the exercise's wiring over the width of its layers; and over its depth, every hidden layer feeding the output. The exponent
is the slope of a least-squares line through the logarithms, over the upper half of the range (of the logarithm of the size).
The gradients are compared with float64 before they are timed, as in accelerator_benchmark.py: a large batch repeats a slice of
65,536 examples, or fewer. Calls are queued, and waited for once.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import measure
import numpy as np
from accelerator_programs import HAND, elementwise
from cases import EXERCISE, network
from ceilings import GRADIENT
from contest import BASELINE, Group, Method, measured_at
from matplotlib.figure import Figure


class Series(NamedTuple):
    """One axis: what grows, over which sizes, and the widths and the number of examples that a size stands for."""

    axis: str
    sizes: tuple[int, ...]
    shape: Callable[[int], tuple[tuple[int, ...], int]]
    title: str
    methods: tuple[Method, ...] = (HAND,)


ELEMENTWISE = Method(GRADIENT, "jax.grad, elementwise", elementwise)
SERIES = (
    Series("examples", tuple(10**n for n in range(3, 9)), lambda n: (EXERCISE, n), "1-1-1-1", (HAND, ELEMENTWISE)),
    Series("width", tuple(2**n for n in range(12)), lambda n: ((n, n, n, n), 256), "batch 256"),
    Series("depth", tuple(2**n for n in range(7)), lambda n: ((64,) * (n + 2), 1024), "width 64, batch 1,024"),
)
NAMES = {HAND.name: "by hand"}
FIGURES = ("reason", "difference", "ms", "times_faster", "compile_s", "temporary_MB")
STYLES = {"by hand": ("#4269d0", "o"), BASELINE: ("#8a8a8a", "D"), ELEMENTWISE.name: ("#efb118", "s")}


def measure_size(series: Series, size: int, seconds: float) -> list[dict]:
    """Validate, then time, each program at one size; a row for each, with the reason where there is no time."""
    widths, batch = series.shape(size)
    rows = measured_at(Group(network(widths), "float32", batch, series.methods), seconds)
    return [
        {"axis": series.axis, "size": size, "method": NAMES.get(name, name)} | {f: row.get(f) for f in FIGURES}
        for name, row in rows.items()
    ]


def exponent(sizes: list[int], times: list[float]) -> tuple[float, int] | None:
    """The least-squares slope of log time over log size, from the geometric middle of the range on; and where that is.

    None where fewer than three sizes are left to fit.
    """
    middle = (min(sizes, default=0) * max(sizes, default=0)) ** 0.5
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


def plot(rows: list[dict]) -> Figure:
    """A panel for each axis, both logarithmic, the fitted exponent in the legend."""
    fits = {(fit["axis"], fit["method"]): fit for fit in exponents(rows)}
    figure = Figure(figsize=(4.6 * len(SERIES), 4.2))
    axes = figure.subplots(1, len(SERIES))
    for axis, series in zip(axes, SERIES, strict=True):
        for method, (color, marker) in STYLES.items():
            fit = fits.get((series.axis, method))
            if fit:
                slope = f": exponent {fit['exponent']:.2f} from {fit['fitted_from']:,} on" if fit["exponent"] else ""
                line = line_of(rows, series.axis, method)
                axis.plot(*line, f"{marker}-", color=color, markersize=5, label=method + slope)
        if any(row["reason"] for row in rows if row["axis"] == series.axis):
            axis.annotate("some sizes did not fit", (0.98, 0.02), xycoords="axes fraction", ha="right", color="gray")
        axis.set(xscale="log", yscale="log", xlabel=series.axis, title=series.title)
        if series.axis != "examples":
            measure.ticks(axis.xaxis, series.sizes[::2])
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter("")
        axis.grid()
        axis.set_ylim(top=axis.get_ylim()[1] * 6)  # room for the legend
        axis.legend(fontsize=8, loc="upper left")
    axes[0].set_ylabel("ms for one gradient")
    return figure


def main() -> int:
    """Return 1 if a gradient of ours was wrong."""
    parser = measure.Parser(__doc__, "one small size of each")
    parser.add_argument("--seconds", type=measure.positive, help="of timing for each size (1.5; 0.1 with --quick)")
    given = parser.given()
    seconds = given.seconds or (0.1 if given.quick else 1.5)
    work = [(series, size) for series in SERIES for size in (series.sizes[1:2] if given.quick else series.sizes)]
    rows = []
    for series, size in measure.followed(work, lambda each: f"{each[0].axis} {each[1]:,}"):
        rows += measure_size(series, size, seconds)
    fits, title = exponents(rows), "Time for one gradient, float32 (medians, run in turn)"
    measure.show(title, [r for r in rows if r["ms"]], ("axis", "size", "method", "ms", "times_faster", "compile_s"))
    measure.show("Fitted exponents: time grows as size to this power over the upper half of the range", fits)
    measure.show("Not timed", [r for r in rows if r["reason"]], ("axis", "size", "method", "reason"))
    measure.publish(given, "scaling", rows, partial(plot, rows), exponents=fits)
    return int(any((row["reason"] or "").startswith("WRONG") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
