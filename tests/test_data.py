"""Real data in: what is recognised, how it is split and standardised, and what is refused with which words."""

import inspect
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from files import _in_an_empty_folder, write  # noqa: F401  (a fixture)
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxbackprop.data import Encoding, Treatment, decode, from_dict, load, read_features, saying, targets, to_dict

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
sklearn_datasets = pytest.importorskip("sklearn.datasets")
StandardScaler = pytest.importorskip("sklearn.preprocessing").StandardScaler

ROWS = 12
COLOURS = ["red", "green", "blue"] * 4


def csv(columns, name="t.csv"):
    rows = zip(*columns.values(), strict=True)
    return write("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n", name)


def npz(name="t.npz", **arrays):
    np.savez(name, **arrays)
    return name


def parquet(name="t.parquet", **columns):
    pq.write_table(pa.table(columns), name)
    return name


def flowers(**changed):
    return {
        "length": [0.5 * i for i in range(ROWS)],
        "width": [7 - i for i in range(ROWS)],
        "colour": COLOURS,
    } | changed


def unchecked(function):
    """As a caller without beartype has it."""
    return inspect.unwrap(function)


def rows_of(dataset):
    """Features and target of every row, train then test, in the file's units."""
    e = dataset.encoding
    x = np.concatenate([dataset.x_train, dataset.x_test]) * np.array(e.scale) + np.array(e.mean)
    y = np.concatenate([dataset.y_train, dataset.y_test])
    return x, y[:, 0] * e.target_scale[0] + e.target_mean[0] if e.task == "regression" else [e.classes[i] for i in y]


# ---- bundled sets


@pytest.mark.parametrize(
    ("name", "task", "k"),
    [
        ("digits", "classification", 10),
        ("breast_cancer", "classification", 2),
        ("breast-cancer", "classification", 2),
        ("wine", "classification", 3),
        ("diabetes", "regression", 0),
    ],
)
def test_a_bundled_set_holds_what_scikit_learn_has(name, task, k):
    bunch = getattr(sklearn_datasets, f"load_{name.replace('-', '_')}")()
    dataset = load(name)
    assert dataset.name == name.replace("-", "_")
    assert dataset.encoding.task == task
    assert len(dataset.encoding.classes) == k
    assert dataset.encoding.features == tuple(bunch.feature_names)
    assert dataset.note.startswith(task)
    x, y = rows_of(dataset)
    groups = np.unique(np.array(bunch.target_names)[bunch.target], return_inverse=True)[1] if k else 0 * bunch.target
    order = np.concatenate(targets.split(groups.astype(int), 0.2, 0))
    np.testing.assert_allclose(x, bunch.data[order], rtol=1e-5, atol=1e-4)
    if task == "regression":
        np.testing.assert_allclose(y, bunch.target[order], rtol=1e-5)
    else:
        assert y == [str(bunch.target_names[c]) for c in bunch.target[order]]


def test_notes_of_the_bundled_sets():
    assert load("digits").note == "classification, 10 classes (target 'digit' holds 10 different integers)"
    assert load("wine").note == "classification, 3 classes (target 'cultivar' is text)"
    assert load("diabetes").note == "regression (target 'progression' holds 214 different integers)"
    assert load("digits").encoding.classes == tuple("0123456789")


def test_a_bundled_name_wins_and_a_path_is_a_path():
    csv(flowers(), "digits")
    assert load("digits").name == "digits"
    with pytest.raises(ValueError, match=r"'\./digits' ends in '', expected \.csv, \.tsv, \.txt, \.npz or \.parquet"):
        load("./digits")
    with pytest.raises(ValueError, match="'digits' ends in ''"):
        load(Path("digits"))


def test_a_bundled_set_has_one_target():
    assert load("wine", target="cultivar").encoding.target == "cultivar"
    with pytest.raises(ValueError, match="'wine': its target is 'cultivar', not 'ash'; leave the target out"):
        load("wine", target="ash")


# ---- splitting and standardising


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_shapes_and_dtypes(name):
    d = load(name, test_fraction=0.3)
    n, k = len(d.x_train) + len(d.x_test), len(d.encoding.features)
    assert d.x_train.shape == (len(d.y_train), k)
    assert d.x_test.shape == (len(d.y_test), k)
    assert abs(len(d.x_test) - 0.3 * n) <= max(1, len(d.encoding.classes) / 2)
    assert d.x_train.dtype == d.x_test.dtype == np.float32
    expected = (np.int32, 1) if d.encoding.classes else (np.float32, 2)
    assert (d.y_train.dtype, d.y_train.ndim) == (d.y_test.dtype, d.y_test.ndim) == expected


@pytest.mark.parametrize("name", ["digits", "diabetes"])
def test_standardisation_is_scikit_learns_of_the_training_split(name):
    d = load(name)
    raw = np.concatenate([d.x_train, d.x_test]) * np.array(d.encoding.scale) + np.array(d.encoding.mean)
    scaler = StandardScaler().fit(raw[: len(d.x_train)])
    np.testing.assert_allclose(d.encoding.mean, scaler.mean_, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d.encoding.scale, scaler.scale_, rtol=1e-5)
    np.testing.assert_allclose(d.x_test, scaler.transform(raw[len(d.x_train) :]), atol=1e-4)
    varies = np.array(d.x_train).std(0) > 0
    np.testing.assert_allclose(d.x_train.mean(0, dtype=float), 0, atol=1e-6)
    np.testing.assert_allclose(d.x_train.std(0, dtype=float)[varies], 1, rtol=1e-6)
    if d.encoding.task == "regression":
        assert abs(d.y_train.mean(dtype=float)) < 1e-6
        assert d.y_train.std(dtype=float) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_test_split_has_no_say_in_the_encoding(task):
    x = np.random.default_rng(1).normal(size=(40, 3))
    y = np.arange(40) % 4 if task == "classification" else x.sum(1)
    before = load(npz(x=x, y=y))
    raw = before.x_test * np.array(before.encoding.scale) + np.array(before.encoding.mean)
    in_test = np.array([np.abs(raw - row).sum(1).min() < 1e-5 for row in x])
    assert in_test.sum() == len(before.x_test)
    x[in_test] += 1e6
    if task == "regression":
        y[in_test] -= 1e6
    after = load(npz(x=x, y=y))
    assert after.encoding == before.encoding
    np.testing.assert_array_equal(after.x_train, before.x_train)
    assert after.x_test.min() > 1e5
    x[~in_test] += 1.0
    assert load(npz(x=x, y=y)).encoding != before.encoding


def test_a_constant_column_has_scale_one_and_becomes_zero():
    d = load(csv(flowers(width=[0.1] * ROWS)))
    assert d.encoding.mean[1] == 0.1
    assert d.encoding.scale[1] == 1
    assert not d.x_train[:, 1].any()
    assert not d.x_test[:, 1].any()


def test_large_offsets_keep_their_differences():
    """A Unix time in float32 has steps of 128 seconds; standardising in float64 must not lose them."""
    seconds = 1_700_000_000 + np.arange(ROWS)
    d = load(npz(x=np.stack([seconds, seconds % 2], 1), y=np.arange(ROWS) + 0.5))
    np.testing.assert_allclose(rows_of(d)[0][:, 0], np.array(rows_of(d)[1]) - 0.5 + 1_700_000_000, atol=1e-4)
    assert len(np.unique(np.concatenate([d.x_train, d.x_test])[:, 0])) == ROWS


def test_the_split_follows_the_seed():
    a, b, c = load("wine"), load("wine"), load("wine", seed=1)
    np.testing.assert_array_equal(a.x_train, b.x_train)
    np.testing.assert_array_equal(a.y_test, b.y_test)
    assert a.note == b.note
    assert a.encoding == b.encoding
    assert a.encoding != c.encoding


@settings(max_examples=150, deadline=None)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32),
)
def test_every_class_is_in_both_splits(counts, fraction, seed):
    groups = np.random.default_rng(seed + 1).permutation(np.repeat(np.arange(len(counts)), counts))
    train, test = targets.split(groups, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(len(groups)))
    for k, count in enumerate(counts):
        tested = int((groups[test] == k).sum())
        assert tested == 0 if count == 1 else 1 <= tested <= count - 1
        assert abs(tested - fraction * count) <= 1


def test_the_split_is_shuffled():
    train, test = targets.split(np.zeros(1000, int), 0.5, 0)
    assert abs(np.corrcoef(np.arange(500), train)[0, 1]) < 0.2
    assert abs(test.mean() - 500) < 50


def test_a_class_of_one_stays_in_training_and_the_note_says_so():
    d = load(csv(flowers(colour=["red"] * 6 + ["blue"] * 5 + ["mauve"])))
    assert d.encoding.classes == ("blue", "mauve", "red")
    assert (d.y_train == 1).sum() == 1
    assert set(d.y_test) == {0, 2}
    assert d.note.endswith("; of a single example, so in the training split alone: 'mauve'")


# ---- recognising the task


@pytest.mark.parametrize(
    ("target", "task", "classes", "found"),
    [
        (COLOURS, "classification", ("blue", "green", "red"), "is text"),
        (["true", "false"] * 6, "classification", ("False", "True"), "is true/false"),
        ([1, 10, 9, 9] * 5, "classification", ("1", "9", "10"), "holds 3 different integers"),
        ([-1.0, 0.0, 1.0] * 5, "classification", ("-1", "0", "1"), "holds 3 different integers"),
        (list(range(20)) * 5, "classification", tuple(map(str, range(20))), "holds 20 different integers"),
        (list(range(21)) * 5, "regression", (), "holds 21 different integers"),
        ([1, 2, 3] * 4, "regression", (), "holds 3 different integers, in only 12 rows"),
        ([0.5, 1.5] * 10, "regression", (), "holds 2 different numbers"),
    ],
)
def test_recognised(target, task, classes, found):
    d = load(csv({"a": range(len(target)), "b": target}))
    assert (d.encoding.task, d.encoding.classes) == (task, classes)
    head = f"classification, {len(classes)} classes" if classes else "regression"
    assert d.note == f"{head} (target 'b', the last column, {found})"


def test_labels_stay_with_their_rows():
    d = load(csv(flowers(colour=["10", "9", "x"] * 4)))
    x, y = rows_of(d)
    assert d.encoding.classes == ("10", "9", "x")
    assert y == [["10", "9", "x"][round(length / 0.5) % 3] for length in x[:, 0]]
    labels = ["10", "2", "3", "1"] * 3  # sorted as numbers and as text, these differ by a cycle of three
    d = load(parquet(a=list(range(ROWS)), b=labels), treatment=Treatment(categories=("b",)))
    x, y = rows_of(d)
    assert d.encoding.classes == ("1", "2", "3", "10")
    assert y == [labels[round(a)] for a in x[:, 0]]


def test_integers_as_classes_or_values_when_asked():
    path = csv({"a": range(ROWS), "b": [1, 2, 3] * 4})
    d = load(path, task="classification")
    assert d.encoding.classes == ("1", "2", "3")
    assert d.note.endswith("in only 12 rows, taken so as asked)")
    path = csv({"a": range(20), "b": [1, 2] * 10})
    assert load(path).encoding.task == "classification"
    d = load(path, task="regression")
    assert d.encoding.task == "regression"
    np.testing.assert_allclose(sorted(rows_of(d)[1]), [1] * 10 + [2] * 10, rtol=1e-6)
    d = load(csv({"a": range(20), "b": ["true", "false"] * 10}), task="regression")
    np.testing.assert_allclose(sorted(rows_of(d)[1]), [0] * 10 + [1] * 10, atol=1e-6)


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="column 'colour' holds text where numbers belong: 'red' in row 1"):
        load(csv(flowers()), task="regression")
    path = csv(flowers(colour=[0.5 * i for i in range(ROWS)]))
    with pytest.raises(
        ValueError, match="'colour' holds 12 different numbers, not all whole, so no labels; use task='r"
    ):
        load(path, task="classification")
    with pytest.raises(ValueError, match="task is 'clustering', expected 'classification', 'regression' or None"):
        load(path, task="clustering")


# ---- files


def same(a, b):
    assert a.encoding == b.encoding
    for one, other in [(a.x_train, b.x_train), (a.x_test, b.x_test), (a.y_train, b.y_train), (a.y_test, b.y_test)]:
        np.testing.assert_array_equal(one, other)


def test_csv_parquet_and_npz_agree():
    columns = flowers()
    from_csv, from_parquet = load(csv(columns)), load(parquet(**columns))
    same(from_csv, from_parquet)
    from_npz = load(npz(x=np.stack([columns["length"], columns["width"]], 1), y=np.array(COLOURS)))
    np.testing.assert_array_equal(from_csv.x_train, from_npz.x_train)
    np.testing.assert_array_equal(from_csv.y_train, from_npz.y_train)
    assert from_npz.encoding.features == ("x0", "x1")
    assert (from_csv.name, from_npz.name) == ("t.csv", "t.npz")


def test_a_target_by_name_leaves_the_other_columns_in_order():
    d = load(csv(flowers() | {"last": range(ROWS)}), target="colour")
    assert d.encoding.features == ("length", "width", "last")
    assert d.note == "classification, 3 classes (target 'colour' is text)"


def test_arrow_types_that_are_numbers_or_text():
    from decimal import Decimal

    d = load(
        parquet(
            small=pa.array(range(ROWS), pa.int8()),
            large=pa.array(range(ROWS), pa.uint64()),
            half=pa.array(np.arange(ROWS), pa.float16()),
            money=pa.array([Decimal(i) for i in range(ROWS)], pa.decimal128(9, 2)),
            flag=pa.array([True, False] * 6),
            kind=pa.array(COLOURS).dictionary_encode(),
        )
    )
    x, _ = rows_of(d)
    for column in x[:, 1:4].T:
        np.testing.assert_allclose(column, x[:, 0], atol=1e-5)
    np.testing.assert_allclose(x[:, 4], 1 - x[:, 0].round() % 2, atol=1e-5)
    assert d.encoding.classes == ("blue", "green", "red")


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.uint64, np.float16, np.float32, np.longdouble])
def test_npz_dtypes_and_a_column_vector_of_targets(dtype):
    x = np.random.default_rng(0).integers(0, 2, (30, 4)).astype(dtype)
    d = load(npz(X=x, Y=np.linspace(0, 1, 30)[:, None].astype(np.float16)))
    assert d.encoding.task == "regression"
    assert d.encoding.target == "y"
    assert len(d.x_train) == 24


def test_an_npz_of_numbers_beyond_64_bits_of_a_float_says_so():
    large = 1000 * np.arange(40, dtype=np.uint64) + 2**60
    note = load(npz(x=large[:, None], y=large)).note
    lost = "whole numbers beyond 2^53: their last digits are lost"
    assert note == f"regression (target 'y' holds 40 different integers; {lost}); x holds {lost}"


def test_npz_target_by_name():
    d = load(npz(x=np.eye(10), y=np.arange(10), other=np.arange(10) / 3), target="other")
    assert (d.encoding.target, d.encoding.task) == ("other", "regression")


def test_a_byte_order_mark_quotes_line_ends_and_unicode():
    body = "\r\n".join(f'{i},"{i},5","a\nb é{i % 2}"' for i in range(10)).replace(',5"', '.5"')
    d = load(write(b"\xef\xbb\xbf" + f'"x","größe, m","λ\n2"\r\n{body}\r\n'.encode(), "данные.CSV"))
    assert d.encoding.features == ("x", "größe, m")
    assert d.encoding.target == "λ\n2"
    assert d.encoding.classes == ("a\nb é0", "a\nb é1")
    assert "\n" not in d.note
    assert d.name == "данные.CSV"


def test_a_folder_with_an_equals_sign_is_no_partition():
    os.mkdir("year=2020")
    assert load(parquet("year=2020/t.parquet", **flowers())).encoding.features == ("length", "width")


def test_numbers_as_text_are_numbers():
    d = load(parquet(a=[str(i) for i in range(ROWS)], colour=COLOURS))
    np.testing.assert_allclose(sorted(rows_of(d)[0][:, 0]), range(ROWS), atol=1e-5)


def test_row_numbers_that_pandas_wrote_are_left_out():
    d = load(csv({"": range(ROWS)} | flowers()))
    assert d.encoding.features == ("length", "width")
    assert d.table[0].split(maxsplit=1) == ["''", "dropped: it has no name"]
    d = load(parquet(**flowers(), __index_level_0__=list(range(ROWS))))
    assert d.encoding.target == "colour"
    assert d.table[-1].split(maxsplit=1) == ["'__index_level_0__'", "dropped: row numbers that pandas wrote"]


# ---- what is refused, and how it is said


@pytest.fixture(params=["load", "read_features"])
def read(request):
    """Either way in; both must refuse what neither can use."""
    encoding = Encoding("classification", ("length", "width"), (0.0, 0.0), (1.0, 1.0), "colour", ("a", "b"))
    return load if request.param == "load" else lambda path: read_features(path, encoding)


def refused(read, path, words, error: type[Exception] = ValueError):
    with pytest.raises(error, match=re.escape(words)) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) == 1
    assert Path(str(path)).name in str(caught.value)


def test_unknown_names_get_a_suggestion():
    words = (
        "unknown data set 'digit'; did you mean 'digits'? (expected digits, breast_cancer, diabetes, wine, or the path"
    )
    refused(load, "digit", words)
    refused(load, "mnist", "unknown data set 'mnist' (expected digits")
    refused(load, "", "unknown data set ''")
    with pytest.raises(TypeError, match="source is 3, expected the name of a data set or the path of a file"):
        unchecked(load)(3)


def test_files_that_cannot_be_opened(read, monkeypatch):
    refused(read, "no.csv", "no file 'no.csv' in ", FileNotFoundError)
    refused(read, "no/where.parquet", "no file 'no/where.parquet' in ", FileNotFoundError)
    refused(read, Path("nothing"), "no file 'nothing' in ", FileNotFoundError)
    os.mkdir("folder.csv")
    refused(read, "folder.csv", "holds neither x.npy")
    os.mkfifo("pipe.csv")
    refused(read, "pipe.csv", "'pipe.csv' is not a file")
    with pytest.raises(ValueError, match=r"'aaa.*\.\.\.aaa.*csv' can't be opened \(File name too long\)"):
        read("a" * 5000 + ".csv")
    refused(read, write("a\n1\n", "t.xlsx"), "'t.xlsx' ends in '.xlsx', expected .csv, .tsv, .txt, .npz or .parquet")
    with pytest.raises(
        ValueError, match=r"^'a\\x00\.csv' can't be opened \(embedded null byte\); check the path and its"
    ):
        read("a\0.csv")
    with pytest.raises(
        ValueError, match=r"^'\\ud800\.csv' can't be opened \(.*surrogates not allowed\); check the path"
    ):
        read("\ud800.csv")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = csv(flowers())
    monkeypatch.setattr(Path, "open", denied)  # chmod does not stop root
    refused(read, path, "'t.csv' can't be opened (Permission denied); check the path and its permissions")


@pytest.mark.parametrize("text", ["", "\n", "length,width,colour", "length,width,colour\n", '"length,width\n1,2\n'])
def test_files_without_rows(read, text):
    refused(read, write(text), "'t.csv': no rows")


def test_a_ragged_row(read):
    text = "length,width,colour\n" + "1,2,red\n" * 5
    refused(read, write(text + "1,2\n"), "'t.csv': row 6 has 2 values, expected 3: '1,2'")
    refused(read, write(text + "\n1,2,red,4\n" + text), "'t.csv': row 6 has 4 values, expected 3: '1,2,red,4'")


def test_a_quote_that_never_closes(read):
    text = "length,width,colour\n" + "1,2,red\n" * 5
    refused(
        read, write(text + '3,4,"blue\n' + "1,2,red\n" * 20), "row 6 opens a quote and never closes it: 'blue\\n1,2"
    )
    refused(read, write(text + '3,"4,blue\n' + "1,2,red\n" * 20), "row 6 has 2 values, expected 3")


def test_duplicate_columns(read):
    refused(
        read, write("length,width,length\n1,2,3\n"), "more than one column is named 'length'; rename them, or add a"
    )
    refused(read, write(",,\n1,2,3\n"), "more than one column is named ''")


def test_text_that_is_not_utf8(read):
    refused(read, write("länge,width\n1,2\n".encode("latin1")), "the header is not UTF-8 text; save the file as UTF-8")
    path = write("length,width,colour\n1,ü,red\n".encode("latin1"))
    refused(read, path, "column 'width' holds bytes that are not UTF-8 text; save the file as UTF-8")
    for other in ("utf-16", "utf-16-be", "utf-32"):
        path = write(("length,width,colour\n" + "1,2,red\n" * 5).encode(other))
        refused(read, path, "'t.csv': the header is not UTF-8 text; save the file as UTF-8")


def test_a_text_where_names_are_wanted_is_refused():
    path = csv(flowers())
    with pytest.raises(ValueError, match=r"treatment.drop is 'width', expected a tuple of texts, such as drop=\('a', "):
        load(path, treatment=Treatment(drop="width"))
    with pytest.raises(ValueError, match="target is 3, expected the name of a column or an array"):
        load(path, target=3)


def test_nested_columns(read):
    path = parquet(length=[[1]] * ROWS, width=[1.0] * ROWS, colour=COLOURS)
    refused(read, path, "'t.parquet': column 'length' holds list<element: int64>")


def test_text_among_numbers(read):
    width = ["1"] * 4 + ["wi\u2028de", "wider"] + ["2"] * 6
    words = "column 'width' holds text where numbers belong: 'wi\\u2028de' in row 5 (1 more like it); correct it, or "
    refused(read, csv(flowers(width=width)), words)


def test_infinite_values(read):
    path = csv(flowers(width=[1, 2.5, "inf", 4, 1e39, *range(7)]))
    refused(read, path, "column 'width' has 1 infinite value; replace them or drop those rows (first: row 3)")
    path = csv(flowers(width=[1, 2.5, 3, -1e39, 1e300, *range(7)]))
    refused(
        read,
        path,
        "column 'width' has 2 values beyond float32's 3.4e38; use a larger unit or logarithms (first: row 4)",
    )
    refused(read, csv(flowers(width=[1, 1e400, *range(10)])), "'width' has 1 infinite")


def test_missing_values_that_a_run_of_an_earlier_version_knows_nothing_of():
    encoding = Encoding("classification", ("length", "width"), (0.0, 0.0), (1.0, 1.0), "colour", ("a", "b"))
    for gap in ["", "NA", "nan", "null", '"NA"', "?"]:
        path = csv(flowers(width=[1, 2, gap, 4, gap, *range(7)]))
        words = "column 'width' has 2 missing values (empty, NA or NaN); fill them in or drop those rows (first: row 3)"
        refused(lambda path: read_features(path, encoding), path, words)


def test_missing_targets():
    words = "target 'colour' is missing in 1 row (first: row 2): fill it in, or leave such rows out by --missing drop"
    for colour in (["red", "", *COLOURS[2:]], ["red", "NA", *COLOURS[2:]], [1.5, "", *range(10)]):
        refused(load, csv(flowers(colour=colour)), words)
    refused(load, parquet(**flowers(colour=["red", "", *COLOURS[2:]])), words)
    refused(load, npz(x=np.eye(6), y=["a", " ", *"abab"]), "target 'y' is missing in 1 row (first: row 2)")
    refused(load, csv(flowers(colour=[1e39, *range(11)])), "'colour' has 1 value beyond float32's")
    refused(load, npz(x=np.eye(21), y=[np.inf, *[0, 1] * 10]), "column 'y' has 1 infinite value")


def test_values_too_far_from_the_training_mean():
    encoding = Encoding("classification", ("a", "b"), (0.0, 0.0), (1.0, 1e-30), "c", ("0", "1"))
    path = csv({"b": [0, 1e10], "a": [1, 2]})
    refused(
        lambda p: read_features(p, encoding), path, "column 'b' has 1 value too far from the training mean for float32"
    )


def test_wrong_targets():
    path = csv(flowers())
    with pytest.raises(
        ValueError, match=r"no column 'color'; did you mean 'colour'\? \(columns: 'length', 'width', 'colour'\)"
    ):
        load(path, target="color")
    with pytest.raises(ValueError, match="no column ''"):
        load(path, target="")
    many = csv({f"c{i}": range(ROWS) for i in range(30)})
    with pytest.raises(ValueError, match=r"no column 'nope' \(columns: 'c0', .*'c9' and 20 more\)"):
        load(many, target="nope")
    with pytest.raises(ValueError, match=r"no array 'Y2' \(arrays: 'x', 'y'\)"):
        load(npz(x=np.eye(6), y=np.arange(6)), target="Y2")


def test_targets_that_teach_nothing():
    refused(
        load, csv(flowers(colour=["red"] * ROWS)), "target 'colour' is 'red' in every row; name a target that varies"
    )
    refused(load, csv(flowers(colour=[0.5] * ROWS)), "target 'colour' is 0.5 in every row")
    refused(
        load, csv(flowers(colour=[f"name {i}" for i in range(ROWS)])), "target 'colour' has no value twice, so no class"
    )


def test_too_few_rows_or_columns():
    refused(load, write("a,b\n" + "1,x\n2,y\n" * 2), "'t.csv': has 4 rows, expected at least 5 to train and test on")
    refused(load, write("a:b\n" + "1:x\n2:y\n" * 9), "has the columns 'a:b', expected features and a target")


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 20, float("nan")])
def test_a_test_fraction_must_be_a_share(fraction):
    with pytest.raises(ValueError, match=f"test_fraction is {fraction}, expected a number between 0 and 1"):
        unchecked(load)("wine", test_fraction=fraction)


@pytest.mark.parametrize("seed", [-1, 0.5, "a", None])
def test_a_seed_must_be_a_natural_number(seed):
    with pytest.raises(ValueError, match=f"seed is {seed!r}, expected an integer of at least 0"):
        unchecked(load)("wine", seed=seed)


@pytest.mark.parametrize("content", [b"", b"hello, npz", b"PK\x03\x04 cut short"])
def test_files_that_are_no_npz(read, content):
    refused(read, write(content, "t.npz"), "'t.npz': not an NPZ archive, or a damaged one; write it with numpy.savez(")


def test_a_bare_npy_is_no_npz(read):
    buffer = io.BytesIO()
    np.save(buffer, np.eye(3))
    refused(read, write(buffer.getvalue(), "t.npz"), "not an NPZ archive")


def test_pickles_are_never_loaded(read):
    path = npz(x=np.array([{}, 1], dtype=object), y=np.arange(2))
    refused(read, path, "array 'x' isn't plain numbers or text: Object arrays cannot be loaded when allow_pickle=False")


def npy(header, values=b""):
    """An .npy file of version 1 with this header, which NumPy itself would not write."""
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + values


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (6, 2",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999999, 9), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 2), }",
        "{'descr': [('a', '<i4')], 1: False, 'shape': (6, 2), }",
        "(" * 300,
        "-" * 9_000 + "1",
    ],
)
def test_headers_that_numpy_cannot_read(read, header):
    with zipfile.ZipFile("t.npz", "w") as archive:  # with sound checksums, so that the header is read
        archive.writestr("x.npy", npy(header, bytes(96)))
        archive.writestr("y.npy", npy(header, bytes(96)))
    refused(read, "t.npz", "'t.npz': array 'x' isn't plain numbers or text: ")


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [0xD800, 0xDFFF, 0x110000, 0xC2000000])
def test_npz_text_that_is_not_unicode(order, code):
    y = np.array([ord("a"), ord("b")] * 5 + [code, code], f"{order}u4").view(f"{order}U1")
    with zipfile.ZipFile("t.npz", "w") as archive:
        for name, array in (("x", np.eye(12)), ("y", y)):
            header = f"{{'descr': '{array.dtype.str}', 'fortran_order': False, 'shape': {array.shape}, }}"
            archive.writestr(f"{name}.npy", npy(header, array.tobytes()))
    refused(load, "t.npz", "'t.npz': array 'y' holds text that is not Unicode; write the file anew")


def test_npz_text_of_either_byte_order():
    for kind in ("<U9", ">U9"):
        d = load(npz(x=np.eye(12), y=np.array(["no", "\U0010ffff", "é"] * 4, kind)))
        assert d.encoding.classes == ("no", "é", "\U0010ffff")


def test_archives_with_other_things(read):
    with zipfile.ZipFile("t.npz", "w") as archive:
        archive.writestr("x", "hello")
        archive.writestr("y", "hello")
    refused(read, "t.npz", "array 'x' has shape () and dtype |S5, expected (rows, features) of numbers")


@pytest.mark.parametrize(
    "x", [np.zeros(6), np.zeros((6, 2, 2)), np.zeros((0, 2)), np.array([["a", "b"]] * 6), np.eye(2) * 1j]
)
def test_npz_features_of_the_wrong_kind(read, x):
    path = npz(x=x, y=np.arange(len(x)))
    refused(read, path, f"array 'x' has shape {x.shape} and dtype {x.dtype}, expected (rows, features) of numbers")


@pytest.mark.parametrize("y", [np.eye(6), np.arange(5), np.zeros(6, "M8[s]"), np.array([b"a"] * 6), np.array(1)])
def test_npz_targets_of_the_wrong_kind(y):
    path = npz(x=np.eye(6), y=y)
    refused(load, path, f"array 'y' has shape {y.shape} and dtype {y.dtype}, expected (6,), one value a row")


def test_npz_without_the_arrays():
    refused(load, npz(a=np.eye(6), b=np.arange(6)), "'t.npz': no array 'x' (arrays: 'a', 'b')")
    refused(load, npz(x=np.eye(6), b=np.arange(6)), "'t.npz': no array 'y' (arrays: 'x', 'b')")


@pytest.mark.parametrize("content", [b"", b"hello", b"PAR1" * 9])
def test_files_that_are_no_parquet(read, content):
    refused(read, write(content, "t.parquet"), "'t.parquet': ")


def test_a_parquet_footer_that_promises_more_rows_than_there_are(read):
    """One byte wrong, and pyarrow would ask for 17 GB."""
    content = Path(parquet(**flowers())).read_bytes()
    footer = content.rindex(b"\x16\x18")  # the last 12 (as a zigzag varint): the rows of the only row group
    damaged = content[:footer] + b"\x16\x1a" + content[footer + 2 :]
    refused(read, write(damaged, "t.parquet"), "'t.parquet': damaged: its parts have 13 rows, 12 in all")


def test_messages_stay_short_however_long_the_names(read):
    names = [f"{'n' * 5_000}{i}" for i in range(30)]
    path = write(",".join(names) + "\n" + "".join(",".join([str(i)] * 30) + "\n" for i in range(6)))
    twice = write(",".join(names * 2) + "\n" + ",".join(["1"] * 60) + "\n", "twice.csv")
    for attempt in (lambda: load(path, target="m" * 5_000), lambda: read(twice)):
        with pytest.raises(ValueError, match=r"^'(t\.csv': no column 'mm|twice\.csv': more than one column)") as caught:
            attempt()
        assert len(str(caught.value)) < 1_000
        assert str(caught.value).count("'nnn") == 10
    encoding = Encoding("regression", tuple(f"f{n}" for n in names), (0.0,) * 30, (1.0,) * 30, "y")
    with pytest.raises(ValueError, match=r"^'t\.csv': lacks 30 of the 30 features .*and 20 more\)$") as caught:
        read_features(path, encoding)
    assert len(str(caught.value)) < 1_000


def test_foreign_messages_are_cut():
    with pytest.raises(ValueError, match=r"^'t': xxx.*\.\.\..*end$") as caught, saying.naming("t"):
        raise ValueError("x" * 5_000 + "\nthe end")
    assert len(str(caught.value)) < 1_000


def test_a_nul_byte(read):
    refused(read, write("len\0gth,width\n1,2\n"), "'t.csv': the header is not UTF-8 text")
    path = write("length,width,colour\n" + "1,2\0,red\n" + "1,2,red\n" * 6)
    refused(read, path, "column 'width' holds text where numbers belong: '2\\x00' in row 1")
    assert load(write("length,width,colour\n" + "1,2,r\0d\n3,4,blue\n" * 6)).encoding.classes == ("blue", "r\0d")


def test_a_folder_that_cannot_be_written_to(read):
    os.mkdir("folder")
    path = csv(flowers(), "folder/t.csv")
    os.chmod(path, 0o444)
    os.chmod("folder", 0o555)
    try:
        read(path)
        assert os.listdir("folder") == ["t.csv"]
    finally:
        os.chmod("folder", 0o755)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("length,width,colour\n1,2," + "x" * 10**7 + "\n", ""),
        ("length,width,colour\n1," + "9" * 10**7 + ",red\n", "column 'width' has 1 infinite value"),
        ("x" * 10**7 + ",width,colour\n1,2,red\n", ""),
        ('length,width,colour\n1,2,"' + "x\n" * (5 * 10**6), "row 1 opens a quote and never closes it: 'x\\nx"),
        ("length,width,colour\n" + "," * 10**7, "row 1 has 10,000,001 values, expected 3: ',,,"),
        ("," * 10**7, "has 10000001 columns, expected at most 100000"),
        ("length,width,colour\n" + "\n" * 10**7, "no rows"),
    ],
    ids=["field", "number", "header", "quote", "commas", "columns", "blank lines"],
)
def test_ten_megabytes_on_one_line_do_not_hang(read, text, words):
    began = time.process_time()
    message = ""
    try:
        read(write(text))
    except ValueError as error:
        message = str(error)
    assert words in message
    assert len(message.splitlines()) <= 1
    assert len(message) < 1_000
    assert time.process_time() - began < 10


@pytest.mark.parametrize("rows", [0, 1, 6])
def test_a_million_columns_are_refused_at_once(read, rows):
    path = write((",".join(f"c{i}" for i in range(10**6)) + "\n") + (",".join(["1"] * 10**6) + "\n") * rows)
    refused(read, path, "'t.csv': has 1000000 columns, expected at most 100000; use .npz, which has no limit")


def test_a_header_wider_than_pyarrows_block():
    names = [f"{'c' * 900}{i}" for i in range(1500)]
    d = load(write(",".join(names) + "\n" + "".join(",".join([str(i)] * 1500) + "\n" for i in range(6))))
    assert d.encoding.features == tuple(names[:-1])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        ImportError, match=r"^the data set 'wine' needs scikit-learn: pip install 'jaxbackprop\[cli\]'$"
    ):
        load("wine")
    with pytest.raises(ImportError, match=r"^reading \.csv files needs pyarrow: pip install 'jaxbackprop\[cli\]'$"):
        load(csv(flowers()))


def whole_files():
    for write_file in (csv, lambda c: parquet(**c), lambda c: npz(x=np.stack([c["length"], c["width"]], 1), y=COLOURS)):
        path = Path(write_file(flowers()))
        yield path.suffix, path.read_bytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(draw):
    suffix, content = draw.draw(st.sampled_from(list(whole_files())))
    damaged = bytearray(content)
    for at in draw.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        damaged[at] = draw.draw(st.integers(0, 255))
    path = write(bytes(damaged[: draw.draw(st.integers(0, len(content)))]), f"damaged{suffix}")
    try:
        d = load(path)
    except ValueError as error:
        message = str(error)
    else:
        message = "'damaged"
        assert np.isfinite(d.x_train).all()
        assert np.isfinite(d.y_train).all()
    assert message.startswith("'damaged")
    assert len(message.splitlines()) == 1


# ---- predicting


def test_new_rows_are_treated_as_the_training_rows_were():
    columns = flowers()
    d = load(csv(columns))
    raw = np.stack([columns["length"], columns["width"]], 1)
    expected = ((raw - np.array(d.encoding.mean)) / np.array(d.encoding.scale)).astype(np.float32)
    shuffled = {"note": ["2020-01-01"] * ROWS, "width": columns["width"], "length": columns["length"]}
    for path in (csv(columns), csv(shuffled), parquet(**shuffled), npz(x=raw)):
        x = read_features(path, d.encoding)
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, expected)
    assert read_features(write("width,length\n1,2\n"), d.encoding).shape == (1, 2)


def test_missing_features_are_named():
    encoding = load(csv(flowers())).encoding
    words = (
        r"'new\.csv': lacks 2 of the 2 features that the network was trained on: 'length', 'width'; did you mean 'lenght'\? "
        r"\(columns: 'lenght', 'b'\)"
    )
    with pytest.raises(ValueError, match=words):
        read_features(csv({"lenght": [1], "b": [2]}, "new.csv"), encoding)
    with pytest.raises(ValueError, match=r"'t\.npz': x has 3 columns, expected the 2 features 'length', 'width'"):
        read_features(npz(x=np.eye(3)), encoding)


def test_classes_are_decoded():
    encoding = load(csv(flowers())).encoding
    assert decode(encoding, [[0.1, 3.0, -1.0], [2.0, 2.0, 0.0]]) == ["green", "blue"]
    two = Encoding("classification", ("a",), (0.0,), (1.0,), "b", ("no", "yes"))
    assert decode(two, np.array([[1, 2], [2, 1]], np.float32)) == ["yes", "no"]
    assert decode(two, np.zeros((0, 2))) == []
    with pytest.raises(
        ValueError, match=r"yhat has shape \(2, 1\), expected \(n, 2\) for classification; check the network"
    ):
        decode(two, [[1.0], [2.0]])
    with pytest.raises(ValueError, match="yhat holds NaN in 1 of 2 rows; expected numbers"):
        decode(two, [[1.0, np.nan], [2.0, 1.0]])


def test_values_are_decoded_into_the_targets_units():
    d = load(csv({"a": range(ROWS), "price": [100.0 + 7.5 * i for i in range(ROWS)]}))
    np.testing.assert_allclose(np.sort(decode(d.encoding, d.y_train)), np.sort(rows_of(d)[1][: len(d.y_train)]))
    assert np.shape(decode(d.encoding, d.y_test)) == (len(d.y_test),)
    with pytest.raises(ValueError, match=r"yhat has shape \(3,\), expected \(n, 1\) for regression"):
        decode(d.encoding, np.zeros(3))


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    features=st.lists(st.text(), min_size=1, max_size=3),
    numbers=st.lists(finite, min_size=1, max_size=3),
    classes=st.lists(st.text(), max_size=3),
)
def test_an_encoding_survives_json(features, numbers, classes):
    encoding = Encoding("classification", tuple(features), tuple(numbers), tuple(numbers), "t", tuple(classes))
    assert from_dict(json.loads(json.dumps(to_dict(encoding)))) == encoding
    assert from_dict(to_dict(encoding)) == encoding


def test_real_encodings_survive_json():
    for name in ("digits", "diabetes"):
        encoding = load(name).encoding
        assert from_dict(json.loads(json.dumps(to_dict(encoding), allow_nan=False))) == encoding


def test_a_foreign_dictionary_is_refused():
    d = to_dict(load("wine").encoding)
    with pytest.raises(
        ValueError, match=r"encoding has the fields 'task', expected 'task', 'features', 'mean', 'scale'"
    ):
        from_dict({"task": "regression"})
    with pytest.raises(ValueError, match=r"encoding has the fields 'classes', .*'extra'"):
        from_dict(d | {"extra": 1})


def test_importing_the_library_imports_no_extra():
    # a user without the extras has the library; one with them doesn't wait for what they don't use
    code = """
import importlib, pkgutil, sys, jaxbackprop
extras = {"pyarrow", "sklearn", "orbax", "matplotlib", "tqdm", "dp_accounting", "rich", "lark"}
names = {m.name for m in pkgutil.walk_packages(jaxbackprop.__path__, "jaxbackprop.")}
assert {"jaxbackprop.data", "jaxbackprop.command.planning", "jaxbackprop.tracing.picture"} <= names, names
for name in names - {"jaxbackprop.__main__"}:  # the command itself
    importlib.import_module(name)
    found = extras & set(sys.modules)
    assert not found, (name, found)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
