"""Checkpoints: all that training carries, on disk whole or not at all, and back again bit for bit.

A checkpoint is one .npz file of a run's folder: every array of the `TrainState` as bytes, the history so far, what it was made
for, and a SHA-256 digest of it all. It is written beside its place, forced to the disk and moved there, so that a kill or a
power cut at any moment leaves the old ones and at most a file named .part. An epoch's shuffle is drawn from the state's key:
training that goes on from a checkpoint takes the very steps that it would have taken.
"""

import hashlib
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

FORMAT = 1
LATEST, BEST = "checkpoint-{epoch:06d}.npz", "best.npz"


@dataclass(frozen=True)
class Checkpoints:
    """Where, and how often, `fit` keeps what it would need to go on.

    Attributes:
        folder: made if it is missing.
        every_epochs: a checkpoint after so many epochs,
        every_minutes: and after so many minutes, at the next end of an epoch; None for never.
        keep: how many of the latest are kept, besides the best: that with the lowest validation loss, or loss.
        made_for: what must be the same for training to go on, by name, beside what `fit` knows itself.
        on_start: called with the history that training goes on from, none or a checkpoint's, once nothing can be refused.

    >>> Checkpoints("runs/houses", every_epochs=10).keep
    3
    """

    folder: str | os.PathLike[str]
    every_epochs: int | None = 1
    every_minutes: float | int | None = None
    keep: int = 3
    made_for: Mapping[str, str] = field(default_factory=dict)
    on_start: Callable[[list[dict[str, Any]]], Any] | None = None


class Restored(NamedTuple):
    """What a checkpoint held, and one line for each newer one that could not be used."""

    state: Any
    history: list[dict[str, Any]]
    path: Path
    refused: list[str]


class DamagedError(ValueError):
    """A file that is not, or no longer, the checkpoint that was written."""


def save(folder: Path, state: Any, history: Sequence[dict[str, Any]], made_for: dict[str, str], keep: int = 3) -> Path:
    """Write a checkpoint, and then delete those that are neither among the latest nor the best.

    Args:
        folder: where; made if it is missing.
        state: a pytree of arrays and `jax.random` keys.
        history: a row for each epoch so far; the last one's "epoch" names the file.
        made_for: what must be the same for training to go on, by name.
        keep: how many of the latest are kept.

    Raises:
        OSError: the disk is full, or the folder cannot be written; the checkpoints that were there still are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LATEST.format(epoch=history[-1]["epoch"])
    content = _packed(state, history, made_for)
    write_whole(path, content)
    if _score(history[-1]) <= min(map(_score, history)):
        write_whole(folder / BEST, content)
    for old in _newest_first(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def load(folder: Path, like: Any, made_for: dict[str, str]) -> Restored | None:
    """Read the newest checkpoint that is whole; None where there is none at all.

    Args:
        folder: where they are.
        like: a state of the same structure, shapes and dtypes; `jax.eval_shape` of what makes one will do.
        made_for: as they were saved with.

    Raises:
        ValueError: it was made for something else, and what; or every one is damaged, and how.
    """
    refused: list[str] = []
    for path in _newest_first(folder):
        try:
            about, arrays = _unpacked(path)
        except DamagedError as error:
            refused.append(str(error))
            continue
        _require_made_for(path, about["made_for"], made_for)
        return Restored(_restored(path, about, arrays, like), about["history"], path, refused)
    if refused:
        raise ValueError("no checkpoint can be used: " + "; ".join(refused))
    return None


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all, and still there after a power cut."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # the new name must reach the disk too
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


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


def _packed(state, history, made_for) -> bytes:
    leaves = {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    about = {
        "format": FORMAT,
        "made_for": made_for,
        "history": list(history),
        # as bytes with their dtype beside them: NumPy's own format does not know bfloat16
        "leaves": {name: [str(leaf.dtype), leaf.shape] for name, leaf in leaves.items()},
    }
    content = io.BytesIO()
    arrays = {f"{i}": np.frombuffer(leaf.tobytes(), np.uint8) for i, leaf in enumerate(leaves.values())}
    np.savez(content, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    # an archive ends in a comment: the digest of every byte before it
    body = content.getvalue()[:-2]
    return body + _comment(body)


def _comment(body: bytes) -> bytes:
    digest = hashlib.sha256(body).hexdigest().encode()
    return len(digest).to_bytes(2, "little") + digest


def _unpacked(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    content = path.read_bytes()
    body, comment = content[:-66], content[-66:]
    if _comment(body) != comment:
        raise DamagedError(f"{path} is damaged: its digest is not that of its {len(content):,} bytes")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        about = json.loads(arrays["about"].tobytes())
        if about["format"] != FORMAT:
            raise ValueError(f"{path} has format {about['format']}, this version reads {FORMAT}")
        leaves = enumerate(about["leaves"].values())
        return about, [arrays[f"{i}"].view(jnp.dtype(dtype)).reshape(shape) for i, (dtype, shape) in leaves]


def _restored(path, about, arrays, like):
    wanted = {jax.tree_util.keystr(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(like)}
    given = dict(zip(about["leaves"], arrays, strict=True))
    for name in [*wanted, *given]:
        if name not in wanted or name not in given:
            where = "only the checkpoint" if name in given else "only this training"
            raise ValueError(f"{path} is of another network or optimizer: {where} has {name}")
        key = jnp.issubdtype(wanted[name].dtype, jax.dtypes.prng_key)
        shape = jax.eval_shape(jax.random.key_data, wanted[name]).shape if key else wanted[name].shape
        dtype = jnp.dtype("uint32") if key else wanted[name].dtype
        if (given[name].shape, given[name].dtype) != (shape, dtype):
            found = f"{name} is {given[name].dtype}{list(given[name].shape)}, here {dtype}{list(shape)}"
            raise ValueError(f"{path} is of another network or optimizer: {found}")
    leaves = [
        jax.random.wrap_key_data(jnp.asarray(given[name]), impl=jax.random.key_impl(_key_like(leaf)))
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else jnp.asarray(given[name])
        for name, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _key_like(leaf):
    return leaf if isinstance(leaf, jax.Array) else jax.random.key(0)


def _require_made_for(path, saved, made_for) -> None:
    for name in made_for:
        if name in saved and saved[name] != made_for[name]:
            raise ValueError(
                f"{path} was made for another {name}, {saved[name]}, and this is {made_for[name]}: give another folder, or "
                "go on with what it was made for"
            )


def _plain(leaf) -> np.ndarray:
    key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if key else leaf)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(LATEST.split("{", 1)[0] + "*.npz"), reverse=True)


def _score(row) -> float:
    score = row.get("validation_loss", row["loss"])
    return score if score == score else float("inf")


class Keeper:
    """What `fit` asks to save and to load; it counts minutes from the last save, or from its making."""

    def __init__(self, checkpoints: Checkpoints, made_for: dict[str, str]):
        self.checkpoints, self.made_for = checkpoints, made_for
        self.folder, self.saved_at, self.epoch = Path(checkpoints.folder), time.monotonic(), 0

    def load(self, like: Any) -> Restored | None:
        """The newest checkpoint that is whole; what could not be used is warned of."""
        restored = load(self.folder, like, self.made_for)
        if restored:
            self.epoch = restored.history[-1]["epoch"]
            for line in restored.refused:
                warnings.warn(f"{line}: going on from {restored.path.name}", RuntimeWarning, stacklevel=3)
        if self.checkpoints.on_start:
            self.checkpoints.on_start(restored.history if restored else [])
        return restored

    def due(self, epoch: int) -> bool:
        """Whether to save after this epoch."""
        every, minutes = self.checkpoints.every_epochs, self.checkpoints.every_minutes
        waited = time.monotonic() - self.saved_at
        return bool(every and epoch % every == 0) or (minutes is not None and waited >= 60 * minutes)

    def save(self, state: Any, history: Sequence[dict[str, Any]]) -> None:
        """Write a checkpoint now."""
        save(self.folder, state, history, self.made_for, self.checkpoints.keep)
        self.saved_at, self.epoch = time.monotonic(), history[-1]["epoch"]

    def save_last(self, state: Any, history: Sequence[dict[str, Any]]) -> None:
        """Write a checkpoint of the last good epoch, unless it has one."""
        good = [row for row in history if math.isfinite(_score(row)) and math.isfinite(row["loss"])]
        if good and good[-1]["epoch"] > self.epoch:
            self.save(state, good)
