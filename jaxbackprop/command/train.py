"""`jaxbackprop train`: its options; and what it does, once planning.py has a plan and screen.py says it."""

from __future__ import annotations

import json
import re
import sys
import time
from argparse import Namespace
from itertools import takewhile
from pathlib import Path
from typing import Any

import jaxbackprop as jbp
from jaxbackprop.command.options import (
    JSON,
    KINDS,
    SAID_ANEW,
    Command,
    choice,
    flag,
    natural,
    not_negative,
    one_of,
    option,
    positive,
    positive_number,
    separator,
)
from jaxbackprop.spelling import extra

BUNDLED = ("digits", "breast_cancer", "diabetes", "wine")
ACTIVATIONS = ("identity", "relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "softplus", "tanh", "sigmoid")
WIRINGS, SCALES, GRADIENTS = ("skip", "mlp", "dense"), ("rows", "none"), ("hand", "jax.grad")
OPTIMIZERS = ("adam", "adamw", "sgd", "momentum", "rmsprop", "adagrad", "lion")
DECAYING = ("adamw", "lion")
TASKS, MISSING, MARKS = ("classification", "regression"), ("impute", "drop"), (".", ",")
way, mark, answer = (
    one_of("way with missing values", MISSING),
    one_of("decimal mark", MARKS),
    one_of("answer", ("yes", "no")),
)
SOURCES = f"{', '.join(BUNDLED)}; a .csv, .tsv, .npz or .parquet file; or, read as it is needed, a folder (digits)"
# what holds where it is not said, and what with --private
USUAL = {"learning_rate": (0.003, 0.003), "weight_decay": (0.3, 0.0), "epochs": (60, 60), "batch_size": (32, 256)}
PRIVACY = {"epsilon": 3.0, "delta": 1e-5, "max_norm": 1.0}  # with --private alone


def prepared(said: dict[str, Any]) -> dict[str, Any]:
    """What was said, with the defaults that depend on it; refuses what would do nothing, as it means something to who says it."""
    said = _with_widths(said)
    _require_effect(said)
    private = said.get("private", False)
    usual = {name: pair[private] for name, pair in USUAL.items()} | (PRIVACY if private else {})
    if "resume" in said:
        usual = {}  # those of the run
    elif "noise_multiplier" in said:
        del usual["epsilon"]
    return usual | said


def _with_widths(said: dict[str, Any]) -> dict[str, Any]:
    """The widths as integers; a file that follows them, as in `--hidden 16 16 houses.csv`, is the data."""
    words = said.get("hidden", [])
    widths = [int(word) for word in takewhile(re.compile(r"[+-]?\d+$").match, words)]
    rest, is_data = words[len(widths) :], re.compile(rf".*/.*|.*\.[a-z]\w*|{'|'.join(BUNDLED)}", re.IGNORECASE)
    if rest and (len(rest) > 1 or "data" in said or not is_data.fullmatch(rest[0])):
        raise ValueError(f"argument --hidden: invalid int value: {rest[0]!r}")
    return said | ({"hidden": widths} if "hidden" in said else {}) | ({"data": rest[0]} if rest else {})


def _require_effect(said: dict[str, Any]) -> None:
    """Refuse what contradicts something else that is said, or would do nothing beside it."""
    foreign = [_flag(name) for name in sorted(said.keys() - set(SAID_ANEW)) if "resume" in said]
    of_private = [_flag(name) for name in (*PRIVACY, "noise_multiplier") if name in said and "private" not in said]
    of_layers = [_flag(name) for name in ("activation", "wiring") if name in said and said.get("hidden") == []]
    address, numbers = said.get("coordinator", ""), {"processes", "process_id"} & said.keys()
    alone, given = address not in ("", "auto") and len(numbers) < 2, said.keys()
    by_grad, name = said.get("gradient") == "jax.grad", said.get("optimizer", "adamw")
    noise_twice, has_none = {"epsilon", "noise_multiplier"} <= given, "weight_decay" in said and name not in DECAYING
    wrong = {
        f"--resume goes on with what the run was started with: leave out {', '.join(foreign)}": foreign,
        f"{''.join(of_private[:1])} is for private training: say --private too, or leave it out; nothing was trained": of_private,
        "--noise-multiplier says what --epsilon works out: give one of the two": noise_twice,
        "--private clips by the hand-derived gradient: leave out --gradient jax.grad": "private" in said and by_grad,
        "--bounds is a way to scale of its own: leave out --scale": {"scale", "bounds"} <= given,
        f"--weight-decay is for {' or '.join(DECAYING)}: {name} has none": has_none,
        f"{''.join(of_layers[:1])} is of hidden layers, and --hidden says that there are none": of_layers,
        "--processes and --process-id need --coordinator HOST:PORT, where process 0 is": numbers and not address,
        "--coordinator HOST:PORT needs --processes and --process-id too": alone,
        "with --coordinator all devices of each process are used: leave out --devices": address and "devices" in said,
    }
    if why := next((why for why, so in wrong.items() if so), None):
        raise ValueError(why)


def _flag(name: str) -> str:
    return "DATA" if name == "data" else f"--{name.replace('_', '-')}"


def deed(arguments: Namespace) -> int:
    """Load, check the gradient, train, report; returns the exit status."""
    for module, package in (("rich.progress", "rich"), ("matplotlib.figure", "matplotlib")):
        extra(module, package, "jaxbackprop train")  # what is missing is said before anything is done
    kind = jbp.command.planning.kind_of_device(arguments)
    with jbp.devices.preferred(kind):
        if not arguments.coordinator:  # with others it is asked for where what one refuses ends all
            jbp.devices.require(kind)
        with jbp.command.stopping.joined(arguments):
            return _train(arguments)


def _train(arguments: Namespace) -> int:
    began, screen, fitting = time.perf_counter(), jbp.command.screen, jbp.command.fitting
    plan = jbp.command.planning.planned(arguments)
    aloud = plan.first and not plan.arguments.json  # other processes compute in silence
    waiting: list = []
    say = waiting.extend if plan.arguments.resume else screen.say  # a run that goes on may still be refused
    if aloud:
        say(screen.of_data(plan))
    report = fitting.checked(plan) if plan.first else None
    (wrong,) = jbp.scaling.processes.agree(report is not None and not report.ok)
    if not wrong:
        plan = jbp.command.planning.taken(plan)
    if aloud:
        say(screen.of_training(plan, report))
    if report and not report.ok:
        print(report, file=sys.stderr)
    if wrong:
        return 1
    if advice := screen.advice(plan):
        print(f"jaxbackprop: {advice}", file=sys.stderr)
    with jbp.command.stopping.wishes_to_stop() as wishes:
        state, history = fitting.fit(plan, wishes, waiting)
    status, why = screen.ended_early(plan, history, int(state.step), wishes)
    if why and plan.first:
        print(f"jaxbackprop: {why}", file=sys.stderr)
    if status or report is None:
        return status
    figures = fitting.leave(plan, state, history)
    seconds = time.perf_counter() - began
    if plan.arguments.json:
        print(json.dumps(fitting.result(plan, report.line, state, history, seconds) | figures))
    else:
        screen.say(screen.of_end(plan, history, figures, seconds))
    return 0


TABLES: Any = {"nargs": "+", "action": "extend"}  # options that may be said again, for more


def _usual(name: str) -> str:
    return "({:g}; with --private {:g})".format(*USUAL[name])


COMMAND = Command(
    "train",
    "train a network on a real data set through the hand-derived gradient",
    "Train a network on a bundled data set or a file of yours, through the hand-derived gradient, "
    "which is checked against jax.grad and finite differences first.",
    """\
  jaxbackprop train                                   handwritten digits, with all defaults
  jaxbackprop train breast_cancer --hidden 32 --activation gelu
  jaxbackprop train houses.csv --target price --epochs 200 --out runs/houses
  jaxbackprop train houses.csv --drop street --categories zone --missing drop --na unknown
  jaxbackprop train digits --device cpu               although there is a GPU: small steps are faster so
  jaxbackprop train digits --gradient jax.grad        the same trajectory, without our derivation
  jaxbackprop train --private --epsilon 3             bounds what they tell about any one example
  jaxbackprop train --resume runs/houses              goes on where it was stopped, to the very same end
  jaxbackprop train big/ --batch-size 4096 --devices 4  a folder larger than memory, on four devices
  jaxbackprop train big/ --coordinator 10.0.0.1:8476 --processes 2 --process-id 0     and on the other machine 1
""",
    deed,
    (
        option("data DATA", SOURCES, default="digits", nargs="?"),
        option("--target COLUMN", "the column to predict (the last)"),
        choice("--task", TASKS, "recognised"),
        option("--hidden WIDTH", "widths of the hidden layers (64 64)", default=[64, 64], nargs="*"),
        choice("--wiring", WIRINGS, "skip"),
        choice("--activation", ACTIVATIONS, "relu"),
        choice("--scale", SCALES, "rows"),
        option("--bounds FILE", "scale by a CSV of column,least,most instead, * for all others", Path),
        option("--classes LABEL", "of a classification, in this order (those that the rows hold)", nargs="+"),
        flag("--no-bias", "layers without biases, as in the exercise"),
        choice("--optimizer", OPTIMIZERS, "adamw"),
        option("--weight-decay RATE", f"of adamw and lion {_usual('weight_decay')}", not_negative),
        option("--learning-rate --lr RATE", _usual("learning_rate"), positive_number),
        option("--epochs N", _usual("epochs"), positive),
        option("--batch-size N", _usual("batch_size"), positive),
        option("--seed N", "of the split, first parameters and shuffles; not of what is private (0)", natural, 0),
        choice("--gradient", GRADIENTS, "hand"),
        option("--out DIR", "the run's folder (runs/DATA-1, or the next number)", Path),
        option("--scratch DIR", "keep a folder's rows there, decoded, until the run ends: worth it for .parquet", Path),
        choice("--device", KINDS, "JAX's own choice", "; one resumed on another comes to the same end within rounding"),
        JSON,
    ),
    {
        "tables: what is found in a table, and done with each column, is printed; these say otherwise": (
            option("--drop COLUMN", "columns to leave out (ids, row numbers and free text that are found)", **TABLES),
            option("--categories COLUMN", "columns that hold labels, though they look like numbers", **TABLES),
            option("--numbers COLUMN", "columns that hold numbers, though they look like ids or codes", **TABLES),
            option("--missing NAME", "impute the median and tell the network, or drop such rows (impute)", way),
            option("--na WORD", "stands for no value too, beside NA, ? and the like", **TABLES),
            option("--separator MARK", "between the columns of a text file (found)", separator),
            option("--decimal MARK", "a point or a comma (found)", mark),
            option("--header YES", "whether the first row has names (found)", answer),
        ),
        "checkpoints: Ctrl-C and SIGTERM stop, saved, after the epoch or in a long one; a kill loses what came after the last": (
            option("--resume DIR", "go on with that run, to more --epochs, or once diverged at a lower --lr", Path),
            option("--checkpoint-every N", "epochs from one checkpoint to the next (never)", positive),
            option("--checkpoint-minutes M", "and minutes (1)", positive_number),
        ),
        "several devices: each batch is shared out; the result is that of one device within rounding: jaxbackprop.scaling": (
            option("--devices N", "of this machine (1); with --coordinator all of each process", positive),
            option("--coordinator HOST:PORT", "where process 0 is; 'auto' under SLURM, Open MPI or on a TPU slice"),
            option("--processes N", "how many there are", positive),
            option("--process-id I", "which this is, from 0; 0 prints and writes", int),
        ),
        "differential privacy: the noise comes from the operating system, not from --seed; what is protected, and what is not: "
        "jaxbackprop/training/privacy.py": (
            flag("--private", "clip each example's gradient and add noise (DP-SGD)"),
            option("--epsilon E", f"what may be spent in all ({PRIVACY['epsilon']:g})", positive_number),
            option("--noise-multiplier S", "noise in units of C, instead of --epsilon", positive_number),
            option("--delta D", f"({PRIVACY['delta']:g})", positive_number),
            option("--max-norm C", f"the bound on an example's gradient ({PRIVACY['max_norm']:g})", positive_number),
        ),
    },
    prepared,
    # of several processes what one refuses has to end all, later
    lambda given: given.resume or given.coordinator or jbp.data.place_of(given.data),
)
