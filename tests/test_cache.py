"""What the command line keeps between runs: compiled programs, in a folder that the user chooses, and never too many."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from jaxbackprop.command import cache

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The user's cache folder; JAX's own settings as a process of its own would find them, and put back after."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_second_process_compiles_nothing(tmp_path):
    """JAX's log says of each program whether it was found."""
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "JAX_LOG_COMPILES": "1"}
    command = [sys.executable, "-m", "jaxbackprop", "trace"]
    printed, needed, found, kept = [], [], [], []
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
        assert result.returncode == 0, result.stderr
        printed.append(result.stdout)
        needed.append(result.stderr.count("Finished XLA compilation"))
        found.append(result.stderr.count("Persistent compilation cache hit"))
        kept.append(len(list((tmp_path / "jaxbackprop").glob("*-cache"))))
    assert printed[0] == printed[1]
    assert needed[0] > 0
    assert (found, kept) == ([0, needed[0]], [needed[0]] * 2)
    for path in (tmp_path / "jaxbackprop").iterdir():
        path.write_bytes(path.read_bytes()[:100])  # a run that was killed while it wrote
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env | {"JAX_LOG_COMPILES": "0"})
    assert (result.returncode, result.stdout, result.stderr) == (0, printed[0], "")


def test_even_small_programs_are_kept_in_a_folder_of_the_users_own(home):
    cache.keep_compiled_programs()
    folder = home / "jaxbackprop"
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == 0
    assert jax.config.values["jax_persistent_cache_min_entry_size_bytes"] == -1
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"), [("jax_compilation_cache_dir", "elsewhere"), ("jax_enable_compilation_cache", False)]
)
def test_what_the_user_has_set_stays(home, name, value):
    jax.config.update(name, value)
    before = {name: jax.config.values[name] for name in SETTINGS}
    cache.keep_compiled_programs()
    assert {name: jax.config.values[name] for name in SETTINGS} == before
    assert list(home.iterdir()) == []


def test_a_threshold_from_the_environment_stays(home, monkeypatch):
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "7")
    before = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    cache.keep_compiled_programs()
    assert jax.config.values["jax_persistent_cache_min_compile_time_secs"] == before
    assert jax.config.values["jax_compilation_cache_dir"] == str(home / "jaxbackprop")


def test_a_folder_that_cannot_be_written_is_no_matter(home, monkeypatch, capfd):
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    cache.keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert capfd.readouterr() == ("", "")


def test_without_the_variable_or_with_a_relative_one_it_is_dot_cache(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache._folder() == Path("/home/someone/.cache/jaxbackprop")


def test_beyond_the_limit_what_was_not_used_for_longest_goes(tmp_path):
    for age, name in enumerate("abcdef"):
        path = tmp_path / f"{name}-cache"
        path.write_bytes(b"x" * 100)
        os.utime(path, (1e9 - age, 1e9 - age))  # f is the oldest
    os.utime(tmp_path / "f-cache", (2e9, 1e9 - 9))  # but was read last
    cache._shrink(tmp_path, 600)
    assert len(list(tmp_path.iterdir())) == 6
    cache._shrink(tmp_path, 599)  # down to 299
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-cache", "f-cache"]
