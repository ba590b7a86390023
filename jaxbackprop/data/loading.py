"""Load a data set, bundled, in a file or in a folder; and read new rows as its training rows were read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
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
    of_numbers,
    scaling,
    standardise,
)
from jaxbackprop.data.saying import listed, naming, rows_in, shown
from jaxbackprop.data.sheets import Treatment, read_sheet, suffix_of
from jaxbackprop.data.sources import BUNDLED, array_rows, bundled, file_at, npz_pair, values_of
from jaxbackprop.data.stored import holds_more_than_numbers, is_stored, read_folder, read_through
from jaxbackprop.data.tables import IDENTITY, MOST_CATEGORIES, Table, read_rows, read_table, whole_rows
from jaxbackprop.data.targets import Goal, encoded_target, goal_of, split
from jaxbackprop.data.values import Values, meaning, rounded
from jaxbackprop.spelling import aligned

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
        lines = []
        for deed, columns in groupby(self.encoding.columns, lambda column: column.deed):
            names = [shown(column.name, 40) for column in columns]
            lines.append((names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}", deed))
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
    _require_settings(task, test_fraction, seed, classes)
    _require_names(target, treatment)
    name = source.replace("-", "_") if isinstance(source, str) else ""
    path = place_of(source)
    if path and path.is_dir() and not holds_more_than_numbers(path):
        if treatment != AS_FOUND._replace(drop=treatment.drop) or classes is not None:
            raise ValueError(
                "a folder's columns are numbers without gaps: of treatment it takes drop alone, and no classes"
            )
        return Dataset(*read_through(path, target, task, test_fraction, seed, scale, treatment.drop, progress))
    with naming(path or name):
        read = _table(path, name, target, treatment, task)
        table = whole_rows(read, treatment.missing)
        goal = goal_of(table.target, table.y, task, classes, table.target in treatment.categories)
        groups = goal.y if goal.classes and stratify else np.zeros(len(goal.y), int)
        train, test = split(groups, test_fraction, seed)
        if not len(test):
            raise ValueError(f"target {shown(table.target)} has no value twice, so no class to test; name another")
        encoding, x, y = _encoded_by(table, goal, train, scale)
    how = f", {len(goal.classes)} classes" if goal.classes else ""
    note = f"{goal.task}{how} ({table.subject} {goal.found}){table.remark}"
    if goal.classes and stratify:
        alone = [label for label, n in zip(goal.classes, np.bincount(goal.y), strict=False) if n == 1]
        note += f"; of a single example, so in the training split alone: {listed(alone)}" if alone else ""
    if left_out := len(read.x) - len(table.x):
        note += f"; {rows_in(left_out)} with missing values left out"
    baseline = float("nan") if goal.classes else float(np.mean((y[test] - np.mean(y[train], dtype=np.float64)) ** 2))
    named = path.resolve().name if path else name
    return Dataset(named, encoding, (x[train], y[train]), (x[test], y[test]), note, baseline)


def _require_settings(task: str | None, test_fraction: float, seed: int, classes: Sequence[str] | None) -> None:
    if task not in (None, "classification", "regression"):
        raise ValueError(f"task is {task!r}, expected 'classification', 'regression' or None")
    if not 0 < test_fraction < 1:
        raise ValueError(f"test_fraction is {test_fraction!r}, expected a number between 0 and 1, such as 0.2")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected an integer of at least 0")
    if classes is not None and task == "regression":
        raise ValueError("classes are given, and task='regression': leave out one of them")


def _require_names(target: Any, treatment: Treatment) -> None:
    """Refuse what is no name of a column, and a text where there should be names: its letters would be taken for them."""
    if not isinstance(target, str | None):
        raise ValueError(f"target is {target!r}, expected the name of a column or an array")
    for name in ("drop", "categories", "numbers", "na"):
        given = getattr(treatment, name)
        if isinstance(given, str) or not all(isinstance(word, str) for word in given):
            raise ValueError(f"treatment.{name} is {given!r}, expected a tuple of texts, such as {name}=('a', 'b')")


def place_of(source: Any) -> Path | None:
    """Where a source lies: a folder, or a file that can be opened; None of a bundled set.

    Raises:
        ValueError: it cannot be opened, or is of no known kind.
        FileNotFoundError: there is no such file.
    """
    if isinstance(source, str) and source.replace("-", "_") in BUNDLED:
        return None
    return Path(source) if is_stored(source) else file_at(source)


def _table(path: Path | None, name: str, target: str | None, treatment: Treatment, task: str | None) -> Table:
    """The rows of a file or a bundled set, as they stand."""
    if path and suffix_of(path) != ".npz":
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
    nothing, y = np.empty((len(x), 0), object), values_of(target, y, task)
    remark = f"; x holds {said}" if (said := rounded(Values("number", x.ravel())).remark) else ""
    return Table(columns, features, x, nothing, target, y, f"target {shown(target)}", remark=remark)


def _encoded_by(
    table: Table, goal: Goal, train: np.ndarray, scale: str | Bounds
) -> tuple[Encoding, np.ndarray, np.ndarray]:
    """What the training rows teach; and all rows, and their targets, encoded by it."""
    columns, x, features = table.columns, table.x, table.features
    count = len(features)  # of numbers, which are scaled: the first of the features
    if columns:
        columns = learned(columns, x[train], table.labels[train], MOST_CATEGORIES)
        x = x[:, ~np.isnan(x[train]).all(0)]
        numbers = [column.name for column in of_numbers(columns)]
        if scale != "rows":  # then no number is taken from the rows: a gap is the middle of the bounds
            middle = dict(zip(numbers, scaling(scale, numbers, lambda: ((), ()))[0], strict=True))
            columns = tuple(replace(c, fill=middle.get(c.name, c.fill)) for c in columns)
        x, features, count = inputs(columns, x, table.labels), names_of(columns), len(numbers)
    mean, size = scaling(scale, features[:count], lambda: moments_of(x[train][:, :count]))
    as_it_is = len(features) - count
    mean, size = (*mean, *(0.0,) * as_it_is), (*size, *(1.0,) * as_it_is)
    found = Encoding(goal.task, features, mean, size, table.target, goal.classes, (), (), columns, table.form)
    x, y = standardise(x, mean, size, features), goal.y
    if not goal.classes:
        mean, size = scaling(scale, (table.target,), lambda: moments_of(goal.y[train, None]))
        found = replace(found, target_mean=mean, target_scale=size, target_written=table.y.written)
        y = standardise(y[:, None], mean, size, (table.target,))
    return found, x, y


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


def read_ids(path: str | os.PathLike[str], encoding: Encoding) -> dict[str, list[str]]:
    """What tells new rows apart, as text: pandas' index, and what is named as an id, where training left it out."""
    place = place_of(path)
    if place is None or suffix_of(place) == ".npz" or (place / "x.npy").is_file():
        return {}
    dropped = {column.name for column in encoding.columns if column.kind == "dropped"}
    if not dropped:
        return {}
    sheet = read_sheet(place, AS_FOUND, encoding.form)
    ids = [n for n in sheet.columns if n in dropped and (IDENTITY.fullmatch(n) or n in sheet.row_numbers)]
    return {name: meaning(name, sheet.columns[name], "category").values.tolist() for name in ids}


def _read(source: Any, encoding: Encoding, target: bool) -> Rows:
    path = Path(source) if is_stored(source) else file_at(source)
    with naming(path):
        if suffix_of(path) == ".npz" or (path / "x.npy").is_file():
            if any(column.kind == "category" for column in encoding.used):
                raise ValueError(
                    "holds numbers alone, and the network was trained on labels too: give .csv or .parquet"
                )
            x = array_rows(path, tuple(column.name for column in encoding.used))
            labels = np.empty((len(x), 0), object)
            y = values_of(encoding.target, npz_pair(path, encoding.target)[1], encoding.task) if target else None
        else:
            x, labels, y = read_rows(path, encoding, target)
        return encoded(encoding, x, labels), encoded_target(encoding, y) if y else np.empty(0)
