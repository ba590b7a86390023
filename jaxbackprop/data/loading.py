"""Load a data set, bundled, in a file or in a folder; and read new rows as its training rows were read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxbackprop.data.blocks import Blocks, Rows
from jaxbackprop.data.encoding import (
    Bounds,
    Column,
    Encoding,
    encoded,
    inputs,
    learned,
    moments_of,
    names_of,
    scaling,
    standardise,
)
from jaxbackprop.data.saying import finite, is_number, listed, naming, rows_in, shown
from jaxbackprop.data.sheets import holds_more_than_numbers, suffixes
from jaxbackprop.data.sources import BUNDLED, bundled, file_at, npz_pair, npz_rows
from jaxbackprop.data.stored import is_stored, read_folder, read_through
from jaxbackprop.data.tables import MOST_CATEGORIES, Table, Treatment, read_rows, read_table
from jaxbackprop.data.targets import EXACT, MOST_CLASSES, as_given, classes_of, recognised, require_unlike, split
from jaxbackprop.data.values import NUMERIC, Values
from jaxbackprop.tables import aligned

LEAST_ROWS = 5
AS_FOUND = Treatment()


@dataclass(frozen=True, eq=False)  # a generated == would compare arrays, and raise
class Dataset:
    """A data set, split and standardised, in memory or on a disk.

    Attributes:
        name: of the set or the file.
        encoding: what was done to it.
        train, test: x (n, d) float32 and y, (n,) int32 indices into `encoding.classes` or (n, 1) float32 standardised
            targets; or `Blocks` of these.
        note: what was recognised, and why.
        baseline: the mean squared error of predicting the training mean, in the target's scale; NaN for classes.
    """

    name: str
    encoding: Encoding
    train: Rows | Blocks
    test: Rows | Blocks
    note: str
    baseline: float

    x_train = property(lambda self: cast(Rows, self.train)[0], doc="The training rows, of a set in memory.")
    y_train = property(lambda self: cast(Rows, self.train)[1], doc="Their targets.")
    x_test = property(lambda self: cast(Rows, self.test)[0], doc="The test rows, of a set in memory.")
    y_test = property(lambda self: cast(Rows, self.test)[1], doc="Their targets.")

    @property
    def table(self) -> list[str]:
        """What was done with each column of a table, a line each; columns in a row with which the same was done share one.

        >>> load("digits").table
        []
        """
        lines: list[list[str]] = []
        for column in self.encoding.columns:
            deed = (
                f"dropped: {column.why}"
                if column.kind == "dropped"
                else "; ".join(filter(None, (column.deed, column.why)))
            )
            if lines and lines[-1][1] == deed:
                first = lines[-1][0].partition(" … ")[0]
                lines[-1][0] = f"{first} … {shown(column.name, 40)}"
            else:
                lines.append([shown(column.name, 40), deed])
        return aligned(lines) if lines else []


def load(
    source: str | os.PathLike[str] = "digits",
    target: str | None = None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    scale: str | Bounds = "rows",
    classes: Sequence[str] | None = None,
    stratify: bool = True,
    treatment: Treatment = AS_FOUND,
    progress: Callable[[int, int], object] | None = None,
) -> Dataset:
    """Read a data set, recognise its task, split it and standardise it by its training split.

    Args:
        source: digits, breast_cancer, diabetes or wine, bundled with scikit-learn; the path of a .csv, .tsv, .txt, .parquet
            or .npz file (arrays x (n, d) and y (n,)); or a folder of x.npy and y.npy, or of .parquet files. Such a folder
            of numbers without gaps is read as it is needed, any other as a whole. The bundled name wins: a path is `./digits`.
        target: the column, or NPZ array, to learn. By default the last column, or `y`.
        task: "classification" or "regression", where the rule in targets.py would choose wrongly.
        test_fraction: share of rows kept for testing, in (0, 1). Classification takes it from every class: one
            of two examples or more is in both splits, one of a single example in the training split. Of a folder it is a
            stretch of each block.
        seed: the same seed gives the same split.
        scale: "rows", by the training rows' mean and deviation; "none"; or bounds, {column: (least, most)}, which
            become −1 and 1, "*" for each column that has no line of its own. A regression's target is scaled likewise. Without
            "rows" a gap becomes what becomes 0.
        classes: the labels, in the order of the outputs; by default those that the rows hold.
        stratify: whether a classification's rows are split class by class. Otherwise which rows are kept for testing
            depends on the seed and their number alone, so that one row's label decides nothing about another row.
        treatment: of a table's columns, where what is found would be wrong.
        progress: called (blocks read, blocks in all) while a folder is read through.

    Raises:
        ValueError: the source, an argument or a value in the file can't be used; one line says which and why.
        FileNotFoundError: there is no such file.
        ImportError: scikit-learn or pyarrow (CSV, Parquet) is missing.

    Example:
        >>> load("digits").note
        "classification, 10 classes (target 'digit' holds 10 different integers)"
    """
    if task not in (None, "classification", "regression"):
        raise ValueError(f"task is {task!r}, expected 'classification', 'regression' or None")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction!r}, expected a number between 0 and 1, such as 0.2")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an integer of at least 0")
    if classes is not None and task == "regression":
        raise ValueError("classes are given, and task='regression': leave out one of them")

    name = source.replace("-", "_") if isinstance(source, str) else ""
    folder = Path(source) if is_stored(source) else None
    if folder and not holds_more_than_numbers(folder):
        if treatment != AS_FOUND._replace(drop=treatment.drop) or classes is not None:
            raise ValueError(
                "a folder's columns are numbers without gaps: of the treatment it takes drop alone, and no classes"
            )
        return Dataset(*read_through(folder, target, task, test_fraction, seed, scale, treatment.drop, progress))
    path = folder or (None if name in BUNDLED else file_at(source))
    with naming(path or name):
        table = _table(path, name, target, treatment, task)
        rows = _used_rows(table, treatment.missing)
        table = table._replace(
            x=table.x[rows], labels=table.labels[rows], y=table.y._replace(values=table.y.values[rows])
        )
        task, labels, y, note = _target(table, task, classes, table.target in treatment.categories)
        train, test = split(y if labels and stratify else np.zeros(len(y), int), test_fraction, seed)
        if not len(test):
            raise ValueError(f"target {shown(table.target)} has no value twice, so no class to test; name another")
        if labels and stratify:
            alone = [label for label, count in zip(labels, np.bincount(y), strict=True) if count == 1]
            note += f"; of a single example, so in the training split alone: {listed(alone)}" if alone else ""
        if classes is not None:
            labels, y = as_given(classes, labels, y, table.target)
        encoding, x = _encoded_by(table, task, labels, train, scale)
        if not labels:
            mean, size = scaling(scale, (table.target,), partial(moments_of, y[train, None]))
            encoding = replace(encoding, target_mean=mean, target_scale=size, target_written=table.y.written)
            y = standardise(y[:, None], mean, size, (table.target,))
    note += f"; {rows_in((~rows).sum())} with missing values left out" if not rows.all() else ""
    baseline = float("nan") if labels else float(np.mean(np.square(y[test] - np.mean(y[train], dtype=np.float64))))
    return Dataset(
        path.resolve().name if path else name, encoding, (x[train], y[train]), (x[test], y[test]), note, baseline
    )


def _table(path: Path | None, name: str, target: str | None, treatment: Treatment, task: str | None) -> Table:
    """The rows of a file or a bundled set, as they stand."""
    if path and suffixes(path) != ".npz":
        return read_table(path, target, treatment, task)
    if treatment != AS_FOUND._replace(missing=treatment.missing):
        raise ValueError("has no columns with names of their own: of the treatment it takes missing alone")
    if path:
        target = "y" if target is None else target
        x, y = npz_pair(path, target)
        features = tuple(f"x{j}" for j in range(x.shape[1]))
    else:
        features, x, y = bundled(name, target)
        target = BUNDLED[name]
    columns = tuple(Column(name, "number") for name in features) if np.isnan(x).any() else ()
    return Table(columns, x, np.empty((len(x), 0), object), target, _values(y), f"target {shown(target)}", features)


def _values(y: np.ndarray) -> Values:
    kind = {"b": "boolean", "U": "category", "O": "category"}.get(y.dtype.kind, "number")
    return Values(kind, y if kind == "category" else y.astype(np.float64))


def _used_rows(table: Table, missing: str) -> np.ndarray:
    """Which rows are used: all; with "drop" those that lack nothing."""
    numbers = [c.name for c in table.columns if c.kind in NUMERIC] or table.features
    finite(table.x, numbers, gaps=True)
    if len(table.x) < LEAST_ROWS:
        raise ValueError(f"has {len(table.x)} rows, expected at least {LEAST_ROWS} to train and test on")
    y = table.y.values
    lacking = y == "" if table.y.kind == "category" else np.isnan(y)
    if missing == "drop":
        used = ~(lacking | np.isnan(table.x).any(1) | (table.labels == "").any(1))
        if used.sum() < LEAST_ROWS:
            raise ValueError(
                f"has {used.sum()} rows that lack no value, expected at least {LEAST_ROWS}; impute, or drop columns"
            )
        return used
    if lacking.any():
        words = f", {listed(table.y.gaps)}" if table.y.gaps else ""
        raise ValueError(
            f"target {shown(table.target)} is missing in {rows_in(lacking.sum())} (first: row {np.argmax(lacking) + 1}{words}): "
            "fill it in, or leave such rows out by --missing drop"
        )
    return ~lacking


def _target(
    table: Table, task: str | None, classes: Sequence[str] | None, as_they_are: bool
) -> tuple[str, tuple[str, ...], np.ndarray, str]:
    """The task, the labels if it is a classification, the target as indices into them or as numbers, and the note."""
    name, kind, y = table.target, table.y.kind, table.y.values
    task = "classification" if classes is not None else task
    if kind == "date":
        raise ValueError(f"target {shown(name)} holds dates: expected numbers or labels, name another")
    if task == "regression" and kind == "category":
        y, kind = _as_numbers(y, name), "number"
    if kind == "number":
        finite(y[:, None], (name,))
    distinct, whole = len(np.unique(y)), kind == "number" and bool((y == np.floor(y)).all())
    if whole and np.abs(y).max() > EXACT and (distinct <= MOST_CLASSES or task == "classification"):
        raise ValueError(
            f"target {shown(name)} holds whole numbers beyond 2^53, which are not told apart: if they are labels, say "
            f"--categories {shown(name)}"
        )
    if distinct == 1:
        only = y[0] if kind == "category" else bool(y[0]) if kind == "boolean" else int(y[0]) if whole else float(y[0])
        raise ValueError(f"target {shown(name)} is {shown(only)} in every row; name a target that varies")
    if kind == "number":
        task, found = recognised(name, len(y), distinct, whole, task)
    else:
        found = "is text" if kind == "category" else "is true/false"
        if distinct > max(MOST_CLASSES, len(y) / 2) and not (task or as_they_are):
            raise ValueError(
                f"target {shown(name)} is text, with {distinct:,} different ones in {rows_in(len(y))}: name another target, or "
                "say --task classification"
            )
        found += ", taken so as asked" if task == "regression" else ""
        task = task or "classification"
    if task == "regression":
        found += f", in {table.y.written}" if table.y.written else ""
        return task, (), y, f"regression ({table.subject} {found}){table.remark}"
    labels, y = classes_of(y.astype(bool) if kind == "boolean" else y)
    if kind == "category" and classes is None and not as_they_are:
        require_unlike(name, labels)
    many = len(labels) if classes is None else len(classes)
    return task, labels, y, f"classification, {many} classes ({table.subject} {found}){table.remark}"


def _as_numbers(y: np.ndarray, name: str) -> np.ndarray:
    try:
        return y.astype(np.float64)
    except ValueError:
        row = next(i for i, value in enumerate(y) if not is_number(value))
        found = f"{shown(y[row])} in row {row + 1}"
        raise ValueError(
            f"column {shown(name)} holds text where numbers belong: {found}; name another target"
        ) from None


def _encoded_by(
    table: Table, task: str, classes: tuple[str, ...], train: np.ndarray, scale: str | Bounds
) -> tuple[Encoding, np.ndarray]:
    """What the training rows teach, and all rows encoded by it."""
    columns, x, features, count = table.columns, table.x, table.features, len(table.features)
    if columns:
        nothing = np.asarray(np.isnan(x[train]).all(0))
        numbers = [c.name for c in columns if c.kind in NUMERIC]
        empty = {name for name, none in zip(numbers, nothing, strict=True) if none}
        columns = [
            replace(c, kind="dropped", why="no value in the training rows") if c.name in empty else c for c in columns
        ]
        x = x[:, ~nothing]
        columns = learned(columns, x[train], table.labels[train], MOST_CATEGORIES)
        if scale != "rows":  # then no number is taken from the rows: a gap is the middle of the bounds
            middle = iter(scaling(scale, [c.name for c in columns if c.kind in NUMERIC], lambda: ((), ()))[0])
            columns = [replace(c, fill=float(next(middle))) if c.kind in NUMERIC else c for c in columns]
        x = inputs(columns, x, table.labels)
        features, count = names_of(columns)
    mean, size = scaling(scale, features[:count], lambda: moments_of(x[train][:, :count]) if count else ((), ()))
    as_it_is = len(features) - count
    mean, size = (*mean, *(0.0,) * as_it_is), (*size, *(1.0,) * as_it_is)
    encoding = Encoding(task, features, mean, size, table.target, classes, columns=tuple(columns), form=table.form)
    return encoding, standardise(x, mean, size, features)


def read_features(path: str | os.PathLike[str], encoding: Encoding) -> np.ndarray:
    """Read new rows, (n, d) float32, and encode them as the training data were.

    Columns are found by name, in any order; others, such as the target, are ignored. An NPZ has no names: its array x must
    hold the columns of numbers in the order of training. Where numbers are missing that never were in training they get the
    training median, and a label that training did not see counts for none: a warning says so, with the first such row.

    Raises:
        ValueError: a feature is missing, or holds a value that can't be used.
        FileNotFoundError: there is no such file.

    Example:
        >>> import tempfile
        >>> encoding = Encoding("regression", ("size", "age"), (0.0, 0.0), (2.0, 1.0), "price", (), (0.0,), (1.0,))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "new.csv"
        ...     _ = path.write_text(os.linesep.join(["age,size", "30,100"]))
        ...     read_features(path, encoding).tolist()
        [[50.0, 30.0]]
    """
    return _read(path, encoding, target=False)[0]


def read_examples(path: str | os.PathLike[str], encoding: Encoding) -> Rows | Blocks:
    """Read new rows with their target, x (n, d) and y as a `Dataset` has them; of a folder `Blocks` of them.

    Raises:
        ValueError: as `read_features`; or a target that is missing, or is no class of training.
        FileNotFoundError: there is no such file.
    """
    if is_stored(path) and not holds_more_than_numbers(Path(path)):
        return read_folder(Path(path), encoding)
    return _read(path, encoding, target=True)


def _read(source: Any, encoding: Encoding, target: bool) -> Rows:
    path = Path(source) if is_stored(source) else file_at(source)
    with naming(path):
        if suffixes(path) == ".npz":
            if any(column.kind == "category" for column in encoding.used):
                raise ValueError(
                    "holds numbers alone, and the network was trained on labels too: give a .csv or .parquet file"
                )
            x = npz_rows(path, tuple(column.name for column in encoding.used))
            labels = np.empty((len(x), 0), object)
            y = _values(npz_pair(path, encoding.target)[1]) if target else None
        else:
            x, labels, y = read_rows(path, encoding, target)
        return encoded(encoding, x, labels), _encoded_target(encoding, y) if y else np.empty(0)


def _encoded_target(encoding: Encoding, y: Values) -> np.ndarray:
    """New targets as those of training: indices into the classes, or standardised numbers."""
    name, values = encoding.target, y.values
    lacking = np.flatnonzero(values == "" if y.kind == "category" else np.isnan(values))
    if lacking.size:
        raise ValueError(
            f"target {shown(name)} is missing in {rows_in(lacking.size)} (first: row {lacking[0] + 1}); fill it in"
        )
    if not encoding.classes:
        values = finite((_as_numbers(values, name) if y.kind == "category" else values)[:, None], (name,))
        return standardise(values, encoding.target_mean, encoding.target_scale, (name,))
    if y.kind != "category" and (values != np.floor(values)).any():
        raise ValueError(
            f"target {shown(name)} holds numbers that are not whole, so none of the classes {listed(encoding.classes)}"
        )
    labels, codes = classes_of(values.astype(bool) if y.kind == "boolean" else values)
    return as_given(encoding.classes, labels, codes, name)[1]
