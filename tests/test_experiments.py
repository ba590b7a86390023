"""The benchmarks that run on any device: their arithmetic against numbers worked by hand, and one quick run of each."""

import json
import subprocess
from pathlib import Path

import any_model_benchmark as any_model
import checker_benchmark as checker
import influential_digits as influential
import jax
import layer_noise_scale as layers
import measure
import numpy as np
import optax
import private_convnet
import pytest
import scaling_benchmark as scaling
import small_models
from matplotlib.figure import Figure
from scripts import quick_run

import jaxbackprop as jbp


def test_the_scaling_benchmark_runs_and_writes_only_where_it_is_told(tmp_path):
    quick_run("scaling_benchmark.py", tmp_path)
    stem = measure.of_device("scaling").stem
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{stem}.json", f"{stem}.png"]
    rows = json.loads((tmp_path / f"{stem}.json").read_text())["rows"]
    assert {row["axis"] for row in rows} == {"examples", "width", "depth"}
    assert all(row["ms"] > 0 and row["difference"] <= 2e-5 for row in rows)


def test_the_benchmark_of_any_model_runs_and_writes_only_where_it_is_told(tmp_path):
    printed = quick_run("any_model_benchmark.py", tmp_path)
    names = [f"{measure.of_device('any_model').stem}.{ending}" for ending in ("json", "png")]
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
    stem = measure.of_device(name).stem
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


def test_the_walk_through_the_api_finds_no_alarm(tmp_path):
    said = quick_run("check_api.py", tmp_path)
    assert "3 right, 0 no derivative, as is said, 0 alarms, 0 refused" in said
    found = json.loads(measure.of_device("check_api", tmp_path).read_text())
    assert (found["verdicts"], found["left_out"], found["rows"]) == ({"right": 3}, 0, [])


def test_a_picture_names_the_device_date_and_commit_of_its_figures(tmp_path):
    about = measure.stamp() | {"date": "2001-02-03", "commit": "abc1234"}
    path = measure.save("made_up", [{"a": 1}], tmp_path, stamp=about).with_suffix(".png")
    figure = Figure()
    measure.save_picture(figure, path)
    assert path.stat().st_size > 1000
    said = figure.get_supxlabel()
    assert said.endswith("2001-02-03 · commit abc1234")
    assert about["processor"] in said or about["device"].partition(": ")[2] in said


def test_quick_writes_only_where_it_is_told():
    parser = measure.Parser(None, "briefly")
    folders = [parser.given(options.split()).folder for options in ("", "--quick", "--out a", "--quick --out a")]
    assert folders == [measure.RESULTS, None, Path("a"), Path("a")]


def test_a_function_of_a_script_is_called_in_a_process_of_its_own():
    process = measure.in_process(measure.slug, "NVIDIA H200", stderr=subprocess.PIPE)
    printed, errors = process.communicate()
    assert (process.returncode, printed, errors) == (0, "", "")


def test_bars_begin_at_1_and_what_was_not_timed_is_a_word():
    axis = Figure().subplots()
    measure.draw_ratios(
        axis, [measure.Bar(0, 4.0, "", "red"), measure.Bar(1, 0.5, "", "red"), measure.Bar(2, None, "late", "red")]
    )
    assert [(bar.get_x(), bar.get_width()) for bar in axis.patches] == [(1, 3.0), (1, -0.5)]
    assert [text.get_text() for text in axis.texts] == ["4.00", "0.50", "late"]
