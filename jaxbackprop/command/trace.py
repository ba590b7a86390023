"""`jaxbackprop trace`: the exercise, a derivation's own network, or a trained one, worked through with numbers."""

from __future__ import annotations

import io
import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jaxbackprop as jbp
from jaxbackprop.command.grade import derivation
from jaxbackprop.command.options import Command, choice, finite, option, setting
from jaxbackprop.command.predict import run_at
from jaxbackprop.spelling import unknown

FORMATS = ("text", "markdown", "latex", "json")
WEIGHTS = ("W0", "W1", "W2", "W3")


def deed(arguments: Namespace) -> int:
    """Work a network through at the given numbers; returns the exit status."""
    import numpy as np  # imported where it is used: --help answers at once

    if arguments.figure:
        _require_picture(arguments.figure)
    found = worked(arguments)
    if not all(np.isfinite(row.value).all() for row in found.rows):
        raise ValueError("these numbers grow beyond what float64 holds, or have no derivative: give other ones")
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


def worked(arguments: Namespace):
    """The trace of what is asked for: a run's network, a derivation's, or the exercise's."""
    is_run = Path(arguments.file or "").is_dir() and bool(arguments.file)
    if arguments.set and (is_run or not arguments.file):
        raise ValueError("--set is for a derivation's own network: give its FILE, or --weights for the exercise's")
    if arguments.file and arguments.weights:
        raise ValueError("--weights is for the exercise: leave it out, or FILE")
    given = {name: text for name, text in (("x", arguments.x), ("y", arguments.y)) if text is not None}
    if is_run:
        return of_run(Path(arguments.file), given)
    if arguments.file:
        numbers = {name: jbp.tracing.taken.as_array(text) for name, text in (given | dict(arguments.set)).items()}
        return jbp.tracing.derivation.work(derivation(arguments.file), numbers)
    return of_exercise(arguments.weights or (0.8, 1.3, -0.7, 0.45), given)


def of_exercise(weights: Sequence[float], given: Mapping[str, str]):
    """The trace of the exercise's network."""
    import numpy as np

    w0, w1, w2, w3 = (np.full((1, 1), w) for w in weights)
    params = {"h0": {"x": w0}, "h1": {"h0": w1}, "yhat": {"h1": w2, "h0": w3}}
    x, y = (jbp.tracing.taken.as_array(given.get(name, usual)) for name, usual in (("x", "1.5"), ("y", "2")))
    return jbp.trace(jbp.skip_mlp((1, 1, 1, 1)), "half_squared_error", params, x, y)


def of_run(folder: Path, given: Mapping[str, str]):
    """A trained network at one example, as the network sees it; without --x each input is 1, without --y the target is 0."""
    import numpy as np

    config, encoding, net, params = run_at(folder)
    y = given.get("y", "0")
    target = _class(y, encoding.classes) if encoding.classes else jbp.tracing.taken.as_array(y)
    x = jbp.tracing.taken.as_array(given["x"]) if "x" in given else np.ones(net.inputs)
    found = jbp.trace(net, config["loss"], params, x, target)
    usual = {"x": "each input 1", "y": "0"}
    assumed = [f"{name} was not given: {said}" for name, said in usual.items() if name not in given]
    return replace(found, title="; ".join([found.title, *assumed]))


def _class(given: str, classes: Sequence[str]):
    """The number of a class, by its name or as a number."""
    import numpy as np

    number = classes.index(given) if given in classes else int(given) if given.isdecimal() else len(classes)
    if number >= len(classes):
        said = unknown("class", given, list(classes))
        raise ValueError(f"--y {given} is no class: {said}, or a number below {len(classes)}")
    return np.int64(number)


COMMAND = Command(
    "trace",
    "work the exercise, or a derivation's own network, through: every value and every adjoint",
    "Work the exercise through: z0 = w0 x, h0 = g(z0), z1 = w1 h0, h1 = g(z1), yhat = w2 h1 + w3 h0, "
    "L = ½ (yhat − y)², and back. With FILE, the forward equations in it instead, at the numbers given; with a run's "
    "folder, its network. Each adjoint stands beside jax.grad's.",
    """\
  jaxbackprop trace                                   an example in which every path counts
  jaxbackprop trace --x 1.5 --y 2 --weights 0.8 1.3 -0.7 0.45
  jaxbackprop trace --weights 0.8 -1.3 -0.7 0.45      h1 is off: only the skip connection is left
  jaxbackprop trace derivation.md --x 2 --set w=3 b=1  the network of its forward equations
  jaxbackprop trace derivation.md --x 1,2 --set "W=1,2;3,4"  in vectors and matrices
  jaxbackprop trace runs/digits-1 --figure run.svg    a trained network
  jaxbackprop trace --figure exercise.svg             the picture, too
  jaxbackprop trace --format latex > exercise.tex
""",
    deed,
    (
        option(
            "file FILE",
            "a derivation with forward equations and a loss (- reads standard input), or a folder that train wrote",
            nargs="?",
        ),
        option("--set NAME=NUMBERS", "numbers for the names in FILE", setting, (), nargs="+"),
        option("--x X", "the input: a number, 1,2 or rows 1,2;3,4 (1.5); of a run as the network sees it"),
        option("--y Y", "the target (2); of a run also a class"),
        option("--weights W", "w3 is the skip connection (0.8 1.3 -0.7 0.45)", finite, nargs=4, metavar=WEIGHTS),
        choice("--format", FORMATS, "text"),
        option("--figure FILE", "draw the network with its numbers: .svg, .png or .pdf", Path),
    ),
)
