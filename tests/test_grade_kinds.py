"""`grade` on kinds of text that readers of another hand broke it with: each the smallest text that showed the fault."""

import pytest

from jaxbackprop.grading.grade import grade

pytest.importorskip("lark")

MARKS = {"right": "+", "wrong": "-", "not judged": "?", "not read": "?", "right given the line above": "+"}
TWO_LAYERS = "z1 = X @ W1\nh = sigmoid(z1)\nz2 = h @ W2\nout = sigmoid(z2)\nloss = 0.5 * np.sum((out - y)**2)\n"
TANH = "h = np.tanh(X @ W1)\ns = h @ W2\nloss = ((s - y)**2).sum()\nds = 2*(s - y)\ndh = ds @ W2.T\n"
KINDS = {
    # statements
    "a mask put on dh is dz": (
        "z = W x + b\nh = relu(z)\ns = U h\ndh = U.T @ ds\ndh[z <= 0] = 0\ndW = np.outer(dh, x)", "++++++"),
    "a slope put on dh is dz": (TANH + "dh *= 1 - h**2\ndW1 = X.T @ dh", "+++++++"),
    "a wrong slope put on dh": (TANH + "dh *= 1 - h\ndW1 = X.T @ dh", "+++++-+"),
    "delta of the layer below": (
        TWO_LAYERS + "delta = (out - y) * out * (1 - out)\ndW2 = h.T @ delta\n"
        "delta = (delta @ W2.T) * h * (1 - h)\ndW1 = X.T @ delta", "+++++++++"),
    "d_ before a name": (TWO_LAYERS + "d_z2 = out - y\nd_W2 = h @ d_z2", "+++++--"),
    "keys of gradients": (
        TWO_LAYERS + "grads['W2'] = h.T @ ((out - y) * out * (1 - out))\ngrads['W1'] = X.T @ (out - y)", "++++++-"),
    "several names at once": ("z = x * y\ndx, dy = dz * y, dz * x", "+++"),
    "several names at once, exchanged": ("z = x * y\ndx, dy = dz * x, dz * y", "+--"),
    "a class by its letter": ("p = softmax(z)\nL = -np.log(p[k])\ndz = p.copy()\ndz[k] -= 1", "++++"),
    "cross-entropy is meant": ("z = W @ x\np = np.exp(z) / np.sum(np.exp(z))\ndz = np.copy(p)\ndz[y] -= 1", "++++"),
    "entry by entry": ("y = x @ W + b\ndx = W.T * dy", "+-"),
    "a method that is not known": ("h = x @ w\ndx = dh.apply(w.t())", "+?"),
    "a step of the training": ("h = sigmoid(x @ W)\nW += x.T @ h", "+?"),
    # sizes
    "half of what it is": ("Z = W X + b\nA = sigmoid(Z)\ndZ = 0.5 * (A - Y)", "++-"),
    "the bias of a batch": ("out = x.dot(w) + b\ndx = dout.dot(w.T)\ndw = x.T.dot(dout)\ndb = np.sum(dout, axis=1)", "+++-"),
    "a forgotten 2": ("L = ||X w - y||^2\ndL/dw = X^T (X w - y)", "+-"),
    "an axis that a line would turn": (
        "mu = x.mean(axis=0)\nxhat = x - mu\nout = gamma * xhat + beta\ndbeta = dout.sum(axis=1)\n"
        "dgamma = (dout * xhat).sum(axis=0)", "+++-+"),
    "a mean is of several": ("pred = X @ w\nloss = np.mean((pred - y)**2)\ndw = 2 * X.T @ (pred - y)", "++-"),
    "a Jacobian without a loss": ("z = W x + b\ndz/dx = W", "++"),
    "of a softmax": ("p = softmax(z)\n∂p/∂z = diag(p) - p p^T", "++"),
    "capitals alone": ("C = A B\ndB = A dC\ndA = dC B", "+??"),
    "capitals, and what is transposed": ("C = A B\n∂L/∂A = ∂L/∂C B^T\n∂L/∂B = A^T ∂L/∂C", "+++"),
    "capitals, and the wrong one transposed": ("C = A B\n∂L/∂A = B^T ∂L/∂C\n∂L/∂B = A^T ∂L/∂C", "+-+"),
    "two outputs": ("u = w x\nv = w z\n∂L/∂w = ∂L/∂u x + ∂L/∂v z\n∂L/∂w = ∂L/∂u x", "+++-"),
    "attention is of several": (
        "q = x @ Wq\nk = x @ Wk\nv = x @ Wv\na = softmax(q @ k.T)"
        "\no = a @ v\ndv = a @ do\ndv = a.T @ do", "+++++-+"),
    "what a name stands for": ("h = sigmoid(X @ W1)\nout = h @ W2\ng_out = out - y\ng_W2 = g_out.T @ h", "++??"),
    # at a kink
    "what is off is no counterexample": (
        "z1 = W1 x\nh1 = relu(z1)\nz2 = W2 h1\nh2 = relu(z2)\ny = W3 h2\ndz2 = W3^T dy ⊙ (z2 > 0)", "++++++"),
    "sign(0) lies between the slopes": ("h = relu(w x)\nL = |h|\ndL/dh = sign(h)", "+++"),
    # parts
    "functions one below the other": (
        "f(z) = z², f'(z) = 2z\nf(z) = tanh(z), f'(z) = 1 − tanh²(z)\nf(z) = e^z, f'(z) = e^z", "++++++"),
    "gates, a line each": ("z = x + y\ndx = dz\ndy = dz\nz = x y\ndx = dz y\ndy = dz x", "++++++"),
    "gates with a name in front": ("add: z = x + y, dx = dz, dy = dz\nmul: z = x * y, dx = dz * y, dy = dz * x", "++++++"),
    "a definition that was not read": ("L = ½ (a − y)², dL/da = a − y\nL = ln(cosh(a − y)), dL/da = tanh(a − y)", "++??"),
    # δ
    "deltas counted from the output": (
        "z1 = W1 x\nh = σ(z1)\nz2 = W2 h\no = softmax(z2)\nL = −Σ_k y_k log o_k\nδ1 = o − y\nδ2 = W2^T δ1\nδ3 = δ2 ⊙ h ⊙ (1 − h)",
        "++++++++"),
    "deltas of what has no name": (
        "h = σ(V x), o = σ(W h), L = 1/2||o - t||^2\nδ_out = (o - t) ⊙ o ⊙ (1 - o)\nδ_hid = W^T δ_out ⊙ h ⊙ (1 - h)", "+++++"),
    "a delta that lacks its slope": ("h = σ(V x), o = σ(W h), L = 1/2||o - t||^2\nδ_out = o - t\ndL/dW = δ_out h^T", "+++-+"),
    "o is a name": ("o = σ(w h)\nE = 1/2 (o - t)^2\nδ_o = (o - t) o (1 - o)", "+++"),
    # indices, functions, layouts
    "for equal indices, and for others": (
        "p_i = e^{z_i}/Σ_k e^{z_k}\nif i = j: ∂p_i/∂z_j = p_i (1 - p_i)\nif i ≠ j: ∂p_i/∂z_j = -p_i p_j", "+++"),
    "for other indices, the sign wrong": (
        "p_i = e^{z_i}/Σ_k e^{z_k}\n∂p_i/∂z_j = p_i (1 - p_j) for i = j\n∂p_i/∂z_j = p_i p_j for i ≠ j", "++-"),
    "indices said in front of a display": (
        "p_i = e^{z_i}/Σ_k e^{z_k}\nCase $i = j$:\n$$\\frac{\\partial p_i}{\\partial z_j} = p_i(1-p_i)$$", "++"),
    "indices in cases": (
        "p_i = e^{z_i}/Σ_k e^{z_k}\n∂p_i/∂z_j = p_i (1 - p_i) if i = j, -p_i p_j otherwise", "++"),
    "a hypothesis of each example": (
        "h(x_i) = w x_i + b\nJ = 1/(2m) Σ_i (h(x_i) - y_i)^2\n∂J/∂w = 1/m Σ_i (h(x_i) - y_i) x_i\n∂J/∂b = Σ_i (h(x_i) - y_i)",
        "+++-"),
    "a hypothesis with its parameters below": (
        "h_θ(x) = θ^T x\nJ(θ) = 1/2m Σ_{i=1}^m (h_θ(x^(i)) - y^(i))^2\n∂J/∂θ = 1/m Σ_i (h_θ(x^(i)) - y^(i)) x^(i)", "+++"),
    "an example's derivatives are of its own loss": (
        "z^(i) = w^T x^(i) + b\na^(i) = σ(z^(i))\nL(a, y) = -(y log a + (1-y) log(1-a))\nJ = 1/m Σ_i L(a^(i), y^(i))\n"
        "dz^(i) = a^(i) - y^(i)\ndw = 1/m Σ_i dz^(i) x^(i)\ndb = Σ_i dz^(i)", "++++++-"),
    "unless nothing says so": ("L = 1/n Σ_i (p_i - y_i)^2\n∂L/∂p_i = 2 (p_i - y_i)", "+-"),
    "a loss of which nothing is said": ("J = L(W) + λ/2 ||W||²\ndJ/dW = dL/dW + λ W\ndJ/dW = dL/dW + 2 λ W", "++-"),
    "a loss of two, of which nothing is said": (
        "z = w x\na = σ(z)\nJ = L(a, y)\ndJ/dz = dJ/da a (1 - a)\ndJ/dz = dJ/da a\ndJ/dz = a - y", "++++-?"),
    "the gradient of any name": ("f = x^T A x\n∇_x f = (A + A^T) x\n∇_x f = 2 A x", "++-"),
    "of a symmetric matrix": ("f(x) = x^T A x, A symmetric\n∇f = 2 A x\n∇f = A x", "+++-"),
    "numerators up": ("y = A x\ndy/dx = A\nf = x^T A x\ndf/dx = x^T (A + A^T)\ndf/dx = x^T (A - A^T)", "++++-"),
    "an arrow from value to value": ("x → z = w x + b → a = σ(z) → L = ½(a − y)²\ndL/dz = (a − y) a (1 − a)", "++++"),
    "the adjoint that comes in is a number": (
        "x = 2, w = 3\nz = w x = 6\ndL/dz = 0.5\ndL/dw = dL/dz x = 1\ndL/dx = 2.5", "+++++++-"),
    # notation
    "σ beside σ²": (
        r"\mu = \frac1n \sum_i x_i" "\n"
        r"\sigma^2 = \frac1n \sum_i (x_i - \mu)^2" "\n" r"\frac{\partial \sigma^2}{\partial \mu} = 0", "++?"),
    "a name that is squared": ("L = ½ ln σ² + (x − μ)²/(2σ²)\n∂L/∂μ = −(x − μ)/σ²\n∂L/∂σ² = 1/(2σ²) − (x − μ)²/(2(σ²)²)", "+++"),
    "bars are derivatives": ("y = w x\nL = ½ (y − t)²\nȳ = y − t\nw̄ = ȳ", "+++-"),
    "bars are means": ("x̄ = 1/n Σ x_i\nȳ = 1/n Σ y_i", "??"),
    "a gradient by nothing": ("L = ½ ‖X w − y‖²\n∇L = X^T (X w − y)", "+?"),
    "of a function": ("J(w) = 1/2 (w x - y)^2\n∇J(w) = (w x - y) x", "++"),
    "a loss by another name": (
        "out = h @ W\nloss = 0.5 * np.sum((out - y)**2)\ndL_dout = out - y\ndL_dW = h.T @ dL_dout", "++++"),
    "a sum over two letters": ("Z = X W\nL = ½ Σ_ij (Z_ij − Y_ij)²\n∂L/∂Z_ij = Z_ij − Y_ij", "+++"),
    "a chain of which a link was not read": ("L = z^2\ndL/dz = z @@ 3 = 5 z", "+??"),
    "the operator reaches over a power": ("L = (w x - y)^2\ndL/dw = d/dw (w x - y)^2 = 2 (w x - y) x", "+++"),
    "a prime alone": ("y = x^2\ny' = 2x\ny' = x", "++-"),
    "no zero before the point": ("w = .5, x = 2\ny = w x = 1.0\ndy/dw = 2", "+++++"),
    "decimal commas": ("w = 0,5; x = 2; y = w x = 1,0", "++++"),
    "a number twice as large": ("w = 0.5, x = 2, b = 0.1, y = 1\nz = w x + b\nL = ½(z − y)²\ndL/db = 0.2", "++++++-"),
    "rounded on the way": ("z = 2.0\na = sigmoid(z) = 0.88\nda/dz = 0.88 * 0.12 = 0.1056", "+++++"),
    "wx typed together": ("z = wx + b\nL = (z - y)^2\ndL/dw = 2(wx + b - y)x", "+++"),
    "the normal equations": ("L = 1/2 ||X w - y||^2\nX^T X w = X^T y", "+?"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_each_line_has_its_mark(kind):
    text, marks = KINDS[kind]
    verdict = grade(text)
    assert "".join(MARKS[line.status] for line in verdict.lines) == marks, str(verdict)


def test_what_a_later_line_finishes_says_so():
    lines = grade("y = x @ W\ndW = x.T @ dy\ndW += 2 * W").lines
    assert (lines[1].status, lines[1].reason) == ("not judged", "line 3 finishes it, and is judged")
    lines = grade("z = W @ x\nh = relu(z)\ndz = dh.copy()\ndz[z <= 0] = 0").lines
    assert (lines[2].status, lines[2].reason) == ("right", "with line 4")


def test_parts_are_said_and_slips_counted_through():
    verdict = grade("1. y = x^2, dy/dx = 3x\n2. y = sin(x), dy/dx = sin(x)")
    assert verdict.basis.startswith("2 parts, as names are defined anew; from line 1: ")
    assert [line.slip for line in verdict.lines] == [None, 1, None, 2]
    assert grade("z = w x\ndz/dw = x\nz = w x\ndz/dx = w").basis.count("parts") == 0  # said twice, and no other


def test_slopes_that_have_a_name_are_called_by_it():
    assert grade("y = sin(x)\ndy/dx = -cos(x)").lines[1].correction == "dy/dx = cos(x)"
    assert grade("y = cos(x)\ndy/dx = sin(x)").lines[1].correction == "dy/dx = -sin(x)"


def test_what_is_added_in_a_loop_is_the_sum_over_the_steps():
    lines = grade(
        "h[t] = np.tanh(W @ x[t] + U @ h[t-1])\nloss += np.sum(h[t]**2)\ndU += np.outer(dh[t] * (1 - h[t]**2), h[t-1])"
    ).lines
    assert lines[1].formula == "loss = Σ_t np.sum(h_t^2)"
    assert lines[2].formula.startswith("dloss/dU = Σ_t ")
