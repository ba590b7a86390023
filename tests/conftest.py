"""Every test runs with the annotated shapes checked (jaxtyping with beartype), and Hypothesis without a random seed."""

import os
import sys
import tempfile
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

# every module that handles arrays; `grading` handles text, in hundreds of thousands of small calls
HERE = Path(__file__).parent
PACKAGE = HERE.parent / "jaxbackprop"
FILES = [path for wing in ("", "scaling/", "tracing/") for path in PACKAGE.glob(f"{wing}[a-z]*.py")]
ARRAYS = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES]
install_import_hook([a for a in ARRAYS if a != "jaxbackprop.conftest"], "beartype.beartype").__enter__()
# what a change breaks first, in about a minute: `-m "not slow"`; all else compiles more, or runs programs of its own
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
os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp(prefix="matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache")  # the command line keeps compiled programs there
sys.path.append(str(PACKAGE.parent / "experiments"))  # its scripts import one another by name


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent == HERE and item.path.stem.removeprefix("test_") not in QUICK:
            item.add_marker("slow")
