"""Every test runs with the annotated shapes checked (jaxtyping with beartype), and Hypothesis without a random seed."""

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

# every module that handles arrays; `grading` handles text, in hundreds of thousands of small calls
SOURCES = Path(__file__).parents[1].joinpath("jaxbackprop").glob("[a-z_]*.py")
ARRAYS = [f"jaxbackprop.{path.stem}" for path in SOURCES if path.stem != "__init__"] + ["jaxbackprop.tracing"]
install_import_hook(ARRAYS, "beartype.beartype").__enter__()
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
# LLVM at its lowest level, the rest of the compiler as for users: the programs are small, compiled once and run once, and the
# tests take two thirds of the time. `XLA_FLAGS= pytest` runs them as compiled for users.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp(prefix="matplotlib"))
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="cache")  # the command line keeps compiled programs there
