"""An epoch's batches out of `Blocks`: in a drawn order, a few ahead, the same for any number of processes.

The order of an epoch. Its blocks are shuffled and laid end to end, all n rows of them; that line is cut into equal LANES, and
each batch takes as many rows from every lane. Within a lane the rows are shuffled too, over a WINDOW of some blocks in memory.
So reading stays sequential within a block, memory holds a window a lane however long the line, and where several processes
read, each opens the blocks of its own lanes alone: with the lanes fixed, the batches are the same for 1, 2 or 8 processes.

Where a process stands is a number, the batches of this epoch that are done: from the key and that number a reader goes on in
mid-epoch with the very batches that it would have made.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxbackprop.data.blocks import Blocks, row_bytes

WINDOW_BYTES = 64 * 2**20  # over which rows are shuffled, all lanes together, their order included
LANES = 8  # where windows of so many lanes fit
SPAN_BYTES, SPAN_STEPS = 4 * 2**20, 256  # batches that go to the device at a time: up to either, and at least one
AHEAD = 2  # such spans that are ready before they are asked for
ORDER = "windows that count their order"  # by which a checkpoint knows it: in another order a half epoch cannot go on


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


def filled_batch(blocks: Blocks, batch_size: int, devices: int = 1) -> int:
    """The batch size, or where it is larger than all the rows the least that holds them and that lanes and devices divide.

    >>> filled_batch(Blocks((9,), lambda i: (np.ones((9, 1)), np.ones((9, 1))), "ones", 72, lanes=8), batch_size=1000)
    16
    """
    unit = math.lcm(math.gcd(blocks.lanes, batch_size), devices)
    return min(batch_size, -(-blocks.examples // unit) * unit)


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
    many = max(1, min(most, SPAN_STEPS, SPAN_BYTES // max(1, count * each * row_bytes(blocks)), steps))
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
        order = np.arange(rows, dtype=np.uint32)  # half the memory of what `permutation(rows)` gives, number for number
        np.random.default_rng((seed, lane, number)).shuffle(order)
        yield window[0], window[1], order[skip:]
        skip = 0


def _window_rows(blocks: Blocks) -> int:
    return max(1, int(WINDOW_BYTES / blocks.lanes / (row_bytes(blocks) + np.uint32().itemsize)))


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


def in_order(blocks: Blocks, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Read every row once, in the blocks' own order, so many at a time: x, y and their weight, 0 where the last are padded.

    >>> found = in_order(Blocks((3, 2), lambda i: (np.full((3 - i, 1), i), np.zeros(3 - i)), "numbers", 48), rows=4)
    >>> [(x[:, 0].tolist(), weight.tolist()) for x, _, weight in found]
    [([0, 0, 0, 1], [1.0, 1.0, 1.0, 1.0]), ([1, 0, 0, 0], [1.0, 0.0, 0.0, 0.0])]
    """
    weight, filled = np.zeros(rows, np.float32), 0
    x, y = (np.repeat(a, rows, axis=0) for a in blocks.like)
    for i, length in enumerate(blocks.lengths):
        block, start = blocks.read(i), 0
        while start < length:
            taken = min(rows - filled, length - start)
            for into, read in zip((x, y), block, strict=True):
                into[filled : filled + taken] = read[start : start + taken]
            filled, start = filled + taken, start + taken
            weight[:filled] = 1
            if filled == rows:
                yield x, y, weight
                weight, filled = np.zeros(rows, np.float32), 0
                x, y = (np.repeat(a, rows, axis=0) for a in blocks.like)
    if filled:
        yield x, y, weight


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
