"""Checks and words that every source of data shares: what is wrong, in which column and row, on one line."""

from __future__ import annotations

import difflib
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from jaxbackprop.spelling import counted

FLOAT32_MAX = float(np.finfo(np.float32).max)


@contextmanager
def naming(source: object) -> Iterator[None]:
    """Put the source's name before whatever goes wrong inside, on one line."""
    try:
        yield
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        why = str(getattr(error, "strerror", None) or error)  # of the system, without its number
        raise ValueError(f"{shown(str(source))}: {cut(' '.join(why.split()), 750)}") from error


def refuse(bad: np.ndarray, names: Sequence[str], one: str, more: str) -> None:
    """Raise if any entry of the mask (n, d) is set, naming the first such column and row."""
    if bad.any():
        j = int(np.argmax(bad.any(0)))
        rows = np.flatnonzero(bad[:, j])
        raise ValueError(f"column {shown(names[j])} has {counted(len(rows), one)}{more} (first: row {rows[0] + 1})")


def finite(x: np.ndarray, names: Sequence[str], gaps: bool = False) -> np.ndarray:
    """x itself, (n, d), once every entry is a number that float32 can hold, or where `gaps` may be is NaN."""
    if not (np.abs(x) <= FLOAT32_MAX).all():
        if not gaps:
            refuse(np.isnan(x), names, "missing value", " (empty, NA or NaN); fill them in or drop those rows")
        refuse(np.isinf(x), names, "infinite value", "; replace them or drop those rows")
        refuse(np.abs(x) > FLOAT32_MAX, names, "value", " beyond float32's 3.4e38; use a larger unit or logarithms")
    return x


def is_number(text: str) -> bool:
    """Whether Python reads it as a number, NaN left out.

    >>> is_number("1e3"), is_number("nan")
    (True, False)
    """
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def rows_in(number: int) -> str:
    """A number of rows, in words."""
    return counted(number, "row")


def rows_where(found: np.ndarray, more: str = "") -> str:
    """In how many rows something was found, and the first of them, of which there may be more to say.

    >>> rows_where(np.array([False, True, True]))
    '2 rows (first: row 2)'
    """
    return f"{rows_in(int(found.sum()))} (first: row {int(np.argmax(found)) + 1}{more})"


def shown(value: object, most: int = 200) -> str:
    r"""A value as its repr, cut: line breaks are escaped, so that a message stays one line whatever the file holds.

    >>> shown("two\nlines")
    "'two\\nlines'"
    """
    return cut(repr(value), most)


def cut(text: str, most: int) -> str:
    """The text, without its middle if it is longer.

    >>> cut("0123456789", 7)
    '012...9'
    """
    return text if len(text) <= most else f"{text[: most // 2]}...{text[3 - most // 2 :]}"


def listed(names: Collection[str]) -> str:
    """The first ten names, and how many more there are.

    >>> listed(["a", "b"])
    "'a', 'b'"
    """
    first = [shown(name, 40) for name, _ in zip(names, range(10), strict=False)]
    return ", ".join(first) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def nearest(word: str, names: Collection[str]) -> str:
    """The name that was perhaps meant, as the end of a sentence.

    >>> nearest("colour", ["color", "size"])
    "; did you mean 'color'?"
    """
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""


def alike(labels: Iterable[str]) -> tuple[str, str] | None:
    """The first two labels that seem to be one, written twice.

    >>> alike(["yes", "no", "Yes."])
    ('yes', 'Yes.')
    """
    seen: dict[str, str] = {}
    for label in labels:
        key = " ".join(label.casefold().split()).rstrip(".,;:! ") or label
        if key in seen:
            return seen[key], label
        seen[key] = label
    return None
