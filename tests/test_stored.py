"""Data on a disk made ready block by block, against NumPy over the whole."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxbackprop import data
from jaxbackprop.data import stored

RNG = np.random.default_rng(0)
X = RNG.normal(3, 5, size=(1003, 4)) * [1, 1e-3, 1e6, 0] + [0, 0, 0, 2.5]
LABELS = RNG.integers(3, 7, size=1003)
PRICE = X[:, 0] * 3 + 100 + RNG.normal(size=1003)


@pytest.fixture
def folder(tmp_path):
    def write(x=X, y=LABELS, name="big"):
        path = tmp_path / name
        path.mkdir()
        np.save(path / "x.npy", x)
        np.save(path / "y.npy", y)
        return path

    return write


def rows_of(part):
    read = [part.read(i) for i in range(len(part.lengths))]
    assert [len(x) for x, _ in read] == list(part.lengths)
    return tuple(np.concatenate(arrays) for arrays in zip(*read, strict=True))


def raw(part, encoding):
    """The features in their own units again."""
    return rows_of(part)[0].astype(float) * encoding.scale + encoding.mean


@pytest.mark.parametrize("seed", [0, 1])
def test_rows_are_split_once_and_standardised_by_the_training_rows_alone(seed, folder):
    found = data.load(folder(), seed=seed)
    train, test = (raw(part, found.encoding) for part in (found.train, found.test))
    both = np.concatenate([train, test])
    apart = (both[np.argsort(both[:, 0])] - X[np.argsort(X[:, 0])]) / found.encoding.scale
    np.testing.assert_allclose(apart, 0, atol=1e-6)  # |z| < 4, rounded to float32 once
    assert abs(len(test) - 0.2 * len(X)) <= 1
    np.testing.assert_allclose(found.encoding.mean, train.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.encoding.scale, [*train.std(0)[:3], 1], rtol=1e-6)
    assert found.encoding.mean[3] == 2.5  # constant: exactly, and with scale 1
    x, y = rows_of(found.train)
    assert (x.dtype, y.dtype) == ("float32", "int32")
    np.testing.assert_array_equal(np.unique(y), [0, 1, 2, 3])
    assert found.encoding.classes == ("3", "4", "5", "6")
    assert found.note.startswith(
        "classification, 4 classes (target 'y' holds 4 different integers); read as it is needed"
    )


def test_another_seed_holds_out_other_rows(folder):
    path = folder()
    splits = [raw((found := data.load(path, seed=seed)).test, found.encoding)[:, 0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert not np.array_equal(splits[0], splits[2])


def test_labels_stay_with_their_rows(folder):
    found = data.load(folder(y=(X[:, 0] > 3).astype(int)))
    x, y = rows_of(found.train)
    np.testing.assert_array_equal(x[:, 0] * found.encoding.scale[0] + found.encoding.mean[0] > 3, y == 1)


def test_numbers_are_standardised_and_the_baseline_is_the_training_mean(folder):
    found = data.load(folder(y=PRICE))
    assert found.encoding.task == "regression"
    (_, train), (_, test) = rows_of(found.train), rows_of(found.test)
    assert train.shape == (len(train), 1)
    np.testing.assert_allclose([train.mean(), train.std()], [0, 1], atol=1e-5)
    np.testing.assert_allclose(found.baseline, np.mean(np.square(test)), rtol=1e-5)
    answers = data.decode(found.encoding, train)
    assert np.isin(np.round(answers, 2), np.round(PRICE, 2)).mean() > 0.95


def test_a_table_on_a_disk_is_recognised_as_one_in_memory(folder, tmp_path):
    for i, y in enumerate((LABELS, PRICE, np.arange(1003), np.arange(1003) % 21, LABELS.astype(float), LABELS > 4)):
        np.savez(tmp_path / f"{i}.npz", x=X, y=y)
        in_memory = data.load(tmp_path / f"{i}.npz")
        found = data.load(folder(y=y, name=f"folder{i}"))
        assert found.encoding.task == in_memory.encoding.task, i
        assert found.encoding.features == in_memory.encoding.features
        if i != 5:  # true and false are 0 and 1 here
            assert found.encoding.classes == in_memory.encoding.classes


def test_the_task_may_be_said(folder):
    path = folder(y=np.arange(1003) % 30)
    assert len(data.load(path, task="classification").encoding.classes) == 30
    assert data.load(folder(name="few"), task="regression").encoding.classes == ()


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.where(X[700, 2] == X, np.nan, X), LABELS, {}, "column 'x2' is NaN or infinite in row 701"),
        (X, np.where(np.arange(1003) == 9, np.inf, PRICE), {}, "column 'y' is NaN or infinite in row 10"),
        (X, np.zeros(1003, int), {}, "target 'y' is 0 in every row"),
        (X, PRICE, {"task": "classification"}, "not all whole, so no labels"),
        (X, np.ones((1003, 2)), {}, "has 2 columns: expected one value a row"),
        (X[:1], LABELS[:1], {}, "has 1 row: expected at least 5"),
        (X, LABELS, {"target": "z"}, "its target is 'y', not 'z'"),
        (X, LABELS, {"test_fraction": 1.5}, "test_fraction is 1.5"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(x, y, options, message, folder):
    with pytest.raises(ValueError, match=message) as error:
        data.load(folder(x, y), **options)
    assert "\n" not in str(error.value)


def test_large_whole_numbers_are_standardised_by_their_differences(folder):
    time = 1_700_000_000 + np.arange(1003)
    found = data.load(folder(np.stack([time, X[:, 0]], axis=1), 3_000_000_000 + time))
    x, y = rows_of(found.train)
    assert len(np.unique(x[:, 0])) == len(np.unique(y)) == len(x)
    assert found.encoding.target_mean[0] == pytest.approx(3_000_000_000 + time.mean(), abs=30)
    large = data.load(folder(np.stack([time, time * 10**8], axis=1), time, "large"))
    assert large.note.endswith("; 'x1' may hold whole numbers beyond 2^53: their last digits are lost")


def test_other_rows_have_another_fingerprint(folder):
    other = X.copy()
    other[517, 2] += 1
    found = [data.load(path).train.fingerprint for path in (folder(), folder(other, name="b"), folder(name="c"))]
    assert found[0] == found[2] != found[1]


def test_a_bundled_name_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert not stored.is_stored("digits")
    assert stored.is_stored("./digits")


def test_progress_is_told(folder):
    seen = []
    data.load(folder(), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i, 67) for i in range(1, 68)]


def test_the_features_of_a_folder_of_arrays_are_read_too(folder):
    path = folder()
    encoding = data.load(path).encoding
    blocks = data.read_examples(path, encoding)
    rows = np.concatenate([blocks.read(i)[0] for i in range(len(blocks.lengths))])
    np.testing.assert_array_equal(data.read_features(path, encoding), rows)


def command(folder, *words):
    line = [sys.executable, "-m", "jaxbackprop", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_trains_on_a_folder_predicts_and_goes_on(folder, tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "häuser").mkdir()
    table = pyarrow.table({"size": X[:, 0], "price": PRICE, "age": X[:, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "häuser" / "part.parquet", row_group_size=100)
    run = command(tmp_path, "train", "häuser", "--target", "price", "--epochs", "3", "--out", "run")
    assert run.returncode == 0, run.stderr
    assert "802 training and 201 test examples, 2 features" in run.stdout
    assert "regression (target 'price' holds numbers); read as it is needed, in 11 blocks" in run.stdout
    assert "% better than the training mean" in run.stdout
    again = command(tmp_path, "train", "--resume", "run", "--epochs", "5", "--json", "--scratch", ".")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["epochs"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["häuser", "run"]
    answers = command(tmp_path, "predict", "run", "häuser/part.parquet")
    assert answers.returncode == 0, answers.stderr
    predicted = np.array(answers.stdout.split()[1:], float)
    assert np.corrcoef(predicted, PRICE)[0, 1] > 0.9


def test_the_command_refuses_a_folder_that_it_cannot_use(folder, tmp_path):
    path = folder()
    (tmp_path / "empty").mkdir()
    for words, message in (
        (["empty"], "empty holds neither x.npy and y.npy nor .parquet files"),
        ([path.name, "--private"], "--private draws each batch from all examples"),
        ([path.name, "--scratch", "nowhere"], "nowhere is not a folder"),
    ):
        run = command(tmp_path, "train", *words)
        assert (run.returncode, run.stderr.count("\n")) == (2, 1)
        assert message in run.stderr
        assert sorted(p.name for p in tmp_path.iterdir()) == ["big", "empty"]
