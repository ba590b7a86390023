"""Data larger than memory: rows in blocks on a disk, read in an order drawn anew each epoch, a few batches ahead.

    data = open_npy("x.npy", "y.npy")                     # or open_parquet("folder", target="price"), or Blocks of your own
    state, history = fit(network, loss, optimizer, data, epochs=3, batch_size=256, key=key)

The order of an epoch. Its blocks are shuffled and laid end to end, all n rows of them; that line is cut into equal LANES, and
each batch takes as many rows from every lane. Within a lane the rows are shuffled too, over a WINDOW of some blocks in memory.
So reading stays sequential within a block, memory holds a window a lane however long the line, and where several processes
read, each opens the blocks of its own lanes alone: with the lanes fixed, the batches are the same for 1, 2 or 8 processes.

Where a process stands is a number, the batches of this epoch that are done: from the key and that number a reader goes on in
mid-epoch with the very batches that it would have made.
"""

import hashlib
import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap

from jaxbackprop.data import PANDAS_INDEX
from jaxbackprop.words import extra

BLOCK_BYTES = 2**20  # of a .npy file, which has no blocks of its own; but at least FEWEST_BLOCKS of them
FEWEST_BLOCKS = 64
WINDOW_BYTES = 64 * 2**20  # over which rows are shuffled, all lanes together
LANES = 8  # where windows of so many lanes fit
SPAN_BYTES, SPAN_STEPS = 4 * 2**20, 256  # batches that go to the device at a time: up to either, and at least one
SAMPLED = 1024  # rows of a .npy file by which a checkpoint knows it
AHEAD = 2  # such spans that are ready before they are asked for

Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Blocks:
    """Rows that need not fit in memory, in blocks that do.

    Attributes:
        lengths: rows of each block.
        read: number of a block → its x (rows, d) and y (rows, …), called on a thread of its own, and again each epoch;
            what it returns is copied.
        fingerprint: what tells these data from others, for a checkpoint; such as names and sizes.
        block_bytes: of the largest block, as `read` returns it.
        lanes: see above; a batch takes as many rows from each, so that they divide the batch size.
        features: the names of x's columns.
        target: the name of y.

    >>> numbers = Blocks((2, 2, 1), lambda i: (np.full((2, 1), float(i)), np.zeros((2, 1))), "numbers", 32)
    >>> numbers.examples
    5
    """

    lengths: tuple[int, ...]
    read: Callable[[int], Rows]
    fingerprint: str
    block_bytes: int
    lanes: int = 1
    features: tuple[str, ...] = ()
    target: str = "y"

    def __post_init__(self):
        """Refuse what has no rows."""
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError("lengths holds no rows, or a block without any: give each block's number of rows")

    @cached_property
    def examples(self) -> int:
        """Rows in all."""
        return sum(self.lengths)

    @cached_property
    def like(self) -> Rows:
        """The first row of x and of y: their shapes and dtypes, and what stands where a batch has no row."""
        x, y = self.read(0)
        return x[:1].copy(), y[:1].copy()


def examples_of(data: Blocks | tuple[Any, Any]) -> int:
    """Rows in all of `Blocks`, or of a pair of arrays in memory.

    >>> examples_of((np.ones((5, 2)), np.ones(5)))
    5
    """
    return data.examples if isinstance(data, Blocks) else len(data[0])


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
    row_bytes = sum(a[:1].nbytes for a in arrays)
    rows = max(1, min(BLOCK_BYTES // row_bytes, len(xs) // FEWEST_BLOCKS))
    starts = range(0, len(xs), rows)

    def read(i: int) -> Rows:
        part = slice(starts[i], starts[i] + rows)
        return _as_floats(xs[part]), _as_target(ys[part])

    lengths = tuple(min(rows, len(xs) - start) for start in starts)
    some = np.unique(np.linspace(0, len(xs) - 1, SAMPLED).astype(int))
    sample = hashlib.sha256(xs[some].tobytes() + ys[some].tobytes()).hexdigest()[:16]
    fingerprint = f"{xs.shape} {xs.dtype}, {ys.shape} {ys.dtype}, {len(some)} of the rows {sample}"
    features = tuple(f"x{j}" for j in range(xs.shape[1]))
    return _laned(Blocks(lengths, read, fingerprint, rows * row_bytes, features=features))


def open_parquet(folder: str | os.PathLike[str], target: str | None = None) -> Blocks:
    """Open a folder of .parquet files (or one file), a row group a block: y is the target column, x all others.

    x is float32, or float64 where a column needs it: large whole numbers keep their differences. What pandas kept of its row
    numbers is left out. A checkpoint knows these data by the files' names and footers, which hold each column's extremes.

    Args:
        folder: its files in the order of their names; all with the same columns.
        target: the column to learn, the last by default: whole numbers stay, as classes; others become (n, 1).

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
    columns: list[str] = []
    types: dict[str, set[Any]] = {}
    content = hashlib.sha256()
    for path in paths:
        with _naming(path):
            found = parquet.ParquetFile(path)
            names = [name for name in found.schema_arrow.names if name not in PANDAS_INDEX]
            for name in names:
                types.setdefault(name, set()).add(found.schema_arrow.field(name).type)
            content.update(path.name.encode() + _footer(path))
        columns = columns or names
        if names != columns:
            raise ValueError(f"{path} has the columns {names}, {paths[0]} {columns}")
        counts = (found.metadata.row_group(g).num_rows for g in range(found.metadata.num_row_groups))
        groups += [(path, found.metadata, g, rows) for g, rows in enumerate(counts) if rows]
    target = columns[-1] if target is None else target
    if target not in columns or len(columns) < 2:
        raise ValueError(f"{folder} has the columns {columns}: expected features and the target {target!r}")
    features = [name for name in columns if name != target]
    dtype = _float_for({kind for name in features for kind in types[name]})

    def read(i: int) -> Rows:
        path, footer, group, rows = groups[i]
        with _naming(path):
            table = parquet.ParquetFile(path, metadata=footer).read_row_group(group)
        by_column = np.empty((len(features), rows), dtype)
        for j, name in enumerate(features):
            by_column[j] = _column(table, name, path, group)
        return np.ascontiguousarray(by_column.T), _as_target(_column(table, target, path, group))

    lengths = tuple(rows for *_, rows in groups)
    size = dtype.itemsize * max(lengths) * len(columns)
    fingerprint = f"{len(groups)} row groups {content.hexdigest()[:16]}, target {target}"
    return _laned(Blocks(lengths, read, fingerprint, size, features=tuple(features), target=target))


def mapped(blocks: Blocks, function: Callable[[np.ndarray, np.ndarray], Rows]) -> Blocks:
    """The same rows through a function of (x, y), which is called on the reading thread.

    Raises:
        TypeError: no `Blocks`, or no function.

    >>> halves = mapped(Blocks((2,), lambda i: (np.ones((2, 1)), np.ones((2, 1))), "ones", 32), lambda x, y: (x / 2, y))
    >>> halves.read(0)[0].tolist()
    [[0.5], [0.5]]
    """
    _require_blocks(blocks)
    if not callable(function):
        raise TypeError(f"function is a {type(function).__name__}: expected a function of (x, y)")
    return replace(blocks, read=lambda i: function(*blocks.read(i)))


def spilled(blocks: Blocks, folder: str | os.PathLike[str]) -> Blocks:
    """The same rows, each block decoded once: written to a file in `folder` when it is first read, from then on mapped there.

    The file has no name there and belongs to this process: the system takes its space back when the process ends, however it
    ends. Worth it where a block takes long to read, as of Parquet, and is read for several epochs.

    Raises:
        TypeError: no `Blocks`.
        NotADirectoryError: there is no such folder.
        OSError: no room for all rows.

    >>> import tempfile
    >>> once = iter([(np.ones((2, 1)), np.zeros((2, 1)))] * 2)  # its shapes are looked at before
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kept = spilled(Blocks((2,), lambda i: next(once), "ones", 32), folder)
    ...     [kept.read(0)[0].tolist() for _ in range(3)]
    [[[1.0], [1.0]], [[1.0], [1.0]], [[1.0], [1.0]]]
    """
    _require_blocks(blocks)
    if not Path(folder).is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: name one with room for the rows")
    starts = np.concatenate([[0], np.cumsum(blocks.lengths)])
    shapes = [(blocks.examples, *a.shape[1:]) for a in blocks.like]
    sizes = [a.dtype.itemsize * math.prod(shape) for a, shape in zip(blocks.like, shapes, strict=True)]
    begin = -(-sizes[0] // 64) * 64  # of y
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # all of it now: a mapped file that finds the disk full kills its process
            _reserve(file.fileno(), begin + sizes[1])
            kept = [
                np.asarray(np.memmap(file, a.dtype, "r+", offset, shape))
                for a, shape, offset in zip(blocks.like, shapes, (0, begin), strict=True)
            ]
    except OSError as error:
        needed = f"{blocks.examples:,} rows, {sum(sizes) / 2**20:,.0f} MB"
        raise OSError(error.errno, f"{error.strerror}: {needed} do not go into {folder}") from None
    written = np.zeros(len(blocks.lengths), bool)

    def read(i: int) -> Rows:
        x, y = (a[starts[i] : starts[i + 1]] for a in kept)
        if not written[i]:
            for into, rows in zip((x, y), blocks.read(i), strict=True):
                if rows.shape != into.shape:
                    raise ValueError(f"block {i} has rows of shape {rows.shape}: expected {into.shape}")
                np.copyto(into, rows)  # refuses fractions where the first block has whole numbers
            written[i] = True
        return x, y

    return replace(blocks, read=read)


def _require_blocks(blocks: Any) -> None:
    if not isinstance(blocks, Blocks):
        raise TypeError(f"blocks is a {type(blocks).__name__}: expected Blocks, as open_npy and open_parquet make them")


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:  # macOS: the file is as long, its room is taken as it is written
        os.truncate(file, size)


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


def _float_for(types: set[Any]) -> np.dtype:
    """The narrowest float of at least 32 bits that holds Arrow's numbers exactly; what is no number is refused when read."""
    found = []
    for kind in types:
        with suppress(NotImplementedError):  # NumPy knows nothing like it
            found.append(np.dtype(kind.to_pandas_dtype()))
    return np.result_type(np.float32, *(dtype for dtype in found if dtype.kind in "biuf"))


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
        raise ValueError(
            f"{path}, row group {group}: column {name!r} has {column.null_count} missing values: fill them in"
        )
    values = column.to_numpy()
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{path}: column {name!r} holds {column.type}: expected numbers")
    return values


# ---- an epoch's batches


class Span(NamedTuple):
    """Some batches beside each other, as a compiled program takes them: x (k, b, d), y (k, b, …), weight (k, b).

    Where this is a part of the lanes, x and y hold the rows of these, the weight those of all.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    first: int  # the number of the first batch in its epoch
    steps: int  # how many of the k are batches: the last span is padded to the size of the others


class Part(NamedTuple):
    """Which of the lanes are read here: `share` of every `of`."""

    share: int = 0
    of: int = 1


def shared(blocks: Blocks, batch_size: int, processes: int = 1, devices: int = 1) -> Blocks:
    """The same rows in as many lanes as divide the batch size, so that each process has as many of them.

    Raises:
        ValueError: the processes do not divide the lanes, or the devices the batch size.

    >>> shared(Blocks((9,), lambda i: (np.ones((9, 1)), np.ones((9, 1))), "ones", 72, lanes=8), batch_size=6).lanes
    2
    """
    lanes = math.gcd(blocks.lanes, batch_size)
    if lanes % processes:
        raise ValueError(
            f"{processes} processes cannot share {lanes} lanes of data at batch size {batch_size}. These data have "
            f"{blocks.lanes} (at most {LANES}, by their largest block, {blocks.block_bytes / 2**20:,.0f} MB of which all lanes' "
            f"fit in {WINDOW_BYTES >> 20}; of .parquet files a row group): take processes that divide them, and a batch size "
            "that they divide"
        )
    if batch_size % devices:
        raise ValueError(f"batch_size is {batch_size}: expected a multiple of the {devices} devices")
    return replace(blocks, lanes=lanes)


def steps_of(blocks: Blocks, batch_size: int) -> int:
    """Batches an epoch; the last of them holds what is left.

    >>> steps_of(Blocks((4, 4, 2), lambda i: (np.ones((4, 1)), np.ones((4, 1))), "ones", 32), batch_size=4)
    3
    """
    longest = -(-blocks.examples // blocks.lanes)
    return -(-longest // (batch_size // blocks.lanes))


def spans(
    blocks: Blocks, batch_size: int, seed: int, first: int = 0, part: Part | None = None, most: int = SPAN_STEPS
) -> Iterator[Span]:
    """Read an epoch's batches from number `first` on, some at a time; of each batch the rows of this part's lanes.

    Args:
        blocks: the rows.
        batch_size: rows a batch, of all lanes together; a multiple of the lanes.
        seed: draws the epoch's order.
        first: batches to leave out, those already done; their blocks are not read.
        part: which lanes; all by default.
        most: batches at a time.
    """
    part = part or Part()
    count, each, steps = blocks.lanes // part.of, batch_size // blocks.lanes, steps_of(blocks, batch_size)
    lanes = [_Lane(blocks, seed, part.share * count + i, first * each) for i in range(count)]
    row_bytes = sum(a.dtype.itemsize * math.prod(a.shape[1:]) for a in blocks.like)
    many = max(1, min(most, SPAN_STEPS, SPAN_BYTES // (count * each * row_bytes), steps))
    rows = [np.repeat(a, many * each, axis=0) for a in blocks.like]  # of one lane
    bounds = [blocks.examples * i // blocks.lanes for i in range(blocks.lanes + 1)]
    lengths = np.diff(bounds)[None, :, None]
    for start in range(first, steps, many):
        x, y = (_aligned((many, count, each, *a.shape[1:]), a.dtype) for a in blocks.like)
        for i, lane in enumerate(lanes):
            lane.take(*rows)
            x[:, i], y[:, i] = (a.reshape(many, each, *a.shape[1:]) for a in rows)
        x, y = (a.reshape(many, count * each, *a.shape[3:]) for a in (x, y))
        row = np.arange(start * each, (start + many) * each).reshape(many, 1, each)
        weight = (row < lengths).astype(np.float32).reshape(many, -1)  # 1 where a lane has a row for that place
        yield Span(x, y, weight, start, min(many, steps - start))


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """Memory which JAX on a CPU takes over as it is, without a copy: that begins at a multiple of 64 bytes."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + 64, np.uint8)
    begin = -memory.ctypes.data % 64
    return memory[begin : begin + size].view(dtype).reshape(shape)


class _Lane:
    """The rows of one lane in their order, from number `skip` on."""

    def __init__(self, blocks: Blocks, seed: int, lane: int, skip: int):
        self.windows = _windows(blocks, seed, lane, skip)
        self.x, self.y, self.order = *blocks.like, np.arange(0)

    def take(self, x: np.ndarray, y: np.ndarray) -> None:
        """Fill arrays (rows, …) row by row. Where the lane ends what was there stays, rows too: a loss of them is finite."""
        filled = 0
        while filled < len(x):
            if not len(self.order):
                window = next(self.windows, None)
                if window is None:
                    return
                self.x, self.y, self.order = window
            rows, self.order = self.order[: len(x) - filled], self.order[len(x) - filled :]
            for window, into in ((self.x, x), (self.y, y)):
                # several times as fast as an index; no row is outside, so that nothing is clipped
                window.take(rows, axis=0, out=into[filled : filled + len(rows)], mode="clip")
            filled += len(rows)


def _windows(blocks: Blocks, seed: int, lane: int, skip: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A lane's windows, each x and y as they were read and the order in which their rows are taken.

    All are read into the same memory: each is used up before the next is asked for.
    """
    room = min(_window_rows(blocks) + max(blocks.lengths), -(-blocks.examples // blocks.lanes))
    window = [np.empty((room, *a.shape[1:]), a.dtype) for a in blocks.like]
    for number, pieces in enumerate(_grouped(blocks, seed, lane)):
        rows = sum(stop - start for _, start, stop in pieces)
        if skip >= rows:  # without reading it
            skip -= rows
            continue
        filled = 0
        for i, start, stop in pieces:
            for into, read in zip(window, blocks.read(i), strict=True):
                into[filled : filled + stop - start] = read[start:stop]
            filled += stop - start
        yield window[0], window[1], np.random.default_rng((seed, lane, number)).permutation(rows)[skip:]
        skip = 0


def _window_rows(blocks: Blocks) -> int:
    return max(1, int(WINDOW_BYTES / blocks.lanes * max(blocks.lengths) / blocks.block_bytes))


Piece = tuple[int, int, int]  # a block, and the rows of it from start to stop


def _grouped(blocks: Blocks, seed: int, lane: int) -> Iterator[list[Piece]]:
    """Cut a lane's stretch of the line into windows. The first is shorter, so that the lanes do not all read at once."""
    fill, order = _window_rows(blocks), np.random.default_rng(seed).permutation(len(blocks.lengths))
    ends = np.cumsum(np.asarray(blocks.lengths)[order])
    low, high = (blocks.examples * i // blocks.lanes for i in (lane, lane + 1))
    own = slice(np.searchsorted(ends, low, "right"), np.searchsorted(ends, high, "left") + 1)
    window, rows, wanted = [], 0, fill * (lane + 1) // blocks.lanes
    for i, end in zip(order[own].tolist(), ends[own].tolist(), strict=True):
        begin = end - blocks.lengths[i]
        start, stop = max(low - begin, 0), min(high, end) - begin
        if start >= stop:  # a lane without a row
            continue
        window.append((i, start, stop))
        rows += stop - start
        if rows >= wanted:
            yield window
            window, rows, wanted = [], 0, fill
    if window:
        yield window


def read_ahead(items: Iterator, depth: int = AHEAD) -> Iterator:
    """Yield the same items, made on a thread of their own while the last ones are still in use.

    >>> list(read_ahead(iter("abc")))
    ['a', 'b', 'c']
    """
    end = object()
    pool = ThreadPoolExecutor(1, "reading")
    try:
        waiting = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
