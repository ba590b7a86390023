"""What a target asks for: a class or a number; its classes; and which rows are held out.

Unless the task is said:

    text, true/false                                                  classification
    whole numbers, at most 20 different, 5 rows a class on average    classification (0.0, 1.0 are whole too)
    any other numbers                                                 regression
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxbackprop.data.encoding import Encoding, standardise
from jaxbackprop.data.saying import alike, finite, is_number, listed, nearest, rows_in, rows_where, shown
from jaxbackprop.data.values import EXACT, Values

MOST_CLASSES, ROWS_PER_CLASS = 20, 5  # whole numbers beyond either are quantities rather than labels


class Goal(NamedTuple):
    """What is to be learned: the task; y (n,), which are indices into the classes, or numbers; and what was seen in it."""

    task: str
    classes: tuple[str, ...]
    y: np.ndarray
    found: str


def goal_of(name: str, y: Values, task: str | None, classes: Sequence[str] | None, as_they_are: bool) -> Goal:
    """What a target asks for; labels that seem to be one are refused, unless they are taken as they are, or given."""
    values, kind = y.values, y.kind
    task = "classification" if classes is not None else task
    if kind == "date":
        raise ValueError(f"target {shown(name)} holds dates: expected numbers or labels, name another")
    if kind == "number":
        finite(values[:, None], (name,))
    distinct, whole = len(np.unique(values)), kind == "number" and bool((values == np.floor(values)).all())
    if whole and np.abs(values).max() > EXACT and (distinct <= MOST_CLASSES or task == "classification"):
        raise ValueError(
            f"target {shown(name)} holds whole numbers beyond 2^53, which are not told apart: if they are labels, say "
            f"--categories {shown(name)}"
        )
    if distinct == 1:
        only = {"category": str, "boolean": bool}.get(kind, int if whole else float)(values[0])
        raise ValueError(f"target {shown(name)} is {shown(only)} in every row; name a target that varies")
    if kind == "number":
        task, found = recognised(name, len(values), distinct, whole, task)
    else:
        if distinct > max(MOST_CLASSES, len(values) / 2) and not (task or as_they_are):
            raise ValueError(
                f"target {shown(name)} is text, with {distinct:,} different ones in {rows_in(len(values))}: name another "
                "target, or say --task classification"
            )
        found = "is text" if kind == "category" else "is true/false"
        found += ", taken so as asked" if task == "regression" else ""
    if task == "regression":
        found += (f", in {y.written}" if y.written else "") + (f"; {y.remark}" if y.remark else "")
        return Goal(task, (), values, found)
    labels, codes = classes_of(y)
    if classes is not None:
        return Goal("classification", *as_given(classes, labels, codes, name), found)
    if kind == "category" and not as_they_are and (pair := alike(labels)):
        raise ValueError(
            f"target {shown(name)} holds {shown(pair[0])} and {shown(pair[1])}, which may be one label: make them one, "
            f"or say that they are two by --classes, --categories {shown(name)}"
        )
    return Goal("classification", labels, codes, found)


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
        raise ValueError(
            f"target {shown(name)} {found}, not all whole, so no labels; use task='regression' (--task regression)"
        )
    return task or natural, found + (", taken so as asked" if task and task != natural else "")


def classes_of(y: Values) -> tuple[tuple[str, ...], np.ndarray]:
    """Class labels as text, numbers in numerical order, and (n,) int32 indices into them.

    >>> classes_of(Values("number", np.array([10.0, 9.0, 10.0])))
    (('9', '10'), array([1, 0, 1], dtype=int32))
    """
    values, codes = np.unique(y.values, return_inverse=True)
    if y.kind != "category":
        as_text = bool if y.kind == "boolean" else int
        return tuple(str(as_text(value)) for value in values), codes.astype(np.int32)
    numeric = all(map(is_number, values)) and len(set(map(float, values))) == len(values)
    order = np.argsort(values.astype(np.float64), kind="stable") if numeric else np.arange(len(values))
    return tuple(values[order]), np.argsort(order)[codes].astype(np.int32)


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


def encoded_target(encoding: Encoding, y: Values) -> np.ndarray:
    """New targets as those of training: indices into the classes, or standardised numbers."""
    name, values = encoding.target, y.values
    if y.missing.any():
        raise ValueError(f"target {shown(name)} is missing in {rows_where(y.missing)}; fill it in")
    if not encoding.classes:
        values = finite(values[:, None], (name,))
        return standardise(values, encoding.target_mean, encoding.target_scale, (name,))
    if y.kind != "category" and (values != np.floor(values)).any():
        classes = listed(encoding.classes)
        raise ValueError(f"target {shown(name)} holds numbers that are not whole, so none of the classes {classes}")
    return as_given(encoding.classes, *classes_of(y), name)[1]
