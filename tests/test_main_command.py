"""The command line as a whole: help, slips, streams, statuses."""

import re

import pytest
from commands import everything_below, in_a_process, jaxbackprop, refused

import jaxbackprop as jbp

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
