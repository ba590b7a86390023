"""A derivation's own network worked through: its numbers against NumPy and jax.grad by hand, its words against its numbers."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_trace import evaluated, figure_texts

from jaxbackprop.mathematics import Maths, typed
from jaxbackprop.tracing.derivation import work
from jaxbackprop.tracing.taken import as_array

pytest.importorskip("lark")

SKIP = """z0 = w0 x
h0 = relu(z0)
a1 = w1 h0 + b1
h1 = σ(a1)
yhat = w2 h1 + w3 h0
L = 1/2 (yhat - y)^2"""
SKIPPED = {"x": 0.7, "w0": 1.5, "w1": -0.4, "b1": 0.3, "w2": 2.0, "w3": 0.45, "y": -1.0}
LAYER = "z = W x + b\nh = tanh(z)\nL = 1/2 ||h - y||^2"
LAYERED = {"W": [[1.0, -2], [0.5, 0.25]], "x": [0.3, -0.1], "b": [0.1, -0.2], "y": [1.0, 0.0]}
SOFT = "z = W x + b\np = softmax(z)\nL = -y^T log p"
SOFTENED = {"W": [[1.0, 2], [3, 4], [-1, 0]], "x": [0.1, 0.2], "b": [0.0, 0, 1], "y": [0.0, 1, 0]}
BATCH = "Z = X W + b\nA = sigmoid(Z)\nE = 1/2 ||A - Y||^2"
BATCHED = {
    "X": [[1.0, 2], [3, 4], [0, 1]],
    "W": [[1.0, 2], [0.1, 0.3]],
    "b": [[0.1, 0.2]],
    "Y": [[0.0, 1], [1, 0], [1, 1]],
}
SUMS = r"z_j = \sum_i w_{ji} x_i + b_j" + "\nh_j = tanh(z_j)\nC = 1/2 \\sum_j (h_j - t_j)^2"
SUMMED = {"w": [[1.0, 2, 0.5], [3, 4, -1]], "x": [0.1, -0.2, 0.3], "b": [0.0, 0.1], "t": [0.0, 1.0]}


def skip(x, w0, w1, b1, w2, w3, y):
    h0 = jnp.maximum(w0 * x, 0)
    return (w2 / (1 + jnp.exp(-(w1 * h0 + b1))) + w3 * h0 - y) ** 2 / 2


def layer(W, x, b, y):
    return jnp.sum((jnp.tanh(jnp.einsum("ij,j->i", W, x) + b) - y) ** 2) / 2


def soft(W, x, b, y):
    z = jnp.einsum("ij,j->i", W, x) + b
    return -jnp.sum(y * (z - jnp.log(jnp.sum(jnp.exp(z)))))


def batch(X, W, b, Y):
    return jnp.sum((1 / (1 + jnp.exp(-(jnp.einsum("ni,ij->nj", X, W) + b))) - Y) ** 2) / 2


def sums(w, x, b, t):
    return layer(w, x, b, t)


CASES = {
    "skip": (SKIP, SKIPPED, skip, "L"),
    "layer": (LAYER, LAYERED, layer, "L"),
    "softmax": (SOFT, SOFTENED, soft, "L"),
    "batch": (BATCH, BATCHED, batch, "E"),
    "sums": (SUMS, SUMMED, sums, "C"),
}


@pytest.fixture(scope="module")
def worked():
    return {name: work(text, given) for name, (text, given, _, _) in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_derivative_is_that_of_the_network_written_by_hand(worked, name):
    _, given, function, loss = CASES[name]
    with jax.enable_x64(True):
        arrays = {v: jnp.asarray(a, jnp.float64) for v, a in given.items()}
        value, gradient = jax.value_and_grad(lambda p: function(**p))(arrays)
    t = worked[name]
    assert t[loss].value == pytest.approx(float(value), rel=1e-12)
    assert t.difference < 1e-12
    for v, expected in gradient.items():
        (row,) = [r for r in t.rows if r.jax_grad is not None and re.fullmatch(rf"d{loss}/d{v}(_\w+)?", r.name)]
        for found in (row.value, row.jax_grad):
            np.testing.assert_allclose(found, np.asarray(expected).reshape(found.shape), rtol=1e-10, atol=1e-14)
        assert row.right != "?", row.name  # by a formula, and not by jax.grad alone


@pytest.mark.parametrize("name", CASES)
def test_the_words_come_to_the_value(worked, name):
    functions = {"relu": lambda v: max(v, 0.0), "tanh": np.tanh, "exp": np.exp, "log": np.log}
    functions |= dict.fromkeys(("σ", "sigmoid"), lambda v: 1 / (1 + np.exp(-v)))
    for row in worked[name].rows:
        lines = row.numbers.splitlines()
        assert len(lines) == row.value.size
        for line, value in zip(lines, row.value.flat, strict=True):
            assert evaluated(line, functions) == pytest.approx(value, abs=2e-4), (row.name, line)


def test_names_and_formulas_are_the_students(worked):
    t = worked["skip"]
    formulas = {r.name: r.right for r in t.rows}
    assert list(formulas)[:6] == ["z0", "h0", "a1", "h1", "yhat", "L"]
    assert formulas["dL/da1"] == "dL/dh1 * σ'(a1)"
    assert formulas["dL/dh0"] == "dL/da1 * w1 + dL/dyhat * w3"  # both paths
    assert formulas["dL/db1"] == "dL/da1"
    assert t["dL/da1"].numbers.startswith(f"{t['dL/dh1'].value:.6g}·σ'(".replace("-", "−"))
    assert "yhat is the prediction, y the target" in t.title
    assert worked["softmax"]["dL/dz"].right == "p - y"
    assert worked["batch"]["dE/db"].right == "sum(dE/dZ, axis=0)"
    assert worked["sums"]["dC/dx_i"].right == "Σ_j dC/dz_j * w_ji"
    assert "W = [1, −2; 0.5, 0.25]" in worked["layer"].text()  # its four numbers, no norm


def test_a_targets_weights_that_do_not_add_up_to_one_are_no_p_minus_y():
    t = work(SOFT, SOFTENED | {"y": [0.5, 0, 0.1]})
    assert t.difference < 1e-12
    assert t["dL/dz"].right != "p - y"


def test_an_index_may_stand_for_one_entry_and_a_letter_for_a_vector():
    t = work("s = log(\\sum_j e^{z_j}); L = s - z_c", {"z": [0.7, 0.4]})
    p = np.exp([0.7, 0.4]) / np.exp([0.7, 0.4]).sum()
    np.testing.assert_allclose(t["dL/dz_j"].value, p - [1, 0], rtol=1e-12)
    assert "c is the first entry" in t.title
    assert "target" not in t.title  # s is computed from z
    text, x = (
        "y_n = W x_n; L = \\sum_n 1/2 ||y_n - t_n||^2",
        np.array([[1.0, 2], [0, 1], [3, 1]]),
    )  # three vectors of two
    t = work(text, {"W": [[1.0, -1], [0, 2]], "x": x, "t": np.zeros((3, 2))})
    np.testing.assert_allclose(t["dL/dW"].value, np.array([[1.0, -1], [0, 2]]) @ x.T @ x, rtol=1e-12)
    with pytest.raises(ValueError, match="x has 1 indices, and the numbers given for it 1"):
        work(text, {"W": [[1.0, -1], [0, 2]], "x": [1, 2], "t": [1, 2]})


def test_large_logits_do_not_overflow():
    t = work("z = W x\nL = logsumexp(z) - y^T z", {"W": [[1000.0], [2000], [0]], "x": 1, "y": [1.0, 0, 0]})
    assert t["L"].value == t["dL/dx"].value == 1000
    assert t.difference == 0


def test_numbers_and_arrays_may_stand_in_the_text():
    plain = work(LAYER, LAYERED)
    said = {
        "nested": "W = [[1, -2], [0.5, 0.25]]\nx = [0.3, -0.1]\nb = (0.1, -0.2)\n",
        "rows": "W = [1 -2; 0.5 0.25], x = [0.3 -0.1]\nb = np.array([0.1, −0.2])\n",
        "LaTeX": "$W = \\begin{pmatrix}1 & -2\\\\0.5 & 0.25\\end{pmatrix}$\nx = [0.3, -0.1]\nb = [0.1, -0.2]\n",
    }
    for text in said.values():
        t = work(text + LAYER + "\ny = [1, 0]", {})
        assert [(r.name, r.value.tolist()) for r in t.rows] == [(r.name, r.value.tolist()) for r in plain.rows]
    assert work("x = 2\nw = 3\nL = (w x)^2", {"w": 1})["L"].value == 4  # what is given counts


def test_functions_that_the_text_defines():
    text = "g(z) = max(0, z)\nz = w x\nh = g(z)\nL = h^2"
    assert work(text, {"w": 2, "x": 3})["dL/dw"].value == 36
    assert work(text, {"w": -2, "x": 3})["dL/dw"].value == 0
    t = work("σ(z) = 1/(1+e^{-z})\nz = w x\nh = σ(z)\nL = -log h", {"w": 1, "x": 0.3})
    assert t["dL/dz"].value == pytest.approx(1 / (1 + np.exp(-0.3)) - 1, rel=1e-12)
    with pytest.raises(ValueError, match=r"φ has no formula: write one, such as φ\(z\) = max\(0, z\)"):
        work("z = w x\nh = φ(z)\nL = h^2", {"w": 1, "x": 2})


def test_wide_arrays_are_shown_by_norm_and_shape():
    t = work(
        "z = W x + b\nL = 1/2 ||z - y||^2", {"W": np.ones((9, 3)), "x": [1, 2, 3], "b": np.ones(9), "y": np.zeros(9)}
    )
    assert t["z"].numbers == "W (9×3), x (3), b (9)"
    assert "W = ‖5.19615‖ (9×3)" in t.text()
    assert t["dL/dx"].value.tolist() == [63, 63, 63]
    assert t.latex().isascii()


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        ("z = w x\nL = z^2", {"x": 1}, "no number for w: give each, as in w=0.5, or w=1,2"),
        ("z = w x", {"w": 1}, "the text defines no loss"),
        ("z = w x\nL = z^2", {"w": 1, "x": 1, "u": 2}, "u is not free in the equations: they need w, x"),
        (LAYER, LAYERED | {"b": [1, 2, 3]}, r"W \* x \+ b a 2x1 and a 3x1 array cannot be added"),
        (LAYER, LAYERED | {"x": [1, 2, 3]}, "a 2x2 matrix cannot multiply a 3x1 one"),
        (SUMS, SUMMED | {"w": [1.0, 2]}, "w has 2 indices, and the numbers given for it 1"),
    ],
)
def test_what_cannot_be_worked_through_is_said_in_a_line(text, given, words):
    with pytest.raises(ValueError, match=words) as error:
        work(text, given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "a", "1,a", "nan", "1,2;3", "[[1,2],[3]]", "1e999"])
def test_what_is_no_array_is_refused(text):
    with pytest.raises(ValueError, match=r"neither a number|no finite numbers|inhomogeneous"):
        as_array(text)


@pytest.mark.parametrize("name", CASES)
def test_the_picture_holds_every_name_and_no_two_texts_overlap(worked, name):
    pytest.importorskip("matplotlib")
    t = worked[name]
    figure, texts = figure_texts(t)
    shown = "\n".join(text.get_text() for text, _ in texts)
    for row in t.rows:
        assert row.name.partition("_")[0] in shown
    for v in CASES[name][1]:
        assert re.search(rf"(^|\n){v} = ", shown), v
    middle = {text.get_text(): box.x0 + box.x1 for text, box in texts if text.get_gid() == "node"}
    for v, used in t.uses.items():  # what is computed stands to the right of what it is computed from
        name = {n.partition("_")[0]: n for n in middle}
        assert all(middle[name[u]] < middle[name[v]] for u in used if u in name)
    for (a, box), (b, other) in itertools.combinations(texts, 2):
        apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1
        assert apart, (a.get_text(), b.get_text())
    for text, box in texts:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, text.get_text()
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height, text.get_text()


def test_formulas_in_latex():
    for text, tex in (
        ("dL/dh0 * σ'(z0)", r"\frac{\partial L}{\partial h_{0}}\,\sigma'(z_{0})"),
        ("W^T * dL/dz", r"W^{\top}\,\frac{\partial L}{\partial z}"),
        ("−1.5e−7·x²", r"-1.5 \cdot 10^{-7} \cdot x^{2}"),
        ("Σ_j w_ji x_i", r"\sum_{j}\,w_{\mathrm{ji}}\,x_{i}"),
        ("100% & {a}", r"100\%\& \{a\}"),
    ):
        assert re.sub(r"\s+", "", Maths(text).tex) == re.sub(r"\s+", "", tex), text


def test_what_has_no_key_is_typed_as_people_do():
    text = "dw1 = −½·‖z‖² → Σ σ'(ŷ) ✗ 漢"
    assert typed(text) == "dw1 = -1/2*||z||^2 -> sum sigma'(y) x ?"
    assert text.encode("ascii", "jaxbackprop.typed").decode() == typed(text)
    assert text.encode("latin-1", "jaxbackprop.typed").decode("latin-1").startswith("dw1 = -½·||z||²")


def test_layers_that_a_letter_counts_have_no_numbers():
    with pytest.raises(ValueError, match=r"a letter counts the layers or steps: write each out, as z1 = W1 x \+ b1"):
        work("z^l = W^l a^{l-1}; a^l = tanh(z^l); L = 1/2 ||a^2 - y||^2", {"y": 1})


def test_of_square_arrays_the_way_the_text_is_written_decides():
    """As many examples as units: in X @ W + b a row of X is an example, and b is added to each."""
    found = work("Z = X @ W + b; L = np.sum(Z**2)", {"X": [[1, 2], [3, 4]], "W": [[1, 0], [0, 1]], "b": [10, 20]})
    np.testing.assert_allclose(found["Z"].value, [[11, 22], [13, 24]])
    np.testing.assert_allclose(np.ravel(found["dL/db"].value), [48, 92])
    columns = work("z = W x + b; L = ||z||^2", {"x": [1, 2], "W": [[1, 0], [0, 1]], "b": [10, 20]})
    np.testing.assert_allclose(columns["z"].value, [11, 22])


def test_the_numbers_that_a_formula_comes_to_are_not_its_last_name():
    found = work("x = [1, 2]; b = [3, 4]; z = x + b = [4, 6]; L = ||z||^2", {})
    np.testing.assert_allclose(found["z"].value, [4, 6])
    np.testing.assert_allclose(found["dL/db"].value, [8, 12])
