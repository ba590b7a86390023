"""What is static in a compiled program: a `Model`, and the `Sweep` of any loss that readouts, sums and training take."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from jaxtyping import Array, Float

from jaxbackprop.arithmetic import Precision
from jaxbackprop.factors import FactoredGradient
from jaxbackprop.losses import Loss
from jaxbackprop.network import Network


class Model(NamedTuple):
    """A network, the loss of one example, and the precision of the products."""

    network: Network
    loss: Loss
    precision: Precision = None


@dataclass(frozen=True)
class Sweep:
    """Every example's loss and, factored, every example's gradient: (params, *batch, weight=None) → (values (b,), fg).

    What sums, clips or trains takes one, and sees neither a network nor a loss. It is hashable: programs are looked up by it.

    Attributes:
        model: all that is static.
        door: (model, params, *batch, weight=None) refuses what does not fit.
        swept: the same → (values, fg), without a door. Weights enter at dyhat: all that follows is of weight · L.
    """

    model: Hashable
    door: Callable
    swept: Callable

    def __call__(self, params: Any, *batch: Any, weight: Any = None) -> tuple[Float[Array, " b"], FactoredGradient]:
        """Sweep a batch."""
        self.door(self.model, params, *batch, weight=weight)
        return self.swept(self.model, params, *batch, weight=weight)
