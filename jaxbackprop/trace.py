"""The derivation with its numbers in: every value and every adjoint of ONE example, by name, beside `jax.grad`'s.

A row for each quantity, in the order of the derivation: forward z, h, …, L; backward dyhat, dz, dh, … (equations (1) and
(2) of `backprop`), then each dW and db (equation (3)). The values are those of `backprop.sweep`. `jax.grad` differentiates
the same network written plainly once more, with a zero added to every z and every h:

    z_t = Σ_s W_ts h_s + b_t + 0_z        h_t = g_t(z_t) + 0_h        ∂L/∂0_z = dz_t,  ∂L/∂0_h = dh_t

so that it gives each node's adjoint without a word of ours. All of it is float64, that learners may see 1.2 and
not 1.2000000477.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jaxbackprop._names import unknown
from jaxbackprop.activations import as_activation
from jaxbackprop.backprop import sweep
from jaxbackprop.losses import Loss, LossLike, Written, as_loss, bracketed, names_a_class
from jaxbackprop.network import (
    BIAS,
    INPUT,
    Layer,
    Network,
    require_input,
    require_network,
    require_params,
    skip_mlp,
    widths,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Nodes = dict[str, np.ndarray]  # by layer
Weights = dict[str, dict[str, np.ndarray]]  # by layer and source, as in the parameters

NORM = "‖·‖"
NARROW = 4  # wider vectors are shown by their norm
FORMULA, CELL = 34, 42  # characters, before a formula or its numbers go on in the next line


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
class Trace:
    """What `trace` found: the rows, and the arrays that they show.

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

    def __str__(self):
        """The same as `text()`."""
        return self.text()

    @property
    def difference(self) -> float:
        """The largest difference from `jax.grad` in any row; NaN if there is one."""
        return float(np.max([row.difference for row in self.rows if row.difference is not None]))

    def text(self) -> str:
        """Return the rows in aligned columns, for a terminal."""
        head = ("", "", "with the numbers in", "value", "jax.grad", "difference")
        cells = [_lines_of(row, self.digits) for row in self.rows]
        flat = [head] + [line for lines in cells for line in lines]
        for column in (3, 4):
            aligned = _on_the_point([line[column] for line in flat[1:]])
            flat = [head] + [
                (*line[:column], cell, *line[column + 1 :]) for line, cell in zip(flat[1:], aligned, strict=True)
            ]
        width = [max(len(line[i]) for line in flat) for i in range(len(head))]
        shown = ["  ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True) if w).rstrip() for line in flat]
        split = 1 + sum(len(lines) for row, lines in zip(self.rows, cells, strict=True) if row.jax_grad is None)
        given = textwrap.wrap("   ".join(f"{name} = {value}" for name, value in self._given()), 100)
        return "\n".join(
            [
                *textwrap.wrap(str(self.network), 100),
                *given,
                "",
                "forward" + shown[0][len("forward") :],
                *shown[1:split],
                "",
                "backward: dfoo is dL/dfoo",
                *shown[split:],
                "",
                self._verdict(),
            ]
        )

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""

        def code(text: str) -> str:
            lines = (line.replace("`", "'").replace("|", "\\|") for line in text.splitlines())
            return "<br>".join(f"`{line}`" for line in lines if line)

        given = ", ".join(code(f"{name} = {value}") for name, value in self._given())
        head = "| quantity | formula | with the numbers in | value | jax.grad | difference |"
        lines = [f"{code(str(self.network))}", "", f"Given {given}. `dfoo` is dL/dfoo.", "", head, "|---" * 6 + "|"]
        for row in self.rows:
            columns = zip(*_values_of(row, self.digits), strict=True)
            value, jax_grad, difference = (code("\n".join(column)) for column in columns)
            value = value if _narrow(row.value) else f"{NORM} {value}"
            cells = (code(row.name), code(row.formula), code(row.numbers), value, jax_grad, difference)
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join([*lines, "", self._verdict() + "."])

    def latex(self) -> str:
        r"""Return a whole LaTeX document (amsmath, geometry and longtable are all that it needs; all of it is ASCII)."""
        forward, backward = ([r for r in self.rows if (r.jax_grad is None) == first] for first in (True, False))
        checks = [_tex_check(row, self.digits) for row in backward]
        paper = "" if _one_line_each(self.rows) else "landscape,"
        return "\n".join(
            [
                r"\documentclass[10pt]{article}",
                r"\usepackage{amsmath,longtable}",
                rf"\usepackage[a4paper,{paper}margin=15mm]{{geometry}}",
                r"\allowdisplaybreaks",
                r"\setcounter{MaxMatrixCols}{20}",
                r"\setlength{\parindent}{0pt}",
                r"\begin{document}",
                r"\section*{Backpropagation, worked}",
                *[f"${name} = {value}$\\quad " for name, value in self._given(tex=True)],
                r"\subsection*{Forward}",
                _tex_block(forward, self.digits),
                r"\subsection*{Backward: $\mathrm{d}f$ is $\partial L/\partial f$}",
                _tex_block(backward, self.digits),
                r"\subsection*{Beside \texttt{jax.grad}}",
                r"\begin{longtable}{lrrr}",
                r" & by hand & \texttt{jax.grad} & difference \\ \hline \noalign{\vskip 3pt}",
                r"\endhead",
                *checks,
                r"\end{longtable}",
                r"\end{document}",
                "",
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the rows in plain Python, ready for `json.dumps`."""
        rows = [
            {
                "name": row.name,
                "formula": row.formula,
                "numbers": row.numbers.splitlines(),
                "value": row.value.tolist(),
                "jax_grad": None if row.jax_grad is None else row.jax_grad.tolist(),
                "difference": row.difference,
            }
            for row in self.rows
        ]
        given = {"network": str(self.network), "loss": self.loss, "x": self.x.tolist(), "y": self.y.tolist()}
        params = {t: {s: w.tolist() for s, w in sources.items()} for t, sources in self.params.items()}
        return given | {"params": params, "rows": rows}

    def figure(self) -> "Figure":
        """Draw the network left to right: values above each node, adjoints below, weights and their gradients on the edges.

        Needs matplotlib, which `pip install 'jaxbackprop[cli]'` brings; `figure.savefig("trace.svg")` writes it.
        """
        from jaxbackprop.picture import draw

        return draw(self)

    def _given(self, tex: bool = False) -> list[tuple[str, str]]:
        """x, y and, where each is one number, the weights."""
        names = names_of(self.network)
        shown = [(names.h[INPUT], self.x), (Symbol("y", "y"), self.y)]
        if _all_single(self.network):
            shown += [(symbol, self.params[t][s]) for (t, s), symbol in names.w.items()]
        texts = [(symbol.text, symbol.tex, _row_of(value, self.digits)) for symbol, value in shown]
        return [(symbol_tex, tex_numbers(value)) if tex else (text, value) for text, symbol_tex, value in texts]

    def _verdict(self) -> str:
        compared = sum(row.jax_grad is not None for row in self.rows)
        return f"the largest difference from jax.grad, over {compared} adjoints: {number(self.difference, 2)}"


def trace(
    network: Network,
    loss: LossLike,
    params: Mapping[str, Mapping[str, ArrayLike]],
    x: ArrayLike,
    y: ArrayLike,
    digits: int | None = None,
) -> Trace:
    """Work one example through: every value and every adjoint, with formula, numbers, and `jax.grad`'s value beside it.

    The wiring of the exercise, `skip_mlp` with two hidden layers and no bias, gets the exercise's names: z0, h0, z1, h1,
    z2, w0 … w3. In any other the edge s → t is W_t,s, and the bias b_t.

    Args:
        network: the wiring.
        loss: a name from `losses.LOSSES`, a `Loss`, or a function or pair (value, derivative) of your own.
        params: as `init` gives them, of any floating-point dtype; computed in float64.
        x: one example, (d,), or a number where the network has one input.
        y: its target.
        digits: how many significant digits are shown; 6 where every layer has one unit, 4 otherwise.

    Returns:
        `Trace`: `.rows`, `.text()`, `.markdown()`, `.latex()`, `.to_dict()`, `.figure()`, and a row by its name.

    Raises:
        ValueError: parameters, an example or a target that do not fit the wiring, or a class that does not exist; fewer
            than 1 or more than 17 digits.
        TypeError: no network, or something that is not made of real numbers.

    >>> net = skip_mlp((1, 1, 1, 1))
    >>> params = {"h0": {"x": 0.8}, "h1": {"h0": 1.3}, "yhat": {"h1": -0.7, "h0": 0.45}}
    >>> t = trace(net, "half_squared_error", jax.tree.map(lambda w: jnp.full((1, 1), w), params), 1.5, 2.0)
    >>> print(t["dh0"].formula, "=", t["dh0"].numbers)
    dh0 = w1ᵀ dz1 + w3ᵀ dz2 = 1.3·1.7864 + 0.45·(−2.552)
    >>> t.difference < 1e-12
    True
    """
    require_network(network)
    if digits is None:
        digits = 6 if _all_single(network) else 4
    if isinstance(digits, bool) or not isinstance(digits, Integral) or not 1 <= digits <= 17:
        raise ValueError(f"digits is {digits!r}: expected 1 to 17, as many as a float64 holds")
    require_params(network, params)
    loss = as_loss(loss)
    weights: Weights = {t: {s: _float64(w) for s, w in sources.items()} for t, sources in params.items()}
    x, y = np.atleast_1d(_float64(_numbers("x", x))), _numbers("y", y)
    require_input(network, x, ndims=(1,))
    _require_class(network, loss, y)
    y = _float64(y) if jnp.issubdtype(y.dtype, jnp.floating) else y
    with jax.enable_x64(True):
        value, f, b = jax.tree.map(np.asarray, _sweep(weights, x, y, network=network, loss=loss))
        gradient, taps = jax.tree.map(np.asarray, _jax_grad(weights, _taps(network), x, y, network=network, loss=loss))
    names = names_of(network)
    by_hand: Weights = {t.name: {} for t in network.layers}
    with np.errstate(invalid="ignore", over="ignore"):  # infinity and NaN are shown as what they are
        rows = _rows(_Found(network, names, loss, weights, y, value, f.z, f.h, b.dz, b.dh, gradient, taps, digits))
        for t, s in names.w:
            by_hand[t][s] = b.dz[t] if s == BIAS else np.outer(b.dz[t], f.h[s])
    return Trace(network, loss.name or "loss", weights, x, y, float(value), f.z, f.h, b.dz, b.dh, by_hand, rows, digits)


# What is computed: once by the hand-derived sweep, once by jax.grad.


def _numbers(name: str, given) -> np.ndarray:
    """The given number, array or list as an array, if it is one of real numbers."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):  # traced by jax.jit; lists of unequal lengths
        raise TypeError(f"{name} is a {type(given).__name__} that makes no array: expected real numbers") from None
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise TypeError(f"{name} has dtype {array.dtype}: expected real numbers")
    return array


def _require_class(network: Network, loss: Loss, y: np.ndarray) -> None:
    k = network.layers[-1].width
    if names_a_class(loss, y) and y.ndim == 0 and not 0 <= y < k:
        raise ValueError(f"y is class {y}, the network has {k} outputs: expected 0 to {k - 1}")


def _float64(value) -> np.ndarray:
    return np.asarray(value).astype(np.float64)


@partial(jax.jit, static_argnames=("network", "loss"))
def _sweep(params, x, y, *, network, loss):
    return sweep(network, loss, params, x, y)


@partial(jax.jit, static_argnames=("network", "loss"))
def _jax_grad(params, taps, x, y, *, network, loss):
    return jax.grad(_plain_loss, argnums=(0, 1))(params, taps, x, y, network, loss)


def _plain_loss(params, taps, x, y, network, loss):
    """The network once more, plainly, a zero added to every z and every h."""
    h = {INPUT: x}
    for t in network.layers:
        z = taps[t.name]["z"] + (params[t.name][BIAS] if t.bias else 0)
        for s in t.sources:
            z = z + params[t.name][s] @ h[s]
        h[t.name] = as_activation(t.activation).value(z) + taps[t.name]["h"]
    return loss.value(h[network.layers[-1].name], y)


def _taps(network):
    return {t.name: {"z": np.zeros(t.width), "h": np.zeros(t.width)} for t in network.layers}


def _all_single(network):
    return all(width == 1 for width in widths(network).values())


# What things are called, in text and in LaTeX.


class Symbol(NamedTuple):
    """A name, or a piece of a formula, in text and in LaTeX."""

    text: str
    tex: str


class Names(NamedTuple):
    """The symbol of each z and h by layer, of each weight by (target, source), and of each activation by layer."""

    z: dict[str, Symbol]
    h: dict[str, Symbol]
    w: dict[tuple[str, str], Symbol]
    g: dict[str, Symbol]


def names_of(network: Network) -> Names:
    """Name every quantity: as the exercise does where the wiring is the exercise's.

    >>> from jaxbackprop.network import mlp
    >>> [symbol.text for symbol in names_of(mlp((2, 3, 1), bias=True)).w.values()]
    ['W_h0,x', 'b_h0', 'W_yhat,h0', 'b_yhat']
    >>> [symbol.text for symbol in names_of(skip_mlp((2, 3, 3, 1))).w.values()]
    ['w0', 'w1', 'w2', 'w3']
    """
    h = {name: Symbol(name, _tex_name(name)) for name in widths(network)}
    counted = all(t.name == f"h{i}" for i, t in enumerate(network.layers[:-1]))
    z = {
        t.name: Symbol(f"z{i}", f"z_{{{i}}}") if counted else Symbol(f"z_{t.name}", f"z_{{{h[t.name].tex}}}")
        for i, t in enumerate(network.layers)
    }
    w = {(t.name, s): _weight_name(h[t.name], h[s]) for t in network.layers for s in t.sources}
    w |= {(t.name, BIAS): Symbol(f"b_{t.name}", f"b_{{{h[t.name].tex}}}") for t in network.layers if t.bias}
    exercise = is_exercise(network)
    if exercise:
        w = {edge: Symbol(f"w{i}", f"w_{{{i}}}") for i, edge in enumerate(w)}
    order = [(t.name, s) for t in network.layers for s in (*t.sources, *([BIAS] if t.bias else []))]
    g = {t.name: _activation_name(t, exercise) for t in network.layers}
    return Names(z, h, {edge: w[edge] for edge in order}, g)


def is_exercise(network: Network) -> bool:
    """Whether the wiring is exactly the exercise's, at whatever widths, with whatever activation in both hidden layers."""
    shape = tuple(widths(network).values())
    return len(shape) == 4 and network == skip_mlp(shape, network.layers[0].activation)


def _weight_name(t: Symbol, s: Symbol) -> Symbol:
    return Symbol(f"W_{t.text},{s.text}", f"W_{{{t.tex},{s.tex}}}")


def _activation_name(layer: Layer, exercise: bool) -> Symbol:
    text = as_activation(layer.activation).text
    return Symbol("g", "g") if exercise or text == "g" else Symbol(text, rf"\operatorname{{{_ascii(text)}}}")


def _tex_name(name: str) -> str:
    if name == "yhat":
        return r"\hat{y}"
    stem = name.rstrip("0123456789")
    index = f"_{{{name[len(stem) :]}}}" if len(stem) < len(name) else ""
    letter = len(stem) == 1 and stem.isascii() and stem.isalpha()
    return (stem if letter else rf"\mathrm{{{_ascii(stem)}}}") + index


def _ascii(name: str) -> str:
    """Any string as LaTeX that compiles with nothing loaded: special characters escaped, others by their number."""
    special = {"\\": r"\backslash ", "~": r"\sim ", "^": r"\wedge ", "{": r"\{", "}": r"\}"}
    return "".join(
        special.get(c) or (f"\\{c}" if c in "&%$#_" else c if 32 <= ord(c) < 127 else f"[U{ord(c):X}]") for c in name
    )


_TEX = {"ᵀ": r"^{\top}", "−": "-", "½": r"\tfrac12 ", "Σ": r"\sum ", "²": "^2", "σ": r"\sigma "}


def _write(*parts: Symbol | str) -> Symbol:
    """Put symbols and operators one after the other, in text and in LaTeX."""
    text = "".join(part if isinstance(part, str) else part.text for part in parts)
    return Symbol(text, "".join(_operator_tex(part) if isinstance(part, str) else part.tex for part in parts))


def in_symbols(formula: str, known: Mapping[str, Symbol]) -> Symbol:
    r"""A formula in plain words, `½ (yhat − y)²`, in text and in LaTeX; a longer word that is not known is a function.

    >>> print(in_symbols("−Σ p log softmax(yhat)", {"yhat": Symbol("yhat", r"\hat{y}")}).tex)
    -\sum p\,\log \,\operatorname{softmax}(\hat{y})
    """

    def symbol(word: str) -> Symbol:
        return known.get(word) or Symbol(word, word if len(word) == 1 else rf"\operatorname{{{word}}}")

    known = {"log": Symbol("log", r"\log "), **known}
    return _write(
        *(symbol(part) if part.isascii() and part.isalpha() else part for part in re.split("([a-z]+)", formula))
    )


def _operator_tex(text: str) -> str:
    # LaTeX spaces + and = by itself; a space alone is a product
    return r"\," if text == " " else "".join(_TEX.get(c, c) for c in text.replace(" ", ""))


def _d(symbol: Symbol) -> Symbol:
    return Symbol("d" + symbol.text, r"\mathrm{d}" + symbol.tex)


# The rows.


class _Found(NamedTuple):
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
        return number(value, self.digits)


def _rows(found: _Found) -> tuple[Row, ...]:
    layers, last = found.network.layers, found.network.layers[-1]
    yhat, symbols = found.h[last.name], {"yhat": found.names.h[last.name]}
    loss = (found.loss.text or _own_loss(found))(yhat, found.y, found.show)
    rows = [row for t in layers for row in _forward_rows(found, t)]
    rows += [
        _row(Symbol("L", "L"), in_symbols(loss.value, symbols), _if_narrow([loss.value_numbers], yhat), found.value)
    ]
    dyhat, dyhat_numbers = _d(found.names.h[last.name]), _if_narrow(loss.derivative_numbers, yhat)
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
    tex = (symbol.tex, formula.tex, "" if _summarised(numbers[0]) else _tex_entries(numbers, value.shape))
    return Row(symbol.text, f"{symbol.text} = {formula.text}", "\n".join(numbers), value, jax_grad, difference, tex)


def _forward_rows(found: _Found, t: Layer) -> list[Row]:
    """z = Σ W h + b, h = g(z): one row where yhat is z itself, as in the exercise."""
    names = found.names
    z, h, linear = names.z[t.name], names.h[t.name], not as_activation(t.activation).text
    paths = [[(names.w[t.name, s], found.params[t.name][s]), (names.h[s], found.h[s])] for s in t.sources]
    if t.bias:
        paths += [[(names.w[t.name, BIAS], found.params[t.name][BIAS])]]
    formula, numbers = _path_sum(paths, t.width, found.show)
    if linear and t is found.network.layers[-1]:
        return [_row(z, _write(h, " = ", formula), numbers, found.z[t.name])]
    entries = [found.show(v) for v in found.z[t.name]]
    g = names.g[t.name]
    applied = entries if linear else [f"{g.text}({entry})" for entry in entries]
    return [
        _row(z, formula, numbers, found.z[t.name]),
        _row(h, z if linear else _write(g, "(", z, ")"), _if_narrow(applied, found.z[t.name]), found.h[t.name]),
    ]


def _dh_row(found: _Found, s: Layer) -> Row:
    """dh = Σ Wᵀ dz over the layers that read h, the nearest first."""
    names, dz = found.names, found.dz
    paths = [
        [(_write(names.w[t.name, s.name], "ᵀ"), found.params[t.name][s.name].T), (_d(names.z[t.name]), dz[t.name])]
        for t in found.network.layers
        if s.name in t.sources
    ]
    formula, numbers = _path_sum(paths, s.width, found.show)
    return _row(_d(names.h[s.name]), formula, numbers, found.dh[s.name], found.taps[s.name]["h"])


def _dz_row(found: _Found, t: Layer) -> Row:
    """dz = dh · g'(z)."""
    g, z, dh = found.names.g[t.name], found.names.z[t.name], _d(found.names.h[t.name])
    value = found.dz[t.name]
    if not as_activation(t.activation).text:
        formula, numbers = dh, [found.show(v) for v in found.dh[t.name]]
    else:
        times = Symbol(" · ", r" \cdot " if t.width == 1 else r" \odot ")
        formula = _write(dh, times, g, "'(", z, ")")
        zs, dhs = found.z[t.name], found.dh[t.name]
        numbers = [
            f"{found.show(d)}·{g.text}'({found.show(v)}) = {_sum([[d, dg]], found.show)}"
            for d, v, dg in zip(dhs, zs, slope(t, zs), strict=True)
        ]
    return _row(_d(z), formula, _if_narrow(numbers, value), value, found.taps[t.name]["z"])


def _dw_row(found: _Found, t: str, s: str) -> Row:
    """dW = dz hᵀ, db = dz."""
    names, dz, w = found.names, found.dz[t], _d(found.names.w[t, s])
    if s == BIAS:
        return _row(w, _d(names.z[t]), _if_narrow([found.show(v) for v in dz], dz), dz, found.gradient[t][s])
    h = found.h[s]
    numbers = _if_narrow([_sum([[d, v]], found.show) for d in dz for v in h], dz, h[None])
    formula = _write(_d(names.z[t]), " ", names.h[s], "ᵀ")
    return _row(w, formula, numbers, np.outer(dz, h), found.gradient[t][s])


def slope(layer: Layer, z: np.ndarray) -> np.ndarray:
    """g'(z) of a layer, in float64."""
    with jax.enable_x64(True):
        return np.asarray(as_activation(layer.activation).derivative(jnp.asarray(z)))


def _path_sum(paths: list[list[tuple[Symbol, np.ndarray]]], width: int, show) -> tuple[Symbol, list[str]]:
    """Σ W h + b: its formula, and for each unit its sum of products; the shapes alone where something is wide.

    A path is a pair of factors, each with its symbol, or a single one, a bias.
    """
    products = [_write(*_between(" ", [symbol for symbol, _ in path])) for path in paths]
    formula = _write(*_between(" + ", products or ["0"]))
    factors = [[array for _, array in path] for path in paths]
    if not all(_narrow(array) for path in factors for array in path):
        return formula, [" + ".join("·".join(map(_shape, path)) for path in factors)]
    return formula, [_sum([product for path in factors for product in _products(path, i)], show) for i in range(width)]


def _products(path: list[np.ndarray], i: int) -> list[list[float]]:
    if len(path) == 1:
        return [[path[0][i]]]
    w, h = path
    return [[w[i, j], h[j]] for j in range(len(h))]


def _between(separator: str, parts: Sequence) -> list:
    return [part for i, item in enumerate(parts) for part in ([separator] if i else []) + [item]]


def _if_narrow(lines: list[str], *operands: np.ndarray) -> list[str]:
    return lines if all(map(_narrow, operands)) else ["·".join(map(_shape, operands))]


def _summarised(numbers: str) -> bool:
    return numbers.startswith("(")  # shapes: a number in brackets never comes first


def _narrow(array: np.ndarray) -> bool:
    return max(array.shape, default=1) <= NARROW


def _shape(array: np.ndarray) -> str:
    return "(" + "×".join(map(str, array.shape)) + ")"


def _sum(products: list[list[Any]], show) -> str:
    """`1.3·(−0.42) + 0.45·0.6`: a negative number stands in brackets unless it comes first."""
    if not products:
        return "0"
    shown = " + ".join("·".join(bracketed(show(v)) for v in factors) for factors in products)
    first = show(products[0][0])
    return first + shown[len(bracketed(first)) :]


def _own_loss(found: _Found):
    """How a loss is written whose formula is not known: by its numbers."""

    def written(_yhat, _y, show) -> Written:
        slopes = [show(v) for v in found.dh[found.network.layers[-1].name]]
        return Written("loss(yhat, y)", show(found.value), "loss'(yhat, y)", slopes)

    return written


# How they are shown.


def number(value: Any, digits: int) -> str:
    """A number with so many significant digits at most, and a minus sign as long as the plus.

    >>> number(-1.2000000000000002, 6), number(1.5e-5, 6), number(0.0, 6)
    ('−1.2', '1.5e−5', '0')
    """
    shown = f"{float(value):.{digits}g}"
    shown = re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", shown)
    return "0" if shown == "-0" else shown.replace("-", "−")


def norm(array: Any) -> float:
    """The Euclidean norm of all entries."""
    return float(np.linalg.norm(np.ravel(np.asarray(array, np.float64))))


def _row_of(value: np.ndarray, digits: int) -> str:
    if value.size == 1:
        return number(value.item(), digits)
    if not _narrow(value):
        return f"‖{number(norm(value), digits)}‖ {_shape(value)}"
    return "[" + ", ".join(number(v, digits) for v in np.ravel(value)) + "]"


def _values_of(row: Row, digits: int) -> list[tuple[str, str, str]]:
    """(value, jax.grad's, difference) for each entry; the norms and the largest difference for what is wide."""
    other = row.value if row.jax_grad is None else row.jax_grad
    if _narrow(row.value):
        pairs = zip(row.value.flat, other.flat, strict=True)
        with np.errstate(invalid="ignore"):  # inf − inf
            entries = [(number(a, digits), number(b, digits), number(abs(a - b), 2)) for a, b in pairs]
    else:
        difference = number(row.difference or 0, 2)
        entries = [(number(norm(row.value), digits), number(norm(other), digits), difference)]
    return entries if row.jax_grad is not None else [(value, "", "") for value, _, _ in entries]


def _lines_of(row: Row, digits: int) -> list[tuple[str, ...]]:
    """A row as lines of cells: formula, index, numbers, value, jax.grad, difference."""
    values = _values_of(row, digits)
    indices = [f"[{','.join(map(str, index))}]" if index else "" for index in np.ndindex(*row.value.shape)]
    if row.value.size == 1:
        indices = [""]
    if not _narrow(row.value):
        indices = [NORM]
    formula = _wrap(row.formula, FORMULA)
    lines = []
    for index, numbers, value in zip_longest(indices, row.numbers.splitlines(), values, fillvalue=""):
        first, *more = _wrap(numbers)
        lines += [("", index, first, *(value or ("", "", "")))] + [("", "", rest, "", "", "") for rest in more]
    lines += [("",) * 6] * (len(formula) - len(lines))
    return [(formula[i] if i < len(formula) else "", *line[1:]) for i, line in enumerate(lines)]


def _wrap(text: str, width: int = CELL) -> list[str]:
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text) or [""]


def _on_the_point(column: list[str]) -> list[str]:
    """Numbers one below the other with their decimal points in line."""
    whole = [re.split(r"[.e]", cell)[0] for cell in column]
    before = max(map(len, whole))
    return [" " * (before - len(w)) + cell if cell else "" for cell, w in zip(column, whole, strict=True)]


def tex_numbers(text: str) -> str:
    r"""Numbers and signs as `Row.numbers` writes them, in LaTeX.

    >>> print(tex_numbers("1.3·(−0.42) + 2e−5"))
    1.3 \cdot (-0.42) + 2 \cdot 10^{-5}
    """
    text = re.sub(r"(?<=\d)e(−?\d+)", r" \\cdot 10^{\1}", text)
    text = re.sub(r"([a-z]\w+)('?)(?=\()", lambda f: rf"\operatorname{{{_ascii(f[1])}}}{f[2]}", text)
    text = re.sub(r"\b(inf|nan)\b", r"\\mathrm{\1}", text)
    marks = {"·": r" \cdot ", "−": "-", "½": r"\tfrac12", "²": "^2", "×": r" \times ", "‖": r"\Vert "}
    return "".join(marks.get(c, c) for c in text)


def _tex_entries(lines: Sequence[str], shape: tuple[int, ...]) -> str:
    """Lines for each entry as one LaTeX matrix, a vector as a column; a single one as it is."""
    if len(lines) == 1:
        return tex_numbers(lines[0])
    columns = shape[1] if len(shape) == 2 else 1
    # within a matrix "a·g'(b) = a·c" keeps its right side alone
    entries = [[tex_numbers(part.strip()) for part in _wrap(line.rpartition(" = ")[2])] for line in lines]
    cells = [
        parts[0] if len(parts) == 1 else r"\begin{aligned}&" + r" \\ &\quad ".join(parts) + r"\end{aligned}"
        for parts in entries
    ]
    rows = [" & ".join(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"


def _tex_value(array: np.ndarray, digits: int) -> str:
    if not _narrow(array):
        size = " x ".join(map(str, array.shape))
        return rf"\text{{{size} numbers of norm }} {tex_numbers(number(norm(array), digits))}"
    return _tex_entries([number(v, digits) for v in array.flat], array.shape)


def _tex_block(rows: list[Row], digits: int) -> str:
    """One line a quantity where all are single numbers; where there are vectors, the numbers on a line of their own."""
    parts = [(*row.tex, _tex_value(row.value, digits)) for row in rows]
    if _one_line_each(rows):
        lines = [rf"{name} &= {formula} &\quad&= {numbers} &\quad&= {value}" for name, formula, numbers, value in parts]
        return "\\begin{alignat*}{3}\n" + " \\\\\n".join(lines) + "\n\\end{alignat*}"
    lines = [
        rf"{name} &= {formula} \\" + "\n&= " + (value if numbers in ("", value) else f"{numbers} = {value}")
        for name, formula, numbers, value in parts
    ]
    return "\\begin{align*}\n" + " \\\\[1ex]\n".join(lines) + "\n\\end{align*}"


def _one_line_each(rows: Sequence[Row]) -> bool:
    return all(row.value.size == 1 and len(row.numbers) <= CELL and not _summarised(row.numbers) for row in rows)


def _tex_check(row: Row, digits: int) -> str:
    assert row.jax_grad is not None
    assert row.difference is not None
    one = row.value.size == 1
    shown = [number(a.item() if one else norm(a), digits) for a in (row.value, row.jax_grad)]
    cells = [tex_numbers(cell if one else f"‖{cell}‖") for cell in shown] + [tex_numbers(number(row.difference, 2))]
    return f"${row.tex[0]}$ & " + " & ".join(f"${cell}$" for cell in cells) + r" \\"
