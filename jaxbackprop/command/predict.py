"""`jaxbackprop predict`: what a run's network answers to new rows."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jaxbackprop as jbp
from jaxbackprop.command.options import DEVICE, Command, option
from jaxbackprop.spelling import counted

RUN = option("run RUN", "the folder that `jaxbackprop train` wrote", Path)


def deed(arguments: Namespace) -> int:
    """Predict each row of a file; returns the exit status."""
    from jax.numpy import asarray  # imported where it is used: --help answers at once

    if arguments.out and arguments.out.exists():
        raise ValueError(f"{arguments.out} exists: nothing is overwritten, give --out another file")
    with asked(arguments) as (_, encoding, net, params, file):
        rows = table(encoding, jbp.predict(net, params, asarray(jbp.data.read_features(file, encoding))))
        ids = jbp.data.read_ids(file, encoding)
    beside = [[name, *of] for name, of in ids.items()]
    rows = [(*row, *of) for row, *of in zip(rows, *beside, strict=True)]
    with arguments.out.open("x", newline="", encoding="utf-8") if arguments.out else nullcontext(sys.stdout) as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    if arguments.out:
        print(f"{counted(len(rows) - 1, 'prediction')} in {arguments.out}")
    return 0


def found(arguments: Namespace) -> None:
    """Look for the rows."""
    if str(arguments.file) != "-":
        jbp.data.place_of(arguments.file)


@contextmanager
def asked(arguments: Namespace) -> Iterator[tuple[Any, ...]]:
    """A run's config, encoding, network and parameters, and the file of rows, on the device that is said.

    For - the file is a copy of what comes in, which is CSV.
    """
    with jbp.devices.preferred(arguments.device), ExitStack() as opened:
        jbp.devices.require(arguments.device)
        run, file = run_at(arguments.run), arguments.file
        if str(file) == "-":
            file = opened.enter_context(_standard_input())
        with jbp.command.screen.warnings_in_lines():
            yield *run, file


@contextmanager
def _standard_input() -> Iterator[Path]:
    """A copy of what comes in; errors do not say where it lies."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "standard_input.csv")
        with file.open("wb") as to:
            shutil.copyfileobj(sys.stdin.buffer, to)
        try:
            yield file
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}{os.sep}", "")) from error


def table(encoding, yhat) -> list[tuple[str, ...]]:
    """The network's outputs (n, k) as rows of text below their header: a number each, or a label and its probability."""
    from jax.nn import softmax

    answers = jbp.data.decode(encoding, yhat)
    if not encoding.classes:
        return [("prediction",), *((f"{answer:.9g}",) for answer in answers)]
    pairs = zip(answers, softmax(yhat).max(1).tolist(), strict=True)
    return [("prediction", "probability"), *((answer, f"{p:.4f}") for answer, p in pairs)]


def run_at(folder: Path) -> tuple[dict[str, Any], Any, Any, Any]:
    """A run's config, and what it trained: the encoding, the network and its parameters, which fit together."""
    config, net, params = jbp.training.runs.read_run(folder)
    with jbp.training.runs.unaltered(f"{folder} cannot be read as a run"):
        encoding = jbp.data.from_dict(config["encoding"])
        counts = len(encoding.features), len(encoding.mean), len(encoding.scale), net.inputs
        if len(set(counts)) > 1:
            raise ValueError("{} features, {} means, {} scales, {} inputs".format(*counts))
    return config, encoding, net, params


COMMAND = Command(
    "predict",
    "predict with what a run trained",
    "Predict for each row of a file, with the network, parameters and standardisation of a run. "
    "Writes CSV: the prediction, for classes its probability, and the id of the row, where the training rows had one too.",
    """\
  jaxbackprop predict runs/houses-1 new_houses.csv
  jaxbackprop predict runs/houses-1 new_houses.csv --out predictions.csv
  grep -v Berlin new_houses.csv | jaxbackprop predict runs/houses-1 -
""",
    deed,
    (
        RUN,
        option(
            "file FILE", "rows with the run's features: .csv, .tsv, .npz, .parquet; - is CSV from standard input", Path
        ),
        DEVICE,
        option("--out FILE", "write the CSV there instead of printing it", Path),
    ),
    found=found,
)
