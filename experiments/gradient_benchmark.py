"""Is the hand-derived gradient as fast as jax.grad? Over width, batch and dtype, on the device that is here.

    python experiments/gradient_benchmark.py [--quick]

The network is the exercise's wiring, width-width-width-width. jax.grad differentiates the same network written plainly.
Both are called as a user would, jitted, with defaults: value_and_grad chooses its own tiles.
"""

import argparse
from functools import partial

import jax
import measure
import numpy as np
from rivals import plain_loss

import jaxbackprop as jbp

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 32, 1024, 16384, 131072, 1048576)
DTYPES = ("float32", "bfloat16")
LARGEST = 2**24  # width x batch, and
LARGEST_WORK = 2**31  # width x width x batch: what two CPU cores do in reasonable time
COLORS = ("#cfe2f3", "#9ecae9", "#6a9fd8", "#4269d0", "#2b4590", "#101a4a")
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}


def measure_one(width: int, batch: int, dtype: str, seconds: float) -> dict:
    """Validate, then time, one size."""
    network = jbp.skip_mlp((width, width, width, width))
    params = jbp.init(network, jax.random.key(0), dtype)
    x, y = jax.random.normal(jax.random.key(1), (2, batch, width), dtype)
    functions = {
        "hand": jbp.value_and_grad(network, "half_squared_error"),
        "jax.grad": jax.jit(jax.value_and_grad(plain_loss)),
    }
    hand, auto = (measure.compiled(function, params, x, y) for function in functions.values())
    # apart from their timing: with the matrix products in full precision, both against float64
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype("float64"), (params, x, y))
        exact = jax.tree.map(np.asarray, jax.jit(jax.grad(plain_loss))(*wide))
    with jax.default_matmul_precision("highest"):
        errors = {
            name: measure.largest_difference(jax.jit(function)(params, x, y)[1], exact)
            for name, function in functions.items()
        }
    # among millions of units one has a z that rounds to the other side of 0, for jax.grad as for us
    if not errors["hand"] <= max(TOLERANCE[dtype], 4 * errors["jax.grad"]):
        raise SystemExit(
            f"width {width}, batch {batch}, {dtype}: the gradient is off by {errors['hand']:.2g}, jax.grad's by "
            f"{errors['jax.grad']:.2g}; nothing is timed"
        )
    programs = {name: partial(function, params, x, y) for name, function in functions.items()}
    times = measure.in_turn(programs, seconds, rounds=9)
    return {
        "width": width,
        "batch": batch,
        "dtype": dtype,
        "hand_error": errors["hand"],
        "jax_grad_error": errors["jax.grad"],
        "hand_ms": 1e3 * measure.median(times["hand"]),
        "jax_grad_ms": 1e3 * measure.median(times["jax.grad"]),
        "times_faster": measure.ratio(times, "jax.grad", "hand"),
        "hand_compile_s": hand.compile_seconds,
        "jax_grad_compile_s": auto.compile_seconds,
        "hand_temporary_MB": hand.temporary_bytes / 1e6,
        "jax_grad_temporary_MB": auto.temporary_bytes / 1e6,
    }


def plot(rows: list[dict], path) -> None:
    """The ratio over the width, a line for each batch, a panel for each dtype."""
    from matplotlib.figure import Figure

    dtypes = sorted({row["dtype"] for row in rows}, reverse=True)
    figure = Figure(figsize=(4.6 * len(dtypes), 3.6), layout="constrained")
    for axis, dtype in zip(figure.subplots(1, len(dtypes), squeeze=False, sharey=True)[0], dtypes, strict=True):
        for batch, color in zip(BATCHES, COLORS, strict=True):
            line = [row for row in rows if row["dtype"] == dtype and row["batch"] == batch]
            axis.plot(
                [r["width"] for r in line],
                [r["times_faster"] for r in line],
                "o-",
                color=color,
                label=f"batch {batch:,}",
            )
        axis.axhline(1, color="gray", linewidth=0.8)
        axis.set(xscale="log", yscale="log", xlabel="width of every layer", title=dtype)
        axis.set_yticks((0.5, 1, 2, 5, 10, 20), ("0.5", "1", "2", "5", "10", "20"), minor=False)
        axis.minorticks_off()
        axis.set_xticks(WIDTHS[::2], [f"{w}" for w in WIDTHS[::2]])
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("times faster than jax.grad")
    figure.axes[0].legend(frameon=False)
    measure.save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few sizes, a fifth of the time; writes nothing")
    quick = parser.parse_args().quick
    sizes = [
        (w, b, d) for d in DTYPES for w in WIDTHS for b in BATCHES if w * b <= LARGEST and w * w * b <= LARGEST_WORK
    ]
    sizes = sizes[::15] if quick else sizes
    rows = []
    with measure.progress(len(sizes)) as say:
        for width, batch, dtype in sizes:
            say(f"width {width:,}, batch {batch:,}, {dtype}")
            rows.append(measure_one(width, batch, dtype, seconds=0.3 if quick else 1.0))
            say("", steps=1)
    measure.show("hand-derived gradient against jax.grad (medians, run in turn; above 1 is faster)", rows)
    if not quick:
        path = measure.save("gradient", rows)
        plot(rows, path.with_suffix(".png"))
        print(f"{path} and .png")


if __name__ == "__main__":
    main()
