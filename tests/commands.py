"""The command line as its user meets it, for tests: tables, runs, what was printed, and what a run left."""

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from jaxbackprop import data
from jaxbackprop.command.main import main

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
            status = main([str(word) for word in argv])
        except SystemExit as leaving:
            status = leaving.code
    return Result(status, out.getvalue(), err.getvalue())


def in_a_process(*argv, **settings):
    command = [sys.executable, "-m", "jaxbackprop", *map(str, argv)]
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


def mixed(n=80, seed=0):
    rng = np.random.default_rng(seed)
    size, kind = rng.normal(50, 8, n).round(2), rng.choice(["flat", "house"], n)
    price = 1000 * size + np.where(kind == "flat", 0, 20_000)
    age = [str(a) if a % 5 else "?" for a in rng.integers(1, 40, n)]
    return {"Id": range(n), "size": size, "kind": kind, "age": age, "price": [f"${p:,.2f}" for p in price]}


def trained(tmp_path_factory, table, *options):
    folder = tmp_path_factory.mktemp("run")
    write(folder / f"{table}.csv", "size", "weight", {"houses": "price", "kinds": "kind"}[table])
    result = jaxbackprop("train", folder / f"{table}.csv", "--out", folder / "run", *QUICK, *options)
    assert result.status == 0, result.err
    assert result.err == ""
    return folder / "run", result.out


def refused(result, message):
    """One line on stderr, with the command's name and the reason; status 2; on stdout the greeting at most."""
    assert re.search(message, result.err), result.err
    assert re.fullmatch(r"jaxbackprop( train| predict)?: [^\n]+\n", result.err), result.err
    assert re.fullmatch(r"(jaxbackprop [^\n]+ processors\n)?", result.out), result.out
    assert result.status == 2


def without_seconds(run):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows_of(run)]


def same_end(run, other):
    given, expected = arrays(run), arrays(other)
    return without_seconds(run) == without_seconds(other) and all(
        np.array_equal(given[name], expected[name]) for name in expected
    )


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
