"""The benchmarks that run on any device: their arithmetic against numbers worked by hand, and one quick run of each."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import oracle
import pytest

import jaxbackprop as jbp

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.append(str(EXPERIMENTS))

import accelerator_benchmark as bench  # noqa: E402
import any_model_benchmark as any_model  # noqa: E402
import checker_benchmark as checker  # noqa: E402
import influential_digits as influential  # noqa: E402
import layer_noise_scale as layers  # noqa: E402
import measure  # noqa: E402
import private_convnet  # noqa: E402
import scaling_benchmark as scaling  # noqa: E402
import small_models  # noqa: E402


def ignore(*_, **__):
    pass


def quick_run(script, folder):
    results = sorted(measure.RESULTS.iterdir())
    command = [sys.executable, "-W", "error", str(EXPERIMENTS / script), "--quick", "--out", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # progress is for terminals
    assert sorted(measure.RESULTS.iterdir()) == results
    return done.stdout


def test_the_accelerator_benchmark_runs_and_writes_only_where_it_is_told(tmp_path):
    printed = quick_run("accelerator_benchmark.py", tmp_path)
    platform = jax.devices()[0].platform
    names = [f"accelerator-{platform}-roofline.png", f"accelerator-{platform}.json", f"accelerator-{platform}.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    written = json.loads((tmp_path / names[1]).read_text())
    assert {"device", "jax", "jaxlib", "commit", "date", "memory_GB", "load"} <= set(written["stamp"])
    timed = {row["method"]: row for row in written["rows"] if row.get("ms")}
    assert {"jbp.value_and_grad", "jbp.stream", "jbp step", "jax.grad", "jax.grad, in tiles"} <= set(timed)
    for row in timed.values():
        assert row["times_faster"] > 0
        assert row["share_of_ceiling"] > 0
        assert row["difference"] <= bench.tolerance(row["dtype"], row["batch"])
    # what is not there is said, in the figures and on the screen
    silent = [row for row in written["rows"] if not row.get("ms") and not row["reason"]]
    assert silent == []
    for row in written["rows"]:
        if row["reason"]:
            assert row["method"] in printed
            assert row["method"].startswith(("jbp.fused", "torch", "NumPy", "jax.grad, in tiles")), row["reason"]


def test_the_scaling_benchmark_runs_and_writes_only_where_it_is_told(tmp_path):
    quick_run("scaling_benchmark.py", tmp_path)
    platform = jax.devices()[0].platform
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"scaling-{platform}.json", f"scaling-{platform}.png"]
    rows = json.loads((tmp_path / f"scaling-{platform}.json").read_text())["rows"]
    assert {row["axis"] for row in rows} == {"examples", "width", "depth"}
    assert all(row["ms"] > 0 and row["difference"] <= 2e-5 for row in rows)


def test_the_benchmark_of_any_model_runs_and_writes_only_where_it_is_told(tmp_path):
    printed = quick_run("any_model_benchmark.py", tmp_path)
    names = [f"any_model-{jax.devices()[0].platform}.{ending}" for ending in ("json", "png")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    written = json.loads((tmp_path / names[0]).read_text())
    assert {row["readout"] for row in written["rows"]} == {"clipped sum", "norms", "noise scale"}
    for row in written["rows"]:
        assert row["reason"] is None
        assert row["ms"] > 0
        assert row["method"] == any_model.PLAIN or row["difference"] <= 1e-4
    by_method = {row["method"]: row["largest_batch"] for row in written["largest"]}
    assert by_method[any_model.OURS] > by_method[any_model.VMAP] > 0
    assert "from their papers" in printed


@pytest.mark.parametrize("most", [0, 1, 7, 8, 9, 1000])
def test_the_largest_batch_is_found_to_an_eighth(most):
    found = any_model.largest(lambda batch: batch <= most)
    assert most / 1.125 - 1 <= found <= most


def test_flops_and_bytes_of_a_network_counted_by_hand():
    case = bench.make_case((2, 3, 5, 7), batch=11, dtype="bfloat16")
    from_x, others = 2 * 3, 3 * 5 + 5 * 7 + 3 * 7
    assert bench.flops(case) == 11 * (4 * from_x + 6 * others)
    parameters, data = from_x + others, 11 * (2 + 7)
    assert bench.least_bytes(case, bench.GRADIENT) == 2 * (2 * parameters + data)
    assert bench.least_bytes(case, bench.STEP) == 2 * (6 * parameters + data)


def test_the_ceiling_that_binds_is_the_one_that_takes_longest():
    ceilings = bench.Ceilings({"float32": 10.0}, {"float32": 100.0}, 0.5, [])
    assert ceilings.allow("float32", least_bytes=20, flops=100) == (2.0, "memory")
    assert ceilings.allow("float32", least_bytes=20, flops=1000) == (10.0, "products")
    assert ceilings.allow("float32", least_bytes=1, flops=1) == (0.5, "call")


def test_the_peers_compute_the_same_gradient():
    """Against `jax.grad` of the package's own plain loss, which is built from the wiring instead of written out."""
    case = bench.make_case((2, 3, 5, 7), batch=11, dtype="float32")
    arguments = case.params, case.x, case.y
    expected = jax.jit(jax.value_and_grad(jbp.plain_loss(case.network, bench.LOSS)))(*arguments)
    oracle.assert_close(jax.jit(jax.value_and_grad(bench.plain_loss))(*arguments), expected)
    for tile in (4, 11):  # with and without a rest
        oracle.assert_close(jax.jit(bench.in_tiles(bench.plain_loss, tile))(*arguments), expected)
    numpy = bench.by_numpy(case)
    oracle.assert_close(numpy.gradient(numpy.run()), expected[1])
    assert measure.largest_difference(expected[1], bench.reference(case)[bench.GRADIENT]) < 1e-5
    scalar = bench.make_case(bench.EXERCISE, batch=11, dtype="float32")
    arguments = scalar.params, scalar.x, scalar.y
    elementwise, plain = (jax.jit(jax.value_and_grad(loss)) for loss in (bench.scalar_loss, bench.plain_loss))
    oracle.assert_close(elementwise(*arguments), plain(*arguments))


def test_the_plain_loss_is_the_same_network_beyond_ten_layers():
    """Inside `jit` dicts are sorted, h10 before h2: whoever follows their order computes another network."""
    case = bench.make_case((2,) * 14, batch=5, dtype="float32")
    ours = jax.jit(jbp.plain_loss(case.network, bench.LOSS))(case.params, case.x, case.y)
    assert abs(jax.jit(bench.plain_loss)(case.params, case.x, case.y) / ours - 1) < 1e-5


def test_the_tolerance_follows_the_arithmetic_and_stays_below_a_missing_term():
    assert bench.tolerance("float32", 1) < 2.1e-5
    assert 1e-4 < bench.tolerance("float32", 10_000_000) < 1e-3
    assert bench.tolerance("float32", 256, of_jax_grad=0.018) == 4 * 0.018  # one mask of half a million flipped
    assert bench.tolerance("float32", 256, of_jax_grad=5.0) == 0.1


def test_the_reference_clips_each_example():
    case = bench.make_case((2, 3, 5, 7), batch=11, dtype="float32")
    grads = jbp.materialise(jbp.per_example(case.network, bench.LOSS)(case.params, case.x, case.y)[1])
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]
    norms = np.sqrt(sum((leaf**2).sum(axis=(1, 2)) for leaf in leaves))
    assert 0 < (norms > bench.MAX_NORM).sum() <= 11
    clipped = [np.einsum("b,bts->ts", np.minimum(1, bench.MAX_NORM / norms), leaf) for leaf in leaves]
    assert measure.largest_difference(bench.reference(case)[bench.CLIPPED], clipped) < 1e-5


def fails(error):
    def build(case):
        raise error

    return build


def test_what_fails_is_a_row_with_its_reason_and_the_others_are_timed():
    wrong = bench.by_hand

    def doubled(case):
        built = wrong(case)
        return built._replace(gradient=lambda pair: jax.tree.map(lambda g: 2 * g, pair[1]))

    ways = [
        bench.Method(bench.GRADIENT, "too large", fails(RuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"))),
        bench.Method(bench.GRADIENT, "no memory", fails(MemoryError("9 GB needed"))),
        bench.Method(bench.GRADIENT, "absent", fails(bench.NotHereError("torch is not installed"))),
        bench.Method(bench.GRADIENT, "jbp, wrong", doubled),
        bench.Method(bench.GRADIENT, "jax.grad", bench.by_jax_grad),
    ]
    rows = bench.measure_case((bench.EXERCISE, 100), "float32", ways, 0.01, ignore)
    reasons = {row["method"]: row["reason"] for row in rows}
    assert reasons["too large"] == "out of memory: RESOURCE_EXHAUSTED: 9 bytes"
    assert reasons["no memory"] == "out of memory: 9 GB needed"
    assert reasons["absent"] == "torch is not installed"
    assert reasons["jbp, wrong"] == "WRONG by 1: not timed"
    assert [row["method"] for row in rows if row.get("ms")] == ["jax.grad"]
    assert len(bench.remarks(rows, "reason")) == 4


def test_data_too_large_for_memory_is_a_reason_too(monkeypatch):
    monkeypatch.setattr(measure, "memory", lambda: (1000, 1000))
    ways = [bench.Method(bench.GRADIENT, "jax.grad", bench.by_jax_grad)]
    (row,) = bench.measure_case((bench.EXERCISE, 1000), "float32", ways, 0.01, ignore)
    assert row["reason"] == "out of memory: 1.6e-05 GB needed, 1e-06 GB free"


def test_where_products_are_shortened_by_default_both_errors_are_measured(monkeypatch):
    monkeypatch.setattr(bench, "full_by_default", lambda: False)

    def by_hand(case):  # half as large by default as at the highest precision
        built = bench.by_hand(case)
        return built._replace(run=lambda: jax.tree.map(lambda leaf: leaf / 2, built.run()))

    ways = [bench.Method(bench.GRADIENT, "jbp", by_hand), bench.Method(bench.GRADIENT, "jax.grad", bench.by_jax_grad)]
    _, row = bench.measure_case(((2, 3, 5, 7), 50), "float32", ways, 0.01, ignore)
    assert row["difference"] < 1e-5
    assert abs(row["difference_default"] - 0.5) < 1e-5
    assert row["ms"] > 0


def test_torch_that_is_not_installed_is_said_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what `import` finds when there is none
    torch = bench.Torch(shortens=False)
    with pytest.raises(bench.NotHereError, match="torch is not installed"):
        torch.build(None, compile_it=False, step=False)


def test_the_exponent_is_fitted_over_the_upper_half_alone():
    sizes = [1, 10, 100, 1000, 10_000]
    times = [1.0, 1.0, 1.0, 10.0**1.5, 10.0**3]  # flat, then to the power 1.5
    slope, start = scaling.exponent(sizes, times)
    assert start == 100
    assert abs(slope - 1.5) < 1e-9
    assert scaling.exponent([1, 10], [1.0, 2.0]) is None
    assert scaling.exponent([], []) is None


def test_slow_programs_get_fewer_rounds_and_fast_ones_all():
    times = measure.in_turn({"a": lambda: None, "b": lambda: None}, seconds=0.01, rounds=5, fewest=2)
    assert len(times["a"]) == len(times["b"]) == 5
    import time

    assert len(measure.in_turn({"slow": lambda: time.sleep(0.02)}, seconds=0.01, rounds=5, fewest=2)["slow"]) == 2


def test_an_interrupted_run_of_the_checkers_goes_on_with_what_is_kept(tmp_path, monkeypatch):
    folder = checker.keeping_folder(tmp_path / "kept", checker.program(torch=False))
    made = []
    for _ in range(2):
        assert checker.kept(folder / "network-0.json", lambda: made.append(1) or {"rows": [1]}) == {"rows": [1]}
    assert made == [1]
    monkeypatch.setattr(measure.os, "getloadavg", lambda: (99.0, 0.0, 0.0))  # another hour, the same program
    assert checker.keeping_folder(folder, checker.program(torch=False)) == folder
    with pytest.raises(SystemExit, match="another commit or version"):
        checker.keeping_folder(folder, checker.program(torch=True))


def written(script, name, folder):
    """The figures of a quick run, which also draws its picture."""
    quick_run(script, folder)
    stem = f"{name}-{jax.devices()[0].platform}"
    assert sorted(path.name for path in folder.iterdir()) == [f"{stem}.json", f"{stem}.png"]
    text = (folder / f"{stem}.json").read_text()
    found = json.loads(text)
    assert len(text.splitlines()) <= 30 + len(found["rows"])  # a row a line
    return found


def test_private_training_of_a_convnet_runs_and_adds_its_noise(tmp_path):
    rows = written("private_convnet.py", "private_convnet", tmp_path)["rows"]
    assert [row["epsilon"] for row in rows] == [4.0, None]
    assert rows[0]["spent"] <= 4.0
    assert rows[0]["noise_multiplier"] > rows[1]["noise_multiplier"] == 0
    assert all(0 <= share <= 1 for row in rows for share in row["convnet"] + row["dense"])


def test_the_private_step_of_the_convnet_is_clipped_and_noisy():
    x, y = np.random.default_rng(0).normal(size=(2, 64)), np.array([3, 7])
    params, weight = small_models.draw_convnet(jax.random.key(0)), np.ones(2)
    quiet, loud = (private_convnet.step_gradient(params, x, y, weight, jax.random.key(1), s) for s in (0.0, 1e3))
    assert optax.tree.norm(quiet) <= 2 * private_convnet.MAX_NORM / private_convnet.BATCH_SIZE * (1 + 1e-5)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    expected = 1e3 * private_convnet.MAX_NORM / private_convnet.BATCH_SIZE * numbers**0.5
    assert abs(optax.tree.norm(loud) / expected - 1) < 0.05


def test_the_noise_scale_of_layers_runs(tmp_path):
    found = written("layer_noise_scale.py", "layer_noise_scale", tmp_path)
    assert {row["kind"] for row in found["kinds"]} == set(layers.COLORS)
    assert all(set(row["noise"]) == set(layers.COLORS) and row["loss"] > 0 for row in found["rows"])


def test_the_noise_scale_of_layers_is_that_of_the_readout_where_there_is_one_batch():
    text = jax.numpy.asarray(layers.encoded("that which has no noise has no scale " * 30))
    params = layers.draw_gpt(jax.random.key(0))
    batch = layers.drawn(jax.random.key(1), text, 4)
    _, sums = jbp.stream(jbp.factored(layers.gpt_loss), layers.sums_of, tile=2)(params, batch, weight=np.ones(4))
    expected = jbp.noise_scale(jbp.factored(layers.gpt_loss)(params, batch)[1]).noise_scale
    trace, squared_norm = layers.estimates(sums, 4)["all"]
    assert abs(trace / squared_norm / expected - 1) < 1e-3


def test_the_noise_scale_is_the_ratio_of_the_means_and_its_error_that_of_the_jackknife():
    pairs = np.array([[4.0, 1.0], [8.0, 3.0]])
    scale, error = layers.noise_scale(pairs)
    assert scale == 3.0
    assert abs(error - abs(np.log(4) - np.log(8 / 3)) / 2) < 1e-12
    assert layers.noise_scale(np.array([[4.0, 1.0], [8.0, -0.5]])) == (24.0, None)


def test_influential_digits_runs(tmp_path):
    found = written("influential_digits.py", "influential_digits", tmp_path)
    (row,) = found["rows"]
    assert len(row["most_helpful"]) == len(row["most_harmful"]) == 5
    assert all(len(row[way]) == 1 for way in influential.COLORS)
    assert found["sketches"][0]["correlation"][0] > 0.3


def test_as_many_digits_are_taken_out_each_way_and_of_the_same_classes():
    digits = influential.load("digits")
    score = np.random.default_rng(0).normal(size=len(digits.y_train))
    question = influential.Question(digits.x_test[0], int(digits.y_test[0]), 0.0, 0, score, -score)
    ways = influential.removals(digits, question, jax.random.key(0))
    assert all(len(set(rows.tolist())) == influential.REMOVED for rows in ways.values())
    helpful, random = (np.sort(digits.y_train[ways[way]]) for way in ("helpful", "random"))
    assert helpful.tolist() == random.tolist()
    assert set(digits.y_train[ways["nearest"]].tolist()) == {question.label}
