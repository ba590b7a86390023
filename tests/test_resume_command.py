"""`jaxbackprop train --resume`: on to the very same end, or refused with nothing changed."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pytest
from commands import QUICK, everything_below, examples, jaxbackprop, refused, rows_of, same_end, strict, write

from jaxbackprop.training import runs

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)
pytestmark = pytest.mark.usefixtures("compiled_once", "_tables")


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
    refused(jaxbackprop("train", "--resume", "run"), "config.json cannot be read.*was a file altered")
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
        assert result.out == ""
        assert everything_below() == before
    finally:
        table.write_bytes(kept)


def test_a_run_finds_its_data_from_any_folder(kinds, monkeypatch):
    Path("here").mkdir()
    shutil.copy(kinds[0].parent / "kinds.csv", "here/kinds.csv")
    monkeypatch.chdir("here")
    Path("bounds.csv").write_text("*,-100,100\n")
    for name, more in (("run", ()), ("bounded", ("--bounds", "bounds.csv"))):
        assert train_until_a_signal(signal.SIGINT, "kinds.csv", *QUICK, *more, "--out", name).status == 130
    monkeypatch.chdir("..")
    for name in ("run", "bounded"):
        assert jaxbackprop("train", "--resume", f"here/{name}").status == 0
    assert same_end("here/run", kinds[0])


def test_a_run_that_was_moved_with_its_data_or_says_a_path_from_here_finds_them(kinds, monkeypatch):
    Path("here").mkdir()
    shutil.copy(kinds[0].parent / "kinds.csv", "here/kinds.csv")
    monkeypatch.chdir("here")
    assert train_until_a_signal(signal.SIGINT, "kinds.csv", *QUICK, "--out", "run").status == 130
    monkeypatch.chdir("..")
    Path("here").rename("there")
    monkeypatch.chdir("there")
    assert jaxbackprop("train", "--resume", "run").status == 0
    config = strict(Path("run/config.json").read_text())
    config["arguments"]["data"] = "kinds.csv"  # as an earlier version wrote it
    Path("run/config.json").write_text(json.dumps(config))
    assert jaxbackprop("train", "--resume", "run", "--epochs", 4).status == 0
