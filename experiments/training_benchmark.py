"""How fast do `fit` and `fit_many` train a small network? Beside other ways to take the same steps; and how soon do they start.

    python experiments/training_benchmark.py [--quick] [--out FOLDER]        (PyTorch: pip install '.[peers]')

Digits, network 64-32-32-10, softmax cross entropy, Adam. Every program takes the same steps: before it is timed, each trains
one epoch in float64 from the same parameters on the same batches, and all must arrive at the same parameters.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
import rivals
from matplotlib.figure import Figure

import jaxbackprop as jbp
from jaxbackprop import data, losses
from jaxbackprop.model import Model
from jaxbackprop.training.epochs import epoch_in_one_call
from jaxbackprop.training.methods import GRADIENTS, shuffled_batches
from jaxbackprop.training.steps import Problem, TrainState, start, train_epoch, train_step

LOSS, RATE, WIDTHS = "softmax_cross_entropy", 1e-3, (64, 32, 32, 10)
ADAM = optax.adam(RATE)
NETWORKS = {"skip_mlp": jbp.skip_mlp(WIDTHS), "mlp": jbp.mlp(WIDTHS)}
BATCHES = (32, 8, 128, 512)
TOLERANCE = 1e-8  # of the parameters after an epoch in float64, relative to each array's largest entry
MANY, CHUNK = 64, 8
FIT, AUTO, STEPS = "fit", "fit, jax.grad", "a jitted step a call"
EAGER, FUSED, COMPILED = "PyTorch eager", "PyTorch eager, fused Adam", "torch.compile, fused Adam"
COLORS = {FIT: "#4269d0", AUTO: "#9ecae9", STEPS: "#6cc5b0", EAGER: "#ff725c", FUSED: "#efb118", COMPILED: "#a463f2"}


class Setting(NamedTuple):
    """One network and batch size on the digits, and the state to start from."""

    network: jbp.Network
    batch: int
    x: np.ndarray
    y: np.ndarray
    start: TrainState

    @property
    def steps(self) -> int:
        """An epoch's."""
        return -(-len(self.x) // self.batch)

    def problem(self, gradient: str) -> Problem:
        """What `fit` makes of it."""
        return Problem(Model(self.network, losses.as_loss(LOSS)), ADAM, self.batch, GRADIENTS[gradient])


def setting(network: jbp.Network, batch: int, dtype: str) -> Setting:
    digits = data.load("digits")
    x, y = digits.x_train.astype(dtype), digits.y_train
    x, y = x[: len(x) // 512 * 512], y[: len(y) // 512 * 512]  # whole batches at every size: PyTorch gets no padding
    made = Problem(Model(network, losses.as_loss(LOSS)), ADAM, batch, GRADIENTS["hand"])
    return Setting(network, batch, x, y, start(made, jax.random.key(0), dtype=jnp.dtype(dtype)))


# ---- each program: Setting → a function that trains one more epoch and returns the parameters


def fit_epoch(at: Setting, gradient: str) -> Callable[[], Any]:
    """The program that `fit` runs."""
    problem, x, y = at.problem(gradient), jnp.asarray(at.x), jnp.asarray(at.y)
    state = jax.tree.map(jnp.copy, at.start)

    def epoch():
        nonlocal state
        state, *_ = epoch_in_one_call(problem, state, x, y)
        return state.params

    return epoch


def step_by_step(at: Setting) -> Callable[[], Any]:
    """The loop that everyone writes first: batches cut by NumPy, one call of a compiled step for each."""
    problem = at.problem("hand")
    state = jax.tree.map(jnp.copy, at.start)
    step = jax.jit(
        lambda state, x, y: train_step(problem, state, x, y, jnp.ones(len(x), x.dtype), state.key),
        donate_argnums=0,
    )
    draw = jax.jit(partial(keys_and_rows, examples=len(at.x), batch=at.batch))

    def epoch():
        nonlocal state
        key, rows = draw(state.key)
        state = state._replace(key=key)
        for batch in np.asarray(rows):
            state, _ = step(state, at.x[batch], at.y[batch])
        return state.params

    return epoch


def keys_and_rows(key, examples: int, batch: int):
    """The next epoch's key and this one's batches, as `train_epoch` draws them."""
    key, batch_key, _ = jax.random.split(key, 3)
    return key, shuffled_batches(batch_key, examples, batch)[0]


def torch_epoch(at: Setting, fused: bool, compile_it: bool) -> Callable[[], Any]:
    """PyTorch, with its own shuffle once the first epoch, which validates it, has taken ours."""
    torch: Any = importlib.import_module("torch")
    w = {
        (t, s): torch.tensor(np.asarray(part), requires_grad=True)
        for t, sources in at.start.params.items()
        for s, part in sources.items()
    }
    x, y = torch.tensor(at.x), torch.tensor(at.y.astype(np.int64))
    adam = torch.optim.Adam(list(w.values()), lr=RATE, fused=fused)
    order = [torch.tensor(np.asarray(keys_and_rows(at.start.key, len(at.x), at.batch)[1]).astype(np.int64))]

    def loss_of(x, y):
        h0 = torch.relu(x @ w["h0", "x"].T)
        h1 = torch.relu(h0 @ w["h1", "h0"].T)
        yhat = h1 @ w["yhat", "h1"].T
        if ("yhat", "h0") in w:
            yhat = yhat + h0 @ w["yhat", "h0"].T
        return torch.nn.functional.cross_entropy(yhat, y)

    run = torch.compile(loss_of) if compile_it else loss_of

    def epoch():
        rows = order.pop() if order else torch.randperm(len(x)).reshape(-1, at.batch)
        for batch in rows:
            adam.zero_grad()
            run(x[batch], y[batch]).backward()
            adam.step()
        params: dict[str, dict[str, Any]] = {}
        for (t, s), part in w.items():
            params.setdefault(t, {})[s] = part.detach().numpy()
        return params

    return epoch


def programs(peers: bool, compiler: bool) -> dict[str, Callable[[Setting], Callable[[], Any]]]:
    """What can run here."""
    found = {
        FIT: partial(fit_epoch, gradient="hand"),
        AUTO: partial(fit_epoch, gradient="jax.grad"),
        STEPS: step_by_step,
    }
    if peers:
        found |= {EAGER: partial(torch_epoch, fused=False, compile_it=False)}
        found |= {FUSED: partial(torch_epoch, fused=True, compile_it=False)}
    if peers and compiler:
        found |= {COMPILED: partial(torch_epoch, fused=True, compile_it=True)}
    return found


# ---- one size


def require_agreement(where: str, found: dict[str, Any], of: str) -> dict[str, float]:
    """How far each result is from one of them; too far ends the run."""
    apart = {name: measure.largest_difference(result, found[of]) for name, result in found.items()}
    for name, difference in apart.items():
        if not difference <= TOLERANCE:
            raise SystemExit(f"{where}: {name} ends {difference:.2g} apart; nothing is timed")
    return apart


def measure_one(name: str, batch: int, made: dict, seconds: float) -> list[dict]:
    """Validate, then time, every program at one size."""
    with jax.enable_x64(True):
        at = setting(NETWORKS[name], batch, "float64")
        ends = {program: jax.tree.map(np.array, make(at)()) for program, make in made.items()}
    if not measure.largest_difference(ends[AUTO], at.start.params) > 0.001:
        raise SystemExit(f"{name}, batch {batch}: an epoch changes nothing; nothing is timed")
    apart = require_agreement(f"{name}, batch {batch}", ends, AUTO)
    at = setting(NETWORKS[name], batch, "float32")
    times = measure.in_turn({program: make(at) for program, make in made.items()}, seconds)
    return [
        {
            "network": name,
            "batch": batch,
            "program": program,
            "difference": apart[program],
            "steps_a_second": at.steps / measure.median(times[program]),
            "fit_is_times_faster": measure.ratio(times, program, FIT),
        }
        for program in made
    ]


# ---- many networks


def measure_many(networks: int, epochs: int, seconds: float) -> list[dict]:
    """`fit_many` beside `fit` in turn, at one learning rate, so that `fit` compiles once for all."""
    network, batch = NETWORKS["skip_mlp"], 32
    keys = jax.random.split(jax.random.key(0), networks)
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch}

    def at_once(xy):
        rates = jnp.full(networks, RATE, xy[0].dtype)
        return jbp.fit_many(network, LOSS, optax.adam, xy, keys=keys, learning_rates=rates, **settings)[1]

    def in_turn(xy):
        histories = [jbp.fit(network, LOSS, ADAM, xy, key=key, **settings)[1] for key in keys]
        return jnp.array([[row["loss"] for row in history] for history in histories])

    made = setting(network, batch, "float32").problem("hand")

    def one(xy, key):
        state = start(made, key, dtype=xy[0].dtype)
        return jax.lax.scan(lambda state, _: train_epoch(made, state, *xy), state, length=epochs)[1]

    @partial(jax.jit, static_argnums=1)
    def mapped(xy, chunk):
        return jax.lax.map(partial(one, xy), keys, batch_size=chunk)

    ways = {
        "fit_many": at_once,
        "fit in turn": in_turn,
        "lax.map, one at a time": lambda xy: mapped(xy, None),
        f"lax.map, {CHUNK} at a time": lambda xy: mapped(xy, CHUNK),
    }

    def arrays(dtype):
        at = setting(network, batch, dtype)
        return jnp.asarray(at.x), jnp.asarray(at.y)

    with jax.enable_x64(True):
        require_agreement("many networks", {name: way(arrays("float64")) for name, way in ways.items()}, "fit in turn")
    xy, first = arrays("float32"), {}
    for name, way in ways.items():
        jax.clear_caches()
        began = time.perf_counter()
        jax.block_until_ready(way(xy))
        first[name] = time.perf_counter() - began
    times = measure.in_turn({name: partial(way, xy) for name, way in ways.items()}, seconds, rounds=5)
    return [
        {
            "networks": networks,
            "epochs": epochs,
            "program": name,
            "seconds": measure.median(times[name]),
            "seconds_with_compilation": first[name],
            "fit_many_is_times_faster": measure.ratio(times, name, "fit_many"),
        }
        for name in ways
    ]


# ---- the command line


def measure_start(rounds: int) -> list[dict]:
    """A whole `jaxbackprop train`, process and all: the first in a fresh cache folder, and the next."""
    path = os.pathsep.join([str(Path(jbp.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            env = os.environ | {"XDG_CACHE_HOME": folder, "PYTHONPATH": path}
            for name, seconds in times.items():
                command = [sys.executable, "-m", "jaxbackprop", "train", "--json", "--out", f"{folder}/{name}"]
                began = time.perf_counter()
                subprocess.run(command, env=env, check=True, capture_output=True)
                seconds.append(time.perf_counter() - began)
    return [{"start": name, "seconds": measure.median(seconds)} for name, seconds in times.items()]


def plot(rows: list[dict]) -> Figure:
    """Bars at batch 32, and steps a second over the batch."""
    figure = Figure(figsize=(9.2, 3.4))
    bars, lines = figure.subplots(1, 2)
    for program, color in COLORS.items():
        mine = [row for row in rows if (row["network"], row["program"]) == ("skip_mlp", program)]
        rates = {row["batch"]: row["steps_a_second"] for row in sorted(mine, key=lambda row: row["batch"])}
        if rates:
            bars.barh(program, rates[32], color=color)
            bars.text(rates[32], program, f" {measure.figure(rates[32])}", va="center", fontsize="small")
            lines.plot(rates.keys(), rates.values(), "o-", color=color)
    bars.invert_yaxis()
    bars.margins(x=0.2)
    bars.set(xlabel="steps a second, batch 32")
    lines.set(xscale="log", yscale="log", xlabel="batch", ylabel="steps a second")
    measure.ticks(lines.xaxis, sorted(BATCHES))
    return figure


def main() -> None:
    given = measure.arguments(__doc__, "batch 32 and four networks only, without torch.compile: two minutes")
    quick, peers = given.quick, not rivals.missing("torch")
    sizes = [("skip_mlp", 32)] if quick else [("skip_mlp", b) for b in BATCHES] + [("mlp", 32)]
    rows = []
    for name, batch in sizes:
        made = programs(peers, compiler=batch == 32 and not quick and shutil.which("c++") is not None)
        rows += measure_one(name, batch, made, seconds=2.0 if quick else 10.0)
    measure.show("steps a second (medians, run in turn)", rows)
    many = measure_many(networks=4 if quick else MANY, epochs=2 if quick else 5, seconds=2.0 if quick else 30.0)
    measure.show("many networks", many)
    begun = measure_start(rounds=1 if quick else 5)
    measure.show("jaxbackprop train, all defaults, the whole process", begun)
    measure.publish(given, "training", rows, partial(plot, rows), many=many, start=begun)


if __name__ == "__main__":
    main()
