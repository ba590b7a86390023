"""Does the gradient noise scale tell which batch size helps? Predicted from gradients, then measured.

    python experiments/noise_scale.py [--quick] [--out FOLDER]

Two measurements that share nothing but the network, the digits and plain SGD:

    the noise scale     B_noise = tr(Σ) / |G|² of the training set, along training (jbp.noise_scale)
    the batches' use    steps S until the training loss is at a target, for batches of 4 … 512, each at the best of a
                        grid of learning rates; then the law  S = S_min (1 + B_crit / B)  is fitted

McCandlish et al. 2018, "An empirical model of large-batch training", predict that B_crit is about B_noise averaged over
the steps of a large-batch run up to that loss: below it twice the batch halves the steps, above it nothing is gained.

Batches are drawn from the n training examples with replacement, so the gradient of the training loss *is* G, and
|G|² is known: the unbiased estimate, squared_norm, plus the tr(Σ)/n that it takes off for examples not seen.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxbackprop as jbp
from jaxbackprop.data import load
from jaxbackprop.training.methods import GRADIENTS
from jaxbackprop.training.steps import GradientMethod

NETWORK = jbp.skip_mlp((64, 64, 64, 10), bias=True)
LOSS = "softmax_cross_entropy"
BATCHES = (4, 8, 16, 32, 64, 128, 256, 512)
TARGETS = {0.4: "#9ecae9", 0.2: "#5f94d8", 0.1: "#3653b3", 0.05: "#1b2a6b"}
RUNS = {  # along which the noise scale is measured: batch, learning rate relative to the best of its grid, color
    "batch 512": (512, 1, "#3ca951"),
    "batch 512, quarter rate": (512, 1 / 4, "#a463f2"),
    "batch 32": (32, 1, "#ff725c"),
}
PREDICTION = "batch 512"
SEEDS = 5
ROUNDS = 64  # losses come as means over rounds of a few steps


class Curves(NamedTuple):
    """Losses of all networks at one batch size: after `steps[i]` steps, `losses[rate, seed, i]`."""

    batch: int
    rates: np.ndarray
    steps: np.ndarray
    losses: np.ndarray


def draw(steps: int, key, examples: int, batch_size: int):
    """A round: batches drawn with replacement, all of weight 1."""
    return jax.random.randint(key, (steps, batch_size), 0, examples), jnp.ones((steps, batch_size))


def rounds_of(batch: int) -> tuple[int, GradientMethod]:
    """Few steps in a round for large batches, more for small ones, which need more; and the method that draws them."""
    steps = 1 + 64 // batch
    return steps, GRADIENTS["hand"]._replace(batches=partial(draw, steps))


def learning_rates(batch: int) -> np.ndarray:
    """Five rates a factor of two apart, which move with the root of the batch; a best one at the edge is reported."""
    return 0.0125 * batch**0.5 * 2.0 ** np.arange(5)


def train_grid(data, batch: int, rates: np.ndarray, keys) -> Curves:
    """Train a network for each learning rate and seed, in one program."""
    steps, method = rounds_of(batch)
    rates_of, keys_of = jnp.repeat(jnp.asarray(rates, jnp.float32), len(keys)), jnp.tile(keys, len(rates))
    settings = {"epochs": ROUNDS, "batch_size": batch, "gradient": method}
    _, losses = jbp.fit_many(NETWORK, LOSS, optax.sgd, data, keys=keys_of, learning_rates=rates_of, **settings)
    losses = np.asarray(losses).reshape(len(rates), len(keys), ROUNDS)
    # a round's mean loss belongs to its middle
    return Curves(batch, rates, steps * (np.arange(ROUNDS) + 0.5), losses)


def first_below(steps: np.ndarray, losses: np.ndarray, target: float) -> float:
    """The step at which a loss first falls to the target, log-interpolated; inf where it never does."""
    i = int(np.argmax(losses <= target))
    if losses[i] > target or i == 0:
        return np.inf
    pair = slice(i - 1, i + 1)
    return float(np.interp(-np.log(target), -np.log(losses[pair]), steps[pair]))


def steps_to(curves: Curves, target: float) -> tuple[np.ndarray, float]:
    """Each seed's steps to the target, (seeds,), at the rate where their median is the least; and that rate.

    The loss is first smoothed by a centred mean over so many rounds that at least 320 examples are in it.
    """
    rounds = -(-320 // (rounds_of(curves.batch)[0] * curves.batch))
    window = np.ones(rounds) / rounds
    steps = np.convolve(curves.steps, window, "valid")
    losses = np.nan_to_num(curves.losses, nan=1e3, posinf=1e3)  # of networks that diverged
    needed = np.array(
        [[first_below(steps, np.convolve(c, window, "valid"), target) for c in seeds] for seeds in losses]
    )
    best = int(np.argmin(np.median(needed, axis=1)))
    return needed[best], float(curves.rates[best])


def fit_law(batches: Sequence[int], steps: np.ndarray) -> tuple[float, float]:
    """S_min and B_crit of S = S_min + S_min B_crit / B, by least squares of the relative error."""
    B = np.asarray(batches, float)
    (s_min, examples), *_ = np.linalg.lstsq(np.stack([1 / steps, 1 / (B * steps)], axis=1), np.ones(len(B)))
    return float(s_min), float(examples / s_min)


@jax.jit
def measure_noise(params, x, y):
    """Training loss, tr(Σ) and |G|² over the whole training set."""
    values, fg = jbp.per_example(NETWORK, LOSS)(params, x, y)
    scale = jbp.noise_scale(fg)
    return jnp.mean(values), scale.trace, scale.squared_norm + scale.trace / len(x)


def noise_along(data, batch: int, rate: float, keys) -> np.ndarray:
    """Step, loss and noise scale after each round of training at one rate, (3, rounds).

    Loss, tr(Σ) and |G|² are means over the seeds before the division.
    """
    steps, method = rounds_of(batch)
    settings: dict[str, Any] = {"epochs": ROUNDS, "batch_size": batch, "gradient": method}
    optimizer, runs = optax.sgd(rate), []
    for key in keys:
        rows: list = []
        watch = partial(lambda rows, state, _: rows.append(measure_noise(state.params, *data)), rows)
        jbp.fit(NETWORK, LOSS, optimizer, data, key=key, callbacks=[watch], **settings)
        runs.append(np.asarray(rows))
    loss, trace, squared_norm = np.mean(runs, axis=0).T
    return np.stack([steps * np.arange(1.0, ROUNDS + 1), loss, trace / squared_norm])


def average_until(noise: np.ndarray, target: float) -> float | None:
    """The mean noise scale over the steps until the loss is at the target; None where it never is."""
    _, loss, scale = noise
    return float(np.mean(scale[: np.argmax(loss <= target) + 1])) if (loss <= target).any() else None


def compare(grid: list[Curves], noise: dict[str, np.ndarray]) -> list[dict]:
    """A row for each target that every batch size reaches: the fitted law and the noise scale averaged until there."""
    batches, rows = [curves.batch for curves in grid], []
    for target in TARGETS:
        steps, rates = zip(*(steps_to(curves, target) for curves in grid), strict=True)
        steps = np.array(steps)
        if not np.isfinite(np.median(steps, axis=1)).all():
            continue
        s_min, b_crit = fit_law(batches, np.median(steps, axis=1))
        each = [fit_law(batches, seed)[1] for seed in steps.T]  # where it never arrives, 1 / steps is 0: no weight
        until = {name: average_until(run, target) for name, run in noise.items()}
        predicted = until[PREDICTION]
        rows.append(
            {
                "target_loss": target,
                "S_min": s_min,
                "B_crit": b_crit,
                "B_crit_of_each_seed": [round(b, 1) for b in sorted(each)],
                "B_noise": until,
                "B_noise/B_crit": None if predicted is None else predicted / b_crit,
                "steps": np.median(steps, axis=1).round(1).tolist(),
                "learning_rates": [round(rate, 4) for rate in rates],
                "batches_best_at_the_edge_of_their_grid": [
                    c.batch for c, rate in zip(grid, rates, strict=True) if rate in (c.rates[0], c.rates[-1])
                ],
            }
        )
    return rows


def table(rows: list[dict]) -> list[dict]:
    """What of the rows fits on a screen."""
    return [
        {key: row[key] for key in ("target_loss", "S_min", "B_crit", "B_noise/B_crit")}
        | {"of_single_seeds": measure.spread(row["B_crit_of_each_seed"], 0)}
        | {f"B_noise, {name}": value for name, value in row["B_noise"].items()}
        for row in rows
    ]


def plot(rows: list[dict], batches: Sequence[int], noise: dict[str, np.ndarray]) -> Figure:
    """The noise scale over training, with what the batches' use says; steps over batch, with the fits."""
    figure = Figure(figsize=(11, 4.6))
    over_training, over_batch = figure.subplots(1, 2)
    draw_noise(over_training, rows, noise)
    draw_steps(over_batch, rows, batches)
    for axis in (over_training, over_batch):
        axis.legend(fontsize=8)
    return figure


def draw_noise(axis: Axes, rows: list[dict], noise: dict[str, np.ndarray]) -> None:
    """Over the loss, which falls to the right; at the targets what was predicted, and what was measured."""
    for name, (_, loss, scale) in noise.items():
        axis.plot(loss, scale, ".", color=RUNS[name][2], markersize=4, alpha=0.6, label=f"$B_{{noise}}$, {name}")
    targets, crit = ([row[key] for row in rows] for key in ("target_loss", "B_crit"))
    label = f"$B_{{noise}}$ averaged until there, {PREDICTION}: the prediction"
    axis.plot(targets, [row["B_noise"][PREDICTION] for row in rows], "s", color=RUNS[PREDICTION][2], label=label)
    for row in rows:
        ends = row["B_crit_of_each_seed"]
        axis.vlines(row["target_loss"], min(ends), max(ends), color="black", linewidth=1.3)
    axis.plot(targets, crit, "o", color="black", label="$B_{crit}$ measured by training (line: single seeds)")
    axis.set(xscale="log", yscale="log", xlabel="training loss", ylabel="examples", title="noise scale over training")
    axis.set(xlim=(2.5, 0.02), ylim=(10, 20000))
    measure.ticks(axis.xaxis, (2, 1, 0.4, 0.2, 0.1, 0.05, 0.02))


def draw_steps(axis: Axes, rows: list[dict], batches: Sequence[int]) -> None:
    """What each target took at each batch size, and the law that is fitted to it."""
    B = np.geomspace(batches[0], batches[-1])
    for row in rows:
        color = TARGETS[row["target_loss"]]
        axis.plot(batches, row["steps"], "o", color=color, label=f"loss {row['target_loss']}")
        axis.plot(B, row["S_min"] * (1 + row["B_crit"] / B), color=color, linewidth=1.3)
        axis.axvline(row["B_noise"][PREDICTION], color=color, linewidth=1, linestyle="--")
    axis.plot([], [], color="gray", linewidth=1.3, label="fit of $S_{min} (1 + B_{crit} / B)$")
    axis.plot([], [], color="gray", linewidth=1, linestyle="--", label="predicted $B_{noise}$")
    axis.set(xscale="log", yscale="log", xlabel="batch size", ylabel="steps")
    axis.set_title("steps to a training loss, best learning rate")
    measure.ticks(axis.xaxis, batches)


def main() -> None:
    given = measure.arguments(__doc__, "three batch sizes, one seed")
    digits = load("digits")
    data = jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)
    keys = jax.random.split(jax.random.key(0), 1 if given.quick else SEEDS)
    batches = (BATCHES[0], BATCHES[3], BATCHES[-1]) if given.quick else BATCHES
    grid = {batch: train_grid(data, batch, learning_rates(batch), keys) for batch in batches}
    noise = {
        name: noise_along(data, batch, factor * steps_to(grid[batch], min(TARGETS))[1], keys)
        for name, (batch, factor, _) in RUNS.items()
        if not given.quick or name == PREDICTION
    }
    rows = compare(list(grid.values()), noise)
    measure.show("batch sizes that help: measured (B_crit) and predicted (B_noise)", table(rows))
    runs = {name: dict(zip(("step", "loss", "B_noise"), run.tolist(), strict=True)) for name, run in noise.items()}
    more = {"batches": list(grid), "seeds": len(keys), "noise": runs}
    measure.publish(given, "noise-scale", rows, partial(plot, rows, list(grid), noise), **more)


if __name__ == "__main__":
    main()
