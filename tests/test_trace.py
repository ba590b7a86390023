"""The worked derivation: its numbers against the exercise's, its formulas against its numbers, and what is shown of both."""

import ast
import contextlib
import io
import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxbackprop as jbp
from jaxbackprop import exercise
from jaxbackprop.command.main import main
from jaxbackprop.data import load
from jaxbackprop.data.encoding import to_dict
from jaxbackprop.network import widths
from jaxbackprop.tracing.symbols import NARROW
from jaxbackprop.training import runs

EXERCISE = jbp.skip_mlp((1, 1, 1, 1))
ORDER = ["z0", "h0", "z1", "h1", "z2", "L", "dyhat", "dz2", "dh1", "dz1", "dh0", "dz0", "dw0", "dw1", "dw2", "dw3"]
OWN = jbp.Loss(lambda yhat, y: jnp.sum((yhat - y) ** 4), lambda yhat, y: 4 * (yhat - y) ** 3)


def of_numbers(w0, w1, w2, w3, x=1.5, y=2.0, network=EXERCISE):
    w0, w1, w2, w3 = (np.full((1, 1), w) for w in (w0, w1, w2, w3))
    params = {"h0": {"x": w0}, "h1": {"h0": w1}, "yhat": {"h1": w2, "h0": w3}}
    return jbp.trace(network, "half_squared_error", params, x, y)


def drawn(network, loss, y, seed=0):
    rng, width = np.random.default_rng(seed), widths(network)
    params = {t.name: {s: rng.normal(size=(t.width, width[s])) for s in t.sources} for t in network.layers}
    for t in network.layers:
        params[t.name] |= {"bias": rng.normal(size=t.width)} if t.bias else {}
    return jbp.trace(network, loss, params, rng.normal(size=network.inputs), y)


@pytest.fixture(scope="module")
def traces():
    """Wirings, activations and losses of every kind, traced once."""
    own = jbp.Activation(lambda z: z**2, lambda z: 2 * z)
    by_hand = jbp.Network(
        2,
        (
            jbp.Layer("left", 2, ("x",), "sigmoid"),
            jbp.Layer("a_b", 3, ("x",), "identity", bias=True),
            jbp.Layer("unread", 2, ("x",), "elu"),
            jbp.Layer("out", 2, ("a_b", "left"), "tanh"),
        ),
    )
    return {
        "exercise": of_numbers(0.8, 1.3, -0.7, 0.45),
        "widths": drawn(jbp.skip_mlp((2, 3, 2, 1)), "half_squared_error", 2.0, seed=2),
        "biases": drawn(jbp.dense_mlp((2, 3, 2, 2), "tanh", bias=True), "half_squared_error", jnp.array([1.0, -2])),
        "a class": drawn(jbp.mlp((3, 4, 3), "gelu", bias=True), "softmax_cross_entropy", 2),
        "weights of classes": drawn(jbp.mlp((1, 2, 3)), "softmax_cross_entropy", jnp.array([0.5, 0.0, 1.25])),
        "yes or no": drawn(jbp.mlp((2, 3, 2), "softplus"), "sigmoid_binary_cross_entropy", jnp.array([1.0, 0.25])),
        "huber": drawn(jbp.mlp((2, 3, 2), "leaky_relu"), "huber", jnp.array([0.5, 5.0])),
        "own": drawn(jbp.mlp((2, 2, 1), own), OWN, 0.5),
        "by hand": drawn(by_hand, "half_squared_error", jnp.array([0.5, -0.25])),
        "wide": drawn(jbp.skip_mlp((3, 9, 5, 2), bias=True), "half_squared_error", jnp.array([1.0, 2.0])),
    }


NAMES = [
    "exercise",
    "widths",
    "biases",
    "a class",
    "weights of classes",
    "yes or no",
    "huber",
    "own",
    "by hand",
    "wide",
]
each = pytest.mark.parametrize("name", NAMES)


# The numbers.


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=4)))
def test_the_exercise_in_every_on_off_pattern(signs):
    w = exercise.Weights(*(s * m for s, m in zip(signs, (0.8, 1.3, 0.7, 0.45), strict=True)))
    t = of_numbers(*w)
    assert [row.name for row in t.rows] == ORDER
    with jax.enable_x64(True):
        f = exercise.forward(w, 1.5)
        b = exercise.backward(w, 1.5, f, f.z2 - 2)
        by_jax = jax.grad(exercise.loss)(w, 1.5, 2.0)
        expected = {**f._asdict(), **b._asdict(), "L": exercise.loss(w, 1.5, 2.0), "dyhat": f.z2 - 2}
    for row in t.rows:
        assert row.value.item() == pytest.approx(float(expected[row.name]), rel=1e-14), row.name
        assert (row.jax_grad is None) == (not row.name.startswith("d"))
        if row.jax_grad is not None:
            assert row.jax_grad.item() == pytest.approx(float(expected[row.name]), rel=1e-14), row.name
    for i in range(4):
        assert t[f"dw{i}"].jax_grad.item() == pytest.approx(float(by_jax[i]), rel=1e-14)
    assert t.difference < 1e-14


def test_at_the_kink_the_branch_otherwise_decides():
    t = of_numbers(1.0, 0.0, 2.0, 3.0)
    assert t["z1"].value.item() == 0
    assert t["dz1"].value.item() == t["dz1"].jax_grad.item() == t["dh1"].value.item() != 0
    assert t["dz1"].numbers == "5·g'(0) = 5·1"


@each
def test_every_adjoint_agrees_with_jax_grad(traces, name):
    t = traces[name]
    assert t.difference < 1e-12
    assert all(row.value.dtype == np.float64 for row in t.rows)
    if name != "own" and name != "by hand":
        with jax.enable_x64(True):
            x, y = jnp.asarray(t.x)[None], jnp.asarray(t.y)[None]
            params = jax.tree.map(jnp.asarray, t.params)
            value, (gradient, _) = oracle.per_example(t.network, t.loss, params, x, y)
        assert t.value == pytest.approx(value.item(), rel=1e-12)
        oracle.assert_close(jax.tree.map(lambda g: np.asarray(g)[0], gradient), t.gradient, 1e-12)


def test_a_wrong_derivative_shows():
    wrong = jbp.Activation(jnp.tanh, jnp.tanh)  # the value in the derivative's place
    t = drawn(jbp.mlp((2, 3, 1), wrong), "half_squared_error", 1.0)
    assert t["dh0"].difference < 1e-12 < 1e-3 < t["dz0"].difference
    assert t["dW_h0,x"].difference > 1e-3
    assert t.difference > 1e-3


# The formulas.


def evaluated(numbers, functions):
    """A line of `Row.numbers`, by arithmetic on literals alone: +, −, ·, powers, |…| and the given functions."""
    text = re.sub(r"\|(.*?)\|", r"abs(\1)", numbers.rpartition(" = ")[2])
    for ours, theirs in {"−": "-", "·": "*", "½": "0.5", "²": "**2"}.items():
        text = text.replace(ours, theirs)
    operations = {ast.Add: "__add__", ast.Sub: "__sub__", ast.Mult: "__mul__", ast.Pow: "__pow__"}
    operations[ast.Div] = "__truediv__"

    def value(node):
        match node:
            case ast.Constant(number):
                return float(number)
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.BinOp(left, operation, right):
                return getattr(value(left), operations[type(operation)])(value(right))
            case ast.Call(ast.Name(name), arguments):
                return functions[name](*map(value, arguments))
        raise AssertionError(f"{ast.dump(node)} in {numbers!r}")

    return value(ast.parse(text, mode="eval").body)


def functions_of(network):
    table = {"abs": abs, "log": math.log, "exp": math.exp, "σ": lambda v: 1 / (1 + math.exp(-v))}
    table |= {"clip": lambda v, low, high: min(max(v, low), high)}
    for layer in network.layers:
        g = layer.activation if not isinstance(layer.activation, str) else jbp.activations.ACTIVATIONS[layer.activation]
        for name in ("g", layer.activation if isinstance(layer.activation, str) else "g"):
            if layer.activation != "identity":
                table[name] = lambda v, g=g: float(g.value(jnp.float32(v)))
    return table


@each
def test_the_formula_with_the_numbers_in_comes_to_the_value(traces, name):
    t = traces[name]
    functions, evaluations = functions_of(t.network), 0
    for row in t.rows:
        lines = row.numbers.splitlines()
        if lines[0].startswith("("):
            assert name == "wide"
            assert re.fullmatch(r"\([\d×]+\)([·+ ]+\([\d×]+\))*", row.numbers), row.numbers
            continue
        assert len(lines) == row.value.size, row
        for line, value in zip(lines, row.value.flat, strict=True):
            # each number is rounded: the error is of the size of what is added up
            size = max([1.0] + [abs(float(n.replace("−", "-"))) for n in re.findall(r"−?\d[\d.]*(?:e−?\d+)?", line)])
            assert evaluated(line, functions) == pytest.approx(value, abs=10 * size**2 * 10**-t.digits), (
                row.name,
                line,
            )
            evaluations += 1
    assert evaluations >= (7 if name == "wide" else 14)


def test_the_exercise_reads_as_on_paper():
    t = of_numbers(0.8, 1.3, -0.7, 0.45)
    assert t["dh0"].formula == "dh0 = w1ᵀ dz1 + w3ᵀ dz2"
    assert t["dh0"].numbers == "1.3·1.7864 + 0.45·(−2.552)"
    assert t["z2"].formula == "z2 = yhat = w2 h1 + w3 h0"
    assert t["L"].numbers == "½·(−0.552 − 2)²"
    assert [t[n].formula for n in ("h0", "dz0", "dw3", "dz2")] == [
        "h0 = g(z0)",
        "dz0 = dh0 · g'(z0)",
        "dw3 = dz2 h0ᵀ",
        "dz2 = dyhat",
    ]


@pytest.mark.parametrize("name", jbp.losses.LOSSES)
def test_a_loss_and_an_activation_by_name_and_by_entry_read_the_same(name):
    y = 1 if name == "softmax_cross_entropy" else jnp.array([0.25, 1.0])
    by_name, by_entry = (
        drawn(jbp.mlp((2, 3, 2), g), loss, y)
        for g, loss in (("tanh", name), (jbp.activations.ACTIVATIONS["tanh"], jbp.losses.LOSSES[name]))
    )
    assert by_name.to_dict() == by_entry.to_dict()
    assert by_name.latex() == by_entry.latex()


def test_an_activation_of_ones_own_may_say_how_it_is_written():
    own = jbp.Activation(lambda z: z * jax.nn.sigmoid(1.5 * z), text="swish")
    t = drawn(jbp.mlp((1, 1, 1), own), lambda yhat, y: jnp.sum((yhat - y) ** 4), 0.5)
    assert (t["h0"].formula, t["dz0"].formula) == ("h0 = swish(z0)", "dz0 = dh0 · swish'(z0)")
    assert (t["L"].formula, t["dyhat"].formula) == ("L = loss(yhat, y)", "dyhat = loss'(yhat, y)")
    assert t.difference < 1e-12


def test_names_elsewhere_are_those_of_the_edges(traces):
    assert traces["widths"].rows[-1].name == "dw3"
    names = [row.name for row in traces["by hand"].rows]
    assert names[:8] == ["z_left", "left", "z_a_b", "a_b", "z_unread", "unread", "z_out", "out"]
    assert names[8:13] == ["L", "dout", "dz_out", "dunread", "dz_unread"]
    assert names[-6:] == ["dW_left,x", "dW_a_b,x", "db_a_b", "dW_unread,x", "dW_out,a_b", "dW_out,left"]
    assert traces["by hand"]["dunread"].formula == "dunread = 0"  # nothing reads it
    assert "W_h1,x x" in traces["biases"]["z1"].formula
    # one bias more, and it is not the exercise's wiring
    biased = jbp.skip_mlp((1, 1, 1, 1), bias=True)
    assert "W_h0,x" in drawn(biased, "huber", 1.0)["z0"].formula
    with pytest.raises(KeyError, match="did you mean 'dw3'"):
        traces["exercise"]["dw33"]


# What is shown.


@each
def test_text_is_aligned_and_fits_a_terminal(traces, name):
    t = traces[name]
    lines = t.text().splitlines()
    assert str(t) == t.text()
    assert max(map(len, lines)) <= 120
    assert max(map(len, traces["exercise"].text().splitlines())) <= 88
    head = next(line for line in lines if line.startswith("forward"))
    column = head.index("with the numbers in")
    body = lines[lines.index(head) + 1 : -2]
    for line in body:
        # a column's edge is blank in every line that gets there
        assert line.startswith("backward") or len(line) <= column or line[column - 1] == " ", line
    for row in t.rows:
        assert any(line.startswith(f"{row.name} = ") for line in body), row.formula


@pytest.mark.parametrize("name", ["a class", "weights of classes", "yes or no"])
def test_p_is_the_prediction_and_y_the_target(traces, name):
    t = traces[name]
    yhat = t.h["yhat"]
    expected = 1 / (1 + np.exp(-yhat)) if name == "yes or no" else np.exp(yhat) / np.exp(yhat).sum()
    np.testing.assert_allclose(t["p"].value, expected, rtol=1e-12)
    assert t["p"].right == ("σ(yhat)" if name == "yes or no" else "softmax(yhat)")
    assert t["dyhat"].right == ("p Σ y − y" if name == "weights of classes" else "p − y")
    _, texts = counted(t)
    assert {f"p = {v:.4g}" for v in expected} <= set(texts)
    for said in (" ".join(t.text().split()), " ".join(texts)):
        assert "p is the prediction, y the target" in said
        assert ("1 for class 2, 0 for the others" in said) == (name == "a class")


def test_a_large_output_has_a_prediction_too():
    net = jbp.Network(1, (jbp.Layer("p", 2, ("x",)),))  # a layer of that name keeps it
    t = jbp.trace(net, "softmax_cross_entropy", {"p": {"x": jnp.array([[1000.0], [999.0]])}}, 1.0, 0)
    assert t["prediction"].value[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert t["dp"].formula == "dp = prediction − y"
    assert "inf" not in t.text()


def test_lines_follow_the_terminal(traces, monkeypatch):
    for columns in (72, 80, 100, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        for t in traces.values():
            assert max(map(len, t.text().splitlines())) <= columns, columns
    monkeypatch.setenv("COLUMNS", "200")
    wide = traces["biases"].text()
    monkeypatch.setenv("COLUMNS", "80")
    narrow = traces["biases"].text()
    assert "jax.grad  difference" in wide
    assert len(narrow.splitlines()) > len(wide.splitlines())
    for row in traces["biases"].rows:  # no number is lost
        for line in row.numbers.split():
            assert line in narrow


def test_what_a_narrow_terminal_leaves_out_is_said(monkeypatch):
    t = of_numbers(0.8, 1.3, -0.7, 0.45)
    monkeypatch.setenv("COLUMNS", "60")
    assert "difference stand beside each adjoint from 82 columns on: here are 60" in " ".join(t.text().split())
    for columns, shown in ((81, False), (82, True)):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert ("jax.grad  difference" in t.text(), "columns on" in t.text()) == (shown, not shown)


def test_decimal_points_stand_in_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    lines = of_numbers(0.8, 1.3, -0.7, 0.45).text().splitlines()
    head = next(line for line in lines if "jax.grad" in line)
    start, end = head.index("value"), head.index("jax.grad") - 1
    points = {line[start - 1 : end].index(".") for line in lines if "." in line[start - 1 : end]}
    assert len(points) == 1


@each
def test_markdown_is_one_table(traces, name):
    t = traces[name]
    table = [line for line in t.markdown().splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(t.rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {7}


@each
def test_latex_is_balanced_ascii(traces, name):
    text = traces[name].latex()
    assert text.isascii()
    depth = 0
    for found in re.finditer(r"(?<!\\)[{}]", text):
        depth += 1 if found[0] == "{" else -1
        assert depth >= 0
    assert depth == 0
    open_ = []
    for which, environment in re.findall(r"\\(begin|end)\{([a-z*]+)\}", text):
        if which == "begin":
            open_.append(environment)
        else:
            assert open_.pop() == environment
    assert not open_
    assert re.search(r"(?<!\\)_[^{]", text) is None


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("name", ["exercise", "biases", "by hand", "wide"])
def test_latex_compiles(traces, name, tmp_path):
    (tmp_path / "trace.tex").write_text(traces[name].latex())
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "trace.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull \\hbox" not in done.stdout
    assert (tmp_path / "trace.pdf").stat().st_size > 1000


def test_any_layer_name_is_shown_as_it_is():
    name = r"a|b`_{%$\x~^é"
    net = jbp.Network(1, (jbp.Layer(name, 1, ("x",), "relu"), jbp.Layer("yhat", 1, (name,))))
    t = drawn(net, "half_squared_error", 1.0)
    assert t.latex().isascii()
    assert name in t.text()
    assert {len(re.findall(r"(?<!\\)\|", s)) for s in t.markdown().splitlines() if s.startswith("|")} == {7}
    figure_texts(t)


def test_to_dict_is_json(traces):
    for t in traces.values():
        plain = json.loads(json.dumps(t.to_dict(), allow_nan=False))
        assert [row["name"] for row in plain["rows"]] == [row.name for row in t.rows]
        assert plain["rows"][0]["value"] == t.rows[0].value.tolist()


# The picture.


def figure_texts(t):
    """Every text of the figure that is drawn, with its box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = t.figure()
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [*figure.axes[0].texts, *figure.legends[0].get_texts()]
    return figure, [(text, text.get_window_extent(renderer)) for text in texts]


@each
def test_no_two_texts_overlap_and_none_is_cut_off(traces, name):
    pytest.importorskip("matplotlib")
    figure, texts = figure_texts(traces[name])
    for (a, box), (b, other) in itertools.combinations(texts, 2):
        apart = box.x1 <= other.x0 or other.x1 <= box.x0 or box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1
        assert apart, (a.get_text(), b.get_text())
    for text, box in texts:
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width, text.get_text()
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height, text.get_text()


def counted(t):
    pytest.importorskip("matplotlib")
    _, texts = figure_texts(t)
    return Counter(text.get_gid() for text, _ in texts), [text.get_text() for text, _ in texts]


def test_a_picture_fills_its_page_whatever_layout_a_user_prefers(traces):
    matplotlib = pytest.importorskip("matplotlib")
    with matplotlib.rc_context({"figure.constrained_layout.use": True}):
        figure = traces["exercise"].figure()
        figure.draw_without_rendering()
    assert figure.get_layout_engine() is None or not figure.get_layout_engine().adjust_compatible
    assert figure.axes[0].get_position().bounds == (0, 0, 1, 1)


def test_the_picture_of_the_exercise(traces):
    kinds, texts = counted(traces["exercise"])
    assert kinds["node"] == 5
    assert kinds["value"] == 1 + 3 * 2 + 2 + 4  # x; z and h; y and L; w0 … w3
    assert kinds["adjoint"] == 3 * 2 + 4
    for shown in ("w3 = 0.45", "dw3 = −3.0624", "dh0 = 1.17392", "z2 = −0.552", "L = 3.25635"):
        assert texts.count(shown) == 1


def test_the_picture_names_biases_activations_and_what_lines_mean(traces):
    kinds, texts = counted(traces["biases"])
    heaviest = max(np.abs(w).max() for t in traces["biases"].params.values() for s, w in t.items() if s != "bias")
    assert kinds["activation"] == texts.count("tanh") == 5  # of each hidden unit, of no other
    assert f"line: the thicker, the larger |w|, up to {heaviest:.3g}" in texts
    assert sum(text.startswith("b1 = ") for text in texts) == 2
    w = traces["biases"].params["yhat"]["h1"]  # 2×2: its four numbers
    entries = "; ".join(", ".join(f"{v:.4g}" for v in row) for row in w).replace("-", "−")
    assert f"W_yhat,h1 = [{entries}]" in texts
    assert not any(text.startswith("line:") for text in counted(traces["wide"])[1])  # where all lines are alike


def test_the_picture_of_several_units(traces):
    kinds, texts = counted(traces["widths"])
    units, unit_edges, matrices = 2 + 3 + 2 + 1, 2, 3  # the edges h1 → yhat one by one, the others by their numbers
    assert kinds["node"] == units + 1
    assert kinds["value"] == 2 + 6 * 2 + 2 + unit_edges + matrices
    assert kinds["adjoint"] == 6 * 2 + unit_edges + matrices
    assert sum(text.startswith("w = ") for text in texts) == 2
    assert not any(text.startswith("‖") for text in texts)
    for name, w in (("w0", traces["widths"].params["h0"]["x"]), ("w3", traces["widths"].params["yhat"]["h0"])):
        (said,) = [text for text in texts if text.startswith(f"{name} = [")]
        numbers = [float(v) for v in re.findall(r"[-\d.e]+", said.partition("= ")[2].replace("−", "-"))]
        np.testing.assert_allclose(numbers, w.ravel(), rtol=1e-3)
        assert said.count(";") == len(w) - 1


def test_the_picture_of_wide_layers_shows_norms(traces):
    kinds, texts = counted(traces["wide"])
    assert kinds["node"] == 5
    norm = np.linalg.norm(traces["wide"].gradient["h0"]["x"])
    assert f"‖dW_h0,x‖ = {norm:.4g} (9×3)" in texts


def test_off_units_are_said_to_be_off():
    assert not any("off" in text for text in counted(of_numbers(0.8, 1.3, -0.7, 0.45))[1])
    assert any("off" in text for text in counted(of_numbers(0.8, -1.3, -0.7, 0.45))[1])


def test_values_are_blue_and_adjoints_orange(traces):
    from matplotlib.colors import to_rgb

    _, texts = figure_texts(traces["biases"])
    for text, _ in texts:
        red, _, blue = to_rgb(text.get_color())
        if text.get_gid() in ("value", "adjoint"):
            assert (blue > red) == (text.get_gid() == "value"), text.get_text()
            assert text.get_text().lstrip("‖").startswith("d") == (text.get_gid() == "adjoint")


# What is refused.


def test_what_does_not_fit_is_refused():
    params = jbp.init(EXERCISE, jax.random.key(0))
    with pytest.raises(ValueError, match=r"x has shape \(2, 1\)"):
        jbp.trace(EXERCISE, "huber", params, jnp.ones((2, 1)), 1.0)
    with pytest.raises(ValueError, match="did you mean 'huber'"):
        jbp.trace(EXERCISE, "hubber", params, 1.0, 1.0)
    with pytest.raises(ValueError, match="expected"):
        jbp.trace(jbp.mlp((1, 2, 1)), "huber", params, 1.0, 1.0)
    with pytest.raises(ValueError, match="1 to 17"):
        jbp.trace(EXERCISE, "huber", params, 1.0, 1.0, digits=0)
    assert not jax.config.jax_enable_x64


# The command.


def run(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main([str(word) for word in ("trace", *argv)])
        except SystemExit as leaving:
            status = leaving.code
    return status, out.getvalue(), err.getvalue()


def test_the_command_shows_an_example_in_which_every_path_counts():
    status, out, err = run()
    assert (status, err) == (0, "")
    t = of_numbers(0.8, 1.3, -0.7, 0.45)
    assert out == t.text() + "\n"
    assert t["z0"].value > 0
    assert t["z1"].value > 0
    with_skip, without = t["dz0"].value.item(), of_numbers(0.8, 1.3, -0.7, 0.0)["dz0"].value.item()
    assert abs(with_skip - without) > 0.5 * abs(with_skip)


def test_the_command_takes_numbers_of_every_kind():
    status, out, _ = run("--x", "-1.5", "--y", "2e0", "--weights", "-.8", "-1.3", "-7e-1", "-45E-2", "--format", "json")
    assert status == 0
    rows = {row["name"]: row["value"] for row in json.loads(out)["rows"]}
    t = of_numbers(-0.8, -1.3, -0.7, -0.45, x=-1.5)
    assert rows == {row.name: row.value.tolist() for row in t.rows}
    assert run("--format", "markdown")[1].count("|") > 50
    assert run("--format", "latex")[1].startswith("\\documentclass")


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_the_command_draws_and_never_overwrites(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"exercise{suffix}"
    status, out, err = run("--figure", path)
    assert (status, err) == (0, f"picture in {path}\n")
    assert out.startswith("x 1 → h0 1 relu")
    content = path.read_bytes()
    assert content[:5] in (b"\x89PNG\r", b"<?xml")
    status, out, err = run("--figure", path)
    assert (status, out) == (2, "")
    assert "nothing is overwritten" in err
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "argv",
    [
        ("--x", "two"),
        ("--x", "nan"),
        ("--x", "1,2"),
        ("--set", "w0=1"),
        ("--y", "-inf"),
        ("--weights", "1", "2", "3"),
        ("--weights", "1", "2", "3", "4", "5"),
        ("--weights", "1", "2", "3", "1e999"),
        ("--weights", "1e300", "1e300", "1", "1"),
        ("--format", "latx"),
        ("--figure", "picture.jpeg"),
        ("--figure", "no/such/folder/picture.svg"),
        ("--wieghts", "1", "2", "3", "4"),
    ],
)
def test_bad_input_gets_one_line(argv):
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert err.startswith("jaxbackprop")
    assert err.count("\n") == 1


def test_narrow_means_numbers(traces):
    assert NARROW == 4
    wide = traces["wide"].text()
    assert "‖·‖" in wide
    assert "(9×3)·(3) + (9)" in wide


# A trained network.


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder, as `train` leaves it."""
    pytest.importorskip("pyarrow")
    rows = [f"{i * 7 % 11},{i * 3 % 5}.5,{('rose', 'tulip', 'lily')[i % 3]}" for i in range(60)]
    (tmp_path / "t.csv").write_text("a,b,kind\n" + "\n".join(rows))
    encoding = load(str(tmp_path / "t.csv")).encoding
    net = jbp.mlp((len(encoding.features), 3, 3), bias=True)
    config = {"arguments": {}, "network": runs.network_to_dict(net), "loss": "softmax_cross_entropy"}
    runs.write_config(tmp_path / "run", config | {"encoding": to_dict(encoding)})
    params = jbp.init(net, jax.random.key(0))
    runs.write_params(tmp_path / "run", params)
    return tmp_path / "run", net, params, encoding


def test_the_command_works_a_trained_network_through(run_folder):
    folder, net, params, encoding = run_folder
    status, out, err = run(folder, "--x", "0.5,-1", "--y", encoding.classes[1], "--format", "json")
    assert (status, err) == (0, "")
    expected = jbp.trace(net, "softmax_cross_entropy", params, jnp.array([0.5, -1]), 1)
    assert json.loads(out) == json.loads(json.dumps(expected.to_dict()))
    assert run(folder, "--x", "0.5,-1", "--y", "1", "--format", "json")[1] == out
    status, out, _ = run(folder)
    assert status == 0
    assert "x was not given: each input 1; y was not given: 0" in " ".join(out.split())


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--y", "ros"), "--y ros is no class"),
        (("--y", "3"), "--y 3 is no class"),
        (("--x", "1"), "x has shape"),
        (("--x", "a,b"), "neither a number"),
        (("--set", "w=1"), "--set is for a derivation's own network"),
        (("--weights", "1", "2", "3", "4"), "--weights is for the exercise"),
    ],
)
def test_what_does_not_fit_a_trained_network_gets_one_line(run_folder, argv, words):
    status, out, err = run(run_folder[0], *argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert words in err


# A derivation's own network.


def test_the_command_works_a_derivation_through(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    pytest.importorskip("lark")
    (tmp_path / "mine.md").write_text("x = 7\nz = w x + b\nh = tanh(z)\nL = 1/2 (h - y)^2\n")
    argv = (tmp_path / "mine.md", "--x", "2", "--set", "w=0.3", "b=-1", "y=0.5")
    status, out, err = run(*argv, "--figure", tmp_path / "mine.svg")
    assert (status, err.startswith("picture in")) == (0, True)
    h = np.tanh(0.3 * 2 - 1)  # --x counts, not the text's 7
    slope = (h - 0.5) * (1 - h**2)
    for name, value in (("dL/dh", h - 0.5), ("dL/dw", slope * 2), ("dL/dx", slope * 0.3)):
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name} =")]
        assert line.split()[-3:-1] == [f"{value:.6g}".replace("-", "−")] * 2  # the value, and jax.grad's
    rows = json.loads(run(*argv, "--format", "json")[1])["rows"]
    assert next(row["value"] for row in rows if row["name"] == "dL/dw") == pytest.approx(slope * 2, rel=1e-12)
    assert run(*argv, "--format", "latex")[1].isascii()
    status, out, err = run(tmp_path / "mine.md", "--set", "w=1")
    assert (status, out) == (2, "")
    assert err == "jaxbackprop: no number for b, y: give each, as in b=0.5, or b=1,2\n"
    vectors = ("--x", "1,2", "--set", "w=1,2;3,4", "b=0,-20", "y=1,0")
    (tmp_path / "mine.md").write_text("z = w x + b\nL = 1/2 ||z - y||^2\n")
    assert "w = [1, 2; 3, 4]" in run(tmp_path / "mine.md", *vectors)[1]


def test_an_ascii_terminal_keeps_every_sign(tmp_path):
    env = os.environ | {"PYTHONIOENCODING": "ascii", "LANG": "C", "COLUMNS": "100"}
    command = [sys.executable, "-m", "jaxbackprop", "trace", "--weights", "0.8", "-1.3", "-0.7", "0.45"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode("ascii")
    assert "?" not in text
    assert "w1 = -1.3   w2 = -0.7" in text
    assert "w1^T dz1 + w3^T dz2" in text
    head = next(line for line in text.splitlines() if line.startswith("forward"))
    column = head.index("with the numbers in")
    assert all(
        line[column - 2 : column] == "  "
        for line in text.splitlines()
        if line.startswith(("z", "h", "L =", "dh", "dw"))
    )
