"""What a check is given, as two dicts of arrays: the parameters, by path, and the data; all else goes with the functions.

- Parameters are the floating-point arrays of a pytree, so that an Equinox or a Flax NNX module is one; and complex ones, as
  a real and an imaginary part. Of a real value L of z = x + iy `jax.grad` gives ∂L/∂x − i ∂L/∂y, and so must a gradient.
- Integers, strings, functions and the like have no gradient: they are passed on as they are.
"""

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxbackprop.checking.leaves import name
from jaxbackprop.words import is_array

Path = tuple[str, ...]
REAL, IMAGINARY = ".real", ".imag"


class Parameters(NamedTuple):
    """The parameters of a pytree.

    Attributes:
        arrays: each real array by its name, in the order of the tree.
        names: the name of each leaf that is checked, by its place in the tree.
        skipped: the names of the arrays of integers, which have no gradient.
        tree: what they are put back into.
    """

    arrays: OrderedDict[str, Any]
    names: dict[Path, str]
    skipped: tuple[str, ...]
    tree: Any

    def rebuilt(self, arrays: dict[str, Any]) -> Any:
        """The pytree with other arrays in it."""

        def leaf(path, given):
            named = self.names.get(_place(path))
            if named is None:
                return given
            return arrays[named] if named in arrays else arrays[named + REAL] + 1j * arrays[named + IMAGINARY]

        return jax.tree_util.tree_map_with_path(leaf, self.tree)

    def as_gradient(self, arrays: dict[str, Any]) -> Any:
        """Derivatives by each array as a gradient, which `of_gradient` reads: of a complex one ∂/∂x − i ∂/∂y."""
        turned = {named: -leaf if named.endswith(IMAGINARY) else leaf for named, leaf in arrays.items()}
        return self.rebuilt(turned)

    def of_gradient(self, gradient: Any) -> dict[str, Any]:
        """A gradient's leaves by the names of the parameters; those that are in no parameter's place by their own.

        A leaf is found by its place, whatever kind of container holds it.
        """
        found: dict[str, Any] = {}
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
            named = self.names.get(_place(path))
            if named is None:
                if name(path) not in self.skipped and _differentiable(leaf):
                    found[name(path)] = leaf
            elif named in self.arrays:
                found[named] = leaf
            else:
                found |= {named + REAL: jnp.real(leaf), named + IMAGINARY: -jnp.imag(leaf)}
        return found


def parameters(tree: Any) -> Parameters:
    """The floating-point and complex arrays of a pytree.

    >>> found = parameters({"w": jnp.ones(2), "step": 3, "g": jnp.tanh})
    >>> list(found.arrays), found.skipped
    (["['w']"], ("['step']",))
    """
    arrays, names, skipped = OrderedDict(), {}, []  # jax.tree sorts a plain dict
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if not is_number(leaf):
            continue
        is_array(f"params{jax.tree_util.keystr(path)}", leaf)
        if not _differentiable(leaf):
            skipped.append(name(path))
            continue
        names[_place(path)] = name(path)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating):
            arrays |= {name(path) + REAL: jnp.real(leaf), name(path) + IMAGINARY: jnp.imag(leaf)}
        else:
            arrays[name(path)] = jnp.asarray(leaf)
    return Parameters(arrays, names, tuple(skipped), tree)


@jax.tree_util.register_pytree_with_keys_class
class Named(dict):
    """Arguments by name, a pytree in their order; what is in one is called by that name, as in "x['w']".

    >>> [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Named(x={"w": 1}, eps=2))]
    ["x['w']", 'eps']
    """

    def tree_flatten_with_keys(self):
        """Each argument with its name, and the names."""
        return tuple(self.items()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names, values):
        """The same with other arguments."""
        return cls(zip(names, values, strict=True))


def names_in(function: Callable, count: int) -> list[str]:
    """What a function calls the first so many of its arguments; "[2]" where it does not say."""
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # one of C's
        given = []
    named = [p.name for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][:count]
    return [*named, *(f"[{i}]" for i in range(len(named), count))]


def apart(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """The arrays of a pytree, and what puts others in their place: keys, strings and functions stay where they are.

    >>> arrays, rebuilt = apart((jnp.ones(2), "mean"))
    >>> len(arrays), rebuilt([3.0])
    (1, (3.0, 'mean'))
    """
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if is_number(leaf)]

    def rebuilt(arrays):
        given = dict(zip(places, arrays, strict=True))
        return jax.tree.unflatten(structure, [given.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [leaves[i] for i in places], rebuilt


def is_number(leaf: Any) -> bool:
    """Whether it is an array or a number: no key of `jax.random`, string or function."""
    if isinstance(leaf, int | float | complex | np.generic):
        return True
    return hasattr(leaf, "dtype") and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _differentiable(leaf: Any) -> bool:
    return is_number(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _place(path) -> Path:
    """A leaf's place as the keys to it, in whatever kind of container; Flax calls what a variable holds its value."""
    keys = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path]
    return tuple(key for key in keys if key not in ("value", "raw_value")) or tuple(keys)
