"""A file's columns made ready: which are features and of what kind, which is the target, which are left out and why.

Left out are columns without a name, pandas' row numbers, those that hold nothing, text that is different in every row (or in most
of them, and in more than 100 ways), and whole numbers that are different in every row where the name says id. `Treatment` says
otherwise: `categories` and `numbers` name columns that stay, whatever they look like.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.data.encoding import Column, Encoding, of_labels, of_numbers
from jaxbackprop.data.saying import alike, finite, listed, nearest, rows_in, rows_where, shown
from jaxbackprop.data.sheets import Form, Sheet, Treatment, read_sheet
from jaxbackprop.data.values import NUMERIC, Values, differ, labels_there, meaning
from jaxbackprop.spelling import unknown

LEAST_ROWS = 5
MOST_CATEGORIES = 100  # with an input each; the rarer ones share none
IDENTITY = re.compile(
    r"(?i:unnamed: *[\d.]+|index|idx|ids?|u?uid|guid|key|row|row[ _.-]?(id|nr|no|num|number)|nr\.?|no\.?|#)"
    r"|(?i:.+[ _.-](id|uuid|guid|nr))|.*[a-z]I[dD]|[A-Z]{3,}ID"
)
MISSING = ("impute", "drop")


class Table(NamedTuple):
    """Features and target, row by row.

    `x` is (n, p) float64, the columns of numbers, NaN for none; `labels` (n, q) text, those of labels, "" for none. `columns`
    says what they are, in the file's order; it is empty where all are numbers without gaps, and `features` their names.
    `subject` is what the note calls the target, `remark` what it says of the file.
    """

    columns: tuple[Column, ...]
    features: tuple[str, ...]
    x: np.ndarray
    labels: np.ndarray
    target: str
    y: Values
    subject: str
    form: Form = Form()
    remark: str = ""


def read_table(path: Path, target: str | None, treatment: Treatment, task: str | None = None) -> Table:
    """Read a table to train on.

    Raises:
        ValueError: no such columns, none that is left to learn from, or values that cannot be used.
    """
    if treatment.missing not in MISSING:
        raise ValueError(unknown("way with missing values", treatment.missing, MISSING))
    sheet = read_sheet(path, treatment)
    _require_columns(sheet, treatment, target)
    wanted = dict.fromkeys(treatment.numbers, "number") | dict.fromkeys(treatment.categories, "category")
    left_out = _left_out(sheet, treatment.drop, {target, *wanted})
    left = [name for name in sheet.columns if name not in left_out]
    named, subject = _target(left, target, sheet.row_numbers)
    wanted |= {named: "number"} if task == "regression" else {}
    form = sheet.form
    read = {name: meaning(name, sheet.columns[name], wanted.get(name, ""), form.decimal, form.na) for name in left}
    y = read.pop(named)
    y = labels_there(y) if y.kind == "category" and named not in treatment.categories else y
    columns = [
        _fate(name, read[name], wanted.get(name, ""), treatment.missing)
        if name in read
        else Column(name, "dropped", left_out[name])
        for name in sheet.columns
        if name != named
    ]
    if all(column.kind == "dropped" for column in columns):
        said = "; ".join(f"{shown(column.name)}: {column.why}" for column in columns)
        raise ValueError(f"has no column to learn {shown(named)} from: all are left out ({said})")
    x, labels = _stacked(columns, len(y.values), lambda column: read[column.name])
    remark = "".join(f"; {what}" for what in sheet.remarks)
    return Table(tuple(columns), (), x, labels, named, y, subject, form, remark)


def _require_columns(sheet: Sheet, treatment: Treatment, target: str | None) -> None:
    """Refuse columns that there are not, and what contradicts itself."""
    asked = {"dropped": treatment.drop, "labels": treatment.categories, "numbers": treatment.numbers}
    for name in (*(name for names in asked.values() for name in names), *([] if target is None else [target])):
        if name not in sheet.columns:
            hint = nearest(name, sheet.columns)
            raise ValueError(f"no column {shown(name)}{hint} (columns: {listed(sheet.columns)})")
    if target in treatment.drop:
        raise ValueError(f"{shown(target)} is the target and is to be dropped: leave out one of the two")
    for (one, names), (other, others) in itertools.combinations(asked.items(), 2):
        if twice := [name for name in names if name in others]:
            raise ValueError(f"{listed(twice)} is to be both, {one} and {other}: leave out one of the two")


def _left_out(sheet: Sheet, drop: Sequence[str], asked: Collection[str | None]) -> dict[str, str]:
    """The columns that are left out whatever they hold, unless they are asked for, and why."""
    found = {name: "it has no name" for name in sheet.columns if not name}
    found |= {name: _index(name, sheet.columns[name]) for name in sheet.row_numbers}
    return {name: why for name, why in found.items() if name not in asked} | dict.fromkeys(drop, "as asked")


def _index(name: str, column: Any) -> str:
    """What pandas wrote as its index: row numbers, or names of the rows, which may be worth learning from."""
    if meaning(name, column).kind == "number":
        return "row numbers that pandas wrote"
    return f"the index that pandas wrote (--categories {shown(name)} keeps it)"


def _target(left: Sequence[str], target: str | None, index: Collection[str]) -> tuple[str, str]:
    """The column to learn, of those that are left, and how the note speaks of it."""
    if len(left) < 2:
        raise ValueError(f"has the columns {listed(left)}, expected features and a target, with commas between")
    if target is not None:
        return target, f"target {shown(target)}"
    left = [name for name in left if name not in index]
    last = next((name for name in reversed(left) if not IDENTITY.fullmatch(name)), left[-1])
    where = "the last column" if last == left[-1] else "the last column that is no id"
    return last, f"target {shown(last)}, {where},"


def _fate(name: str, values: Values, wanted: str, missing: str) -> Column:
    """What becomes of a feature, and what there is to say of it."""
    there = values.values[~values.missing]
    why = _no_feature(name, values, there, bool(wanted))
    if why:
        return Column(name, "dropped", why)
    said, numeric = [], values.kind in NUMERIC
    if lacking := len(values.values) - len(there):
        words = f" ({listed(values.gaps)})" if values.gaps else ""
        own = ": such rows are left out" if missing == "drop" else "" if numeric else ": a category of their own"
        said.append(f"{lacking:,} missing{words}{own}")
    if values.kind == "category" and not wanted and (pair := alike(sorted(set(there)))):
        said.append(f"{shown(pair[0], 40)} and {shown(pair[1], 40)} may be one label: make them one")
    if numeric and values.remark:
        said.append(values.remark)
    if len(there) == len(values.values) and (there == there[0]).all():
        said.append("the same in every row")
    elif values.kind == "number" and not wanted:
        start, n = values.values[0], len(values.values)
        if IDENTITY.fullmatch(name):
            said.append("its name says id: --drop it if it is one")
        elif n > 2 and start in (0, 1) and np.array_equal(values.values, start + np.arange(n)):
            said.append("it counts the rows: --drop it if it is their number")
    return Column(name, values.kind, "; ".join(said), values.written if numeric else "")


def _no_feature(name: str, values: Values, there: np.ndarray, wanted: bool) -> str:
    """Why nothing can be learned from a column of such values, if that is so."""
    different, kind = len(set(there.tolist())), values.kind
    if not different:
        return "it holds no value"
    if wanted:
        return ""
    if kind == "category":
        what = values.remark or "text"
        unlike = f"{what}: different" if values.remark else "text that is different"
        number = f"--numbers {shown(name)} takes them for numbers, " if values.remark else ""
        if different == len(there):
            return f"{unlike} in every row ({number}--categories {shown(name)} keeps it)"
        many = different > MOST_CATEGORIES and different > len(there) / 2
        return (
            f"{what}: {different:,} different ones ({number}--categories {shown(name)} keeps the frequent)"
            if many
            else ""
        )
    whole = kind == "number" and different == len(there) and bool((there == np.floor(there)).all())
    is_id = whole and IDENTITY.fullmatch(name)
    return f"an id: different in every row (--numbers {shown(name)} keeps it)" if is_id else ""


def _stacked(columns: Sequence[Column], rows: int, read: Callable[[Column], Values]) -> tuple[np.ndarray, np.ndarray]:
    """The columns of numbers (rows, p), and those of labels (rows, q)."""
    x = [read(column).values for column in of_numbers(columns)]
    labels = [read(column).values for column in of_labels(columns)]
    beside = np.array(labels, object).reshape(len(labels), rows)
    return np.array(x, np.float64).reshape(len(x), rows).T.copy(), beside.T.copy()


def whole_rows(table: Table, missing: str) -> Table:
    """The rows that are used: all, of which none may lack its target; or with "drop" those that lack nothing."""
    finite(table.x, [column.name for column in of_numbers(table.columns)] or table.features, gaps=True)
    if len(table.x) < LEAST_ROWS:
        raise ValueError(f"has {rows_in(len(table.x))}, expected at least {LEAST_ROWS} to train and test on")
    lacking, gaps = table.y.missing, table.y.gaps
    if missing != "drop":
        if lacking.any():
            where = rows_where(lacking, f", {listed(gaps)}" if gaps else "")
            cure = "fill it in, or leave such rows out by --missing drop"
            if gaps and table.y.kind == "category":
                cure += f", or say --categories {shown(table.target)} if it is a label"
            raise ValueError(f"target {shown(table.target)} is missing in {where}: {cure}")
        return table
    used = ~(lacking | np.isnan(table.x).any(1) | (table.labels == "").any(1))
    if used.sum() < LEAST_ROWS:
        few = f"has {rows_in(int(used.sum()))} that lack no value, expected at least {LEAST_ROWS}"
        raise ValueError(f"{few}; impute, or drop columns")
    y = table.y._replace(values=table.y.values[used])
    return table._replace(x=table.x[used], labels=table.labels[used], y=y)


def read_rows(path: Path, encoding: Encoding, target: bool = False) -> tuple[np.ndarray, np.ndarray, Values | None]:
    """Read new rows of the columns that a network was trained on: numbers, labels and, if asked for, the target.

    Columns are found by name, in any order; others are ignored.

    Raises:
        ValueError: a column is missing, or holds what it did not hold in training.
    """
    sheet = read_sheet(path, Treatment(), encoding.form)
    names = [column.name for column in encoding.used]
    lacking = [name for name in names if name not in sheet.columns]
    no_target = [encoding.target] if target and encoding.target not in sheet.columns else []
    if lacking or no_target:
        of = [f"{len(lacking)} of the {len(names)} features"] * bool(lacking) + ["the target"] * bool(no_target)
        of, lacking = " and ".join(of), lacking + no_target
        raise ValueError(
            f"lacks {of} that the network was trained on: {listed(lacking)}{nearest(lacking[0], sheet.columns)} "
            f"(columns: {listed(sheet.columns)})"
        )

    def read(column: Column) -> Values:
        name, written = column.name, column.written
        how = sheet.form.decimal, sheet.form.na, written, "correct it, or leave it empty"
        found = meaning(name, sheet.columns[name], column.kind, *how)
        if column.kind == "number" and differ([written, found.written]):
            unit, before = found.written or "no unit", written or "none"
            raise ValueError(f"column {shown(name)} is written with {unit}, in training with {before}")
        return found

    kind = "number" if encoding.task == "regression" else ""
    y = read(Column(encoding.target, kind, written=encoding.target_written)) if target else None
    rows = len(next(iter(sheet.columns.values())))
    return *_stacked(encoding.used, rows, read), y
