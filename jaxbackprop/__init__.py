"""Backpropagation derived by hand, as pure JAX functions: one backward sweep, many readouts.

Read the modules in this order: exercise, activations, losses, network, model, backprop, factors, readouts, bilinear, variance,
sketches; the package programs, for any other loss; gradient; then the packages scaling, checking, grading, tracing; then data,
blocks; the package training. What is not in the short list below is in them: `jaxbackprop.losses.LOSSES`,
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
    return importlib.import_module("jaxbackprop.words").unknown("name", name, __all__)
