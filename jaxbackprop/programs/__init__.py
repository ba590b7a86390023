"""Every example's gradient of ANY loss, in factors; and any function of arrays as a program that can be read, run and changed.

What it is for. `factored(loss)` computes what `jax.vmap(jax.grad(loss))` does, for any loss of ONE example, without forming
it: Flax, Equinox, Haiku or plain JAX, with loops, branches, tied weights and custom derivatives. Every readout works on it:
`norms`, `clip`, `gram`, `inner`, `moments`, `project`, `kronecker`. Wherever per-example gradients are wanted (private
training, clipping, influence, noise scale, choice of data) a clipped sum then costs about what the plain gradient does:
README has the figures, and the models where forming the gradients is faster.

The mathematics. A parameter W enters the loss at some steps u that are linear in it, z_u = A_u(h) W: a product, a
convolution, a lookup. Paths add, as in the exercise, so that with dz_u = dL/dz_u

    dW = Σ_u A_u(h_u)ᵀ dz_u        a product z = W h at positions t: Σ_t dz[t] h[t]ᵀ;  a lookup: rows of dz;  z = W + …: dz itself

Only dz_u has to be found. The loss is traced for one example, a tap τ = 0 is added to each z_u, W is held fixed there, and
`jax.vjp` in τ gives all dz_u in one sweep, through whatever lies between. Where W enters in another way (a norm of a
weight, a merged matrix) that part of its gradient is formed, exactly, at the price of that part alone. `explain` says what
is done with each parameter and what it costs; `check_factored` compares with `jax.grad`, example by example, in float64.

>>> import jax, jax.numpy as jnp
>>> import jaxbackprop as jbp
>>> def loss(params, tokens):                                # of one example: words, a recurrence, and the words again
...     def step(h, word):
...         return jnp.tanh(params["words"][word] + params["mix"] @ h), None
...     h, _ = jax.lax.scan(step, jnp.zeros(4), tokens[:-1])
...     return -jax.nn.log_softmax(params["words"] @ h)[tokens[-1]]
>>> params = {"words": jax.random.normal(jax.random.key(0), (9, 4)), "mix": jnp.eye(4) / 2}
>>> tokens = jax.random.randint(jax.random.key(1), (6, 5), 0, 9)
>>> values, fg = jax.jit(jbp.factored(loss))(params, tokens)
>>> jbp.norms(fg).shape, jbp.total(jbp.clip(fg, 1.0))["mix"].shape
((6,), (4, 4))
>>> [(row.parameter, row.use) for row in jbp.explain(loss)(params, tokens[0]).rows]    # the matrix of words is used twice
[('mix', 'outer'), ('words', 'rows'), ('words', 'outer')]
>>> jbp.check_factored(loss, params, tokens).ok
True

Similar examples, and influence: K[b,c] = ⟨dW[b], dW[c]⟩ is `gram(fg)`, and `inner(fg, V)` is along one gradient V. Of more
examples than one batch holds keep a sketch of each, with the same key: products of sketches estimate those of gradients.

>>> import numpy as np
>>> S = jax.tree.leaves(jbp.project(fg, jax.random.key(2), size=32))     # keep these, of every batch
>>> about = sum(jnp.einsum("bqp,cqp->bc", s, s) for s in S)              # K[b,c] of all pairs that were kept
>>> round(float(np.corrcoef(about.ravel(), jbp.gram(fg).ravel())[0, 1]), 1)
1.0

Arguments. (params, *example): parameters first, each further argument has an example axis in the batch; `in_axes` and
`argnums` as in `jax.vmap` and `jax.grad`. A key, for dropout, is an argument like any other. `factored` is traced anew at
each call: put `jax.jit` around what uses it, or give it to `stream`, which sums in tiles, or to `fit`. `clipped_grad` takes
the arguments of `jax_privacy.clipped_grad`. What couples the examples of a batch (batch norm) has no gradient of one
example.

What to read next. In this order: flat, a function as a list of steps; loops; axes and linear, the rules of moving and of
using a parameter; uses, where each enters; taps; factored. Then explain, compare, clipped. For memory:
`jaxbackprop.scaling`.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
