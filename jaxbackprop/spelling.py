"""What is said without JAX, so that who mistypes waits for nothing: a name and its neighbour, a missing extra, a table."""

import difflib
import importlib
import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from jaxbackprop.mathematics import TYPED

ENDLESS = 10**6  # a line in a pipe
LONG = 12  # a word that may be broken


def unknown(kind: str, given: str, known: Iterable[str]) -> str:
    """Say in one line that `given` is not known, and what is nearest.

    >>> unknown("activation", "rleu", ["relu", "tanh"])
    "unknown activation 'rleu': did you mean 'relu'? Known: relu, tanh"
    >>> unknown("name", "loss", [])
    "unknown name 'loss': there is none"
    """
    known = list(known)
    if not known:
        return f"unknown {kind} {given!r}: there is none"
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {given!r}: {hint}Known: {', '.join(known)}"


def extra(module: str, package: str, what: str, name: str = "cli") -> Any:
    """Import what an extra of this package installs; where it is missing, say which.

    >>> extra("json", "the standard library", "an example").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install 'jaxbackprop[{name}]'") from error


def aligned(table: Sequence[Sequence[str]], right: Collection[int] = (), width: int = ENDLESS) -> list[str]:
    """The lines of a table, its columns aligned, those of these numbers to the right; what is too wide goes on below.

    >>> aligned([("name", "size"), ("w", "12")], right={1})
    ['name  size', 'w       12']
    >>> aligned([("name", "where"), ("w", "line 3 of a file")], width=16)
    ['name  where', 'w     line 3 of', '      a file']
    """
    table = [[writable(cell) for cell in line] for line in table]
    columns = [*zip(*table, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    words = [min(LONG, max(len(word) for cell in column for word in cell.split() or [""])) for column in columns]
    while sum(widths) + 2 * (len(widths) - 1) > width and (wide := [i for i, w in enumerate(widths) if w > words[i]]):
        widths[max(wide, key=widths.__getitem__)] -= 1  # no narrower than its longest word
    placed = lambda i, cell: cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])  # noqa: E731
    lines = []
    for line in table:
        cells = [
            [cell] if len(cell) <= w else textwrap.wrap(cell, w, break_on_hyphens=False)
            for cell, w in zip(line, widths, strict=True)
        ]
        parts = zip_longest(*cells, fillvalue="")
        lines += ["  ".join(placed(i, part) for i, part in enumerate(row)).rstrip() for row in parts]
    return lines


def folded(lines: Iterable[str], indent: int | None = None) -> list[str]:
    """Lines of words, none wider than the terminal: what goes on below stands in by so much. In a pipe they are as they were."""
    width, found = terminal_width(ENDLESS), []
    for line in map(writable, lines):
        below = " " * (len(line) - len(line.lstrip()) + 2 if indent is None else indent)
        wrapper = textwrap.TextWrapper(width, subsequent_indent=below, break_on_hyphens=False, break_long_words=False)
        found += wrapper.wrap(line) if len(line) > width else [line]
    return found


def terminal_width(otherwise: int = 120) -> int:
    """How many characters a line may have: as wide as the terminal, or COLUMNS; something else where neither says."""
    return shutil.get_terminal_size((otherwise, 24)).columns


def writable(text: str) -> str:
    """The text, with what standard output cannot write as people type it: before its width is asked for."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, TYPED).decode(encoding)


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things, in words.

    >>> counted(1, "row"), counted(2000, "row"), counted(2, "category", "categories")
    ('1 row', '2,000 rows', '2 categories')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
