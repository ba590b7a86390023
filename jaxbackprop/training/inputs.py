"""What training takes, and what it refuses: settings, data, parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike

from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks, Rows, examples_of
from jaxbackprop.losses import LOSSES, as_loss, names_a_class
from jaxbackprop.model import Model, Sweep
from jaxbackprop.refusals import are_floating, are_like, is_network
from jaxbackprop.scaling.mesh import DATA, MODEL
from jaxbackprop.spelling import unknown
from jaxbackprop.training.checkpoints import Checkpoints
from jaxbackprop.training.methods import GRADIENTS
from jaxbackprop.training.steps import GradientMethod, Problem, TrainState, update
from jaxbackprop.words import FLOATING, fits, require_positive

Data = tuple[ArrayLike, ArrayLike]

# of probabilities: of any other targets they have no least value
CROSS_ENTROPIES = LOSSES["softmax_cross_entropy"], LOSSES["sigmoid_binary_cross_entropy"]


def require_settings(epochs, optimizer, callbacks, checkpoints, monitor, mesh) -> None:
    """Refuse what is not of the kind that `fit` asks for."""
    require_positive("epochs", epochs)
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        raise TypeError(f"optimizer is a {type(optimizer).__name__}: expected one of optax's, such as optax.adam(1e-3)")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TypeError(f"callbacks is {callbacks!r}: expected a list of functions of (state, row)")
    if monitor is not None and not callable(monitor):
        raise TypeError(f"monitor is {monitor!r}: expected a function of (epoch, steps done, steps of the epoch)")
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        expected = "expected Checkpoints, such as jaxbackprop.Checkpoints('folder')"
        raise TypeError(f"checkpoints is {checkpoints!r}: {expected}")
    if mesh is not None and (not isinstance(mesh, Mesh) or mesh.axis_names != (DATA, MODEL)):
        raise TypeError(f"mesh is {mesh!r}: expected what jaxbackprop.data_mesh makes")


def require_key(key, private: bool, params) -> None:
    """Refuse a training without a key, saying what is drawn from it."""
    if key is None and not private:
        drawn = "the shuffles are" if params is not None else "the first parameters and the shuffles are"
        raise TypeError(
            f"key is None: {drawn} drawn from it, so give one, such as jax.random.key(0); it is left out with "
            "private_gradient alone"
        )


def require_update(problem: Problem, state: TrainState) -> None:
    """Refuse an optimizer that asks for what it is not given: the loss where it is not to be told, params of its own kind."""
    error = _failure(problem, state)
    if error is None:
        return
    if problem.gradient.secret and not _failure(
        problem._replace(gradient=problem.gradient._replace(secret=False)), state
    ):
        raise ValueError(
            f"the optimizer asks for the loss ({error}), which a private gradient does not protect: take one that is "
            "content with the gradient, such as optax.adam(1e-3)"
        ) from error
    raise ValueError(
        f"the optimizer does not take (gradient, state, params), and value, grad, value_fn and grad_fn by name as far as it "
        f"asks ({type(error).__name__}: {error}): optax.lookahead, with params of its own, and optax.contrib.sam in a chain "
        "are such"
    ) from error


def _failure(problem: Problem, state: TrainState) -> Exception | None:
    """What an update raises, of a loss that costs nothing to trace."""
    value = lambda params: sum(map(jnp.sum, jax.tree.leaves(params)))  # noqa: E731
    run = update(problem)
    try:
        jax.eval_shape(lambda s: run(s.params, s.opt_state, s.params, value(s.params), value), state)
    except Exception as error:  # anyone's optimizer
        return error
    return None


def require_data(name, network, loss, data) -> tuple[Array, Array] | Blocks:
    """The data as JAX takes them, refused where they do not fit the network or the loss; `Blocks` as each is read."""
    if not isinstance(data, Blocks):
        return require_arrays(name, network, loss, data)

    dtypes = [jax.dtypes.canonicalize_dtype(a.dtype) for a in data.like]  # here: 64-bit types are on or off by thread

    def read(i: int) -> Rows:
        where, found = f"block {i} of {name}", zip("xy", data.read(i), dtypes, strict=True)
        x, y = (_as_dtype(f"{where}: {what}", np.asarray(a), dtype) for what, a, dtype in found)
        _require_rows(where, network, loss, x, y)
        if len(x) != data.lengths[i]:
            raise ValueError(f"{where} has {len(x)} rows, its length is said to be {data.lengths[i]}")
        return x, y

    return replace(data, read=read)


def require_arrays(name, network, loss, data) -> tuple[Array, Array]:
    """The same of arrays alone."""
    if not isinstance(data, tuple | list) or len(data) != 2:
        what = f"holds {len(data)} things" if isinstance(data, tuple | list) else f"is a {type(data).__name__}"
        raise ValueError(f"{name} {what}: expected a pair (x, y), or Blocks")
    x, y = (jnp.asarray(_numbers(f"{name}: {what}", a)) for what, a in zip("xy", data, strict=True))
    _require_rows(name, network, loss, x, y)
    return x, y


def _numbers(name, given):
    if isinstance(given, jax.Array):
        return given
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        array = np.asarray(None)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.number, jnp.bool_)):
        raise ValueError(f"{name} is a {type(given).__name__} that makes no array of numbers: expected numbers")
    return _as_dtype(name, array, jax.dtypes.canonicalize_dtype(array.dtype.newbyteorder("=")))


def _as_dtype(name: str, given: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A dtype that JAX has here, 32 bits where 64 are off; what is too large for it becomes infinity, or is refused."""
    if given.dtype == dtype:
        return given
    if jnp.issubdtype(dtype, jnp.integer):
        if not np.can_cast(given.dtype, dtype, "same_kind"):
            raise ValueError(f"{name} holds {given.dtype}, where block 0 holds whole numbers: store one kind")
        most = np.iinfo(dtype)
        if given.size and (given.min() < most.min or given.max() > most.max):
            raise ValueError(
                f"{name} holds {given.min():,} to {given.max():,}, beyond {dtype}: give floats, or classes from 0"
            )
    with np.errstate(over="ignore"):
        return given.astype(dtype)


def model_of(network, loss, params) -> Model | Sweep:
    """What is trained: a network and its loss, or a sweep that has its own; parameters have to fit it, and be finite."""
    if isinstance(network, Sweep):
        if loss is not None:
            raise ValueError(f"loss is {loss!r}, beside a Sweep, which has its own: give None")
        if getattr(network.model, "argnums", 0) != 0:
            raise ValueError("fit calls the sweep with (params, x, y): make it with argnums=0")
        if params is None:
            raise ValueError("params is None, and a Sweep does not say how to draw them: give params to start from")
        are_floating("params", params)
        model = network
    else:
        is_network(network)
        model = Model(network, as_loss(loss))
        if params is not None:
            are_like("params", params, network.shapes)
    for path, w in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(w, np.float64)).all():
            where = jax.tree_util.keystr(path)
            raise ValueError(f"params{where} holds NaN or infinity: there is nothing to go on from")
    return model


def _require_rows(name, network, loss, x, y) -> None:
    if not isinstance(network, Sweep):
        fits({"d": network.inputs}, x=(x, "b d", FLOATING))
    if x.ndim == 0 or len(x) == 0 or y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"{name}: x has shape {x.shape}, y {y.shape}: give at least one example, and one target for each"
        )
    x, y = np.asarray(x), np.asarray(y)  # NumPy has nothing to compile
    for what, values in (("x", x), ("y", y)):
        if jnp.issubdtype(values.dtype, jnp.floating) and not (finite := np.isfinite(values)).all():
            found = f"{what} holds NaN or infinity in {len(_rows(~finite)):,} rows, first in row {_rows(~finite)[0]}"
            raise ValueError(f"{name}: {found}: correct or drop them")
    if isinstance(network, Sweep):
        return
    loss = as_loss(loss)
    if names_a_class(loss, y):
        low, high, classes = int(y.min()), int(y.max()), network.layers[-1].width
        if low < 0 or high >= classes:
            expected = f"the network has {classes} outputs: 0 to {classes - 1}"
            raise ValueError(f"{name}: y holds classes {low} to {high}, {expected}")
    elif loss in CROSS_ENTROPIES and (outside := (y < 0) | (y > 1)).any():
        raise ValueError(
            f"{name}: y holds {y.min():g} to {y.max():g}, first outside 0 to 1 in row {_rows(outside)[0]}: {loss.name} needs "
            "probabilities; half_squared_error takes any numbers"
        )


def _rows(bad: np.ndarray) -> np.ndarray:
    """The numbers of the rows in which anything is set."""
    return np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))


def method_of(gradient) -> GradientMethod:
    """The gradient method of this name, or the one that is given."""
    if isinstance(gradient, GradientMethod):
        return gradient
    if gradient not in GRADIENTS:
        raise ValueError(unknown("gradient", str(gradient), GRADIENTS))
    return GRADIENTS[gradient]


def batch_size_of(batch_size, data, mesh=None) -> int:
    """Examples a step, of which there are no more than all."""
    require_positive("batch_size", batch_size)
    if isinstance(data, Blocks):
        return reading.filled_batch(data, int(batch_size), 1 if mesh is None else mesh.shape[DATA])
    return min(int(batch_size), examples_of(data))
