"""`jaxbackprop trace`: the exercise, or a derivation's own network, worked through with numbers."""

from __future__ import annotations

import io
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import jaxbackprop as jbp
from jaxbackprop.command.grade import derivation
from jaxbackprop.command.options import Command, choice, finite, option, setting

FORMATS = ("text", "markdown", "latex", "json")


def deed(arguments: Namespace) -> int:
    """Work a network through at the given numbers; returns the exit status."""
    if arguments.file:
        print(of_derivation(arguments))
        return 0
    if arguments.set:
        raise ValueError("--set is for a derivation's own network: give its FILE, or --weights for the exercise's")
    if arguments.figure:
        _require_picture(arguments.figure)
    found = of_exercise(arguments.weights, arguments.x, arguments.y)
    if arguments.figure:
        picture = io.BytesIO()
        found.figure().savefig(picture, format=arguments.figure.suffix[1:], dpi=150)
        with arguments.figure.open("xb") as file:
            file.write(picture.getvalue())
    told = arguments.format
    shown = json.dumps(found.to_dict(), ensure_ascii=False) if told == "json" else getattr(found, told)()
    print(shown.rstrip("\n"))
    if arguments.figure:
        print(f"picture in {arguments.figure}", file=sys.stderr)  # stdout stays what was asked for
    return 0


def _require_picture(path: Path) -> None:
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"{path} is not a picture's name: give --figure a name in .svg, .png or .pdf")
    if path.exists():
        raise ValueError(f"{path} exists: nothing is overwritten, give --figure another file")
    if not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: give --figure a file in one that exists")


def of_exercise(weights: Sequence[float], x: float, y: float):
    """The trace of the exercise's network; refuses numbers that grow beyond float64."""
    import numpy as np  # imported where it is used: --help answers at once

    w0, w1, w2, w3 = (np.full((1, 1), w) for w in weights)
    params = {"h0": {"x": w0}, "h1": {"h0": w1}, "yhat": {"h1": w2, "h0": w3}}
    found = jbp.trace(jbp.skip_mlp((1, 1, 1, 1)), "half_squared_error", params, np.array([x]), y)
    if not all(np.isfinite(row.value).all() for row in found.rows):
        raise ValueError("these numbers grow beyond what float64 holds: give smaller ones")
    return found


def of_derivation(arguments: Namespace) -> str:
    """A table of the network that a derivation's forward equations say."""
    if arguments.figure or arguments.format != "text":
        raise ValueError("a derivation's own network is shown as text alone: leave out --figure and --format")
    said, text, worked = dict(arguments.set), derivation(arguments.file), jbp.grading.worked
    free = jbp.grading.reading.read(jbp.grading.reading.claims_of(jbp.grading.lines.chains(text))).free
    given = {"x": arguments.x, "y": arguments.y} | said
    return worked.table(worked.work(text, {v: number for v, number in given.items() if v in free or v in said}))


COMMAND = Command(
    "trace",
    "work the exercise, or a derivation's own network, through: every value and every adjoint",
    "Work the exercise through: z0 = w0 x, h0 = g(z0), z1 = w1 h0, h1 = g(z1), yhat = w2 h1 + w3 h0, "
    "L = ½ (yhat − y)², and back. Each adjoint stands beside jax.grad's. With FILE, the forward equations in it "
    "instead, of numbers, at the numbers given; each gradient stands beside a central difference.",
    """\
  jaxbackprop trace                                   an example in which every path counts
  jaxbackprop trace --x 1.5 --y 2 --weights 0.8 1.3 -0.7 0.45
  jaxbackprop trace --weights 0.8 -1.3 -0.7 0.45      h1 is off: only the skip connection is left
  jaxbackprop trace derivation.md --x 2 --set w=3 b=1  the network of its forward equations
  jaxbackprop trace --figure exercise.svg             the picture, too
  jaxbackprop trace --format latex > exercise.tex
""",
    deed,
    (
        option("file FILE", "a derivation with forward equations and a loss; - reads standard input", nargs="?"),
        option("--set NAME=NUMBER", "numbers for the names in FILE", setting, (), nargs="+"),
        option("--x X", "the input (1.5)", finite, 1.5),
        option("--y Y", "the target (2)", finite, 2.0),
        option(
            "--weights W",
            "w3 is the skip connection (0.8 1.3 -0.7 0.45)",
            finite,
            (0.8, 1.3, -0.7, 0.45),
            nargs=4,
            metavar=("W0", "W1", "W2", "W3"),
        ),
        choice("--format", FORMATS, "text"),
        option("--figure FILE", "draw the network with its numbers: .svg, .png or .pdf", Path),
    ),
)
