"""What a wrong gradient looks like: the familiar mistakes, each made on purpose and compared.

Some mistakes can be read off one parameter's gradient G beside the right one R: a factor, a sign, a transpose, one row. The
mistakes in the middle of a backward sweep cannot, because they spread to every parameter before them. They are made in the
value's own flat program instead, by adding terms that are zero in value and not in derivative. With δa = a − stop_gradient(a),
which is 0 with derivative 1, and a switch θ that is 0 or 1:

    derivative missing    h ← h + θ (δz − δh)                       dh passes as if g' = 1
    value for derivative  h ← h + θ (stop_gradient(h) δz − δh)      g(z) where g'(z) belongs
    path missing          W h ← W h − θ W̄ δh                        the edge gives nothing to dh_s          (W̄: W held fixed)
    weights               W h ← W h + θ (W̄' δh − W̄ δh)              another matrix, or Wᵀ for W, in Wᵀ dz
    source                W h ← W h + θ (δW h' − δW h̄)              dW = dz h'ᵀ with another activation, or z for h

`jax.grad` of the program with one switch on is the gradient that such a mistake gives; the hypothesis stands when it equals
the gradient under test in every parameter, at several points.

An edge W h is a product of something that is a parameter (up to reshaping) with something that is not; its source is h, and z
is what h is an elementwise function of.
"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxbackprop.checking.leaves import like, max_each, relative
from jaxbackprop.checking.products import Product, products, viewed
from jaxbackprop.programs.flat import Constant, Program, Step, run, variables

NOISE = 1e-10
MATCH = 1e-4  # of the error that is to be explained; mistakes that are no explanation are off by its own size


class Diagnosis(NamedTuple):
    """What kind of mistake an error looks like, and that in words.

    Kinds: structure, shape, dtype, not finite, precision, zero, factor, sign, transpose, penalty, entry, row, column, swapped,
    stale, derivative missing, value for derivative, path missing, weights, source, jax.grad, unknown.
    """

    kind: str
    text: str


class Evidence(NamedTuple):
    """One parameter's gradient under test and the right one, over several points (first axis), in float64.

    Attributes:
        name: the parameter's path.
        given: the gradient under test.
        right: `jax.grad`'s.
        slack: what rounding explains, one number for each point.
        at_kink: which entries lie between the sides of a kink.
    """

    name: str
    given: np.ndarray
    right: np.ndarray
    slack: np.ndarray
    at_kink: np.ndarray

    def flat(self, point: int) -> tuple[np.ndarray, np.ndarray]:
        """Both gradients at one point, raveled."""
        return self.given[point].reshape(-1), self.right[point].reshape(-1)

    @property
    def error(self) -> np.ndarray:
        """How far the two are apart, (points, …); infinite where either is not finite."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.abs(self.given - self.right), nan=np.inf, posinf=np.inf)

    @property
    def worst_point(self) -> int:
        """Where the largest of the errors that count is, relative to the right gradient's largest entry there."""
        error = np.where(self.wrong, self.error, 0) if self.wrong.any() else self.error
        return int(np.argmax(relative(max_each(error), max_each(self.right))))

    @property
    def wrong(self) -> np.ndarray:
        """Where the two differ by more than rounding and kinks explain, (points, …)."""
        return ~(self.error <= like(self.slack, self.right)) & ~self.at_kink

    def equals(self, other: np.ndarray, at: Any = slice(None)) -> bool:
        """Whether the gradient under test is `other` (at some points), but for a small part of its error, and rounding."""
        if other.shape != self.given[at].shape:
            return False
        # where all is dead at one point, what is left is noise of the size at others
        noise = np.maximum(4 * self.slack, NOISE * max_each(self.right).max())
        limit = np.maximum(noise, MATCH * max_each(self.error))[at]
        return bool(np.all(np.abs(self.given[at] - other) <= like(limit, other)))


class About(NamedTuple):
    """What of the value and of the data a mistake may come from.

    Attributes:
        batch: how many examples there are, where the data say so.
        halved: whether there is a ½ in the value that can be forgotten.
        sizes: lengths of axes of the data.
    """

    batch: int | None
    halved: bool
    sizes: tuple[int, ...]


def of_one(evidence: Evidence, others: Sequence[Evidence], about: About, params: np.ndarray) -> Diagnosis | None:
    """Read a mistake off one parameter's gradient: what it is of the right one, of another's, or of the parameter itself.

    `params`: the parameter, (points, …).
    """
    given, right, wrong = evidence.given, evidence.right, evidence.wrong
    if not np.isfinite(given).all():
        where = np.argwhere(~np.isfinite(given))[0]
        more = f", {(~np.isfinite(given)).sum() - 1} more over the points" if (~np.isfinite(given)).sum() > 1 else ""
        return Diagnosis("not finite", f"{given[tuple(where)]} at {_index(where[1:])}{more}")
    if not given.any():
        return Diagnosis("zero", "it is all zeros: this parameter's gradient was left out")
    factor = _ratio(given, right)
    if factor is not None and evidence.equals(factor * right):
        # what all gradients come from has its ½: where one of them is right that was not forgotten
        halved = about.halved and all(other.wrong.any() for other in others)
        return _of_factor(factor, about.batch, [n for n in (*right.shape[1:], *about.sizes) if n > 1], halved)
    turned = next((words for words, other in _turned(right) if evidence.equals(other)), None)
    if turned is not None:
        return Diagnosis("transpose", f"it is {turned}")
    for words, term in (("the parameter itself", params), ("the parameter's sign", np.sign(params))):
        share = _ratio(given - right, term)
        if share is not None and evidence.equals(right + share * term):
            sign, more = (
                ("plus", "added that the value has not, or has with another factor")
                if share > 0
                else ("less", "of the value left out, or a part of it")
            )
            text = f"it is the right one {sign} {abs(share):.6g} times {words}: is a weight decay {more}?"
            return Diagnosis("penalty", text)
    for other in others:
        # only where that one is wrong too: dW2 = dz h0ᵀ may equal dW3, and be a wrong source
        if other.name != evidence.name and other.wrong.any() and evidence.equals(other.right):
            return Diagnosis("swapped", f"it is the gradient of {other.name}")
    places = np.asarray(wrong.any(axis=0))
    if places.sum() == 1 and places.size > 1:
        (index,) = np.argwhere(places)
        at = (slice(None), *index)
        ratio = _ratio(given[at], right[at])
        return Diagnosis("entry", f"only the entry {_index(index)} is wrong{_times(ratio)}")
    for axis, line in ((0, "row"), (1, "column")) if places.ndim == 2 else ():
        lines = np.flatnonzero([line.any() for line in np.moveaxis(places, axis, 0)])
        if len(lines) == 1 and places.shape[axis] > 1:
            part, right_part = (a.take(lines[0], axis + 1) for a in (given, right))
            ratio = _ratio(part, right_part)
            if ratio is not None and np.allclose(
                part, ratio * right_part, rtol=0, atol=MATCH * float(np.max(np.abs(part)))
            ):
                return Diagnosis(line, f"only {line} {lines[0]} is wrong{_times(ratio)}")
    return None


def _turned(right: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The right gradient with two axes swapped, reversed along one, or moved along one."""
    axes = range(1, right.ndim)
    for i, j in itertools.combinations(axes, 2):
        if right.shape[i] == right.shape[j]:
            yield (
                "transposed" if right.ndim == 3 else f"with its axes {i - 1} and {j - 1} swapped",
                right.swapaxes(i, j),
            )
    for axis in axes:
        yield f"reversed along axis {axis - 1}", np.flip(right, axis)
        for by in (1, -1) if right.shape[axis] > 2 else ():
            yield f"moved by one along axis {axis - 1}", np.roll(right, by, axis)


def unknown(evidence: Evidence | None) -> Diagnosis:
    """What is left to say: how many entries are wrong, at the point where most are, in which lines, and in what direction."""
    assert evidence is not None
    wrong = evidence.wrong.reshape(len(evidence.wrong), -1)
    said = f"{wrong.sum(axis=1).max()} of {wrong.shape[1]} entries are wrong, in no familiar way"
    return Diagnosis(
        "unknown", "; ".join([said, *_lines(np.asarray(evidence.wrong.any(axis=0))), *_direction(evidence)])
    )


def _lines(places: np.ndarray) -> Iterator[str]:
    """Which rows, columns or the like hold all that is wrong, where others are right."""
    for axis, length in enumerate(places.shape):
        lines = np.flatnonzero(places.any(axis=tuple(k for k in range(places.ndim) if k != axis)))
        if len(lines) < length:
            word = ("rows", "columns")[axis] if places.ndim == 2 else f"along axis {axis},"
            shown = ", ".join(map(str, lines[:6])) + (", …" if len(lines) > 6 else "")
            yield f"{word} {shown} of {length} alone"


def _direction(evidence: Evidence) -> Iterator[str]:
    """How the gradient lies to the right one where the error is largest."""
    given, right = evidence.flat(evidence.worst_point)
    size = float(np.linalg.norm(given) * np.linalg.norm(right))
    if given.size < 2 or size == 0:
        return
    cosine = float(given @ right) / size
    if abs(cosine) < 1e-9:
        yield "it is orthogonal to the right one"
    elif abs(cosine) > 1 - 1e-9:
        yield "it is parallel to the right one, by a factor that changes from point to point"
    else:
        yield f"the cosine of its angle to the right one is {cosine:.2g}"


def stale(evidence: Sequence[Evidence]) -> bool:
    """Whether the gradient does not change from point to point, where the right one does."""
    return all(
        len(one.given) > 1 and np.array_equal(one.given, np.broadcast_to(one.given[:1], one.given.shape))
        for one in evidence
    ) and any((one.right != one.right[:1]).any() for one in evidence)


class Edge(NamedTuple):
    """A product W h.

    Attributes:
        product: of which parameter.
        source: the variable h.
        root: the variable z that h is an elementwise function of, or h itself.
    """

    product: Product
    source: int
    root: int

    @property
    def parameter(self) -> int:
        """Which parameter W is."""
        return self.product.view.parameter


class Mistake(NamedTuple):
    """A mistake to make: its kind, the edge or activation it is made at, with what other array, and how to say it."""

    kind: str
    place: Any
    other: Any
    text: str


def edges(program: Program) -> list[Edge]:
    """The products of a parameter with something else, in the order in which they are computed.

    >>> import jax.numpy as jnp
    >>> from jaxbackprop.programs.flat import flatten
    >>> p, x = [jnp.ones((2, 3)), jnp.ones((3, 1))], jnp.ones((4, 2))
    >>> program = flatten(lambda p, x: jnp.sum(jnp.tanh(x @ p[0]) @ p[1]), p, x)
    >>> [(edge.parameter, edge.source == edge.root) for edge in edges(program)]
    [(0, True), (1, False)]
    """
    root = roots(program)
    return [
        Edge(product, product.other, root.get(product.other, product.other))
        for product in products(program)
        if isinstance(product.other, int)
    ]


def mistakes(program: Program, names: Sequence[str], wrong: Collection[int]) -> Iterator[Mistake]:
    """The mistakes that can be made in this program and make just the parameters `wrong` wrong, the likelier first.

    A mistake at h, or on its way back to h, leaves the parameters right that h feeds; a wrong source makes just its own wrong.
    """
    all_edges = edges(program)
    uses = Counter(edge.parameter for edge in all_edges)
    right = {parameter for parameter in uses if parameter not in wrong or uses[parameter] > 1}
    inner = [edge for edge in all_edges if edge.source in program.depends and edge.parameter in right]
    for source, root in dict.fromkeys((edge.source, edge.root) for edge in inner if edge.root != edge.source):
        fed = dict.fromkeys(names[edge.parameter] for edge in all_edges if edge.source == source)
        feeds = f"the activation that feeds {', '.join(fed)}"
        missing = f"the derivative of {feeds} is left out of dz = dh·g'(z)"
        yield Mistake("derivative missing", source, root, missing)
        yield Mistake("value for derivative", source, root, f"g(z), the value, stands for g'(z) at {feeds}")
    for edge in inner:
        missing = f"the path through {names[edge.parameter]} is missing: dh of its source lacks that Wᵀ dz"
        yield Mistake("path missing", edge, None, missing)
    for edge in inner:
        yield from _weights(program, edge, all_edges, names)
    for edge in all_edges:
        if set(wrong) == {edge.parameter}:
            yield from _sources(program, edge, all_edges, names)


def _weights(program, edge, all_edges, names) -> Iterator[Mistake]:
    """Other matrices that Wᵀ dz may have been formed with: this one transposed, or one of the same shape."""
    own = program.shapes[program.inputs[edge.parameter]]
    if len(own.shape) == 2 and own.shape[0] == own.shape[1]:
        yield Mistake("weights", edge, None, f"Wᵀ dz is formed with {names[edge.parameter]} transposed")
    for other in dict.fromkeys(other.parameter for other in all_edges):
        if other != edge.parameter and program.shapes[program.inputs[other]] == own:
            text = f"Wᵀ dz is formed with {names[other]} where {names[edge.parameter]} belongs"
            yield Mistake("weights", edge, other, text)


def _sources(program, edge, all_edges, names) -> Iterator[Mistake]:
    """Other arrays of the source's shape: z, or another layer's h or z, be they computed later."""
    own = program.shapes[edge.source]
    candidates: dict[int, str] = {}
    if edge.root != edge.source:
        candidates[edge.root] = "z, before the activation,"
    for other in all_edges:
        for variable, what in ((other.source, "the source of"), (other.root, "z before the source of")):
            if variable != edge.source and variable not in candidates:
                candidates[variable] = f"{what} {names[other.parameter]}"
    for variable, what in candidates.items():
        if program.shapes[variable] == own:
            yield Mistake("source", edge, variable, f"dW is formed with {what} in place of its own source")


def with_mistakes(program: Program, some: Sequence[Mistake]) -> Callable:
    """The program's value as a function of (switches θ, parameter leaves, data leaves), one switch for each mistake."""
    at_source: dict[int, list] = {}
    at_edge: dict[int, list] = {}
    for i, mistake in enumerate(some):
        if isinstance(mistake.place, Edge):
            at_edge.setdefault(mistake.place.product.step.number, []).append((i, mistake))
        else:
            at_source.setdefault(mistake.place, []).append((i, mistake))
    fixed = jax.lax.stop_gradient

    def value(theta, params, data):
        right = values_of(program, [*params, *data])  # a wrong source may be computed later than its edge
        z_of: dict[int, Any] = {}

        def rule(step: Step, *operands):
            results = step.bind(*operands)
            if step.number in at_edge:
                results = [results[0] + sum(terms(operands, at_edge[step.number]))]
            z_of.update(zip(step.writes, results, strict=True))
            return [passed_on(variable) for variable in step.writes]

        def passed_on(variable):
            h = z_of[variable]
            for i, mistake in at_source.get(variable, ()):
                z = z_of[mistake.other]
                slope = 1 if mistake.kind == "derivative missing" else fixed(h)
                h = h + (theta[i] * (slope * (z - fixed(z)) - (h - fixed(h)))).astype(h.dtype)
            return h

        def terms(operands, here):
            for i, mistake in here:
                edge = mistake.place
                product, position = edge.product.of, edge.product.position
                W, h = operands[position], operands[1 - position]
                dW, dh = W - fixed(W), h - fixed(h)
                if mistake.kind == "path missing":
                    term = -product(fixed(W), dh)
                elif mistake.kind == "source":
                    term = product(dW, fixed(right[mistake.other])) - product(dW, fixed(h))
                else:
                    leaf = params[edge.parameter].T if mistake.other is None else params[mistake.other]
                    other = viewed(edge.product.view, leaf)
                    term = product(fixed(other), dh) - product(fixed(W), dh)
                yield (theta[i] * term).astype(term.dtype)

        return run(program, [*params, *data], rule)[0]

    return value


def values_of(program: Program, leaves) -> dict[int, Any]:
    """Every variable of a program, given the leaves of its arguments."""
    values = dict(zip(program.inputs, leaves, strict=True))

    def rule(step, *operands):
        results = step.bind(*operands)
        values.update(zip(step.writes, results, strict=True))
        return results

    run(program, leaves, rule)
    return values


# What is elementwise in one thing

ELEMENTWISE = (
    *(
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "max",
        "min",
        "abs",
        "sign",
        "clamp",
        "select_n",
        "pow",
        "integer_pow",
        "square",
    ),
    *("exp", "exp2", "expm1", "log", "log1p", "sqrt", "rsqrt", "cbrt", "tanh", "logistic", "erf", "erfc", "erf_inv"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "floor", "ceil"),
    *("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "is_finite", "stop_gradient", "convert_element_type"),
    *("custom_jvp_call", "copy", "round", "lgamma", "digamma"),
)


def has_half(program: Program) -> bool:
    """Whether something is halved."""
    factors = [(step.name, o.value) for step in program.steps for o in step.reads if isinstance(o, Constant)]
    return any(np.ndim(c) == 0 and complex(c) == {"mul": 0.5, "div": 2.0}.get(name) for name, c in factors)


def roots(program: Program) -> dict[int, int]:
    """For each variable that is an elementwise function of one other, that other: z for h = g(z)."""
    root: dict[int, int] = {}
    for step in program.steps:
        if len(step.writes) != 1:
            continue
        (result,) = step.writes
        shape = program.shapes[result].shape
        read = [v for v in variables(step) if v in program.depends]
        same = step.name in ELEMENTWISE and all(program.shapes[v].shape == shape for v in read)
        roots = {root.get(v, v) for v in read}
        if same and len(roots) == 1 and result in program.depends:
            root[result] = roots.pop()
    return root


# Words and small arithmetic


def _of_factor(factor, batch, sizes, halved) -> Diagnosis:
    if abs(factor + 1) < 1e-6:
        return Diagnosis("sign", "it has the wrong sign")
    said = {2.0: ": is the ½ of the loss forgotten?"} if halved else {}
    if batch and batch > 1:
        said = {
            float(batch): f": the sum over the batch of {batch}, not its mean?",
            1 / batch: f": divided by the batch's {batch} once too often?",
        } | said
    why = next((words for value, words in said.items() if abs(factor / value - 1) < 1e-6), "")
    why = why or guess(factor, [n for n in sizes if n > 2])
    forgotten = ": is a factor 2 forgotten?" if abs(factor - 0.5) < 1e-6 else ""
    return Diagnosis("factor", f"it is {factor:.6g} times the right one{why or forgotten or guess(factor, sizes)}")


def guess(factor: float, sizes: Iterable[int]) -> str:
    """Where a factor may come from, as a question: a root, a size or a size less one; "" where nothing fits.

    >>> guess(2.0, [4]), guess(1.5, [3]), guess(0.2, [5]), guess(0.77, [4])
    (' (2 = √4: is 1/√4 left out?)', ' (1.5 = 3/2: n − 1 for n = 3?)', ' (0.2 = 1/5: divided by 5 once too often?)', '')
    """
    for n in sizes:
        known = {
            n**0.5: f"√{n}: is 1/√{n} left out?",
            n**-0.5: f"1/√{n}: divided by √{n} once too often?",
            float(n): f"{n}: is 1/{n} left out?",
            1 / n: f"1/{n}: divided by {n} once too often?",
        }
        if n > 2:
            known |= {
                n / (n - 1): f"{n}/{n - 1}: n − 1 for n = {n}?",
                (n - 1) / n: f"{n - 1}/{n}: n for n − 1 = {n - 1}?",
            }
        for value, words in known.items():
            if abs(factor / value - 1) < 1e-6:
                figure = f"{factor:.6g}"
                return f" ({words.removeprefix(f'{figure}: ') if words.startswith(figure) else f'{figure} = {words}'})"
    return ""


def _ratio(given, right) -> float | None:
    square = float(np.sum(right * right))
    return float(np.sum(given * right)) / square if square > 0 else None


def _times(ratio) -> str:
    if ratio is None:
        return ""
    return ": its sign" if abs(ratio + 1) < 1e-6 else f": {ratio:.6g} times the right one"


def _index(index) -> str:
    return (
        re.sub(r",\)", ")", str(tuple(int(i) for i in index)))
        .replace("()", "the scalar")
        .replace("(", "[")
        .replace(")", "]")
    )
