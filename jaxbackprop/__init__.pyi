# The short list, each name with where it is; `__init__.py` imports from here what is asked for.
from . import checking as checking
from . import command as command
from . import data as data
from . import devices as devices
from . import exercise
from . import grading as grading
from . import network as network
from . import scaling as scaling
from . import tracing as tracing
from . import training as training
from . import words as words
from .activations import Activation
from .backprop import backward, forward, per_example, sweep
from .checking.check import assert_gradient, check_gradient, check_vjp
from .factors import FactoredGradient, inner, materialise, total
from .gradient import apply, loss_function, plain_loss, predict, value_and_grad
from .grading.grade import grade
from .losses import Loss
from .model import Sweep
from .network import Layer, Network, dense_mlp, init, mlp, skip_mlp
from .programs.clipped import clipped_grad
from .programs.compare import check_factored
from .programs.explain import explain
from .programs.factored import factored
from .readouts import clip, gram, norms
from .scaling.kernel import fused
from .scaling.mesh import data_mesh
from .scaling.streaming import stream
from .sketches import compact, kronecker, project
from .tracing.trace import trace
from .training.checkpoints import Checkpoints
from .training.evaluate import evaluate
from .training.fit import fit
from .training.many import fit_many
from .training.privacy import private_gradient
from .training.secret import secret_key
from .variance import moments, noise_scale

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
__version__: str
