"""What people write without us: `jax.grad` of a plain loss, `vmap(jax.grad)`, NumPy by hand, PyTorch. Nothing of ours is in it.

Weights are given as a dict of edges, as `jaxbackprop.init` draws them: params["yhat"]["h1"] has the shape (out, in).
"""

import importlib.metadata
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np

DISTRIBUTIONS = {"backpack": "backpack-for-pytorch", "jax_privacy": "jax-privacy"}  # where they have another name


@cache
def missing(*modules: str) -> set[str]:
    """Those that are not installed, each said in a line."""
    absent = {name for name in modules if importlib.util.find_spec(name) is None}
    for name in sorted(absent):
        print(f"{name} is not installed: skipped (pip install {DISTRIBUTIONS.get(name, name)})")
    return absent


def versions(*modules: str) -> dict[str, str]:
    """Of those that are installed."""
    found = (name for name in modules if importlib.util.find_spec(name))
    return {name: importlib.metadata.version(DISTRIBUTIONS.get(name, name)) for name in found}


class NotHereError(RuntimeError):
    """A method that this machine, or this version, does not have."""


# ---- losses, for jax.grad


def plain_loss(params, x, y):
    """The exercise's wiring at any depth as one would write it: half the squared error, its mean over the batch."""
    h, source, yhat = x, "x", 0.0
    for t in (f"h{i}" for i in range(len(params) - 1)):  # not in the dict's order: jit sorts it, h10 before h2
        h = jax.nn.relu(h @ params[t][source].T)
        yhat = yhat + h @ params["yhat"][t].T
        source = t
    return jnp.mean(jnp.sum((yhat - y) ** 2, axis=1)) / 2


def loss_of_one(params, x, y):
    """The same of one example, for vmap."""
    return plain_loss(params, x[None], y[None])


def scalar_loss(params, x, y):
    """The exercise itself with plain numbers, over a vector of examples."""
    w0, w1 = params["h0"]["x"][0, 0], params["h1"]["h0"][0, 0]
    w2, w3 = params["yhat"]["h1"][0, 0], params["yhat"]["h0"][0, 0]
    h0 = jax.nn.relu(w0 * x[:, 0])
    h1 = jax.nn.relu(w1 * h0)
    return jnp.mean((w2 * h1 + w3 * h0 - y[:, 0]) ** 2) / 2


def in_tiles(loss: Callable, tile: int) -> Callable:
    """The value and gradient of a mean loss, added up over tiles in one `lax.scan`."""

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


# ---- every example's gradient, for readouts of them


def per_example_gradients(loss: Callable, in_axes: tuple = (None, 0, 0)) -> Callable:
    """vmap(jax.grad): a gradient for each example, all of them in memory."""
    return jax.vmap(jax.grad(loss), in_axes)


def squared_norms(grads: Any) -> jax.Array:
    """Of each example's gradient, summed in float32 at least."""
    wide = (g.astype(jnp.promote_types(g.dtype, jnp.float32)) for g in jax.tree.leaves(grads))
    return sum((jnp.sum(jnp.square(g), axis=range(1, g.ndim)) for g in wide), start=jnp.zeros(()))


def clipped_sum(grads: Any, max_norm: float) -> Any:
    """Each example's gradient scaled down to that norm, where it is longer, and all of them added."""
    c = jnp.minimum(1, max_norm / jnp.sqrt(jnp.maximum(squared_norms(grads), 1e-30)))
    return jax.tree.map(lambda g: jnp.tensordot(c.astype(g.dtype), g, 1), grads)


# ---- jax_privacy

MICROBATCHES = (1, 4, 16, 64, None)  # None: all examples at once


def jax_privacy(loss: Callable, batched: tuple[int, ...], max_norm: float, microbatch: int | None) -> Callable:
    """Its clipped sum; `batched` are the arguments that are examples."""
    warnings.filterwarnings("ignore", "optax.global_norm is deprecated")
    clipped = importlib.import_module("jax_privacy").clipped_grad(
        loss, l2_clip_norm=max_norm, batch_argnums=batched, keep_batch_dim=False, microbatch_size=microbatch
    )
    return lambda *args: clipped(*args)


def best_microbatch(build: Callable, args: tuple, batch: int) -> tuple[int | None, measure.Compiled, str]:
    """Try several, until one is much slower than the best: the best, its program, and what was tried."""
    tried: dict[int | None, tuple[float, measure.Compiled]] = {}
    said, failed = [], None
    for size in (size for size in MICROBATCHES if size is None or (size < batch and batch % size == 0)):
        try:
            built = build(size)
        except Exception as error:  # too large, or too much to compile
            said.append(f"{size or batch}: {measure.reason(error)}")
            failed = error
            continue
        tried[size] = measure.best_of(partial(built.run, *args), times=2), built
        said.append(f"{size or batch}: {1e3 * tried[size][0]:.3g} ms")
        if tried[size][0] > 2 * min(seconds for seconds, _ in tried.values()):
            break
    if not tried:
        raise failed or ValueError(f"no microbatches of {batch} examples")
    best = min(tried, key=lambda size: tried[size][0])
    return best, tried[best][1], ", ".join(said)


# ---- NumPy


def by_numpy(params, x, y) -> Callable[[], dict]:
    """The exercise's derivation as one types it in NumPy, a batch at a time; h0, h1 and yhat."""
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

    return run


# ---- PyTorch


class Torch:
    """PyTorch on the same kind of device as JAX; `shortens` says that it may round products as JAX does there."""

    def __init__(self, shortens: bool, skip_compile: str = ""):
        self.absent, self.skip_compile = "", skip_compile
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
            return
        if self.device == "cpu" and hasattr(os, "sched_getaffinity"):
            self.torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.torch.set_float32_matmul_precision("high" if shortens else "highest")

    @property
    def version(self) -> dict[str, str]:
        """What is written down of it."""
        return {} if self.absent else {"torch": self.torch.__version__}

    def build(self, params, x, y, repeats: int, compile_it: bool) -> tuple:
        """The gradient of the loss of h0, h1 and yhat: a queue, what makes NumPy arrays of its result, seconds of compiling.

        x and y are repeated on the device.
        """
        if self.absent or (compile_it and self.skip_compile):
            raise NotHereError(self.absent or self.skip_compile)
        torch, dtype = self.torch, getattr(self.torch, str(x.dtype))

        def tensor(a):
            return torch.from_numpy(np.array(a, np.float32)).to(self.device, dtype)

        x, y = (tensor(a).repeat(repeats, 1) for a in (x, y))
        leaves, structure = jax.tree.flatten(params)
        weights = [tensor(leaf).requires_grad_() for leaf in leaves]
        w0, w1, w3, w2 = weights  # flattened by name: h0, h1, then yhat's h0, h1

        def loss(x, y, w0, w1, w2, w3):
            h0 = torch.relu(x @ w0.T)
            h1 = torch.relu(h0 @ w1.T)
            return ((h1 @ w2.T + h0 @ w3.T - y) ** 2).sum(1).mean() / 2

        loss_of = torch.compile(loss, dynamic=False) if compile_it else loss

        def run():
            return torch.autograd.grad(loss_of(x, y, w0, w1, w2, w3), weights)

        def wait(result):
            if self.device == "cuda":
                torch.cuda.synchronize()
            return result

        def gradient(result):
            return jax.tree.unflatten(structure, [g.detach().float().cpu().numpy() for g in result])

        seconds = None
        if compile_it:
            torch._dynamo.reset()
            first, second = (_timed(lambda: wait(run())) for _ in range(2))
            seconds = first - second
        return measure.Queue(run, wait), gradient, seconds

    def release(self) -> None:
        """Give back what PyTorch keeps of a GPU's memory, so that JAX can have it."""
        if not self.absent and self.device == "cuda":
            self.torch.cuda.empty_cache()


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
