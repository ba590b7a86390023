"""Which layers of a small GPT are noisy? The gradient noise scale of each kind of layer over training.

    python experiments/layer_noise_scale.py [--quick] [--out FOLDER]

A GPT in plain JAX (2 blocks, width 64, 64 characters, 115,328 parameters) is trained on text that comes with Python: the Zen,
the licence, and what the standard library says of itself. At some steps every sequence's gradient is read out, of 768
sequences drawn for it. For a kind of layer k, with n² the mean squared norm of the examples' gradients with respect to
its parameters, and g² the squared norm of their mean over N sequences,

    tr(Σ_k) ≈ (n² − g²) N / (N − 1)     |G_k|² ≈ (N g² − n²) / (N − 1)     B_k = tr(Σ_k) / |G_k|²     in sequences

Both are summed over all sequences before the division (McCandlish et al. 2018, appendix A.1). Bands are one standard error,
from leaving out one of eight batches at a time. Gray et al. 2024, "Normalization layer per-example gradients are sufficient
to predict gradient noise scale in transformers", find that the norms' B follows that of the whole: beside it here.

The text differs a little between versions of Python, and the figures with it.
"""

import contextlib
import importlib
import inspect
import io
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax

import jaxbackprop as jbp
from jaxbackprop.readouts import squared_norms

WIDTH, BLOCKS, HEADS, LENGTH = 64, 2, 4, 64
BATCH, RATE, WARMUP, STEPS = 16, 2e-3, 100, 1500
SEEDS, BATCHES, SIZE, TILE = (
    2,
    8,
    128,
    32,
)  # the noise is measured on so many batches of so many sequences, a tile at a time
COLORS = {
    "embedding": "#efb118",
    "attention": "#4269d0",
    "MLP": "#3ca951",
    "norms": "#ff725c",
    "head": "#a463f2",
    "all": "#111111",
}
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
def noise_scales(sums: Sums, examples: int) -> dict[str, jax.Array]:
    """B = tr(Σ) / |G|² of each kind; below 0 where |G|² is lost in the noise."""
    n2 = {kind: square / examples for kind, square in sums.squares.items()}
    g2 = {kind: square / examples**2 for kind, square in squared_by_kind(sums.gradient).items()}
    return {kind: examples * (n2[kind] - g2[kind]) / (examples * g2[kind] - n2[kind]) for kind in n2}


def noise(params: dict, batches: jax.Array) -> dict[str, tuple[float, float | None]]:
    """Of each kind B, and its standard error relative to it: from all batches, and from all but one."""
    parts = [SUMMED(params, batch, weight=jnp.ones(len(batch)))[1] for batch in batches]
    every, examples = jax.tree.map(lambda *parts: sum(parts), *parts), batches.shape[0] * batches.shape[1]
    scales = noise_scales(every, examples)
    without = [noise_scales(jax.tree.map(jnp.subtract, every, part), examples - batches.shape[1]) for part in parts]
    return {kind: (float(scales[kind]), error([float(each[kind]) for each in without])) for kind in COLORS}


def error(without: list[float]) -> float | None:
    """The jackknife's standard error of log B; None where a B is below 0."""
    if min(without) <= 0:
        return None
    return float(np.std(np.log(without)) * (len(without) - 1) ** 0.5)


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


def measured_steps(steps: int, how_many: int) -> list[int]:
    """0, then in equal ratios from 10 on."""
    return sorted({0, *np.geomspace(min(10, steps), steps, how_many).round().astype(int).tolist()})


def measured(params: dict, train_text: jax.Array, held_out: jax.Array, key, batches: int) -> dict[str, Any]:
    """The noise scales, and the losses on either text."""
    noise_key, *keys = jax.random.split(key, 3)
    texts = {"loss": train_text, "held_out": held_out}
    losses = {name: float(LOSS(params, drawn(key, texts[name], 512))) for name, key in zip(texts, keys, strict=True)}
    return losses | {"noise": noise(params, drawn(noise_key, train_text, batches, SIZE))}


LOSS = jax.jit(mean_loss)


def train(text: np.ndarray, seed: int, at: list[int], batches: int) -> list[dict[str, Any]]:
    """Train up to the last step that is measured, on the first nine tenths of the text; a row for each of these steps."""
    train_text, held_out = map(jnp.asarray, np.split(text, [len(text) * 9 // 10]))
    init_key, *keys = jax.random.split(jax.random.key(seed), 2 + at[-1])
    params, rows = draw_gpt(init_key), []
    state = OPTIMIZER.init(params)
    for step, (batch_key, key) in enumerate(map(jax.random.split, keys)):
        if step in at:
            rows.append({"seed": seed, "step": step} | measured(params, train_text, held_out, key, batches))
        params, state = take_step(params, state, drawn(batch_key, train_text, BATCH))
    return rows


# ---- what comes of it


def table(rows: list[dict]) -> list[dict]:
    """What fits on a screen, of the first seed."""
    return [
        {name: row[name] for name in ("step", "loss", "held_out")} | {kind: B for kind, (B, _) in row["noise"].items()}
        for row in rows
        if row["seed"] == rows[0]["seed"]
    ]


def compare(rows: list[dict]) -> list[dict[str, Any]]:
    """Of each kind how far its B is from that of all layers together, over steps and seeds, and whether they rise together."""
    found, rows = [], [row for row in rows if min(B for B, _ in row["noise"].values()) > 0]
    logs = {kind: np.log([row["noise"][kind][0] for row in rows]) for kind in COLORS}
    for kind in COLORS:
        ratio = np.exp(logs[kind] - logs["all"])
        said = {"times_that_of_all": float(np.exp(np.mean(np.log(ratio)))), "least": ratio.min(), "most": ratio.max()}
        found.append({"kind": kind} | said | {"correlation_of_logs": float(np.corrcoef(logs[kind], logs["all"])[0, 1])})
    return found


def plot(rows: list[dict], path: Path) -> None:
    """B over steps for each kind, and the losses below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    for seed in sorted({row["seed"] for row in rows}, reverse=True):
        own = [row for row in rows if row["seed"] == seed and row["step"] > 0]
        steps = [row["step"] for row in own]
        for kind in COLORS:
            _draw_noise(above, kind, steps, [row["noise"][kind] for row in own], first=seed == 0)
        for name, style in (("loss", "-"), ("held_out", "--")):
            label = {"loss": "trained on", "held_out": "held out"}[name] if seed == 0 else None
            shown = {"color": "#111111", "linestyle": style, "linewidth": 1.5 if seed == 0 else 0.6}
            below.plot(steps, [row[name] for row in own], label=label, **shown)
    above.set(xscale="log", yscale="log", ylabel=f"noise scale B (sequences of {LENGTH} characters)")
    above.axhline(BATCH, color="gray", linewidth=0.8, linestyle=":")
    above.annotate(f"batch trained with, {BATCH}", (1, BATCH), (-2, 3), **RIGHT)
    below.set(xlabel="step", ylabel="loss (nats a character)")
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=150)


RIGHT = {
    "xycoords": ("axes fraction", "data"),
    "textcoords": "offset points",
    "ha": "right",
    "fontsize": 8,
    "color": "gray",
}


def _draw_noise(axis, kind: str, steps: list[int], found: list, first: bool) -> None:
    """A line; the first seed's thick, with its band."""
    B = np.array([B if B > 0 else np.nan for B, _ in found])
    color, width = COLORS[kind], 2.2 if kind == "all" else 1.5
    axis.plot(steps, B, color=color, linewidth=width if first else 0.6, label=kind if first else None)
    if first:
        spread = np.exp([np.nan if error is None else error for _, error in found])
        axis.fill_between(steps, B / spread, B * spread, color=color, alpha=0.15, linewidth=0)


def main() -> None:
    quick, folder = measure.arguments(__doc__, "two steps, one seed")
    stamp, text = measure.stamp(), encoded(all_text())
    at = measured_steps(*(2, 2) if quick else (STEPS, 16))
    rows = [row for seed in range(1 if quick else SEEDS) for row in train(text, seed, at, 2 if quick else BATCHES)]
    measure.show("noise scale in sequences, first seed", table(rows))
    kinds = compare(rows)
    measure.show("beside that of all layers together", kinds)
    if folder:
        path = measure.save("layer_noise_scale", rows, folder, stamp=stamp, characters=len(text), kinds=kinds)
        plot(rows, path.with_suffix(".png"))
        print(f"{path} and .png")


if __name__ == "__main__":
    main()
