"""Data larger than memory made ready to train on: a folder with x.npy and y.npy, or one of .parquet files.

What is done to a table in memory is done here block by block, by the same rules, in one pass: means, scales, classes, and what
cannot be used. Of each block a stretch of rows, drawn from the seed, is held out; means and scales are those of the others.
Memory holds a block. Columns are numbers, without gaps.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxbackprop.data.blocks import Blocks, Rows
from jaxbackprop.data.encoding import Bounds, Encoding, Moments, moments_from, scaling, standardise
from jaxbackprop.data.formats import open_npy, open_parquet
from jaxbackprop.data.saying import listed, naming, nearest, rows_in
from jaxbackprop.data.sheets import pandas_index, parquet_files
from jaxbackprop.data.sources import BUNDLED
from jaxbackprop.data.targets import MOST_CLASSES, recognised
from jaxbackprop.data.values import EXACT, LOST, arrow
from jaxbackprop.spelling import extra


def is_stored(source: str | os.PathLike[str]) -> bool:
    """Whether a source is a folder, whose rows are read as they are needed. A bundled name wins, as over a file.

    >>> is_stored("digits")
    False
    """
    known = isinstance(source, str | os.PathLike) and str(source) not in ("", *BUNDLED)
    return known and os.path.isdir(source)


def holds_more_than_numbers(folder: Path) -> bool:
    """Whether the .parquet files of a folder have columns of text or dates, or gaps, as far as their footers tell."""
    is_ = arrow(".parquet files")[0].types
    for path in folder.glob("*.parquet"):
        with naming(path), importlib.import_module("pyarrow.parquet").ParquetFile(path) as found:
            schema, footer = found.schema_arrow, found.metadata
            types = [schema.field(name).type for name in {*schema.names} - {*pandas_index(schema)}]
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            told = [group.column(j).statistics for group in groups for j in range(footer.num_columns)]
        if not all(is_.is_integer(t) or is_.is_floating(t) or is_.is_boolean(t) for t in types):
            return True
        if any(known and known.null_count for known in told):
            return True
    return False


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
    whole, values = (
        True,
        set(),
    )  # of the target: whether all are whole, and then the different ones, unless they are many
    most = np.inf if task == "classification" else MOST_CLASSES
    train, test, content = _Running(), _Running(), hashlib.sha256()
    for i in range(len(blocks.lengths)):
        x, y = blocks.read(i)
        for array in (x, y):
            content.update(np.ascontiguousarray(array).view(np.uint8).data)
        rows = np.column_stack([x, y]).astype(np.float64)
        _require_finite(blocks, i, rows)
        whole = whole and bool((rows[:, -1] == np.floor(rows[:, -1])).all())
        if whole and len(values) <= most:
            values |= set(np.unique(rows[:, -1]).tolist())
        train.add(_chosen(rows, held_out[i], False))
        test.add(_chosen(rows[:, -1:], held_out[i], True))
        if progress:
            progress(i + 1, len(blocks.lengths))
    if train.rows < 2 or not test.rows:
        raise ValueError(f"{folder} has {rows_in(blocks.examples)}: expected at least 5, to train and to test on")
    different = len(values) if whole and len(values) <= most else None
    if different == 1:
        raise ValueError(f"target {blocks.target!r} is {values.pop():g} in every row: name a target that varies")
    task, found = recognised(blocks.target, blocks.examples, different, whole, task)

    classes = tuple(sorted(values)) if task == "classification" else ()
    (*mean, y_mean), (*size, y_size) = train.moments()
    mean, size = scaling(scale, blocks.features, lambda: (tuple(mean), tuple(size)))
    of_target, baseline = ((), ()), float("nan")
    if not classes:
        of_target = scaling(scale, (blocks.target,), lambda: ((y_mean,), (y_size,)))
        baseline = test.mean_square_from(train) / of_target[1][0] ** 2
    labels = tuple(str(int(value)) for value in classes)
    encoding = Encoding(task, blocks.features, mean, size, blocks.target, labels, *of_target)
    how = f", {len(classes)} classes" if classes else ""
    note = f"{task}{how} (target {blocks.target!r} {found}); read as it is needed, in {len(blocks.lengths):,} blocks"
    sizes = np.maximum(-train.low, train.high)
    big = [name for name, largest in zip((*blocks.features, blocks.target), sizes, strict=True) if largest > EXACT]
    note += f"; {listed(big)} may hold {LOST}" if big else ""
    # every byte was read: a checkpoint of other rows, or of the same in another split, is known as such
    blocks = replace(blocks, fingerprint=f"{content.hexdigest()[:16]}, seed {seed}, held out {test_fraction:g}")
    kept, tested = (_part(blocks, held_out, held, encoding, classes) for held in (False, True))
    return folder.resolve().name, encoding, kept, tested, note, baseline


class _Running:
    """Mean and deviation of columns, the target last, of which rows come part by part; scikit-learn keeps the sums."""

    def __init__(self):
        self.scaler: Any = extra("sklearn.preprocessing", "scikit-learn", "reading folders").StandardScaler()
        self.rows, self.low, self.high = 0, np.array(np.inf), np.array(-np.inf)

    def add(self, rows: np.ndarray) -> None:
        if len(rows):
            self.scaler.partial_fit(rows)
            self.rows += len(rows)
            self.low, self.high = np.minimum(self.low, rows.min(0)), np.maximum(self.high, rows.max(0))

    def moments(self) -> Moments:
        return moments_from(self.scaler.mean_, np.sqrt(self.scaler.var_), self.low, self.high)

    def mean_square_from(self, other: _Running) -> float:
        """The mean squared error, in the last column, of predicting the others' mean."""
        return float(self.scaler.var_[-1] + (self.scaler.mean_[-1] - other.scaler.mean_[-1]) ** 2)


def _require_finite(blocks: Blocks, block: int, rows: np.ndarray) -> None:
    bad = ~np.isfinite(rows)
    if bad.any():
        j = int(np.argmax(bad.any(0)))
        row = sum(blocks.lengths[:block]) + int(np.argmax(bad[:, j])) + 1
        name = (*blocks.features, blocks.target)[j]
        raise ValueError(f"column {name!r} is NaN or infinite in row {row}: correct or drop such rows")


def read_folder(folder: Path, encoding: Encoding) -> Blocks:
    """A folder's rows with their target, encoded as those were that a network was trained on.

    Raises:
        ValueError: a column is missing, or the network takes more than numbers; when read: a class that training did not see.
    """
    names = encoding.features
    if names != tuple(column.name for column in encoding.used):  # an input for labels, or one that tells of gaps
        raise ValueError(f"{folder} has numbers without gaps, and training had more: give a file, as in training")
    blocks = _opened(folder, encoding.target, ())
    lacking = [name for name in names if name not in blocks.features]
    if lacking:
        raise ValueError(f"{folder} lacks {listed(lacking)}{nearest(lacking[0], blocks.features)}")
    places = [blocks.features.index(name) for name in names]

    def read(i: int) -> Rows:
        x, y = blocks.read(i)
        return x[:, places], y

    whole = [slice(0, rows) for rows in blocks.lengths]
    ordered = replace(blocks, read=read, features=names)
    return _part(ordered, whole, True, encoding, [float(label) for label in encoding.classes])


def _opened(folder: Path, target: str | None, drop: Sequence[str]) -> Blocks:
    arrays = [folder / name for name in ("x.npy", "y.npy")]
    if not all(path.is_file() for path in arrays):
        parquet_files(folder)
        return open_parquet(folder, target, drop)
    if target not in (None, "y"):
        raise ValueError(f"{folder} holds x.npy and y.npy, so its target is 'y', not {target!r}: leave the target out")
    if drop:
        raise ValueError(f"{folder} holds x.npy, whose columns have no names: there is nothing to drop")
    blocks = open_npy(*arrays)
    if blocks.like[1].ndim == 2 and blocks.like[1].shape[1] != 1:
        raise ValueError(f"{arrays[1]} has {blocks.like[1].shape[1]} columns: expected one value a row")
    return blocks


def _held_out(blocks: Blocks, fraction: float, seed: int) -> list[slice]:
    """For each block which rows are held out: a stretch, so long that the share is right up to each block's end."""
    found, done = [], 0
    for i, rows in enumerate(blocks.lengths):
        many = int((done + rows) * fraction + 0.5) - int(done * fraction + 0.5)
        start = int(np.random.default_rng((seed, i)).integers(0, rows - many + 1))
        found.append(slice(start, start + many))
        done += rows
    return found


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
        if not encoding.classes:
            return x, standardise(y, encoding.target_mean, encoding.target_scale, (encoding.target,))
        found = np.searchsorted(labels, y[:, 0]).clip(max=len(labels) - 1)
        strange = y[labels[found] != y[:, 0], 0]
        if len(strange):
            known = listed(encoding.classes)
            raise ValueError(f"target {encoding.target!r} holds {strange[0]:g}, not among the classes {known}")
        return x, found.astype(np.int32)

    fingerprint = f"{blocks.fingerprint}, {sum(lengths)} rows of it"
    return replace(blocks, lengths=tuple(lengths[i] for i in kept), read=read, fingerprint=fingerprint)
