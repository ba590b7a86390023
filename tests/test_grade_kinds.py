# ruff: noqa: E501  (a text a line)
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
    "arrays of one axis": (
        "h = np.tanh(W @ x + b)\ny = v @ h\nL = 0.5*(y - t)**2\ndy = y - t\ndv = dy * h\ndh = dy * v\ndz = dh * (1 - h**2)\n"
        "dW = np.outer(dz, x)\ndW = np.outer(x, dz)", "++++++++-"),
    "a dot of two arrays": ("z = np.dot(w, x)\nloss = 0.5 * (z - y)**2\ndw = (z - y) * x\ndw = (z - y) * w", "+++-"),
    "a sum over all is by a number": (
        "y = a * x + b\nL = np.sum((y - t)**2)\ngrad_y = 2*(y - t)\ngrad_a = (grad_y * x).sum()\ngrad_b = grad_y.sum()", "+++++"),
    "one vector and its mean": (
        "mu = x.mean()\nxc = x - mu\nvar = (xc**2).mean()\nxhat = xc / np.sqrt(var + eps)\ny = gamma * xhat + beta\n"
        "dgamma = dy * xhat\ndbeta = dy\ndgamma = dy * xc", "+++++++-"),
    "a number in front of a vector": ("w = g v / ‖v‖\ndL/dg = dL/dw^T v / ‖v‖\ndL/dg = dL/dw^T v", "++-"),
    "a step size": (
        "x1 = x0 + h f0, f0 = tanh(W x0)\nL = ½ ‖x1 − y‖²\n∂L/∂f0 = h (x1 − y)\n∂L/∂f0 = x1 − y", "++++-"),
    "a label in front": ("m = y w^T x\nL = log(1 + exp(−m))\ndL/dw = −y x/(1 + exp(m))\ndL/dw = y x/(1 + exp(m))", "+++-"),
    "an adapter": (
        "y = W x + B A x\nL = ½ ‖y − t‖²\n∂L/∂B = (y − t) (A x)^T\n∂L/∂A = B^T (y − t) x^T\n∂L/∂A = B (y − t) x^T", "++++-"),
    "matrices on both sides": ("Y = A X B\ndL/dX = A dL/dY B^T\ndL/dX = A^T dL/dY B^T", "+-+"),
    "the trace of a product": ("f = tr(A X B)\ndf/dX = B A\ndf/dX = A^T B^T", "+-+"),
    "attention in capitals": ("S = Q K^T\nP = softmax(S)\nO = P V\ndV = P dO\ndV = P^T dO", "+++-+"),
    "vectors of a family": ("L = −log σ(u^T v) − Σ_k log σ(−n_k^T v)\n∂L/∂u = (σ(u^T v) − 1) v\n∂L/∂n_k = σ(n_k^T v) v\n"
        "∂L/∂n_k = −σ(n_k^T v) v", "+++-"),
    # conditions and words
    "a condition in front": (
        "s = w x\nL = max(0, 1 - y s)\nIf y s < 1: dL/ds = -y\nOtherwise: dL/ds = 0\nIf y s < 1: dL/ds = y", "++++-"),
    "conditions in one line": ("h = relu(z)\nFor z > 0 we have dh/dz = 1, for z < 0 we have dh/dz = 0", "+++"),
    "the wrong side of a condition": ("h = relu(z)\nIf z > 0: dh/dz = 0", "+-"),
    "a remark in brackets": ("h = relu(z)   (hidden)\nL = ½ (h − y)²   (loss)\ndL/dh = h − y  (outer product)", "+++"),
    "sentences that end": ("h = tanh(W x + b). Salida: ŷ = V h. L = 1/2 ||ŷ − y||^2.\ndL/dV = (ŷ − y) h^T", "++++"),
    "a sentence in front": ("x is a row vector. h = σ(x W₁), ŷ = h W₂\n∂L/∂h = ∂L/∂ŷ W₂ᵀ", "+++"),
    "code in a sentence": ("Forward is `z = X @ W`, then `h = relu(z)`.\n`dz = dh * (z > 0)`\n`dW = X.T @ dz`", "++++"),
    "a word of LaTeX": (r"h = \tanh(w x) \text{ and } L = ½(h - y)^2" "\ndL/dh = h - y", "+++"),
    "an activation by its name": ("h = φ(w x) with φ = tanh\ndh/dw = (1 - h²) x\ndh/dw = h (1 - h) x", "+++-"),
    "an activation in words": ("Here f is the sigmoid function.\nh = f(w x)\ndh/dw = h (1 - h) x", "+++"),
    "cases that leave a piece out": ("h = relu(z)\ndh/dz = 1 if z > 0, 0 if z < -1", "+-"),
    "a slope by another function": (
        "h = g(z)\ng'(z) = f(z) (1 - f(z))\nL = (h - y)^2\ndL/dz = 2 (h - y) h (1 - h)", "+-+-"),
    "an activation by its slope": ("h = f(w x)\nf'(a) = f(a)(1 − f(a))\ndh/dw = h (1 − h) x\ndh/dw = h x", "+++-"),
    "a slope of what is not said": ("h = f(w x)\nf'(a) = 1 + f(a)", "+?"),
    "a differential": ("L = ½‖W x − y‖²\ndL = (W x − y)^T dW x\ndL/dW = (W x - y) x^T", "+?+"),
    # steps and loops
    "what is added up in a loop": (
        "J = 0\nfor i in range(m):\n    z = w * x[i] + b\n    a = sigmoid(z)\n    J += -(y[i]*np.log(a) + (1-y[i])*np.log(1-a))\n"
        "    dz = a - y[i]\n    dw += x[i] * dz\n    db += dz\nJ /= m\ndw /= m", "++++++-++"),
    "a loop over pairs": (
        "for x, y in zip(X, Y):\n    h = np.tanh(W1 @ x)\n    out = W2 @ h\n    loss += 0.5 * np.sum((out - y)**2)\n"
        "    dW2 += np.outer(out - y, h)\n    dW2 += np.outer(h, out - y)", "++++-"),
    "a step down": ("z = w x\nL = (z - y)^2\nw = w - 0.1 * 2 (z - y) x\nw := w - η (z - y) x\nw = w - η dL/dw", "+++-+"),
    "a step that may be right": ("z = w x\nL = (z - y)^2\nw = w + η dL/dw\nw = w - η (dL/dw + λ w)", "++??"),
    "a δ that is added": ("o = σ(w h)\nE = 1/2 (t - o)^2\nδ = (t - o) o (1 - o)\nΔw = η δ h\nΔw = η δ", "++++-"),
    "a δ with the wrong sign": ("o = σ(w h)\nE = 1/2 (t - o)^2\nδ = (t - o) o (1 - o)\nΔw = -η δ h", "++-+"),
    "a second step by numbers": (
        "w = 1, x = 2, t = 1\ny = w x = 2\nL = (y - t)^2 = 1\ndL/dw = 2 (y - t) x = 4\nw = w - 0.1 * dL/dw = 0.6\n"
        "y = w x = 1.2\nL = (y - t)^2 = 0.04\ndL/dw = 0.8\ndL/dw = 4", "++++++++++++++++-"),
    "a new name for the next value": (
        "w = 1, x = 2, t = 1\ny = w x = 2\nL = (y - t)^2 = 1\ndL/dw = 4\nw_new = w - 0.1 * dL/dw = 0.6\nw_new = 0.7",
        "++++++++++-"),
    "a residual called δ": ("q = w φ\nδ = r − q\nL = ½ δ²\ndL/dq = −δ\ndL/dw = δ φ", "++++-"),
    "deltas in the order of appearance": (
        "h = sigmoid(x W1 + b1), ŷ = softmax(h W2 + b2)\nJ = −Σ_i y_i log ŷ_i\nδ1 = ŷ − y\n∂J/∂W2 = h^T δ1\n∂J/∂W2 = δ1 h^T",
        "+++++-"),
    # of a second reader
    "brackets at the end are no remark": ("z = W x + b\np = softmax(z)\nL = -\\sum_k y_k \\log p_k\ndL/dz = p - y\ndL/dx = W^T (p-y)", "+++++"),
    "gradients of an unknown loss": ("J(W) = L(W) + λ/2‖W‖²\n∇_W J = ∇_W L + λ W", "++"),
    "a dot between two vectors": ("L = ½ (w·x - y)² + λ/2 ‖w‖²\n∂L/∂w = (w·x - y) x + λ w", "++"),
    "a gradient through what lies between": ("r = A x - b\nf = ½ ‖r‖²\n∇f = A^T r", "+++"),
    "0 of a vector under a condition": ("L = max(0, 1 - y w^T x)\nIf y w^T x < 1: dL/dw = -y x\nOtherwise: dL/dw = 0", "+++"),
    "weight normalisation": ("w = g v / ‖v‖\n∂L/∂v = g/‖v‖ ∂L/∂w - g (∂L/∂g) v / ‖v‖²", "++"),
    "a dot after an adjoint": ("w = g v / ‖v‖\n∂L/∂g = ∂L/∂w · v/‖v‖", "++"),
    "an array in front of another": ("z = x @ w + b\nloss = 0.5 * (z - y)**2\ndz = z - y\ndw = x * dz", "++++"),
    "the gradient of g": ("g(u) = log(1 + exp(a^T u))\n∇_u g = σ(a^T u) a", "++"),
    "the gradient of a function of any letter": ("q(x) = ‖x‖²/2\n∇q = x", "++"),
    "a wrong delta does not take another's place": ("z1 = X.dot(W1) + b1\na1 = np.tanh(z1)\nz2 = a1.dot(W2) + b2\nloss = 0.5*np.sum((z2 - y)**2)\ndelta3 = z2 - y\ndelta2 = delta3.dot(W2.T) * (1 + a1**2)\ndW1 = np.dot(X.T, delta2)", "+++++-+"),
    "the loss of example n": ("y_k = Σ_j w_kj z_j\nE_n = ½ Σ_k (y_k − t_k)²\nδ_k = y_k − t_k\n∂E_n/∂w_kj = δ_k z_j", "++++"),
    "norms of products of capitals": ("L = ‖A X - B‖_F²\n∂L/∂A = 2 (A X - B) X\n∂L/∂X = 2 (A X - B) A^T\n∂L/∂A = 2 (A X - B) X^T", "+--+"),
    "if … then …, otherwise": ("a = max(0, z)\nL = (a - y)²\nIf z > 0 then dL/dz = 2(a - y), otherwise 0", "+++"),
    "falls … dann …, sonst": ("h = max(0, z)\nFalls z > 0, dann ∂E/∂z = ∂E/∂h, sonst 0.", "++"),
    "if …; else …": ("a = max(0, z)\nL = (a - y)²\nIf z > 0, dL/dz = 2(a - y); else dL/dz = 0.", "++++"),
    "if … If …": ("a = max(0, z)\nL = (a - y)²\nIf z > 0, then dL/dz = 2(a - y). If z < 0, then dL/dz = 0.", "++++"),
    "for positive z": ("a = max(0, z)\nL = (a - y)²\nFor positive z we have dL/dz = 2(a - y).", "+++"),
    "a condition on a line of its own": ("a = max(0, z)\nIf z > 0:\nda/dz = 1\nIf z < 0:\nda/dz = 0", "+++"),
    "if and else in code": ("z = w * x\nif z > 0:\n    a = z\nelse:\n    a = 0\nL = (a - y)**2\nda = 2 * (a - y)\ndz = da * (z > 0)\ndw = dz * x", "+++++++"),
    "two equations under a condition": ("m = max(x1, x2)\nIf x1 > x2, then dm/dx1 = 1 and dm/dx2 = 1.", "++-"),
    "an activation named in front": ("Activation: sigmoid. a = φ(z), z = w^T x\nE = ½ (a - t)²\n∂E/∂w = (a - t) a (1 - a) x", "+++++"),
    "an activation in other words": ("f is the hyperbolic tangent\ny = f(u), u = w x\nL = (y - t)²\ndL/du = 2 (y - t)(1 - y²)", "+++++"),
    "partial derivatives as subscripts": ("f(x, y) = e^{xy} + x\nf_x = y e^{xy} + 1\nf_y = y e^{xy}\nf_y = x e^{xy}", "++-+"),
    "the number of an exercise": ("Exercise 1. f(x) = x² sin x. f'(x) = 2 x sin x + x² cos x", "++"),
    "two letters in an exponent": ("L = e^{-yŷ}\ndL/dŷ = -y e^{-yŷ}", "++"),
    "an entry of each example": ("h_θ(x) = θ^T x\nJ(θ) = 1/(2m) Σ_i (h_θ(x^{(i)}) - y^{(i)})^2\n∂J/∂θ_j = 1/m Σ_i (h_θ(x^{(i)}) - y^{(i)}) x_j^{(i)}\n∂J/∂θ_j = 1/m Σ_i (h_θ(x^{(i)}) - y^{(i)}) x^{(i)}", "+++-"),
    "one-hot by its class": ("z = W x\np = softmax(z)\nL = -log p_c\ndL/dz = p - e_c", "++++"),
    "grad_w2 of W2": ("h = x @ W1\ny = h @ W2\nloss = ((y - t)**2).sum()\ngrad_y = 2 * (y - t)\ngrad_w2 = h.T @ grad_y\ngrad_w1 = x.T @ (grad_y @ W2.T)", "++++++"),
    "the loss of an example, by its letter": ("y = w x\nL_i = ½ (y − t)²\ndL_i/dw = (y - t) x", "+++"),
    "what is added is no vector": ("v = w^T φ\nδ = r + γ u - v\nL = ½ δ²\ndL/dw = -δ φ", "++++"),
    "a step worked in numbers": ("y_hat = w x, L = (y_hat - y)^2\nx = 2, y = 3, w = 1, η = 0.1\ndL/dw = 2 (2 - 3) 2 = -4\nw = 1 - 0.1 (-4) = 1.4\ny_hat = 1.4 * 2 = 2.8\ndL/dw = 2 (2.8 - 3) 2 = -0.8", "++++++++++++++"),
    "a step up in numbers": ("y = w x, L = 1/2 (y - t)^2\nx = 1, t = 2, w = 0, η = 0.5\ndL/dw = -2\nw = 0 - 0.5 * 2 = -1", "+++++++--"),
    "the trace of three": ("L = tr(A B C)\n∂L/∂A = (B C)^T\n∂L/∂B = A^T C^T\n∂L/∂C = (A B)^T\n∂L/∂C = A^T B^T", "++++-"),
    "a matrix called like a loss": ("Y = A B C\n∂L/∂C = B^T A^T ∂L/∂Y\n∂L/∂C = A^T B^T ∂L/∂Y", "++-"),
    "the number of a step is compared": ("x = 1, y = 3, w = 1, η = 0.1\nL = (w x - y)²\ndL/dw = 2 (w x - y) x = -4\nw ← w - η dL/dw = 0.6", "++++++++-"),
    "J = J / m": ("for i in range(m):\n    z = w * x[i]\n    J += 0.5*(z - y[i])**2\n    dz = z - y[i]\n    dw += dz * x[i]\nJ = J/m\ndw = dw/m", "++++++"),
    "a loop in a loop": ("for i in range(m):\n    z = np.dot(w, x[i])\n    J += 0.5*(z - y[i])**2\n    dz = z - y[i]\n    for j in range(n):\n        dw[j] += dz * x[i][j]\nJ /= m\ndw /= m", "++++++"),
    "a log-likelihood": ("p = σ(θ^T x)\nℓ(θ) = y log p + (1 - y) log(1 - p)\n∇_θ ℓ = (y - p) x\n∇_θ ℓ = (p - y) x", "+++-"),
    "functions of functions": ("h(x) = g(θ^T x), g(z) = 1/(1+e^{-z})\nℓ(θ) = y log h(x) + (1-y) log(1-h(x))\n∂ℓ/∂θ_j = (y - h(x)) x_j", "++++"),
    "a class by y": ("p_k = e^{z_k}/Σ_j e^{z_j}\nL = -log p_y\n∂L/∂z_k = p_k - 1[k = y]\n∂L/∂z_k = p_k + 1[k = y]", "+++-"),
    "δ of a class": ("p_k = e^{z_k}/Σ_j e^{z_j}\nL = -log p_y\n∂L/∂z_k = p_k - δ_{ky}", "+++"),
    "a y that is no and": ("x = 1, t = 0, w = 2\ny = w x\nE = (y - t)²\ndE/dw = 2 y x = 4", "+++++++"),
    "an unknown loss by name": ("J = L + λ/2 ‖W‖²\n∂J/∂W = ∂L/∂W + λ W\n∂J/∂W = ∂L/∂W + 2 λ W", "++-"),
    "a tensor of one number": ("x = torch.tensor(3.0, requires_grad=True)\ny = x**2 + 2*x\ndy/dx = 2*x + 2 = 8", "++++"),
    "a number that was not read": ("let x be what is given in class = three\ny = x^2 + 2*x\ndy/dx = 8", "?+?"),
    "arrays in front of matrices": ("h = np.tanh(x @ W1)\no = h @ W2\nL = 0.5*np.sum((o-y)**2)\ndo = o-y\ndh = W2 @ do", "+++++"),
    "a function of two": ("φ(x, y) = x^T A y\n∇_x φ = A y\n∇_y φ = A x", "++-"),
    "of a formula that nothing defines": ("∂/∂w ‖X w - y‖² = 2 X^T (X w - y)\n∂/∂w ‖X w - y‖² = 2 X (X w - y)", "+-"),
    "a scale in a quotient": ("w = (g/‖v‖) v\n∂L/∂g = v^T ∂L/∂w/‖v‖", "++"),
    "a scale in code": ("y = W @ x + s * (B @ (A @ x))\nL = 0.5*np.sum((y - t)**2)\ndy = y - t\ndA = s * np.outer(B.T @ dy, x)\ndB = s * np.outer(dy, A @ x)\ndA = np.outer(B.T @ dy, x)", "+++++-"),
    "a step of descent by k": ("f(x) = ½ ‖A x - b‖²\nx_{k+1} = x_k - α A^T (A x_k + b)", "+?"),
    "a step after what it is said with": ("x = 1, w = 3, b = 0\nz = w x + b = 3\ndz/dw = x = 1\nWith η = 0.5: w = 3 - 0.5 · 1 = 2.5\nz = 2.5 · 1 + 0 = 2.5", "++++++++++++"),
    "a condition on an entry": ("z_i = Σ_j W_ij x_j\nh_i = max(0, z_i)\nif z_i > 0: ∂h_i/∂W_ij = W_ij\nif z_i > 0: ∂h_i/∂W_ij = x_j", "++-+"),
    "otherwise, behind": ("L = max(0, 1 - y f)\ndL/df = -y if y f < 1\ndL/df = 0 otherwise", "+++"),
    "where … elsewhere": ("h = max(0, z)\ndL/dz = dL/dh where z > 0, 0 elsewhere\ndL/dz = dL/dh where z > 0, and 0 where z < 0\ndL/dz = dL/dh where z < 0, 0 elsewhere", "+++-"),
    "derivatives that are added": ("output = sigmoid(hidden @ W2)\nloss = 0.5*np.sum((y - output)**2)\nerror = y - output\nd_output = error * output * (1 - output)\nW2 += hidden.T @ d_output * lr", "+++??"),
    "loss L": ("z = wx + b, a = sigmoid(z), loss L = (a-y)^2\ndL/dw = 2(a-y)*a*(1-a)*x", "++++"),
    "squared error E": ("o = σ(w x)\nsquared error E = (t - o)²\ndE/do = -2 (t - o)", "+++"),
    "the identity": ("o = f(net) with f the identity, net = w x, E = ½ (t - o)²\ndE/dnet = -(t - o)", "+++++"),
    "une fonction d'activation": ("a = f(z) où f est la fonction sigmoïde, z = w x\nL = ½ (a - y)²\ndL/dz = (a - y) a (1 - a)", "+++++"),
    "a slope by its value": ("z = w x, a = f(z), f'(z) = a (1 - a), L = ½ (a - y)²\ndL/dz = (a - y) a (1 - a)", "+++++"),
    "products never broadcast": ("H = X A B\n∂L/∂A = X^T ∂L/∂H B\n∂L/∂A = X^T ∂L/∂H B^T", "+-+"),
    "a norm of a product": ("f(W) = ‖A W - B‖_F²\n∇f(W) = 2 A (A W - B)\n∇f(W) = 2 A^T (A W - B)", "+-+"),
    "what is transposed is no number": ("f(X) = a^T X^T X a\n∇f(X) = 2 X a a\n∇f(X) = 2 X a a^T", "+-+"),
    "inner products in angles": ("L = ½ (⟨w, x⟩ - y)²\ndL/dw = (⟨w, x⟩ - y) x", "++"),
    "bold words in front": ("**Forward:** z = w x\n**Loss:** L = (z - y)^2\n**Backward:** dL/dw = 2 (z-y) x", "+++"),
    "a layout that is named": ("Numerator layout. z = W x\n∂z/∂x = W^T\n∂L/∂x = ∂L/∂z W", "+-+"),
    "another that is named": ("In denominator layout, z = W x\n∂z/∂x = W^T\n∂z/∂x = W", "++-"),
    "the unit matrix": ("J = ½ ‖X w - y‖² + ½ λ ‖w‖²\n∇J = (X^T X + λ I) w - X^T y\n∇J = (X^T X - λ I) w - X^T y", "++-"),
    "how many there are, in code": ("p = sigmoid(X @ w)\nloss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))\ndw = X.T @ (p - y) / len(y)\ndw = X.T @ (p - y)", "+++-"),
    "columns and rows by None": ("z = W @ x\ndW = dz[:, None] * x[None, :]\ndW = x[:, None] * dz[None, :]", "++-"),
    "another step's value": ("δ = r + γ v' - v\nv = w^T x\nL = ½ δ²\n∇_w L = -δ x", "++++"),
    "weight decay in a step": ("L = (w x - y)²\nw ← (1 - η λ) w - η 2 (w x - y) x", "+?"),
    # of a third reader
    "an index that only a sum has": ("y_i = Σ_d w_d x_id\nL = Σ_i t_i y_i\n∂L/∂y_i = t_i\n∂L/∂w_d = Σ_i t_i x_id", "++++"),
    "a label of each example in front": ("L = Σ_i y_i w^T x_i\n∂L/∂w = Σ_i y_i x_i", "++"),
    "one vector beside a family of the same letter": ("J = u^T v + Σ_k u_k^T v\n∂J/∂u = v\n∂J/∂u_k = v", "+++"),
    "two entries of one family": ("s = v_i^T v_j\n∂s/∂v_i = v_j", "++"),
    "weights and vectors of a family": ("o = Σ_i a_i v_i\n∂L/∂a_i = v_i^T ∂L/∂o\n∂L/∂v_i = a_i ∂L/∂o", "+++"),
    "a Hessian": ("L = \\|Xw-y\\|^2\n\\nabla_w L = 2 X^\\top (X w - y)\n\\nabla_w^2 L = 2X^\\top X", "++?"),
    "a network that is no exercise": ("A2 = σ(Z2)\ndZ2 = A2 − Y\ndW2 = 1/m dZ2 A1^T", "++?"),
    "LaTeX's φ after a transpose": ("E(w)=\\frac12\\sum_n (t_n - w^T\\phi(x_n))^2\n\\nabla E(w) = -\\sum_n (t_n - w^T\\phi(x_n))\\phi(x_n)", "++"),
    "a residual without a loss": ("r = X @ w - y\ngrad_w = X.T @ r", "+?"),
    "a new name for a step in numbers": ("w=1, x=2, y=3\nL=(w x-y)^2\nw_new = w - 0.1 * (-4) = 1.4", "++++++"),
    "ones that are transposed": ("f = 1^T exp(A x)\ndf/dx = A^T exp(A x)", "++"),
    "y that is and": ("p = w x y q = v x\ndL/dw = dL/dp x y dL/dv = dL/dq x", "++++"),
    "g1 of which nothing is said": ("h1 = tanh(w1 x)\nh2 = tanh(w2 h1)\nL = ½ (h2 - y)²\ng2 = (h2 - y)(1 - h2²)\ng1 = g2 w1 (1 − h1²)\ndL/dw1 = g1 x", "+++++?"),
    "a pair of one family": ("d = p^T(q_i − q_j)\nL = −log σ(d) + λ‖p‖²\n∂L/∂p = 17 (q_i − q_j) + 2λ p", "++-"),
    "a number that is exact": ("w = 1, x = 2, y = 0\nL = (w x - y)^2 = 4\ndL/dw = 2 (w x - y) x = 8.1", "++++++-"),
    # of a reader of the code
    "a step makes no matrix symmetric": (
        "z = W x\ny = x + z\nL = ½ ‖y − t‖²\ndL/dy = y − t\ndL/dx = dL/dy + W dL/dy\nW = W − η dL/dy x^T", "++++-+"),
    "a momentum counts nothing": (
        "Z = X @ W\nL = np.sum((Z - Y)**2) / n\ndZ = 2*(Z - Y)/n\ndW = X.T @ dZ\nm = 0.9*m + 0.1*dW\nW -= lr * m", "++++??"),
    "a value that is no step": ("x_cent = x − α μ\nL = ½ x_cent²\ndL/dx = x_cent", "+++"),
    "I is no number": ("L = w x + w\ndL/dw = x + I", "+?"),
    # of a fourth reader
    "a denominator is all of x^T x": (
        "R = x^T A x / x^T x, A symmetric\n∂R/∂x = 2 (A x - R x) / x^T x\n∂R/∂x = 2 (A x + R x) / x^T x", "+++-"),
    "an X that is a number": (
        "J = f(X) (w^T v + b + c - log X)^2\ndJ/dw = 2 f(X) (w^T v + b + c - log X) v\ndJ/dw = 2 f(X) (w^T v + b + c - log X) w", "++-"),
    "two names of one formula": (
        "h = σ(x W1)\nyhat = h W2\nJ = ½ ‖yhat − y‖²\nz1 = x W1\nz2 = h W2\nδ_1 = ∂J/∂z2 = yhat − y\nδ_2 = ∂J/∂z1 = δ_1 W2^T ⊙ h ⊙ (1 − h)\n"
        "∂J/∂W1 = x^T δ_1", "+++++++++-"),
    "a Greek matrix that is symmetric": ("f = ½ x^T Λ x, Λ symmetric\n∇f = Λ x\n∇f = 2 Λ x", "+++-"),
    "the gradient of a loss that is left open": ("J(w) = L(w) + λ/2 ‖w‖²\n∇J = ∇L + λ w\n∇J = ∇L + 2 λ w", "++-"),
    "losses of several letters": (
        "E_D = 1/2 Σ_n (t_n - w^T x_n)^2\n∇_w E_D = -Σ_n (t_n - w^T x_n) x_n\n∇_w E_D = Σ_n (t_n - w^T x_n) x_n", "++-"),
    "a size behind an equation": ("z = W*x + b (n x 1)\nC = sum_j (y_j - z_j)^2\ndC/dx_k = sum_j W_jk * dC/dz_j", "+++"),
    "an adjoint that came in": ("c = f * p\nh = o * np.tanh(c)\ndc = dc + dh * o * (1 - np.tanh(c)**2)\ndc = dc + dh * o * np.tanh(c)", "++?-"),
    "grad is by what steps": (
        "n = len(y)\nloss = np.mean((X @ w - y)**2)\ngrad = 2/n * X.T @ (X @ w - y)\nw -= lr * grad", "++++"),
    "grad is by what steps, and wrong": ("loss = np.mean((X @ w - y)**2)\ngrad = 2 * X.T @ (X @ w - y)\nw -= lr * grad", "+-+"),
    "σ is the value of its call": (
        "z = w x, a = σ(z)\nC = -(y ln a + (1-y) ln(1-a))\n∂C/∂w = -(y/σ(z) - (1-y)/(1-σ(z))) ∂σ/∂w\n∂C/∂w = -(y/σ(z) + (1-y)/(1-σ(z))) ∂σ/∂w",
        "++++-"),
    "where the loss is positive": (
        "L = max(0, a² − p² + m)\nWhen the loss is positive:\n∂L/∂a = 2 a\n∂L/∂p = -2 p\n∂L/∂m = -1", "+++-"),
    "a condition of indices in its own formula": (
        "$p_i = e^{o_i}/\\sum_k e^{o_k}$\n$\\frac{\\partial p_j}{\\partial o_i} = p_i(1 - p_i)$ if $i = j$\n"
        "$\\frac{\\partial p_j}{\\partial o_i} = p_i p_j$ if $i \\neq j$", "++-"),
    "the o of what was seen": (
        "ŷ_o = exp(u_o^T v)/Σ_w exp(u_w^T v)\nJ = -log ŷ_o\n∂J/∂u_o = (ŷ_o - 1) v\n∂J/∂u_w = ŷ_w v for w ≠ o\n∂J/∂v = u_o - Σ_w ŷ_w u_w", "++++-"),
    "an o that is none of the samples": (
        "J = -log σ(u_o^T v) - Σ_{k=1}^K log σ(-u_k^T v)\n∂J/∂u_o = (σ(u_o^T v) - 1) v\n∂J/∂u_k = σ(u_k^T v) v\n∂J/∂u_k = -σ(u_k^T v) v", "+++-"),
    "where the derivative is 0": (
        "J = ‖X w − y‖² + λ ‖w‖²\n∇_w J = 2 X^T (X w − y) + 2 λ w\nw = (X^T X + λ I)^{-1} X^T y", "+++"),
    "where it is not": ("J = ‖X w − y‖² + λ ‖w‖²\n∇_w J = 2 X^T (X w − y) + 2 λ w\nw = (X^T X + 2 λ I)^{-1} X^T y", "++?"),
    "an inverse": ("f = x^T A^{-1} x\n∂f/∂x = (A^{-1} + A^{-T}) x\n∂f/∂x = 2 A^{-1} x", "++-"),
    "a covariance": (
        "f = -½ (x - μ)^T Σ^{-1} (x - μ), Σ symmetric\n∂f/∂μ = Σ^{-1} (x - μ)\n∂f/∂μ = Σ (x - μ)", "+++-"),
    "a delta that is taken off": ("y = W x\nE = 1/2 ||y - t||^2\nδ = t - y\n∂E/∂W = -δ x^T\n∂E/∂x = W^T δ", "++++-"),
    "a width": (
        "mean = x.sum(-1, keepdim=True) / C\nout = x - mean\ndx = dout - dout.mean(-1, keepdim=True)\ndx = dout + dout.mean(-1, keepdim=True)", "+++-"),
    "labels that are smoothed": (
        "p = softmax(z)\nq_i = (1 − ε) y_i + ε/K\nL = −Σ_i q_i log p_i\n∂L/∂z_i = p_i − q_i\n∂L/∂z_i = p_i − y_i", "++++-"),
    "one-hot labels as columns": (
        "Z = W X\nA = softmax(Z)\nJ = -Σ_{k,i} Y_{ki} log A_{ki}\ndJ/dZ = A - Y\ndJ/dZ = Y - A", "++++-"),
    "a layer above an index": (
        "z^{(2)}_k = \\sum_j w_{kj} h_j\np_k = e^{z^{(2)}_k} / \\sum_l e^{z^{(2)}_l}\nL = -\\sum_k y_k \\log p_k\n"
        "\\frac{\\partial L}{\\partial z^{(2)}_k} = p_k - y_k", "++++"),
    "columns of matrices": (
        "Z = W X + b\nL = ½ Σ_i ‖z_i − y_i‖²\n∂L/∂W = Σ_i (z_i − y_i) x_i^T\n∂L/∂b = Σ_i (z_i − y_i)\n∂L/∂Z = Z − Y\n∂L/∂z_i = y_i − z_i", "+++++-"),
    "an output for each example": (
        "Z = W X + b\nA = σ(Z)\nJ = -1/m Σ_i (y^(i) log a^(i) + (1 - y^(i)) log(1 - a^(i)))\ndZ = A - Y\ndW = 1/m dZ X^T\ndb = Σ_i dz^(i)", "+++++-"),
    "a layer and an example above": (
        "Z^{[2]} = W^{[2]} A^{[1]}\nA^{[2]} = softmax(Z^{[2]})\nJ = -\\frac1m \\sum_i \\sum_k y_k^{(i)} \\log a_k^{[2](i)}\n"
        "dZ^{[2]} = A^{[2]} - Y\ndZ^{[1]} = W^{[2]T} dZ^{[2]} * (1 - A^{[1]2})", "++++?"),
    "the normal distribution": (
        "p = Φ(w x), φ the density\nL = -log p\n∂L/∂w = -φ(w x) x / p\n∂L/∂w = φ(w x) x / p", "+++-"),
    "a matrix X beside a vector x": (
        "\\frac{\\partial a^T x}{\\partial x} = a\n\\frac{\\partial a^T X b}{\\partial X} = a b^T", "++"),
    "a loss that nothing leads to": ("E = Σ ½ (target − output)²\n∂E/∂out_1 = −(target_1 − out_1)", "+?"),
    "vectors of ones": ("Z = W X + b 1^T\nL = 1/(2m) ‖Z − Y‖_F²\ndZ = (Z − Y)/m\ndb = dZ 1\ndb = dZ^T 1", "++++-"),
    "a softmax along an axis": (
        "logits = h @ W\nprobs = F.softmax(logits, 1)\nloss = -np.log(probs[range(n), y]).mean()\ndlogits = probs.copy()\n"
        "dlogits[range(n), y] -= 1\ndlogits /= n\ndW = h.T @ dlogits #(1)", "+++++++"),
    "derivatives by an index, and primed": (
        "f(x, y) = x² y\n∂_x f = 2 x y\n∂_y f = x\nℓ(p) = Σ_i (x_i log p + (1 − x_i) log(1 − p))\nℓ'(p) = Σ_i (x_i/p − (1 − x_i)/(1 − p))", "++-++"),
    "what stands under a brace": (
        "L = (a - y)^2, a = σ(z), z = w x\n"
        "\\frac{\\partial L}{\\partial w} = \\underbrace{\\frac{\\partial L}{\\partial a}}_{2(a-y)} \\cdot \\underbrace{\\frac{\\partial a}{\\partial z}}_{a(1-a)} \\cdot x",
        "++++"),
    "a set is no equation": ("$x \\in \\mathbb{R}^3$, $L = ‖x‖^2$\n$dL/dx = 2 x$", "++"),
    "vectors of numbers": (
        "x = [1, -2], W = [[1, 0], [2, 1]], t = [0, 1]\nz = W x = [1, 0]\nL = ½ ‖z − t‖² = 1\ndL/dz = z − t = [1, -1]\n"
        "dL/dW = [[1, -2], [-1, 2]]\ndL/dx = W^T dL/dz = [1, -1]\ndL/dx = [-1, -1]", "+++++++++++-+"),
    "vectors of numbers, rounded": (
        "z = [2.0, 1.0, 0.1], y = [1, 0, 0]\np = softmax(z) = [0.659, 0.242, 0.099]\nL = -Σ_i y_i log p_i = 0.417\n"
        "dL/dz = p - y = [-0.341, 0.242, 0.099]\ndL/dz = [0.341, 0.242, 0.099]", "++++++++-"),
    "columns of numbers": ("x = [1 2]^T\nW = [1 2; 3 4]\nz = W*x = [5; 11]\nL = sum(z) = 16\ndL/dx = [4; 6]\ndL/dW = [1 1; 2 2]", "+++++++-"),
    "a number of the text that no equation has": (
        "w = 0.5, x = 2, y = 1\na = σ(w x) = 0.731\nL = -log a\ndL/dz = a - y\ndL/dw = (a + y) x", "+++++++-"),
    # of a fifth reader
    "a label that is a line's": (
        "L = −Σ_k t_k ln(p_k), p = softmax(z)\n∂L/∂z_k = p_k − t_k\nz = W x: ∂L/∂W = (p − t) xᵀ\n∂L/∂W = (p − t) x", "+++++-"),
    "another name for an error": (
        "z = W @ a + b\nh = sigmoid(z)\nC = 0.5*np.sum((h-y)**2)\ndelta = (h-y)*h*(1-h)\nnabla_b = delta\nnabla_W = np.outer(delta, a)\n"
        "nabla_W = 5 * np.outer(delta, a)", "++++++-"),
    "numbers without a loss": ("w = [1,-2], x = [0.5,0.25], b = 0, y = 1\nz = w·x + b = 0\ndL/db = -0.5", "+++++??"),
    "numbers without anything": ("dE/dw1 = -0.525*0.249*1 = -0.131", "??"),
    "a function that was not read": ("Qrst foo bar s(x) = 1/(1+e^(-x)) baz\ns'(x) = s(x)·(1 − s(x))", "??"),
    "queries and keys": ("q = W_q x, k = W_k x, s = q^T k\nds/dx = W_q^T k + W_k^T q\nds/dW_q = x k^T", "++++-"),
    "a gate's own weights": (
        "i = σ(W_i x + U_i h_prev)\nf = σ(W_f x + U_f h_prev)\nc = f ⊙ c_prev + i ⊙ tanh(W_g x)\ndW_i = (di ⊙ i ⊙ (1 − i)) xᵀ\n"
        "dW_f = (df ⊙ f ⊙ (1 + f)) xᵀ", "++++-"),
    "a row of an embedding": ("h = E[i], z = W h, p = softmax(z), L = -log p_t\ndh = W^T dz\ndh = W dz", "+++++-"),
    "λI": (
        "J = ½‖y − Xw‖² + ½ λ‖w‖²\n∇J = −Xᵀ(y − Xw) + λw\nw* = (XᵀX + λI)⁻¹ Xᵀ y\nw* = (XᵀX − λI)⁻¹ Xᵀ y", "+++?"),
    "a condition below a condition": ("L = max(0, 1 - y f)\nIf y f < 1:\ndL/df = -y\nIf y f > 1: dL/df = 0", "+++"),
    "when it is active": ("L = max(0, ‖a-p‖² - ‖a-n‖² + m)\nwhen active:\n∂L/∂a = 2(n - p)\n∂L/∂p = 2(a - p)", "++-"),
    "g is an exponent": ("FL = -(1-p)^g log(p)\ndFL/dp = g (1-p)^(g-1) log(p) - (1-p)^g / p\ndFL/dp = (1-p)^(g-1) log(p) - (1-p)^g / p", "++-"),
    "a vector of labels that is smoothed": (
        "q = (1-e) y + e/K, L = -sum_k q_k log p_k, p = softmax(z)\ndL/dz = p - q\ndL/dz = p - y", "++++-"),
    "a loss that is returned": (
        "def loss(w, x, y):\n    z = w * x\n    return jnp.logaddexp(0, -y * z)\n# dloss/dz = -y * sigmoid(-y*z)\n# dloss/dw = x * sigmoid(-y*z)",
        "+++-"),
    "a loss that is not said": ("pred = w*x + b\ndw = 2*(pred - y)*x\ndb = 2*(pred - y)", "+++"),
    "a gain beside a vector": ("r = sqrt(mean(x^2)), y = g * x / r\ndL/dg = dL/dy * x / r\ndL/dg = dL/dy * x * r", "+++-"),
    "the inverse of a derivative": ("s = ln(p/(1-p))\ndp/ds = p(1-p)\ndp/ds = 1/(p(1-p))", "++-"),
    "derivatives below a name": (
        "f(x,y) = sin(xy)\nf_x = y cos(xy)\nf_xy = cos(xy) - x y sin(xy)\nf_xy = -x y sin(xy)", "+++-"),
    "a matrix between": (
        "f = 1/2 (Ax - b)^T C (Ax - b)\ndf/dx = 1/2 A^T (C + C^T) (Ax - b)\ndf/dx = C A^T (Ax - b)", "++-"),
    "a step in plain numbers": (
        "x = 3, y = 10, w = 2, b = 1\nL = (w x + b - y)^2 = 9\nw = 2 - 0.01 * (-18) = 2.18\nb = 1 + 0.01 * (-6) = 0.94", "++++++++-?"),
    "a sum that reaches on": (
        "p_i = σ(w^T x_i)\nL = -Σ_i y_i log p_i + (1-y_i) log(1-p_i)\n∇L = Σ_i (p_i - y_i) x_i = X^T (p - y)\n∇L = X^T (p + y)", "++++-"),
    "a hat in the end": ("ℓ(p) = Σ_i x_i log p + (1 − x_i) log(1 − p)\np̂ = 1/n Σ_i x_i\n", "++"),
    "identities, each of its own matrices": (
        "∂/∂X Tr(X A) = A^T\n∂/∂X Tr(A X B) = A^T B^T\n∂/∂X Tr(X^T A) = A\n∂/∂X Tr(X^T X) = X", "+++-"),
    "sums of rows": ("P = softmax(S, axis=1)\nO = P V\ndP = dO V^T\ndS = P ⊙ (dP − rowsum(dP ⊙ P))\ndS = P ⊙ dP", "++++-"),
    "noise": ("h = relu(z)\nu = (np.random.rand(*h.shape) < p) / p\nhd = h * u\ndh = dhd * u\ndz = dh * (h > 0)\ndz = dh * (h < 0)", "+?+++-"),
    "of which example": (
        "L = Σ_i (w^T x_i − y_i)²\n∂L/∂w = 2 (w^T x − y) x\n∂L/∂w = 2 Σ_i (w^T x_i − y_i) x_i", "+?+"),
    "a number that follows from a wrong one": (
        "x = 3, w = 0.2, t = 1\no = w*x = 0.6\nE = 1/2 (t - o)^2 = 0.08\ndE/do = 0.4\ndE/dw = 0.4*3 = 1.2\ndE/dx = 0.4*0.2 = 0.8", "+++++++-+++-"),
    "code of vectors, with quotients": (
        "z = jnp.dot(w, x)\nloss = jnp.logaddexp(0, -y * z)\n# dloss/dz = -y * sigmoid(-y*z)\n# dloss/dw = -y * sigmoid(-y*z) * x\n"
        "# dloss/dw = -y * sigmoid(-y*z) * w", "++++-"),
    "all but one": (
        "p_i = e^{z_i}/Σ_j e^{z_j}\nL = -Σ_i y_i log p_i\n∂L/∂z_i = -y_i(1-p_i) + Σ_{k≠i} y_k p_i\n∂L/∂z_i = -y_i(1-p_i) - Σ_{k≠i} y_k p_i", "+++-"),
    "a step of a gradient of which nothing is said": ("w_{t+1} = w_t - η g_t", "?"),
    "a differential of a product": ("y = W x\ndy = dW x + W dx", "+?"),
    "words of two letters": ("Sea z = w x y la función de costo L = (z - t)^2 / 2\ndL/dz = z - t right?", "+++"),
    "a second derivative without a sign": ("f = x^3\nd2f/dx2 = 6x\nd2f/dx2 = 3x", "++-"),
    # of a sixth reader
    "a name for an error, with its derivative": (
        "h2 = relu(W2 h1)\ny = W3 h2\nL = 1/2 ||y - t||^2\ng3 = dL/dy = y - t\ndL/dW3 = g3 h2^T\ng2 = (W3^T g3) ∘ 1[h2 > 0]\n"
        "dL/dW2 = g2 h1^T\ndL/dW2 = h1 g2^T", "++++++++-"),
    "in steps, below the whole": (
        "y = (x - exp(z)) (x + x - exp(z))\nv3 = exp(z)\nv4 = x - v3\nv5 = x + v4\ny = v5 * v4\ndy/dv5 = v4\ndy/dv4 = v5 + v4\ndy/dv4 = v5 - v4",
        "+++++++-"),
    "sum of squares with a blank": ("x = [1, 2], y = [3, 5], w = 2\nyhat = w x\nL = sum (yhat - y)^2 = 2", "++++++"),
    "at a point that is not given": ("f(x,y) = x^2 + 3y^2\n∂f/∂x = 2x = 4", "++?"),
    "a gain that is a word": ("r = sqrt(mean(x^2))\ny = gamma * x / r + beta\ndgamma = dy * x / r\ndgamma = dy * x", "+++-"),
    "a loss of all layers, left open": (
        "J = L + λ/2 Σ_l ‖W_l‖²\n∂J/∂W_l = ∂L/∂W_l + λ W_l\n∂J/∂W_l = ∂L/∂W_l + 2 λ W_l", "++-"),
    "ones in front": ("Z = X W + 1 b^T\nL = ½ ‖Z − Y‖²\n∂L/∂b = (Z − Y)^T 1\n∂L/∂b = (Z − Y) 1", "+++-"),
    "the trace of a square": ("d/dX Tr(X^2) = 2X^T\nd/dX Tr(X^T B X) = BX + B^TX", "++"),
    "a scale behind a product": (
        "S = Q @ K.T * scale\nA = torch.softmax(S, dim=-1)\ndQ = dS @ K * scale\ndK = dS.T @ Q * scale\ndK = dS.T @ K * scale", "++++-"),
    "code of a network that is elsewhere": ("dZ1 = np.dot(W2.T, dZ2) * (1 - np.power(A1, 2))\ndW1 = np.dot(dZ1, X.T)", "??"),
    "a total of which it is no part": (
        "E_total = Σ ½(target − output)²\nE_o1 = ½(target_o1 − out_o1)²\n∂E_total/∂out_o1 = −(target_o1 − out_o1)", "++?"),
    "least squares of any name": ("S = (y − Xβ)ᵀ(y − Xβ)\n∂S/∂β = −2X(y − Xβ)", "+-"),
    "by what is inverted": ("f = a^T X^{-1} b\n∂f/∂X = -X^{-T} a b^T X^{-T}\n∂f/∂X = X^{-T} a b^T X^{-T}", "++-"),
    "a layer squared": (
        "Z^{[1]} = W^{[1]} X\nA^{[1]} = tanh(Z^{[1]})\nZ^{[2]} = W^{[2]} A^{[1]}\ndZ^{[1]} = W^{[2]T} dZ^{[2]} * (1 - A^{[1]2})\n"
        "dZ^{[1]} = W^{[2]T} dZ^{[2]} * (1 - A^{[1]})", "++++-"),
    "an adjoint that came in, once": ("c = f * p\nh = o * np.tanh(c)\ndc = dc + dh * o * (1 - np.tanh(c)**2)\ndf = dc * p", "++++"),
    # parts
    "functions one below the other": (
        "f(z) = z², f'(z) = 2z\nf(z) = tanh(z), f'(z) = 1 − tanh²(z)\nf(z) = e^z, f'(z) = e^z", "++++++"),
    "gates, a line each": ("z = x + y\ndx = dz\ndy = dz\nz = x y\ndx = dz y\ndy = dz x", "++++++"),
    "gates with a name in front": ("add: z = x + y, dx = dz, dy = dz\nmul: z = x * y, dx = dz * y, dy = dz * x", "++++++"),
    "a definition that was not read": ("L = ½ (a − y)², dL/da = a − y\nL = ln(besselj(a − y)), dL/da = tanh(a − y)", "++??"),
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
    "a gradient by its one parameter": ("L = ½ ‖X w − y‖²\n∇L = X^T (X w − y)\n∇L = X (X w − y)", "++-"),
    "a gradient by nothing": ("L = ½ (w v − y)²\n∇L = (w v − y) v", "+?"),
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
