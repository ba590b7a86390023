"""Backpropagation derived by hand, as pure JAX functions: one backward sweep, many readouts.

What it is for. `jax.grad` returns one number a weight, and throws away what it computed on the way. The same chain rule
written by hand leaves all of it, at the same price: every value, every adjoint, and every single example's gradient, in
factors.

The mathematics. A network is a wiring: layer t sums weighted edges from its sources s, and applies g_t. `dfoo` is dL/dfoo.
For ONE example, with h_x = x, and yhat the h of the last layer:

    forward   z_t  = Σ over edges s→t of W_ts h_s + b_t      h_t = g_t(z_t)      L = L(yhat, y)
    (1)       dh_s = Σ over edges s→t of W_tsᵀ dz_t          paths add; of the last layer dh = dL/dyhat
    (2)       dz_t = dh_t · g_t'(z_t)                        g acts elementwise
    (3)       dW_ts = dz_t h_sᵀ      db_t = dz_t             an outer product, which need not be formed

The sweep of a batch leaves the pair (h, dz) of each example b, and what people ask of gradients is a contraction of that
pair: the sum Σ_b dz_b h_bᵀ, one matrix product; the norms |dz_b| |h_b|; all inner products (dz_b·dz_c)(h_b·h_c); weighted
and clipped sums.

>>> import jax, jax.numpy as jnp
>>> import jaxbackprop as jbp
>>> net = jbp.Network(2, (jbp.Layer("h0", 3, ("x",), "relu"), jbp.Layer("yhat", 1, ("h0", "x"))))  # x → h0 → yhat, and x → yhat
>>> params = jbp.init(net, jax.random.key(0))                       # params["yhat"]["h0"] is W of the edge h0 → yhat
>>> x, y = jax.random.normal(jax.random.key(1), (5, 2)), jnp.ones((5, 1))
>>> value, f, b = jbp.sweep(net, "half_squared_error", params, x[0], y[0])                 # one example: every z, h, dz, dh
>>> bool(jnp.allclose(b.dh["x"], params["h0"]["x"].T @ b.dz["h0"] + params["yhat"]["x"].T @ b.dz["yhat"]))    # (1): two paths
True
>>> values, fg = jbp.per_example(net, "half_squared_error")(params, x, y)                  # a batch: h, and dz, of each example
>>> fg.dz["h0"].shape, jbp.norms(fg).shape, jbp.total(jbp.clip(fg, 1.0))["h0"]["x"].shape  # a norm each; the sum of 5, clipped
((5, 3), (5,), (3, 2))
>>> loss = jbp.loss_function(net, "half_squared_error")                                    # jax.grad of this IS the rule above
>>> bool(jnp.allclose(jax.grad(loss)(params, x, y)["h0"]["x"], jbp.total(fg)["h0"]["x"] / 5, atol=1e-6))
True

How functions are called. What is static comes first: the network, then the loss, a name or functions of your own. Then come
the arrays: params, x, y. A readout takes the factored gradient first. There are two forms, for one reason. What is done
batch after batch is BUILT: `value_and_grad(net, loss)`, `per_example`, `loss_function`, `plain_loss`, `apply`, `stream`,
`fused`, and of any model's loss `factored`, `clipped_grad`, `explain`, return a function of arrays alone, (params, x, y) or
(params, *batch), because that is what `jax.jit`, `jax.grad`, `jax.lax.scan` and `fit` take, and because a program is
compiled once for what is static. What is done once, or to one example, takes all at once: `forward`, `backward`, `sweep`,
`predict`, `trace`, `evaluate`, `fit`, the checks.

What to read next. The derivation: `jaxbackprop.exercise`, the handwritten notes line by line, for plain numbers too;
`jaxbackprop.activations` and `jaxbackprop.losses`, each function with its derivative beside it; `jaxbackprop.network`, the
wiring; `jaxbackprop.backprop`, equations (1) and (2); `jaxbackprop.factors`, equation (3); `jaxbackprop.readouts`, with
`jaxbackprop.variance` and `jaxbackprop.sketches`; `jaxbackprop.gradient`, the rule behind `jax.custom_vjp`. Then the
packages, each with a guide: `jaxbackprop.programs`, any JAX model; `jaxbackprop.checking`, anyone's gradient checked;
`jaxbackprop.grading`, a derivation marked; `jaxbackprop.tracing`, one worked with numbers; `jaxbackprop.scaling`, tiles,
kernels and devices; `jaxbackprop.data`, tables and data larger than memory; `jaxbackprop.training`; `jaxbackprop.command`, the
command line. What is not in the short list stands in its module: `jaxbackprop.losses.LOSSES`,
`jaxbackprop.blocks.open_npy`.

Nothing is imported before it is asked for, JAX neither.
"""

import importlib
import warnings

from jaxbackprop import _moved
from jaxbackprop._lazy import submodule

# the short list, by module; `__init__.pyi` says the same to type checkers
_SHORT = {
    "activations": "Activation",
    "backprop": "backward forward per_example sweep",
    "checking.check": "assert_gradient check_gradient check_vjp",
    "factors": "FactoredGradient inner materialise total",
    "gradient": "apply loss_function plain_loss predict value_and_grad",
    "grading.grade": "grade",
    "losses": "Loss",
    "model": "Sweep",
    "network": "Layer Network dense_mlp init mlp skip_mlp",
    "programs.clipped": "clipped_grad",
    "programs.compare": "check_factored",
    "programs.explain": "explain",
    "programs.factored": "factored",
    "readouts": "clip gram norms",
    "scaling.kernel": "fused",
    "scaling.mesh": "data_mesh",
    "scaling.streaming": "stream",
    "sketches": "compact kronecker project",
    "tracing.trace": "trace",
    "training.checkpoints": "Checkpoints",
    "training.evaluate": "evaluate",
    "training.fit": "fit",
    "training.many": "fit_many",
    "training.privacy": "private_gradient",
    "training.secret": "secret_key",
    "variance": "moments noise_scale",
}
_HOME = {name: module for module, names in _SHORT.items() for name in names.split()}
__all__ = ["exercise", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0"
_moved.answer()

# these answer for one more release
_MOVED = {
    "ACTIVATIONS": "jaxbackprop.activations",
    "Backward": "jaxbackprop.model",
    "Blocks": "jaxbackprop.blocks",
    "Forward": "jaxbackprop.model",
    "GradientMethod": "jaxbackprop.training.steps",
    "LOSSES": "jaxbackprop.losses",
    "Moments": "jaxbackprop.variance",
    "NoiseScale": "jaxbackprop.variance",
    "PowerSums": "jaxbackprop.variance",
    "Report": "jaxbackprop.checking.report",
    "Trace": "jaxbackprop.tracing.trace",
    "TrainState": "jaxbackprop.training.steps",
    "Verdict": "jaxbackprop.grading.report",
    "count_not_finite": "jaxbackprop.readouts",
    "count_parameters": "jaxbackprop.network",
    "mapped": "jaxbackprop.blocks",
    "moments_from": "jaxbackprop.variance",
    "open_npy": "jaxbackprop.blocks",
    "open_parquet": "jaxbackprop.blocks",
    "over_devices": "jaxbackprop.scaling.mesh",
    "place_batch": "jaxbackprop.scaling.mesh",
    "place_params": "jaxbackprop.scaling.mesh",
    "power_sums": "jaxbackprop.variance",
    "spilled": "jaxbackprop.blocks",
    "squared_norms": "jaxbackprop.readouts",
}


def __getattr__(name: str):
    if name in _HOME:
        found = getattr(importlib.import_module(f"jaxbackprop.{_HOME[name]}"), name)
        globals()[name] = found
        return found
    if name in _MOVED:
        warnings.warn(f"jaxbackprop.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(_MOVED[name]), name)
    if module := submodule("jaxbackprop", name):
        return module
    known = "" if name.startswith("__") else f": {_near(name)}"
    raise AttributeError(f"module 'jaxbackprop' has no attribute {name!r}{known}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _near(name: str) -> str:
    return importlib.import_module("jaxbackprop.spelling").unknown("name", name, __all__)
