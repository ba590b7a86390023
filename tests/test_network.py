import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp
from jaxbackprop import Layer, Network, exercise
from jaxbackprop.arithmetic import contract

A = Layer("a", 3, ("x",), "relu")


@pytest.mark.parametrize(
    ("inputs", "layers", "message"),
    [
        (2, (), "needs at least one layer"),
        (0, (A,), "the input has width 0: expected at least 1"),
        (2, (Layer("a", 0, ("x",)),), "layer 'a' has width 0"),
        (2, (A, Layer("y", 1, ("b",))), "layer 'y': unknown source 'b'.*Known: x, a"),
        (2, (A, Layer("a", 1, ("x",))), "layer 'a': the name is used twice"),
        (2, (Layer("x", 1, ("x",)),), "layer 'x': the name is used twice"),
        (2, (Layer("bias", 1, ("x",)),), "layer 'bias': a name"),
        (2, (Layer("y", 1, ("a",)), A), "layer 'y': reads 'a', which is not computed before it"),
        (2, (Layer("y", 1, ("y",)),), "layer 'y': reads 'y', which is not computed before it"),
        (2, (Layer("y", 1, ()),), r"layer 'y': sources is \(\)"),
        (2, (Layer("y", 1, ("x", "x")),), "layer 'y': reads a source twice"),
        (2, (Layer("y", 1, ("x",), "rleu"),), "layer 'y': unknown activation 'rleu': did you mean 'relu'"),
    ],
)
def test_a_wiring_that_cannot_work_is_refused_by_name(inputs, layers, message):
    with pytest.raises(ValueError, match=message):
        Network(inputs, layers)


def test_sources_given_as_a_string_are_refused():
    layer = Layer("y", 1, ("x",))
    object.__setattr__(layer, "sources", "x")  # past the tests' own type check, as a user without one would be
    with pytest.raises(ValueError, match="sources is 'x': expected a tuple of names"):
        Network(2, (layer,))


def test_builders_draw_their_wirings():
    def edges(net):
        return {(s, t.name) for t in net.layers for s in t.sources}

    chain = {("x", "h0"), ("h0", "h1"), ("h1", "yhat")}
    assert edges(jbp.mlp((8, 7, 6, 5))) == chain
    assert edges(jbp.skip_mlp((8, 7, 6, 5))) == chain | {("h0", "yhat")}
    assert edges(jbp.dense_mlp((8, 7, 6, 5))) == chain | {("h0", "yhat"), ("x", "h1"), ("x", "yhat")}
    for build in (jbp.mlp, jbp.skip_mlp, jbp.dense_mlp):
        assert edges(build((8, 5))) == {("x", "yhat")}
        assert [t.width for t in build((8, 7, 6, 5)).layers] == [7, 6, 5]
        assert build((8, 7, 5), activation="tanh", bias=True).layers[0] == Layer("h0", 7, ("x",), "tanh", True)
        assert build((8, 7, 5), activation="tanh").layers[-1].activation == "identity"
    with pytest.raises(ValueError, match=r"widths is \(8,\)"):
        jbp.mlp((8,))


def test_skip_mlp_of_width_one_is_the_exercise():
    net = jbp.skip_mlp((1, 1, 1, 1))
    w = exercise.Weights(0.8, 1.3, -0.7, 0.45)
    params = {
        "h0": {"x": jnp.full((1, 1), w.w0)},
        "h1": {"h0": jnp.full((1, 1), w.w1)},
        "yhat": {"h1": jnp.full((1, 1), w.w2), "h0": jnp.full((1, 1), w.w3)},
    }
    for x in (1.5, -1.5):
        assert float(jbp.predict(net, params, jnp.array([x]))[0]) == pytest.approx(
            float(exercise.forward(w, x).z2), rel=1e-6
        )


def test_networks_are_hashable_and_equal_by_value():
    assert {jbp.mlp((2, 3, 1)): 1}[jbp.mlp((2, 3, 1))] == 1
    assert jbp.mlp((2, 3, 1)) != jbp.mlp((2, 4, 1))


def test_init_is_scaled_by_the_whole_fan_in():
    net = jbp.dense_mlp((300, 400, 500), bias=True)
    params = jbp.init(net, jax.random.key(0))
    assert float(jnp.std(params["h0"]["x"])) == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert float(jnp.std(params["yhat"]["h0"])) == pytest.approx((1 / 700) ** 0.5, rel=0.02)
    assert not np.array_equal(params["yhat"]["h0"][:, :300], params["yhat"]["x"])
    assert float(jnp.max(jnp.abs(params["h0"]["bias"]))) == 0.0
    assert jbp.network.count_parameters(net) == sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_follows_the_inputs(dtype):
    net = jbp.skip_mlp((3, 4, 2), bias=True)
    params = jbp.init(net, jax.random.key(0), dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert jbp.predict(net, params, jnp.ones((5, 3), dtype)).dtype == dtype


def test_predict_of_a_batch_is_predict_of_each():
    net = jbp.dense_mlp((3, 4, 5, 2), "tanh", bias=True)
    params = jbp.init(net, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 3))
    np.testing.assert_allclose(
        jbp.predict(net, params, x), [jbp.predict(net, params, row) for row in x], rtol=1e-5, atol=1e-6
    )


def test_precision_reaches_the_products():
    net = jbp.mlp((3, 4, 2))
    params = jbp.init(net, jax.random.key(0))
    text = str(jax.make_jaxpr(lambda x: jbp.predict(net, params, x, precision="highest"))(jnp.ones((5, 3))))
    assert text.count("HIGHEST") >= 2


def test_what_does_not_fit_is_named():
    net = jbp.mlp((3, 4, 2), bias=True)
    params = jbp.init(net, jax.random.key(0))
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\), expected \(3,\) or \(b, 3\)"):
        jbp.predict(net, params, jnp.ones((5, 4)))
    with pytest.raises(ValueError, match=r"params has \['h0'\], expected a dict with \['h0', 'yhat'\]"):
        jbp.predict(net, {"h0": params["h0"]}, jnp.ones(3))
    with pytest.raises(ValueError, match=r"params\['h0'\]\['x'\] has shape \(4, 9\), expected \(4, 3\)"):
        jbp.predict(net, params | {"h0": params["h0"] | {"x": jnp.ones((4, 9))}}, jnp.ones(3))
    with pytest.raises(ValueError, match="expected floating point"):
        jbp.predict(net, params | {"h0": params["h0"] | {"x": jnp.ones((4, 3), int)}}, jnp.ones(3))


@pytest.mark.parametrize("indices", ["ts,s->t", "ts,t->s", "s,ts->t", "bt,bs->ts", "bt,bs->bts", "bt->t", "bs,cs->bc"])
@pytest.mark.parametrize("ones", ["", "s", "t", "b", "st", "bs"])
def test_contract_is_einsum_where_sizes_are_one_too(indices, ones):
    sizes = {i: 1 if i in ones else n for i, n in {"b": 5, "c": 4, "t": 3, "s": 2}.items()}
    rng = np.random.default_rng(0)
    operands = [
        rng.normal(size=[sizes[i] for i in term]).astype("float32") for term in indices[: indices.index("-")].split(",")
    ]
    expected = np.einsum(indices, *(a.astype("float64") for a in operands))
    given = np.asarray(contract(indices, *map(jnp.asarray, operands)))
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, rtol=1e-6, atol=1e-6)


def test_a_product_without_a_sum_is_a_multiplication():
    lowered = jax.jit(lambda dz, h: contract("bt,bs->ts", dz, h)).lower(jnp.ones((1, 3)), jnp.ones((1, 2)))
    assert "dot" not in lowered.as_text()
