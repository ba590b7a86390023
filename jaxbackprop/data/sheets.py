"""CSV and its kin as people have them, read as text: separators, headers, comments and decimal marks are found and said.

pyarrow reads the rows; the separator, and what stands above them, is found in the first lines. `Form` says how a file was
written, and is kept with a run, so that new rows are read likewise where they leave a doubt.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import os
import re
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.data.saying import listed, naming, rows_in, shown
from jaxbackprop.data.values import arrow, decimal_of
from jaxbackprop.spelling import counted

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}  # where two fit alike, the first
MOST_COLUMNS = 100_000  # pyarrow spends about 10 kB and 20 us on each: a million columns would look like a hang
MOST_BYTES = 2**31  # of what was compressed
HEAD_BYTES, HEAD_LINES = 1 << 20, 100  # in which the separator and the header are found
OTHERS = {
    b"PK\x03\x04": "is a ZIP archive, perhaps an Excel workbook: save the sheet as CSV",
    b"PAR1": "is a Parquet file: give it a name in .parquet",
}


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


class Form(NamedTuple):
    """How a text file is written: its separator, decimal mark, whether it has a header, and words for no value."""

    separator: str = ","
    decimal: str = "."
    header: bool = True
    na: tuple[str, ...] = ()


class Sheet(NamedTuple):
    """The columns by name, as Arrow arrays; how they were written; the columns of row numbers; what there is to say."""

    columns: dict[str, Any]
    form: Form
    row_numbers: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read_sheet(path: Path, asked: Treatment, before: Form | None = None) -> Sheet:
    """The columns of a .csv, .tsv, .txt or .parquet file, or of a folder of the latter, by name.

    Args:
        path: the file; a text file may be gzip's.
        asked: how it is written, as far as that is given.
        before: how the training rows were written, where these are new ones.

    Raises:
        ValueError: no rows, ragged ones, or what is no such file.
    """
    arrow(f"{path.suffix or '.parquet'} files")
    na = asked.na or (before.na if before else ())
    if path.is_dir() or suffix_of(path) == ".parquet":
        return _parquet_sheet(path, Form(na=na))
    content, told = _separator_told(_content(path))
    content, comments = _without_comments(content)
    head = _head(content)
    separator = asked.separator or told or _separator(head, before)
    rows = _rows(head, separator)
    if not rows:
        raise ValueError("no rows: it is empty, or opens a quote and never closes it")
    header = asked.header if asked.header is not None else before.header if before else None
    names, named = _names(rows, comments if asked.header is None else [], separator, header)
    columns, empty = _without_empty_end(_columns(content, separator, names, named))
    usual = before.decimal if before else "," if separator == ";" else "."
    invented = not named and names[0] == "column1"
    form = Form(separator, asked.decimal or decimal_of(columns, usual), not invented, na)
    said = {
        f"separated by {SEPARATORS.get(separator, shown(separator))}": separator != ",",
        "decimal commas": form.decimal == ",",
        f"{counted(len(comments), 'comment line')} above": bool(comments),
        f"no header: its columns are {names[0]} to {names[-1]} (--header yes, if it has one)": invented,
        f"{rows_in(empty)} without anything left out at the end": empty > 0,
    }
    by_name = _by_name([name.strip() for name in names], columns)
    return Sheet(by_name, form, remarks=tuple(what for what, so in said.items() if so))


def _by_name(names: list[str], columns: list[Any]) -> dict[str, Any]:
    """The columns by name; those that have neither a name nor a value are left out."""
    named = [(name, c) for name, c in zip(names, columns, strict=True) if name or c.null_count < len(c)]
    twice = [name for name, count in Counter(name for name, _ in named).items() if count > 1]
    if twice:
        raise ValueError(f"more than one column is named {listed(twice)}; rename them, or add a missing header")
    return dict(named)


def require_narrow(columns: int) -> None:
    """Refuse a table so wide that pyarrow would seem to hang."""
    if columns > MOST_COLUMNS:
        raise ValueError(f"has {columns} columns, expected at most {MOST_COLUMNS}; use .npz, which has no limit")


# ---- what stands above the rows


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(path) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"holds more than {MOST_BYTES >> 30} GB, compressed; write it as .parquet")
    for magic, what in OTHERS.items():
        if content.startswith(magic):
            raise ValueError(what)
    return content.removeprefix(b"\xef\xbb\xbf")


def _separator_told(content: bytes) -> tuple[bytes, str]:
    """What is below a first line such as sep=; and that separator: a spreadsheet hides that line."""
    line = re.match(rb'"?sep=([^\w\s"]|\t)"?\r?\n', content, re.IGNORECASE)
    return (content[line.end() :], line[1].decode("latin-1")) if line else (content, "")


def _without_comments(content: bytes) -> tuple[bytes, list[str]]:
    """What begins with the first line that is neither blank nor a comment, and the comments above it."""
    above = re.match(rb"(?>[^\S\n]*\n|#[^\n]*(?:\n|\Z))*+", content)
    start = above.end() if above else 0
    lines = map(str.strip, content[:start].decode("utf-8", "replace").splitlines())
    return (content[start:], list(filter(None, lines))) if start < len(content) else (content, [])


def _head(content: bytes) -> str:
    """The first lines, whole ones."""
    header = re.split(rb"[\r\n]", content[: 1 << 24], maxsplit=1)[0]
    if b"\0" in header or "\ufffd" in header.decode("utf-8", "replace"):  # UTF-16 has one in every letter
        raise ValueError("the header is not UTF-8 text; save the file as UTF-8")
    require_narrow(max(map(header.count, (b",", b";", b"\t"))) + 1)
    first = content[: len(header) + HEAD_BYTES]
    lines = first.split(b"\n")[: HEAD_LINES if len(first) == len(content) else -1]  # the last one may be cut
    return b"\n".join(lines[:HEAD_LINES] or [header]).decode("utf-8", "replace")


def _rows(head: str, separator: str) -> list[list[str]]:
    try:
        return [
            row for row in csv.reader(io.StringIO(head), delimiter=separator, skipinitialspace=separator != "\t") if row
        ]
    except csv.Error:  # a field of more than 128 kB
        return [line.split(separator) for line in head.splitlines() if line]


def _separator(head: str, before: Form | None) -> str:
    """What cuts most of the first rows into one number of fields, more than one."""
    best, most = before.separator if before else ",", 0.0
    for separator in dict.fromkeys((best, *SEPARATORS) if before else SEPARATORS):
        widths = Counter(map(len, _rows(head, separator)))
        share = max((count for width, count in widths.items() if width > 1), default=0) / max(1, widths.total())
        if share > most:
            best, most = separator, share
    return best


def _names(rows: list[list[str]], comments: list[str], separator: str, header: bool | None) -> tuple[list[str], bool]:
    """The columns' names, and whether the first row holds them; above it a comment may, as numpy.savetxt writes it."""
    found = _has_header(rows)
    if comments:
        above = _rows(re.sub(rf"^#+\s*(?=[^\s{re.escape(separator)}])", "", comments[-1]), separator)[0]
        numbers = all(re.fullmatch(r"[\s\d.,eE+-]+", cell) for cell in rows[0])
        if len(above) == len(rows[0]) > 1 and (numbers or not found):
            return above, False
    named = found if header is None else header
    return (rows[0], True) if named else ([f"column{i}" for i in range(1, len(rows[0]) + 1)], False)


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: nobody calls one 5.1, and names do not occur again in all columns."""
    first = rows[0]
    below = [set(column) for column in zip(*(row for row in rows[1:] if row != first), strict=False)]
    if any(re.fullmatch(r"\s*[+-]?\d*[.,]\d+([eE][+-]?\d+)?\s*", cell) for cell in first):
        return False
    if below and all(cell in column for cell, column in zip(first, below, strict=False)):
        return False
    numbers = [int(cell) for cell in first if re.fullmatch(r"\s*[+-]?\d{1,9}\s*", cell)]
    if len(numbers) < len([cell for cell in first if cell.strip()]):  # some are words
        words = [(cell, column) for cell, column in zip(first, below, strict=False) if re.search(r"[^\W\d]", cell)]
        return not numbers or not words or not all(cell in column for cell, column in words)
    return not numbers or numbers == list(range(numbers[0], numbers[0] + len(numbers)))  # 0, 1, 2 as pandas has it


# ---- the rows


def _columns(content: bytes, separator: str, names: list[str], named: bool) -> list[Any]:
    """The columns as Arrow text; what stands in no quotes and means nothing, NA say, is none."""
    pa, pc = arrow()
    module = importlib.import_module("pyarrow.csv")
    places = [str(i) for i in range(len(names))]
    # One thread, so that a ragged row knows its number; one block, so that the longest row fits in it.
    block = min(max(len(content), 1 << 20), 1 << 30)
    text = {"column_types": dict.fromkeys(places, pa.string()), "strings_can_be_null": True}
    try:
        table = module.read_csv(
            pa.BufferReader(content),
            module.ReadOptions(
                use_threads=False, block_size=block, column_names=places, skip_rows_after_names=int(named)
            ),
            module.ParseOptions(delimiter=separator, newlines_in_values=True),
            module.ConvertOptions(**text, quoted_strings_can_be_null=False),
        )
    except ValueError as error:
        raise ValueError(_refusal(str(error), int(named), separator, names) or str(error)) from error
    if not table.num_rows:
        raise ValueError("no rows, expected some below the header")
    columns = [column.combine_chunks() for column in table.columns]
    last = columns[-1][-1].as_py()  # pyarrow lets an open quote swallow all rows below it
    if last and "\n" in last and content.endswith(last.encode()[-16:]):
        raise ValueError(f"row {table.num_rows} opens a quote and never closes it: {shown(last)}")
    quoted = r'^ +"(.*)"$'  # after a space, which pyarrow takes for a part of the text
    return [
        pc.replace_substring_regex(c, quoted, r"\1") if pc.any(pc.starts_with(c, ' "')).as_py() else c for c in columns
    ]


def _refusal(error: str, above: int, separator: str, names: list[str]) -> str:
    """pyarrow's refusal in our words, or nothing."""
    if ragged := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", error, re.DOTALL):
        row, expected, found = map(int, ragged.groups()[:3])
        text, hint = ragged[4], ""
        if expected == 1:
            hint = f"; is the first line, {shown(names[0])}, no header? delete what stands above the header"
        elif text.endswith(separator) and found > expected:
            hint = f"; it ends with {shown(separator)}, one too many"
        elif found == expected + 1:
            hint = "; do the rows have names, without a name in the header?"
        return f"row {row - above} has {counted(found, 'value')}, expected {expected}: {shown(text)}{hint}"
    if "Empty CSV" in error or "straddl" in error:
        return "no rows: it is empty, a header alone, or opens a quote and never closes it"
    if encoded := re.search(r"column #(\d+): (Row #(\d+): )?.*invalid UTF8", error):
        where = f" (row {int(encoded[3]) - above})" if encoded[3] else ""
        column = shown(names[int(encoded[1])])
        return f"column {column} holds bytes that are not UTF-8 text; save the file as UTF-8{where}"
    return ""


def _without_empty_end(columns: list[Any]) -> tuple[list[Any], int]:
    """The columns without the last rows that hold nothing, as spreadsheets leave them, and how many these were."""
    nothing = np.logical_and.reduce([column.is_null().to_numpy(zero_copy_only=False) for column in columns])
    if nothing.all():
        raise ValueError("no rows that hold anything")
    empty = int(np.argmin(nothing[::-1]))
    return [column.slice(0, len(nothing) - empty) for column in columns], empty


# ---- Parquet


def _parquet_sheet(path: Path, form: Form) -> Sheet:
    """A .parquet file, or all of a folder as one table; what pandas kept of its row numbers, named or not, is told apart."""
    pa, _ = arrow()
    files = parquet_files(path)
    parts = []
    for file in files:
        with naming(file.name) if path.is_dir() else nullcontext():
            parts.append(_part(file))
        _require_alike(file.name, parts[-1].schema, parts[0].schema)
    table = pa.concat_tables(parts, promote_options="permissive")
    if not table.num_rows:
        raise ValueError("no rows, expected some below the header")
    columns = _by_name(table.column_names, [column.combine_chunks() for column in table.columns])
    return Sheet(columns, form, pandas_index(table.schema))


def _require_alike(name: str, schema: Any, first: Any) -> None:
    """Refuse a part that has other columns than the first, or of types that do not go together with those there."""
    pa, _ = arrow()
    if schema.names != first.names:
        raise ValueError(f"{name} has the columns {listed(schema.names)}, the first {listed(first.names)}")
    for one, other in zip(schema, first, strict=True):
        try:
            pa.unify_schemas([pa.schema([other]), pa.schema([one])], promote_options="permissive")
        except (TypeError, ValueError):
            found = f"column {shown(one.name)} holds {one.type} in {name}, {other.type} in the first"
            raise ValueError(f"{found}: write it alike in all files") from None


def parquet_files(path: Path) -> list[Path]:
    """The .parquet files of a folder in the order of their names; of a file that alone."""
    found = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not found:
        raise ValueError(f"{path} holds neither x.npy and y.npy nor .parquet files")
    return found


def _part(path: Path) -> Any:
    with path.open("rb") as file:  # opened here: pyarrow would take 'a=b/c.parquet' for a partition
        parquet = importlib.import_module("pyarrow.parquet").ParquetFile(file)
        footer = parquet.metadata
        require_narrow(footer.num_columns)
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        if rows != footer.num_rows:  # pyarrow would make room for them all before it notices
            raise ValueError(f"damaged: its parts have {rows} rows, {footer.num_rows} in all")
        if sum(group.total_byte_size for group in groups) > MOST_BYTES:
            most = f"{MOST_BYTES >> 30} GB"
            raise ValueError(f"holds more than {most}: as a folder of numbers without gaps it is read by parts")
        return parquet.read()


def pandas_index(schema: Any) -> tuple[str, ...]:
    """The columns of an Arrow schema that pandas wrote as its index.

    >>> import pyarrow as pa
    >>> pandas_index(pa.schema([("__index_level_0__", pa.int64())]))
    ('__index_level_0__',)
    """
    told = (schema.pandas_metadata or {}).get("index_columns", [])
    return tuple(name for name in schema.names if name in told or re.fullmatch(r"__index_level_\d+__", name))


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The ending that says what a file is, that of gzip left out.

    >>> suffix_of("rows.CSV.gz")
    '.csv'
    """
    return Path(os.path.basename(os.fspath(path)).lower().removesuffix(".gz")).suffix
