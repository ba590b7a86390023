"""Cases by the form of parameters, batch and arguments; and casts to 32 bits or fewer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from zoo_case import B, Case, bend, loose, of, of_matrix


class Pair(NamedTuple):
    """A NamedTuple of parameters."""

    W: Any
    b: Any


def dropped(p, x, key):
    keep = jax.random.bernoulli(key, 0.5, (2,))
    return jnp.where(keep, jnp.tanh(p["W"] @ x), 0) @ p["V"]


def cross_entropy(p, x, y):
    return -jax.nn.log_softmax(x @ p["W"] + p["b"])[y]


def with_aux(p, x):
    z = x @ p
    return bend(z), {"z": z, "largest": z.max()}


def nested(p, x):
    h = x @ p["in"].W + p["in"].b
    for W, (b, *_) in p["middle"]:
        h = jnp.tanh(h @ W) + b
    return h * p["out"]["scale"]


FORM = {
    "two_of_one_name": lambda rnd: of(
        lambda p, x: jnp.tanh(x @ p["w"]) * p["a/b"] + p["a"]["b"],
        {"w": rnd(6, 3), "a/b": rnd(3), "a": {"b": rnd(3)}},
        rnd(B, 5, 6),
    ),
    "named_as_a_formed_one": lambda rnd: of(
        lambda p, x: jnp.tanh(x @ p["a"] + p["leaf 0"]), {"a": rnd(6, 2), "leaf 0": rnd(2)}, rnd(B, 50, 6)
    ),
    "named_as_a_site": lambda rnd: of(
        lambda p, x: jnp.tanh(x @ p["w"]) * p["0.1"], {"w": rnd(6, 3), "0.1": rnd(3)}, rnd(B, 5, 6)
    ),
    "unused_leaf": lambda rnd: of(lambda p, x: p["W"] @ x, {"W": rnd(2, 5), "not": rnd(3)}, rnd(B, 5)),
    "unused_layer": lambda rnd: of(
        lambda p, x: p["a"]["W"] @ x, {"a": {"W": rnd(2, 5)}, "b": {"W": rnd(3)}}, rnd(B, 5)
    ),
    "nothing_used": lambda rnd: Case(lambda p, x: jnp.sum(x), {"W": rnd(2, 5)}, (rnd(B, 5),)),
    "dead_code": lambda rnd: of(lambda p, x: (p[1] @ x, p[0] @ x)[1], (rnd(2, 5), rnd(3, 5)), rnd(B, 5)),
    "dead_branch": lambda rnd: of(
        lambda p, x: lax.cond(jnp.sum(x**2) < -1, lambda: p[0] @ x, lambda: p[1] @ x), (rnd(2, 5), rnd(2, 5)), rnd(B, 5)
    ),
    "dead_in_jit": lambda rnd: of(
        lambda p, x: jax.jit(lambda p: (p[1] @ x, p[0] @ x))(p)[1], (rnd(2, 5), rnd(3, 5)), rnd(B, 5)
    ),
    "times_zero": lambda rnd: of(lambda p, x: p[0] @ x + 0 * (p[1] @ x), (rnd(2, 5), rnd(2, 5)), rnd(B, 5)),
    "compared_only": lambda rnd: of(lambda p, x: p[0] @ x * (p[1] @ x > 0), (rnd(2, 5), rnd(2, 5)), rnd(B, 5)),
    "zero_gradient_of_some": of_matrix(lambda W, x: jax.nn.relu(x[0] * 9) * (W @ x), (2, 5), 5),
    "nested": lambda rnd: of(
        nested,
        {
            "in": Pair(rnd(2, 5), rnd(5)),
            "middle": [(rnd(5, 3), (rnd(3), None)), (rnd(3, 7), [rnd(7)])],
            "out": {"scale": rnd(), "none": None},
        },
        rnd(B, 6, 2),
    ),
    "tuple": lambda rnd: of(lambda p, x: p[0] @ x + p[1], (rnd(2, 5), rnd(2)), rnd(B, 5)),
    "namedtuple": lambda rnd: of(lambda p, x: p.W @ x + p.b, Pair(rnd(2, 5), rnd(2)), rnd(B, 5)),
    "layers": lambda rnd: of(
        lambda p, x: jnp.tanh(x @ p["a"]["W"] + p["a"]["b"]) @ p["c"]["W"] + p["c"]["b"],
        {"a": {"W": rnd(5, 2), "b": rnd(2)}, "c": {"W": rnd(2, 3), "b": rnd(3)}},
        rnd(B, 6, 5),
    ),
    "only_a_scalar": of_matrix(lambda s, x: s * x, (), 5),
    "empty_leaf": lambda rnd: of(
        lambda p, x: p["W"] @ x + p["none"].sum(), {"W": rnd(2, 5), "none": rnd(0, 3)}, rnd(B, 5)
    ),
    "no_positions": lambda rnd: of(lambda p, x, y: (x @ p, y @ p), rnd(5, 2), rnd(B, 0, 5), rnd(B, 5)),
    "aux": lambda rnd: Case(with_aux, rnd(5, 2), (rnd(B, 3, 5),), has_aux=True),
    "argnums": lambda rnd: of(lambda x, p, y: jnp.tanh(p @ x) * y, rnd(2, 5), rnd(B, 5), rnd(B, 2), argnums=1),
    "argnums_pair": lambda rnd: of(
        lambda p, x, q: q["V"] @ jnp.tanh(p @ x), (rnd(2, 5), {"V": rnd(3, 2)}), rnd(B, 5), argnums=(0, 2)
    ),
    "in_axes_none": lambda rnd: of(
        lambda p, x, c: c @ jnp.tanh(p @ x), rnd(2, 5), rnd(B, 5), rnd(3, 2), in_axes=(0, None)
    ),
    "in_axes_one": lambda rnd: of(lambda p, x, y: jnp.tanh(p @ x) * y, rnd(2, 5), rnd(5, B), rnd(B, 2), in_axes=(1, 0)),
    "in_axes_dict": lambda rnd: of(
        lambda p, d: jnp.tanh(p @ d["x"]) * d["c"],
        rnd(2, 5),
        {"x": rnd(B, 5), "c": rnd(2)},
        in_axes=({"x": 0, "c": None},),
    ),
    "dropout": lambda rnd: of(dropped, {"W": rnd(2, 5), "V": rnd(2, 3)}, rnd(B, 5), rnd.keys()),
    "batch_dict": lambda rnd: of(lambda p, d: p @ d["x"] * d["y"], rnd(2, 5), {"x": rnd(B, 5), "y": rnd(B)}),
    "targets": lambda rnd: Case(cross_entropy, {"W": rnd(5, 3), "b": rnd(3)}, (rnd(B, 5), rnd.ids(3, B))),
    "weighted": lambda rnd: Case(
        lambda p, x, y, w: w * cross_entropy(p, x, y), {"W": rnd(5, 3), "b": rnd(3)}, (rnd(B, 5), rnd.ids(3, B), rnd(B))
    ),
    "boolean_data": lambda rnd: of(lambda p, x: jnp.where(x, p[0], p[1]), (rnd(5), rnd(5)), rnd(B, 5) > 0),
    "closed_over_data": lambda rnd: (lambda C: of(lambda p, x: C @ jnp.tanh(p @ x) * p[0, 0], rnd(2, 5), rnd(B, 5)))(
        rnd(3, 2)
    ),
    "no_data": lambda rnd: of(lambda p, _: jnp.tanh(p["W"]), {"W": rnd(2, 5)}, rnd(B, 5)),
}


# ---- casts: 32 bits or fewer inside


def single(a):
    return a.astype(jnp.float32)


CASTS = {
    "float32_inside": lambda rnd: loose(lambda W, x: single(x) @ single(W), rnd(5, 2), rnd(B, 3, 5)),
    "float32_leaf": lambda rnd: loose(lambda p, x: x @ p[0] + p[1], (single(rnd(5, 2)), rnd(2)), rnd(B, 3, 5)),
    "float32_all": lambda rnd: loose(
        lambda p, x: jnp.tanh(x @ p[0]) + p[1], (single(rnd(5, 2)), single(rnd(2))), single(rnd(B, 3, 5))
    ),
    "float32_prefix": lambda rnd: loose(lambda W, x: x @ jnp.tanh(single(W)), rnd(5, 2), rnd(B, 3, 5)),
    "float32_lookup": lambda rnd: loose(lambda E, ids: single(E)[ids], rnd(7, 3), rnd.ids(7, B, 5)),
    "preferred_type": lambda rnd: loose(
        lambda W, x: jnp.matmul(single(x), single(W), preferred_element_type=jnp.float64), rnd(5, 2), rnd(B, 3, 5)
    ),
    "bfloat16_inside": lambda rnd: of(
        lambda W, x: single(x.astype(jnp.bfloat16) @ W.astype(jnp.bfloat16)), rnd(5, 2), rnd(B, 3, 5), tolerance=3e-2
    ),
}
