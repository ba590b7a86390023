"""How near is the hand-derived gradient to what this device can do, and how does it compare? On CPU, GPU and TPU alike.

    python experiments/accelerator_benchmark.py                       # everything, into experiments/results
    python experiments/accelerator_benchmark.py --quick               # under a minute, writes nothing
    python experiments/accelerator_benchmark.py --out /tmp/here --seconds 1

First the device's own ceilings are measured: memory bandwidth, matrix products and an empty call, for each dtype. Then, over
networks and dtypes, the gradient, the sum of clipped per-example gradients and a training step with Adam. The least time
that the ceilings allow (a roofline: parameters, x and y read once and the gradient written once, or the flops of the
products that the derivation needs) divided by the measured time is the share of the ceiling. Beside it `jax.grad` of the
loss as one would write it, the same in tiles, PyTorch and, on a CPU, NumPy by hand. Every program is compared with
`vmap(jax.grad)` in float64 before it is timed. What fails is a row that says why. One device is used.
"""

import argparse
import importlib
import importlib.metadata
import os
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

import jaxbackprop as jbp
from jaxbackprop.network import Params

LOSS, MAX_NORM, LEARNING_RATE = "half_squared_error", 1.0, 1e-3
DTYPES = ("float32", "bfloat16")
EXERCISE = (1, 1, 1, 1)
SIZES = (
    (EXERCISE, 100_000),
    (EXERCISE, 10_000_000),
    ((8, 64, 64, 1), 65_536),
    ((64, 128, 128, 10), 16_384),
    ((784, 512, 512, 10), 1_024),
)
ON_ACCELERATORS = (((1024, 1024, 1024, 1024), 4_096),)
QUICK = (((EXERCISE, 10_000), "float32"), (((8, 64, 64, 1), 1_024), "bfloat16"))
TILES = (1_024, 4_096, 16_384, 131_072)  # what jax.grad in tiles is tried with
GRADIENT, CLIPPED, STEP = "gradient", "clipped sum", "training step"
BASELINE = "jax.grad"
# what is a row with a reason, and not the end of the run; JaxRuntimeError and torch's own are RuntimeErrors
FAILURES = (RuntimeError, MemoryError, ValueError, NotImplementedError)


def tolerance(dtype: str, batch: int, of_jax_grad: float = 0.0) -> float:
    """What arithmetic explains, relative to a parameter's largest entry; a term left out would be far outside.

    float32: a sum of B terms one after the other strays by about ε √B. bfloat16: some 25 roundings. In either, among
    millions of units there is one whose z rounds to the other side of zero, and its mask differs from float64's; no
    bound by itself covers that, but `jax.grad` rounds the same z: a few times its own error, and never beyond 0.1.
    """
    rounding = {"float32": 2e-5 + 2 * 2**-24 * batch**0.5, "bfloat16": 0.1}[dtype]
    return max(rounding, min(4 * of_jax_grad, 0.1))


class Case(NamedTuple):
    """One network, batch and dtype, with its parameters and data on the device."""

    widths: tuple[int, ...]
    dtype: str
    params: Params
    x: jax.Array
    y: jax.Array

    @property
    def network(self) -> jbp.Network:
        """The exercise's wiring: every hidden layer feeds yhat."""
        return jbp.skip_mlp(self.widths)

    @property
    def batch(self) -> int:
        """How many examples."""
        return len(self.x)


class Built(NamedTuple):
    """A program: a call without arguments, and what of its result is a gradient shaped like the parameters."""

    run: Callable[[], Any]
    gradient: Callable[[Any], Any]
    highest: Callable[[], Any]
    compile_seconds: float | None = None
    temporary_bytes: int | None = None
    note: str = ""


class Method(NamedTuple):
    """One way to one quantity; `build` makes its program for a case, or raises what stands in the way."""

    quantity: str
    name: str
    build: Callable[[Case], Built]
    framework: str = "JAX"


class NotHereError(RuntimeError):
    """A method that this machine, or this version, does not have."""


def make_case(widths: tuple[int, ...], batch: int, dtype: str) -> Case:
    """Data and parameters, drawn in float32: drawn in bfloat16 they would take a few hundred values only."""
    measure.require_memory(2 * 4 * batch * (widths[0] + widths[-1]))

    @jax.jit
    def draw(key):
        kx, ky = jax.random.split(key)
        x, y = jax.random.normal(kx, (batch, widths[0])), jax.random.normal(ky, (batch, widths[-1]))
        return x.astype(dtype), y.astype(dtype)

    x, y = jax.block_until_ready(draw(jax.random.key(1)))
    params = jax.tree.map(lambda w: w.astype(dtype), jbp.init(jbp.skip_mlp(widths), jax.random.key(0)))
    return Case(widths, dtype, params, x, y)


# The device's ceilings


class Ceilings(NamedTuple):
    """Measured: bytes per second by dtype, flop/s by dtype and precision, seconds of a call that does nothing."""

    bandwidth: dict[str, float]
    products: dict[str, float]
    call: float
    details: list[dict]

    def allow(self, dtype: str, least_bytes: float, flops: float) -> tuple[float, str]:
        """The least seconds that the ceilings allow, and which of them binds."""
        seconds = {
            "memory": least_bytes / self.bandwidth[dtype],
            "products": flops / self.products[dtype],
            "call": self.call,
        }
        binds = max(seconds, key=lambda name: seconds[name])
        return seconds[binds], binds

    def highest(self, other: "Ceilings") -> "Ceilings":
        """Of two measurements the better, of everything."""

        def best(a, b):
            return {key: max(a[key], b[key]) for key in a}

        return Ceilings(
            best(self.bandwidth, other.bandwidth),
            best(self.products, other.products),
            min(self.call, other.call),
            [max(pair, key=lambda line: line["rate"]) for pair in zip(self.details, other.details, strict=True)],
        )


def measured_ceilings(long_enough: float, bytes_first: int, rows_first: int) -> Ceilings:
    """Arrays double until a call takes `long_enough` seconds, so that neither caches nor the call itself are measured."""
    bandwidth, products, details = {}, {}, []

    def keep(ceiling, what, dtype, rate, size):
        key = f"{dtype} highest" if what.endswith("highest") else dtype
        ceiling[key] = max(ceiling.get(key, 0.0), rate)
        details.append({"ceiling": what, "dtype": dtype, "rate": rate, "size": size})

    for dtype in DTYPES:
        for what, make, passes in (("read and write", _scale, 2), ("read", _sum, 1)):
            size, seconds = _grown(lambda n, make=make, dtype=dtype: make(n, dtype), bytes_first, long_enough, 1, 2)
            keep(bandwidth, what, dtype, passes * size / seconds, size)
        for what, precision in (("products", None), ("products, highest", "highest"))[: 1 + (dtype == "float32")]:
            make = partial(_product, dtype=dtype, precision=precision)
            n, seconds = _grown(make, rows_first, long_enough, 2, 4 * 3)
            keep(products, what, dtype, 2 * n**3 / seconds, n)
    products["float32"] = max(products["float32"], products["float32 highest"])  # the default may round, it need not
    empty = measure.compiled(lambda a: a + 1, jnp.zeros(()))
    zero = jnp.zeros(())
    call = measure.median(measure.in_turn({"": lambda: empty.run(zero)}, seconds=0.1)[""])
    return Ceilings(bandwidth, products, call, details)


def _grown(make, size, long_enough, power, bytes_each):
    """Double the size until a call is long enough or memory is short; the size and the best time."""
    while True:
        run = make(size)
        seconds = measure.best_of(run, 5)
        if seconds >= long_enough or bytes_each * (2 * size) ** power > measure.memory()[1] / 4:
            return size, seconds
        del run
        size *= 2


def _scale(size, dtype):
    # in place: a new array each time would measure how fast the host hands out pages
    run = jax.jit(lambda a: a * jnp.asarray(1.5, a.dtype), donate_argnums=0)
    state = [jnp.ones(size // jnp.dtype(dtype).itemsize, dtype)]

    def again():
        state[0] = run(state[0])
        return state[0]

    return again


def _sum(size, dtype):
    a = jnp.ones(size // jnp.dtype(dtype).itemsize, dtype)
    run = jax.jit(lambda a: jnp.sum(a, dtype=jnp.float32))
    return lambda: run(a)


def _product(n, dtype, precision):
    a = jnp.ones((n, n), dtype)
    run = jax.jit(lambda a: jnp.dot(a, a, precision=precision))
    return lambda: run(a)


def flops(case: Case) -> int:
    """Of the products: 2 for z, 2 for dh and 2 for dW, for each parameter and example; x needs no dh."""
    edges = jax.tree_util.tree_leaves_with_path(case.params)
    return case.batch * sum((4 if path[-1].key == "x" else 6) * leaf.size for path, leaf in edges)


def least_bytes(case: Case, quantity: str) -> int:
    """Parameters, x and y read once, the gradient written once; Adam's step reads and writes the parameters and two moments."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(case.params))
    passes = 6 if quantity == STEP else 2
    return (passes * parameters + case.x.size + case.y.size) * jnp.dtype(case.dtype).itemsize


# The reference, and what one writes without us


def plain_loss(params, x, y):
    """The exercise's wiring at any depth as one would write it, for jax.grad."""
    h, source, yhat = x, "x", 0.0
    for t in (f"h{i}" for i in range(len(params) - 1)):  # not in the dict's order: jit sorts it, h10 before h2
        h = jax.nn.relu(h @ params[t][source].T)
        yhat = yhat + h @ params["yhat"][t].T
        source = t
    return jnp.mean(jnp.sum((yhat - y) ** 2, axis=1)) / 2


def scalar_loss(params, x, y):
    """The exercise itself with plain numbers, over a vector of examples."""
    w0, w1 = params["h0"]["x"][0, 0], params["h1"]["h0"][0, 0]
    w2, w3 = params["yhat"]["h1"][0, 0], params["yhat"]["h0"][0, 0]
    h0 = jax.nn.relu(w0 * x[:, 0])
    h1 = jax.nn.relu(w1 * h0)
    return jnp.mean((w2 * h1 + w3 * h0 - y[:, 0]) ** 2) / 2


def in_tiles(loss: Callable, tile: int) -> Callable:
    """The same value and gradient, added up over tiles in one `lax.scan`."""

    def run(params, x, y):
        def part(start, size):
            rows = [jax.lax.dynamic_slice_in_dim(a, start, size) for a in (x, y)]
            value_and_grad = jax.value_and_grad(loss)(params, *rows)
            return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) * (size / len(x)), value_and_grad)

        def add(sums, more):
            return jax.tree.map(jnp.add, sums, more)

        full, rest = divmod(len(x), tile)
        like = jax.eval_shape(lambda: part(0, tile))
        sums = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        sums, _ = jax.lax.scan(lambda s, start: (add(s, part(start, tile)), None), sums, tile * jnp.arange(full))
        value, grads = add(sums, part(full * tile, rest)) if rest else sums
        return value, jax.tree.map(lambda g, w: g.astype(w.dtype), grads, params)

    return run


def in_float64(part: Callable, params, x, y, tile: int) -> Any:
    """Σ over tiles of part(params, x, y), in float64 on the host, whatever the device can do; as NumPy arrays."""
    try:
        host = jax.devices("cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS may leave it out
        host = jax.devices()[0]
    with jax.enable_x64(True), jax.default_device(host):
        params, x, y = jax.tree.map(lambda a: np.asarray(a).astype(np.float64), (params, x, y))
        run, sums = jax.jit(part), None
        for i in range(0, len(x), tile):
            more = run(params, x[i : i + tile], y[i : i + tile])
            sums = more if sums is None else jax.tree.map(jnp.add, sums, more)
        return jax.tree.map(np.asarray, sums)


def gradient_and_clipped_sum(params, x, y):
    """Both from every example's gradient by `vmap(jax.grad)`: nothing of ours in it."""
    grads = jax.vmap(jax.grad(lambda p, x, y: plain_loss(p, x[None], y[None])), in_axes=(None, 0, 0))(params, x, y)
    n2 = sum(jnp.sum(g**2, axis=range(1, g.ndim)) for g in jax.tree.leaves(grads))
    c = jnp.minimum(1, MAX_NORM / jnp.sqrt(jnp.maximum(n2, 1e-300)))
    return jax.tree.map(lambda g: jnp.sum(g, axis=0), grads), jax.tree.map(lambda g: jnp.tensordot(c, g, 1), grads)


def reference(case: Case) -> dict[str, Any]:
    """What each quantity's gradient should be; a training step is told by the gradient that Adam saw."""
    parameters = jbp.network.count_parameters(case.network)
    tile = max(1, min(100_000, 10_000_000 // parameters))
    summed, clipped = in_float64(gradient_and_clipped_sum, case.params, case.x, case.y, tile)
    mean = jax.tree.map(lambda g: g / case.batch, summed)
    return {GRADIENT: mean, CLIPPED: clipped, STEP: mean}


# The programs


def clipped_sum(fg):
    return jbp.total(jbp.clip(fg, MAX_NORM))


def on_device(function: Callable, case: Case, gradient: Callable, *more, note: str = "") -> Built:
    """Compile for a case; apart from that, the same at the highest precision, which is only compared, never timed."""
    arguments = (case.params, *more, case.x, case.y)
    compiled = measure.compiled(function, *arguments)
    measure.require_memory(max(compiled.temporary_bytes, 0))

    def highest():
        with jax.default_matmul_precision("highest"):
            return jax.jit(function)(*arguments)

    return Built(
        lambda: compiled.run(*arguments), gradient, highest, compiled.compile_seconds, compiled.temporary_bytes, note
    )


def second(pair):
    return pair[1]


def by_hand(case: Case) -> Built:
    return on_device(jbp.value_and_grad(case.network, LOSS), case, second)


def by_jax_grad(case: Case) -> Built:
    return on_device(jax.value_and_grad(plain_loss), case, second)


def by_jax_grad_elementwise(case: Case) -> Built:
    return on_device(jax.value_and_grad(scalar_loss), case, second)


def by_jax_grad_in_tiles(case: Case) -> Built:
    """The best of a few tiles and, for the exercise, of both ways to write it."""
    losses = {"": plain_loss} | ({", elementwise": scalar_loss} if case.widths == EXERCISE else {})
    tried = {}
    for tile in (t for t in TILES if 2 * t <= case.batch):
        for how, loss in losses.items():
            built = on_device(in_tiles(loss, tile), case, second, note=f"tiles of {tile:,}{how}")
            tried[tile, how] = measure.best_of(built.run), built
    if not tried:
        raise NotHereError(f"a batch of {case.batch:,} is one tile")
    return min(tried.values(), key=lambda pair: pair[0])[1]


def whole_clipped(case: Case) -> Built:
    return on_device(lambda *args: clipped_sum(jbp.per_example(case.network, LOSS)(*args)[1]), case, lambda r: r)


def streamed_clipped(case: Case) -> Built:
    return on_device(jbp.stream(case.network, LOSS, clipped_sum), case, second)


def fused_kernel(readout: Callable, mean: bool) -> Callable[[Case], Built]:
    """The Pallas kernel, where this version and this device have one; it gives sums."""

    def build(case: Case) -> Built:
        try:
            fused = jbp.fused
        except ImportError:
            raise NotHereError("this version of jaxbackprop has no fused kernel") from None
        try:
            kernel = fused(case.network, LOSS, readout)
            scale = 1 / case.batch if mean else 1.0
            return on_device(kernel, case, lambda pair: jax.tree.map(lambda g: g.astype("float32") * scale, pair[1]))
        except (ValueError, NotImplementedError) as error:
            raise NotHereError(measure.reason(error)) from error

    return build


def adam_step(value_and_grad_of: Callable[[Case], Callable]) -> Callable[[Case], Built]:
    """Gradient and update in one program. Nothing is donated, so that every call sees the same parameters."""

    def build(case: Case) -> Built:
        optimizer, value_and_grad = optax.adam(LEARNING_RATE), value_and_grad_of(case)

        def step(params, state, x, y):
            value, grads = value_and_grad(params, x, y)
            updates, state = optimizer.update(grads, state, params)
            return optax.apply_updates(params, updates), state, value

        def seen(result):  # the first moment is 0.1 of the gradient after one step from zero
            return jax.tree.map(lambda m: m.astype(jnp.float32) / 0.1, optax.tree.get(result[1], "mu"))

        return on_device(step, case, seen, jax.jit(optimizer.init)(case.params))

    return build


def by_numpy(case: Case) -> Built:
    """The exercise's derivation as one types it in NumPy, a batch at a time."""
    if jax.devices()[0].platform != "cpu":
        raise NotHereError("NumPy is timed beside a CPU only")
    if case.dtype != "float32":
        raise NotHereError(f"NumPy has no {case.dtype}")
    params, x, y = jax.tree.map(np.asarray, (case.params, case.x, case.y))
    w0, w1 = params["h0"]["x"], params["h1"]["h0"]
    w2, w3 = params["yhat"]["h1"], params["yhat"]["h0"]

    def run():
        z0 = x @ w0.T
        h0 = np.maximum(z0, 0)
        z1 = h0 @ w1.T
        h1 = np.maximum(z1, 0)
        dz2 = h1 @ w2.T
        dz2 += h0 @ w3.T
        dz2 -= y
        dz2 /= len(x)
        dz1 = dz2 @ w2
        dz1 *= z1 >= 0
        dz0 = dz1 @ w1
        dz0 += dz2 @ w3
        dz0 *= z0 >= 0
        return {"h0": {"x": dz0.T @ x}, "h1": {"h0": dz1.T @ h0}, "yhat": {"h1": dz2.T @ h1, "h0": dz2.T @ h0}}

    return Built(run, lambda r: r, run)


class Torch:
    """PyTorch on the same kind of device, with products rounded as JAX rounds them; `skip_compile` says why not to."""

    def __init__(self, shortens: bool, skip_compile: str = ""):
        self.absent, self.skip_compile, self.shortens = "", skip_compile, shortens
        self.compiled_for: Any = None
        try:
            self.torch: Any = importlib.import_module("torch")
        except ImportError:
            self.absent = "torch is not installed"
            return
        platform = jax.devices()[0].platform
        self.device = "cpu" if platform == "cpu" else "cuda"
        if platform not in ("cpu", "gpu", "cuda", "rocm") or (
            self.device == "cuda" and not self.torch.cuda.is_available()
        ):
            self.absent = f"torch {self.torch.__version__} has no {platform} device here"
        elif self.device == "cpu" and hasattr(os, "sched_getaffinity"):
            self.torch.set_num_threads(len(os.sched_getaffinity(0)))

    def build(self, case: Case, compile_it: bool, step: bool) -> Built:
        """Loss and gradient, or loss, gradient and Adam's step."""
        if self.absent:
            raise NotHereError(self.absent)
        if compile_it and self.skip_compile:
            raise NotHereError(self.skip_compile)
        torch = self.torch
        dtype = getattr(torch, case.dtype)

        def tensor(a):
            return torch.from_numpy(np.array(a, np.float32)).to(self.device, dtype)

        x, y = tensor(case.x), tensor(case.y)
        leaves, structure = jax.tree.flatten(case.params)
        weights = [tensor(leaf).requires_grad_() for leaf in leaves]
        (w0, w1), yhat_weights = weights[:2], weights[2:]  # flattened by name: h0, h1, then yhat's h0, h1
        w3, w2 = yhat_weights

        def loss(x, y, w0, w1, w2, w3):
            h0 = torch.relu(x @ w0.T)
            h1 = torch.relu(h0 @ w1.T)
            return ((h1 @ w2.T + h0 @ w3.T - y) ** 2).sum(1).mean() / 2

        seconds = None
        loss_of = torch.compile(loss, dynamic=False) if compile_it else loss
        optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE) if step else None

        def run():
            value = loss_of(x, y, w0, w1, w2, w3)
            if optimizer is None:
                result = torch.autograd.grad(value, weights)
            else:
                value.backward()
                result = [w.grad for w in weights]
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            if self.device == "cuda":
                torch.cuda.synchronize()
            return result

        def gradient(result):
            return jax.tree.unflatten(structure, [g.detach().float().cpu().numpy() for g in result])

        def highest():
            """With every product in full, from the first parameters; what the step changed is put back."""
            start = [w.detach().clone() for w in weights]
            torch.set_float32_matmul_precision("highest")
            try:
                result = [g.clone() for g in run()]
            finally:
                torch.set_float32_matmul_precision("high" if self.shortens else "highest")
            with torch.no_grad():
                for w, first in zip(weights, start, strict=True):
                    w.copy_(first)
            return result

        size = case.widths, case.batch, case.dtype
        if compile_it and size != self.compiled_for:  # gradient and step share the compiled loss
            torch._dynamo.reset()
            self.compiled_for = size
            began = time.perf_counter()
            highest()
            run_first = time.perf_counter() - began
            began = time.perf_counter()
            highest()
            seconds = run_first - (time.perf_counter() - began)
        torch.set_float32_matmul_precision("high" if self.shortens else "highest")
        return Built(run, gradient, highest, seconds)


def methods(torch: Torch) -> list[Method]:
    """Everything that is timed; what comes first of a quantity is ours."""
    found = [
        Method(GRADIENT, "jbp.value_and_grad", by_hand),
        Method(GRADIENT, "jbp.fused", fused_kernel(jbp.total, mean=True)),
        Method(GRADIENT, BASELINE, by_jax_grad),
        Method(GRADIENT, "jax.grad, elementwise", by_jax_grad_elementwise),
        Method(GRADIENT, "jax.grad, in tiles", by_jax_grad_in_tiles),
        Method(CLIPPED, "jbp.per_example, clip, total", whole_clipped),
        Method(CLIPPED, "jbp.stream", streamed_clipped),
        Method(CLIPPED, "jbp.fused, clipped", fused_kernel(clipped_sum, mean=False)),
        Method(STEP, "jbp step", adam_step(lambda case: jbp.value_and_grad(case.network, LOSS))),
        Method(STEP, "jax.grad step", adam_step(lambda _: jax.value_and_grad(plain_loss))),
        Method(GRADIENT, "NumPy by hand", by_numpy, "NumPy"),
    ]
    for quantity, suffix in ((GRADIENT, ""), (STEP, " step")):
        for how in ("eager", "compiled"):
            build = partial(torch.build, compile_it=how == "compiled", step=quantity == STEP)
            found.append(Method(quantity, f"torch {how}{suffix}", build, "PyTorch"))
    return found


# Measuring


def measure_case(
    size: tuple[tuple[int, ...], int],
    dtype: str,
    ways: list[Method],
    seconds: float,
    say: Callable[..., None],
) -> list[dict]:
    """Build, validate, then time every method at one size; a row for each, with the reason where there is no time."""
    widths, batch = size
    about = {"network": "-".join(map(str, widths)), "batch": batch, "dtype": dtype}
    say(f"{about['network']}, {batch:,} examples, {dtype}: reference")
    try:
        case = make_case(widths, batch, dtype)
        expected = reference(case)
    except FAILURES as error:
        return [about | {"quantity": w.quantity, "method": w.name, "reason": measure.reason(error)} for w in ways]
    exact = full_by_default()  # then what is timed is itself what is compared
    built: dict[str, Built] = {}
    rows: dict[str, dict] = {}
    allowed = tolerance(dtype, batch)
    for way in sorted(ways, key=lambda way: way.name != BASELINE):  # first, for what it says of the arithmetic
        if way.build is by_jax_grad_elementwise and widths != EXERCISE:
            continue
        say(f"{about['network']}, {batch:,} examples, {dtype}: {way.name}")
        row = rows[way.name] = about | {"quantity": way.quantity, "method": way.name, "reason": None}
        try:
            program = way.build(case)
            given = jax.block_until_ready(program.run() if exact else program.highest())
            row["difference"] = measure.largest_difference(program.gradient(given), expected[way.quantity])
            row["difference_default"] = row["difference"]
            if not exact:
                given = jax.block_until_ready(program.run())
                row["difference_default"] = measure.largest_difference(program.gradient(given), expected[way.quantity])
            del given
        except FAILURES as error:
            row["reason"] = measure.reason(error)
            continue
        if way.name == BASELINE:
            allowed = tolerance(dtype, batch, row["difference"])
        if way.name.startswith("jbp") and not row["difference"] <= allowed:
            row["reason"] = f"WRONG by {row['difference']:.2g}: not timed"
            continue
        if not row["difference"] <= allowed:  # a peer is timed all the same: this is what one gets from it
            program = program._replace(note=f"{program.note} off by {row['difference']:.1g}".strip())
        built[way.name] = program
    say(f"{about['network']}, {batch:,} examples, {dtype}: timing")
    outside = {way.name for way in ways if way.framework != "JAX"}
    try:
        times = measure.in_turn({n: p.run for n, p in built.items()}, seconds, rounds=7, fewest=3, rest=outside)
    except FAILURES as error:
        for name in built:
            rows[name]["reason"] = f"while timing: {measure.reason(error)}"
        return list(rows.values())
    baseline = {GRADIENT: BASELINE, CLIPPED: BASELINE, STEP: "jax.grad step"}
    for name, program in built.items():
        row, middle = rows[name], measure.median(times[name])
        beside = baseline[row["quantity"]]
        row |= {
            "ms": 1e3 * middle,
            "times_faster": measure.ratio(times, beside, name) if beside in times else None,
            "flops": flops(case),
            "least_bytes": least_bytes(case, row["quantity"]),
            "compile_s": program.compile_seconds,
            "temporary_MB": None if program.temporary_bytes is None else program.temporary_bytes / 1e6,
            "rounds": len(times[name]),
            "note": program.note,
        }
        if name.startswith("jbp"):
            others = {peer.removesuffix(" step"): peer for peer in times if is_peer_of(rows[peer], row)}
            row["times_faster_than"] = {short: measure.ratio(times, peer, name) for short, peer in others.items()}
    return list(rows.values())


def full_by_default() -> bool:
    """Whether products of float32 keep float32 unless told otherwise: on CPUs; GPUs and TPUs shorten."""
    return jax.devices()[0].platform == "cpu"


def under_ceilings(row: dict, ceilings: Ceilings) -> dict:
    """The row with what it reached, beside what the ceilings allow."""
    if row["reason"] or not row.get("ms"):
        return row
    least, binds = ceilings.allow(row["dtype"], row["least_bytes"], row["flops"])
    return row | {
        "share_of_ceiling": 1e3 * least / row["ms"],
        "binds": binds,
        "gflops": row["flops"] / row["ms"] / 1e6,
        "intensity": row["flops"] / row["least_bytes"],
    }


def is_peer_of(peer: dict, ours: dict) -> bool:
    """The clipped sum has plain gradients beside it."""
    beside = GRADIENT if ours["quantity"] == CLIPPED else ours["quantity"]
    return not peer["method"].startswith("jbp") and peer["quantity"] == beside


# Tables


def best_rows(rows: list[dict]) -> list[dict]:
    """Of each network, dtype and quantity, our fastest way that was timed."""
    best: dict[tuple, dict] = {}
    for row in rows:
        if row["method"].startswith("jbp") and row.get("ms"):
            key = row["network"], row["batch"], row["dtype"], row["quantity"]
            if key not in best or row["ms"] < best[key]["ms"]:
                best[key] = row
    return list(best.values())


def own_table(rows: list[dict]) -> list[dict]:
    return [
        {
            "network": row["network"],
            "batch": row["batch"],
            "dtype": row["dtype"],
            "method": row["method"],
            "ms": row["ms"],
            "Gflop/s": row["gflops"],
            "of ceiling": row["share_of_ceiling"],
            "binds": row["binds"],
            "compile s": row["compile_s"],
            "temp MB": row["temporary_MB"],
            "error": row["difference"],
            "by default": row["difference_default"],
        }
        for row in rows
        if row["method"].startswith("jbp") and row.get("ms")
    ]


def peer_table(rows: list[dict]) -> list[dict]:
    """Each peer's time over that of our fastest way: above 1 we are faster."""
    return [
        {"network": row["network"], "batch": row["batch"], "dtype": row["dtype"], "ours": row["method"]}
        | {peer: row["times_faster_than"].get(peer) for peer in PEERS}
        for row in best_rows(rows)
    ]


PEERS = (BASELINE, "jax.grad, elementwise", "jax.grad, in tiles", "NumPy by hand", "torch eager", "torch compiled")


def remarks(rows: list[dict], column: str) -> list[dict]:
    """What a column of text says, the same once: where, of which method."""
    where: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.get(column):
            place = f"{row['network']} ({row['batch']:,}) {row['dtype']}"
            where.setdefault((row["method"], row[column]), []).append(place)
    everywhere = len({(row["network"], row["batch"], row["dtype"]) for row in rows})
    return [
        {"method": method, column: text, "where": "everywhere" if len(at) == everywhere else ", ".join(at)}
        for (method, text), at in where.items()
    ]


# Pictures

COLORS = {
    GRADIENT: "#4269d0",
    CLIPPED: "#6cc5b0",
    STEP: "#a463f2",
    "jax.grad": "#9c9c9c",
    "torch": "#efb118",
    "NumPy": "#ff725c",
}
MARKERS = {GRADIENT: "o", CLIPPED: "s", STEP: "^"}
SIZES_OF_MARKERS = {GRADIENT: 12, CLIPPED: 8, STEP: 7}  # where they lie on one another, each is seen


def plot_roofline(rows: list[dict], ceilings: Ceilings, path: Path) -> None:
    """A panel for each dtype: arithmetic intensity against what was reached, under the two measured ceilings."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    dtypes = [dtype for dtype in DTYPES if any(row["dtype"] == dtype and row.get("ms") for row in rows)]
    timed = [row for row in rows if row.get("ms")]
    ours = best_rows(rows)
    grad = [row for row in timed if row["method"] == BASELINE]
    shown = ours + grad
    figure = Figure(figsize=(6.2 * len(dtypes), 5.2), layout="constrained")
    axes = figure.subplots(1, len(dtypes), squeeze=False, sharey=True, sharex=True)[0]
    low, high = min(r["intensity"] for r in shown) / 8, max(r["intensity"] for r in shown) * 3
    for axis, dtype in zip(axes, dtypes, strict=True):
        bandwidth, rate = ceilings.bandwidth[dtype] / 1e9, ceilings.products[dtype] / 1e9
        x = np.geomspace(low, high, 200)
        axis.plot(x, np.minimum(bandwidth * x, rate), color="#333", linewidth=1.6)
        axis.annotate(
            f"memory {bandwidth:,.3g} GB/s", (low, bandwidth * low), (4, -16), textcoords="offset points", fontsize=8.5
        )
        axis.annotate(
            f"products {rate:,.4g} Gflop/s", (high, rate), (-2, 5), textcoords="offset points", ha="right", fontsize=8.5
        )
        if dtype == "float32" and ceilings.products["float32 highest"] < 0.9 * ceilings.products["float32"]:
            highest = ceilings.products["float32 highest"] / 1e9
            axis.axhline(highest, color="#999", linewidth=1, linestyle=":")
            axis.annotate(
                f"at precision highest {highest:,.4g}",
                (high, highest),
                (-2, -12),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color="#777",
            )
        for row in (r for r in grad if r["dtype"] == dtype):
            axis.plot(row["intensity"], row["gflops"], **HOLLOW)
        lowest: dict[tuple, tuple[float, float]] = {}
        for row in (r for r in ours if r["dtype"] == dtype):
            axis.plot(
                row["intensity"],
                row["gflops"],
                MARKERS[row["quantity"]],
                color=COLORS[row["quantity"]],
                markersize=SIZES_OF_MARKERS[row["quantity"]],
                markeredgecolor="white",
                zorder=20 - SIZES_OF_MARKERS[row["quantity"]],
            )
            key = row["network"], row["batch"]
            at = lowest.get(key, (row["intensity"], np.inf))
            lowest[key] = at[0], min(at[1], row["gflops"])
        for i, ((network, batch), (x0, y0)) in enumerate(sorted(lowest.items(), key=lambda item: item[1][0])):
            # two sizes of one network share an intensity: their labels go to different sides
            twin = any(other != (network, batch) and other[0] == network for other in lowest)
            right = twin and i % 2 == 1
            below = [r["gflops"] for r in grad if (r["network"], r["batch"], r["dtype"]) == (network, batch, dtype)]
            axis.annotate(
                f"{network}, {batch:,}",
                (x0, y0 if right else min([y0, *below])),
                (9, -2) if right else (-9, 2),
                textcoords="offset points",
                ha="left" if right else "right",
                va="center" if right else "top",
                fontsize=8,
                color="#444",
            )
        axis.set(xscale="log", yscale="log", xlim=(low, high), title=dtype, xlabel="flops per byte that must move")
        axis.spines[["top", "right"]].set_visible(False)
    bottom = min(r["gflops"] for r in shown)
    axes[0].set_ylim(bottom / 6, 2.5 * max(ceilings.products[d] for d in dtypes) / 1e9)
    axes[0].set_ylabel("Gflop/s reached")
    handles = [
        Line2D([], [], color=COLORS[q], marker=m, linestyle="", markersize=8, label=f"by hand: {q}")
        for q, m in MARKERS.items()
    ]
    handles.append(Line2D([], [], **HOLLOW, label="jax.grad: gradient"))
    handles.append(Line2D([], [], color="#333", label="measured ceilings"))
    figure.legend(handles=handles, loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


HOLLOW: dict[str, Any] = {
    "marker": "D",
    "linestyle": "",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgecolor": "#333",
    "zorder": 25,
}


def color(method: str, quantity: str) -> str:
    return COLORS[quantity] if method.startswith("jbp") else COLORS[method.replace(",", " ").split()[0]]


def plot_ratios(rows: list[dict], path: Path) -> None:
    """A panel for each dtype, a group for each network: how many times faster than jax.grad each method is."""
    from matplotlib.figure import Figure

    dtypes = [dtype for dtype in DTYPES if any(row["dtype"] == dtype and row.get("times_faster") for row in rows)]
    shown = [r for r in rows if r.get("times_faster") and r["method"] not in (BASELINE, "jax.grad step")]
    shown.sort(key=lambda r: list(MARKERS).index(r["quantity"]))
    sizes = list(dict.fromkeys((r["network"], r["batch"]) for r in shown))
    at, headings, y = {}, {}, 0.0
    for size in sizes:
        headings[f"{size[0]}, {size[1]:,} examples"] = y
        y += 1
        for method in dict.fromkeys(r["method"] for r in shown if (r["network"], r["batch"]) == size):
            at[(*size, method)] = y
            y += 1
        y += 0.7
    figure = Figure(figsize=(3.4 + 4.2 * len(dtypes), 0.215 * y + 1.0), layout="constrained")
    axes = figure.subplots(1, len(dtypes), squeeze=False, sharey=True, sharex=True)[0]
    for axis, dtype in zip(axes, dtypes, strict=True):
        axis.axvline(1, color="#555", linewidth=1, zorder=1)
        for row in (r for r in shown if r["dtype"] == dtype):
            place, value = at[row["network"], row["batch"], row["method"]], row["times_faster"]
            axis.barh(place, value - 1, left=1, height=0.72, color=color(row["method"], row["quantity"]), zorder=2)
            text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            axis.annotate(
                text,
                (value, place),
                (4 if value >= 1 else -4, 0),
                textcoords="offset points",
                ha="left" if value >= 1 else "right",
                va="center",
                fontsize=7.5,
                fontweight="bold" if row["method"].startswith("jbp") else "normal",
            )
        axis.set(xscale="log", title=dtype)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#e8e8e8", linewidth=0.8, zorder=0)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    values = [r["times_faster"] for r in shown]
    axes[0].set(xlim=(min(0.5, *values) / 2, max(2, *values) * 2), ylim=(y, -1))
    axes[0].set_yticks([*headings.values(), *at.values()], [*headings, *(key[2] for key in at)], fontsize=8)
    for label in axes[0].get_yticklabels()[: len(headings)]:
        label.set_fontweight("bold")
    figure.supxlabel(
        "times faster than jitted jax.grad (log scale; the clipped sum beside jax.grad's plain gradient,\n"
        "a training step beside jax.grad's training step)",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)


# The command


def say_device(about: dict[str, Any], ceilings: Ceilings) -> None:
    print(
        f"{about['device']} (1 of {about['devices']} used), {about['memory_GB']} GB for JAX, {about['processor']} x "
        f"{about['processors']}; jax {about['jax']}, {about['runtime']}"
    )
    table = []
    for line in ceilings.details:
        size = (
            f"{line['size']:,} squared" if line["ceiling"].startswith("products") else f"{line['size'] / 1e6:,.0f} MB"
        )
        rate = f"{line['rate'] / 1e9:,.4g} {'Gflop/s' if line['ceiling'].startswith('products') else 'GB/s'}"
        table.append({"ceiling": line["ceiling"], "dtype": line["dtype"], "measured": rate, "array": size})
    table.append({"ceiling": "empty call", "dtype": "-", "measured": f"{1e6 * ceilings.call:.3g} µs", "array": "-"})
    measure.show("What this device can do, measured", table)


def main(argv: list[str] | None = None) -> int:
    """Return 1 if a gradient of ours was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small cases, no torch.compile; writes only to --out")
    parser.add_argument("--seconds", type=float, help="of timing for each network and dtype (4; 0.3 with --quick)")
    parser.add_argument("--out", type=Path, help="folder for figures and plots, experiments/results by default")
    given = parser.parse_args(argv)
    seconds = given.seconds or (0.3 if given.quick else 4.0)
    folder = given.out or (None if given.quick else measure.RESULTS)
    # before JAX takes three quarters of a GPU's memory: PyTorch wants some
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_accelerator = jax.devices()[0].platform != "cpu"
    sizes = SIZES + (ON_ACCELERATORS if on_accelerator else ())
    work = QUICK if given.quick else [(size, dtype) for size in sizes for dtype in DTYPES]
    how = (0.002, 2**24, 512) if given.quick else (0.02, 2**28, 2048)
    about, began = measure.stamp(), time.perf_counter()
    with measure.progress(len(work) + 2) as say:
        say("the device's ceilings")
        first = measured_ceilings(*how)
        shortens = first.products["float32"] > 1.2 * first.products["float32 highest"]
        torch = Torch(shortens, "torch.compile is left out of --quick" if given.quick else "")
        ways, rows = methods(torch), []
        say("", steps=1)
        for size, dtype in work:
            rows += measure_case(size, dtype, ways, seconds, say)
            say("", steps=1)
        say("the ceilings again")
        again = measured_ceilings(*how)
        say("", steps=1)
    ceilings = first.highest(again)
    rows = [under_ceilings(row, ceilings) for row in rows]
    drift = {
        "memory": again.bandwidth["float32"] / first.bandwidth["float32"],
        "products": again.products["float32"] / first.products["float32"],
    }
    say_device(about, ceilings)
    print(
        "The better of two measurements, before and after all else; "
        f"the second gave {drift['memory']:.2f} times the bandwidth, {drift['products']:.2f} times the products."
    )
    if about["load"] > 0.5:
        print(f"The machine was busy when this began, load {about['load']} on {about['processors']} processors.")
    print()
    if not on_accelerator and not given.quick:
        left_out = ", ".join(f"{'-'.join(map(str, widths))} at {batch:,}" for widths, batch in ON_ACCELERATORS)
        print(f"{left_out} is measured on accelerators only.\n")
    for title, table in (
        (
            "By hand: time, share of the ceiling that binds, error against float64 in full and default precision",
            own_table(rows),
        ),
        ("Times faster than others, our fastest way (a clipped sum beside plain gradients)", peer_table(rows)),
        ("Notes", remarks(rows, "note")),
        ("Not timed", remarks(rows, "reason")),
    ):
        if table:
            measure.show(title, table)
    print(f"{time.perf_counter() - began:.0f} s")
    if folder is not None:
        versions = {} if torch.absent else {"torch": torch.torch.__version__}
        more = {"peers": versions, "torch_absent": torch.absent, "ceilings": ceilings._asdict(), "drift": drift}
        path = measure.save("accelerator", rows, folder, stamp=about, **more)
        if any(row.get("ms") for row in rows):
            plot_ratios(rows, path.with_suffix(".png"))
            plot_roofline(rows, ceilings, path.with_name(f"{path.stem}-roofline.png"))
        print(f"{path} and .png, {path.stem}-roofline.png")
    return int(any((row["reason"] or "").startswith("WRONG") for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
