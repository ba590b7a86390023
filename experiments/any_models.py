"""Models in plain JAX, each with a loss of ONE example: what the any-model benchmark measures.

None is written with this library in mind. Each makes its parameters and says how to draw a batch.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


class Model(NamedTuple):
    """loss(params, *shared, *example) → number; `examples(batch)` draws the arrays after what all examples share."""

    loss: Callable
    params: Any
    examples: Callable[[int], tuple]
    shared: tuple = ()

    @property
    def in_axes(self) -> tuple:
        """Of the arguments beside the parameters."""
        return (*[None] * len(self.shared), *[0] * len(jax.eval_shape(lambda: self.examples(2))))

    def cast(self, dtype: str) -> "Model":
        """The same, all its floating-point arrays in this dtype."""
        params, shared = cast((self.params, self.shared), dtype)
        return Model(self.loss, params, lambda batch: cast(self.examples(batch), dtype), shared)


def cast(tree: Any, dtype: str) -> Any:
    """What is a real number in this dtype; tokens stay."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype), tree)


# ---- the parts


class Draw:
    """Parameters, drawn one after the other."""

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def normal(self, *shape: int, scale: float | None = None) -> np.ndarray:
        """By default such that a product keeps the size of its input."""
        scale = np.prod(shape[:-1]) ** -0.5 if scale is None else scale
        return (scale * self.rng.standard_normal(shape)).astype(np.float32)

    def dense(self, inputs: int, outputs: int) -> dict:
        """W and b of h W + b."""
        return {"w": self.normal(inputs, outputs), "b": np.zeros(outputs, np.float32)}

    def norm(self, width: int) -> dict:
        """What follows a normalisation."""
        return {"scale": np.ones(width, np.float32), "shift": np.zeros(width, np.float32)}


def dense(p, h):
    """h W + b, and where there is an adapter its h A B (Hu et al. 2021)."""
    z = h @ p["w"] + p["b"]
    return z + (h @ p["down"]) @ p["up"] if "down" in p else z


def normalised(x, axes):
    """(x − mean) / deviation, in float32."""
    x32 = x.astype(jnp.float32)
    mean, variance = jnp.mean(x32, axes, keepdims=True), jnp.var(x32, axes, keepdims=True)
    return ((x32 - mean) * lax.rsqrt(variance + 1e-5)).astype(x.dtype)


def layer_norm(p, h):
    return normalised(h, -1) * p["scale"] + p["shift"]


def cross_entropy(logits, y):
    """The mean over the positions, where there are several."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_p, y[..., None], axis=-1))


def tokens(vocabulary: int, length: int) -> Callable[[int], tuple]:
    return lambda batch: (jax.random.randint(jax.random.key(1), (batch, length), 0, vocabulary),)


def images(size: int, channels: int, classes: int) -> Callable[[int], tuple]:
    def draw(batch):
        x = jax.random.normal(jax.random.key(1), (batch, size, size, channels))
        return x, jax.random.randint(jax.random.key(2), (batch,), 0, classes)

    return draw


# ---- transformers: h ← h + attention(norm(h)), then h ← h + mlp(norm(h))


def draw_block(draw: Draw, width: int) -> dict:
    wide = {"qkv": 3 * width, "out": width, "up": 4 * width}
    layers = {name: draw.dense(width, outputs) for name, outputs in wide.items()}
    return layers | {"down": draw.dense(4 * width, width), "norm1": draw.norm(width), "norm2": draw.norm(width)}


def attention(p, h, heads, causal):
    q, k, v = jnp.moveaxis(dense(p["qkv"], h).reshape(len(h), 3, heads, -1), 1, 0)
    scores = jnp.einsum("thc,uhc->htu", q, k).astype(jnp.float32) * q.shape[-1] ** -0.5
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[1:], bool)), scores, -jnp.inf)
    mixed = jnp.einsum("htu,uhc->thc", jax.nn.softmax(scores).astype(h.dtype), v)
    return dense(p["out"], mixed.reshape(h.shape))


def transformer_block(p, h, heads, causal):
    h = h + attention(p, layer_norm(p["norm1"], h), heads, causal)
    return h + dense(p["down"], jax.nn.gelu(dense(p["up"], layer_norm(p["norm2"], h))))


def gpt_loss(params, sequence, heads):
    """The next token's, at every position; the embedding is also the head."""
    x, y = sequence[:-1], sequence[1:]
    h = params["tokens"][x] + params["positions"][: len(x)]
    for block in params["blocks"]:
        h = transformer_block(block, h, heads, causal=True)
    return cross_entropy(layer_norm(params["norm"], h) @ params["tokens"].T, y)


def gpt(width: int, layers: int, positions: int, vocabulary: int = 1000, head: int = 64) -> Model:
    draw = Draw()
    params = {
        "tokens": draw.normal(vocabulary, width, scale=0.02),
        "positions": draw.normal(positions, width, scale=0.02),
        "blocks": [draw_block(draw, width) for _ in range(layers)],
        "norm": draw.norm(width),
    }
    return Model(partial(gpt_loss, heads=max(1, width // head)), params, tokens(vocabulary, positions + 1))


ADAPTED = ("qkv", "out", "up", "down")


def lora_loss(adapters, frozen, sequence, heads):
    blocks = [
        block | {name: block[name] | adapter[name] for name in ADAPTED}
        for block, adapter in zip(frozen["blocks"], adapters, strict=True)
    ]
    return gpt_loss(frozen | {"blocks": blocks}, sequence, heads)


def lora(width: int, layers: int, positions: int, rank: int = 8) -> Model:
    """Adapters on every product of a frozen GPT. Both factors are drawn: where one is 0, so is the other's gradient."""
    draw, frozen = Draw(), gpt(width, layers, positions)

    def adapter(w):
        return {"down": draw.normal(w.shape[0], rank), "up": draw.normal(rank, w.shape[1], scale=0.01)}

    adapters = [{name: adapter(block[name]["w"]) for name in ADAPTED} for block in frozen.params["blocks"]]
    loss = partial(lora_loss, heads=max(1, width // 64))
    return Model(loss, adapters, frozen.examples, (frozen.params,))


def vit_loss(params, x, y, heads):
    patches = convolved(params["patch"]["w"], x, params["patch"]["w"].shape[0], "VALID") + params["patch"]["b"]
    h = jnp.concatenate([params["class"], patches.reshape(-1, patches.shape[-1])]) + params["positions"]
    for block in params["blocks"]:
        h = transformer_block(block, h, heads, causal=False)
    return cross_entropy(dense(params["head"], layer_norm(params["norm"], h)[0]), y)


def vit(width: int = 128, layers: int = 4, size: int = 32, patch: int = 4, classes: int = 10) -> Model:
    draw = Draw()
    params = {
        "patch": {"w": draw.normal(patch, patch, 3, width), "b": np.zeros(width, np.float32)},
        "class": draw.normal(1, width, scale=0.02),
        "positions": draw.normal((size // patch) ** 2 + 1, width, scale=0.02),
        "blocks": [draw_block(draw, width) for _ in range(layers)],
        "norm": draw.norm(width),
        "head": draw.dense(width, classes),
    }
    return Model(partial(vit_loss, heads=max(1, width // 32)), params, images(size, 3, classes))


# ---- convolutions: h ← relu(h + norm(conv(relu(norm(conv(h))))))


def convolved(w, x, stride=1, padding="SAME"):
    kind = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x[None], w, (stride, stride), padding, dimension_numbers=kind)[0]


def group_norm(p, x, groups=8):
    grouped = x.reshape(*x.shape[:2], groups, -1)
    return normalised(grouped, (0, 1, 3)).reshape(x.shape) * p["scale"] + p["shift"]


def residual_block(p, x, stride):
    h = jax.nn.relu(group_norm(p["norm1"], convolved(p["conv1"], x, stride)))
    h = group_norm(p["norm2"], convolved(p["conv2"], h))
    return jax.nn.relu(h + (convolved(p["short"], x, stride) if "short" in p else x))


def resnet_loss(params, x, y, strides):
    h = jax.nn.relu(group_norm(params["norm"], convolved(params["stem"], x)))
    for block, stride in zip(params["blocks"], strides, strict=True):
        h = residual_block(block, h, stride)
    return cross_entropy(dense(params["head"], jnp.mean(h, (0, 1))), y)


def draw_residual(draw: Draw, inputs: int, outputs: int) -> dict:
    block = {"conv1": draw.normal(3, 3, inputs, outputs), "conv2": draw.normal(3, 3, outputs, outputs)}
    block |= {"norm1": draw.norm(outputs), "norm2": draw.norm(outputs)}
    return block | ({} if inputs == outputs else {"short": draw.normal(1, 1, inputs, outputs)})


def resnet(size: int = 28, channels: int = 1, widths: tuple = (32, 32, 64, 64), classes: int = 10) -> Model:
    """Where the width changes, so does the resolution: by strides of 2."""
    draw, before = Draw(), (widths[0], *widths[:-1])
    params = {
        "stem": draw.normal(3, 3, channels, widths[0]),
        "norm": draw.norm(widths[0]),
        "blocks": [draw_residual(draw, *pair) for pair in zip(before, widths, strict=True)],
        "head": draw.dense(widths[-1], classes),
    }
    strides = tuple(1 + (a != b) for a, b in zip(before, widths, strict=True))
    return Model(partial(resnet_loss, strides=strides), params, images(size, channels, classes))


# ---- recurrence


def lstm_loss(params, sequence):
    """z = x W + h U + b, in four parts; c ← σ(f) c + σ(i) tanh(g), h = σ(o) tanh(c)."""
    x, y = params["tokens"][sequence[:-1]], sequence[1:]

    def step(state, x):
        h, c = state
        i, f, g, o = jnp.split(x @ params["W"] + h @ params["U"] + params["b"], 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros_like(params["b"], shape=(len(params["U"]),))
    return cross_entropy(dense(params["head"], lax.scan(step, (zero, zero), x)[1]), y)


def lstm(width: int = 128, positions: int = 64, vocabulary: int = 1000) -> Model:
    draw = Draw()
    params = {
        "tokens": draw.normal(vocabulary, width, scale=1.0),
        "W": draw.normal(width, 4 * width),
        "U": draw.normal(width, 4 * width),
        "b": np.zeros(4 * width, np.float32),
        "head": draw.dense(width, vocabulary),
    }
    return Model(lstm_loss, params, tokens(vocabulary, positions + 1))
