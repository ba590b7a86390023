"""Data larger than memory made ready to train on: a folder with x.npy and y.npy, or one of .parquet files.

What is done to a table in memory is done here block by block, by the same rules, in one pass: means, scales, classes, and what
cannot be used. Of each block a stretch of rows, drawn from the seed, is held out; means and scales are those of the others.
Memory holds a block. Columns are numbers, without gaps.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxbackprop.data.blocks import Blocks, Rows
from jaxbackprop.data.encoding import Bounds, Encoding, Moments, moments_from, scaling, standardise
from jaxbackprop.data.formats import open_npy, open_parquet
from jaxbackprop.data.saying import listed, nearest
from jaxbackprop.data.sources import BUNDLED
from jaxbackprop.data.targets import MOST_CLASSES, recognised
from jaxbackprop.words import extra


def is_stored(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a folder, whose rows are read as they are needed. A bundled name wins, as over a file.

    >>> is_stored("digits")
    False
    """
    known = isinstance(source, str | os.PathLike) and str(source) not in ("", *BUNDLED)
    return known and os.path.isdir(source)


def read_through(
    folder: Path,
    target: str | None,
    task: str | None,
    test_fraction: float,
    seed: int,
    scale: str | Bounds,
    drop: Sequence[str],
    progress: Callable[[int, int], object] | None,
) -> tuple[str, Encoding, Blocks, Blocks, str, float]:
    """Open a folder, read it once, and recognise its task; the arguments are `load`'s, what is returned a `Dataset`'s fields."""
    blocks = _opened(folder, target, drop)
    held_out = _held_out(blocks, test_fraction, seed)
    seen = _Seen(blocks, task == "classification")
    for i in range(len(blocks.lengths)):
        seen.add(i, *blocks.read(i), held_out[i])
        if progress:
            progress(i + 1, len(blocks.lengths))
    if seen.rows[False] < 2 or not seen.rows[True]:
        raise ValueError(f"{folder} has {blocks.examples} rows: expected at least 5, to train and to test on")
    different = None if seen.many or not seen.whole else len(seen.values)
    if different == 1:
        raise ValueError(f"target {blocks.target!r} is {seen.values.pop():g} in every row: name a target that varies")
    task, found = recognised(blocks.target, blocks.examples, different, seen.whole, task)
    classes = tuple(sorted(seen.values)) if task == "classification" else ()
    mean, size = ((), ()) if classes else scaling(scale, (blocks.target,), lambda: seen.y[False].moments())
    encoding = Encoding(
        task,
        blocks.features,
        *scaling(scale, blocks.features, seen.x.moments),
        blocks.target,
        tuple(str(int(value)) for value in classes),
        mean,
        size,
    )
    how = f", {len(classes)} classes" if classes else ""
    note = f"{task}{how} (target {blocks.target!r} {found}); read as it is needed, in {len(blocks.lengths):,} blocks"
    # every byte was read: a checkpoint of other rows, or of the same in another split, is known as such
    blocks = replace(blocks, fingerprint=f"{seen.content.hexdigest()[:16]}, seed {seed}, held out {test_fraction:g}")
    train, test = (_part(blocks, held_out, held, encoding, classes) for held in (False, True))
    return folder.resolve().name, encoding, train, test, note, seen.baseline(size)


def read_folder(folder: Path, encoding: Encoding) -> Blocks:
    """A folder's rows with their target, encoded as those were that a network was trained on.

    Raises:
        ValueError: a column is missing, or the network takes more than numbers; when read: a class that training did not see.
    """
    names, gaps = encoding.features, [column.name for column in encoding.used if column.indicator]
    if gaps or names != tuple(column.name for column in encoding.used):
        raise ValueError(
            f"{folder} has numbers without gaps, and the network was trained on more: give a file, as in training"
        )
    blocks = _opened(folder, encoding.target, ())
    lacking = [name for name in names if name not in blocks.features]
    if lacking:
        raise ValueError(f"{folder} lacks {listed(lacking)}{nearest(lacking[0], blocks.features)}")
    places = [blocks.features.index(name) for name in names]

    def read(i: int) -> Rows:
        x, y = blocks.read(i)
        return x[:, places], y

    whole = [slice(0, rows) for rows in blocks.lengths]
    return _part(
        replace(blocks, read=read, features=names), whole, True, encoding, [float(c) for c in encoding.classes]
    )


def _opened(folder: Path, target: str | None, drop: Sequence[str]) -> Blocks:
    arrays = [folder / name for name in ("x.npy", "y.npy")]
    if all(path.is_file() for path in arrays):
        if target not in (None, "y"):
            raise ValueError(
                f"{folder} holds x.npy and y.npy, so its target is 'y', not {target!r}: leave the target out"
            )
        if drop:
            raise ValueError(f"{folder} holds x.npy, whose columns have no names: there is nothing to drop")
        blocks = open_npy(*arrays)
        if blocks.like[1].ndim == 2 and blocks.like[1].shape[1] != 1:
            raise ValueError(f"{arrays[1]} has {blocks.like[1].shape[1]} columns: expected one value a row")
        return blocks
    if not any(folder.glob("*.parquet")):
        raise ValueError(f"{folder} holds neither x.npy and y.npy nor .parquet files")
    return open_parquet(folder, target, drop)


def _held_out(blocks: Blocks, fraction: float, seed: int) -> list[slice]:
    """For each block which rows are held out: a stretch, so long that the share is right up to each block's end."""
    found, done = [], 0
    for i, rows in enumerate(blocks.lengths):
        many = int((done + rows) * fraction + 0.5) - int(done * fraction + 0.5)
        start = int(np.random.default_rng((seed, i)).integers(0, rows - many + 1))
        found.append(slice(start, start + many))
        done += rows
    return found


class _Running:
    """Mean and deviation of columns of which rows come part by part; scikit-learn keeps the sums."""

    def __init__(self):
        self.scaler: Any = extra("sklearn.preprocessing", "scikit-learn", "reading folders").StandardScaler()
        self.low, self.high = np.inf, -np.inf

    def add(self, x: np.ndarray) -> None:
        if len(x):
            self.scaler.partial_fit(x)
            self.low, self.high = np.minimum(self.low, x.min(0)), np.maximum(self.high, x.max(0))

    def moments(self) -> Moments:
        """Mean and scale of each; of what is constant exactly that value, and 1."""
        constant = self.low == self.high
        return moments_from(
            np.where(constant, self.low, self.scaler.mean_), np.where(constant, 0.0, np.sqrt(self.scaler.var_))
        )


class _Seen:
    """What one pass over the rows leaves: rows and target of training and test apart, the features of training."""

    def __init__(self, blocks: Blocks, every_class: bool):
        self.blocks, self.most = blocks, np.inf if every_class else MOST_CLASSES
        self.rows = {False: 0, True: 0}
        self.x, self.y = _Running(), {False: _Running(), True: _Running()}
        self.values: set[float] = set()
        self.whole, self.many = True, False
        self.content = hashlib.sha256()

    def add(self, block: int, x: np.ndarray, y: np.ndarray, held_out: slice) -> None:
        for array in (x, y):
            self.content.update(np.ascontiguousarray(array).view(np.uint8).data)
        y = y.reshape(len(y), 1).astype(np.float64)
        self._require_finite(block, x, y)
        self.whole = self.whole and bool((y == np.floor(y)).all())
        if self.whole and not self.many:
            self.values |= set(np.unique(y).tolist())
            self.many = len(self.values) > self.most
        self.x.add(_chosen(x, held_out, False).astype(np.float64))
        for held in (False, True):
            self.y[held].add(rows := _chosen(y, held_out, held))
            self.rows[held] += len(rows)

    def baseline(self, scale: tuple[float, ...]) -> float:
        """The mean squared error of predicting the training mean, in the target's scale."""
        if not scale:
            return float("nan")
        train, test = self.y[False].scaler, self.y[True].scaler
        return float(((test.var_ + (test.mean_ - train.mean_) ** 2) / scale[0] ** 2)[0])

    def _require_finite(self, block: int, x: np.ndarray, y: np.ndarray) -> None:
        if np.isfinite(x).all() and np.isfinite(y).all():
            return
        for name, column in (*zip(self.blocks.features, x.T, strict=True), (self.blocks.target, y)):
            bad = np.flatnonzero(~np.isfinite(column))
            if len(bad):
                first = sum(self.blocks.lengths[:block]) + int(bad[0])
                raise ValueError(f"column {name!r} is NaN or infinite in row {first + 1}: correct or drop such rows")


def _chosen(rows: np.ndarray, held_out: slice, held: bool) -> np.ndarray:
    return rows[held_out] if held else np.delete(rows, held_out, axis=0)


def _part(blocks: Blocks, held_out: list[slice], held: bool, encoding: Encoding, classes: Sequence[float]) -> Blocks:
    """The rows that are held out or those that are not, standardised as they are read; empty blocks are left out."""
    held_rows = [stretch.stop - stretch.start for stretch in held_out]
    lengths = [many if held else rows - many for rows, many in zip(blocks.lengths, held_rows, strict=True)]
    kept = [i for i, rows in enumerate(lengths) if rows]
    labels = np.asarray(classes)

    def read(i: int) -> Rows:
        x, y = (_chosen(a, held_out[kept[i]], held).astype(np.float64) for a in blocks.read(kept[i]))
        x, y = standardise(x, encoding.mean, encoding.scale, encoding.features), y.reshape(-1, 1)
        if encoding.classes:
            found = np.searchsorted(labels, y[:, 0]).clip(max=len(labels) - 1)
            strange = y[labels[found] != y[:, 0], 0]
            if len(strange):
                raise ValueError(
                    f"target {encoding.target!r} holds {strange[0]:g}, not among the classes {listed(encoding.classes)}"
                )
            return x, found.astype(np.int32)
        return x, standardise(y, encoding.target_mean, encoding.target_scale, (encoding.target,))

    fingerprint = f"{blocks.fingerprint}, {sum(lengths)} rows of it"
    return replace(blocks, lengths=tuple(lengths[i] for i in kept), read=read, fingerprint=fingerprint)
