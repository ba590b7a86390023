"""Real data in: a bundled set, or a CSV, Parquet or NPZ file, made ready to train on and to predict from.

    data = load("flowers.csv")                    # or load("digits"), load("house.parquet", target="price")
    data.note                                     # "classification, 3 classes (target 'species', the last ..."
    data.x_train, data.y_train                    # (n, d) float32 standardised; (n,) int32 or (n, 1) float
    x = read_features("new.csv", data.encoding)   # (m, d), treated exactly as the training data was
    decode(data.encoding, yhat)                   # class labels, or values in the target's own units

Which task a target asks for, unless `task` says so:

    text, true/false                                                  classification
    whole numbers, at most 20 different, 5 rows a class on average    classification (0.0, 1.0 are whole too)
    any other numbers                                                 regression

Means and scales come from the training split alone, so nothing of the test split leaks into them; or they are given, as
`bounds` of each column, so that nothing of any row does. They are computed, and applied, in float64; only the standardised
result is rounded to float32, so that a large integer (a Unix time, say) keeps its differences. Nothing is filled in: a value
that can't be used is an error which names its column and its row. Rows are counted from 1 after the header, blank lines left
out.
"""

import csv
import difflib
import importlib
import os
import re
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.words import extra, unknown

BUNDLED = {"digits": "digit", "breast_cancer": "diagnosis", "diabetes": "progression", "wine": "cultivar"}
KINDS = ".csv, .npz or .parquet"
MOST_CLASSES, ROWS_PER_CLASS = 20, 5  # whole numbers beyond either are quantities rather than labels
LEAST_ROWS = 5
MOST_COLUMNS = 100_000  # pyarrow spends about 10 kB and 20 us on each: a million columns would look like a hang
FLOAT32_MAX = float(np.finfo(np.float32).max)
SCALES = ("rows", "none")
Bounds = Mapping[str, tuple[float, float]]  # least and most of each column
Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and scale of each column
PANDAS_INDEX = ("", "__index_level_0__")  # what pandas calls its row numbers in CSV and in Parquet


@dataclass(frozen=True)
class Encoding:
    """What training did to its data, so that prediction can do the same; `to_dict` makes it JSON.

    `features`, `mean` and `scale` have one entry a feature; a column constant in training has scale 1.
    `classes` holds the labels as text, in the order of the network's outputs; it is empty for regression.
    `target_mean` and `target_scale` hold one number in the target's units; they are empty for classification.
    """

    task: str
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    target: str
    classes: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_scale: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)  # a generated == would compare arrays, and raise
class Dataset:
    """A data set, split and standardised.

    `x_train` and `x_test` are (n, d) float32; `y_train` and `y_test` are (n,) int32 indices into
    `encoding.classes`, or (n, 1) float32 standardised targets. `note` says what was recognised, and why.
    """

    name: str
    encoding: Encoding
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    note: str

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """The training split (x, y)."""
        return self.x_train, self.y_train

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """The test split (x, y)."""
        return self.x_test, self.y_test

    @property
    def baseline(self) -> float:
        """The mean squared error of predicting the training mean, in the target's scale."""
        return float(np.mean(np.square(self.y_test - np.mean(self.y_train, dtype=np.float64))))


class _Table(NamedTuple):
    features: tuple[str, ...]
    x: np.ndarray  # (n, d) float64
    target: str
    y: np.ndarray  # (n,) text (as objects), bool, int or float
    subject: str  # how the note speaks of the target
    remark: str = ""


def load(
    source: str | os.PathLike[str] = "digits",
    target: str | None = None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    scale: str | Bounds = "rows",
    classes: Sequence[str] | None = None,
    stratify: bool = True,
) -> Dataset:
    """Read a data set, recognise its task, split it and standardise it by its training split.

    Args:
        source: digits, breast_cancer, diabetes or wine, bundled with scikit-learn, or the path of a .csv,
            .parquet or .npz file (arrays x (n, d) and y (n,)). The bundled name wins: a path is `./digits`.
        target: the column, or NPZ array, to learn. By default the last column, or `y`.
        task: "classification" or "regression", where the rule in the module's docstring would choose wrongly.
        test_fraction: share of rows kept for testing, in (0, 1). Classification takes it from every class: one
            of two examples or more is in both splits, one of a single example in the training split.
        seed: the same seed gives the same split.
        scale: "rows", by the training rows' mean and deviation; "none"; or bounds, {column: (least, most)}, which
            become −1 and 1, "*" for each column that has no line of its own. A regression's target is scaled likewise.
        classes: the labels, in the order of the outputs; by default those that the rows hold.
        stratify: whether a classification's rows are split class by class. Otherwise which rows are kept for testing
            depends on the seed and their number alone, so that one row's label decides nothing about another row.

    Raises:
        ValueError: the source, an argument or a value in the file can't be used; one line says which and why.
        FileNotFoundError: there is no such file.
        ImportError: scikit-learn (bundled sets) or pyarrow (CSV, Parquet) is missing.

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

    name = source.replace("-", "_") if isinstance(source, str) else ""
    path = None if name in BUNDLED else _file(source)
    with _naming(path or name):
        if path is None:
            table = _bundled_table(name, target)
        else:
            table = (_npz_table if path.suffix.lower() == ".npz" else _arrow_table)(path, target)
        _finite(table.x, table.features)
        if classes is not None and task == "regression":
            raise ValueError("classes are given, and task='regression': leave out one of them")
        task, y, found = _recognise(table.y, table.target, "classification" if classes is not None else task)
        note = f"({table.subject} {found}){table.remark}"
        labels, target_mean, target_scale = (), (), ()
        if task == "regression":
            train, test = _split(np.zeros(len(y), int), test_fraction, seed)
            y = y[:, None]
            target_mean, target_scale = scaling(scale, (table.target,), partial(_moments, y[train]))
            y = standardise(y, target_mean, target_scale, (table.target,))
            note = f"regression {note}"
        else:
            labels, y = _classes(y)
            alone = [label for label, count in zip(labels, np.bincount(y), strict=True) if count == 1 and stratify]
            train, test = _split(y if stratify else np.zeros(len(y), int), test_fraction, seed)
            if not len(test):
                raise ValueError(f"target {_show(table.target)} has no value twice, so no class to test; name another")
            if classes is not None:
                labels, y = _as_given(classes, labels, y, table.target)
            note = f"classification, {len(labels)} classes {note}"
            note += f"; of a single example, so in the training split alone: {_listed(alone)}" if alone else ""
        mean, scales = scaling(scale, table.features, partial(_moments, table.x[train]))
        x = standardise(table.x, mean, scales, table.features)
    encoding = Encoding(task, table.features, mean, scales, table.target, labels, target_mean, target_scale)
    return Dataset(path.name if path else name, encoding, x[train], y[train], x[test], y[test], note)


def read_features(path: str | os.PathLike[str], encoding: Encoding) -> np.ndarray:
    """Read new rows, (n, d) float32, and standardise them as the training data were.

    Columns are found by name, in any order; others, such as the target, are ignored. An NPZ has no names:
    its array x must hold the features in the order of `encoding.features`.

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
    path, names = _file(path), encoding.features
    with _naming(path):
        if path.suffix.lower() == ".npz":
            (x,) = _npz_arrays(path, ("x", "X"))
            if x.ndim == 2 and x.shape[1] != len(names):
                raise ValueError(f"x has {x.shape[1]} columns, expected the {len(names)} features {_listed(names)}")
            x = _matrix(x)
        else:
            columns = _columns(path)
            lacking = [name for name in names if name not in columns]
            if lacking:
                raise ValueError(
                    f"lacks {len(lacking)} of the {len(names)} features that the network was trained on: "
                    f"{_listed(lacking)}{_nearest(lacking[0], columns)} (columns: {_listed(columns)})"
                )
            x = _features(columns, names)
        return standardise(_finite(x, names), encoding.mean, encoding.scale, names)


def decode(encoding: Encoding, yhat: Any) -> list[str] | np.ndarray:
    """Turn a network's outputs into answers, one a row.

    Args:
        encoding: of the data that the network was trained on.
        yhat: (n, k) logits for k classes, or (n, 1) standardised values.

    Returns:
        n class labels (of the largest logit, the first if several are), or (n,) float64 in the target's units.

    Raises:
        ValueError: yhat has another shape, or holds NaN where a label is to be chosen.

    Example:
        >>> decode(Encoding("regression", ("a",), (0.0,), (1.0,), "price", (), (10.0,), (2.0,)), [[-1.0], [0.5]])
        array([ 8., 11.])
    """
    values = np.asarray(yhat, np.float64)
    width = len(encoding.classes) or 1
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"yhat has shape {values.shape}, expected (n, {width}) for {encoding.task}; check the network")
    if encoding.task == "regression":
        return values[:, 0] * encoding.target_scale[0] + encoding.target_mean[0]
    if np.isnan(values).any():
        raise ValueError(f"yhat holds NaN in {np.isnan(values).any(1).sum()} of {len(values)} rows; expected numbers")
    return [encoding.classes[i] for i in values.argmax(1)]


def to_dict(encoding: Encoding) -> dict[str, Any]:
    """The encoding as text and lists, so that `json.dumps` takes it and `from_dict` undoes it exactly."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(encoding).items()}


def from_dict(d: Mapping[str, Any]) -> Encoding:
    """The encoding that `to_dict` wrote; ValueError if a field is missing or unknown."""
    names = [field.name for field in fields(Encoding)]
    if set(d) != set(names):
        raise ValueError(f"encoding has the fields {_listed(sorted(d))}, expected {_listed(names)}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in d.items()}
    return Encoding(**values)


# ---- from columns to what a network takes


def _recognise(y: np.ndarray, name: str, task: str | None) -> tuple[str, np.ndarray, str]:
    """The task, the target (float64 for regression), and what was seen in it."""
    if len(y) < LEAST_ROWS:
        raise ValueError(f"has {len(y)} rows, expected at least {LEAST_ROWS} to train and test on")
    kind = y.dtype.kind
    if kind == "f":
        y = _finite(_numbers(y, name)[:, None], (name,))[:, 0]
    elif kind == "O":
        _refuse((y == "")[:, None], (name,), "missing values (blank text); fill them in or drop those rows")
    distinct = len(np.unique(y))
    if distinct == 1:
        only = _show(y[:1].tolist()[0])
        raise ValueError(f"target {_show(name)} is {only} in every row; name a target that varies")

    natural, whole = "classification", kind in "iu" or (kind == "f" and bool((y == np.floor(y)).all()))
    if kind in "Ob":
        found = "is text" if kind == "O" else "is true/false"
    else:
        found = f"holds {distinct} different {'integers' if whole else 'numbers'}"
        if distinct > MOST_CLASSES or not whole:
            natural = "regression"
        elif len(y) < ROWS_PER_CLASS * distinct:
            natural, found = "regression", f"{found}, in only {len(y)} rows"
        if task == "classification" and not whole:
            raise ValueError(f"target {_show(name)} {found}, not all whole, so no labels; use task='regression'")
    found += ", taken so as asked" if task and task != natural else ""
    if (task or natural) == "regression":
        y = _finite(_numbers(y, name)[:, None], (name,))[:, 0]
    return task or natural, y, found


def _classes(y: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Class labels as text, numbers in numerical order, and (n,) int32 indices into them."""
    values, codes = np.unique(y, return_inverse=True)
    if y.dtype.kind != "O":
        return tuple(str(bool(v) if y.dtype.kind == "b" else int(v)) for v in values), codes.astype(np.int32)
    numeric = all(map(_is_number, values))
    order = np.argsort(values.astype(np.float64), kind="stable") if numeric else np.arange(len(values))
    return tuple(values[order]), np.argsort(order)[codes].astype(np.int32)


def _as_given(
    classes: Sequence[str], found: tuple[str, ...], y: np.ndarray, name: str
) -> tuple[tuple[str, ...], np.ndarray]:
    """The labels that were given, and (n,) int32 indices into them."""
    twice = [label for label, count in Counter(classes).items() if count > 1]
    if twice or len(classes) < 2:
        raise ValueError(f"classes are {_listed(classes)}: give at least two, each once")
    strange = [label for label in found if label not in classes]
    if strange:
        hint = _nearest(strange[0], classes)
        raise ValueError(
            f"target {_show(name)} holds {_listed(strange)}, not among the classes {_listed(classes)}{hint}"
        )
    return tuple(classes), np.asarray([classes.index(label) for label in found], np.int32)[y]


def _split(groups: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffled row numbers (train, test): `fraction` of each group to the test, at least one, yet never all."""
    order = np.random.default_rng(seed).permutation(len(groups))
    counts = np.bincount(groups)
    share = np.clip(np.floor(fraction * counts + 0.5).astype(int), 1, counts - 1)
    rank = np.arange(len(groups)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the group
    in_test = np.empty(len(groups), bool)
    in_test[order[np.argsort(groups[order], kind="stable")]] = rank < np.repeat(share, counts)
    return order[~in_test[order]], order[in_test[order]]


def _moments(x: np.ndarray) -> Moments:
    """Mean and standard deviation of every column; scale 1 where the column is constant."""
    constant = x.max(0) == x.min(0)  # asked exactly: the std of a repeated 0.1 is not 0 but rounding
    mean, scale = np.where(constant, x[0], x.mean(0)), x.std(0)
    return tuple(mean.tolist()), tuple(np.where(constant | (scale == 0), 1.0, scale).tolist())


def scaling(scale: str | Bounds, names: Sequence[str], moments: Callable[[], Moments]) -> Moments:
    """Mean and scale of each column: those of the rows, 0 and 1, or what takes each column's bounds to −1 and 1.

    >>> scaling({"age": (0.0, 120.0), "*": (0.0, 16.0)}, ("age", "pixel"), moments=lambda: ((), ()))
    ((60.0, 8.0), (60.0, 8.0))

    Raises:
        ValueError: a column without bounds, or bounds that are none.
    """
    if isinstance(scale, str):
        if scale not in SCALES:
            raise ValueError(unknown("scale", scale, SCALES))
        return moments() if scale == "rows" else ((0.0,) * len(names), (1.0,) * len(names))
    lacking = [name for name in names if name not in scale]
    if lacking and "*" not in scale:
        raise ValueError(f"no bounds for {_listed(lacking)}{_nearest(lacking[0], scale)}; '*' bounds all that are left")
    bounds = [scale.get(name, scale.get("*", (0.0, 0.0))) for name in names]
    for name, (least, most) in zip(names, bounds, strict=True):
        if not -FLOAT32_MAX < least < most < FLOAT32_MAX:
            raise ValueError(f"bounds of {_show(name)} are {least:g} to {most:g}: expected a least and a greater most")
    return tuple(least / 2 + most / 2 for least, most in bounds), tuple(most / 2 - least / 2 for least, most in bounds)


def read_bounds(path: str | os.PathLike[str]) -> Bounds:
    """Read a CSV of column, least, most: what is known of each column without looking at the rows.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "bounds.csv"
    ...     _ = path.write_text("age,0,120")
    ...     read_bounds(path)
    {'age': (0.0, 120.0)}
    """
    with _naming(path):
        try:
            rows = list(csv.reader(Path(path).read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True))
        except (UnicodeDecodeError, csv.Error):
            raise ValueError("is no CSV of column,least,most in UTF-8") from None
        if rows and [cell.strip().lower() for cell in rows[0][1:]] == ["least", "most"]:  # a header, if one likes
            rows = rows[1:]
        bounds: dict[str, tuple[float, float]] = {}
        for i, row in enumerate(filter(None, rows), 1):
            if len(row) != 3 or not all(map(_is_number, row[1:])):
                raise ValueError(f"row {i} is {_show(','.join(row))}: expected column,least,most, such as age,0,120")
            if row[0].strip() in bounds:
                raise ValueError(f"row {i} bounds {_show(row[0])} again: give each column once")
            bounds[row[0].strip()] = float(row[1]), float(row[2])
        if not bounds:
            raise ValueError("holds no bounds: expected lines of column,least,most, such as age,0,120")
        return bounds


def standardise(x: np.ndarray, mean: Sequence[float], scale: Sequence[float], names: Sequence[str]) -> np.ndarray:
    """(x − mean) / scale, rounded to float32 once; ValueError, naming the column, for what float32 cannot hold."""
    with np.errstate(over="ignore"):  # refused below, by name
        z = (x - np.asarray(mean)) / np.asarray(scale)
    _refuse(np.abs(z) > FLOAT32_MAX, names, "values too far from the training mean for float32; correct or drop them")
    return z.astype(np.float32)


# ---- checks and words that every source shares


@contextmanager
def _naming(source: object) -> Iterator[None]:
    """Put the source's name before whatever goes wrong inside, on one line."""
    try:
        yield
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{_show(str(source))}: {_cut(' '.join(str(error).split()), 750)}") from error


def _refuse(bad: np.ndarray, names: Sequence[str], what: str) -> None:
    """Raise if any entry of the mask (n, d) is set, naming the first such column and row."""
    if bad.any():
        j = int(np.argmax(bad.any(0)))
        rows = np.flatnonzero(bad[:, j])
        raise ValueError(f"column {_show(names[j])} has {len(rows)} {what} (first: row {rows[0] + 1})")


def _finite(x: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """x itself, (n, d), once every entry is a number that float32 can hold."""
    if not (np.abs(x) <= FLOAT32_MAX).all():
        _refuse(np.isnan(x), names, "missing values (empty, NA or NaN); fill them in or drop those rows")
        _refuse(np.isinf(x), names, "infinite values; replace them or drop those rows")
        _refuse(np.abs(x) > FLOAT32_MAX, names, "values beyond float32's 3.4e38; use a larger unit or logarithms")
    return x


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Any array as float64; text if every value of it is a number."""
    try:
        with np.errstate(over="ignore"):  # a longdouble may become inf, which _finite refuses
            return values.astype(np.float64)
    except ValueError:
        row = next(i for i, value in enumerate(values) if not _is_number(value))
        raise ValueError(
            f"column {_show(name)} holds text where numbers belong: {_show(values[row])} in row {row + 1}; "
            "drop the column or turn it into numbers"
        ) from None


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _show(value: object, most: int = 200) -> str:
    return _cut(repr(value), most)  # escapes line breaks: a message stays one line whatever the file holds


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[3 - most // 2 :]}"


def _listed(names: Collection[str]) -> str:
    first = [_show(name, 40) for name, _ in zip(names, range(10), strict=False)]
    return ", ".join(first) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _nearest(word: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {_show(near[0])}?" if near else ""


# ---- sources


def _bundled_table(name: str, target: str | None) -> _Table:
    if target not in (None, BUNDLED[name]):
        raise ValueError(f"its target is {BUNDLED[name]!r}, not {_show(target)}; leave the target out")
    sets = extra("sklearn.datasets", "scikit-learn", f"the data set {name!r}")
    bunch = getattr(sets, f"load_{name}")()
    y = bunch.target
    if name in ("breast_cancer", "wine"):  # their classes have names
        y = np.asarray(bunch.target_names).astype(object)[y]
    return _Table(tuple(map(str, bunch.feature_names)), bunch.data, BUNDLED[name], y, f"target {BUNDLED[name]!r}")


def _file(source: Any) -> Path:
    """The path of a file of a known kind that can be opened."""
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is {_show(source)}, expected the name of a data set or the path of a file")
    path, where = Path(source), _show(os.fspath(source))
    if source == path.name and not path.suffix and not os.path.exists(source):
        known = f"{', '.join(BUNDLED)}, or the path of a {KINDS} file"
        raise ValueError(f"unknown data set {where}{_nearest(path.name, BUNDLED)} (expected {known})")
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise ValueError(f"{where} is not a file; expected the path of a {KINDS} file")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {where} in {_show(os.getcwd())}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: NUL, or a surrogate, in the path
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{where} can't be opened ({why}); check the path and its permissions") from error
    if path.suffix.lower() not in KINDS.replace(",", "").split():
        raise ValueError(f"{where} ends in {path.suffix!r}, expected {KINDS}")
    return path


def _npz_table(path: Path, target: str | None) -> _Table:
    name = "y" if target is None else target
    x, y = _npz_arrays(path, ("x", "X"), ("y", "Y") if target is None else (target,))
    x = _matrix(x)
    if y.shape not in ((len(x),), (len(x), 1)) or y.dtype.kind not in "biufU":
        raise ValueError(
            f"array {_show(name)} has shape {y.shape} and dtype {y.dtype}, expected ({len(x)},), one value a row, "
            "of numbers, true/false or text"
        )
    y = _unicode(y.ravel(), name) if y.dtype.kind == "U" else y.ravel()
    return _Table(tuple(f"x{j}" for j in range(x.shape[1])), x, name, y, f"target {_show(name)}")


def _arrow_table(path: Path, target: str | None) -> _Table:
    columns = _columns(path)
    names = [name for name in columns if name not in PANDAS_INDEX]
    if target is not None and target not in names:
        raise ValueError(f"no column {_show(target)}{_nearest(target, names)} (columns: {_listed(names)})")
    if len(names) < 2:
        raise ValueError(f"has the columns {_listed(names)}, expected features and a target, with commas between")
    name = names[-1] if target is None else target
    features = tuple(other for other in names if other != name)
    subject = f"target {_show(name)}, the last column," if target is None else f"target {_show(name)}"
    remark = "; left out a column of row numbers, which has no name" if len(names) < len(columns) else ""
    if all(map(_is_number, features)):
        remark += "; the columns have numbers for names: is the header row missing?"
    return _Table(features, _features(columns, features), name, _values(columns[name], name), subject, remark)


def _npz_arrays(path: Path, *wanted: tuple[str, ...]) -> list[np.ndarray]:
    """An array for each tuple of the names that it may have."""
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and advise to trust it
        raise ValueError("not an NPZ archive, or a damaged one; write it with numpy.savez(path, x=x, y=y)")
    arrays = []
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for names in wanted:
            name = next((name for name in names if name in archive.files), None)
            if name is None:
                raise ValueError(f"no array {_show(names[0])} (arrays: {_listed(archive.files)})")
            try:
                arrays.append(np.asarray(archive[name]))
            except Exception as error:  # NumPy parses the header as Python: damaged, it raises TokenError and more
                why = str(error) or type(error).__name__  # a MemoryError may say nothing
                raise ValueError(f"array {_show(name)} isn't plain numbers or text: {why}") from error
    return arrays


def _unicode(values: np.ndarray, name: str) -> np.ndarray:
    """NumPy's text (n,) as objects: it takes any 32 bits for a character, and Python then breaks on them."""
    codes = np.frombuffer(values.astype(values.dtype.newbyteorder("=")).tobytes(), np.uint32)
    if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
        raise ValueError(f"array {_show(name)} holds text that is not Unicode; write the file anew")
    return values.astype(object)


def _matrix(x: np.ndarray) -> np.ndarray:
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        raise ValueError(
            f"array 'x' has shape {x.shape} and dtype {x.dtype}, expected (rows, features) of numbers; "
            "x.reshape(len(x), -1) flattens images"
        )
    return _numbers(x, "x")


def _columns(path: Path) -> dict[str, Any]:
    """The columns of a CSV or Parquet file by name, as Arrow arrays."""
    extra("pyarrow", "pyarrow", f"reading {path.suffix} files")
    with path.open("rb") as file:  # opened here: pyarrow would take 'a=b/c.parquet' for a partition
        table = (_csv if path.suffix.lower() == ".csv" else _parquet)(file)
    try:
        names = table.column_names
    except UnicodeDecodeError:
        raise ValueError("the header is not UTF-8 text; save the file as UTF-8") from None
    if not table.num_rows:
        raise ValueError("no rows, expected some below the header")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"more than one column is named {_listed(twice)}; rename them, or add a missing header")
    return dict(zip(names, table.columns, strict=True))


def _parquet(file: Any) -> Any:
    parquet = importlib.import_module("pyarrow.parquet").ParquetFile(file)
    footer = parquet.metadata
    _narrow(footer.num_columns)
    rows = sum(footer.row_group(i).num_rows for i in range(footer.num_row_groups))
    if rows != footer.num_rows:  # pyarrow would make room for them all before it notices
        raise ValueError(f"damaged: its parts have {rows} rows, {footer.num_rows} in all")
    return parquet.read()


def _csv(file: Any) -> Any:
    arrow = importlib.import_module("pyarrow.csv")
    header = re.split(rb"[\r\n]", file.read(1 << 24), maxsplit=1)[0]
    if b"\0" in header:  # as every letter has in UTF-16
        raise ValueError("the header is not UTF-8 text; save the file as UTF-8")
    _narrow(header.count(b",") + 1)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        table = arrow.read_csv(
            file,
            # One thread, so that a ragged row knows its number; one block, so that the longest row fits in it.
            arrow.ReadOptions(use_threads=False, block_size=min(max(size, 1 << 20), 1 << 30)),
            arrow.ParseOptions(newlines_in_values=True),
            arrow.ConvertOptions(strings_can_be_null=True),
        )
    except ValueError as error:
        ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", str(error), re.DOTALL)
        if ragged:
            row, expected, found, text = ragged.groups()
            raise ValueError(f"row {int(row) - 1} has {found} values, expected {expected}: {_show(text)}") from error
        if "Empty CSV" in str(error):
            raise ValueError("no rows: it is empty, a header alone, or opens a quote and never closes it") from error
        raise
    last = table.column(table.num_columns - 1)[-1].as_py() if table.num_rows else None
    if isinstance(last, str) and "\n" in last:  # pyarrow lets an open quote swallow all rows below it
        tail = last.encode()[-16:]
        file.seek(-len(tail), os.SEEK_END)
        if file.read() == tail:
            raise ValueError(f"row {table.num_rows} opens a quote and never closes it: {_show(last)}")
    return table


def _narrow(columns: int) -> None:
    if columns > MOST_COLUMNS:
        raise ValueError(f"has {columns} columns, expected at most {MOST_COLUMNS}; use .npz, which has no limit")


def _features(columns: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    x = np.empty((len(columns[names[0]]), len(names)))
    for j, name in enumerate(names):
        x[:, j] = _numbers(_values(columns[name], name), name)
    return x


def _values(column: Any, name: str) -> np.ndarray:
    """An Arrow column as (n,) text (objects), bool, int or float; a gap among numbers is NaN."""
    kind = str(column.type)
    if kind.startswith("dictionary"):  # pandas' categories
        column = column.cast(column.type.value_type)
        kind = str(column.type)
    if kind.startswith("decimal"):
        column = column.cast("float64")
    values = column.to_numpy()
    if values.dtype.kind not in "iuf":
        missing = column.is_null().to_numpy()[:, None]
        _refuse(missing, (name,), "missing values (empty or NA); fill them in or drop those rows")
    if kind == "binary":
        raise ValueError(f"column {_show(name)} holds bytes that are not UTF-8 text; save the file as UTF-8")
    if values.dtype.kind not in "biuf" and kind not in ("string", "large_string", "string_view"):
        raise ValueError(f"column {_show(name)} holds {kind}, expected numbers, text or true/false; drop or convert it")
    return values
