"""Backpropagation derived by hand, as pure JAX functions: one backward sweep, many readouts.

Read the modules in this order: exercise, activations, losses, network, model, backprop, factors, readouts, bilinear, variance,
sketches; the package programs, for any other loss; gradient; then the packages scaling, checking, grading, tracing; then data,
blocks, checkpoint, secret, train, privacy. What is not in the short list below is in them: `jaxbackprop.losses.LOSSES`,
`jaxbackprop.blocks.open_npy`.
"""

import importlib
import warnings

from jaxbackprop import blocks as blocks
from jaxbackprop import exercise
from jaxbackprop.activations import Activation
from jaxbackprop.backprop import backward, forward, per_example, sweep
from jaxbackprop.checking.check import assert_gradient, check_gradient, check_vjp
from jaxbackprop.checkpoint import Checkpoints
from jaxbackprop.factors import FactoredGradient, inner, materialise, total
from jaxbackprop.gradient import apply, loss_function, plain_loss, predict, value_and_grad
from jaxbackprop.grading.grade import grade
from jaxbackprop.losses import Loss
from jaxbackprop.model import Sweep
from jaxbackprop.network import Layer, Network, dense_mlp, init, mlp, skip_mlp
from jaxbackprop.privacy import private_gradient
from jaxbackprop.programs.clipped import clipped_grad
from jaxbackprop.programs.compare import check_factored
from jaxbackprop.programs.explain import explain
from jaxbackprop.programs.factored import factored
from jaxbackprop.readouts import clip, gram, norms
from jaxbackprop.scaling.kernel import fused
from jaxbackprop.scaling.mesh import data_mesh
from jaxbackprop.scaling.streaming import stream
from jaxbackprop.secret import secret_key
from jaxbackprop.sketches import compact, kronecker, project
from jaxbackprop.tracing.trace import trace
from jaxbackprop.train import evaluate, fit, fit_many
from jaxbackprop.variance import moments, noise_scale
from jaxbackprop.words import unknown

__all__ = [
    "Activation",
    "Checkpoints",
    "FactoredGradient",
    "Layer",
    "Loss",
    "Network",
    "Sweep",
    "apply",
    "assert_gradient",
    "backward",
    "check_factored",
    "check_gradient",
    "check_vjp",
    "clip",
    "clipped_grad",
    "compact",
    "data_mesh",
    "dense_mlp",
    "evaluate",
    "exercise",
    "explain",
    "factored",
    "fit",
    "fit_many",
    "forward",
    "fused",
    "grade",
    "gram",
    "init",
    "inner",
    "kronecker",
    "loss_function",
    "materialise",
    "mlp",
    "moments",
    "noise_scale",
    "norms",
    "per_example",
    "plain_loss",
    "predict",
    "private_gradient",
    "project",
    "secret_key",
    "skip_mlp",
    "stream",
    "sweep",
    "total",
    "trace",
    "value_and_grad",
]
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
    if name.startswith("__") or name not in _MOVED:
        raise AttributeError(f"module 'jaxbackprop' has no attribute {name!r}: {unknown('name', name, __all__)}")
    warnings.warn(f"jaxbackprop.{name} is now {_MOVED[name]}.{name}", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(_MOVED[name]), name)
