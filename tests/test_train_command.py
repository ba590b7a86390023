"""`jaxbackprop train`: what it leaves and says, where, what it refuses, and what goes wrong on the way."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from commands import (
    FILES,
    QUICK,
    arrays,
    by_hand,
    everything_below,
    examples,
    jaxbackprop,
    refused,
    rows_of,
    same_end,
    split,
    strict,
    write,
)

import jaxbackprop as jbp
from jaxbackprop import data
from jaxbackprop.checking import check
from jaxbackprop.command import fitting, train
from jaxbackprop.training import fit as fits
from jaxbackprop.training import runs

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)
pytestmark = pytest.mark.usefixtures("compiled_once", "_tables")

# ---- what train leaves and says


@pytest.mark.parametrize("name", ["houses", "kinds"])
def test_a_run_leaves_its_files_and_a_line_of_metrics_for_each_epoch(name, request):
    run, _ = request.getfixturevalue(name)
    assert sorted(path.name for path in run.iterdir()) == FILES
    assert (run / "learning_curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (run / "metrics.jsonl").read_text().count("\n") == 3
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    quoted = "validation_rmse" if name == "houses" else "validation_accuracy"
    assert all(set(row) == {"epoch", "loss", "seconds", "validation_loss", quoted} for row in rows)
    assert rows[0]["seconds"] < rows[1]["seconds"] < rows[2]["seconds"]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_config_says_all_that_a_run_was_asked_for_and_where_it_ran(houses):
    run, _ = houses
    config = strict((run / "config.json").read_text(encoding="utf-8"))
    network, encoding, versions = config.pop("network"), config.pop("encoding"), config.pop("versions")
    arguments = config.pop("arguments")  # what --resume starts from
    assert (arguments["hidden"], arguments["task"], arguments["checkpoint_every"]) == ([16], None, None)
    assert runs.network_from_dict(network) == jbp.skip_mlp((2, 16, 1), "relu", bias=True)
    assert data.from_dict(encoding) == data.load(config.pop("data")).encoding
    assert versions == {"jaxbackprop": jbp.__version__, "jax": jax.__version__, "optax": optax.__version__}
    device = jax.devices()[0]
    assert config == {
        "loss": "half_squared_error",
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "weight_decay": 0.3,
        "epochs": 3,
        "batch_size": 16,
        "seed": 0,
        "gradient": "hand",
        "device": f"{device.platform}: {device.device_kind}",
        "processes": 1,
    }


@pytest.mark.parametrize("name", ["houses", "kinds"])
def test_the_saved_parameters_are_those_of_the_last_line_of_metrics(name, request):
    """Recomputed in numpy from the files alone, on the split that the seed gives."""
    run, _ = request.getfixturevalue(name)
    dataset = data.load(strict((run / "config.json").read_text())["data"])
    yhat, y, last = by_hand(run, dataset.x_test), dataset.y_test, rows_of(run)[-1]
    if name == "houses":
        assert last["validation_loss"] == pytest.approx(((yhat - y) ** 2).mean() / 2, rel=1e-5)
        assert last["validation_rmse"] == pytest.approx(((yhat - y) ** 2).mean() ** 0.5, rel=1e-5)
    else:
        loss = np.log(np.exp(yhat).sum(1)) - yhat[np.arange(len(y)), y]
        assert last["validation_loss"] == pytest.approx(loss.mean(), rel=1e-5)
        assert last["validation_accuracy"] == pytest.approx((yhat.argmax(1) == y).mean())


def test_json_is_exactly_one_object_whose_figures_are_those_of_the_files(houses):
    run, out = houses
    assert out.count("\n") == 1
    result, last = strict(out), rows_of(run)[-1]
    scale = strict((run / "config.json").read_text())["encoding"]["target_scale"][0]
    assert scale > 100  # else a forgotten unit would not show
    assert result["run"] == str(run)
    assert result["test_rmse"] == pytest.approx(last["validation_rmse"] * scale)
    assert result["test_loss"] == last["validation_loss"]
    assert (result["epochs"], result["steps"]) == (3, 9)  # 48 examples in batches of 16
    assert re.match("right, 4 parameters; ", result["gradient_check"])
    assert result["seconds"] > 0
    assert result["steps_per_second"] > 0


def test_the_text_says_device_data_network_check_progress_result_and_where(kinds):
    run, out = kinds
    lines = out.splitlines()
    assert re.match(rf"jaxbackprop {jbp.__version__} on \d+ {jax.devices()[0].platform} device", lines[0])
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[1:] if not line.startswith(" " * 5)}
    assert list(said) == ["data", "columns", "network", "gradient", "training", "test", "time", "saved"]
    assert said["data"] == "kinds.csv: 47 training and 13 test examples, 2 features"
    assert "classification, 3 classes" in out
    assert said["network"] == "x 2 → h0 16 relu; h0 → yhat 3 identity (99 parameters)"
    assert re.match("derived by hand; check.*: right, 4 parameters", said["gradient"])
    assert "adamw at 0.003 through the hand-derived gradient: 3 epochs of 3 steps" in said["training"]
    progress = [line for line in lines if line.strip().startswith("epoch")]
    rows = rows_of(run)
    assert [line.split()[1] for line in progress] == ["1/3", "2/3", "3/3"]
    for line, row in zip(progress, rows, strict=True):
        assert f"loss {row['loss']:.4f}  test accuracy {row['validation_accuracy']:.1%}" in line
    right = round(rows[-1]["validation_accuracy"] * 13)
    assert said["test"].startswith(f"accuracy {right / 13:.1%} ({right} of 13 right), loss ")
    assert said["saved"] == f"{run}: config.json, metrics.jsonl, params.npz, learning_curves.png"


def test_lines_are_as_wide_as_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = jaxbackprop("train", "kinds.csv", *QUICK, "--out", "run").out.splitlines()
    assert max(map(len, lines)) <= 60
    assert "            largest relative difference" in "\n".join(lines)
    monkeypatch.setenv("FORCE_COLOR", "1")
    bar = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", jaxbackprop("train", "kinds.csv", *QUICK).out)
    assert re.search(r"epoch +3/3 +loss \d\.\d{4}  test accuracy [\d.]+%", bar)


def test_a_regression_says_its_error_in_the_targets_own_units():
    out = jaxbackprop("train", "houses.csv", *QUICK, "--out", "run").out
    encoding = strict(Path("run/config.json").read_text())["encoding"]
    _, y = split("houses.csv")
    rmse = rows_of("run")[-1]["validation_rmse"]
    better = 1 - rmse**2 / (y**2).mean()
    assert (
        f"root mean squared error {rmse * encoding['target_scale'][0]:.4g} in units of price, {abs(better):.0%} " in out
    )


def test_on_a_terminal_there_is_a_bar_and_in_a_pipe_about_ten_lines(monkeypatch):
    piped = jaxbackprop("train", "kinds.csv", *QUICK, "--epochs", "41").out
    assert 10 <= len(re.findall(r"epoch +\d+/41  loss", piped)) <= 12
    assert "epoch 41/41" in piped
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    bar = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", jaxbackprop("train", "kinds.csv", *QUICK).out)
    assert not re.search("epoch 1/3  loss", bar)
    assert re.search(r"epoch +3/3 ━+ +loss \d\.\d{4}  test accuracy [\d.]+%", bar)


@pytest.mark.parametrize(
    ("words", "network", "loss", "optimizer", "settings"),
    [
        (
            "houses.csv --target size --hidden 5 3 --wiring dense --activation tanh --no-bias --optimizer momentum "
            "--learning-rate 0.02 --batch-size 7 --seed 4",
            jbp.dense_mlp((2, 5, 3, 1), "tanh"),
            "half_squared_error",
            optax.sgd(0.02, momentum=0.9),
            {"batch_size": 7, "seed": 4, "gradient": "hand"},
        ),
        (
            "kinds.csv --hidden 6 --wiring mlp --activation silu --optimizer lion --weight-decay 0.5 "
            "--gradient jax.grad --batch-size 20 --seed 9",
            jbp.mlp((2, 6, 3), "silu", bias=True),
            "softmax_cross_entropy",
            optax.lion(0.003, weight_decay=0.5),
            {"batch_size": 20, "seed": 9, "gradient": "jax.grad"},
        ),
    ],
    ids=["dense", "mlp"],
)
def test_every_option_reaches_the_training(words, network, loss, optimizer, settings):
    """The run is what the library gives for the same settings, spelled out."""
    assert jaxbackprop("train", *words.split(), "--epochs", 2, "--out", "run", "--json").status == 0
    dataset = data.load(words.split()[0], "size" if "--target" in words else None, seed=settings["seed"])
    config, saved, params = runs.read_run(Path("run"))
    assert saved == network
    state, _ = jbp.fit(
        network,
        loss,
        optimizer,
        (jnp.asarray(dataset.x_train), jnp.asarray(dataset.y_train)),
        epochs=2,
        batch_size=settings["batch_size"],
        key=jax.random.key(settings["seed"]),
        gradient=settings["gradient"],
    )
    for read, expected in zip(jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(read, expected)
    assert {name: config[name] for name in settings} == settings
    assert (config["loss"], config["epochs"], len(rows_of("run"))) == (loss, 2, 2)
    assert config["encoding"]["target"] == dataset.encoding.target


def test_each_optimizer_known_by_name_is_the_one_of_optax(monkeypatch):
    """Two steps of the optimizer that training is given; the training itself is left out."""
    rate = 0.003
    expected = {
        "adam": optax.adam(rate),
        "adamw": optax.adamw(rate, weight_decay=0.3),
        "sgd": optax.sgd(rate),
        "momentum": optax.sgd(rate, momentum=0.9),
        "rmsprop": optax.rmsprop(rate),
        "adagrad": optax.adagrad(rate),
        "lion": optax.lion(rate, weight_decay=0.3),
    }
    given = []
    report = check.Report((check.Row("w", True, "float32", 0.0, 0.0, 0.0, ""),))

    def fit(_network, _loss, optimizer, *_, **__):
        given.append(optimizer)
        raise KeyboardInterrupt

    monkeypatch.setattr(fits, "fit", fit)
    monkeypatch.setattr(check, "check_gradient", lambda *_: report)
    assert set(expected) == set(train.OPTIMIZERS)
    for name in expected:
        assert jaxbackprop("train", "kinds.csv", "--optimizer", name).status == 130
    assert jaxbackprop("train", "kinds.csv", "--weight-decay", "0", "--learning-rate", "1").status == 130
    params = {"w": jnp.array([1.0, -2.0])}
    for optimizer, right in zip(given, [*expected.values(), optax.adamw(1.0, weight_decay=0)], strict=True):
        steps = []
        for made in (optimizer, right):
            state = made.init(params)
            for gradient in (jnp.array([0.3, -0.1]), jnp.array([-0.2, 0.5])):
                step, state = made.update({"w": gradient}, state, params)
                steps.append(step["w"])
        np.testing.assert_array_equal(steps[:2], steps[2:])


def test_the_task_can_be_chosen():
    """Three different integers would be three classes."""
    table = examples()
    write("t.csv", "size", "weight", "kind", table=table | {"kind": [len(kind) for kind in table["kind"]]})
    assert data.load("t.csv").encoding.task == "classification"
    assert jaxbackprop("train", "t.csv", "--task", "regression", *QUICK, "--out", "run").status == 0
    config = strict(Path("run/config.json").read_text())
    assert (config["loss"], config["encoding"]["task"]) == ("half_squared_error", "regression")


def test_by_hand_and_by_jax_grad_the_run_is_the_same(kinds):
    """Nine steps of one table; ReLU's kink is met by no example."""
    run, _ = kinds
    assert jaxbackprop("train", "kinds.csv", *QUICK, "--gradient", "jax.grad", "--out", "auto").status == 0
    assert strict(Path("auto/config.json").read_text())["gradient"] == "jax.grad"
    for name, expected in arrays("auto").items():
        np.testing.assert_allclose(
            arrays(run)[name], expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name
        )
    for row, other in zip(rows_of(run), rows_of("auto"), strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_the_defaults_reach_97_percent_on_digits_and_go_to_the_next_free_folder():
    Path("runs/digits-1").mkdir(parents=True)
    result = jaxbackprop("train", "--json")
    assert result.status == 0, result.err
    found = strict(result.out)
    assert found["run"] == str(Path("runs/digits-2"))
    assert found["test_accuracy"] >= 0.97
    dataset = data.load("digits")
    assert len(dataset.x_test) >= 350  # a fifth of 1,797
    assert found["test_accuracy"] == pytest.approx(
        (by_hand("runs/digits-2", dataset.x_test).argmax(1) == dataset.y_test).mean()
    )
    assert sorted(path.name for path in Path("runs/digits-2").iterdir()) == FILES
    config = strict(Path("runs/digits-2/config.json").read_text())
    assert runs.network_from_dict(config["network"]) == jbp.skip_mlp((64, 64, 64, 10), "relu", bias=True)
    helped = " ".join(jaxbackprop("train", "--help").out.partition("options:")[2].split())
    for name in ("optimizer", "weight_decay", "learning_rate", "epochs", "batch_size", "seed", "gradient"):
        option = rf" --{name.replace('_', '-')}(, --lr)? [A-Z]+(, --lr RATE)? "
        assert re.search(rf"{option}(?:(?! --[a-z]).)*\({config[name]}[;)]", helped), f"--help on {name}"


# ---- folders


def test_runs_are_numbered_and_named_after_their_data_and_nothing_is_overwritten():
    for _ in range(2):
        assert jaxbackprop("train", "kinds.csv", *QUICK, "--epochs", 1).status == 0
    folders = sorted(path.name for path in Path("runs").iterdir())
    assert len(folders) == 2
    assert [re.fullmatch(r"kinds(\.csv)?-(\d)", name)[2] for name in folders] == ["1", "2"]
    before = everything_below()
    again = jaxbackprop("train", "kinds.csv", *QUICK, "--out", Path("runs") / folders[0])
    refused(again, "holds another run: nothing is overwritten, give --out another folder")
    assert everything_below() == before


def test_a_run_may_go_to_an_empty_folder_or_one_whose_parents_do_not_exist_yet():
    Path("empty").mkdir()
    for out in ("empty", Path("a") / "dønnées ☃" / "c"):
        result = jaxbackprop("train", "kinds.csv", *QUICK, "--out", out)
        assert result.status == 0, result.err
        assert sorted(path.name for path in Path(out).iterdir()) == FILES


def test_a_free_folder_is_taken_by_making_it_however_many_look_at_once(tmp_path):
    barrier = threading.Barrier(8)

    def take(_):
        barrier.wait()
        return [runs.take_next(tmp_path / "a" / "wine") for _ in range(10)]

    with ThreadPoolExecutor(8) as pool:
        taken = [folder for folders in pool.map(take, range(8)) for folder in folders]
    assert sorted(taken) == sorted(tmp_path / "a" / f"wine-{i}" for i in range(1, 81))


def test_three_runs_started_at_once_all_run():
    command = [sys.executable, "-m", "jaxbackprop", "train", "kinds.csv", "--epochs", "1", "--hidden", "4", "--json"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(*run.communicate(timeout=300), run.returncode) for run in started]
    assert [(err, status) for _, err, status in ended] == [("", 0)] * 3
    assert sorted(strict(out)["run"] for out, _, _ in ended) == ["runs/kinds-1", "runs/kinds-2", "runs/kinds-3"]
    assert all(sorted(path.name for path in Path(f"runs/kinds-{i}").iterdir()) == FILES for i in (1, 2, 3))


def test_a_folder_that_another_run_takes_meanwhile_is_left_to_it(monkeypatch):
    real = fitting.checked

    def meanwhile(plan):
        Path("runs/kinds-1").mkdir(parents=True)
        return real(plan)

    monkeypatch.setattr(fitting, "checked", meanwhile)
    result = jaxbackprop("train", "kinds.csv", *QUICK, "--json")
    assert (result.status, result.err) == (0, "")
    assert strict(result.out)["run"] == "runs/kinds-2"
    assert list(Path("runs/kinds-1").iterdir()) == []
    Path("runs/kinds-1").rmdir()
    shutil.rmtree("runs")
    Path("runs").write_text("mine")
    refused(jaxbackprop("train", "kinds.csv"), "runs is a file: give --out a folder that does not exist yet")


# ---- what cannot be trained

UNUSABLE = {
    "missing.csv": None,
    "empty.csv": "",
    "header.csv": "size,price\n",
    "text.csv": "size,price\n" + "1,2\n" * 5 + "red,3\n1,4\n",
    "gap.csv": "size,price\n" + "1,2.5\n" * 5 + "1,\n1,4\n",
    "nan.csv": "size,price\n" + "1,2.5\n" * 5 + "1,nan\n1,4\n",
    "mark.csv": "size,price\n" + "1,2.5\n" * 5 + "1,?\n1,4\n",
    "fault.csv": "size,price\n" + "1,2.5\n" * 5 + "1,a lot\n1,4\n",
    "infinite.csv": "size,price\n" + "1,2.5\n" * 5 + "inf,3\n1,4\n",
    "ragged.csv": "size,price\n" + "1,2.5\n" * 5 + "1,3,4\n1,4\n",
    "one.csv": "size,kind\n" + "1,yes\n2,yes\n" * 5,
    "few.csv": "size,price\n1,2\n",
    "alone.csv": "price\n" + "1\n2\n" * 5,
    "houses.xlsx": "PK",
    "broken.npz": "PK",
}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("missing.csv", "no file 'missing.csv'"),
        ("no/such/folder.csv", "no file 'no/such/folder.csv'"),
        ("digit", "unknown data set 'digit'; did you mean 'digits'"),
        ("houses.csv --target pric", r"houses.csv.*no column 'pric'; did you mean 'price'\? \(columns: 'size', 'wei"),
        ("wine --target colour", "its target is 'cultivar', not 'colour'"),
        ("houses.csv --bounds nowhere", "jaxbackprop: 'nowhere': No such file or directory$"),
        (
            "houses.csv --drop size --numbers size",
            "'size' is to be both, dropped and numbers: leave out one of the two",
        ),
        ("houses.csv --task classification", "'price' holds 60 different numbers, not all whole"),
        ("empty.csv", "empty.csv.*no rows"),
        ("header.csv", "header.csv.*no rows"),
        ("text.csv", "text.csv.*column 'size' holds text where numbers belong: 'red' in row 6"),
        ("gap.csv", r"gap.csv.*target 'price' is missing in 1 row \(first: row 6\)"),
        ("nan.csv", r"nan.csv.*target 'price' is missing in 1 row \(first: row 6\)"),
        (
            "mark.csv",
            r"target 'price' is missing in 1 row \(first: row 6, '\?'\): fill it in, or leave such rows out by --miss",
        ),
        ("fault.csv", "column 'price' holds text where numbers belong: 'a lot' in row 6"),
        ("fault.csv --na lot", "'a lot' in row 6"),
        ("houses.csv --drop siz", "no column 'siz'; did you mean 'size'"),
        ("houses.csv --drop size weight", "has the columns 'price', expected features and a target"),
        ("houses.csv --numbers size --missing fill", "unknown way with missing values 'fill'"),
        ("houses.csv --separator ;;", "--separator: ';;' is not one character, such as ; or tab"),
        ("houses.csv --decimal .,", "unknown decimal mark '.,'"),
        ("wine --categories ash", "'wine': has no columns with names of their own"),
        ("infinite.csv", r"column 'size' has 1 infinite value.*\(first: row 6\)"),
        ("ragged.csv", "row 6 has 3 values, expected 2"),
        ("one.csv", "target 'kind' is 'yes' in every row"),
        ("few.csv", "has 1 row, expected at least 5"),
        ("alone.csv", "has the columns 'price', expected features and a target"),
        ("houses.xlsx", "ends in '.xlsx', expected .csv, .tsv, .txt, .npz or .parquet"),
        ("broken.npz", "not an NPZ archive"),
        ("shapes.npz", r"'y' has shape \(4,\).*expected \(5,\)"),
        (".", "holds neither x.npy and y.npy nor .parquet files"),
        ("houses.csv --scratch .", "--scratch is for the rows of a folder"),
        (
            "houses.csv --hidden 99999999 99999999",
            r"to train [\d,]+ parameters takes 149,[\d,]+ GB, and there are \d+ GB of memory: give a smaller --hid",
        ),
        ("houses.csv --hidden 0", "layer 'h0' has width 0: expected at least 1"),
        ("houses.csv --hidden 4 0", "layer 'h1' has width 0: expected at least 1"),
        ("houses.csv --hidden -3", "layer 'h0' has width -3: expected at least 1"),
        ("houses.csv --hidden 4 many", "--hidden: invalid int value: 'many'"),
        ("houses.csv --wiring skipp", "unknown wiring 'skipp': did you mean 'skip'"),
        ("houses.csv --activation rleu", "unknown activation 'rleu': did you mean 'relu'"),
        ("houses.csv --optimizer adma", "unknown optimizer 'adma': did you mean 'adam'"),
        ("houses.csv --gradient jaxgrad", "unknown gradient 'jaxgrad': did you mean 'jax.grad'"),
        ("houses.csv --task regresion", "unknown task 'regresion': did you mean 'regression'"),
        ("houses.csv --epochs 0", "--epochs: '0' is not an integer of at least 1"),
        ("houses.csv --epochs -1", "--epochs: '-1' is not an integer of at least 1"),
        ("houses.csv --epochs 1.5", "--epochs: '1.5' is not an integer of at least 1"),
        ("houses.csv --batch-size 0", "--batch-size: '0' is not an integer of at least 1"),
        ("houses.csv --learning-rate 0", "--learning-rate/--lr: '0' is not a positive number"),
        ("houses.csv --learning-rate nan", "--learning-rate/--lr: 'nan' is not a positive number"),
        ("houses.csv --learning-rate fast", "--learning-rate/--lr: 'fast' is not a positive number"),
        ("houses.csv --weight-decay -1", "--weight-decay: '-1' is not"),
        ("houses.csv --seed -1", "argument --seed: '-1' is not an integer of at least 0"),
        ("houses.csv --seed 99999999999999999999", "seed"),
        ("houses.csv --seed", "--seed: expected one argument"),
        ("houses.csv --hiden 4", "unknown option '--hiden': did you mean '--hidden'"),
        ("houses.csv more.csv", "one argument too many: 'more.csv'"),
        ("houses.csv --out houses.csv", "houses.csv is a file: give --out a folder"),
        ("houses.csv --out houses.csv/run", "houses.csv"),
        ("houses.csv --out full", "full holds other files: nothing is overwritten"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line_and_leaves_nothing(words, message):
    for name, text in UNUSABLE.items():
        if text is not None:
            Path(name).write_text(text)
    np.savez("shapes.npz", x=np.ones((5, 2)), y=np.ones(4))
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    before = everything_below()
    refused(jaxbackprop("train", *words.split()), message)
    assert everything_below() == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused_in_one_line():
    Path("mine").mkdir(mode=0o500)
    result = jaxbackprop("train", "kinds.csv", *QUICK, "--out", Path("mine") / "run")
    assert result.status == 2
    assert re.fullmatch(r"jaxbackprop: Permission denied[^\n]*\n", result.err)
    assert list(Path("mine").iterdir()) == []


# ---- what goes wrong on the way


@pytest.mark.parametrize("epochs", [1, 5])
def test_training_that_diverges_is_a_failure_with_a_hint(epochs):
    words = ["--learning-rate", "1e30", "--optimizer", "sgd", "--epochs", epochs, "--batch-size", 64, "--out", "run"]
    result = jaxbackprop("train", "houses.csv", *words)
    assert result.status == 1
    assert re.fullmatch(r"jaxbackprop: [^\n]+ try a learning rate below 1e\+30; run keeps the metrics\n", result.err)
    assert sorted(path.name for path in Path("run").iterdir()) == ["config.json", "metrics.jsonl"]
    refused(jaxbackprop("predict", "run", "new.csv"), "run holds no params.npz: that run did not finish")


def test_a_run_that_diverged_goes_on_from_the_last_good_state_at_a_lower_rate(monkeypatch):
    plain = optax.sgd

    def doomed(rate):  # from the third epoch on, where it is large
        return plain(optax.piecewise_constant_schedule(rate, {2 * 3: 1e37 if rate == 0.1 else 0.5}))

    monkeypatch.setattr(optax, "sgd", doomed)
    words = ["kinds.csv", *QUICK, "--optimizer", "sgd", "--epochs", 4, "--checkpoint-every", 1, "--out", "run"]
    finished = jaxbackprop("train", *words[:-1], "other", "--learning-rate", 0.05)
    assert finished.status == 0
    other = jaxbackprop("train", "--resume", "other", "--learning-rate", 0.01)
    assert other.status == 2
    assert "made for another optimizer, sgd at 0.05, and this is sgd at 0.01" in other.err
    result = jaxbackprop("train", *words, "--learning-rate", 0.1)
    assert result.status == 1
    assert result.err.endswith(
        "and a checkpoint: jaxbackprop train --resume run --learning-rate RATE goes on from it\n"
    )
    assert jaxbackprop("train", "--resume", "run", "--learning-rate", 0.05).status == 0
    assert [json.loads(line)["epoch"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert json.loads(Path("run/config.json").read_text())["learning_rate"] == 0.05


def test_diverging_with_json_prints_no_second_kind_of_output():
    words = ["--learning-rate", "1e30", "--optimizer", "sgd", "--epochs", 5, "--json"]
    result = jaxbackprop("train", "houses.csv", *words)
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert result.out == "" or strict(result.out)


@pytest.mark.parametrize(
    ("package", "modules", "words", "needs"),
    [
        ("rich", ("rich", "rich.console", "rich.progress"), ("train", "kinds.csv", *QUICK), "train needs"),
        ("matplotlib", ("matplotlib", "matplotlib.figure"), ("train", "kinds.csv", *QUICK), "train needs"),
        ("matplotlib", ("matplotlib", "matplotlib.figure"), ("trace", "--figure", "x.svg"), "a picture needs"),
    ],
)
def test_without_an_extra_only_what_needs_it_is_refused_and_nothing_is_written(
    package, modules, words, needs, monkeypatch
):
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)  # what `import` finds when there is none
    before = everything_below()
    refused(jaxbackprop(*words), rf"{needs} {package}: pip install 'jaxbackprop\[cli\]'")
    assert everything_below() == before
    assert jaxbackprop("trace").status == 0


def test_a_wrong_gradient_is_seen_before_anything_is_written(monkeypatch):
    right = fitting.value_and_grad

    def wrong(network, loss):
        def value_and_grad(*args):
            value, grads = right(network, loss)(*args)
            return value, grads | {"h0": jax.tree.map(lambda g: 2 * g, grads["h0"])}

        return value_and_grad

    monkeypatch.setattr(fitting, "value_and_grad", wrong)
    before = everything_below()
    result = jaxbackprop("train", "kinds.csv", *QUICK)
    assert result.status == 1
    assert "WRONG for 2 of 4 parameters: ['h0']['bias'], ['h0']['x']" in result.err
    assert "saved" not in result.out
    assert everything_below() == before
    assert jaxbackprop("train", "kinds.csv", *QUICK, "--json") == (1, "", result.err)


def test_the_check_is_of_the_hand_derived_gradient_even_when_jax_grad_trains(monkeypatch):
    checked = []
    real = check.check_gradient

    def spy(value, gradient, params, *sample):
        checked.append(gradient(params, *sample))
        return real(value, gradient, params, *sample)

    monkeypatch.setattr(check, "check_gradient", spy)
    assert jaxbackprop("train", "kinds.csv", *QUICK, "--gradient", "jax.grad").status == 0
    assert len(checked) == 1


@pytest.mark.parametrize(
    ("table", "options"),
    [
        # linear on all of a standardised table: the output's bias has gradient 0, and differences see rounding alone
        ("few.csv", ["--hidden"]),
        # narrow: where no unit of h0 is on, z of h1 is its bias, 0 at first, which is exactly on ReLU's kink
        ("kinds.csv", ["--hidden", "3", "2"]),
    ],
)
def test_a_right_gradient_is_not_called_wrong(table, options):
    write("few.csv", "size", "weight", "price", table=examples(12))
    result = jaxbackprop("train", table, *options, "--epochs", 1)
    assert (result.status, result.err) == (0, "")


def test_a_batch_of_all_examples_is_said():
    out = jaxbackprop("train", "kinds.csv", *QUICK[:-1], 4096, "--out", "run").out
    assert "3 epochs of 1 step of 47, all examples at once" in out


def test_a_folder_that_is_deleted_meanwhile_is_written_again(monkeypatch, kinds):
    write_row = runs.append_metrics

    def deleted(folder, row):
        shutil.rmtree(folder)
        write_row(folder, row)

    monkeypatch.setattr(runs, "append_metrics", deleted)
    assert jaxbackprop("train", kinds[0].parent / "kinds.csv", *QUICK, "--out", "run").status == 0
    assert same_end("run", kinds[0])
    assert set(FILES) >= {path.name for path in Path("run").iterdir()} >= {*FILES} - {"checkpoints"}
    assert strict(Path("run/config.json").read_text()) == strict((kinds[0] / "config.json").read_text())


def test_ctrl_c_is_one_line_and_leaves_no_run_that_looks_finished(monkeypatch):
    write_row = runs.append_metrics

    def interrupted(folder, row):
        write_row(folder, row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs, "append_metrics", interrupted)
    result = jaxbackprop("train", "kinds.csv", *QUICK, "--out", "run")
    assert (result.status, result.err) == (130, "jaxbackprop: interrupted\n")
    assert len(rows_of("run")) == 2
    refused(jaxbackprop("predict", "run", "new.csv"), "that run did not finish")
    refused(jaxbackprop("train", "kinds.csv", "--out", "run"), "run holds another run")


# ---- tables as people have them


def test_what_was_done_with_each_column_is_a_table_on_the_screen_and_in_the_run(table_run):
    run, out = table_run
    lines = [line for line in out.splitlines() if re.search("columns|'(size|kind|age)'", line)]
    assert re.fullmatch(
        r"  columns   'Id' +dropped: an id: different in every row \(--numbers 'Id' keeps it\)", lines[0]
    )
    assert [line.split()[0] for line in lines[1:4]] == ["'size'", "'kind'", "'age'"]
    assert re.search(r"'kind' +2 categories, an input each: flat, house$", out, re.MULTILINE)
    assert re.search(r"'age' +number; gaps get [\d.]+ and are told; \d+ missing \('\?'\)$", out, re.MULTILINE)
    assert re.search(
        r"regression \(target 'price', the last column, holds \d\d different (integers|numbers), in \$\)", out
    )
    assert re.search(r"^ +R² -?\d\.\d{3}$", out, re.MULTILINE)
    columns = strict((run / "config.json").read_text())["encoding"]["columns"]
    assert [(c["name"], c["kind"]) for c in columns] == [
        ("Id", "dropped"),
        ("size", "number"),
        ("kind", "category"),
        ("age", "number"),
    ]
    assert strict((run / "config.json").read_text())["arguments"]["na"] == ["-"]
