"""What do per-example readouts cost, beside one plain gradient and beside others' ways to them? Over network and batch.

    python experiments/per_example_benchmark.py [--quick] [--out FOLDER]

The networks have biases, relu and softmax cross-entropy; weights, data and float32 (no shorter products) are the same for
all. Every method is first compared with `vmap(jax.grad)`, and timed only if it agrees. The peers are jax_privacy, Opacus
and BackPACK, on PyTorch; one that is not installed is named and skipped. PyTorch's ratio to its own plain backward pass
says what the method costs; the ratio to `jax.grad`, what the user waits.
"""

import importlib
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
import optax
import rivals
from cases import in_float64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import jaxbackprop as jbp

SIZES = {
    (784, 512, 512, 10): (64, 256, 1024),
    (64, 128, 128, 10): (64, 1024, 4096),
    (5120, 2560, 1280): (16, 64, 256),  # the MLP that Opacus publishes its own figures for
}
GRADIENT, CLIPPED, NORMS, MOMENTS = READOUTS = ("gradient", "clipped sum", "norms", "moments")
LOSS, MAX_NORM = "softmax_cross_entropy", 1.0
TILE = 256  # of the streamed sum, and at most half the batch: whole, it keeps every dz beside every h
LARGEST_BYTES = 4e9  # of per-example gradients held at once; two or three times as much is in use while they are
TOLERANCE = 1e-4
# torch.norm over the 13 million float32 entries of a gradient is 3.5e-4 too small: Opacus' own figure, said and timed
TORCH_NORM_TOLERANCE = 2e-3
# seconds a call; such a program is timed by itself, beside the plain gradients, in fewer rounds. A first call may be slower
SLOW, SURELY_SLOW = 0.25, 3
PEERS = ("jax_privacy", "torch", "opacus", "backpack")
PLAIN = {"JAX": "jax.grad", "PyTorch": "torch backward"}


class Program(NamedTuple):
    """One method: what it reads out, a call without arguments, and how its result compares with the reference."""

    readout: str
    method: str
    framework: str
    run: Callable[[], Any]
    comparable: Callable[[Any], Any]
    temporary_bytes: int | None = None


class Case(NamedTuple):
    """One network and batch."""

    network: jbp.Network
    params: dict
    x: jax.Array
    y: jax.Array

    @property
    def batch(self) -> int:
        """How many examples."""
        return len(self.x)

    @property
    def gradient_bytes(self) -> int:
        """What one example's gradient takes."""
        return 4 * jbp.network.count_parameters(self.network)

    def __str__(self) -> str:
        widths = (self.network.inputs, *(layer.width for layer in self.network.layers))
        return f"{'-'.join(map(str, widths))}, batch {self.batch:,}"


def make_case(widths: tuple[int, ...], batch: int) -> Case:
    """One class is common, and the network knows it: some examples' gradients are below the norm bound, some above."""
    network = jbp.mlp(widths, activation="relu", bias=True)
    keys = jax.random.split(jax.random.key(0), 5)
    params = jbp.init(network, keys[0])
    for layer, key in zip(network.layers, jax.random.split(keys[1], len(network.layers)), strict=True):
        params[layer.name]["bias"] = 0.1 * jax.random.normal(key, (layer.width,))
    params["yhat"]["bias"] = params["yhat"]["bias"].at[0].set(np.log(widths[-1]) + 4)
    x = jax.random.normal(keys[2], (batch, widths[0]))
    y = jax.random.bernoulli(keys[3], 0.5, (batch,)) * jax.random.randint(keys[4], (batch,), 0, widths[-1])
    return Case(network, params, x, y)


# ---- what one writes without us


def logits(params, x):
    """The network as one would write it."""
    source = "x"
    for t, layer in params.items():  # h0, h1, …, yhat: in order, also where jit sorts them
        z = x @ layer[source].T + layer["bias"]
        x, source = z if t == "yhat" else jax.nn.relu(z), t
    return x


def plain_loss(params, x, y):
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y))


gradients = rivals.per_example_gradients(plain_loss)


def vmap_clipped(params, x, y):
    return rivals.clipped_sum(gradients(params, x, y), MAX_NORM)


def vmap_norms(params, x, y):
    return jnp.sqrt(rivals.squared_norms(gradients(params, x, y)))


def reference(case: Case) -> dict[str, Any]:
    """Every readout by `vmap(jax.grad)` in float64, for a few examples at a time."""

    def part(params, x, y):
        grads = gradients(params, x, y)
        first = jax.tree.map(lambda g: jnp.sum(g, axis=0), grads)
        second = jax.tree.map(lambda g: jnp.sum(g**2, axis=0), grads)
        return jnp.sqrt(rivals.squared_norms(grads)), (first, second, rivals.clipped_sum(grads, MAX_NORM))

    tile = max(1, int(0.25e9 / case.gradient_bytes))
    norms, sums = zip(*in_float64(part, case.params, case.x, case.y, tile=tile), strict=True)
    first, second, clipped = jax.tree.map(lambda *parts: sum(parts), *sums)
    mean = jax.tree.map(lambda s: s / case.batch, first)
    variance = jax.tree.map(lambda s, m: s / case.batch - m**2, second, mean)
    return {GRADIENT: mean, CLIPPED: clipped, NORMS: np.concatenate(norms), MOMENTS: (mean, variance)}


# ---- in JAX


def in_jax(readout: str, method: str, function: Callable, args: tuple, comparable: Callable = lambda r: r) -> Program:
    """Compiled."""
    compiled = measure.compiled(function, *args)
    return Program(readout, method, "JAX", partial(compiled.run, *args), comparable, compiled.temporary_bytes)


def clipped_sum(fg):
    return jbp.total(jbp.clip(fg, MAX_NORM))


def ours(case: Case) -> Iterator[Program]:
    """The plain gradient, and the readouts."""
    network, args = case.network, (case.params, case.x, case.y)
    streamed = jbp.stream(network, LOSS, clipped_sum, min(TILE, case.batch // 2))

    def read(readout):
        return lambda *args: readout(jbp.per_example(network, LOSS)(*args)[1])

    def second(pair):
        return pair[1]

    def mean(total):
        return jax.tree.map(lambda g: g / case.batch, total)

    yield in_jax(GRADIENT, "jbp.value_and_grad", jbp.value_and_grad(network, LOSS), args, second)
    yield in_jax(GRADIENT, "jbp.total(per_example)", read(jbp.total), args, mean)
    yield in_jax(CLIPPED, "jbp.total(clip(…))", read(clipped_sum), args)
    yield in_jax(CLIPPED, "jbp.stream(…clip…), in tiles", streamed, args, second)
    yield in_jax(NORMS, "jbp.norms", read(jbp.norms), args)
    yield in_jax(MOMENTS, "jbp.moments", read(jbp.moments), args)


def theirs(case: Case, missing: set[str]) -> Iterator[Program]:
    """`jax.grad`, what one writes without us, and jax_privacy."""
    args = case.params, case.x, case.y
    yield in_jax(GRADIENT, PLAIN["JAX"], jax.grad(plain_loss), args)
    yield in_jax(NORMS, "vmap(jax.grad), norms", vmap_norms, args)
    if fits(case, "vmap(jax.grad), clipped"):
        yield in_jax(CLIPPED, "vmap(jax.grad), clipped", vmap_clipped, args)
    if "jax_privacy" not in missing:
        clipped = partial(rivals.jax_privacy, plain_loss, (1, 2), MAX_NORM)
        some = 64 if 64 * case.gradient_bytes < 1e9 else 16
        few = case.params, case.x[:some], case.y[:some]
        size, _, tried = rivals.best_microbatch(lambda size: measure.compiled(clipped(size), *few), few, some)
        note(f"{case}: jax_privacy with microbatches of {size} ({some} examples with {tried})")
        yield in_jax(CLIPPED, "jax_privacy, best microbatch", clipped(size), args)


# ---- in PyTorch: its own backward pass, Opacus and BackPACK, on the same weights


class TorchCase:
    """A case in PyTorch, and its losses."""

    def __init__(self, case: Case, peer: rivals.Torch):
        self.torch, self.case, self.device = peer.torch, case, peer.device
        self.x, self.y = self.tensor(case.x), self.tensor(case.y).long()
        self.mean, self.total = (self.torch.nn.CrossEntropyLoss(reduction=of) for of in ("mean", "sum"))

    def tensor(self, a) -> Any:
        """On the device."""
        return self.torch.from_numpy(np.array(a)).to(self.device)

    def model(self) -> Any:
        """A fresh one."""
        nn, modules = self.torch.nn, []
        for t in self.case.network.layers:
            W, b = (self.tensor(self.case.params[t.name][part]) for part in (t.sources[0], "bias"))
            linear = nn.utils.skip_init(nn.Linear, W.shape[1], W.shape[0], device=self.device)
            linear.load_state_dict({"weight": W, "bias": b})
            modules += [linear, nn.ReLU()]
        return nn.Sequential(*modules[:-1])

    def program(self, readout: str, method: str, run: Callable, comparable: Callable | None = None) -> Program:
        """One that is waited for."""

        def finished():
            result = run()
            if self.device == "cuda":
                self.torch.cuda.synchronize()
            return result

        return Program(readout, method, "PyTorch", finished, comparable or as_ours)


def as_ours(flat) -> list:
    """In the order of our parameters: the bias before the weights."""
    arrays = [t.detach().cpu().numpy() for t in flat]
    return list(zip(arrays[1::2], arrays[::2], strict=True))


def taken(module, name: str) -> list:
    """What a backward pass left on the parameters, leaving nothing for the next one."""
    values = [getattr(p, name) for p in module.parameters()]
    for p in module.parameters():
        setattr(p, name, None)
        p.grad = None
    return values


def in_torch(at: TorchCase) -> Iterator[Program]:
    """A plain backward pass."""
    plain = at.model()

    def backward():
        at.mean(plain(at.x), at.y).backward()
        return taken(plain, "grad")

    yield at.program(GRADIENT, PLAIN["PyTorch"], backward)


def by_opacus(at: TorchCase) -> Iterator[Program]:
    """Clipped sums, by ghost clipping and from each example's gradient."""
    grad_sample: Any = importlib.import_module("opacus.grad_sample")
    optimizers: Any = importlib.import_module("opacus.optimizers")
    clipping: Any = importlib.import_module("opacus.utils.fast_gradient_clipping_utils")
    ghostly, sgd = grad_sample.GradSampleModuleFastGradientClipping, partial(at.torch.optim.SGD, lr=0.0)
    settings = {
        "noise_multiplier": 0.0,
        "max_grad_norm": MAX_NORM,
        "expected_batch_size": None,
        "loss_reduction": "sum",
    }
    ghost = ghostly(at.model(), loss_reduction="sum", max_grad_norm=MAX_NORM, use_ghost_clipping=True)
    ghost_optimizer = optimizers.DPOptimizerFastGradientClipping(sgd(ghost.parameters()), **settings)
    ghost_loss = clipping.DPLossFastGradientClipping(ghost, ghost_optimizer, at.total, loss_reduction="sum")

    def by_ghosts():
        ghost_loss(ghost(at.x), at.y).backward()
        return taken(ghost, "grad")

    yield at.program(CLIPPED, "Opacus, ghost", by_ghosts)
    if fits(at.case, "Opacus, per sample"):
        sampled = grad_sample.GradSampleModule(at.model(), loss_reduction="sum")
        optimizer = optimizers.DPOptimizer(sgd(sampled.parameters()), **settings)

        def per_sample():
            at.total(sampled(at.x), at.y).backward()
            optimizer.clip_and_accumulate()  # its step() without the noise and the step
            result = [p.summed_grad for p in sampled.parameters()]
            optimizer.zero_grad(set_to_none=True)
            return result

        yield at.program(CLIPPED, "Opacus, per sample", per_sample)


def by_backpack(at: TorchCase) -> Iterator[Program]:
    """Norms, variances, and a clipped sum of its gradients."""
    backpack: Any = importlib.import_module("backpack")
    extensions: Any = importlib.import_module("backpack.extensions")
    torch, batch = at.torch, at.case.batch

    def extended(extension, read):
        module = backpack.extend(at.model())

        def run():
            with backpack.backpack(extension):
                at.total(module(at.x), at.y).backward()
            return read(module)

        return run

    def norms(module):
        return torch.stack(taken(module, "batch_l2")).sum(0).sqrt()

    def moments(module):
        return [p.grad / batch for p in module.parameters()], taken(module, "variance")

    def clipped(module):
        grads = taken(module, "grad_batch")
        # the norm of the rows' norms: over a whole gradient at once float32 loses three digits
        n = torch.stack([g.norm(dim=-1).reshape(batch, -1).norm(dim=-1) for g in grads]).norm(dim=0)
        c = (MAX_NORM / n).clamp(max=1.0)
        return [torch.einsum("i,i...", c, g) for g in grads]

    l2, variance = extended(extensions.BatchL2Grad(), norms), extended(extensions.Variance(), moments)
    yield at.program(NORMS, "BackPACK BatchL2Grad", l2, lambda n: n.cpu().numpy())
    yield at.program(MOMENTS, "BackPACK Variance", variance, lambda r: tuple(map(as_ours, r)))
    if fits(at.case, "BackPACK BatchGrad, clipped"):
        yield at.program(CLIPPED, "BackPACK BatchGrad, clipped", extended(extensions.BatchGrad(), clipped))


def programs(case: Case, missing: set[str], peer: rivals.Torch) -> Iterator[Program]:
    """All that can run here."""
    yield from ours(case)
    yield from theirs(case, missing)
    if not peer.absent:
        warnings.filterwarnings(
            "ignore", "Full backward hook is firing when gradients are computed with respect to module"
        )
        at = TorchCase(case, peer)
        for module, make in {"torch": in_torch, "opacus": by_opacus, "backpack": by_backpack}.items():
            if module not in missing:
                yield from make(at)


# ---- measuring

NOTES: dict[str, None] = {}  # in their order


def note(line: str) -> None:
    """Say what is left out or chosen, and keep it for the file."""
    NOTES[line] = print(line)


def fits(case: Case, method: str) -> bool:
    """Whether the gradients of all examples may be formed at once."""
    size = case.batch * case.gradient_bytes
    if size > LARGEST_BYTES:
        note(f"{case}: {method} skipped, its per-example gradients would take {size / 1e9:.3g} GB")
    return size <= LARGEST_BYTES


def validated(case: Case, program: Program, expected: dict[str, Any]) -> tuple[float, bool]:
    """Compare with the reference, or stop; return the largest difference, and whether a call is slow."""
    began = time.perf_counter()
    result = jax.block_until_ready(program.run())
    once = time.perf_counter() - began
    slow = once > SURELY_SLOW or (once > SLOW and measure.best_of(program.run) > SLOW)
    difference = measure.largest_difference(program.comparable(result), expected[program.readout])
    if program.method == "Opacus, per sample" and TOLERANCE < difference <= TORCH_NORM_TOLERANCE:
        note(f"{case}: {program.method} is off by {difference:.2g}, as torch.norm is on long rows; timed all the same")
    elif not difference <= TOLERANCE:
        raise SystemExit(f"{case}: {program.method} is off by {difference:.2g}; nothing is timed")
    return difference, slow


def measure_one(widths: tuple[int, ...], batch: int, missing: set[str], seconds: float) -> list[dict]:
    """Validate, then time, every method at one size."""
    case = make_case(widths, batch)
    expected = reference(case)
    of = {p.method: p for p in programs(case, missing, rivals.Torch(shortens=False))}
    checked = {method: validated(case, program, expected) for method, program in of.items()}
    times = {}
    for framework, plain in PLAIN.items():  # apart: PyTorch's idle threads spin for a while
        mine = [p.method for p in of.values() if p.framework == framework]
        for group in ([m for m in mine if not checked[m][1]], *([m] for m in mine if checked[m][1])):
            beside = dict.fromkeys([PLAIN["JAX"], plain, *group])
            timed = measure.in_turn({m: of[m].run for m in beside}, seconds, rounds=9, fewest=1) if group else {}
            times |= dict.fromkeys(group, timed)
    plain_bytes = of[PLAIN["JAX"]].temporary_bytes or 1
    return [
        {
            "network": "-".join(map(str, widths)),
            "batch": batch,
            "readout": p.readout,
            "method": p.method,
            "ms": 1e3 * measure.median(times[p.method][p.method]),
            "times_jax_grad": measure.ratio(times[p.method], p.method, PLAIN["JAX"]),
            "times_own": measure.ratio(times[p.method], p.method, PLAIN[p.framework]),
            "temporary_MB": None if p.temporary_bytes is None else p.temporary_bytes / 1e6,
            "temporary_ratio": None if p.temporary_bytes is None else p.temporary_bytes / plain_bytes,
            "difference": checked[p.method][0],
            "rounds": len(times[p.method][p.method]),
            "clipped_share": float(np.mean(expected[NORMS] > MAX_NORM)),
        }
        for p in sorted(of.values(), key=lambda p: READOUTS.index(p.readout))
    ]


# ---- the picture

COLORS = {"jaxbackprop": "#4269d0", "other JAX": "#97bbf5", "PyTorch": "#efb118"}


def family(method: str) -> str:
    if method.startswith("jbp."):
        return "jaxbackprop"
    return "PyTorch" if method.startswith(("torch", "Opacus", "BackPACK")) else "other JAX"


def plot(rows: list[dict]) -> Figure:
    """A panel for each network at its largest batch: each method's time over its framework's plain gradient."""
    lines = dict.fromkeys((row["readout"], row["method"]) for row in rows)
    names = [line for readout in READOUTS for line in (readout, *(m for r, m in lines if r == readout))]
    at = {name: -place for place, name in enumerate(names)}
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = Figure(figsize=(4.2 + 2.9 * len(networks), 0.25 * len(names) + 1.2))
    axes = figure.subplots(1, len(networks), squeeze=False, sharey=True, sharex=True)[0]
    for axis, network in zip(axes, networks, strict=True):
        draw(axis, [row for row in rows if row["network"] == network], at)
    axes[0].set_xlim(0.25, 3 * max(row["times_own"] for row in rows))
    axes[0].set_yticks(list(at.values()), names, fontsize=9)
    for label in axes[0].get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in READOUTS else "normal")
    said = "time, as a multiple of the same framework's plain gradient (log scale)"
    axes[len(axes) // 2].set_xlabel(said, fontsize=10)
    handles = [Patch(color=color, label=name) for name, color in COLORS.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=9)
    return figure


def draw(axis: Axes, rows: list[dict], at: dict[str, int]) -> None:
    """One network, at its largest batch."""
    batch = max(row["batch"] for row in rows)
    values = {row["method"]: row["times_own"] for row in rows if row["batch"] == batch}
    word, ours = f"over {LARGEST_BYTES / 1e9:g} GB", "jaxbackprop"
    methods = [(method, family(method)) for method in at if method not in READOUTS]
    measure.draw_ratios(axis, [measure.Bar(at[m], values.get(m), word, COLORS[f], f == ours) for m, f in methods])
    axis.set_title(f"{rows[0]['network']}\nbatch {batch:,}", fontsize=10)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x")


def main() -> None:
    given = measure.arguments(__doc__, "one small size, a third of the time")
    missing = rivals.missing(*PEERS)
    sizes = [((64, 128, 128, 10), 64)] if given.quick else [(w, b) for w, batches in SIZES.items() for b in batches]
    rows = []
    with jax.default_matmul_precision("highest"):
        for widths, batch in measure.followed(sizes):
            rows += measure_one(widths, batch, missing, seconds=1.0 if given.quick else 3.0)
    title = "Per-example readouts: time and temporary memory beside one plain gradient (medians, in turn)"
    measure.show(title, rows, [c for c in rows[0] if c not in ("difference", "rounds", "clipped_share")])
    more = {"peers": rivals.versions(*PEERS), "notes": list(NOTES)}
    measure.publish(given, "per_example", rows, partial(plot, rows), **more)


if __name__ == "__main__":
    main()
