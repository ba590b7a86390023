"""Files as `Blocks`: a pair of .npy files, mapped; a folder of .parquet files, a row group a block."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from jaxbackprop.data.blocks import Blocks, Rows
from jaxbackprop.data.reading import LANES, WINDOW_BYTES
from jaxbackprop.data.sheets import pandas_index
from jaxbackprop.spelling import counted, extra

BLOCK_BYTES = 2**20  # of a .npy file, which has no blocks of its own; but at least FEWEST_BLOCKS of them
FEWEST_BLOCKS = 64
SAMPLED = 1024  # rows of a .npy file by which a checkpoint knows it


def open_npy(x: str | os.PathLike[str], y: str | os.PathLike[str]) -> Blocks:
    """Map a pair of .npy files, x (n, d) and y (n, …), without reading them.

    Whole numbers in x become floats, of 64 bits where they have 32 or more; those in y stay, as classes. A y of shape (n,) of
    floats becomes (n, 1). Where 64-bit types are off `fit` takes float64 as float32, as JAX does with arrays. A checkpoint
    knows these data by their shapes and by 1,024 of their rows.

    Raises:
        ValueError: not .npy files of numbers, or not as many rows of each.
        FileNotFoundError: there is no such file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("x.npy", "y.npy"):
    ...         np.save(f"{folder}/{name}", np.ones((1000, 4)))
    ...     data = open_npy(f"{folder}/x.npy", f"{folder}/y.npy")
    ...     data.examples, data.read(0)[0].shape
    (1000, (15, 4))
    """
    arrays = [_memory_map(Path(path), name) for path, name in ((x, "x"), (y, "y"))]
    xs, ys = arrays
    if xs.ndim != 2 or ys.ndim < 1 or len(xs) != len(ys) or not len(xs):
        raise ValueError(f"{x} has shape {xs.shape}, {y} {ys.shape}: expected (n, d) and (n, …), n rows of each")
    a_row = sum(a[:1].nbytes for a in arrays)
    rows = max(1, min(BLOCK_BYTES // a_row, len(xs) // FEWEST_BLOCKS))
    starts = range(0, len(xs), rows)

    def read(i: int) -> Rows:
        part = slice(starts[i], starts[i] + rows)
        return _as_floats(xs[part]), _as_target(ys[part])

    lengths = tuple(min(rows, len(xs) - start) for start in starts)
    some = np.unique(np.linspace(0, len(xs) - 1, SAMPLED).astype(int))
    sample = hashlib.sha256(xs[some].tobytes() + ys[some].tobytes()).hexdigest()[:16]
    fingerprint = f"{xs.shape} {xs.dtype}, {ys.shape} {ys.dtype}, {len(some)} of the rows {sample}"
    features = tuple(f"x{j}" for j in range(xs.shape[1]))
    return _laned(Blocks(lengths, read, fingerprint, rows * a_row, features=features))


def open_parquet(folder: str | os.PathLike[str], target: str | None = None, drop: Sequence[str] = ()) -> Blocks:
    """Open a folder of .parquet files (or one file), a row group a block: y is the target column, x all others.

    x is float32, or float64 where a column needs it: large whole numbers keep their differences. What pandas kept of its row
    numbers is left out. A checkpoint knows these data by the files' names and footers, which hold each column's extremes.

    Args:
        folder: its files in the order of their names; all with the same columns.
        target: the column to learn, the last by default: whole numbers stay, as classes; others become (n, 1).
        drop: columns to leave out.

    Raises:
        ValueError: no such files, damaged ones, or columns that differ or hold no numbers; when read: missing values.
        ImportError: pyarrow is missing.
    """
    parquet = extra("pyarrow.parquet", "pyarrow", "reading .parquet files")
    folder = Path(folder)
    paths = sorted(folder.glob("*.parquet")) if folder.is_dir() else [folder]
    if not paths or not paths[0].is_file():
        raise ValueError(f"{folder} holds no .parquet files")
    groups: list[tuple[Path, Any, int, int]] = []  # file, its footer, the group's number and rows
    columns, named, types, of_target, content = [], "", set(), set(), hashlib.sha256()
    for path in paths:
        with _naming(path), parquet.ParquetFile(path) as found:
            schema, footer = found.schema_arrow, found.metadata
            if lacking := {*drop} - {*schema.names}:
                raise ValueError(f"no column {lacking.pop()!r} to drop")
            left_out = {*pandas_index(schema)} - {target} | {*drop}
            names = [name for name in schema.names if name not in left_out]
            content.update(path.name.encode() + _footer(path))
        columns = columns or names
        named = columns[-1] if target is None else target
        if names != columns:
            raise ValueError(f"{path} has the columns {names}, {paths[0]} {columns}")
        if named not in columns or len(columns) < 2:
            raise ValueError(f"{folder} has the columns {columns}: expected features and the target {named!r}")
        types |= {schema.field(name).type for name in names if name != named}
        of_target |= {schema.field(named).type}
        rows_of = (footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        groups += [(path, footer, group, rows) for group, rows in enumerate(rows_of) if rows]
    features, dtype = [name for name in columns if name != named], np.result_type(np.float32, *_of_numpy(types))
    alike = np.result_type(*_of_numpy(of_target) or [np.float32])  # a part may hold whole numbers, another fractions

    def read(i: int) -> Rows:
        path, footer, group, rows = groups[i]
        with _naming(path):
            table = parquet.ParquetFile(path, metadata=footer).read_row_group(group)
        by_column = np.empty((len(features), rows), dtype)
        for j, name in enumerate(features):
            by_column[j] = _column(table, name, path, group)
        return np.ascontiguousarray(by_column.T), _as_target(
            _column(table, named, path, group).astype(alike, copy=False)
        )

    lengths = tuple(rows for *_, rows in groups)
    size = dtype.itemsize * max(lengths) * len(columns)
    fingerprint = f"{len(groups)} row groups {content.hexdigest()[:16]}, target {named}"
    return _laned(Blocks(lengths, read, fingerprint, size, features=tuple(features), target=named))


@contextmanager
def _naming(path: Path):
    """What pyarrow raises of a damaged file, with the file's name and in one line."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error


def _laned(blocks: Blocks) -> Blocks:
    """As many lanes as have windows that fit: a power of 2."""
    fit = max(1, WINDOW_BYTES // blocks.block_bytes)
    return replace(blocks, lanes=min(LANES, 2 ** int(math.log2(fit))))


def _memory_map(path: Path, name: str) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        array = open_memmap(path, mode="r")
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be mapped as a .npy file: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path} holds {array.dtype}: expected numbers for {name}")
    return np.asarray(array)  # still mapped, but a plain array


def _of_numpy(types: set[Any]) -> list[np.dtype]:
    """NumPy's types like Arrow's, as far as they are of numbers; what is no number is refused when read."""
    found = []
    for kind in types:
        with suppress(NotImplementedError):  # NumPy knows nothing like it
            found.append(np.dtype(kind.to_pandas_dtype()))
    return [dtype for dtype in found if dtype.kind in "biuf"]


def _footer(path: Path) -> bytes:
    """The end of a .parquet file, which says where everything is, and its length (the format's specification)."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return file.read(length)


def _as_floats(x: np.ndarray) -> np.ndarray:
    native = x.dtype.newbyteorder("=")
    return x.astype(native if native.kind == "f" else np.result_type(np.float32, native), copy=False)


def _as_target(y: np.ndarray) -> np.ndarray:
    if y.dtype.kind == "f":
        return _as_floats(y[:, None] if y.ndim == 1 else y)
    return y.astype(np.int32 if np.can_cast(y.dtype, np.int32) else y.dtype.newbyteorder("="), copy=False)


def _column(table: Any, name: str, path: Path, group: int) -> np.ndarray:
    column = table.column(name)
    if column.null_count:
        missing = counted(column.null_count, "missing value")
        raise ValueError(f"{path}, row group {group}: column {name!r} has {missing}: fill them in")
    values = column.to_numpy()
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path}: column {name!r} holds {column.type}: expected numbers")
    return values
