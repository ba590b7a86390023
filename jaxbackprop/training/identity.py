"""A run's identity: what must be the same for training to go on from a checkpoint, in words where there are words.

What somebody wrote as a function has no words but its program: primitives, their parameters, and every constant in it. It is
read as JAX traces it, which depends on JAX's version, so that the version stands in the name, and checkpoints of another one
are not compared by it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, ArrayLike, Key

from jaxbackprop.arithmetic import wide
from jaxbackprop.data import reading
from jaxbackprop.data.blocks import Blocks, examples_of
from jaxbackprop.model import Sweep
from jaxbackprop.training.methods import GRADIENTS
from jaxbackprop.training.steps import Problem, TrainState, mean_loss, update

OPTIMIZER = "optimizer"  # names that begin so are of what may change after a divergence


def made_for(
    problem: Problem, data: tuple[Array, Array] | Blocks, key: Key[Array, ""], state: TrainState
) -> dict[str, str]:
    """What has to be the same for training to go on, by name, as far as it can be said.

    Args:
        problem: what is trained and how; over which devices does not matter.
        data: what it is trained on.
        key: what it began with; of a secret nothing is said.
        state: where it begins.
    """
    params, problem = state.params, problem._replace(mesh=None)
    x, y = (a[:1] for a in (data.like if isinstance(data, Blocks) else data))
    mean = mean_loss(problem.model)
    step = partial(update(problem), mean=partial(mean, x=x, y=y))
    method = next((name for name, known in GRADIENTS.items() if known == problem.gradient), None)
    read_in = f", read in {reading.ORDER}" if isinstance(data, Blocks) else ""
    found = {
        "network": str(problem.network or "any model"),
        "loss": (None if isinstance(problem.model, Sweep) else problem.model.loss.name) or "own loss",
        "gradient": method or "own method",
        "batch size": str(problem.batch_size),
        "data set": f"{examples_of(data)} examples, {fingerprint_of(data)}{read_in}",
        f"{OPTIMIZER} (its program in jax {jax.__version__})": program_of(
            step, params, state.opt_state, params, jnp.zeros((), wide(x.dtype))
        ),
        f"activation or loss (its program in jax {jax.__version__})": program_of(mean, params, x, y),
    }
    if settings := [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state) if _is_setting(path)]:
        found[f"{OPTIMIZER} (its settings)"] = digest_of(*settings)[:16]
    if method is None:
        run = problem.gradient.value_and_grad(problem)
        found[f"gradient (its program in jax {jax.__version__})"] = program_of(
            run, params, x, y, jnp.ones(1, x.dtype), state.key
        )
    if not problem.gradient.secret:
        found["key"] = np.asarray(jax.random.key_data(key)).tobytes().hex()
    return found


def of_any_optimizer(made_for: Mapping[str, str]) -> dict[str, str]:
    """The same, whatever the optimizer.

    >>> of_any_optimizer({"optimizer": "adam at 0.1", "batch size": "8"})
    {'batch size': '8'}
    """
    return {name: said for name, said in made_for.items() if not name.startswith(OPTIMIZER)}


def with_settings_of(fresh: Any, opt_state: Any) -> Any:
    """What an optimizer carries, with the settings (`optax.inject_hyperparams`) that a fresh one begins with."""
    return jax.tree_util.tree_map_with_path(lambda path, was, new: new if _is_setting(path) else was, opt_state, fresh)


def _is_setting(path) -> bool:
    return jax.tree_util.GetAttrKey("hyperparams") in path


def fingerprint_of(data: tuple[ArrayLike, ArrayLike] | Blocks) -> str:
    """What tells these data from others: what `Blocks` say of themselves, or a digest of the arrays.

    >>> fingerprint_of((np.ones((3, 1)), np.ones(3))) == fingerprint_of((np.ones((3, 1)), np.zeros(3)))
    False
    """
    return data.fingerprint if isinstance(data, Blocks) else digest_of(*data)[:16]


def digest_of(*arrays: ArrayLike) -> str:
    """A fingerprint of arrays: their dtypes, shapes and bytes.

    >>> digest_of(np.zeros(3)) == digest_of(np.zeros(3)), digest_of(np.zeros(3)) == digest_of(np.zeros((3, 1)))
    (True, False)
    """
    sha = hashlib.sha256()
    for array in map(np.asarray, arrays):
        sha.update(f"{array.dtype} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    return sha.hexdigest()


def program_of(function: Callable, *args) -> str:
    """A digest of what a function computes of such arguments: its primitives and all that they are given.

    >>> one = program_of(lambda x: x * 0.1, jnp.ones(3))
    >>> one == program_of(lambda y: y * 0.1, jnp.ones(3)), one == program_of(lambda x: x * 0.2, jnp.ones(3))
    (True, False)
    """
    return hashlib.sha256(json.dumps(_plain(jax.make_jaxpr(function)(*args))).encode()).hexdigest()[:16]


def _plain(part) -> Any:
    """A part of a program as plain JSON, in which nothing depends on the process: functions and objects are their names."""
    match part:
        case None | bool() | int() | float() | str():
            return part
        case Enum() | np.dtype():
            return str(part)
        case Jaxpr() | ClosedJaxpr():
            return _equations(getattr(part, "jaxpr", part)), _plain(getattr(part, "consts", ()))
        case dict():
            return [
                [_plain(name), _plain(value)] for name, value in sorted(part.items(), key=lambda item: str(item[0]))
            ]
        case tuple() | list():
            return [_plain(value) for value in part]
        case np.generic() | np.ndarray() | jax.Array():
            of_keys = jnp.issubdtype(part.dtype, jax.dtypes.prng_key)
            return digest_of(jax.random.key_data(part) if of_keys else part)  # pyright: ignore[reportArgumentType]
        case _:
            return getattr(part, "__qualname__", type(part).__qualname__)


def _equations(jaxpr) -> list:
    number: dict[Any, int] = {}

    def read(atom):
        named = _plain(atom.val) if isinstance(atom, Literal) else number.setdefault(atom, len(number))
        return named, str(atom.aval)

    def reads(atoms):
        return [read(atom) for atom in atoms]

    inputs = reads([*jaxpr.constvars, *jaxpr.invars])
    steps = [(e.primitive.name, reads(e.invars), _plain(e.params), reads(e.outvars)) for e in jaxpr.eqns]
    return [inputs, steps, reads(jaxpr.outvars)]
