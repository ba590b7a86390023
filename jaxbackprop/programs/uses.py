"""Where each parameter enters a program: every way in is found, or is differentiated as it stands.

A parameter moves through the steps that only move its numbers (`axes`), and arrives at steps that read it. A step that has a
rule (`linear`), and gets no other function of parameters alone, is a *site* z = A(h) W: a tap τ = 0 is added to z, W itself is
held fixed, and dz = dL/dτ. All other ways in are one: W + τ_W goes there, and dL/dτ_W is what they give together, formed.
Paths add, so that

    dW = Σ_sites A(h)ᵀ dz + dL/dτ_W                 equation (1) of the exercise, for a weight

whatever the program is: nothing has to be known of a step for its part not to be lost. Loops, branches and what is computed
again (scan, cond, checkpoint) are entered, at any depth; in a loop τ has a member for each step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxbackprop.programs.axes import View, moved
from jaxbackprop.programs.flat import RECOMPUTED, Constant, Program, Step, dependent, flat, inside, loop_of, needed
from jaxbackprop.programs.linear import Linear, linear
from jaxbackprop.strides import size_of

# a parameter's gradient through these is a sum of products with it: small, and no fallback
ELEMENTWISE = ("add", "add_any", "sub", "mul", "div", "neg")


class Site(NamedTuple):
    """A step that is linear in a parameter.

    Attributes:
        key: of its tap.
        h_key: of its h; sites that read the same share it.
        step: the step, and
        position: which of its operands is W.
        view: what W is of which parameter.
        rule: what the step is in letters.
        loops: how many steps each loop around has, the outermost first.
        h: the shape of what `rule.h` gives in one step of all loops.
        z: that of the step's result.
    """

    key: str
    h_key: str
    step: Step
    position: int
    view: View
    rule: Linear
    loops: tuple[int, ...]
    h: jax.ShapeDtypeStruct
    z: jax.ShapeDtypeStruct

    @property
    def letters(self) -> str:
        """Of each loop: "l" where each of its steps has a W of its own, "t" where all share one."""
        return "".join("l" if group else "t" for group in self.view.stack)


class Other(NamedTuple):
    """Another way in: which parameter, the step that reads it, or None where it is what is returned."""

    leaf: int
    step: Step | None


@dataclass(frozen=True, eq=False)
class Plan:
    """A program, how many steps each loop around it has, and its sites by step; what is inside its steps likewise."""

    program: Program
    loops: tuple[int, ...]
    sites: dict[int, tuple[Site, ...]]
    inside: dict[int, tuple["Plan", ...]]
    others: tuple[Other, ...]

    def all_sites(self) -> Iterator[Site]:
        """Its own and those inside, in the order of the steps."""
        for step in self.program.steps:
            yield from self.sites.get(step.number, ())
            for plan in self.inside.get(step.number, ()):
                yield from plan.all_sites()

    def all_others(self) -> Iterator[Other]:
        """Its own and those inside."""
        yield from self.others
        for plans in self.inside.values():
            for plan in plans:
                yield from plan.all_others()


class Around(NamedTuple):
    """Where a program stands: the path to it, how many steps each loop around has, outputs that are inputs passed on."""

    path: str = ""
    loops: tuple[int, ...] = ()
    passed_on: frozenset[int] = frozenset()


TOP = Around()


def planned(program: Program, given: Sequence[View | None], of_example: Sequence[bool], around: Around = TOP) -> Plan:
    """Find every way of some views into a program.

    Args:
        program: calls without rules of their own entered, see `flat`.
        given: for each input the view that it is, or None.
        of_example: for each input whether it depends on the example.
        around: the program's place among others.
    """
    views = {variable: view for variable, view in zip(program.inputs, given, strict=True) if view is not None}
    varies = dependent(program.steps, [v for v, varying in zip(program.inputs, of_example, strict=True) if varying])
    trained = dependent(program.steps, views) - varies  # what depends on parameters alone
    live = needed(program.steps, program.outputs)
    sites, plans, others, h_keys = {}, {}, [], {}
    for step in program.steps:
        read = [(i, views[v]) for i, v in enumerate(step.reads) if isinstance(v, int) and v in views]
        if not read or live.isdisjoint(step.writes) or step.name == "stop_gradient":
            continue
        results = moved(read[0][1], step, [program.shapes[v] for v in step.writes])
        if results is not None:
            views.update(zip(step.writes, results, strict=True))
        elif _enters(step):
            plans[step.number], kept, lost = _entered(step, views, varies, around)
            views.update(kept)
            others += [Other(view.leaf, step) for view in lost]
        else:
            found = _sites(program, step, read, trained, h_keys, around)
            sites[step.number] = found
            seen = {site.position for site in found}
            others += [Other(view.leaf, step) for i, view in read if i not in seen]
    returned = [v for i, v in enumerate(program.outputs) if i not in around.passed_on]
    others += [Other(views[v].leaf, None) for v in returned if isinstance(v, int) and v in views]
    return Plan(program, around.loops, {n: found for n, found in sites.items() if found}, plans, tuple(others))


def _sites(program, step, read, trained, h_keys, around) -> tuple[Site, ...]:
    """The operands in which the step is linear, and meets no function of parameters alone."""
    found = []
    shapes = tuple(_struct(program, operand) for operand in step.reads)
    for position, view in read:
        others = [operand for i, operand in enumerate(step.reads) if i != position]
        rule = None
        if trained.isdisjoint(operand for operand in others if isinstance(operand, int)) and len(step.writes) == 1:
            rule = linear(step, position, view, shapes, program.shapes[step.writes[0]])
        if rule is None:
            continue
        key = f"{around.path}{step.number}.{position}"
        rows = size_of(rule.axes[1]) if rule.kind == "rows" else None  # ids are kept within them
        same = (tuple(others), str(step.settings), position, tuple(map(bool, view.stack)), rows)
        h_key = h_keys.setdefault(same, key)
        h, z = jax.eval_shape(rule.h, *shapes), program.shapes[step.writes[0]]
        found.append(Site(key, h_key, step, position, view, rule, around.loops, h, z))
    return tuple(found)


def _struct(program, operand) -> jax.ShapeDtypeStruct:
    if isinstance(operand, Constant):
        return jax.ShapeDtypeStruct(jnp.shape(operand.value), jnp.result_type(operand.value))
    return program.shapes[operand]


# Loops, branches, and what is computed again


def _enters(step: Step) -> bool:
    return step.name in (*RECOMPUTED, "scan", "cond")


def _entered(step, views, varies, around):
    """The plans of what is inside; views among the step's results; and views that get lost there."""
    varying = [isinstance(operand, int) and operand in varies for operand in step.reads]
    given = [views.get(operand) if isinstance(operand, int) else None for operand in step.reads]
    bodies = [flat(closed) for closed in inside(step.settings)]
    place = Around(f"{around.path}{step.number}/", around.loops)
    if step.name == "scan":
        return _looped(step, bodies[0], given, varying, place)
    if step.name == "cond":
        lost = [view for view in given[:1] if view]
        plans = tuple(
            planned(body, given[1:], varying[1:], place._replace(path=f"{place.path}{i}/"))
            for i, body in enumerate(bodies)
        )
        return plans, {}, lost
    return (planned(bodies[0], given, varying, place),), {}, []


def _looped(step, body, given, varying, place):
    """A scan: what it takes a member of has an axis l, what every step sees is the same, carried or not."""
    loop = loop_of(step.settings)
    first, last = loop.constants, loop.constants + loop.carried
    kept, lost, seen = {}, [], []
    for i, view in enumerate(given):
        passed_on = first <= i < last and body.outputs[i - first] == body.inputs[i]
        if view is None:
            seen.append(None)
        elif i < first or passed_on:
            seen.append(view._replace(stack=(*view.stack, ())))
            if passed_on:
                kept[step.writes[i - first]] = view
        elif i >= last:
            seen.append(view._replace(axes=view.axes[1:], stack=(*view.stack, view.axes[0])))
        else:
            seen.append(None)
            lost.append(view)
    carried = range(first, last)
    while more := [i for i in carried if not varying[i] and body.outputs[i - first] in _depending(body, varying)]:
        varying = [v or i in more for i, v in enumerate(varying)]
    passed = frozenset(i - first for i in carried if given[i] is not None and body.outputs[i - first] == body.inputs[i])
    place = Around(place.path, (*place.loops, step.settings["length"]), passed)
    return (planned(body, seen, varying, place),), kept, lost


def _depending(body, varying):
    return dependent(body.steps, [v for v, varies in zip(body.inputs, varying, strict=True) if varies])
