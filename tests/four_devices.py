"""What four devices compute beside what one does: run by test_sharding.py in a process of its own, printed as JSON."""

import json
import re
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import PartitionSpec

import jaxbackprop as jbp
from jaxbackprop.losses import as_loss
from jaxbackprop.model import Model
from jaxbackprop.scaling import mesh as mesh_of
from jaxbackprop.training.epochs import epoch_in_one_call
from jaxbackprop.training.methods import GRADIENTS
from jaxbackprop.training.steps import Problem, start

NETWORK = jbp.skip_mlp((3, 8, 1024, 2), "tanh", bias=True)
X = np.random.default_rng(0).normal(size=(203, 3)).astype("float32")
Y = np.sin(X[:, :2])
LOSS, OPTIMIZER = "huber", optax.adam(0.001)  # one, so that its programs are compiled once a mesh
READOUT = lambda fg: jbp.total(jbp.clip(fg, 0.1))  # noqa: E731


def difference(given, expected) -> float:
    pairs = zip(jax.tree.leaves(given), jax.tree.leaves(expected), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs)


def collectives(compiled) -> dict[str, int]:
    text = compiled.as_text()
    return {
        kind: len(re.findall(rf" {kind}(?:-start)?\(", text))
        for kind in ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    }


def readouts(params, x, y, weight) -> dict:
    _, fg = jbp.per_example(NETWORK, LOSS)(params, x, y)
    value, grads = jbp.value_and_grad(NETWORK, LOSS)(params, x, y, weight)
    return {
        "value": value,
        "gradient": grads,
        "clipped": jbp.total(jbp.clip(fg, 0.1), weight),
        "streamed": jbp.stream(NETWORK, LOSS, READOUT, tile=16)(params, x, y, weight)[1],
        "norms": jbp.norms(fg),
        "gram": jbp.gram(fg)[: len(X), : len(X)],
        "inner": jbp.inner(fg, grads)[: len(X)],
    }


def fit(data=(X, Y), epochs=2, batch_size=48, **more):
    return jbp.fit(
        NETWORK,
        LOSS,
        OPTIMIZER,
        data,
        epochs=epochs,
        batch_size=batch_size,
        key=jax.random.key(0),
        validation=(X, Y),
        **more,
    )


def main() -> None:
    params = jbp.init(NETWORK, jax.random.key(0))
    alone = readouts(params, X, Y, np.ones(len(X), "float32"))
    folder = Path(tempfile.mkdtemp())
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    stored = jbp.blocks.open_npy(folder / "x.npy", folder / "y.npy")
    state, history = fit()
    read_state, _ = fit(stored)
    found = {"devices": len(jax.devices()), "meshes": {}}
    for devices, model in ((1, 1), (2, 1), (4, 1), (4, 2)):
        mesh = jbp.data_mesh(jax.devices()[:devices], model=model)
        placed = jbp.scaling.mesh.place_params(mesh, NETWORK, params), *jbp.scaling.mesh.place_batch(mesh, X, Y)
        here = readouts(*placed)
        run = jbp.value_and_grad(NETWORK, LOSS, reduction="sum")
        norms_stay = not here["norms"].sharding.is_fully_replicated
        here["norms"] = here["norms"][: len(X)]
        row = {name: difference(here[name], alone[name]) for name in alone}
        row["rows"] = len(placed[1])
        row["norms_stay"] = norms_stay == (devices > model)
        row["wide_layer"] = placed[0]["h1"]["h0"].sharding.spec == PartitionSpec("model")
        row["collectives"] = collectives(run.lower(*placed).compile())
        if model == 1:
            summed = jbp.scaling.mesh.over_devices(mesh, jbp.stream(NETWORK, LOSS, READOUT, tile=16))
            row["over_devices"] = difference(summed(*placed)[1], alone["streamed"])
            row["over_devices_collectives"] = collectives(summed.lower(*placed).compile())
        trained, rows = fit(mesh=mesh)
        problem = Problem(Model(NETWORK, as_loss(LOSS)), OPTIMIZER, 48, GRADIENTS["hand"], mesh)
        begun = mesh_of.copied(mesh, start(problem, jax.random.key(0)))
        step = epoch_in_one_call.lower(problem, begun, *mesh_of.copied(mesh, (X, Y))).compile()
        row["fit_collectives"] = collectives(step)
        row["fit"] = difference(trained.params, state.params)
        row["fit_loss"] = abs(rows[-1]["validation_loss"] / history[-1]["validation_loss"] - 1)
        row["fit_wide"] = [
            "model" in leaf["h1"]["h0"].sharding.spec and "model" in leaf["yhat"]["h1"].sharding.spec
            for leaf in (trained.params, trained.opt_state[0].mu)
        ]
        row["fit_read"] = difference(fit(stored, mesh=mesh)[0].params, read_state.params)
        # saved on this mesh, and on with one device
        kept = jbp.Checkpoints(folder / f"kept-{devices}-{model}")
        fit(epochs=1, mesh=mesh, checkpoints=kept)
        row["fit_resumed"] = difference(fit(checkpoints=kept)[0].params, state.params)
        kept = jbp.Checkpoints(folder / f"orbax-{devices}-{model}", store="orbax")
        fit(epochs=1, mesh=mesh, checkpoints=kept)
        on = fit(mesh=mesh, checkpoints=kept)[0]
        row["orbax_resumed"] = difference(on.params, trained.params)
        row["orbax_wide"] = "model" in on.params["h1"]["h0"].sharding.spec
        found["meshes"][f"{devices}x{model}"] = row
    for name, wrong in (
        ("model", lambda: jbp.data_mesh(model=3)),
        ("rows", lambda: jbp.scaling.mesh.place_batch(mesh_of.data_mesh(), X, Y[:5])),
        ("batch", lambda: fit(stored, mesh=jbp.data_mesh(jax.devices()[:3]), epochs=1, batch_size=50)),
    ):
        try:
            wrong()
            found[name] = ""
        except ValueError as error:
            found[name] = str(error)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
