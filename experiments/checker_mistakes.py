"""Mistakes to plant in a network's gradient: one spot of the sweep changed, or one edit of what it returns.

The entry and the row are chosen among those whose gradient at the given point is at least 1e-3 of the parameter's largest.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from checker_networks import Case, path_of, slope_of, source_of, sweep

from jaxbackprop.network import BIAS, INPUT, widths

NO_EFFECT = 1e-9
ALIVE = 1e-3
SPOTS = 3
MISTAKES = (
    *("factor 2", "sum for mean", "sign", "sign of one parameter", "transposed", "entry 5% off", "sign of a row"),
    *(
        "derivative missing",
        "value for derivative",
        "path left out",
        "wrong source",
        "wrong weights",
        "stale parameters",
    ),
    *("two swapped", "bias left zero", "NaN", "parameter missing", "wrong shape", "wrong dtype"),
)


class Mistake(NamedTuple):
    """A wrong gradient: which mistake, at which spot, and the diagnoses that are right.

    `wrong` holds the parameters that are wrong by form, whatever their numbers; None where the numbers decide.
    """

    kind: str
    spot: str
    diagnoses: frozenset[str]
    gradient: Callable
    wrong: frozenset[str] | None = None


class Parameter(NamedTuple):
    """W_ts or b_t by name, with the right gradient at the given point in float64."""

    t: str
    s: str
    grad: np.ndarray

    @property
    def path(self) -> str:
        """As `jax.tree_util.keystr` writes it."""
        return f"[{self.t!r}][{self.s!r}]"


def mistake(kind: str, spot: str, diagnoses: Iterable[str], gradient: Callable, wrong=None) -> Mistake:
    """Compile its gradient."""
    return Mistake(kind, spot, frozenset(diagnoses), jax.jit(gradient), wrong)


def edited(gradient: Callable, edits: dict[tuple[str, str], Callable]) -> Callable:
    """The gradient with some parameters' parts edited, each by a function of the whole gradient."""

    def wrong(params, x, y):
        right = gradient(params, x, y)
        grads = {t: dict(parts) for t, parts in right.items()}
        for (t, s), edit in edits.items():
            grads[t][s] = edit(right)
        return grads

    return wrong


def edit_one(case: Case, p: Parameter, edit: Callable) -> Callable:
    """The right gradient with one parameter's part edited."""
    return edited(case.gradient, {(p.t, p.s): lambda right: edit(right[p.t][p.s])})


def alive(p: Parameter, share: float) -> np.ndarray:
    """Which entries are at least that share of the largest; none where all are 0."""
    size = np.abs(p.grad)
    return (size >= share * np.max(size)) & (size > 0)


def on_everything(case: Case) -> Iterator[Mistake]:
    """Every parameter is off by the same factor, as when the half of ½ (yhat − y)² or the mean is forgotten."""

    def times(factor):
        return lambda params, x, y: jax.tree.map(lambda g: factor * g, case.gradient(params, x, y))

    def summed(params, x, y):
        return jax.tree.map(lambda g: len(x) * g, case.gradient(params, x, y))

    yield mistake("factor 2", "all", {"factor"}, times(2))
    yield mistake("sign", "all", {"sign"}, times(-1))
    if len(case.x) > 1:
        yield mistake("sum for mean", "all", {"factor"}, summed)


def on_one_parameter(case: Case, p: Parameter, rng) -> Iterator[Mistake]:
    """Edits of one parameter's part."""
    spot, square = p.path, p.grad.ndim == 2 and p.grad.shape[0] == p.grad.shape[1] > 1
    some = tuple(int(i) for i in np.unravel_index(rng.integers(p.grad.size), p.grad.shape))
    yield mistake("sign of one parameter", spot, {"sign"}, edit_one(case, p, lambda g: -g))
    yield mistake("NaN", f"{spot}{some}", {"not finite"}, edit_one(case, p, lambda g: g.at[some].set(jnp.nan)))
    if square:
        yield mistake("transposed", spot, {"transpose"}, edit_one(case, p, lambda g: g.T))
    if p.s == BIAS:
        yield mistake("bias left zero", spot, {"zero"}, edit_one(case, p, jnp.zeros_like))
    entries = np.argwhere(alive(p, ALIVE))
    if len(entries):
        at = tuple(map(int, rng.choice(entries)))
        yield mistake(
            "entry 5% off", f"{spot}{at}", entry_diagnoses(p, at), edit_one(case, p, lambda g: g.at[at].mul(1.05))
        )
    if len(entries) and p.grad.ndim == 2 and len(p.grad) > 1:
        i = int(rng.choice(entries)[0])
        yield mistake(
            "sign of a row", f"{spot}[{i}]", row_diagnoses(p, i), edit_one(case, p, lambda g: g.at[i].mul(-1))
        )


def entry_diagnoses(p: Parameter, at: tuple[int, ...]) -> set[str]:
    """What else one entry off may be called: it is a row or a column if no other entry there is, a factor if it is all."""
    if p.grad.size == 1:
        return {"factor"}
    on = alive(p, NO_EFFECT)
    names = {"entry"}
    if np.sum(on[at[0]]) == 1:
        names.add("row")
    if np.sum(on[..., at[-1]]) == 1:
        names.add("column")
    if np.sum(on) == 1:
        names.add("factor")
    return names


def row_diagnoses(p: Parameter, i: int) -> set[str]:
    """What else one row's sign may be called: an entry if the row has no other, the sign if there is no other row."""
    on = alive(p, NO_EFFECT)
    return {"row"} | ({"entry"} if np.sum(on[i]) == 1 else set()) | ({"sign"} if np.sum(on) == np.sum(on[i]) else set())


def on_two_parameters(case: Case, p: Parameter, q: Parameter) -> Mistake:
    """Each got the other's gradient. Into the same layer that is the same as each other's source."""
    edits = {(p.t, p.s): lambda right: right[q.t][q.s], (q.t, q.s): lambda right: right[p.t][p.s]}
    names = {"swapped"} | ({"source"} if p.t == q.t else set())
    return mistake("two swapped", f"{p.path} and {q.path}", names, edited(case.gradient, edits))


def on_slopes(case: Case) -> Iterator[Mistake]:
    """dz = dh · g'(z) at one hidden layer, without g', or with g in place of g'."""
    for layer in case.network.layers[:-1]:
        if layer.activation != "identity":
            name = layer.name

            def missing(t, z, h, name=name):
                return jnp.ones_like(z[name]) if t.name == name else slope_of(t, z, h)

            def value(t, z, h, name=name):
                return h[name] if t.name == name else slope_of(t, z, h)

            yield from (
                mistake(kind, name, {kind}, sweep(case.network, case.loss, slope=slope))
                for kind, slope in (("derivative missing", missing), ("value for derivative", value))
            )


def on_paths(case: Case) -> Iterator[Mistake]:
    """dh_s = Σ dz_t W_ts with one term left out, or with other weights in it."""
    width = widths(case.network)
    shapes = {(t.name, s): (t.width, width[s]) for t in case.network.layers for s in t.sources}

    def replaced(edge, term):
        def path(t, s, params, dz):
            return term(params, dz[t.name]) if (t.name, s) == edge else path_of(t, s, params, dz)

        return sweep(case.network, case.loss, path=path)

    for edge, shape in shapes.items():
        (t, s), arrow = edge, f"{edge[1]} → {edge[0]}"
        if s == INPUT:
            continue
        if sum(s in reader.sources for reader in case.network.layers) > 1:
            yield mistake("path left out", arrow, {"path missing"}, replaced(edge, lambda _params, _dz: 0))
        if shape[0] == shape[1] > 1:
            transposed = replaced(edge, lambda params, dz, t=t, s=s: dz @ params[t][s].T)
            yield mistake("wrong weights", f"{arrow}, W for Wᵀ", {"weights"}, transposed)
        for u, v in shapes:
            if (u, v) != edge and shapes[u, v] == shape:
                other = replaced(edge, lambda params, dz, u=u, v=v: dz @ params[u][v])
                yield mistake("wrong weights", f"{arrow}, those of {v} → {u}", {"weights"}, other)


def on_sources(case: Case) -> Iterator[Mistake]:
    """dW_ts = dz_tᵀ h_s with z_s for h_s, or with another layer's h. One that t reads too: that is its dW."""
    width = widths(case.network)
    activations = {t.name: t.activation for t in case.network.layers}

    def replaced(edge, instead):
        def source(t, s, z, h):
            return instead(z, h) if (t.name, s) == edge else source_of(t, s, z, h)

        return sweep(case.network, case.loss, source=source)

    for t in case.network.layers:
        for s in t.sources:
            edge, arrow = (t.name, s), f"{s} → {t.name}"
            if activations.get(s, "identity") != "identity":
                gradient = replaced(edge, lambda z, _h, s=s: z[s])
                yield mistake("wrong source", f"{arrow}, z for h", {"source"}, gradient)
            for u in width:
                if u != s and width[u] == width[s]:
                    names = {"source"} | ({"swapped"} if u in t.sources else set())
                    gradient = replaced(edge, lambda _z, h, u=u: h[u])
                    yield mistake("wrong source", f"{arrow}, h of {u}", names, gradient)


def on_the_point(case: Case, rng) -> Mistake:
    """The gradient at parameters captured before an update of about 1% moved them to where they are."""
    old = jax.tree.map(
        lambda w: w + 0.01 * (np.sqrt(np.mean(np.square(w))) or 0.1) * rng.standard_normal(w.shape), case.params
    )

    def stale(params, x, y):
        then = jax.tree.map(lambda w, now: jnp.asarray(w, now.dtype), old, params)
        return case.gradient(then, x, y)

    # not compiled again: large captured arrays would be constants of the program
    return Mistake("stale parameters", "all", frozenset({"stale"}), stale)


def on_the_form(case: Case, p: Parameter, paths: Iterable[str]) -> Iterator[Mistake]:
    """A parameter without a gradient, one of another shape, all of another dtype."""
    oblong = p.grad.ndim == 2 and p.grad.shape[0] != p.grad.shape[1]
    names = {"shape", "transpose"} if oblong else {"shape"}

    def missing(params, x, y):
        grads = case.gradient(params, x, y)
        return grads | {p.t: {s: g for s, g in grads[p.t].items() if s != p.s}}

    def half(params, x, y):
        return jax.tree.map(lambda g: g.astype(jnp.float16), case.gradient(params, x, y))

    one = frozenset({p.path})
    yield mistake("parameter missing", p.path, {"structure"}, missing, one)
    yield mistake("wrong shape", p.path, names, edit_one(case, p, lambda g: g.T if oblong else g[None]), one)
    yield mistake("wrong dtype", "all, float16", {"dtype"}, half, frozenset(paths))


def candidates(case: Case, grads: dict, rng) -> dict[str, list[Mistake]]:
    """Every mistake's spots in this network, shuffled; `grads` is the right gradient at the given point."""
    parameters = [Parameter(t, s, g) for t, parts in grads.items() for s, g in parts.items()]
    rng.shuffle(parameters)
    pairs = [(p, q) for i, p in enumerate(parameters) for q in parameters[:i] if p.grad.shape == q.grad.shape]
    inside = [*on_slopes(case), *on_paths(case), *on_sources(case)]
    rng.shuffle(inside)
    everywhere = [
        *on_everything(case),
        on_the_point(case, rng),
        *on_the_form(case, parameters[0], [p.path for p in parameters]),
    ]
    by_edit = [m for p in parameters for m in on_one_parameter(case, p, rng)]
    found = [*everywhere, *by_edit, *inside, *(on_two_parameters(case, p, q) for p, q in pairs)]
    return {kind: [m for m in found if m.kind == kind][:SPOTS] for kind in MISTAKES}
