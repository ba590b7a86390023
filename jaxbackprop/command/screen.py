"""What `jaxbackprop train` shows: lines under their labels, as text that is made apart, and bars on a terminal."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jax

from jaxbackprop import __version__, devices, network
from jaxbackprop.data.blocks import examples_of
from jaxbackprop.data.figures import lines_of
from jaxbackprop.spelling import counted, extra, folded
from jaxbackprop.training import runs
from jaxbackprop.training.secret import SECRET_FILE
from jaxbackprop.training.steps import diverged

if TYPE_CHECKING:
    from jaxbackprop.command.planning import Plan

NEEDS = "jaxbackprop train"
WITH_BAR = 100  # columns, in which a bar has room beside its numbers
Lines = Sequence[
    tuple[str, str] | str
]  # text with its label, "" for that of the line before; or without a place for any


def say(lines: Lines) -> None:
    """Print lines under their labels; what is too wide for the terminal goes on below."""
    for line in lines:
        text, indent = (line, 2) if isinstance(line, str) else (f"  {line[0]:<9} {line[1]}", 12)
        print(*folded([text], indent), sep="\n", flush=True)


def of_data(plan: Plan) -> Lines:
    """The version, what it computes on, the data, what was done with each column, and the network."""
    dataset, net = plan.dataset, plan.network
    used = [jax.devices()[0]] if plan.mesh is None else plan.mesh.devices.ravel().tolist()
    together = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    there = f"{len(used)} {used[0].platform} device(s), {os.cpu_count()} processors{together}"
    examples = f"{examples_of(dataset.train):,} training and {counted(examples_of(dataset.test), 'test example')}"
    table = [("" if i else "columns", line) for i, line in enumerate(dataset.table)]
    return [
        f"jaxbackprop {__version__} on {there}",
        ("data", f"{dataset.name}: {examples}, {counted(net.inputs, 'feature')}"),
        ("", dataset.note),
        *table,
        ("network", str(net)),
    ]


def of_training(plan: Plan, report) -> Lines:
    """What the gradient's check found; if it is right how it is trained, and what a private run does not protect."""
    given, checked = plan.arguments, ("gradient", f"derived by hand; check: {report.line}")
    if not report.ok:
        return [checked]
    used = "jax.grad" if plan.method == "jax.grad" else "the hand-derived gradient"
    how = f"{given.optimizer} at {given.learning_rate:g} through {used}"
    together = ", all examples at once" if given.batch_size == examples_of(plan.dataset.train) else ""
    epochs, steps = counted(given.epochs, "epoch"), counted(plan.steps, "step")
    lines: list = [checked, ("training", f"{how}: {epochs} of {steps} of {given.batch_size}{together}")]
    if plan.spent:
        secret = plan.folder / runs.CHECKPOINTS / SECRET_FILE
        lines += [
            ("privacy", f"clipped at {given.max_norm:g}, noise multiplier {plan.noise_multiplier:.3f}"),
            *(("", f"not protected: {taken}") for taken in plan.unprotected),
            ("", f"{secret} holds the noise's key until training has ended:"),
            ("", "whoever reads it can take the noise out; it is needed to --resume, and must not be published"),
        ]
    return lines


def advice(plan: Plan) -> str | None:
    """Where a CPU would be faster; who names a device has chosen."""
    if plan.arguments.device or plan.mesh is not None:
        return None
    numbers = network.count_parameters(plan.network)
    return devices.advice(devices.platform(), numbers, plan.arguments.batch_size)


def ended_early(plan: Plan, history, step: int, wishes: Sequence[int]) -> tuple[int, str]:
    """The exit status and why, where training diverged or was stopped; 0 and nothing where it came to its end."""
    last, epochs = history[-1] if history else {"epoch": 0}, plan.arguments.epochs
    if diverged(history):
        found = f"the loss is {last['loss']:.3g}, held out {last['validation_loss']:.3g}, after epoch {last['epoch']}"
        again = f"jaxbackprop train --resume {plan.folder} --learning-rate RATE goes on from it"
        kept = "the metrics" + (f" and a checkpoint: {again}" if step and not plan.spent else "")
        lower = f"try a learning rate below {plan.arguments.learning_rate:g}"
        return 1, f"{found}: {lower}; {plan.folder} keeps {kept}"
    if last["epoch"] >= epochs:  # else, of several processes, any may have been asked to stop
        return 0, ""
    within = step - len(history) * plan.steps
    where = f"after epoch {len(history)}{f' and {within} steps' if within else ''} of {epochs}, saved"
    secret = f", by {runs.CHECKPOINTS}/{SECRET_FILE} there, which nobody else may read" if plan.spent else ""
    return 128 + (*wishes, signal.SIGTERM)[0], f"stopped {where}: jaxbackprop train --resume {plan.folder}{secret}"


def of_end(plan: Plan, history, figures: dict[str, Any], seconds: float) -> Lines:
    """What came of it, how long it took, and where it is."""
    rate = steps_per_second(plan, history)
    lines: list = [
        ("test", _of_test(plan, history[-1])),
        *(("", line) for line in lines_of(plan.dataset.encoding, figures)),
    ]
    if plan.spent:
        epsilon, delta = plan.spent
        many = examples_of(plan.dataset.train)
        lines.append(
            ("spent", f"epsilon {epsilon:.3f} at delta {delta:g}, for adding or removing one training example")
        )
        if delta >= 1 / many:
            lines.append(("", f"delta is not below 1/{many}: it would allow publishing an example outright"))
    each = f"; {rate:,.0f} steps a second after the first epoch" if rate else ""
    lines.append(("time", f"{seconds:.1f} s in all{each}"))
    lines.append(("saved", f"{plan.folder}: {', '.join(runs.listing(plan.folder))}"))
    if plan.spent:
        raw = f"{runs.METRICS}, {runs.CURVES} and {runs.CHECKPOINTS}/"
        held = "are not: they hold losses, and a digest, of the raw rows"
        lines.append(("", f"{runs.PARAMS} is what is protected; {raw} {held}"))
    return lines


def steps_per_second(plan: Plan, history) -> float | None:
    """Of all epochs but the first, whose time is compilation."""
    later = history[-1]["seconds"] - history[0]["seconds"]
    return plan.steps * (len(history) - 1) / later if later > 0 else None


def _of_test(plan: Plan, last) -> str:
    dataset, encoding, figure = plan.dataset, plan.dataset.encoding, last[f"validation_{plan.quoted}"]
    if encoding.classes:
        many = examples_of(dataset.test)
        return f"accuracy {figure:.1%} ({round(figure * many):,} of {many:,} right), loss {last['validation_loss']:.3g}"
    better = 1 - figure**2 / dataset.baseline
    than = f"{abs(better):.0%} {'better' if better >= 0 else 'WORSE'} than the training mean in squared error"
    return f"root mean squared error {figure * encoding.target_scale[0]:.4g} in units of {encoding.target}, {than}"


@contextmanager
def warnings_in_lines():
    """What is warned of, as one line each; divergence is said by its own line at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)  # each is another line
        warnings.filterwarnings("ignore", "the loss is .* training stopped")
        warnings.showwarning = lambda message, *_args, **_more: print(f"jaxbackprop: {message}", file=sys.stderr)
        yield


def _bar(label: str, quiet: bool, *more: str) -> Any:
    """A bar that counts, on a terminal."""
    console, parts = extra("rich.console", "rich", NEEDS).Console(), extra("rich.progress", "rich", NEEDS)
    narrow = console.width < WITH_BAR  # there the numbers alone
    columns = [parts.TextColumn(f"{'  ' if narrow else ' ' * 12}{label}"), parts.MofNCompleteColumn()]
    columns += [*([] if narrow else [parts.BarColumn()]), *map(parts.TextColumn, more), parts.TimeElapsedColumn()]
    hidden = quiet or not console.is_terminal
    return parts.Progress(*columns, console=console, disable=hidden, transient=not more)


@contextmanager
def reading_bar():
    """A progress bar while data are read through, on a terminal; yields advance(done, of)."""
    with _bar("block", quiet=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


class Bar:
    """A progress bar with loss and figure on a terminal; in a pipe some ten plain lines; with `quiet` nothing."""

    def __init__(self, epochs: int, quoted: str, quiet: bool):
        self.epochs, self.quoted = epochs, quoted
        self.bar = _bar("epoch", quiet, "{task.description}")
        self.plain = not quiet and self.bar.disable
        self.task = self.bar.add_task("", total=epochs)

    def start_at(self, row: dict[str, Any]) -> None:
        """Begin after the epoch of a resumed run."""
        self.bar.update(self.task, completed=row["epoch"])
        if self.plain:
            print(f"            goes on after epoch {row['epoch']} of {self.epochs}", flush=True)

    def within(self, share: float) -> None:
        """A share of an epoch is done."""
        self.bar.update(self.task, completed=int(self.bar.tasks[0].completed) + min(share, 0.999))

    def advance(self, row: dict[str, Any]) -> None:
        """An epoch is done."""
        figure, i = row[f"validation_{self.quoted}"], row["epoch"]
        shown = f"{figure:.1%}" if self.quoted == "accuracy" else f"{figure:.4f}"
        shown = f"loss {row['loss']:.4f}  test {self.quoted} {shown}"
        self.bar.update(self.task, completed=i, description=shown)
        if self.plain and (i % max(1, self.epochs // 10) == 0 or i in (1, self.epochs)):
            print(f"            epoch {i:>{len(str(self.epochs))}}/{self.epochs}  {shown}", flush=True)
