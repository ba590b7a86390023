"""A script of the tests in a process of its own with four virtual devices; what it prints is JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def on_four_devices(script):
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, TESTS / script]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False, cwd=TESTS.parent)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
