"""The rows of a worked derivation: each quantity with its formula, the formula with its numbers, and its value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.activations import as_activation
from jaxbackprop.formulas import Written, bracketed
from jaxbackprop.losses import Loss
from jaxbackprop.network import BIAS, Layer, Network
from jaxbackprop.spelling import unknown
from jaxbackprop.tracing.symbols import (
    Names,
    Symbol,
    adjoint,
    in_symbols,
    narrow,
    number,
    only_shapes,
    shown_shape,
    tex_entries,
    write,
)

Nodes = dict[str, np.ndarray]  # by layer
Weights = dict[str, dict[str, np.ndarray]]  # by layer and source, as in the parameters


class Row(NamedTuple):
    """One quantity of the derivation.

    Attributes:
        name: `dh0`.
        formula: with its symbols, `dh0 = w1ᵀ dz1 + w3ᵀ dz2`.
        numbers: the right side with the numbers in, `1.3·1.7864 + 0.45·(−2.552)`: a line for each entry of the value, in
            row-major order; the shapes alone where something is wider than 4.
        value: of the hand-derived sweep, shaped as in the network, float64.
        jax_grad: `jax.grad`'s value for the same node; None in the forward pass.
        difference: the largest |value − jax_grad|; None in the forward pass.
        tex: name, formula, numbers, each in LaTeX.
    """

    name: str
    formula: str
    numbers: str
    value: np.ndarray
    jax_grad: np.ndarray | None
    difference: float | None
    tex: tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class Worked:
    """One example worked through: the arrays, and the rows that show them. What a `Trace` holds.

    Attributes:
        network: the wiring.
        loss: its name, or "loss" for one of your own without a name.
        params, x, y: as given, in float64 (a class stays an integer).
        value: L.
        z, h, dz, dh: what `backprop.sweep` found, by layer.
        gradient: dW and db, shaped like the parameters.
        rows: a `Row` for each quantity, in the order of the derivation.
        digits: how many significant digits are shown.
    """

    network: Network
    loss: str
    params: Weights
    x: np.ndarray
    y: np.ndarray
    value: float
    z: Nodes
    h: Nodes
    dz: Nodes
    dh: Nodes
    gradient: Weights
    rows: tuple[Row, ...]
    digits: int

    def __getitem__(self, name: str) -> Row:
        """The row of that name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(unknown("quantity", name, [row.name for row in self.rows]))

    @property
    def difference(self) -> float:
        """The largest difference from `jax.grad` in any row; NaN if there is one."""
        return float(np.max([row.difference for row in self.rows if row.difference is not None]))


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
    layers, last = found.network.layers, found.network.layers[-1]
    yhat, symbols = found.h[last.name], {"yhat": found.names.h[last.name]}
    loss = (found.loss.text or _own_loss(found))(yhat, found.y, found.show)
    rows = [row for t in layers for row in _forward_rows(found, t)]
    rows += [
        _row(Symbol("L", "L"), in_symbols(loss.value, symbols), _if_narrow([loss.value_numbers], yhat), found.value)
    ]
    dyhat, dyhat_numbers = adjoint(found.names.h[last.name]), _if_narrow(loss.derivative_numbers, yhat)
    derivative = in_symbols(loss.derivative, symbols)
    rows += [_row(dyhat, derivative, dyhat_numbers, found.dh[last.name], found.taps[last.name]["h"])]
    for t in reversed(layers):
        rows += [_dh_row(found, t)] if t is not last else []
        rows += [_dz_row(found, t)]
    return (*rows, *(_dw_row(found, t, s) for t, s in found.names.w))


def _row(symbol: Symbol, formula: Symbol, numbers: list[str], value, jax_grad=None) -> Row:
    value = np.asarray(value, np.float64)
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, which says enough
        difference = None if jax_grad is None else float(np.max(np.abs(value - jax_grad)))
    tex = (symbol.tex, formula.tex, "" if only_shapes(numbers[0]) else tex_entries(numbers, value.shape))
    return Row(symbol.text, f"{symbol.text} = {formula.text}", "\n".join(numbers), value, jax_grad, difference, tex)


def _forward_rows(found: Found, t: Layer) -> list[Row]:
    """z = Σ W h + b, h = g(z): one row where yhat is z itself, as in the exercise."""
    names = found.names
    z, h, linear = names.z[t.name], names.h[t.name], not as_activation(t.activation).text
    paths = [[(names.w[t.name, s], found.params[t.name][s]), (names.h[s], found.h[s])] for s in t.sources]
    if t.bias:
        paths += [[(names.w[t.name, BIAS], found.params[t.name][BIAS])]]
    formula, numbers = _path_sum(paths, t.width, found.show)
    if linear and t is found.network.layers[-1]:
        return [_row(z, write(h, " = ", formula), numbers, found.z[t.name])]
    entries = [found.show(v) for v in found.z[t.name]]
    g = names.g[t.name]
    applied = entries if linear else [f"{g.text}({entry})" for entry in entries]
    return [
        _row(z, formula, numbers, found.z[t.name]),
        _row(h, z if linear else write(g, "(", z, ")"), _if_narrow(applied, found.z[t.name]), found.h[t.name]),
    ]


def _dh_row(found: Found, s: Layer) -> Row:
    """dh = Σ Wᵀ dz over the layers that read h, the nearest first."""
    names, dz = found.names, found.dz
    paths = [
        [(write(names.w[t.name, s.name], "ᵀ"), found.params[t.name][s.name].T), (adjoint(names.z[t.name]), dz[t.name])]
        for t in found.network.layers
        if s.name in t.sources
    ]
    formula, numbers = _path_sum(paths, s.width, found.show)
    return _row(adjoint(names.h[s.name]), formula, numbers, found.dh[s.name], found.taps[s.name]["h"])


def _dz_row(found: Found, t: Layer) -> Row:
    """dz = dh · g'(z)."""
    g, z, dh = found.names.g[t.name], found.names.z[t.name], adjoint(found.names.h[t.name])
    value = found.dz[t.name]
    if not as_activation(t.activation).text:
        formula, numbers = dh, [found.show(v) for v in found.dh[t.name]]
    else:
        times = Symbol(" · ", r" \cdot " if t.width == 1 else r" \odot ")
        formula = write(dh, times, g, "'(", z, ")")
        zs, dhs = found.z[t.name], found.dh[t.name]
        numbers = [
            f"{found.show(d)}·{g.text}'({found.show(v)}) = {_sum([[d, dg]], found.show)}"
            for d, v, dg in zip(dhs, zs, slope(t, zs), strict=True)
        ]
    return _row(adjoint(z), formula, _if_narrow(numbers, value), value, found.taps[t.name]["z"])


def _dw_row(found: Found, t: str, s: str) -> Row:
    """dW = dz hᵀ, db = dz."""
    names, dz, w = found.names, found.dz[t], adjoint(found.names.w[t, s])
    if s == BIAS:
        return _row(w, adjoint(names.z[t]), _if_narrow([found.show(v) for v in dz], dz), dz, found.gradient[t][s])
    h = found.h[s]
    numbers = _if_narrow([_sum([[d, v]], found.show) for d in dz for v in h], dz, h[None])
    formula = write(adjoint(names.z[t]), " ", names.h[s], "ᵀ")
    return _row(w, formula, numbers, np.outer(dz, h), found.gradient[t][s])


def slope(layer: Layer, z: np.ndarray) -> np.ndarray:
    """g'(z) of a layer, in float64."""
    with jax.enable_x64(True):
        return np.asarray(as_activation(layer.activation).derivative(jnp.asarray(z)))


def _path_sum(paths: list[list[tuple[Symbol, np.ndarray]]], width: int, show) -> tuple[Symbol, list[str]]:
    """Σ W h + b: its formula, and for each unit its sum of products; the shapes alone where something is wide.

    A path is a pair of factors, each with its symbol, or a single one, a bias.
    """
    products = [write(*_between(" ", [symbol for symbol, _ in path])) for path in paths]
    formula = write(*_between(" + ", products or ["0"]))
    factors = [[array for _, array in path] for path in paths]
    if not all(narrow(array) for path in factors for array in path):
        return formula, [" + ".join("·".join(map(shown_shape, path)) for path in factors)]
    return formula, [_sum([product for path in factors for product in _products(path, i)], show) for i in range(width)]


def _products(path: list[np.ndarray], i: int) -> list[list[float]]:
    if len(path) == 1:
        return [[path[0][i]]]
    w, h = path
    return [[w[i, j], h[j]] for j in range(len(h))]


def _between(separator: str, parts: Sequence) -> list:
    return [part for i, item in enumerate(parts) for part in ([separator] if i else []) + [item]]


def _if_narrow(lines: list[str], *operands: np.ndarray) -> list[str]:
    return lines if all(map(narrow, operands)) else ["·".join(map(shown_shape, operands))]


def _sum(products: list[list[Any]], show) -> str:
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
