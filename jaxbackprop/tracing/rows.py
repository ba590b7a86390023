"""The rows of a network worked through: each quantity with its formula, the formula with its numbers, and its value."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.activations import as_activation
from jaxbackprop.formulas import Written, bracketed
from jaxbackprop.losses import Loss
from jaxbackprop.network import BIAS, Layer, Network
from jaxbackprop.tracing.render import Row, row
from jaxbackprop.tracing.symbols import Names, narrow, number, shown_shape

Nodes = dict[str, np.ndarray]  # by layer
Weights = dict[str, dict[str, np.ndarray]]  # by layer and source, as in the parameters
Path = tuple[tuple[str, np.ndarray], ...]  # the factors of a product, each by its name; a single one is a bias


class Found(NamedTuple):
    """What the rows are written from; `gradient` and `taps` are `jax.grad`'s."""

    network: Network
    names: Names
    loss: Loss
    params: Weights
    y: np.ndarray
    value: np.ndarray
    z: Nodes
    h: Nodes
    dz: Nodes
    dh: Nodes
    gradient: Weights
    taps: dict[str, Nodes]
    digits: int

    def show(self, value: Any) -> str:
        """A number with the digits asked for."""
        return number(value, self.digits)


def rows_of(found: Found) -> tuple[Row, ...]:
    """Every row, in the order of the derivation: forward, backward, and the weights' gradients."""
    layers, last = found.network.layers, found.network.layers[-1].name
    return (
        *(r for t in layers for r in _forward_rows(found, t)),
        *_loss_rows(found, last),
        *(r for t in reversed(layers) for r in (*([_dh_row(found, t)] if t.name != last else []), _dz_row(found, t))),
        *(_dw_row(found, t, s) for t, s in found.names.w),
    )


def _loss_rows(found: Found, output: str) -> list[Row]:
    """p, where the loss makes a prediction of the output; L; and the output's adjoint."""
    yhat = found.h[output]
    loss = (found.loss.text or _own_loss(found))(yhat, found.y, found.show)
    p = prediction_name(found.network)
    said = lambda text: re.sub(r"\bp\b", p, re.sub(r"\byhat\b", output, text))  # noqa: E731
    rows = []
    if loss.prediction:
        formula, numbers, values = loss.prediction
        rows = [row(p, said(formula), _if_narrow(numbers, yhat), values)]
    slope = row(
        f"d{output}",
        said(loss.derivative),
        _if_narrow(loss.derivative_numbers, yhat),
        found.dh[output],
        found.taps[output]["h"],
    )
    return [*rows, row("L", said(loss.value), _if_narrow([loss.value_numbers], yhat), found.value), slope]


def prediction_name(network: Network) -> str:
    """What a softmax of the output is called: p, where no layer is."""
    return "p" if all(t.name != "p" for t in network.layers) else "prediction"


def _forward_rows(found: Found, t: Layer) -> list[Row]:
    """z = Σ W h + b, h = g(z): one row where yhat is z itself, as in the exercise."""
    names, z = found.names, found.names.z[t.name]
    linear, value = not as_activation(t.activation).text, found.z[t.name]
    paths: list[Path] = [((names.w[t.name, s], found.params[t.name][s]), (s, found.h[s])) for s in t.sources]
    if t.bias:
        paths.append(((names.w[t.name, BIAS], found.params[t.name][BIAS]),))
    formula, numbers = _path_sum(paths, t.width, found.show)
    if linear and t is found.network.layers[-1]:
        return [row(z, f"{t.name} = {formula}", numbers, value)]
    g, entries = names.g[t.name], [found.show(v) for v in value]
    applied = _if_narrow(entries if linear else [f"{g}({entry})" for entry in entries], value)
    return [row(z, formula, numbers, value), row(t.name, z if linear else f"{g}({z})", applied, found.h[t.name])]


def _dh_row(found: Found, s: Layer) -> Row:
    """dh = Σ Wᵀ dz over the layers that read h, the nearest first."""
    names = found.names
    paths: list[Path] = [
        ((f"{names.w[t.name, s.name]}ᵀ", found.params[t.name][s.name].T), (f"d{names.z[t.name]}", found.dz[t.name]))
        for t in found.network.layers
        if s.name in t.sources
    ]
    formula, numbers = _path_sum(paths, s.width, found.show)
    return row(f"d{s.name}", formula, numbers, found.dh[s.name], found.taps[s.name]["h"])


def _dz_row(found: Found, t: Layer) -> Row:
    """dz = dh · g'(z)."""
    g, z, value = found.names.g[t.name], found.names.z[t.name], found.dz[t.name]
    dh, zs, dhs = f"d{t.name}", found.z[t.name], found.dh[t.name]
    if not as_activation(t.activation).text:
        formula, numbers = dh, [found.show(v) for v in dhs]
    else:
        formula = f"{dh} · {g}'({z})"
        numbers = [
            f"{found.show(d)}·{g}'({found.show(v)}) = {_sum([[d, dg]], found.show)}"
            for d, v, dg in zip(dhs, zs, slope(t, zs), strict=True)
        ]
    return row(f"d{z}", formula, _if_narrow(numbers, value), value, found.taps[t.name]["z"])


def _dw_row(found: Found, t: str, s: str) -> Row:
    """dW = dz hᵀ, db = dz."""
    dz, z, w = found.dz[t], f"d{found.names.z[t]}", f"d{found.names.w[t, s]}"
    if s == BIAS:
        return row(w, z, _if_narrow([found.show(v) for v in dz], dz), dz, found.gradient[t][s])
    h = found.h[s]
    numbers = _if_narrow([_sum([[d, v]], found.show) for d in dz for v in h], dz, h[None])
    return row(w, f"{z} {s}ᵀ", numbers, np.outer(dz, h), found.gradient[t][s])


def slope(layer: Layer, z: np.ndarray) -> np.ndarray:
    """g'(z) of a layer, in float64."""
    with jax.enable_x64(True):
        return np.asarray(as_activation(layer.activation).derivative(jnp.asarray(z)))


def _path_sum(paths: list[Path], width: int, show) -> tuple[str, list[str]]:
    """Σ W h + b: its formula, and for each unit its sum of products; the shapes alone where something is wide."""
    formula = " + ".join(" ".join(name for name, _ in path) for path in paths) or "0"
    factors = [[array for _, array in path] for path in paths]
    if not all(narrow(array) for path in factors for array in path):
        return formula, [" + ".join("·".join(map(shown_shape, path)) for path in factors)]
    products = lambda path, i: [[path[0][i]]] if len(path) == 1 else list(zip(path[0][i], path[1], strict=True))  # noqa: E731
    return formula, [_sum([product for path in factors for product in products(path, i)], show) for i in range(width)]


def _if_narrow(lines: list[str], *operands: np.ndarray) -> list[str]:
    return lines if all(map(narrow, operands)) else ["·".join(map(shown_shape, operands))]


def _sum(products: list, show) -> str:
    """`1.3·(−0.42) + 0.45·0.6`: a negative number stands in brackets unless it comes first."""
    if not products:
        return "0"
    shown = " + ".join("·".join(bracketed(show(v)) for v in factors) for factors in products)
    first = show(products[0][0])
    return first + shown[len(bracketed(first)) :]


def _own_loss(found: Found):
    """How a loss is written whose formula is not known: by its numbers."""

    def written(_yhat, _y, show) -> Written:
        slopes = [show(v) for v in found.dh[found.network.layers[-1].name]]
        return Written("loss(yhat, y)", show(found.value), "loss'(yhat, y)", slopes)

    return written
