"""What the values of a column mean: numbers, however they are written; true or false; dates; or labels.

A column of text is numbers, or dates, if nearly all of it is (NEARLY); and numbers too if beside a word or two, such as
unknown, there are numbers of many different values. What is left is then a fault, named with its row, and never a reason to
take 40 prices for 40 labels. Numbers may have a sign of money, or one and the same unit, marks for thousands, and parentheses
where they are negative; which of `.` and `,` is the decimal mark each column shows by itself (12,5 does, 1,234 does not), and
where it does not the file decides. Whole numbers of which one begins with 0, such as 01067, are codes: labels, which keep
their zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.data.saying import shown
from jaxbackprop.spelling import extra

NUMERIC = ("number", "boolean", "date")
NEARLY = 0.8  # of the values that are there
PROVEN_BY = 10_000  # rows that are asked for the decimal mark
FEW, MANY = 3, 20  # words beside numbers of more values than that are no labels
NOTHING = ("?", "n/a", "#n/a", "nan", "null", "none", "nil")  # no value, in a target of labels too
GAPS = ("", "-", "--", ".", "na", *NOTHING)  # no value, among numbers and dates
EXACT = 2**53  # beyond it two whole numbers may be one float
LOST = "whole numbers beyond 2^53: their last digits are lost"
DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y")
TIMES = ("%H:%M", "%H:%M:%S")
DATES = (
    *DAYS,
    *TIMES,
    *(f"{day}{time}" for day in DAYS for time in (" %H:%M", " %H:%M:%S", "T%H:%M:%S", "T%H:%M:%SZ")),
)
SPACE = r"\s\x{a0}\x{202f}’'"  # other marks for thousands
MARKS = {".": ",", ",": "."}  # the decimal mark, and that for thousands
MONEY, SIGNS = "$€£¥", ("", *"$€£¥%")
NEGATIVE = rf"^([{MONEY}]?)\s*\(([^()+-]*\d[^()+-]*)\)\s*([{MONEY}%]?)$"  # as accountants write it
WRITTEN = (
    rf"^(?P<sign>[+-]?)\s*(?P<before>[{MONEY}]|EUR|USD|GBP|CHF|JPY|CNY|INR)?\s*"
    rf"(?P<number>[+-]?[\d.,][\d.,{SPACE}]*?(?:[eE][+-]?\d+)?|[+-]?(?i:inf(?:inity)?))\s*"
    rf"(?P<after>[{MONEY}%]|[\p{{L}}°µΩ‰][\p{{L}}²³°/·*^.% ]{{0,20}}[23]?)?$"
)
TO_TRAIN = "correct it, or say --na {value} if it stands for no value, --categories {name} if the column holds labels, or drop it"


def arrow(what: str = "tables") -> tuple[Any, Any]:
    """Import pyarrow and its functions of columns, an extra."""
    return extra("pyarrow", "pyarrow", f"reading {what}"), extra("pyarrow.compute", "pyarrow", f"reading {what}")


class Values(NamedTuple):
    """A column: float64 with NaN for none, or of kind "category" text with "" for none.

    `written` is what numbers bear ("%", a unit or a currency's sign), or how dates are written; `gaps` are words taken for
    none; `remark` is what else there is to say.
    """

    kind: str
    values: np.ndarray
    written: str = ""
    gaps: tuple[str, ...] = ()
    remark: str = ""

    @property
    def missing(self) -> np.ndarray:
        """Where there is none."""
        return self.values == "" if self.kind == "category" else np.isnan(self.values)


def meaning(
    name: str,
    column: Any,
    wanted: str = "",
    decimal: str = ".",
    gaps: Collection[str] = (),
    written: str = "",
    cure: str = TO_TRAIN,
) -> Values:
    """What an Arrow column means.

    Args:
        name: what messages call it.
        column: numbers, true/false, dates, times or text.
        wanted: the kind that it has to be; found by default.
        decimal: the mark where the column does not show it.
        gaps: words that stand for no value, beside the usual ones.
        written: the form of dates, or the unit of numbers, if it is known.
        cure: what messages say is to be done about a {value} that does not belong in the column {name}.

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
        return _of_text(name, column.cast(pa.string()), wanted, decimal, gaps, written, cure)
    if wanted == "category" and not is_.is_nested(found):
        return Values("category", np.array([_label(value) for value in column.to_pylist()], object))
    if is_.is_boolean(found):
        return Values("boolean", _floats(column.cast(pa.uint8())))
    if any(is_number(found) for is_number in (is_.is_null, is_.is_integer, is_.is_floating, is_.is_decimal)):
        return rounded(Values("number", _floats(column)))
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


def rounded(number: Values) -> Values:
    """Numbers, of which some may have lost digits: then that is said."""
    known = number.values[np.isfinite(number.values)]
    lost = known.size and np.abs(known).max() > EXACT and bool((known == np.floor(known)).all())
    said = (number.remark, LOST if lost else "")
    return number._replace(remark="; ".join(filter(None, said)))


def _of_text(name: str, text: Any, wanted: str, decimal: str, gaps: Collection[str], written: str, cure: str) -> Values:
    pa, pc = arrow()
    text = pc.utf8_trim_whitespace(text)
    text = pc.if_else(pc.is_in(text, pa.array(["", *gaps])), None, text)
    there = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(GAPS)), None, text)
    labels = Values("category", pc.fill_null(text, "").to_numpy(zero_copy_only=False), remark=_codes(there))
    if wanted == "category" or (not wanted and labels.remark):
        return labels
    none = there.is_null().to_numpy(zero_copy_only=False)
    words = tuple(pc.unique(pc.filter(text, pa.array(none))).drop_null().to_pylist())
    readings = {
        "number": lambda: _numbers(name, there, decimal, written, bool(wanted)),
        "boolean": lambda: (_truths(there), "", ""),
        "date": lambda: (*_dates(name, there, written), ""),
    }
    faults: dict[str, np.ndarray] = {}
    for kind, reading in readings.items():
        if wanted in ("", kind) or {kind, wanted} == {"number", "boolean"}:
            values, how, remark = reading()
            bad = np.isnan(values) & ~none
            if not bad.any():
                found = Values(wanted or kind, values, how, words, remark)
                return rounded(found) if kind == "number" else found
            if kind == wanted or (not wanted and _belongs(there, values, bad)):
                faults[kind] = bad
    for kind, bad in faults.items():
        _refuse(name, text, bad, kind, cure)
    return labels


def _codes(text: Any) -> str:
    """What shows that whole numbers are codes, if they are."""
    _, pc = arrow()
    row = pc.index(pc.match_substring_regex(text, r"^0\d+$"), True).as_py()
    return (
        "" if row < 0 or _any(text, r"\D") else f"codes, as {shown(text[row].as_py())} in row {row + 1} begins with 0"
    )


def _belongs(text: Any, values: np.ndarray, bad: np.ndarray) -> bool:
    """Whether a column is of the kind of these values, so that what could not be read is a fault: see above."""
    pa, pc = arrow()
    good = values[~np.isnan(values)]
    present = len(good) + bad.sum()
    if len(good) >= NEARLY * present:
        return True
    words = pc.count_distinct(pc.filter(text, pa.array(bad))).as_py()
    return words <= FEW and len(np.unique(good)) > MANY and len(good) >= (1 - NEARLY) * present


def _refuse(name: str, text: Any, bad: np.ndarray, kind: str, cure: str) -> None:
    row, more = int(np.argmax(bad)), int(bad.sum()) - 1
    value = shown(text[row].as_py())
    others = f" ({more} more like it)" if more else ""
    cure = cure.format(value=value, name=shown(name))
    raise ValueError(f"column {shown(name)} holds text where {kind}s belong: {value} in row {row + 1}{others}; {cure}")


def labels_there(labels: Values) -> Values:
    """Labels to learn, of which none is a word for no value.

    >>> labels_there(Values("category", np.array(["yes", "None", "no"], object))).values.tolist()
    ['yes', '', 'no']
    """
    words = tuple(sorted({label for label in labels.values if label.lower() in NOTHING}))
    return labels._replace(values=np.where(np.isin(labels.values, words), "", labels.values), gaps=words)


# ---- each value of a text as a float64, NaN where it cannot be read so; and how they are written


def _truths(text: Any) -> np.ndarray:
    pa, pc = arrow()
    return _floats(pc.index_in(pc.utf8_lower(text), pa.array(["false", "true"])))


def _numbers(name: str, text: Any, decimal: str, known: str, asked: bool) -> tuple[np.ndarray, str, str]:
    """The numbers, their unit, and what is to be said of how they are written."""
    pa, pc = arrow()
    if decimal == "." or not _any(text, r"[.,]"):
        with suppress(ValueError):  # what is not as Arrow reads it
            return _floats(text), "", ""
    number, unit = _parts(text)
    called = _units(number, unit, known, asked)
    number = pc.if_else(pc.is_in(unit, pa.array(list(called))), number, None)
    for form, known_as in called.items():
        unit = pc.if_else(pc.equal(unit, form), known_as, unit)
    read = {mark: _marked(number, mark) for mark in _proven(number) or (decimal,)}
    mark = max(read, key=lambda mark: int(np.isfinite(read[mark]).sum()))
    values = read.pop(mark)
    for other in read.values():
        _require_one_mark(name, text, values, other)
    units = pc.if_else(pa.array(~np.isnan(values)), unit, None)
    negative = "those in parentheses are negative" if _any(text, NEGATIVE) else ""
    return values, _unit(name, text, units), negative


def _parts(text: Any) -> tuple[Any, Any]:
    """The digits of each number, with its sign, and its unit, "" for none; null for what is no number."""
    _, pc = arrow()
    text = pc.replace_substring_regex(pc.replace_substring(text, "−", "-"), NEGATIVE, r"-\1\2\3")
    found = pc.extract_regex(text, WRITTEN)
    sign, before, number, after = (pc.struct_field(found, part) for part in ("sign", "before", "number", "after"))
    return pc.binary_join_element_wise(sign, number, ""), pc.binary_join_element_wise(before, after, "")


def _units(number: Any, unit: Any, known: str, asked: bool) -> dict[str, str]:
    """The units that can be read, and the name of each: signs, a known one, and a word that nearly all rows have.

    A word before few different numbers is a part of labels, unless they are asked for as numbers: 2D, 3D. So is that of 4th, 5th.
    """
    pa, pc = arrow()
    counts = {count["values"]: count["counts"] for count in pc.value_counts(unit.drop_null()).to_pylist()}
    stems: Counter[str] = Counter()
    for form, count in counts.items():
        stems[_stem(form)] += count
    called, rows = dict(zip(SIGNS, SIGNS, strict=True)), stems.total()
    for stem, count in stems.most_common(1):
        forms = [form for form in counts if _stem(form) == stem]
        different = pc.count_distinct(pc.filter(number, pc.is_in(unit, pa.array(forms)))).as_py()
        many = asked or different > min(MANY, rows / 2)
        if count >= NEARLY * rows and many and stem not in ("st", "nd", "rd", "th"):
            called |= dict.fromkeys(forms, max(forms, key=lambda form: counts[form]))
    return called | {form: known for form in (known, *counts) if _stem(form) == _stem(known)}


def _stem(unit: str) -> str:
    """A unit of one and of many: star of stars."""
    return unit.removesuffix("s") if len(unit) > 3 else unit


def _marked(number: Any, mark: str) -> np.ndarray:
    _, pc = arrow()
    thousands = rf"[{MARKS[mark]}{SPACE}]"
    grouped = pc.match_substring_regex(number, rf"^[+-]?\d{{1,3}}({thousands}\d{{3}})+(\{mark}\d+)?$")
    bare = pc.if_else(grouped, pc.replace_substring_regex(number, thousands, ""), number)
    pattern = rf"(?i)^[+-]?((\d+(\{mark}\d*)?|\{mark}\d+)(e[+-]?\d+)?|inf(inity)?)$"
    good = pc.match_substring_regex(bare, pattern)
    return _floats(pc.replace_substring(pc.if_else(good, bare, None), mark, "."))


def _require_one_mark(name: str, text: Any, values: np.ndarray, other: np.ndarray) -> None:
    """Refuse a column of which neither decimal mark reads nearly all, and both together do."""
    one, two = ~np.isnan(values), ~np.isnan(other)
    if one.sum() < NEARLY * (len(text) - text.null_count) <= (one | two).sum():
        both = _beside(text, int(np.argmax(one & ~two)), int(np.argmax(two & ~one)))
        raise ValueError(f"column {shown(name)} holds {both}: write all numbers with one decimal mark, or drop it")


def _beside(text: Any, *rows: int) -> str:
    return " and ".join(f"{shown(text[row].as_py())} in row {row + 1}" for row in sorted(rows))


def _unit(name: str, text: Any, units: Any) -> str:
    """The one unit; none beside a currency's sign is that sign, beside % or a word it may be another number."""
    _, pc = arrow()
    kinds = sorted(pc.unique(units).drop_null().to_pylist())
    if differ(kinds):
        both = _beside(text, *(pc.index(units, kind).as_py() for kind in kinds[-2:]))
        raise ValueError(f"column {shown(name)} holds {both}: write all numbers with one unit, or drop it")
    return kinds[-1] if kinds else ""


def differ(units: Collection[str]) -> bool:
    """Whether numbers that are written so cannot stand in one column.

    >>> differ(["", "$"]), differ(["", "%"]), differ(["$", "€"]), differ(["", "kg"])
    (False, True, True, True)
    """
    signs = set(units) - {""}
    return len(signs) > 1 or ("" in units and not signs <= {*MONEY})


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
    _require_one_form(name, text, read, first)
    for form in others:
        apart = np.flatnonzero(np.nan_to_num(read[form]) != np.nan_to_num(read[first]))
        if apart.size:
            raise ValueError(
                f"column {shown(name)} holds {shown(text[apart[0]].as_py())} in row {apart[0] + 1}, which may be {first} or "
                f"{form}: no row tells; write year-month-day, or drop the column"
            )
    return read[first], first


def _require_one_form(name: str, text: Any, read: dict[str, np.ndarray], first: str) -> None:
    """Refuse dates of which some can only be of one form, and some only of another."""
    one = np.isfinite(read[first])
    other = max(read, key=lambda form: int((np.isfinite(read[form]) & ~one).sum()))
    two = np.isfinite(read[other])
    if (two & ~one).any() and (one | two).sum() >= NEARLY * (len(text) - text.null_count):
        rows = {first: int(np.argmax(one & ~two)), other: int(np.argmax(two & ~one))}
        both = " and ".join(f"{_beside(text, row)} ({form})" for form, row in sorted(rows.items(), key=lambda f: f[1]))
        raise ValueError(f"column {shown(name)} holds {both}: write all dates as year-month-day, or drop the column")


# ---- the decimal mark


def decimal_of(columns: Collection[Any], usual: str) -> str:
    """The decimal mark of a file, for columns that do not show their own: what the others show, if they are at one.

    >>> import pyarrow as pa
    >>> decimal_of([pa.array(["1,234"]), pa.array(["12,5"])], "."), decimal_of([pa.array(["1,234"])], ".")
    (',', '.')
    """
    if usual == "." and not any(_any(column.slice(0, PROVEN_BY), ",") for column in columns):
        return usual
    shown = {_proven(_parts(column.slice(0, PROVEN_BY))[0]) for column in columns}
    marks = {marks[0] for marks in shown if len(marks) == 1}
    return marks.pop() if len(marks) == 1 else usual


def _proven(number: Any) -> tuple[str, ...]:
    """The marks that some values can only be numbers with: 12,5 or 1.234,00 or 1.234.567, not 1,234."""
    return tuple(mark for mark in MARKS if _proves(number.slice(0, PROVEN_BY), mark))


def _proves(number: Any, mark: str) -> bool:
    _, pc = arrow()
    other = rf"[{MARKS[mark]}{SPACE}]"
    either = rf"^[+-]?[1-9]\d{{0,2}}(\{mark}\d{{3}})+$"
    fraction = rf"^[+-]?(\d+|\d{{1,3}}({other}\d{{3}})+)?\{mark}\d+([eE][+-]?\d+)?$"
    groups = rf"^[+-]?\d{{1,3}}(\{MARKS[mark]}\d{{3}}){{2,}}$"
    return _any(pc.filter(number, pc.invert(pc.match_substring_regex(number, either))), fraction) or _any(
        number, groups
    )


def _any(text: Any, pattern: str) -> bool:
    _, pc = arrow()
    return bool(pc.any(pc.match_substring_regex(text, pattern)).as_py())
