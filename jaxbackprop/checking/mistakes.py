"""Mistakes made on purpose in the value's program: what comes back through an operand is left out, scaled or formed otherwise.

Some mistakes can be read off one parameter's gradient (`diagnosis.py`). Those in the middle of a backward sweep cannot, because
they spread to every parameter before them. Backpropagation through a step v = f(u, a) gives du = (∂f/∂u)ᵀ dv, and most mistakes
change that at one step. With δa = a − stop_gradient(a), which is 0 with derivative 1, each is made by a switch θ:

    v ← v + θ (wrong − own),     own = δ f(u, ā),  wrong = 0, δu, δ f(u, ā') or another term   (ā: a held fixed)

`jax.grad` of the program with one switch on is the gradient that such a mistake gives; the hypothesis stands when it equals
the gradient under test in every parameter, at several points. Where only a path is left out, the gradient is R + θ D: so the
error tells the factor too, 1 − θ, that the path was given in place of 1. In a loop, be it written out, the same line runs again
and again: there a mistake is made at all of its steps at once.

Which mistakes there are to make is said in `layers.py` and `steps.py`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.checking.diagnosis import guess
from jaxbackprop.programs.flat import Program, Step, run

TOGETHER = 32  # mistakes that are compiled in one program
fixed = jax.lax.stop_gradient


class Site(NamedTuple):
    """A step, and the operand that the path comes through; None: all of them."""

    step: int
    position: int | None


class Here(NamedTuple):
    """What a mistake is made with.

    Attributes:
        t: which of its sites this is.
        step: the step there.
        operands: what the step reads.
        found: the variables so far.
        right: all variables, to be held fixed.
    """

    t: int
    step: Step
    operands: Sequence[Any]
    found: dict[int, Any]
    right: dict[int, Any]


class Mistake(NamedTuple):
    """A mistake to make at some sites at once.

    Attributes:
        kind: of mistake.
        sites: where.
        wrong: `Here` → a term that is zero, and its derivative is what the mistake passes on.
        text: in words, with {i} for the name of parameter i.
        scales: what is said of a factor; "" where the mistake has none.
        sizes: numbers that a factor may come from.
    """

    kind: str
    sites: tuple[Site, ...]
    wrong: Callable[[Here], Any]
    text: str
    scales: str = ""
    sizes: tuple[int, ...] = ()

    def said(self, theta: float, names: Sequence[str]) -> str:
        """The mistake in words, made so many times.

        >>> Mistake("path missing", (), nothing, "", "the path through {0}").said(2.0, ["w"])
        'the path through w has the wrong sign'
        """
        text, factor = self.text, 1 - theta
        if self.scales and abs(factor + 1) < 1e-4:
            text = f"{self.scales} has the wrong sign"
        elif self.scales and abs(factor) >= 1e-4:
            text = f"{self.scales} is {factor:.6g} times what it should be{guess(factor, self.sizes)}"
        for i, name in enumerate(names):
            text = text.replace(f"{{{i}}}", name)
        return text


def in_groups(program: Program, some: Iterable[Mistake]) -> Iterator[tuple[list[Mistake], Callable]]:
    """Mistakes in groups, with the gradient of each group: (θ, parameter leaves, data leaves) → leaves."""
    left = iter(some)
    while group := list(itertools.islice(left, TOGETHER)):
        yield group, jax.jit(jax.grad(with_mistakes(program, group), argnums=1))


def with_mistakes(program: Program, some: Sequence[Mistake]) -> Callable:
    """The program's value as a function of (switches θ, parameter leaves, data leaves), one switch for each mistake."""
    at: dict[int, list] = {}
    for i, mistake in enumerate(some):
        for t, site in enumerate(mistake.sites):
            at.setdefault(site.step, []).append((i, t, site.position, mistake.wrong))

    def value(theta, params, data):
        leaves = [*params, *data]
        right, found = _values_of(program, leaves), dict(zip(program.inputs, leaves, strict=True))

        def rule(step, *operands):
            results = step.bind(*operands)
            found.update(zip(step.writes, results, strict=True))
            terms = [
                (theta[i] * (wrong(Here(t, step, operands, found, right)) - own(step, operands, position))).astype(
                    results[0].dtype
                )
                for i, t, position, wrong in at.get(step.number, ())
            ]
            changed = [sum(terms, start=results[0]), *results[1:]]
            found.update(zip(step.writes, changed, strict=True))
            return changed

        return run(program, leaves, rule)[0]

    return value


def _values_of(program: Program, leaves) -> dict[int, Any]:
    """Every variable of a program, given the leaves of its arguments: a wrong array may be computed later than its site."""
    values = dict(zip(program.inputs, leaves, strict=True))

    def rule(step, *operands):
        results = step.bind(*operands)
        values.update(zip(step.writes, results, strict=True))
        return results

    run(program, leaves, rule)
    return values


# Terms


def delta(x):
    """δx: 0, with derivative 1."""
    return x - fixed(x)


def own(step: Step, operands, position: int | None):
    """What the step passes on through one operand."""
    if position is None:
        return delta(step.bind(*operands)[0])
    return delta(step.bind(*(o if j == position else fixed(o) for j, o in enumerate(operands)))[0])


def nothing(_: Here):
    """What passes nothing on."""
    return 0.0


def formed_with(position: int, other: Callable[[Here], Any]) -> Callable[[Here], Any]:
    """What a product passes on through one operand, formed with another array than its own."""

    def wrong(here: Here):
        pair = [fixed(jnp.asarray(other(here), here.operands[1 - position].dtype)), here.operands[position]]
        return delta(here.step.bind(*(pair if position else pair[::-1]))[0])

    return wrong


def without_slope(sites: tuple[Site, ...], sources: Sequence[int], left_out: str, at: str) -> Iterator[Mistake]:
    """Where h is an elementwise function g of z, at each site: dh passes as if g' = 1, or by g(z) where g'(z) belongs."""

    def passed(here: Here):
        return delta(here.found[sources[here.t]])

    def value(here: Here):
        return fixed(here.found[here.step.writes[0]]) * passed(here)

    yield Mistake("derivative missing", sites, passed, f"the derivative {left_out} is left out of dz = dh·g'(z)")
    yield Mistake("value for derivative", sites, value, f"g(z), the value, stands for g'(z) at {at}")
