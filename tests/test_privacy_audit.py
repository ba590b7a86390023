"""Private training as an attacker sees it: the noise's key is a secret, and no guess beats what (ε, δ) allows."""

import json
import math
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.stats import binom, norm

import jaxbackprop as jbp
from jaxbackprop import data
from jaxbackprop.command.main import main
from jaxbackprop.training import accounting, epochs, secret, steps
from jaxbackprop.training.accounting import Plan
from jaxbackprop.training.secret import SECRET_FILE

NETWORK = jbp.skip_mlp((3, 5, 4, 2), bias=True)
X = np.random.default_rng(0).normal(size=(30, 3)).astype("float32")
Y = np.sin(X[:, :2])


@pytest.fixture
def drawn(monkeypatch):
    """The operating system's random bytes from a seed, so that no test passes or fails by chance; returns what was drawn."""
    source, found = np.random.default_rng(20), []

    def token_bytes(count):
        found.append(source.bytes(count))
        return found[-1]

    monkeypatch.setattr(secrets, "token_bytes", token_bytes)
    return found


# ---- what (ε, δ) allows: canaries. Of two data sets the one has a row that the other has not; an attacker who knows all but
# the secret sees the parameters and guesses. Training is linear and the canary's direction its own, so that the best guess is
# known: on which side of the middle its weight lies.

MODEL = jbp.mlp((3, 1))  # no bias: a row of zeros has no gradient, and stands for a row that is not there
WITHOUT = np.asarray([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0]], "float32")
WITH = WITHOUT + np.asarray([[0], [0], [0], [1]]) * np.asarray([0, 0, 1], "float32")  # the canary, clipped to norm 1
TARGET, START = np.full((4, 1), 9, "float32"), {"yhat": {"x": jnp.zeros((1, 3))}}
RUNS = 400
SGD = optax.sgd(1.0)  # one object, so that all runs share their compiled programs


def released(x, method, epochs, batch_size, **key):
    state, _ = jbp.fit(
        MODEL,
        "half_squared_error",
        SGD,
        (x, TARGET),
        epochs=epochs,
        batch_size=batch_size,
        params=START,
        gradient=method,
        **key,
    )
    return np.asarray(state.params["yhat"]["x"])[0]


def right_guesses(method, epochs, batch_size, guess, runs=RUNS):
    """How many of so many runs, each on one of the two at random and with a secret of its own, are guessed."""
    truths = np.random.default_rng(4).random(runs) < 0.5
    return sum(guess(released(WITH if truth else WITHOUT, method, epochs, batch_size)) == truth for truth in truths)


def middle(epochs, batch_size):
    """The best guess: a step that samples the canary, in the mean `batch_size / 4` of all, moves its weight by 1 / batch_size."""
    steps = epochs * -(-4 // batch_size)
    return lambda w: bool(w[2] > steps / 4 / 2)


def allowed(sigma, epochs, batch_size, runs=RUNS):
    """What no attacker exceeds but once in a million: (e^ε + δ) / (1 + e^ε) a guess, at any (ε, δ) that is spent."""
    plan = Plan(4, batch_size, epochs)
    spent = [accounting.spent(plan, sigma, delta) for delta in (1e-3, 0.05, 0.1, 0.2, 0.3, 0.37, 0.38, 0.5, 0.6, 0.7)]
    return binom.isf(1e-6, runs, min((math.exp(e) + d) / (1 + math.exp(e)) for e, d in spent))


@pytest.mark.parametrize(("sigma", "epochs", "batch_size"), [(1.0, 1, 4), (2.0, 4, 4), (1.0, 2, 2)])
def test_no_guess_between_two_data_sets_beats_what_epsilon_allows(sigma, epochs, batch_size, drawn):
    bound, guess = allowed(sigma, epochs, batch_size), middle(epochs, batch_size)
    found = right_guesses(jbp.private_gradient(1.0, sigma), epochs, batch_size, guess)
    assert found <= bound < RUNS
    assert len(drawn) == len(set(drawn)) == RUNS, "each run has a secret of its own"
    if batch_size == 4:  # the Gaussian mechanism: the attack is as good as any can be, so that less noise is noticed
        best = norm.cdf(math.sqrt(epochs) / sigma / 2)
        assert binom.ppf(1e-6, RUNS, best) <= found
        quieter = right_guesses(jbp.private_gradient(1.0, sigma / 2), epochs, batch_size, guess)
        assert quieter > bound
    silent = right_guesses(jbp.private_gradient(1.0, 0.0), epochs, 4, middle(epochs, 4), runs=100)
    assert silent == 100, "without noise every guess is right"


def test_training_again_on_each_candidate_tells_nothing(drawn):
    """The attack that worked while the noise came from a published seed: repeat the run, and compare."""
    method = jbp.private_gradient(1.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        again = {truth: released(WITH if truth else WITHOUT, method, 1, 4, key=jax.random.key(0)) for truth in (0, 1)}

        def nearest(w):
            return min(again, key=lambda truth: np.abs(w - again[truth]).sum())

        assert nearest(released(WITH, method, 1, 4, key=jax.random.key(0))) == 1, "with the key known it is exact"
    assert right_guesses(method, 1, 4, nearest) <= allowed(1.0, 1, 4)


def test_the_command_hides_which_of_two_files_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(40, 2)).round(3)
    labels = np.where(rows.sum(1) > 0, "yes", "no")
    other = labels.copy()
    other[3] = "no" if labels[3] == "yes" else "yes"
    for name, target in (("truth", labels), ("same", labels), ("other", other)):
        lines = ["a,b,label", *(f"{a},{b},{label}" for (a, b), label in zip(rows.tolist(), target, strict=True))]
        Path(f"{name}.csv").write_text("\n".join(lines) + "\n")
        command = ["train", f"{name}.csv", "--private", "--epochs", "2", "--hidden", "4", "--out", name]
        command += ["--numbers", "a", "b", "--missing", "drop", "--classes", "no", "yes", "--bounds", "bounds.csv"]
        assert main(command) == 2, "no such file"
        Path("bounds.csv").write_text("column,least,most\n*,-3,3\n")
        assert main(command) == 0
        Path("bounds.csv").unlink()
    found = {name: params_of(name) for name in ("truth", "same", "other")}
    assert not np.array_equal(found["truth"], found["same"])
    assert not np.array_equal(found["truth"], found["other"])
    encodings = [json.loads(Path(name, "config.json").read_text())["encoding"] for name in ("truth", "other")]
    assert encodings[0] == encodings[1], "with bounds, classes and kinds nothing but the parameters comes from the rows"
    assert encodings[0]["mean"] == [0.0, 0.0]
    assert encodings[0]["scale"] == [3.0, 3.0]
    assert [column["fill"] for column in encodings[0]["columns"]] == [0.0, 0.0]
    assert json.loads(Path("truth/config.json").read_text())["private"]["not_protected"] == []
    assert "not protected:" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["mean and scale of the features, medians of the features", "the classes", "of the columns 'a', 'b'"]),
        (["--numbers", "b", "--drop", "a"], ["mean and scale of the features, medians of the features", "the classes"]),
        (["--numbers", "a", "b", "--scale", "none"], ["the classes", "of the columns 'a'"]),  # its gaps are counted
        (["--numbers", "a", "b", "--missing", "drop", "--scale", "none"], ["the classes", "of the columns 'a'"]),
    ],
)
def test_what_a_table_tells_of_its_rows_is_named(words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).normal(size=(40, 2)).round(3)
    lines = [f"{'' if i == 7 else a},{b},{'yes' if a + b > 0 else 'no'}" for i, (a, b) in enumerate(rows.tolist())]
    Path("t.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
    assert main(["train", "t.csv", "--private", "--epochs", "1", "--hidden", "4", "--out", "run", *words]) == 0
    config = json.loads(Path("run/config.json").read_text())
    found = config["private"]["not_protected"]
    assert len(found) == len(told), found
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True)), found
    if "none" in words:
        assert {column["fill"] for column in config["encoding"]["columns"]} == {0.0}


def params_of(folder):
    with np.load(Path(folder, "params.npz")) as flat:
        return np.concatenate([flat[name].ravel() for name in sorted(flat.files)])


# ---- where the secret is, and where it is not


def bits(tree):
    keys = jax.tree.map(lambda a: jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a, tree)
    return [np.asarray(a).tobytes() for a in jax.tree.leaves(keys)]


class KilledError(Exception):
    pass


def fit(folder, epochs=4, stop=None, **more):
    def after(state, row):
        states.append(state)
        if row["epoch"] == stop:
            raise KilledError

    states = []
    checkpoints = None if folder is None else jbp.Checkpoints(folder, **more.pop("kept", {}))
    settings = {"epochs": epochs, "batch_size": 10, "callbacks": [after], "checkpoints": checkpoints}
    method = jbp.private_gradient(1.0, 0.7)
    try:
        state, _ = jbp.fit(NETWORK, "huber", optax.adam(0.01), (X, Y), gradient=method, **settings, **more)
    except KilledError:
        return states[-1], states
    return state, states


@pytest.mark.parametrize(("store", "parts"), [("npz", False), ("npz", True), ("orbax", True)])
def test_an_interrupted_training_goes_on_bit_for_bit_and_leaves_no_secret(store, parts, tmp_path, drawn, monkeypatch):
    if parts:  # an epoch in parts, saved within
        monkeypatch.setattr(epochs, "ONE_CALL_STEPS", 1)
    kept = {"store": store, "every_minutes": 1e-9 if parts else None}
    before, _ = fit(tmp_path, stop=2, kept=kept)
    path = tmp_path / SECRET_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert drawn[0].hex() in path.read_text()
    state, _ = fit(tmp_path, kept=kept)
    assert not path.exists(), "it is gone when training has ended"
    assert len(drawn) == 1
    own = jax.random.wrap_key_data(np.frombuffer(drawn[0], np.uint32))
    whole, _ = fit(None, key=own)
    assert bits(state) == bits(whole)
    assert bits(before.params) != bits(whole.params)


def chain(content):
    """Every key that a training of this secret ever holds, epoch by epoch."""
    key = jax.random.wrap_key_data(np.frombuffer(content, np.uint32))
    keys = [key, *jax.random.split(key)]
    for _ in range(5):
        keys += [*jax.random.split(keys[1 if len(keys) == 3 else -3], 3)]
    return keys


def test_neither_the_secret_nor_what_follows_from_it_is_saved_returned_or_shown(tmp_path, drawn, capfd):
    state, states = fit(tmp_path, kept={"keep": 9})
    assert capfd.readouterr() == ("", "")
    for shown in (state, *states):
        assert not np.asarray(jax.random.key_data(shown.key)).any()
    (content,) = drawn
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(everything) == 5  # four checkpoints and the best
    told = [np.asarray(jax.random.key_data(key)).tobytes() for key in chain(content)]
    assert np.asarray(jax.random.key_data(jax.jit(steps.two_keys)(chain(content)[0])[0])).tobytes() in told
    for held in everything:
        assert not any(key in held or key.hex().encode() in held for key in told)
    plain = jbp.fit(NETWORK, "huber", optax.adam(0.01), (X, Y), epochs=1, batch_size=10, key=chain(content)[0])[0]
    assert np.asarray(jax.random.key_data(plain.key)).tobytes() in told, "what is not private keeps its key, as ever"


def test_a_folder_without_its_secret_says_so_and_stays_as_it_is(tmp_path, drawn):
    fit(tmp_path, stop=2)
    whole = (tmp_path / SECRET_FILE).read_bytes()
    (tmp_path / SECRET_FILE).unlink()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=f"lacks {SECRET_FILE}, without which this private training cannot go on"):
        fit(tmp_path)
    for damaged in (b"", whole[:-9], b"threefry2x32 nonsense", whole.replace(b"threefry", b"threefly")):
        (tmp_path / SECRET_FILE).write_bytes(damaged)
        if damaged:
            with pytest.raises(ValueError, match=f"{SECRET_FILE} is damaged") as caught:
                fit(tmp_path)
            assert drawn[0].hex() not in str(caught.value)
        (tmp_path / SECRET_FILE).unlink()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_key_of_ones_own_is_not_written_and_goes_on_too(tmp_path):
    key = jbp.secret_key()
    fit(tmp_path, stop=2, key=key)
    assert not (tmp_path / SECRET_FILE).exists()
    assert bits(fit(tmp_path, key=key)[0]) == bits(fit(None, key=key)[0])


def test_a_key_beside_a_kept_secret_is_refused(tmp_path):
    fit(tmp_path, stop=2)
    with pytest.raises(ValueError, match="has drawn its own: leave the key out"):
        fit(tmp_path, key=jbp.secret_key())


def test_a_training_that_diverges_has_ended(tmp_path):
    network, loss = jbp.mlp((1, 1)), (lambda yhat, y: jnp.sum(yhat * y), lambda yhat, y: y)
    x = np.ones((4, 1), "float32")
    settings = {"epochs": 9, "batch_size": 4, "gradient": jbp.private_gradient(1.0, 1.0)}
    with pytest.warns(RuntimeWarning, match="training stopped"):
        jbp.fit(network, loss, optax.sgd(3e38), (x, x), checkpoints=jbp.Checkpoints(tmp_path), **settings)
    assert not (tmp_path / SECRET_FILE).exists()


@pytest.mark.parametrize("integer", [0, 7, -1, 2**31 - 1])
@pytest.mark.parametrize("make", [jax.random.key, lambda n: jax.random.key(n, impl="rbg")])
def test_a_key_from_an_integer_is_warned_of(integer, make):
    with pytest.warns(RuntimeWarning, match="key comes from a small integer: .* Leave key out"):
        fit(None, epochs=1, key=make(integer))
    keys = jnp.stack([make(integer), make(integer)])
    if make is jax.random.key:
        with pytest.warns(RuntimeWarning, match="key comes from a small integer"):
            jbp.fit_many(
                NETWORK,
                "huber",
                optax.sgd,
                (X, Y),
                epochs=1,
                batch_size=10,
                keys=keys,
                learning_rates=jnp.ones(2) / 9,
                gradient=jbp.private_gradient(1.0, 1.0),
            )


def test_a_key_of_the_operating_systems_is_not():
    for _ in range(100):
        assert not secret.is_guessable(jbp.secret_key())
    with jax.default_prng_impl("rbg"):
        assert np.asarray(jax.random.key_data(jbp.secret_key())).shape == (4,)
    first, second = (jax.random.key_data(jbp.secret_key()).tolist() for _ in range(2))
    assert first != second


def test_only_a_private_training_goes_without_a_key():
    with pytest.raises(
        TypeError, match=r"key is None: the first parameters and the shuffles .* private_gradient alone"
    ):
        jbp.fit(NETWORK, "huber", optax.adam(0.01), (X, Y), epochs=1, batch_size=10)


# ---- the command


def test_a_killed_private_run_goes_on_and_its_folder_tells_nothing(tmp_path):
    """kill -9 after a checkpoint; what --resume ends at is what one run of that very secret gives."""
    command = [sys.executable, "-m", "jaxbackprop", "train"]
    words = ["wine", "--private", "--hidden", "8", "--batch-size", "32", "--out", "run", "--seed", "5"]
    long = subprocess.Popen(
        [*command, *words, "--epochs", "600", "--checkpoint-every", "1"], cwd=tmp_path, stdout=subprocess.PIPE
    )
    path = tmp_path / "run" / "checkpoints" / SECRET_FILE
    deadline = time.monotonic() + 240
    while not list(path.parent.glob("checkpoint-0000*")):
        assert time.monotonic() < deadline
        assert long.poll() is None
        time.sleep(0.01)
    os.kill(long.pid, signal.SIGKILL)
    said = long.communicate()[0].decode()
    assert f"run/checkpoints/{SECRET_FILE} holds the noise's key until training has ended" in said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key, config = secret._read(path, path.read_bytes()), json.loads((tmp_path / "run" / "config.json").read_text())

    again = subprocess.run([*command, "--resume", "run"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert not path.exists()
    wine = data.load("wine", seed=5, stratify=False)
    network = jbp.skip_mlp((13, 8, 3), bias=True)
    state, _ = jbp.fit(
        network,
        "softmax_cross_entropy",
        optax.adamw(0.003, weight_decay=0.0),
        wine.train,
        epochs=600,
        batch_size=32,
        key=key,
        params=steps.drawn(network, jax.random.key(5)),
        gradient=jbp.private_gradient(1.0, config["private"]["noise_multiplier"]),
    )
    flat = {f"{t}/{s}": np.asarray(w) for t, sources in state.params.items() for s, w in sources.items()}
    with np.load(tmp_path / "run" / "params.npz") as found:
        assert {name: found[name].tobytes() for name in found.files} == {n: w.tobytes() for n, w in flat.items()}

    digits = np.asarray(jax.random.key_data(key)).tobytes()
    told = [said.encode(), again.stdout.encode(), again.stderr.encode()]
    for content in [*told, *(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())]:
        assert digits not in content
        assert digits.hex().encode() not in content


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epsilon", "3"], "--epsilon is for private training: say --private too, or leave it out"),
        (["--delta", "1e-6"], "--delta is for private training"),
        (["--max-norm", "1"], "--max-norm is for private training"),
        (["--noise-multiplier", "1"], "--noise-multiplier is for private training"),
        (
            ["--private", "--epsilon", "3", "--noise-multiplier", "1"],
            "--noise-multiplier says what --epsilon works out",
        ),
        (["--private", "--gradient", "jax.grad"], "--private clips by the hand-derived gradient"),
        (["--weight-decay", "0.1", "--optimizer", "adam"], "--weight-decay is for adamw or lion: adam has none"),
        (["--activation", "tanh", "--hidden"], "--activation is of hidden layers"),
        (["--wiring", "skip", "--hidden"], "--wiring is of hidden layers"),
        (["--scratch", "here"], "--scratch is for the rows of a folder"),
        (["--checkpoint-every", "61"], "--checkpoint-every 61 would never come: there are 60 epochs"),
        (["--scale", "none", "--bounds", "b.csv"], "--bounds is a way to scale of its own"),
        (["--process-id", "0"], "--processes and --process-id need --coordinator"),
        (["--classes", "1", "2", "--task", "regression"], "classes are given, and task='regression'"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["train", "wine", *words])
    except SystemExit as leaving:
        status = leaving.code
    assert status == 2
    _, err = capsys.readouterr()
    assert re.search(message, err)
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_noise_multiplier_says_what_it_spends(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["wine", "--private", "--noise-multiplier", "2", "--epochs", "2", "--hidden", "4", "--json", "--out", "run"]
    assert main(["train", *words]) == 0
    found = json.loads(capsys.readouterr().out)["spent"]
    rows = len(data.load("wine", stratify=False).x_train)
    assert found["epsilon"] == accounting.spent(Plan(rows, rows, 2), 2.0, 1e-5).epsilon
    config = json.loads(Path("run/config.json").read_text())["private"]
    assert config["noise_multiplier"] == 2.0
    assert [taken.split(",")[0] for taken in config["not_protected"]] == [
        "mean and scale of the features",
        "the classes",
    ]
