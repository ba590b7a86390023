"""`jaxbackprop evaluate`: what a run's network is worth on other rows."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import jaxbackprop as jbp
from jaxbackprop.command.options import DEVICE, JSON, Command, option
from jaxbackprop.command.predict import RUN, asked, found
from jaxbackprop.spelling import counted


def deed(arguments: Namespace) -> int:
    """Measure a run's network on rows with their target; returns the exit status."""
    with asked(arguments) as (config, encoding, net, params, file):
        rows = jbp.data.read_examples(file, encoding)
        measured = {"rows": jbp.data.examples_of(rows), **jbp.evaluate(net, config["loss"], params, rows)}
        figures = jbp.data.figures_of(encoding, *jbp.training.evaluate.answers(net, params, rows))
    if not encoding.classes:
        measured["rmse"] *= encoding.target_scale[0]
    print(json.dumps(measured | figures) if arguments.json else "\n".join(lines(encoding, measured, figures)))
    return 0


def lines(encoding, found: dict, figures: dict) -> list[str]:
    """What was found, as text."""
    error = f"root mean squared error {found.get('rmse', 0):.4g} in units of {encoding.target}"
    figure = f"accuracy {found['accuracy']:.1%}" if encoding.classes else error
    return [
        f"{counted(found['rows'], 'row')}: {figure}, loss {found['loss']:.3g}",
        *jbp.data.lines_of(encoding, figures),
    ]


COMMAND = Command(
    "evaluate",
    "measure what a run trained on other rows",
    "Measure a run's network on the rows of a file or a folder that has the target too.",
    "  jaxbackprop evaluate runs/houses-1 other_houses.csv\n",
    deed,
    (
        RUN,
        option("file FILE", "rows with the run's features and its target; - reads CSV from standard input", Path),
        DEVICE,
        JSON,
    ),
    found=found,
)
