"""What `jaxbackprop train` will do, and all that it refuses, before anything is written."""

from __future__ import annotations

import os
from argparse import Namespace
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxbackprop import data, devices, network
from jaxbackprop.command.options import SAID_ANEW, WHERE
from jaxbackprop.command.screen import reading_bar
from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks, examples_of, spilled
from jaxbackprop.data.stored import is_stored
from jaxbackprop.scaling import mesh as meshes
from jaxbackprop.scaling import processes
from jaxbackprop.training import accounting, identity, privacy, runs
from jaxbackprop.training.inputs import batch_size_of
from jaxbackprop.training.steps import GradientMethod

NOT_KEPT = ("resume", "out", "json", *WHERE)  # arguments that a resumed run does not take over


class Plan(NamedTuple):
    """What the arguments come to, once everything that can be refused has been.

    Attributes:
        arguments: as they were said, or as the resumed run was started; with the batch size that there can be.
        mesh: the devices that each batch is laid over; None for one.
        quoted: the figure beside the loss, "accuracy" or "rmse".
        method, noise_multiplier, spent, unprotected: the gradient, what it adds, and what is told of the rows all the same.
        folder: the run's; of a new one without --out its name, to which `taken` gives the next free number.
        first: whether this is the process that prints and writes.
    """

    arguments: Namespace
    mesh: Mesh | None
    dataset: data.Dataset
    network: network.Network
    loss: str
    quoted: str
    steps: int
    method: str | GradientMethod
    noise_multiplier: float | None
    spent: accounting.Spent | None
    unprotected: list[str]
    folder: Path
    first: bool


def planned(arguments: Namespace) -> Plan:
    """The plan, once every process has one: what one of them refuses ends all, before anything is written."""
    refusal, found = None, None
    try:
        arguments = as_started(arguments) if arguments.resume else arguments
        mesh = _mesh(arguments)
        found = plan(arguments, mesh, _dataset(arguments))
    except (ValueError, OSError, ImportError) as error:
        refusal = error
    (refused,) = processes.agree(refusal is not None)
    if refusal:
        raise refusal
    assert found is not None
    if refused:
        raise ValueError("another process has refused what it was given, and says what: nothing was written")
    if jax.process_count() > 1:
        told = {k: str(v) for k, v in vars(found.arguments).items() if k not in NOT_KEPT and k != "data"}
        rows = map(identity.fingerprint_of, (found.dataset.train, found.dataset.test))
        processes.require_alike(data=" ".join(rows), **told)
    return found


def as_started(arguments: Namespace) -> Namespace:
    """The arguments that the run was started with, and what was said anew."""
    config, given = runs.read_config(arguments.resume), vars(arguments)
    started = config["arguments"]
    if not os.path.exists(started.get("data", "")):  # perhaps it was moved, and is where it was said to be, from here
        started["data"] = config.get("data", started.get("data"))
    valued = {name: value for name, value in given.items() if value is not None}
    # what has no value unless it is said may have come after the run
    missing = valued.keys() - started.keys() - {*NOT_KEPT, "scale", "device"}
    if missing:
        raise ValueError(f"{arguments.resume / runs.CONFIG} does not say {sorted(missing)}: was it altered?")
    return Namespace(**{**given, **started, **{name: valued[name] for name in SAID_ANEW if name in valued}})


def kind_of_device(arguments: Namespace) -> str | None:
    """The kind that is said, or that the resumed run was told: JAX hears of it before it looks for any."""
    if arguments.device or not arguments.resume:
        return arguments.device
    try:
        return runs.read_config(arguments.resume)["arguments"].get("device")
    except (ValueError, OSError):  # `planned` refuses it
        return None


def plan(arguments: Namespace, mesh: Mesh | None, dataset: data.Dataset) -> Plan:
    """What training on these data comes to.

    Raises:
        ValueError: arguments that do not fit the data, or each other.
    """
    classes, rows = dataset.encoding.classes, dataset.train
    build = {"skip": network.skip_mlp, "mlp": network.mlp, "dense": network.dense_mlp}[arguments.wiring]
    widths = (len(dataset.encoding.features), *arguments.hidden, len(classes) or 1)
    net = build(widths, arguments.activation, bias=not arguments.no_bias)
    if mesh is None:
        devices.require_room(network.count_parameters(net))
    size = batch_size_of(arguments.batch_size, rows, mesh)
    steps = -(-examples_of(rows) // size)
    if isinstance(rows, Blocks):
        over = 1 if mesh is None else mesh.shape[meshes.DATA]
        steps = reading.steps_of(reading.shared(rows, size, jax.process_count(), over), size)
    arguments = Namespace(**vars(arguments) | {"batch_size": size})
    gradient = _private(arguments, dataset) if arguments.private else (arguments.gradient, None, None, [])
    folder = arguments.resume or arguments.out or Path("runs", Path(dataset.name).stem)
    first = jax.process_index() == 0
    if first and arguments.out:
        runs.require_free(folder)
    elif first and not arguments.resume:
        runs.require_no_file(folder.parent)
    loss = "softmax_cross_entropy" if classes else "half_squared_error"
    quoted = "accuracy" if classes else "rmse"
    return Plan(arguments, mesh, dataset, net, loss, quoted, steps, *gradient, folder, first)


def _private(arguments: Namespace, dataset: data.Dataset) -> tuple[GradientMethod, float, accounting.Spent, list[str]]:
    """The gradient that is clipped, its noise, what that spends, and what is not protected."""
    if isinstance(dataset.train, Blocks):
        raise ValueError("--private draws each batch from all examples: it needs them in memory, in a file")
    accounted = accounting.Plan(len(dataset.x_train), arguments.batch_size, arguments.epochs)
    noise = arguments.noise_multiplier or accounting.calibrate(accounted, arguments.epsilon, arguments.delta)
    spent = accounting.spent(accounted, noise, arguments.delta)
    return privacy.private_gradient(arguments.max_norm, noise), noise, spent, _unprotected(arguments, dataset)


def taken(found: Plan) -> Plan:
    """The plan with its folder, which is now made: runs that start at once take each its own; all processes are told of it."""
    if found.arguments.resume or found.arguments.out:
        return found
    own = os.fsencode(runs.take_next(found.folder)) if found.first else b""
    return found._replace(folder=Path(os.fsdecode(processes.from_first(own))))


def _mesh(arguments: Namespace) -> Mesh | None:
    if arguments.coordinator:
        devices.require(arguments.device)
        return meshes.data_mesh()
    wanted, there = arguments.devices or 1, jax.devices()
    if wanted > len(there):
        raise ValueError(f"--devices {wanted}: this machine has {len(there)}")
    return None if wanted == 1 else meshes.data_mesh(there[:wanted])


def _dataset(arguments: Namespace) -> data.Dataset:
    """The data that the arguments name, read and made ready."""
    if (every := arguments.checkpoint_every or 0) > arguments.epochs:
        raise ValueError(f"--checkpoint-every {every} would never come: there are {arguments.epochs} epochs")
    if arguments.scratch and not is_stored(arguments.data):
        raise ValueError("--scratch is for the rows of a folder: a file is read into memory as a whole")
    how = {"seed": arguments.seed, "classes": arguments.classes, "stratify": not arguments.private}
    how["scale"] = data.read_bounds(arguments.bounds) if arguments.bounds else arguments.scale
    # what is said of a table's columns; a run of an earlier version says nothing of them
    said: Any = {name: getattr(arguments, name, None) for name in data.Treatment._fields}
    said["header"] = said["header"] and said["header"] == "yes"
    said = {name: tuple(v) if isinstance(v, list) else v for name, v in said.items() if v is not None}
    how["treatment"] = data.Treatment(**said)
    shown = is_stored(arguments.data) and not arguments.json and jax.process_index() == 0
    with reading_bar() if shown else nullcontext() as advance:
        found = data.load(arguments.data, arguments.target, arguments.task, progress=advance, **how)
    if not arguments.scratch or not isinstance(found.train, Blocks):
        return found
    return replace(found, **{name: spilled(getattr(found, name), arguments.scratch) for name in ("train", "test")})


def _unprotected(arguments: Namespace, dataset: data.Dataset) -> list[str]:
    """What of the run's config was taken from the training rows as they are, and what would have spared it."""
    found, classes, columns = [], dataset.encoding.classes, dataset.encoding.columns
    if not arguments.bounds and arguments.scale == "rows":
        whose = "features" if classes else "features and target"
        medians = ", medians of the features" if columns else ""
        spared = "(--bounds FILE or --scale none)"
        found.append(f"mean and scale of the {whose}{medians}, taken from the training rows {spared}")
    if classes and not arguments.classes:
        found.append("the classes, found in the rows (--classes)")
    said, dropped = arguments.numbers or (), arguments.drop or ()
    # a column's `why` counts the rows that lack it, or says what was seen in them
    of_rows = [c.name for c in columns if c.name not in dropped and (c.name not in said or c.indicator or c.why)]
    if of_rows:
        first = ", ".join(map(repr, of_rows[:5])) + (", …" if of_rows[5:] else "")
        spared = "(--numbers NAME …, --drop)"
        found.append(f"of the columns {first}: their kind, categories and gaps, found in the rows {spared}")
    return found
