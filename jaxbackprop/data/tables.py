"""A file's columns made ready: which are features and of what kind, which is the target, which are left out and why.

Left out are columns without a name, pandas' row numbers, those that hold nothing, text that is different in every row (or in most
of them, and in more than 100 ways), and whole numbers that are different in every row where the name says id. `Treatment` says
otherwise: `categories` and `numbers` name columns that stay, whatever they look like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.data.encoding import Column, Encoding
from jaxbackprop.data.saying import listed, nearest, shown
from jaxbackprop.data.sheets import Form, Sheet, read_parquet, read_text, suffixes
from jaxbackprop.data.values import NUMERIC, Values, arrow, differ, meaning
from jaxbackprop.spelling import unknown

MOST_CATEGORIES = 100  # with an input each; the rarer ones share none
IDENTITY = re.compile(
    r"(?i:unnamed: *[\d.]+|index|idx|ids?|u?uid|guid|key|row|row[ _.-]?(id|nr|no|num|number)|nr\.?|no\.?|#)"
    r"|(?i:.+[ _.-](id|uuid|guid|nr))|.*[a-z]I[dD]|[A-Z]{3,}ID"
)
MISSING = ("impute", "drop")


class Treatment(NamedTuple):
    """What is to be done with a table, where that is not to be found.

    Attributes:
        drop: columns to leave out.
        missing: "impute" fills gaps among numbers by the training median, and tells the network; "drop" leaves out such rows.
        categories: columns whose values are labels, though they look like numbers.
        numbers: columns whose values are numbers, though they look like codes or row numbers.
        separator, decimal, header, na: how a text file is written, as in `Form`.
    """

    drop: tuple[str, ...] = ()
    missing: str = "impute"
    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    separator: str | None = None
    decimal: str | None = None
    header: bool | None = None
    na: tuple[str, ...] = ()

    @property
    def asked(self) -> dict[str, Any]:
        """The fields of `Form` that are given."""
        given = {"separator": self.separator, "decimal": self.decimal, "header": self.header, "na": self.na or None}
        return {name: value for name, value in given.items() if value is not None}

    def wanted(self, name: str) -> str:
        """The kind that a column has to have, if any."""
        return "category" if name in self.categories else "number" if name in self.numbers else ""


class Table(NamedTuple):
    """Features and target, row by row.

    `x` is (n, p) float64, the columns of numbers, NaN for none; `labels` (n, q) text, those of labels, "" for none. `columns`
    says what they are, in the file's order; it is empty where all are numbers without gaps. `subject` is what the note calls the
    target.
    """

    columns: tuple[Column, ...]
    x: np.ndarray
    labels: np.ndarray
    target: str
    y: Values
    subject: str
    features: tuple[str, ...] = ()
    form: Form = Form()
    remark: str = ""


def read_sheet(path: Path, asked: Mapping[str, Any], before: Form | None = None) -> Sheet:
    """The columns of a .csv, .tsv, .txt or .parquet file by name."""
    arrow(f"{path.suffix} files")
    if path.is_dir() or suffixes(path) == ".parquet":
        return read_parquet(path, asked.get("na") or (before.na if before else ()))
    return read_text(path, asked, before)


def read_table(path: Path, target: str | None, treatment: Treatment, task: str | None = None) -> Table:
    """Read a table to train on.

    Raises:
        ValueError: no such columns, none that is left to learn from, or values that cannot be used.
    """
    if treatment.missing not in MISSING:
        raise ValueError(unknown("way with missing values", treatment.missing, MISSING))
    sheet = read_sheet(path, treatment.asked)
    for name in (*treatment.drop, *treatment.categories, *treatment.numbers, *([target] if target is not None else [])):
        if name not in sheet.columns:
            raise ValueError(
                f"no column {shown(name)}{nearest(name, sheet.columns)} (columns: {listed(sheet.columns)})"
            )
    named, subject = _target(sheet, target, treatment)
    if task == "regression":
        treatment = treatment._replace(numbers=(*treatment.numbers, named))

    def understood(name: str) -> Values:
        return meaning(name, sheet.columns[name], treatment.wanted(name), sheet.form.decimal, sheet.form.na)

    read = {name: understood(name) for name in sheet.columns if name == named or not _left_out(name, sheet, treatment)}
    y = read.pop(named)
    columns = [
        _fate(name, read[name], treatment)
        if name in read
        else Column(name, "dropped", _left_out(name, sheet, treatment))
        for name in sheet.columns
        if name != named
    ]
    if all(column.kind == "dropped" for column in columns):
        said = "; ".join(f"{shown(column.name)}: {column.why}" for column in columns)
        raise ValueError(f"has no column to learn {shown(named)} from: all are left out ({said})")
    x, labels = _stacked(columns, read)
    remark = "".join(f"; {what}" for what in sheet.remarks)
    return Table(tuple(columns), x, labels, named, y, subject, (), sheet.form, remark)


def _target(sheet: Sheet, target: str | None, treatment: Treatment) -> tuple[str, str]:
    """The column to learn, and how the note speaks of it."""
    if target in treatment.drop:
        raise ValueError(f"{shown(target)} is the target and is to be dropped: leave out one of the two")
    left = [name for name in sheet.columns if name == target or not _left_out(name, sheet, treatment)]
    if len(left) < 2:
        raise ValueError(f"has the columns {listed(left)}, expected features and a target, with commas between")
    if target is not None:
        return target, f"target {shown(target)}"
    last = next((name for name in reversed(left) if not IDENTITY.fullmatch(name)), left[-1])
    where = "the last column" if last == left[-1] else "the last column that is no id"
    return last, f"target {shown(last)}, {where},"


def _left_out(name: str, sheet: Sheet, treatment: Treatment) -> str:
    """Why a column is left out whatever it holds; nothing where it is not."""
    if name in treatment.drop:
        return "as asked"
    if treatment.wanted(name):
        return ""
    return "row numbers that pandas wrote" if name in sheet.row_numbers else "" if name else "it has no name"


def _fate(name: str, values: Values, treatment: Treatment) -> Column:
    """What becomes of a feature."""
    wanted, numeric = treatment.wanted(name), values.kind in NUMERIC
    missing = np.isnan(values.values) if numeric else values.values == ""
    why = _no_feature(name, values, values.values[~missing]) if not wanted or missing.all() else ""
    if why:
        return Column(name, "dropped", why)
    said = []
    if missing.any():
        words = f" ({listed(values.gaps)})" if values.gaps else ""
        own = (
            ": such rows are left out"
            if treatment.missing == "drop"
            else ""
            if numeric
            else ": a category of their own"
        )
        said.append(f"{missing.sum():,} missing{words}{own}")
    if values.kind == "number" and not wanted:
        x, start = values.values, values.values[0]
        if IDENTITY.fullmatch(name):
            said.append("its name says id: --drop it if it is one")
        elif len(x) > 2 and start in (0, 1) and np.array_equal(x, start + np.arange(len(x))):
            said.append("it counts the rows: --drop it if it is their number")
    return Column(name, values.kind, "; ".join(said), values.written if numeric else "")


def _no_feature(name: str, values: Values, there: np.ndarray) -> str:
    """Why nothing can be learned from a column, if that is so."""
    different = len(set(there.tolist()))
    if not different:
        return "it holds no value"
    if values.kind == "category":
        if different == len(there):
            return f"text that is different in every row (--categories {shown(name)} keeps it)"
        many = different > MOST_CATEGORIES and different > len(there) / 2
        return f"text: {different:,} different ones (--categories {shown(name)} keeps the frequent)" if many else ""
    whole = values.kind == "number" and different == len(there) and bool((there == np.floor(there)).all())
    is_id = whole and IDENTITY.fullmatch(name)
    return f"an id: different in every row (--numbers {shown(name)} keeps it)" if is_id else ""


def _stacked(columns: Sequence[Column], read: Mapping[str, Values]) -> tuple[np.ndarray, np.ndarray]:
    rows = len(next(iter(read.values())).values)
    numbers = [read[c.name].values for c in columns if c.kind in NUMERIC]
    texts = [read[c.name].values for c in columns if c.kind == "category"]
    x, labels = np.empty((rows, len(numbers))), np.empty((rows, len(texts)), object)
    for into, parts in ((x, numbers), (labels, texts)):
        for j, part in enumerate(parts):
            into[:, j] = part
    return x, labels


def read_rows(path: Path, encoding: Encoding, target: bool = False) -> tuple[np.ndarray, np.ndarray, Values | None]:
    """Read new rows of the columns that a network was trained on: numbers, labels and, if asked for, the target.

    Columns are found by name, in any order; others are ignored.

    Raises:
        ValueError: a column is missing, or holds what it did not hold in training.
    """
    sheet = read_sheet(path, {}, encoding.form)
    names = [column.name for column in encoding.used]
    lacking = [name for name in (*names, *([encoding.target] if target else [])) if name not in sheet.columns]
    if lacking:
        of = f"{len(lacking)} of the {len(names)} features" if lacking != [encoding.target] else "the target"
        raise ValueError(
            f"lacks {of} that the network was trained on: {listed(lacking)}{nearest(lacking[0], sheet.columns)} "
            f"(columns: {listed(sheet.columns)})"
        )

    def understood(name: str, kind: str, written: str) -> Values:
        found = meaning(name, sheet.columns[name], kind, sheet.form.decimal, sheet.form.na, written)
        if kind == "number" and differ([written, found.written]):
            raise ValueError(
                f"column {shown(name)} is written with {found.written or 'no unit'}, in training with {written or 'none'}"
            )
        return found

    x, labels = _stacked(encoding.used, {c.name: understood(c.name, c.kind, c.written) for c in encoding.used})
    kind = "number" if encoding.task == "regression" else ""
    y = understood(encoding.target, kind, encoding.target_written) if target else None
    return x, labels, y
