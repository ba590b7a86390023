"""Arrays that are ready: the bundled sets and .npz files; and which files there are to read at all."""

from __future__ import annotations

import csv
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxbackprop.data.encoding import Bounds
from jaxbackprop.data.saying import is_number, listed, naming, nearest, shown
from jaxbackprop.data.sheets import suffix_of
from jaxbackprop.data.values import Values, arrow, meaning, rounded
from jaxbackprop.spelling import extra

BUNDLED = {"digits": "digit", "breast_cancer": "diagnosis", "diabetes": "progression", "wine": "cultivar"}
KINDS = ".csv, .tsv, .txt, .npz or .parquet"


def bundled(name: str, target: str | None) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the features, x (n, d) and y (n,) of a set that scikit-learn has, y as text where its classes have names."""
    if target not in (None, BUNDLED[name]):
        raise ValueError(f"its target is {BUNDLED[name]!r}, not {shown(target)}; leave the target out")
    sets = extra("sklearn.datasets", "scikit-learn", f"the data set {name!r}")
    bunch = getattr(sets, f"load_{name}")()
    named = name in ("breast_cancer", "wine")
    y = np.asarray(bunch.target_names).astype(object)[bunch.target] if named else bunch.target
    return tuple(map(str, bunch.feature_names)), bunch.data, y


def file_at(source: Any) -> Path:
    """The path of a file of a known kind that can be opened."""
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is {shown(source)}, expected the name of a data set or the path of a file")
    path, where = Path(source), shown(os.fspath(source))
    if source == path.name and not path.suffix and not os.path.exists(source):
        known = f"{', '.join(BUNDLED)}, or the path of a {KINDS} file"
        raise ValueError(f"unknown data set {where}{nearest(path.name, BUNDLED)} (expected {known})")
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for ever
        raise ValueError(f"{where} is not a file; expected the path of a {KINDS} file")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        within = "" if path.is_absolute() else f" in {shown(os.getcwd())}"
        raise FileNotFoundError(f"no file {where}{within}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: NUL, or a surrogate, in the path
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{where} can't be opened ({why}); check the path and its permissions") from error
    if suffix_of(path) not in KINDS.replace(",", "").split():
        raise ValueError(f"{where} ends in {path.suffix!r}, expected {KINDS}")
    return path


def npz_pair(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """x (n, d) float64 and y (n,) of a .npz file, text as objects."""
    x, y = _npz_arrays(path, ("x", "X"), ("y", "Y") if name == "y" else (name,))
    x = _matrix(x)
    if y.shape not in ((len(x),), (len(x), 1)) or y.dtype.kind not in "biufU":
        several = y.ndim == 2 and len(y) == len(x)
        hint = "; several targets are for fit, in Python, not for the command" if several else ""
        raise ValueError(
            f"array {shown(name)} has shape {y.shape} and dtype {y.dtype}, expected ({len(x)},), one value a row, "
            f"of numbers, true/false or text{hint}"
        )
    return x, _unicode(y.ravel(), name) if y.dtype.kind == "U" else y.ravel()


def array_rows(path: Path, names: tuple[str, ...]) -> np.ndarray:
    """x (n, d) float64 of a .npz file, or of a folder with x.npy, which has to have these features in this order."""
    x = np.load(path / "x.npy", mmap_mode="r") if path.is_dir() else _npz_arrays(path, ("x", "X"))[0]
    if x.ndim == 2 and x.shape[1] != len(names):
        raise ValueError(f"x has {x.shape[1]} columns, expected the {len(names)} features {listed(names)}")
    return _matrix(x)


def values_of(name: str, y: np.ndarray, task: str | None) -> Values:
    """What the values of an array mean, as those of a table's column; text is numbers where these are asked for."""
    if y.dtype.kind == "O" and task == "regression":
        return meaning(name, arrow("text as numbers")[0].array(y), "number")
    kind = {"b": "boolean", "O": "category"}.get(y.dtype.kind, "number")
    return Values(kind, y) if kind == "category" else rounded(Values(kind, y.astype(np.float64)))


def _npz_arrays(path: Path, *wanted: tuple[str, ...]) -> list[np.ndarray]:
    """An array for each tuple of the names that it may have."""
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, and advise to trust it
        raise ValueError("not an NPZ archive, or a damaged one; write it with numpy.savez(path, x=x, y=y)")
    arrays = []
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        for names in wanted:
            name = next((name for name in names if name in archive.files), None)
            if name is None:
                raise ValueError(f"no array {shown(names[0])} (arrays: {listed(archive.files)})")
            try:
                arrays.append(np.asarray(archive[name]))
            except Exception as error:  # NumPy parses the header as Python: damaged, it raises TokenError and more
                why = str(error) or type(error).__name__  # a MemoryError may say nothing
                raise ValueError(f"array {shown(name)} isn't plain numbers or text: {why}") from error
    return arrays


def _unicode(values: np.ndarray, name: str) -> np.ndarray:
    """NumPy's text (n,) as objects: it takes any 32 bits for a character, and Python then breaks on them."""
    codes = np.frombuffer(values.astype(values.dtype.newbyteorder("=")).tobytes(), np.uint32)
    if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes <= 0xDFFF))).any():
        raise ValueError(f"array {shown(name)} holds text that is not Unicode; write the file anew")
    return np.strings.strip(values).astype(object)


def _matrix(x: np.ndarray) -> np.ndarray:
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "biuf":
        images = x.ndim > 2 and len(x)
        hint = f" such as ({len(x)}, {x[0].size}): x.reshape(len(x), -1) flattens images" if images else ""
        found = f"array 'x' has shape {x.shape} and dtype {x.dtype}"
        raise ValueError(f"{found}, expected (rows, features) of numbers{hint}")
    with np.errstate(over="ignore"):  # a longdouble may become inf, which is refused by its column
        return x.astype(np.float64)


def read_bounds(path: str | os.PathLike[str]) -> Bounds:
    """Read a CSV of column, least, most: what is known of each column without looking at the rows.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "bounds.csv"
    ...     _ = path.write_text("age,0,120")
    ...     read_bounds(path)
    {'age': (0.0, 120.0)}
    """
    with naming(path):
        try:
            rows = list(csv.reader(Path(path).read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True))
        except (UnicodeDecodeError, csv.Error):
            raise ValueError("is no CSV of column,least,most in UTF-8") from None
        if rows and [cell.strip().lower() for cell in rows[0][1:]] == ["least", "most"]:  # a header, if one likes
            rows = rows[1:]
        bounds: dict[str, tuple[float, float]] = {}
        for i, row in enumerate(filter(None, rows), 1):
            if len(row) != 3 or not all(map(is_number, row[1:])):
                raise ValueError(f"row {i} is {shown(','.join(row))}: expected column,least,most, such as age,0,120")
            if row[0].strip() in bounds:
                raise ValueError(f"row {i} bounds {shown(row[0])} again: give each column once")
            bounds[row[0].strip()] = float(row[1]), float(row[2])
        if not bounds:
            raise ValueError("holds no bounds: expected lines of column,least,most, such as age,0,120")
        return bounds
