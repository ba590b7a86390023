"""The network that a text describes, or that is given: its forward equations in an order that can be computed.

chains of formulae --read_forward()--> Forward --wire()--> Wiring          Network --from_network()--> Wiring
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jaxbackprop.grading.formula import (
    FUNCTIONS,
    ONE,
    Expr,
    UnknownError,
    has,
    name,
    names,
    nodes,
    plus,
    pullback,
)

GENERIC = ("g", "f", "phi", "psi", "act", "varphi")  # names for "the activation"


class Wiring(NamedTuple):
    """Forward equations in an order in which they can be computed.

    Attributes:
        definitions: variable -> formula.
        same: variable -> the variable that it is another name of (yhat -> z2).
        functions: name -> (its variable, its formula), for functions that the text defines.
        output: the variable whose adjoint is given, or "L" where the text has a loss.
        notes: other symbols that the text introduces (masks, errors): symbol -> formula.
    """

    definitions: dict[str, Expr]
    same: dict[str, str]
    functions: dict[str, tuple[str, Expr]]
    output: str
    notes: dict[str, Expr]

    def of(self, variable: str) -> str:
        """The variable that this one is a name of."""
        return self.same.get(variable, variable)


class Forward(NamedTuple):
    """What a text's forward equations say: every definition of each variable, and which names mean one thing."""

    definitions: dict[str, list[Expr]]
    same: list[tuple[str, str]]
    functions: dict[str, tuple[str, Expr]]


# --- from equations to a wiring --------------------------------------------------------------------------------------


def is_forward(terms: list[Expr]) -> bool:
    """Whether a chain of formulae defines something: it begins with a variable or a function, and has no derivative."""
    return terms[0].op in ("name", "call") and not any(has(t, "derivative", "partial") for t in terms)


def read_forward(chains: Iterable[list[Expr]]) -> Forward:
    """Collect what chains such as h0 = g0(z0) = {0, z0 < 0; z0, else} define."""
    found = [terms for terms in chains if terms and is_forward(terms) and all(_can_define(t) for t in terms)]
    heads = {terms[0].args[0] for terms in found if terms[0].op == "name" and any(t.op != "name" for t in terms)}
    forward = Forward({}, [], {})
    for terms in found:
        if terms[0].op == "call":
            _define_function(forward, terms)
        else:
            _define_variable(forward, terms, heads)
    return forward


def _can_define(expr: Expr) -> bool:
    """Whether a formula has derivatives that this module can take."""
    if any(n.op == "call" and (n.args[1] or n.args[0] == "diag") for n in nodes(expr)):
        return expr.op == "call" and expr.args[0] != "diag"  # g'(z) = ... defines nothing, but is no obstacle
    try:
        pullback(expr, ONE)
    except UnknownError:
        return False
    return True


def _define_function(forward: Forward, terms: list[Expr]):
    """g(z) = max(0, z)."""
    function, primes, *arguments = terms[0].args
    body = next((t for t in terms[1:] if not _generic_call(t)), None)
    if body is not None and not primes and function not in FUNCTIONS and arguments[0].op == "name":
        _learn_function(forward, function, arguments[0].args[0], body)


def _learn_function(forward: Forward, function: str, variable: str, body: Expr):
    calls = [n for n in nodes(body) if n.op == "call" and n.args[0] not in FUNCTIONS]
    if names(body) <= {variable} and not calls:
        forward.functions.setdefault(function, (variable, body))


def _define_variable(forward: Forward, terms: list[Expr], heads: set[str]):
    bare = list(dict.fromkeys(t.args[0] for t in terms if t.op == "name"))
    formulae = [t for t in terms if t.op != "name" and names(t)]
    calls = [t for t in formulae if _generic_call(t)]
    concrete = [t for t in formulae if not _generic_call(t)]
    for call in calls:
        variable = call.args[2].args[0]
        body = next((t for t in concrete if names(t) == {variable}), name(variable) if variable in bare else None)
        if body is not None:
            _learn_function(forward, call.args[0], variable, body)
    inside = {v for t in formulae for v in names(t)}
    free = [v for v in bare if v not in inside]
    if (
        concrete
        and names(concrete[0])
        and len(names(concrete[0])) == 1
        and concrete[0].op == "cases"
        and any(re.fullmatch(r"[ah]\d*|yhat", v) for v in free)
    ):
        # an activation that is written out: give it a name, so that its derivative has one
        variable = next(iter(names(concrete[0])))
        function = calls[0].args[0] if calls else f"g_{free[0]}"
        _learn_function(forward, function, variable, concrete[0])
        calls = [Expr("call", (function, 0, name(variable)))]
        concrete = []
    formula = next(iter(concrete), None) or next(iter(calls), None)
    if formula is not None and calls and calls[0].args[2].args[0] in bare:
        formula = None  # h2 = g2(z2) = z2: only names for one thing
    if formula is not None and free:
        anchor = min(free, key=lambda v: (v == "yhat", "zh".find(v[0]) % 3, free.index(v)))
        forward.definitions.setdefault(anchor, []).append(formula)
        bare = [anchor, *(v for v in bare if v != anchor and v in free)]
    elif len(bare) > 1:
        bare.sort(key=lambda v: v not in heads)
    forward.same.extend((bare[0], other) for other in bare[1:])


def _generic_call(expr: Expr) -> bool:
    return expr.op == "call" and expr.args[0] not in FUNCTIONS and not expr.args[1] and expr.args[2].op == "name"


def wire(forward: Forward, chosen: dict[str, Expr] | None = None, default: "Wiring | None" = None) -> Wiring:
    """Order the definitions, the first of each variable unless another is `chosen`; fill gaps from `default`.

    A definition that needs itself is left out: its variable becomes an input.
    """
    definitions = dict(default.definitions) if default else {}
    stated = {v: exprs[0] for v, exprs in forward.definitions.items()} | (chosen or {})
    # yhat = tanh(z2) in the text: then yhat is no longer another name of z2
    inherited = [(a, b) for a, b in (default.same if default else {}).items() if not names(stated.get(a, ONE)) & {a, b}]
    groups = _groups([*forward.same, *inherited])
    same = {}
    for group in groups:
        head = next((v for v in group if v in stated), next((v for v in group if v in definitions), group[0]))
        same.update({v: head for v in group if v != head})
    for variable, expr in stated.items():
        definitions.setdefault(same.get(variable, variable), expr)
        if variable not in same:
            definitions[variable] = expr
    definitions = {v: e for v, e in definitions.items() if v not in same}
    ordered = dict(_ordered(definitions, same))
    inner = {same.get(v, v) for e in ordered.values() for v in names(e)}
    sinks = [v for v in ordered if v not in inner]
    yhat = same.get("yhat", "yhat")
    if "L" in ordered:
        output = "L"
    else:
        output = yhat if yhat in ordered else (sinks or [yhat])[-1]
        if yhat not in ordered:
            same["yhat"] = output  # the last thing computed is what the text calls yhat
            same.pop(output, None)
    functions = (default.functions if default else {}) | forward.functions
    return Wiring(ordered, same, functions, output, {})


def _groups(pairs: list[tuple[str, str]]) -> list[list[str]]:
    groups: list[list[str]] = []
    for a, b in pairs:
        touching = [g for g in groups if a in g or b in g]
        merged = list(dict.fromkeys([v for g in touching for v in g] + [a, b]))
        groups = [g for g in groups if g not in touching] + [merged]
    return groups


def _ordered(definitions: dict[str, Expr], same: dict[str, str]) -> Iterator[tuple[str, Expr]]:
    """Definitions whose variables are known come first; those in a circle are left out."""
    needs = {v: {same.get(n, n) for n in names(e)} for v, e in definitions.items()}
    while needs:
        ready = [v for v, used in needs.items() if not used & needs.keys()]
        if not ready:
            needs.pop(next((v for v, used in needs.items() if v in used), next(iter(needs))))
        for v in ready:
            needs.pop(v)
            yield v, definitions[v]


def from_network(network: Any, forward: Forward | None = None) -> Wiring:
    """The wiring of a `jaxbackprop.Network`.

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
    written = _written_names(forward, edges, z_of) if forward else {}
    definitions, same = {}, {}
    for layer, sources, activation, bias in layers:
        function = getattr(activation, "name", activation)
        if not isinstance(function, str) or function not in FUNCTIONS:
            known = ", ".join(sorted(FUNCTIONS))
            raise ValueError(f"layer {layer!r} has the activation {activation!r}: grade knows those named {known}")
        z, terms = z_of[layer], []
        for source in (*sources, None) if bias else sources:
            short, long = edges[z, source]
            short = written.get((z, source)) or (long if short in written.values() else short)
            if short != long:
                same[long] = short
            terms.append(name(short) if source is None else Expr("product", (name(short), name(source))))
        definitions[z] = plus(terms)
        if function == "identity":
            same[layer] = z
        else:
            definitions[layer] = Expr("call", (function, 0, name(z)))
    output = same.get(layers[-1][0], layers[-1][0])
    if "yhat" not in (output, *same):
        same["yhat"] = output
    return Wiring(definitions, same, {}, output, {})


def _written_names(forward: Forward, edges: dict, z_of: dict[str, str]) -> dict:
    """(z, source) -> the text's name for the weight of that edge, and (z, None) -> for a bias."""
    sources = {s for _, s in edges if s}
    layers = {*sources, *z_of, *z_of.values()}
    found = {}
    for target, exprs in forward.definitions.items():
        body = exprs[0].args[2] if exprs[0].op == "call" else exprs[0]
        z = z_of.get(target, target)
        for term in body.args if body.op == "+" else (body,):
            match term.op, term.args:
                case "name", (bias,) if bias not in layers and (z, None) in edges:
                    found[z, None] = bias
                case (("product" | "matmul"), (Expr(op="name", args=(a,)), Expr(op="name", args=(b,)))):
                    weight, source = (a, b) if b in sources else (b, a)
                    if (z, source) in edges and weight not in layers:
                        found[z, source] = weight
    return found


def numbers_only(expr: Expr) -> bool:
    """Whether a formula is a plain number."""
    return not names(expr) and not has(expr, "derivative", "partial", "call")


def free_variables(wiring: Wiring) -> list[str]:
    """Inputs, weights, biases, targets: what no equation defines."""
    used = [wiring.of(v) for e in wiring.definitions.values() for v in sorted(names(e))]
    return [v for v in dict.fromkeys(used) if v not in wiring.definitions]


def gates(wiring: Wiring) -> list[str]:
    """The variables on which an activation acts: z0, z1, ..."""
    calls = [n for e in wiring.definitions.values() for n in nodes(e) if n.op == "call" and n.args[2].op == "name"]
    return list(dict.fromkeys(wiring.of(c.args[2].args[0]) for c in calls))


def function_at(wiring: Wiring, function: str, argument: Expr) -> str:
    """Which function a call means: g(z1) is whatever acts on z1, unless the text defines g."""
    if function in FUNCTIONS or function in wiring.functions:
        return function
    plain = function.rstrip("0123456789").rstrip("_")
    if plain not in GENERIC:
        raise UnknownError(f"the function {function} is not known")
    if plain in wiring.functions:
        return plain
    if argument.op == "name":
        v = wiring.of(argument.args[0])
        for expr in wiring.definitions.values():
            if expr.op == "call" and expr.args[2].op == "name" and wiring.of(expr.args[2].args[0]) == v:
                acting = expr.args[0]
                if acting in FUNCTIONS or acting in wiring.functions:
                    return acting
    return "relu"


def activation_of(wiring: Wiring, z: str) -> Expr | None:
    """g(z), as the network applies it to z."""
    for expr in wiring.definitions.values():
        if expr.op == "call" and expr.args[2].op == "name" and wiring.of(expr.args[2].args[0]) == z:
            return expr
    return None


def derivative_of(call: Expr) -> Expr:
    """g'(z), for g(z)."""
    return Expr("call", (call.args[0], 1, call.args[2]))
