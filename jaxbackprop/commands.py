"""What the commands of cli.py do, given their parsed arguments: train, predict, trace, grade and check."""

import csv
import importlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxbackprop import __version__, data, devices, network
from jaxbackprop.checking import check
from jaxbackprop.checking.report import Report
from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks, examples_of, spilled
from jaxbackprop.data.figures import figures_of, lines_of
from jaxbackprop.data.stored import is_stored
from jaxbackprop.gradient import plain_loss, predict, value_and_grad
from jaxbackprop.grading.grade import grade
from jaxbackprop.grading.report import WRONG
from jaxbackprop.losses import as_loss
from jaxbackprop.scaling import mesh as meshes
from jaxbackprop.scaling import processes
from jaxbackprop.tracing.derivation import WorkedDerivation, work
from jaxbackprop.tracing.taken import as_array
from jaxbackprop.tracing.trace import Trace, trace
from jaxbackprop.training import accounting, checkpoints, evaluate, fit, identity, privacy, runs, steps
from jaxbackprop.training.secret import SECRET_FILE
from jaxbackprop.words import extra, unknown

if TYPE_CHECKING:
    import optax  # imported where it is used: --help answers at once

LOST = 75  # "try again", as sysexits.h has it
WHERE = ("devices", "coordinator", "processes", "process_id", "scratch")  # what a run may have otherwise each time
SAID_ANEW = ("resume", "epochs", "learning_rate", "json", "checkpoint_every", "checkpoint_minutes", "device", *WHERE)
NOT_KEPT = ("command", "resume", "out", "json", *WHERE)  # arguments that a resumed run does not take over


class _Training(NamedTuple):
    """What the arguments come to, once everything that can be refused has been."""

    dataset: data.Dataset
    network: network.Network
    loss: str
    quoted: str
    method: str | steps.GradientMethod
    noise_multiplier: float | None
    spent: accounting.Spent | None
    unprotected: list[str]
    steps: int
    folder: Path


def train_command(arguments: Namespace) -> int:
    """Load, check the gradient, train, report; returns the exit status."""
    _rich()  # what is missing is said before anything is done
    kind = _kind_of_device(arguments)
    with devices.preferred(kind):
        if not arguments.coordinator:  # with others it is asked for where what one refuses ends all
            devices.require(kind)
        with _joined(arguments):
            return _train(arguments)


def _train(arguments: Namespace) -> int:
    began = time.perf_counter()
    first = jax.process_index() == 0  # the others compute, and say nothing
    say = _say if first and not arguments.json else _silent
    arguments, mesh, training = _planned(arguments)
    if first and not arguments.json:
        _say_devices(mesh)
    _say_data(say, training)
    report = _check(training, jax.random.key(arguments.seed)) if first else None
    if report:
        say("gradient", f"derived by hand; check: {report.line}")
        if not report.ok:
            print(report, file=sys.stderr)
    (wrong,) = processes.agree(report is not None and not report.ok)
    if wrong:
        return 1
    _say_training(say, arguments, training, mesh)
    if first and not arguments.resume:
        runs.write_config(training.folder, _config(arguments, training))
    with _Stop() as stop:
        state, history = _fit(arguments, training, mesh, stop)
    status, why = _ended_early(arguments, training, state, history, stop)
    if why and first:
        print(f"jaxbackprop: {why}", file=sys.stderr)
    if status or report is None:
        return status
    figures = _leave(training, state, history)
    seconds, rate = time.perf_counter() - began, _steps_per_second(history, training.steps)
    if arguments.json:
        print(json.dumps(_result(training, report, state, history, seconds, rate) | figures))
    else:
        _say_end(training, history[-1], figures, seconds, rate)
    return 0


def _say_devices(mesh: Mesh | None) -> None:
    used = [jax.devices()[0]] if mesh is None else mesh.devices.ravel().tolist()
    together = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    there = f"{len(used)} {used[0].platform} device(s), {os.cpu_count()} processors{together}"
    print(f"jaxbackprop {__version__} on {there}")


def _say_data(say: Callable, training: _Training) -> None:
    dataset, net = training.dataset, training.network
    examples = f"{examples_of(dataset.train):,} training and {examples_of(dataset.test):,} test examples"
    say("data", f"{dataset.name}: {examples}, {net.inputs} features")
    say("", dataset.note)
    for i, line in enumerate(dataset.table):
        say("" if i else "columns", line)
    say("network", str(net))


def _say_training(say: Callable, arguments: Namespace, training: _Training, mesh: Mesh | None) -> None:
    used = "jax.grad" if training.method == "jax.grad" else "the hand-derived gradient"
    how = f"{arguments.optimizer} at {arguments.learning_rate:g} through {used}"
    say("training", f"{how}: {arguments.epochs} epochs of {training.steps} steps of {arguments.batch_size}")
    numbers = network.count_parameters(training.network)
    advice = devices.advice(devices.platform(), numbers, arguments.batch_size)
    if advice and not arguments.device and mesh is None:  # who names a device has chosen
        print(f"jaxbackprop: {advice}", file=sys.stderr)
    if training.spent:
        say("privacy", f"clipped at {arguments.max_norm:g}, noise multiplier {training.noise_multiplier:.3f}")
        for taken in training.unprotected:
            say("", f"not protected: {taken}")
        say("", f"{training.folder / runs.CHECKPOINTS / SECRET_FILE} holds the noise's key until training has ended:")
        say("", "whoever reads it can take the noise out; it is needed to --resume, and must not be published")


def _ended_early(arguments, training: _Training, state, history, stop: "_Stop") -> tuple[int, str]:
    """The exit status and why, where training diverged or was stopped; 0 and nothing where it came to its end."""
    last = history[-1] if history else None
    if last and not steps.is_finite(last):
        found = f"the loss is {last['loss']:.3g}, held out {last['validation_loss']:.3g}, after epoch {last['epoch']}"
        again = f"jaxbackprop train --resume {training.folder} --learning-rate RATE goes on from it"
        kept = "the metrics" + (f" and a checkpoint: {again}" if int(state.step) and not training.spent else "")
        return 1, f"{found}: try a learning rate below {arguments.learning_rate:g}; {training.folder} keeps {kept}"
    if last and last["epoch"] >= arguments.epochs:  # else, of several processes, any may have been asked to stop
        return 0, ""
    within = int(state.step) - len(history) * training.steps
    where = f"after epoch {len(history)}{f' and {within} steps' if within else ''} of {arguments.epochs}, saved"
    secret = f", by {runs.CHECKPOINTS}/{SECRET_FILE} there, which nobody else may read" if training.spent else ""
    status = 128 + (stop.signal or signal.SIGTERM)
    return status, f"stopped {where}: jaxbackprop train --resume {training.folder}{secret}"


def _leave(training: _Training, state, history) -> dict[str, Any]:
    """Write what a finished run leaves, and measure it on the rows held out."""
    dataset, net = training.dataset, training.network
    runs.write_params(training.folder, state.params)
    runs.write_curves(training.folder / runs.CURVES, history, f"{dataset.name}: {net}")
    # here alone, in one process of perhaps several
    params = jax.tree.map(lambda w: jnp.asarray(np.asarray(w)), state.params)
    return figures_of(dataset.encoding, *evaluate.answers(net, params, dataset.test))


def _say_end(training: _Training, last, figures: dict[str, Any], seconds: float, rate: float | None) -> None:
    dataset = training.dataset
    _say("test", _test_line(training, last))
    for line in lines_of(dataset.encoding, figures):
        _say("", line)
    if training.spent:
        epsilon, delta = training.spent
        _say("spent", f"epsilon {epsilon:.3f} at delta {delta:g}, for adding or removing one training example")
        many = examples_of(dataset.train)
        if delta >= 1 / many:
            _say("", f"delta is not below 1/{many}: it would allow publishing an example outright")
    _say("time", f"{seconds:.1f} s in all" + (f"; {rate:,.0f} steps a second after the first epoch" if rate else ""))
    _say("saved", f"{training.folder}: {', '.join(runs.listing(training.folder))}")
    if training.spent:
        raw = f"{runs.METRICS}, {runs.CURVES} and {runs.CHECKPOINTS}/"
        _say("", f"{runs.PARAMS} is what is protected; {raw} are not: they hold losses, and a digest, of the raw rows")


def predict_command(arguments: Namespace) -> int:
    """Predict each row of a file with a run's network; returns the exit status."""
    with devices.preferred(arguments.device):
        devices.require(arguments.device)
        return _predict(arguments)


def _predict(arguments: Namespace) -> int:
    config, net, params = runs.read_run(arguments.run)
    if arguments.out and arguments.out.exists():
        raise ValueError(f"{arguments.out} exists: nothing is overwritten, give --out another file")
    encoding = _encoding(arguments.run, config, net)
    with _said_in_lines():
        x = data.read_features(arguments.file, encoding)
    yhat = predict(net, params, jnp.asarray(x))
    answers = data.decode(encoding, np.asarray(yhat))
    if encoding.classes:
        header = ("prediction", "probability")
        probability = np.asarray(jax.nn.softmax(yhat)).max(1)
        rows = [(answer, f"{p:.4f}") for answer, p in zip(answers, probability, strict=True)]
    else:
        header, rows = ("prediction",), [(f"{answer:.6g}",) for answer in answers]
    with arguments.out.open("x", newline="", encoding="utf-8") if arguments.out else nullcontext(sys.stdout) as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    if arguments.out:
        print(f"{len(rows):,} predictions in {arguments.out}")
    return 0


def evaluate_command(arguments: Namespace) -> int:
    """Measure a run's network on rows with their target; returns the exit status."""
    with devices.preferred(arguments.device):
        devices.require(arguments.device)
        config, net, params = runs.read_run(arguments.run)
        encoding = _encoding(arguments.run, config, net)
        with _said_in_lines():
            rows = data.read_examples(arguments.file, encoding)
        found = evaluate.evaluate(net, config["loss"], params, rows)
        figures = figures_of(encoding, *evaluate.answers(net, params, rows))
    if not encoding.classes:
        found["rmse"] *= encoding.target_scale[0]
    if arguments.json:
        print(json.dumps({"rows": examples_of(rows)} | found | figures))
        return 0
    error = f"root mean squared error {found.get('rmse', 0):.4g} in units of {encoding.target}"
    figure = f"accuracy {found['accuracy']:.1%}" if encoding.classes else error
    print(f"{examples_of(rows):,} rows: {figure}, loss {found['loss']:.3g}")
    print(*lines_of(encoding, figures), sep="\n")
    return 0


def grade_command(arguments: Namespace) -> int:
    """Mark a written derivation; returns the exit status: 1 if anything is wrong, 3 if too little was judged."""
    verdict = grade(_derivation(arguments.file))
    print(json.dumps(verdict.to_dict(), ensure_ascii=False) if arguments.json else verdict)
    if verdict.count(WRONG):
        return 1
    return 0 if verdict.enough or (arguments.allow_unread and verdict.ok) else 3


def _derivation(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text: save the derivation as plain text, Markdown or LaTeX") from None


def trace_command(arguments: Namespace) -> int:
    """Work the exercise, a derivation's own network or a run's through at the given numbers; returns the exit status."""
    path: Path | None = arguments.figure
    if path and path.suffix not in (".svg", ".png", ".pdf"):
        raise ValueError(f"{path} is not a picture's name: give --figure a name in .svg, .png or .pdf")
    if path and path.exists():
        raise ValueError(f"{path} exists: nothing is overwritten, give --figure another file")
    if path and not path.parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder: give --figure a file in one that exists")
    found = _worked(arguments)
    if not all(np.isfinite(row.value).all() for row in found.rows):
        raise ValueError("these numbers grow beyond what float64 holds, or have no derivative: give other ones")
    if path:
        picture = io.BytesIO()
        found.figure().savefig(picture, format=path.suffix[1:], dpi=150)
        with path.open("xb") as file:
            file.write(picture.getvalue())
    shown = {
        "text": found.text,
        "markdown": found.markdown,
        "latex": found.latex,
        "json": lambda: json.dumps(found.to_dict(), ensure_ascii=False),
    }[arguments.format]()
    print(shown.rstrip("\n"))
    if path:
        print(f"picture in {path}", file=sys.stderr)  # stdout stays what was asked for
    return 0


def _worked(arguments: Namespace) -> Trace | WorkedDerivation:
    run = Path(arguments.file or ".").is_dir()
    if arguments.set and run:
        raise ValueError("--set is for a derivation's own network: give its FILE, or --weights for the exercise's")
    if arguments.file and arguments.weights:
        raise ValueError("--weights is for the exercise: leave it out, or FILE")
    given = {name: text for name, text in (("x", arguments.x), ("y", arguments.y)) if text is not None}
    if arguments.file and run:
        return _worked_run(Path(arguments.file), given)
    if arguments.file:
        return work(
            _derivation(arguments.file), {name: as_array(v) for name, v in (given | dict(arguments.set)).items()}
        )
    w0, w1, w2, w3 = (np.full((1, 1), w) for w in arguments.weights or (0.8, 1.3, -0.7, 0.45))
    params = {"h0": {"x": w0}, "h1": {"h0": w1}, "yhat": {"h1": w2, "h0": w3}}
    x, y = as_array(given.get("x", "1.5")), as_array(given.get("y", "2"))
    return trace(network.skip_mlp((1, 1, 1, 1)), "half_squared_error", params, x, y)


def _worked_run(folder: Path, given: dict[str, str]) -> Trace:
    """A trained network at one example, as the network sees it; without --x each input is 1, without --y the target is 0."""
    config, net, params = runs.read_run(folder)
    classes = _encoding(folder, config, net).classes
    y = given.get("y", "0")
    if classes:
        number = classes.index(y) if y in classes else int(y) if y.isdecimal() else len(classes)
        if number >= len(classes):
            raise ValueError(
                f"--y {y} is no class: {unknown('class', y, list(classes))}, or a number below {len(classes)}"
            )
        target = np.int64(number)
    else:
        target = as_array(y)
    x = as_array(given["x"]) if "x" in given else np.ones(net.inputs)
    found = trace(net, config["loss"], params, x, target)
    assumed = [
        f"{name} was not given: {usual}" for name, usual in (("x", "each input 1"), ("y", "0")) if name not in given
    ]
    return replace(found, title="; ".join([found.title, *assumed]))


def check_command(arguments: Namespace) -> int:
    """Check a gradient, or a derivative rule, that somebody wrote; returns the exit status: 0, 1 if wrong, 3 if not all seen."""
    if arguments.reference and arguments.gradient:
        raise ValueError("--reference is for a function with custom_vjp: leave out the gradient, or --reference")
    load = _Loader(arguments.value)
    value, at = load(arguments.value), load(arguments.arguments)
    gradient, reference = (name and load(name) for name in (arguments.gradient, arguments.reference))
    for name, function in ((arguments.value, value), (arguments.gradient, gradient), (arguments.reference, reference)):
        if name and not callable(function):
            raise ValueError(f"{name} is a {type(function).__name__}: expected a function")
    at = _theirs(at) if callable(at) else at
    if not isinstance(at, tuple) or not at:
        found = f"{arguments.arguments} is a {type(at).__name__}"
        raise ValueError(f"{found}: expected a tuple (params, *data), or a function that returns one")
    if gradient:
        report = _theirs(check.check_gradient, value, gradient, *at)
    else:
        report = _theirs(check.check_vjp, value, *at, reference=reference)
    print(json.dumps(_without_nan(report.to_dict()), ensure_ascii=False) if arguments.json else report)
    return {"right": 0, "wrong": 1}.get(report.outcome, 3)


class _Loader:
    """Finds what `MODULE:NAME` names, MODULE a .py file or an importable name, by default that of the first."""

    def __init__(self, first: str):
        if ":" not in first:
            raise ValueError(f"{first!r} names no module: expected MODULE:VALUE, such as mine.py:loss")
        self.module = first.rpartition(":")[0]
        self.loaded: dict[str, Any] = {}
        sys.path.insert(0, str(Path.cwd()))  # a user's own modules, as `python -m` finds them

    def __call__(self, what: str) -> Any:
        module, _, name = what.rpartition(":")
        module = module or self.module
        if module not in self.loaded:
            self.loaded[module] = self._load(module)
        found = self.loaded[module]
        if not hasattr(found, name):
            public = [known for known in vars(found) if not known.startswith("_")]
            raise ValueError(f"in {module}: {unknown('name', name, public)}")
        return getattr(found, name)

    def _load(self, module: str) -> Any:
        if not module.endswith(".py"):
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                raise ValueError(f"there is no module {module!r} here: give a file, such as {module}.py:NAME")
            return _theirs(importlib.import_module, module)
        path = Path(module)
        if not path.is_file():
            raise ValueError(f"there is no file {module}")
        sys.path.insert(0, str(path.resolve().parent))
        spec = importlib.util.spec_from_file_location(f"checked_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = found
        _theirs(spec.loader.exec_module, found)
        return found


def _theirs(function, *args, **kwargs) -> Any:
    """Run somebody's code; what it raises is said in one line, with the place in their code."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        ours = str(Path(__file__).parent)
        frames = traceback.extract_tb(error.__traceback__)
        theirs = [f for f in frames if not f.filename.startswith(ours) and "site-packages" not in f.filename]
        where = (
            f" ({theirs[-1].filename}, line {theirs[-1].lineno})" if theirs and theirs[-1].filename[0] != "<" else ""
        )
        said = str(error) if isinstance(error, ValueError) and not where else f"{type(error).__name__}: {error}{where}"
        raise ValueError(said) from None


def _without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _encoding(run: Path, config: dict[str, Any], net: network.Network) -> data.Encoding:
    try:
        encoding = data.from_dict(config["encoding"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{run} has no usable encoding in {runs.CONFIG} ({error}): was a file altered?") from None
    lengths = {len(encoding.features), len(encoding.mean), len(encoding.scale), net.inputs}
    if len(lengths) > 1:
        counts = len(encoding.features), len(encoding.mean), len(encoding.scale), net.inputs
        found = "{} features, {} means, {} scales, {} inputs".format(*counts)
        raise ValueError(f"{run} does not fit together, {found}: was a file altered?")
    return encoding


def _plan(arguments: Namespace, mesh: Mesh | None) -> _Training:
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"seed is {arguments.seed}, expected an integer of at least 0 and below 2**63")
    if (arguments.checkpoint_every or 0) > arguments.epochs:
        raise ValueError(
            f"--checkpoint-every {arguments.checkpoint_every} would never come: there are {arguments.epochs} epochs"
        )
    dataset = _dataset(arguments)
    classes = dataset.encoding.classes
    build = {"skip": network.skip_mlp, "mlp": network.mlp, "dense": network.dense_mlp}[arguments.wiring]
    widths = (len(dataset.encoding.features), *arguments.hidden, len(classes) or 1)
    net = build(widths, arguments.activation, bias=not arguments.no_bias)
    examples = examples_of(dataset.train)
    if isinstance(dataset.train, Blocks):
        if arguments.private:
            raise ValueError("--private draws each batch from all examples: it needs them in memory, in a file")
        devices = 1 if mesh is None else mesh.shape[meshes.DATA]
        arguments.batch_size = reading.filled_batch(dataset.train, arguments.batch_size, devices)
        rows = reading.shared(dataset.train, arguments.batch_size, jax.process_count(), devices)
        steps = reading.steps_of(rows, arguments.batch_size)
    else:
        arguments.batch_size = min(arguments.batch_size, examples)
        steps = -(-examples // arguments.batch_size)
    method, noise_multiplier, spent = arguments.gradient, None, None
    if arguments.private:
        if arguments.gradient != "hand":
            raise ValueError("--private clips by the hand-derived gradient: leave out --gradient jax.grad")
        plan = accounting.Plan(examples, arguments.batch_size, arguments.epochs)
        noise_multiplier = arguments.noise_multiplier or accounting.calibrate(plan, arguments.epsilon, arguments.delta)
        spent = accounting.spent(plan, noise_multiplier, arguments.delta)
        method = privacy.private_gradient(arguments.max_norm, noise_multiplier)
    folder = arguments.resume or arguments.out or runs.next_folder(Path("runs"), Path(dataset.name).stem)
    if not arguments.resume and jax.process_index() == 0:
        runs.require_free(folder)
    loss = "softmax_cross_entropy" if classes else "half_squared_error"
    figure = as_loss(loss).figure
    assert figure is not None
    unprotected = _unprotected(arguments, classes, dataset.encoding.columns) if spent else []
    return _Training(dataset, net, loss, figure.name, method, noise_multiplier, spent, unprotected, steps, folder)


def _dataset(arguments: Namespace) -> data.Dataset:
    """The data that the arguments name, read and made ready."""
    if arguments.scratch and not is_stored(arguments.data):
        raise ValueError("--scratch is for the rows of a folder: a file is read into memory as a whole")
    how = {"seed": arguments.seed, "classes": arguments.classes, "stratify": not arguments.private}
    how["scale"] = data.read_bounds(arguments.bounds) if arguments.bounds else arguments.scale
    with _reading(quiet=not is_stored(arguments.data) or arguments.json or jax.process_index() > 0) as advance:
        dataset = data.load(
            arguments.data, arguments.target, arguments.task, treatment=_treatment(arguments), progress=advance, **how
        )
    if not arguments.scratch or not isinstance(dataset.train, Blocks):
        return dataset
    return replace(dataset, **{name: spilled(getattr(dataset, name), arguments.scratch) for name in ("train", "test")})


def _treatment(arguments: Namespace) -> data.Treatment:
    """What is said of a table's columns; a run of an earlier version says nothing of them."""
    said = {name: getattr(arguments, name, None) for name in data.Treatment._fields}
    said = {
        name: tuple(value) if isinstance(value, list) else value for name, value in said.items() if value is not None
    }
    return data.Treatment(**said | ({"header": said["header"] == "yes"} if "header" in said else {}))


def _unprotected(arguments: Namespace, classes: tuple[str, ...], columns: tuple[data.Column, ...]) -> list[str]:
    """What of the run's config was taken from the training rows as they are, and what would have spared it."""
    found = []
    if not arguments.bounds and arguments.scale == "rows":
        whose = "features" if classes else "features and target"
        medians = ", medians of the features" if columns else ""
        found.append(
            f"mean and scale of the {whose}{medians}, taken from the training rows (--bounds FILE or --scale none)"
        )
    if classes and not arguments.classes:
        found.append("the classes, found in the rows (--classes)")
    said, dropped = arguments.numbers or (), arguments.drop or ()
    # a column's `why` counts the rows that lack it, or says what was seen in them
    of_rows = [c.name for c in columns if c.name not in dropped and (c.name not in said or c.indicator or c.why)]
    if of_rows:
        first = ", ".join(map(repr, of_rows[:5])) + (", …" if of_rows[5:] else "")
        found.append(
            f"of the columns {first}: their kind, categories and gaps, found in the rows (--numbers NAME …, --drop)"
        )
    return found


def _check(training: _Training, key) -> Report:
    """The hand-derived gradient of this network, on some of this data, beside jax.grad and finite differences."""
    part = training.dataset.train
    x, y = next(reading.in_order(part, min(32, part.examples)))[:2] if isinstance(part, Blocks) else part
    sample = tuple(jnp.asarray(a[:32]) for a in (x, y))
    hand = value_and_grad(training.network, training.loss)
    plain = plain_loss(training.network, training.loss)
    return check.check_gradient(plain, lambda *args: hand(*args)[1], network.init(training.network, key), *sample)


def _planned(arguments: Namespace) -> tuple[Namespace, Mesh | None, _Training]:
    """The plan, once every process has one: what one of them refuses ends all, before anything is written."""
    refusal, found = None, None
    try:
        arguments = _as_started(arguments) if arguments.resume else arguments
        mesh = _mesh(arguments)
        found = arguments, mesh, _plan(arguments, mesh)
    except (ValueError, OSError, ImportError) as error:
        refusal = error
    (refused,) = processes.agree(refusal is not None)
    if refusal:
        raise refusal
    assert found is not None
    if refused:
        raise ValueError("another process has refused what it was given, and says what: nothing was written")
    if jax.process_count() == 1:
        return found
    dataset = found[2].dataset
    processes.require_alike(
        data=" ".join(map(identity.fingerprint_of, (dataset.train, dataset.test))),
        **{name: str(value) for name, value in vars(arguments).items() if name not in NOT_KEPT and name != "data"},
    )
    return found


def _as_started(arguments: Namespace) -> Namespace:
    """The arguments that the run was started with, and what was said anew."""
    started = runs.read_config(arguments.resume)["arguments"]
    # what has no value unless it is said may have come after the run
    wanted = {name for name, value in vars(arguments).items() if value is not None}
    missing = wanted - started.keys() - {*NOT_KEPT, "scale", "device"}
    if missing:
        raise ValueError(f"{arguments.resume / runs.CONFIG} does not say {sorted(missing)}: was it altered?")
    anew = {name: value for name, value in vars(arguments).items() if value is not None}
    said = {name: anew[name] for name in ("command", *SAID_ANEW) if name in anew}
    return Namespace(**{**vars(arguments), **started, **said})


def _kind_of_device(arguments: Namespace) -> str | None:
    """The kind that is said, or that the resumed run was told: JAX hears of it before it looks for any."""
    if arguments.device or not arguments.resume:
        return arguments.device
    try:
        return runs.read_config(arguments.resume)["arguments"].get("device")
    except (ValueError, OSError):  # `_planned` refuses it
        return None


@contextmanager
def _joined(arguments: Namespace):
    """Join the other processes, where there are any. A small watcher, of this one, says a last word should JAX abort it."""
    address, count, process_id = arguments.coordinator, arguments.processes, arguments.process_id
    numbered = count is not None and process_id is not None
    if not address and (count is not None or process_id is not None):
        raise ValueError("--processes and --process-id need --coordinator HOST:PORT, where process 0 is")
    if address and address != "auto" and not numbered:
        raise ValueError("--coordinator HOST:PORT needs --processes and --process-id too")
    if not address:
        yield
        return
    said = f"jaxbackprop: process {process_id} of {count} ended" if numbered else "jaxbackprop: a process ended"
    said += " before its run did: if another one was lost, or did not come, start the run again, with --resume where it has a "
    said += "checkpoint, with the processes that there are\n"
    # it reads until this process closes the pipe, which its end does too, whatever that is; nothing read is no farewell
    script = "import sys; sys.stdin.buffer.read() or sys.stderr.write(sys.argv[1])"
    command = [sys.executable, "-c", script, said]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as watcher:
        try:
            processes.join(None if address == "auto" else address, count, process_id)
            with processes.noticing_loss():
                with _stdout_to_stderr():  # the first message between them makes their library print
                    processes.agree(0)
                yield
        except processes.LostProcessError as error:
            print(f"jaxbackprop: {error}", file=sys.stderr, flush=True)
            watcher.communicate(b"farewell")
            os._exit(LOST)  # at once: what JAX does at exit waits for the others
        finally:
            watcher.communicate(b"farewell")


@contextmanager
def _stdout_to_stderr():
    """What is printed below Python goes to stderr: stdout stays what was asked for."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def _mesh(arguments: Namespace) -> Mesh | None:
    """The devices that each batch is laid over; None for one."""
    if arguments.coordinator:
        devices.require(arguments.device)
        if arguments.devices:
            raise ValueError("with --coordinator all devices of each process are used: leave out --devices")
        return meshes.data_mesh()
    wanted, there = arguments.devices or 1, jax.devices()
    if wanted > len(there):
        raise ValueError(f"--devices {wanted}: this machine has {len(there)}")
    return None if wanted == 1 else meshes.data_mesh(there[:wanted])


def _fit(arguments: Namespace, training: _Training, mesh: Mesh | None, stop: "_Stop"):
    dataset = training.dataset
    every = {"every_epochs": arguments.checkpoint_every, "every_minutes": arguments.checkpoint_minutes or 1.0}
    made_for = {"optimizer": f"{arguments.optimizer} at {arguments.learning_rate:g}"}
    if training.spent:
        made_for["privacy"] = f"noise multiplier {training.noise_multiplier}, clipped at {arguments.max_norm:g}"
    folder, key = training.folder / runs.CHECKPOINTS, jax.random.key(arguments.seed)
    first = jax.process_index() == 0
    with _Bar(arguments.epochs, training.quoted, quiet=arguments.json or not first) as bar, _said_in_lines():

        def goes_on_from(history) -> None:
            if arguments.resume and first:
                runs.write_whole(training.folder / runs.CONFIG, runs.config_bytes(_config(arguments, training)))
                runs.write_metrics(training.folder, history)
            if history:
                bar.start_at(history[-1])

        def after_epoch(_state, row) -> bool:
            if first:
                runs.append_metrics(training.folder, row)
            bar.advance(row)
            return stop.signal is not None

        def within_epoch(_epoch, step, steps) -> bool:
            bar.within(step / steps)
            return stop.signal is not None

        return fit.fit(
            training.network,
            training.loss,
            _optimizer(arguments),
            dataset.train,
            epochs=arguments.epochs,
            batch_size=arguments.batch_size,
            key=None if training.spent else key,
            params=steps.drawn(training.network, key) if training.spent else None,
            gradient=training.method,
            validation=dataset.test,
            callbacks=[after_epoch],
            monitor=within_epoch,
            mesh=mesh,
            checkpoints=checkpoints.Checkpoints(folder, **every, made_for=made_for, on_start=goes_on_from),
        )


@contextmanager
def _said_in_lines():
    """What is warned of, as one line each; divergence is said by its own line at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # each is another line
        warnings.filterwarnings("ignore", "the loss is .* training stopped")
        warnings.showwarning = lambda message, *_args, **_more: print(f"jaxbackprop: {message}", file=sys.stderr)
        yield


class _Stop:
    """Ctrl-C and SIGTERM as a wish, granted after the epoch, or in the middle of a long one; a second one ends at once."""

    def __init__(self):
        self.signal: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _asked(self, number, _frame):
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
        os.write(2, b"\njaxbackprop: stopping as soon as it is saved; once more to stop at once\n")


def _optimizer(arguments: Namespace) -> "optax.GradientTransformation":
    import optax

    options = {
        "adamw": {"weight_decay": arguments.weight_decay},
        "lion": {"weight_decay": arguments.weight_decay},
        "momentum": {"momentum": 0.9},
    }.get(arguments.optimizer, {})
    make = optax.sgd if arguments.optimizer == "momentum" else getattr(optax, arguments.optimizer)
    return make(arguments.learning_rate, **options)


def _config(arguments: Namespace, training: _Training) -> dict[str, Any]:
    import optax

    asked = ("optimizer", "learning_rate", "weight_decay", "epochs", "batch_size", "seed", "gradient")
    device = jax.devices()[0]
    config = {
        "data": str(arguments.data),
        "encoding": data.to_dict(training.dataset.encoding),
        "network": runs.network_to_dict(training.network),
        "loss": training.loss,
        **{name: getattr(arguments, name) for name in asked},
        "arguments": {name: _plain(value) for name, value in vars(arguments).items() if name not in NOT_KEPT},
        "device": f"{device.platform}: {device.device_kind}",
        "processes": jax.process_count(),
        "versions": {"jaxbackprop": __version__, "jax": jax.__version__, "optax": optax.__version__},
    }
    if training.spent:
        config["private"] = {
            "max_norm": arguments.max_norm,
            "noise_multiplier": training.noise_multiplier,
            **training.spent._asdict(),
            "not_protected": training.unprotected,
        }
    return config


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _result(training, report, state, history, seconds, rate) -> dict[str, Any]:
    encoding, last = training.dataset.encoding, history[-1]
    unit = 1 if encoding.classes else encoding.target_scale[0]
    result = {
        "run": str(training.folder),
        f"test_{training.quoted}": last[f"validation_{training.quoted}"] * unit,
        "test_loss": last["validation_loss"],
        "epochs": len(history),
        "steps": int(state.step),
        "gradient_check": report.line,
        "seconds": round(seconds, 2),
        "steps_per_second": rate and round(rate),
    }
    return result | ({"spent": training.spent._asdict()} if training.spent else {})


def _test_line(training, last) -> str:
    dataset, encoding, figure = training.dataset, training.dataset.encoding, last[f"validation_{training.quoted}"]
    if encoding.classes:
        many = examples_of(dataset.test)
        return f"accuracy {figure:.1%} ({round(figure * many):,} of {many:,} right), loss {last['validation_loss']:.3g}"
    better = 1 - figure**2 / dataset.baseline
    than = f"{abs(better):.0%} {'better' if better >= 0 else 'WORSE'} than the training mean in squared error"
    return f"root mean squared error {figure * encoding.target_scale[0]:.4g} in units of {encoding.target}, {than}"


def _steps_per_second(history, steps) -> float | None:
    """Of all epochs but the first, whose time is compilation."""
    later = history[-1]["seconds"] - history[0]["seconds"]
    return steps * (len(history) - 1) / later if later > 0 else None


def _rich() -> tuple[Any, Any]:
    """A console, and the module of progress bars: an extra."""
    console, progress = (extra(f"rich.{part}", "rich", "jaxbackprop train") for part in ("console", "progress"))
    return console.Console(), progress


@contextmanager
def _reading(quiet: bool):
    """A progress bar while data are read through, on a terminal; yields advance(done, of)."""
    console, rich = _rich()
    columns = (
        rich.TextColumn("            block"),
        rich.MofNCompleteColumn(),
        rich.BarColumn(),
        rich.TimeElapsedColumn(),
    )
    with rich.Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


class _Bar:
    """A progress bar with loss and figure on a terminal; in a pipe some ten plain lines; with `quiet` nothing."""

    def __init__(self, epochs: int, quoted: str, quiet: bool):
        console, rich = _rich()
        self.epochs, self.quoted = epochs, quoted
        self.plain = not quiet and not console.is_terminal
        columns = (rich.TextColumn("            epoch"), rich.MofNCompleteColumn(), rich.BarColumn())
        columns += (rich.TextColumn("{task.description}"), rich.TimeElapsedColumn())
        self.bar = rich.Progress(*columns, console=console, disable=quiet or self.plain)
        self.task = self.bar.add_task("", total=epochs)

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *error):
        self.bar.stop()

    def start_at(self, row: dict[str, Any]) -> None:
        self.bar.update(self.task, completed=row["epoch"])
        if self.plain:
            print(f"            goes on after epoch {row['epoch']} of {self.epochs}", flush=True)

    def within(self, share: float) -> None:
        done = int(self.bar.tasks[0].completed)
        self.bar.update(self.task, completed=done + min(share, 0.999))

    def advance(self, row: dict[str, Any]) -> None:
        figure = row[f"validation_{self.quoted}"]
        shown = f"{figure:.1%}" if self.quoted == "accuracy" else f"{figure:.4f}"
        shown = f"loss {row['loss']:.4f}  test {self.quoted} {shown}"
        self.bar.update(self.task, completed=row["epoch"], description=shown)
        if self.plain and (row["epoch"] % max(1, self.epochs // 10) == 0 or row["epoch"] in (1, self.epochs)):
            print(f"            epoch {row['epoch']:>{len(str(self.epochs))}}/{self.epochs}  {shown}", flush=True)


def _say(label: str, text: str) -> None:
    print(f"  {label:<9} {text}", flush=True)


def _silent(_label: str, _text: str) -> None:
    pass
