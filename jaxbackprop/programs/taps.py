"""Every example's gradient of any JAX loss, factored: the program of one example with taps, differentiated once, vmapped.

`uses` found where each parameter enters. So for ONE example, with W held fixed at its sites and τ = 0 everywhere,

    z_i = A_i(h_i) W + τ_i          at every site of a product or a lookup
    W + τ_W                         at every other way in

and dz_i = dL/dτ_i: one `jax.vjp` in the taps alone. No dW is formed where a factor will do. The forward pass leaves h_i beside
the loss. Over the batch all is vmapped, and each i is a `Use` with h (b,l,t,m) and dz (b,l,t,n): equation (3), whatever the
model.

In a loop τ has a member for each step, and h and dz come out stacked: steps that share a W are positions t, steps with a W of
their own are members l. The bodies of loops and of what is computed again are run by the same rule, inside the same primitives.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxbackprop.factors import FactoredGradient
from jaxbackprop.programs.flat import Step, loop_of, run
from jaxbackprop.programs.uses import Plan, Site
from jaxbackprop.strides import size_of
from jaxbackprop.views import Use
from jaxbackprop.words import unused

# ---- one example


def tapped(plan: Plan, inputs: Sequence[Any], taps: dict[str, Array]) -> tuple[list[Any], dict[str, Array]]:
    """Run a program with its taps: what it returns, and the h of every site."""
    h: dict[str, Array] = {}

    def rule(step: Step, *operands):
        if step.number in plan.inside:
            results, found = _inside(plan, step, operands, taps)
            h.update(found)
            return results
        sites = plan.sites.get(step.number, ())
        h.update({site.h_key: site.rule.h(*operands) for site in sites if site.h_key not in h})
        fixed = {site.position for site in sites}
        results = step.bind(*(jax.lax.stop_gradient(a) if i in fixed else a for i, a in enumerate(operands)))
        for site in sites:
            results[0] = results[0] + site.rule.tap(taps[site.key], *operands)
        return results

    return run(plan.program, inputs, rule), h


def _inside(plan, step, operands, taps):
    """What a loop, a branch or a recomputed part gives, with its taps, and the h of its sites."""
    plans = plan.inside[step.number]
    here = {site.key: taps[site.key] for inner in plans for site in inner.all_sites()}
    return _INSIDE.get(step.name, _again)(plans, step, operands, here)


def _again(plans, step, operands, taps):
    again = {key: step.settings[key] for key in ("policy", "prevent_cse") if key in step.settings}
    return jax.checkpoint(partial(tapped, plans[0]), **again)(operands, taps)


def _loop(plans, step, operands, taps):
    loop = loop_of(step.settings)
    constants, carried = operands[: loop.constants], operands[loop.constants : loop.constants + loop.carried]

    def body(carried, members):
        members, taps = members
        results, h = tapped(plans[0], [*constants, *carried, *members], taps)
        return results[: loop.carried], (results[loop.carried :], h)

    over = {key: step.settings[key] for key in ("length", "reverse", "unroll")}
    last, (stacked, h) = jax.lax.scan(body, list(carried), (operands[loop.constants + loop.carried :], taps), **over)
    return [*last, *stacked], h


def _branch(plans, _step, operands, taps):
    """The h of the branches that were not taken are 0, as their dz are."""
    inner = len(plans[0].loops)
    sites = {site.h_key: site for plan in plans for site in plan.all_sites()}
    nothing = {key: jnp.zeros((*site.loops[inner:], *site.h.shape), site.h.dtype) for key, site in sites.items()}

    def branch(plan, taps, *operands):
        results, h = tapped(plan, operands, taps)
        return results, nothing | h

    index, *operands = operands
    return jax.lax.switch(index, [partial(branch, plan) for plan in plans], taps, *operands)


_INSIDE = {"scan": _loop, "cond": _branch}


# ---- a batch


class Taps(NamedTuple):
    """Something for every tap: at the sites by their keys, and at parameters by their numbers."""

    sites: dict[str, Array]
    whole: dict[int, Array]


def taps_of(plan: Plan, leaves: Sequence[Array], whole: Sequence[int]) -> Taps:
    """τ = 0 at every site, with a member for each step of its loops, and at every parameter with another way in."""
    sites = {site.key: jnp.zeros((*site.loops, *site.rule.sizes), site.z.dtype) for site in plan.all_sites()}
    return Taps(sites, {i: jnp.zeros_like(leaves[i]) for i in whole})


def differentiated(plan: Plan, leaves, data, whole: Sequence[int], seed) -> tuple[Array, list[Any], Any, Taps]:
    """One example's loss, what else is returned, every h, and every dz of seed · L."""

    def loss(taps):
        moved = [w + taps.whole[i] if i in taps.whole else w for i, w in enumerate(leaves)]
        (value, *more), h = tapped(plan, [*moved, *data], taps.sites)
        return value, (more, h)

    value, pull, (more, h) = jax.vjp(loss, taps_of(plan, leaves, whole), has_aux=True)
    (dz,) = pull(jnp.asarray(seed, value.dtype))
    return value, more, h, dz


def gathered(plan: Plan, params: Any, names: Sequence[str], h, dz: Taps) -> FactoredGradient:
    """The factors of a batch, in letters: h (b,l,t,m), dz (b,l,t,n), under the names of the parameters."""
    leaves, tree = jax.tree.flatten(params)
    all_h: dict[str, Array] = {}
    all_dz = {names[i]: d for i, d in dz.whole.items()}
    uses = [Use(i, "whole", names[i]) for i in dz.whole]
    keys: dict[str, str] = {}  # of h, by what the sites call it
    for site in plan.all_sites():
        name = unused(names[site.view.leaf], all_dz)
        use, h_of, dz_of = _in_letters(site, h[site.h_key], dz.sites[site.key])
        key = keys.setdefault(site.h_key, name)
        all_h.setdefault(key, h_of)
        all_dz[name] = dz_of
        uses.append(use._replace(dz=name, h=key))
    shapes, dtypes = tuple(leaf.shape for leaf in leaves), tuple(leaf.dtype.name for leaf in leaves)
    return FactoredGradient(all_h, all_dz, tuple(sorted(uses, key=lambda use: use.leaf)), tree, shapes, dtypes)


def _in_letters(site: Site, h: Array, dz: Array) -> tuple[Use, Array, Array]:
    """The use that a site is, and its factors with one axis l, one t, or none."""
    l, n, m = site.rule.axes
    l = sum(site.view.stack, ()) + l
    dz = _joined(dz, site.letters, 1)
    h = _joined(h, site.letters, 0 if site.rule.window else 1)
    if site.rule.kind == "rows" and dz.shape[1] > 1:  # rows of a stack of tables are rows of one
        h, l, n = h + jnp.arange(dz.shape[1])[:, None] * size_of(n), (), l + n
        h, dz = (a.reshape(len(a), 1, -1, *a.shape[3:]) for a in (h, dz))
    drop = [i for i, letter in ((1, "l"), (2, "t")) if dz.shape[i] == 1]
    positions = "".join(letter for i, letter in ((1, "l"), (2, "t")) if i not in drop)
    use = Use(site.view.leaf, site.rule.kind, "", "", positions, (l, n, m), site.view.offset, site.rule.window)
    return use, h if site.rule.window else jnp.squeeze(h, drop), jnp.squeeze(dz, drop)


def _joined(a: Array, letters: str, own: int) -> Array:
    """(b, loops…, [l, t,] …) → (b, l, t, …): of each loop its steps are members l, or positions t."""
    loops = {letter: [1 + i for i, found in enumerate(letters) if found == letter] for letter in "lt"}
    first = 1 + len(letters)
    l, t = [*loops["l"], *[first] * own], [*loops["t"], *[first + 1] * own]
    rest = list(range(first + 2 * own, a.ndim))
    sizes = [int(np.prod([a.shape[i] for i in axes], dtype=int)) for axes in (l, t)]
    return jnp.transpose(a, [0, *l, *t, *rest]).reshape(len(a), *sizes, *(a.shape[i] for i in rest))
