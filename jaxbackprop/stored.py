"""Data larger than memory made ready to train on: a folder with x.npy and y.npy, or one of .parquet files.

    data = load_stored("big")                     # one pass over the rows: means, scales, classes, and what cannot be used
    data.train, data.test                         # Blocks, split and standardised as they are read

What `data.load` does to a table in memory is done here block by block, by the same rules. Of each block a stretch of rows,
drawn from the seed, is held out; means and scales are those of the others. Memory holds a block.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxbackprop.blocks import Blocks, Rows, open_npy, open_parquet
from jaxbackprop.data import BUNDLED, MOST_CLASSES, ROWS_PER_CLASS, Bounds, Encoding, scaling, standardise


class Stored(NamedTuple):
    """A data set on a disk, split and standardised: see `data.Dataset`.

    `baseline` is the mean squared error of predicting the training mean, in the target's scale.
    """

    name: str
    encoding: Encoding
    train: Blocks
    test: Blocks
    note: str
    baseline: float


def is_stored(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a folder, whose rows are read as they are needed. A bundled name wins, as over a file.

    >>> is_stored("digits")
    False
    """
    return str(source) not in BUNDLED and Path(source).is_dir()


def load_stored(
    source: str | os.PathLike[str],
    target: str | None = None,
    task: str | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    scale: str | Bounds = "rows",
    progress: Callable[[int, int], object] | None = None,
) -> Stored:
    """Open a folder, read it once, and recognise its task.

    Args:
        source: a folder with x.npy (n, d) and y.npy (n,), or with .parquet files.
        target: of .parquet files the column to learn, the last by default.
        task: "classification" or "regression", where the rule in data.py would choose wrongly.
        test_fraction: share of rows kept for testing, in (0, 1).
        seed: the same seed gives the same split.
        scale: as in `data.load`.
        progress: called (blocks read, blocks in all).

    Raises:
        ValueError: the folder, an argument or a value cannot be used; one line says which and why.
    """
    blocks = _opened(Path(source), target)
    held_out = _held_out(blocks, test_fraction, seed)
    seen = _Seen(blocks, task == "classification")
    for i in range(len(blocks.lengths)):
        seen.add(i, *blocks.read(i), held_out[i])
        if progress:
            progress(i + 1, len(blocks.lengths))
    if seen.rows[False] < 2 or not seen.rows[True]:
        raise ValueError(f"{source} has {blocks.examples} rows: expected at least 5, to train and to test on")
    task, found = _recognised(seen, task)
    classes = tuple(sorted(seen.values)) if task == "classification" else ()
    target_mean, target_scale = ((), ()) if classes else scaling(scale, (blocks.target,), seen.moments_of_target)
    encoding = Encoding(
        task,
        blocks.features,
        *scaling(scale, blocks.features, seen.moments),
        blocks.target,
        tuple(str(int(value)) for value in classes),
        target_mean,
        target_scale,
    )
    how = f", {len(classes)} classes" if classes else ""
    note = f"{task}{how} (target {blocks.target!r} {found}); read as it is needed, in {len(blocks.lengths):,} blocks"
    # every byte was read: a checkpoint of other rows, or of the same in another split, is known as such
    blocks = replace(blocks, fingerprint=f"{seen.content.hexdigest()[:16]}, seed {seed}, held out {test_fraction:g}")
    train, test = (_part(blocks, held_out, held, encoding, classes) for held in (False, True))
    return Stored(Path(source).resolve().name, encoding, train, test, note, seen.baseline(target_scale))


def _opened(folder: Path, target: str | None) -> Blocks:
    arrays = [folder / name for name in ("x.npy", "y.npy")]
    if all(path.is_file() for path in arrays):
        if target not in (None, "y"):
            raise ValueError(
                f"{folder} holds x.npy and y.npy, so its target is 'y', not {target!r}: leave the target out"
            )
        blocks = open_npy(*arrays)
        if blocks.like[1].ndim == 2 and blocks.like[1].shape[1] != 1:
            raise ValueError(f"{arrays[1]} has {blocks.like[1].shape[1]} columns: expected one value a row")
        return blocks
    if not any(folder.glob("*.parquet")):
        raise ValueError(f"{folder} holds neither x.npy and y.npy nor .parquet files")
    return open_parquet(folder, target)


def _held_out(blocks: Blocks, fraction: float, seed: int) -> list[slice]:
    """For each block which rows are held out: a stretch, so long that the share is right up to each block's end."""
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction is {fraction!r}, expected a number between 0 and 1, such as 0.2")
    found, done = [], 0
    for i, rows in enumerate(blocks.lengths):
        many = int((done + rows) * fraction + 0.5) - int(done * fraction + 0.5)
        start = int(np.random.default_rng((seed, i)).integers(0, rows - many + 1))
        found.append(slice(start, start + many))
        done += rows
    return found


class _Seen:
    """What one pass over the rows leaves: for training and test rows apart their number, mean and squared deviations."""

    def __init__(self, blocks: Blocks, every_class: bool):
        self.blocks, self.most = blocks, np.inf if every_class else MOST_CLASSES
        self.rows = {False: 0, True: 0}
        width = blocks.like[0].shape[1]
        self.mean, self.deviations = np.zeros(width), np.zeros(width)
        self.low, self.high = np.full(width, np.inf), np.full(width, -np.inf)
        self.y_mean, self.y_deviations = {False: 0.0, True: 0.0}, {False: 0.0, True: 0.0}
        self.values: set[float] = set()
        self.whole, self.many = True, False
        self.content = hashlib.sha256()

    def add(self, block: int, x: np.ndarray, y: np.ndarray, held_out: slice) -> None:
        for array in (x, y):
            self.content.update(np.ascontiguousarray(array).view(np.uint8).data)
        y = y.reshape(len(y)).astype(np.float64)
        self._require_finite(block, x, y)
        self.whole = self.whole and bool((y == np.floor(y)).all())
        if self.whole and not self.many:
            self.values |= set(np.unique(y).tolist())
            self.many = len(self.values) > self.most
        train = _chosen(x, held_out, False).astype(np.float64)
        if len(train):
            self.mean, self.deviations = _joined(self.rows[False], self.mean, self.deviations, train)
            self.low, self.high = np.minimum(self.low, train.min(0)), np.maximum(self.high, train.max(0))
        for held in (False, True):
            rows = _chosen(y, held_out, held)
            if len(rows):
                self.y_mean[held], self.y_deviations[held] = _joined(
                    self.rows[held], self.y_mean[held], self.y_deviations[held], rows
                )
                self.rows[held] += len(rows)

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and scale of each feature over the training rows; scale 1 where it is constant."""
        constant = self.low == self.high
        scale = np.sqrt(self.deviations / self.rows[False])
        mean = np.where(constant, self.low, self.mean)
        return tuple(mean.tolist()), tuple(np.where(constant | (scale == 0), 1.0, scale).tolist())

    def moments_of_target(self) -> tuple[tuple[float], tuple[float]]:
        scale = float(np.sqrt(self.y_deviations[False] / self.rows[False]))
        return (float(self.y_mean[False]),), (scale or 1.0,)

    def baseline(self, scale: tuple[float, ...]) -> float:
        if not scale:
            return float("nan")
        about_mean = self.y_deviations[True] / self.rows[True] + (self.y_mean[True] - self.y_mean[False]) ** 2
        return float(about_mean / scale[0] ** 2)

    def _require_finite(self, block: int, x: np.ndarray, y: np.ndarray) -> None:
        named = (*zip(self.blocks.features, x.T, strict=True), (self.blocks.target, y))
        if np.isfinite(x).all() and np.isfinite(y).all():
            return
        for name, column in named:
            bad = np.flatnonzero(~np.isfinite(column))
            if len(bad):
                first = sum(self.blocks.lengths[:block]) + int(bad[0])
                raise ValueError(f"column {name!r} is NaN or infinite in row {first + 1}: correct or drop such rows")


def _joined(rows: int, mean, deviations, more: np.ndarray):
    """Mean and Σ (x − mean)² of the rows so far and some more (Chan, Golub and LeVeque 1979)."""
    own, count = more.mean(0), len(more)
    apart = own - mean
    both = rows + count
    return (
        mean + apart * (count / both),
        deviations + np.square(more - own).sum(0) + np.square(apart) * (rows * count / both),
    )


def _recognised(seen: _Seen, task: str | None) -> tuple[str, str]:
    """The task, and what was seen in the target; the rule is data.py's."""
    name, rows = seen.blocks.target, seen.blocks.examples
    few = seen.whole and not seen.many
    found = (
        f"holds {len(seen.values)} different integers" if few else f"holds {'integers' if seen.whole else 'numbers'}"
    )
    if few and len(seen.values) == 1:
        raise ValueError(f"target {name!r} is {seen.values.pop():g} in every row: name a target that varies")
    if task == "classification" and not seen.whole:
        raise ValueError(f"target {name!r} holds numbers that are not whole, so no labels: use task='regression'")
    natural = "classification" if few and rows >= ROWS_PER_CLASS * len(seen.values) else "regression"
    return task or natural, found + (", taken so as asked" if task and task != natural else "")


def _chosen(rows: np.ndarray, held_out: slice, held: bool) -> np.ndarray:
    return rows[held_out] if held else np.delete(rows, held_out, axis=0)


def _part(blocks: Blocks, held_out: list[slice], held: bool, encoding: Encoding, classes: Collection[float]) -> Blocks:
    """The rows that are held out or those that are not, standardised as they are read; empty blocks are left out."""
    held_rows = [stretch.stop - stretch.start for stretch in held_out]
    lengths = [many if held else rows - many for rows, many in zip(blocks.lengths, held_rows, strict=True)]
    kept = [i for i, rows in enumerate(lengths) if rows]
    labels = np.asarray(classes)

    def read(i: int) -> Rows:
        x, y = (_chosen(a, held_out[kept[i]], held).astype(np.float64) for a in blocks.read(kept[i]))
        x, y = standardise(x, encoding.mean, encoding.scale, encoding.features), y.reshape(-1, 1)
        if encoding.classes:
            return x, np.searchsorted(labels, y[:, 0]).astype(np.int32)
        return x, standardise(y, encoding.target_mean, encoding.target_scale, (encoding.target,))

    fingerprint = f"{blocks.fingerprint}, {sum(lengths)} rows of it"
    return replace(blocks, lengths=tuple(lengths[i] for i in kept), read=read, fingerprint=fingerprint)


def sample(blocks: Blocks, rows: int) -> Rows:
    """The first rows, for a check.

    >>> sample(Blocks((2, 2), lambda i: (np.full((2, 1), i), np.zeros((2, 1))), "numbers", 32), rows=3)[0].ravel().tolist()
    [0, 0, 1]
    """
    read: Iterator[Rows] = map(blocks.read, range(len(blocks.lengths)))
    x, y = next(read)
    while len(x) < rows and (more := next(read, None)):
        x, y = (np.concatenate(pair) for pair in zip((x, y), more, strict=True))
    return x[:rows], y[:rows]
