"""What training did to its data, as plain numbers and text, so that new rows get the same: no pickle, no fitted object.

A network takes, in this order: every column of numbers, its gaps filled with the training median; a 1 or 0 for each of them that
had gaps in training, "is missing"; and a 1 or 0 for each category of each column of labels. Numbers are standardised; what is
1 or 0 stays so. A category that training did not see gives 0 for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from jaxbackprop.data.saying import FLOAT32_MAX, finite, listed, nearest, refuse, rows_in, rows_where, shown
from jaxbackprop.data.sheets import Form
from jaxbackprop.data.values import NUMERIC
from jaxbackprop.spelling import counted, unknown

PLAIN = Form()
SCALES = ("rows", "none")
Bounds = Mapping[str, tuple[float, float]]  # least and most of each column
Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and scale of each column


@dataclass(frozen=True)
class Column:
    """What becomes of one column of a file.

    Attributes:
        name: in the file.
        kind: "number", "boolean" or "date", which are numbers; "category", which is labels; or "dropped".
        why: what there is to say of it.
        written: the unit of its numbers, or the form of its dates.
        fill: of numbers, what stands for a missing one: the training median.
        indicator: whether there were missing ones in training, so that the network is told.
        categories: of labels, those that have an input; "" is a missing one.
    """

    name: str
    kind: str
    why: str = ""
    written: str = ""
    fill: float | None = None
    indicator: bool = False
    categories: tuple[str, ...] = ()

    @property
    def deed(self) -> str:
        """What was done with it, in a few words.

        >>> Column("age", "number", fill=38.0, indicator=True).deed
        'number; gaps get 38 and are told'
        """
        if self.kind == "dropped":
            return f"dropped: {self.why}"
        done = self.kind + {"date": ", in days", "boolean": ", 0 or 1"}.get(self.kind, "")
        if self.kind == "category":
            some = [category or "(missing)" for category in self.categories[:4]] + ["…"] * (len(self.categories) > 4)
            done = f"{counted(len(self.categories), 'category', 'categories')}, an input each: {', '.join(some)}"
        elif self.kind == "number" and self.written:
            done += f", in {self.written}"
        told = f"gaps get {self.fill:.6g} and are told" if self.indicator else ""
        return "; ".join(filter(None, (done, told, self.why)))


@dataclass(frozen=True)
class Encoding:
    """What training did to its data, so that prediction can do the same; `to_dict` makes it JSON.

    `features`, `mean` and `scale` have one entry an input of the network; one constant in training has scale 1.
    `classes` holds the labels as text, in the order of the network's outputs; it is empty for regression.
    `target_mean` and `target_scale` hold one number in the target's units; they are empty for classification.
    `columns` says what becomes of each column of the file; where it is empty each feature is a column of numbers without gaps.
    `form` is how the file was written, `target_written` the unit of the target's numbers.
    """

    task: str
    features: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    target: str
    classes: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_scale: tuple[float, ...] = ()
    columns: tuple[Column, ...] = ()
    form: Form = PLAIN
    target_written: str = ""

    @property
    def used(self) -> tuple[Column, ...]:
        """The columns that the network learns from."""
        columns = self.columns or tuple(Column(name, "number") for name in self.features)
        return tuple(column for column in columns if column.kind != "dropped")


def learned(columns: Sequence[Column], x: np.ndarray, labels: np.ndarray, most: int) -> tuple[Column, ...]:
    """The columns with the medians and categories of these training rows: numbers x (n, p), labels (n, q).

    Of more than `most` categories those that are most frequent have an input. Numbers of which there are none are dropped.
    """
    numbers, texts = iter(x.T), iter(labels.T)
    found = []
    for column in columns:
        if column.kind in NUMERIC:
            values = next(numbers)
            gaps = np.isnan(values)
            if gaps.all():
                column = replace(column, kind="dropped", why="no value in the training rows")
            else:
                column = replace(column, fill=float(np.median(values[~gaps])), indicator=bool(gaps.any()))
        elif column.kind == "category":
            categories, counts = np.unique(next(texts), return_counts=True)
            if len(categories) > most + 1:
                frequent = f"the {most} most frequent of {len(categories)}"
                column = replace(column, why="; ".join(filter(None, (column.why, frequent))))
                categories = categories[np.sort(np.argsort(counts, kind="stable")[-most:])]
            column = replace(column, categories=tuple(categories.tolist()))
        found.append(column)
    return tuple(found)


def inputs(columns: Sequence[Column], x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What the network takes, (n, d) float64, of numbers x (n, p) with NaN for none and labels (n, q): see above.

    >>> age, sex = Column("age", "number", fill=38.0, indicator=True), Column("sex", "category", categories=("f", "m"))
    >>> inputs((age, sex), np.array([[20.0], [np.nan]]), np.array([["m"], ["x"]], object)).tolist()
    [[20.0, 0.0, 0.0, 1.0], [38.0, 1.0, 0.0, 0.0]]
    """
    numbers, texts = of_numbers(columns), of_labels(columns)
    gaps, fills = np.isnan(x), np.array([c.fill for c in numbers], np.float64)  # None is NaN
    told = np.array([column.indicator for column in numbers], bool)
    one_hot = [
        _places(of, c.categories)[:, None] == np.arange(len(c.categories))
        for of, c in zip(labels.T, texts, strict=True)
    ]
    return np.hstack([np.where(gaps, fills, x), gaps[:, told], *one_hot]).astype(np.float64)


def of_numbers(columns: Sequence[Column]) -> list[Column]:
    """The columns of numbers."""
    return [column for column in columns if column.kind in NUMERIC]


def of_labels(columns: Sequence[Column]) -> list[Column]:
    """The columns of labels."""
    return [column for column in columns if column.kind == "category"]


def _places(labels: np.ndarray, categories: Sequence[str]) -> np.ndarray:
    """Where each label stands among the categories, −1 where it does not."""
    place = {category: i for i, category in enumerate(categories)}
    return np.fromiter((place.get(label, -1) for label in labels), int, len(labels))


def names_of(columns: Sequence[Column]) -> tuple[str, ...]:
    """The names of the network's inputs."""
    numbers = of_numbers(columns)
    told = [f"{column.name} is missing" for column in numbers if column.indicator]
    texts = [f"{c.name}={category}" for c in of_labels(columns) for category in c.categories]
    return (*(column.name for column in numbers), *told, *texts)


def encoded(encoding: Encoding, x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """New rows as the training rows were: (n, d) float32; what was never seen there is said by a warning.

    Raises:
        ValueError: a number that cannot be used, or a gap where training knows nothing to fill in.
    """
    numbers = of_numbers(encoding.used)
    unfilled = np.array([column.fill is None for column in numbers], bool)
    finite(x[:, unfilled], [column.name for column in numbers if column.fill is None])
    finite(x, [column.name for column in numbers], gaps=True)
    for column, gaps in zip(numbers, np.isnan(x).T, strict=True):
        if gaps.any() and not column.indicator:
            where = f"{rows_where(gaps)}, never in training"
            _warn(f"column {shown(column.name)} is missing in {where}: {column.fill:.6g} stands for it")
    for column, found in zip(of_labels(encoding.used), labels.T, strict=True):
        strange = np.flatnonzero(_places(found, column.categories) < 0)
        if strange.size:
            what = shown(found[strange[0]]) if found[strange[0]] else "nothing"
            _warn(f"column {shown(column.name)} holds {what} in row {strange[0] + 1}, not among its categories in training: "
                  f"counted for none of them, in {rows_in(len(strange))}")  # fmt: skip
    return standardise(inputs(encoding.used, x, labels), encoding.mean, encoding.scale, encoding.features)


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


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
    """The encoding as plain text, numbers and sequences, so that `json.dumps` takes it and `from_dict` undoes it exactly."""
    return asdict(encoding) | {"form": encoding.form._asdict()}


def from_dict(d: Mapping[str, Any]) -> Encoding:
    """The encoding that `to_dict` wrote, in this version or an earlier one; ValueError if a field is missing or unknown."""
    names = [field.name for field in fields(Encoding)]
    later = {"columns", "form", "target_written"}  # than the first version
    if not set(names) - later <= set(d) <= set(names):
        raise ValueError(f"encoding has the fields {listed(sorted(d))}, expected {listed(names)}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in d.items()}
    try:
        values["columns"] = tuple(Column(**c | {"categories": tuple(c["categories"])}) for c in d.get("columns", ()))
        form = Form(**d.get("form", {}))
        used = [column for column in values["columns"] if column.kind != "dropped"]
        if values["columns"] and names_of(used) != values["features"]:
            raise TypeError("its columns do not make its features")
        numbers = [number for name in names if name.endswith(("mean", "scale")) for number in values[name]]
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError("its means or scales are no numbers")
        if not all(isinstance(column.fill, int | float | None) for column in used):
            raise TypeError("what fills its gaps is no number")
    except (TypeError, KeyError) as error:
        raise ValueError(f"encoding does not fit together ({error})") from None
    values["form"] = form._replace(na=tuple(form.na))
    return Encoding(**values)


# ---- to numbers of a size


def moments_of(x: np.ndarray) -> Moments:
    """Mean and standard deviation of every column; scale 1 where the column is constant."""
    if not x.shape[1]:
        return (), ()
    return moments_from(x.mean(0), x.std(0), x.min(0), x.max(0))


def moments_from(mean: np.ndarray, deviation: np.ndarray, least: np.ndarray, most: np.ndarray) -> Moments:
    """The same as plain numbers; of what is constant exactly that value, and 1: the std of a repeated 0.1 is not 0.

    >>> moments_from(np.array([2.5, 0.1]), np.array([2.0, 1e-17]), np.array([0.0, 0.1]), np.array([5.0, 0.1]))
    ((2.5, 0.1), (2.0, 1.0))
    """
    constant = least == most
    scale = np.where(constant | (deviation == 0), 1.0, deviation)
    return tuple(np.where(constant, least, mean).tolist()), tuple(scale.tolist())


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
        raise ValueError(f"no bounds for {listed(lacking)}{nearest(lacking[0], scale)}; '*' bounds all that are left")
    bounds = [scale[name if name in scale else "*"] for name in names]
    for name, (least, most) in zip(names, bounds, strict=True):
        if not -FLOAT32_MAX < least < most < FLOAT32_MAX:
            raise ValueError(f"bounds of {shown(name)} are {least:g} to {most:g}: expected a least and a greater most")
    return tuple(least / 2 + most / 2 for least, most in bounds), tuple(most / 2 - least / 2 for least, most in bounds)


def standardise(x: np.ndarray, mean: Sequence[float], scale: Sequence[float], names: Sequence[str]) -> np.ndarray:
    """(x − mean) / scale, rounded to float32 once; ValueError, naming the column, for what float32 cannot hold."""
    with np.errstate(over="ignore"):  # refused below, by name
        z = (x - np.asarray(mean)) / np.asarray(scale)
    refuse(np.abs(z) > FLOAT32_MAX, names, "value", " too far from the training mean for float32; correct or drop them")
    return z.astype(np.float32)
