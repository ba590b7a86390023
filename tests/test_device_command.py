"""`--device`: chosen before JAX looks for any, said in the run, and advised where steps are small."""

import os
import re
import shutil
from pathlib import Path

import jax
import pytest
from commands import QUICK, everything_below, in_a_process, jaxbackprop, refused, rows_of, same_end, strict

import jaxbackprop as jbp
from jaxbackprop import devices
from jaxbackprop.command import planning

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)
pytestmark = pytest.mark.usefixtures("compiled_once", "_tables")


def on_a_gpu(monkeypatch):
    """As on a machine with a GPU where JAX has not looked for devices yet: it finds the GPU, unless it is told of the CPU."""
    monkeypatch.setattr(devices, "platform", lambda: jax.config.values["jax_platforms"] or "gpu")


@pytest.fixture
def _told_nothing():
    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", None)
    yield
    assert jax.config.values["jax_platforms"] is None  # what a command sets it takes back
    jax.config.update("jax_platforms", before)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="compares with what JAX chooses by itself")
def test_the_device_is_chosen_and_what_the_cpu_trains_is_what_it_trains_unasked(kinds):
    result = jaxbackprop("train", "kinds.csv", *QUICK, "--device", "cpu", "--out", "run")
    assert (result.status, result.err) == (0, "")
    assert " 1 cpu device(s)" in result.out.splitlines()[0]
    assert same_end("run", kinds[0])
    config = strict(Path("run/config.json").read_text())
    assert (config["device"], config["arguments"]["device"]) == ("cpu: cpu", "cpu")
    answers = jaxbackprop("predict", "run", "new.csv", "--device", "cpu")
    assert answers == jaxbackprop("predict", "run", "new.csv")


def test_a_device_is_chosen_before_jax_looks_for_any():
    """In a process that would otherwise look for a kind that is nowhere."""
    env = os.environ | {"JAX_PLATFORMS": "nowhere"}
    words = ["train", "kinds.csv", *QUICK, "--epochs", 1, "--out", "run"]
    missed = in_a_process(*words, env=env)
    assert (missed.returncode, missed.stdout) == (2, "")
    assert re.fullmatch(r"jaxbackprop: JAX finds no device[^\n]+JAX_PLATFORMS is 'nowhere'[^\n]+\n", missed.stderr)
    assert not Path("run").exists()
    chosen = in_a_process(*words, "--device", "cpu", env=env)
    assert (chosen.returncode, chosen.stderr) == (0, "")
    # the run was told so: it goes on there
    again = in_a_process("train", "--resume", "run", "--epochs", 2, env=env)
    assert (again.returncode, again.stderr) == (0, "")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there is a GPU or TPU")
@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_device_that_is_not_there_is_refused_in_one_line_and_nothing_is_written(kind, kinds):
    shutil.copytree(kinds[0], "run")
    before = everything_below()
    message = f"--device {kind}: JAX computes on a CPU here.*: give --device cpu"
    refused(jaxbackprop("train", "kinds.csv", *QUICK, "--device", kind), message)
    refused(jaxbackprop("train", "--resume", "run", "--epochs", 5, "--device", kind), message)
    refused(jaxbackprop("predict", "run", "new.csv", "--device", kind), message)
    refused(jaxbackprop("train", "kinds.csv", "--device", "gpus"), "unknown device 'gpus': did you mean 'gpu'")
    assert everything_below() == before


@pytest.mark.usefixtures("_told_nothing")
def test_a_resumed_run_goes_on_on_its_device_or_on_another_that_is_said(monkeypatch):
    on_a_gpu(monkeypatch)
    words = ["train", "kinds.csv", *QUICK, "--epochs", 1, "--out", "run"]
    assert jaxbackprop(*words, "--device", "cpu").status == 0
    told = lambda: strict(Path("run/config.json").read_text())["arguments"]["device"]  # noqa: E731
    for more, kind in (([], "cpu"), (["--device", "gpu"], "gpu"), ([], "gpu"), (["--device", "cpu"], "cpu")):
        epochs = len(rows_of("run")) + 1
        result = jaxbackprop("train", "--resume", "run", "--epochs", epochs, *more)
        assert (result.status, result.err, told(), len(rows_of("run"))) == (0, "", kind, epochs)
    monkeypatch.setattr(devices, "platform", lambda: "cpu")
    assert jaxbackprop("train", "--resume", "run", "--epochs", 6, "--device", "cpu").status == 0
    config = Path("run/config.json")
    config.write_text(config.read_text().replace('"device": "cpu",', '"device": "gpu",'))
    refused(jaxbackprop("train", "--resume", "run", "--epochs", 7), "--device gpu: .*: give --device cpu")
    config.write_text(re.sub(r' *"device": "gpu",\n', "", config.read_text()))  # as before there was a choice
    assert jaxbackprop("train", "--resume", "run", "--epochs", 7, "--device", "cpu").status == 0


@pytest.mark.usefixtures("_told_nothing")
def test_on_a_gpu_a_step_that_is_too_small_for_it_is_said_once_with_the_cure(monkeypatch):
    on_a_gpu(monkeypatch)
    for more in ([], ["--json"]):
        result = jaxbackprop("train", "kinds.csv", *QUICK, *more)
        assert result.status == 0
        assert result.err == f"jaxbackprop: {devices.advice('gpu', 99, 16)}\n"
        assert not more or strict(result.out)
    assert "--device cpu" in result.err
    for more in (["--device", "cpu"], ["--device", "gpu"]):  # who names one has chosen
        assert jaxbackprop("train", "kinds.csv", *QUICK, *more).err == ""
    with monkeypatch.context() as patch:  # --device cpu is no cure for who has several
        patch.setattr(planning, "_mesh", lambda _: jbp.data_mesh(jax.devices()[:1]))
        assert jaxbackprop("train", "kinds.csv", *QUICK).err == ""
    monkeypatch.setattr(devices, "platform", lambda: "tpu")
    assert jaxbackprop("train", "kinds.csv", *QUICK).err == ""
    # a process that has begun on one kind cannot change it
    refused(jaxbackprop("train", "kinds.csv", *QUICK, "--device", "cpu"), "computes on a TPU in this process already")


def test_the_advice_is_a_rule_of_parameters_and_batch():
    # measured on 2 CPU cores, steps a second: experiments/results/training-cpu.json, skip_mlp and at the end mlp
    for parameters, batch, measured in ((3712, 8, 31738), (3712, 128, 7160), (3712, 512, 2136), (3392, 32, 19155)):
        assert devices.cpu_seconds(parameters, batch) * measured == pytest.approx(1, abs=0.1)
    # 22 µs of its own, 6 · 1,000 · 1,000 flops at 26 Gflop/s, 40 kB at 50 GB/s
    assert devices.cpu_seconds(1000, 1000) == pytest.approx(22e-6 + 6e6 / 26e9 + 40e3 / 50e9)
    assert "about 3.9 times as fast" in (devices.advice("gpu", 3392, 32) or "")
    assert devices.advice("gpu", 9610, 32)  # the defaults, on the digits
    # each alone outweighs what the GPU waits: work, and parameters to pass over
    for parameters, batch in ((9610, 256), (300_000, 1), (1_000_000, 32)):
        assert devices.advice("gpu", parameters, batch) is None
    assert [devices.advice(kind, 3392, 32) for kind in ("cpu", "tpu")] == [None, None]
    times = [bool(devices.advice("gpu", 3712, batch)) for batch in (1, 8, 32, 64, 128, 256, 512)]
    assert times == sorted(times, reverse=True)  # small batches alone
