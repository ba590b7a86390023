"""The derivation worked through with numbers: `trace`.

What it is for. To see backpropagation happen, once: every value and every adjoint of ONE example, by name, with its
formula, the numbers put in, and the value that `jax.grad` gives beside it; as text, Markdown, LaTeX, JSON or a picture. A
learner finds the first number that differs from the own sheet; a teacher makes a worked example, or a solution, in one
call.

The mathematics. The rows stand in the order of the derivation: forward z_t = Σ_s W_ts h_s + b_t and h_t = g_t(z_t), the
loss; then backward dyhat, (1) dh_s = Σ_t W_tsᵀ dz_t, (2) dz_t = dh_t · g_t'(z_t), and (3) dW_ts = dz_t h_sᵀ. That
`jax.grad` has a value for a node in the middle, too, takes a zero that is added there: L as a function of it has the slope
dL/dz. All in float64, so that 1.2 is shown as 1.2.

>>> import jax, jax.numpy as jnp
>>> import jaxbackprop as jbp
>>> from jaxbackprop.tracing.derivation import work
>>> net = jbp.skip_mlp((1, 1, 1, 1))                                          # the exercise, whose names are then used
>>> number = lambda w: jnp.full((1, 1), w)
>>> params = {"h0": {"x": number(0.5)}, "h1": {"h0": number(2.0)}, "yhat": {"h1": number(-1.0), "h0": number(3.0)}}
>>> t = jbp.trace(net, "half_squared_error", params, x=2.0, y=0.0)
>>> print(t["dh0"].formula, "=", t["dh0"].numbers)                            # both paths: "because of skip connection"
dh0 = w1ᵀ dz1 + w3ᵀ dz2 = 2·(−1) + 3·1
>>> t.difference                                                              # the largest, between ours and jax.grad's
0.0

What it gives. `print(t)`, `t.markdown()`, `t.latex()`, `t.figure()`, `t.to_dict()`; `t.rows`, and a row by its name; in a
notebook `t` is a table with mathematics. With softmax and cross-entropy p is the prediction and y the target. Arrays of up to
6 entries stand there as their numbers, wider ones as norm and shape.

A derivation of your own, under its own names, from its forward equations, in numbers or in vectors:

>>> t = work("z = W x + b; h = relu(z); L = 1/2 ||h - y||^2", {"W": [[1, 2], [3, 4]], "x": [1, 2], "b": [0, -9], "y": [1, 2]})
>>> print(t["dL/dx"].formula, "=", t["dL/dx"].numbers.splitlines())
dL/dx = W^T * dL/dz = ['1·4 + 3·0', '2·4 + 4·0']

On the command line: `jaxbackprop trace --x 1.5 --y 2 --weights 0.8 1.3 -0.7 0.45 --figure exercise.svg`, `jaxbackprop trace
derivation.md --x 2 --set w=3 b=1`, and of a trained network `jaxbackprop trace runs/digits-1 --figure run.svg`.

What to read next. `jaxbackprop.exercise`, the derivation of these rows; here symbols, how things are called; render, how
rows are shown; rows; picture; trace. For derivations shown, taken, circuit, derivation. `jaxbackprop.grading` marks one.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
