"""What `factored` gives over four devices beside one: run by test_any_loss_mesh.py in a process of its own, printed as JSON."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import jaxbackprop as jbp


def loss(params, ids, y):
    h = params["table"][ids]
    h = jnp.tanh(h @ params["w"] + params["b"])
    return jnp.sum((h @ params["table"].T - y) ** 2)


def readouts(params, ids, y):
    values, fg = jbp.factored(loss)(params, ids, y)
    return {"values": values, "norms": jbp.norms(fg), "gram": jbp.gram(fg), "clipped": jbp.total(jbp.clip(fg, 5.0))}


def difference(given, expected) -> float:
    pairs = zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs)


def main() -> None:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype("float32")  # noqa: E731
    params = {"table": normal(12, 8), "w": normal(8, 8), "b": normal(8)}
    ids, y = rng.integers(0, 12, size=(16, 5)), normal(16, 5, 12)
    alone = jax.jit(readouts)(params, ids, y)
    G = jax.vmap(jax.grad(loss), (None, 0, 0))(params, ids, y)
    norms = np.linalg.norm(np.concatenate([np.asarray(g).reshape(16, -1) for g in jax.tree.leaves(G)], axis=1), axis=1)
    plain = jax.tree.map(lambda g: np.tensordot(np.minimum(1, 5.0 / norms), g, 1), G)
    found = {"devices": len(jax.devices()), "alone": difference(alone["clipped"], plain), "meshes": {}}
    for shape, specs in (
        ((4, 1), {}),
        ((2, 2), {"w": P(None, "model"), "table": P("model")}),
        ((1, 4), {"w": P("model")}),
    ):
        mesh = jax.make_mesh(shape, ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
        put = lambda a, spec, mesh=mesh: jax.device_put(a, NamedSharding(mesh, spec))  # noqa: E731
        placed = {name: put(a, specs.get(name, P())) for name, a in params.items()}
        here = jax.jit(readouts)(placed, put(ids, P("data")), put(y, P("data")))
        row = {name: difference(here[name], alone[name]) for name in alone}
        row["clipped_some"] = float(np.mean(np.asarray(here["norms"]) > 5.0))
        row["laid_out"] = not placed["w"].sharding.is_fully_replicated or shape[0] == 4
        found["meshes"][f"{shape[0]}x{shape[1]}"] = row
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
