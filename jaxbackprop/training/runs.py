"""The folder that a training run leaves: config.json, metrics.jsonl, params.npz, learning_curves.png; and back again."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbackprop.network import Layer, Network, Params
from jaxbackprop.refusals import are_like
from jaxbackprop.training.disk import write_whole

CONFIG, METRICS, PARAMS, CURVES = "config.json", "metrics.jsonl", "params.npz", "learning_curves.png"
CHECKPOINTS = "checkpoints"


def take_next(name: Path) -> Path:
    """Make the first of name-1, name-2, … that does not exist: who makes a folder has it, however many start at once.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     [take_next(Path(parent, "runs", "digits")).name for _ in range(2)]
    ['digits-1', 'digits-2']
    """
    name.parent.mkdir(parents=True, exist_ok=True)
    for i in itertools.count(1):
        with suppress(FileExistsError):
            (folder := name.with_name(f"{name.name}-{i}")).mkdir()
            return folder
    raise AssertionError("numbers do not end")


def require_free(folder: Path) -> None:
    """Refuse a folder that holds anything, or a path that cannot become one.

    Raises:
        ValueError: it is a file, or it is not empty.
    """
    require_no_file(folder)
    if folder.is_dir() and any(folder.iterdir()):
        what = "another run" if (folder / CONFIG).exists() else "other files"
        raise ValueError(f"{folder} holds {what}: nothing is overwritten, give --out another folder")


def require_no_file(folder: Path) -> None:
    """Refuse a path that is a file, or leads through one."""
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file: give --out a folder that does not exist yet")


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Make the folder and write what the run was asked to do."""
    require_free(folder)
    rewrite_config(folder, config)


def rewrite_config(folder: Path, config: dict[str, Any]) -> None:
    """Write what a run is asked to do now, in its folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / CONFIG, (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode())


def read_config(folder: Path) -> dict[str, Any]:
    """Read what the run was asked to do.

    Raises:
        ValueError: the folder is not a run, or its config was altered.
    """
    _require_run(folder)
    with unaltered(f"{folder / CONFIG} cannot be read"):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config["arguments"], dict):
            raise TypeError("no arguments")
    return config


def _require_run(folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} is not a run: it has no {CONFIG}; give the folder that `jaxbackprop train` wrote")


@contextmanager
def unaltered(what: str) -> Iterator[None]:
    """Say in one line what goes wrong where files are read that a run has left."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{what} ({type(error).__name__}: {error}): was a file altered?") from None


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Add one line of JSON. A kill does not lose it; what a power cut may lose, `write_metrics` writes again on resuming."""
    folder.mkdir(parents=True, exist_ok=True)  # who deletes it meanwhile loses no more than is written in between
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(_line(row))


def write_metrics(folder: Path, history: Iterable[dict[str, Any]]) -> None:
    """Write the lines of the epochs that training goes on from; those after them are taken again."""
    write_whole(folder / METRICS, "".join(map(_line, history)).encode())


def _line(row: dict[str, Any]) -> str:
    # JSON has no NaN: a figure that is not finite is null
    return json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()}) + "\n"


def write_params(folder: Path, params: Params) -> None:
    """Write every weight as "layer/source" into params.npz."""
    flat: dict[str, Any] = {f"{t}/{s}": np.asarray(w) for t, sources in params.items() for s, w in sources.items()}
    content = io.BytesIO()
    np.savez(content, **flat)
    write_whole(folder / PARAMS, content.getvalue())


def read_run(folder: Path) -> tuple[dict[str, Any], Network, Params]:
    """Read back the config, the network and its trained parameters.

    Raises:
        ValueError: the folder is not a run, or not a finished one, or its files do not fit together.
    """
    _require_run(folder)
    if not (folder / PARAMS).is_file():
        hint = f"; `jaxbackprop train --resume {folder}` goes on with it" if (folder / CHECKPOINTS).is_dir() else ""
        raise ValueError(f"{folder} holds no {PARAMS}: that run did not finish{hint}")
    with unaltered(f"{folder} cannot be read as a run"):
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        network = network_from_dict(config["network"])
        if not zipfile.is_zipfile(folder / PARAMS):  # NumPy would take it for a pickle
            raise ValueError(f"{PARAMS} is no NPZ file")
        # opened here, because np.load leaves a damaged file open
        with (folder / PARAMS).open("rb") as file, np.load(file, allow_pickle=False) as flat:
            params: Params = {t.name: {} for t in network.layers}
            for name in flat.files:
                layer, source = name.split("/", 1)
                params[layer][source] = jnp.asarray(flat[name])
        are_like("params", params, network.shapes)
    return config, network, params


def network_to_dict(network: Network) -> dict[str, Any]:
    """A network whose activations are names, as plain JSON.

    >>> network_from_dict(network_to_dict(Network(2, (Layer("yhat", 1, ("x",)),)))).inputs
    2
    """
    return dataclasses.asdict(network)


def network_from_dict(plain: dict[str, Any]) -> Network:
    """The network that `network_to_dict` was given."""
    return Network(plain["inputs"], tuple(Layer(**t | {"sources": tuple(t["sources"])}) for t in plain["layers"]))


def write_curves(path: Path, history: list[dict[str, Any]], title: str) -> None:
    """Draw loss and, where there is one, the quoted figure, over the epochs."""
    from matplotlib.figure import Figure  # without pyplot: no window system, half the import time

    name = next((key for key in history[0] if key.startswith("validation_") and key != "validation_loss"), None)
    figure = Figure(figsize=(9 if name else 5, 3.4), layout="constrained")
    axes = figure.subplots(1, 2 if name else 1, squeeze=False)[0]
    epochs = [row["epoch"] for row in history]
    axes[0].plot(epochs, [row["loss"] for row in history], color="#4269d0", label="training, mean over the epoch")
    axes[0].plot(epochs, [row["validation_loss"] for row in history], color="#ff725c", label="held out")
    positive = any(row[key] > 0 for row in history for key in ("loss", "validation_loss"))
    axes[0].set(xlabel="epoch", ylabel="loss", yscale="log" if positive else "linear")
    if name:
        figures = np.array([row[name] for row in history])
        quoted = name.removeprefix("validation_")
        percent = 100 if quoted == "accuracy" else 1
        axes[1].plot(
            epochs, percent * figures, color="#ff725c", label=f"held out: {percent * figures[-1]:.4g} at the end"
        )
        axes[1].set(xlabel="epoch", ylabel="accuracy (%)" if quoted == "accuracy" else quoted)
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.suptitle(title, fontsize="medium", parse_math=False)  # a $ in a file's name is no mathematics
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing"
        )  # a name in a script that the font lacks: boxes will do
        figure.savefig(path, dpi=150)


def listing(folder: Path) -> Iterable[str]:
    """The names of the run's files that are there."""
    return [name for name in (CONFIG, METRICS, PARAMS, CURVES) if (folder / name).exists()]
