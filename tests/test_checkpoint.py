"""What is on disk after a kill, and that training goes on from it to the very same bits."""

import errno
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxbackprop as jbp
from jaxbackprop.training import checkpoints, disk, npz_store, orbax_store
from jaxbackprop.training.checkpoints import Kept
from jaxbackprop.training.keeper import Keeper
from jaxbackprop.training.steps import Progress

NETWORK = jbp.skip_mlp((3, 5, 4, 2), "tanh", bias=True)
MADE_FOR = {"data set": "one"}
X = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
Y = np.sin(X[:, :2])


def fit(folder, epochs=6, network=NETWORK, rate=0.01, data=(X, Y), key=0, batch_size=8, **more):
    checkpoints = None if folder is None else jbp.Checkpoints(folder, **more.pop("checkpoints", {}))
    return jbp.fit(
        network,
        "huber",
        optax.adam(rate),
        data,
        epochs=epochs,
        batch_size=batch_size,
        key=jax.random.split(jax.random.key(key))[0],
        checkpoints=checkpoints,
        **more,
    )


def bits(tree):
    keys = jax.tree.map(lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a, tree)
    return [(a.dtype, a.shape, np.asarray(a).tobytes()) for a in jax.tree.leaves(keys)]


def figures(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


def unpacked(path):
    return npz_store._unpacked(path, path.read_bytes())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("stop", "store"), [(1, "npz"), (5, "npz"), (6, "npz"), (1, "orbax"), (6, "orbax")])
def test_training_goes_on_to_the_very_same_bits(stop, store, tmp_path):
    whole, history = fit(None, validation=(X, Y))
    fit(tmp_path, epochs=stop, validation=(X, Y), checkpoints={"store": store})
    state, again = fit(tmp_path, validation=(X, Y), checkpoints={"store": store})
    assert bits(state) == bits(whole)
    assert figures(again) == figures(history)
    assert [row["epoch"] for row in again] == [1, 2, 3, 4, 5, 6]


def test_an_interruption_saves_the_last_whole_epoch_whatever_was_due(tmp_path):
    def interrupted(_state, row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, callbacks=[interrupted], checkpoints={"every_epochs": None})
    assert names(tmp_path) == ["best.npz", "checkpoint-000003-000000000.npz"]
    assert bits(fit(tmp_path)[0]) == bits(fit(None)[0])


def test_the_latest_are_kept_and_the_best(tmp_path):
    history, saved = [], (1, 3, 4, 5)  # not the best one
    keeper = Keeper(jbp.Checkpoints(tmp_path, keep=2), MADE_FOR)
    for epoch, loss in enumerate([3.0, 1.0, 2.0, 2.5, 2.25], 1):
        history.append({"epoch": epoch, "loss": 0.0, "validation_loss": loss})
        progress = Progress({"w": jnp.full(2, epoch)}, jnp.zeros((3, 2)), 0)
        keeper.note(progress, history)
        if epoch in saved:
            keeper.save(progress, history)
    assert names(tmp_path) == ["best.npz", "checkpoint-000004-000000000.npz", "checkpoint-000005-000000000.npz"]
    about, (w, _, _) = unpacked(tmp_path / "best.npz")
    assert (about["history"][-1]["epoch"], w.tolist()) == (2, [2, 2])


def test_training_goes_on_from_the_best_where_every_other_one_is_damaged(tmp_path):
    _, history = fit(tmp_path, epochs=4)
    best = min(history, key=lambda row: row["loss"])["epoch"]
    for path in tmp_path.glob("checkpoint-*"):
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="is damaged.*: going on from best.npz"):
        state, again = fit(tmp_path)
    assert best > 1
    assert again[: best - 1] == history[: best - 1]
    assert bits(state) == bits(fit(None)[0])


def test_a_damaged_one_that_is_newer_does_not_push_a_whole_one_out(tmp_path):
    fit(tmp_path, epochs=3)
    (tmp_path / "checkpoint-000002-000000000.npz.part").write_bytes(b"of a save that was killed")
    damaged = tmp_path / "checkpoint-000006-000000000.npz"
    damaged.mkdir()  # which cannot be read at all
    for epochs in (4, 5):
        with pytest.warns(RuntimeWarning, match=rf"Is a directory.*going on from checkpoint-00000{epochs - 1}"):
            fit(tmp_path, epochs=epochs, checkpoints={"keep": 1})
        assert names(tmp_path) == ["best.npz", f"checkpoint-00000{epochs}-000000000.npz", damaged.name]


DTYPES = ("float32", "float64", "bfloat16", "float16", "int32", "bool")


@pytest.mark.parametrize(
    ("dtype", "store"), [(dtype, "npz") for dtype in DTYPES] + [(dtype, "orbax") for dtype in DTYPES[1:3]]
)
def test_every_dtype_and_a_key_come_back_bit_for_bit(dtype, store, tmp_path):
    store = {"npz": npz_store, "orbax": orbax_store}[store]
    with jax.enable_x64(True):
        state = {
            "a": jnp.arange(6).reshape(2, 3).astype(dtype),
            "empty": jnp.zeros((0, 2), dtype),
            "n": jnp.asarray(1, dtype),
        }
        if store is orbax_store:  # which knows no empty arrays
            del state["empty"]
        state["key"] = jax.random.key(7, impl="rbg")
        state["keys"] = jax.random.split(jax.random.key(7), 3)
        store.save(tmp_path, Kept(state, [{"epoch": 1, "loss": float("nan")}], MADE_FOR))
        found = store.load(tmp_path, state, MADE_FOR)
        assert bits(found.state) == bits(state)
        assert found.state["key"].dtype == state["key"].dtype


def damage_cut(content):
    return content[: len(content) // 2]


def damage_flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_empty(_content):
    return b""


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, tmp_path):
    fit(tmp_path, epochs=4)
    newest = tmp_path / "checkpoint-000004-000000000.npz"
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(
        RuntimeWarning,
        match=r"checkpoint-000004-0+.npz is damaged.*going on from checkpoint-000003-0+.npz",
    ):
        state, _ = fit(tmp_path)
    assert bits(state) == bits(fit(None)[0])
    for path in tmp_path.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"no checkpoint can be used: .*000006-000000000.npz is damaged.*best.npz is"):
        fit(tmp_path)


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_empty])
def test_a_damaged_checkpoint_of_orbax_is_named_and_the_one_before_is_used(damage, tmp_path):
    orbax = {"checkpoints": {"store": "orbax"}}
    state, _ = fit(tmp_path, epochs=3, **orbax)
    for steps in (["3000000000"], ["3000000000", "2000000000"]):
        for step in steps:  # the arrays' own file, whichever it is: the largest
            files = [path for path in (tmp_path / step).rglob("*") if path.is_file()]
            largest = max(files, key=lambda path: path.stat().st_size)
            largest.write_bytes(damage(largest.read_bytes()))
        with pytest.warns(RuntimeWarning, match=rf"0+ is damaged.*going on from {3 - len(steps)}0+$"):
            again, _ = fit(tmp_path, epochs=3, checkpoints={"store": "orbax", "every_epochs": None})
        assert bits(again) == bits(state)
        assert bits(fit(tmp_path, epochs=3, **orbax)[0]) == bits(state)  # which was saved, and warns of nothing
    for path in tmp_path.glob("*000000000/about/metadata"):
        path.write_text("nothing")
    with pytest.raises(ValueError, match=r"no checkpoint can be used: .*1000000000 is damaged"):
        fit(tmp_path, epochs=3, **orbax)


def test_arrays_that_are_not_those_of_the_fingerprints_are_refused(tmp_path, monkeypatch):
    """Whatever Orbax itself sees or does not."""
    state = {"w": jnp.arange(3.0)}
    for epoch in (1, 2):
        orbax_store.save(tmp_path, Kept(state, [{"epoch": epoch, "loss": 0.0}], MADE_FOR))
    others = iter([jnp.uint32([7]), orbax_store._fingerprints([state["w"]])])
    monkeypatch.setattr(orbax_store, "_fingerprints", lambda _leaves: next(others))
    found = orbax_store.load(tmp_path, state, MADE_FOR)
    assert found.path.name == "1000000000"
    assert "2000000000 is damaged: its fingerprints" in found.refused[0]


def test_a_fingerprint_sees_every_byte():
    for dtype in ("float32", "bfloat16", "int32", "bool"):
        array = np.arange(24).reshape(4, 6).astype(jnp.dtype(dtype))
        seen = {int(orbax_store._fingerprint(jnp.asarray(array)))}
        for place in range(24):
            other = array.copy()
            other.reshape(-1)[place] = 1 - other.reshape(-1)[place]
            seen.add(int(orbax_store._fingerprint(jnp.asarray(other))))
        assert len(seen) == 25
    swapped = array[::-1].copy()
    assert int(orbax_store._fingerprint(jnp.asarray(swapped))) not in seen


def test_no_byte_of_a_checkpoint_can_be_changed_unseen(tmp_path):
    path = npz_store.save(tmp_path, Kept({"w": jnp.arange(4.0)}, [{"epoch": 1, "loss": 0.0}], MADE_FOR))
    content = path.read_bytes()
    with np.load(path) as arrays:  # and it is an ordinary archive
        assert arrays["0"].view("float32").tolist() == [0, 1, 2, 3]
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            unpacked(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": jbp.skip_mlp((3, 5, 4, 2), "relu", bias=True)}, "another network, .*tanh.*and this is .*relu"),
        ({"data": (X + 1, Y)}, "another data set, 50 examples"),
        ({"rate": 0.02}, "another optimizer"),
        ({"rate": jnp.asarray(0.02)}, "another optimizer"),
        ({"epochs": 1}, "is of epoch 2: expected epochs of at least 2, not 1"),
        ({"key": 1}, "another key"),
        ({"batch_size": 10}, "another batch size, 8, and this is 10"),
        ({"gradient": "jax.grad"}, "another gradient, hand, and this is jax.grad"),
        ({"checkpoints": {"made_for": {"scaling": "two"}}}, "another scaling, one, and this is two"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_with_the_difference(change, message, tmp_path):
    fit(tmp_path, epochs=2, rate=jnp.asarray(0.01), checkpoints={"made_for": {"scaling": "one"}})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, **({"rate": jnp.asarray(0.01), "checkpoints": {"made_for": {"scaling": "one"}}} | change))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (
            {"gradient": jbp.private_gradient(1.0, 1.0)},
            {"gradient": jbp.private_gradient(1.0, 0.1)},
            "another gradient",
        ),
        (
            {"network": jbp.mlp((3, 4, 2), (jnp.sin, jnp.cos))},
            {"network": jbp.mlp((3, 4, 2), (jnp.sinh, jnp.cosh))},
            "another activation or loss",
        ),
    ],
)
def test_a_checkpoint_of_other_functions_of_ones_own_is_refused(one, other, message, tmp_path):
    fit(tmp_path, epochs=1, **one)
    fit(tmp_path, epochs=1, **one)
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, epochs=1, **other)


def test_a_checkpoint_of_orbax_of_another_training_is_refused_too(tmp_path):
    fit(tmp_path, epochs=1, checkpoints={"store": "orbax"})
    with pytest.raises(ValueError, match="another batch size, 8, and this is 10"):
        fit(tmp_path, batch_size=10, checkpoints={"store": "orbax"})
    state = {"w": jnp.zeros(3)}
    orbax_store.save(tmp_path / "other", Kept(state, [{"epoch": 1, "loss": 0.0}], MADE_FOR))
    with pytest.raises(ValueError, match=r"\['w'\] is float32\[3\], here float32\[4\]"):
        orbax_store.load(tmp_path / "other", {"w": jnp.zeros(4)}, MADE_FOR)
    assert orbax_store.load(tmp_path / "nothing", state, MADE_FOR) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"store": "zip"}, "store"),
        ({"keep": 0}, "keep is 0: expected an integer of at least 1"),
        ({"every_epochs": 0}, "every_epochs is 0"),
        ({"every_minutes": 0}, "every_minutes is 0: expected a positive number"),
        ({"every_minutes": float("nan")}, "every_minutes is nan"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        jbp.Checkpoints(tmp_path, **settings)


@pytest.mark.parametrize("store", [npz_store, orbax_store])
def test_a_checkpoint_of_another_version_is_refused(store, tmp_path, monkeypatch):
    state = {"w": jnp.zeros(3)}
    store.save(tmp_path, Kept(state, [{"epoch": 1, "loss": 0.0}], MADE_FOR))
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    with pytest.raises(ValueError, match="has format 1, this version reads 2"):
        store.load(tmp_path, state, MADE_FOR)


def test_a_state_of_another_shape_is_refused(tmp_path):
    npz_store.save(tmp_path, Kept({"w": jnp.zeros(3)}, [{"epoch": 1, "loss": 0.0}], MADE_FOR))
    for like, message in (
        ({"w": jnp.zeros(4)}, r"\['w'\] is float32\[3\], here float32\[4\]"),
        ({"w": jnp.zeros(3, int)}, r"\['w'\] is float32\[3\], here int32\[3\]"),
        ({"w": jnp.zeros(3), "m": jnp.zeros(3)}, r"only this training has \['m'\]"),
        ({}, r"only the checkpoint has \['w'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            npz_store.load(tmp_path, like, MADE_FOR)


def test_a_full_disk_is_said_and_the_last_good_one_stays(tmp_path, monkeypatch):
    fit(tmp_path, epochs=2)
    before = names(tmp_path)

    def full(_file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path)
    assert names(tmp_path) == before
    monkeypatch.undo()
    assert bits(fit(tmp_path)[0]) == bits(fit(None)[0])


STEPS = 2 * 7  # of two epochs of 50 examples in batches of 8


def then(later, make=optax.sgd):
    """A rate of 0.01 for two epochs, and so many times that from then on."""
    return make(optax.piecewise_constant_schedule(0.01, {STEPS: later}))


def fit_by(optimizer, folder, epochs=4, key=None, **more):
    checkpoints = folder and jbp.Checkpoints(folder, **more.pop("checkpoints", {}))
    key = jax.random.key(0) if key is None else key
    settings = {"epochs": epochs, "batch_size": 8, "key": key, "checkpoints": checkpoints}
    return jbp.fit(NETWORK, "half_squared_error", optimizer, more.pop("data", (X, Y)), **settings, **more)


def test_where_training_diverges_the_last_good_state_is_what_is_returned_and_kept(tmp_path):
    good, _ = fit_by(then(1e37), tmp_path / "good", epochs=2)
    with pytest.warns(
        RuntimeWarning, match="the loss is (nan|inf) after epoch 3: training stopped.*lower learning rate"
    ):
        state, history = fit_by(then(1e37), tmp_path / "run", epochs=5)
    assert len(history) == 3
    assert bits(state) == bits(good)
    latest = ["checkpoint-000001-000000000.npz", "checkpoint-000002-000000000.npz"]
    assert names(tmp_path / "run") == ["best.npz", *latest, "diverged.json"]


@pytest.mark.parametrize("store", ["npz", "orbax"])
def test_after_a_divergence_the_same_call_at_a_lower_rate_goes_on_from_the_last_good_state(store, tmp_path):
    momentum = partial(optax.sgd, momentum=0.9)
    settings = {"checkpoints": {"store": store, "made_for": {"optimizer": "as fast as it can"}}}
    with pytest.warns(RuntimeWarning, match="the same call with a lower rate goes on from that state"):
        fit_by(then(1e37, momentum), tmp_path, **settings)
    with pytest.raises(ValueError, match="another data set"):
        fit_by(then(0.5, momentum), tmp_path, data=(X + 1, Y), **settings)
    whole, history = fit_by(then(0.5, momentum), None)
    settings = {"checkpoints": {"store": store, "made_for": {"optimizer": "slower"}}}
    state, again = fit_by(then(0.5, momentum), tmp_path, **settings)
    assert bits(state) == bits(whole)
    assert figures(again) == figures(history)
    with pytest.raises(ValueError, match="another optimizer"):  # it is of that optimizer now
        fit_by(then(0.25, momentum), tmp_path, **settings)


def test_after_a_divergence_an_optimizer_of_another_kind_is_refused_by_what_it_carries(tmp_path):
    with pytest.warns(RuntimeWarning, match="training stopped"):
        fit_by(then(1e37), tmp_path)
    with pytest.raises(ValueError, match=r"of another network or optimizer: only this training has .*count"):
        fit_by(then(0.5, optax.adam), tmp_path)


def test_a_rate_that_an_optimizer_carries_is_told_apart_and_after_a_divergence_it_is_that_of_the_call(tmp_path):
    def carrying(rate, later):
        injected = optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
        return optax.chain(injected, optax.scale_by_schedule(optax.piecewise_constant_schedule(1.0, {STEPS: later})))

    fit_by(carrying(0.01, 1.0), tmp_path / "good", epochs=2)
    with pytest.raises(ValueError, match=r"another optimizer \(its settings\)"):
        fit_by(carrying(0.002, 1.0), tmp_path / "good")
    with pytest.warns(RuntimeWarning, match="training stopped"):
        fit_by(carrying(0.01, 1e37), tmp_path / "run")
    state, _ = fit_by(carrying(0.002, 1.0), tmp_path / "run")
    right, wrong = (fit_by(then(later), None)[0].params for later in (0.2, 1.0))
    for given, expected, old in zip(*map(jax.tree.leaves, (state.params, right, wrong)), strict=True):
        np.testing.assert_allclose(given, expected, rtol=1e-5, atol=1e-7)
        assert not np.allclose(given, old, rtol=1e-4, atol=1e-6)


def test_after_a_divergence_a_private_training_does_not_go_on_as_its_noise_would_be_used_twice(tmp_path):
    private = {"gradient": jbp.private_gradient(1.0, 1.0), "key": jbp.secret_key()}
    with pytest.warns(RuntimeWarning, match="huge values in the data$"):
        fit_by(then(1e38), tmp_path, **private)
    before = names(tmp_path)
    with pytest.raises(ValueError, match="another optimizer"):
        fit_by(then(0.5), tmp_path, **private)
    assert names(tmp_path) == before
    assert "diverged.json" not in before


def test_a_checkpoint_whose_programs_have_other_names_goes_on(tmp_path):
    """As those of another JAX have, and those that were saved before the names were these."""
    state, _ = fit(tmp_path, epochs=2)
    path = tmp_path / "checkpoint-000002-000000000.npz"
    about, _ = unpacked(path)
    words = {name: said for name, said in about["made_for"].items() if "program" not in name}
    assert len(words) == len(about["made_for"]) - 2
    progress = Progress(state, np.zeros((7, 2), "float32"), np.zeros((), "int32"))
    made_for = words | {f"optimizer (its update in jax {jax.__version__})": "0123456789abcdef"}
    assert npz_store.save(tmp_path, Kept(progress, about["history"], made_for)) == path
    assert bits(fit(tmp_path)[0]) == bits(fit(None)[0])


def test_a_file_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    class FullDiskError(OSError):
        pass

    def full(_):
        raise FullDiskError

    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FullDiskError):
        disk.write_whole(path, b"half")
    assert not path.exists()
    monkeypatch.undo()
    disk.write_whole(path, b"whole")
    assert path.read_bytes() == b"whole"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FullDiskError):
        disk.write_whole(path, b"half")
    assert path.read_bytes() == b"whole"
    monkeypatch.undo()
    disk.write_whole(path, b"again")
    assert path.read_bytes() == b"again"
    assert names(tmp_path) == ["file"]
