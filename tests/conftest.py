"""Every test runs with the annotated shapes checked (jaxtyping with beartype), and Hypothesis without a random seed."""

import collections
import gc
import itertools
import json
import math
import os
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

# every module that handles arrays; `grading` handles text, in hundreds of thousands of small calls
HERE = Path(__file__).parent
PACKAGE = HERE.parent / "jaxbackprop"
FILES = [path for wing in ("", "scaling/", "tracing/") for path in PACKAGE.glob(f"{wing}[a-z]*.py")]
ARRAYS = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES]
install_import_hook([a for a in ARRAYS if a != "jaxbackprop.conftest"], "beartype.beartype").__enter__()
# what a change breaks first, in a minute: `-m "not slow"`; all else compiles more, or runs programs of its own
QUICK = (
    *("activations", "any_loss_door", "bad_input", "exercise", "factors", "gradient", "grade", "layout"),
    *("losses", "network", "reference", "notebook", "strides", "trace"),
)
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
# LLVM at its lowest level, the rest of the compiler as for users: the programs are small, compiled once and run once, and the
# tests take two thirds of the time. `XLA_FLAGS= pytest` runs them as compiled for users.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.pop("COLUMNS", None)  # xdist says 80: what is printed is as in a pipe
os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp(prefix="matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache")  # the command line keeps compiled programs there
sys.path.append(str(PACKAGE.parent / "experiments"))  # its scripts import one another by name


# Linux allows a process 65,530 pieces of memory. Each compiled program has some, and the compiler crashes without
MOST_PIECES, MEMORY, EVERY = 20_000, Path("/proc/self/maps"), 10
_ended = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Let go of compiled programs before they are too many."""
    if next(_ended) % EVERY == 0 and MEMORY.exists() and MEMORY.read_bytes().count(b"\n") > MOST_PIECES:
        jax.clear_caches()
        gc.collect()


# ---- which tests a plain `pytest` runs: all that are cheap, and of the others as many cases as take SHARE seconds

SHARE = 1.5  # for each test function that takes longer; the rest has the mark `thorough`
DURATIONS = HERE / "durations.json"  # seconds of each function that takes over a second, written by --write-durations


def pytest_addoption(parser):
    parser.addoption(
        "--write-durations", action="store_true", help='with -m "": what each test takes, into tests/durations.json'
    )


def pytest_collection_modifyitems(items):
    seconds = json.loads(DURATIONS.read_text())
    for name, cases in itertools.groupby(items, lambda item: function_of(item.nodeid)):
        every = max(1, math.ceil(seconds.get(name, 0) / SHARE))
        for i, item in enumerate(cases, 1):
            if i % every:
                item.add_marker("thorough")
            quick = item.path.parent != HERE or item.path.stem.removeprefix("test_") in QUICK
            if not quick or name in seconds or item.get_closest_marker("thorough"):
                item.add_marker("slow")


def function_of(test: str) -> str:
    """A test's name without its parameters: tests/test_zoo.py::test_each_case."""
    return test.partition("[")[0]


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("--write-durations"):
        seconds = collections.Counter()
        for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
            if isinstance(report, pytest.TestReport):
                seconds[function_of(report.nodeid)] += report.duration
        long = {name: round(taken, 1) for name, taken in sorted(seconds.items()) if taken > 1}
        DURATIONS.write_text(json.dumps(long, indent=0) + "\n")


# ---- for the commands: each imports what it needs, so that other tests do not


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """A short run is nearly all compilation: of the same programs, most times, so that they are kept on disk."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

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


@pytest.fixture
def _tables(tmp_path, monkeypatch):
    from commands import examples, write

    monkeypatch.chdir(tmp_path)
    write("houses.csv", "size", "weight", "price")
    write("kinds.csv", "size", "weight", "kind")
    write("new.csv", "weight", "size", table=examples(7, seed=1))  # another order, and no target


@pytest.fixture(scope="module")
def houses(compiled_once, tmp_path_factory):
    """A regression's finished run (read only), and what was printed."""
    from commands import trained

    return trained(tmp_path_factory, "houses", "--json")


@pytest.fixture(scope="module")
def kinds(compiled_once, tmp_path_factory):
    """A classification's finished run (read only), and what was printed."""
    from commands import trained

    return trained(tmp_path_factory, "kinds")


@pytest.fixture(scope="module")
def table_run(compiled_once, tmp_path_factory):
    """A run on labels, ids, gaps and prices (read only), and what was printed."""
    from commands import QUICK, jaxbackprop, mixed, write

    folder = tmp_path_factory.mktemp("table")
    write(folder / "mixed.csv", *mixed(), table=mixed())
    result = jaxbackprop("train", folder / "mixed.csv", "--out", folder / "run", *QUICK, "--na", "-", "--epochs", 30)
    assert (result.status, result.err) == (0, "")
    return folder / "run", result.out
