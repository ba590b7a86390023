"""What the values of a column mean: numbers, however they are written; true or false; dates; or labels.

A column of text is numbers, or dates, if nearly all of it is (NEARLY). What is left is then a fault, named with its row, and
never a reason to take 40 prices for 40 labels. Numbers may have a unit in front or behind, and marks for thousands; which of
`.` and `,` is the decimal mark each column shows by itself (12,5 does, 1,234 does not), and where it does not the file decides.
Whole numbers of which one begins with 0, such as 01067, are codes: labels, which keep their zero.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.data.saying import shown
from jaxbackprop.words import extra

NUMERIC = ("number", "boolean", "date")
NEARLY = 0.8  # of the values that are there
PROVEN_BY = 10_000  # rows that are asked for the decimal mark
GAPS = ("", "?", "-", "--", ".", "na", "n/a", "#n/a", "nan", "null", "none", "nil")  # no value, among numbers and dates
DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y")
TIMES = ("%H:%M", "%H:%M:%S")
DATES = (
    *DAYS,
    *TIMES,
    *(f"{day}{time}" for day in DAYS for time in (" %H:%M", " %H:%M:%S", "T%H:%M:%S", "T%H:%M:%SZ")),
)
SPACE = r"\s\x{a0}\x{202f}’'"  # other marks for thousands
MARKS = {".": ",", ",": "."}  # the decimal mark, and that for thousands
BEFORE, AFTER = r"^([+-]?)\s*[$€£¥]?\s*", r"\s*[$€£¥%]?$"


def arrow(what: str = "tables") -> tuple[Any, Any]:
    """Import pyarrow and its functions of columns, an extra."""
    return extra("pyarrow", "pyarrow", f"reading {what}"), extra("pyarrow.compute", "pyarrow", f"reading {what}")


class Values(NamedTuple):
    """A column: float64 with NaN for none, or of kind "category" text with "" for none.

    `written` is what numbers bear ("%" or a currency's sign), or how dates are written; `gaps` are words taken for none.
    """

    kind: str
    values: np.ndarray
    written: str = ""
    gaps: tuple[str, ...] = ()

    @property
    def missing(self) -> np.ndarray:
        """Where there is none."""
        return self.values == "" if self.kind == "category" else np.isnan(self.values)


def meaning(
    name: str, column: Any, wanted: str = "", decimal: str = ".", gaps: Collection[str] = (), written: str = ""
) -> Values:
    """What an Arrow column means.

    Args:
        name: what messages call it.
        column: numbers, true/false, dates, times or text.
        wanted: the kind that it has to be; found by default.
        decimal: the mark where the column does not show it.
        gaps: words that stand for no value, beside the usual ones.
        written: the form of dates, if it is known.

    Raises:
        ValueError: values that do not belong to the others, or a type that means nothing here.

    >>> import pyarrow as pa
    >>> meaning("price", pa.array(["$1,234.50", "$7", "?"])).values.tolist()
    [1234.5, 7.0, nan]
    """
    pa, _ = arrow()
    if pa.types.is_dictionary(column.type):  # pandas' categories
        column = column.cast(column.type.value_type)
    found, is_ = column.type, pa.types
    if str(found) in ("string", "large_string", "string_view"):
        return _of_text(name, column.cast(pa.string()), wanted, decimal, gaps, written)
    if wanted == "category" and not is_.is_nested(found):
        return Values("category", np.array([_label(value) for value in column.to_pylist()], object))
    if is_.is_boolean(found):
        return Values("boolean", _floats(column.cast(pa.uint8())))
    if any(is_number(found) for is_number in (is_.is_null, is_.is_integer, is_.is_floating, is_.is_decimal)):
        return Values("number", _floats(column))
    if is_.is_date(found) or is_.is_timestamp(found):
        return Values("date", _days(column.cast(pa.timestamp("us", getattr(found, "tz", None)), safe=False)), "ISO")
    if is_.is_time(found):
        return Values("number", _floats(column.cast(pa.time64("us"), safe=False).cast(pa.int64())) / 3.6e9)
    if found == pa.binary():
        raise ValueError(f"column {shown(name)} holds bytes that are not UTF-8 text; save the file as UTF-8")
    expected = "numbers, text, dates or true/false"
    raise ValueError(f"column {shown(name)} holds {found}, expected {expected}; drop or convert it")


def _label(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return "" if value is None or value != value else str(int(value) if whole else value)


def _floats(column: Any) -> np.ndarray:
    return column.cast("float64", safe=False).to_numpy(zero_copy_only=False).astype(np.float64)  # a gap is NaN


def _days(column: Any) -> np.ndarray:
    return _floats(column.cast("int64")) / 86_400e6


def _of_text(name: str, text: Any, wanted: str, decimal: str, gaps: Collection[str], written: str) -> Values:
    pa, pc = arrow()
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, pa.array(["", *gaps])), None, text)
    there = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(GAPS)), None, text)
    labels = Values("category", pc.fill_null(text, "").to_numpy(zero_copy_only=False))
    are_codes = _any(there, r"^0\d+$") and not _any(there, r"\D")
    if wanted == "category" or (not wanted and are_codes):
        return labels
    none = there.is_null().to_numpy(zero_copy_only=False)
    words = tuple(pc.unique(pc.filter(text, pa.array(none))).drop_null().to_pylist())
    readings = {
        "number": lambda: _numbers(name, there, decimal),
        "boolean": lambda: (_truths(there), ""),
        "date": lambda: _dates(name, there, written),
    }
    faults: dict[str, np.ndarray] = {}
    for kind, reading in readings.items():
        if wanted in ("", kind) or {kind, wanted} == {"number", "boolean"}:
            values, how = reading()
            bad = np.isnan(values) & ~none
            if not bad.any():
                return Values(wanted or kind, values, how, words)
            present = (~none).sum()
            if kind == wanted or (not wanted and present - bad.sum() >= NEARLY * present):
                faults[kind] = bad
    for kind, bad in faults.items():
        _refuse(name, text, bad, kind)
    return labels


def _refuse(name: str, text: Any, bad: np.ndarray, kind: str) -> None:
    row, more = int(np.argmax(bad)), int(bad.sum()) - 1
    value = shown(text[row].as_py())
    others = f" ({more} more like it)" if more else ""
    raise ValueError(
        f"column {shown(name)} holds text where {kind}s belong: {value} in row {row + 1}{others}; correct it, or say "
        f"--na {value} if it stands for no value, --categories {shown(name)} if the column holds labels, or drop it"
    )


# ---- each value of a text as a float64, NaN where it cannot be read so; and how they are written


def _truths(text: Any) -> np.ndarray:
    pa, pc = arrow()
    return _floats(pc.index_in(pc.utf8_lower(text), pa.array(["false", "true"])))


def _numbers(name: str, text: Any, decimal: str) -> tuple[np.ndarray, str]:
    _, pc = arrow()
    if decimal == "." or not _any(text, r"[.,]"):
        with suppress(ValueError):  # what is not as Arrow reads it
            return _floats(text), ""
    mark = _decimal_shown(text) or decimal
    thousands = rf"[{MARKS[mark]}{SPACE}]"
    bare = pc.replace_substring(text, "−", "-")
    bare = pc.replace_substring_regex(pc.replace_substring_regex(bare, BEFORE, r"\1"), AFTER, "")
    grouped = pc.match_substring_regex(bare, rf"^[+-]?\d{{1,3}}({thousands}\d{{3}})+(\{mark}\d+)?$")
    bare = pc.if_else(grouped, pc.replace_substring_regex(bare, thousands, ""), bare)
    pattern = rf"(?i)^[+-]?((\d+(\{mark}\d*)?|\{mark}\d+)(e[+-]?\d+)?|inf(inity)?)$"
    good = pc.match_substring_regex(bare, pattern)
    units = pc.if_else(good, pc.replace_substring_regex(text, r"[^$€£¥%]", ""), None)
    return _floats(pc.replace_substring(pc.if_else(good, bare, None), mark, ".")), _unit(name, text, units)


def _unit(name: str, text: Any, units: Any) -> str:
    """The one unit; none beside a currency's sign is that sign, beside % it may be a hundredfold."""
    _, pc = arrow()
    kinds = sorted(pc.unique(units).drop_null().to_pylist())
    if differ(kinds):
        rows = sorted(pc.index(units, kind).as_py() for kind in kinds[-2:])
        one, other = (f"{shown(text[row].as_py())} in row {row + 1}" for row in rows)
        raise ValueError(f"column {shown(name)} holds {one} and {other}: write all numbers with one unit, or drop it")
    return kinds[-1] if kinds else ""


def differ(units: Collection[str]) -> bool:
    """Whether numbers that are written so cannot stand in one column.

    >>> differ(["", "$"]), differ(["", "%"]), differ(["$", "€"])
    (False, True, True)
    """
    signs = set(units) - {""}
    return len(signs) > 1 or ("%" in signs and "" in units)


def _dates(name: str, text: Any, written: str) -> tuple[np.ndarray, str]:
    """Days since 1970."""
    pa, pc = arrow()
    alike = pc.sum(pc.match_substring_regex(text, r"^\d{1,4}[-/.:]\d\d?")).as_py() or 0
    if not alike or alike < NEARLY * (len(text) - text.null_count):
        return np.full(len(text), np.nan), ""
    for zone in (None, "UTC"):
        with suppress(ValueError):
            return _days(text.cast(pa.timestamp("us", zone))), "ISO"
    forms = (written,) if written in DATES else DATES
    read = {form: _days(pc.strptime(text, form, "us", error_is_null=True)) for form in forms}
    counts = {form: int(np.isfinite(days).sum()) for form, days in read.items()}
    first, *others = (form for form in forms if counts[form] == max(counts.values()))
    for form in others:
        apart = np.flatnonzero(np.nan_to_num(read[form]) != np.nan_to_num(read[first]))
        if apart.size:
            raise ValueError(
                f"column {shown(name)} holds {shown(text[apart[0]].as_py())} in row {apart[0] + 1}, which may be {first} or "
                f"{form}: no row tells; write year-month-day, or drop the column"
            )
    return read[first], first


# ---- the decimal mark


def decimal_of(columns: Collection[Any], usual: str) -> str:
    """The decimal mark of a file, for columns that do not show their own: what the others show, if they are at one.

    >>> import pyarrow as pa
    >>> decimal_of([pa.array(["1,234"]), pa.array(["12,5"])], "."), decimal_of([pa.array(["1,234"])], ".")
    (',', '.')
    """
    if usual == "." and not any(_any(column.slice(0, PROVEN_BY), ",") for column in columns):
        return usual
    marks = {_decimal_shown(column) for column in columns} - {""}
    return marks.pop() if len(marks) == 1 else usual


def _decimal_shown(text: Any) -> str:
    """The mark that some values can only be numbers with: 12,5 or 1.234,00 or 1.234.567, not 1,234; "" if none, or both."""
    proven = [mark for mark in MARKS if _proves(text.slice(0, PROVEN_BY), mark)]
    return proven[0] if len(proven) == 1 else ""


def _proves(text: Any, mark: str) -> bool:
    _, pc = arrow()
    other = rf"\{MARKS[mark]}"
    either = rf"{BEFORE}[1-9]\d{{0,2}}(\{mark}\d{{3}})+{AFTER}"
    fraction = rf"{BEFORE}(\d+|\d{{1,3}}({other}\d{{3}})+)?\{mark}\d+([eE][+-]?\d+)?{AFTER}"
    groups = rf"{BEFORE}\d{{1,3}}({other}\d{{3}}){{2,}}{AFTER}"
    return _any(pc.filter(text, pc.invert(pc.match_substring_regex(text, either))), fraction) or _any(text, groups)


def _any(text: Any, pattern: str) -> bool:
    _, pc = arrow()
    return bool(pc.any(pc.match_substring_regex(text, pattern)).as_py())
