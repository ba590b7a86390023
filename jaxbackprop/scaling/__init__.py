"""More examples than fit, or than one device should take: summed in tiles, in one kernel, over devices, over processes.

What it is for. A readout that sums over examples, such as `total`, or `lambda fg: total(clip(fg, 1.0))`, needs every h and
dz of its batch at a time. `stream` takes a tile after the other, with the memory of one tile however large the batch;
`fused` sweeps and sums in one Pallas kernel, weights on the chip; `data_mesh` lays a batch over devices, those of other
processes too.

The mathematics. Everything here is one identity. A sum over examples is a sum over parts of them, in whatever way they are
parted,

    Σ_b R(h_b, dz_b)  =  Σ_parts Σ_{b in part} R(h_b, dz_b)

and parts are tiles in time, blocks of a kernel, or the shares of devices, which add theirs once, in one all-reduce. A
weight c_b enters at dyhat, before the sweep, because all that follows is linear in it: with c_b = 0 a part is filled up to
its size. What gives something for each example (`norms`, `gram`) does not sum: `stream` refuses it by its shape; a mean it
cannot tell from a sum.

>>> import jax, jax.numpy as jnp
>>> import jaxbackprop as jbp
>>> net = jbp.skip_mlp((8, 64, 64, 1))
>>> params = jbp.init(net, jax.random.key(0))
>>> x, y = jax.random.normal(jax.random.key(1), (1000, 8)), jnp.ones((1000, 1))
>>> def clipped(fg):
...     return jbp.total(jbp.clip(fg, 1.0))
>>> value, grads = jbp.stream(net, "half_squared_error", clipped, tile=100)(params, x, y)        # a tenth of the memory
>>> whole = clipped(jbp.per_example(net, "half_squared_error")(params, x, y)[1])
>>> bool(jnp.allclose(grads["h1"]["h0"], whole["h1"]["h0"], rtol=1e-4, atol=1e-4))
True
>>> mesh = jbp.data_mesh()                                                                      # all devices that there are
>>> shared = jbp.scaling.mesh.place_batch(mesh, x, y)                                           # (x, y, weight), laid out
>>> value, grads = jbp.value_and_grad(net, "half_squared_error")(params, *shared)               # the line stays as it is

Of any model's loss: `stream(loss, readout, tile=100)`; what `fit(…, mesh=mesh)` trains is laid out for you. `tile` is best
left out: on a CPU what stays in its cache is chosen, on an accelerator as much as its memory has room for.

What was run where. `stream`, and `data_mesh` over several devices and processes, run in the tests, on CPUs; the kernels of
`fused` were compiled for TPUs and NVIDIA GPUs, and run step by step on a CPU (`interpret=…`). README says what was
measured, on which device.

What to read next. streaming; kernel, with kernel_tpu, kernel_gpu and what they share; mesh, and processes beneath it. Where
a command computes, and when a small step is faster on a CPU than on a GPU: `jaxbackprop.devices`.
"""

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
