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
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.data.saying import listed, naming, rows_in, shown
from jaxbackprop.data.values import arrow, decimal_of

SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "bars", ",": "commas"}  # where two fit alike, the first
MOST_COLUMNS = 100_000  # pyarrow spends about 10 kB and 20 us on each: a million columns would look like a hang
MOST_BYTES = 2**31  # of what was compressed
HEAD_BYTES, HEAD_LINES = 1 << 20, 100  # in which the separator and the header are found
OTHERS = {
    b"PK\x03\x04": "is a ZIP archive, perhaps an Excel workbook: save the sheet as CSV",
    b"PAR1": "is a Parquet file: give it a name in .parquet",
}


class Form(NamedTuple):
    """How a text file is written: its separator, decimal mark, whether it has a header, and words for no value."""

    separator: str = ","
    decimal: str = "."
    header: bool = True
    na: tuple[str, ...] = ()


class Sheet(NamedTuple):
    """The columns by name, as Arrow arrays; how they were written; the columns of row numbers; what there is to say."""

    columns: dict[str, Any]
    form: Form = Form()
    row_numbers: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read_text(path: Path, asked: Mapping[str, Any], before: Form | None) -> Sheet:
    """Read a text file, which may be gzip's.

    Args:
        path: the file.
        asked: the fields of `Form` that are given, not to be found.
        before: how the training rows were written, where these are new ones.

    Raises:
        ValueError: no rows, ragged ones, or what is no such text.
    """
    content, comments = _without_comments(_content(path))
    head = _head(content)
    separator = asked.get("separator") or _separator(head, before)
    rows = _rows(head, separator)
    if not rows:
        raise ValueError("no rows: it is empty, or opens a quote and never closes it")
    names, named = _names(rows, comments, separator, asked.get("header"), before)
    columns = _read(content, separator, names, named)
    usual = before.decimal if before else "," if separator == ";" else "."
    columns, empty = _without_empty_end(columns)
    invented = not named and names[0] == "column1"
    na = asked.get("na") or (before.na if before else ())
    form = Form(separator, asked.get("decimal") or decimal_of(columns, usual), not invented, tuple(na))
    said = {
        f"separated by {SEPARATORS.get(separator, shown(separator))}": separator != ",",
        "decimal commas": form.decimal == ",",
        f"{len(comments)} comment lines above": bool(comments),
        f"no header: its columns are {names[0]} to {names[-1]} (--header yes, if it has one)": invented,
        f"{rows_in(empty)} without anything left out at the end": empty > 0,
    }
    remarks = tuple(what for what, so in said.items() if so)
    return Sheet(by_name([name.strip() for name in names], columns), form, remarks=remarks)


def _head(content: bytes) -> str:
    """The first lines, whole ones."""
    header = re.split(rb"[\r\n]", content[: 1 << 24], maxsplit=1)[0]
    if b"\0" in header or "\ufffd" in header.decode("utf-8", "replace"):  # UTF-16 has one in every letter
        raise ValueError("the header is not UTF-8 text; save the file as UTF-8")
    narrow(max(map(header.count, (b",", b";", b"\t"))) + 1)
    first = content[: len(header) + HEAD_BYTES]
    lines = first.split(b"\n")[: HEAD_LINES if len(first) == len(content) else -1]  # the last one may be cut
    return b"\n".join(lines[:HEAD_LINES] or [header]).decode("utf-8", "replace")


def _names(
    rows: list[list[str]], comments: list[str], separator: str, asked: bool | None, before: Form | None
) -> tuple[list[str], bool]:
    """The columns' names, and whether the first row holds them; above it a comment may, as numpy.savetxt writes it."""
    has = _has_header(rows)
    if comments and asked is None:
        above = _rows(re.sub(rf"^#+\s*(?=[^\s{re.escape(separator)}])", "", comments[-1]), separator)[0]
        numbers = all(re.fullmatch(r"[\s\d.,eE+-]+", cell) for cell in rows[0])
        if len(above) == len(rows[0]) > 1 and (numbers or not has):
            return above, False
    named = asked if asked is not None else before.header if before else has
    return (rows[0], True) if named else ([f"column{i}" for i in range(1, len(rows[0]) + 1)], False)


def by_name(names: list[str], columns: list[Any]) -> dict[str, Any]:
    """The columns by name; those that have neither a name nor a value are left out."""
    nothing = {i for i, column in enumerate(columns) if not names[i] and column.null_count == len(column)}
    names, columns = ([a for i, a in enumerate(every) if i not in nothing] for every in (names, columns))
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"more than one column is named {listed(twice)}; rename them, or add a missing header")
    return dict(zip(names, columns, strict=True))


def narrow(columns: int) -> None:
    """Refuse a table so wide that pyarrow would seem to hang."""
    if columns > MOST_COLUMNS:
        raise ValueError(f"has {columns} columns, expected at most {MOST_COLUMNS}; use .npz, which has no limit")


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"holds more than {MOST_BYTES >> 30} GB, compressed; write it as .parquet")
    for magic, what in OTHERS.items():
        if content.startswith(magic):
            raise ValueError(what)
    return content.removeprefix(b"\xef\xbb\xbf")


def _without_comments(content: bytes) -> tuple[bytes, list[str]]:
    """What begins with the first line that is neither blank nor a comment, and the comments above it."""
    start, comments = 0, []
    while True:
        line = content[start : content.find(b"\n", start) + 1 or len(content)]
        if not line or (line.strip() and not line.startswith(b"#")):
            return (content, []) if not line else (content[start:], comments)
        comments += [line.decode("utf-8", "replace").strip()] if line.strip() else []
        start += len(line)


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
    return (
        numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    )  # 0, 1, 2 as pandas has it


def _read(content: bytes, separator: str, names: list[str], named: bool) -> list[Any]:
    """The columns as Arrow text; what stands in no quotes and means nothing, NA say, is none."""
    pa, pc = arrow()
    module = importlib.import_module("pyarrow.csv")
    places = [str(i) for i in range(len(names))]
    try:
        table = module.read_csv(
            pa.BufferReader(content),
            # One thread, so that a ragged row knows its number; one block, so that the longest row fits in it.
            module.ReadOptions(
                use_threads=False,
                block_size=min(max(len(content), 1 << 20), 1 << 30),
                column_names=places,
                skip_rows_after_names=int(named),
            ),
            module.ParseOptions(delimiter=separator, newlines_in_values=True),
            module.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    except ValueError as error:
        raise ValueError(_refusal(str(error), int(named), separator, names) or str(error)) from error
    if not table.num_rows:
        raise ValueError("no rows, expected some below the header")
    _require_closed(content, table)
    columns = [column.combine_chunks() for column in table.columns]
    quoted = r'^ +"(.*)"$'  # after a space, which pyarrow takes for a part of the text
    return [pc.replace_substring_regex(c, quoted, r"\1") if _begins(c, ' "') else c for c in columns]


def _begins(column: Any, text: str) -> bool:
    _, pc = arrow()
    return bool(pc.any(pc.starts_with(column, text)).as_py())


def _refusal(error: str, above: int, separator: str, names: list[str]) -> str:
    """pyarrow's refusal in our words, or nothing."""
    ragged = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+): (.*)", error, re.DOTALL)
    if ragged:
        row, expected, found, text = ragged.groups()
        end = text.endswith(separator) and int(found) > int(expected)
        hint = f"; it ends with {shown(separator)}, one too many" if end else ""
        if int(expected) == 1:
            hint = f"; is the first line, {shown(names[0])}, no header? delete what stands above the header"
        elif not hint and int(found) == int(expected) + 1:
            hint = "; do the rows have names, without a name in the header?"
        return f"row {int(row) - above} has {found} values, expected {expected}: {shown(text)}{hint}"
    if "Empty CSV" in error or "straddl" in error:
        return "no rows: it is empty, a header alone, or opens a quote and never closes it"
    encoded = re.search(r"column #(\d+): (Row #(\d+): )?.*invalid UTF8", error)
    if encoded:
        where = f" (row {int(encoded[3]) - above})" if encoded[3] else ""
        return (
            f"column {shown(names[int(encoded[1])])} holds bytes that are not UTF-8 text; save the file as UTF-8{where}"
        )
    return ""


def _require_closed(content: bytes, table: Any) -> None:
    """pyarrow lets an open quote swallow all rows below it."""
    last = table.column(table.num_columns - 1)[-1].as_py()
    if last and "\n" in last and content.endswith(last.encode()[-16:]):
        raise ValueError(f"row {table.num_rows} opens a quote and never closes it: {shown(last)}")


def _without_empty_end(columns: list[Any]) -> tuple[list[Any], int]:
    """The columns without the last rows that hold nothing, as spreadsheets leave them, and how many these were."""
    nothing = np.logical_and.reduce([column.is_null().to_numpy(zero_copy_only=False) for column in columns])
    kept = len(nothing) - int(np.argmin(nothing[::-1])) if not nothing.all() else 0
    if not kept:
        raise ValueError("no rows that hold anything")
    return [column.slice(0, kept) for column in columns], len(nothing) - kept


def read_parquet(path: Path, na: Collection[str] = ()) -> Sheet:
    """Read a .parquet file, or all of a folder as one table; what pandas kept of its row numbers, named or not, is told apart."""
    pa, _ = arrow(".parquet files")
    parts = [_part(part) for part in parquet_files(path)]
    for part, name in zip(parts, parquet_files(path), strict=True):
        if part.column_names != parts[0].column_names:
            raise ValueError(
                f"{name.name} has the columns {listed(part.column_names)}, the first {listed(parts[0].column_names)}"
            )
    table = pa.concat_tables(parts, promote_options="permissive")
    if not table.num_rows:
        raise ValueError("no rows, expected some below the header")
    columns = by_name(table.column_names, [column.combine_chunks() for column in table.columns])
    return Sheet(columns, Form(na=tuple(na)), pandas_index(table.schema))


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
        narrow(footer.num_columns)
        groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
        rows = sum(group.num_rows for group in groups)
        if rows != footer.num_rows:  # pyarrow would make room for them all before it notices
            raise ValueError(f"damaged: its parts have {rows} rows, {footer.num_rows} in all")
        if sum(group.total_byte_size for group in groups) > MOST_BYTES:
            raise ValueError(
                f"holds more than {MOST_BYTES >> 30} GB: as a folder of numbers without gaps it is read by parts"
            )
        return parquet.read()


def holds_more_than_numbers(folder: Path) -> bool:
    """Whether the .parquet files of a folder have columns of text or dates, or gaps, as far as their footers tell."""
    pa, _ = arrow(".parquet files")
    parquet = importlib.import_module("pyarrow.parquet")
    for path in folder.glob("*.parquet"):
        with naming(path), parquet.ParquetFile(path) as found:
            schema, footer = found.schema_arrow, found.metadata
            types = [schema.field(name).type for name in {*schema.names} - {*pandas_index(schema)}]
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            told = [group.column(j).statistics for group in groups for j in range(footer.num_columns)]
        numbers = all(pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_boolean(t) for t in types)
        if not numbers or any(known and known.null_count for known in told):
            return True
    return False


def pandas_index(schema: Any) -> tuple[str, ...]:
    """The columns of an Arrow schema that pandas wrote as its index.

    >>> import pyarrow as pa
    >>> pandas_index(pa.schema([("__index_level_0__", pa.int64())]))
    ('__index_level_0__',)
    """
    told = (schema.pandas_metadata or {}).get("index_columns", [])
    return tuple(name for name in schema.names if name in told or re.fullmatch(r"__index_level_\d+__", name))


def suffixes(path: str | os.PathLike[str]) -> str:
    """The ending that says what a file is, that of gzip left out.

    >>> suffixes("rows.CSV.gz")
    '.csv'
    """
    name = os.path.basename(os.fspath(path)).lower().removesuffix(".gz")
    return Path(name).suffix
