"""What does privacy cost? Held-out accuracy on the digits against epsilon, trained by DP-SGD.

    python experiments/private_digits.py [--quick]

The settings are those of `jaxbackprop train --private`; noise is calibrated for each epsilon at delta 1e-5. Three seeds,
each with its own split. Abadi et al. 2016, "Deep learning with differential privacy". The noise comes from these seeds, so that
anyone can repeat the figures: the digits are public, and nobody is protected here.
"""

import argparse
import warnings

import jax
import measure
import numpy as np
import optax

import jaxbackprop as jbp
from jaxbackprop import data
from jaxbackprop.training import accounting

DELTA, MAX_NORM, EPOCHS, BATCH_SIZE, RATE = 1e-5, 1.0, 60, 256, 0.003
NETWORK = jbp.skip_mlp((64, 64, 64, 10), bias=True)
LOSS = "softmax_cross_entropy"


def accuracy(seed: int, gradient, epochs: int = EPOCHS) -> float:
    """Train once, measure on the held-out fifth."""
    digits = data.load("digits", seed=seed)
    train, test = (digits.x_train, digits.y_train), (digits.x_test, digits.y_test)
    settings = {"epochs": epochs, "batch_size": BATCH_SIZE, "key": jax.random.key(seed), "gradient": gradient}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "key comes from a small integer")
        state, _ = jbp.fit(NETWORK, LOSS, optax.adam(RATE), train, **settings)
    return jbp.evaluate(NETWORK, LOSS, state.params, test)["accuracy"]


def measure_all(epsilons: list[float], seeds: range) -> list[dict]:
    """A row for each epsilon, and one for no privacy at all."""
    plan = accounting.Plan(len(data.load("digits").x_train), BATCH_SIZE, EPOCHS)
    rows = []
    for epsilon in epsilons:
        noise = accounting.calibrate(plan, epsilon, DELTA)
        gradient = jbp.private_gradient(MAX_NORM, noise)
        found = [accuracy(seed, gradient) for seed in seeds]
        spent = accounting.spent(plan, noise, DELTA).epsilon
        rows.append({"epsilon": epsilon, "spent": spent, "noise_multiplier": noise, **_summary(found)})
    plain = [accuracy(seed, "hand") for seed in seeds]
    return [*rows, {"epsilon": None, "spent": None, "noise_multiplier": 0.0, **_summary(plain)}]


def _summary(accuracies: list[float]) -> dict:
    return {"accuracy": float(np.mean(accuracies)), "lowest": min(accuracies), "highest": max(accuracies)}


def plot(rows: list[dict], path) -> None:
    """Accuracy over epsilon, with the range of the seeds, and the line of no privacy."""
    from matplotlib.figure import Figure

    *private, plain = rows
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    epsilons = [row["epsilon"] for row in private]
    lowest, highest = ([100 * row[end] for row in private] for end in ("lowest", "highest"))
    axis.fill_between(epsilons, lowest, highest, color="#4269d0", alpha=0.15)
    axis.plot(epsilons, [100 * row["accuracy"] for row in private], "o-", color="#4269d0", label="private, δ = 1e-5")
    axis.axhline(100 * plain["accuracy"], color="gray", linewidth=1, label="not private")
    axis.axhline(10, color="gray", linewidth=1, linestyle=":", label="guessing")
    axis.set(xscale="log", xlabel="ε spent (smaller protects more)", ylabel="held-out accuracy (%)", ylim=(0, 102))
    axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons], minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right")
    measure.save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one epsilon, one seed; writes nothing")
    quick = parser.parse_args().quick
    rows = measure_all([3.0], range(1)) if quick else measure_all([0.25, 0.5, 1.0, 2.0, 4.0, 8.0], range(3))
    measure.show("Held-out accuracy on the digits against epsilon", rows)
    if not quick:
        path = measure.save("private_digits", rows)
        plot(rows, path.with_suffix(".png"))
        print(f"{path} and .png")


if __name__ == "__main__":
    main()
