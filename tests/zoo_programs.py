"""Cases by the program around a parameter: control flow, and arithmetic of parameters alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from zoo_case import B, Case, bend, loose, of, of_matrix

# ---- control


@jax.jit
def dense(W, b, x):
    return jnp.tanh(x @ W + b)


def layer(x, Wb):
    return jnp.tanh(x @ Wb[0] + Wb[1]), None


def over_layers(step, *example, **more):
    """A scan over a stack of three layers of width 5."""
    return lambda rnd: of(lambda p, x: lax.scan(step, x, p, **more)[0], (rnd(3, 5, 5), rnd(3, 5)), rnd(B, *example))


def cell(p, h, x):
    h = jnp.tanh(x @ p["W"] + h @ p["U"] + p["b"])
    return h, h


def lstm(p, state, x):
    h, c = state
    i, f, g, o = jnp.split(x @ p["W"] + h @ p["U"] + p["b"], 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru(p, h, x):
    (xr, xz, xn), (hr, hz, hn) = jnp.split(x @ p["W"] + p["b"], 3), jnp.split(h @ p["U"], 3)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    h = (1 - z) * jnp.tanh(xn + r * hn) + z * h
    return h, h


def over_time(cell, gates=1, states=1, **more):
    """A recurrent cell, weights closed over, for 6 steps of width 2, with 3 states."""

    def f(p, x):
        h = jnp.zeros(3) if states == 1 else (jnp.zeros(3),) * states
        return lax.scan(partial(cell, p), h, x, **more)

    return lambda rnd: of(f, {"W": rnd(2, 3 * gates), "U": rnd(3, 3 * gates), "b": rnd(3 * gates)}, rnd(B, 6, 2))


def carried(change):
    """Parameters in the carry, changed each step."""

    def f(W, x):
        return lax.scan(lambda c, x: ((change(c[0]), jnp.tanh(c[0] @ c[1] + x)), c[1]), (W, jnp.zeros(5)), x)[0][1]

    return of_matrix(f, (5, 5), 3, 5)


def scans_in_scan(p, x):
    def inner(h, x):
        return jnp.tanh(h @ p[0] + x @ p[1]), h

    def outer(h, x):
        return lax.scan(inner, h * p[2], x)

    return lax.scan(outer, jnp.zeros(5), x)


def in_cond(W, x):
    return lax.cond(x[0] > 0, lambda x: W @ x, lambda x: jnp.tanh(W[::-1] @ x) ** 2, x)


def in_switch(p, i, x):
    return lax.switch(i, [lambda x: p[0] @ x, lambda x: jnp.sin(p[1] @ x), lambda x: p[0] @ (2 * x) + p[2]], x)


def cond_in_scan(p, x):
    def step(h, x):
        h = lax.cond(x[0] > 0, lambda h: lax.cond(h[0] > 0, lambda h: p[0] @ h, lambda h: p[1] * h, h), lambda h: h, h)
        return jnp.tanh(h + x), h

    return lax.scan(step, jnp.ones(5), x)


@jax.custom_jvp
def softsign(x):
    return x / (1 + jnp.abs(x))


softsign.defjvp(lambda x, t: (softsign(x[0]), t[0] / (1 + jnp.abs(x[0])) ** 2))


@jax.custom_vjp
def reversed_gradient(x):
    return x


reversed_gradient.defvjp(lambda x: (x, None), lambda _, g: (-0.5 * g,))


@jax.custom_vjp
def own_matmul(W, x):
    return W @ x


own_matmul.defvjp(lambda W, x: (W @ x, (W, x)), lambda r, g: (2 * jnp.outer(g, r[1]), r[0].T @ g))


@jax.custom_jvp
def own_scale(s, x):
    return s * x


own_scale.defjvp(lambda p, t: (own_scale(*p), 3 * t[0] * p[1] + p[0] * t[1]))


def routed(p, x):
    """Each position goes to its two best of three experts."""
    weight, chosen = lax.top_k(jax.nn.softmax(x @ p["route"]), 2)
    hidden = jnp.tanh(jnp.einsum("td,tkdf->tkf", x, p["experts"][chosen]))
    return jnp.einsum("tk,tkf->tf", weight, hidden)


def routed_densely(p, x):
    gates = jax.nn.softmax(x @ p["route"])
    gates = jnp.where(gates >= lax.top_k(gates, 2)[0][:, 1:], gates, 0)
    return jnp.einsum("te,td,edf->tf", gates, x, p["experts"])


def dispatched(p, x):
    """Positions sorted by expert, two places each, then put back."""
    order = jnp.argsort(jnp.argmax(x @ p["route"], axis=1))
    z = jnp.einsum("ecd,edf->ecf", x[order].reshape(3, 2, 5), p["experts"])
    return jnp.zeros((6, 2)).at[order].set(z.reshape(6, 2))


def moe(f):
    return lambda rnd: of(f, {"route": rnd(5, 3), "experts": rnd(3, 5, 2)}, rnd(B, 6, 5))


def while_on_data(W, x):
    n = lax.while_loop(lambda c: jnp.sum(c[1] ** 2) > 0.1, lambda c: (c[0] + 1, c[1] / 2), (0, x))[0]
    return W @ x * n


def energy(p, x):
    return jnp.sum(jnp.tanh(p[0] @ x) * p[1])


def adapted(p, x):
    """One step of descent, then the loss: a gradient through a gradient."""
    inner = jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(energy)(p, x))
    return energy(inner, x[::-1])


def relu_chain(f, *more):
    return of_matrix(lambda W, x: f(x @ W, *more), (5, 2), 3, 5)


def attention(W, x):
    return jax.nn.dot_product_attention(*jnp.split((x @ W).reshape(6, 2, 9), 3, axis=-1))


def mixed(step):
    """An associative scan of h ← a h + x."""
    return lambda W, x: lax.associative_scan(step, (jnp.broadcast_to(jax.nn.sigmoid(W), x.shape), x))[1]


def spectrum(W, x):
    z = jnp.fft.rfft(x @ W, axis=0)
    return z.real, jnp.abs(jnp.fft.ifft(z, axis=0)) ** 2


def filtered(W, x):
    return jnp.fft.irfft(jnp.fft.rfft(x, axis=0) * (W[0] + 1j * W[1])[:, None], n=6, axis=0)


WAVE = np.sin(np.arange(5.0))
POLICY = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
REMAT_LAYER = jax.checkpoint(layer)
NESTED_REMAT = jax.checkpoint(lambda x, p: (REMAT_LAYER(jnp.sin(x), p)[0], None))


def deep(wrap):
    """Two layers, each of them wrapped."""

    def f(p, x):
        return wrap(layer)(wrap(layer)(x, p[0])[0], p[1])[0]

    return lambda rnd: of(f, ((rnd(5, 2), rnd(2)), (rnd(2, 3), rnd(3))), rnd(B, 6, 5))


CONTROL = {
    "jit": lambda rnd: of(lambda p, x: dense(*p, x), (rnd(5, 2), rnd(2)), rnd(B, 3, 5)),
    "jit_twice": lambda rnd: of(
        lambda p, x: dense(*p[1], dense(*p[0], x)), ((rnd(5, 5), rnd(5)), (rnd(5, 5), rnd(5))), rnd(B, 3, 5)
    ),
    "jit_same_twice": lambda rnd: of(lambda p, x: dense(*p, dense(*p, x)), (rnd(5, 5), rnd(5)), rnd(B, 3, 5)),
    "jit_nested": of_matrix(jax.jit(lambda W, x: jax.jit(lambda V: jnp.sin(V.T @ x))(W * 2)), (3, 5), 3),
    "jit_returns_param": of_matrix(lambda W, x: jax.jit(lambda W: (W, W.T))(W)[1] @ x, (3, 5), 3),
    "jit_constant": of_matrix(jax.jit(lambda W, x: W @ (x * jnp.asarray(WAVE))), (3, 5), 5),
    "remat_constant": of_matrix(lambda W, x: jax.checkpoint(lambda W: jnp.sin(W @ (x * WAVE)))(W), (3, 5), 5),
    "scan_constant": of_matrix(
        lambda W, x: lax.scan(lambda h, x: (jnp.tanh(W @ h + x * WAVE), h), jnp.zeros(5), x), (5, 5), 3, 5
    ),
    "cond_constant_inside": of_matrix(
        lambda W, x: lax.cond(x[0] > 0, lambda: W @ (x * WAVE), lambda: W @ x), (3, 5), 5
    ),
    "remat": deep(jax.checkpoint),
    "remat_policy": deep(partial(jax.checkpoint, policy=POLICY)),
    "remat_nested": deep(lambda f: jax.checkpoint(jax.checkpoint(f))),
    "remat_whole": lambda rnd: of(
        jax.checkpoint(lambda p, x: jnp.tanh(x @ p[0]) @ p[1]), (rnd(5, 2), rnd(2, 3)), rnd(B, 6, 5)
    ),
    "remat_closed_over": of_matrix(lambda W, x: jax.checkpoint(lambda x: jnp.sin(x @ W))(x) @ W, (5, 5), 3, 5),
    "scan_layers": over_layers(layer, 5),
    "scan_layers_of_positions": over_layers(layer, 6, 5),
    "scan_layers_reverse": over_layers(layer, 6, 5, reverse=True),
    "scan_layers_unroll": over_layers(layer, 6, 5, unroll=2),
    "scan_layers_unrolled": over_layers(layer, 6, 5, unroll=True),
    "scan_layers_remat": over_layers(REMAT_LAYER, 6, 5),
    "scan_layers_remat_nested": over_layers(NESTED_REMAT, 6, 5),
    "scan_layers_jit": over_layers(jax.jit(layer), 6, 5),
    "scan_of_slices": of_matrix(lambda W, x: lax.scan(lambda h, V: (jnp.tanh(V @ h), h), x, W[1:])[1], (4, 5, 5), 5),
    "scan_of_reshaped": of_matrix(
        lambda W, x: lax.scan(lambda h, V: (jnp.tanh(V @ h), h), x, W.reshape(3, 2, 2))[0], (6, 2), 2
    ),
    "scan_by_index": of_matrix(
        lambda W, x: lax.scan(lambda h, i: (jnp.tanh(W[i] @ h), None), x, jnp.arange(3))[0], (3, 5, 5), 5
    ),
    "scan_rnn": over_time(cell),
    "scan_lstm": over_time(lstm, gates=4, states=2),
    "scan_gru": over_time(gru, gates=3),
    "scan_rnn_reverse": over_time(cell, reverse=True),
    "scan_rnn_unroll": over_time(cell, unroll=4),
    "scan_rnn_remat": over_time(lambda p, h, x: jax.checkpoint(cell)(p, h, x)),
    "scan_one_step": of_matrix(lambda W, x: lax.scan(lambda h, V: (jnp.tanh(V @ h), h), x, W), (1, 5, 5), 5),
    "scan_no_carry": of_matrix(lambda W, x: lax.scan(lambda _, x: (None, jnp.tanh(W @ x)), None, x)[1], (2, 5), 3, 5),
    "scan_params_beside_data": of_matrix(
        lambda W, x: lax.scan(lambda h, s: (h + jnp.tanh(s[0] @ s[1]), h), jnp.zeros(2), (W, x))[1], (3, 2, 5), 3, 5
    ),
    "scan_returns_params": of_matrix(lambda W, x: lax.scan(lambda h, V: (h + x, V * 2), x, W)[1] @ x, (3, 2, 5), 5),
    "scan_carry_kept": carried(lambda W: W),
    "scan_carry_scaled": carried(lambda W: W * 0.9),
    "scan_carry_bent": carried(jnp.tanh),
    "scan_carry_turned": carried(lambda W: W.T),
    "scan_carry_fast_weights": of_matrix(
        lambda W, x: lax.scan(lambda M, x: (M + 0.1 * jnp.outer(M @ x, x), M @ x), W, x)[1], (2, 5), 3, 5
    ),
    "scan_carry_starts_at_param": of_matrix(
        lambda h, x: lax.scan(lambda h, x: (jnp.tanh(h * x), h), h, x)[0], (5,), 3, 5
    ),
    "scan_in_scan": lambda rnd: of(scans_in_scan, (rnd(5, 5), rnd(2, 5), rnd(5)), rnd(B, 3, 6, 2)),
    "scan_of_layers_of_scans": lambda rnd: of(
        lambda p, x: lax.scan(lambda x, W: (lax.scan(lambda h, x: (jnp.tanh(W @ h + x),) * 2, x[0], x)[1], None), x, p),
        rnd(2, 5, 5),
        rnd(B, 3, 5),
    ),
    "fori_loop": of_matrix(lambda W, x: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(W @ h + i), x), (5, 5), 5),
    "fori_by_index": of_matrix(lambda W, x: lax.fori_loop(0, 3, lambda i, h: jnp.tanh(W[i] @ h), x), (3, 5, 5), 5),
    "while_on_data": of_matrix(while_on_data, (2, 5), 5),
    "map": of_matrix(lambda W, x: lax.map(lambda x: jnp.tanh(W @ x), x), (2, 5), 3, 5),
    "map_in_batches": of_matrix(lambda W, x: lax.map(lambda x: jnp.tanh(W @ x), x, batch_size=2), (2, 5), 3, 5),
    "cond": of_matrix(in_cond, (5, 5), 5),
    "cond_closed_over_twice": lambda rnd: of(
        lambda p, x: lax.cond(x[0] > 0, lambda: p[0] @ x, lambda: p[1] @ x), (rnd(2, 5), rnd(2, 5)), rnd(B, 5)
    ),
    "cond_one_branch_only": of_matrix(lambda W, x: lax.cond(x[1] > 0, lambda: W @ x, lambda: x[:2]), (2, 5), 5),
    "cond_constant": of_matrix(lambda W, x: lax.cond(True, lambda: W @ x, lambda: x[:2]), (2, 5), 5),
    "cond_returns_param": of_matrix(lambda W, x: lax.cond(x[0] > 0, lambda: W, lambda: W.T) @ x, (5, 5), 5),
    "switch": lambda rnd: of(in_switch, (rnd(2, 5), rnd(2, 5), rnd(2)), rnd.ids(3, B), rnd(B, 5)),
    "cond_in_scan": lambda rnd: of(cond_in_scan, (rnd(5, 5), rnd(5)), rnd(B, 3, 5)),
    "scan_in_cond": of_matrix(
        lambda W, x: lax.cond(x[0] > 0, lambda: lax.scan(lambda h, V: (V @ h, None), x, W)[0], lambda: W[0] @ x),
        (3, 5, 5),
        5,
    ),
    "select_n": lambda rnd: of(
        lambda p, i, x: lax.select_n(i % 3, p[0] @ x, p[1] @ x, p[0] @ -x),
        (rnd(2, 5), rnd(2, 5)),
        rnd.ids(3, B),
        rnd(B, 5),
    ),
    "vmap_positions": of_matrix(lambda W, x: jax.vmap(lambda x: jnp.tanh(W @ x))(x), (2, 5), 3, 5),
    "vmap_ensemble": of_matrix(lambda W, x: jax.vmap(lambda V: jnp.tanh(V @ x))(W), (3, 2, 5), 5),
    "vmap_both": of_matrix(lambda W, x: jax.vmap(lambda V, x: jnp.tanh(V @ x))(W, x), (3, 2, 5), 3, 5),
    "vmap_of_scan": of_matrix(
        lambda W, x: jax.vmap(lambda x: lax.scan(lambda h, V: (jnp.tanh(V @ h), h), x, W)[0])(x), (3, 5, 5), 2, 5
    ),
    "vmap_last_axis": of_matrix(lambda W, x: jax.vmap(lambda V: V @ x, in_axes=2)(W), (2, 5, 3), 5),
    "vmap_heads": of_matrix(
        lambda W, x: jax.vmap(lambda V: jax.nn.softmax(x @ V @ V.T @ x.T) @ x, in_axes=1)(W), (5, 3, 2), 7, 5
    ),
    "custom_jvp": relu_chain(softsign),
    "custom_vjp": relu_chain(reversed_gradient),
    "custom_vjp_of_param": of_matrix(own_matmul, (2, 5), 5),
    "custom_jvp_of_param": of_matrix(own_scale, (5,), 5),
    "custom_vjp_then_product": of_matrix(lambda W, x: reversed_gradient(W) @ x, (2, 5), 5),
    "relu": relu_chain(jax.nn.relu),
    "gelu": relu_chain(jax.nn.gelu),
    "silu": relu_chain(jax.nn.silu),
    "logsumexp": relu_chain(jax.nn.logsumexp),
    "log_softmax": relu_chain(jax.nn.log_softmax),
    "standardize": relu_chain(jax.nn.standardize),
    "dot_product_attention": lambda rnd: loose(attention, rnd(5, 18), rnd(B, 6, 5)),  # its softmax is in float32
    "stopped_param": lambda rnd: of(
        lambda p, x: lax.stop_gradient(p[0]) @ (p[1] @ x) + p[0] @ x, (rnd(2, 5), rnd(5, 5)), rnd(B, 5)
    ),
    "stopped_activation": of_matrix(lambda W, x: W @ lax.stop_gradient(jnp.tanh(W @ x)), (5, 5), 5),
    "target_network": of_matrix(lambda W, x: W @ x - lax.stop_gradient(W @ x[::-1]), (2, 5), 5),
    "solve": of_matrix(lambda W, x: jnp.linalg.solve(W + 5 * jnp.eye(3), x), (3, 3), 3, 2),
    "triangular_solve": of_matrix(
        lambda W, x: jax.scipy.linalg.solve_triangular(jnp.tril(W) + 5 * jnp.eye(3), x, lower=True), (3, 3), 3, 2
    ),
    "cholesky": of_matrix(lambda W, x: jnp.linalg.cholesky(W @ W.T + jnp.outer(x, x) + jnp.eye(3)), (3, 5), 3),
    "inverse": of_matrix(lambda W, x: jnp.linalg.inv(W + 5 * jnp.eye(3)) @ x, (3, 3), 3),
    "log_determinant": of_matrix(lambda W, x: jnp.linalg.slogdet(W @ jnp.diag(x) + 5 * jnp.eye(3))[1], (3, 3), 3),
    "matrix_exponential": of_matrix(lambda W, x: jax.scipy.linalg.expm(W * x[0] / 5) @ x, (3, 3), 3),
    "associative_scan": of_matrix(mixed(lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])), (5,), 6, 5),
    "cumulative_product": of_matrix(lambda s, x: jnp.cumprod(1 + 0.1 * s * x, axis=0), (5,), 3, 5),
    "sorted": of_matrix(lambda W, x: jnp.sort(x @ W, axis=0), (5, 2), 6, 5),
    "sorted_param": of_matrix(lambda w, x: jnp.sort(w) * x, (5,), 5),
    "top_k": moe(routed),
    "top_k_dense": moe(routed_densely),
    "dispatched": moe(dispatched),
    "fft": of_matrix(spectrum, (5, 2), 6, 5),
    "fft_filter": of_matrix(filtered, (2, 4), 6, 3),
    "integers": of_matrix(lambda W, x: W[jnp.argmax(x @ W) // 2] * jnp.floor(2 * x[0, :3]), (5, 3), 2, 5),
    "one_branch_of_nan": of_matrix(lambda s, x: jnp.where(x > 0, jnp.sqrt(jnp.abs(x) + 1) * s, 0), (5,), 3, 5),
    "force": lambda rnd: of(lambda p, x: jax.grad(energy, 1)(p, x), (rnd(2, 5), rnd(2)), rnd(B, 5)),
    "tangent": lambda rnd: of(
        lambda p, x: jax.jvp(partial(energy, p), (x,), (x[::-1],)), (rnd(2, 5), rnd(2)), rnd(B, 5)
    ),
    "hessian": lambda rnd: of(lambda p, x: jax.hessian(energy, 1)(p, x), (rnd(2, 3), rnd(2)), rnd(B, 3)),
    "step_inside": lambda rnd: of(adapted, (rnd(2, 5), rnd(2)), rnd(B, 5)),
    "barrier": of_matrix(lambda W, x: lax.optimization_barrier(W) @ x, (2, 5), 5),
    "named": of_matrix(lambda W, x: jax.named_call(lambda W: W @ x, name="layer")(W), (2, 5), 5),
    "tagged": of_matrix(lambda W, x: checkpoint_name(W, "W") @ checkpoint_name(x, "x"), (2, 5), 5),
    "vectorized": of_matrix(
        lambda W, x: jnp.vectorize(lambda W, x: W @ x, signature="(m,n),(n)->(m)")(W, x), (2, 5), 3, 5
    ),
}

# ---- parameters among themselves, before they meet data


def normalised(V, axis=None):
    return V / jnp.sqrt(jnp.sum(V**2, axis, keepdims=axis is not None))


def norm_by_power(W, steps=5):
    u = lax.fori_loop(0, steps, lambda _, u: normalised(W @ (W.T @ u)), jnp.ones(len(W)))
    return jnp.linalg.norm(W.T @ lax.stop_gradient(normalised(u)))


def penalty(p):
    return 0.1 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(p))


def two_layers(p, x):
    return bend(jnp.tanh(x @ p["W"] + p["b"]) @ p["V"])


def regular(loss):
    """loss(params, x), not bent, of two layers."""
    return lambda rnd: Case(loss, {"W": rnd(5, 2), "b": rnd(2), "V": rnd(2, 3)}, (rnd(B, 6, 5),))


def rotation(A):
    A, eye = A - A.T, jnp.eye(len(A))
    return jnp.linalg.solve(eye + A, eye - A)


PREFIX = {
    "weight_norm": lambda rnd: of(
        lambda p, x: x @ (p["g"] * normalised(p["V"], 0)), {"g": rnd(2), "V": rnd(5, 2)}, rnd(B, 3, 5)
    ),
    "weight_standardised": of_matrix(lambda W, x: x @ ((W - W.mean(0)) / (W.std(0) + 1e-5)), (5, 2), 3, 5),
    "conv_standardised": of_matrix(
        lambda W, x: lax.conv_general_dilated(
            x[None], (W - W.mean((0, 1))) / W.std((0, 1)), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        ),
        (3, 2, 5),
        6,
        2,
    ),
    "spectral": of_matrix(lambda W, x: x @ (W / jnp.linalg.norm(W)), (5, 2), 3, 5),
    "spectral_by_power": of_matrix(lambda W, x: x @ (W / norm_by_power(W)), (5, 2), 3, 5),
    "spectral_by_svd": of_matrix(lambda W, x: x @ (W / jnp.linalg.norm(W, 2)), (5, 2), 3, 5),
    "lookup_normalised": lambda rnd: of(lambda E, ids: normalised(E, 1)[ids], rnd(7, 3), rnd.ids(7, B, 5)),
    "penalty": regular(lambda p, x: two_layers(p, x) + penalty(p)),
    "penalty_of_one": regular(lambda p, x: two_layers(p, x) + penalty(p["W"])),
    "penalty_alone": regular(lambda p, x: jnp.mean(x) + penalty(p)),
    "penalty_by_vdot": regular(lambda p, x: two_layers(p, x) + jnp.vdot(p["W"], p["W"])),
    "penalty_of_size": regular(lambda p, x: two_layers(p, x) + jnp.sum(jnp.abs(p["V"]))),
    "penalty_orthogonal": regular(lambda p, x: two_layers(p, x) + jnp.sum((p["W"].T @ p["W"] - jnp.eye(2)) ** 2)),
    "penalty_times_data": regular(lambda p, x: two_layers(p, x) * penalty(p["b"])),
    "softplus_scale": of_matrix(lambda s, x: x * jax.nn.softplus(s), (5,), 3, 5),
    "exp_scale": of_matrix(lambda s, x: x / jnp.exp(s), (), 3, 5),
    "tanh_of_W": of_matrix(lambda W, x: x @ jnp.tanh(W), (5, 2), 3, 5),
    "mixture": lambda rnd: of(
        lambda p, x: x @ jnp.einsum("k,kdf->df", jax.nn.softmax(p["a"]), p["W"]),
        {"a": rnd(3), "W": rnd(3, 5, 2)},
        rnd(B, 6, 5),
    ),
    "rotation": of_matrix(lambda A, x: rotation(A) @ x, (3, 3), 3, 2),
    "orthogonal_by_qr": of_matrix(lambda A, x: jnp.linalg.qr(A)[0].T @ x, (5, 2), 5),
    "rounded_straight_through": of_matrix(lambda W, x: (W + lax.stop_gradient(jnp.round(W) - W)) @ x, (2, 5), 5),
    "dropped_weights": lambda rnd: of(
        lambda W, x, key: (W * jax.random.bernoulli(key, 0.5, W.shape)) @ x, rnd(2, 5), rnd(B, 5), rnd.keys()
    ),
    "noisy_weights": lambda rnd: of(
        lambda p, x, key: (p[0] + jax.nn.softplus(p[1]) * jax.random.normal(key, p[0].shape)) @ x,
        (rnd(2, 5), rnd(2, 5)),
        rnd(B, 5),
        rnd.keys(),
    ),
    "clipped_weights": of_matrix(lambda W, x: jnp.clip(W, -0.5, 0.5) @ x, (2, 5), 5),
    "scanned_prefix": of_matrix(
        lambda W, x: lax.scan(lambda M, _: (jnp.tanh(M @ M), None), W, None, length=2)[0] @ x, (5, 5), 5
    ),
    "cond_prefix": of_matrix(lambda W, x: lax.cond(W[0, 0] > 0, lambda: W**2, lambda: W**3) @ x, (2, 5), 5),
    "jit_prefix": of_matrix(lambda W, x: jax.jit(lambda W: normalised(W, 1))(W) @ x, (2, 5), 5),
    "prefix_by_three_uses": of_matrix(lambda W, x: (lambda V: V @ x + V.sum() + V[:, 0])(jnp.sin(W)), (2, 5), 5),
    "prefix_and_bare": of_matrix(lambda W, x: jnp.sin(W) @ x + W @ x, (2, 5), 5),
}
