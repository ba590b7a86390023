"""What a target asks for: a class or a number; its classes; and which rows are held out.

Unless the task is said:

    text, true/false                                                  classification
    whole numbers, at most 20 different, 5 rows a class on average    classification (0.0, 1.0 are whole too)
    any other numbers                                                 regression
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxbackprop.data.saying import is_number, listed, nearest, shown

MOST_CLASSES, ROWS_PER_CLASS = 20, 5  # whole numbers beyond either are quantities rather than labels
EXACT = 2**53  # beyond it two whole numbers may be one float


def recognised(name: str, rows: int, different: int | None, whole: bool, task: str | None) -> tuple[str, str]:
    """The task that a target of numbers asks for, and what was seen in it; `different` is None where it is too many to count.

    >>> recognised("kind", 100, 3, True, None)
    ('classification', 'holds 3 different integers')
    """
    what = "integers" if whole else "numbers"
    found, natural = f"holds {what if different is None else f'{different} different {what}'}", "classification"
    if different is None or different > MOST_CLASSES or not whole:
        natural = "regression"
    elif rows < ROWS_PER_CLASS * different:
        natural, found = "regression", f"{found}, in only {rows} rows"
    if task == "classification" and not whole:
        raise ValueError(f"target {shown(name)} {found}, not all whole, so no labels; use task='regression'")
    return task or natural, found + (", taken so as asked" if task and task != natural else "")


def classes_of(y: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Class labels as text, numbers in numerical order, and (n,) int32 indices into them.

    >>> classes_of(np.array([10.0, 9.0, 10.0]))
    (('9', '10'), array([1, 0, 1], dtype=int32))
    """
    values, codes = np.unique(y, return_inverse=True)
    if y.dtype.kind != "O":
        return tuple(str(bool(v) if y.dtype.kind == "b" else int(v)) for v in values), codes.astype(np.int32)
    numeric = all(map(is_number, values)) and len(set(map(float, values))) == len(values)
    order = np.argsort(values.astype(np.float64), kind="stable") if numeric else np.arange(len(values))
    return tuple(values[order]), np.argsort(order)[codes].astype(np.int32)


def require_unlike(name: str, labels: Sequence[str]) -> None:
    """Refuse labels that seem to be one, written twice.

    >>> require_unlike("paid", ["yes", "no", "Yes."])
    Traceback (most recent call last):
        ...
    ValueError: target 'paid' holds 'yes' and 'Yes.', which may be one label: make them one, or say that they are two by \
--classes, --categories 'paid'
    """
    seen: dict[str, str] = {}
    for label in labels:
        key = " ".join(label.casefold().split()).rstrip(".,;:! ") or label
        if key in seen:
            raise ValueError(
                f"target {shown(name)} holds {shown(seen[key])} and {shown(label)}, which may be one label: make them one, "
                f"or say that they are two by --classes, --categories {shown(name)}"
            )
        seen[key] = label


def as_given(
    classes: Sequence[str], found: Sequence[str], y: np.ndarray, name: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """The labels that were given, and (n,) int32 indices into them."""
    twice = [label for label, count in Counter(classes).items() if count > 1]
    if twice or len(classes) < 2:
        raise ValueError(f"classes are {listed(classes)}: give at least two, each once")
    strange = [label for label in found if label not in classes]
    if strange:
        hint = nearest(strange[0], classes)
        raise ValueError(f"target {shown(name)} holds {listed(strange)}, not among the classes {listed(classes)}{hint}")
    return tuple(classes), np.asarray([classes.index(label) for label in found], np.int32)[y]


def split(groups: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled row numbers (train, test): `fraction` of each group to the test, at least one, yet never all."""
    order = np.random.default_rng(seed).permutation(len(groups))
    counts = np.bincount(groups)
    share = np.clip(np.floor(fraction * counts + 0.5).astype(int), 1, counts - 1)
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the group
    in_test = np.empty(len(groups), bool)
    in_test[order[np.argsort(groups[order], kind="stable")]] = rank < np.repeat(share, counts)
    return order[~in_test[order]], order[in_test[order]]
