"""Is the hand-derived gradient as fast as jax.grad? Over width, batch and dtype, on the device that is here.

    python experiments/gradient_benchmark.py [--quick] [--out FOLDER]

The network is the exercise's wiring, width-width-width-width. jax.grad differentiates the same network written plainly.
Both are called as a user would, jitted, with defaults: value_and_grad chooses its own tiles. They are compared and timed as in
accelerator_benchmark.py: with float64, and with calls that are queued.
"""

from functools import partial

import measure
from accelerator_programs import HAND
from cases import network
from contest import BASELINE, Group, measured_at
from matplotlib.figure import Figure

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
BATCHES = {1: "#cfe2f3", 32: "#9ecae9", 1024: "#6a9fd8", 16384: "#4269d0", 131072: "#2b4590", 1048576: "#101a4a"}
DTYPES = ("float32", "bfloat16")
FIGURES = {"error": "difference", "ms": "ms", "compile_s": "compile_s", "temporary_MB": "temporary_MB"}
LARGEST = 2**24  # width x batch, and
LARGEST_WORK = 2**31  # width x width x batch: what two CPU cores do in reasonable time


def measure_one(size: tuple[int, int, str], seconds: float) -> dict:
    """Validate, then time, one size: width, batch and dtype."""
    width, batch, dtype = size
    rows = measured_at(Group(network((width,) * 4), dtype, batch, (HAND,)), seconds)
    for row in rows.values():
        if row["reason"]:
            raise SystemExit(f"width {width}, batch {batch}, {dtype}: {row['method']}: {row['reason']}")
    hand, auto = rows[HAND.name], rows[BASELINE]
    found = {"width": width, "batch": batch, "dtype": dtype, "times_faster": hand["times_faster"]}
    for column, figure in FIGURES.items():
        found |= {f"hand_{column}": hand[figure], f"jax_grad_{column}": auto[figure]}
    return found


def plot(rows: list[dict]) -> Figure:
    """The ratio over the width, a line for each batch, a panel for each dtype."""
    dtypes = [dtype for dtype in DTYPES if any(row["dtype"] == dtype for row in rows)]
    figure = Figure(figsize=(4.6 * len(dtypes), 3.6))
    axes = figure.subplots(1, len(dtypes), squeeze=False, sharey=True)[0]
    for axis, dtype in zip(axes, dtypes, strict=True):
        for batch, color in BATCHES.items():
            line = [(r["width"], r["times_faster"]) for r in rows if (r["dtype"], r["batch"]) == (dtype, batch)]
            axis.plot(*zip(*line, strict=True), "o-", color=color, label=f"batch {batch:,}")
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="width of every layer", title=dtype)
        measure.ticks(axis.yaxis, (0.5, 1, 2, 5, 10, 20))
        measure.ticks(axis.xaxis, WIDTHS[::2])
    axes[0].set_ylabel("times faster than jax.grad")
    axes[0].legend()
    return figure


def main() -> None:
    given = measure.arguments(__doc__, "a few sizes, a third of the time: half a minute")
    sizes = [
        (w, b, d) for d in DTYPES for w in WIDTHS for b in BATCHES if w * b <= LARGEST and w * w * b <= LARGEST_WORK
    ]
    sizes = sizes[::15] if given.quick else sizes
    seconds = 0.3 if given.quick else 1.0
    rows = [
        measure_one(size, seconds) for size in measure.followed(sizes, "width {0[0]:,}, batch {0[1]:,}, {0[2]}".format)
    ]
    measure.show("hand-derived gradient against jax.grad (medians, run in turn; above 1 is faster)", rows)
    measure.publish(given, "gradient", rows, partial(plot, rows))


if __name__ == "__main__":
    main()
