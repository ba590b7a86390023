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

Several devices, several machines. A gradient is a sum over examples. Lay the batch over a mesh, and the partitioner does the rest: each device sweeps its own
examples, and one all-reduce a step adds the sums. The model's code, and the readouts, stay as they are.

`data_mesh(model=2)` adds a second axis, over which layers of width 1,024 and more are shared out. From the command line:

| where | how |
|---|---|
| one machine, one device | `jaxbackprop train big/` |
| one machine, several GPUs | `jaxbackprop train big/ --devices 4 --batch-size 4096` |
| several machines | on machine `I` of `N`, with process 0 on the first: `jaxbackprop train big/ --coordinator 10.0.0.1:8476 --processes N --process-id I` |
| a TPU slice | on every worker: `jaxbackprop train big/ --coordinator auto`, as by `gcloud compute tpus tpu-vm ssh NAME --worker=all --command=…` |
| a cluster under SLURM | one task a GPU: `srun --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 jaxbackprop train big/ --coordinator auto` |

Each process trains on its own part of a folder's rows (means, scales and held-out figures each computes over all of them); 1, 2, 4
or 8 processes, no more, take the same batches and end at the same parameters, within rounding. Process 0 prints and writes; the
others need the data, and no shared disk. Where they were told different things, or one refuses what it was given, all end before
anything is written. A process that is lost ends the
others, at once or within ten seconds, with a line that says so and exit status 75 (or JAX aborts them, if its own watch is
faster); `jaxbackprop train --resume RUN` goes on from the last checkpoint with as many processes as there are. A signal to any of
them stops all, saved.

`python experiments/devices_benchmark.py` measures your devices. Four virtual ones on 2 CPU cores show only what sharing out
costs: a step runs at 0.97 to 1.15 times one device's speed. Between two processes of one machine an all-reduce of 4 kB takes 1.7
ms, one of 17 MB 29 ms; over a network that fast, N machines would keep an *estimated* 90 to 96% of their speed at N = 2 and 74 to
77% at 8, with the batches and by the formula that stand in the script.

What was tried: four virtual CPU devices, and two processes on one machine, in every run of the tests; SLURM's variables, set by
hand. Not yet: GPUs, TPUs, a network between machines.
"""  # noqa: E501

from jaxbackprop._lazy import submodules

__getattr__ = submodules(__name__)
