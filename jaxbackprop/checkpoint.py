"""Checkpoints: all that training carries, on disk whole or not at all, and back again bit for bit.

A checkpoint is one .npz file of a run's folder: every array of the `TrainState` as bytes, the history so far, what it was made
for, and a SHA-256 digest of it all. It is written beside its place, forced to the disk and moved there, so that a kill or a
power cut at any moment leaves the old ones and at most a file named .part. An epoch's shuffle is drawn from the state's key:
training that goes on from a checkpoint, at the end of an epoch or within one, takes the very steps that it would have taken.

Of several processes the first writes, and reads for all: their folders need not be the same.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jaxbackprop.scaling.processes import from_first
from jaxbackprop.words import require_positive, unknown

FORMAT = 1
LATEST, BEST = "checkpoint-{epochs:06d}-{position:09d}.npz", "best.npz"  # epochs done, steps of the next one


@dataclass(frozen=True)
class Checkpoints:
    """Where, and how often, `fit` keeps what it would need to go on.

    Attributes:
        folder: made if it is missing.
        every_epochs: a checkpoint after so many epochs,
        every_minutes: and after so many minutes, in the middle of a long epoch too; None for never.
        keep: how many of the latest are kept, besides the best: of the epoch with the lowest validation loss, or loss. It is
            held in memory until the next save, and is what training goes on from where every other one is damaged.
        store: "npz", one file a checkpoint, written by one process; or "orbax" (extra `orbax`), a folder a checkpoint, to
            which each process writes the parts that it holds of parameters that are shared out.
        made_for: what must be the same for training to go on, by name, beside what `fit` knows itself.
        on_start: called with the history that training goes on from, none or a checkpoint's, once nothing can be refused.

    >>> Checkpoints("runs/houses", every_epochs=10).keep
    3
    """

    folder: str | os.PathLike[str]
    every_epochs: int | None = 1
    every_minutes: float | int | None = None
    keep: int = 3
    store: str = "npz"
    made_for: Mapping[str, str] = field(default_factory=dict)
    on_start: Callable[[list[dict[str, Any]]], Any] | None = None

    def __post_init__(self):
        """Refuse what can never be kept."""
        if self.store not in STORES:
            raise ValueError(unknown("store", str(self.store), STORES))
        require_positive("keep", self.keep)
        if self.every_epochs is not None:
            require_positive("every_epochs", self.every_epochs)
        if self.every_minutes is not None and not self.every_minutes > 0:
            raise ValueError(f"every_minutes is {self.every_minutes!r}: expected a positive number, or None")


STORES = ("npz", "orbax")


class Kept(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: a pytree of arrays and `jax.random` keys.
        history: a row for each epoch so far.
        made_for: what must be the same for training to go on, by name.
        position: steps taken since the last of these epochs.
    """

    state: Any
    history: Sequence[dict[str, Any]]
    made_for: dict[str, str]
    position: int = 0

    @property
    def epochs(self) -> int:
        """Whole epochs so far."""
        return self.history[-1]["epoch"] if self.history else 0

    @property
    def is_best(self) -> bool:
        """Whether an epoch has just ended, and it is the best so far: by its validation loss, or its loss."""
        return self.position == 0 and self.epochs > 0 and _score(self.history[-1]) <= min(map(_score, self.history))


class Restored(NamedTuple):
    """What a checkpoint held, and one line for each newer one that could not be used."""

    state: Any
    history: list[dict[str, Any]]
    path: Path
    refused: list[str]


class DamagedError(ValueError):
    """A file that is not, or no longer, the checkpoint that was written."""


def save(folder: Path, kept: Kept, keep: int = 3, best: Kept | None = None) -> Path:
    """Write a checkpoint, and then delete those before it that are neither among the latest nor the best.

    Args:
        folder: where; made if it is missing.
        kept: what it shall hold.
        keep: how many of the latest are kept.
        best: what is the best so far, if it is not in the folder.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the checkpoints that were there still are.
    """
    path = folder / LATEST.format(epochs=kept.epochs, position=kept.position)
    content = _packed(kept)  # in every process, where each holds a part
    best_content = content if best is kept else best and _packed(best)
    if jax.process_index() > 0:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    if best_content:
        write_whole(folder / BEST, best_content)
    write_whole(path, content)
    # a newer one is damaged, or training would not be here: it must not push a whole one out
    for old in [old for old in _newest_first(folder) if old.name <= path.name][keep:]:
        old.unlink(missing_ok=True)
    return path


def load(folder: Path, like: Any, made_for: dict[str, str]) -> Restored | None:
    """Read the newest checkpoint that is whole; None where there is none at all.

    Args:
        folder: where they are.
        like: a state of the same structure, shapes and dtypes.
        made_for: as they were saved with.

    Raises:
        ValueError: it was made for something else, and what; or every one is damaged, and how.
    """
    # one line of JSON, then the file: the first process reads, all go on from it
    about, _, content = from_first(_newest_whole(folder) if jax.process_index() == 0 else b"").partition(b"\n")
    name, refused = json.loads(about)
    if name is None and refused:
        raise ValueError("no checkpoint can be used: " + "; ".join(refused))
    if name is None:
        return None
    path = folder / name
    about, arrays = _unpacked(path, content)
    require_same(path, about, made_for, as_plain(like))
    state = jax.tree.unflatten(jax.tree.structure(like), arrays)
    return Restored(from_plain(state, like), about["history"], path, refused)


def _newest_whole(folder: Path) -> bytes:
    for part in folder.glob("*.npz.part"):  # of a save that was killed
        part.unlink(missing_ok=True)
    refused: list[str] = []
    for path in [*_newest_first(folder), *folder.glob(BEST)]:
        try:
            content = path.read_bytes()
            _unpacked(path, content)
        except (DamagedError, OSError) as error:
            refused.append(str(error))
            continue
        return json.dumps([path.name, refused]).encode() + b"\n" + content
    return json.dumps([None, refused]).encode() + b"\n"


def write_whole(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Write a file so that it is there whole or not at all, and still there after a power cut; nobody has more than `mode`."""
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)  # of a save that was killed: its mode would stay
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)  # the new name must reach the disk too


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    if hasattr(os, "O_DIRECTORY"):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def digest_of(*arrays: ArrayLike) -> str:
    """A fingerprint of arrays: their dtypes, shapes and bytes.

    >>> digest_of(np.zeros(3)) == digest_of(np.zeros(3)), digest_of(np.zeros(3)) == digest_of(np.zeros((3, 1)))
    (True, False)
    """
    sha = hashlib.sha256()
    for array in map(np.asarray, arrays):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return sha.hexdigest()


def about_of(kept: Kept) -> dict[str, Any]:
    """What stands beside the arrays, as plain JSON."""
    leaves = described(as_plain(kept.state))
    return {"format": FORMAT, "made_for": kept.made_for, "history": list(kept.history), "leaves": leaves}


def _packed(kept: Kept) -> bytes:
    about, content = about_of(kept), io.BytesIO()
    # as bytes with their dtype beside them: NumPy's own format does not know bfloat16
    leaves = enumerate(map(_gathered, jax.tree.leaves(as_plain(kept.state))))
    arrays: dict[str, Any] = {f"{i}": np.frombuffer(leaf.tobytes(), np.uint8) for i, leaf in leaves}
    np.savez(content, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    # an archive ends in a comment: the digest of every byte before it
    body = content.getvalue()[:-2]
    return body + _comment(body)


def _comment(body: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest().encode()
    return len(digest).to_bytes(2, "little") + digest


def _unpacked(path: Path, content: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    body, comment = content[:-66], content[-66:]
    if _comment(body) != comment:
        raise DamagedError(f"{path} is damaged: its digest is not that of its {len(content):,} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        leaves = enumerate(about["leaves"].values())
        return about, [arrays[f"{i}"].view(jnp.dtype(dtype)).reshape(shape) for i, (dtype, shape) in leaves]


def described(plain: Any) -> dict[str, list]:
    """Name, dtype and shape of each array of a pytree."""
    leaves = jax.tree_util.tree_leaves_with_path(plain)
    return {jax.tree_util.keystr(path): [str(leaf.dtype), list(leaf.shape)] for path, leaf in leaves}


def require_same(path: Path, about: dict[str, Any], made_for: dict[str, str], plain: Any) -> None:
    """Refuse a checkpoint of another version, one made for something else, and one whose arrays are not this training's."""
    if about["format"] != FORMAT:
        raise ValueError(f"{path} has format {about['format']}, this version reads {FORMAT}")
    for name, saved in about["made_for"].items():
        if name in made_for and saved != made_for[name]:
            raise ValueError(
                f"{path} was made for another {name}, {saved}, and this is {made_for[name]}: give another folder, or go on "
                "with what it was made for"
            )
    given, wanted = about["leaves"], described(plain)
    for name in [*wanted, *given]:
        if name not in wanted or name not in given:
            where = "only the checkpoint" if name in given else "only this training"
            raise ValueError(f"{path} is of another network or optimizer: {where} has {name}")
        if given[name] != wanted[name]:
            found = " here ".join(f"{dtype}{shape}," for dtype, shape in (given[name], wanted[name])).rstrip(",")
            raise ValueError(f"{path} is of another network or optimizer: {name} is {found}")


def as_plain(state: Any) -> Any:
    """The state with keys as the numbers that they are made of."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf, state)


def from_plain(plain: Any, like: Any) -> Any:
    """Undo `as_plain`."""
    return jax.tree.map(
        lambda leaf, was: (
            jax.random.wrap_key_data(jnp.asarray(leaf), impl=jax.random.key_impl(was))
            if _is_key(was)
            else jnp.asarray(leaf)
        ),
        plain,
        like,
    )


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _gathered(leaf) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(LATEST.split("{", 1)[0] + "*.npz"), reverse=True)


def _score(row) -> float:
    score = row.get("validation_loss", row["loss"])
    return score if score == score else float("inf")


class Keeper:
    """What `fit` asks to save and to load; it counts minutes from the last save, or from its making."""

    def __init__(self, checkpoints: Checkpoints, made_for: dict[str, str]):
        self.checkpoints, self.made_for = checkpoints, made_for
        self.folder, self.saved_at, self.saved = Path(checkpoints.folder), time.monotonic(), (0, 0)
        self.best: Kept | None = None  # not on disk yet

    def load(self, like: Any, epochs: int) -> Restored | None:
        """The newest checkpoint that is whole, of at most so many epochs; what could not be used is warned of."""
        restored = self._store().load(self.folder, like, self.made_for)
        if restored:
            done = len(restored.history) + (1 if restored.state.position else 0)
            if done > epochs:
                raise ValueError(
                    f"{restored.path} is of epoch {done}: expected epochs of at least {done}, not {epochs}"
                )
            self.saved = len(restored.history), int(restored.state.position)
            for line in restored.refused:
                warnings.warn(f"{line}: going on from {restored.path.name}", RuntimeWarning, stacklevel=3)
        return restored

    def begin(self, history: list[dict[str, Any]]) -> None:
        """Say what training goes on from, now that nothing can be refused any more."""
        if self.checkpoints.on_start:
            self.checkpoints.on_start(history)

    def _store(self) -> Any:
        """The module that saves and loads: this one, or that of Orbax."""
        return importlib.import_module("jaxbackprop.orbax_store" if self.checkpoints.store == "orbax" else __name__)

    def due(self, epoch: int | None) -> bool:
        """Whether to save after this epoch; None: within one."""
        every, minutes = self.checkpoints.every_epochs, self.checkpoints.every_minutes
        waited = time.monotonic() - self.saved_at
        return bool(every and epoch and epoch % every == 0) or (minutes is not None and waited >= 60 * minutes)

    def note(self, progress: Any, history: Sequence[dict[str, Any]]) -> None:
        """Hold what the best epoch so far has left until the next save: every one is seen, whether it is saved or not."""
        kept = self._kept(progress, history)
        self.best = kept if kept.is_best else self.best

    def _kept(self, progress: Any, history: Sequence[dict[str, Any]]) -> Kept:
        position = int(progress.position)
        state = progress._replace(position=np.asarray(position, np.int32))
        return Kept(state, list(history), self.made_for, position)

    def save(self, progress: Any, history: Sequence[dict[str, Any]]) -> None:
        """Write a checkpoint now."""
        kept, best = self._kept(progress, history), self.best
        if best and (best.epochs, best.position) == (kept.epochs, kept.position):
            best = kept  # written once
        self._store().save(self.folder, kept, self.checkpoints.keep, best)
        self.saved_at, self.saved, self.best = time.monotonic(), (kept.epochs, kept.position), None

    def save_last(self, progress: Any, history: Sequence[dict[str, Any]]) -> None:
        """Write a checkpoint of where training is, unless there is one; a last row that is not finite is left out."""
        good = [row for row in history if math.isfinite(_score(row)) and math.isfinite(row["loss"])]
        if (len(good), int(progress.position)) > self.saved:
            self.save(progress, good)
