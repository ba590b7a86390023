"""Checkpoints: all that training carries, on disk whole or not at all, and back again bit for bit.

A checkpoint holds every array of the `TrainState`, the history so far, and what it was made for. An epoch's shuffle is drawn
from the state's key: training that goes on from a checkpoint, at the end of an epoch or within one, takes the very steps that
it would have taken. How it lies on the disk is a store's matter: npz_store.py, orbax_store.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.spelling import unknown
from jaxbackprop.words import require_positive

FORMAT = 1
STORES = ("npz", "orbax")


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
        made_for: what must be the same for training to go on, by name, beside what `fit` knows itself. What names that begin
            with "optimizer" say may change after a divergence.
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


class DamagedError(ValueError):
    """A checkpoint that is not, or no longer, what was written."""


class Kept(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        state: a pytree of arrays and `jax.random` keys.
        history: a row for each epoch so far.
        made_for: what must be the same for training to go on, by name.
    """

    state: Any
    history: Sequence[dict[str, Any]]
    made_for: dict[str, str]

    @property
    def position(self) -> int:
        """Steps taken since the last of these epochs, where the state says so."""
        return int(getattr(self.state, "position", 0))

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


def about_of(kept: Kept) -> dict[str, Any]:
    """What stands beside the arrays, as plain JSON."""
    leaves = described(as_plain(kept.state))
    return {"format": FORMAT, "made_for": kept.made_for, "history": list(kept.history), "leaves": leaves}


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


def _score(row) -> float:
    score = row.get("validation_loss", row["loss"])
    return score if score == score else float("inf")
