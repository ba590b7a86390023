"""Training: a step, epochs of steps, `fit`; what lies on the disk meanwhile; and what a private run spends.

What it is for. `fit` trains a network, or any model whose loss is given as `factored(loss)`, by any optax optimizer, from
arrays or from data larger than memory, on one device or a mesh of many. It can be stopped at any moment, by a kill or a
power cut, and goes on to the very same end. With `private_gradient` it bounds what the parameters tell about any one
example, and says the bound.

The mathematics. A step on a batch of the examples b, with the optimizer's update U, is

    g = Σ_b c_b dW_b / Σ_b c_b        W ← W + U(g, state)        c_b: 1, or 0 where the last batch of an epoch is filled up

and an epoch is a loop of steps inside one compiled program, over a fresh shuffle. The loop does not know how g is made:
"hand" and "jax.grad" take the same steps. A private step takes each example into its batch with probability q, clips, and
adds noise,

    g = (Σ_b dW_b min(1, C / |dW_b|) + σ C N(0, I)) / (q n)

where no dW_b is ever formed. From q, σ and the number of steps follows (ε, δ): no test of whether an example was trained on
does better than these allow.

>>> import tempfile
>>> import jax, jax.numpy as jnp, optax
>>> import jaxbackprop as jbp
>>> net = jbp.mlp((1, 16, 1), "tanh", bias=True)
>>> x = jnp.linspace(-1, 1, 64)[:, None]
>>> def train(epochs, **more):
...     return jbp.fit(net, "half_squared_error", optax.adam(0.03), (x, x**2), epochs=epochs, batch_size=16,
...                    key=jax.random.key(0), **more)
>>> state, history = train(40)
>>> history[-1]["loss"] < 0.1 * history[0]["loss"], jbp.evaluate(net, "half_squared_error", state.params, (x, x**2))["rmse"] < 0.2
(True, True)
>>> other, _ = train(40, gradient="jax.grad")                                     # the same steps, by automatic differentiation
>>> bool(jnp.allclose(other.params["h0"]["x"], state.params["h0"]["x"], atol=1e-3))
True
>>> with tempfile.TemporaryDirectory() as folder:
...     _ = train(20, checkpoints=jbp.Checkpoints(folder))                        # interrupted after 20 epochs, say
...     resumed, _ = train(40, checkpoints=jbp.Checkpoints(folder))               # the same call again, for 40 in all
>>> bool(jnp.all(resumed.params["h0"]["x"] == state.params["h0"]["x"]))           # bit for bit
True
>>> def loss(params, x, y):                                                       # any model, privately: its key is a secret
...     return jnp.sum((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)
>>> private, _ = jbp.fit(jbp.factored(loss), None, optax.sgd(0.1), (x, x**2), epochs=2, batch_size=16,
...                      params={"w": jnp.ones((1, 4)), "v": jnp.ones((4, 1))}, gradient=jbp.private_gradient(1.0, 1.1))
>>> private.params["w"].shape
(1, 4)

On the disk. `Checkpoints` says where, and how often. A checkpoint is written beside its place and moved there, with a
digest of what it holds: a damaged one is passed over for the last good one, and said. It knows what it was made for, so
that another training does not go on from it. When a loss or a parameter is not finite, training stops, and returns the last
good state.

On the command line: `jaxbackprop train`, `train --resume runs/houses-1`, `train --private --epsilon 3 --delta 1e-5`; a
run's folder holds config.json, metrics.jsonl, params.npz and learning_curves.png. What privacy protects, and what it does
not, stands in the module privacy: read it before you rely on it.

What to read next. `help(jaxbackprop.fit)`; steps, methods and epochs, what is compiled; evaluate and inputs; fit, and many
for `fit_many`; checkpoints, with npz_store and orbax_store; identity; runs; secret, accounting, privacy. Data:
`jaxbackprop.data`; several devices and processes: `jaxbackprop.scaling`.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
