"""What things are called, and how numbers are written: in text and in LaTeX."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.activations import as_activation
from jaxbackprop.network import BIAS, Layer, Network, skip_mlp, widths

NARROW = 4  # wider vectors are shown by their norm
FORMULA, CELL = 34, 42  # characters, before a formula or its numbers go on in the next line


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


def all_single(network: Network) -> bool:
    """Whether every layer, and x, is one number."""
    return all(width == 1 for width in widths(network).values())


def _weight_name(t: Symbol, s: Symbol) -> Symbol:
    return Symbol(f"W_{t.text},{s.text}", f"W_{{{t.tex},{s.tex}}}")


def _activation_name(layer: Layer, exercise: bool) -> Symbol:
    text = as_activation(layer.activation).text
    return Symbol("g", "g") if exercise or text == "g" else Symbol(text, rf"\operatorname{{{ascii_tex(text)}}}")


def _tex_name(name: str) -> str:
    if name == "yhat":
        return r"\hat{y}"
    stem = name.rstrip("0123456789")
    index = f"_{{{name[len(stem) :]}}}" if len(stem) < len(name) else ""
    letter = len(stem) == 1 and stem.isascii() and stem.isalpha()
    return (stem if letter else rf"\mathrm{{{ascii_tex(stem)}}}") + index


def ascii_tex(name: str) -> str:
    """Any string as LaTeX that compiles with nothing loaded: special characters escaped, others by their number."""
    special = {"\\": r"\backslash ", "~": r"\sim ", "^": r"\wedge ", "{": r"\{", "}": r"\}"}
    return "".join(
        special.get(c) or (f"\\{c}" if c in "&%$#_" else c if 32 <= ord(c) < 127 else f"[U{ord(c):X}]") for c in name
    )


_TEX = {"ᵀ": r"^{\top}", "−": "-", "½": r"\tfrac12 ", "Σ": r"\sum ", "²": "^2", "σ": r"\sigma "}


def write(*parts: Symbol | str) -> Symbol:
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
    return write(
        *(symbol(part) if part.isascii() and part.isalpha() else part for part in re.split("([a-z]+)", formula))
    )


def _operator_tex(text: str) -> str:
    # LaTeX spaces + and = by itself; a space alone is a product
    return r"\," if text == " " else "".join(_TEX.get(c, c) for c in text.replace(" ", ""))


def adjoint(symbol: Symbol) -> Symbol:
    """dfoo for foo."""
    return Symbol("d" + symbol.text, r"\mathrm{d}" + symbol.tex)


# Numbers.


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


def narrow(array: np.ndarray) -> bool:
    """Whether an array is shown number by number."""
    return max(array.shape, default=1) <= NARROW


def shown_shape(array: np.ndarray) -> str:
    """`(3×2)`, in place of numbers that are too many."""
    return "(" + "×".join(map(str, array.shape)) + ")"


def only_shapes(numbers: str) -> bool:
    """Whether a row's numbers are shapes alone."""
    return numbers.startswith("(")  # shapes: a number in brackets never comes first


def wrapped(text: str, width: int = CELL) -> list[str]:
    """The lines that a text takes, at least one."""
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text) or [""]


def tex_numbers(text: str) -> str:
    r"""Numbers and signs as `Row.numbers` writes them, in LaTeX.

    >>> print(tex_numbers("1.3·(−0.42) + 2e−5"))
    1.3 \cdot (-0.42) + 2 \cdot 10^{-5}
    """
    text = re.sub(r"(?<=\d)e(−?\d+)", r" \\cdot 10^{\1}", text)
    text = re.sub(r"([a-z]\w+)('?)(?=\()", lambda f: rf"\operatorname{{{ascii_tex(f[1])}}}{f[2]}", text)
    text = re.sub(r"\b(inf|nan)\b", r"\\mathrm{\1}", text)
    marks = {"·": r" \cdot ", "−": "-", "½": r"\tfrac12", "²": "^2", "×": r" \times ", "‖": r"\Vert "}
    return "".join(marks.get(c, c) for c in text)


def tex_entries(lines: Sequence[str], shape: tuple[int, ...]) -> str:
    """Lines for each entry as one LaTeX matrix, a vector as a column; a single one as it is."""
    if len(lines) == 1:
        return tex_numbers(lines[0])
    columns = shape[1] if len(shape) == 2 else 1
    # within a matrix "a·g'(b) = a·c" keeps its right side alone
    entries = [[tex_numbers(part.strip()) for part in wrapped(line.rpartition(" = ")[2])] for line in lines]
    cells = [
        parts[0] if len(parts) == 1 else r"\begin{aligned}&" + r" \\ &\quad ".join(parts) + r"\end{aligned}"
        for parts in entries
    ]
    rows = [" & ".join(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"
