"""`jaxbackprop train` and `jaxbackprop predict` as their user meets them: what is printed, what is left, what is refused."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxbackprop as jbp
from jaxbackprop import cli, commands, data, devices
from jaxbackprop.checking import check
from jaxbackprop.training import fit as fitting
from jaxbackprop.training import runs

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)

FILES = ["checkpoints", "config.json", "learning_curves.png", "metrics.jsonl", "params.npz"]
QUICK = ("--hidden", "16", "--epochs", "3", "--batch-size", "16")


class Result(NamedTuple):
    status: int
    out: str
    err: str


def jaxbackprop(*argv):
    """The command line in this process; argparse leaves by SystemExit."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = cli.main([str(word) for word in argv])
        except SystemExit as leaving:
            status = leaving.code
    return Result(status, out.getvalue(), err.getvalue())


def in_a_process(*argv, **settings):
    command = [sys.executable, "-m", "jaxbackprop.cli", *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **settings)


def everything_below(folder="."):
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


def strict(text):
    """JSON as others read it: without Python's NaN and Infinity."""

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def rows_of(path):
    return [strict(line) for line in (Path(path) / "metrics.jsonl").read_text().splitlines()]


def examples(n=60, seed=0):
    """Columns far from standardised, so that a forgotten mean or scale shows."""
    rng = np.random.default_rng(seed)
    size, weight = rng.normal(50, 8, n), rng.normal(-0.3, 0.02, n)
    price = 1000 + 30 * size - 4000 * weight + rng.normal(0, 20, n)
    kind = np.where(price > 4000, "dear", np.where(price > 3600, "middling", "cheap"))
    return {"size": size.round(3), "weight": weight.round(4), "price": price.round(2), "kind": kind}


def write(name, *columns, table=None):
    table = examples() if table is None else table
    with open(name, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *zip(*(table[column] for column in columns), strict=True)])
    return name


@pytest.fixture(scope="module", autouse=True)
def _compiled_once(tmp_path_factory):
    """A short run is nearly all compilation: of the same programs, most times, so that they are kept on disk."""
    settings = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in settings}
    for values in (settings, before):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        if values is settings:
            yield


@pytest.fixture(autouse=True)
def _in_a_folder_with_tables(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("houses.csv", "size", "weight", "price")
    write("kinds.csv", "size", "weight", "kind")
    write("new.csv", "weight", "size", table=examples(7, seed=1))  # another order, and no target


def trained(tmp_path_factory, table, *options):
    folder = tmp_path_factory.mktemp("run")
    write(folder / f"{table}.csv", "size", "weight", {"houses": "price", "kinds": "kind"}[table])
    result = jaxbackprop("train", folder / f"{table}.csv", "--out", folder / "run", *QUICK, *options)
    assert result.status == 0, result.err
    assert result.err == ""
    return folder / "run", result.out


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """A regression's finished run (read only), and what was printed."""
    return trained(tmp_path_factory, "houses", "--json")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A classification's finished run (read only), and what was printed."""
    return trained(tmp_path_factory, "kinds")


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

    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(check, "check_gradient", lambda *_: report)
    assert set(expected) == set(cli.OPTIMIZERS)
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
        option = re.escape(f" --{name.replace('_', '-')} ")
        assert re.search(rf"{option}[A-Z]+ (?:(?! --[a-z]).)*\({config[name]}[;)]", helped), f"--help on {name}"


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
        ("infinite.csv", r"column 'size' has 1 infinite values.*\(first: row 6\)"),
        ("ragged.csv", "row 6 has 3 values, expected 2"),
        ("one.csv", "target 'kind' is 'yes' in every row"),
        ("few.csv", "has 1 rows, expected at least 5"),
        ("alone.csv", "has the columns 'price', expected features and a target"),
        ("houses.xlsx", "ends in '.xlsx', expected .csv, .tsv, .txt, .npz or .parquet"),
        ("broken.npz", "not an NPZ archive"),
        ("shapes.npz", r"'y' has shape \(4,\).*expected \(5,\)"),
        (".", "holds neither x.npy and y.npy nor .parquet files"),
        ("houses.csv --scratch .", "--scratch is for the rows of a folder"),
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
        ("houses.csv --learning-rate 0", "--learning-rate: '0' is not a positive number"),
        ("houses.csv --learning-rate nan", "--learning-rate: 'nan' is not a positive number"),
        ("houses.csv --learning-rate fast", "--learning-rate: 'fast' is not a positive number"),
        ("houses.csv --weight-decay -1", "--weight-decay: '-1' is not"),
        ("houses.csv --seed -1", "seed is -1, expected an integer of at least 0"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give a command, train, predict, evaluate, grade, trace or check: start with `jaxbackprop train`"),
        ("trian", "unknown command 'trian': did you mean 'train'"),
        ("predct run new.csv", "unknown command 'predct': did you mean 'predict'"),
        ("--hidden 3", "--hidden"),
        ("--jsn train", "unknown option '--jsn'"),
        ("predict", "arguments are required: RUN, FILE"),
        ("predict run", "arguments are required: FILE"),
        ("predict run new.csv more.csv", "one argument too many: 'more.csv'"),
        ("predict run new.csv --target price", "unknown option '--target'"),
    ],
)
def test_an_unknown_command_or_option_is_refused_in_one_line(words, message):
    before = everything_below()
    refused(jaxbackprop(*words.split()), message)
    assert everything_below() == before


def refused(result, message):
    """One line on stderr, with the command's name and the reason; status 2; on stdout the greeting at most."""
    assert re.search(message, result.err), result.err
    assert re.fullmatch(r"jaxbackprop( train| predict)?: [^\n]+\n", result.err), result.err
    assert re.fullmatch(r"(jaxbackprop [^\n]+ processors\n)?", result.out), result.out
    assert result.status == 2


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


def test_without_rich_only_training_is_refused_and_nothing_is_written(monkeypatch):
    for module in ("rich", "rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, module, None)  # what `import` finds when there is none
    before = everything_below()
    refused(jaxbackprop("train", "kinds.csv", *QUICK), r"train needs rich: pip install 'jaxbackprop\[cli\]'")
    assert everything_below() == before
    assert jaxbackprop("trace").status == 0


def test_a_wrong_gradient_is_seen_before_anything_is_written(monkeypatch):
    right = commands.value_and_grad

    def wrong(network, loss):
        def value_and_grad(*args):
            value, grads = right(network, loss)(*args)
            return value, grads | {"h0": jax.tree.map(lambda g: 2 * g, grads["h0"])}

        return value_and_grad

    monkeypatch.setattr(commands, "value_and_grad", wrong)
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


# ---- checkpoints


def without_seconds(run):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows_of(run)]


def same_end(run, other):
    given, expected = arrays(run), arrays(other)
    return without_seconds(run) == without_seconds(other) and all(
        np.array_equal(given[name], expected[name]) for name in expected
    )


def train_until_a_signal(number, *words):
    """What happens if the signal comes as the second epoch's metrics are written."""
    write_row = runs.append_metrics

    def asked(folder, row):
        write_row(folder, row)
        if row["epoch"] == 2:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "append_metrics", asked)
        return jaxbackprop("train", *words)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_epoch_and_resume_goes_on_to_the_very_same_end(number, kinds):
    before = signal.getsignal(number)
    result = train_until_a_signal(number, "kinds.csv", *QUICK, "--out", "run")
    assert result.status == 128 + number
    assert result.err == "jaxbackprop: stopped after epoch 2 of 3, saved: jaxbackprop train --resume run\n"
    assert signal.getsignal(number) == before
    assert len(rows_of("run")) == 2
    refused(
        jaxbackprop("predict", "run", "new.csv"), "did not finish; `jaxbackprop train --resume run` goes on with it"
    )
    again = jaxbackprop("train", "--resume", "run")
    assert (again.status, again.err) == (0, "")
    assert "goes on after epoch 2 of 3" in again.out
    assert same_end("run", kinds[0])


def test_a_finished_run_may_be_given_more_epochs(kinds):
    shutil.copytree(kinds[0], "run")
    shutil.copy(kinds[0].parent / "kinds.csv", "kinds.csv")
    assert jaxbackprop("train", "--resume", "run", "--epochs", 5, "--json").status == 0
    assert [row["epoch"] for row in rows_of("run")] == [1, 2, 3, 4, 5]
    assert jaxbackprop("train", "kinds.csv", *QUICK, "--epochs", 5, "--out", "at-once").status == 0
    assert same_end("run", "at-once")


def test_resume_without_a_checkpoint_begins_at_the_beginning(kinds):
    shutil.copytree(kinds[0], "run")
    shutil.rmtree("run/checkpoints")
    Path("run/params.npz").unlink()
    assert jaxbackprop("train", "--resume", "run").status == 0
    assert same_end("run", kinds[0])


def test_what_cannot_be_resumed_is_refused_in_one_line_and_changes_nothing(kinds):
    shutil.copytree(kinds[0], "run")
    before = everything_below()
    for words, message in (
        (["--resume", "nowhere"], "nowhere is not a run: it has no config.json"),
        (["--resume", "run", "--hidden", "8"], "leave out --hidden"),
        (["kinds.csv", "--resume", "run"], "leave out DATA"),
        (["--resume", "run", "--seed", "0"], "leave out --seed"),  # what is the default is said nonetheless
        (["digits", "--resume", "run"], "leave out DATA"),
    ):
        refused(jaxbackprop("train", *words), message)
    rate = jaxbackprop("train", "--resume", "run", "--learning-rate", "1")  # after a divergence alone
    assert rate.status == 2
    assert re.fullmatch(r"jaxbackprop: [^\n]+ adamw at 0.003, and this is adamw at 1: [^\n]+\n", rate.err)
    fewer = jaxbackprop("train", "--resume", "run", "--epochs", 1)
    assert fewer.status == 2
    assert re.fullmatch(r"jaxbackprop: [^\n]+ is of epoch 3: expected epochs of at least 3, not 1\n", fewer.err)
    config = Path("run/config.json")
    config.write_text(config.read_text().replace('"arguments"', '"argument"'))
    refused(jaxbackprop("train", "--resume", "run"), "config.json cannot be read.*was it altered")
    config.write_text(config.read_text().replace('"argument"', '"arguments"'))
    assert everything_below() == before


def test_a_run_whose_data_changed_is_not_resumed(kinds):
    shutil.copytree(kinds[0], "run")
    table = Path(strict(Path("run/config.json").read_text())["data"])
    kept = table.read_bytes()
    try:
        write(table, "size", "weight", "kind", table=examples(seed=3))
        before = everything_below()
        result = jaxbackprop("train", "--resume", "run", "--epochs", "5")
        assert result.status == 2
        assert re.fullmatch("jaxbackprop: [^\n]+ was made for another data set[^\n]+\n", result.err)
        assert everything_below() == before
    finally:
        table.write_bytes(kept)


# ---- the kind of device


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
        patch.setattr(commands, "_mesh", lambda _: jbp.data_mesh(jax.devices()[:1]))
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


# ---- predict


def arrays(run):
    with np.load(Path(run) / "params.npz", allow_pickle=False) as flat:
        return {name: flat[name] for name in flat.files}


def split(path):
    dataset = data.load(path)
    return dataset.x_test, dataset.y_test


def by_hand(run, z):
    """The saved network in numpy and float64, from the run's files alone: (n, d) standardised → (n, k)."""
    layers = strict((Path(run) / "config.json").read_text())["network"]["layers"]
    weights = {name: w.astype(np.float64) for name, w in arrays(run).items()}
    h = {"x": np.asarray(z, np.float64)}
    for layer in layers:
        t = layer["name"]
        total = sum(h[s] @ weights[f"{t}/{s}"].T for s in layer["sources"]) + weights[f"{t}/bias"]
        h[t] = {"relu": np.maximum(total, 0), "identity": total}[layer["activation"]]
    return h["yhat"]


def by_hand_from(run, path):
    """The network's outputs for a CSV file, each feature found by its name and standardised as the run says."""
    encoding = strict((Path(run) / "config.json").read_text())["encoding"]
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = zip(encoding["features"], encoding["mean"], encoding["scale"], strict=True)
    z = np.array([[(float(row[name]) - mean) / scale for row in rows] for name, mean, scale in columns]).T
    return encoding, by_hand(run, z)


def read(text):
    header, *rows = csv.reader(io.StringIO(text))
    return header, rows


def test_a_regression_predicts_in_the_targets_own_units(houses):
    run, _ = houses
    result = jaxbackprop("predict", run, "new.csv")
    assert (result.status, result.err) == (0, "")
    header, rows = read(result.out)
    assert header == ["prediction"]
    encoding, yhat = by_hand_from(run, "new.csv")
    expected = yhat[:, 0] * encoding["target_scale"][0] + encoding["target_mean"][0]
    np.testing.assert_allclose([float(row[0]) for row in rows], expected, rtol=1e-5)
    assert np.ptp(expected) > 50


def test_a_classification_predicts_the_label_and_its_probability(kinds):
    run, _ = kinds
    result = jaxbackprop("predict", run, "kinds.csv")  # has the target as well, which is ignored
    assert (result.status, result.err) == (0, "")
    header, rows = read(result.out)
    assert header == ["prediction", "probability"]
    encoding, yhat = by_hand_from(run, "kinds.csv")
    assert encoding["classes"] == ["cheap", "dear", "middling"]
    p = np.exp(yhat) / np.exp(yhat).sum(1, keepdims=True)
    assert len(rows) == len(p) == 60
    assert [label for label, _ in rows] == [encoding["classes"][i] for i in p.argmax(1)]
    assert len({label for label, _ in rows}) > 1
    np.testing.assert_allclose([float(q) for _, q in rows], p.max(1), rtol=0, atol=6e-5)
    assert all(re.fullmatch(r"[01]\.\d{4}", q) for _, q in rows)


def test_a_predictions_file_holds_what_would_be_printed_and_is_not_overwritten(kinds):
    run, _ = kinds
    result = jaxbackprop("predict", run, "new.csv", "--out", "answers.csv")
    assert (result.status, result.out, result.err) == (0, "7 predictions in answers.csv\n", "")
    assert Path("answers.csv").read_bytes().decode() == jaxbackprop("predict", run, "new.csv").out
    before = everything_below()
    for out in ("answers.csv", "new.csv", "."):
        refused(jaxbackprop("predict", run, "new.csv", "--out", out), "exists: nothing is overwritten")
    refused(jaxbackprop("predict", run, "new.csv", "--out", "no/such/folder.csv"), "No such file or directory")
    assert everything_below() == before


def test_labels_that_need_quotes_are_quoted():
    labels = {"cheap": 'a "b", c', "middling": "ž", "dear": "two\nlines"}
    write("t.csv", "size", "weight", "kind", table=examples() | {"kind": [labels[k] for k in examples()["kind"]]})
    assert jaxbackprop("train", "t.csv", *QUICK, "--out", "run").status == 0
    found = {row[0] for row in read(jaxbackprop("predict", "run", "t.csv").out)[1]}
    assert len(found) > 1
    assert found <= set(labels.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size\n1\n", "lacks 1 of the 2 features that the network was trained on: 'weight'"),
        ("size,weigth\n1,2\n", "'weight'; did you mean 'weigth'"),
        ("size,weight\n1,2\n1,heavy\n", "column 'weight' holds text where numbers belong: 'heavy' in row 2"),
        ("size,weight\n1,2\n1,inf\n", r"column 'weight' has 1 infinite values.*\(first: row 2\)"),
        ("size,weight\n1,2\n1,50%\n", "column 'weight' holds '2' in row 1 and '50%' in row 2"),
        ("size,weight\n", "no rows"),
        ("", "no rows"),
        (None, "no file 't.csv'"),
    ],
)
def test_rows_that_cannot_be_predicted_are_refused(kinds, text, message):
    if text is not None:
        Path("t.csv").write_text(text)
    before = everything_below()
    refused(jaxbackprop("predict", kinds[0], "t.csv", "--out", "answers.csv"), message)
    assert everything_below() == before


def test_an_npz_whose_width_does_not_fit_is_refused(kinds):
    np.savez("t.npz", x=np.ones((4, 3)))
    refused(jaxbackprop("predict", kinds[0], "t.npz"), "x has 3 columns, expected the 2 features 'size', 'weight'")


def edit(change):
    """A damage that changes the config as JSON."""

    def damage(run):
        config = json.loads((run / "config.json").read_text())
        change(config)
        (run / "config.json").write_text(json.dumps(config))

    return damage


def shorten(name):
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:-40])


DAMAGES = {
    "params cut short": (shorten("params.npz"), "was a file altered"),
    "params empty": (lambda run: (run / "params.npz").write_bytes(b""), "was a file altered"),
    "params missing": (lambda run: (run / "params.npz").unlink(), "that run did not finish"),
    "config missing": (lambda run: (run / "config.json").unlink(), "is not a run: it has no config.json"),
    "config cut short": (shorten("config.json"), "was a file altered"),
    "config empty": (lambda run: (run / "config.json").write_bytes(b""), "was a file altered"),
    "config a list": (lambda run: (run / "config.json").write_text("[]"), "was a file altered"),
    "no network": (edit(lambda config: config.pop("network")), "was a file altered"),
    "another width": (
        edit(lambda config: config["network"]["layers"][0].update(width=4)),
        r"\['h0'\].*has shape.*expected",
    ),
    "no encoding": (edit(lambda config: config.pop("encoding")), "was a file altered|encoding"),
    "no classes": (edit(lambda config: config["encoding"].pop("classes")), "was a file altered|encoding"),
    "a class less": (edit(lambda config: config["encoding"]["classes"].pop()), "yhat has shape|encoding"),
    "a mean less": (edit(lambda config: config["encoding"]["mean"].pop()), "was a file altered|encoding"),
    "a mean as text": (edit(lambda config: config["encoding"].update(mean=["a", "b"])), "was a file altered|encoding"),
    "a column less": (edit(lambda config: config["encoding"]["columns"].pop()), "its columns do not make its features"),
    "a column of words": (
        edit(lambda config: config["encoding"].update(columns=["a"])),
        "encoding does not fit together",
    ),
    "a fill as text": (
        edit(lambda config: config["encoding"]["columns"][0].update(fill="a")),
        "fills its gaps is no number",
    ),
    "another form": (
        edit(lambda config: config["encoding"].update(form={"mark": 1})),
        "encoding does not fit together",
    ),
    "a feature less": (edit(lambda config: config["encoding"]["features"].pop()), "was a file altered|encoding|x has"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_refused_in_one_line(kinds, damage, message):
    shutil.copytree(kinds[0], "run")
    damage(Path("run"))
    before = everything_below()
    refused(jaxbackprop("predict", "run", "new.csv", "--out", "answers.csv"), message)
    assert everything_below() == before


@pytest.mark.parametrize("run", ["no such run", "new.csv", "."])
def test_what_is_no_run_is_refused(run):
    refused(
        jaxbackprop("predict", run, "new.csv"), "is not a run: it has no config.json; give the folder that `jaxback"
    )


# ---- as a process


def test_help_shows_the_commands_and_an_example_of_each():
    result = in_a_process("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"^    train +train a network", result.stdout, re.MULTILINE)
    assert re.search(r"^    predict +predict with", result.stdout, re.MULTILINE)
    assert "Start with: jaxbackprop train" in result.stdout
    for command, words in (("train", "--target COLUMN --hidden --seed --json"), ("predict", "RUN FILE --out")):
        shown = jaxbackprop(command, "--help")
        assert (shown.status, shown.err) == (0, "")
        assert f"jaxbackprop {command} " in shown.out.partition("examples:")[2]
        assert all(word in shown.out for word in words.split())
    assert jaxbackprop("--version") == (0, f"{jbp.__version__}\n", "")


def test_a_process_ends_with_the_status_and_mixes_no_streams(kinds):
    result = in_a_process("predict", kinds[0], "new.csv")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == jaxbackprop("predict", kinds[0], "new.csv").out
    wrong = in_a_process("train", "missing.csv", "--json")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert re.fullmatch(r"jaxbackprop: no file 'missing.csv'[^\n]+\n", wrong.stderr)


# ---- grade


def test_grade_marks_a_file_and_says_by_its_status_whether_anything_is_wrong():
    Path("right.md").write_text("\ufeffdL/dz1 = dL/dh1 * [z1 >= 0]\n", encoding="utf-8")
    Path("wrong.md").write_text("dL/dz1 = dL/dh1 * [z1 >= 0]\ndL/dh0 = dL/dz1 * w1\n")
    right, wrong = jaxbackprop("grade", "right.md"), jaxbackprop("grade", "wrong.md")
    assert (right.status, right.err) == (0, "")
    assert "1 right, none wrong" in right.out
    assert (wrong.status, wrong.err) == (1, "")
    assert "the path h0 -> yhat is missing" in wrong.out
    told = jaxbackprop("grade", "wrong.md", "--json")
    assert told.status == 1
    assert [line["status"] for line in strict(told.out)["lines"]] == ["right", "wrong"]


def test_grade_says_by_its_status_where_too_little_was_judged():
    """Four of five equations judged are enough; of these two one is none."""
    Path("half.md").write_text("dL/dz1 = dL/dh1 * [z1 >= 0]\ndL/dh1 = dL/dz2 w2 squish\n")
    found = jaxbackprop("grade", "half.md")
    assert (found.status, found.err) == (3, "")
    assert "1 not read" in found.out
    assert "score 50%" in found.out
    assert jaxbackprop("grade", "half.md", "--allow-unread").status == 0
    Path("half.md").write_text("dL/dh0 = dL/dz1 w1\ndL/dh1 = dL/dz2 w2 squish\n")
    assert jaxbackprop("grade", "half.md", "--allow-unread").status == 1


def test_grade_reads_standard_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("dL/dw3 = dL/dz2 * h0"))
    assert jaxbackprop("grade", "-").status == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory: essay.md"),
        (b"\xff\xfe=", "essay.md is not UTF-8 text"),
        (b"prose", "has no equation"),
    ],
)
def test_what_cannot_be_graded_is_refused_in_one_line(content, message):
    if content is not None:
        Path("essay.md").write_bytes(content)
    refused(jaxbackprop("grade", "essay.md"), message)


# ---- tables as people have them


def mixed(n=80, seed=0):
    rng = np.random.default_rng(seed)
    size, kind = rng.normal(50, 8, n).round(2), rng.choice(["flat", "house"], n)
    price = 1000 * size + np.where(kind == "flat", 0, 20_000)
    age = [str(a) if a % 5 else "?" for a in rng.integers(1, 40, n)]
    return {"Id": range(n), "size": size, "kind": kind, "age": age, "price": [f"${p:,.2f}" for p in price]}


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A run on labels, ids, gaps and prices (read only), and what was printed."""
    folder = tmp_path_factory.mktemp("table")
    write(folder / "mixed.csv", *mixed(), table=mixed())
    result = jaxbackprop("train", folder / "mixed.csv", "--out", folder / "run", *QUICK, "--na", "-", "--epochs", 30)
    assert (result.status, result.err) == (0, "")
    return folder / "run", result.out


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


def test_new_rows_are_predicted_with_what_was_not_seen_said_in_a_line_each(table_run):
    run, _ = table_run
    fill = strict((run / "config.json").read_text())["encoding"]["columns"][1]["fill"]
    assert 45 < fill < 55  # the median of what was drawn about 50
    Path("new.csv").write_text("kind,age,size\nflat,3,50\nboat,-,50\nflat,3,\n")
    result = jaxbackprop("predict", run, "new.csv")
    assert (result.status, result.out.count("\n")) == (0, 4)
    assert result.err.splitlines() == [
        f"jaxbackprop: column 'size' is missing in 1 row (first: row 3), never in training: {fill:.6g} stands for it",
        "jaxbackprop: column 'kind' holds 'boat' in row 2, not among its categories in training: counted for none of "
        "them, in 1 row",
    ]
    flat, house = (
        np.float64(read(jaxbackprop("predict", run, write_text(kind)).out)[1][0][0]) for kind in ("flat", "house")
    )
    assert house > flat


def write_text(kind):
    Path("one.csv").write_text(f"kind,age,size\n{kind},3,50\n")
    return "one.csv"


def test_a_run_is_measured_on_other_rows(table_run, kinds):
    other = mixed(50, seed=1)
    write("other.csv", *other, table=other)
    found = strict(jaxbackprop("evaluate", table_run[0], "other.csv", "--json").out)
    answers = np.array([float(row[0]) for row in read(jaxbackprop("predict", table_run[0], "other.csv").out)[1]])
    prices = np.array([float(price.strip("$").replace(",", "")) for price in other["price"]])
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((answers - prices) ** 2)), rel=1e-4)
    assert found["r2"] == pytest.approx(
        1 - np.sum((answers - prices) ** 2) / np.sum((prices - prices.mean()) ** 2), abs=1e-3
    )
    assert found["rows"] == 50
    text = jaxbackprop("evaluate", kinds[0], "kinds.csv").out.splitlines()
    labels, truth = [row[0] for row in read(jaxbackprop("predict", kinds[0], "kinds.csv").out)[1]], examples()["kind"]
    assert text[0].startswith(f"60 rows: accuracy {np.mean(np.array(labels) == truth):.1%}, loss ")
    assert re.match(r"the most frequent class, '\w+', is \d\d\.\d% of them; balanced accuracy \d+\.\d%$", text[1])
    assert text[-4].split()[-3:] == ["cheap", "dear", "middling"]
    refused(jaxbackprop("evaluate", kinds[0], "new.csv"), "lacks the target that the network was trained on: 'kind'")


def test_a_run_of_an_earlier_version_predicts_the_same(kinds):
    shutil.copytree(kinds[0], "run")
    config = strict(Path("run/config.json").read_text())
    for name in ("columns", "form", "target_written"):
        config["encoding"].pop(name)
    Path("run/config.json").write_text(json.dumps(config))
    assert jaxbackprop("predict", "run", "new.csv") == jaxbackprop("predict", kinds[0], "new.csv")
