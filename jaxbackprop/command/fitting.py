"""What `jaxbackprop train` does with its plan: check the gradient, fit, and leave the run's folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop import __version__, data, network
from jaxbackprop.checking import check
from jaxbackprop.checking.report import Report
from jaxbackprop.command.planning import NOT_KEPT, Plan
from jaxbackprop.command.screen import Bar, Lines, say, steps_per_second, warnings_in_lines
from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks
from jaxbackprop.data.figures import figures_of
from jaxbackprop.gradient import plain_loss, value_and_grad
from jaxbackprop.training import checkpoints, evaluate, runs, steps
from jaxbackprop.training import fit as fits

if TYPE_CHECKING:
    import optax


def checked(plan: Plan) -> Report:
    """The hand-derived gradient of this network, on some of this data, beside jax.grad and finite differences."""
    part = plan.dataset.train
    x, y = next(reading.in_order(part, min(32, part.examples)))[:2] if isinstance(part, Blocks) else part
    hand, plain = value_and_grad(plan.network, plan.loss), plain_loss(plan.network, plan.loss)
    params = network.init(plan.network, jax.random.key(plan.arguments.seed))
    return check.check_gradient(plain, lambda *args: hand(*args)[1], params, jnp.asarray(x[:32]), jnp.asarray(y[:32]))


def fit(plan: Plan, wishes: list[int], waiting: Lines = ()):
    """Train, with a bar, metrics and checkpoints, until the end or a wish to stop; what waits is said once nothing is refused."""
    given, key = plan.arguments, jax.random.key(plan.arguments.seed)
    asked, writes = config(plan), plan.first
    if writes and not given.resume:
        runs.write_config(plan.folder, asked)
    made_for = {"optimizer": f"{given.optimizer} at {given.learning_rate:g}"}
    if plan.spent:
        made_for["privacy"] = f"noise multiplier {plan.noise_multiplier}, clipped at {given.max_norm:g}"
    every = {"every_epochs": given.checkpoint_every, "every_minutes": given.checkpoint_minutes or 1.0}
    bar = Bar(given.epochs, plan.quoted, quiet=given.json or not writes)

    def goes_on_from(history) -> None:
        if waiting:
            say(waiting)
        if given.resume and writes:
            runs.rewrite_config(plan.folder, asked)
            runs.write_metrics(plan.folder, history)
        if history:
            bar.start_at(history[-1])

    def after_epoch(_state, row) -> bool:
        if writes:
            runs.append_metrics(plan.folder, row)
        bar.advance(row)
        return bool(wishes)

    def within_epoch(_epoch, step, of) -> bool:
        bar.within(step / of)
        return bool(wishes)

    with bar.bar, warnings_in_lines():
        state, history = fits.fit(
            plan.network,
            plan.loss,
            optimizer(given.optimizer, given.learning_rate, given.weight_decay),
            plan.dataset.train,
            epochs=given.epochs,
            batch_size=given.batch_size,
            key=None if plan.spent else key,
            params=steps.drawn(plan.network, key) if plan.spent else None,
            gradient=plan.method,
            validation=plan.dataset.test,
            callbacks=[after_epoch],
            monitor=within_epoch,
            mesh=plan.mesh,
            checkpoints=checkpoints.Checkpoints(
                plan.folder / runs.CHECKPOINTS, **every, made_for=made_for, on_start=goes_on_from
            ),
        )
    if writes:  # again: the folder may have been deleted meanwhile
        runs.rewrite_config(plan.folder, asked)
        runs.write_metrics(plan.folder, history)
    return state, history


def optimizer(name: str, rate: float, decay: float) -> optax.GradientTransformation:
    """The optimizer of optax that has this name; momentum is sgd with one of 0.9."""
    import optax  # imported where it is used: it costs as much again as this package

    more: Any = {"adamw": {"weight_decay": decay}, "lion": {"weight_decay": decay}, "momentum": {"momentum": 0.9}}
    make = optax.sgd if name == "momentum" else getattr(optax, name)
    return make(rate, **more.get(name, {}))


def config(plan: Plan) -> dict[str, Any]:
    """What the run was asked to do, and where: as plain JSON, enough to go on with it."""
    import optax

    given, device = vars(plan.arguments), jax.devices()[0]
    asked = ("optimizer", "learning_rate", "weight_decay", "epochs", "batch_size", "seed", "gradient")
    kept = {name: value for name, value in given.items() if name not in NOT_KEPT}
    kept["data"] = data.place_of(given["data"]) or given["data"]
    found = {
        "data": str(given["data"]),
        "encoding": data.to_dict(plan.dataset.encoding),
        "network": runs.network_to_dict(plan.network),
        "loss": plan.loss,
        **{name: given[name] for name in asked},
        "arguments": {
            name: os.path.abspath(value) if isinstance(value, Path) else value for name, value in kept.items()
        },
        "device": f"{device.platform}: {device.device_kind}",
        "processes": jax.process_count(),
        "versions": {"jaxbackprop": __version__, "jax": jax.__version__, "optax": optax.__version__},
    }
    if plan.spent:
        noise = {"max_norm": given["max_norm"], "noise_multiplier": plan.noise_multiplier}
        found["private"] = {**noise, **plan.spent._asdict(), "not_protected": plan.unprotected}
    return found


def leave(plan: Plan, state, history) -> dict[str, Any]:
    """Write what a finished run leaves, and measure it on the rows held out."""
    runs.write_params(plan.folder, state.params)
    runs.write_curves(plan.folder / runs.CURVES, history, f"{plan.dataset.name}: {plan.network}")
    # here alone, in one process of perhaps several
    params = jax.tree.map(lambda w: jnp.asarray(np.asarray(w)), state.params)
    return figures_of(plan.dataset.encoding, *evaluate.answers(plan.network, params, plan.dataset.test))


def result(plan: Plan, check_line: str, state, history, seconds: float) -> dict[str, Any]:
    """What --json prints of a finished run."""
    encoding, last, rate = plan.dataset.encoding, history[-1], steps_per_second(plan, history)
    unit = 1 if encoding.classes else encoding.target_scale[0]
    found = {
        "run": str(plan.folder),
        f"test_{plan.quoted}": last[f"validation_{plan.quoted}"] * unit,
        "test_loss": last["validation_loss"],
        "epochs": len(history),
        "steps": int(state.step),
        "gradient_check": check_line,
        "seconds": round(seconds, 2),
        "steps_per_second": rate and round(rate),
    }
    return found | ({"spent": plan.spent._asdict()} if plan.spent else {})
