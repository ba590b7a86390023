"""Four virtual devices, and two real processes, against one: the same numbers, one all-reduce, and what a loss does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from devices import on_four_devices

import jaxbackprop as jbp
from jaxbackprop import data
from jaxbackprop.scaling import processes
from jaxbackprop.training import secret
from jaxbackprop.training.steps import drawn

pytestmark = pytest.mark.thorough  # what four devices compute is computed once, for many of these tests
TESTS = Path(__file__).parent
TOLERANCE = 2e-5  # sums over 203 rows and 1,024 units in another order, and 10 steps of Adam, in float32
MESHES = ("1x1", "2x1", "4x1", "4x2")


@pytest.fixture(scope="module")
def found():
    return on_four_devices("four_devices.py")


@pytest.mark.parametrize("mesh", MESHES)
def test_every_readout_is_that_of_one_device(found, mesh):
    row = found["meshes"][mesh]
    for name in ("value", "gradient", "clipped", "streamed", "norms", "gram", "inner"):
        assert row[name] <= TOLERANCE, name
    assert row["rows"] == {"1x1": 203, "2x1": 204, "4x1": 204, "4x2": 204}[mesh]
    assert row["norms_stay"]


@pytest.mark.parametrize("mesh", MESHES)
def test_training_is_that_of_one_device_from_memory_and_from_a_disk(found, mesh):
    row = found["meshes"][mesh]
    for name in ("fit", "fit_loss", "fit_read", "fit_resumed"):
        assert row[name] <= TOLERANCE, name
    assert row["orbax_resumed"] == 0  # on the same devices bit for bit


def test_a_gradient_over_devices_takes_one_all_reduce(found):
    for mesh in ("2x1", "4x1"):
        one = {"all-reduce": 1, "all-gather": 0, "all-to-all": 0, "collective-permute": 0}
        assert found["meshes"][mesh]["collectives"] == one
        tiled = found["meshes"][mesh]["over_devices_collectives"]
        assert tiled == one
        assert found["meshes"][mesh]["fit_collectives"] == one  # in the loop of steps, for the loss and the gradient
        assert found["meshes"][mesh]["over_devices"] <= TOLERANCE


def test_wide_layers_and_what_the_optimizer_keeps_of_them_lie_over_the_model_axis(found):
    for mesh in MESHES:
        assert found["meshes"][mesh]["wide_layer"] == (mesh == "4x2")
        assert found["meshes"][mesh]["fit_wide"] == [mesh == "4x2"] * 2
        assert found["meshes"][mesh]["orbax_wide"] == (mesh == "4x2")


def test_what_cannot_be_laid_out_is_refused(found):
    assert found["model"] == "model is 3: expected a divisor of the 4 devices of a process"
    assert found["rows"].startswith("x has shape (203, 3), y (5, 2), weight (203,): give")
    assert found["batch"] == "batch_size is 50: expected a multiple of the 3 devices"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere", 2, 0), "coordinator is 'nowhere': expected HOST:PORT"),
        (("host:0", 2, 0), "expected HOST:PORT"),
        (("host:99999", 2, 0), "expected HOST:PORT"),
        (("host:1", 2, 2), "process_id is 2, processes 2: expected 0 to processes − 1"),
        (("host:1", None, 0), "process_id is 0, processes None"),
    ],
)
def test_an_address_or_an_id_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)


def test_nobody_at_the_address_is_said_and_no_process_is_aborted():
    with pytest.raises(TimeoutError, match=r"nobody answers at 127.0.0.1:\d+ for 1 s .*: start process 0 there"):
        processes.join(f"127.0.0.1:{free_port()}", 2, 1, initialization_seconds=1)


# ---- two processes


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, process, port, *more, processes=2, data="digits"):
    train = [sys.executable, "-m", "jaxbackprop", "train", str(data)]
    command = [*train, "--hidden", "16", "--batch-size", "64", *more]
    where = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(processes), "--process-id", str(process)]
    return subprocess.Popen(
        [*command, *where] if processes > 1 else command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(TESTS.parent)},
    )


def both(folder, *more, **data):
    port = free_port()
    return [start(folder, i, port, *more, **data) for i in range(2)]


def ended(processes, seconds=240):
    """Exit status and both outputs of each; whatever happens none is left."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(processes, outputs, strict=True)]


def params(folder):
    with np.load(folder / "params.npz") as file:
        return {name: file[name] for name in file.files}


def rows(folder):
    path = folder / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def until_two_epochs(processes, run):
    deadline = time.monotonic() + 240
    while len(rows(run)) < 2:
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    ((status, _, errors),) = ended([start(folder, 0, 0, "--epochs", "4", "--out", "run", processes=1)])
    assert status == 0, errors
    return folder / "run"


def test_two_processes_train_as_one(alone, tmp_path):
    (first, second) = ended(both(tmp_path, "--epochs", "4", "--out", "run"))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "2 processes" in first[1]
    assert second[1] == ""  # the first speaks for both
    expected = params(alone)
    for name, weight in params(tmp_path / "run").items():
        np.testing.assert_allclose(weight, expected[name], atol=1e-5)
    losses = [[row["loss"] for row in rows(folder)] for folder in (alone, tmp_path / "run")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_two_processes_train_as_one_on_a_folder_of_which_each_reads_its_part(tmp_path):
    (tmp_path / "big").mkdir()
    x = np.random.default_rng(0).normal(size=(2000, 3))
    np.save(tmp_path / "big" / "x.npy", x)
    np.save(tmp_path / "big" / "y.npy", np.sin(x.sum(axis=1)))
    found = ended(
        [
            start(tmp_path, 0, 0, "--epochs", "2", "--out", "alone", processes=1, data="big"),
            *both(tmp_path, "--epochs", "2", "--out", "run", data="big"),
        ]
    )
    assert [status for status, *_ in found] == [0, 0, 0], found
    expected = params(tmp_path / "alone")
    for name, weight in params(tmp_path / "run").items():
        np.testing.assert_allclose(weight, expected[name], atol=1e-5)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_and_the_run_goes_on_with_one(victim, alone, tmp_path):
    processes = both(tmp_path, "--epochs", "100000", "--checkpoint-every", "1", "--out", "run")
    try:
        until_two_epochs(processes, tmp_path / "run")
        processes[victim].send_signal(signal.SIGKILL)
        began = time.monotonic()
        other = processes[1 - victim]
        _, errors = other.communicate(timeout=30)
        assert time.monotonic() - began < 30
        # the message that fails says so at once, if JAX's own watch, which ends the process, is not faster
        assert other.returncode in (75, -signal.SIGABRT), errors
        outcomes = "has lost another one|ended before its run did: if another"
        assert re.search(f"(?m)^jaxbackprop: process {1 - victim} of 2 ({outcomes})", errors), errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    done = len(rows(tmp_path / "run"))
    command = [sys.executable, "-m", "jaxbackprop", "train", "--resume", "run", "--epochs", str(done + 2)]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    assert [row["epoch"] for row in rows(tmp_path / "run")] == list(range(1, done + 3))
    np.testing.assert_allclose(rows(tmp_path / "run")[1]["loss"], rows(alone)[1]["loss"], rtol=1e-5)


def test_a_signal_to_either_stops_both_saved(tmp_path):
    processes = both(tmp_path, "--epochs", "100000", "--out", "run")
    try:
        until_two_epochs(processes, tmp_path / "run")
        processes[1].terminate()
        (first, second) = ended(processes, 60)
    finally:
        for process in processes:
            process.kill()
    assert first[0] == second[0] == 143
    done = len(rows(tmp_path / "run"))
    assert f"stopped after epoch {done} of 100000, saved: jaxbackprop train --resume run" in first[2]
    assert (tmp_path / "run" / "checkpoints" / f"checkpoint-{done:06d}-000000000.npz").exists()


def test_two_private_processes_share_one_secret(tmp_path):
    said = ["--private", "--noise-multiplier", "50", "--checkpoint-every", "1", "--out", "run"]
    processes = both(tmp_path, "--epochs", "3000", *said, data="wine")
    try:
        until_two_epochs(processes, tmp_path / "run")
        processes[0].terminate()
        (first, second) = ended(processes, 60)
    finally:
        for process in processes:
            process.kill()
    assert first[0] == second[0] == 143, first[2] + second[2]
    (path,) = tmp_path.rglob("SECRET*")
    key, done = secret._read(path, path.read_bytes()), len(rows(tmp_path / "run"))
    command = [sys.executable, "-m", "jaxbackprop", "train", "--resume", "run", "--epochs", str(done + 2)]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    network = jbp.skip_mlp((13, 16, 3), bias=True)
    state, _ = jbp.fit(  # by one process, from that very secret
        network,
        "softmax_cross_entropy",
        optax.adamw(0.003, weight_decay=0.0),
        data.load("wine", stratify=False).train,
        epochs=done + 2,
        batch_size=64,
        key=key,
        params=drawn(network, jax.random.key(0)),
        gradient=jbp.private_gradient(1.0, 50.0),
    )
    for name, weight in params(tmp_path / "run").items():
        layer, source = name.split("/")
        np.testing.assert_allclose(weight, state.params[layer][source], atol=2e-5 * (done + 2))


def test_both_processes_are_told_of_the_free_folder_that_the_first_takes(tmp_path):
    (tmp_path / "runs" / "wine-1").mkdir(parents=True)
    assert [status for status, _, _ in ended(both(tmp_path, "--epochs", "1", data="wine"))] == [0, 0]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["wine-1", "wine-2"]
    assert (tmp_path / "runs" / "wine-2" / "params.npz").exists()


def test_processes_that_were_told_different_things_are_all_refused(tmp_path):
    port = free_port()
    found = ended([start(tmp_path, i, port, "--seed", str(i), "--out", "run") for i in range(2)])
    for status, said, errors in found:
        assert (status, said) == (2, "")
        assert "the processes were not told the same: data, seed differ; start all of them alike" in errors
    assert list(tmp_path.iterdir()) == []


def test_what_one_process_refuses_ends_all_before_anything_is_written(tmp_path):
    port = free_port()
    found = ended([start(tmp_path, i, port, "--out", "run", "--hidden", *"80"[i]) for i in range(2)])
    assert [status for status, *_ in found] == [2, 2]
    assert "another process has refused what it was given" in found[0][2]
    assert "layer 'h0' has width 0: expected at least 1" in found[1][2]
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_do_not_go_together_are_refused(tmp_path):
    for given, message in (
        (["--processes", "2"], "--processes and --process-id need --coordinator"),
        (["--coordinator", "127.0.0.1:1"], "--coordinator HOST:PORT needs --processes and --process-id too"),
        (["--devices", "64"], "--devices 64: this machine has"),
    ):
        command = [sys.executable, "-m", "jaxbackprop", "train", *given]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert run.returncode == 2
        assert message in run.stderr
        assert run.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


def test_what_is_no_loss_is_not_called_one(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for error, expected in (
        (jax.errors.JaxRuntimeError("UNKNOWN: Gloo all-reduce failed"), processes.LostProcessError),
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), processes.LostProcessError),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), jax.errors.JaxRuntimeError),
        (ValueError("batch_size is 0: expected an integer of at least 1"), ValueError),
    ):
        with pytest.raises(expected) as caught, processes.noticing_loss():
            raise error
        assert type(caught.value) is expected


def test_one_process_agrees_with_itself():
    assert processes.agree(True, 5) == (True, 5)
    assert processes.from_first(b"\0 bytes") == b"\0 bytes"
    assert jbp.data_mesh().shape["data"] >= 1
