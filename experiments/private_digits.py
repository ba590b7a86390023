"""What does privacy cost? Held-out accuracy on the digits against epsilon, trained by DP-SGD.

    python experiments/private_digits.py [--quick] [--out FOLDER]

The settings are those of `jaxbackprop train --private`; noise is calibrated for each epsilon at delta 1e-5. Three seeds,
each with its own split. Abadi et al. 2016, "Deep learning with differential privacy". The noise comes from these seeds, so that
anyone can repeat the figures: the digits are public, and nobody is protected here.
"""

import warnings
from collections.abc import Callable
from functools import partial

import jax
import measure
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxbackprop as jbp
from jaxbackprop import data
from jaxbackprop.training import accounting

DELTA, MAX_NORM, EPOCHS, BATCH_SIZE, RATE = 1e-5, 1.0, 60, 256, 0.003
NETWORK = jbp.skip_mlp((64, 64, 64, 10), bias=True)
LOSS = "softmax_cross_entropy"
EPSILONS = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, None]  # None is no privacy at all


def accuracies(seeds: range, epochs: int, noise_multiplier: float | None) -> list[float]:
    """Train on each seed's split, measure on its held-out fifth."""
    gradient = "hand" if noise_multiplier is None else jbp.private_gradient(MAX_NORM, noise_multiplier)
    found = []
    for seed in seeds:
        digits = data.load("digits", seed=seed)
        settings = {"epochs": epochs, "batch_size": BATCH_SIZE, "key": jax.random.key(seed), "gradient": gradient}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "key comes from a small integer")
            state, _ = jbp.fit(NETWORK, LOSS, optax.adam(RATE), digits.train, **settings)
        found.append(jbp.evaluate(NETWORK, LOSS, state.params, (digits.x_test, digits.y_test))["accuracy"])
    return found


def compare(epsilons: list, epochs: int, ways: dict[str, Callable[[float | None], list[float]]]) -> list[dict]:
    """A row for each epsilon: the noise that it asks for, and the accuracies of each way to train with that."""
    plan, rows = accounting.Plan(len(data.load("digits").x_train), BATCH_SIZE, epochs), []
    for epsilon in epsilons:
        noise = None if epsilon is None else accounting.calibrate(plan, epsilon, DELTA)
        spent = None if noise is None else accounting.spent(plan, noise, DELTA).epsilon
        row = {"epsilon": epsilon, "spent": spent, "noise_multiplier": noise or 0.0}
        rows.append(row | {name: way(noise) for name, way in ways.items()})
    return rows


def summary(accuracies: list[float]) -> dict[str, float]:
    """Of the seeds."""
    return {"accuracy": float(np.mean(accuracies)), "lowest": min(accuracies), "highest": max(accuracies)}


def draw(axis: Axes, epsilons: list, found: list[dict], color: str, label: str) -> None:
    """Summaries over epsilon, of which the last is without privacy: a line, its range, and a dashed height."""
    low, mean, high = (100 * np.array([row[of] for row in found]) for of in ("lowest", "accuracy", "highest"))
    private = epsilons[:-1]
    axis.fill_between(private, low[:-1], high[:-1], color=color, alpha=0.15, linewidth=0)
    axis.plot(private, mean[:-1], "o-", color=color, label=label)
    axis.axhline(mean[-1], color=color, linewidth=1, linestyle="--")


def style(axis: Axes, epsilons: list) -> None:
    """What is around the lines."""
    axis.plot([], [], color="gray", linewidth=1, linestyle="--", label="not private")
    axis.axhline(10, color="gray", linewidth=1, linestyle=":")
    measure.said_above(axis, "guessing", 10)
    axis.set(
        xscale="log", xlabel="ε spent (smaller protects more), δ = 1e-5", ylabel="held-out accuracy (%)", ylim=(0, 102)
    )
    measure.ticks(axis.xaxis, epsilons[:-1])
    axis.grid()
    axis.legend(fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.14))


def plot(rows: list[dict]) -> Figure:
    """Accuracy over epsilon, with the range of the seeds."""
    figure = Figure(figsize=(5.6, 3.6))
    axis, epsilons = figure.subplots(), [row["epsilon"] for row in rows]
    draw(axis, epsilons, rows, "#4269d0", "private, mean and range")
    style(axis, epsilons)
    return figure


def main() -> None:
    given = measure.arguments(__doc__, "one epsilon, one seed")
    way = partial(accuracies, range(1 if given.quick else 3), EPOCHS)
    found = compare([3.0, None] if given.quick else EPSILONS, EPOCHS, {"dense": way})
    rows = [{key: row[key] for key in row if key != "dense"} | summary(row["dense"]) for row in found]
    measure.show("Held-out accuracy on the digits against epsilon", rows)
    measure.publish(given, "private_digits", rows, partial(plot, rows))


if __name__ == "__main__":
    main()
