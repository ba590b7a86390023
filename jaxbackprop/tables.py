"""A table as people see it: aligned in a terminal; as HTML, Markdown or LaTeX in a notebook, whatever letters it holds."""

import html
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

import jax

from jaxbackprop.mathematics import Maths, escaped
from jaxbackprop.spelling import ENDLESS, aligned, folded, terminal_width
from jaxbackprop.words import paths_of

Table = Sequence[Sequence[str]]  # its first line is the head; a formula in it is `Maths`, and a cell may have lines


def as_markdown(table: Table, below: Iterable[str] = ()) -> str:
    r"""A table in Markdown, and lines below it; what Markdown, HTML or mathematics would take for theirs is escaped.

    >>> print(as_markdown([("name", "norm"), ("w<v", "|w|")]))
    | name | norm |
    | --- | --- |
    | w&lt;v | \|w\| |
    """
    head, *rows = [[_markdown(cell) for cell in line] for line in table]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, *(f"\n{_markdown(line)}" for line in below)])


def _markdown(cell: str) -> str:
    if isinstance(cell, Maths):
        return _in_dollars(cell)
    text = re.sub(r"([\\`*|\[\]])|(?<!\w)_|_(?!\w)", r"\\\g<0>", html.escape(cell, quote=False).replace("$", "&#36;"))
    return text.replace("\n", "<br>")


def _in_dollars(cell: Maths) -> str:
    """In a page of HTML, where < opens a tag and a $ ends the formula: each line for itself."""
    lines = [Maths(line).tex.replace("\\$", r"\unicode{36}") for line in cell.split("\n")]
    safe = [" ".join(tex.replace("<", r"\lt ").replace(">", r"\gt ").split()) for tex in lines]
    return "<br>".join(f"${tex}$" if tex else "" for tex in safe)


def as_html(table: Table, below: Iterable[str] = ()) -> str:
    """A table in HTML, and lines below it; a $ stands in <code>, in which no page looks for mathematics.

    >>> as_html([("name",), ("a<b",)], ["two"])
    '<table><tr><th>name</th></tr><tr><td>a&lt;b</td></tr></table><div>two</div>'
    """
    rows = [
        "<tr>" + "".join(f"<{tag}>{_html(cell)}</{tag}>" for cell in line) + "</tr>"
        for tag, line in zip(["th", *["td"] * len(table)], table, strict=False)
    ]
    return f"<table>{''.join(rows)}</table>" + "".join(f"<div>{_html(line)}</div>" for line in below)


def _html(cell: str) -> str:
    if isinstance(cell, Maths):
        return html.escape(_in_dollars(cell), quote=False).replace("&lt;br&gt;", "<br>")
    text = html.escape(cell).replace("\n", "<br>")
    return f"<code>{text}</code>" if "$" in text else text


def as_latex(table: Table, below: Iterable[str] = ()) -> str:
    r"""A table in LaTeX, as mathematics that a notebook shows, and lines below it.

    >>> print(as_latex([("name", "size"), ("a_b", Maths("w1ᵀ"))]))
    $$\begin{array}{ll}
    \text{name} & \text{size} \\ \hline
    \text{a}\_\text{b} & w_{1}^{\top} \\
    \end{array}$$
    """
    head, *rows = [" & ".join(map(_latex, line)) + r" \\" for line in table]
    lines = ["$$\\begin{array}{" + "l" * len(table[0]) + "}", head + r" \hline", *rows, r"\end{array}$$"]
    return "\n".join([*lines, *(f"$${_latex(line)}$$" for line in below)])


def _latex(cell: str) -> str:
    lines = [Maths(line).tex if isinstance(cell, Maths) else _text(line) for line in cell.split("\n")]
    return lines[0] if len(lines) == 1 else r"\begin{array}{l}" + r" \\ ".join(lines) + r"\end{array}"


def _text(line: str) -> str:
    # a special character stands as mathematics between two pieces of text: LaTeX and a page read it alike there
    parts = [part for part in re.split(r"([\\~^&%$#_{}])", line) if part]
    return "".join(escaped(part) if part in "\\~^&%$#_{}" else rf"\text{{{part}}}" for part in parts)


class Tabled:
    """What can say itself as a table and lines below it; a notebook then shows it as one."""

    RIGHT: ClassVar[Collection[int]] = ()  # the columns of numbers

    table: Callable[..., tuple[Table, Sequence[str]]]  # its head first, and what stands below

    def __str__(self):
        table, below = self.table()
        return "\n".join([*aligned(table, self.RIGHT, terminal_width(ENDLESS)), *folded(below)])

    def __repr__(self):  # of a dataclass say repr=False, or it makes its own
        return str(self)

    def _repr_markdown_(self) -> str:
        return as_markdown(*self.table())

    def _repr_html_(self) -> str:
        return as_html(*self.table())

    def _repr_latex_(self) -> str:
        return as_latex(*self.table())


def of_factors(fg: Any) -> tuple[Table, Sequence[str]]:
    """A factored gradient: for each use of each parameter the shapes of what is kept, examples first; and its bytes."""
    names = ["/".join(path) for path in paths_of(jax.tree.unflatten(fg.tree, range(len(fg.shapes))))]
    shape = lambda a: "×".join(map(str, getattr(a, "shape", ()))) or "-"  # noqa: E731
    rows = [
        (
            names[use.leaf],
            "×".join(map(str, fg.shapes[use.leaf])),
            use.kind,
            shape(fg.dz[use.dz]),
            shape(fg.h.get(use.h)),
        )
        for use in fg.uses
    ]
    size = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves((fg.h, fg.dz)) if hasattr(a, "dtype"))
    below = [f"{size:,} bytes, what uses share counted once; dW[b] = Σ dz[b] h[b]ᵀ of outer uses, dz[b] of whole ones"]
    return [("parameter", "shape", "use", "dz", "h"), *rows], below
