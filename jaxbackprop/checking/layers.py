"""The mistakes of a backward sweep over layers: at activations, at the paths back through weights, and at sources.

    derivative missing    dz = dh                       for dh · g'(z)
    value for derivative  dz = dh · g(z)
    path missing          dh_s without W_tsᵀ dz_t
    weights               another matrix, or W for Wᵀ, in W_tsᵀ dz_t
    source                dW = dz h'ᵀ with another activation, or z for h

An edge W h is a product of something that is a parameter (up to reshaping) with something that is not; its source is h, and z
is what h is an elementwise function of.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

from jaxbackprop.checking.mistakes import Mistake, Site, formed_with, nothing, without_slope
from jaxbackprop.checking.products import Product, products, roots, viewed
from jaxbackprop.programs.flat import Program


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

    @property
    def back(self) -> tuple[Site, ...]:
        """Where dh comes back."""
        return (Site(self.product.step.number, 1 - self.product.position),)


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


def mistakes(program: Program, wrong: Collection[int]) -> Iterator[Mistake]:
    """The mistakes that can be made in this program and make just the parameters `wrong` wrong, the likelier first.

    A mistake at h, or on its way back to h, leaves the parameters right that h feeds; a wrong source makes just its own wrong.
    """
    all_edges = edges(program)
    uses = Counter(edge.parameter for edge in all_edges)
    right = {parameter for parameter in uses if parameter not in wrong or uses[parameter] > 1}
    inner = [edge for edge in all_edges if edge.source in program.depends and edge.parameter in right]
    written = {v: step.number for step in program.steps for v in step.writes}
    for source, root in dict.fromkeys((edge.source, edge.root) for edge in inner if edge.root != edge.source):
        fed = dict.fromkeys(f"{{{edge.parameter}}}" for edge in all_edges if edge.source == source)
        feeds = f"the activation that feeds {', '.join(fed)}"
        yield from without_slope((Site(written[source], None),), [root], f"of {feeds}", feeds)
    for edge in inner:
        missing = f"the path through {{{edge.parameter}}} is missing: dh of its source lacks that Wᵀ dz"
        yield Mistake("path missing", edge.back, nothing, missing)
    for edge in inner:
        yield from _weights(program, edge, all_edges)
    for edge in all_edges:
        if set(wrong) == {edge.parameter}:
            yield from _sources(program, edge, all_edges)


def _weights(program: Program, edge: Edge, all_edges: list[Edge]) -> Iterator[Mistake]:
    """Other matrices that Wᵀ dz may have been formed with: this one transposed, or one of the same shape."""
    product, variable = edge.product, program.inputs[edge.parameter]

    def instead(variable: int, turned: bool, text: str) -> Mistake:
        def other(here):
            leaf = here.right[variable]
            return viewed(product.view, leaf.T if turned else leaf)

        text = f"Wᵀ dz is formed with {text}"
        return Mistake("weights", edge.back, formed_with(1 - product.position, other), text)

    own = program.shapes[variable]
    if len(own.shape) == 2 and own.shape[0] == own.shape[1]:
        yield instead(variable, True, f"{{{edge.parameter}}} transposed")
    for other in dict.fromkeys(other.parameter for other in all_edges):
        if other != edge.parameter and program.shapes[program.inputs[other]] == own:
            yield instead(program.inputs[other], False, f"{{{other}}} where {{{edge.parameter}}} belongs")


def _sources(program: Program, edge: Edge, all_edges: list[Edge]) -> Iterator[Mistake]:
    """Other arrays of the source's shape: z, or another layer's h or z, be they computed later."""
    candidates: dict[int, str] = {edge.root: "z, before the activation,"} if edge.root != edge.source else {}
    for other in all_edges:
        for variable, what in ((other.source, "the source of"), (other.root, "z before the source of")):
            if variable != edge.source:
                candidates.setdefault(variable, f"{what} {{{other.parameter}}}")
    product, own = edge.product, program.shapes[edge.source]
    for variable, what in candidates.items():
        if program.shapes[variable] == own:
            wrong = formed_with(product.position, lambda here, variable=variable: here.right[variable])
            text = f"dW is formed with {what} in place of its own source"
            yield Mistake("source", (Site(product.step.number, product.position),), wrong, text)
