"""What a text is taken for: numbers or vectors, rows or columns, one example or a batch, and which loss.

Marks such as ᵀ, @, ‖·‖ and capitals say what may be meant; where that leaves a choice, the reading under which the forward
equations fit and the most lines hold. Nothing is decided silently: `basis` says it all in one line.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from jaxbackprop.grading.claims import Claim, changed, may_define
from jaxbackprop.grading.comparison import compare
from jaxbackprop.grading.counters import counter, moved
from jaxbackprop.grading.derivatives import letter_of_examples, output_of, own_losses
from jaxbackprop.grading.expression import (
    Expr,
    ShapeError,
    UnknownError,
    has,
    has_local,
    name,
    names,
    nodes,
    number,
    replace,
    show,
    show_variable,
    size,
)
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.meanings import OPAQUE
from jaxbackprop.grading.points import build
from jaxbackprop.grading.reading import Reading, formulae_of, read
from jaxbackprop.grading.shapes import COLUMN, INPUT, TARGET, Layout, no_counts, of_entries, scales
from jaxbackprop.grading.updates import goes_up
from jaxbackprop.grading.words import LOSSES
from jaxbackprop.grading.world import Loss, World

TRIALS = 60_000  # symbols evaluated in the choice of a reading
_MARKS = ("transpose", "matmul", "outer", "kron", "hadamard")


def worlds(reading: Reading, allowed: tuple[Layout, ...] = ()) -> Iterator[World]:
    """Every way to take the text, the plainest first; or these layouts alone."""
    last: list[World] = []
    for typed in (False, True) if _letters_differ(reading) else (False,):
        text = _of_output(_typed(reading) if typed else reading)
        for layout in allowed or layouts(text):
            for loss in losses(text, layout):
                for generic in _generics(text):
                    try:
                        world = build(text, layout, loss, generic)
                        if not _is_one(world) and text.loss in LOSSES:
                            continue
                        squared = not _is_one(world) and _is_square(text)
                        if not _is_one(world):  # y of y = A x is no loss
                            world = build(_without_loss(text), layout, Loss(), generic)
                    except (ShapeError, UnknownError):
                        continue
                    if (world.loss.mean and _is_summed(world)) or not _as_given(world):
                        continue
                    if _is_number(world) and not squared:
                        yield with_deltas(world)
                    else:
                        last.append(world)
    yield from map(with_deltas, last)


def _as_given(world: World) -> bool:
    """Whether what is given as a vector is one, and a matrix a matrix."""
    for v, a in world.reading.arrays.items():
        slots, rows, columns = world.sized.names.get(v, ((), 0, 0))
        long = [n > 1 for n in a.shape]
        if slots and len(slots) != a.ndim:
            return False
        sized = [rows > 1, columns > 1]
        if rows and not slots and (sized != long if a.ndim == 2 else sum(sized) != sum(long)):
            return False
    return True


def _of_output(reading: Reading) -> Reading:
    """Where derivatives are of nothing that is named, and the one output has none: of the output, dx = y of f = x y."""
    used = {u for _, e in reading.definitions.values() for u in names(e)}
    last = [v for v, (letters, _) in reading.definitions.items() if v not in used and not letters]
    by = {n.args[1][0] for e in formulae_of(reading) for n in nodes(e) if n.op == "derivative" and not n.args[0][0]}
    stands_alone = len(last) == 1 and last[0] in reading.rows and by and last[0] not in by
    lost = reading.loss or any(v in LOSSES for v in reading.unread) or target_of(reading)
    deltas = any(v.startswith("δ") for e in formulae_of(reading) for v in names(e))
    if lost or deltas or not stands_alone or marked_any(reading):
        return reading
    return reading._replace(loss=last[0])


def _is_one(world: World) -> bool:
    """Whether what is taken for the loss, though no loss by its name, is one number, or one for each example."""
    reading, batch = world.reading, world.layout.batch
    if reading.loss not in reading.definitions:
        return True
    node = world.values[reading.loss]
    if reading.loss in LOSSES:
        return not batch or {*node.shape} <= {1, world.sized.examples} or bool(node.letters)
    return not node.letters and (1 in node.shape if batch else node.shape == (1, 1))


def _is_square(reading: Reading) -> bool:
    """Whether what is derived is (y − X β)ᵀ (y − X β), which is a number where it can be."""
    products = (n for n in nodes(reading.definitions[reading.loss][1]) if n.op in ("product", "matmul"))
    pairs = ((a, b) for n in products for a, b in pairwise(n.args))
    return any(a == Expr("transpose", (b,)) and b.op == "+" for a, b in pairs)


def _is_number(world: World) -> bool:
    """Whether the loss is one number, where it is that of one example, or there is none."""
    loss = world.values.get(world.reading.loss) if world.reading.loss in world.reading.definitions else None
    return loss is None or world.layout.batch or bool(loss.letters) or loss.shape == (1, 1)


def _is_summed(world: World) -> bool:
    """Whether the text's own loss is that of all examples."""
    own = world.reading.loss and world.reading.loss in world.reading.definitions
    return bool(own) and world.values[world.reading.loss].array[0].size == 1


def _without_loss(reading: Reading) -> Reading:
    """The reading with what was taken for the loss as a value like the others."""
    loss = (reading.loss, ())

    def change(n: Expr) -> Expr | None:
        if n.op in ("derivative", "second") and n.args[0] == ("", ()):
            return Expr(n.op, (loss, *n.args[1:]))
        return None

    return reading._replace(loss="", claims=tuple(changed(c, lambda e: replace(e, change)) for c in reading.claims))


def choose(reading: Reading) -> World | None:
    """The world under which the most lines hold."""
    best, most = None, -1.0
    trials = max(2, TRIALS // (1 + sum(size(e) for e in formulae_of(reading))))
    numerators = any(c.read and has_local(c.left) for c in reading.claims)  # type: ignore[arg-type]  # dy/dx = A
    for world in _limited(worlds(reading), trials):
        for variant in (world, world._replace(turned_adjoints="all"), world._replace(turned_adjoints="vectors")):
            if variant.turned_adjoints and (not world.layout.vectors or most > 0.9 * len(reading.claims)):
                break
            held = sum(many * holds(variant, c) for c, many in _distinct(variant.reading.claims))
            if held > most + (bool(variant.turned_adjoints) and not numerators):
                best, most = variant, held
        if most == sum(c.read for c in reading.claims):
            break
    return best


def _distinct(claims: Iterable[Claim]) -> list[tuple[Claim, int]]:
    """Each equation that was read, with how often it stands in the text."""
    first: dict[tuple, Claim] = {}
    for c in claims:
        if c.read:
            first.setdefault((c.left, c.right), c)
    many = Counter((c.left, c.right) for c in claims)
    return [(c, many[key]) for key, c in first.items()]


def _limited(found: Iterator[World], most: int) -> Iterator[World]:
    for i, world in enumerate(found):
        if i >= most:
            return
        yield world


def holds(world: World, claim: Claim) -> bool:
    """Whether the two sides of a claim that was read are equal at every point, and say something."""
    try:
        outcome = compare(world, claim.left, claim.right)  # type: ignore[arg-type]
    except (ShapeError, UnknownError):
        return False
    return outcome.equal and not outcome.empty


# --- numbers, vectors, batches ---------------------------------------------------------------------------------------


def marked_any(reading: Reading) -> bool:
    """Whether a text has vectors or matrices in it."""
    return any(marked(e) for e in formulae_of(reading))


def marked(expr: Expr) -> bool:
    """Whether a formula is written for vectors or matrices."""
    return any(n.op in _MARKS or (n.op == "reduce" and not _lettered(n) and OPAQUE not in show(n)) for n in nodes(expr))


def _lettered(expr: Expr) -> bool:
    return any(n.op == "name" and n.args[1] for n in nodes(expr))


def layouts(reading: Reading) -> list[Layout]:
    """What the names may be, the likeliest first."""
    formulae = formulae_of(reading)
    strong = any(marked(e) for e in formulae)
    own = [v for v in reading.definitions if v in reading.rows]
    free = {u for v in own for u in names(reading.definitions[v][1])} - {*reading.definitions}
    capitals = any(v[0].isupper() for v in free) and any(v[0].islower() for v in [*free, *own])
    if not reading.arrays and (reading.given or not (strong or capitals)):
        return [Layout()] if reading.given or _sound(reading, [Layout()]) else [Layout(vectors=True)]
    left, right = _sides(reading)
    rows = left > right
    of_losses = [e for v, (_, e) in reading.definitions.items() if v == reading.loss or v in LOSSES]
    counts = (
        {"m", "N", "B", "batch", "Ν"} - reading.parameters - reading.definitions.keys() - no_counts(reading.definitions)
    )
    several = any(
        (n.op == "reduce" and n.args[0] in ("npsum", "mean", "sum") and (n.args[1] is not None or n.args[2].op == "derivative"))
        or (n.op == "name" and n.args[0] in counts)
        for e in formulae for n in nodes(e)
    ) or "X" in reading.free  # fmt: skip
    along = {n.args[1] for _, e in reading.definitions.values() for n in nodes(e) if n.op == "reduce"}
    rows = rows or (not left and not right and along == {0})  # x.mean(axis=0): of the examples
    picked = any(n.op == "reduce" and n.args[:2] == ("pick", 1) for e in formulae for n in nodes(e))
    rows, several = rows or picked, several or picked  # p[range(n), y]: an example is a row
    one, many = Layout(True, rows), Layout(True, rows, True)
    found = [many, one] if several else [one, many]
    said = any(
        (n.op == "reduce" and (n.args[1] is not None or (n.args[0] == "mean" and e in of_losses)))
        or (n.op == "name" and n.args[0] in counts)
        for e in formulae for n in nodes(e)
    )  # fmt: skip
    found = [many] if several and said and _sound(reading, [many]) else found
    found += (
        [Layout(True, not rows, several)]
        if not several or (not (left or right) and along != {0}) or (left and right)
        else []
    )
    found += _variants(reading, found[:2], free)
    fits = strong and reading.definitions and _sound(reading, found)
    return found if fits else [*found, Layout()]


_DOT = re.compile(r"[a-zθφ)]\s*(?:[·⋅]|\\cdot)\s*(?:\\mathbf\{|\\boldsymbol\{)?[a-zθφ∂]")
_ENTRY = re.compile(r"(?<![\w)])(?:gamma|[a-wγ]\d?)\s*\*\s*[a-z]")
_QUOTIENT = re.compile(r"[d∂]\w*\s*/\s*[d∂]")


def _variants(reading: Reading, plain: list[Layout], free: set[str]) -> list[Layout]:
    """What the names may be where a text has a mark of it: w · x, g * x, an a_i of A, X beside x_i, v @ h in code."""

    def written(pattern: re.Pattern) -> bool:
        return any(pattern.search(c.text) for c in reading.claims)

    formulae, found = formulae_of(reading), []
    if any(COLUMN.fullmatch(v) for v in free) or of_entries(reading.definitions):
        found += [layout._replace(single=True) for layout in plain]
    if scales(reading.definitions):
        found += [layout._replace(scale=True) for layout in plain]
    if written(_DOT):
        found += [Layout(True, dot=True), Layout(True, scale=True, dot=True)]
    if written(_ENTRY):
        found += [Layout(True, entry=True)]
    used = {n.args for e in formulae for n in nodes(e) if n.op == "name"} - {(v, ()) for v in reading.definitions}
    if any((v, ()) in used for v, letters in used if len(letters) == 1 and v[0].isupper()):
        found += [Layout(True, table=True)]
    first = [n.args[0] for e in formulae for n in nodes(e) if n.op == "matmul"]
    small = [f.args[1][0] if f.op == "derivative" else f.args[0] for f in first if f.op in ("name", "derivative")]
    code = not written(_QUOTIENT) or any("np.dot" in c.text for c in reading.claims)
    if code and any(v[:1].islower() for v in small):
        found += [Layout(True, flat=True)]
    return found


def _sound(reading: Reading, found: list[Layout]) -> bool:
    """Whether the forward equations fit together under one of these layouts."""
    for layout in found:
        try:
            build(reading, layout, Loss())
        except (ShapeError, UnknownError):
            continue
        return True
    return False


def _sides(reading: Reading) -> tuple[int, int]:
    """How often the inputs stand on the left of their weights, and how often on the right."""
    left = right = 0
    values = set(reading.definitions)
    for _, e in reading.definitions.values():
        for n in nodes(e):
            if n.op in ("product", "matmul") and not (n.args[0].op == "transpose" and len(n.args) > 2):
                plain = [f.args[0] for f in n.args if f.op == "name"]
                if len(plain) > 1:
                    left += bool(INPUT.fullmatch(plain[0]) or plain[0] in values) and not INPUT.fullmatch(plain[-1])
                    right += bool(INPUT.fullmatch(plain[-1]) or plain[-1] in values) and not INPUT.fullmatch(plain[0])
    return left, right


def _letters_differ(reading: Reading) -> bool:
    """Whether letters may say which layer a name is of: w_ji and w_kj, δ_j and δ_k, o_j computed from o_i."""
    seen: dict[str, set] = {}
    for e in formulae_of(reading):
        for n in nodes(e):
            if n.op == "name" and (len(n.args[1]) == 2 or n.args[0].startswith("δ")):
                seen.setdefault(n.args[0], set()).add(n.args[1])
    heads = {c.left.args for c in reading.claims if c.read and c.left.op == "name" and len(c.left.args[1]) == 1}  # type: ignore
    lost = {v for v, _ in heads} - {*reading.definitions} - {*reading.notes}
    return any(len(s) > 1 for s in seen.values()) or any(not v.startswith("δ") for v in lost)


def _typed(reading: Reading) -> Reading:
    """w_ji and w_kj as two names: letters say which layer."""

    def one(v):
        return (f"{v[0]}⟨{''.join(v[1])}⟩", v[1]) if v[1] else v

    def typed(n: Expr) -> Expr | None:
        if n.op == "name":
            return Expr("name", one(n.args))
        return Expr("derivative", tuple(map(one, n.args))) if n.op == "derivative" else None

    return read([changed(c, lambda e: replace(e, typed)) for c in reading.claims])._replace(loss=reading.loss)


def _generics(reading: Reading) -> tuple[str, ...]:
    """What an activation without a formula may be: the exercise's, or any; the likelier first."""
    given = any(v not in reading.rows and e.op == "call" for v, (_, e) in reading.definitions.items())
    if given:  # the exercise's g
        return ("relu",)
    every = [n for e in formulae_of(reading) for n in nodes(e)]
    called = {n.args[0] for n in every if n.op == "call"}
    if called <= FUNCTIONS.keys():
        return ("any",)
    stepwise = any(n.op == "compare" for n in every) or any(f.startswith("g") for f in called)
    return ("relu", "any") if stepwise else ("any", "relu")


# --- the loss --------------------------------------------------------------------------------------------------------


def losses(reading: Reading, layout: Layout) -> list[Loss]:
    """The text's own loss; without one, the adjoint that is given, or a loss that the lines may mean."""
    own = reading.loss in reading.definitions
    base = [Loss()]
    stated = own or any(v == reading.loss or v in LOSSES for v in reading.unread)  # a loss that was not read is one
    stated = stated or any(may_define(c) for c in reading.claims)
    target = None if stated else target_of(reading)
    if target:
        base = [loss for loss in _assumed(reading, target) if loss] + base
    if not layout.batch or letter_of_examples(reading):
        return [loss._replace(each=each) for loss in base for each in (False, True)[: 1 + own_losses(reading)]]
    stated = nodes(reading.definitions[reading.loss][1]) if own else ()
    mean = any((n.op == "reduce" and n.args[0] == "mean") or (n.op == "name" and n.args[0] in "mNnB") for n in stated)
    ways = [(False, False), (False, True)] if own and mean else [(False, False), (True, True), (True, False)]
    return [loss._replace(mean=m, each=e) for loss in base for m, e in ways]


def target_of(reading: Reading) -> str | None:
    """A name like y that only lines with derivatives have."""
    known = {*reading.definitions, *reading.free, *reading.notes}
    for c in reading.claims:
        if c.read and c.left.op in ("derivative", "name"):  # type: ignore
            for v in sorted(names(c.right)):  # type: ignore
                if v not in known and TARGET.fullmatch(v):
                    return v
    return None


def _assumed(reading: Reading, target: str) -> Iterator[Loss | None]:
    output = output_of(reading)
    if not output:
        return
    e = reading.definitions[output][1]
    while e.op == "name" and e.args[0] in reading.definitions:
        e = reading.definitions[e.args[0]][1]
    out, y = name(output, reading.definitions[output][0]), name(target, reading.definitions[output][0])

    def total(body: Expr) -> Expr:
        return Expr("sum", (out.args[1], body, "")) if out.args[1] else Expr("reduce", ("sum", None, body))

    def log(a: Expr) -> Expr:
        return Expr("call", ("log", 0, a))

    def minus(a: Expr, b: Expr) -> Expr:
        return Expr("+", (a, Expr("negative", (b,))))

    shown = f"{show_variable(out.args)} − {show_variable(y.args)}"
    square = total(Expr("^", (minus(out, y), number(2))))
    yield Loss(Expr("product", (number(0.5), square)), f"½({shown})² (assumed)")
    if output in reading.rows:
        yield Loss(square, f"({shown})² (assumed)")
    soft = (e.op == "reduce" and e.args[0] == "softmax") or (e.op == "/" and has(e, "sum", "reduce"))
    if soft:
        yield Loss(Expr("negative", (total(Expr("hadamard", (y, log(out)))),)), "the cross-entropy (assumed)")
    elif (e.op == "call" and (e.args[0] == "sigmoid" or e.args[0].startswith("σ"))) or e.op == "/":
        one = number(1)
        both = Expr("+", (Expr("hadamard", (y, log(out))), Expr("hadamard", (minus(one, y), log(minus(one, out))))))
        yield Loss(Expr("negative", (total(both),)), "the cross-entropy (assumed)")


# --- δ ---------------------------------------------------------------------------------------------------------------


def with_deltas(world: World) -> World:
    """Say which adjoint each δ is: of the pre-activation with its index, unless several lines hold for others alone."""
    every = [
        n.args[0]
        for c in world.reading.claims
        for e in (c.left, c.right)
        if isinstance(e, Expr)
        for n in nodes(e)
        if n.op == "name"
    ]
    texts = sorted({v for v in every if v.startswith("δ") and v not in world.values and v not in world.reading.notes})
    together: dict[tuple, list[str]] = {}  # δ_{t-1}, δ_t and δ_{t+1} are of one kind
    for text in texts:
        counted = counter(text)
        together.setdefault(counted[:2] if counted else (text,), []).append(text)
    groups = list(together.values())[:12]
    about = [c for c in world.reading.claims if c.read and (names(c.right) | names(c.left)) & {*texts}][:24]  # type: ignore
    candidates = {group[0]: _candidates(world, group[0]) for group in groups}
    named = _assigned(world, groups, candidates)
    if any(goes_up(c.left, c.right) or _takes_off(c) for c in about):  # type: ignore[arg-type]  # Δw = η δ h: δ is −dL/dz
        other = _assigned(world._replace(opposite=True), groups, candidates)
        if sum(holds(other, c) for c in about) > sum(holds(named, c) for c in about):
            return other
    if sum(not holds(named, c) for c in about) < 2:
        return named
    held = sum(holds(named, c) for c in about)
    clash = len({*named.deltas.values()}) < len(named.deltas)  # two of one value
    found: list[tuple[int, World]] = []
    for places, enough in ((_places(world), held + 2 - clash), (_everywhere(world), len(about))):
        free = _assigned(world, groups, {group[0]: places for group in groups})
        most = sum(holds(free, c) for c in about)
        found += [(most, free)] if most >= enough else []
    return max(found, key=lambda f: f[0])[1] if found else named


def _takes_off(claim: Claim) -> bool:
    """∂L/∂W = −δ xᵀ."""
    left, right = claim.left, claim.right
    if not isinstance(left, Expr) or not isinstance(right, Expr) or left.op != "derivative":
        return False
    first = right.args[0] if right.op in ("product", "hadamard", "matmul", "outer") else right
    return first.op == "negative" and any(v.startswith("δ") for v in names(first))


def _assigned(world: World, groups: list[list[str]], candidates: dict[str, list[str]]) -> World:
    """Each δ as the adjoint of the candidate for which most of the lines with it hold."""
    for _ in range(2 if len(groups) > 1 else 1):
        for group in groups:
            uses = [c for c in world.reading.claims if c.read and (names(c.right) | names(c.left)) & {*group}][:12]  # type: ignore
            scored = [
                (sum(holds(_standing(world, group, v), c) for c in uses), -i, v)
                for i, v in enumerate(candidates[group[0]])
            ]
            if scored:
                world = _standing(world, group, max(scored)[2])
    return world


def _standing(world: World, group: list[str], v: str) -> World:
    """δ's stand for v's: the first for v, others of the same letter for those as far from v as they are from the first."""
    first, at = counter(group[0]), counter(v)
    if first is None or at is None:
        return world._replace(deltas=world.deltas | dict.fromkeys(group, v))
    far = {text: found[2] - first[2] for text in group if (found := counter(text))}
    return world._replace(deltas=world.deltas | {text: moved(v, at[1], by) for text, by in far.items()})


def _places(world: World) -> list[str]:
    """What an activation acts on, and what is computed without one: where an error may stand."""
    definitions = {v: e for v, (_, e) in world.reading.definitions.items() if v not in ("", world.reading.loss)}
    acted = ("call", "cases", "reduce", "name")
    return [v for v in reversed(definitions) if definitions[v].op not in acted][:8]


def _everywhere(world: World) -> list[str]:
    """All that is computed, what an activation gives with it."""
    return [v for v in reversed(world.reading.definitions) if v not in ("", world.reading.loss)][:12]


def _candidates(world: World, text: str) -> list[str]:
    """Names that δ may belong to: pre-activations first, those with its index alone where there are any."""
    definitions = {v: e for v, (_, e) in world.reading.definitions.items() if v not in ("", world.reading.loss)}
    active = {
        n.args[2].args[0] for e in definitions.values() for n in nodes(e) if n.op == "call" and n.args[2].op == "name"
    }
    active |= {
        n.args[2].args[0] for e in definitions.values() for n in nodes(e) if n.op == "reduce" and n.args[2].op == "name"
    }

    def acted(v: str) -> bool:
        e = definitions[v]
        return (
            e.op in ("call", "cases")
            or (e.op == "reduce" and e.args[0] == "softmax")
            or (e.op == "name" and e.args[0] in definitions)
        )

    order = sorted(definitions, key=lambda v: (v not in active, acted(v), -list(definitions).index(v)))
    tag = text.partition("‹")[0][1:].lstrip("_")
    same = [v for v in order if tag and tag in (v, re.sub(r"^[A-Za-zͰ-Ͽ]+?(?=[\d_⟨]|$)", "", v).lstrip("_"))]
    same = [v for v in same if not acted(v) or v == tag] or same  # of z_2 and a_2 it is z_2
    return same or ([v for v in order if not acted(v)] if not tag else order)
