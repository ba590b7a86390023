"""Backpropagation derived by hand, as pure JAX functions: one backward sweep, many readouts.

Read the modules in this order: exercise, activations, losses, network, backprop, factors, readouts, bilinear, variance,
sketches, gradient, scaling, check, trace, grade, checkpoint, blocks, secret, train, privacy.
"""

from jaxbackprop import exercise
from jaxbackprop.activations import ACTIVATIONS, Activation
from jaxbackprop.backprop import Backward, Forward, backward, forward, per_example, sweep
from jaxbackprop.blocks import Blocks, mapped, open_npy, open_parquet, spilled
from jaxbackprop.checking.check import assert_gradient, check_gradient, check_vjp
from jaxbackprop.checking.report import Report
from jaxbackprop.checkpoint import Checkpoints
from jaxbackprop.factors import FactoredGradient, inner, materialise, total
from jaxbackprop.gradient import apply, loss_function, plain_loss, predict, value_and_grad
from jaxbackprop.grading.grade import grade
from jaxbackprop.grading.report import Verdict
from jaxbackprop.losses import LOSSES, Loss
from jaxbackprop.model import Sweep
from jaxbackprop.network import Layer, Network, count_parameters, dense_mlp, init, mlp, skip_mlp
from jaxbackprop.privacy import private_gradient
from jaxbackprop.readouts import clip, count_not_finite, gram, norms, squared_norms
from jaxbackprop.scaling.kernel import fused
from jaxbackprop.scaling.mesh import data_mesh, over_devices, place_batch, place_params
from jaxbackprop.scaling.streaming import stream
from jaxbackprop.secret import secret_key
from jaxbackprop.sketches import compact, kronecker, project
from jaxbackprop.tracing.trace import Trace, trace
from jaxbackprop.train import GradientMethod, TrainState, evaluate, fit, fit_many
from jaxbackprop.variance import Moments, NoiseScale, PowerSums, moments, moments_from, noise_scale, power_sums

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
    "Sweep",
    "Trace",
    "TrainState",
    "Verdict",
    "apply",
    "assert_gradient",
    "backward",
    "check_gradient",
    "check_vjp",
    "clip",
    "compact",
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
    "kronecker",
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
    "project",
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
