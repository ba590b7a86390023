"""What things are called, and how numbers are written."""

import re
from typing import Any, NamedTuple

import numpy as np

from jaxbackprop.activations import as_activation
from jaxbackprop.network import BIAS, Network, skip_mlp, widths

NARROW = 4  # wider vectors are shown by their norm
FEW = 6  # numbers that still stand in one line


class Names(NamedTuple):
    """The name of each z by layer, of each weight by (target, source), and of each activation by layer."""

    z: dict[str, str]
    w: dict[tuple[str, str], str]
    g: dict[str, str]


def names_of(network: Network) -> Names:
    """Name every quantity: as the exercise does where the wiring is the exercise's.

    >>> from jaxbackprop.network import mlp
    >>> list(names_of(mlp((2, 3, 1), bias=True)).w.values())
    ['W_h0,x', 'b0', 'W_yhat,h0', 'b1']
    >>> list(names_of(skip_mlp((2, 3, 3, 1))).w.values())
    ['w0', 'w1', 'w2', 'w3']
    """
    exercise = is_exercise(network)
    counted = all(t.name == f"h{i}" for i, t in enumerate(network.layers[:-1]))
    index = {t.name: str(i) if counted else f"_{t.name}" for i, t in enumerate(network.layers)}
    w = {}
    for t in network.layers:
        for s in t.sources:
            w[t.name, s] = f"w{len(w)}" if exercise else f"W_{t.name},{s}"
        if t.bias:
            w[t.name, BIAS] = f"b{index[t.name]}"
    g = {t.name: "g" if exercise else as_activation(t.activation).text for t in network.layers}
    return Names({t: f"z{i}" for t, i in index.items()}, w, g)


def is_exercise(network: Network) -> bool:
    """Whether the wiring is exactly the exercise's, at whatever widths, with whatever activation in both hidden layers."""
    shape = tuple(widths(network).values())
    return len(shape) == 4 and network == skip_mlp(shape, network.layers[0].activation)


def all_single(network: Network) -> bool:
    """Whether every layer, and x, is one number."""
    return all(width == 1 for width in widths(network).values())


def number(value: Any, digits: int) -> str:
    """A number with so many significant digits at most, and a minus sign as long as the plus.

    >>> number(-1.2000000000000002, 6), number(1.5e-5, 6), number(0.0, 6)
    ('−1.2', '1.5e−5', '0')
    """
    shown = f"{float(value):.{digits}g}"
    shown = re.sub(r"e([+-])0*(\d)", lambda found: f"e{found[1].strip('+')}{found[2]}", shown)
    return "0" if shown == "-0" else shown.replace("-", "−")


def norm(array: Any) -> float:
    """The Euclidean norm of all entries."""
    return float(np.linalg.norm(np.ravel(np.asarray(array, np.float64))))


def narrow(array: np.ndarray) -> bool:
    """Whether an array is shown number by number."""
    return max(array.shape, default=1) <= NARROW


def shown_shape(array: np.ndarray) -> str:
    """`(3×2)`, in place of numbers that are too many."""
    return "(" + "×".join(map(str, array.shape)) + ")"


def only_shapes(numbers: str) -> bool:
    """Whether a row's numbers are shapes alone."""
    return re.match(r"([\w/]+ )?\(\d+(×\d+)*\)", numbers) is not None


def short(array: np.ndarray, digits: int) -> str:
    """An array in one line: its numbers where they are few, rows of a matrix between semicolons; else norm and shape.

    >>> short(np.eye(2), 4), short(np.ones(9), 4), short(np.array(-2.0), 4)
    ('[1, 0; 0, 1]', '‖3‖ (9)', '−2')
    """
    if array.size == 1:
        return number(array.item(), digits)
    if array.size > FEW:
        return f"‖{number(norm(array), digits)}‖ {shown_shape(array)}"
    rows = array[None] if array.ndim == 1 else array.reshape(-1, array.shape[-1])
    return "[" + "; ".join(", ".join(number(v, digits) for v in row) for row in rows) + "]"
