"""The command line: `jaxbackprop train`, `predict`, `evaluate`, `trace`, `grade` and `check`.

Exit status 0 is success, 1 "checked, and wrong", 2 bad input, which gets one line and changes nothing on disk (compiled
programs apart, which `entry` keeps in the user's cache folder), 3 "checked, and right where looked at", 75 another process of
the run was lost.

jaxbackprop train                                  # digits; breast_cancer, diabetes and wine are bundled too
    jaxbackprop train houses.csv --target price --hidden 128 128 --activation gelu --epochs 200 --out runs/houses
    jaxbackprop predict runs/houses new_houses.csv
    jaxbackprop evaluate runs/houses other_houses.csv  # where the answers are there
    jaxbackprop train --private --epsilon 3 --delta 1e-5 --max-norm 1
    jaxbackprop trace --x 1.5 --y 2 --weights 0.8 1.3 -0.7 0.45 --figure exercise.svg
    jaxbackprop grade derivation.md                    # exit status 1 if a line is wrong
    jaxbackprop check mine.py:loss mine.py:gradient    # a gradient of your own; exit status 1 if it is wrong, 3 if not all was seen

`train` reads tables, NPZ and folders, says whether it sees classes or numbers, standardises from the training split alone, checks
the gradient, trains, and leaves `config.json`, `metrics.jsonl`, `params.npz` and `learning_curves.png` in the run's folder. A
fifth of the rows is held out and only ever measured: nothing is selected on it. Nothing is overwritten. Bad input gets one line
and exit status 2. GPU and TPU: `pip install '.[all,cuda]'` or `'.[all,tpu]'`. `--device cpu` trains on the CPU although there is one,
and `config.json` says where a run trained; where the steps are so small that a CPU should be faster than a GPU, `train` says so first
(`jaxbackprop.devices` has the rule). Compiled programs are kept in
`~/.cache/jaxbackprop` (or `$XDG_CACHE_HOME/jaxbackprop`; 256 MB at most), so that a second run starts sooner;
`JAX_ENABLE_COMPILATION_CACHE=false` turns that off, `JAX_COMPILATION_CACHE_DIR` takes another folder.

A table (CSV with any separator, gzip too, or Parquet) may be as people have them. What becomes of each column is printed, a line
a column, and kept in `config.json` as plain JSON, by which `predict` and `evaluate` treat new rows:

| in the table | what is done | to say otherwise |
|---|---|---|
| labels, true/false, dates | an input for each category (at most 100), 0 or 1, days | `--categories`, `--numbers` |
| `$1,234.50`, `12,5`, `45%`, `1.234,50` | numbers; a column that is nearly all numbers is refused with the value that is none, and its row | `--decimal`, `--na` |
| gaps: empty, `NA`, `?` among numbers | the training median, and an input that tells; among labels a category; a missing target is refused | `--missing drop`, `--na` |
| codes such as 01067 | labels, which keep their zero | `--numbers` |
| ids, row numbers, text that is different in most rows | left out, and named | `--numbers`, `--categories`; `--drop` leaves out more |
| no header, comments above it, `;`, tabs, decimal commas | found, and said | `--header`, `--separator`, `--decimal` |

A label that training did not see counts for none; a number that is missing where none was gets the training median; both are said in
a line. Beside accuracy stand the most frequent class's share, balanced accuracy and the confusion matrix, beside an error R².

Nothing is lost: Ctrl-C and SIGTERM stop after the epoch, or in a long one within about two seconds of training (a step that takes
longer, and the held-out rows, are finished first), saved, and `jaxbackprop train --resume runs/houses` goes on to the very same
parameters, bit for bit, that an uninterrupted run gives. Checkpoints (one a minute, `--checkpoint-every N` epochs besides; the
last three and the best) are replaced whole and forced to the disk, so that a kill or a power cut costs what came after the last
one; a damaged one is named and the one before it used. In Python: `fit(..., checkpoints=jbp.Checkpoints("runs/mine"))`, and the
same call again; after a divergence the same call at a lower learning rate goes on from the last good state. `store="orbax"` (`pip install '.[orbax]'`) keeps them by Orbax, each process its own part of parameters that are shared out.

`--private` clips every example's gradient and adds noise, so that the parameters tell little about any one training example;
the report says the epsilon spent. Samples and noise come from the operating system, not from `--seed`: who could draw them again
could take them out. Until training has ended their key lies in the run's folder, `checkpoints/SECRET-do-not-publish.key`, for
`--resume`; no other file, picture or message holds it. `--bounds FILE` (lines of `column,least,most`, `*` for all others) or
`--scale none`, and `--classes`, spare the features' means and scales, and the classes, which are taken from the rows otherwise, as medians and categories are.
`params.npz` is what is protected; `jaxbackprop.training.privacy` says what is not: the training loss in the
metrics, for one. In Python `fit(..., gradient=jbp.private_gradient(1.0, 1.1))` draws such a key where none is given.
"""  # noqa: E501

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

from jaxbackprop import __version__, commands
from jaxbackprop._cache import keep_compiled_programs
from jaxbackprop.activations import ACTIVATIONS
from jaxbackprop.commands import SAID_ANEW
from jaxbackprop.data import BUNDLED
from jaxbackprop.data.tables import MISSING
from jaxbackprop.data.values import MARKS
from jaxbackprop.devices import KINDS
from jaxbackprop.mathematics import TYPED
from jaxbackprop.training.methods import GRADIENTS
from jaxbackprop.words import unknown

WIRINGS = ("skip", "mlp", "dense")
OPTIMIZERS = ("adam", "adamw", "sgd", "momentum", "rmsprop", "adagrad", "lion")
SCALES = ("rows", "none")
FORMATS = ("text", "markdown", "latex", "json")
DEFAULTS = {"learning_rate": 0.003, "weight_decay": 0.3, "epochs": 60, "batch_size": 32}
PRIVATE_DEFAULTS = {"learning_rate": 0.003, "weight_decay": 0.0, "epochs": 60, "batch_size": 256}
PRIVACY = {"epsilon": 3.0, "delta": 1e-5, "max_norm": 1.0}  # with --private alone
DECAYING = ("adamw", "lion")

TRAIN_EXAMPLES = """examples:
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
"""
PREDICT_EXAMPLES = """examples:
  jaxbackprop predict runs/houses-1 new_houses.csv
  jaxbackprop predict runs/houses-1 new_houses.csv --out predictions.csv
"""
EVALUATE_EXAMPLES = """examples:
  jaxbackprop evaluate runs/houses-1 other_houses.csv
"""
GRADE_EXAMPLES = """examples:
  jaxbackprop grade derivation.md
  echo 'dL/dh0 = dL/dz1 * w1' | jaxbackprop grade -
"""
CHECK_EXAMPLES = """examples:
  jaxbackprop check mine.py:loss mine.py:gradient     at mine.py's own `arguments`, a tuple (params, *data)
  jaxbackprop check mine.py:loss gradient             the same, shorter
  jaxbackprop check package.module:loss other:gradient --arguments data.py:batch
  jaxbackprop check mine.py:kernel --reference plain  a function with jax.custom_vjp; `arguments` are what it takes
"""
TRACE_EXAMPLES = """examples:
  jaxbackprop trace                                   an example in which every path counts
  jaxbackprop trace --x 1.5 --y 2 --weights 0.8 1.3 -0.7 0.45
  jaxbackprop trace --weights 0.8 -1.3 -0.7 0.45      h1 is off: only the skip connection is left
  jaxbackprop trace derivation.md --x 2 --set w=3 b=1  the network of its forward equations
  jaxbackprop trace derivation.md --x 1,2 --set "W=1,2;3,4"  in vectors and matrices
  jaxbackprop trace runs/digits-1 --figure run.svg    a trained network
  jaxbackprop trace --figure exercise.svg             the picture, too
  jaxbackprop trace --format latex > exercise.tex
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = _parse(argv)
    if arguments.command is not commands.train_command:
        return _run(arguments)
    _require_effect(argv, arguments)
    if arguments.resume:
        return _run(arguments)
    for name, value in ((PRIVATE_DEFAULTS | PRIVACY) if arguments.private else DEFAULTS).items():
        if getattr(arguments, name) is None and not (name == "epsilon" and arguments.noise_multiplier):
            setattr(arguments, name, value)
    return _run(arguments)


def _require_effect(argv: list[str], arguments: argparse.Namespace) -> None:
    """Refuse what would do nothing: an option that is said means something to who says it."""
    parser, known = _parser()
    train = known.choices["train"]
    for action in train._actions:
        action.default = argparse.SUPPRESS  # so that only what is said is found
    said = vars(parser.parse_args(argv)).keys() - {"command"}

    def refuse(name: str, why: str) -> None:
        train.error(f"{_option(name)} {why}")

    if arguments.resume:
        for name in sorted(said - set(SAID_ANEW)):
            given = "DATA" if name == "data" else _option(name)
            train.error(f"--resume goes on with what the run was started with: leave out {given}")
        return
    for name in (*PRIVACY, "noise_multiplier"):
        if name in said and not arguments.private:
            refuse(name, "is for private training: say --private too, or leave it out; nothing was trained")
    if {"epsilon", "noise_multiplier"} <= said:
        refuse("noise_multiplier", "says what --epsilon works out: give one of the two")
    if {"scale", "bounds"} <= said:
        refuse("bounds", "is a way to scale of its own: leave out --scale")
    if "weight_decay" in said and arguments.optimizer not in DECAYING:
        refuse("weight_decay", f"is for {_either(DECAYING)}: {arguments.optimizer} has none")
    for name in ("activation", "wiring"):
        if name in said and not arguments.hidden:
            refuse(name, "is of hidden layers, and --hidden says that there are none")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _run(arguments: argparse.Namespace) -> int:
    try:
        return arguments.command(arguments)
    except BrokenPipeError:
        raise  # no bad input: `entry` ends in silence
    except (ValueError, OSError, ImportError) as error:
        print(f"jaxbackprop: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxbackprop: interrupted", file=sys.stderr)
        return 130


def entry() -> NoReturn:
    """The console script: `main` on a terminal or into a pipe that may close, in any encoding, and with Ctrl-C at any time."""
    signal.signal(signal.SIGINT, _interrupted)
    keep_compiled_programs()
    sys.stdout.reconfigure(errors=TYPED)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(141)  # the reader of our output has gone: nothing is left to say, nor to flush
    sys.exit(status)


def _interrupted(_signal, _frame) -> NoReturn:
    # at once: an exception could surface in a callback of JAX's and be lost there; what is on disk is whole at any moment
    os.write(2, b"\njaxbackprop: interrupted\n")
    os._exit(130)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser, known = _parser()
    if not argv:
        parser.error(f"give a command, {_either(known.choices)}: start with `jaxbackprop train`")
    if argv[0].startswith("-") and argv[0] not in parser._option_string_actions:
        parser.error(f"unknown option {argv[0]!r}: give a command first, {_either(known.choices)}")
    if not argv[0].startswith("-") and argv[0] not in known.choices:
        parser.error(unknown("command", argv[0], known.choices))
    arguments, extra = parser.parse_known_args(argv)
    if extra:
        command = known.choices[argv[0]]
        options = [option for option in command._option_string_actions if option.startswith("--")]
        command.error(
            unknown("option", extra[0], options) if extra[0].startswith("-") else f"one argument too many: {extra[0]!r}"
        )
    return arguments


class _Parser(argparse.ArgumentParser):
    """A parser whose error is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction]:
    parser = _Parser(
        prog="jaxbackprop",
        description="Backpropagation derived by hand: train a network, see it worked through, mark a derivation.",
        epilog="Each command has its own --help with examples. Start with: jaxbackprop train",
    )
    parser.add_argument("--version", action="version", version=__version__)
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_train(known)
    _add_predict(known)
    _add_evaluate(known)
    _add_grade(known)
    _add_trace(known)
    _add_check(known)
    return parser, known


def _add_train(known) -> None:
    train = known.add_parser(
        "train",
        help="train a network on a real data set through the hand-derived gradient",
        description="Train a network on a bundled data set or a file of yours, through the hand-derived gradient, "
        "which is checked against jax.grad and finite differences first.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(command=commands.train_command)
    add = train.add_argument
    add(
        "data",
        nargs="?",
        default="digits",
        metavar="DATA",
        help=f"{', '.join(BUNDLED)}; a .csv, .tsv, .npz or .parquet file; or, read as it is needed, a folder of x.npy and "
        "y.npy, or of .parquet files (digits)",
    )
    add("--target", metavar="COLUMN", help="the column to predict (the last)")
    add("--task", **_choice("task", ("classification", "regression"), "recognised"))
    add("--hidden", type=int, nargs="*", default=[64, 64], metavar="WIDTH", help="widths of the hidden layers (64 64)")
    add("--wiring", **_choice("wiring", WIRINGS, "skip"))
    add("--activation", **_choice("activation", ACTIVATIONS, "relu"))
    add("--scale", **_choice("scale", SCALES, "rows"))
    add("--bounds", type=Path, metavar="FILE", help="scale by a CSV of column,least,most instead, * for all others")
    add("--classes", nargs="+", metavar="LABEL", help="of a classification, in this order (those that the rows hold)")
    add("--no-bias", action="store_true", help="layers without biases, as in the exercise")
    add("--optimizer", **_choice("optimizer", OPTIMIZERS, "adamw"))
    add(
        "--weight-decay",
        type=_not_negative,
        metavar="RATE",
        help=f"of adamw and lion {_default('weight_decay')}",
    )
    add("--learning-rate", type=_positive_number, metavar="RATE", help=_default("learning_rate"))
    add("--epochs", type=_positive, metavar="N", help=_default("epochs"))
    add("--batch-size", type=_positive, metavar="N", help=_default("batch_size"))
    add(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the split, first parameters and shuffles; not of what is private (0)",
    )
    add("--gradient", **_choice("gradient", GRADIENTS, "hand"))
    add("--out", type=Path, metavar="DIR", help="the run's folder (runs/DATA-1, or the next number)")
    add(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="keep a folder's rows there, decoded, for the next epochs, until the run ends: worth it for .parquet files",
    )
    device = _choice("device", KINDS, "JAX's own choice")
    device["help"] += "; a run may be resumed on another, to the same end within rounding"
    add("--device", **device)
    add("--json", action="store_true", help="print one JSON object instead of text")
    for group in (_add_tables, _add_checkpoints, _add_devices, _add_privacy):
        group(train)


def _add_tables(train) -> None:
    tables = train.add_argument_group(
        "tables", "what is found in a table, and done with each column, is printed; these say otherwise"
    )
    add = tables.add_argument
    columns: dict[str, Any] = {"nargs": "+", "action": "extend", "metavar": "COLUMN"}
    add("--drop", **columns, help="columns to leave out (ids, row numbers and free text, where they are known)")
    add("--categories", **columns, help="columns that hold labels, though they look like numbers")
    add("--numbers", **columns, help="columns that hold numbers, though they look like ids or codes")
    add(
        "--missing",
        type=_one_of("way with missing values", MISSING),
        metavar="NAME",
        help="impute the training median and tell the network, or drop such rows (impute)",
    )
    add("--na", nargs="+", action="extend", metavar="WORD", help="stands for no value too, beside NA, ? and the like")
    add("--separator", type=_separator, metavar="MARK", help="between the columns of a text file (found)")
    add("--decimal", type=_one_of("decimal mark", MARKS), metavar="MARK", help="a point or a comma (found)")
    add(
        "--header", type=_one_of("answer", ("yes", "no")), metavar="YES", help="whether the first row has names (found)"
    )


def _add_checkpoints(train) -> None:
    keep = train.add_argument_group(
        "checkpoints",
        "Ctrl-C and SIGTERM stop, saved, after the epoch or within a long one; a kill loses what came after the last one",
    )
    add = keep.add_argument
    add(
        "--resume",
        type=Path,
        metavar="DIR",
        help="go on with the run in DIR, perhaps to more --epochs, or after a divergence at a lower --learning-rate",
    )
    add("--checkpoint-every", type=_positive, metavar="N", help="epochs from one checkpoint to the next (never)")
    add("--checkpoint-minutes", type=_positive_number, metavar="M", help="and minutes (1)")


def _add_devices(train) -> None:
    where = train.add_argument_group(
        "several devices",
        "each batch is shared out; the result is that of one device within rounding: jaxbackprop.scaling",
    )
    add = where.add_argument
    add("--devices", type=_positive, metavar="N", help="of this machine (1); with --coordinator all of each process")
    add("--coordinator", metavar="HOST:PORT", help="where process 0 is; 'auto' under SLURM, Open MPI or on a TPU slice")
    add("--processes", type=_positive, metavar="N", help="how many there are")
    add("--process-id", type=int, metavar="I", help="which this is, from 0; 0 prints and writes")


def _add_privacy(train) -> None:
    private = train.add_argument_group(
        "differential privacy",
        "the noise comes from the operating system, not from --seed; what is protected, and what is not: "
        "jaxbackprop/training/privacy.py",
    )
    add = private.add_argument
    add("--private", action="store_true", help="clip each example's gradient and add noise (DP-SGD)")
    add("--epsilon", type=_positive_number, metavar="E", help=f"what may be spent in all ({PRIVACY['epsilon']:g})")
    add("--noise-multiplier", type=_positive_number, metavar="S", help="noise in units of C, instead of --epsilon")
    add("--delta", type=_positive_number, metavar="D", help=f"({PRIVACY['delta']:g})")
    add(
        "--max-norm",
        type=_positive_number,
        metavar="C",
        help=f"the bound on an example's gradient norm ({PRIVACY['max_norm']:g})",
    )


def _add_predict(known) -> None:
    predict = known.add_parser(
        "predict",
        help="predict with what a run trained",
        description="Predict for each row of a file, with the network, parameters and standardisation of a run. "
        "Writes CSV: the prediction and, for classes, its probability.",
        epilog=PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.set_defaults(command=commands.predict_command)
    predict.add_argument("run", type=Path, metavar="RUN", help="the folder that `jaxbackprop train` wrote")
    predict.add_argument(
        "file", type=Path, metavar="FILE", help="a .csv, .tsv, .npz or .parquet file with the run's features"
    )
    predict.add_argument("--device", **_choice("device", KINDS, "JAX's own choice"))
    predict.add_argument("--out", type=Path, metavar="FILE", help="write the CSV there instead of printing it")


def _add_evaluate(known) -> None:
    evaluate = known.add_parser(
        "evaluate",
        help="measure what a run trained on other rows",
        description="Measure a run's network on the rows of a file or a folder that has the target too.",
        epilog=EVALUATE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evaluate.set_defaults(command=commands.evaluate_command)
    evaluate.add_argument("run", type=Path, metavar="RUN", help="the folder that `jaxbackprop train` wrote")
    evaluate.add_argument("file", type=Path, metavar="FILE", help="rows with the run's features and its target")
    evaluate.add_argument("--device", **_choice("device", KINDS, "JAX's own choice"))
    evaluate.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_grade(known) -> None:
    command = known.add_parser(
        "grade",
        help="mark a written derivation line by line",
        description="Mark each equation of a derivation, in plain text, Unicode, LaTeX or Markdown: right, wrong and why, "
        "not judged or not read. The network is what its forward equations say, or the exercise's; the first line says which. "
        "Exit status 0: nothing is wrong; 1: something is; 3: nothing wrong was found, and more than a fifth of the equations "
        "was not judged or not read.",
        epilog=GRADE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=commands.grade_command)
    command.add_argument("file", metavar="FILE", help="the derivation; - reads standard input")
    command.add_argument(
        "--allow-unread", action="store_true", help="exit status 0 however little was judged, if it is right"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def _add_trace(known) -> None:
    trace = known.add_parser(
        "trace",
        help="work the exercise, or a derivation's own network, through: every value and every adjoint",
        description="Work the exercise through: z0 = w0 x, h0 = g(z0), z1 = w1 h0, h1 = g(z1), yhat = w2 h1 + w3 h0, "
        "L = ½ (yhat − y)², and back. With FILE, the forward equations in it instead, at the numbers given; with a run's "
        "folder, its network. Each adjoint stands beside jax.grad's.",
        epilog=TRACE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    trace.set_defaults(command=commands.trace_command)
    # argparse by itself takes -1e-3 for an option
    matcher = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)
    trace._negative_number_matcher = matcher  # pyright: ignore[reportAttributeAccessIssue]
    add = trace.add_argument
    add(
        "file",
        nargs="?",
        metavar="FILE",
        help="a derivation with forward equations and a loss (- reads standard input), or a folder that train wrote",
    )
    add("--set", type=_setting, nargs="+", default=[], metavar="NAME=NUMBERS", help="numbers for the names in FILE")
    add("--x", metavar="X", help="the input: a number, 1,2 or rows 1,2;3,4 (1.5); of a run as the network sees it")
    add("--y", metavar="Y", help="the target (2); of a run also a class")
    add(
        "--weights",
        type=_number,
        nargs=4,
        metavar=("W0", "W1", "W2", "W3"),
        help="w3 is the skip connection (0.8 1.3 -0.7 0.45)",
    )
    add("--format", **_choice("format", FORMATS, "text"))
    add("--figure", type=Path, metavar="FILE", help="draw the network with its numbers: .svg, .png or .pdf")


def _add_check(known) -> None:
    command = known.add_parser(
        "check",
        help="check a gradient of your own, wherever it comes from",
        description="Check GRADIENT(params, *data) against jax.grad of VALUE(params, *data) and against finite differences, "
        "parameter by parameter, and say what a wrong one looks like. Without GRADIENT, VALUE is a function with "
        "jax.custom_vjp, whose derivative rule is checked. Exit status 0: it is right; 1: it is wrong; 2: it cannot be checked; "
        "3: nothing wrong was found, and some decisions (a ReLU, a clip, a margin) were never seen on both sides.",
        epilog=CHECK_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(command=commands.check_command)
    add = command.add_argument
    add("value", metavar="MODULE:VALUE", help="the scalar in plain JAX; MODULE is a file or an importable name")
    add(
        "gradient", nargs="?", metavar="[MODULE:]GRADIENT", help="the gradient under test; MODULE is VALUE's by default"
    )
    add(
        "--arguments",
        default="arguments",
        metavar="[MODULE:]NAME",
        help="a tuple (params, *data), or a function that returns one (arguments)",
    )
    add("--reference", metavar="[MODULE:]NAME", help="without GRADIENT: the same function in plain JAX")
    add("--json", action="store_true", help="print one JSON object instead of text")


def _default(name: str) -> str:
    return f"({DEFAULTS[name]:g}; with --private {PRIVATE_DEFAULTS[name]:g})"


def _choice(kind: str, known, default: str) -> dict[str, Any]:
    """An option whose value is one of a few names."""
    usual = None if default not in known else default
    return {
        "type": _one_of(kind, known),
        "default": usual,
        "metavar": "NAME",
        "help": f"{', '.join(known)} ({default})",
    }


def _either(known) -> str:
    *most, last = known
    return f"{', '.join(most)} or {last}"


def _one_of(kind: str, known):
    def parse(given: str) -> str:
        if given not in known:
            raise argparse.ArgumentTypeError(unknown(kind, given, known))
        return given

    return parse


def _separator(given: str) -> str:
    mark = {"tab": "\t", "\\t": "\t"}.get(given, given)
    if len(mark) != 1 or mark in '\r\n"':
        raise argparse.ArgumentTypeError(f"{given!r} is not one character, such as ; or tab")
    return mark


def _positive(given: str) -> int:
    if not (given.isascii() and given.isdecimal()) or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not an integer of at least 1")
    return int(given)


def _positive_number(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not 0 < number < 3.4e38:  # float32's largest
        raise argparse.ArgumentTypeError(f"{given!r} is not a positive number")
    return number


def _setting(given: str) -> tuple[str, str]:
    name, _, numbers = given.partition("=")
    if not (name and numbers):
        raise argparse.ArgumentTypeError(f"{given!r} is not NAME=NUMBERS, such as b=1 or x=1,2")
    return name, numbers


def _number(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise argparse.ArgumentTypeError(f"{given!r} is not a finite number")
    return number


def _not_negative(given: str) -> float:
    return 0.0 if _number(given) == 0 else _positive_number(given)


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.strerror}: {error.filename}"
    return " ".join(text.split())


if __name__ == "__main__":
    entry()
