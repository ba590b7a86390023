import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from oracle import assert_close

import jaxbackprop as jbp
from jaxbackprop import network
from jaxbackprop.losses import Figure, as_loss
from jaxbackprop.model import Model
from jaxbackprop.training import epochs as in_epochs
from jaxbackprop.training import steps as of_steps
from jaxbackprop.training.methods import GRADIENTS, permutation, shuffled_batches

NETWORK = jbp.skip_mlp((3, 8, 6, 4), "tanh", bias=True)
X_OF_ONE = np.ones((4, 1), "float32")
ADAM = optax.adam(0.01)  # one object: what is compiled for it serves every test


def data(examples=50):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(examples, 3)), jnp.float32)
    return x, jnp.asarray((np.asarray(x) @ rng.normal(size=(3, 4))).argmax(1))


def fit(gradient="hand", **settings):
    settings = {"epochs": 3, "batch_size": 16, "key": jax.random.key(1)} | settings
    return jbp.fit(NETWORK, "softmax_cross_entropy", ADAM, data(), gradient=gradient, **settings)


def test_by_hand_and_jax_grad_give_the_same_trajectory_over_100_steps():
    with jax.enable_x64(True):
        x, y = data()
        runs = [
            jbp.fit(
                NETWORK, "softmax_cross_entropy", ADAM, (x.astype("float64"), y),
                epochs=25, batch_size=16, key=jax.random.key(1), gradient=gradient,
            )
            for gradient in ("hand", "jax.grad")
        ]  # fmt: skip
    (hand, hand_history), (auto, auto_history) = runs
    assert int(hand.step) == int(auto.step) == 100
    assert_close(hand.params, auto.params, 1e-9)
    np.testing.assert_allclose([row["loss"] for row in hand_history], [row["loss"] for row in auto_history], rtol=1e-9)
    assert hand_history[-1]["loss"] < hand_history[0]["loss"] / 2


def test_an_epoch_is_the_steps_one_by_one():
    """Against the plain loop that everyone would write, with a padded last batch."""
    x, y = data(21)
    optimizer = optax.sgd(0.1, momentum=0.9)
    state, history = jbp.fit(
        NETWORK, "softmax_cross_entropy", optimizer, (x, y), epochs=1, batch_size=8, key=jax.random.key(1)
    )
    problem = of_steps.Problem(Model(NETWORK, as_loss("softmax_cross_entropy")), optimizer, 8, GRADIENTS["hand"])
    start = of_steps.start(problem, jax.random.key(1))
    order = np.asarray(jax.random.permutation(jax.random.split(start.key, 3)[1], 21))
    params, opt_state, losses = start.params, optimizer.init(start.params), []
    for rows in (order[:8], order[8:16], order[16:]):
        value, grads = jax.value_and_grad(jbp.plain_loss(NETWORK, "softmax_cross_entropy"))(params, x[rows], y[rows])
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses += [float(value)] * len(rows)
    assert_close(state.params, params)
    assert history[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert int(state.step) == 3


def test_every_example_is_used_once_an_epoch():
    for examples, batch in ((21, 8), (16, 8), (5, 5), (7, 1)):
        rows, weight = shuffled_batches(jax.random.key(3), examples, batch)
        assert sorted(rows[weight > 0].tolist()) == list(range(examples))
        assert float(weight.sum()) == examples


@pytest.mark.parametrize("examples", [1, 2, 7, 1625, 1626, 300_000])  # none, one or two rounds; at the last ten ties
def test_the_shuffle_is_the_one_of_jax(examples):
    for seed in range(2):
        key = jax.random.key(seed)
        given, expected = permutation(key, examples), jax.random.permutation(key, examples)
        assert given.dtype == expected.dtype
        np.testing.assert_array_equal(given, expected)


def test_one_program_draws_the_parameters_whoever_asks():
    drawn = jbp.init(NETWORK, jax.random.split(jax.random.key(1))[1])
    compiled = network._init._cache_size()
    jbp.init(NETWORK, jax.random.key(0), "float32")
    fit(epochs=1)
    assert network._init._cache_size() == compiled
    for given, expected in zip(
        jax.tree.leaves(of_steps.drawn(NETWORK, jax.random.key(1))), jax.tree.leaves(drawn), strict=True
    ):
        np.testing.assert_array_equal(given, expected)


ASKING = {
    "lbfgs": optax.lbfgs(),
    "reduce_on_plateau": optax.chain(optax.sgd(0.5), optax.contrib.reduce_on_plateau(patience=1, factor=0.5)),
    "polyak_sgd": optax.polyak_sgd(0.5),
}


@pytest.mark.parametrize("name", ASKING)
def test_what_an_optimizer_asks_for_is_given(name):
    """As the loop that its documentation shows: the loss of the batch, its gradient, and the loss as a function."""
    optimizer, (x, y) = ASKING[name], data()
    with jax.enable_x64(True):
        x = x.astype("float64")
        state, _ = jbp.fit(
            NETWORK, "softmax_cross_entropy", optimizer, (x, y), epochs=6, batch_size=50, key=jax.random.key(1)
        )
        params = of_steps.drawn(NETWORK, jax.random.key(1), "float64")
        opt_state = optimizer.init(params)

        def value_fn(params):
            logits = jbp.predict(NETWORK, params, x)
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

        for _ in range(6):
            value, grads = jax.value_and_grad(value_fn)(params)
            updates, opt_state = optimizer.update(grads, opt_state, params, value=value, grad=grads, value_fn=value_fn)
            params = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), state.params, params)


def test_sharpness_aware_minimisation_trains():
    """By itself SAM takes no name but grad_fn, which its opaque way asks for: two steps of the one are a step of the other."""
    ascent, (x, y) = optax.chain(optax.contrib.normalize(), optax.sgd(0.1)), data()
    settings = {"batch_size": len(x), "key": jax.random.key(1)}
    seen, opaque = (
        jbp.fit(
            NETWORK, "softmax_cross_entropy", optax.contrib.sam(optax.sgd(0.1), ascent, opaque_mode=opaque), (x, y),
            epochs=epochs, **settings,
        )[0].params
        for opaque, epochs in ((False, 6), (True, 3))
    )  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), seen, opaque)


def test_a_line_search_goes_on_from_a_checkpoint(tmp_path):
    settings = {"batch_size": 16, "key": jax.random.key(1), "checkpoints": jbp.Checkpoints(tmp_path)}
    given = NETWORK, "softmax_cross_entropy", ASKING["lbfgs"], data()
    jbp.fit(*given, epochs=2, **settings)
    state, history = jbp.fit(*given, epochs=4, **settings)
    whole, _ = jbp.fit(*given, epochs=4, **settings | {"checkpoints": None})
    assert len(history) == 4
    jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)


def test_a_private_gradient_does_not_tell_the_loss():
    with pytest.raises(ValueError, match=r"the optimizer asks for the loss .* a private gradient does not protect"):
        jbp.fit(
            NETWORK, "softmax_cross_entropy", ASKING["polyak_sgd"], data(), epochs=1, batch_size=16,
            gradient=jbp.private_gradient(1.0, 1.0),
        )  # fmt: skip


def test_no_epoch_compiles_after_the_first():
    traces = []

    def value(yhat, y):
        traces.append(1)
        return jnp.sum((yhat - y) ** 2) / 2

    loss = (value, lambda yhat, y: yhat - y)
    x = data()[0]
    optimizer, counts = optax.sgd(0.01), []
    for _ in range(2):
        jbp.fit(
            NETWORK, loss, optimizer, (x, jnp.zeros((50, 4))), epochs=5, batch_size=16, key=jax.random.key(0),
            callbacks=[lambda state, row: counts.append(len(traces))],
        )  # fmt: skip
    assert len(set(counts)) == 1, counts  # the second fit of the same problem compiles nothing either


def test_the_callers_parameters_outlive_training():
    params = jbp.init(NETWORK, jax.random.key(5))
    before = jax.tree.map(np.array, params)
    state, _ = fit(params=params)
    assert_close(params, jax.tree.map(jnp.asarray, before))
    assert not np.array_equal(state.params["h0"]["x"], params["h0"]["x"])


def test_the_same_key_gives_the_same_run():
    a, b, c = fit()[0], fit()[0], fit(key=jax.random.key(2))[0]
    assert np.array_equal(a.params["h0"]["x"], b.params["h0"]["x"])
    assert not np.array_equal(a.params["h0"]["x"], c.params["h0"]["x"])


def test_callbacks_see_each_epoch_and_can_stop():
    rows = []
    _, history = fit(epochs=10, validation=data(), callbacks=[lambda state, row: rows.append(row) or row["epoch"] == 4])
    assert rows == history
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert {"loss", "seconds", "validation_loss", "validation_accuracy"} < set(history[0])
    expected = jbp.evaluate(NETWORK, "softmax_cross_entropy", fit(epochs=4)[0].params, data())
    assert history[-1]["validation_accuracy"] == pytest.approx(expected["accuracy"])


def test_the_figures_that_people_quote():
    net = jbp.mlp((2, 2))
    params = {"yhat": {"x": jnp.eye(2)}}
    x = jnp.array([[1.0, 3.0], [2.0, -1.0], [0.5, 0.6], [5.0, 4.0]])
    assert jbp.evaluate(net, "softmax_cross_entropy", params, (x, jnp.array([1, 0, 0, 0])))["accuracy"] == 0.75
    assert (
        jbp.evaluate(net, "softmax_cross_entropy", params, (x, jnp.eye(2)[jnp.array([1, 0, 0, 0])]))["accuracy"] == 0.75
    )
    assert jbp.evaluate(net, "sigmoid_binary_cross_entropy", params, (x, jnp.ones((4, 2))))["accuracy"] == 7 / 8
    assert jbp.evaluate(net, "half_squared_error", params, (x, x + 3))["rmse"] == pytest.approx(3)
    assert "rmse" not in jbp.evaluate(net, (lambda a, b: jnp.sum(a - b), lambda a, b: jnp.ones_like(a)), params, (x, x))


@pytest.mark.parametrize("name", jbp.losses.LOSSES)
def test_a_loss_by_its_name_and_its_entry_give_the_same_figures(name):
    net = jbp.mlp((3, 4), "tanh")
    x, y = data(20)
    params, y = jbp.init(net, jax.random.key(0)), y if name == "softmax_cross_entropy" else jax.nn.one_hot(y, 4)
    by_name, by_entry = (jbp.evaluate(net, loss, params, (x, y)) for loss in (name, jbp.losses.LOSSES[name]))
    assert by_name == by_entry
    assert set(by_name) == {"loss", jbp.losses.LOSSES[name].figure.name}


def test_a_class_that_does_not_exist_is_refused_whichever_way_the_loss_is_given():
    net = jbp.mlp((3, 2))
    for loss in ("softmax_cross_entropy", jbp.losses.LOSSES["softmax_cross_entropy"]):
        with pytest.raises(ValueError, match="y holds classes 0 to 3, the network has 2 outputs"):
            jbp.evaluate(net, loss, jbp.init(net, jax.random.key(0)), data(20))


def quartic(yhat, y):
    return jnp.mean((yhat - y) ** 4)


def test_a_loss_without_a_derivative_trains_and_quotes_its_own_figure():
    worst = Figure("worst", lambda yhat, y: jnp.max(jnp.abs(yhat - y), axis=1))
    x, _ = data(32)
    y = jnp.sin(x)
    net, settings = jbp.mlp((3, 8, 3), jnp.sin), {"epochs": 3, "batch_size": 16, "key": jax.random.key(1)}
    runs = [
        jbp.fit(net, loss, ADAM, (x, y), validation=(x, y), gradient=gradient, **settings)
        for loss in (quartic, jbp.Loss(quartic, figure=worst))
        for gradient in ("hand", "jax.grad")
    ]
    for state, history in runs:
        assert_close(state.params, runs[0][0].params, 1e-5)
        assert history[-1]["loss"] < history[0]["loss"]
    yhat = jbp.predict(net, runs[2][0].params, x)
    assert runs[2][1][-1]["validation_worst"] == pytest.approx(float(jnp.mean(worst.of(yhat, y))), rel=1e-6)
    assert set(runs[0][1][-1]) == {"epoch", "loss", "validation_loss", "seconds"}


def test_a_target_vector_for_one_output_is_not_broadcast():
    net = jbp.mlp((2, 1))
    x = jnp.array([[1.0, 0.0], [3.0, 0.0], [-2.0, 0.0]])
    figures = jbp.evaluate(net, "half_squared_error", {"yhat": {"x": jnp.array([[1.0, 0.0]])}}, (x, x[:, 0]))
    assert figures == {"loss": 0.0, "rmse": 0.0}


def test_many_networks_are_each_what_fit_gives():
    keys, rates = jax.random.split(jax.random.key(0), 2), jnp.array([0.001, 0.1])
    states, losses = jbp.fit_many(
        NETWORK, "softmax_cross_entropy", optax.adam, data(), epochs=3, batch_size=16, keys=keys, learning_rates=rates
    )
    for i in range(2):
        state, history = jbp.fit(
            NETWORK, "softmax_cross_entropy", optax.adam(rates[i]), data(), epochs=3, batch_size=16, key=keys[i]
        )
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], states.params), state.params, 1e-4)
        np.testing.assert_allclose(losses[i], [row["loss"] for row in history], rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient": "hnad"}, "unknown gradient 'hnad': did you mean 'hand'"),
        ({"batch_size": 0}, "batch_size is 0: expected an integer of at least 1"),
        ({"epochs": 0}, "epochs is 0"),
        (
            {"validation": (jnp.ones((3, 3)), jnp.array([0, 1, 9]))},
            "validation: y holds classes 0 to 9, the network has 4 outputs",
        ),
        ({"params": jbp.init(jbp.mlp((3, 4)), jax.random.key(0))}, r"params has \['yhat'\]"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        fit(**settings)


def test_keys_and_rates_must_pair_up():
    with pytest.raises(ValueError, match="give one of each for each network"):
        jbp.fit_many(
            NETWORK, "softmax_cross_entropy", optax.adam, data(), epochs=1, batch_size=16,
            keys=jax.random.split(jax.random.key(0), 3), learning_rates=jnp.ones(2),
        )  # fmt: skip


@pytest.fixture
def as_users_call():
    """Without the checks of annotations that the tests run under: the messages are ours."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def in_parts(monkeypatch, seconds=1e-9):
    monkeypatch.setattr(in_epochs, "ONE_CALL_FLOPS", 0)
    monkeypatch.setattr(in_epochs, "PART_SECONDS", seconds)


@pytest.mark.parametrize("gradient", ["hand", "jax.grad", jbp.private_gradient(1.0, 1.0)])
def test_an_epoch_in_parts_takes_the_same_steps(gradient, monkeypatch):
    def run():
        seen = []
        found = jbp.fit(
            jbp.mlp((2, 4, 1), "tanh"),
            "huber",
            optax.adam(0.01),
            (np.linspace(-1, 1, 400, dtype="float32").reshape(200, 2), np.ones((200, 1), "float32")),
            epochs=2,
            batch_size=3,
            key=jax.random.split(jax.random.key(0))[0],
            gradient=gradient,
            monitor=lambda *where: seen.append(where),
        )
        return *found, seen

    whole, history, nothing = run()
    in_parts(monkeypatch)
    state, again, seen = run()
    assert nothing == []
    assert seen[:2] == [(1, 1, 67), (1, 2, 67)]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in history], rel=1e-6)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_long_epoch_can_be_stopped_and_goes_on_to_the_same_bits(monkeypatch, tmp_path):
    in_parts(monkeypatch)

    def run(**more):
        x = np.linspace(-1, 1, 200, dtype="float32")[:, None]
        return jbp.fit(
            jbp.mlp((1, 4, 1), "tanh"),
            "huber",
            optax.adam(0.01),
            (x, x**2),
            epochs=2,
            batch_size=2,
            key=jax.random.key(0),
            **more,
        )

    whole, history = run()
    stopped, none = run(checkpoints=jbp.Checkpoints(tmp_path), monitor=lambda epoch, step, steps: step > 40)
    assert none == []
    assert 40 < int(stopped.step) < 100
    state, again = run(checkpoints=jbp.Checkpoints(tmp_path))
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert [row["loss"] for row in again] == [row["loss"] for row in history]


@pytest.mark.parametrize(("bound", "least"), [("ONE_CALL_STEPS", 5), ("ONE_CALL_FLOPS", 6 * 8 * 2 * 5)])  # 8 parameters
def test_an_epoch_of_many_steps_or_of_much_work_is_run_in_parts(bound, least, monkeypatch):
    x = np.linspace(-1, 1, 12, dtype="float32")[:, None]
    monkeypatch.setattr(in_epochs, bound, least)

    def parts(steps):
        seen = []
        jbp.fit(
            jbp.mlp((1, 4, 1)),
            "huber",
            optax.sgd(0.01),
            (x[: 2 * steps], x[: 2 * steps]),
            epochs=1,
            batch_size=2,
            key=jax.random.key(0),
            monitor=lambda *where: seen.append(where),
        )
        return len(seen)

    assert parts(5) == 0
    assert parts(6) > 0


def test_minutes_that_are_over_save_in_mid_epoch(monkeypatch, tmp_path):
    in_parts(monkeypatch)
    x = np.linspace(-1, 1, 200, dtype="float32")[:, None]

    def killed(epoch, step, steps):
        if step > 40:
            raise SystemExit  # what follows on the way out saves too: only the names that were there before count
        names.append(sorted(path.name for path in tmp_path.iterdir()))

    names: list[list[str]] = []
    with pytest.raises(SystemExit):
        jbp.fit(
            jbp.mlp((1, 4, 1)),
            "huber",
            optax.adam(0.01),
            (x, x),
            epochs=1,
            batch_size=2,
            key=jax.random.key(0),
            checkpoints=jbp.Checkpoints(tmp_path, every_epochs=None, every_minutes=1e-9, keep=2),
            monitor=killed,
        )
    assert names[0] == ["checkpoint-000000-000000001.npz"]
    assert len(names[-1]) == 2


def test_divergence_within_a_long_epoch_ends_it_with_the_last_good_part(monkeypatch, tmp_path):
    in_parts(monkeypatch)
    x = np.linspace(-1, 1, 200, dtype="float32")[:, None]
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.01, {50: 1e38}))
    with pytest.warns(RuntimeWarning, match="training stopped, the state is the last good one"):
        state, history = jbp.fit(
            jbp.mlp((1, 4, 1), "tanh"),
            "half_squared_error",
            optimizer,
            (x, x),
            epochs=3,
            batch_size=2,
            key=jax.random.key(0),
            checkpoints=jbp.Checkpoints(tmp_path, every_epochs=None),
        )
    assert len(history) == 1
    assert 40 <= int(state.step) <= 51
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"checkpoint-000000-{int(state.step):09d}.npz",
        "diverged.json",  # by which another optimizer may go on
    }


def test_parameters_that_overflow_in_the_last_step_are_not_good_though_every_loss_was():
    x = np.linspace(-1, 1, 20, dtype="float32")[:, None]
    last = 10 + 9  # of the second epoch's ten steps
    optimizer = optax.sgd(lambda count: jnp.where(count == last, jnp.inf, 0.01))
    with pytest.warns(RuntimeWarning, match="the loss is nan after epoch 2: training stopped"):
        state, history = jbp.fit(
            jbp.mlp((1, 4, 1), "tanh"), "huber", optimizer, (x, x), epochs=4, batch_size=2, key=jax.random.key(0)
        )
    assert (int(state.step), len(history)) == (10, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([[1.0], [np.nan]], [[1.0], [1.0]], "data: x holds NaN or infinity in 1 rows, first in row 1"),
        ([[1.0], [2.0]], [[np.inf], [-np.inf]], "data: y holds NaN or infinity in 2 rows, first in row 0"),
    ],
)
def test_data_that_is_not_finite_is_refused_with_its_row(x, y, message):
    with pytest.raises(ValueError, match=message):
        jbp.fit(
            jbp.mlp((1, 2, 1)),
            "huber",
            optax.sgd(0.1),
            (np.array(x, "float32"), np.array(y, "float32")),
            epochs=1,
            batch_size=1,
            key=jax.random.key(0),
        )


def test_parameters_that_are_not_finite_are_refused_by_name():
    network = jbp.mlp((1, 2, 1))
    params = jbp.init(network, jax.random.key(0))
    params["yhat"]["h0"] = params["yhat"]["h0"].at[0, 0].set(jnp.nan)
    x = np.ones((4, 1), "float32")
    with pytest.raises(ValueError, match=r"params\['yhat'\]\['h0'\] holds NaN"):
        jbp.fit(network, "huber", optax.sgd(0.1), (x, x), epochs=1, batch_size=1, key=jax.random.key(0), params=params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 0}, "key is a int: expected one key, such as jax.random.key"),
        ({"key": jax.random.split(jax.random.key(0), 2)}, r"key has shape \(2,\)"),
        ({"optimizer": None}, "optimizer is a NoneType: expected one of optax's"),
        ({"optimizer": optax.sgd}, "optimizer is a function: expected one of optax's"),
        ({"optimizer": optax.lookahead(ADAM, 5, 0.5)}, r"the optimizer does not take .* no attribute 'fast'"),
        ({"optimizer": optax.chain(optax.contrib.sam(ADAM, ADAM))}, r"the optimizer does not take .*'value'"),
        ({"key": None}, r"key is None: the first parameters and the shuffles are drawn .*key\(0\)"),
        (
            {"checkpoints": "runs/mine"},
            r"checkpoints is 'runs/mine': expected Checkpoints, such as jaxbackprop.Checkpoints",
        ),
        ({"mesh": "x"}, "mesh is 'x': expected what jaxbackprop.data_mesh makes"),
        ({"mesh": jax.make_mesh((1,), ("batch",))}, "expected what jaxbackprop.data_mesh makes"),
        ({"monitor": 3}, "monitor is 3: expected a function"),
        ({"callbacks": [3]}, r"callbacks is \[3\]: expected a list of functions"),
        ({"network": None}, "network is a NoneType"),
        ({"data": (np.ones((4, 1), "float32"),)}, "data holds 1 things: expected a pair"),
        ({"data": (np.ones((4, 1), "float32"), None)}, "data: y is a NoneType that makes no array of numbers"),
        ({"data": ([[1.0], [2.0, 3.0]], [1.0, 2.0])}, "data: x is a list that makes no array of numbers"),
        ({"data": (np.array([["a"]]), np.ones(1))}, "data: x is a ndarray that makes no array of numbers"),
        ({"data": (np.ones((4, 1), int), np.ones((4, 1)))}, "x has dtype int32, expected floating point"),
        ({"validation": (np.ones((4, 2), "float32"), np.ones((4, 1)))}, r"x has shape \(4, 2\), expected"),
    ],
)
def test_what_is_no_training_is_refused_by_name(change, message, tmp_path, monkeypatch, as_users_call):
    monkeypatch.chdir(tmp_path)
    x = np.ones((4, 1), "float32")
    settings = {
        "network": jbp.mlp((1, 2, 1)),
        "loss": "huber",
        "optimizer": ADAM,
        "data": (x, x),
        "epochs": 1,
        "batch_size": 2,
        "key": jax.random.key(0),
    }
    with pytest.raises((TypeError, ValueError), match=message) as error:
        jbp.fit(**settings | change)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("answer", "epochs"), [(True, 1), (1, 3), (np.ones(2), 3), (None, 3)])
def test_only_true_itself_stops_training(answer, epochs):
    assert len(fit(callbacks=[lambda *_: answer])[1]) == epochs


PAIRS = [(X_OF_ONE,), None, (X_OF_ONE, X_OF_ONE[:2]), (X_OF_ONE[0], X_OF_ONE), (X_OF_ONE[:0], X_OF_ONE[:0])]


@pytest.mark.parametrize("given", PAIRS)
def test_figures_of_data_that_does_not_fit_are_refused(given, as_users_call):
    network = jbp.mlp((1, 2, 1))
    with pytest.raises(ValueError, match=r"data|x has shape"):
        jbp.evaluate(network, "huber", jbp.init(network, jax.random.key(0)), given)


@pytest.mark.parametrize(
    ("loss", "y", "found"),
    [
        ("sigmoid_binary_cross_entropy", [[0.0, 1.0], [0.5, 1.5]], "y holds 0 to 1.5, first outside 0 to 1 in row 1"),
        ("sigmoid_binary_cross_entropy", [[0, 1], [2, 1]], "y holds 0 to 2, first outside 0 to 1 in row 1"),
        ("softmax_cross_entropy", [[-0.5, 1.5], [0.5, 0.5]], "y holds -0.5 to 1.5, first outside 0 to 1 in row 0"),
    ],
)
def test_cross_entropy_of_targets_that_are_no_probabilities_is_refused(loss, y, found):
    """It has no least value there: training would run to a loss of minus infinity."""
    net, x, y = jbp.mlp((3, 2)), np.ones((2, 3), np.float32), np.asarray(y)
    fit = {"epochs": 1, "batch_size": 2, "key": jax.random.key(0)}
    params = jbp.init(net, jax.random.key(0))
    blocks = jbp.blocks.Blocks((2,), lambda _: (x, y), "two", 40)
    for call in (
        lambda: jbp.fit(net, loss, optax.adam(0.1), (x, y), **fit),
        lambda: jbp.fit(net, loss, optax.adam(0.1), blocks, **fit),
        lambda: jbp.evaluate(net, loss, params, (x, y)),
    ):
        with pytest.raises(ValueError, match=f"{found}: {loss} needs probabilities"):
            call()
    jbp.fit(net, "half_squared_error", optax.adam(0.1), (x, y), **fit)
    jbp.fit(net, loss, optax.adam(0.1), (x, np.clip(y, 0, 1) * 1.0), **fit)
