"""A `Model`, what its passes leave, and the `Sweep` of any loss that readouts, sums and training take."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import jax
from jaxtyping import Array

from jaxbackprop.arithmetic import NARROW, Precision
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.losses import Loss
from jaxbackprop.network import BIAS, Network, widths
from jaxbackprop.views import Use


class Model(NamedTuple):
    """A network, the loss of one example, and the precision of the products."""

    network: Network
    loss: Loss
    precision: Precision = None


class Forward(NamedTuple):
    """Every value of the forward pass, by layer: z before the activation, h after it; h["x"] is the input."""

    z: dict[str, Array]
    h: dict[str, Array]


class Backward(NamedTuple):
    """Every adjoint of the sweep, by layer: dz = dL/dz and dh = dL/dh; dh["x"] is dL/dx."""

    dz: dict[str, Array]
    dh: dict[str, Array]


@dataclass(frozen=True)
class Sweep:
    """Every example's loss and, factored, every example's gradient: (params, *batch, weight=None) → (values (b,), fg).

    What sums, clips or trains takes one, and sees neither a network nor a loss. It is hashable: programs are looked up by it.

    Attributes:
        model: all that is static.
        door: (model, params, *batch, weight=None) refuses what does not fit.
        swept: the same → (values, fg), without a door. Weights enter at dyhat: all that follows is of weight · L.
        arranged: (model, arguments) → params and batch, every array of it with the examples first; they come so by default.

    >>> sweep = jbp.per_example(net, "half_squared_error")
    >>> values, fg = sweep(params, x, y, weight=jnp.ones(5))
    >>> values.shape, jbp.norms(fg).shape, sweep == jbp.per_example(net, "half_squared_error")
    ((5,), (5,), True)
    """

    model: Hashable
    door: Callable
    swept: Callable
    arranged: Callable = field(default_factory=lambda: _as_they_come)

    def __call__(self, *args: Any, weight: Any = None) -> tuple[Any, FactoredGradient]:
        """Sweep a batch: (params, *batch)."""
        params, batch = self.arranged(self.model, args)
        self.door(self.model, params, *batch, weight=weight)
        return self.swept(self.model, params, *batch, weight=weight)


def _as_they_come(_model, args):
    def parted(params, *batch):
        return params, batch

    return parted(*args)


@lru_cache(maxsize=512)
def uses_of(network: Network) -> tuple[tuple[Use, ...], Any, tuple[tuple[int, ...], ...]]:
    """Where a network's parameters enter, how they are nested, and their shapes: an edge is a product, a bias the whole of dz.

    >>> [(use.kind, use.h, use.dz) for use in uses_of(net)[0]]
    [('whole', '', 'h0'), ('outer', 'x', 'h0'), ('whole', '', 'yhat'), ('outer', 'h0', 'yhat')]
    """
    leaves, tree = jax.tree.flatten_with_path(network.shapes, is_leaf=lambda node: isinstance(node, tuple))
    edges = [(path[0].key, path[1].key) for path, _ in leaves]
    uses = [Use(i, "whole", t) if s == BIAS else Use(i, "outer", t, s) for i, (t, s) in enumerate(edges)]
    return tuple(uses), tree, tuple(shape for _, shape in leaves)


def batch_axis(network: Network) -> int:
    """Where a batch is best put when one example's computation is vmapped: 0, the major axis, or −1, the minor one.

    Wide layers are then rows, and W is read once however small the batch; narrow ones are long vectors.

    >>> batch_axis(net), batch_axis(jbp.mlp((784, 64, 10)))
    (-1, 0)
    """
    return -1 if max(widths(network).values()) <= NARROW else 0
