"""Pytrees of arrays on the host: their names, their width, their sizes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def name(path) -> str:
    """A leaf's path in words, as `jax.tree_util.keystr` writes it."""
    return jax.tree_util.keystr(path) or "params"


def widened(tree: Any) -> Any:
    """Floating-point leaves in float64."""
    return _cast(tree, np.float64)


def on_host(tree: Any) -> Any:
    """Floating-point leaves in float64 as NumPy arrays, which compiled functions take as they are."""
    return jax.tree.map(lambda leaf: as_float64(leaf) if _floating(leaf) else leaf, tree)


def narrowed(tree: Any) -> Any:
    """Floating-point leaves in float32."""
    return _cast(tree, np.float32)


def as_float64(leaf) -> np.ndarray:
    """One leaf in float64, on the host."""
    return np.asarray(leaf, np.float64)


def eps(dtype) -> float:
    """The distance from 1 to the next number."""
    return float(jnp.finfo(dtype).eps)


def narrowest_of(dtypes) -> str:
    """The narrowest of the floating-point ones among some dtypes, float64 if there are none."""
    return max((str(d) for d in dtypes if jnp.issubdtype(d, jnp.floating)), key=eps, default="float64")


def max_each(array: np.ndarray) -> np.ndarray:
    """The largest size of an entry at each point (first axis)."""
    return np.max(np.abs(array.reshape(len(array), -1)), axis=1, initial=0)


def is_symmetric(array: np.ndarray) -> bool:
    """Whether it holds matrices, each its own transpose."""
    return array.ndim > 1 and array.shape[-1] == array.shape[-2] and np.array_equal(array, array.swapaxes(-1, -2))


def mirrored(array: np.ndarray) -> np.ndarray:
    """Matrices with what is below the diagonal above it too.

    >>> mirrored(np.array([[1, 9], [2, 3]])).tolist()
    [[1, 2], [2, 3]]
    """
    return np.tril(array) + np.tril(array, -1).swapaxes(-1, -2)


def like(per_point: np.ndarray, array: np.ndarray) -> np.ndarray:
    """One number for each point, shaped so that it broadcasts against an array of points."""
    return np.reshape(per_point, (-1, *[1] * (array.ndim - 1)))


def relative(error: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Errors in units of a size: 0 where there is no error, infinite where there is one and no size."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.where(error > 0, error / size, 0.0)


def one_line(error: Exception) -> str:
    """What somebody's code raised, in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _floating(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, dtype)) if _floating(leaf) else leaf, tree)
