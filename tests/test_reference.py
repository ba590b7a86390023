"""What a reader asks for: the command by the name of the package."""

import subprocess
import sys

import jaxbackprop as jbp


def test_the_package_is_the_command():
    run = [sys.executable, "-m", "jaxbackprop"]
    done = subprocess.run([*run, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, [jbp.__version__]), done.stderr
    wrong = subprocess.run([*run, "trian"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
    assert "did you mean 'train'" in wrong.stderr
