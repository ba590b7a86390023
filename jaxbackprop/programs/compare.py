"""`check_factored`: the factors of any loss beside gradients that are formed one by one, before they are relied on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.factors import materialise, total
from jaxbackprop.programs.factored import called, factored, names_of, read
from jaxbackprop.programs.flat import equations
from jaxbackprop.readouts import norms
from jaxbackprop.spelling import aligned, folded
from jaxbackprop.tables import Table, Tabled

FEW = 3  # examples whose whole gradients are compared
NOISE = 8  # roundings of the largest entry of all parameters' gradients: what is smaller is nothing to compare


class Compared(NamedTuple):
    """One parameter: the largest errors of its sum and of whole gradients, relative to the largest entry of each."""

    parameter: str
    sum_error: float
    gradient_error: float
    ok: bool


@dataclass(frozen=True, repr=False)
class Agreement(Tabled):
    """What `check_factored` found.

    Attributes:
        rows: a `Compared` for each parameter.
        norm_error: the largest relative error of an example's norm.
        tolerance: what all these errors may be.
        precision: the narrowest floating-point numbers in the loss, which the tolerance comes from.
        examples: how many norms were compared.
    """

    rows: tuple[Compared, ...]
    norm_error: float
    tolerance: float
    precision: str
    examples: int

    @property
    def ok(self) -> bool:
        """Whether all agrees."""
        return self.norm_error <= self.tolerance and all(row.ok for row in self.rows)

    def table(self) -> tuple[Table, list[str]]:
        """A line for each parameter; below it the verdict."""
        wrong = [row.parameter for row in self.rows if not row.ok]
        wrong += ["the norms"] if not self.norm_error <= self.tolerance else []
        verdict = f"WRONG for {', '.join(wrong)}" if wrong else "agrees with jax.vmap(jax.grad)"
        head = f"factored: {verdict}; {self.examples} norms within {self.norm_error:.1e}, in {self.precision}"
        table = [("parameter", "sum", "gradients")]
        table += [(row.parameter, f"{row.sum_error:.1e}", f"{row.gradient_error:.1e}") for row in self.rows]
        return table, [head]

    def __str__(self):
        """The verdict, and a table of the parameters."""
        table, verdict = self.table()
        return "\n".join([*folded(verdict), *aligned(table)])

    def raise_if_wrong(self) -> None:
        """Raise an `AssertionError` that holds the table unless all agrees."""
        if not self.ok:
            raise AssertionError(str(self))


def check_factored(loss: Callable, params: Any, *batch: Any, in_axes: Any = 0, has_aux: bool = False) -> Agreement:
    """Compare `factored(loss)` with `jax.vmap(jax.grad(loss))` on a batch of yours, in float64: norms, sums, some gradients.

    Run it once before you train privately by a model: a gradient that is too small where its norm is asked is not clipped.
    Gradients are formed one example at a time, so that it runs where a batch of them would not fit. It takes a copy of all
    floating-point arrays in float64; where the loss itself computes in less, that decides the tolerance.

    Args:
        loss: (params, *example) → a number.
        params: its first argument.
        batch: the others, with examples along the first axis, as in_axes says.
        in_axes: as for `factored`.
        has_aux: the loss returns (number, aux).

    Returns:
        an `Agreement`, with `.ok`, `.rows`, `.raise_if_wrong()`; it prints as a table.

    Raises:
        ValueError: what `factored` raises, or examples that are not equally many.
        TypeError: no function, or parameters that are not floating point.

    >>> def loss(params, x, y):
    ...     return jnp.sum((x @ params["w"] - y) ** 2)
    >>> check_factored(loss, {"w": jnp.ones((2, 1))}, x, y).ok
    True
    """
    sweep: Any = factored(loss, in_axes=in_axes, has_aux=has_aux)
    (given, shared), (some,) = sweep.arranged(sweep.model, (params, *batch))
    sweep.door(sweep.model, (given, shared), some)
    one = jax.tree.map(lambda a: a[0], some)
    read(sweep.model, given, shared, one)  # whether it closes over a parameter is known before the casts
    with jax.enable_x64(True):
        (params, shared), (batch,) = sweep.arranged(sweep.model, jax.tree.map(_in_float64, (params, *batch)))
        sweep.door(sweep.model, (params, shared), batch)

        def value(params, i):
            found = called(sweep.model, params, shared, jax.tree.map(lambda a: a[i], batch))
            return found[0] if has_aux else found

        examples = len(jax.tree.leaves(batch)[0])
        fg = jax.jit(lambda: sweep.swept(sweep.model, (params, shared), batch)[1])()
        gradient, sums, n, few = jax.jit(jax.grad(value)), jax.tree.map(jnp.zeros_like, params), [], []
        for i in range(examples):
            G = gradient(params, i)
            sums = jax.tree.map(jnp.add, sums, G)
            n.append(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(G))))
            few += [G] if i < FEW else []
        formed = materialise(jax.tree.map(lambda a: a[:FEW], fg))
        few = jax.tree.map(lambda *g: jnp.stack(g), *few)
        epsilon, precision = _narrowest(value, params)
        tolerance = max(1e-10, 64 * epsilon)
        # a key's bias in attention has the gradient 0, whatever the loss: what is there is the rounding of what cancels
        noise = NOISE * epsilon / tolerance
        errors = zip(_errors(total(fg), sums, noise), _errors(formed, few, noise), strict=True)
        rows = (Compared(name, *e, ok=max(e) <= tolerance) for name, e in zip(names_of(params), errors, strict=True))
        return Agreement(tuple(rows), _error(norms(fg), jnp.stack(n)), tolerance, precision, examples)


def _errors(given, right, noise: float) -> list[float]:
    """Of each leaf, relative to its own largest entry, or to `noise` times the largest of all leaves."""
    leaves = jax.tree.leaves(right)
    least = noise * max(float(jnp.max(jnp.abs(r), initial=0)) for r in leaves)
    return [_error(g, r, least) for g, r in zip(jax.tree.leaves(given), leaves, strict=True)]


def _in_float64(a):
    return jnp.asarray(a, jnp.float64) if jnp.issubdtype(jnp.result_type(a), jnp.floating) else a


def _error(given, right, least: float = 0.0) -> float:
    """The largest, relative to the largest entry, or to `least`; a number that is none is infinitely wrong."""
    largest, error = jnp.max(jnp.abs(right), initial=least), jnp.max(jnp.abs(given - right), initial=0)
    error = float(jnp.where(largest > 0, error / largest, error))
    return error if error == error else float("inf")


def _narrowest(value, params) -> tuple[float, str]:
    """Of all floating-point numbers in the loss those with the fewest digits, and their epsilon."""
    closed = jax.make_jaxpr(value)(params, 0)
    dtypes = {v.aval.dtype for e in equations(closed.jaxpr) for v in e.outvars if hasattr(v.aval, "dtype")}
    found = [jnp.finfo(dtype) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    widest = max(found, key=lambda info: float(info.eps))
    return float(widest.eps), str(widest.dtype)
