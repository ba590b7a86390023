"""The benchmark against the device's ceilings: its arithmetic worked by hand, its parts by made-up devices, one quick run."""

import doctest
import json
import os
import random
import sys
from types import SimpleNamespace

import accelerator_benchmark as bench
import accelerator_plots as plots
import accelerator_programs as programs
import cases
import ceilings
import contest
import jax
import measure
import numpy as np
import oracle
import pytest
import rivals
import scripts

import jaxbackprop as jbp

WIDTHS = (2, 3, 5, 7)


def a_case(widths=WIDTHS, batch=11, dtype="float32"):
    return cases.make_case(cases.network(widths), batch, dtype)


# ---- one quick run


def test_the_accelerator_benchmark_runs_and_writes_only_where_it_is_told(tmp_path):
    printed = scripts.quick_run("accelerator_benchmark.py", tmp_path)
    stem = measure.of_device("accelerator").stem
    names = [f"{stem}-roofline.png", f"{stem}.json", f"{stem}.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    written = json.loads((tmp_path / names[1]).read_text())
    assert {"device", "jax", "jaxlib", "commit", "date", "memory_GB", "load"} <= set(written["stamp"])
    assert written["ceilings"]["queued"] <= written["ceilings"]["call"] < 0.01
    assert {(row["network"].split()[0], row["dtype"]) for row in written["rows"]} == {
        ("1-1-1-1", "float32"),
        ("8-64-64-1", "bfloat16"),
        ("GPT", "float32"),
    }
    timed = [row for row in written["rows"] if row.get("ms")]
    ours = {"jbp.value_and_grad", "jbp.stream, clipped", "jbp.norms", "jbp.factored, clipped"}
    assert ours | {"jax.grad", "jax.grad, tuned", "vmap(jax.grad), clipped"} <= {row["method"] for row in timed}
    for row in timed:
        assert row["difference"] <= cases.tolerance(row["dtype"], row["batch"])
        assert row["awaited_ms"] > 0
        assert 0 < row["share_of_ceiling"] < 2  # the ceilings of --quick are measured briefly
        baseline = next(r for r in timed if bench.key_of(r)[:2] == bench.key_of(row)[:2] and r["method"] == "jax.grad")
        if row["method"] in ours:  # timed in the same rounds: the ratio of medians is near the median of ratios
            assert 0.2 < row["times_faster"] / (baseline["ms"] / row["ms"]) < 5
    # what is not there is said, in the figures and on the screen
    for row in written["rows"]:
        assert bool(row.get("ms")) != bool(row["reason"])
        if row["reason"]:
            assert row["method"] in printed
            assert row["method"].startswith(("jbp.fused", "torch", "NumPy", "jax.grad, tuned")), row["reason"]


@pytest.mark.parametrize(
    "given",
    [
        ["--minutes", "0"],
        ["--seconds", "soon"],
        ["--only", "("],
        ["--only", "no such network"],
        ["--plot", "no/such/file.json"],
        ["--plot", __file__],
        ["--quick", "--resume"],
        ["--unknown"],
    ],
)
def test_a_bad_option_is_one_line(given, capsys):
    with pytest.raises(SystemExit) as stopped:
        bench.main(given)
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("module", [measure, ceilings, cases, plots])
def test_the_examples_in_docstrings_are_right(module):
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried


# ---- queued calls


class Device:
    """A device that is slow to answer, and slow after another program; by a clock of its own."""

    def __init__(self, monkeypatch, answer, other_program=0.0):
        self.answer, self.other_program, self.last = answer, other_program, None
        self.now, self.given_out, self.waited = 0.0, 0, 0
        clock = SimpleNamespace(perf_counter=lambda: self.now, sleep=lambda _: None)
        monkeypatch.setattr(measure, "time", clock)

    def queue(self, name):
        def run():
            self.now += 1e-6 + self.other_program * (self.last not in (name, None))
            self.last, self.given_out = name, self.given_out + 1
            return self.given_out

        def wait(result):
            assert result == self.given_out  # the last that was given out
            self.waited += 1
            self.now += self.answer
            return result

        return measure.Queue(run, wait)


def test_calls_are_given_out_together_and_waited_for_once(monkeypatch):
    device = Device(monkeypatch, answer=0.01)
    times = measure.queued_in_turn({"a": device.queue("a")}, seconds=1.0, rounds=2)["a"]
    assert len(times.queued) == len(times.awaited) == 3  # rounds: at least so many
    calls = 49 - 2  # that fill half a second, less the two that are awaited
    np.testing.assert_allclose(times.awaited, 0.010001)
    np.testing.assert_allclose(times.queued, 1e-6 + 0.01 / calls)
    assert device.waited == 2 + 3 * 3
    assert device.given_out == 2 + 3 * (2 + calls)


def test_a_programs_first_call_after_another_does_not_count(monkeypatch):
    device = Device(monkeypatch, answer=1e-3, other_program=0.05)
    found = measure.queued_in_turn({name: device.queue(name) for name in "ab"}, seconds=1.0, rounds=3)
    for times in found.values():
        np.testing.assert_allclose(times.awaited, 1.001e-3)
        assert max(times.queued) < 1e-3


# ---- sizes


def test_a_batch_grows_until_a_call_is_long_enough_and_no_further():
    asked = []

    def seconds_of(examples):
        asked.append(examples)
        return 72e-6 + 1e-9 * examples

    size, seconds, why = ceilings.grown(seconds_of, lambda _: True, 65_536, 20 * 72e-6)
    assert (size, why) == (2_097_152, "")
    assert seconds == seconds_of(size) > 20 * 72e-6 > seconds_of(size // 2)
    assert len(asked) - 2 < 5  # compiling is dear: not each size between is tried


def test_a_cube_grows_by_its_edge():
    assert ceilings.grown(lambda n: n**3 / 1e9, lambda _: True, 1000, 60.0, power=3)[0] == 4000


def test_a_batch_that_is_long_enough_stays():
    assert ceilings.grown(lambda _: 1.0, lambda _: True, 10_000_000, 0.5)[0] == 10_000_000


@pytest.mark.parametrize(("most", "expected"), [(100_000, 65_536), (1_000, 512), (64, 64), (3, 2)])
def test_memory_ends_growth_and_is_said_so(most, expected):
    def seconds_of(size):
        if size > most:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return 1e-3

    size, seconds, why = ceilings.grown(seconds_of, lambda _: True, 64, 1e3)
    assert (size, seconds) == (expected, 1e-3)
    assert "out of memory" in why
    fitting = ceilings.grown(lambda _: 1e-3, lambda size: size <= most, 1, 1e3)
    assert fitting == (expected, 1e-3, "more does not fit")


def test_what_fails_at_the_first_size_and_is_not_memory_is_raised():
    def seconds_of(_):
        raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        ceilings.grown(seconds_of, lambda _: True, 8, 1.0)


def test_the_size_of_a_group_is_bound_by_four_times_what_jax_grad_needs(monkeypatch):
    monkeypatch.setattr(measure, "best_of", lambda *_, **__: 1e-3)
    group = contest.Group(cases.network(WIDTHS), "float32", 16, ())
    monkeypatch.setattr(measure, "memory", lambda: (10**9, 10**6))
    case, built, why = contest.sized(group, long_enough=1e9)
    needed = sum(a.nbytes for a in case.data) + (built.temporary_bytes or 0)
    assert why == "more does not fit"
    assert 1e6 / 16 < 4 * needed <= 1e6
    assert contest.sized(group, long_enough=1e-4)[0].batch == 16


# ---- flops, bytes, ceilings


def test_flops_and_bytes_of_a_network_counted_by_hand():
    case = a_case(dtype="bfloat16")
    from_x, others = 2 * 3, 3 * 5 + 5 * 7 + 3 * 7
    parameters, data = from_x + others, 11 * (2 + 7)
    for quantity in (ceilings.GRADIENT, ceilings.CLIPPED):
        assert case.work(quantity) == {
            "flops": 11 * (4 * from_x + 6 * others),
            "least_bytes": 2 * (2 * parameters + data),
        }
    norms = {"flops": 11 * (2 * from_x + 4 * others), "least_bytes": 2 * (parameters + data) + 4 * 11}
    assert case.work(ceilings.NORMS) == norms


@pytest.mark.parametrize("shape", [(128, 2, 32), (32, 2, 128)])
def test_flops_of_a_gpt_are_nearly_those_that_the_compiler_counts(shape):
    """Which counts what is between the products, too."""
    subject = cases.gpt(*shape, vocabulary=500)
    params, (sequences,) = subject.params(), subject.examples(3)
    counted = jax.jit(jax.grad(subject.loss)).lower(params, sequences).cost_analysis()["flops"]
    assert 0.93 < 3 * subject.flops(params, ceilings.GRADIENT) / counted < 1


CEILINGS = ceilings.Ceilings(
    {"float32": 10.0, "bfloat16": 10.0}, {"float32": 100.0, "float32 highest": 50.0, "bfloat16": 200.0}, 7.0, 0.5, []
)


def test_the_ceiling_that_binds_is_the_one_that_takes_longest():
    assert CEILINGS.allow("float32", least_bytes=20, flops=100) == (2.0, "memory")
    assert CEILINGS.allow("float32", least_bytes=20, flops=1000) == (10.0, "products")
    assert CEILINGS.allow("float32", least_bytes=1, flops=1) == (0.5, "call")  # a queued one: nothing waits


def test_the_share_of_the_ceiling_is_the_least_time_over_the_measured():
    row = ceilings.under(CEILINGS, {"dtype": "float32", "ms": 4000.0, "least_bytes": 20, "flops": 80})
    assert row["share_of_ceiling"] == 0.5
    assert row["gflops"] == 20e-9
    assert row["intensity"] == 4.0
    assert ceilings.under(CEILINGS, {"reason": "absent"}) == {"reason": "absent"}


def test_ratios_compare_the_same_round_and_count_what_was_left_out():
    case = a_case()
    built = contest.Built(measure.Queue(lambda: None), lambda r: r, scale=4, note="a quarter")
    row = contest.figures(
        case,
        ceilings.CLIPPED,
        built,
        measure.Times([1.0, 2.0, 3.0], [9.0] * 3),
        measure.Times([8.0, 8.0, 24.0], [9.0] * 3),
    )
    assert row["ms"] == 8000.0
    assert row["times_faster"] == 2.0  # of 2, 1 and 2
    assert row["awaited_ms"] is None  # one call is not the whole


# ---- the reference, and the others


def test_a_batch_repeats_its_slice_and_has_its_mean_gradient(monkeypatch):
    monkeypatch.setattr(cases, "LARGEST_SLICE", 5)
    case = a_case(batch=12)
    assert case.period == 4
    for a in case.data:
        assert len(np.unique(np.asarray(a), axis=0)) == 4
        np.testing.assert_array_equal(a[:4], a[8:])
    expected = cases.reference(case)
    whole = jax.grad(rivals.plain_loss)(case.params, *case.data)
    assert measure.largest_difference(whole, expected[ceilings.GRADIENT]) < 1e-5
    grads = rivals.per_example_gradients(rivals.loss_of_one)(case.params, *case.data)
    clipped = jax.tree.map(lambda g: g / 12, rivals.clipped_sum(grads, cases.MAX_NORM))
    assert measure.largest_difference(clipped, expected[ceilings.CLIPPED]) < 1e-5
    assert len(expected[ceilings.NORMS]) == 4


def test_no_slice_is_too_long_for_the_reference():
    wide = cases.network((4096,) * 4)
    assert cases.most_compared(wide, jax.eval_shape(wide.params)) * 4 * 4096**2 <= cases.LARGEST_ENTRIES
    assert (
        cases.most_compared(cases.network(cases.EXERCISE), jbp.init(jbp.skip_mlp(cases.EXERCISE), jax.random.key(0)))
        == 65_536
    )


def test_the_reference_clips_each_example():
    case = a_case()
    grads = jbp.materialise(jbp.per_example(jbp.skip_mlp(WIDTHS), cases.LOSS)(case.params, *case.data)[1])
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(grads)]
    norms = np.sqrt(sum((leaf**2).sum(axis=(1, 2)) for leaf in leaves))
    assert 0 < (norms > cases.MAX_NORM).sum() <= 11
    clipped = [np.einsum("b,bts->ts", np.minimum(1, cases.MAX_NORM / norms), leaf) / 11 for leaf in leaves]
    expected = cases.reference(case)
    assert measure.largest_difference(expected[ceilings.CLIPPED], clipped) < 1e-5
    assert measure.largest_difference(expected[ceilings.NORMS], norms) < 1e-5


def test_the_peers_compute_the_same_gradient():
    """Against `jax.grad` of the package's own plain loss, which is built from the wiring instead of written out."""
    case = a_case()
    arguments = case.params, *case.data
    expected = jax.jit(jax.value_and_grad(jbp.plain_loss(jbp.skip_mlp(WIDTHS), cases.LOSS)))(*arguments)
    oracle.assert_close(jax.jit(jax.value_and_grad(rivals.plain_loss))(*arguments), expected)
    for tile in (4, 11):  # with and without a rest
        oracle.assert_close(jax.jit(rivals.in_tiles(rivals.plain_loss, tile))(*arguments), expected)
    oracle.assert_close(rivals.by_numpy(*jax.tree.map(np.asarray, arguments))(), expected[1])
    scalar = a_case(cases.EXERCISE)
    elementwise, plain = (jax.jit(jax.value_and_grad(loss)) for loss in (rivals.scalar_loss, rivals.plain_loss))
    oracle.assert_close(elementwise(scalar.params, *scalar.data), plain(scalar.params, *scalar.data))


def test_the_plain_loss_is_the_same_network_beyond_ten_layers():
    """Inside `jit` dicts are sorted, h10 before h2: whoever follows their order computes another network."""
    case = a_case((2,) * 14, batch=5)
    ours = jax.jit(jbp.plain_loss(jbp.skip_mlp((2,) * 14), cases.LOSS))(case.params, *case.data)
    assert abs(jax.jit(rivals.plain_loss)(case.params, *case.data) / ours - 1) < 1e-5


def test_the_tolerance_follows_the_arithmetic_and_stays_below_a_missing_term():
    assert cases.tolerance("float32", 1) < 2.1e-5
    assert 1e-4 < cases.tolerance("float32", 10_000_000) < 1e-3
    assert cases.tolerance("float32", 256, of_jax_grad=0.018) == 4 * 0.018  # one mask of half a million flipped
    assert cases.tolerance("float32", 256, of_jax_grad=5.0) == 0.1


@pytest.mark.parametrize("room", [1, 60, 1e9])
def test_vmap_takes_as_many_slices_as_fit_and_its_time_is_scaled(monkeypatch, room):
    """At least one slice, at most all six."""
    monkeypatch.setattr(cases, "LARGEST_SLICE", 4)
    case = a_case(batch=24)
    one = sum(a.nbytes for a in jax.tree.leaves(case.params))
    monkeypatch.setattr(programs, "VMAPPED_BYTES", room * one / 5)
    built = programs.vmapped_clipped(case)
    count = {1: 4, 60: 12, 1e9: 24}[room]
    assert built.scale == 24 / count
    assert (built.note == "") == (count == 24)
    assert f"{count} examples" in built.note or count == 24
    assert measure.largest_difference(built.mean(built.call()), cases.reference(case)[ceilings.CLIPPED]) < 1e-5


@pytest.mark.parametrize("error", [measure.largest_difference, measure.relative_error])
def test_errors_are_relative_to_each_leaf_and_nan_is_never_small(error):
    expected = {"a": np.array([3.0, 4.0]), "b": np.array([300.0, 400.0])}
    assert error(expected, expected) == 0
    off = error({"a": np.array([3.0, 3.0]), "b": np.array([300.0, 399.0])}, expected)
    assert off == pytest.approx({measure.largest_difference: 1 / 4, measure.relative_error: 1 / 5}[error])
    for leaf in "ab":
        assert np.isnan(error(expected | {leaf: np.array([3.0, np.nan])}, expected))


def test_torch_that_is_not_installed_is_said_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # what `import` finds when there is none
    torch = rivals.Torch(shortens=False)
    with pytest.raises(rivals.NotHereError, match="torch is not installed"):
        programs.with_torch(torch, False, a_case())
    assert torch.version == {}


# ---- a group


def measured(*methods, over=lambda: False, subject=None, batch=100, dtype="float32"):
    """The rows in the order in which they were kept, and the last of each method."""
    kept = []
    terms = contest.Terms(0.01, 0.0, over, kept.append, lambda *_, **__: None)
    contest.measure_group(contest.Group(subject or cases.network(WIDTHS), dtype, batch, methods), terms)
    return kept, {row["method"]: row for row in kept}


def fails(error):
    def build(case):
        raise error

    return build


OURS = contest.Method(ceilings.GRADIENT, "jbp", programs.by_hand)


def test_what_fails_is_a_row_with_its_reason_and_the_others_are_timed():
    def doubled(case):
        built = programs.by_hand(case)
        return built._replace(mean=lambda pair: jax.tree.map(lambda g: 2 * g, pair[1]))

    def nan(case):
        built = programs.by_hand(case)
        return built._replace(mean=lambda pair: jax.tree.map(lambda g: g + np.nan, pair[1]))

    def halfway(case):
        def run():
            if next(calls) > 1:
                raise RuntimeError("lost the device")
            return built.queue.run()

        built, calls = programs.by_hand(case), iter(range(100))
        return built._replace(queue=measure.Queue(run))

    _, rows = measured(
        contest.Method(ceilings.GRADIENT, "too large", fails(RuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"))),
        contest.Method(ceilings.GRADIENT, "no memory", fails(MemoryError("9 GB needed"))),
        contest.Method(ceilings.GRADIENT, "a defect", fails(AssertionError())),
        contest.Method(ceilings.GRADIENT, "absent", fails(rivals.NotHereError("torch is not installed"))),
        contest.Method(ceilings.GRADIENT, "jbp, wrong", doubled),
        contest.Method(ceilings.GRADIENT, "jbp, nan", nan),
        contest.Method(ceilings.GRADIENT, "other, wrong", doubled),
        contest.Method(ceilings.GRADIENT, "halfway", halfway),
        contest.Method(ceilings.GRADIENT, "jbp", programs.by_hand),
    )
    reasons = {name: row["reason"] for name, row in rows.items()}
    assert reasons["too large"] == "out of memory: RESOURCE_EXHAUSTED: 9 bytes"
    assert reasons["no memory"] == "out of memory: 9 GB needed"
    assert reasons["a defect"] == "AssertionError"
    assert reasons["absent"] == "torch is not installed"
    assert reasons["jbp, wrong"] == "WRONG by 1: not timed"
    assert reasons["jbp, nan"] == "WRONG by nan: not timed"
    assert reasons["halfway"] == "while timing: lost the device"
    assert [name for name, row in rows.items() if row.get("ms")] == ["jax.grad", "other, wrong", "jbp"]
    assert rows["other, wrong"]["note"] == "off by 1"
    assert len(bench.remarks(list(rows.values()), "reason")) == 7


def test_data_too_large_for_memory_is_a_reason_for_all(monkeypatch):
    monkeypatch.setattr(measure, "memory", lambda: (1, 1))
    _, rows = measured(OURS)
    assert rows.keys() == {"jax.grad", "jbp"}
    assert all(row["reason"].startswith("out of memory: ") for row in rows.values())


def test_a_row_is_kept_before_it_is_timed_and_the_slow_come_last():
    kept, rows = measured(OURS._replace(name="jbp, slow", slow=True), OURS)
    states = [(row["method"], bool(row.get("ms"))) for row in kept]
    assert states == [
        ("jax.grad", False),
        ("jbp", False),
        ("jax.grad", True),
        ("jbp", True),
        ("jbp, slow", False),
        ("jbp, slow", True),
    ]
    assert {row["reason"] for row in kept if not row.get("ms")} == {contest.PENDING}
    assert rows["jbp, slow"]["times_faster"] > 0
    assert rows["jax.grad"]["times_faster"] == 1


def test_when_time_is_over_nothing_is_built_and_what_was_built_is_timed():
    asked = iter([False, False, True, True])  # of jax.grad, "jbp", "late" and "later"
    late = OURS._replace(name="late"), OURS._replace(name="later", slow=True)
    _, rows = measured(OURS, *late, over=lambda: next(asked))
    assert {name for name, row in rows.items() if row.get("ms")} == {"jax.grad", "jbp"}
    assert rows["late"]["reason"] == rows["later"]["reason"] == contest.LEFT_OUT


def test_where_products_are_shortened_by_default_both_errors_are_measured(monkeypatch):
    monkeypatch.setattr(contest, "full_by_default", lambda: False)

    def by_hand(case):  # half as large by default as at the highest precision
        built = programs.by_hand(case)
        return built._replace(queue=measure.Queue(lambda: jax.tree.map(lambda leaf: leaf / 2, built.queue.run())))

    _, rows = measured(OURS._replace(build=by_hand))
    assert rows["jbp"]["difference"] < 1e-5
    assert abs(rows["jbp"]["difference_default"] - 0.5) < 1e-5
    assert rows["jbp"]["ms"] > 0


def test_in_bfloat16_a_unit_on_the_other_side_of_zero_is_forgiven_and_a_quarter_of_them_is_not():
    """By the largest entry a right gradient of four examples at width 4,096 had an error of 0.35, by the norm 0.03."""

    def flipped(units):
        def build(case):
            def mean(pair):
                return pair[1] | {"h1": {"h0": pair[1]["h1"]["h0"].at[:units].set(0)}}

            return programs.by_hand(case)._replace(mean=mean)

        return build

    one, many = OURS._replace(build=flipped(1)), OURS._replace(name="jbp, many", build=flipped(64))
    _, rows = measured(one, many, subject=cases.network((4, 256, 256, 2)), dtype="bfloat16")
    assert rows["jbp"]["ms"] > 0
    assert 0.01 < rows["jbp"]["difference"] < 0.1
    assert rows["jbp, many"]["reason"].startswith("WRONG")


@pytest.mark.parametrize(("error", "timed"), [(3e-3, True), (0.05, False)])
def test_what_has_no_full_products_is_allowed_the_errors_of_jax_grad_by_default(monkeypatch, error, timed):
    """A kernel that shortens products as `jax.grad` does, by 1e-3, is not wrong."""
    monkeypatch.setattr(contest, "full_by_default", lambda: False)

    def off(by):
        def build(case):
            built = programs.by_hand(case)
            shorter = measure.Queue(lambda: jax.tree.map(lambda leaf: leaf * (1 + by), built.queue.run()))
            return built._replace(queue=shorter)

        return build

    monkeypatch.setattr(contest, "PLAIN", contest.PLAIN._replace(build=off(1e-3)))
    kernel = OURS._replace(name="jbp.fused", build=lambda case: off(error)(case)._replace(highest=None))
    _, rows = measured(kernel, OURS._replace(build=off(error)))
    assert rows["jax.grad"]["difference"] < 1e-5
    assert bool(rows["jbp.fused"].get("ms")) == timed
    assert rows["jbp"]["ms"] > 0  # in full it is right
    assert rows["jbp.fused"]["difference"] == pytest.approx(error, rel=0.01)


def test_norms_are_compared_at_both_ends_of_the_batch(monkeypatch):
    monkeypatch.setattr(cases, "LARGEST_SLICE", 10)
    right = contest.Method(ceilings.NORMS, "jbp.norms", programs.norms)

    def wrong_at_the_end(case):
        return programs.norms(case)._replace(mean=lambda n: n.at[-3].multiply(2))

    _, rows = measured(right, right._replace(name="jbp, wrong", build=wrong_at_the_end), batch=40)
    assert rows["jbp.norms"]["ms"] > 0
    assert rows["jbp, wrong"]["reason"].startswith("WRONG")


# ---- order, files, resuming


class NoTorch:
    absent, skip_compile, version = "torch is not installed", "", {}

    def release(self):
        pass


def test_the_most_telling_comes_first_and_the_widest_on_accelerators_only():
    names = [str(group).replace(" d=512, T=128, 4 layers", "") for group in bench.work("accelerator", NoTorch())]
    assert names[:7] == [
        "8-64-64-1, float32",
        "1-1-1-1, float32",
        "64-128-128-10, float32",
        "8-64-64-1, bfloat16",
        "784-512-512-10, float32",
        "GPT, float32",
        "4096-4096-4096-4096, bfloat16",
    ]
    assert len(set(names)) == len(names) == 12
    on_cpu = bench.work("cpu", NoTorch())
    assert [str(g) for g in on_cpu if "4096" in str(g)] == []
    assert {g.start for g in on_cpu if g.subject.widths == cases.EXERCISE} == {10_000_000}


def fake(monkeypatch, measure_group):
    monkeypatch.setattr(bench.roof, "measured", lambda *_: CEILINGS)
    monkeypatch.setattr(bench, "Torch", lambda *_, **__: NoTorch())
    monkeypatch.setattr(bench, "measure_group", measure_group)


def rows_of(group, reason=None, methods=None):
    found = []
    for method in (contest.PLAIN, *group.methods)[:methods]:
        about = {"network": group.subject.name, "batch": group.start, "dtype": group.dtype}
        figures = {} if reason else {"ms": 1.0, "awaited_ms": 1.0, "times_faster": 1.0, "flops": 8, "least_bytes": 2}
        row = contest.row_of(method, about) | {"reason": reason, "difference": 0.0, "difference_default": 0.0} | figures
        found.append(row | {"compile_s": 1.0, "temporary_MB": 1.0})
    return found


def test_when_no_minute_is_left_what_was_left_out_is_written(monkeypatch, tmp_path, capsys):
    fake(monkeypatch, lambda *_: pytest.fail("began something new"))
    assert bench.main(["--quick", "--minutes", "1e-9", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()  # and no picture
    written = json.loads(path.read_text())
    assert [name.split(",")[0] for name in written["left_out"]] == ["1-1-1-1", "8-64-64-1", "GPT d=16"]
    assert "Left out: 1-1-1-1, float32" in capsys.readouterr().out


def test_a_run_that_was_killed_goes_on_with_the_groups_that_it_had_not_finished(monkeypatch, tmp_path):
    begun = []

    def killed(group, terms):
        begun.append(str(group))
        for row in rows_of(group, methods=3 if len(begun) == 2 else None):
            terms.keep(row)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return group.start

    options = ["--quick", "--only", "-1", "--out", str(tmp_path)]
    fake(monkeypatch, killed)
    with pytest.raises(KeyboardInterrupt):
        bench.main(options)
    (path,) = tmp_path.iterdir()
    rows = json.loads(path.read_text())["rows"]
    assert sum(row["network"] == "8-64-64-1" for row in rows) == 3
    assert rows[0]["share_of_ceiling"] == 500.0  # ceilings stand in the file from the first row on
    assert bench.main([*options, "--resume"]) == 0
    assert begun == ["1-1-1-1, float32", "8-64-64-1, bfloat16", "8-64-64-1, bfloat16"]
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 24 == len({bench.key_of(row) for row in rows})


@pytest.mark.parametrize(("what", "value"), [("commit", "abc1234"), ("mode", "whole"), ("device", "gpu: another")])
def test_figures_of_other_circumstances_are_not_gone_on_with(monkeypatch, tmp_path, capsys, what, value):
    fake(monkeypatch, lambda *_: pytest.fail("began all the same"))
    about = measure.stamp() | {"mode": "quick"} | {what: value}
    measure.save(bench.NAME, [], tmp_path, stamp=about)
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--quick", "--resume", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert len(said.splitlines()) == 1
    assert f"another {what}, {value}" in said


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"rows": 1, "stamp": 2}'])
def test_a_file_that_is_none_of_ours_is_said_so(tmp_path, text):
    path = tmp_path / "accelerator-cpu.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a file of this benchmark"):
        bench.resumed(path, measure.stamp(), [])
    assert bench.resumed(tmp_path / "absent.json", {}, []) == []


def test_a_group_is_finished_when_each_method_has_its_last_row():
    group = bench.work("quick", NoTorch())[2]
    rows = rows_of(group)
    assert bench.finished(group, rows)
    assert bench.finished(group, [*rows[:-1], rows[-1] | {"reason": "out of memory"}])
    assert not bench.finished(group, rows[:-1])
    assert not bench.finished(group, [row | {"dtype": "bfloat16"} for row in rows])
    for cut in (contest.PENDING, contest.LEFT_OUT):
        assert not bench.finished(group, [*rows[:-1], rows[-1] | {"reason": cut}])


def test_a_write_that_is_cut_short_leaves_the_file_as_it_was(monkeypatch, tmp_path):
    path = tmp_path / "figures.json"
    measure.replace(path, "before")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        measure.replace(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_each_kind_of_device_has_a_file_of_its_own(monkeypatch, tmp_path):
    for kind in ("NVIDIA H200", "TPU v5 lite"):
        monkeypatch.setattr(jax, "devices", lambda kind=kind: [SimpleNamespace(device_kind=kind)])
        measure.save("accelerator", [], tmp_path, stamp={"a": 1})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "accelerator-nvidia-h200.json",
        "accelerator-tpu-v5-lite.json",
    ]


# ---- pictures


def made_up(seed=0):
    """Rows as an accelerator could give them, every method of every group."""
    chance = random.Random(seed)
    for group in bench.work("accelerator", NoTorch()):
        for row in rows_of(group):
            figures = {"ms": chance.uniform(1, 9), "times_faster": 10 ** chance.uniform(-2, 1)}
            figures |= {"intensity": 10 ** chance.uniform(0, 4), "gflops": 10 ** chance.uniform(3, 5)}
            yield row | (
                figures if chance.random() < 0.8 else {"reason": "out of memory: 9", "ms": None, "times_faster": None}
            )


def test_a_panel_has_ten_rows_at_most_and_none_that_never_was_timed():
    rows = [row for row in made_up() if not row["method"].startswith("torch")]
    absent = [
        row | {"method": "torch eager", "times_faster": None, "ms": None, "reason": "no torch"} for row in rows[:1]
    ]
    cells = plots.panels([*rows, *absent])
    assert max(map(len, cells.values())) == 9  # of nine methods beside the baseline
    assert max(map(len, plots.panels(list(made_up())).values())) == plots.MOST_ROWS
    shown = [row for cell in cells.values() for row in cell]
    assert {row["method"] for row in shown} & {"torch eager", "jax.grad"} == set()
    assert {id(row) for row in rows if row.get("times_faster") and row["method"] != "jax.grad"} <= {
        id(row) for row in shown
    }
    quantities = [plots.ordered(list(cell)) for cell in cells.values()]
    assert all(names.index("jbp.norms") == len(names) - 1 for names in quantities if "jbp.norms" in names)


def test_letters_are_clear_of_one_another_and_of_the_points():
    chance = random.Random(1)
    for _ in range(200):
        points, taken = ([(chance.random(), chance.random()) for _ in range(n)] for n in (7, 20))
        placed = plots.apart(points, taken, wide=0.2, high=0.1)
        for i, (x, y) in enumerate(placed):
            assert x == points[i][0]
            assert y <= points[i][1]
            for other in [*taken, *placed[:i]]:
                assert abs(x - other[0]) >= 0.2 or abs(y - other[1]) > 0.1 - 1e-9


def test_of_ours_the_fastest_is_shown_beside_the_baseline():
    rows = list(made_up())
    found = plots.best(rows)
    assert len({(r["network"], r["dtype"], r["quantity"], r["method"] == "jax.grad") for r in found}) == len(found)
    for row in found:
        assert row["method"].startswith(("jbp", "jax.grad"))
        same = [r["ms"] for r in rows if bench.key_of(r)[:2] == bench.key_of(row)[:2] and r["quantity"] == row["quantity"]
                and r["method"].startswith("jbp") and r["ms"]]  # fmt: skip
        assert row["method"] == "jax.grad" or row["ms"] == min(same)


def test_pictures_are_drawn_from_the_file_alone_and_name_device_date_and_commit(tmp_path, monkeypatch):
    about = {"device": "gpu: NVIDIA H200", "date": "2026-11-28", "commit": "abc1234", "jax": "0.11.2"}
    products = {"float32": 4e14, "float32 highest": 5e13, "bfloat16": 8e14}
    tops = {"bandwidth": {"float32": 4e12, "bfloat16": 4e12}, "products": products}
    path = tmp_path / "accelerator-nvidia-h200.json"
    captions = []
    monkeypatch.setattr(
        measure, "caption", lambda stamp, of=measure.caption: captions.append(of(stamp)) or captions[-1]
    )
    measure.replace(path, measure.as_lines({"stamp": about, "ceilings": tops, "rows": list(made_up())}))
    assert bench.main(["--plot", str(path)]) == 0
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".png", ".png"]
    assert captions == ["NVIDIA H200 · jax 0.11.2 · 2026-11-28 · commit abc1234"]
    measure.replace(path, measure.as_lines({"stamp": about, "ceilings": tops, "rows": []}))
    assert plots.draw(path) == []


def test_what_is_everywhere_is_said_once():
    rows = [
        {"network": n, "dtype": "float32", "method": m, "reason": r} for n in "ab" for m, r in (("x", "gone"), ("y", n))
    ]
    assert bench.remarks(rows, "reason") == [
        {"method": "x", "reason": "gone", "where": "everywhere"},
        {"method": "y", "reason": "a", "where": "a, float32"},
        {"method": "y", "reason": "b", "where": "b, float32"},
    ]
