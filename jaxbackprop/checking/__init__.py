"""A gradient check for anyone's gradient, written by hand, by a rule of `jax.custom_vjp` or in a kernel.

What it is for. `check_gradient(value, gradient, params, *data)` says of each parameter whether its gradient is right; of a
wrong one by how much, where, and which mistake it looks like: a missing term, a mask left out, a factor, a transpose.
`check_vjp(f, *args)` does so for the derivative rule of a function, `assert_gradient` for a test suite. On the command line
it is `jaxbackprop check mine.py:loss gradient`.

The mathematics. Two references that know nothing of each other, in float64: `jax.grad` of the value, R, and differences
along directions v,

    ⟨G, v⟩  against  (L(w + ε v) − L(w − ε v)) / 2ε        of the steps ε, the one with the smallest error

at the parameters given, and at drawn ones, until every decision in the value (a ReLU, a max, a comparison) was seen on both
sides, or is said not to have been. Differences keep clear of kinks; at a kink any side is right. What may differ is what
arithmetic explains: for a gradient whose largest entry is |R|, in a dtype of precision eps, with sums of n terms,

    |G − R|  ≤  min(16 √n eps, 5%) |R|  +  16 ρ eps        ρ eps: how far rounding is measured to move R itself

Each parameter is compared by itself: a wrong skip term corrupts one matrix, and would drown in a norm over all.

>>> import jax, jax.numpy as jnp
>>> import jaxbackprop as jbp
>>> def value(w, x, y):
...     return jnp.mean((jax.nn.relu(x @ w["in"]) @ w["out"] - y) ** 2) / 2
>>> def gradient(w, x, y):
...     h = jax.nn.relu(x @ w["in"])
...     dyhat = (h @ w["out"] - y) / len(y)
...     return {"in": x.T @ jnp.outer(dyhat, w["out"]), "out": h.T @ dyhat}                # the mask of the ReLU is missing
>>> w = {"in": jnp.array([[1.0, -2.0], [0.5, 1.0]]), "out": jnp.array([1.0, 2.0])}
>>> x, y = jax.random.normal(jax.random.key(0), (8, 2)), jnp.ones(8)
>>> report = jbp.check_gradient(value, gradient, w, x, y)
>>> report.outcome, [(row.parameter, row.ok) for row in report.rows]
('wrong', [("['in']", False), ("['out']", True)])
>>> report.rows[0].diagnosis.text
"the derivative of the activation that feeds ['out'] is left out of dz = dh·g'(z)"

What it says. `report.outcome` is "right", "wrong", or "right where looked at", where a decision was never seen on both
sides; `report.ok` means that nothing wrong was found. `print(report)` is a table, `report.coverage` what was seen. A check
takes seconds. It cannot see a value that is itself wrong, nor what happens only far from all points drawn.

What to read next. `help(jaxbackprop.check_gradient)`, `help(jaxbackprop.check_vjp)`; of a whole model's per-example
gradients `jaxbackprop.check_factored`; of a derivation on paper `jaxbackprop.grading`.

In the order to read them. What is looked at: leaves, arguments, closures, decisions, rounding, points, reference (the right
gradient), tested (the one under test). Who is right: comparison, differences, disputes, verdict, report. What went wrong:
diagnosis (read off one parameter), causes, mistakes (made on purpose), layers, lines, steps (which there are to make). Then
check, where all begins. Of the rest of the package they import `programs` and what refuses a wrong argument.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
