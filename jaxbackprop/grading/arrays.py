r"""Vectors and matrices of numbers, as people type them: [1, 2], np.array([[1, 2], [3, 4]]), [1 2; 3 4], (0.5, -1)."""

import re
from typing import NamedTuple

import numpy as np

from jaxbackprop.grading.grammar import MAX_PIECE

_ENTRIES = r"[-−–+\d.,;&eE\s\\\[\]()]*"
_ARRAY = re.compile(
    rf"\$*\s*(?:(?:j?np|torch)\.(?:array|tensor)\s*\(\s*)?(?:[\[(]{_ENTRIES}[\])]|\\begin\{{[pb]?matrix\}}{_ENTRIES}\\end\{{[pb]?matrix\}})"
    r"\s*\)?(?:\s*(?:\^T|\^\{T\}|ᵀ|\.T))?\s*[$.,;]*"
)


def is_array(raw: str) -> bool:
    r"""Whether a side is a vector or a matrix of numbers, as people type it.

    >>> is_array("[1, 2]"), is_array("np.array([[1, 2], [3, 4]])"), is_array("[1 2; 3 4]"), is_array("[z > 0]"), is_array("(2) x")
    (True, True, True, False, False)
    """
    if len(raw) > MAX_PIECE:
        return False
    return _ARRAY.fullmatch(raw.strip()) is not None and re.search(r"\d\.?[\s,;&\\]+[-−–+]?\.?\d", raw) is not None


class Numbers(NamedTuple):
    """The entries of a vector or a matrix, and one unit of the last digit of each."""

    entries: np.ndarray
    digits: np.ndarray


_NUMBER = re.compile(r"[-+]?(?:\d+\.?(\d*)|\.(\d+))(?:[eE]([-+]?\d+))?")


def array_of(raw: str) -> Numbers | None:
    """What a side says that `is_array`; None where its rows differ in length, or it is something else.

    >>> array_of("[1, -2.5]")
    Numbers(entries=array([ 1. , -2.5]), digits=array([0. , 0.1]))
    >>> array_of("[[1, 2], [3, 4]]^T").entries
    array([[1., 3.],
           [2., 4.]])
    """
    if not is_array(raw):
        return None
    text = re.sub("[−–]", "-", raw)
    rows = [row for row in re.split(r"\\\\|;|\][\s,]*\[", text) if re.search(r"\d", row)]
    found = [list(_NUMBER.finditer(row)) for row in rows]
    if len({len(row) for row in found}) != 1:
        return None
    entries = np.array([[float(m[0]) for m in row] for row in found])
    digits = np.array([[_digit(m) for m in row] for row in found])
    flat = len(rows) == 1 and not re.search(r"\[\s*\[|matrix", text)
    if flat:
        return Numbers(entries[0], digits[0])
    turned = re.search(r"(?:\^T|\^\{T\}|ᵀ|\.T)[\s$.,;]*$", text) is not None
    return Numbers(entries.T, digits.T) if turned else Numbers(entries, digits)


def _digit(number: re.Match) -> float:
    decimals = number[1] or number[2] or ""
    return 10.0 ** (int(number[3] or 0) - len(decimals)) if decimals else 0.0
