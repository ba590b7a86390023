"""`grade` on whole derivations: those of tests/derivations, with the truth beside each line; and the values beneath it."""

import random
import re
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbackprop.grading.choice import choose
from jaxbackprop.grading.claims import claims_of
from jaxbackprop.grading.derivatives import value_of
from jaxbackprop.grading.expression import Expr, name
from jaxbackprop.grading.functions import FUNCTIONS
from jaxbackprop.grading.grade import grade
from jaxbackprop.grading.lines import chains
from jaxbackprop.grading.points import build
from jaxbackprop.grading.reading import read
from jaxbackprop.grading.shapes import Layout
from jaxbackprop.grading.stages import continued, placed
from jaxbackprop.grading.wiring import completed
from jaxbackprop.grading.world import Loss, Values, World

BANK = Path(__file__).parent / "derivations"


class Derivation(NamedTuple):
    """A text, and what stands in front of each of its lines: + right, - wrong, ? no verdict, a blank for prose."""

    name: str
    text: str
    truth: str


def derivations() -> list[Derivation]:
    found = []
    for file in sorted(BANK.glob("*.txt")):
        for block in re.split(r"\n[ \t]*\n", file.read_text()):
            titles = [line for line in block.split("\n") if line.startswith("#")]
            lines = [line for line in block.split("\n") if line[:1] and line[0] in "+-? "]
            if any(line[0] in "+-?" for line in lines):
                text = "\n".join(line[1:] for line in lines)
                found.append(Derivation(titles[-1][2:], text, "".join(line[0] for line in lines)))
    return found


ALL = derivations()
GOOD = {"right", "right given the line above"}


def test_the_bank_is_large_and_much_of_it_has_mistakes():
    assert len(ALL) >= 400
    assert sum("-" in d.truth for d in ALL) >= 200
    assert len({d.name for d in ALL}) == len(ALL)


@pytest.mark.parametrize("derivation", ALL, ids=[d.name for d in ALL])
def test_every_line_has_its_verdict(derivation):
    lines = grade(derivation.text).lines
    for row, truth in enumerate(derivation.truth, 1):
        found = {line.status for line in lines if line.row == row}
        if truth == "+":
            assert found, f"line {row} is lost"
            assert found <= GOOD, f"line {row}: {[line for line in lines if line.row == row]}"
        elif truth == "-":
            assert "wrong" in found, f"line {row}: {[line for line in lines if line.row == row]}"
            assert all(line.slip for line in lines if line.row == row and line.status == "wrong")
        elif truth == "?":
            assert found
            assert found <= {"not read", "not judged"}, f"line {row}: {found}"


# --- no line is lost -------------------------------------------------------------------------------------------------

SYMBOLS = re.compile(r"\\[A-Za-z]+|[A-Za-z]+|\d+|\s|.")


def has_equation(line: str) -> bool:
    return bool(re.search(r"(?<![<>!])=(?!>)", line) and re.search(r"[^\W_]", line))


def test_every_line_with_an_equals_sign_appears_however_it_is_damaged():
    rng = random.Random(0)
    every = [s for d in ALL for s in SYMBOLS.findall(d.text) if s != "`"]
    judged = 0
    for _ in range(60):
        parts = SYMBOLS.findall(rng.choice(ALL).text)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(parts))
            new = rng.choice(([rng.choice(every)], [], [parts[at], rng.choice(every)]))
            parts = parts[:at] + new + parts[at + 1 :] or ["x"]
        text = "".join(parts)
        try:
            lines = grade(text).lines
        except ValueError as error:
            assert "no equation" in str(error)  # noqa: PT017
            continue
        judged += 1
        rows = {line.row for line in lines}
        display = "$" in text or "\\[" in text or "begin" in text  # there a formula may go on in the next row
        lost = [i for i, line in enumerate(text.split("\n"), 1) if has_equation(line) and i not in rows]
        assert display or not lost, (lost, text)
    assert judged > 40


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (r"$\boxed{a = b}$", 1),
        ("| z = w x | y |", 1),
        ("a == b", 1),
        ("dL/dw = x  <- my mistake, = 0", 1),
        ("plt.plot(x, color='r')\nz = w x", 1),
        ("z = w x\nfor i in range(3): w += 1; lr = 2 = w", 2),
    ],
)
def test_odd_lines_are_listed(text, row):
    assert row in {line.row for line in grade(text).lines}


def test_what_was_not_read_whole_is_not_judged():
    text = "z1 = w1 x\nh1 = relu(z1)\nyhat = w2 h1\n"
    for line in (
        "dL/dh1 = dL/dyhat w2 wout",
        "dL/dh1 = dL/dyhat w2 (wx + bout)",
        "dL/dh1 = dL/dyhat w2 ]",
        "dL/dh1 = dL/dyhat w2 {sw",
    ):
        last = grade(text + line).lines[-1]
        assert last.status in ("not read", "not judged"), line
    assert grade(text + "dL/dh1 = dL/dyhat w2 (chain rule)").lines[-1].status == "right"


# --- the values, beside jax.grad -------------------------------------------------------------------------------------


def world_of(text: str, layout: Layout) -> World:
    reading, _ = completed(read(claims_of(chains(text))))
    return build(reading, layout, Loss(), "relu")


def adjoints_agree(world: World, loss, names: list[str], tolerance: float = 1e-10):
    """Every adjoint, at every point, beside jax.grad of the same function."""
    with jax.enable_x64(True):
        for p in range(0, world.points, 5):
            at = {v: jnp.asarray(node.array[min(p, len(node.array) - 1)]) for v, node in world.values.items()}
            gradient = jax.grad(loss)(at)
            for v in names:
                np.testing.assert_allclose(world.adjoints[v][p], gradient[v], rtol=tolerance, atol=tolerance, err_msg=v)


def test_adjoints_of_the_exercise_cover_every_pattern_and_agree_with_jax():
    world = world_of("L = 1/2 (yhat - y)^2; dL/dz2 = yhat - y", Layout())
    signs = {tuple(np.sign([world.values[z].array[p].item() for z in ("z0", "z1")])) for p in range(world.points)}
    assert signs == {(1, 1), (1, -1), (-1, 0), (0, 0)}  # z0 < 0 makes h0 = 0, and so z1 = 0

    def loss(at):
        h0 = jnp.where(at["w0"] * at["x"] < 0, 0, at["w0"] * at["x"])
        h1 = jnp.where(at["w1"] * h0 < 0, 0, at["w1"] * h0)
        return 0.5 * jnp.sum((at["w2"] * h1 + at["w3"] * h0 - at["y"]) ** 2)

    adjoints_agree(world, loss, ["w0", "w1", "w2", "w3", "x", "y"])


def test_adjoints_of_a_batch_agree_with_jax():
    text = "h = tanh(x @ W1 + b1); p = softmax(h @ W2 + b2); L = -np.sum(y * np.log(p))"
    world = world_of(text, Layout(vectors=True, rows=True, batch=True))
    shapes = {v: world.values[v].array.shape[1:] for v in ("x", "W1", "W2")}
    assert len({n for shape in shapes.values() for n in shape}) == 4  # every width different

    def loss(at):
        h = jnp.tanh(at["x"] @ at["W1"] + at["b1"])
        return -jnp.sum(at["y"] * jax.nn.log_softmax(h @ at["W2"] + at["b2"]))

    adjoints_agree(world, loss, ["x", "W1", "b1", "W2", "b2"], 1e-8)


def test_adjoints_of_indexed_sums_agree_with_jax():
    text = r"p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}; L = -\sum_i y_i \log p_i + \sum_i \sum_j z_i A_{ij} z_j"
    world = world_of(text, Layout())

    def loss(at):
        z, a = at["z"][:, 0, 0], at["A"][:, :, 0, 0]
        return -jnp.sum(at["y"][:, 0, 0] * jax.nn.log_softmax(z)) + z @ a @ z

    adjoints_agree(world, loss, ["z", "A"], 1e-8)


def test_adjoints_of_layers_that_a_letter_counts_agree_with_jax():
    text = r"z^l = W^l a^{l-1} + b^l; a^l = \tanh(z^l); L = ½ ||a^{l+1} - y||^2; \delta^{l+1} = dL/dz^{l+1}"
    reading = continued(read(placed(claims_of(chains(text)))[0]))
    world = build(reading, Layout(vectors=True), Loss())
    assert {*reading.free} == {"a699", "W700", "b700", "W701", "b701", "y"}  # l is 700: l-1 comes in

    def loss(at):
        a = jnp.tanh(at["W700"] @ at["a699"] + at["b700"])
        return 0.5 * jnp.sum((jnp.tanh(at["W701"] @ a + at["b701"]) - at["y"]) ** 2)

    adjoints_agree(world, loss, ["a699", "W700", "b700", "W701", "b701", "y"], 1e-8)


def test_adjoints_of_a_step_that_is_written_out_twice_agree_with_jax():
    text = "h_t = tanh(W h_{t-1} + U x_t); L = ½ ||h_{t+1} - y||^2"
    world = build(continued(read(placed(claims_of(chains(text)))[0])), Layout(vectors=True), Loss())
    assert world.reading.shared == {"W": 2, "U": 2}

    def loss(at):
        h = jnp.tanh(at["W"] @ at["h599"] + at["U"] @ at["x600"])
        return 0.5 * jnp.sum((jnp.tanh(at["W"] @ h + at["U"] @ at["x601"]) - at["y"]) ** 2)

    adjoints_agree(world, loss, ["W", "U", "h599", "x600", "x601"], 1e-8)


def test_adjoints_of_a_sum_over_steps_agree_with_jax():
    text = "h_t = tanh(W h_{t-1} + U x_t); o_t = V h_t; L = \\sum_{t=1}^T ½ ||o_t - y_t||^2"
    placed_ = placed(claims_of(chains(text)))
    world = build(continued(read(placed_.claims), placed_), Layout(vectors=True), Loss())

    def loss(at):
        h, total = at["h598"], 0.0
        for t in (599, 600, 601, 602):
            h = jnp.tanh(at["W"] @ h + at["U"] @ at[f"x{t}"])
            total += 0.5 * jnp.sum((at["V"] @ h - at[f"y{t}"]) ** 2)
        return total

    adjoints_agree(world, loss, ["W", "U", "V", "h598", "x599", "x601", "y600"], 1e-8)


def test_second_derivatives_agree_with_jax():
    text = "z = w x + b; p = sigmoid(z); q = silu(p / w) + max(0, z) z; L = -y log(p) + q^3 + z^w; f = 1 / (1 + e^z)"
    reading = read(claims_of(chains(text)))
    with np.errstate(invalid="ignore"):  # z^w where z < 0
        world = build(reading, Layout(), Loss())

    def loss(w, b, at):
        z = w * at["x"] + b
        p = jax.nn.sigmoid(z)
        q = jax.nn.silu(p / w) + jnp.where(z < 0, 0, z) * z
        return (-at["y"] * jnp.log(p) + q**3 + jnp.exp(w * jnp.log(z))).sum()

    with np.errstate(invalid="ignore"):
        pairs = {pair: Expr("second", (("", ()), *((v, ()) for v in pair))) for pair in ("ww", "wb", "bb")}
        mine = {pair: value_of(world, expr).array for pair, expr in pairs.items()}
    seen = 0
    with jax.enable_x64(True):
        for p in range(world.points):
            at = {v: jnp.asarray(world.values[v].array[p].item()) for v in ("w", "b", "x", "y")}
            if at["w"] * at["x"] + at["b"] <= 0:  # z^w is no number
                continue
            hessian = jax.hessian(loss, argnums=(0, 1))(at["w"], at["b"], at)
            for pair, (i, j) in {"ww": (0, 0), "wb": (0, 1), "bb": (1, 1)}.items():
                np.testing.assert_allclose(mine[pair][p].item(), hessian[i][j], rtol=1e-8)
            seen += 1
    assert seen >= 5


@pytest.mark.parametrize("name_", FUNCTIONS)
def test_derivatives_of_the_functions_agree_with_differences(name_):
    function, z, step = FUNCTIONS[name_], np.array([0.13, 0.4, 0.9, 1.7, 2.6]), 1e-6
    z = z if name_ in ("log", "sqrt") else np.concatenate([z, -z])
    for f, slope in ((function.value, function.derivative), (function.derivative, function.second)):
        np.testing.assert_allclose(slope(z), (f(z + step) - f(z - step)) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("text", "statuses"),
    [
        ("h_t = tanh(w h_{t-1}); dL/dw = dL/dh_t (1 - h_t^2) h_{t-1}; dL/dh_t = dL/dh_{t+1} (1 - h_{t+1}^2) w",
         ["right", "not judged", "right"]),  # w is shared by two steps
        ("h_t = tanh(w h_{t-1}); dL/dw = dL/dh_t (1 - h_t^2) h_{t-1}; dL/dw = dL/dh_t h_{t-1}", ["right", "right", "wrong"]),
        ("h_t = tanh(w h_{t-1}); dL/dw = \\sum_t dL/dh_t (1 - h_t^2) h_{t-1}; dL/dw = dL/dh_t (1 - h_t^2) h_{t-1}",
         ["right", "right", "wrong"]),  # all steps, so that one of them is not enough
        ("h_t = tanh(w h_{t-1}); dL/dw = \\sum_{t=0}^{T-1} dL/dh_t (1 - h_t^2) h_{t-1}", ["right", "right"]),
        ("h_t = tanh(w h_{t-1}); dL/dw = \\sum_{t=1}^{T-1} dL/dh_t (1 - h_t^2) h_{t-1}", ["right", "not read"]),
        ("h_t = tanh(w h_{t-1}); dL/dw = \\sum_{t=2}^T dL/dh_t (1 - h_t^2) h_{t-1}", ["right", "not read"]),
        ("h_t = w h_{t-1}; L = Σ_t h_t^2; dL/dw = Σ_t dL/dh_t h_{t-1}; dL/dw = Σ_t 2 h_t h_{t-1}; dh_t/dw = h_{t-1}",
         ["right", "right", "right", "wrong", "right"]),
        ("h1 = tanh(w h0 + u); h2 = tanh(w h1 + u); L = h2^2; dL/dw = dL/dh2 (1 - h2^2) h1; dL/du = dL/dh2 (1 - h2^2)",
         ["right"] * 3 + ["wrong"] * 2),  # two lines that leave out the same path do not make h1 = tanh(w h0) a slip
        ("y[t] = Why @ h[t] + by\nloss = sum_t 0.5*||y[t] - d[t]||^2\ndy[t] = y[t] - d[t]\n"
         "dWhy = sum_t dy[t] @ h[t].T\nh[t] = relu(h[t-1])", ["right"] * 5),  # a line of its own, and no dy[t] = …
        ("y_k = v h_k; L = \\sum_k ½ ||y_k - d_k||^2; dL/dv = \\sum_k (y_k - d_k) h_k", ["right"] * 3),  # of one y_k
        ("h_t = tanh(W h_{t-1} + U x_t); e_t = v^T h_t; a = softmax(e); c = \\sum_t a_t h_t; L = ½ ||c - y||^2; "
         "dL/da_t = h_t^T (c - y); dL/dc = y - c", ["right"] * 6 + ["wrong"]),  # a_t is an entry of a
        ("L = \\sum_t γ^t r_t^2; dL/dr_t = 2 γ^t r_t", ["right", "right"]),  # a power, where nothing counts
        ("h_t = w h_{t-1}; L = Σ_t h_t^2; dL/dw = Σ_t Σ_t dL/dh_t h_{t-1}; dL/dw = Σ_t (1 + Σ_t h_t)",
         ["right", "right", "not read", "not read"]),
        ("h_t = w h_{t-1}; L = Σ_t h_t^2; dL/dw = \\sum_{t=0}^{T-1} dL/dh_{t+1} h_t", ["right", "right", "not judged"]),
        ("h_t = u h_{t-1}; y_t = w h_{t-1}; L = Σ_t y_t^2; dL/dw = \\sum_{t=0}^{T-1} 2 y_{t+1} h_t; dL/dw = Σ_t y_{t+1} h_t",
         ["right"] * 3 + ["not judged"] * 2),  # what is beyond the last step is nowhere
        ("h_t = w h_{t-1}; L = h_{t+1}^2; g_t = w g_{t+1}; dL/dh_t = g_t; dL/dh_t = 2 h_{t+1} w",
         ["right"] * 3 + ["not judged", "right"]),  # where g_t begins is not said
        ("s_t = w s_{t-1}; L = \\sum_{t=0}^{T-1} s_{t+1}^2; dL/dw = \\sum_{t=0}^{T-1} dL/ds_{t+1} s_t; dL/dw = Σ_t 2 s_t",
         ["right", "right", "right", "not judged"]),
        ("h_t = w h_{t-1}; L = h_T^2; dL/dh_T = 2 h_T; dL/dh_t = 2 h_T w; dL/dh_{T-1} = 2 h_T w",
         ["right", "right", "right", "wrong", "right"]),
        ("w_{t+1} = w_t - α dL/dw_t; L = (w x)^2; dL/dw = 2 w x^2", ["not judged", "right", "right"]),
        ("y_n = w x_n; E = \\sum_n (y_n - t_n)^2; dE/dw = \\sum_n 2 (y_n - t_n) x_n", ["right"] * 3),  # n is an index
        ("h[t] = w h[t-1]; dL/dh[t-1] = w dL/dh[t]; dL/dw = dL/dh[t] h[t]", ["right", "right", "wrong"]),
        ("z = w x; L = z^2; d²L/dw² = d/dw (dL/dw) = d/dw (2 z x) = 2 x^2; d²L/dw dx = 4 w x; d²L/dwdx = 2 w x",
         ["right"] * 6 + ["wrong"]),
        ("z = w x; dL/dz = z; d²L/dw² = x^2", ["right", "not judged", "not judged"]),  # no loss
        ("g(z) = 1/(1+e^{-z}); dg/dz = g(1-g); dg/dz = g(1+g)", ["right", "right", "wrong"]),
        ("L(w) = (w x - y)^2; dL/dw = 2 (w x - y) x; d²L/dw² = 2 x", ["right", "right", "wrong"]),
        ("f(x) = x^n; f'(x) = n x^{n-1}; f\'\'(x) = n (n-1) x^{n-2}; f'(x) = x^{n-1}", ["right"] * 3 + ["wrong"]),
        ("z = W x; L = ||z||^2; d²L/dx² = 2 W^T W", ["right", "right", "not judged"]),  # of vectors
        ("p_i = e^{z_i} / \\sum_j e^{z_j}; L = -log p_c; dL/dz_i = p_i - [i = c]; dL/dz_i = p_i + [i = c]",
         ["right"] * 3 + ["wrong"]),
    ],
)  # fmt: skip
def test_letters_that_count_and_second_derivatives_at_their_limits(text, statuses):
    assert [line.status for line in grade(text).lines] == statuses


@pytest.mark.parametrize(
    ("rows", "statuses"),
    [
        (["| z | = w x |", "| dL/dw | = x dL/dz |"], ["right", "right"]),
        (["| what | how |", "|---|---|", "| z | w x |", "| dL/dw | w dL/dz |"], ["right", "wrong"]),
        (["| z = w x | dL/dw = x dL/dz |"], ["right", "right"]),
        (["| what | shape |", "|---|---|", "| dL/dW | 4x3 |", "| z = w x | |"], ["right"]),
        (["| what | how |", "|---|---|", "| dL/dw | 4x3 |", "| dL/dx | see above |", "| z = w x | |"], ["right"]),
        (["| what | how |", "|---|---|", "| dL/dw | needs w |", "| dL/dx | as w x |", "| z = w x | |"], ["right"]),
        (["| dL/dw | x dL/dz |", "| z = w x | |"], ["right"]),  # no header, no sign: no equation
    ],
)
def test_cells_of_a_table_that_split_an_equation(rows, statuses):
    assert [line.status for line in grade("\n".join(rows)).lines] == statuses


def test_the_report_counts_layers_by_the_letter_of_the_text():
    verdict = grade(r"z^l = w^l a^{l-1}; a^l = \tanh(z^l); \partial C/\partial w^l = \partial C/\partial z^l a^l")
    assert verdict.lines[-1].quantity == "dC/dw_l"
    assert verdict.lines[-1].correction == "dC/dw_l = dC/dz_l * a_{l-1}"
    assert "of a net that is made up" in verdict.basis
    given = grade(
        r"z^1 = w^1 x; z^2 = w^2 z^1; C = (z^2 - y)^2; \partial C/\partial z^l = w^{l+1} \partial C/\partial z^{l+1}"
    )
    assert (given.lines[-1].status, given.lines[-1].formula) == ("right", "dC/dz1 = w2 * dC/dz2")
    assert "judged at one that is given" in given.basis
    last = grade(
        r"z^1 = w^1 x; z^2 = w^2 z^1; C = (z^2 - y)^2; \delta^L = 2 (z^L - y); \delta^l = w^{l+1} \delta^{l+1}"
    )
    assert [line.status for line in last.lines] == ["right"] * 5


@pytest.mark.parametrize(
    "formula",
    ["tr(A^T W x x^T)", "sum(diag(W x) W)", "sum((W x) ⊗ x)", "log(sum(exp(W x)))", "norm(W x)", "sum(var(W x) + mean(x))",
     "sum(max(W x, 0))", "sum((W x) / (1 + (W x)^2))", "sum(exp(W x)^2)", "x^T W^T A x"],
)  # fmt: skip
def test_operations_agree_with_differences(formula):
    world = world_of(f"s = W x + A x; L = {formula} + 0 sum(s)", Layout(vectors=True))
    rng, step = np.random.default_rng(3), 1e-6
    expr = world.reading.definitions["L"][1]
    for v in ("x", "W"):
        node = world.values[v]
        direction = rng.normal(size=node.array.shape)
        moved = []
        for sign in (1, -1):
            values = Values(world.values)
            values[v] = type(node)(node.array + sign * step * direction, node.letters)
            values["s"] = value_of(world._replace(values=values), world.reading.definitions["s"][1])
            moved.append(value_of(world._replace(values=values), expr).array.ravel())
        slope = (moved[0] - moved[1]) / (2 * step)
        mine = (world.adjoints[v] * direction).reshape(world.points, -1).sum(1)
        np.testing.assert_allclose(mine, slope, rtol=1e-5, atol=1e-6)


def test_a_missing_transpose_does_not_fit_since_all_sizes_differ():
    world = choose(read(claims_of(chains("z = W x + b\nL = 1/2 ||z - y||^2\ndL/dx = W^T (z - y)"))))
    assert world is not None
    rows, columns = world.values["W"].shape
    assert rows != columns
    assert 1 not in (rows, columns)
    assert value_of(world, name("x")).shape == (columns, 1)


# --- what is said ----------------------------------------------------------------------------------------------------


def test_the_report_says_first_what_the_text_was_judged_as():
    assert grade("dL/dz1 = dL/dh1 * [z1 >= 0]").basis.startswith("network: the exercise (no forward equations given)")
    basis = grade("z = W x + b\nyhat = z\nL = 1/2 ||yhat - y||^2\ndL/dx = W^T (yhat - y)").basis
    assert basis.startswith(
        "network: from lines 1-2; loss: L of line 3; vectors and matrices, one example as a column: x (2x1)"
    )
    assumed = grade("Z = W X + b\nA = sigmoid(Z)\ndZ = A - Y\ndW = 1/m dZ X.T")
    assert "cross-entropy (assumed)" in assumed.basis
    assert "for L = the cross-entropy" in assumed.lines[2].reason
    assert str(assumed).startswith(assumed.basis[:60])


def test_the_report_keeps_the_letters_of_the_text():
    verdict = grade("a1 = tanh(u1)\nJ = 1/2 (a1 - y)^2\ndJ/du1 = (a1 - y)")
    assert verdict.lines[-1].quantity == "dJ/du1"
    assert "dJ/du1 = dJ/da1 * tanh'(u1)" in verdict.lines[-1].correction


def test_what_hangs_on_a_line_that_was_not_read_says_so():
    lines = grade("z = w x\np = squish{z}\nL = -y log(p)\ndL/dp = -y/p\ndL/dz = p - y").lines
    assert [line.status for line in lines] == ["right", "not read", "right", "right", "not judged"]
    assert lines[-1].reason == "p's definition in line 2 was not read"


def test_zero_on_both_sides_proves_nothing():
    line = grade("z = w x\ns = u v\nL = 1/2 (z - y)^2\ndL/du = 3 dL/ds v").lines[-1]
    assert (line.status, "it says nothing" in line.reason) == ("not judged", True)


def test_the_score_is_of_all_equations():
    verdict = grade("dL/dz1 = dL/dh1 * [z1 >= 0]\ndL/dh1 = dL/dz2 w2 squish")
    assert verdict.score == 0.5
    assert not verdict.enough
