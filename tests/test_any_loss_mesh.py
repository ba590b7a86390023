"""`factored` under jit with the batch over four virtual devices, and with a parameter over them: the same clipped sum."""

from pathlib import Path

import pytest
from devices import on_four_devices

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def found():
    return on_four_devices("four_devices_any_loss.py")


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
