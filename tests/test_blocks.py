"""Data on a disk: every row once an epoch in a drawn order, the same for any number of readers, and resumable anywhere."""

import dataclasses
import errno
import itertools
import os
import threading

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxbackprop as jbp
from jaxbackprop.data import reading
from jaxbackprop.training import epochs, evaluate, steps

NETWORK = jbp.skip_mlp((3, 5, 4, 2), "tanh", bias=True)
X = np.random.default_rng(0).normal(size=(203, 3)).astype("float32")
Y = np.sin(X[:, :2])


def numbered(lengths, lanes=1, reads=None):
    """Blocks whose rows are 0, 1, 2, …, so that an order can be read off."""
    ends = np.cumsum(lengths)

    def read(i):
        if reads is not None:
            reads.append(i)
        x = np.arange(ends[i] - lengths[i], ends[i], dtype=np.float32)[:, None]
        return x, 10 * x

    return jbp.blocks.Blocks(tuple(lengths), read, "numbers", 8 * max(lengths), lanes)


def batches(data, batch_size, seed=0, **more):
    """Each batch's rows, in its order, padding left out."""
    found = []
    for span in reading.spans(data, batch_size, seed, **more):
        part, lanes = more.get("part", reading.Part()), data.lanes
        weight = np.split(span.weight.reshape(len(span.x), lanes, -1), part.of, axis=1)[part.share]
        weight = weight.reshape(len(span.x), -1)
        np.testing.assert_array_equal(span.y[weight > 0], 10 * span.x[weight > 0])
        found += [span.x[i][weight[i] > 0, 0].astype(int).tolist() for i in range(span.steps)]
        assert not span.weight[span.steps :].any()
    return found


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(reading, "WINDOW_BYTES", 300)  # of 12 bytes a row, its place in the order included
    monkeypatch.setattr(reading, "SPAN_STEPS", 3)


@pytest.fixture
def pair(tmp_path):
    paths = tmp_path / "ä x.npy", tmp_path / "y.npy"
    for path, array in zip(paths, (X, Y), strict=True):
        np.save(path, array)
    return jbp.blocks.open_npy(*paths)


uneven = st.lists(st.integers(1, 17), min_size=1, max_size=40)


@given(uneven, st.sampled_from([1, 2, 4]), st.integers(1, 5), st.integers(0, 2**64 - 1))
def test_every_row_is_in_one_batch_and_batches_are_full_but_for_the_last(lengths, lanes, each, seed):
    data = numbered(lengths, lanes)
    found = batches(data, lanes * each, seed)
    assert sorted(np.concatenate(found).tolist()) == list(range(sum(lengths)))
    assert len(found) == reading.steps_of(data, lanes * each)
    assert all(len(batch) == lanes * each for batch in found[:-2])
    assert max(map(len, found)) <= lanes * each


@settings(max_examples=25)
@given(uneven, st.sampled_from([1, 2, 4]), st.integers(0, 60))
def test_reading_goes_on_from_any_batch_to_the_same_ones(lengths, lanes, first):
    data = numbered(lengths, lanes)
    whole = batches(data, 4)
    assert batches(data, 4, first=min(first, len(whole))) == whole[first:]


def test_windows_that_are_done_are_not_read_again(small_windows):
    reads = []
    data = numbered([10] * 40, reads=reads)
    whole = batches(data, 4)
    reads.clear()
    assert batches(data, 4, first=90) == whole[90:]
    assert len(reads) <= 7  # 40 rows, and the window that holds the first of them


def test_the_order_is_drawn_anew_by_the_seed_and_mixes_rows_within_and_across_blocks(small_windows):
    data = numbered([10] * 40)
    first, again, other = (np.concatenate(batches(data, 4, seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.05
    assert np.mean(np.diff(first) == 1) < 0.1
    neighbours = np.mean(np.abs(np.diff(first)) < 10)
    assert neighbours < 0.7  # a window holds several blocks


@pytest.mark.parametrize("of", [2, 4])
def test_parts_read_their_own_lanes_and_together_are_the_whole(of, small_windows):
    reads = [[] for _ in range(of)]
    lengths = [7] * 64
    whole = batches(numbered(lengths, lanes=4), 8)
    parts = [batches(numbered(lengths, 4, r), 8, part=reading.Part(i, of)) for i, r in enumerate(reads)]
    assert [[*itertools.chain(*rows)] for rows in zip(*parts, strict=True)] == whole
    for own in reads:
        assert len(set(own)) <= 64 // of + 2  # a block at a lane's border is opened from both sides
        assert len(own) <= 64 // of + 4


def test_what_is_held_is_a_window_and_a_block(small_windows):
    for lanes in (1, 4):
        for lane in range(lanes):
            for window in reading._grouped(numbered([6] * 100, lanes), 0, lane):
                assert sum(stop - start for _, start, stop in window) <= 300 / 12 / lanes + 6


def test_reading_ahead_is_bounded_in_order_and_tells_what_went_wrong():
    made = []

    def items():
        for i in range(100):
            made.append(threading.current_thread().name)
            if i == 7:
                raise ValueError("row 7 is bad")
            yield i

    reader = reading.read_ahead(items(), depth=2)
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    assert len(made) <= 6
    assert all(name.startswith("reading") for name in made)
    with pytest.raises(ValueError, match="row 7 is bad"):
        list(reader)
    before = threading.active_count()
    reader = reading.read_ahead(iter(range(100)))
    next(reader)
    reader.close()
    assert threading.active_count() <= before


def test_a_pair_of_npy_files_is_mapped(pair, tmp_path):
    assert pair.examples == 203
    assert pair.lanes == 8
    rows = [pair.read(i) for i in range(len(pair.lengths))]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in rows]), X)
    np.testing.assert_array_equal(np.concatenate([y for _, y in rows]), Y)
    np.save(tmp_path / "ints.npy", np.arange(609).reshape(203, 3).astype(np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(203) % 3)
    x, y = jbp.blocks.open_npy(tmp_path / "ints.npy", tmp_path / "labels.npy").read(1)
    assert (x.dtype, y.dtype, x[0].tolist(), y.tolist()) == ("float32", "int64", [9, 10, 11], [0, 1, 2])
    np.save(tmp_path / "flat.npy", Y[:, 0].astype("float64"))
    assert jbp.blocks.open_npy(tmp_path / "ints.npy", tmp_path / "flat.npy").like[1].shape == (1, 1)


@pytest.mark.parametrize("dtype", ["float64", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_training_is_the_same_from_numbers_stored_otherwise(dtype, order, pair, tmp_path):
    paths = tmp_path / "other x.npy", tmp_path / "other y.npy"
    for path, array in zip(paths, (X, Y), strict=True):
        np.save(path, np.asarray(array, dtype, order=order))
    found, expected = fit(jbp.blocks.open_npy(*paths)), fit(pair)
    assert jax.tree.all(jax.tree.map(np.array_equal, found[0].params, expected[0].params))


def test_64_bit_rows_stay_so_where_they_are_on(tmp_path):
    paths = tmp_path / "x.npy", tmp_path / "y.npy"
    for path, array in zip(paths, (X, Y + 1e-12 * X[:, :2].astype("float64")), strict=True):
        np.save(path, array.astype("float64"))
    data = jbp.blocks.open_npy(*paths)
    with jax.enable_x64(True):
        _, history = fit(data, epochs=1, batch_size=203, optimizer=optax.sgd(0.0))
        params = steps.drawn(NETWORK, jax.random.key(0), "float64")
        loss = jbp.plain_loss(NETWORK, "huber")(params, *map(jnp.asarray, map(np.load, paths)))
    assert history[0]["loss"] == pytest.approx(float(loss), rel=1e-14)


def test_whole_numbers_that_do_not_fit_are_refused_and_not_cut(pair):
    for data in ((X, np.arange(203) + 2**32), jbp.blocks.mapped(pair, lambda x, y: (x, np.full(len(y), -(2**31) - 1)))):
        with pytest.raises(ValueError, match=r"data: y holds [-0-9,]+ to [-0-9,]+, beyond int32: give floats"):
            fit(data, loss="softmax_cross_entropy")
    kinds = [np.ones((3, 2), int), np.full((3, 2), 1.5)]
    mixed = jbp.blocks.Blocks((3, 3), lambda i: (X[:3], kinds[i]), "mixed", 99)
    with pytest.raises(ValueError, match="block 1 of data: y holds float64, where block 0 holds whole numbers"):
        fit(mixed, batch_size=2)


def test_batches_that_are_handed_over_are_aligned_and_share_no_memory(pair, small_windows):
    # JAX takes aligned memory as it is: were a batch's written to again, training would see it
    found = list(reading.spans(pair, 16, 0))
    assert len(found) > 3
    assert all(a.ctypes.data % 64 == 0 for span in found for a in (span.x, span.y))
    for one, other in itertools.combinations(found, 2):
        assert not np.shares_memory(one.x, other.x)
        assert not np.shares_memory(one.y, other.y)


def test_spilled_rows_are_read_once_and_leave_no_file(pair, tmp_path):
    reads = []
    counted = dataclasses.replace(pair, read=lambda i: (reads.append(i), pair.read(i))[1])
    kept = jbp.blocks.spilled(counted, tmp_path)
    reads.clear()  # the first block was looked at
    before = sorted(tmp_path.iterdir())
    found, expected = fit(kept, epochs=3), fit(pair, epochs=3)
    assert sorted(reads) == list(range(len(pair.lengths)))
    assert jax.tree.all(jax.tree.map(np.array_equal, found[0].params, expected[0].params))
    assert kept.fingerprint == pair.fingerprint
    assert sorted(tmp_path.iterdir()) == before


def test_blocks_that_do_not_fit_the_first_are_not_spilled(tmp_path):
    targets = [np.ones(3, int), np.full(3, 1.5), np.ones(2, int)]
    kept = jbp.blocks.spilled(jbp.blocks.Blocks((3, 3, 3), lambda i: (X[:3], targets[i]), "mixed", 99), tmp_path)
    assert kept.read(0)[1].tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="Cannot cast"):
        kept.read(1)
    with pytest.raises(ValueError, match=r"block 2 has rows of shape \(2,\): expected \(3,\)"):
        kept.read(2)


def test_what_is_no_blocks_is_refused_by_name(pair, tmp_path):
    for call, message in (
        (lambda: jbp.blocks.mapped((X, Y), lambda x, y: (x, y)), "blocks is a tuple: expected Blocks"),
        (lambda: jbp.blocks.mapped(pair, 2), "function is a int: expected a function of"),
        (lambda: jbp.blocks.spilled((X, Y), tmp_path), "blocks is a tuple: expected Blocks"),
    ):
        jaxtyping.config.update("jaxtyping_disable", True)  # the message is ours
        try:
            with pytest.raises(TypeError, match=message):
                call()
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)


def test_spilling_where_there_is_no_room_is_refused(pair, tmp_path, monkeypatch):
    def full(_file, _begin, _size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        jbp.blocks.spilled(pair, tmp_path / "nowhere")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: 203 rows, 0 MB do not go into"):
        jbp.blocks.spilled(pair, tmp_path)


def test_what_fills_a_batch_has_a_finite_loss_too(tmp_path):
    """0 · ∞ is not 0: a loss of one's own need not be finite at zeros."""
    x, y = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(x, 1 + X[:21, :1] ** 2)
    np.save(y, 1 + Y[:21, :1] ** 2)
    relative = (lambda yhat, y: jnp.sum((yhat / y - 1) ** 2), lambda yhat, y: 2 * (yhat / y - 1) / y)
    network, data = jbp.mlp((1, 3, 1), "tanh"), jbp.blocks.open_npy(x, y)
    _, history = fit(data, network=network, loss=relative, batch_size=16, validation=data)
    assert np.isfinite([history[-1]["loss"], history[-1]["validation_loss"]]).all()


def test_large_whole_numbers_keep_their_differences_and_row_numbers_of_pandas_are_left_out(tmp_path):
    time = 1_700_000_000 + np.arange(40)
    table = {
        "time": time,
        "small": np.arange(40, dtype="int8"),
        "price": 3_000_000_000 + time,
        "__index_level_0__": time,
    }
    data = jbp.blocks.open_parquet(parquet_folder(tmp_path / "p", [table]))
    x, y = data.read(0)
    assert (data.features, data.target) == (("time", "small"), "price")
    assert (x.dtype, x[:, 0].tolist(), y.tolist()) == ("float64", time.tolist(), table["price"].tolist())
    only_small = {name: table[name] for name in ("small", "price")}
    assert jbp.blocks.open_parquet(parquet_folder(tmp_path / "s", [only_small])).like[0].dtype == "float32"
    np.save(tmp_path / "x.npy", time[:, None])
    np.save(tmp_path / "y.npy", time)
    x, y = jbp.blocks.open_npy(tmp_path / "x.npy", tmp_path / "y.npy").read(0)
    assert (x[0], y[0]) == (time[0], time[0])


def test_files_that_are_no_such_pair_are_refused_in_one_line(pair, tmp_path):
    def refused(x, y, message):
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            jbp.blocks.open_npy(tmp_path / x, tmp_path / y)
        assert "\n" not in str(error.value)

    refused("none.npy", "y.npy", "no file .*none.npy")
    (tmp_path / "text.npy").write_text("x,y\n1,2\n")
    refused("text.npy", "y.npy", "text.npy cannot be mapped as a .npy file")
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    refused("words.npy", "y.npy", "holds <U1: expected numbers")
    np.save(tmp_path / "objects.npy", np.array([{}, 1], dtype=object))
    refused("objects.npy", "y.npy", "objects.npy")
    np.save(tmp_path / "short.npy", Y[:5])
    refused("ä x.npy", "short.npy", r"has shape \(203, 3\), .*\(5, 2\): expected")
    np.save(tmp_path / "empty.npy", X[:0])
    refused("empty.npy", "empty.npy", "expected")
    refused("short.npy", "nothing", "nothing")


def parquet_folder(path, tables, **more):
    import pyarrow
    import pyarrow.parquet

    path.mkdir()
    for i, table in enumerate(tables):
        pyarrow.parquet.write_table(pyarrow.table(table), path / f"part-{i}.parquet", **more)
    return path


def test_a_folder_of_parquet_files_is_read_by_row_groups(tmp_path):
    columns = {"a": X[:, 0], "price": Y[:, 0], "b": X[:, 1].astype("float64")}
    halves = [{name: values[part] for name, values in columns.items()} for part in (slice(120), slice(120, None))]
    folder = parquet_folder(tmp_path / "häuser", halves, row_group_size=50)
    data = jbp.blocks.open_parquet(folder, target="price")
    assert data.lengths == (50, 50, 20, 50, 33)
    rows = [data.read(i) for i in range(5)]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in rows]), X[:, :2])
    np.testing.assert_array_equal(np.concatenate([y for _, y in rows]), Y[:, :1])
    assert sorted(np.concatenate([s.x[s.weight > 0] for s in reading.spans(data, 16, 0)])[:, 0]) == sorted(X[:, 0])
    assert jbp.blocks.open_parquet(folder).like[0].shape == (1, 2)  # the last column is the target


def test_a_target_of_whole_numbers_in_one_file_and_fractions_in_another_is_of_fractions(tmp_path):
    columns = {"a": np.arange(3.0), "y": np.arange(3)}, {"a": np.arange(3), "y": np.arange(3) / 2}
    data = jbp.blocks.open_parquet(parquet_folder(tmp_path / "p", columns))
    assert [data.read(i)[1].tolist() for i in range(2)] == [[[0.0], [1.0], [2.0]], [[0.0], [0.5], [1.0]]]


@pytest.mark.parametrize(
    ("tables", "target", "message"),
    [
        ([], None, "holds no .parquet files"),
        ([{"a": [1.0], "y": [2.0]}, {"b": [1.0], "y": [2.0]}], None, r"part-1.parquet has the columns \['b', 'y'\]"),
        ([{"a": [1.0], "y": [2.0]}], "z", "and the target 'z'"),
        ([{"a": [1.0, None], "y": [2.0, 1.0]}], None, "row group 0: column 'a' has 1 missing value"),
        ([{"a": ["one"], "y": [2.0]}], None, "column 'a' holds string: expected numbers"),
    ],
)
def test_parquet_that_cannot_be_used_is_refused_with_its_place(tables, target, message, tmp_path):
    folder = parquet_folder(tmp_path / "folder", tables)
    with pytest.raises(ValueError, match=message):
        _ = jbp.blocks.open_parquet(folder, target).like


@pytest.mark.parametrize("spoil", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: c[:60] + b"\0" * 40 + c[100:]])
def test_a_damaged_parquet_file_is_refused_by_name(spoil, tmp_path):
    folder = parquet_folder(tmp_path / "folder", [{"a": np.arange(100.0), "y": np.arange(100.0)}])
    path = folder / "part-0.parquet"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=r"part-0.parquet cannot be read as Parquet") as error:
        jbp.blocks.open_parquet(folder).read(0)
    assert "\n" not in str(error.value)


def fit(data, epochs=3, batch_size=16, optimizer=None, loss="huber", network=NETWORK, **more):
    optimizer = optimizer or optax.adam(0.01)
    return jbp.fit(network, loss, optimizer, data, epochs=epochs, batch_size=batch_size, key=jax.random.key(0), **more)


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((state.params, state.opt_state, state.step))]


def test_training_from_a_disk_takes_plain_steps_over_the_batches_that_were_drawn(pair):
    """Against the steps written out: jax.grad of the mean loss of each batch, and the optimizer."""
    optimizer = optax.adam(0.01)
    state, history = fit(pair, epochs=2, optimizer=optimizer)
    params = steps.drawn(NETWORK, jax.random.key(0))
    opt_state, key = optimizer.init(params), steps.two_keys(jax.random.key(0))[0]
    gradient = jax.jit(jax.value_and_grad(jbp.plain_loss(NETWORK, "huber")))
    losses = []
    for _ in range(2):
        values = []
        for span in reading.spans(pair, 16, epochs._seed(key)):
            for x, y, weight in list(zip(span.x, span.y, span.weight, strict=True))[: span.steps]:
                value, grads = gradient(params, x, y, weight)
                updates, opt_state = optimizer.update(grads, opt_state, params)
                params = optax.apply_updates(params, updates)
                values += [float(value)] * int(weight.sum())
        losses.append(np.mean(values))
        key = steps.next_key(key)
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)
    np.testing.assert_allclose([row["loss"] for row in history], losses, rtol=1e-5)
    assert int(state.step) == 2 * 13


@pytest.mark.parametrize("when", [(1, 3), (2, 9), (3, 12)])
def test_training_from_a_disk_goes_on_in_mid_epoch_bit_for_bit(when, pair, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SPAN_STEPS", 3)
    whole, history = fit(pair, validation=(X, Y))
    folder = jbp.Checkpoints(tmp_path / "kept")
    stopped, before = fit(pair, checkpoints=folder, validation=(X, Y), monitor=lambda e, step, _: (e, step) == when)
    assert (len(before), int(stopped.step)) == (when[0] - 1, (when[0] - 1) * 13 + when[1])
    monkeypatch.setattr(reading, "SPAN_STEPS", 5)  # where spans end makes no difference
    state, again = fit(pair, checkpoints=folder, validation=(X, Y))
    assert bits(state) == bits(whole)
    assert [row["loss"] for row in again] == [row["loss"] for row in history]


def test_figures_from_a_disk_are_those_of_memory(pair, monkeypatch):
    monkeypatch.setattr(evaluate, "EVALUATED_ROWS", 64)  # the last of four is padded
    params = jbp.init(NETWORK, jax.random.key(0))
    for loss in ("half_squared_error", "huber"):
        in_memory = jbp.evaluate(NETWORK, loss, params, (X, Y))
        assert jbp.evaluate(NETWORK, loss, params, pair) == pytest.approx(in_memory, rel=1e-6)
    labels = jbp.blocks.mapped(pair, lambda x, y: (x, (y[:, 0] > 0).astype(np.int32)))
    in_memory = jbp.evaluate(NETWORK, "softmax_cross_entropy", params, (X, (Y[:, 0] > 0).astype(int)))
    assert jbp.evaluate(NETWORK, "softmax_cross_entropy", params, labels) == pytest.approx(in_memory, rel=1e-6)


@pytest.mark.parametrize(
    ("spoil", "loss", "message"),
    [
        (
            lambda x, y: (np.where(x == X[100], np.nan, x), y),
            "huber",
            r"block \d+ of data: x holds NaN or infinity in 1 rows",
        ),
        (lambda x, y: (x, np.where(x[:, :2] == X[100, :2], np.inf, y)), "huber", r"block \d+ of data: y holds NaN"),
        (lambda x, y: (x[:, :2], y), "huber", r"x has shape \(\d+, 2\), expected \(b, 3\)"),
        (
            lambda x, y: (x, np.full(len(x), 2, np.int32)),
            "softmax_cross_entropy",
            "classes 2 to 2, the network has 2 outputs",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_refused_with_their_block(spoil, loss, message, pair):
    with pytest.raises(ValueError, match=message):
        fit(jbp.blocks.mapped(pair, spoil), loss=loss)


def test_a_batch_size_that_the_lanes_do_not_divide_takes_fewer_lanes(pair):
    state, _ = fit(pair, batch_size=6, epochs=1)  # of 8 lanes 2
    assert int(state.step) == 34
    assert int(fit(pair, batch_size=10_000, epochs=1)[0].step) == 1


def test_a_batch_larger_than_all_rows_keeps_the_lanes_and_is_one_step(pair):
    """In as many lanes as ever, so that devices and processes still divide it; what it lacks counts for nothing."""
    for asked, devices, filled in (
        (10_000, 1, 208),
        (10_000, 2, 208),
        (1002, 3, 204),
        (208, 1, 208),
        (16, 1, 16),
        (6, 4, 6),
    ):
        assert reading.filled_batch(pair, asked, devices) == filled
    assert reading.shared(pair, 208, processes=4, devices=8).lanes == 8
    optimizer = optax.sgd(0.1)
    state, _ = fit(pair, batch_size=10_000, epochs=1, optimizer=optimizer)
    params = steps.drawn(NETWORK, jax.random.key(0))
    gradient = jax.grad(jbp.plain_loss(NETWORK, "huber"))(params, X, Y)
    params = optax.apply_updates(params, optimizer.update(gradient, optimizer.init(params))[0])
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3])
def test_a_window_of_narrow_rows_holds_its_order_too(width, monkeypatch):
    """Of the narrowest rows the order takes as much as the rows: all a lane holds stays within its share."""
    monkeypatch.setattr(reading, "WINDOW_BYTES", 4000)
    rows = [np.zeros((50, width), np.float32), np.zeros(50, np.int32)]
    data = jbp.blocks.Blocks((50,) * 100, lambda _: tuple(rows), "narrow", sum(a.nbytes for a in rows), lanes=2)
    for x, y, order in reading._windows(data, 0, 1, 0):
        a_block = 50 * (x[:1].nbytes + y[:1].nbytes)
        assert x.nbytes + y.nbytes + order.nbytes <= 2000 + a_block + 4 * 50


@given(uneven, st.integers(1, 30))
def test_rows_in_order_are_each_read_once_and_padded_at_the_end(lengths, rows):
    reads = []
    found = list(reading.in_order(numbered(lengths, lanes=2, reads=reads), rows))
    assert [i for i in reads if i] == list(range(1, len(lengths)))  # of block 0 the shapes are looked at before
    assert {len(x) for x, _, _ in found} == {rows}
    real = np.concatenate([x[weight > 0, 0] for x, _, weight in found])
    np.testing.assert_array_equal(real, np.arange(sum(lengths)))
    np.testing.assert_array_equal(np.concatenate([y[weight > 0, 0] for _, y, weight in found]), 10 * real)


def test_figures_need_no_order_drawn(pair, monkeypatch):
    monkeypatch.setattr(reading, "spans", None)
    monkeypatch.setattr(np.random, "default_rng", None)
    assert jbp.evaluate(NETWORK, "huber", jbp.init(NETWORK, jax.random.key(0)), pair)["rmse"] > 0


def test_answers_stand_beside_their_targets_from_a_disk_as_from_memory(pair, monkeypatch):
    monkeypatch.setattr(evaluate, "EVALUATED_ROWS", 64)
    params = jbp.init(NETWORK, jax.random.key(0))
    labels = jbp.blocks.mapped(pair, lambda x, y: (x, (y[:, 0] > 0).astype(np.int32)))
    for ours, theirs in zip(
        evaluate.answers(NETWORK, params, pair), (Y, jbp.predict(NETWORK, params, jnp.asarray(X))), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    classes = np.asarray(jbp.predict(NETWORK, params, jnp.asarray(X))).argmax(1)
    for ours, theirs in zip(evaluate.answers(NETWORK, params, labels), ((Y[:, 0] > 0), classes), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_draws_each_batch_from_all_examples_needs_them_in_memory(pair):
    with pytest.raises(ValueError, match="draws each batch from all examples: give data in memory"):
        fit(pair, gradient=jbp.private_gradient(1.0, 1.0))


def test_a_checkpoint_of_other_data_on_a_disk_is_refused(tmp_path):
    folders = tmp_path / "one", tmp_path / "other"
    tables = [{"a": X[:, 0] + change, "y": Y[:, 0]} for change in (0, 1)]
    for folder, change, table in zip(folders, (0, 1), tables, strict=True):
        folder.mkdir()
        np.save(folder / "x.npy", X + change)
        np.save(folder / "y.npy", Y[:, 0])
        parquet_folder(folder / "parquet", [table])
    opened = (
        lambda folder: jbp.blocks.open_npy(folder / "x.npy", folder / "y.npy"),
        lambda folder: jbp.blocks.open_parquet(folder / "parquet"),
    )
    for i, (open_data, width) in enumerate(zip(opened, (3, 1), strict=True)):
        kept, network = jbp.Checkpoints(tmp_path / f"kept {i}"), jbp.mlp((width, 1))
        fit(open_data(folders[0]), epochs=1, network=network, checkpoints=kept)
        fit(open_data(folders[0]), epochs=1, network=network, checkpoints=kept)
        with pytest.raises(ValueError, match="made for another data set"):
            fit(open_data(folders[1]), epochs=1, network=network, checkpoints=kept)


def test_a_checkpoint_of_another_order_of_reading_is_refused(pair, tmp_path, monkeypatch):
    kept = jbp.Checkpoints(tmp_path / "kept")
    fit(pair, epochs=1, checkpoints=kept)
    monkeypatch.setattr(reading, "ORDER", "another order")
    with pytest.raises(ValueError, match=r"read in windows that count their order, and this is .* another order"):
        fit(pair, epochs=1, checkpoints=kept)


def test_blocks_of_another_length_than_they_say_are_refused(pair):
    with pytest.raises(ValueError, match=r"block \d+ of data has 2 rows, its length is said to be 3"):
        fit(jbp.blocks.mapped(pair, lambda x, y: (x[:2], y[:2])))


def test_data_without_rows_is_refused():
    for lengths in ((), (3, 0)):
        with pytest.raises(ValueError, match="holds no rows"):
            jbp.blocks.Blocks(lengths, lambda i: (X, Y), "nothing", 1)


def test_training_from_a_disk_learns(pair):
    _, history = fit(pair, epochs=30, validation=pair)
    assert history[-1]["validation_loss"] < 0.2 * history[0]["validation_loss"]
    assert jnp.isfinite(history[-1]["validation_rmse"])
