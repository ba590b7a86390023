"""Which layers of a small GPT are noisy? The gradient noise scale of each kind of layer over training.

    python experiments/layer_noise_scale.py [--quick] [--out FOLDER]

A GPT in plain JAX (2 blocks, width 64, 64 characters, 115,328 parameters) is trained on text that comes with Python: the Zen,
the licence, and what the standard library says of itself. At 96 steps the gradients of 96 sequences are read out, one by one.
For a kind of layer k, with n² the mean squared norm of the sequences' gradients with respect to its parameters, and g² the
squared norm of their mean over N sequences,

    tr(Σ_k) ≈ (n² − g²) N / (N − 1)     |G_k|² ≈ (N g² − n²) / (N − 1)     B_k = tr(Σ_k) / |G_k|²     in sequences

|G|² moves up and down from step to step. So both are averaged over 8 steps in a row, of two seeds, before the division
(McCandlish et al. 2018, appendix A.1). Bands are one standard error of log B, from leaving out one of these 16 at a time; the
figures hold [B, that error].

Gray et al. 2024, "Normalization layer per-example gradients are sufficient to predict gradient noise scale in transformers",
find that the norms' B goes with that of the whole: beside it here.

The text differs a little between versions of Python, and the figures with it.
"""

import contextlib
import importlib
import inspect
import io
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
from matplotlib.figure import Figure

import jaxbackprop as jbp
from jaxbackprop.readouts import squared_norms

WIDTH, BLOCKS, HEADS, LENGTH = 64, 2, 4, 64
BATCH, RATE, WARMUP, STEPS = 16, 2e-3, 100, 1500
SEEDS, TOGETHER, SIZE, TILE = 2, 8, 96, 32  # the noise is measured on so many sequences, a tile at a time
COLORS = {"embedding": "#efb118", "attention": "#4269d0", "MLP": "#3ca951", "norms": "#ff725c", "head": "#a463f2"}
COLORS |= {"all": "#111111"}
SPOKEN = (
    "abc argparse ast asyncio base64 bisect calendar cmath codecs collections collections.abc concurrent.futures configparser "
    "contextlib copy csv dataclasses datetime decimal difflib dis email enum fileinput fnmatch fractions functools gettext glob "
    "gzip hashlib heapq hmac html http.client inspect io ipaddress itertools json linecache locale logging math mimetypes "
    "numbers operator os pathlib pickle pprint queue random re sched secrets selectors shelve shlex shutil socket statistics "
    "string struct subprocess sys tempfile textwrap threading time timeit tokenize traceback types unittest urllib.parse "
    "uuid warnings weakref zipfile"
)


# ---- the text


def zen() -> str:
    """What `import this` prints, decoded from it; the module prints when it is first imported."""
    with contextlib.redirect_stdout(io.StringIO()):
        this = importlib.import_module("this")
    return "".join(this.d.get(character, character) for character in this.s)


def licence() -> str:
    """Python's licence, where it lies beside the standard library."""
    path = Path(inspect.getfile(inspect)).with_name("LICENSE.txt")
    return path.read_text(encoding="utf-8", errors="ignore") if path.is_file() else ""


def public(owner: Any) -> list[Any]:
    """The functions and classes of a module, or of a class, that are for its users."""
    return [value for name, value in sorted(vars(owner).items()) if not name.startswith("_") and callable(value)]


def docs(name: str) -> list[str]:
    """What a module, its members and their methods say of themselves."""
    module = importlib.import_module(name)
    members = public(module)
    methods = [method for member in members if inspect.isclass(member) for method in public(member)]
    return [inspect.getdoc(each) or "" for each in (module, *members, *methods)]


def all_text() -> str:
    """Everything, each text once, in characters that a typewriter has."""
    said = dict.fromkeys(text for name in SPOKEN.split() for text in docs(name))
    text = "\n\n".join([zen(), licence(), *said])
    return "".join(character for character in text if character == "\n" or " " <= character <= "~")


def encoded(text: str) -> np.ndarray:
    """Numbers below 96: the newline, then what is printable, from the space on."""
    return np.array([0 if character == "\n" else ord(character) - 31 for character in text], np.int32)


VOCABULARY = 96


# ---- the model: parameters are named so that a layer's kind is the last name before the parameter's own


def draw_gpt(key) -> dict:
    """Matrices (outputs, inputs) of variance 1 / inputs, smaller where they add to the stream; norms that do nothing yet."""
    keys = iter(jax.random.split(key, 3 + 4 * BLOCKS))

    def matrix(outputs, inputs, gain=1.0):
        return gain * jax.random.normal(next(keys), (outputs, inputs)) / inputs**0.5

    def norm():
        return {"scale": jnp.ones(WIDTH), "shift": jnp.zeros(WIDTH)}

    def block():
        small = (2 * BLOCKS) ** -0.5
        attention = {"qkv": matrix(3 * WIDTH, WIDTH), "out": matrix(WIDTH, WIDTH, small)}
        mlp = {"up": matrix(4 * WIDTH, WIDTH), "down": matrix(WIDTH, 4 * WIDTH, small)}
        return {"norms": {"before attention": norm(), "before MLP": norm()}, "attention": attention, "MLP": mlp}

    embedding = {
        "tokens": 0.3 * jax.random.normal(next(keys), (VOCABULARY, WIDTH)),
        "places": jnp.zeros((LENGTH, WIDTH)),
    }
    blocks = {f"block {i}": block() for i in range(BLOCKS)}
    return {"embedding": embedding, **blocks, "norms": {"last": norm()}, "head": {"w": matrix(VOCABULARY, WIDTH)}}


def normed(p: dict, h: jax.Array) -> jax.Array:
    """LayerNorm."""
    return jax.nn.standardize(h, axis=-1, epsilon=1e-5) * p["scale"] + p["shift"]


def attended(p: dict, h: jax.Array) -> jax.Array:
    """Causal attention of one sequence (t, width), by heads."""
    q, k, v = (h @ p["qkv"].T).reshape(len(h), 3, HEADS, -1).swapaxes(0, 1)
    scores = jnp.einsum("tad,sad->ats", q, k) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tri(len(h), dtype=bool), scores, -jnp.inf)
    return jnp.einsum("ats,sad->tad", jax.nn.softmax(scores), v).reshape(len(h), -1) @ p["out"].T


def gpt(params: dict, tokens: jax.Array) -> jax.Array:
    """The logits of what follows each character of one sequence, (t, vocabulary)."""
    h = params["embedding"]["tokens"][tokens] + params["embedding"]["places"]
    for i in range(BLOCKS):
        p = params[f"block {i}"]
        h = h + attended(p["attention"], normed(p["norms"]["before attention"], h))
        h = h + jax.nn.gelu(normed(p["norms"]["before MLP"], h) @ p["MLP"]["up"].T) @ p["MLP"]["down"].T
    return normed(params["norms"]["last"], h) @ params["head"]["w"].T


def gpt_loss(params: dict, text: jax.Array) -> jax.Array:
    """The mean cross-entropy of one sequence, LENGTH + 1 characters: each but the first is to be foretold."""
    logits = jax.nn.log_softmax(gpt(params, text[:-1]))
    return -jnp.mean(jnp.take_along_axis(logits, text[1:, None], axis=1))


def mean_loss(params: dict, texts: jax.Array) -> jax.Array:
    return jnp.mean(jax.vmap(gpt_loss, (None, 0))(params, texts))


# ---- the noise, by kind of layer


class Sums(NamedTuple):
    """Over examples: Σ_b dW, and for each kind of layer Σ_b |dW|²."""

    gradient: Any
    squares: dict[str, Any]


def kind_of(path: str) -> str:
    """Of a layer's or a parameter's path, such as "block 0/norms/before MLP"."""
    return next(kind for kind in COLORS if kind in path.split("/"))


def by_kind(of_layers: dict[str, Any]) -> dict[str, Any]:
    """Sums over the layers of each kind, and over all."""
    found = dict.fromkeys(COLORS, 0.0)
    for path, value in of_layers.items():
        found[kind_of(path)] += value
    return found | {"all": sum(of_layers.values())}


def sums_of(fg: jbp.FactoredGradient) -> Sums:
    """A readout that sums over its examples, so that `stream` takes it."""
    return Sums(jbp.total(fg), by_kind({layer: jnp.sum(n2) for layer, n2 in squared_norms(fg).items()}))


SUMMED = jbp.stream(jbp.factored(gpt_loss), sums_of, tile=TILE)


def squared_by_kind(gradient: Any) -> dict[str, Any]:
    """|G|² of each kind of layer."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return by_kind({"/".join(str(k.key) for k in path): jnp.sum(leaf**2) for path, leaf in leaves})


@jax.jit
def estimates(sums: Sums, examples: int) -> dict[str, jax.Array]:
    """tr(Σ) and |G|² of each kind; the latter may come out below 0 where it is lost in the noise."""
    n2 = {kind: square / examples for kind, square in sums.squares.items()}
    g2 = {kind: square / examples**2 for kind, square in squared_by_kind(sums.gradient).items()}
    pairs = {kind: (examples * (n2[kind] - g2[kind]), examples * g2[kind] - n2[kind]) for kind in n2}
    return {kind: jnp.stack(pair) / (examples - 1) for kind, pair in pairs.items()}


def noise_scale(pairs: np.ndarray) -> tuple[float, float | None]:
    """B, the ratio of the means over batches; and the jackknife's standard error of its logarithm, None where a |G|² is lost."""
    trace, squared = pairs.mean(axis=0)
    without = (pairs.sum(axis=0) - pairs) / (len(pairs) - 1)
    if min(squared, without[:, 1].min()) <= 0:
        return float(trace / squared), None
    logs = np.log(without[:, 0] / without[:, 1])
    return float(trace / squared), float(np.std(logs) * (len(pairs) - 1) ** 0.5)


# ---- training


@jax.jit
def take_step(params, state, texts):
    """One step of Adam."""
    updates, state = OPTIMIZER.update(jax.grad(mean_loss)(params, texts), state)
    return optax.apply_updates(params, updates), state


OPTIMIZER = optax.adam(optax.linear_schedule(0, RATE, WARMUP))


def drawn(key, text: jax.Array, *count: int) -> jax.Array:
    """Sequences from anywhere in the text, (*count, LENGTH + 1)."""
    starts = jax.random.randint(key, (*count, 1), 0, len(text) - LENGTH)
    return text[starts + jnp.arange(LENGTH + 1)]


def measured_steps(steps: int, points: int) -> list[int]:
    """In about equal ratios, no step twice; without the first few, so that they make whole groups."""
    found = np.unique(np.geomspace(1, steps, points).round().astype(int)).tolist()
    return found[len(found) % TOGETHER :]


def measured(params: dict, train_text: jax.Array, held_out: jax.Array, key) -> dict[str, Any]:
    """The losses on either text, and tr(Σ) and |G|² of each kind of layer on the first."""
    batch, other = (drawn(key, text, SIZE) for text in (train_text, held_out))
    value, sums = SUMMED(params, batch)
    losses = {"loss": float(value) / SIZE, "held_out": float(LOSS(params, other))}
    return losses | {kind: np.asarray(pair) for kind, pair in estimates(sums, SIZE).items()}


LOSS = jax.jit(mean_loss)


def train(text: np.ndarray, seed: int, at: list[int]) -> list[dict[str, Any]]:
    """Train on the first nine tenths of the text; what is measured before each of these steps."""
    train_text, held_out = map(jnp.asarray, np.split(text, [len(text) * 9 // 10]))
    init_key, *keys = jax.random.split(jax.random.key(seed), 2 + at[-1])
    params, found = draw_gpt(init_key), []
    state = OPTIMIZER.init(params)
    for step, (batch_key, key) in enumerate(map(jax.random.split, keys)):
        if step in at:
            found.append(measured(params, train_text, held_out, key))
        params, state = take_step(params, state, drawn(batch_key, train_text, BATCH))
    return found


def averaged(at: list[int], runs: list[list[dict]]) -> list[dict[str, Any]]:
    """A row for each so many steps in a row: their geometric mean, mean losses, and the noise scales of all seeds."""
    rows = []
    for i in range(0, len(at), TOGETHER):
        found = [measurement for run in runs for measurement in run[i : i + TOGETHER]]
        step = float(np.exp(np.mean(np.log(at[i : i + TOGETHER]))))
        losses = {name: float(np.mean([each[name] for each in found])) for name in ("loss", "held_out")}
        scales = {kind: noise_scale(np.array([each[kind] for each in found])) for kind in COLORS}
        rows.append({"step": round(step, 1)} | losses | {"noise": scales})
    return rows


# ---- what comes of it


def table(rows: list[dict]) -> list[dict]:
    """What fits on a screen."""
    return [
        {name: row[name] for name in ("step", "loss", "held_out")} | {kind: B for kind, (B, _) in row["noise"].items()}
        for row in rows
    ]


def compare(rows: list[dict]) -> list[dict[str, Any]]:
    """Of each kind how far its B is from that of all layers together, over the rows, and whether they rise together."""
    found, rows = [], [row for row in rows if min(B for B, _ in row["noise"].values()) > 0]
    logs = {kind: np.log([row["noise"][kind][0] for row in rows]) for kind in COLORS}
    for kind in COLORS:
        ratio = np.exp(logs[kind] - logs["all"])
        said = {"times_that_of_all": float(np.exp(np.mean(np.log(ratio)))), "least": ratio.min(), "most": ratio.max()}
        found.append({"kind": kind} | said | {"correlation_of_logs": float(np.corrcoef(logs[kind], logs["all"])[0, 1])})
    return found


def plot(rows: list[dict]) -> Figure:
    """B over steps for each kind, and the losses below."""
    figure = Figure(figsize=(8, 7))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    steps = [row["step"] for row in rows]
    for kind in COLORS:
        draw_noise(above, kind, steps, [row["noise"][kind] for row in rows])
    for name, label, style in (("loss", "trained on", "-"), ("held_out", "held out", "--")):
        below.plot(steps, [row[name] for row in rows], label=label, color="#111111", linestyle=style)
    above.set(xscale="log", yscale="log", ylabel=f"noise scale B (sequences of {LENGTH} characters)")
    above.axhline(BATCH, color="gray", linewidth=0.8, linestyle=":")
    measure.said_above(above, f"batch trained with, {BATCH}", BATCH)
    below.set(xlabel="step", ylabel="loss (nats a character)")
    for axis in (above, below):
        axis.grid()
        axis.legend()
    return figure


def draw_noise(axis, kind: str, steps: list[float], found: list) -> None:
    """A line and its band; gaps where |G|² is lost."""
    B = np.array([B if B > 0 else np.nan for B, _ in found])
    spread = np.exp([np.nan if error is None else error for _, error in found])
    axis.plot(steps, B, "o-", color=COLORS[kind], markersize=3, linewidth=2.4 if kind == "all" else 1.5, label=kind)
    axis.fill_between(steps, B / spread, B * spread, color=COLORS[kind], alpha=0.15, linewidth=0)


def main() -> None:
    given = measure.arguments(__doc__, "16 steps, one seed")
    text = encoded(all_text())
    at = measured_steps(16, 100) if given.quick else measured_steps(STEPS, 140)
    rows = averaged(at, [train(text, seed, at) for seed in range(1 if given.quick else SEEDS)])
    measure.show("noise scale in sequences", table(rows))
    kinds = compare(rows)
    measure.show("beside that of all layers together", kinds)
    measure.publish(given, "layer_noise_scale", rows, partial(plot, rows), characters=len(text), kinds=kinds)


if __name__ == "__main__":
    main()
