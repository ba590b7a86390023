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
    found = column.type
    if str(found) in ("string", "large_string", "string_view"):
        return _of_text(name, column.cast(pa.string()), wanted, (decimal, written), gaps)
    if wanted == "category" and not pa.types.is_nested(found):
        return Values("category", np.array([_label(value) for value in column.to_pylist()], object))
    if pa.types.is_boolean(found):
        return Values("boolean", _floats(column.cast(pa.uint8())))
    if (
        pa.types.is_null(found)
        or pa.types.is_integer(found)
        or pa.types.is_floating(found)
        or pa.types.is_decimal(found)
    ):
        return Values("number", _floats(column))
    if pa.types.is_date(found) or pa.types.is_timestamp(found):
        return Values("date", _days(column.cast(pa.timestamp("us", getattr(found, "tz", None)), safe=False)), "ISO")
    if pa.types.is_time(found):
        return Values("number", _floats(column.cast(pa.time64("us"), safe=False).cast(pa.int64())) / 3.6e9)
    if found == pa.binary():
        raise ValueError(f"column {shown(name)} holds bytes that are not UTF-8 text; save the file as UTF-8")
    raise ValueError(
        f"column {shown(name)} holds {found}, expected numbers, text, dates or true/false; drop or convert it"
    )


def _label(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer()
    return "" if value is None or value != value else str(int(value) if whole else value)


def _floats(column: Any) -> np.ndarray:
    return column.cast("float64", safe=False).to_numpy(zero_copy_only=False).astype(np.float64)  # a gap is NaN


def _days(column: Any) -> np.ndarray:
    return _floats(column.cast("int64")) / 86_400e6


def _of_text(name: str, text: Any, wanted: str, how: tuple[str, str], gaps: Collection[str]) -> Values:
    pa, pc = arrow()
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, pa.array(["", *gaps])), None, text)
    lower = pc.utf8_lower(text)
    is_gap = pc.or_(pc.is_null(text), pc.is_in(lower, pa.array(GAPS))).to_numpy(zero_copy_only=False)
    present = int((~is_gap).sum())
    used = pc.unique(pc.filter(text, pa.array(is_gap))).drop_null().to_pylist()
    codes = not wanted and _any(lower, r"^0\d+$") and not _any(pc.filter(lower, pa.array(~is_gap)), r"[^\d]")
    if wanted == "category" or codes:
        return Values("category", pc.fill_null(text, "").to_numpy(zero_copy_only=False))
    nearly: dict[str, np.ndarray] = {}
    for kind, reading in {"number": _numbers, "boolean": _truths, "date": _dates}.items():
        if wanted and kind != wanted and {kind, wanted} != {"number", "boolean"}:
            continue
        values, good, written = reading(name, text, is_gap, how)
        if good.sum() == present:
            return Values(wanted or kind, np.where(is_gap, np.nan, values), written, tuple(used))
        if kind == wanted or (not wanted and good.sum() >= NEARLY * present):
            nearly[kind] = ~good & ~is_gap
    for kind, bad in nearly.items():
        _refuse(name, text, bad, kind)
    return Values("category", pc.fill_null(text, "").to_numpy(zero_copy_only=False))


def _refuse(name: str, text: Any, bad: np.ndarray, kind: str) -> None:
    row, more = int(np.argmax(bad)), int(bad.sum()) - 1
    value = shown(text[row].as_py())
    others = f" ({more} more like it)" if more else ""
    raise ValueError(
        f"column {shown(name)} holds text where {kind}s belong: {value} in row {row + 1}{others}; correct it, or say "
        f"--na {value} if it stands for no value, --categories {shown(name)} if the column holds labels, or drop it"
    )


def _truths(_name, text, _is_gap, _how) -> tuple[np.ndarray, np.ndarray, str]:
    _, pc = arrow()
    lower = pc.fill_null(pc.utf8_lower(text), "").to_numpy(zero_copy_only=False)
    return (lower == "true").astype(np.float64), (lower == "true") | (lower == "false"), ""


# ---- numbers


def decimal_of(columns: Collection[Any], usual: str) -> str:
    """The decimal mark of a file, for columns that do not show their own: what the others show, if they are at one.

    >>> import pyarrow as pa
    >>> decimal_of([pa.array(["1,234"]), pa.array(["12,5"])], "."), decimal_of([pa.array(["1,234"])], ".")
    (',', '.')
    """
    if usual == "." and not any(_any(column.slice(0, PROVEN_BY), ",") for column in columns):
        return usual
    found = [{mark for mark in MARKS if _proves(column, mark)} for column in columns]
    shown_by = set().union(*(marks for marks in found if len(marks) == 1))
    if len(shown_by) == 1:
        return shown_by.pop()
    return usual


def _proves(text: Any, mark: str) -> bool:
    """Whether some value can only be a number with this decimal mark: 12,5 or 1.234,00 or 1.234.567, not 1,234."""
    other = rf"\{MARKS[mark]}"
    part = text.slice(0, PROVEN_BY)
    either = rf"{BEFORE}[1-9]\d{{0,2}}(\{mark}\d{{3}})+{AFTER}"
    fraction = rf"{BEFORE}(\d+|\d{{1,3}}({other}\d{{3}})+)?\{mark}\d+([eE][+-]?\d+)?{AFTER}"
    groups = rf"{BEFORE}\d{{1,3}}({other}\d{{3}}){{2,}}{AFTER}"
    _, pc = arrow()
    plain = pc.and_(pc.match_substring_regex(part, fraction), pc.invert(pc.match_substring_regex(part, either)))
    return bool(pc.any(plain).as_py()) or _any(part, groups)


def _any(text: Any, pattern: str) -> bool:
    _, pc = arrow()
    return bool(pc.any(pc.match_substring_regex(text, pattern)).as_py())


def _numbers(name, text, is_gap, how) -> tuple[np.ndarray, np.ndarray, str]:
    """Each value as a number, where it is one, and the unit that they bear."""
    pa, pc = arrow()
    text = pc.if_else(pa.array(is_gap), None, text)
    if how[0] == "." or not _any(text, r"[.,]"):
        with suppress(ValueError):  # what is not as Arrow reads it
            return _floats(text), ~is_gap, ""
    own = {mark for mark in MARKS if _proves(text, mark)}
    mark = own.pop() if len(own) == 1 else how[0]
    bare = pc.replace_substring(text, "−", "-")
    bare = pc.replace_substring_regex(pc.replace_substring_regex(bare, BEFORE, r"\1"), AFTER, "")
    digits = rf"(\{mark}\d+)?"
    grouped = pc.match_substring_regex(bare, rf"^[+-]?\d{{1,3}}([{MARKS[mark]}{SPACE}]\d{{3}})+{digits}$")
    bare = pc.if_else(grouped, pc.replace_substring_regex(bare, rf"[{MARKS[mark]}{SPACE}]", ""), bare)
    pattern = rf"(?i)^[+-]?((\d+(\{mark}\d*)?|\{mark}\d+)(e[+-]?\d+)?|inf(inity)?)$"
    good = pc.fill_null(pc.match_substring_regex(bare, pattern), False)
    values = _floats(pc.replace_substring(pc.if_else(good, bare, None), mark, "."))
    good = good.to_numpy(zero_copy_only=False)
    units = pc.replace_substring_regex(text, r"[^$€£¥%]", "").to_numpy(zero_copy_only=False)
    return (
        values,
        good,
        _unit(name, text, np.array([unit if ok else None for unit, ok in zip(units, good, strict=True)], object)),
    )


def _unit(name: str, text: Any, units: np.ndarray) -> str:
    """The one unit; none beside a currency's sign is that sign, beside % it may be a hundredfold."""
    kinds = sorted({unit for unit in units if unit is not None})
    if differ(kinds):
        rows = [int(np.flatnonzero(units == kind)[0]) for kind in kinds if kind is not None][-2:]
        one, other = (f"{shown(text[row].as_py())} in row {row + 1}" for row in sorted(rows))
        raise ValueError(f"column {shown(name)} holds {one} and {other}: write all numbers with one unit, or drop it")
    return kinds[-1] if kinds else ""


def differ(units: Collection[str]) -> bool:
    """Whether numbers that are written so cannot stand in one column.

    >>> differ(["", "$"]), differ(["", "%"]), differ(["$", "€"])
    (False, True, True)
    """
    signs = set(units) - {""}
    return len(signs) > 1 or ("%" in signs and "" in units)


# ---- dates


def _dates(name, text, is_gap, how) -> tuple[np.ndarray, np.ndarray, str]:
    """Each value as days since 1970, where it is a date, and how it is written."""
    pa, pc = arrow()
    text = pc.if_else(pa.array(is_gap), None, text)
    none = np.zeros(len(is_gap)), np.zeros(len(is_gap), bool), ""
    alike = pc.sum(pc.match_substring_regex(text, r"^\d{1,4}[-/.:]\d\d?")).as_py() or 0
    if not alike or alike < NEARLY * (~is_gap).sum():
        return none
    for zone in (None, "UTC"):
        try:
            return _days(text.cast(pa.timestamp("us", zone))), ~is_gap, "ISO"
        except ValueError:
            continue
    found = []
    for form in (how[1],) if how[1] in DATES else DATES:
        days = _days(pc.strptime(text, form, "us", error_is_null=True))
        found.append((int(np.isfinite(days).sum()), form, days))
    most = max(count for count, _, _ in found)
    best = [(form, days) for count, form, days in found if count == most]
    if not most:
        return none
    for form, days in best[1:]:
        row = int(np.argmax(np.nan_to_num(days) != np.nan_to_num(best[0][1])))
        if not np.array_equal(days, best[0][1], equal_nan=True):
            raise ValueError(
                f"column {shown(name)} holds {shown(text[row].as_py())} in row {row + 1}, which may be {best[0][0]} or {form}: "
                "no row tells; write year-month-day, or drop the column"
            )
    return best[0][1], np.isfinite(best[0][1]), best[0][0]
