"""What `fit` asks to save and to load, and when; and what a divergence leaves behind.

After a divergence the last good state lies in the folder, and a mark beside it. The same training with another optimizer, such
as one of a lower learning rate, then goes on from there; until it is saved again, the mark stays.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxbackprop.scaling.processes import from_first
from jaxbackprop.training import npz_store, orbax_store
from jaxbackprop.training.checkpoints import Checkpoints, Kept, Restored
from jaxbackprop.training.disk import sync_folder, write_whole
from jaxbackprop.training.epochs import agreed
from jaxbackprop.training.identity import of_any_optimizer, with_settings_of
from jaxbackprop.training.steps import Progress, Row, diverged

DIVERGED = "diverged.json"  # the row of the epoch that was not finite
_STORES = {"npz": npz_store, "orbax": orbax_store}


class Keeper:
    """Saves and loads for one `fit`; it counts minutes from the last save, or from its making."""

    def __init__(self, checkpoints: Checkpoints, made_for: dict[str, str], mesh: Mesh | None = None):
        words = dict(checkpoints.made_for)  # the caller's, which say more than a digest: compared first
        self.checkpoints, self.made_for, self.mesh = checkpoints, words | made_for | words, mesh
        self.folder, self.saved_at, self.saved = Path(checkpoints.folder), time.monotonic(), (0, 0)
        self.store: Any = _STORES[checkpoints.store]
        self.best: Kept | None = None  # not on disk yet

    def load(self, fresh: Progress, epochs: int) -> Restored | None:
        """The newest checkpoint that is whole, of at most so many epochs; what could not be used is warned of."""
        mark = self.folder / DIVERGED
        diverged = from_first(b"1" if jax.process_index() == 0 and mark.is_file() else b"")
        made_for = of_any_optimizer(self.made_for) if diverged else self.made_for
        restored = self.store.load(self.folder, fresh._replace(position=np.zeros((), np.int32)), made_for)
        if restored is None:
            return None
        position = int(restored.state.position)
        done = len(restored.history) + (1 if position else 0)
        if done > epochs:
            raise ValueError(f"{restored.path} is of epoch {done}: expected epochs of at least {done}, not {epochs}")
        self.saved = len(restored.history), position
        for line in restored.refused:
            warnings.warn(f"{line}: going on from {restored.path.name}", RuntimeWarning, stacklevel=3)
        state = restored.state.state
        if diverged:
            state = state._replace(opt_state=with_settings_of(fresh.state.opt_state, state.opt_state))
        return restored._replace(state=restored.state._replace(state=state, position=position))

    def keep_due(self, progress: Progress, history: Sequence[Row], row: Row | None) -> None:
        """Save what is to be saved after an epoch, or after a part of one, which has no row."""
        if diverged(history):
            due = False
        elif row is None:
            due = self._waited_long()
        else:
            self.note(progress, history)
            every = self.checkpoints.every_epochs
            due = bool(every and len(history) % every == 0) or self._waited_long()
        if agreed(self.mesh, due):
            self.save(progress, history)

    def _waited_long(self) -> bool:
        minutes = self.checkpoints.every_minutes
        return minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes

    def note(self, progress: Progress, history: Sequence[Row]) -> None:
        """Hold what the best epoch so far has left until the next save: every one is seen, whether it is saved or not."""
        kept = self._kept(progress, history)
        self.best = kept if kept.is_best else self.best

    def _kept(self, progress: Progress, history: Sequence[Row]) -> Kept:
        return Kept(progress._replace(position=np.asarray(progress.position, np.int32)), list(history), self.made_for)

    def save(self, progress: Progress, history: Sequence[Row]) -> None:
        """Write a checkpoint now."""
        kept, best = self._kept(progress, history), self.best
        if best and (best.epochs, best.position) == (kept.epochs, kept.position):
            best = kept  # written once
        self.store.save(self.folder, kept, self.checkpoints.keep, best)
        self.saved_at, self.saved, self.best = time.monotonic(), (kept.epochs, kept.position), None
        mark = self.folder / DIVERGED
        if jax.process_index() == 0 and mark.exists():  # this one is of the optimizer of now
            mark.unlink()
            sync_folder(self.folder)

    def save_last(self, progress: Progress, history: Sequence[Row]) -> None:
        """Write a checkpoint of where training is, unless there is one; a last row that is not finite is left out."""
        good = history[:-1] if diverged(history) else history
        if (len(good), int(progress.position)) > self.saved:
            self.save(progress, good)

    def mark_divergence(self, row: Row) -> None:
        """Let another optimizer go on from here."""
        if jax.process_index() == 0 and self.folder.is_dir():
            write_whole(self.folder / DIVERGED, json.dumps(row).encode())
