"""Data larger than memory: rows in blocks on a disk, which `fit` and `evaluate` read as they need them.

    data = open_npy("x.npy", "y.npy")                     # or open_parquet("folder", target="price"), or Blocks of your own
    state, history = fit(network, loss, optimizer, data, epochs=3, batch_size=256, key=key)

formats.py opens files as `Blocks`; reading.py says in which order training reads them.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

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
        lanes: see reading.py; a batch takes as many rows from each, so that they divide the batch size.
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


def row_bytes(blocks: Blocks) -> int:
    """What one row takes in memory, x and y together.

    >>> row_bytes(Blocks((9,), lambda i: (np.ones((9, 2), "float32"), np.ones(9)), "ones", 72))
    16
    """
    return sum(a.dtype.itemsize * math.prod(a.shape[1:]) for a in blocks.like)


def examples_of(data: Blocks | tuple[Any, Any]) -> int:
    """Rows in all of `Blocks`, or of a pair of arrays in memory.

    >>> examples_of((np.ones((5, 2)), np.ones(5)))
    5
    """
    return data.examples if isinstance(data, Blocks) else len(data[0])


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
