"""Several devices, several processes: a batch's examples are laid over a mesh, and the model's code stays as it is.

A gradient is a sum over examples. Lay the examples over the devices, the parameters on each of them, and XLA's partitioner
lets every device sweep its own examples, and adds the sums once, in one all-reduce:

    mesh = data_mesh()                                    # all devices in a row
    x, y, weight = place_batch(mesh, x, y)                # rows over the mesh; padded with examples of weight 0
    params = place_params(mesh, network, params)          # a copy on each device
    value, grads = value_and_grad(network, loss)(params, x, y, weight)           # the same line as on one device

The readouts of `per_example` follow in the same way: what has one number an example stays where the example is, what sums
is added once. `fit(…, mesh=mesh)` lays each of its batches. A second axis, `data_mesh(model=2)`, shares out the wide layers:

    z = W h: a wide layer's W (t, s) and bias lie over t, so that each device computes its part of z and of h = g(z);
    the W of a layer that reads h lies over s where it can: each device multiplies its part, and the products are added.

What is summed in tiles (`stream`, or `value_and_grad` of a batch whose activations take more than 48 MB on a CPU, half of the
memory on an accelerator) needs each device to cut its own rows: `over_devices(mesh, summed)`.

Several processes (`join`) form one mesh of all their devices. Each runs the same program; what the programs decide by a
clock or a signal they must decide alike (`agree`), or they would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, ArrayLike

from jaxbackprop.network import BIAS, Network, Params
from jaxbackprop.refusals import are_like
from jaxbackprop.words import require_positive

DATA, MODEL = "data", "model"
WIDE = 1024  # layers of at least this width are shared out over the second axis


def data_mesh(devices: Sequence[Any] | None = None, model: int = 1) -> Mesh:
    """Lay devices out as a mesh of ("data", "model"): each batch is shared out over the first axis.

    Args:
        devices: all devices of all processes by default, a process's own beside each other.
        model: devices that share the wide layers of one copy of the parameters, from one process.

    Raises:
        ValueError: `model` is no positive integer, or does not divide the devices of a process.

    >>> dict(data_mesh(jax.devices()[:1]).shape)
    {'data': 1, 'model': 1}
    """
    devices = sorted(devices or jax.devices(), key=lambda d: (d.process_index, d.id))
    own = [d for d in devices if d.process_index == devices[0].process_index]
    require_positive("model", model)
    if len(own) % model:
        raise ValueError(f"model is {model!r}: expected a divisor of the {len(own)} devices of a process")
    # Auto: XLA's partitioner lays out what lies between; under Explicit axes a product such as dz.T @ h is an error
    return Mesh(np.asarray(devices).reshape(-1, model), (DATA, MODEL), axis_types=(AxisType.Auto, AxisType.Auto))


def place_batch(mesh: Mesh, x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> tuple[Array, Array, Array]:
    """Lay a batch's rows over the mesh's data axis, padded with copies of the first row at weight 0 to a multiple of it.

    Args:
        mesh: from `data_mesh`.
        x: (b, d), the whole batch; with several processes the same in each of them.
        y: (b, …).
        weight: (b,), 1 by default.

    Returns:
        x, y and weight, each with B ≥ b rows. What sums takes the weight (`value_and_grad`, `stream`, `total`); of a
        readout with one number an example the first b are those of the batch.

    Raises:
        ValueError: x, y and weight have different numbers of rows, or none.

    >>> x, y, weight = place_batch(data_mesh(jax.devices()[:1]), jnp.ones((3, 2)), jnp.zeros((3, 1)))
    >>> x.shape, weight.tolist()
    ((3, 2), [1.0, 1.0, 1.0])
    """
    x, y = np.asarray(x), np.asarray(y)
    weight = np.ones(x.shape[:1], np.float32) if weight is None else np.asarray(weight)
    rows = {np.shape(a)[:1] for a in (x, y, weight)}
    if len(rows) > 1 or rows & {(), (0,)}:
        raise ValueError(
            f"x has shape {x.shape}, y {y.shape}, weight {weight.shape}: give at least one row, and as many of each"
        )
    padding = -len(x) % mesh.shape[DATA]
    padded = (*(np.concatenate([a, np.repeat(a[:1], padding, axis=0)]) for a in (x, y)), np.pad(weight, (0, padding)))
    x, y, weight = (placed(a, NamedSharding(mesh, PartitionSpec(DATA))) for a in padded)
    return x, y, weight


def place_params(mesh: Mesh, network: Network, params: Params, wide: int = WIDE) -> Params:
    """Copy the parameters to each device; where the mesh has a model axis, share out the layers of width `wide` and more.

    A layer whose width the model axis does not divide is copied too.

    >>> placed = place_params(data_mesh(jax.devices()[:1]), net, params)
    >>> placed["h0"]["x"].sharding.is_fully_replicated
    True
    """
    are_like("params", params, network.shapes)
    return jax.tree.map(placed, params, params_shardings(mesh, network, wide))


def params_shardings(mesh: Mesh, network: Network, wide: int = WIDE) -> dict[str, dict[str, NamedSharding]]:
    """How `place_params` lays each weight: shaped like the parameters.

    >>> params_shardings(data_mesh(jax.devices()[:1]), net)["h0"]["x"].spec
    P()
    """
    axis = mesh.shape[MODEL]
    shared = {t.name for t in network.layers if axis > 1 and t.width >= wide and t.width % axis == 0}

    def spec(t, source) -> PartitionSpec:
        if t.name in shared:
            return PartitionSpec(MODEL)
        return PartitionSpec(None, MODEL) if source in shared else PartitionSpec()

    return {
        t.name: {s: NamedSharding(mesh, spec(t, s)) for s in (*t.sources, *([BIAS] if t.bias else []))}
        for t in network.layers
    }


def over_devices(mesh: Mesh, summed: Callable) -> Callable:
    """Let each device run a sum over its own rows, in tiles of its own, and add the sums: one all-reduce.

    Args:
        mesh: from `data_mesh`, without a model axis.
        summed: (params, x, y, weight) → a pytree of sums over the rows, such as `stream(…)` or
            `value_and_grad(…, reduction="sum")`.

    Returns:
        a compiled function of the same arguments, placed by `place_params` and `place_batch`.

    >>> mesh = data_mesh(jax.devices()[:1])
    >>> summed = over_devices(mesh, jbp.value_and_grad(net, "huber", reduction="sum", tile=2))
    >>> value, grads = summed(place_params(mesh, net, params), *place_batch(mesh, x, y))
    >>> grads["h0"]["x"].shape
    (3, 2)
    """

    def own_rows(params, x, y, weight):
        return jax.lax.psum(summed(params, x, y, weight), DATA)

    rows = PartitionSpec(DATA)
    specs = {"in_specs": (PartitionSpec(), rows, rows, rows), "out_specs": PartitionSpec()}
    # the carry of a scan over tiles starts as plain zeros, which varies over no axis: that is not checked
    return jax.jit(jax.shard_map(own_rows, mesh=mesh, check_vma=False, **specs))


def copied(mesh: Mesh, tree: Any) -> Any:
    """Copy every array of a pytree to each device of the mesh; in several processes each gives the same."""
    return jax.tree.map(lambda a: placed(a, NamedSharding(mesh, PartitionSpec())), tree)


def placed(a: Any, sharding: NamedSharding) -> Array:
    """Lay an array, or a key, out as told; in several processes each gives the whole and puts its own part."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = placed(jax.random.key_data(a), NamedSharding(sharding.mesh, PartitionSpec()))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
    if isinstance(a, jax.Array) and a.sharding == sharding:
        return a
    if sharding.is_fully_addressable:
        return jax.device_put(a, sharding)
    whole = np.asarray(a)  # each process puts its own part; what the others hold is theirs to put
    return jax.make_array_from_callback(whole.shape, sharding, lambda part: whole[part])
