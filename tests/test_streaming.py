import jax
import jax.numpy as jnp
import oracle
import pytest
from test_backprop import draw

import jaxbackprop as jbp

NETWORK = jbp.skip_mlp((3, 5, 4, 2), bias=True)
# one for each way of going through a batch: lanes, the batch as the minor axis, as the major axis
NETWORKS = {
    "in lanes": jbp.skip_mlp((2, 2, 1), bias=True),
    "narrow": jbp.skip_mlp((3, 3, 3, 3, 2), bias=True),
    "wide": NETWORK,
}


def clipped(fg):
    return {
        "sum": jbp.total(jbp.clip(fg, 0.3)),
        "squares": jnp.sum(jbp.norms(fg) ** 2),
        "lost": jbp.readouts.count_not_finite(fg),
    }


@pytest.mark.parametrize("tile", [1, 3, 5, 10, 1000])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_tiles_add_up_to_the_whole(network, tile, weighted):
    with jax.enable_x64(True):
        params, x, y = draw(network, "huber", 10, "float64")
        weight = jnp.array([1.0, 0, 1, 1, 1, 0, 1, 1, 1, 1]) if weighted else None
        kept = jnp.ones(10, bool) if weight is None else weight > 0
        value, given = jbp.stream(network, "huber", clipped, tile)(params, x, y, weight)
        values, fg = jbp.per_example(network, "huber")(params, x[kept], y[kept])
        oracle.assert_close((value, given), (values.sum(), clipped(fg)))


def test_the_default_readout_is_the_gradient_of_the_sum():
    params, x, y = draw(NETWORK, "huber", 10, "float32")
    given = jbp.stream(NETWORK, "huber", tile=4)(params, x, y)
    oracle.assert_close(given, jbp.value_and_grad(NETWORK, "huber", "sum")(params, x, y))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_moments_of_more_examples_than_a_tile(network):
    with jax.enable_x64(True):
        params, x, y = draw(network, "huber", 10, "float64")
        _, sums = jbp.stream(network, "huber", jbp.variance.power_sums, tile=4)(params, x, y)
        single = jbp.materialise(jbp.per_example(network, "huber")(params, x, y)[1])
        mean, variance = (jax.tree.map(lambda d, f=f: f(d, axis=0), single) for f in (jnp.mean, jnp.var))
        oracle.assert_close(jbp.variance.moments_from(sums, 10), jbp.variance.Moments(mean, variance))


def test_half_precision_tiles_are_added_in_float32():
    network = jbp.mlp((1, 1))
    x = jnp.ones((4096, 1), "bfloat16")
    value, grads = jbp.stream(network, "half_squared_error", tile=8)({"yhat": {"x": x[:1]}}, x, 0 * x)
    assert float(grads["yhat"]["x"][0, 0]) == 4096.0
    assert float(value) == 2048.0
    assert value.dtype == grads["yhat"]["x"].dtype == "bfloat16"


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_an_example_that_is_not_finite_is_counted_once(network):
    params, x, y = draw(network, "huber", 10, "float32")
    for tile in (4, 7, 10):
        _, given = jbp.stream(network, "huber", clipped, tile)(params, x.at[8].set(jnp.nan), y)
        assert int(given["lost"]) == 1
        assert bool(jnp.isfinite(given["sum"]["h0"]["x"]).all())


def test_memory_is_that_of_a_tile_however_large_the_batch():
    network = jbp.skip_mlp((16, 64, 64, 4))
    sizes = []
    for batch in (4096, 65536):
        params, x, y = draw(network, "huber", batch, "float32")
        program = jax.jit(jbp.stream(network, "huber", tile=512)).lower(params, x, y).compile()
        sizes.append(program.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 1.1 * sizes[0]
    assert sizes[1] < 4 * 512 * (16 + 64 + 64 + 4) * 8


@pytest.mark.parametrize("tile", [0, -1, True])
def test_a_tile_that_is_not_a_positive_integer_is_refused(tile):
    with pytest.raises(ValueError, match="tile is"):
        jbp.stream(NETWORK, "huber", tile=tile)
