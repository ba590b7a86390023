"""How a worked derivation is shown: as text, Markdown, LaTeX, plain Python, and in a notebook."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.mathematics import Maths
from jaxbackprop.spelling import aligned, terminal_width, unknown, writable
from jaxbackprop.tables import Tabled, as_markdown
from jaxbackprop.tracing.symbols import narrow, norm, number, only_shapes, short

FORMULA, CELL = 34, 42  # characters, before a formula or its numbers go on in the next line
NORM = "‖·‖"


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
    """

    name: str
    formula: str
    numbers: str
    value: np.ndarray
    jax_grad: np.ndarray | None
    difference: float | None

    @property
    def right(self) -> str:
        """The formula's right side."""
        return self.formula[len(self.name) + 3 :]


def row(name: str, formula: str, numbers: Sequence[str], value, jax_grad=None) -> Row:
    """A row, its difference from `jax.grad` found."""
    value = np.asarray(value, np.float64)
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, which says enough
        difference = None if jax_grad is None else float(np.max(np.abs(value - jax_grad)))
    return Row(name, f"{name} = {formula}", "\n".join(numbers), value, jax_grad, difference)


@dataclass(frozen=True, eq=False, repr=False)
class Worked(Tabled):
    """One example worked through, as rows.

    Attributes:
        title: what was worked through, in words.
        given: the numbers put in, by name.
        rows: a `Row` for each quantity, in the order of the derivation.
        digits: how many significant digits are shown.
    """

    title: str
    given: Mapping[str, np.ndarray]
    rows: tuple[Row, ...]
    digits: int

    def __getitem__(self, name: str) -> Row:
        """The row of that name."""
        for found in self.rows:
            if found.name == name:
                return found
        raise KeyError(unknown("quantity", name, [found.name for found in self.rows]))

    @property
    def difference(self) -> float:
        """The largest difference from `jax.grad` in any row; NaN if there is one."""
        return float(np.max([found.difference for found in self.rows if found.difference is not None]))

    def __str__(self):
        """The same as `text()`."""
        return self.text()

    def table(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """A line for each row, as a notebook shows it; and the verdict."""
        head = ("quantity", "formula", "with the numbers in", "value", "jax.grad", "difference")
        lines: list[tuple[str, ...]] = [head]
        for found in self.rows:
            columns = zip(*_values_of(found, self.digits), strict=True)
            value, jax_grad, difference = ("\n".join(column).strip() for column in columns)
            value = value if narrow(found.value) else f"{NORM} {value}"
            lines.append((*map(Maths, (found.name, found.formula, found.numbers)), value, jax_grad, difference))
        return lines, [self._verdict]

    def text(self) -> str:
        """Return the rows in aligned columns, for a terminal, as wide as it is."""
        width, rows = terminal_width(), [_as_written(found) for found in self.rows]
        head = ("", "", "with the numbers in", "value", "jax.grad", "difference")
        numbers = [_on_the_point(column) for column in zip(*self._all_values(), strict=True)]
        beside = [
            sum(max(map(len, (*column, title))) + 2 for column, title in zip(numbers[:n], head[3:], strict=False))
            for n in (1, 3)
        ]
        columns = 6 if width - beside[1] >= 50 else 4  # where the terminal is narrow, the value alone
        room = max(28, width - beside[columns == 6] - 9)
        formula, cell = min(FORMULA, room * 4 // 9), min(CELL, room - room * 4 // 9)
        lines, left = [head[:columns]], iter(zip(*numbers, strict=True))
        splits = []
        for found in rows:
            values = [next(left) for _ in _values_of(found, self.digits)]
            lines += [line[:columns] for line in _lines_of(found, values, formula, cell)]
            splits.append(len(lines))
        kept = [i for i in range(columns) if any(line[i] for line in lines)]
        shown, last = (
            aligned([[line[i] for i in kept] for line in lines]),
            [r.jax_grad is None for r in self.rows].count(True),
        )
        title = [line for text in (self.title, self._given) for line in textwrap.wrap(writable(text), min(width, 100))]
        title += ["", "forward" + shown[0][len("forward") :], *shown[1 : splits[last - 1]], "", self.backward]
        below = [self._verdict]
        if columns < len(head):
            enough = beside[1] + 50
            below += [
                f"jax.grad's value and the difference stand beside each adjoint from {enough} columns on: here are {width}"
            ]
        wrapped_below = [line for text in below for line in textwrap.wrap(writable(text), width)]
        return "\n".join([*title, *shown[splits[last - 1] :], "", *wrapped_below])

    def markdown(self) -> str:
        """Return the rows as a Markdown table."""
        table, below = self.table()
        title, given = (as_markdown([[""]], [line]).rpartition("\n")[2] for line in (self.title, self._given))
        return "\n".join([title, "", f"Given {given}. {self.backward}.", "", as_markdown(table, below)])

    def latex(self) -> str:
        r"""Return a whole LaTeX document (amsmath, geometry and longtable are all that it needs; all of it is ASCII)."""
        forward, backward = ([r for r in self.rows if (r.jax_grad is None) == first] for first in (True, False))
        return _DOCUMENT % {
            "paper": "" if _one_line_each(self.rows) else "landscape,",
            "given": "\n".join(rf"${Maths(n).tex} = {_tex_value(v, self.digits)}$\quad" for n, v in self.given.items()),
            "forward": _tex_block(forward, self.digits),
            "backward": _tex_block(backward, self.digits),
            "checks": "\n".join(_tex_check(r, self.digits) for r in backward),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the rows in plain Python, ready for `json.dumps`."""
        keep = ("name", "formula", "difference")
        rows = [
            {name: getattr(found, name) for name in keep}
            | {"numbers": found.numbers.splitlines(), "value": found.value.tolist()}
            | {"jax_grad": None if found.jax_grad is None else found.jax_grad.tolist()}
            for found in self.rows
        ]
        return {"title": self.title, "given": {n: v.tolist() for n, v in self.given.items()}, "rows": rows}

    backward = "backward: dfoo is dL/dfoo"

    @property
    def _given(self) -> str:
        return "   ".join(f"{name} = {short(value, self.digits)}" for name, value in self.given.items())

    @property
    def _verdict(self) -> str:
        compared = sum(found.jax_grad is not None for found in self.rows)
        return f"the largest difference from jax.grad, over {compared} adjoints: {number(self.difference, 2)}"

    def _all_values(self) -> list[tuple[str, str, str]]:
        return [values for found in self.rows for values in _values_of(found, self.digits)]


def _values_of(found: Row, digits: int) -> list[tuple[str, str, str]]:
    """(value, jax.grad's, difference) for each entry; the norms and the largest difference for what is wide."""
    other = found.value if found.jax_grad is None else found.jax_grad
    if narrow(found.value):
        pairs = zip(found.value.flat, other.flat, strict=True)
        with np.errstate(invalid="ignore"):  # inf − inf
            entries = [(number(a, digits), number(b, digits), number(abs(a - b), 2)) for a, b in pairs]
    else:
        entries = [(number(norm(found.value), digits), number(norm(other), digits), number(found.difference or 0, 2))]
    return entries if found.jax_grad is not None else [(value, "", "") for value, _, _ in entries]


def _as_written(found: Row) -> Row:
    """The row with its formulas as the terminal can write them."""
    return found._replace(formula=writable(found.formula), numbers=writable(found.numbers))


def _lines_of(found: Row, values, formula_width: int, cell: int) -> list[tuple[str, ...]]:
    """A row as lines of cells: formula, index, numbers, value, jax.grad, difference."""
    indices = [f"[{','.join(map(str, index))}]" for index in np.ndindex(*found.value.shape)]
    indices = [""] if found.value.size == 1 else indices if narrow(found.value) else [NORM]
    formula, numbers = wrapped(found.formula, formula_width), found.numbers.splitlines()
    if len(numbers) != len(indices):  # one line for all entries
        numbers = [part for line in numbers for part in wrapped(line, cell)]
    lines = []
    for index, shown, value in zip_longest(indices, numbers, values, fillvalue=""):
        first, *more = wrapped(shown, cell)
        lines += [("", index, first, *(value or ("", "", "")))] + [("", "", rest, "", "", "") for rest in more]
    lines += [("",) * 6] * (len(formula) - len(lines))
    return [(formula[i] if i < len(formula) else "", *line[1:]) for i, line in enumerate(lines)]


def _on_the_point(column: Sequence[str]) -> list[str]:
    """Numbers one below the other with their decimal points in line."""
    whole = [re.split(r"[.e]", cell)[0] for cell in column]
    before = max(map(len, whole))
    return [" " * (before - len(w)) + cell if cell else "" for cell, w in zip(column, whole, strict=True)]


def wrapped(text: str, width: int = CELL) -> list[str]:
    """The lines that a text takes, at least one."""
    wrapper = textwrap.TextWrapper(width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return wrapper.wrap(text) or [""]


# --- LaTeX -----------------------------------------------------------------------------------------------------------

_DOCUMENT = r"""\documentclass[10pt]{article}
\usepackage{amsmath,longtable}
\usepackage[a4paper,%(paper)smargin=15mm]{geometry}
\allowdisplaybreaks
\setcounter{MaxMatrixCols}{20}
\setlength{\parindent}{0pt}
\begin{document}
\section*{Backpropagation, worked}
%(given)s
\subsection*{Forward}
%(forward)s
\subsection*{Backward: $\mathrm{d}f$ is $\partial L/\partial f$}
%(backward)s
\subsection*{Beside \texttt{jax.grad}}
\begin{longtable}{lrrr}
 & by hand & \texttt{jax.grad} & difference \\ \hline \noalign{\vskip 3pt}
\endhead
%(checks)s
\end{longtable}
\end{document}
"""


def tex_entries(lines: Sequence[str], shape: tuple[int, ...]) -> str:
    """Lines for each entry as one LaTeX matrix, a vector as a column; a single one as it is."""
    if len(lines) != np.prod(shape) or len(lines) == 1:
        return Maths(" ".join(lines)).tex
    columns = shape[1] if len(shape) == 2 else 1
    # within a matrix "a·g'(b) = a·c" keeps its right side alone
    entries = [[Maths(part.strip()).tex for part in wrapped(line.rpartition(" = ")[2])] for line in lines]
    cells = [
        parts[0] if len(parts) == 1 else r"\begin{aligned}&" + r" \\ &\quad ".join(parts) + r"\end{aligned}"
        for parts in entries
    ]
    rows = [" & ".join(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    return r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"


def _tex_value(array: np.ndarray, digits: int) -> str:
    if not narrow(array):
        size = " x ".join(map(str, array.shape))
        return rf"\text{{{size} numbers of norm }} {Maths(number(norm(array), digits)).tex}"
    return tex_entries([number(v, digits) for v in array.flat], array.shape)


def _tex_block(rows: list[Row], digits: int) -> str:
    """One line a quantity where all are single numbers; where there are vectors, the numbers on a line of their own."""
    shown = lambda r: "" if only_shapes(r.numbers) else tex_entries(r.numbers.splitlines(), r.value.shape)  # noqa: E731
    parts = [(Maths(r.name).tex, Maths(r.right).tex, shown(r), _tex_value(r.value, digits)) for r in rows]
    if _one_line_each(rows):
        lines = [rf"{name} &= {formula} &\quad&= {numbers} &\quad&= {value}" for name, formula, numbers, value in parts]
        return "\\begin{alignat*}{3}\n" + " \\\\\n".join(lines) + "\n\\end{alignat*}"
    lines = [
        rf"{name} &= {formula} \\" + "\n&= " + (value if numbers in ("", value) else f"{numbers} = {value}")
        for name, formula, numbers, value in parts
    ]
    return "\\begin{align*}\n" + " \\\\[1ex]\n".join(lines) + "\n\\end{align*}"


def _one_line_each(rows: Sequence[Row]) -> bool:
    return all(r.value.size == 1 and len(r.numbers) <= CELL and not only_shapes(r.numbers) for r in rows)


def _tex_check(found: Row, digits: int) -> str:
    assert found.jax_grad is not None
    one = found.value.size == 1
    shown = [number(a.item() if one else norm(a), digits) for a in (found.value, found.jax_grad)]
    cells = [cell if one else f"‖{cell}‖" for cell in shown] + [number(found.difference, 2)]
    return f"${Maths(found.name).tex}$ & " + " & ".join(f"${Maths(cell).tex}$" for cell in cells) + r" \\"
