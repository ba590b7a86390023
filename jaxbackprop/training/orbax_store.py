"""Checkpoints by Orbax (extra `orbax`): each process writes the parts of the arrays that it holds, on a disk that all share.

For parameters that one process should not gather; `Checkpoints(folder, store="orbax")`. What a checkpoint holds, and what is
refused, is as in checkpoints.py. Orbax makes each visible only when it is whole. That nothing in it was altered since is
seen by a fingerprint of every array, computed where its parts are:

    Σ_i (byte_i + 1) m_i  mod 2³²,     m_i odd and different from place to place

so that any one byte that changes changes the sum.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from operator import mul
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.spelling import extra
from jaxbackprop.training.checkpoints import DamagedError, Kept, Restored, about_of, as_plain, from_plain, require_same

EPOCH = 10**9  # Orbax numbers checkpoints: epochs done · EPOCH + steps of the next one


def save(folder: Path, kept: Kept, keep: int = 3, best: Kept | None = None) -> Path:
    """Write a checkpoint, in every process; Orbax then deletes those that are not among the latest. See `npz_store.save`."""
    for place, one, many in [*([(folder / "best", best, 1)] if best else []), (folder, kept, keep)]:
        step, plain = one.epochs * EPOCH + one.position, as_plain(one.state)
        about = about_of(one) | {"fingerprints": np.asarray(_fingerprints(jax.tree.leaves(plain))).tolist()}
        with _manager(place, many) as manager:
            for later in [later for later in manager.all_steps() if later >= step]:
                manager.delete(later)  # it is damaged, or training would not be here; Orbax saves nothing before it
            if not manager.save(step, args=_args(plain, about)):
                raise OSError(f"Orbax has not saved {place / str(step)}")
    return folder.absolute() / str(kept.epochs * EPOCH + kept.position)


def load(folder: Path, like: Any, made_for: dict[str, str]) -> Restored | None:
    """Read the newest checkpoint that is whole into arrays laid out as those of `like`; None where there is none at all.

    Raises:
        ValueError: as `npz_store.load`.
    """
    refused: list[str] = []
    if not folder.is_dir():
        return None
    with _manager(folder, None) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            path = folder.absolute() / str(step)
            try:
                about, plain = _read(manager, step, path, like, made_for)
            except DamagedError as error:
                refused.append(str(error))
            else:
                return Restored(from_plain(plain, like), about["history"], path, refused)
    if refused:
        raise ValueError("no checkpoint can be used: " + "; ".join(refused))
    return None


def _read(manager, step: int, path: Path, like: Any, made_for: dict[str, str]) -> tuple[dict[str, Any], Any]:
    args, wanted = _orbax().args, as_plain(like)
    with _as_written(path):
        about = json.loads(manager.restore(step, args=args.Composite(about=args.JsonRestore()))["about"]["text"])
    require_same(path, about, made_for, wanted)
    abstract = jax.tree.map(_orbax().utils.to_shape_dtype_struct, wanted)
    with _as_written(path):
        plain = manager.restore(step, args=args.Composite(state=args.StandardRestore(abstract)))["state"]
    if np.asarray(_fingerprints(jax.tree.leaves(plain))).tolist() != about["fingerprints"]:
        raise DamagedError(f"{path} is damaged: its fingerprints are not those of its arrays")
    return about, plain


@contextmanager
def _as_written(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever Orbax says of a file that is not what it wrote
        first = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        raise DamagedError(f"{path} is damaged: {first[:200]}") from error


def _orbax() -> Any:
    return extra("orbax.checkpoint", "Orbax", "store='orbax'", "orbax")


def _manager(folder: Path, keep: int | None):
    ocp = _orbax()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=False, create=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _args(plain, about):
    ocp, text = _orbax(), {"text": json.dumps(about)}  # one string: Orbax's own JSON knows neither NaN nor names' order
    return ocp.args.Composite(state=ocp.args.StandardSave(plain), about=ocp.args.JsonSave(text))


@jax.jit
def _fingerprints(leaves):
    return jnp.stack([_fingerprint(jnp.asarray(leaf)) for leaf in leaves])


def _fingerprint(leaf):
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    in_bytes = jax.lax.bitcast_convert_type(leaf, jnp.uint8)
    if not in_bytes.size:
        return jnp.uint32(0)
    strides = [reduce(mul, in_bytes.shape[axis + 1 :], 1) for axis in range(in_bytes.ndim)]
    place = jnp.zeros(in_bytes.shape, jnp.uint32)
    for axis, stride in enumerate(strides):
        place += jax.lax.broadcasted_iota(jnp.uint32, in_bytes.shape, axis) * jnp.uint32(stride % 2**32)
    mixed = place * jnp.uint32(2654435761)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2246822519)
    return jnp.sum((in_bytes.astype(jnp.uint32) + 1) * (mixed << 1 | 1), dtype=jnp.uint32)
