"""How many rows and columns every name has, from the equations that use it.

Sizes are unknowns that equations make equal: W x needs as many columns of W as x has rows. What stays free gets a size
of its own, so that a missing transpose does not fit. One is no unknown: a vector is a column of one column.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import NamedTuple

from jaxbackprop.grading.counters import counter, moved
from jaxbackprop.grading.expression import Expr, ShapeError, has, name, names, negated, nodes, number, show
from jaxbackprop.grading.words import EVERY

ONE = 0
EXAMPLES = 7  # no factor that is forgotten
INPUT = re.compile(r"(?:x|X|i|inp|input|inputs|a0|A0|h0|H0|u|s)\d*|x_\w+")
BIAS = re.compile(r"(?:b|c|β|γ|bias|gain|scale|B)(?:\d|_|$)|\w+(?:bias|gain|scale)\d*$")  # the same for every example
TARGET = re.compile(r"(?:y|Y|t|T|target|targets|label|labels|ytrue|y_true)(?:_?\w{0,3}|⟨\w+⟩)?")
RATE = re.compile(r"[αληγτεκρ]\d*|lr|eps|m|n|N|Ν|B|d|D|K|H|batch|d_k|dk")


class Shape(NamedTuple):
    """The letters that a value depends on with their sizes, its rows and its columns."""

    letters: tuple[tuple[str, int], ...]
    rows: int
    columns: int


MATRIX = re.compile(r"[WUVXQPΘ](?:\d|_|$)")  # no number, where there are vectors
COLUMN = re.compile("w|v|u|θ|theta|β|beta")  # a vector of weights, where outputs are numbers


class Layout(NamedTuple):
    """What a text's values are taken for.

    Attributes:
        vectors: names are vectors and matrices; else numbers.
        rows: an example is a row, and weights stand on the right.
        batch: there are several examples.
        single: weights of one small letter are columns: w gives one number for each example.
        scale: a small letter in front of a vector is a number: g of g v / ‖v‖.
        flat: vectors are arrays of one axis, as in NumPy: v @ h is a number, and dz @ W is W^T dz.
        dot: w · x of two columns is a number.
        entry: g of g * x is a vector as x is.
        table: X has the x_i for rows, and p of p_i is a column.
    """

    vectors: bool = False
    rows: bool = False
    batch: bool = False
    single: bool = False
    scale: bool = False
    flat: bool = False
    dot: bool = False
    table: bool = False
    entry: bool = False


class Asked(NamedTuple):
    """What derivatives are taken by.

    Attributes:
        parameters: all of it.
        shared: what a sum along one axis is by: dγ = sum(dy ⊙ xhat, axis=0), which the examples of a batch share.
        spread: what no sum is by.
        numbers: what a sum over all entries is by: da = sum(dy ⊙ x).
        columns: families of vectors, as v_jᵀ says.
    """

    parameters: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    spread: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()


NOTHING = Asked()
Slots = tuple[tuple[int, ...], int, int]  # sizes of a name's index letters, its rows, its columns


class Sizes:
    """The unknown sizes, and what has been made equal."""

    def __init__(self, layout: Layout, asked: Asked, values: Collection[str] = ()):
        self.layout, self.parent, self.asked = layout, [ONE], asked
        self.values = values  # names that are called like rates, and are none
        self.scales: set[str] = set()  # names that are numbers, in front of vectors
        self.known: dict[str, Slots] = {}
        self.examples_by: set[str] = set()  # letters of which each stands for a vector: the n of W x_n
        self.examples = self.new() if layout.batch else ONE

    def new(self) -> int:
        """A size of which nothing is known."""
        self.parent.append(len(self.parent))
        return len(self.parent) - 1

    def find(self, i: int) -> int:
        """The representative of a size."""
        while self.parent[i] != i:
            i = self.parent[i]
        return i

    def same(self, i: int, j: int, expr: Expr) -> int:
        """Make two sizes equal."""
        i, j = self.find(i), self.find(j)
        if i != j:
            if ONE in (i, j):
                raise ShapeError(f"the sizes in {show(expr)} do not fit")
            self.parent[max(i, j)] = min(i, j)
        return min(i, j)

    def rate(self, v: str) -> bool:
        """Whether a name is one number: a rate, or how many there are; the B of B u is none where dL/dB is asked for."""
        a_count = RATE.fullmatch(v) is not None and not (v.isupper() and v in self.asked.parameters)
        return a_count and v not in self.values and not (v == "γ" and v in self.asked.shared | self.asked.spread)

    def one(self, i: int) -> bool:
        """Whether a size is 1."""
        return self.find(i) == ONE

    def scalar(self, s: Shape) -> bool:
        """Whether a value has one row and one column."""
        return self.one(s.rows) and self.one(s.columns)


class Sized(NamedTuple):
    """The size of every name, how many examples there are, and the letters that stand for one entry: the c of -log p_c."""

    names: dict[str, Slots]
    examples: int
    fixed: frozenset[str] = frozenset()


def infer(definitions: Mapping[str, tuple[tuple[str, ...], Expr]], layout: Layout, asked: Asked = NOTHING) -> Sized:
    """The size of every name in the definitions, numbered 2, 3, ...; 1 is one.

    >>> from jaxbackprop.grading.grammar import parse
    >>> z = parse("W x + b")
    >>> infer({"z": ((), z)}, Layout(vectors=True)).names
    {'x': ((), 2, 1), 'W': ((), 3, 2), 'b': ((), 3, 1), 'z': ((), 3, 1)}
    """
    sizes = Sizes(layout, asked, no_counts(definitions))
    sizes.scales = scales(definitions) if layout.scale else set()
    lettered = {n.args[0] for _, e in definitions.values() for n in _named(e) if n.args[1]}
    sizes.known |= dict.fromkeys(sizes.scales - lettered, ((), ONE, ONE))
    defined = set(definitions)
    used = {n.args for _, e in definitions.values() for n in _named(e)}
    for text, letters in sorted(used):
        inner = any(_between_vectors(text, e) for _, e in definitions.values())
        factor = text not in {*"usi"} or any(_is_factor(text, n) for _, e in definitions.values() for n in _products(e))
        if layout.vectors and text not in defined and not letters and INPUT.fullmatch(text) and not inner and factor:
            sizes.known.setdefault(text, _input(sizes))
        weight = any(name(text) in n.args for _, e in definitions.values() for n in _products(e))
        if layout.single and text not in defined and not letters and COLUMN.fullmatch(text) and weight:
            sizes.known.setdefault(text, ((), sizes.new(), ONE))
        if layout.single and layout.batch and not layout.rows and text in of_entries(definitions):
            sizes.known.setdefault(text, ((), ONE, sizes.new()))
        column = (letters and text in asked.columns) or _is_vector(text, letters, definitions)
        dotted = (
            [n for _, e in definitions.values() for n in nodes(e) if n.op == "matmul"]
            if layout.flat and letters
            else []
        )
        column = column or any(name(text, letters) in n.args for n in dotted)
        if layout.vectors and text not in defined and column:
            sizes.known.setdefault(text, ((sizes.new(),), sizes.new(), ONE) if letters else _input(sizes))
            sizes.examples_by |= {*letters}
    fixed: set[str] = set()
    running = {x for _, e in definitions.values() for n in nodes(e) if n.op == "sum" for x in n.args[0]}
    waiting = dict(definitions)
    while waiting:
        v, letters, shape, bound = _next(waiting, sizes)
        if shape is None:
            raise ShapeError(f"the sizes in {v} = {show(definitions[v][1])} are not known")
        del waiting[v]
        by = dict(shape.letters)
        fixed |= set(by) - set(letters)
        sizes.known[v] = (tuple(by.get(x, bound.get(x, ONE)) for x in letters), shape.rows, shape.columns)
    if fixed & running:
        raise ShapeError(f"the index {min(fixed & running)} stands on one side only")
    _refuse_single(definitions, defined, sizes)
    roots = dict.fromkeys(sizes.find(i) for s in sizes.known.values() for i in (*s[0], s[1], s[2]))
    count = {ONE: 1} | {r: (2, 3, 4, 5, 6, 8, 9, 10)[i % 8] for i, r in enumerate(r for r in roots if r != ONE)}
    many = sizes.find(sizes.examples)
    count |= {root: EXAMPLES for root in {many, *_averaged(definitions, sizes)} if root in count and root != ONE}
    found = {
        v: (tuple(count[sizes.find(i)] for i in s[0]), count[sizes.find(s[1])], count[sizes.find(s[2])])
        for v, s in sizes.known.items()
    }
    return Sized(found, count.get(sizes.find(sizes.examples), 1), frozenset(fixed))


def of_entries(definitions: Mapping) -> set[str]:
    """The W of A = σ(Z), Z = W X + b, where the text has an a_i: one number for each example."""
    found = {n.args[0] for _, e in definitions.values() for n in _named(e) if len(n.args[1]) == 1} & definitions.keys()
    above = {v for v in found if not definitions[v][0]}
    while more := {u for v in above for u in names(definitions[v][1])} & definitions.keys() - above:
        if any(_is_product(definitions[v][1]) for v in above):
            break
        above |= more
    terms = [
        t for v in above for t in (definitions[v][1].args if definitions[v][1].op == "+" else (definitions[v][1],))
    ]
    first = [t.args[0] for t in terms if isinstance(t, Expr) and _is_product(t)]
    return {f.args[0] for f in first if f.op == "name" and f.args[0] not in definitions}


def _is_product(e: Expr) -> bool:
    return e.op in ("product", "matmul") or (e.op == "+" and any(_is_product(t) for t in e.args))


def scales(definitions: Mapping) -> set[str]:
    """Small letters that only ever stand in front: the g of g v / ‖v‖, the s of s * (B @ x); an X that is only added."""
    found, elsewhere, multiplied = set(), set(), set()
    for _, e in definitions.values():
        for n in nodes(e):
            for i, f in enumerate(n.args):
                while i == 0 and isinstance(f, Expr) and f.op in ("/", "negative"):
                    f = f.args[0]
                if isinstance(f, Expr) and f.op == "name":
                    first = i == 0 and n.op in ("product", "hadamard", "/", "negative")
                    (found if first else elsewhere).add(f.args[0])
                    multiplied |= {f.args[0]} if n.op not in ("+", "negative", "call") else set()
    small = {v for v in found - elsewhere if re.fullmatch(r"[a-tx-z]\d*", v)}
    numbers = {"scale", "scaling"} & (found | elsewhere)  # Q @ K.T * scale
    return (small | numbers | ({"X"} & (found | elsewhere)) - multiplied) - definitions.keys()


def no_counts(definitions: Mapping) -> set[str]:
    """Names that are called like rates or counts, and are neither: the noise in z = μ + σ eps, the K of Q K^T, the B of A X B."""
    products = [n.args for _, e in definitions.values() for n in nodes(e) if n.op in ("product", "matmul")]
    capitals = [[v for f in factors if re.fullmatch("[A-Z]", v := show(f).removesuffix("^T"))] for factors in products]
    matrices = {v for those in capitals if len({*those}) > 1 for v in those}
    divisors = [n.args[1] for _, e in definitions.values() for n in nodes(e) if n.op == "/"]
    ends = {n.args[2] for _, e in definitions.values() for n in nodes(e) if n.op == "sum"}
    counts = {v for e in divisors for v in names(e)} | ends
    beside = [[show(f).removesuffix("^T") for f in factors if f.op in ("name", "transpose")] for factors in products]
    sums = [n.args for _, e in definitions.values() for n in nodes(e) if n.op == "+"]
    terms = [[show(t.args[0] if t.op == "negative" else t) for t in those] for those in sums]
    beside += [those for those in terms if not all(t.isdigit() for t in those[1:])]
    matrices |= {v for those in beside if len(those) > 1 for v in those if re.fullmatch("[A-Z]", v)} - counts
    factors = [
        {*map(show, n.args)} for _, e in definitions.values() for n in nodes(e) if n.op in ("product", "hadamard")
    ]
    masks = [n.args for _, e in definitions.values() for n in nodes(e) if n.op == "hadamard"]
    matrices |= {"m"} if any(name("m") in (f, *f.args[-1:]) for fs in masks for f in fs) else set()
    return matrices | {v for f in factors for v in f & {"eps", "ε"} if f & {"std", "sigma", "σ", "sd", "s"}}


def _averaged(definitions: Mapping, sizes: Sizes) -> Iterator[int]:
    """The sizes over which a formula averages: the i of 1/m Σ_i."""
    for _, e in definitions.values():
        sums = [n for n in nodes(e) if n.op == "sum"] if names(e) & {*EVERY[:7]} else []
        for v in _named(sums[0]) if sums else ():
            slots = sizes.known.get(v.args[0], ((),))[0]
            if len(v.args[1]) == len(slots):
                yield from (sizes.find(i) for x, i in zip(v.args[1], slots, strict=True) if x == sums[0].args[0][0])


def _refuse_single(definitions: Mapping, defined: set[str], sizes: Sizes) -> None:
    """A matrix of one number and a softmax of one class are no reading: there any mistake would fit."""
    free = {n.args[0] for _, e in definitions.values() for n in _named(e)} - defined - sizes.scales
    for v in (v for v in free if MATRIX.match(v) or v in ("A", "B")):
        if sizes.layout.vectors and sizes.known.get(v) == ((), ONE, ONE):
            raise ShapeError(f"{v} would be a number")
    for _, e in definitions.values():
        for n in nodes(e):
            for a, f, _b in zip(n.args, n.args[1:], n.args[2:], strict=False) if n.op in ("product", "matmul") else ():
                between = a.op == "transpose" and f.op == "name" and f.args[0].isupper() and f.args[0] not in defined
                if sizes.layout.vectors and between and sizes.known.get(f.args[0]) == ((), ONE, ONE):
                    raise ShapeError(f"{f.args[0]} would be a number")  # the C of (A x − b)^T C (A x − b)
            turned = n.args[0].args[0] if n.op == "transpose" and n.args[0].op == "name" else ""
            if sizes.layout.vectors and turned not in defined and sizes.known.get(turned) == ((), ONE, ONE):
                raise ShapeError(f"{show(n)} would be a number")
            for f in n.args if n.op == "matmul" else ():
                if f.op == "name" and f.args[0] not in defined and sizes.known.get(f.args[0]) == ((), ONE, ONE):
                    raise ShapeError(f"{f.args[0]} would be a number")
            if n.op == "reduce" and n.args[0] in ("softmax", "log_softmax") and not _lettered(n):
                inside = _infer(n.args[2], sizes, {}, None, False)
                if inside is not None and sizes.scalar(inside):
                    raise ShapeError(f"in {show(n)} there would be one class")


def _next(waiting: Mapping, sizes: Sizes) -> tuple[str, tuple[str, ...], Shape | None, dict[str, int]]:
    """A name that can be computed, a sum such as ‖W‖² last, and its shape; what its formula leaves open is the likeliest."""

    def is_open(v: str) -> bool:
        return has(waiting[v][1], "reduce") and not names(waiting[v][1]) & sizes.known.keys()

    v = min((v for v, (_, e) in waiting.items() if not names(e) & waiting.keys()), key=is_open)
    letters, expr = waiting[v]
    bound: dict[str, int] = {}
    shape = _infer(expr, sizes, bound, None, False)
    open_ = {v for v in names(expr) - sizes.scales if not sizes.rate(v)}
    if shape is None and sizes.layout.vectors and open_ and not open_ & sizes.known.keys() and not _lettered(expr):
        _anchor(expr, sizes)  # of ½ (a + b) nothing is known: these are vectors
    shape = shape or _infer(expr, sizes, bound, None, True)
    if shape is None:
        _anchor(expr, sizes)
        shape = _infer(expr, sizes, bound, None, True)
    return v, letters, shape, bound


def _lettered(expr: Expr) -> bool:
    return any(n.args[1] for n in _named(expr))


def _is_factor(v: str, product: Expr) -> bool:
    """Whether a name is multiplied by another that is no rate."""
    others = {u for f in product.args if f != name(v) for u in names(f) if not RATE.fullmatch(u)}
    return name(v) in product.args and bool(others)


def _between_vectors(v: str, expr: Expr) -> bool:
    """Whether a name is the matrix of a^T X b."""
    for n in _products(expr):
        for a, x, b in zip(n.args, n.args[1:], n.args[2:], strict=False):
            small = a.op == "transpose" and a.args[0].op == "name" and a.args[0].args[0].islower()
            if small and x == name(v) and b.op == "name" and b.args[0].islower():
                return True
    return False


def _is_vector(v: str, letters: tuple[str, ...], definitions: Mapping) -> bool:
    """Whether a matrix makes it one: the first state h_0 of h_t = f(W h_{t-1}), and each x_n of W x_n."""
    for head, (_, e) in definitions.items():
        if e == name(v, letters) and letters and v[0].isupper():  # the row E_i of h = E_i, z = W h
            products = [n.args for _, f in definitions.values() for n in _products(f)]
            beside = [pair for fs in products for pair in pairwise(fs)]
            if any(b == name(head) and a.op == "name" and a.args[0][0].isupper() for a, b in beside):
                return True
        matrices = [n for n in _named(e) if n.args[0][0].isupper() and not n.args[1] and not counter(n.args[0])]
        if not letters and matrices and v in names(e) and v == moved(head, "t", -1):
            return True
        for n in _products(e) if len(letters) == 1 and INPUT.fullmatch(v) else ():
            turned = any(f.op == "transpose" and f.args[0].op == "name" for f in n.args)
            if name(v, letters) in n.args and (turned or any(m in n.args for m in matrices)):
                return True
        if letters and any(n == Expr("transpose", (name(v, letters),)) for n in nodes(e)):
            return True
        for n in _products(e) if letters else ():  # the k_i of q^T k_i
            for a, b in zip(n.args, n.args[1:], strict=False):
                small = a.op == "transpose" and a.args[0].op == "name" and a.args[0].args[0][:1].islower()
                if small and b == name(v, letters):
                    return True
    return False


def _named(expr: Expr):
    return (n for n in nodes(expr) if n.op == "name")


def _input(sizes: Sizes) -> Slots:
    return ((), sizes.examples, sizes.new()) if sizes.layout.rows else ((), sizes.new(), sizes.examples)


def _anchor(expr: Expr, sizes: Sizes) -> None:
    """Where no size is known yet, the factor next to the examples is the input."""
    for n in _products(expr):
        factors = [f.args[0] if f.op == "transpose" else f for f in n.args]
        candidates = [
            f
            for f in (factors if sizes.layout.rows else factors[::-1])
            if f.op == "name" and f.args[0] not in sizes.known
        ]
        if candidates:
            sizes.known[candidates[0].args[0]] = _input(sizes)
            return
    for n in _named(expr):
        if n.args[0] not in sizes.known:
            sizes.known[n.args[0]] = _input(sizes)
            return


def _products(expr: Expr):
    return (n for n in nodes(expr) if n.op in ("product", "matmul"))


def _infer(e: Expr, sizes: Sizes, bound: dict[str, int], want: Shape | None, force: bool) -> Shape | None:
    """The shape of a formula; sizes that it needs are made equal. None where a name's is not known yet."""

    def inner(a: Expr, wanted: Shape | None = None) -> Shape | None:
        return _infer(a, sizes, bound, wanted, force)

    match e.op, e.args:
        case "name", _:
            return _name(e, sizes, bound, want)
        case "number", _:
            return Shape((), ONE, ONE)
        case "delta", (j, k):
            both = sizes.same(bound.setdefault(j, bound.get(k, sizes.new())), bound.setdefault(k, bound[j]), e)
            return Shape(tuple(sorted({(j, both), (k, both)})), ONE, ONE)
        case (("+" | "hadamard" | "compare" | "and"), args):
            return _together([a for a in args if isinstance(a, Expr)], e, sizes, bound, want, force)
        case "negative", (a,):
            return inner(a, want)
        case "transpose", (a,):
            _bias_of_all(a, sizes, want)
            s = inner(a, Shape(want.letters, want.columns, want.rows) if want else None)
            return s and Shape(s.letters, s.columns, s.rows)
        case (("product" | "matmul"), factors):
            return _chain(list(factors), e, sizes, bound, want, force)
        case (("outer" | "kron"), (a, b)):
            s, t = inner(a), inner(b)
            return (
                s
                and t
                and Shape(
                    _letters(s, t),
                    s.columns if sizes.one(s.rows) else s.rows,
                    t.columns if sizes.one(t.rows) else t.rows,
                )
            )
        case "/", (a, b):
            top, bottom = inner(a, want), inner(b)
            if bottom is None:
                bottom = inner(b, Shape((), ONE, ONE))
            if top is None and bottom and (force or not sizes.scalar(bottom) or not sizes.layout.vectors):
                top = inner(a, bottom if not sizes.scalar(bottom) else want)
            return top and bottom and _joined(top, bottom, sizes, e)
        case "^", (a, b):
            inner(b, Shape((), ONE, ONE))
            s = inner(a, want)
            if s and b == negated(number(1)) and not (sizes.one(s.rows) or sizes.one(s.columns)):
                sizes.same(s.rows, s.columns, e)  # the inverse of a matrix
            return s
        case "sum", (letters, a, bounded):
            s = inner(a)
            if bounded and s:
                sizes.known.setdefault(bounded, ((), ONE, ONE))
            return s and Shape(tuple(p for p in s.letters if p[0] not in letters), s.rows, s.columns)
        case "reduce", (how, axis, a):
            return _reduced(how, axis, inner(a), sizes)
        case "call", (_, _, *arguments):
            return inner(arguments[0], want)
        case "cases", branches:
            for guard in branches[::2]:
                if guard.op != "otherwise":
                    inner(guard)
            return _together(list(branches[1::2]), e, sizes, bound, want, force)
    raise ShapeError(f"the shape of {show(e)} is not known")


def _bias_of_all(a: Expr, sizes: Sizes, want: Shape | None) -> None:
    """The b of 1 bᵀ, the same for every example: a column beside rows."""
    new = a.op == "name" and a.args[0] not in sizes.known and BIAS.match(a.args[0])
    if new and want and sizes.layout.batch:
        sizes.known[a.args[0]] = ((), want.columns, ONE) if sizes.layout.rows else ((), ONE, want.rows)


def _letters(*shapes: Shape) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(dict(p for s in shapes for p in s.letters).items()))


def _name(e: Expr, sizes: Sizes, bound: dict[str, int], want: Shape | None) -> Shape | None:
    text, letters = e.args
    if text not in sizes.known:
        if want is None and letters and {*letters} <= sizes.examples_by:
            return None
        if letters:
            slots = tuple(bound.setdefault(x, sizes.new()) for x in letters)
            vector = want is not None and sizes.layout.vectors and text not in sizes.scales
            rows, columns = (want.rows, want.columns) if want is not None and vector else (ONE, ONE)
            sizes.known[text] = (slots, rows, columns)
        elif not sizes.layout.vectors or sizes.rate(text):
            sizes.known[text] = ((), ONE, ONE)
        elif want is not None:
            rows, columns = want.rows, want.columns
            bias = BIAS.match(text) and text not in sizes.values
            if (bias or text in sizes.asked.shared) and sizes.layout.batch:
                rows, columns = (ONE, columns) if sizes.layout.rows else (rows, ONE)
            if text in sizes.asked.numbers:
                rows = columns = ONE
            sizes.known[text] = ((), rows, columns)
        else:
            return None
    slots, rows, columns = sizes.known[text]
    along, across = (rows, columns) if sizes.layout.rows else (columns, rows)
    of_examples = sizes.layout.batch and sizes.find(along) == sizes.find(sizes.examples)
    if len(letters) == 1 and not slots and of_examples and not sizes.one(across):
        slots, rows, columns = (along,), across, ONE  # z^(i) of Z, as a column
        sizes.examples_by |= {*letters}
    if letters and len(letters) != len(slots):  # w_ji of a matrix W, x_i of a vector
        if slots:
            raise ShapeError(f"{show(e)} has {len(letters)} indices, and {len(slots)} elsewhere")
        inside = [i for i in (rows, columns) if not sizes.one(i)]
        slots = (
            tuple(inside)
            if len(inside) == len(letters)
            else (rows, columns)
            if len(letters) == 2
            else [*inside, ONE][:1]
        )
        rows = columns = ONE
    elif slots and not letters:  # W of w_ji, x of x_i
        if len(slots) > 2:
            raise ShapeError(f"{show(e)} has no indices")
        rows, columns = (*slots, ONE)[:2]
        of_examples = sizes.layout.batch and sizes.find(rows) == sizes.find(sizes.examples)
        if (sizes.layout.rows ^ of_examples) and len(slots) == 1:
            rows, columns = columns, rows
        slots = ()
    pairs = tuple((x, sizes.same(bound.setdefault(x, i), i, e)) for x, i in zip(letters, slots, strict=True))
    return Shape(tuple(sorted(dict(pairs).items())), rows, columns)


def _joined(a: Shape, b: Shape, sizes: Sizes, e: Expr) -> Shape:
    """Entry by entry, with what has one row or column repeated."""

    def axis(i: int, j: int) -> int:
        return j if sizes.one(i) else i if sizes.one(j) else sizes.same(i, j, e)

    return Shape(_letters(a, b), axis(a.rows, b.rows), axis(a.columns, b.columns))


def _together(terms, e: Expr, sizes: Sizes, bound, want: Shape | None, force: bool) -> Shape | None:
    """Terms of a sum, factors entry by entry: what is known says how large the others are."""
    found = [_infer(t, sizes, bound, None, False) for t in terms]
    known = [s for t, s in zip(terms, found, strict=True) if s is not None and names(t)]  # of a number nothing follows
    for i, t in enumerate(terms):
        if not known and force and names(t):
            found[i] = _infer(t, sizes, bound, want, True)
            known = [s for s in found if s is not None]
    known = known or [s for s in found if s is not None and all(s is not None for s in found)]
    total = want if not known else known[0]
    if total is None:
        return None
    for s in known[1:]:
        total = _joined(total, s, sizes, e)
    if want is not None and known:
        total = _joined(total, Shape((), want.rows, want.columns), sizes, e) if not sizes.scalar(want) else total
    for t, s in zip(terms, found, strict=True):
        if s is None:
            s = _infer(t, sizes, bound, total, force)
            if s is None:
                return None
            total = _joined(total, s, sizes, e)
    return total


def _chain(factors, e: Expr, sizes: Sizes, bound, want: Shape | None, force: bool) -> Shape | None:
    """A product from left to right; one unknown factor is what fits between the others."""
    found = [_infer(f, sizes, bound, None, force and f.op != "name") for f in factors]
    waiting = [i for i, s in enumerate(found) if s is None]
    while waiting:
        for i in waiting:
            fitting = _between(i, factors, found, e, sizes, want, force)
            found[i] = fitting and _infer(factors[i], sizes, bound, fitting, force)
        left = [i for i in waiting if found[i] is None]
        if left == waiting:
            return None
        waiting = left
    first, *rest = [s for s in found if s is not None]
    for s in rest:
        first = _times(first, s, sizes, e)
    return first


def _times(a: Shape, b: Shape, sizes: Sizes, e: Expr) -> Shape:
    letters = _letters(a, b)
    if sizes.scalar(a) or sizes.scalar(b):
        s = b if sizes.scalar(a) else a
        return Shape(letters, s.rows, s.columns)
    columns = sizes.one(a.columns) and sizes.one(b.columns) and not sizes.one(a.rows)
    if sizes.layout.dot and e.op == "product" and columns:
        sizes.same(a.rows, b.rows, e)
        return Shape(letters, ONE, ONE)
    alike = [sizes.find(i) for i in (a.rows, a.columns)] == [sizes.find(i) for i in (b.rows, b.columns)]
    if e.op == "product" and alike and sizes.find(a.columns) != sizes.find(b.rows):
        return Shape(letters, a.rows, a.columns)
    if sizes.layout.flat and e.op == "matmul" and sizes.one(a.columns) and not sizes.one(b.rows):
        sizes.same(a.rows, b.rows, e)
        return Shape(letters, ONE if sizes.one(b.columns) else b.columns, ONE)
    if sizes.one(a.columns) == sizes.one(b.rows) and e.op != "hadamard":
        sizes.same(a.columns, b.rows, e)
        return Shape(letters, a.rows, b.columns)
    if e.op == "matmul":
        sizes.same(a.columns, b.rows, e)
    return _joined(a, b, sizes, e)._replace(letters=letters)


def _between(i: int, factors, found, e: Expr, sizes: Sizes, want: Shape | None, force: bool) -> Shape | None:
    right = next((s for s in found[i + 1 :] if s is not None and not sizes.scalar(s)), None)
    left = next((s for s in found[:i][::-1] if s is not None and not sizes.scalar(s)), None)
    factor = factors[i]
    turned, core = False, factor
    while core.op in ("transpose", "negative"):
        turned, core = turned ^ (core.op == "transpose"), core.args[0]
    if core.op == "name" and not core.args[1] and sizes.rate(core.args[0]) and e.op == "product":
        return Shape((), ONE, ONE)
    logs = any(f.op in ("call", "reduce") and "log" in f.args[0] for f in factors)
    if core.op == "name" and TARGET.fullmatch(core.args[0]) and not turned and logs and (right or left):
        return right or left  # y log p: entry by entry
    small = core.op == "name" and core.args[0][:1].islower()
    if sizes.layout.flat and e.op == "matmul" and small and not turned and not (left and right):
        if left is not None:
            return Shape((), left.rows if sizes.one(left.columns) else left.columns, ONE)
        return Shape((), right.rows, ONE) if right is not None else None
    beside = (right if not left else left if not right else None) if small and not turned else None
    if (sizes.layout.dot or sizes.layout.entry) and e.op == "product" and beside and sizes.one(beside.columns):
        return beside
    if right is not None:
        if found[i + 1] is None:
            return None
        if core.op == "name" and core.args[0][:1].islower() and not turned and _is_step(core.args[0]) and not left:
            return right  # f_t * c_{t-1}: entry by entry
        vector = turned and core.op == "name" and core.args[0][:1].islower() and not _weight(core.args[0])
        inner = not all(s is not None and sizes.scalar(s) for s in found[:i])
        rows = left.columns if left else ONE if vector else None
        rows = (
            rows if rows is not None else sizes.new() if inner or (force and not want) else want.rows if want else None
        )
        return None if rows is None else Shape((), rows, right.rows)
    if left is not None:
        lower = core.op in ("name", "+") and all(v[:1].islower() for v in names(core))  # of p^T (a - b) too
        vector = lower and not turned and not sizes.layout.rows
        along = sizes.layout.flat and e.op == "matmul" and sizes.one(left.columns)  # x @ W: Wᵀ x
        columns = ONE if vector else want.columns if want and not sizes.scalar(want) else sizes.new() if force else None
        return None if columns is None else Shape((), left.rows if along else left.columns, columns)
    if all(s is not None for j, s in enumerate(found) if j != i):
        return want or (Shape((), ONE, ONE) if force else None)  # beside numbers
    return None


def _is_step(v: str) -> bool:
    """Whether a name is counted by steps."""
    found = counter(v)
    return found is not None and found[1] == "t"


def _weight(v: str) -> bool:
    """Whether a small letter stands for the weights of a layer that a letter counts: there it is a matrix."""
    return counter(v) is not None and v[0] in "wvuθ"


def _reduced(how: str, axis: int | None, s: Shape | None, sizes: Sizes) -> Shape | None:
    if s is None:
        return None
    if how in ("softmax", "log_softmax"):
        return s
    if how == "diag":
        if sizes.one(s.rows) or sizes.one(s.columns):
            n = s.columns if sizes.one(s.rows) else s.rows
            return Shape(s.letters, n, n)
        return Shape(s.letters, s.rows, ONE)
    if how == "tr":
        sizes.same(s.rows, s.columns, Expr("name", ("tr", ())))
    if how == "vec":
        return Shape(s.letters, sizes.new(), ONE)
    if axis is None:
        return Shape((), ONE, ONE) if sizes.scalar(s) else Shape(s.letters, ONE, ONE)
    return Shape(s.letters, ONE, s.columns) if axis in (0, -2) else Shape(s.letters, s.rows, ONE)
