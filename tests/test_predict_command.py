"""`jaxbackprop predict` and `evaluate`: in the units of the table, on new rows, from a run that is whole."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import (
    QUICK,
    by_hand_from,
    everything_below,
    examples,
    jaxbackprop,
    mixed,
    read,
    refused,
    strict,
    write,
)

for extra in ("matplotlib", "pyarrow", "rich", "sklearn"):
    pytest.importorskip(extra)
pytestmark = pytest.mark.usefixtures("compiled_once", "_tables")


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


def test_rows_come_in_by_a_pipe_as_from_a_file(kinds, monkeypatch):
    run, _ = kinds
    for command, file in (("predict", "new.csv"), ("evaluate", "kinds.csv")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path(file).read_bytes())))
        assert jaxbackprop(command, run, "-") == jaxbackprop(command, run, file)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    result = jaxbackprop("predict", run, "-")
    assert (result.status, result.out) == (2, "")
    assert "jaxbackprop: 'standard_input.csv': no rows" in result.err
    assert result.err.count("\n") == 1


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
        ("size,weight\n1,2\n1,inf\n", r"column 'weight' has 1 infinite value.*\(first: row 2\)"),
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


def test_answers_keep_the_id_of_their_row(table_run):
    Path("new.csv").write_text("kind,age,size,Id\nflat,3,50,007\nhouse,4,51,A 8\n")
    header, rows = read(jaxbackprop("predict", table_run[0], "new.csv").out)
    assert header == ["prediction", "Id"]
    assert [row[1] for row in rows] == ["007", "A 8"]
    assert all(len(row[0].replace(".", "")) >= 8 for row in rows), "digits that float32 has"


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
