"""`explain(loss)`: for each parameter where it is used, what is kept of its gradients, and what norms and sums of them cost.

Of one example, with multiplications and additions counted apart, l matrices n × m at t positions each:

    kept as     numbers         norm                                                            sum
    factors     l t (n + m)     2 l t² (n + m + 1), the Gram of positions, or                   2 l t n m
                                2 l (t + 1) n m, formed: the less; 2 l (n + m) where t = 1
    gradient    l n m           2 l t n m to form it, and 2 l n m                               l n m

and of a lookup t (n + 1) numbers, 2 t² (n + 1) and t n. `clip` keeps what is smaller, where there are positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.programs.factored import AnyLoss, Read, call_of, read
from jaxbackprop.programs.flat import Step
from jaxbackprop.programs.uses import ELEMENTWISE, Site
from jaxbackprop.strides import size_of
from jaxbackprop.tables import Tabled


class Row(NamedTuple):
    """One use of a parameter, for one example.

    Attributes:
        parameter: its path.
        shape: its shape.
        use: "outer", "rows", "whole", "formed (primitive)" where it could not be followed further, or "not used".
        sizes: of the letters, as "t=64 n=512 m=128".
        kept: "factors" or "gradient".
        numbers: how many are kept, of this use; of a gradient once.
        norm_flops, sum_flops: what its part of the squared norm costs, and of the sum.
        where: the user's line, "file:line (function)".
    """

    parameter: str
    shape: tuple[int, ...]
    use: str
    sizes: str
    kept: str
    numbers: int
    norm_flops: int
    sum_flops: int
    where: str


@dataclass(frozen=True, repr=False)
class Explanation(Tabled):
    """A `Row` for each use of each parameter; printed as a table.

    Attributes:
        rows: in the order of the parameters.
        gradient: how many numbers one example's gradient has.
        bytes_each: of a number.
        notes: what else is to be said, a line each.
    """

    rows: tuple[Row, ...]
    gradient: int
    bytes_each: int
    notes: tuple[str, ...] = ()
    RIGHT: ClassVar = (5, 6, 7)

    @property
    def kept(self) -> int:
        """How many numbers are kept for each example, before what uses share is counted once."""
        return sum(row.numbers for row in self.rows)

    def table(self):
        """A line for each row, and what they add up to."""
        head = ("parameter", "shape", "use", "sizes", "kept", "bytes", "norm", "sum", "where")
        kept, gradient = (f"{_short(n * self.bytes_each)}B" for n in (self.kept, self.gradient))
        each = f"an example's factors: {kept}; its gradient: {gradient}"
        flops = [_short(sum(getattr(row, name) for row in self.rows)) for name in ("norm_flops", "sum_flops")]
        costs = f"{each}; flops of its norm {flops[0]}, of its part of the sum {flops[1]}"
        return [head, *(self._cells(row) for row in self.rows)], [costs, *self.notes]

    def _cells(self, row):
        shape = "×".join(map(str, row.shape)) or "()"
        figures = (_short(row.numbers * self.bytes_each), _short(row.norm_flops), _short(row.sum_flops))
        return (row.parameter, shape, row.use, row.sizes, row.kept, *figures, row.where)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        rows = [row._asdict() | {"shape": list(row.shape)} for row in self.rows]
        return {
            "rows": rows, "gradient": self.gradient, "kept": self.kept, "bytes_each": self.bytes_each,
            "notes": list(self.notes),
        }  # fmt: skip


def explain(loss: Callable, argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Callable[..., Explanation]:
    """Return a function of (params, *example), ONE example, that says how `factored(loss)` follows each parameter.

    Args:
        loss: (params, *example) → a number, as for `factored`.
        argnums: which arguments are the parameters.
        has_aux: the loss returns (number, aux).

    Returns:
        (params, *example) → an `Explanation`: print it, or take `.rows` or `.to_dict()`. Arrays may be `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: what `factored` raises.

    >>> def loss(params, x):
    ...     return jnp.sum(jnp.tanh(x @ params["w"] + params["b"]) ** 2)
    >>> found = explain(loss)({"w": jnp.ones((3, 4)), "b": jnp.zeros(4)}, jnp.ones((7, 3)))
    >>> [(row.parameter, row.use, row.sizes, row.kept) for row in found.rows]
    [('b', 'whole', '', 'gradient'), ('w', 'outer', 't=7 n=4 m=3', 'gradient')]
    """
    if not callable(loss):
        raise TypeError(f"loss is a {type(loss).__name__}: expected a function (params, *example) → number")
    model = AnyLoss(loss, argnums, ((0,), jax.tree.structure(0)), has_aux, "local")

    def of_example(*args) -> Explanation:
        params, shared, example = call_of(model, args)
        return _explained(read(model, params, shared, example), params)

    return of_example


def _explained(found: Read, params) -> Explanation:
    leaves = jax.tree.leaves(params)
    rows = []
    for leaf, (name, W) in enumerate(zip(found.names, leaves, strict=True)):
        sites = [site for site in found.plan.all_sites() if site.view.leaf == leaf]
        others = [other for other in found.plan.all_others() if other.leaf == leaf]
        as_factors = sum(map(_numbers, sites)) <= W.size or all(_sizes(site)[1] == 1 for site in sites)
        own = [_of_site(name, W, site, as_factors, first=i == 0) for i, site in enumerate(sites)]
        formed = bool(sites) and not as_factors  # with all of its uses, once
        own += [_of_other(name, W, step, first=i == 0 and not formed) for i, step in enumerate(_steps(others))]
        rows += own or [Row(name, W.shape, "not used", "", "-", 0, 0, 0, "")]
    closed = [f"closed over, without a gradient: {a.dtype} {tuple(a.shape)}" for a in found.closed]
    each = max(jnp.dtype(W.dtype).itemsize for W in leaves)
    return Explanation(tuple(rows), sum(W.size for W in leaves), each, tuple(closed))


def _steps(others) -> list[Step | None]:
    """Of other ways in, one for each line of the user's."""
    return list({(other.step and other.step.name, where(other.step)): other.step for other in others}.values())


def _sizes(site: Site) -> tuple[int, int, int, int]:
    """l, t, n and m, with all loops."""
    letters = dict.fromkeys("lt", 1)
    for steps, letter in zip(site.loops, site.letters, strict=True):
        letters[letter] *= steps
    l, t, _ = site.rule.sizes
    _, n, m = map(size_of, site.rule.axes)
    return letters["l"] * l, letters["t"] * t, n, m


def _numbers(site: Site) -> int:
    l, t, n, m = _sizes(site)
    return l * t * (n + m if site.rule.kind == "outer" else m + 1)


def _of_site(name, W, site: Site, as_factors: bool, first: bool) -> Row:
    l, t, n, m = _sizes(site)
    formed = 2 * l * t * n * m if site.rule.kind == "outer" else l * t * m
    if as_factors:
        gram = 2 * l * t * t * (n + m + 1) if site.rule.kind == "outer" else 2 * t * t * (m + 1)
        cost = 2 * l * (n + m) if t == 1 else min(gram, formed + 2 * l * n * m)
        kept, numbers, norm, total = "factors", _numbers(site), cost, formed
    else:
        kept, numbers, norm, total = "gradient", W.size * first, formed + 2 * W.size * first, W.size * first
    sizes = {"l": l, "t": t, "n": n, "m": m} if site.rule.kind == "outer" else {"t": l * t, "rows": n, "n": m}
    text = " ".join(f"{letter}={size}" for letter, size in sizes.items() if size > 1 or letter in "nm")
    return Row(name, W.shape, site.rule.kind, text, kept, numbers, norm, total, where(site.step))


def _of_other(name, W, step: Step | None, first: bool) -> Row:
    use = "whole" if step is None or step.name in ELEMENTWISE else f"formed ({step.name})"
    return Row(name, W.shape, use, "", "gradient", W.size * first, 2 * W.size * first, W.size * first, where(step))


def where(step: Step | None) -> str:
    """The user's own line, "file:line (function)", without the folders."""
    if step is None or not step.place:
        return ""
    file, line, function = step.place
    return f"{file.rsplit('/', 1)[-1]}:{line} ({function})"


def _short(number: float) -> str:
    """Three digits with a unit of thousands.

    >>> _short(1_234_567), _short(12)
    ('1.23M', '12')
    """
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
