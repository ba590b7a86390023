"""Checkpoints as one .npz file each, written by one process; see checkpoints.py.

Every array as bytes, what stands beside them as JSON, and a SHA-256 digest of it all. A file is written beside its place,
forced to the disk and moved there, so that a kill or a power cut at any moment leaves the old ones and at most a file named
.part. Of several processes the first writes, and reads for all: their folders need not be the same.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.scaling.processes import from_first
from jaxbackprop.training.checkpoints import DamagedError, Kept, Restored, about_of, as_plain, from_plain, require_same
from jaxbackprop.training.disk import write_whole

LATEST, BEST = "checkpoint-{epochs:06d}-{position:09d}.npz", "best.npz"  # epochs done, steps of the next one


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


def _gathered(leaf) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.asarray(leaf)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(LATEST.split("{", 1)[0] + "*.npz"), reverse=True)
