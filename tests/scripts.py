"""A quick run of an experiment."""

import subprocess
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def quick_run(script, folder):
    """What it prints; it must write to the folder alone, and say nothing on stderr."""
    results = sorted((EXPERIMENTS / "results").iterdir())
    command = [sys.executable, "-W", "error", str(EXPERIMENTS / script), "--quick", "--out", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # progress is for terminals
    assert sorted((EXPERIMENTS / "results").iterdir()) == results
    return done.stdout
