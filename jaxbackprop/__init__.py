"""Backpropagation derived by hand, as pure JAX functions: one backward sweep, many readouts.

Read the modules in this order:
exercise, activations, losses, network, backprop, factored, streaming, gradient, fused, check, tracing, grading, sharding,
checkpoint, blocks, secret, train, privacy.
"""

from jaxbackprop import exercise
from jaxbackprop.activations import ACTIVATIONS, Activation
from jaxbackprop.backprop import Backward, FactoredGradient, backward, per_example, sweep, total
from jaxbackprop.blocks import Blocks, mapped, open_npy, open_parquet, spilled
from jaxbackprop.check import assert_gradient, check_gradient, check_vjp
from jaxbackprop.checking.report import Report
from jaxbackprop.checkpoint import Checkpoints
from jaxbackprop.factored import (
    Moments,
    NoiseScale,
    PowerSums,
    clip,
    count_not_finite,
    gram,
    inner,
    materialise,
    moments,
    moments_from,
    noise_scale,
    norms,
    power_sums,
    squared_norms,
)
from jaxbackprop.fused import fused
from jaxbackprop.gradient import apply, loss_function, plain_loss, value_and_grad
from jaxbackprop.grading.grade import grade
from jaxbackprop.grading.report import Verdict
from jaxbackprop.losses import LOSSES, Loss
from jaxbackprop.network import (
    Forward,
    Layer,
    Network,
    count_parameters,
    dense_mlp,
    forward,
    init,
    mlp,
    predict,
    skip_mlp,
)
from jaxbackprop.privacy import private_gradient
from jaxbackprop.secret import secret_key
from jaxbackprop.sharding import data_mesh, over_devices, place_batch, place_params
from jaxbackprop.streaming import stream
from jaxbackprop.tracing.trace import Trace, trace
from jaxbackprop.train import GradientMethod, TrainState, evaluate, fit, fit_many

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "Activation",
    "Backward",
    "Blocks",
    "Checkpoints",
    "FactoredGradient",
    "Forward",
    "GradientMethod",
    "Layer",
    "Loss",
    "Moments",
    "Network",
    "NoiseScale",
    "PowerSums",
    "Report",
    "Trace",
    "TrainState",
    "Verdict",
    "apply",
    "assert_gradient",
    "backward",
    "check_gradient",
    "check_vjp",
    "clip",
    "count_not_finite",
    "count_parameters",
    "data_mesh",
    "dense_mlp",
    "evaluate",
    "exercise",
    "fit",
    "fit_many",
    "forward",
    "fused",
    "grade",
    "gram",
    "init",
    "inner",
    "loss_function",
    "mapped",
    "materialise",
    "mlp",
    "moments",
    "moments_from",
    "noise_scale",
    "norms",
    "open_npy",
    "open_parquet",
    "over_devices",
    "per_example",
    "place_batch",
    "place_params",
    "plain_loss",
    "power_sums",
    "predict",
    "private_gradient",
    "secret_key",
    "skip_mlp",
    "spilled",
    "squared_norms",
    "stream",
    "sweep",
    "total",
    "trace",
    "value_and_grad",
]
__version__ = "0.1.0"
