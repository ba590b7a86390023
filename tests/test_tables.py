"""Tables as people have them: what each column is taken for, what is left out, and what is refused; beside scikit-learn."""

import gzip
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from files import _in_an_empty_folder, write  # noqa: F401  (a fixture)

from jaxbackprop.data import Treatment, from_dict, load, read_examples, read_features, to_dict
from jaxbackprop.data.figures import figures_of, lines_of

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
compose = pytest.importorskip("sklearn.compose")
impute = pytest.importorskip("sklearn.impute")
metrics = pytest.importorskip("sklearn.metrics")
pipeline = pytest.importorskip("sklearn.pipeline")
preprocessing = pytest.importorskip("sklearn.preprocessing")

N = 40
PRICES = [f"{v:.2f}" for v in np.random.default_rng(0).normal(200, 30, N)]


def table(separator=",", **columns):
    rows = zip(*columns.values(), strict=True)
    return "\n".join([separator.join(columns), *(separator.join(map(str, row)) for row in rows)]) + "\n"


def beside(target, **more):
    """A table of a number a, and this target."""
    return write(table(a=[f"{0.37 * i:.2f}" for i in range(len(target))], **more, target=target))


def values_of(dataset):
    """Every feature of every row in the file's units, and the target, sorted by the first feature."""
    e = dataset.encoding
    x = np.concatenate([dataset.x_train, dataset.x_test]) * np.array(e.scale) + np.array(e.mean)
    y = np.concatenate([dataset.y_train, dataset.y_test])
    y = y[:, 0] * e.target_scale[0] + e.target_mean[0] if e.task == "regression" else np.array(e.classes)[y]
    order = np.argsort(x[:, 0], kind="stable")
    return x[order], y[order]


def column(dataset, name):
    return next(c for c in dataset.encoding.columns if c.name == name)


def refused(message, path="t.csv", **how):
    before = sorted(os.listdir())
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(path, **how)
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(os.listdir()) == before


def new_rows(dataset, text, name="new.csv"):
    """The new rows, and what was warned of."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        x = read_features(write(text, name), dataset.encoding)
    return x, [str(warning.message) for warning in said]


# ---- the encoding, beside scikit-learn's


def mixed(n=200, seed=0):
    rng = np.random.default_rng(seed)
    size, age = (20 + rng.permutation(n) / 3).round(3).astype(object), rng.integers(1, 90, n).astype(object)
    age[rng.random(n) < 0.2] = ""
    colour = rng.choice(["red", "green", "blue", "NA"], n).astype(object)  # unquoted: none
    return {
        "size": size,
        "colour": colour,
        "age": age,
        "kind": rng.choice(["p", "q"], n),
        "y": rng.normal(size=n).round(3),
    }


def by_scikit_learn(columns, train, rows):
    """The same by a ColumnTransformer, fitted to the training rows."""
    frame = np.empty((len(columns["y"]), 4), object)
    for j, name in enumerate(("size", "age", "colour", "kind")):
        frame[:, j] = columns[name]
    frame[:, 1] = [np.nan if value == "" else value for value in frame[:, 1]]
    frame[frame[:, 2] == "NA", 2] = ""
    numbers = pipeline.make_pipeline(impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler())
    both = compose.ColumnTransformer(
        [
            ("numbers", numbers, [0, 1]),
            ("told", impute.MissingIndicator(), [0, 1]),
            ("labels", preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False), [2, 3]),
        ]
    )
    return both.fit(frame[train]).transform(frame[rows])


def test_columns_are_encoded_as_scikit_learn_does_from_the_training_rows_alone():
    columns = mixed()
    dataset = load(write(table(**columns)))
    sizes = np.array(columns["size"], float)
    found = dataset.x_train[:, 0] * dataset.encoding.scale[0] + dataset.encoding.mean[0]
    train = [int(np.argmin(np.abs(sizes - size))) for size in found]
    assert len(set(train)) == len(train)  # sizes are all different
    test = [i for i in range(len(sizes)) if i not in train]
    expected = by_scikit_learn(columns, train, [*train, *test])
    np.testing.assert_allclose(dataset.x_train, expected[: len(train)], atol=2e-6)
    np.testing.assert_allclose(np.sort(dataset.x_test, 0), np.sort(expected[len(train) :], 0), atol=2e-6)
    names = (
        "size",
        "age",
        "age is missing",
        "colour=",
        "colour=blue",
        "colour=green",
        "colour=red",
        "kind=p",
        "kind=q",
    )
    assert dataset.encoding.features == names
    again, said = new_rows(dataset, table(**columns))
    order = np.array([*train, *test])
    np.testing.assert_allclose(again[order], expected, atol=2e-6)
    assert said == []


def test_the_encoding_is_plain_json_and_new_rows_need_nothing_else():
    dataset = load(write(table(**mixed())))
    kept = from_dict(json.loads(json.dumps(to_dict(dataset.encoding), allow_nan=False)))
    assert kept == dataset.encoding
    text = table(**mixed(20, seed=1))
    np.testing.assert_array_equal(read_features(write(text), kept), read_features(write(text), dataset.encoding))


def test_new_rows_with_what_training_did_not_see():
    dataset = load(write(table(**mixed())))
    header = "kind,age,size,colour\n"
    x, said = new_rows(dataset, header + "p,,50,red\n")
    assert said == []
    fills = {name: column(dataset, name).fill for name in ("size", "age")}
    mean, scale = dataset.encoding.mean, dataset.encoding.scale
    assert x[0, 1] == np.float32((fills["age"] - mean[1]) / scale[1])
    assert x[0, 2:].tolist() == [1, 0, 0, 0, 1, 1, 0]
    x, said = new_rows(dataset, header + "p,5,50,red\nr,7,,mauve\ns,7,3,red\n")
    assert x[1, 2:].tolist() == [0, 0, 0, 0, 0, 0, 0]
    assert x[1, 0] == np.float32((fills["size"] - mean[0]) / scale[0])
    assert said == [
        f"column 'size' is missing in 1 row (first: row 2), never in training: {fills['size']:.6g} stands for it",
        "column 'colour' holds 'mauve' in row 2, not among its categories in training: counted for none of them, in 1 row",
        "column 'kind' holds 'r' in row 2, not among its categories in training: counted for none of them, in 2 rows",
    ]
    with pytest.raises(ValueError, match="lacks 1 of the 4 features that the network was trained on: 'colour'"):
        new_rows(dataset, "kind,age,size\np,3,4\n")
    with pytest.raises(ValueError, match="column 'age' holds text where numbers belong: 'old' in row 2; correct it"):
        new_rows(dataset, header + "p,5,50,red\np,old,50,red\n")
    np.savez("new.npz", x=np.ones((2, 4)))
    with pytest.raises(ValueError, match="holds numbers alone, and the network was trained on labels too"):
        read_features("new.npz", dataset.encoding)


def test_rows_with_gaps_may_be_left_out():
    columns = mixed()
    dataset = load(write(table(**columns)), treatment=Treatment(missing="drop"))
    whole = [i for i in range(200) if columns["age"][i] != "" and columns["colour"][i] != "NA"]
    assert len(dataset.x_train) + len(dataset.x_test) == len(whole)
    assert dataset.note.endswith(f"; {200 - len(whole)} rows with missing values left out")
    assert dataset.encoding.features == ("size", "age", "colour=blue", "colour=green", "colour=red", "kind=p", "kind=q")
    np.testing.assert_allclose(values_of(dataset)[0][:, 0], sorted(float(columns["size"][i]) for i in whole), rtol=1e-5)
    assert ": such rows are left out" in "".join(dataset.table)
    beside([*PRICES[:-1], ""])
    assert len(load("t.csv", treatment=Treatment(missing="drop")).x_train) == round(0.8 * (N - 1))
    refused(
        "has 2 rows that lack no value",
        write(table(a=[1, "", "", 2, ""], y=[1, 2, 3, 4, 5])),
        treatment=Treatment(missing="drop"),
    )
    refused("unknown way with missing values 'fill': Known: impute, drop", treatment=Treatment(missing="fill"))


def test_only_the_frequent_of_many_categories_have_an_input():
    words = [f"w{i % 150:03d}" if i < 300 else f"w{i % 60:03d}" for i in range(900)]
    dataset = load(beside([f"{i / 7:.3f}" for i in range(900)], word=words))
    categories = column(dataset, "word").categories
    assert len(categories) <= 101
    assert {f"w{i:03d}" for i in range(60)} <= set(categories)
    assert re.search(r"'word' .*; the \d+ most frequent of \d+$", "\n".join(dataset.table), re.MULTILINE)


def test_an_npz_with_gaps_is_filled_too():
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[::5, 1] = np.nan
    np.savez("t.npz", x=x, y=x[:, 0])
    dataset = load("t.npz")
    assert dataset.encoding.features == ("x0", "x1", "x2", "x1 is missing")
    assert dataset.x_train[:, 3].sum() + dataset.x_test[:, 3].sum() == 10
    again = read_features("t.npz", dataset.encoding)
    np.testing.assert_array_equal(np.sort(again, 0), np.sort(np.concatenate([dataset.x_train, dataset.x_test]), 0))


# ---- numbers, however they are written


@pytest.mark.parametrize(
    ("write_one", "unit"),
    [
        (lambda v: f'"{v:,.2f}"', ""),
        (lambda v: f'"${v:,.2f}"', "$"),
        (lambda v: f'"-€ {v:,.2f}"', "€"),
        (lambda v: f'"{v:,.2f} %"', "%"),
        (lambda v: f"{v:,.2f}".replace(",", "'"), ""),
        (lambda v: f"{v:,.2f}".replace(",", " "), ""),
        (lambda v: f"{v:,.2f}".replace(",", "\u202f"), ""),
        (lambda v: '"' + f"{v:,.2f}".replace(",", "_").replace(".", ",").replace("_", ".") + '"', ""),
        (lambda v: '"' + f"{v:.2f}".replace(".", ",") + '"', ""),
        (lambda v: f"−{v:.2f}", ""),
        (lambda v: f" {v:.2e} ", ""),
    ],
)
def test_numbers_with_units_and_marks(write_one, unit):
    numbers = np.random.default_rng(1).uniform(1, 2_000_000, N).round(2)
    sign = -1 if write_one(1.0).strip('"')[0] in "-−" else 1
    for where in ("feature", "target"):
        columns = {"a": range(100, 100 + N), "b": map(write_one, numbers), "c": [f"{i}.5" for i in range(N)]}
        order = ("a", "b", "c") if where == "feature" else ("a", "c", "b")
        dataset = load(write(table(**{name: list(columns[name]) for name in order})))
        assert dataset.encoding.task == "regression"
        x, y = values_of(dataset)
        found = x[:, 1] if where == "feature" else y
        np.testing.assert_allclose(found, sign * numbers, rtol=5e-3 if "e" in write_one(1.0) else 1e-5, atol=0.2)
        assert (column(dataset, "b").written if where == "feature" else dataset.encoding.target_written) == unit


@pytest.mark.parametrize("bad", ["12,5", "about 200", "1,23,4", "1.2.3", "--5", "0x1F", "12;5"])
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_that_is_nearly_all_numbers_is_numbers_with_faults(bad, form):
    prices = [*PRICES[:-3], bad, *PRICES[-2:]]
    path = beside([f'"{price}"' for price in prices])
    if form == "parquet":
        path = "t.parquet"
        pq.write_table(pa.table({"a": np.arange(N) / 3, "target": prices}), path)
    refused(
        f"column 'target' holds text where numbers belong: '{bad}' in row 38; correct it, or say --na '{bad}'", path
    )
    labels = load(path, treatment=Treatment(categories=("target",)), task="classification", stratify=False)
    assert bad in labels.encoding.classes
    gone = load(path, treatment=Treatment(na=(bad,), missing="drop"))
    assert len(gone.x_train) + len(gone.x_test) == N - 1


def test_a_question_mark_among_numbers_is_no_value():
    path = beside([*PRICES[:-3], "?", *PRICES[-2:]])
    refused(
        "target 'target' is missing in 1 row (first: row 38, '?'): fill it in, or leave such rows out by --missing drop"
    )
    dataset = load(beside(PRICES, b=["?" if i % 10 == 3 else i * i for i in range(N)]))
    assert column(dataset, "b").indicator
    assert column(dataset, "b").why == "4 missing ('?')"
    assert load(path, treatment=Treatment(missing="drop")).encoding.task == "regression"
    dataset = load(beside(PRICES, b=["?" if i % 10 == 3 else "pq"[i % 2] for i in range(N)]))
    assert column(dataset, "b").categories == ("?", "p", "q")  # of labels it is one


def test_one_price_with_thousands_among_plain_ones_is_a_number():
    for one in ('"1,234"', '"$1,234.00"', "1234"):
        _, y = values_of(load(beside([*PRICES[:-1], one])))
        np.testing.assert_allclose(y, [*map(float, PRICES[:-1]), 1234], rtol=1e-4)


@pytest.mark.parametrize(("form", "unit"), [("{} kg", "kg"), ("{}km/h", "km/h"), ("EUR {}", "EUR"), ("{} m2", "m2")])
def test_a_number_with_a_unit_in_every_row_is_a_number(form, unit):
    numbers = [f"{20 + 0.5 * i}" for i in range(N)]
    rows = [form.format(number) for number in numbers]
    dataset = load(beside(rows, b=rows))
    assert (column(dataset, "b").written, dataset.encoding.target_written) == (unit, unit)
    x, y = values_of(dataset)
    np.testing.assert_allclose(x[:, 1], np.array(numbers, float), rtol=1e-5)
    np.testing.assert_allclose(y, np.array(numbers, float), rtol=1e-5)
    with pytest.raises(ValueError, match=f"column 'b' is written with no unit, in training with {unit}"):
        new_rows(dataset, "a,b\n1,3\n")
    assert new_rows(dataset, f"a,b\n1,{form.format(3)}\n")[0].shape == (1, 2)
    refused("write all numbers with one unit", beside(PRICES, b=[*rows[1:], "7"]))
    refused("where numbers belong: '7 lb' in row 40", beside(PRICES, b=[*rows[1:], "7 lb"]))


def test_what_only_looks_like_a_unit_is_a_label():
    days = [f"{i}{'th' if i > 3 else 'rd'}" for i in range(1, 31)]
    for names in (
        ["1st", "2nd"],
        ["12 Main St", "7 Low Rd", "9 Hill"],
        ["B12", "B7", "B1"],
        ["36 months", "60 months"],
        days,
    ):
        assert column(load(beside(PRICES, b=(names * N)[:N])), "b").kind == "category"
    assert load(beside(["2D", "3D"] * 20)).encoding.classes == ("2D", "3D")
    rows = ["36 months", "60 months"] * 20
    assert column(load(beside(PRICES, b=rows), treatment=Treatment(numbers=("b",))), "b").written == "months"


def test_one_year_and_two_years_are_of_one_unit():
    dataset = load(beside(PRICES, b=[f"{i} year{'s' * (i > 1)}" for i in range(N)]))
    assert column(dataset, "b").written == "years"
    assert new_rows(dataset, "a,b\n1,1 year\n")[0].shape == (1, 2)


def test_numbers_in_parentheses_are_negative():
    rows = [f"({i}.5)" if i % 3 else f"({i * 2}.25)" for i in range(N)]
    dataset = load(beside([*rows[:-1], "$3"], b=rows))
    assert values_of(dataset)[1].tolist() == pytest.approx([*(-float(row[1:-1]) for row in rows[:-1]), 3], rel=1e-5)
    assert column(dataset, "b").why == "those in parentheses are negative"
    assert dataset.note.endswith("those in parentheses are negative)")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_numbers_of_many_values_beside_a_word_are_numbers_with_faults(share):
    whole = [str(i) for i in range(100)]
    rows = ["unknown" if i % 10 < 10 * share else value for i, value in enumerate(whole)]
    words = "text where numbers belong: 'unknown' in row 1 "
    refused(words, beside(rows))
    refused(words, beside([f"{i}.5" for i in range(100)], b=rows))
    assert load("t.csv", treatment=Treatment(na=("unknown",))).encoding.features == ("a", "b", "b is missing")
    grades = ["none" if i % 2 else "absent" if i % 3 else str(i % 6) for i in range(100)]
    assert column(load(beside(whole, b=grades)), "b").kind == "category"


def test_two_decimal_marks_in_a_column_are_refused():
    mixed = [f'"{i},5"' if i % 2 else f"{i}.5" for i in range(N)]
    refused("column 'b' holds '0.5' in row 1 and '1,5' in row 2: write all numbers with one", beside(PRICES, b=mixed))
    swiss = [f"45'6{i:02d}.90" for i in range(N)]
    _, y = values_of(load(write(table(";", a=range(N), y=swiss))))
    np.testing.assert_allclose(y, [45_600.9 + i for i in range(N)], rtol=1e-6)


def test_two_units_in_a_column_are_refused():
    refused(
        "column 'b' holds '12' in row 1 and '45%' in row 2: write all numbers with one unit",
        beside(PRICES, b=["12", "45%"] * 20),
    )
    refused("column 'b' holds '€2' in row 1 and '$5' in row 2", beside(PRICES, b=["€2", "$5"] * 20))
    dataset = load(beside(PRICES, b=[f"{i}%" for i in range(N)]))
    with pytest.raises(ValueError, match=r"column 'b' is written with no unit, in training with %"):
        new_rows(dataset, "a,b\n1,0.4\n")
    assert new_rows(dataset, "a,b\n1,40%\n")[0].shape == (1, 2)


def test_an_ambiguous_comma_is_decided_by_the_file_and_may_be_said():
    small = [f"{i},{i + 100}" for i in range(1, N + 1)]  # 1,101 and so on
    quoted = [f'"{value}"' for value in small]
    thousand = np.array([int(value.replace(",", "")) for value in small], float)
    np.testing.assert_allclose(
        np.sort(values_of(load(write(table(w=quoted, y=PRICES))))[0][:, 0]), np.sort(thousand), rtol=1e-5
    )
    proven = load(write(table(w=quoted, v=['"12,5"'] * N, y=range(N))))
    assert proven.note.endswith("; decimal commas")
    np.testing.assert_allclose(np.sort(values_of(proven)[0][:, 0]), np.sort(thousand / 1000), rtol=1e-5)
    with_semicolons = write(table(";", w=small, y=range(N)))
    np.testing.assert_allclose(np.sort(values_of(load(with_semicolons))[0][:, 0]), np.sort(thousand / 1000), rtol=1e-5)
    said = load(with_semicolons, treatment=Treatment(decimal="."))
    np.testing.assert_allclose(np.sort(values_of(said)[0][:, 0]), np.sort(thousand), rtol=1e-5)
    german = load(write(table(";", w=[value.replace(",", ".") for value in small], v=["12,5"] * N, y=range(N))))
    np.testing.assert_allclose(np.sort(values_of(german)[0][:, 0]), np.sort(thousand), rtol=1e-5)


def test_whole_numbers_beyond_64_bits():
    huge = [2**63 + 10**9 * i for i in range(N)]
    dataset = load(write(table(a=huge, y=PRICES)))
    x, _ = values_of(dataset)
    assert column(dataset, "a").why == "whole numbers beyond 2^53: their last digits are lost"
    assert "beyond 2^53: their last digits are lost" in load("t.csv", target="a").note
    np.testing.assert_allclose(x[:, 0], np.sort(np.array(huge, float)), rtol=1e-9)
    refused(
        "target 'y' holds whole numbers beyond 2^53, which are not told apart",
        write(table(a=range(N), y=[2**63, 2**63 + 1] * 20)),
    )
    named = load("t.csv", treatment=Treatment(categories=("y",)))
    assert named.encoding.classes == (str(2**63), str(2**63 + 1))
    pq.write_table(pa.table({"a": range(N), "y": pa.array([2**60, 2**60 + 1] * 20)}), "t.parquet")
    refused("target 'y' holds whole numbers beyond 2^53", "t.parquet")


def test_codes_keep_their_zero():
    codes = ["01067", "80331", "10115", "80331"] * 10
    dataset = load(beside(PRICES, plz=codes))
    assert column(dataset, "plz").categories == ("01067", "10115", "80331")
    x, said = new_rows(dataset, "a,plz\n1,1067\n1,01067\n")
    assert x[:, 1:].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert "'1067' in row 1" in said[0]
    assert load(beside(codes)).encoding.classes == ("01067", "10115", "80331")
    one = column(load(beside(PRICES, plz=["01067", *range(20_000, 20_000 + N - 1)])), "plz")
    assert one.why.startswith("codes, as '01067' in row 1 begins with 0: different in every row (--numbers 'plz' takes")
    assert column(load(beside(PRICES, plz=codes), treatment=Treatment(numbers=("plz",))), "plz").kind == "number"
    assert column(load(beside(PRICES, b=["0", "0.5", "00.5", "2"] * 10)), "b").kind == "number"


# ---- dates, truths and labels


@pytest.mark.parametrize(
    "form", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d"]
)
def test_dates_become_days(form):
    import datetime

    start = datetime.datetime(2019, 12, 20, 6, 30)
    days = [start + datetime.timedelta(days=2 * i) for i in range(N)]
    dataset = load(write(table(when=[day.strftime(form) for day in days], y=PRICES)))
    assert column(dataset, "when").kind == "date"
    hours = 0.2708 if "%H" in form else 0
    first = (datetime.datetime(2019, 12, 20) - datetime.datetime(1970, 1, 1)).days + hours
    np.testing.assert_allclose(values_of(dataset)[0][:, 0], first + 2.0 * np.arange(N), atol=1e-3)
    x, _ = new_rows(
        dataset, f"when\n{datetime.datetime(2020, 2, 3, 6, 30).strftime(form)}\n"
    )  # alone it would be ambiguous
    assert x[0, 0] * dataset.encoding.scale[0] + dataset.encoding.mean[0] == pytest.approx(first + 45, abs=1e-3)


def test_dates_and_times_that_arrow_knows():
    import datetime

    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=i) for i in range(N)]
    stamps = [datetime.datetime(2020, 1, 1 + i % 28, 12, tzinfo=datetime.UTC) for i in range(N)]
    times = [datetime.time(i % 24, 30) for i in range(N)]
    pq.write_table(pa.table({"day": days, "stamp": stamps, "time": times, "y": np.arange(N) / 3}), "t.parquet")
    dataset = load("t.parquet")
    x, _ = values_of(dataset)
    np.testing.assert_allclose(x[:, 0], 18262 + np.arange(N), atol=1e-3)
    np.testing.assert_allclose(x[:, 1], [18262.5 + i % 28 for i in range(N)], atol=1e-3)
    np.testing.assert_allclose(x[:, 2], [i % 24 + 0.5 for i in range(N)], atol=1e-5)
    refused("target 'day' holds dates: expected numbers or labels", "t.parquet", target="day")


def test_dates_that_do_not_tell_their_form_or_are_none():
    refused(
        "holds '3/1/2020' in row 1, which may be %m/%d/%Y or %d/%m/%Y",
        beside(PRICES, day=[f"3/{i % 12 + 1}/2020" for i in range(N)]),
    )
    refused(
        "column 'day' holds '13/1/2020' in row 1 (%d/%m/%Y) and '1/13/2020' in row 2 (%m/%d/%Y): write all dates as",
        beside(PRICES, day=["13/1/2020", "1/13/2020"] * 20),
    )
    days = [f"2020-01-{i % 28 + 1:02d}" for i in range(N)]
    refused(
        "column 'day' holds text where dates belong: 'soon' in row 3; correct it",
        beside(PRICES, day=[*days[:2], "soon", *days[3:]]),
    )
    assert column(load(beside(PRICES, day=[*days[:2], "", *days[3:]])), "day").why == "1 missing"


def test_truths_are_0_and_1():
    dataset = load(beside(PRICES, flag=["TRUE", "false", "True", ""] * 10))
    assert (column(dataset, "flag").kind, column(dataset, "flag").fill) == ("boolean", 1.0)
    assert set(values_of(dataset)[0][:, 1].round(5)) == {0.0, 1.0}
    assert new_rows(dataset, "a,flag\n1,false\n")[0][0, 1] == new_rows(dataset, "a,flag\n1,0\n")[0][0, 1]
    assert load(beside(["TRUE", "FALSE"] * 20)).encoding.classes == ("False", "True")


def test_labels_are_trimmed_and_those_that_may_be_one_are_refused():
    assert load(beside(["yes", "yes ", " no", "no"] * 10)).encoding.classes == ("no", "yes")
    np.savez("t.npz", x=np.eye(N), y=["yes", "yes ", " no", "no"] * 10)
    assert load("t.npz").encoding.classes == ("no", "yes")
    for one, other in ((" <=50K", " <=50K."), ("yes", "Yes"), ("New York", "new york.")):
        names = sorted((one.strip(), other.strip()))
        refused(
            f"target 'target' holds {names[0]!r} and {names[1]!r}, which may be one label",
            beside([one, other, ">50K"] * 20),
        )
        for how in ({"treatment": Treatment(categories=("target",))}, {"classes": [*names, ">50K"]}):
            assert set(load("t.csv", **how).encoding.classes) == {*names, ">50K"}
    assert load(beside(["+", "-", "C", "C++"] * 10)).encoding.classes == ("+", "-", "C", "C++")


def test_a_word_for_no_value_is_no_label_to_learn():
    for word in ("?", "None"):
        message = (
            f"target 'target' is missing in 10 rows (first: row 4, '{word}'): fill it in, or leave such rows out by"
        )
        refused(message, beside(["p", "q", "q", word] * 10))
        assert load("t.csv", treatment=Treatment(missing="drop")).encoding.classes == ("p", "q")
        assert word in load("t.csv", treatment=Treatment(categories=("target",))).encoding.classes


def test_labels_of_a_feature_are_trimmed_and_those_that_may_be_one_are_said():
    kinds = [" yes", "yes ", "no", "yes"] * 10
    assert column(load(beside(PRICES, kind=kinds)), "kind").categories == ("no", "yes")
    pq.write_table(pa.table({"kind": pa.array(kinds).dictionary_encode(), "y": np.arange(N) / 3}), "t.parquet")
    assert column(load("t.parquet"), "kind").categories == ("no", "yes")
    dataset = load(beside(PRICES, pay=["<=50K", "<=50K.", ">50K", ""] * 10))
    said = "10 missing: a category of their own; '<=50K' and '<=50K.' may be one label: make them one"
    assert (column(dataset, "pay").why, dataset.table[1].endswith(said)) == (said, True)
    meant = load("t.csv", treatment=Treatment(categories=("pay",)))
    assert column(meant, "pay").why == "10 missing: a category of their own"
    assert column(load(beside(PRICES, kind=["+", "-", "C", "C++"] * 10)), "kind").why == ""


def test_a_text_that_is_different_in_most_rows_is_no_target():
    names = [f"name {i // 2 if i < 10 else i}" for i in range(60)]
    refused(
        "target 'target' is text, with 55 different ones in 60 rows: name another target, or say --task", beside(names)
    )
    assert load("t.csv", task="classification").encoding.task == "classification"


# ---- ids and row numbers


@pytest.mark.parametrize(
    "name",
    ["Id", "ID", "PassengerId", "customer_id", "Unnamed: 0", "Unnamed: 0.1", "index", "Row", "No.", "#", "CASEID"],
)
def test_an_id_is_left_out_and_may_be_kept(name):
    columns = {name: range(1, N + 1), "a": PRICES, "kind": ["pq"[i // 20] for i in range(N)]}
    dataset = load(write(table(**columns)))
    assert dataset.encoding.features == ("a",)
    assert re.search(r"dropped: an id: different in every row \(--numbers .* keeps it\)", "\n".join(dataset.table))
    assert load("t.csv", treatment=Treatment(numbers=(name,))).encoding.features == (name, "a")
    assert load(write(table(**columns | {name: [1, 2] * 20}))).encoding.features == (name, "a")  # it repeats
    last = {other: columns[other] for other in ("a", "kind", name)}
    assert load(write(table(**last))).note.endswith("(target 'kind', the last column that is no id, is text)")
    assert load("t.csv", target=name).encoding.target == name


def test_a_column_that_counts_the_rows_is_kept_and_said():
    dataset = load(write(table(day=range(N), a=PRICES, y=PRICES[::-1])))
    assert dataset.encoding.features == ("day", "a")
    assert column(dataset, "day").why == "it counts the rows: --drop it if it is their number"
    assert load("t.csv", treatment=Treatment(drop=("day",))).encoding.features == ("a",)
    assert column(load(beside(PRICES, area=[i * i for i in range(N)])), "area").why == ""
    assert column(load(beside(PRICES, humid=[i * i for i in range(N)])), "humid").kind == "number"


def test_a_named_index_of_pandas_is_neither_target_nor_feature():
    schema = pa.schema([("a", pa.float64()), ("y", pa.float64()), ("when", pa.int64())])
    pandas = {"index_columns": ["when"], "columns": [], "column_indexes": []}
    schema = schema.with_metadata({"pandas": json.dumps(pandas)})
    Path("folder").mkdir()
    for path in ("t.parquet", "folder/t.parquet"):
        columns = [np.arange(N) / 3, np.arange(N) / 7, np.arange(N)]
        pq.write_table(pa.table(columns, schema=schema), path)
    dataset = load("t.parquet")
    assert (dataset.encoding.target, dataset.encoding.features) == ("y", ("a",))
    assert column(dataset, "when").why == "row numbers that pandas wrote"
    kept = load("t.parquet", treatment=Treatment(numbers=("when",))).encoding
    assert (kept.target, kept.features) == ("y", ("a", "when"))
    assert load("t.parquet", target="when").encoding.features == ("a", "y")
    stored = load("folder")
    assert (stored.encoding.target, stored.encoding.features) == ("y", ("a",))
    assert load("folder", target="when").encoding.features == ("a", "y")


def test_an_index_of_text_is_named_as_such():
    named = [f"row {i}" for i in range(N)]
    pandas = json.dumps({"index_columns": ["name"], "columns": [], "column_indexes": []})
    rows = pa.table({"a": np.arange(N) / 3, "y": np.arange(N) / 7, "name": named}).replace_schema_metadata(
        {"pandas": pandas}
    )
    pq.write_table(rows, "t.parquet")
    assert column(load("t.parquet"), "name").why == "the index that pandas wrote (--categories 'name' keeps it)"


def test_what_contradicts_itself_is_refused():
    path = beside(PRICES, b=range(N))
    for both in (("drop", "categories"), ("drop", "numbers"), ("categories", "numbers")):
        refused("'b' is to be both", path, treatment=Treatment(**dict.fromkeys(both, ("b",))))


def test_a_constant_column_is_said():
    dataset = load(beside(PRICES, b=[5] * N, c=["x"] * N))
    assert column(dataset, "b").deed == "number; the same in every row"
    assert column(dataset, "c").deed == "1 category, an input each: x; the same in every row"


def test_columns_are_left_out_as_asked_and_what_is_left_has_to_be_something():
    path = beside(PRICES, b=range(N), name=[f"n{i}" for i in range(N)], nothing=[""] * N)
    dataset = load(path, treatment=Treatment(drop=("b",)))
    assert dataset.encoding.features == ("a",)
    assert [column.kind for column in dataset.encoding.columns] == ["number", "dropped", "dropped", "dropped"]
    refused("no column 'bb'; did you mean 'b'?", path, treatment=Treatment(drop=("bb",)))
    refused("'target' is the target and is to be dropped", path, target="target", treatment=Treatment(drop=("target",)))
    refused("has no column to learn 'target' from: all are left out", path, treatment=Treatment(drop=("a", "b")))
    assert load(path, treatment=Treatment(drop=("target", "nothing", "name"))).encoding.target == "b"
    refused("has no columns with names of their own", "wine", treatment=Treatment(drop=("ash",)))


# ---- how a file is written


def test_separators_and_a_comma_in_a_name():
    columns = {
        "Zeit, h": [f"{i},5" for i in range(N)],
        "Ertrag": [f"{2 * i},25" for i in range(N)],
        "Klasse": ["a", "b"] * 20,
    }
    for separator, said in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        dataset = load(write(table(separator, **columns), "t.tsv"))
        assert dataset.encoding.features == ("Zeit, h", "Ertrag")
        assert dataset.note.endswith(f"; separated by {said}; decimal commas")
        np.testing.assert_allclose(values_of(dataset)[0][:, 0], np.arange(N) + 0.5, rtol=1e-5)
        for text in ("Ertrag;Zeit, h\n1,5;2\n", "Ertrag,Zeit\n".replace("Zeit", '"Zeit, h"') + "1.5,2\n"):
            x, _ = new_rows(dataset, text)
            assert x[0, 1] == pytest.approx((1.5 - dataset.encoding.mean[1]) / dataset.encoding.scale[1], abs=1e-5)
    said = load(write(table(":", a=range(N), y=PRICES)), treatment=Treatment(separator=":"))
    assert said.encoding.features == ("a",)


def test_the_separator_may_stand_in_the_first_line():
    for line in ("sep=;", '"sep=;"\r', "SEP=;"):
        assert load(write(f"{line}\n" + table(";", a=range(N), y=PRICES))).encoding.features == ("a",)


def test_a_file_without_a_header():
    rows = [f"{i / 7:.1f},3.5,{['setosa', 'virginica'][i % 2]}" for i in range(N)]
    dataset = load(write("\n".join(rows)))
    assert (dataset.encoding.features, dataset.encoding.classes) == (("column1", "column2"), ("setosa", "virginica"))
    assert len(dataset.x_train) + len(dataset.x_test) == N
    assert "; no header: its columns are column1 to column3 (--header yes, if it has one)" in dataset.note
    assert new_rows(dataset, "2.5,3.5\n")[0].shape == (1, 2)
    for text in (
        "u,x,p\n" * 5 + "v,x,q\nu,z,p\nv,z,p\n" * 20,
        "\n".join(f"{i},{i * 7 % 5},{i % 2}" for i in range(3, N)),
    ):
        assert load(write(text)).encoding.target == "column3"


@pytest.mark.parametrize("header", ["0,1,2", "2018,2019,2020", "country,2019,2020", "a,b,c", "Id,1st,y", "x,y,z"])
def test_headers_that_look_like_data(header):
    country = ["DE", "FR", "US"] if header.startswith("country") else ["1.5", "2.5", "7"]
    rows = [f"{country[i % 3]},{i * 7 % 5},{i * 1.7:.2f}" for i in range(N)]
    dataset = load(write("\n".join([header, *rows])))
    assert (dataset.encoding.target, len(dataset.y_train) + len(dataset.y_test)) == (header.split(",")[2], N)
    without = (
        load("t.csv", treatment=Treatment(header=False, numbers=("column3",), categories=("column1",)))
        if header[0] in "02"
        else None
    )
    assert without is None or len(without.y_train) + len(without.y_test) == N + 1


def test_comments_above_the_header_and_headers_in_comments():
    body = "\n".join(f"{i / 3:.2f},{i * 1.1:.2f}" for i in range(N))
    dataset = load(write(f"# made by me\n# 2020, January\n\na,y\n{body}\n"))
    assert (dataset.encoding.features, dataset.encoding.target) == (("a",), "y")
    assert "; 2 comment lines above" in dataset.note
    np.savetxt("t.csv", np.arange(2 * N).reshape(N, 2) / 3, delimiter=",", header="a,y")
    dataset = load("t.csv")
    assert (dataset.encoding.features, len(dataset.y_train) + len(dataset.y_test)) == (("a",), N)
    assert new_rows(dataset, "# a,y\n3,4\n")[0].shape == new_rows(dataset, "y,a\n3,4\n")[0].shape == (1, 1)


def test_gzip_is_read_and_other_things_named_csv_are_named():
    text = table(a=range(N), y=PRICES)
    for name in ("t.csv", "t.csv.gz", "T.TXT.GZ"):
        Path(name).write_bytes(gzip.compress(text.encode()))
        assert load(name).encoding.features == ("a",)
    refused("'t.csv': Compressed file ended before", write(gzip.compress(text.encode())[:100]))
    refused(
        "'t.csv': is a ZIP archive, perhaps an Excel workbook: save the sheet as CSV", write(b"PK\x03\x04" + bytes(50))
    )
    pq.write_table(pa.table({"a": range(N), "y": range(N)}), "u.parquet")
    refused("'t.csv': is a Parquet file: give it a name in .parquet", write(Path("u.parquet").read_bytes()))


def test_a_gzip_that_swells_is_refused(monkeypatch):
    monkeypatch.setattr("jaxbackprop.data.sheets.MOST_BYTES", 100)
    refused("holds more than 0 GB, compressed", write(gzip.compress(table(a=range(N), y=PRICES).encode())))


def test_rows_of_another_width_say_what_may_be_the_matter():
    rows = "\n".join(f"{i},{i * 1.1:.1f}" for i in range(N))
    refused(
        "row 1 has 3 values, expected 2: '0,0.0,'; it ends with ',', one too many",
        write("a,y\n" + rows.replace("\n", ",\n") + ","),
    )
    refused(
        "row 1 has 3 values, expected 2: '0,0,0.0'; do the rows have names",
        write("a,y\n" + "\n".join(f"{i},{r}" for i, r in enumerate(rows.split()))),
    )
    refused(
        "expected 1: 'a,y,z'; is the first line, 'Report 2020', no header?",
        write("Report 2020\na,y,z\n" + "1,2,3\n" * 9),
    )
    refused("row 40 has 1 value, expected 2", write("a,y\n" + rows[: rows.rindex(",")]))
    dataset = load(write("a,y,,\n" + rows.replace("\n", ",,\n") + ",,\n,,,\n,,,\n"))  # a spreadsheet's
    assert (dataset.encoding.features, len(dataset.y_train) + len(dataset.y_test)) == (("a",), N)
    assert dataset.note.endswith("; 2 rows without anything left out at the end")


def test_quoted_words_for_nothing():
    """In quotes NA is a word, as Namibia's; among numbers it is no number all the same."""
    dataset = load(write(table(region=['"NA"', "EU", "NA", "EU"] * 10, b=[*range(39), '"NA"'], y=PRICES)))
    assert column(dataset, "region").categories == ("", "EU", "NA")
    assert column(dataset, "b").indicator
    assert load(beside(['"NA"', '"EU"'] * 20)).encoding.classes == ("EU", "NA")
    spaced = load(write('a, "s", y\n' + "\n".join(f'{i}, "{"MF"[i % 2]}", {i / 3:.2f}' for i in range(N))))
    assert spaced.encoding.features == ("a", "s=F", "s=M")


def test_arrays_of_images_and_of_several_targets_are_refused_with_what_to_do():
    np.savez("t.npz", x=np.zeros((20, 8, 8)), y=np.arange(20))
    refused(
        "has shape (20, 8, 8) and dtype float64, expected (rows, features) of numbers such as (20, 64): x.reshape(len(x), -1)",
        "t.npz",
    )
    np.savez("t.npz", x=np.zeros((20, 8)), y=np.zeros((20, 2)))
    refused(
        "has shape (20, 2) and dtype float64, expected (20,), one value a row, of numbers, true/false or text; several",
        "t.npz",
    )


def test_a_folder_leaves_columns_out_and_refuses_what_it_cannot_do():
    Path("folder").mkdir()
    pq.write_table(pa.table({"a": np.arange(N) / 3, "b": np.arange(N), "y": np.arange(N) / 7}), "folder/t.parquet")
    assert load("folder", treatment=Treatment(drop=("b",))).encoding.features == ("a",)
    for how in ({"treatment": Treatment(missing="drop")}, {"classes": ["0", "1"]}):
        refused("a folder's columns are numbers without gaps", "folder", **how)
    refused("no column 'c' to drop", "folder", treatment=Treatment(drop=("c",)))


# ---- measuring


def test_examples_are_read_with_their_target_and_strange_ones_are_refused():
    columns = mixed()
    dataset = load(write(table(**columns)))
    x, y = read_examples("t.csv", dataset.encoding)
    np.testing.assert_array_equal(x, read_features("t.csv", dataset.encoding))
    np.testing.assert_allclose(
        y[:, 0] * dataset.encoding.target_scale[0] + dataset.encoding.target_mean[0], columns["y"], atol=1e-5
    )
    labels = load(beside(["<=50K", ">50K"] * 20))
    assert read_examples("t.csv", labels.encoding)[1].tolist() == [0, 1] * 20
    for text, words in (
        (
            "a,target\n1,<=50K.\n",
            "target 'target' holds '<=50K.', not among the classes '<=50K', '>50K'; did you mean '<=50K'?",
        ),
        ("a,target\n1,\n", "target 'target' is missing in 1 row (first: row 1); fill it in"),
        ("a\n1\n", "lacks the target that the network was trained on: 'target'"),
        ("b\n1\n", "lacks 1 of the 1 features and the target that the network was trained on: 'a', 'target'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            read_examples(write(text), labels.encoding)


def test_a_folder_is_read_as_training_was_and_its_strange_classes_are_refused():
    x = np.random.default_rng(0).normal(size=(N, 2))
    dataset = load(write(table(b=x[:, 0], a=x[:, 1], y=np.arange(N) % 3)))
    Path("folder").mkdir()
    for y in (np.arange(N) % 3, np.arange(N) % 4):
        pq.write_table(pa.table({"a": x[:, 1], "b": x[:, 0], "y": y}), "folder/t.parquet", row_group_size=15)
        blocks = read_examples("folder", dataset.encoding)
        if y.max() == 2:
            found = [np.concatenate(part) for part in zip(*map(blocks.read, range(3)), strict=True)]
            for ours, theirs in zip(found, read_examples("t.csv", dataset.encoding), strict=True):
                np.testing.assert_allclose(ours, theirs, atol=1e-6)
    with pytest.raises(ValueError, match="target 'y' holds 3, not among the classes '0', '1', '2'"):
        blocks.read(0)


def test_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, guesses = rng.choice(3, 200, p=[0.7, 0.2, 0.1]).astype(np.int32), rng.integers(0, 4, 200)
    encoding = load(beside(["p", "q", "r", "s"] * 10)).encoding
    found = figures_of(encoding, y, guesses)
    assert found["majority"] == np.mean(y == 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class among the answers that is in no row
        assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, guesses))
    assert np.array(found["confusion"])[0, 3] == np.sum((y == 0) & (guesses == 3))
    numbers = load(beside(PRICES)).encoding
    a, b = rng.normal(size=(50, 1)).astype(np.float32), rng.normal(size=(50, 1)).astype(np.float32)
    expected = 1 - np.sum((a - b) ** 2) / np.sum((a - a.mean()) ** 2)
    assert figures_of(numbers, a, b)["r2"] == pytest.approx(expected, rel=1e-5)
    assert figures_of(numbers, a[:1], b[:1]) == {"r2": None}


def test_one_answer_for_all_rows_is_said_beside_its_accuracy():
    encoding = load(beside(["no", "yes"] * 20)).encoding
    y = np.array([0] * 590 + [1] * 10)
    lines = lines_of(encoding, figures_of(encoding, y, np.zeros(600, int)))
    assert lines[0] == "the most frequent class, 'no', is 98.3% of them; balanced accuracy 50.0%"
    assert lines[1] == "'no' is the answer to ALL 600 rows: nothing is told apart"
    assert [line.split() for line in lines[2:]] == [
        ["true", "\\", "answer", "no", "yes"],
        ["no", "590", "0"],
        ["yes", "10", "0"],
    ]
    many = load(beside([f"k{i % 20:02d}" for i in range(200)])).encoding
    y = np.arange(200) % 20
    lines = lines_of(many, figures_of(many, y, np.where(y == 4, 9, y)))
    assert lines[1:] == ["'k04' taken for 'k09': 10 times"]


def test_a_folder_of_several_parquet_files_with_labels_and_gaps_is_one_table():
    columns = {"size": [i / 3 for i in range(N)], "kind": ["p", "q", None, "p"] * 10, "age": [1, None, 3, 4] * 10}
    columns |= {"y": np.arange(N) / 7}
    Path("folder").mkdir()
    pq.write_table(pa.table(columns), "t.parquet")
    for i, part in enumerate((slice(0, 15), slice(15, N))):
        pq.write_table(pa.table({name: values[part] for name, values in columns.items()}), f"folder/{i}.parquet")
    whole, parts = load("t.parquet"), load("folder")
    assert whole.encoding == parts.encoding
    np.testing.assert_array_equal(whole.x_train, parts.x_train)
    for read in (read_features, lambda path, encoding: read_examples(path, encoding)[0]):
        np.testing.assert_array_equal(read("folder", parts.encoding), read("t.parquet", parts.encoding))
    pq.write_table(
        pa.table({name: values[:2] for name, values in columns.items()} | {"y": ["a", "b"]}), "folder/2.parquet"
    )
    refused(
        "'folder': column 'y' holds string in 2.parquet, double in the first: write it alike in all files", "folder"
    )
    Path("folder/2.parquet").write_bytes(b"PAR1 and no more")
    refused("'2.parquet'", "folder")
    pq.write_table(pa.table({"size": [1.0], "y": [2.0]}), "folder/2.parquet")
    refused("'folder': 2.parquet has the columns 'size', 'y', the first 'size', 'kind', 'age', 'y'", "folder")
