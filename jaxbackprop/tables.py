"""A table as people see it: aligned in a terminal, as HTML or Markdown in a notebook."""

import html
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, ClassVar

import jax

from jaxbackprop.words import paths_of

Table = Sequence[Sequence[str]]  # its first line is the head


def aligned(table: Table, right: Collection[int] = ()) -> list[str]:
    """The lines of a table, its columns aligned, those of these numbers to the right.

    >>> aligned([("name", "size"), ("w", "12")], right={1})
    ['name  size', 'w       12']
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    placed = lambda i, cell: cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])  # noqa: E731
    return ["  ".join(placed(i, cell) for i, cell in enumerate(line)).rstrip() for line in table]


def as_markdown(table: Table, below: Iterable[str] = ()) -> str:
    r"""A table in Markdown, and lines below it.

    >>> print(as_markdown([("name", "norm"), ("w", "|w|")]))
    | name | norm |
    | --- | --- |
    | w | \|w\| |
    """
    head, *rows = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in table]
    lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows)]
    return "\n".join([*lines, *(f"\n{line}" for line in below)])


def as_html(table: Table, below: Iterable[str] = ()) -> str:
    """A table in HTML, and lines below it.

    >>> as_html([("name",), ("a<b",)], ["two"])
    '<table><tr><th>name</th></tr><tr><td>a&lt;b</td></tr></table><div>two</div>'
    """
    rows = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
        for tag, line in zip(["th", *["td"] * len(table)], table, strict=False)
    ]
    return f"<table>{''.join(rows)}</table>" + "".join(f"<div>{html.escape(line)}</div>" for line in below)


class Tabled:
    """What can say itself as a table and lines below it; a notebook then shows it as one."""

    RIGHT: ClassVar[Collection[int]] = ()  # the columns of numbers

    table: Callable[..., tuple[Table, Sequence[str]]]  # its head first, and what stands below

    def __str__(self):
        table, below = self.table()
        return "\n".join([*aligned(table, self.RIGHT), *below])

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return as_markdown(*self.table())

    def _repr_html_(self) -> str:
        return as_html(*self.table())


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
