"""The command line as a whole: help, slips, streams, statuses."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import everything_below, in_a_process, jaxbackprop, refused

import jaxbackprop as jbp
from jaxbackprop import activations, data, devices
from jaxbackprop.checking import check
from jaxbackprop.command import fitting, options, train
from jaxbackprop.command.main import parsed
from jaxbackprop.data import sources, tables, values
from jaxbackprop.training import fit as fits
from jaxbackprop.training import methods

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)
pytestmark = pytest.mark.usefixtures("compiled_once", "_tables")


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
        ("train --epchs 3", r"'--epchs': did you mean '--epochs', '--epsilon' or '--devices'\? \(see"),
    ],
)
def test_an_unknown_command_or_option_is_refused_in_one_line(words, message):
    before = everything_below()
    refused(jaxbackprop(*words.split()), message)
    assert everything_below() == before


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


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "grade", "trace", "check"])
def test_help_is_as_wide_as_the_terminal(command, monkeypatch):
    wide = jaxbackprop(command, "--help").out
    monkeypatch.setenv("COLUMNS", "60")
    shown = jaxbackprop(command, "--help").out
    after = lambda text: text.split("\n\n", 1)[1]  # noqa: E731  # what of the usage cannot be broken is argparse's
    assert max(map(len, after(shown).splitlines())) <= 60
    assert after(shown).split() == after(wide).split()


def test_help_slips_and_the_version_do_without_jax_and_numpy():
    """In a process of its own, through the entry of the console script."""
    words = ["--help", "--version", "", "trian", "--jsn", "train --help", "train --activation rleu", "train --hiden 3"]
    words += [
        "train --epochs 0",
        "train --epsilon 3",
        "predict",
        "check --help",
        "train a.csv b.csv",
        "train --hidden x",
    ]
    script = f"""
import sys
from jaxbackprop.command.main import entry
for words in {words}:
    sys.argv[1:] = words.split()
    try:
        entry()
    except SystemExit as leaving:
        print(leaving.code, *({{"jax", "numpy", "jaxbackprop.data"}} & set(sys.modules)), "after", words)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    told = [line for line in done.stdout.splitlines() if re.match("\\d .*after ", line)]
    assert told == [f"{0 if w.endswith(('help', 'version')) else 2} after {w}" for w in words]
    assert len(done.stderr.splitlines()) == sum(line.startswith("2 ") for line in told)


@pytest.mark.parametrize(
    "words", ["train diggits", "train missing.csv", "predict run missing.csv", "evaluate run missing.csv"]
)
def test_data_that_are_not_there_are_refused_without_jax(words):
    script = f"""
import sys
from jaxbackprop.command.main import entry
sys.argv[1:] = {words.split()}
try:
    entry()
except SystemExit as leaving:
    print(leaving.code, "jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr.count("\n")) == ("2 False\n", 1)


def test_the_names_beside_options_are_those_that_are_there():
    for copy, real in (
        (train.BUNDLED, sources.BUNDLED),
        (train.ACTIVATIONS, activations.ACTIVATIONS),
        (train.SCALES, data.SCALES),
        (train.GRADIENTS, methods.GRADIENTS),
        (train.MISSING, tables.MISSING),
        (train.MARKS, values.MARKS),
        (options.KINDS, devices.KINDS),
    ):
        assert copy == tuple(real)


@pytest.mark.parametrize(
    ("words", "hidden", "source"),
    [
        ("--hidden 16 16 houses.csv", [16, 16], "houses.csv"),
        ("--hidden 16 16 houses.csv --epochs 3", [16, 16], "houses.csv"),
        ("--epochs 3 --hidden 16 ../rows/", [16], "../rows/"),
        ("--hidden wine", [], "wine"),
        ("--hidden 5", [5], "digits"),
        ("--hidden", [], "digits"),
        ("wine --hidden 5 6", [5, 6], "wine"),
        ("--hidden 5 --seed 1 wine", [5], "wine"),
        ("", [64, 64], "digits"),
    ],
)
def test_a_file_may_follow_the_widths(words, hidden, source):
    _, arguments = parsed(["train", *words.split()])
    assert (arguments.hidden, arguments.data) == (hidden, source)


@pytest.mark.parametrize(
    "words", ["--hidden 16 many", "wine --hidden 16 a.csv", "--hidden 3 a.csv b.csv", "--hidden 1.5"]
)
def test_what_is_neither_a_width_nor_the_one_file_is_refused(words):
    refused(jaxbackprop("train", *words.split()), "argument --hidden: invalid int value: '(many|a.csv|1.5)'")


def test_lr_is_the_learning_rate():
    _, arguments = parsed(["train", "--lr", "0.5"])
    assert arguments.learning_rate == 0.5
    assert parsed(["train", "--l", "0.5"])[1].learning_rate == 0.5
    refused(jaxbackprop("train", "--lr", "0"), "argument --learning-rate/--lr: '0' is not a positive number")
    assert "--lr RATE" in jaxbackprop("train", "--help").out


def test_defaults_are_those_of_private_training_where_that_is_asked_for():
    of = lambda words: vars(parsed(["train", *words.split()])[1])  # noqa: E731
    plain, private = of(""), of("--private --epochs 7")
    named = ("learning_rate", "weight_decay", "epochs", "batch_size", "epsilon", "delta", "max_norm", "private")
    assert [plain[name] for name in named] == [0.003, 0.3, 60, 32, None, None, None, False]
    assert [private[name] for name in named] == [0.003, 0.0, 7, 256, 3.0, 1e-5, 1.0, True]
    assert of("--private --noise-multiplier 2")["epsilon"] is None
    resumed = of("--resume runs/houses-1")
    assert [resumed[name] for name in named[:4]] == [None] * 4, "those of the run"


def test_the_walk_from_the_words_to_fit_is_short(monkeypatch):
    """Functions of the command line that return between its words and the call of `fit`: 167 once."""
    returned, wing = [], str(Path(fitting.__file__).parent)  # is imported: a class that is made counts as none
    right = check.Report((check.Row("w", True, "float32", 0.0, 0.0, 0.0, ""),))

    def counted(frame, event, _):
        if event == "return" and frame.f_code.co_filename.startswith(wing) and frame.f_code.co_name[0] != "<":
            returned.append(f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}")

    def fit(*_, **__):
        sys.setprofile(None)
        raise KeyboardInterrupt

    monkeypatch.setattr(fits, "fit", fit)
    monkeypatch.setattr(check, "check_gradient", lambda *_: right)  # nothing of this wing, and long
    sys.setprofile(counted)
    try:
        assert jaxbackprop("train", "kinds.csv", "--epochs", 2).status == 130
    finally:
        sys.setprofile(None)
    assert len(returned) <= 25, returned


def test_output_to_a_reader_that_has_gone_ends_in_silence():
    command = f"{sys.executable} -m jaxbackprop train --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.stdout.strip() in ("0", "141"), done.stderr) == (True, "")
