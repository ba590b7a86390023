"""The network that a text is about, where its own forward equations are not all of it: the exercise, or one that is given."""

import re
from functools import cache
from typing import Any

from jaxbackprop.grading.claims import claims_of, may_define, nodes_of, symbols_of
from jaxbackprop.grading.counters import counter
from jaxbackprop.grading.expression import Expr, name, names, nodes, plus, renamed
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.meanings import Definition
from jaxbackprop.grading.reading import Reading, ordered, read, with_names
from jaxbackprop.grading.words import LOSSES

EXERCISE = "z0 = w0 x; h0 = g(z0); z1 = w1 h0; h1 = g(z1); z2 = w2 h1 + w3 h0; yhat = z2; h2 = z2"


@cache
def exercise() -> dict[str, Definition]:
    """The definitions of the exercise's network."""
    return read(claims_of(chains(EXERCISE))).definitions


def completed(reading: Reading) -> tuple[Reading, str]:
    """The reading with the exercise's equations where it leaves something open that they define; and how it was got.

    >>> from jaxbackprop.grading.lines import chains
    >>> both, words = completed(read(claims_of(chains("dL/dA_1 = dL/dz2 w2"))))
    >>> list(both.definitions)[:4], words
    (['z0', 'h0', 'z1', 'A1'], 'the exercise (no forward equations given)')
    """
    reading = _same_letters(reading)
    own = [v for v in reading.definitions if v != reading.loss]
    known = {*reading.definitions, *reading.free, *reading.notes, *reading.functions}
    asked = symbols_of(reading.claims) - {*reading.notes}
    apart = _apart(reading)
    missing = {_exercise_name(v, apart) for v in asked - known} & {*exercise(), "w0", "w1", "w2", "w3"}
    theirs = {*exercise(), "x", "w0", "w1", "w2", "w3"}
    only = all({_exercise_name(u, apart) for u in ({v} | names(reading.definitions[v][1]))} & theirs for v in own)
    lost = any(may_define(c) for c in reading.claims)
    linear = {v: e for v, (_, e) in reading.definitions.items() if _exercise_name(v, apart) == "h2"}
    other = any(e.op == "call" and (e.args[0] in FUNCTIONS or e.args[0].startswith("σ")) for e in linear.values())
    every = nodes_of(reading.claims)
    matrices = not any(re.fullmatch(r"[wzh]\d|x", v) for v in asked) and any(n.op == "matmul" for n in every)
    other |= not own and matrices  # code, of a network that is somewhere else
    other |= any(n.op == "reduce" and "softmax" in n.args[0] for _, e in reading.definitions.values() for n in nodes(e))
    if reading.unread or lost or other or (reading.definitions and not (missing - {"yhat", "h2"} and only)):
        return reading, _rows(reading)
    spelling: dict[str, str] = {}
    for v in sorted(asked, key=lambda v: (v != _exercise_name(v, apart), v)):
        spelling.setdefault(_exercise_name(v, apart), v)
    reading = with_names(reading, lambda v: spelling.get(_exercise_name(v, apart), v))
    reading = read(list(reading.claims))._replace(loss=reading.loss)
    theirs = {spelling.get(v, v): (k, renamed(e, lambda v: spelling.get(v, v))) for v, (k, e) in exercise().items()}
    # h2 is a name for z2 only where the text uses it
    theirs = {v: d for v, d in theirs.items() if v != "h2" or "h2" in asked}
    both = ordered(theirs | reading.definitions)
    words = f"the exercise, completed by {_rows(reading)}" if own else "the exercise (no forward equations given)"
    return reading._replace(definitions=both), words


def _exercise_name(v: str, apart: frozenset[str]) -> str:
    """A_1 is the exercise's h1, W_0 its w0, X its x; unless the text has both."""
    low = v if v in apart else v.lower()
    if re.fullmatch(r"a\d+", low) and v not in apart:
        low = f"h{low[1:]}"
    return low if low in {*exercise(), "x", "w0", "w1", "w2", "w3"} else v


def _apart(reading: Reading) -> frozenset[str]:
    """Names a1 that the text keeps apart from h1, because it computes one from the other; X, where there is an x."""
    inside = {v: names(e) | {v} for v, (_, e) in reading.definitions.items()}
    both = {"x", "X"} <= symbols_of(reading.claims)
    return frozenset(
        {a for us in inside.values() for a in us if re.fullmatch(r"[aA]\d+", a) and f"h{a[1:]}" in us}
        | ({"X"} if both else set())
    )


def _rows(reading: Reading) -> str:
    rows = sorted(reading.rows[v] for v in reading.definitions if v in reading.rows and v != reading.loss)
    if not rows:
        return "no forward equations"
    return f"line {rows[0]}" if rows[0] == rows[-1] else f"lines {rows[0]}-{rows[-1]}"


def _same_letters(reading: Reading) -> Reading:
    """A name that no forward equation has, and that differs by capitals, a hat's spelling or a for h from one that they have."""
    known = {*reading.definitions, *reading.free, *reading.notes}
    if not reading.definitions:
        return reading
    used = symbols_of(reading.claims)
    every = nodes_of(reading.claims)
    own = {v for n in every if n.op == "partial" for v in names(n.args[0])}  # the x of ∂(a^T x)/∂x, beside an X
    other: dict[str, str] = {}
    for v in used - known - own:
        near = [u for u in known if u and u.lower() == v.lower() and u not in (reading.loss, *LOSSES)]
        swapped = v.translate(str.maketrans("ahAH", "haHA"))
        near = near or [u for u in known if re.fullmatch(r"[ahAH]\d+", v) and u == swapped and not counter(v)]
        near = near or [u for u in known if len(v) > 2 and u.startswith(f"{v}_")]  # dhidden, of hidden_layer
        if len(near) == 1:
            other[v] = near[0]
    return with_names(reading, lambda v: other.get(v, v)) if other else reading


# --- a network that is given -----------------------------------------------------------------------------------------


def from_network(network: Any, reading: Reading) -> Reading:
    """The reading with the definitions of a `jaxbackprop.Network`.

    The pre-activation of layer h<k> is z<k>; that of another layer has the number of the layer. The weight of the edge
    s -> t is w_t_s, and the bias of t is b_t. Both have a short name too: the one that the text's forward equations
    give it, else w0, w1, ... and b0, b1, ... in the network's order (for the exercise's wiring: the exercise's names).

    Raises:
        TypeError: not a network.
        ValueError: an activation that `grade` does not know by name.
    """
    try:
        layers = [(t.name, tuple(t.sources), t.activation, bool(t.bias)) for t in network.layers]
    except (AttributeError, TypeError):
        raise TypeError(f"network is a {type(network).__name__}: give a jaxbackprop.Network") from None
    z_of = {t[0]: "z" + (t[0][1:] if t[0][0] == "h" and t[0][1:].isdigit() else str(i)) for i, t in enumerate(layers)}
    edges = {
        (z_of[t[0]], s): (f"w{i}", f"w_{t[0]}_{s}") for i, (t, s) in enumerate((t, s) for t in layers for s in t[1])
    }
    edges |= {(z_of[t[0]], None): (f"b{i}", f"b_{t[0]}") for i, t in enumerate(layers) if t[3]}
    reading = with_names(reading, lambda v: _network_name(v, {*z_of, *z_of.values(), "x"}))
    written = _written_names(reading, edges, z_of)
    definitions: dict[str, Definition] = {}
    longer: dict[str, str] = {}
    for layer, sources, activation, bias in layers:
        function = getattr(activation, "name", activation)
        if not isinstance(function, str) or function not in FUNCTIONS:
            known = ", ".join(sorted(FUNCTIONS))
            raise ValueError(f"layer {layer!r} has the activation {activation!r}: grade knows those named {known}")
        z, terms = z_of[layer], []
        for source in (*sources, None) if bias else sources:
            short, long = edges[z, source]
            short = written.get((z, source)) or (long if short in written.values() else short)
            longer[long] = short
            terms.append(name(short) if source is None else Expr("product", (name(short), name(source))))
        definitions[z] = ((), plus(terms))
        definitions[layer] = ((), name(z) if function == "identity" else Expr("call", (function, 0, name(z))))
    if "yhat" not in definitions:
        definitions["yhat"] = ((), name(layers[-1][0]))
    reading = with_names(reading, lambda v: longer.get(v, v))
    if reading.loss in reading.definitions:
        definitions[reading.loss] = reading.definitions[reading.loss]
    extra = {
        v: d
        for v, d in reading.definitions.items()
        if v not in definitions and v in reading.rows and v not in z_of and names(d[1]) <= {*definitions}
    }
    return reading._replace(definitions=ordered(definitions | extra))


def _network_name(v: str, layers: set[str]) -> str:
    """Capitals and a for h, as far as the network's own names go."""
    low = v.lower() if v.lower() in layers or re.fullmatch(r"[wb]\d+", v.lower()) else v
    swapped = re.sub(r"^a(?=\d+$)", "h", low)
    return swapped if swapped in layers else low


def _written_names(reading: Reading, edges: dict, z_of: dict[str, str]) -> dict:
    """(z, source) -> the text's name for the weight of that edge, and (z, None) -> for a bias."""
    sources = {s for _, s in edges if s}
    layers = {*sources, *z_of, *z_of.values()}
    found = {}
    for target, (_, e) in reading.definitions.items():
        body = e.args[2] if e.op == "call" else e
        z = z_of.get(target, target)
        for term in body.args if body.op == "+" else (body,):
            match term.op, term.args:
                case "name", (bias, ()) if bias not in layers and (z, None) in edges:
                    found[z, None] = bias
                case (("product" | "matmul"), (Expr(op="name", args=(a, _)), Expr(op="name", args=(b, _)))):
                    weight, source = (a, b) if b in sources else (b, a)
                    if (z, source) in edges and weight not in layers:
                        found[z, source] = weight
    return found
