"""Compiled programs kept on disk between runs of the command line: most of a short run's time is compilation.

JAX's persistent compilation cache, in the user's cache folder. The library leaves it alone: importing changes nothing.
"""

import os
import tempfile
import warnings
from pathlib import Path

import jax

LIMIT = 256 * 2**20  # bytes; `jaxbackprop train` with its defaults leaves 0.5 MB


def keep_compiled_programs() -> None:
    """Turn the cache on, unless the user has chosen a folder for it or turned it off; without a word if it can't be kept."""
    chosen = jax.config.values
    if chosen["jax_compilation_cache_dir"] is not None or not chosen["jax_enable_compilation_cache"]:
        return
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # programs found here are run: nobody else's
        tempfile.TemporaryFile(dir=folder).close()
        _shrink(folder, LIMIT)
    except (OSError, RuntimeError):  # read-only, full, or no home
        return
    # an entry that can't be read or written is compiled: slower, nothing to tell
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation cache")
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "jaxbackprop"


def _shrink(folder: Path, limit: int) -> None:
    """Delete the programs that were not used for longest, until the rest fits into half the limit, if they exceed it.

    `jax_compilation_cache_max_size` would need another package, and looks at every file for each program that it writes.
    """
    files = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    size = sum(stat.st_size for _, stat in files)
    goal = limit if size <= limit else limit // 2
    for path, stat in sorted(files, key=lambda file: max(file[1].st_atime, file[1].st_mtime)):
        if size <= goal:
            return
        path.unlink(missing_ok=True)
        size -= stat.st_size
