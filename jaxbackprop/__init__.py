"""Backpropagation derived by hand, as pure JAX functions: one backward sweep, many readouts.

Read the modules in this order: exercise, activations, losses, network, model, backprop, factors, readouts, bilinear, variance,
sketches; the package programs, for any other loss; gradient; then the packages scaling, checking, grading, tracing; then data,
blocks, checkpoint, secret, train, privacy. What is not in the short list below is in them: `jaxbackprop.losses.LOSSES`,
`jaxbackprop.blocks.open_npy`.

Nothing is imported before it is asked for, JAX neither: `__init__.pyi` says where each name is.
"""

import importlib.util
import warnings

import lazy_loader

_asked_for, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"

# these answer for one more release
_MOVED = {
    "ACTIVATIONS": "jaxbackprop.activations",
    "Backward": "jaxbackprop.model",
    "Blocks": "jaxbackprop.blocks",
    "Forward": "jaxbackprop.model",
    "GradientMethod": "jaxbackprop.train",
    "LOSSES": "jaxbackprop.losses",
    "Moments": "jaxbackprop.variance",
    "NoiseScale": "jaxbackprop.variance",
    "PowerSums": "jaxbackprop.variance",
    "Report": "jaxbackprop.checking.report",
    "Trace": "jaxbackprop.tracing.trace",
    "TrainState": "jaxbackprop.train",
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
    if name in __all__:
        return _asked_for(name)
    if name in _MOVED:
        warnings.warn(f"jaxbackprop.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
        return getattr(importlib.import_module(_MOVED[name]), name)
    if not name.startswith("_") and importlib.util.find_spec(f"jaxbackprop.{name}"):
        return importlib.import_module(f"jaxbackprop.{name}")
    unknown = "" if name.startswith("__") else _unknown(name)
    raise AttributeError(f"module 'jaxbackprop' has no attribute {name!r}{unknown}")


def _unknown(name: str) -> str:
    words = importlib.import_module("jaxbackprop.words")
    return f": {words.unknown('name', name, __all__)}"
