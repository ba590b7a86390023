"""Does the gradient checker raise false alarms, and what does it miss? Beside what JAX and PyTorch bring for it.

    python experiments/checker_benchmark.py [--quick] [--networks N] [--first A] [--processes P]

Random networks (wiring, depth, widths, activations, loss, batch, bias, dtype; network A is the same whenever it is drawn),
each with its right gradient and with mistakes planted in it. A gradient is a backward sweep over the batch, written here,

    dh_s = Σ over edges s→t of dz_t W_ts        dz_t = dh_t · g_t'(z_t)        dW_ts = dz_tᵀ h_s        db_t = Σ_b dz_t

with rows for examples and dyhat = dL/dyhat / B, and a mistake is one spot of it changed, or one edit of what it returns.

Which parameters a mistake truly makes wrong is found without any checker: in float64, at the given point and at random
ones (fresh data, fresh parameters at three scales), the planted gradient is compared with the right one. A mistake that
nowhere changes any entry by more than 1e-9 of its parameter's largest is without effect, and is not planted: another spot
is tried, three at most. The entry and the row are chosen among those whose gradient at the given point is at least 1e-3
of the parameter's largest. A mistake may be without effect at the given point alone, because all units are off, say: who
looks at that point only cannot see it. Such are counted apart.

False alarm: the right gradient is called wrong. Miss: a planted mistake is called right. Named: the parameters called wrong
are the truly wrong ones, all or some, and no right one; exactly: all. Diagnosed: a truly wrong parameter got the planted
mistake's name, or one that says the same of these numbers: 5% off in a parameter of one entry is a factor.

The peers see every fourth pair of networks (float32, float64), with their defaults, once for each gradient, in the given
point. `jax.test_util.check_grads(order=1, modes=("rev",))` sees a `jax.custom_vjp` whose backward pass is the gradient under
test, in the network's dtype.
`torch.autograd.gradcheck` sees a `torch.autograd.Function` that calls the same JAX functions through NumPy in float64,
which it asks for; its time grows with the parameters, and it gets networks of 300 at most. An exception counts as "wrong",
which is how the peers say it; one out of `check_gradient` is a crash, and counted as that too.
Neither framework lets its checker see a dtype, nor PyTorch every shape: what a backward pass returns is converted first.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
from jax.test_util import check_grads
from rich.console import Console
from rich.progress import track

import jaxbackprop as jbp
from jaxbackprop.activations import as_activation
from jaxbackprop.network import BIAS, INPUT, widths

LARGEST, NARROW = 256, 16  # width; the batch is at most the first
EXERCISE_EVERY = 25
SCALES, POINTS_A_SCALE = (0.3, 1.0, 3.0), 8
NO_EFFECT = 1e-9
ALIVE = 1e-3
SPOTS = 3
GRADCHECK_PARAMETERS = 300
PEERS_EVERY = 4  # pairs of networks; check_grads compiles longer than all else here takes
TIMED = 10
OURS, CHECK_GRADS, GRADCHECK = "check_gradient", "jax check_grads", "torch gradcheck"
MISTAKES = (
    "factor 2",
    "sum for mean",
    "sign",
    "sign of one parameter",
    "transposed",
    "entry 5% off",
    "sign of a row",
    "derivative missing",
    "value for derivative",
    "path left out",
    "wrong source",
    "wrong weights",
    "stale parameters",
    "two swapped",
    "bias left zero",
    "NaN",
    "parameter missing",
    "wrong shape",
    "wrong dtype",
)
RIGHT = "none"


# Networks


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


# Gradients, right and wrong


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


class Mistake(NamedTuple):
    """A wrong gradient: which mistake, at which spot, and the diagnoses that are right.

    `wrong` holds the parameters that are wrong by form, whatever their numbers; None where the numbers decide.
    """

    kind: str
    spot: str
    diagnoses: frozenset[str]
    gradient: Callable
    wrong: frozenset[str] | None = None


class Parameter(NamedTuple):
    """W_ts or b_t by name, with the right gradient at the given point in float64."""

    t: str
    s: str
    grad: np.ndarray

    @property
    def path(self) -> str:
        """As `jax.tree_util.keystr` writes it."""
        return f"[{self.t!r}][{self.s!r}]"


def mistake(kind: str, spot: str, diagnoses: Iterable[str], gradient: Callable, wrong=None) -> Mistake:
    """Compile its gradient."""
    return Mistake(kind, spot, frozenset(diagnoses), jax.jit(gradient), wrong)


def edited(gradient: Callable, edits: dict[tuple[str, str], Callable]) -> Callable:
    """The gradient with some parameters' parts edited, each by a function of the whole gradient."""

    def wrong(params, x, y):
        right = gradient(params, x, y)
        grads = {t: dict(parts) for t, parts in right.items()}
        for (t, s), edit in edits.items():
            grads[t][s] = edit(right)
        return grads

    return wrong


def edit_one(case: Case, p: Parameter, edit: Callable) -> Callable:
    """The right gradient with one parameter's part edited."""
    return edited(case.gradient, {(p.t, p.s): lambda right: edit(right[p.t][p.s])})


def alive(p: Parameter, share: float) -> np.ndarray:
    """Which entries are at least that share of the largest; none where all are 0."""
    size = np.abs(p.grad)
    return (size >= share * np.max(size)) & (size > 0)


def on_everything(case: Case) -> Iterator[Mistake]:
    """Every parameter is off by the same factor, as when the half of ½ (yhat − y)² or the mean is forgotten."""

    def times(factor):
        return lambda params, x, y: jax.tree.map(lambda g: factor * g, case.gradient(params, x, y))

    def summed(params, x, y):
        return jax.tree.map(lambda g: len(x) * g, case.gradient(params, x, y))

    yield mistake("factor 2", "all", {"factor"}, times(2))
    yield mistake("sign", "all", {"sign"}, times(-1))
    if len(case.x) > 1:
        yield mistake("sum for mean", "all", {"factor"}, summed)


def on_one_parameter(case: Case, p: Parameter, rng) -> Iterator[Mistake]:
    """Edits of one parameter's part."""
    spot, square = p.path, p.grad.ndim == 2 and p.grad.shape[0] == p.grad.shape[1] > 1
    some = tuple(int(i) for i in np.unravel_index(rng.integers(p.grad.size), p.grad.shape))
    yield mistake("sign of one parameter", spot, {"sign"}, edit_one(case, p, lambda g: -g))
    yield mistake("NaN", f"{spot}{some}", {"not finite"}, edit_one(case, p, lambda g: g.at[some].set(jnp.nan)))
    if square:
        yield mistake("transposed", spot, {"transpose"}, edit_one(case, p, lambda g: g.T))
    if p.s == BIAS:
        yield mistake("bias left zero", spot, {"zero"}, edit_one(case, p, jnp.zeros_like))
    entries = np.argwhere(alive(p, ALIVE))
    if len(entries):
        at = tuple(map(int, rng.choice(entries)))
        yield mistake(
            "entry 5% off", f"{spot}{at}", entry_diagnoses(p, at), edit_one(case, p, lambda g: g.at[at].mul(1.05))
        )
    if len(entries) and p.grad.ndim == 2 and len(p.grad) > 1:
        i = int(rng.choice(entries)[0])
        yield mistake(
            "sign of a row", f"{spot}[{i}]", row_diagnoses(p, i), edit_one(case, p, lambda g: g.at[i].mul(-1))
        )


def entry_diagnoses(p: Parameter, at: tuple[int, ...]) -> set[str]:
    """What else one entry off may be called: it is a row or a column if no other entry there is, a factor if it is all."""
    if p.grad.size == 1:
        return {"factor"}
    on = alive(p, NO_EFFECT)
    names = {"entry"}
    if np.sum(on[at[0]]) == 1:
        names.add("row")
    if np.sum(on[..., at[-1]]) == 1:
        names.add("column")
    if np.sum(on) == 1:
        names.add("factor")
    return names


def row_diagnoses(p: Parameter, i: int) -> set[str]:
    """What else one row's sign may be called: an entry if the row has no other, the sign if there is no other row."""
    on = alive(p, NO_EFFECT)
    return {"row"} | ({"entry"} if np.sum(on[i]) == 1 else set()) | ({"sign"} if np.sum(on) == np.sum(on[i]) else set())


def on_two_parameters(case: Case, p: Parameter, q: Parameter) -> Mistake:
    """Each got the other's gradient. Into the same layer that is the same as each other's source."""
    edits = {(p.t, p.s): lambda right: right[q.t][q.s], (q.t, q.s): lambda right: right[p.t][p.s]}
    names = {"swapped"} | ({"source"} if p.t == q.t else set())
    return mistake("two swapped", f"{p.path} and {q.path}", names, edited(case.gradient, edits))


def on_slopes(case: Case) -> Iterator[Mistake]:
    """dz = dh · g'(z) at one hidden layer, without g', or with g in place of g'."""
    for layer in case.network.layers[:-1]:
        if layer.activation != "identity":
            name = layer.name

            def missing(t, z, h, name=name):
                return jnp.ones_like(z[name]) if t.name == name else slope_of(t, z, h)

            def value(t, z, h, name=name):
                return h[name] if t.name == name else slope_of(t, z, h)

            yield from (
                mistake(kind, name, {kind}, sweep(case.network, case.loss, slope=slope))
                for kind, slope in (("derivative missing", missing), ("value for derivative", value))
            )


def on_paths(case: Case) -> Iterator[Mistake]:
    """dh_s = Σ dz_t W_ts with one term left out, or with other weights in it."""
    width = widths(case.network)
    shapes = {(t.name, s): (t.width, width[s]) for t in case.network.layers for s in t.sources}

    def replaced(edge, term):
        def path(t, s, params, dz):
            return term(params, dz[t.name]) if (t.name, s) == edge else path_of(t, s, params, dz)

        return sweep(case.network, case.loss, path=path)

    for edge, shape in shapes.items():
        (t, s), arrow = edge, f"{edge[1]} → {edge[0]}"
        if s == INPUT:
            continue
        if sum(s in reader.sources for reader in case.network.layers) > 1:
            yield mistake("path left out", arrow, {"path missing"}, replaced(edge, lambda _params, _dz: 0))
        if shape[0] == shape[1] > 1:
            transposed = replaced(edge, lambda params, dz, t=t, s=s: dz @ params[t][s].T)
            yield mistake("wrong weights", f"{arrow}, W for Wᵀ", {"weights"}, transposed)
        for u, v in shapes:
            if (u, v) != edge and shapes[u, v] == shape:
                other = replaced(edge, lambda params, dz, u=u, v=v: dz @ params[u][v])
                yield mistake("wrong weights", f"{arrow}, those of {v} → {u}", {"weights"}, other)


def on_sources(case: Case) -> Iterator[Mistake]:
    """dW_ts = dz_tᵀ h_s with z_s for h_s, or with another layer's h. One that t reads too: that is its dW."""
    width = widths(case.network)
    activations = {t.name: t.activation for t in case.network.layers}

    def replaced(edge, instead):
        def source(t, s, z, h):
            return instead(z, h) if (t.name, s) == edge else source_of(t, s, z, h)

        return sweep(case.network, case.loss, source=source)

    for t in case.network.layers:
        for s in t.sources:
            edge, arrow = (t.name, s), f"{s} → {t.name}"
            if activations.get(s, "identity") != "identity":
                gradient = replaced(edge, lambda z, _h, s=s: z[s])
                yield mistake("wrong source", f"{arrow}, z for h", {"source"}, gradient)
            for u in width:
                if u != s and width[u] == width[s]:
                    names = {"source"} | ({"swapped"} if u in t.sources else set())
                    gradient = replaced(edge, lambda _z, h, u=u: h[u])
                    yield mistake("wrong source", f"{arrow}, h of {u}", names, gradient)


def on_the_point(case: Case, rng) -> Mistake:
    """The gradient at parameters captured before an update of about 1% moved them to where they are."""
    old = jax.tree.map(
        lambda w: w + 0.01 * (np.sqrt(np.mean(np.square(w))) or 0.1) * rng.standard_normal(w.shape), case.params
    )

    def stale(params, x, y):
        then = jax.tree.map(lambda w, now: jnp.asarray(w, now.dtype), old, params)
        return case.gradient(then, x, y)

    # not compiled again: large captured arrays would be constants of the program
    return Mistake("stale parameters", "all", frozenset({"stale"}), stale)


def on_the_form(case: Case, p: Parameter, paths: Iterable[str]) -> Iterator[Mistake]:
    """A parameter without a gradient, one of another shape, all of another dtype."""
    oblong = p.grad.ndim == 2 and p.grad.shape[0] != p.grad.shape[1]
    names = {"shape", "transpose"} if oblong else {"shape"}

    def missing(params, x, y):
        grads = case.gradient(params, x, y)
        return grads | {p.t: {s: g for s, g in grads[p.t].items() if s != p.s}}

    def half(params, x, y):
        return jax.tree.map(lambda g: g.astype(jnp.float16), case.gradient(params, x, y))

    one = frozenset({p.path})
    yield mistake("parameter missing", p.path, {"structure"}, missing, one)
    yield mistake("wrong shape", p.path, names, edit_one(case, p, lambda g: g.T if oblong else g[None]), one)
    yield mistake("wrong dtype", "all, float16", {"dtype"}, half, frozenset(paths))


def candidates(case: Case, grads: dict, rng) -> dict[str, list[Mistake]]:
    """Every mistake's spots in this network, shuffled; `grads` is the right gradient at the given point."""
    parameters = [Parameter(t, s, g) for t, parts in grads.items() for s, g in parts.items()]
    rng.shuffle(parameters)
    pairs = [(p, q) for i, p in enumerate(parameters) for q in parameters[:i] if p.grad.shape == q.grad.shape]
    inside = [*on_slopes(case), *on_paths(case), *on_sources(case)]
    rng.shuffle(inside)
    everywhere = [
        *on_everything(case),
        on_the_point(case, rng),
        *on_the_form(case, parameters[0], [p.path for p in parameters]),
    ]
    by_edit = [m for p in parameters for m in on_one_parameter(case, p, rng)]
    found = [*everywhere, *by_edit, *inside, *(on_two_parameters(case, p, q) for p, q in pairs)]
    return {kind: [m for m in found if m.kind == kind][:SPOTS] for kind in MISTAKES}


# What is truly wrong


class Effect(NamedTuple):
    """For every parameter, how far a mistake moves its gradient, relative to the largest entry."""

    here: dict[str, float]
    anywhere: dict[str, float]

    @property
    def wrong(self) -> frozenset[str]:
        """The parameters that the mistake makes wrong."""
        return frozenset(path for path, size in self.anywhere.items() if size > NO_EFFECT)


def given_point(case: Case) -> tuple:
    """The given point in float64."""
    return jax.tree.map(lambda a: a if a.dtype == np.int32 else a.astype(np.float64), (case.params, case.x, case.y))


def points_of(case: Case) -> list[tuple]:
    """The given point, then random ones, in float64."""
    rng = np.random.default_rng((1, case.number))
    random = [
        (draw_params(case.network, rng, scale), *draw_data(case.network, case.loss, len(case.x), rng))
        for scale in SCALES
        for _ in range(POINTS_A_SCALE)
    ]
    return [given_point(case), *random]


def by_path(grads) -> dict[str, np.ndarray]:
    """The leaves, by the path of each."""
    return {jax.tree_util.keystr(path): np.asarray(g) for path, g in jax.tree_util.tree_leaves_with_path(grads)}


def moved(given: np.ndarray, right: np.ndarray) -> float:
    """The largest difference, relative to the largest entry of either; infinite where there is no number."""
    if not np.all(np.isfinite(given)):
        return np.inf
    size = max(np.max(np.abs(given)), np.max(np.abs(right)))
    return float(np.max(np.abs(given - right)) / size) if size > 1e-100 else 0.0


def effect_of(gradient: Callable, points: list[tuple], right: list[dict[str, np.ndarray]]) -> Effect:
    """Compare with the right gradient at every point; the first is the given one."""
    sizes = []
    for point, expected in zip(points, right, strict=True):
        given = by_path(gradient(*point))
        sizes.append({path: moved(given[path], e) for path, e in expected.items()})
    return Effect(sizes[0], {path: max(size[path] for size in sizes) for path in sizes[0]})


class Planted(NamedTuple):
    """A mistake with the parameters that it makes wrong, and the largest effect on any at the given point."""

    mistake: Mistake
    wrong: frozenset[str]
    here: float


def plant(case: Case) -> tuple[list[Planted], dict[str, int], list[str]]:
    """Mistakes that are mistakes; how many spots were without effect, by kind; and the kinds that have no spot here."""
    planted, without_effect = [], Counter()
    with jax.enable_x64(True):
        points = points_of(case)
        right = [by_path(case.gradient(*point)) for point in points]
        require_right(case, points[0], right[0])
        grads = {t.name: {} for t in case.network.layers}
        for t in case.network.layers:
            grads[t.name] = {s: right[0][f"[{t.name!r}][{s!r}]"] for s in (*t.sources, *([BIAS] if t.bias else []))}
        spots = candidates(case, grads, np.random.default_rng((2, case.number)))
        for kind, mistakes in spots.items():
            for m in mistakes:
                if m.wrong is not None:
                    planted.append(Planted(m, m.wrong, np.inf))
                    break
                effect = effect_of(m.gradient, points, right)
                if effect.wrong:
                    planted.append(Planted(m, effect.wrong, max(effect.here.values())))
                    break
                without_effect[kind] += 1
    return planted, dict(without_effect), [kind for kind, mistakes in spots.items() if not mistakes]


def require_right(case: Case, point: tuple, grads: dict[str, np.ndarray]) -> None:
    """Refuse to go on if the sweep without a mistake is not the gradient."""
    expected = by_path(jax.jit(jax.grad(case.value))(*point))
    worst = max(moved(grads[path], e) for path, e in expected.items())
    if not worst <= NO_EFFECT:
        raise SystemExit(f"network {case.number}: the right gradient differs from jax.grad by {worst:.1g}")


# The checkers


class Verdict(NamedTuple):
    """What a checker says of a gradient: wrong or not, which parameters, the diagnosis of each; an exception's text."""

    wrong: bool
    seconds: float
    diagnoses: dict[str, str | None] = {}  # noqa: RUF012
    error: str = ""


def by_check_gradient(case: Case, gradient: Callable) -> dict[str, str | None]:
    """The wrong parameters with their diagnoses."""
    report = jbp.check_gradient(case.value, gradient, *point_of(case))
    return {row.parameter: row.diagnosis.kind if row.diagnosis else None for row in report.rows if not row.ok}


def by_check_grads(case: Case, gradient: Callable) -> None:
    """Raise if the gradient, as the backward pass of a `jax.custom_vjp`, does not pass."""
    params, x, y = point_of(case)
    value = jax.jit(case.value)

    @jax.custom_vjp
    def f(params):
        return value(params, x, y)

    def backward(params, d):
        return (jax.tree.map(lambda g: (d * g).astype(g.dtype), gradient(params, x, y)),)

    f.defvjp(lambda params: (f(params), params), backward)
    check_grads(f, (params,), order=1, modes=("rev",))


def by_gradcheck(case: Case, gradient: Callable) -> None:
    """Raise if the gradient, as the backward pass of a `torch.autograd.Function`, does not pass."""
    torch: Any = importlib.import_module("torch")
    with jax.enable_x64(True):
        value = jax.jit(case.value)
        params, x, y = given_point(case)
        leaves, structure = jax.tree.flatten(params)

        class F(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *leaves):
                ctx.save_for_backward(*leaves)
                return torch.tensor(float(value(as_params(leaves), x, y)), dtype=torch.float64)

            @staticmethod
            def backward(ctx, d):
                grads = gradient(as_params(ctx.saved_tensors), x, y)
                return tuple(d * torch.from_numpy(np.array(g)) for g in jax.tree.leaves(grads))

        def as_params(leaves):
            return jax.tree.unflatten(structure, [leaf.detach().numpy() for leaf in leaves])

        torch.autograd.gradcheck(F.apply, tuple(torch.tensor(leaf, requires_grad=True) for leaf in leaves))


CHECKERS: dict[str, Callable] = {OURS: by_check_gradient, CHECK_GRADS: by_check_grads, GRADCHECK: by_gradcheck}


def point_of(case: Case) -> tuple:
    """The given point as JAX arrays."""
    return jax.tree.map(jnp.asarray, (case.params, case.x, case.y))


def applies(checker: str, case: Case) -> bool:
    """Whether that checker is asked about this network: it is installed, and its time is bearable."""
    if checker == OURS:
        return True
    if case.number // 2 % PEERS_EVERY:
        return False
    if checker == CHECK_GRADS:
        return True
    return (
        importlib.util.find_spec("torch") is not None
        and jbp.network.count_parameters(case.network) <= GRADCHECK_PARAMETERS
    )


def judge(checker: str, case: Case, gradient: Callable) -> Verdict:
    """Ask a checker; whatever it raises, it has not called the gradient right."""
    began = time.perf_counter()
    with jax.enable_x64(case.dtype == "float64"):
        try:
            named = CHECKERS[checker](case, gradient) or {}
            error = ""
        except Exception as e:
            named, error = {}, f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:120]
    return Verdict(bool(named or error), time.perf_counter() - began, named, error)


def run(index: int) -> tuple[dict, list[dict]]:
    """One network with its right gradient and its mistakes: what it is, and a row for each."""
    case = draw_case(index)
    planted, without_effect, no_spot = plant(case)
    everything = [Planted(Mistake(RIGHT, "", frozenset(), case.gradient), frozenset(), 0.0), *planted]
    rows = [row_of(case, p) for p in everything]
    about = {
        "index": index,
        "wiring": case.wiring,
        "network": str(case.network),
        "loss": case.loss,
        "dtype": case.dtype,
        "batch": len(case.x),
        "bias": case.bias,
        "parameters": jbp.network.count_parameters(case.network),
        "no_spot": ", ".join(no_spot),
        "spots_without_effect": without_effect,
    }
    jax.clear_caches()
    return about, rows


def row_of(case: Case, planted: Planted) -> dict[str, Any]:
    """All verdicts on one gradient. A diagnosis counts only on a parameter that is truly wrong."""
    m = planted.mistake
    verdicts = {name: judge(name, case, m.gradient) for name in CHECKERS if applies(name, case)}
    ours = verdicts[OURS].diagnoses
    named = frozenset(ours)
    return {
        "network": case.number,
        "mistake": m.kind,
        "spot": m.spot,
        "wrong": ", ".join(sorted(planted.wrong)),
        "effect_at_the_point": None if planted.here == np.inf else float(f"{planted.here:.2g}"),
        "called_wrong": {name: verdict.wrong for name, verdict in verdicts.items()},
        "raised": {name: verdict.error for name, verdict in verdicts.items() if verdict.error},
        "named": ", ".join(sorted(named)),
        "diagnoses": ", ".join(f"{path}: {ours[path]}" for path in sorted(ours)),
        "named_exactly": bool(planted.wrong) and named == planted.wrong,
        "named_only_wrong": bool(named) and named <= planted.wrong,
        "diagnosed": any(ours[path] in m.diagnoses for path in named & planted.wrong),
    }


def time_cold(indices: Sequence[int]) -> list[dict]:
    """Seconds for one check with nothing compiled yet, of a right and of a wrong gradient, all checkers in turn."""
    first = draw_case(0)
    for name in CHECKERS:
        if applies(name, first):
            judge(name, first, first.gradient)  # imports
    rows = []
    for i, index in enumerate(indices):
        case = draw_case(index)
        planted = plant(case)[0]
        wrong = planted[i % len(planted)].mistake
        for kind, gradient in ((RIGHT, case.gradient), (wrong.kind, wrong.gradient)):
            row: dict[str, Any] = {"network": index, "mistake": kind}
            for name in CHECKERS:
                if applies(name, case):
                    jax.clear_caches()
                    row[name] = judge(name, case, gradient).seconds
            rows.append(row)
    return rows


# Tables and picture


def share(part: int, whole: int) -> str:
    """A count of a count."""
    return f"{part:,} of {whole:,}" if whole else "-"


def seconds_of(times: list[dict], name: str, right: bool) -> float | None:
    """The median of a checker's cold checks."""
    found = [row[name] for row in times if name in row and (row["mistake"] == RIGHT) == right]
    return statistics.median(found) if found else None


def by_tool(rows: list[dict], times: list[dict]) -> list[dict]:
    """The end table: a line for each checker."""
    table = []
    for name in CHECKERS:
        seen = [row for row in rows if name in row["called_wrong"]]
        right = [row for row in seen if row["mistake"] == RIGHT]
        wrong = [row for row in seen if row["mistake"] != RIGHT]
        missed = [row for row in wrong if not row["called_wrong"][name]]
        if seen:
            table.append(
                {
                    "checker": name,
                    "networks": len(right),
                    "false_alarms": sum(row["called_wrong"][name] for row in right),
                    "missed": share(len(missed), len(wrong)),
                    "missed_though_visible_at_the_point": sum(visible(row) for row in missed),
                    "crashes": sum(name in row["raised"] for row in seen) if name == OURS else "-",
                    "named": count(wrong, "named_only_wrong") if name == OURS else "-",
                    "exactly": count(wrong, "named_exactly") if name == OURS else "-",
                    "diagnosed": count(wrong, "diagnosed") if name == OURS else "-",
                    "s_a_check": seconds_of(times, name, right=True),
                    "s_if_wrong": seconds_of(times, name, right=False),
                }
            )
    return table


def count(rows: list[dict], key: str) -> str:
    """How many rows have it."""
    return share(sum(row[key] for row in rows), len(rows))


def visible(row: dict) -> bool:
    """Whether the mistake changes anything at the given point; one of form always does."""
    return row["effect_at_the_point"] is None or row["effect_at_the_point"] > NO_EFFECT


def by_mistake(rows: list[dict], networks: list[dict]) -> list[dict]:
    """The second table: a line for each kind of mistake."""
    table = []
    for kind in MISTAKES:
        planted = [row for row in rows if row["mistake"] == kind]
        line = {
            "mistake": kind,
            "planted": len(planted),
            "invisible_at_the_point": sum(not visible(row) for row in planted),
            "without_effect": sum(network["spots_without_effect"].get(kind, 0) for network in networks),
        }
        for name in CHECKERS:
            seen = [row for row in planted if name in row["called_wrong"]]
            line[f"missed_by_{name}"] = share(sum(not row["called_wrong"][name] for row in seen), len(seen))
        table.append(line | {key: count(planted, key) for key in ("named_exactly", "diagnosed")})
    return table


def cells(rows: list[dict]) -> Iterator[tuple[str, str, int, int, str]]:
    """The picture's cells: line, column, part, whole, colour map."""
    lines = {"the right gradient: false alarms": [RIGHT], **{f"{kind}: missed": [kind] for kind in MISTAKES}}
    for line, kinds in (lines | {"all mistakes: missed": list(MISTAKES)}).items():
        here = [row for row in rows if row["mistake"] in kinds]
        for name in CHECKERS:
            seen = [row for row in here if name in row["called_wrong"]]
            failed = sum(row["called_wrong"][name] == (row["mistake"] == RIGHT) for row in seen)
            yield line, name, failed, len(seen), "Reds"
        if kinds != [RIGHT]:
            yield line, "all wrong parameters", sum(row["named_exactly"] for row in here), len(here), "Greens"
            yield line, "the mistake", sum(row["diagnosed"] for row in here), len(here), "Greens"


def plot(rows: list[dict], path) -> None:
    """A cell for each kind of mistake and checker: how many it got wrong; and what ours named and diagnosed."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    drawn = list(cells(rows))
    lines = list(dict.fromkeys(line for line, *_ in drawn))
    columns = list(dict.fromkeys(column for _, column, *_ in drawn))
    # a gap around what is of another kind: after the right gradient, before the sum, between the checkers and ours alone
    left = {column: i + 0.25 * (i >= len(CHECKERS)) for i, column in enumerate(columns)}
    top = {line: i + 0.25 * (i > 0) + 0.25 * (i == len(lines) - 1) for i, line in enumerate(lines)}
    figure = Figure(figsize=(10, 7.8), layout="constrained")
    axis = figure.subplots()
    for line, column, part, whole, colors in drawn:
        x, y, ratio = left[column], top[line], part / whole if whole else 0.0
        color = colormaps[colors](0.1 + 0.65 * ratio) if part else "#f5f5f5"
        axis.add_patch(Rectangle((x, y), 0.96, 0.92, facecolor=color))
        text = f"{part:,} of {whole:,}" if whole else "none"
        ink = "white" if ratio > 0.6 else "#222"
        axis.text(x + 0.48, y + 0.48, text, ha="center", va="center", fontsize=8.5, color=ink)
    for text, ends in (("wrong verdicts", columns[: len(CHECKERS)]), (f"named by {OURS}", columns[len(CHECKERS) :])):
        axis.text((left[ends[0]] + left[ends[-1]] + 0.96) / 2, -1, text, ha="center", fontsize=11, fontweight="bold")
    axis.set_yticks([y + 0.48 for y in top.values()], list(top))
    axis.set_xticks([x + 0.48 for x in left.values()], list(left))
    axis.xaxis.tick_top()
    axis.set_xlim(0, left[columns[-1]] + 1)
    axis.set_ylim(top[lines[-1]] + 1, -0.1)
    axis.tick_params(length=0, labelsize=9)
    axis.spines[:].set_visible(False)
    figure.savefig(path, dpi=150)


def keep_compilations(folder: str) -> None:
    """The mistakes of one network are checked against the same value: what is compiled for it once is kept."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def followed(results: Iterable, total: int) -> Iterator:
    """A progress bar in a terminal, a line now and then in a pipe."""
    if Console().is_terminal:
        yield from track(results, "networks", total=total)
        return
    began = time.perf_counter()
    for i, result in enumerate(results, start=1):
        yield result
        if i % 10 == 0 or i == total:
            print(f"{i} of {total} networks, {time.perf_counter() - began:.0f} s", flush=True)


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What `make` returns, written down at once and whole, so that an interrupted run goes on where it was."""
    if not path.exists():
        path.with_suffix(".part").write_text(json.dumps(make()))
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text())


def run_and_keep(folder: Path, index: int) -> tuple[dict, list[dict]]:
    return kept(folder / f"network-{index}.json", partial(run, index))


def run_all(indices: Sequence[int], processes: int, folder: Path) -> tuple[list[dict], list[dict]]:
    """Every network, in a few processes."""
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as cache,
        ProcessPoolExecutor(processes, context, keep_compilations, (cache,)) as pool,
    ):
        results = list(followed(pool.map(partial(run_and_keep, folder), indices), len(indices)))
    return [about for about, _ in results], [row for _, rows in results for row in rows]


def program(torch: bool) -> dict:
    """What must be the same for a run to go on: of the stamp all but the hour's load, memory and date."""
    stamp = measure.stamp()
    return {key: stamp[key] for key in ("device", "processor", "jax", "jaxlib", "commit")} | {"torch": torch}


def keeping_folder(given: Path | None, made_for: dict) -> Path:
    """The folder that holds what is done so far, if it was done by the same program on the same device."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix="checker-"))
    given.mkdir(parents=True, exist_ok=True)
    if kept(given / "made-for.json", lambda: made_for) != made_for:
        raise SystemExit(f"{given} holds networks checked by another commit or version: give --keep a new folder")
    return given


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six networks unless --networks says more; writes nothing")
    parser.add_argument("--networks", type=int, help="how many, 200 by default")
    parser.add_argument("--first", type=int, default=0, help="the first one's number")
    parser.add_argument(
        "--keep", type=Path, help="folder for what is done so far; the same command later goes on there"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="networks checked at a time")
    given = parser.parse_args()
    indices = range(given.first, given.first + (given.networks or (6 if given.quick else 200)))
    torch = importlib.util.find_spec("torch") is not None
    if not torch:
        print("torch is not installed: torch.autograd.gradcheck is skipped (pip install torch)")
    timed = indices[:: len(indices) // (2 if given.quick else TIMED) | 1]  # odd: float32 and float64 alternate
    folder = keeping_folder(given.keep, program(torch))
    print(f"each network is kept in {folder}")
    print(f"timing {len(timed)} networks' checks, nothing compiled before", flush=True)
    times = kept(folder / f"times-{len(indices)}.json", partial(time_cold, timed))
    networks, rows = run_all(indices, given.processes, folder)
    tools, mistakes = by_tool(rows, times), by_mistake(rows, networks)
    measure.show("The checkers", tools)
    measure.show("By mistake", mistakes)
    if not given.quick:
        versions = {"torch": importlib.metadata.version("torch")} if torch else {}
        about = {"peers": versions, "tools": tools, "mistakes": mistakes, "times": times, "networks": networks}
        path = measure.save("checker", rows, **about)
        plot(rows, path.with_suffix(".png"))
        print(f"{path} and .png")


if __name__ == "__main__":
    main()
