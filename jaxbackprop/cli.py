"""The command line: `jaxbackprop train` and `jaxbackprop predict`.

Exit status 0 is success, 1 "checked, and wrong", 2 bad input, which gets one line and changes nothing on disk.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from jaxbackprop._names import unknown

WIRINGS = ("skip", "mlp", "dense")
OPTIMIZERS = ("adam", "adamw", "sgd", "momentum", "rmsprop", "adagrad", "lion")
GRADIENTS = ("hand", "jax.grad")

TRAIN_EXAMPLES = """examples:
  jaxbackprop train                                   handwritten digits, with all defaults
  jaxbackprop train breast_cancer --hidden 32 --activation gelu
  jaxbackprop train houses.csv --target price --epochs 200 --out runs/houses
  jaxbackprop train digits --gradient jax.grad        the same trajectory, without our derivation
"""
PREDICT_EXAMPLES = """examples:
  jaxbackprop predict runs/houses-1 new_houses.csv
  jaxbackprop predict runs/houses-1 new_houses.csv --out predictions.csv
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = _parse(sys.argv[1:] if argv is None else argv)
    try:
        return arguments.command(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"jaxbackprop: {_one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxbackprop: interrupted", file=sys.stderr)
        return 130


def _parse(argv: list[str]) -> argparse.Namespace:
    parser, commands = _parser()
    if not argv:
        parser.error(f"give a command, {' or '.join(commands.choices)}: start with `jaxbackprop train`")
    if not argv[0].startswith("-") and argv[0] not in commands.choices:
        parser.error(unknown("command", argv[0], commands.choices))
    arguments, extra = parser.parse_known_args(argv)
    if extra:
        command = commands.choices[argv[0]]
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
    from jaxbackprop import __version__

    parser = _Parser(
        prog="jaxbackprop",
        description="Backpropagation derived by hand: train a network through it, and use what was trained.",
        epilog="Each command has its own --help with examples. Start with: jaxbackprop train",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    _add_train(commands)
    _add_predict(commands)
    return parser, commands


def _add_train(commands) -> None:
    from jaxbackprop.activations import ACTIVATIONS

    train = commands.add_parser(
        "train",
        help="train a network on a real data set through the hand-derived gradient",
        description="Train a network on a bundled data set or a file of yours, through the hand-derived gradient, "
        "which is checked against jax.grad and finite differences first.",
        epilog=TRAIN_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(command=_train)
    add = train.add_argument
    data_help = "digits, breast_cancer, diabetes, wine, or a .csv, .npz or .parquet file (digits)"
    add("data", nargs="?", default="digits", metavar="DATA", help=data_help)
    add("--target", metavar="COLUMN", help="the column to predict (the last)")
    add(
        "--task",
        type=_one_of("task", ("classification", "regression")),
        metavar="TASK",
        help="classification or regression (recognised)",
    )
    add("--hidden", type=int, nargs="*", default=[64, 64], metavar="WIDTH", help="widths of the hidden layers (64 64)")
    add(
        "--wiring", type=_one_of("wiring", WIRINGS), default="skip", metavar="NAME", help=f"{', '.join(WIRINGS)} (skip)"
    )
    add(
        "--activation",
        type=_one_of("activation", ACTIVATIONS),
        default="relu",
        metavar="NAME",
        help=f"{', '.join(ACTIVATIONS)} (relu)",
    )
    add("--no-bias", action="store_true", help="layers without biases, as in the exercise")
    add(
        "--optimizer",
        type=_one_of("optimizer", OPTIMIZERS),
        default="adamw",
        metavar="NAME",
        help=f"{', '.join(OPTIMIZERS)} (adamw)",
    )
    add(
        "--weight-decay",
        type=_not_negative,
        default=0.3,
        metavar="RATE",
        help="of adamw and lion; the others have none (0.3)",
    )
    add("--learning-rate", type=_positive_float, default=0.003, metavar="RATE", help="(0.003)")
    add("--epochs", type=_positive, default=60, metavar="N", help="(60)")
    add("--batch-size", type=_positive, default=32, metavar="N", help="(32)")
    add("--seed", type=int, default=0, metavar="N", help="of the split, the first parameters and the shuffles (0)")
    add(
        "--gradient",
        type=_one_of("gradient", GRADIENTS),
        default="hand",
        metavar="NAME",
        help="hand or jax.grad (hand)",
    )
    add("--out", type=Path, metavar="DIR", help="the run's folder (runs/DATA-1, or the next number)")
    add("--json", action="store_true", help="print one JSON object instead of text")


def _add_predict(commands) -> None:
    predict = commands.add_parser(
        "predict",
        help="predict with what a run trained",
        description="Predict for each row of a file, with the network, parameters and standardisation of a run. "
        "Writes CSV: the prediction and, for classes, its probability.",
        epilog=PREDICT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.set_defaults(command=_predict)
    predict.add_argument("run", type=Path, metavar="RUN", help="the folder that `jaxbackprop train` wrote")
    predict.add_argument(
        "file", type=Path, metavar="FILE", help="a .csv, .npz or .parquet file with the run's features"
    )
    predict.add_argument("--out", type=Path, metavar="FILE", help="write the CSV there instead of printing it")


def _train(arguments: argparse.Namespace) -> int:
    began = time.perf_counter()
    import jax
    import jax.numpy as jnp
    import optax

    from jaxbackprop import __version__, backprop, check, data, network, runs, train

    def say(label: str, text: str) -> None:
        if not arguments.json:
            print(f"  {label:<9} {text}", flush=True)

    dataset = data.load(arguments.data, arguments.target, arguments.task, seed=arguments.seed)
    classes = dataset.encoding.classes
    loss = "softmax_cross_entropy" if classes else "half_squared_error"
    build = {"skip": network.skip_mlp, "mlp": network.mlp, "dense": network.dense_mlp}[arguments.wiring]
    widths = (dataset.x_train.shape[1], *arguments.hidden, len(classes) or 1)
    net = build(widths, arguments.activation, bias=not arguments.no_bias)
    folder = arguments.out or runs.next_folder(Path("runs"), dataset.name)
    runs.require_free(folder)
    device = jax.devices()[0]
    key = jax.random.key(arguments.seed)
    config: dict[str, Any] = {
        "data": str(arguments.data),
        "encoding": data.to_dict(dataset.encoding),
        "network": runs.network_to_dict(net),
        "loss": loss,
        **{
            name: getattr(arguments, name)
            for name in ("optimizer", "learning_rate", "weight_decay", "epochs", "batch_size", "seed", "gradient")
        },
        "device": f"{device.platform}: {device.device_kind}",
        "versions": {"jaxbackprop": __version__, "jax": jax.__version__, "optax": optax.__version__},
    }

    if not arguments.json:
        print(
            f"jaxbackprop {__version__} on {len(jax.devices())} {device.platform} device(s), {os.cpu_count()} processors"
        )
    say(
        "data",
        f"{dataset.name}: {len(dataset.x_train):,} training and {len(dataset.x_test):,} test examples, {widths[0]} features",
    )
    say("", dataset.note)
    say("network", str(net))

    few = slice(0, 32)
    sample = (jnp.asarray(dataset.x_train[few]), jnp.asarray(dataset.y_train[few]))
    hand = backprop.value_and_grad(net, loss)
    params = network.init(net, key)
    report = check.check_gradient(backprop.plain_loss(net, loss), lambda *args: hand(*args)[1], params, *sample)
    say("gradient", f"derived by hand; check on {len(sample[0])} examples: {report.line}")
    if not report.ok:
        print(report, file=sys.stderr)
        return 1
    used = "the hand-derived gradient" if arguments.gradient == "hand" else "jax.grad"
    steps = -(-len(dataset.x_train) // arguments.batch_size)
    say(
        "training",
        f"{arguments.optimizer} at {arguments.learning_rate:g} through {used}: {arguments.epochs} epochs of {steps} steps",
    )

    runs.write_config(folder, config)
    quoted = "accuracy" if classes else "rmse"
    with _progress(arguments.epochs, quiet=arguments.json) as advance:

        def after_epoch(_state, row) -> bool:
            runs.append_metrics(folder, row)
            advance(row, quoted)
            return not row["loss"] < float("inf")

        state, history = train.fit(
            net,
            loss,
            _optimizer(arguments),
            (jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)),
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            key=key,
            gradient=arguments.gradient,
            validation=(jnp.asarray(dataset.x_test), jnp.asarray(dataset.y_test)),
            callbacks=[after_epoch],
        )
    last = history[-1]
    if not last["loss"] < float("inf"):
        print(
            f"jaxbackprop: the loss is {last['loss']} after epoch {last['epoch']}: try a learning rate below "
            f"{arguments.learning_rate:g}; {folder} keeps the metrics",
            file=sys.stderr,
        )
        return 1
    runs.write_params(folder, state.params)
    runs.write_curves(folder / runs.CURVES, history, f"{dataset.name}: {net}")

    figure = last[f"validation_{quoted}"]
    result = {
        "run": str(folder),
        f"test_{quoted}": figure if classes else figure * dataset.encoding.target_scale[0],
        "test_loss": last["validation_loss"],
        "epochs": len(history),
        "steps": int(state.step),
        "gradient_check": report.line,
    }
    # the first epoch's time is compilation; the rate is that of the others
    later = last["seconds"] - history[0]["seconds"]
    rate = steps * (len(history) - 1) / later if later > 0 else None
    seconds = time.perf_counter() - began
    result |= {"seconds": round(seconds, 2), "steps_per_second": rate and round(rate)}
    if arguments.json:
        print(json.dumps(result))
        return 0
    if classes:
        right = round(figure * len(dataset.x_test))
        say(
            "test",
            f"accuracy {figure:.1%} ({right} of {len(dataset.x_test)} right), loss {last['validation_loss']:.3g}",
        )
    else:
        spread = (
            f"{1 - figure**2 / float((dataset.y_test**2).mean()):.0%} better than the training mean in squared error"
        )
        say(
            "test", f"root mean squared error {result['test_rmse']:.4g} in units of {dataset.encoding.target}, {spread}"
        )
    say("time", f"{seconds:.1f} s in all" + (f"; {rate:,.0f} steps a second after the first epoch" if rate else ""))
    say("saved", f"{folder}: {', '.join(runs.listing(folder))}")
    return 0


def _predict(arguments: argparse.Namespace) -> int:
    import csv

    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxbackprop import data, network, runs

    config, net, params = runs.read_run(arguments.run)
    if arguments.out and arguments.out.exists():
        raise ValueError(f"{arguments.out} exists: nothing is overwritten, give --out another file")
    encoding = data.from_dict(config["encoding"])
    yhat = network.predict(net, params, jnp.asarray(data.read_features(arguments.file, encoding)))
    answers = data.decode(encoding, np.asarray(yhat))
    if encoding.classes:
        header = ("prediction", "probability")
        probability = np.asarray(jax.nn.softmax(yhat)).max(1)
        rows = [(answer, f"{p:.4f}") for answer, p in zip(answers, probability, strict=True)]
    else:
        header, rows = ("prediction",), [(f"{answer:.6g}",) for answer in answers]
    with arguments.out.open("x", newline="", encoding="utf-8") if arguments.out else _stdout() as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    if arguments.out:
        print(f"{len(rows):,} predictions in {arguments.out}")
    return 0


def _optimizer(arguments: argparse.Namespace):
    import optax

    options = {
        "adamw": {"weight_decay": arguments.weight_decay},
        "lion": {"weight_decay": arguments.weight_decay},
        "momentum": {"momentum": 0.9},
    }.get(arguments.optimizer, {})
    make = optax.sgd if arguments.optimizer == "momentum" else getattr(optax, arguments.optimizer)
    return make(arguments.learning_rate, **options)


class _progress:  # noqa: N801
    """A progress bar with loss and figure on a terminal; in a pipe ten plain lines; with `quiet` nothing."""

    def __init__(self, epochs: int, quiet: bool):
        self.epochs, self.quiet = epochs, quiet

    def __enter__(self):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console()
        columns = (
            TextColumn("            epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        self.bar = Progress(*columns, console=self.console, disable=self.quiet or not self.console.is_terminal)
        self.task = self.bar.add_task("", total=self.epochs)
        self.bar.__enter__()
        return self.advance

    def advance(self, row: dict[str, Any], quoted: str) -> None:
        figure = row[f"validation_{quoted}"]
        shown = f"loss {row['loss']:.4f}  test {quoted} " + (
            f"{figure:.1%}" if quoted == "accuracy" else f"{figure:.4f}"
        )
        self.bar.update(self.task, advance=1, description=shown)
        stride = max(1, self.epochs // 10)
        if self.bar.disable and not self.quiet and (row["epoch"] % stride == 0 or row["epoch"] in (1, self.epochs)):
            print(f"            epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  {shown}", flush=True)

    def __exit__(self, *error):
        self.bar.__exit__(*error)


def _stdout():
    from contextlib import nullcontext

    return nullcontext(sys.stdout)


def _one_of(kind: str, known):
    def parse(given: str) -> str:
        if given not in known:
            raise argparse.ArgumentTypeError(unknown(kind, given, known))
        return given

    return parse


def _positive(given: str) -> int:
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is not an integer of at least 1")
    return int(given)


def _positive_float(given: str) -> float:
    try:
        number = float(given)
    except ValueError:
        number = float("nan")
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{given!r} is not a positive number")
    return number


def _not_negative(given: str) -> float:
    return 0.0 if given in ("0", "0.0") else _positive_float(given)


def _one_line(error: Exception) -> str:
    text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
