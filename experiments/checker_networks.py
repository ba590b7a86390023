"""Random networks for the gradient checkers: each with its loss, a point, and its right gradient, written here as a sweep.

    dh_s = Σ over edges s→t of dz_t W_ts        dz_t = dh_t · g_t'(z_t)        dW_ts = dz_tᵀ h_s        db_t = Σ_b dz_t

with rows for examples and dyhat = dL/dyhat / B. Network A is the same whenever it is drawn.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxbackprop as jbp
from jaxbackprop.activations import as_activation
from jaxbackprop.network import BIAS, INPUT, widths

LARGEST, NARROW = 256, 16  # width; the batch is at most the first
EXERCISE_EVERY = 25


class Case(NamedTuple):
    """One network with its loss, one point (parameters and data, NumPy arrays of `dtype`), and the right gradient."""

    number: int
    wiring: str
    network: jbp.Network
    loss: str
    dtype: str
    bias: str
    params: dict
    x: np.ndarray
    y: np.ndarray
    value: Callable
    gradient: Callable


def log_uniform(rng: np.random.Generator, largest: int = LARGEST) -> int:
    """1 to the largest, as many below its square root as above."""
    return round(largest ** rng.random())


def draw_activation(rng) -> str:
    """relu half of the time."""
    return "relu" if rng.random() < 0.45 else str(rng.choice(list(jbp.activations.ACTIVATIONS)))


def draw_widths(rng, outputs: int) -> list[int]:
    """Input, one to four hidden layers, output; half of the networks are narrow.

    Half have hidden layers of one width, as people write them: only then are matrices square, or of one shape.
    """
    largest = LARGEST if rng.random() < 0.5 else NARROW
    drawn = [log_uniform(rng, largest) for _ in range(2 + rng.integers(4))]
    outputs = min(outputs, largest)
    alike = rng.random()
    if alike < 0.5:
        drawn[1:] = drawn[1:2] * len(drawn[1:])
    if alike < 0.2:
        drawn[0] = outputs = max(outputs, drawn[1])
    return [*drawn, outputs]


def wire_by_hand(rng, widths: list[int], bias: bool) -> jbp.Network:
    """Any sources for any layer, an activation each, biases here and there; a layer may even be read by none."""
    inputs, *others = widths
    names, layers = [INPUT], []
    for i, width in enumerate(others):
        sources = [names[-1], *(s for s in names[:-1] if rng.random() < 0.5)]
        if i == len(others) - 1 and rng.random() < 0.1:
            sources = sources[1:] or sources
        layers.append(
            jbp.Layer(f"layer{i}", width, tuple(sources), draw_activation(rng), bias and bool(rng.random() < 0.8))
        )
        names.append(f"layer{i}")
    if rng.random() < 0.7:
        layers[-1] = jbp.Layer(layers[-1].name, layers[-1].width, layers[-1].sources, "identity", layers[-1].bias)
    return jbp.Network(inputs, tuple(layers))


def draw_params(network: jbp.Network, rng, scale: float = 1.0, bias: float = 0.5) -> dict:
    """Weights as large as `jbp.init` draws them, times the scale."""
    width, params = widths(network), {}
    for t in network.layers:
        gain = as_activation(t.activation).gain
        size = scale * math.sqrt(gain / sum(width[s] for s in t.sources))
        params[t.name] = {s: size * rng.standard_normal((t.width, width[s])) for s in t.sources}
        if t.bias:
            params[t.name][BIAS] = scale * bias * rng.standard_normal(t.width)
    return params


def draw_data(network: jbp.Network, loss: str, batch: int, rng) -> tuple[np.ndarray, np.ndarray]:
    """Inputs, and targets that suit the loss."""
    x, k = rng.standard_normal((batch, network.inputs)), network.layers[-1].width
    if loss == "softmax_cross_entropy":
        return x, rng.integers(0, k, batch).astype(np.int32)
    if loss == "sigmoid_binary_cross_entropy":
        return x, rng.integers(0, 2, (batch, k)).astype(np.float64)
    return x, rng.standard_normal((batch, k))


def draw_case(index: int) -> Case:
    """Network number `index`; one in 25 is the exercise's own, on one example."""
    rng = np.random.default_rng(index)
    dtype, batch = ("float32", "float64")[index % 2], log_uniform(rng)
    loss = str(rng.choice(list(jbp.losses.LOSSES)))
    wiring = str(rng.choice(["mlp", "skip_mlp", "dense_mlp", "by hand"], p=[0.3, 0.3, 0.2, 0.2]))
    has_bias, zero = bool(rng.random() < 0.7), bool(rng.random() < 0.25)
    shape = draw_widths(rng, max(log_uniform(rng), 2 if loss == "softmax_cross_entropy" else 1))
    if index % EXERCISE_EVERY == 0:
        wiring, batch, loss = "exercise", 1, "half_squared_error"
        network = jbp.skip_mlp((1, 1, 1, 1))
    elif wiring == "by hand":
        network = wire_by_hand(rng, shape, has_bias)
    else:
        network = getattr(jbp, wiring)(shape, draw_activation(rng), has_bias)
    params = draw_params(network, rng, bias=0.0 if zero else 0.5)
    x, y = draw_data(network, loss, batch, rng)
    params, x, y = jax.tree.map(lambda a: a if a.dtype == np.int32 else a.astype(dtype), (params, x, y))
    bias = ("zero" if zero else "random") if any(t.bias for t in network.layers) else "none"
    value, gradient = jbp.plain_loss(network, loss), jax.jit(sweep(network, loss))
    return Case(index, wiring, network, loss, dtype, bias, params, x, y, value, gradient)


def given_point(case: Case) -> tuple:
    """The given point in float64."""
    return jax.tree.map(lambda a: a if a.dtype == np.int32 else a.astype(np.float64), (case.params, case.x, case.y))


def point_of(case: Case) -> tuple:
    """The given point as JAX arrays."""
    return jax.tree.map(jnp.asarray, (case.params, case.x, case.y))


# The right gradient


def forward(network, params, x):
    """Every z and h of a batch, examples in rows."""
    z, h = {}, {INPUT: x}
    for t in network.layers:
        z[t.name] = sum(h[s] @ params[t.name][s].T for s in t.sources) + params[t.name].get(BIAS, 0)
        h[t.name] = as_activation(t.activation).value(z[t.name])
    return z, h


def slope_of(t, z, _h):
    """g_t'(z_t)."""
    return as_activation(t.activation).derivative(z[t.name])


def path_of(t, s, params, dz):
    """What arrives at h_s over the edge s→t: dz_t W_ts."""
    return dz[t.name] @ params[t.name][s]


def source_of(_t, s, _z, h):
    """What dz_t meets in dW_ts: h_s."""
    return h[s]


def sweep(network: jbp.Network, loss: str, *, slope=slope_of, path=path_of, source=source_of) -> Callable:
    """The gradient of the mean loss, (params, x, y) → grads; a mistake changes one of the three rules at one spot."""

    def gradient(params, x, y):
        z, h = forward(network, params, x)
        dyhat = jax.vmap(jbp.losses.LOSSES[loss].derivative)(h[network.layers[-1].name], y) / len(x)
        dz, grads = {}, {}
        for t in reversed(network.layers):
            readers = [r for r in network.layers if t.name in r.sources]
            arriving = sum((path(r, t.name, params, dz) for r in readers), start=jnp.zeros_like(h[t.name]))
            dh = dyhat if t is network.layers[-1] else arriving
            dz[t.name] = dh * slope(t, z, h)
            grads[t.name] = {s: dz[t.name].T @ source(t, s, z, h) for s in t.sources}
            if t.bias:
                grads[t.name][BIAS] = jnp.sum(dz[t.name], axis=0)
        return grads

    return gradient
