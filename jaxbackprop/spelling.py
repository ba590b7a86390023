"""What is said without JAX, so that who mistypes waits for nothing: a name and its neighbour, a missing extra, a table."""

import difflib
import importlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any


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


def aligned(table: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table, its columns aligned, those of these numbers to the right.

    >>> aligned([("name", "size"), ("w", "12")], right={1})
    ['name  size', 'w       12']
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    placed = lambda i, cell: cell.rjust(widths[i]) if i in right else cell.ljust(widths[i])  # noqa: E731
    return ["  ".join(placed(i, cell) for i, cell in enumerate(line)).rstrip() for line in table]


def counted(number: int, one: str, many: str = "") -> str:
    """A number of things, in words.

    >>> counted(1, "row"), counted(2000, "row"), counted(2, "category", "categories")
    ('1 row', '2,000 rows', '2 categories')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
