"""Every test runs with the annotated shapes checked (jaxtyping with beartype), and Hypothesis without a random seed."""

import os
import tempfile

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("jaxbackprop", "beartype.beartype").__enter__()
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("MPLCONFIGDIR", tempfile.mkdtemp(prefix="matplotlib"))
