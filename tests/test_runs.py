"""A run's folder: where it goes, what is refused, and that what is read back is what was written."""

import io
import json
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxbackprop as jbp
from jaxbackprop.training import runs

NETWORK = jbp.dense_mlp((3, 5, 4, 2), "gelu", bias=True)
HISTORY = [
    {"epoch": i, "loss": 1 / i, "seconds": 0.1 * i, "validation_loss": 2 / i, "validation_accuracy": 1 - 0.2 / i}
    for i in (1, 2, 3)
]


@pytest.fixture
def folder(tmp_path):
    """A finished run, as `jaxbackprop train` leaves it, without its picture."""
    runs.write_config(tmp_path / "run", {"data": "žluťoučký.csv", "network": runs.network_to_dict(NETWORK)})
    runs.write_params(tmp_path / "run", params())
    return tmp_path / "run"


def params(network=NETWORK, seed=0):
    return jbp.init(network, jax.random.key(seed))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- where a run goes


def test_the_next_folder_is_the_first_that_does_not_exist(tmp_path):
    assert runs.take_next(tmp_path / "wine") == tmp_path / "wine-1"
    (tmp_path / "wine-2").touch()  # a file is in the way as well
    (tmp_path / "wine-4").mkdir()
    assert runs.take_next(tmp_path / "wine") == tmp_path / "wine-3"
    assert runs.take_next(tmp_path / "digits") == tmp_path / "digits-1"
    assert names(tmp_path) == ["digits-1", "wine-1", "wine-2", "wine-3", "wine-4"], "it is made"


def test_a_folder_that_is_missing_or_empty_is_free(tmp_path):
    runs.require_free(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    runs.require_free(tmp_path / "empty")
    runs.write_config(tmp_path / "empty", {"a": 1})
    assert names(tmp_path / "empty") == ["config.json"]


def test_a_folder_that_holds_anything_is_refused(folder, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".hidden").write_text("mine")
    for path, message in (
        (tmp_path / "file", "file is a file: give --out a folder that does not exist yet"),
        (tmp_path / "other", "other holds other files: nothing is overwritten"),
        (folder, "run holds another run: nothing is overwritten, give --out another folder"),
    ):
        before = (folder / "config.json").read_bytes()
        with pytest.raises(ValueError, match=message):
            runs.require_free(path)
        with pytest.raises(ValueError, match=message):
            runs.write_config(path, {"a": 1})
        assert (folder / "config.json").read_bytes() == before
    assert (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path / "other") == [".hidden"]


def test_a_path_below_a_file_is_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file"):
        runs.require_free(tmp_path / "file" / "run")


# ---- what is written


def test_what_was_written_is_read_back_exactly(folder):
    config, network, weights = runs.read_run(folder)
    assert config["data"] == "žluťoučký.csv"
    assert "žluťoučký" in (folder / "config.json").read_text(encoding="utf-8"), "a person reads it too"
    assert network == NETWORK
    assert jax.tree.structure(weights) == jax.tree.structure(params())
    for read, wrote in zip(jax.tree.leaves(weights), jax.tree.leaves(params()), strict=True):
        assert read.dtype == wrote.dtype == jnp.float32
        np.testing.assert_array_equal(read, wrote)
    x = jnp.linspace(-1, 1, 12).reshape(4, 3)
    np.testing.assert_array_equal(jbp.predict(network, weights, x), jbp.predict(NETWORK, params(), x))


def test_params_npz_holds_each_weight_by_layer_and_source(folder):
    with np.load(folder / "params.npz", allow_pickle=False) as flat:
        assert {name: flat[name].shape for name in flat.files} == {
            "h0/x": (5, 3),
            "h0/bias": (5,),
            "h1/h0": (4, 5),
            "h1/x": (4, 3),
            "h1/bias": (4,),
            "yhat/h1": (2, 4),
            "yhat/h0": (2, 5),
            "yhat/x": (2, 3),
            "yhat/bias": (2,),
        }
        np.testing.assert_array_equal(flat["yhat/h0"], params()["yhat"]["h0"])


@pytest.mark.parametrize("build", [jbp.mlp, jbp.skip_mlp, jbp.dense_mlp])
@pytest.mark.parametrize("widths", [(1, 1), (3, 2, 1), (2, 5, 4, 3, 1)])
def test_a_network_survives_json(build, widths):
    for network in (build(widths, "tanh"), build(widths, "silu", bias=True)):
        plain = json.loads(json.dumps(runs.network_to_dict(network)))
        assert runs.network_from_dict(plain) == network
        assert hash(runs.network_from_dict(plain)) == hash(network)


def test_metrics_grow_by_a_line_an_epoch_and_each_is_on_disk_at_once(folder):
    for i, row in enumerate(HISTORY, 1):
        runs.append_metrics(folder, row)
        text = (folder / "metrics.jsonl").read_text()
        assert text.count("\n") == i
        assert text.endswith("\n")
        assert [json.loads(line) for line in text.splitlines()] == HISTORY[:i]


def test_the_listing_is_of_the_files_that_are_there(folder):
    assert runs.listing(folder) == ["config.json", "params.npz"]
    runs.append_metrics(folder, HISTORY[0])
    assert runs.listing(folder) == ["config.json", "metrics.jsonl", "params.npz"]
    (folder / "notes.txt").touch()
    assert runs.listing(folder) == ["config.json", "metrics.jsonl", "params.npz"]


@pytest.mark.parametrize(
    ("history", "title"),
    [
        (HISTORY, "digits: x 64 → h0 64 relu"),
        (HISTORY[:1], "one epoch"),
        ([{k: v for k, v in row.items() if k != "validation_accuracy"} for row in HISTORY], "loss alone"),
        ([row | {"validation_rmse": 0.5} for row in HISTORY], "two figures"),
        ([row | {"validation_loss": float("nan"), "validation_accuracy": float("nan")} for row in HISTORY], "nan"),
        (HISTORY, "cost in $_{ and in $"),  # a file may be called so: it is no mathematics
        ([row | {"loss": 0.0, "validation_loss": 0.0} for row in HISTORY], "nothing left to learn"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_learning_curves_are_a_picture(tmp_path, history, title):
    image = pytest.importorskip("matplotlib.image")
    runs.write_curves(tmp_path / "c.png", history, title)
    pixels = image.imread(tmp_path / "c.png")
    height, width = pixels.shape[:2]
    assert height >= 400
    assert width > height
    assert len(np.unique(pixels.sum(-1))) > 20, "something is drawn"


# ---- what cannot be read


def npz(**arrays):
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def flat():
    return {f"{t}/{s}": np.asarray(w) for t, sources in params().items() for s, w in sources.items()}


def flipped(content):
    """One bit of the first array's numbers is wrong, which the archive's checksum shows."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        first = archive.infolist()[0]
    at = first.header_offset + 30 + len(first.filename) + first.file_size - 2
    changed = bytearray(content)
    changed[at + 20] ^= 1  # 20: numpy's extra field for large files
    return bytes(changed)


PARAMS = {
    "empty": b"",
    "text": b"not an archive",
    "cut short": npz(**flat())[:900],
    "one bit": flipped(npz(**flat())),
    "lacks one": npz(**{name: w for name, w in flat().items() if name != "h1/x"}),
    "one too many": npz(**flat(), **{"h1/h9": np.zeros(3)}),
    "unknown layer": npz(**flat(), **{"h9/x": np.zeros(3)}),
    "no slash": npz(**flat(), weights=np.zeros(3)),
    "shape": npz(**(flat() | {"h0/x": np.zeros((3, 5), np.float32)})),
    "integers": npz(**(flat() | {"h0/x": np.zeros((5, 3), int)})),
    "text array": npz(**(flat() | {"h0/x": np.full((5, 3), "a")})),
    "objects": npz(**(flat() | {"h0/x": np.full((5, 3), None)})),
}


@pytest.mark.parametrize("content", PARAMS.values(), ids=PARAMS)
def test_damaged_params_are_refused(folder, content):
    (folder / "params.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"run cannot be read as a run \((?s:.+)\): was a file altered\?"):
        runs.read_run(folder)


LAYER = runs.network_to_dict(NETWORK)["layers"][0]
CONFIG = {
    "empty": "",
    "cut short": '{"network": {"inputs": 3, "lay',
    "a list": "[]",
    "null": "null",
    "no network": "{}",
    "network null": '{"network": null}',
    "no layers": '{"network": {"inputs": 3, "layers": []}}',
    "layer is text": '{"network": {"inputs": 3, "layers": ["h0"]}}',
    "unknown field": json.dumps({"network": {"inputs": 3, "layers": [LAYER | {"colour": "red"}]}}),
    "unknown activation": json.dumps({"network": {"inputs": 3, "layers": [LAYER | {"activation": "rleu"}]}}),
    "width 0": json.dumps({"network": {"inputs": 3, "layers": [LAYER | {"width": 0}]}}),
    "another network": json.dumps({"network": runs.network_to_dict(jbp.mlp((3, 5, 4, 2), "gelu", bias=True))}),
}


@pytest.mark.parametrize("content", CONFIG.values(), ids=CONFIG)
def test_a_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"run cannot be read as a run \((?s:.+)\): was a file altered\?"):
        runs.read_run(folder)


def test_a_config_that_is_not_text_is_refused(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as a run"):
        runs.read_run(folder)


def test_what_is_no_finished_run_is_refused(folder, tmp_path):
    for path in (tmp_path / "nothing", tmp_path, folder / "config.json"):
        with pytest.raises(ValueError, match=r"is not a run: it has no config.json; give the folder that `jaxbackprop"):
            runs.read_run(Path(path))
    (folder / "params.npz").unlink()
    with pytest.raises(ValueError, match=r"run holds no params.npz: that run did not finish"):
        runs.read_run(folder)
