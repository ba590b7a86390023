"""How a worked derivation is shown: as text, Markdown, LaTeX, and plain Python."""

import re
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from jaxbackprop.network import INPUT
from jaxbackprop.tracing.rows import Row, Worked
from jaxbackprop.tracing.symbols import (
    CELL,
    FORMULA,
    Symbol,
    all_single,
    names_of,
    narrow,
    norm,
    number,
    only_shapes,
    shown_shape,
    tex_entries,
    tex_numbers,
    wrapped,
)

NORM = "‖·‖"


def text(worked: Worked) -> str:
    """Return the rows in aligned columns, for a terminal."""
    head = ("", "", "with the numbers in", "value", "jax.grad", "difference")
    cells = [_lines_of(row, worked.digits) for row in worked.rows]
    flat = [head] + [line for lines in cells for line in lines]
    for column in (3, 4):
        aligned = _on_the_point([line[column] for line in flat[1:]])
        flat = [head] + [
            (*line[:column], cell, *line[column + 1 :]) for line, cell in zip(flat[1:], aligned, strict=True)
        ]
    width = [max(len(line[i]) for line in flat) for i in range(len(head))]
    shown = ["  ".join(cell.ljust(w) for cell, w in zip(line, width, strict=True) if w).rstrip() for line in flat]
    split = 1 + sum(len(lines) for row, lines in zip(worked.rows, cells, strict=True) if row.jax_grad is None)
    given = textwrap.wrap("   ".join(f"{name} = {value}" for name, value in _given(worked)), 100)
    return "\n".join(
        [
            *textwrap.wrap(str(worked.network), 100),
            *given,
            "",
            "forward" + shown[0][len("forward") :],
            *shown[1:split],
            "",
            "backward: dfoo is dL/dfoo",
            *shown[split:],
            "",
            _verdict(worked),
        ]
    )


def markdown(worked: Worked) -> str:
    """Return the rows as a Markdown table."""

    def code(text: str) -> str:
        lines = (line.replace("`", "'").replace("|", "\\|") for line in text.splitlines())
        return "<br>".join(f"`{line}`" for line in lines if line)

    given = ", ".join(code(f"{name} = {value}") for name, value in _given(worked))
    head = "| quantity | formula | with the numbers in | value | jax.grad | difference |"
    lines = [f"{code(str(worked.network))}", "", f"Given {given}. `dfoo` is dL/dfoo.", "", head, "|---" * 6 + "|"]
    for row in worked.rows:
        columns = zip(*_values_of(row, worked.digits), strict=True)
        value, jax_grad, difference = (code("\n".join(column)) for column in columns)
        value = value if narrow(row.value) else f"{NORM} {value}"
        cells = (code(row.name), code(row.formula), code(row.numbers), value, jax_grad, difference)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _verdict(worked) + "."])


def latex(worked: Worked) -> str:
    r"""Return a whole LaTeX document (amsmath, geometry and longtable are all that it needs; all of it is ASCII)."""
    forward, backward = ([r for r in worked.rows if (r.jax_grad is None) == first] for first in (True, False))
    checks = [_tex_check(row, worked.digits) for row in backward]
    paper = "" if _one_line_each(worked.rows) else "landscape,"
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
            *[f"${name} = {value}$\\quad " for name, value in _given(worked, tex=True)],
            r"\subsection*{Forward}",
            _tex_block(forward, worked.digits),
            r"\subsection*{Backward: $\mathrm{d}f$ is $\partial L/\partial f$}",
            _tex_block(backward, worked.digits),
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


def plain(worked: Worked) -> dict[str, Any]:
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
        for row in worked.rows
    ]
    given = {"network": str(worked.network), "loss": worked.loss, "x": worked.x.tolist(), "y": worked.y.tolist()}
    params = {t: {s: w.tolist() for s, w in sources.items()} for t, sources in worked.params.items()}
    return given | {"params": params, "rows": rows}


def _given(worked: Worked, tex: bool = False) -> list[tuple[str, str]]:
    """x, y and, where each is one number, the weights."""
    names = names_of(worked.network)
    shown = [(names.h[INPUT], worked.x), (Symbol("y", "y"), worked.y)]
    if all_single(worked.network):
        shown += [(symbol, worked.params[t][s]) for (t, s), symbol in names.w.items()]
    texts = [(symbol.text, symbol.tex, _row_of(value, worked.digits)) for symbol, value in shown]
    return [(symbol_tex, tex_numbers(value)) if tex else (text, value) for text, symbol_tex, value in texts]


def _verdict(worked: Worked) -> str:
    compared = sum(row.jax_grad is not None for row in worked.rows)
    return f"the largest difference from jax.grad, over {compared} adjoints: {number(worked.difference, 2)}"


def _row_of(value: np.ndarray, digits: int) -> str:
    if value.size == 1:
        return number(value.item(), digits)
    if not narrow(value):
        return f"‖{number(norm(value), digits)}‖ {shown_shape(value)}"
    return "[" + ", ".join(number(v, digits) for v in np.ravel(value)) + "]"


def _values_of(row: Row, digits: int) -> list[tuple[str, str, str]]:
    """(value, jax.grad's, difference) for each entry; the norms and the largest difference for what is wide."""
    other = row.value if row.jax_grad is None else row.jax_grad
    if narrow(row.value):
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
    if not narrow(row.value):
        indices = [NORM]
    formula = wrapped(row.formula, FORMULA)
    lines = []
    for index, numbers, value in zip_longest(indices, row.numbers.splitlines(), values, fillvalue=""):
        first, *more = wrapped(numbers)
        lines += [("", index, first, *(value or ("", "", "")))] + [("", "", rest, "", "", "") for rest in more]
    lines += [("",) * 6] * (len(formula) - len(lines))
    return [(formula[i] if i < len(formula) else "", *line[1:]) for i, line in enumerate(lines)]


def _on_the_point(column: list[str]) -> list[str]:
    """Numbers one below the other with their decimal points in line."""
    whole = [re.split(r"[.e]", cell)[0] for cell in column]
    before = max(map(len, whole))
    return [" " * (before - len(w)) + cell if cell else "" for cell, w in zip(column, whole, strict=True)]


def _tex_value(array: np.ndarray, digits: int) -> str:
    if not narrow(array):
        size = " x ".join(map(str, array.shape))
        return rf"\text{{{size} numbers of norm }} {tex_numbers(number(norm(array), digits))}"
    return tex_entries([number(v, digits) for v in array.flat], array.shape)


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
    return all(row.value.size == 1 and len(row.numbers) <= CELL and not only_shapes(row.numbers) for row in rows)


def _tex_check(row: Row, digits: int) -> str:
    assert row.jax_grad is not None
    assert row.difference is not None
    one = row.value.size == 1
    shown = [number(a.item() if one else norm(a), digits) for a in (row.value, row.jax_grad)]
    cells = [tex_numbers(cell if one else f"‖{cell}‖") for cell in shown] + [tex_numbers(number(row.difference, 2))]
    return f"${row.tex[0]}$ & " + " & ".join(f"${cell}$" for cell in cells) + r" \\"
