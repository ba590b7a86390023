"""What is quoted of a network's answers beside its loss: whether it does better than a guess, and where it errs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbackprop.data.encoding import Encoding
from jaxbackprop.data.saying import shown
from jaxbackprop.spelling import aligned, extra

MOST_SHOWN = 12  # classes of which the whole confusion matrix is printed


def figures_of(encoding: Encoding, y: np.ndarray, guesses: np.ndarray) -> dict[str, Any]:
    """What scikit-learn makes of targets and answers, as plain JSON.

    Args:
        encoding: of the data.
        y: (n,) indices of classes, or (n, 1) numbers.
        guesses: the network's, alike.

    Returns:
        Of classes "majority", the share of the most frequent one; "balanced_accuracy", the mean over the classes of the share
        that is recognised; and "confusion", a row of counts for each true class. Of numbers "r2", 1 − Σ (y − ŷ)² / Σ (y − ȳ)²;
        None where all y are the same.

    >>> sizes = Encoding("regression", ("a",), (0.0,), (1.0,), "size", (), (0.0,), (1.0,))
    >>> figures_of(sizes, np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]]))
    {'r2': 0.5}
    """
    metrics = extra("sklearn.metrics", "scikit-learn", "measuring answers")
    if not encoding.classes:
        varies = len(np.unique(y)) > 1
        return {"r2": float(metrics.r2_score(y.astype(np.float64), guesses.astype(np.float64))) if varies else None}
    confusion = metrics.confusion_matrix(y, guesses, labels=range(len(encoding.classes)))
    recall = metrics.recall_score(y, guesses, labels=np.unique(y), average="macro", zero_division=0)
    majority = float(confusion.sum(1).max() / confusion.sum())
    return {"majority": majority, "balanced_accuracy": float(recall), "confusion": confusion.tolist()}


def lines_of(encoding: Encoding, figures: dict[str, Any]) -> list[str]:
    r"""The figures as lines of text.

    >>> paid = Encoding("classification", ("a",), (0.0,), (1.0,), "paid", ("no", "yes"))
    >>> y, guesses = np.array([0, 0, 0, 1]), np.zeros(4, int)
    >>> print(*lines_of(paid, figures_of(paid, y, guesses)), sep="\n")
    the most frequent class, 'no', is 75.0% of them; balanced accuracy 50.0%
    'no' is the answer to ALL 4 rows: nothing is told apart
    true \ answer  no  yes
    no              3    0
    yes             1    0
    """
    if not encoding.classes:
        return [] if figures["r2"] is None else [f"R² {figures['r2']:.3f}"]
    confusion, classes = np.array(figures["confusion"]), encoding.classes
    most = shown(classes[int(confusion.sum(1).argmax())], 40)
    balanced = f"balanced accuracy {figures['balanced_accuracy']:.1%}"
    lines = [f"the most frequent class, {most}, is {figures['majority']:.1%} of them; {balanced}"]
    answered = np.flatnonzero(confusion.sum(0))
    if len(answered) == 1:
        lines.append(
            f"{shown(classes[answered[0]], 40)} is the answer to ALL {confusion.sum():,} rows: nothing is told apart"
        )
    return lines + (_matrix(classes, confusion) if len(classes) <= MOST_SHOWN else _worst(classes, confusion))


def _matrix(classes: Sequence[str], confusion: np.ndarray) -> list[str]:
    names = [shown(name, 22)[1:-1] for name in classes]
    rows = [[name, *map(str, row)] for name, row in zip(names, confusion.tolist(), strict=True)]
    return aligned([["true \\ answer", *names], *rows], right=range(1, len(names) + 1))


def _worst(classes: Sequence[str], confusion: np.ndarray) -> list[str]:
    wrong = confusion - np.diag(np.diag(confusion))
    worst = np.argsort(wrong, axis=None)[::-1][:5]
    pairs = [(*np.unravel_index(place, wrong.shape), wrong.flat[place]) for place in worst if wrong.flat[place]]
    return [f"{shown(classes[i], 40)} taken for {shown(classes[j], 40)}: {count:,} times" for i, j, count in pairs]
