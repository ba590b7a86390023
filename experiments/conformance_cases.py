"""The cases of conformance.py: what each model computes of ONE example, in JAX; in PyTorch, conformance_torch.py.

Parameters have PyTorch's names and layouts, so that one set of arrays serves both.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn

EXAMPLES = 5


def squared(out, y):
    """The loss of each example of a batch: half the squared error. Here and below, in JAX and PyTorch alike."""
    return ((out - y) ** 2).reshape(len(out), -1).sum(-1) / 2


def masked(out, y):
    """The mean over an example's own unmasked tokens; a token counts where its first target is above -0.5."""
    counted = y[..., 0] > -0.5
    return (((out - y) ** 2).sum(-1) * counted).sum(-1) / counted.sum(-1)


class Squares(dict):
    """The examples' squared norms, parameter by parameter."""


class Case(NamedTuple):
    """One model: its parameters' shapes, the shape of an example's x, what it computes.

    x holds ids below `ids` where that is above 0; what is `frozen` is not differentiated.
    """

    shapes: dict[str, tuple[int, ...]]
    x: tuple[int, ...]
    forward: Callable[[Any, Any], Any]
    ids: int = 0
    frozen: tuple[str, ...] = ()
    losses: Callable = squared

    def parameters(self) -> dict[str, np.ndarray]:
        """Drawn once for both frameworks."""
        rng = np.random.default_rng(1)
        return {name: 0.5 * rng.standard_normal(shape) for name, shape in self.shapes.items()}

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """x, or ids that repeat within an example only where there are too few of them, and the targets."""
        rng = np.random.default_rng(2)
        few = self.ids < math.prod(self.x)
        draw = (lambda: rng.choice(self.ids, self.x, replace=few)) if self.ids else lambda: rng.standard_normal(self.x)
        x = np.stack([draw() for _ in range(EXAMPLES)])
        out = jax.eval_shape(self.forward, self.parameters(), x[0])
        return x, rng.standard_normal((EXAMPLES, *out.shape))

    def loss(self, trainable, x, y):
        """The loss of one example."""
        fixed = {name: array for name, array in self.parameters().items() if name in self.frozen}
        return self.losses(self.forward(trainable | fixed, x)[None], y[None])[0]

    def trainable(self) -> dict[str, np.ndarray]:
        """The parameters that are differentiated."""
        return {name: array for name, array in self.parameters().items() if name not in self.frozen}


# ---- layers


def linear(p, name, x):
    out = x @ p[f"{name}.weight"].T
    return out + p[f"{name}.bias"] if f"{name}.bias" in p else out


def conv(p, x, padding, stride=1, dilation=1, groups=1):
    W, b = p["conv.weight"], p["conv.bias"]
    space = W.ndim - 2
    pads = [padding] * space if isinstance(padding, tuple) else [(padding, padding)] * space
    out = lax.conv_general_dilated(
        x[None], W, (stride,) * space, pads, rhs_dilation=(dilation,) * space, feature_group_count=groups
    )
    return out[0] + b.reshape(-1, *[1] * space)


def conv_transpose(p, x):
    """Stride 2, padding 1, of a kernel of 3: a convolution with zeros between the inputs."""
    W = jnp.flip(jnp.swapaxes(p["conv.weight"], 0, 1), (2, 3))
    out = lax.conv_general_dilated(x[None], W, (1, 1), [(1, 1)] * 2, lhs_dilation=(2, 2))
    return out[0] + p["conv.bias"].reshape(-1, 1, 1)


def circular(p, x):
    return conv(p, jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode="wrap"), 0)


def standardised(x, axis):
    return (x - x.mean(axis, keepdims=True)) / jnp.sqrt(x.var(axis, keepdims=True) + 1e-5)


def group_norm(p, x):
    grouped = standardised(x.reshape(2, -1), 1).reshape(x.shape)
    return grouped * p["norm.weight"][:, None, None] + p["norm.bias"][:, None, None]


def rms_norm(p, x):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p["norm.weight"]


def padded_embedding(p, ids):
    h = p["embedding.weight"][ids]
    return jnp.where((ids == 0)[:, None], lax.stop_gradient(h), h)


# ---- models


def deep(p, x):
    return linear(p, "second", jnp.tanh(linear(p, "first", x)))


def twice(p, x):
    return linear(p, "linear", jnp.tanh(linear(p, "linear", x)))


def there_and_back(p, x):
    return jnp.tanh(linear(p, "linear", x)) @ p["linear.weight"]


def tied(p, ids):
    table = p["embedding.weight"]
    return jnp.tanh(table[ids]) @ table.T


def positional(p, x):
    return linear(p, "linear", jnp.tanh(x + p["position"]))


def looked_up_positions(p, x):
    return linear(p, "linear", jnp.tanh(x + p["position.weight"][jnp.arange(len(x))]))


def loop(p, x):
    h = jnp.zeros(3)
    for x_t in x:
        h = jnp.tanh(linear(p, "input", x_t) + linear(p, "hidden", h))
    return h


def over_time(cell, state):
    """The states h of a cell of PyTorch's, over the rows of x."""

    def run(p, x):
        def step(state, x_t):
            parts = (p[f"rnn.weight_{k}_l0"] @ v + p[f"rnn.bias_{k}_l0"] for k, v in (("ih", x_t), ("hh", state[0])))
            state = cell(*parts, *state)
            return state, state[0]

        return lax.scan(step, tuple(jnp.zeros(3) for _ in range(state)), x)[1]

    return run


def rnn_cell(a, b, _):
    return (jnp.tanh(a + b),)


def lstm_cell(a, b, _, c):
    i, f, g, o = jnp.split(a + b, 4)
    c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def gru_cell(a, b, h):
    (a_r, a_z, a_n), (b_r, b_z, b_n) = jnp.split(a, 3), jnp.split(b, 3)
    z, n = nn.sigmoid(a_z + b_z), jnp.tanh(a_n + nn.sigmoid(a_r + b_r) * b_n)
    return ((1 - z) * n + z * h,)


def attention(p, x):
    """Two heads, of width 2."""
    qkv = x @ p["attention.in_proj_weight"].T + p["attention.in_proj_bias"]
    q, k, v = (part.reshape(len(x), 2, 2) for part in jnp.split(qkv, 3, axis=-1))
    seen = nn.softmax(jnp.einsum("thd,shd->hts", q, k) / np.sqrt(2))
    return linear(p, "attention.out_proj", jnp.einsum("hts,shd->thd", seen, v).reshape(x.shape))


def prelu(p, x):
    h = linear(p, "linear", x)
    return jnp.where(h > 0, h, p["prelu.weight"] * h)


def lora(p, x):
    return linear(p, "base", x) + x @ p["A.weight"].T @ p["B.weight"].T


def weight_norm(p, x):
    g, v = (p[f"linear.parametrizations.weight.original{i}"] for i in range(2))
    return x @ (g * v / jnp.linalg.norm(v, axis=1, keepdims=True)).T + p["linear.bias"]


def soft_experts(p, x):
    return jnp.einsum("te,enm,tm->tn", nn.softmax(linear(p, "gate", x)), p["experts"], x)


def routed_experts(p, x):
    share = nn.softmax(linear(p, "gate", x))
    chosen = share * nn.one_hot(jnp.argmax(share, -1), 2)
    return sum(chosen[:, e, None] * linear(p, f"experts.{e}", x) for e in range(2))


def stacked(p, x):
    return lax.scan(lambda h, W: (h + jnp.tanh(W @ h), None), x, p["layers"])[0]


def checkpointed(p, x):
    block = jax.checkpoint(lambda W, b, h: h + jnp.tanh(W @ h + b))
    for i in range(3):
        x = block(p[f"blocks.{i}.weight"], p[f"blocks.{i}.bias"], x)
    return x


# ---- the table


def affine(n, m, *names):
    """The shapes of layers from m to n, with a bias."""
    return {f"{name}.{part}": shape for name in names for part, shape in (("weight", (n, m)), ("bias", (n,)))}


def kernel(*shape, out=None):
    return {"conv.weight": shape, "conv.bias": (out or shape[0],)}


def recurrent(gates):
    n = 3 * gates
    return {
        f"rnn.{k}_l0": s
        for k, s in (("weight_ih", (n, 4)), ("weight_hh", (n, 3)), ("bias_ih", (n,)), ("bias_hh", (n,)))
    }


ONE, TABLE = affine(3, 4, "linear"), {"embedding.weight": (7, 3)}
NORM = {"norm.weight": (4,), "norm.bias": (4,)}
ATTENTION = {
    "attention.in_proj_weight": (12, 4),
    "attention.in_proj_bias": (12,),
} | affine(4, 4, "attention.out_proj")


def one(p, x):
    return linear(p, "linear", x)


def look_up(p, ids):
    return p["embedding.weight"][ids]


CASES = {
    "linear on (b, d)": Case(ONE, (4,), one),
    "linear on (b, t, d)": Case(ONE, (6, 4), one),
    "linear on (b, a, t, d)": Case(ONE, (2, 6, 4), one),
    "linear on (b·t, d), reshaped": Case(ONE, (6, 4), one),
    "linear applied twice": Case(affine(4, 4, "linear"), (4,), twice),
    "W and its transpose": Case(ONE, (4,), there_and_back),
    "embedding": Case(TABLE, (4,), look_up, ids=7),
    "embedding, repeated ids": Case({"embedding.weight": (3, 4)}, (6,), look_up, ids=3),
    "embedding, padding_idx": Case({"embedding.weight": (3, 4)}, (6,), padded_embedding, ids=3),
    "embedding tied to the head, one Parameter": Case(TABLE, (4,), tied, ids=7),
    "embedding tied to the head, by F.linear": Case(TABLE, (4,), tied, ids=7),
    "positions, a Parameter": Case({"position": (6, 4)} | ONE, (6, 4), positional),
    "positions, Embedding(arange(t))": Case({"position.weight": (6, 4)} | ONE, (6, 4), looked_up_positions),
    "recurrent network, as a loop": Case(affine(3, 4, "input") | affine(3, 3, "hidden"), (6, 4), loop),
    "RNN": Case(recurrent(1), (6, 4), over_time(rnn_cell, 1)),
    "LSTM": Case(recurrent(4), (6, 4), over_time(lstm_cell, 2)),
    "GRU": Case(recurrent(3), (6, 4), over_time(gru_cell, 1)),
    "conv1d": Case(kernel(3, 2, 3), (2, 8), lambda p, x: conv(p, x, 1)),
    "conv2d": Case(kernel(3, 2, 3, 3), (2, 6, 5), lambda p, x: conv(p, x, 1)),
    "conv3d": Case(kernel(3, 2, 2, 2, 2), (2, 4, 3, 4), lambda p, x: conv(p, x, 0)),
    "conv2d, strided, dilated": Case(kernel(3, 2, 3, 3), (2, 9, 8), lambda p, x: conv(p, x, 1, stride=2, dilation=2)),
    "conv2d, grouped": Case(kernel(6, 2, 3, 3), (4, 6, 5), lambda p, x: conv(p, x, 1, groups=2)),
    "conv2d, depthwise": Case(kernel(6, 1, 3, 3), (3, 6, 5), lambda p, x: conv(p, x, 1, groups=3)),
    "ConvTranspose2d": Case(kernel(2, 3, 3, 3, out=3), (2, 4, 5), conv_transpose),
    "conv2d, padding='same', 4 by 4": Case(kernel(3, 2, 4, 4), (2, 6, 5), lambda p, x: conv(p, x, (1, 2))),
    "conv2d, circular padding": Case(kernel(3, 2, 3, 3), (2, 6, 5), circular),
    "LayerNorm": Case(NORM, (6, 4), lambda p, x: standardised(x, -1) * p["norm.weight"] + p["norm.bias"]),
    "GroupNorm": Case(NORM, (4, 3, 2), group_norm),
    "RMSNorm": Case({"norm.weight": (4,)}, (6, 4), rms_norm),
    "multi-head attention, batch first": Case(ATTENTION, (6, 4), attention),
    "multi-head attention, batch second": Case(ATTENTION, (6, 4), attention),
    "a Parameter used directly": Case({"scale": (4,)} | ONE, (6, 4), lambda p, x: linear(p, "linear", x * p["scale"])),
    "PReLU": Case({"prelu.weight": (3,)} | ONE, (4,), prelu),
    "LoRA": Case(
        {"A.weight": (2, 4), "B.weight": (3, 2)} | affine(3, 4, "base"),
        (6, 4),
        lora,
        frozen=("base.weight", "base.bias"),
    ),
    "weight norm": Case(
        {f"linear.parametrizations.weight.original{i}": (3, m) for i, m in enumerate((1, 4))} | {"linear.bias": (3,)},
        (6, 4),
        weight_norm,
    ),
    "mean over unmasked tokens": Case(ONE, (6, 4), one, losses=masked),
    "a frozen layer beneath": Case(
        affine(5, 4, "first") | affine(3, 5, "second"), (6, 4), deep, frozen=("first.weight", "first.bias")
    ),
    "experts, weighted": Case({"experts": (2, 3, 4)} | affine(2, 4, "gate"), (6, 4), soft_experts),
    "experts, each token to one": Case(
        affine(2, 4, "gate") | affine(3, 4, "experts.0", "experts.1"), (6, 4), routed_experts
    ),
    "stacked layers, scanned": Case({"layers": (3, 4, 4)}, (4,), stacked),
    "residual blocks, checkpointed": Case(affine(4, 4, "blocks.0", "blocks.1", "blocks.2"), (4,), checkpointed),
}
