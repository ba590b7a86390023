"""`factored` under jit with the batch over four virtual devices, and with a parameter over them: the same clipped sum."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def found():
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, TESTS / "four_devices_any_loss.py"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, check=False, cwd=TESTS.parent)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_one_device_gives_the_clipped_sum_of_vmap(found):
    assert found["devices"] == 4
    assert found["alone"] <= 1e-5


@pytest.mark.parametrize("mesh", ["4x1", "2x2", "1x4"])
def test_over_devices_all_is_that_of_one(found, mesh):
    row = found["meshes"][mesh]
    for name in ("values", "norms", "gram", "clipped"):
        assert row[name] <= 1e-5, name
    assert row["clipped_some"] > 0
    assert row["laid_out"]
