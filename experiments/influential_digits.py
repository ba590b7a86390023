"""Which training digits decide a test digit? By inner products of sketched gradients; then trained again without them.

    python experiments/influential_digits.py [--quick] [--out FOLDER]

A small convnet is trained by SGD. At checkpoints every digit's gradient is projected to 8 × 8 numbers for each array of
parameters (`jbp.project`), so that it is kept once, and compared with any test digit that comes later. The influence of
training digit b on test digit c is TracIn's (Pruthi et al. 2020, "Estimating training data influence by tracing gradient
descent"), summed over the checkpoints:

    influence[c, b] = Σ rate · ⟨g_c, g_b⟩ ≈ Σ rate · ⟨S_c, S_b⟩      above 0: a step on b lowers the loss of c

Two questions. Is the sketch good enough, beside the exact `jbp.gram`? And does it matter: when the 30 digits that help c most
are taken out and the network is trained anew, with other seeds, how much does the loss of c rise? Beside it the 30 by exact
influence, 30 digits of the same classes as the sketch's drawn at random, and the 30 of c's class nearest to c in pixels, for
which no network is needed.

Test digits are chosen by a rule, not by hand: the one of highest loss, and those at lower ranks down to the median.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from mislabelled_digits import pixels
from small_models import convnet, convnet_accuracy, convnet_loss, draw_convnet

import jaxbackprop as jbp
from jaxbackprop.data import Dataset, load
from jaxbackprop.training.methods import shuffled_batches

SWEEP = jbp.factored(convnet_loss)
RATE, BATCH_SIZE, EPOCHS, SEEDS = 0.05, 64, 20, 5
CHECKPOINTS = (1, 2, 4, 8, 14, 20)  # epochs
SIZE, SIZES = 8, (2, 4, 8, 16)
REMOVED = 30
RANKS = (1.0, 0.98, 0.95, 0.9, 0.75, 0.5)  # of the test digits, by their loss
COLORS = {"all": "#333333", "random": "#4269d0", "nearest": "#efb118", "helpful": "#1a7f37", "exact": "#7cc36e"}
SAID = {
    "all": "all training digits",
    "random": f"without {REMOVED} at random",
    "nearest": f"without the {REMOVED} nearest",
    "helpful": f"without the {REMOVED} that help most, by sketches",
    "exact": "the same by exact gradients",
}


# ---- training


@jax.jit
def take_step(params, x, y, rows, weight):
    """One step of SGD on the rows that have weight."""

    def loss(params):
        return jnp.dot(weight, each_loss(params, x[rows], y[rows])) / jnp.maximum(jnp.sum(weight), 1)

    return jax.tree.map(lambda W, dW: W - RATE * dW, params, jax.grad(loss)(params))


def train(x, y, kept: np.ndarray, key, epochs: int) -> list[dict]:
    """The parameters after each epoch, from 0 on; digits that are not kept have weight 0, in the same batches as ever."""
    init_key, *keys = jax.random.split(key, 1 + epochs)
    found, share = [draw_convnet(init_key)], jnp.asarray(kept, jnp.float32)
    for epoch_key in keys:
        params, (rows, weight) = found[-1], shuffle(epoch_key, len(x))
        for batch in zip(rows, weight * share[rows], strict=True):
            params = take_step(params, x, y, *batch)
        found.append(params)
    return found


@partial(jax.jit, static_argnums=1)
def shuffle(key, examples: int):
    """An epoch of batches, padded, and their weights."""
    return shuffled_batches(key, examples, BATCH_SIZE)


each_loss = jax.jit(jax.vmap(convnet_loss, (None, 0, 0)))


# ---- influence


@partial(jax.jit, static_argnames="size")
def sketches(params, x, y, size: int):
    """Every digit's gradient, projected, (b, k); the same projection each time."""
    projected = jbp.project(SWEEP(params, x, y)[1], jax.random.key(0), size)
    return jnp.concatenate([S.reshape(len(x), -1) for S in jax.tree.leaves(projected)], axis=1)


def by_sketches(size: int, params, train, test):
    """In one program, as it takes longer to compile than to run."""
    S = sketches(params, *map(jnp.concatenate, zip(train, test, strict=True)), size)
    return S[len(train[0]) :] @ S[: len(train[0])].T


@jax.jit
def exactly(params, train, test):
    return jbp.gram(SWEEP(params, *test)[1], SWEEP(params, *train)[1])


def influence(products: Callable, checkpoints: list[dict], train, test) -> np.ndarray:
    """TracIn's sum over the checkpoints, (test digits, training digits)."""
    return np.asarray(sum(RATE * products(params, train, test) for params in checkpoints))


def compare(checkpoints: list[dict], train, test, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    """For each size of sketch how near its influence is to the exact one: correlation, and how many of the top agree."""
    exact, rows = influence(exactly, checkpoints, train, test), []
    for size in sizes:
        sketched = influence(partial(by_sketches, size), checkpoints, train, test)
        correlations = [float(np.corrcoef(*pair)[0, 1]) for pair in zip(sketched, exact, strict=True)]
        shared = [len({*most(a)} & {*most(b)}) / REMOVED for a, b in zip(sketched, exact, strict=True)]
        numbers = jax.eval_shape(partial(sketches, size=size), checkpoints[0], *test).shape[1]
        found = {"correlation": correlations, f"of_the_top_{REMOVED}": shared}
        rows.append({"size": size, "numbers": numbers} | {k: [round(c, 3) for c in v] for k, v in found.items()})
    return rows


def most(influence: np.ndarray) -> np.ndarray:
    """The digits that help most, first first."""
    return np.argsort(-influence)[:REMOVED]


# ---- what becomes of a test digit without them


class Question(NamedTuple):
    """A test digit, its loss and answer in the network that was watched; the influence of every training digit, two ways."""

    x: np.ndarray
    label: int
    loss: float
    answer: int
    influence: np.ndarray
    exact: np.ndarray


def removals(data: Dataset, question: Question, key) -> dict[str, np.ndarray]:
    """Which training digits are taken out, each way: as many every time."""
    helpful = most(question.influence)
    distance = np.linalg.norm(data.x_train - question.x, axis=1) + 1e9 * (data.y_train != question.label)
    labels, order = data.y_train, np.asarray(jax.random.permutation(key, len(data.y_train)))
    counts = np.bincount(labels[helpful], minlength=10)
    random = [b for label, count in enumerate(counts) for b in order[labels[order] == label][:count]]
    nearest = np.argsort(distance)[:REMOVED]
    return {"helpful": helpful, "nearest": nearest, "random": np.array(random), "exact": most(question.exact)}


def losses_without(data: Dataset, questions: list[Question], seed: int, epochs: int) -> list[dict[str, float]]:
    """For each test digit, its loss after training with all training digits, and without some, each way."""
    key, removal_key = jax.random.split(jax.random.key(1 + seed))
    x, y = map(jnp.asarray, (data.x_train, data.y_train))
    test_x, test_y = (jnp.asarray([getattr(q, name) for q in questions]) for name in ("x", "label"))

    def losses(without: Any) -> list[float]:
        kept = np.ones(len(y))
        kept[without] = 0
        return each_loss(train(x, y, kept, key, epochs)[-1], test_x, test_y).tolist()

    found = [{"all": loss} for loss in losses([])]
    for c, question in enumerate(questions):
        ways = removals(data, question, jax.random.fold_in(removal_key, c))
        found[c] |= {way: losses(rows)[c] for way, rows in ways.items()}
    return found


def ask(data: Dataset, checkpoints: list[dict], ranks: tuple[float, ...]) -> list[Question]:
    """Choose the test digits, and compute every training digit's influence on them."""
    losses = np.asarray(each_loss(checkpoints[-1], data.x_test, data.y_test))
    chosen = np.argsort(losses)[[round(rank * (len(losses) - 1)) for rank in ranks]]
    x, y = data.x_test[chosen], data.y_test[chosen]
    answers = np.argmax(jax.vmap(convnet, (None, 0))(checkpoints[-1], x), axis=1)
    ways = [influence(way, checkpoints, data.train, (x, y)) for way in (partial(by_sketches, SIZE), exactly)]
    return [
        Question(*each) for each in zip(x, y.tolist(), losses[chosen].tolist(), answers.tolist(), *ways, strict=True)
    ]


def tabulate(data: Dataset, questions: list[Question], losses: list[list[dict]]) -> list[dict[str, Any]]:
    """A row for each test digit: what it is, what helps and harms it, and its losses, a number for each seed."""
    rows = []
    for c, q in enumerate(questions):
        order, labels = np.argsort(-q.influence), data.y_train
        row = {"label": q.label, "answer": q.answer, "loss": round(q.loss, 4)}
        row |= {"most_helpful": order[:5].tolist(), "most_harmful": order[:-6:-1].tolist()}
        row |= {"of_its_class": int(np.sum(labels[most(q.influence)] == q.label))}
        rows.append(row | {way: [float(f"{seed[c][way]:.4g}") for seed in losses] for way in COLORS})
    return rows


def table(rows: list[dict]) -> list[dict]:
    """What fits on a screen: the loss with all digits, and by how much it is higher without some; means and ranges."""
    return [
        {name: row[name] for name in ("label", "answer", "of_its_class")}
        | {"loss": measure.spread(row["all"], 3)}
        | {f"without_{way}": measure.spread(np.subtract(row[way], row["all"]), 3) for way in list(COLORS)[1:]}
        for row in rows
    ]


def plot(data: Dataset, rows: list[dict], questions: list[Question]) -> Figure:
    """A row for each test digit: itself, what helps and what harms it most; beside them its losses."""
    figure = Figure(figsize=(13.5, 1.15 * len(rows) + 1.2))
    widths = [1.3, 0.1, *[1] * 5, 0.2, *[1] * 5, 0.3, 5]
    places = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for axis in places[:, [1, 7, 13]].flat:
        axis.remove()
    for axes, row, question in zip(places, rows, questions, strict=True):
        draw_digits(axes, data, row, question)
        axes[14].sharex(places[0, 14])
        draw_losses(axes[14], row)
    for axis in places[:-1, 14]:
        axis.tick_params(labelbottom=False)
    for first, word, color in ((0, "", "black"), (4, "help", GREEN), (10, "harm", RED)):
        title = f"training digits that {word} it most" if word else "test digit"
        places[0, first].set_title(f"{title}\n{places[0, first].get_title()}", fontsize=9, color=color)
    places[-1, 14].set_xlabel("loss of the test digit, trained anew\n(dot: a seed; stroke: geometric mean)")
    figure.legend(*places[0, 14].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


GREEN, RED = "#1a7f37", "#cf222e"


def draw_digits(axes: np.ndarray, data: Dataset, row: dict, question: Question) -> None:
    """The test digit, five that help in green, five that harm in red."""
    title = f"{row['label']}, read as {row['answer']}" if row["answer"] != row["label"] else f"{row['label']}"
    measure.draw_digit(axes[0], pixels(data, question.x), title, "black")
    for name, first, color in (("most_helpful", 2, GREEN), ("most_harmful", 8, RED)):
        for axis, b in zip(axes[first:], row[name], strict=False):
            measure.draw_digit(axis, pixels(data, data.x_train[b]), f"{data.y_train[b]}", color)


def draw_losses(axis: Axes, row: dict) -> None:
    """Each seed a dot, their geometric mean a stroke."""
    for i, (way, color) in enumerate(COLORS.items()):
        found = np.array(row[way])
        axis.plot(found, np.full(len(found), -i), ".", color=color, markersize=5, label=SAID[way])
        axis.plot(np.exp(np.mean(np.log(found))), -i, "|", color=color, markersize=13, markeredgewidth=2)
    axis.set(xscale="log", yticks=(), ylim=(-4.7, 0.7))
    axis.grid(axis="x")
    axis.spines["left"].set_visible(False)


def main() -> None:
    given = measure.arguments(__doc__, "one test digit, one seed, two epochs: half a minute")
    data, epochs = load("digits"), 2 if given.quick else EPOCHS
    x, y = map(jnp.asarray, (data.x_train, data.y_train))
    watched = train(x, y, np.ones(len(x)), jax.random.key(0), epochs)
    checkpoints = [watched[epoch] for epoch in CHECKPOINTS if epoch <= epochs]
    print(f"held-out accuracy {convnet_accuracy(watched[-1], data.x_test, data.y_test):.3f}")
    questions = ask(data, checkpoints, RANKS[:1] if given.quick else RANKS)
    losses = [losses_without(data, questions, seed, epochs) for seed in range(1 if given.quick else SEEDS)]
    rows = tabulate(data, questions, losses)
    measure.show(f"loss of a test digit, and how much higher it is without {REMOVED} training digits", table(rows))
    test = jnp.stack([q.x for q in questions]), jnp.array([q.label for q in questions])
    sizes = compare(checkpoints, data.train, test, (SIZE,) if given.quick else SIZES)
    measure.show("influence by sketches beside the exact one, for each test digit", sizes)
    measure.publish(given, "influential_digits", rows, partial(plot, data, rows, questions), sketches=sizes)


if __name__ == "__main__":
    main()
