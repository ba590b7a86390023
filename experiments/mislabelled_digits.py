"""Do gram and inner find mislabelled digits? Beside the loss, which anyone would try first.

    python experiments/mislabelled_digits.py [--quick] [--out FOLDER]

A twentieth of the training labels are replaced by a wrong one; a network is trained on them, and at checkpoints every
example b gets a suspicion from its gradient g_b, larger for more suspicious. T is a small trusted set, never trained on.

    loss           L_b                                      no gradient at all
    norm           |g_b|                                    self-influence is its square, K[b,b]: the same order
    inner          −g_b · mean over T of g_c                a step along g_b raises the loss on the whole of T
    harm           Σ over T of max(0, −K[b,c])              … or on some of T: harm counted, help not
    gram           −mean of K[b,c], same label              disagreement with the examples that carry b's label
    gram cosine    −mean of K[b,c]/(|g_b||g_c|), same label the same, each gradient at length 1

As many are accused as were planted, so precision is recall there; guessing has a precision of 0.05. Influence by inner
products of gradients, summed over checkpoints: Pruthi et al. 2020, "Estimating training data influence by tracing
gradient descent" (TracIn); with the Hessian, which is left out here: Koh and Liang 2017, "Understanding black-box
predictions via influence functions".
"""

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
from jaxbackprop.data import Dataset, load

NETWORK = jbp.skip_mlp((64, 64, 64, 10), bias=True)
LOSS = "softmax_cross_entropy"
OPTIMIZER = optax.adam(1e-3)
WRONG, TRUSTED = 0.05, 100
CHECKPOINTS = (0, 1, 2, 3, 5, 8, 12, 20, 40, 80)  # epochs
BRIEF = 8  # the epochs of a network that has not memorised yet
COLORS = {"loss": "#333333", "norm": "#4269d0", "inner": "#ff725c", "harm": "#efb118", "gram": "#97bbf5"}
COLORS |= {"gram cosine": "#3ca951"}


class Planted(NamedTuple):
    """Training labels of which some are wrong: which, in the order of the examples, and the trusted rows of the test."""

    labels: np.ndarray
    wrong: np.ndarray
    trusted: np.ndarray


def plant(data: Dataset, key) -> Planted:
    """Give a share WRONG of the training examples a label drawn from the nine others."""
    rows_key, shift_key, trusted_key = jax.random.split(key, 3)
    examples, classes = len(data.y_train), len(data.encoding.classes)
    rows = jax.random.choice(rows_key, examples, (round(WRONG * examples),), replace=False)
    shift = jnp.zeros(examples, int).at[rows].set(jax.random.randint(shift_key, rows.shape, 1, classes))
    trusted = jax.random.choice(trusted_key, len(data.y_test), (TRUSTED,), replace=False)
    labels = (data.y_train + np.asarray(shift, data.y_train.dtype)) % classes
    return Planted(labels, np.asarray(shift != 0), np.asarray(trusted))


@jax.jit
def suspicion(params, x, y, trusted_x, trusted_y) -> dict:
    """Every score of the docstring for every example, (b,): one sweep of each set, then contractions."""
    values, fg = jbp.per_example(NETWORK, LOSS)(params, x, y)
    _, trusted = jbp.per_example(NETWORK, LOSS)(params, trusted_x, trusted_y)
    mean = jbp.total(trusted, jnp.full(len(trusted_y), 1 / len(trusted_y)))
    norms, kernel = jbp.norms(fg), jbp.gram(fg)
    same = (y[:, None] == y) & ~jnp.eye(len(y), dtype=bool)
    return {
        "loss": values,
        "norm": norms,
        "inner": -jbp.inner(fg, mean),
        "harm": jnp.sum(jnp.maximum(-jbp.gram(fg, trusted), 0), axis=1),
        "gram": -jnp.mean(kernel, axis=1, where=same),
        "gram cosine": -jnp.mean(kernel / (norms[:, None] * norms), axis=1, where=same),
    }


def watched_training(data: Dataset, planted: Planted, key, epochs: int) -> tuple[dict[int, dict], list[dict]]:
    """Train on the planted labels; return the scores at each checkpoint, {epoch: {score: (b,)}}, and fit's history."""
    init_key, fit_key = jax.random.split(key)
    params = jbp.init(NETWORK, init_key)
    trusted = data.x_test[planted.trusted], data.y_test[planted.trusted]
    untouched = np.setdiff1d(np.arange(len(data.y_test)), planted.trusted)

    def scores(params):
        return jax.tree.map(np.asarray, suspicion(params, data.x_train, planted.labels, *trusted))

    found = {0: scores(params)}

    def watch(state, row):
        if row["epoch"] in CHECKPOINTS:
            found[row["epoch"]] = scores(state.params)

    settings = {"epochs": epochs, "batch_size": 64, "key": fit_key, "params": params, "callbacks": [watch]}
    validation = data.x_test[untouched], data.y_test[untouched]
    given = data.x_train, planted.labels
    _, history = jbp.fit(NETWORK, LOSS, OPTIMIZER, given, validation=validation, **settings)
    return found, history


def precision_by_rank(score: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Of the r most suspicious examples, the share that is wrong, for r = 1 … b."""
    return np.cumsum(wrong[np.argsort(-score)]) / np.arange(1, len(wrong) + 1)


def precision(score: np.ndarray, wrong: np.ndarray) -> float:
    """The share of wrong ones among as many as there are."""
    return float(precision_by_rank(score, wrong)[wrong.sum() - 1])


def summed(found: dict[int, dict], name: str, last: int) -> np.ndarray:
    """TracIn's sum over the checkpoints after training began, up to epoch `last`."""
    return sum((scores[name] for epoch, scores in found.items() if 0 < epoch <= last), start=np.zeros(()))


Runs = list[tuple[Planted, dict[int, dict]]]  # a pair for each seed


def tabulate(runs: Runs, brief: int, last: int) -> list[dict[str, Any]]:
    """A row for each score: precision, mean and range over the seeds."""
    ways = {
        "untrained": lambda found, name: found[0][name],
        "1_epoch": lambda found, name: found[1][name],
        f"{brief}_epochs": lambda found, name: found[brief][name],
        f"{brief}_epochs,_summed": lambda found, name: summed(found, name, brief),
        f"{last}_epochs": lambda found, name: found[last][name],
    }

    def precisions(name, score):
        return measure.spread([precision(score(found, name), planted.wrong) for planted, found in runs])

    return [{"score": name} | {way: precisions(name, score) for way, score in ways.items()} for name in COLORS]


def plot(data: Dataset, runs: Runs) -> Figure:
    """Precision over recall; precision over training; the ten most suspicious digits of the first seed, by two scores."""
    figure = Figure(figsize=(10, 7.4))
    curves, digits = figure.subfigures(2, 1, height_ratios=(3.8, 3), squeeze=False)[:, 0]
    by_rank, over_training = curves.subplots(1, 2).ravel()
    for name, color in COLORS.items():
        draw_curves(by_rank, over_training, runs, name, color)
    by_rank.set(xlabel="recall", title=f"after {BRIEF} epochs, mean of {len(runs)} seeds", xlim=(0, 1.01))
    over_training.set(xlabel="epochs trained", title="accusing as many as were planted")
    over_training.set_xscale("symlog", linthresh=1, linscale=0.5)
    measure.ticks(over_training.xaxis, list(runs[0][1]))
    measure.said_above(over_training, "guessing", WRONG)
    for axis in (by_rank, over_training):
        axis.axhline(WRONG, color="gray", linewidth=0.8, linestyle=":")
        axis.set(ylim=(-0.02, 1.03), ylabel="precision")
    curves.legend(*by_rank.get_legend_handles_labels(), loc="outside right center")
    digits.suptitle(f"the ten most suspicious after {BRIEF} epochs (green: planted; red: accused wrongly)", fontsize=11)
    for row, name in zip(digits.subplots(2, 10), ("loss", "gram cosine"), strict=True):
        row[0].set_ylabel(name)
        draw_accused(row, data, *runs[0], name)
    return figure


def draw_curves(by_rank: Axes, over_training: Axes, runs: Runs, name: str, color: str) -> None:
    """One score: its means over the seeds, and their range."""
    p = np.mean([precision_by_rank(found[BRIEF][name], planted.wrong) for planted, found in runs], axis=0)
    planted_share = np.arange(1, len(p) + 1) / runs[0][0].wrong.sum()
    by_rank.plot(p * planted_share, p, color=color, label=name)
    at = [[precision(scores[name], planted.wrong) for scores in found.values()] for planted, found in runs]
    epochs = list(runs[0][1])
    over_training.fill_between(epochs, np.min(at, axis=0), np.max(at, axis=0), color=color, alpha=0.12, lw=0)
    over_training.plot(epochs, np.mean(at, axis=0), "o-", color=color, markersize=3.5)


def draw_accused(axes, data: Dataset, planted: Planted, found: dict[int, dict], name: str) -> None:
    """As many as there are axes, the most suspicious first."""
    for axis, b in zip(axes, np.argsort(-found[BRIEF][name]), strict=False):
        color = "#1a7f37" if planted.wrong[b] else "#cf222e"
        title = f"given {planted.labels[b]}\ntrue {data.y_train[b]}"
        measure.draw_digit(axis, pixels(data, data.x_train[b]), title, color)


def pixels(data: Dataset, x: np.ndarray) -> np.ndarray:
    """A digit as it was before it was standardised."""
    return x * np.asarray(data.encoding.scale) + np.asarray(data.encoding.mean)


def main() -> None:
    given = measure.arguments(__doc__, "two seeds, briefly trained")
    data, epochs = load("digits"), BRIEF if given.quick else CHECKPOINTS[-1]
    runs, histories = [], []
    for key in jax.random.split(jax.random.key(0), 2 if given.quick else 5):
        plant_key, train_key = jax.random.split(key)
        planted = plant(data, plant_key)
        found, history = watched_training(data, planted, train_key, epochs)
        runs.append((planted, found))
        histories.append(history)
    rows = tabulate(runs, BRIEF, epochs)
    planted = int(runs[0][0].wrong.sum())
    measure.show(f"precision among the {planted} most suspicious of {len(data.y_train)}, {planted} planted", rows)
    checkpoints = [
        {"epochs": e} | {k: float(np.mean([h[e - 1][k] for h in histories])) for k in ("loss", "validation_accuracy")}
        for e in CHECKPOINTS
        if 0 < e <= epochs
    ]
    measure.show("the networks, mean over the seeds (loss on the labels as given)", checkpoints)
    more = {"seeds": len(runs), "networks": checkpoints}
    measure.publish(given, "mislabelled-digits", rows, partial(plot, data, runs), **more)


if __name__ == "__main__":
    main()
