"""Backward passes of layers as people write them, right and with mistakes that people make.

For each mistake it is known which parameters it makes wrong; and, where it can be told, words that must tell it.
"""

import jax
import jax.numpy as jnp
import numpy as np


def drawn(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape) / 2, "float32") for name, shape in shapes.items()}


# Layer normalisation, between two matrices


def norm_loss(p, x, y):
    z = x @ p["w"]
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    normal = centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    return 0.5 * jnp.mean(jnp.sum((normal * p["gamma"] + p["beta"] - y) ** 2, axis=-1))


def norm_gradient(p, x, y, mistake=""):
    z = x @ p["w"]
    n = z.shape[-1]
    centred = z - jnp.mean(z, axis=-1, keepdims=True)
    inverse = 1 / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    normal = centred * inverse
    dout = (normal * p["gamma"] + p["beta"] - y) / len(x)
    dgamma = jnp.sum(dout * (centred if mistake == "gamma of what is not scaled" else normal), axis=0)
    if mistake == "gamma of what is not centred":
        dgamma = jnp.sum(dout * z * inverse, axis=0)
    dnormal = dout if mistake == "no gamma" else dout * p["gamma"]
    mean = jnp.sum(dnormal, axis=-1, keepdims=True) / n
    product = jnp.sum(dnormal * normal, axis=-1, keepdims=True) / (n - 1 if mistake == "n - 1" else n)
    mean = 0 if mistake in ("no mean", "constants") else mean
    product = 0 if mistake in ("no variance", "constants") else product
    dz = dnormal - mean - normal * product
    dz = dz if mistake == "not scaled" else dz * inverse
    return {"w": x.T @ dz, "gamma": dgamma, "beta": jnp.sum(dout, axis=0)}


NORM = {
    "no mean": ({"w"}, ["into reduce_sum", "left out"]),
    "no variance": ({"w"}, ["into integer_pow", "left out"]),
    "constants": ({"w"}, ["statistics", "constants"]),
    "n - 1": ({"w"}, ["1.25", "n − 1"]),
    "no gamma": ({"w"}, ["derivative of mul", "left out"]),
    "not scaled": ({"w"}, ["div", "not divided by sqrt"]),
    "gamma of what is not scaled": ({"gamma"}, ["formed with", "sub"]),
    "gamma of what is not centred": ({"gamma"}, None),
}

# Attention with a causal mask


def attention_loss(p, x, y):
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    scores = q @ k.swapaxes(1, 2) / jnp.sqrt(q.shape[-1])
    scores = jnp.where(jnp.tri(x.shape[1], dtype=bool), scores, -1e9)
    out = jax.nn.softmax(scores, axis=-1) @ v @ p["o"]
    return 0.5 * jnp.mean(jnp.sum((out - y) ** 2, axis=(1, 2)))


def attention_gradient(p, x, y, mistake=""):
    turn = lambda a: a.swapaxes(1, 2)  # noqa: E731
    over = lambda a, b: jnp.einsum("bti,btj->ij", a, b)  # noqa: E731
    q, k, v = x @ p["q"], x @ p["k"], x @ p["v"]
    d = q.shape[-1]
    causal = jnp.tri(x.shape[1], dtype=bool)
    weights = jax.nn.softmax(jnp.where(causal, q @ turn(k) / jnp.sqrt(d), -1e9), axis=-1)
    dout = (weights @ v @ p["o"] - y) / len(x)
    do = over(weights @ v, dout)
    dmixed = dout @ (p["o"] if mistake == "o for oᵀ" else p["o"].T)
    dv = (weights if mistake == "weights not transposed" else turn(weights)) @ dmixed
    dweights = dmixed @ turn(v)
    if mistake == "no coupling":
        dscores = weights * dweights
    elif mistake == "another axis":
        dscores = weights * (dweights - jnp.sum(weights * dweights, axis=1, keepdims=True))
    elif mistake == "no softmax":
        dscores = jnp.where(causal, dweights, 0)
    else:
        dscores = weights * (dweights - jnp.sum(weights * dweights, axis=-1, keepdims=True))
    dscores = dscores if mistake == "no 1/√d" else dscores / jnp.sqrt(d)
    dscores = dscores / jnp.sqrt(d) if mistake == "1/d" else dscores
    dq, dk = dscores @ k, turn(dscores) @ q
    dk = dscores @ q if mistake == "scores not transposed" else dk
    found = {"q": over(x, dq), "k": over(x, dk), "v": over(x, dv), "o": do}
    return found | {"q": found["k"], "k": found["q"]} if mistake == "q and k" else found


ATTENTION = {
    "no 1/√d": ({"q", "k"}, ["2 times", "√4", "is 1/√4 left out?"]),
    "1/d": ({"q", "k"}, ["0.5 times", "1/√4"]),
    "no coupling": ({"q", "k"}, ["left out", "reduce_sum"]),
    "another axis": ({"q", "k"}, None),
    "no softmax": ({"q", "k"}, ["derivative", "to div", "left out"]),
    "weights not transposed": ({"v"}, ["formed with", "swapped"]),
    "scores not transposed": ({"k"}, ["dv of its result", "swapped"]),
    "o for oᵀ": ({"q", "k", "v"}, ["['o'] transposed"]),
    "q and k": ({"q", "k"}, ["it is the gradient of ['q']"]),
}

# A recurrent network, as a loop of JAX's


def rnn_loss(p, x, y):
    def step(h, row):
        h = jnp.tanh(row @ p["w"] + h @ p["u"] + p["b"])
        return h, h

    _, states = jax.lax.scan(step, jnp.zeros((x.shape[1], p["u"].shape[0]), x.dtype), x)
    return 0.5 * jnp.mean(jnp.sum((states @ p["o"] - y) ** 2, axis=(0, 2)))


def rnn_gradient(p, x, y, mistake=""):
    h = [jnp.zeros((x.shape[1], p["u"].shape[0]), x.dtype)]
    for row in x:
        h.append(jnp.tanh(row @ p["w"] + h[-1] @ p["u"] + p["b"]))
    d = {name: jnp.zeros_like(leaf) for name, leaf in p.items()}
    dnext = 0.0
    for t in reversed(range(len(x))):
        dout = (h[t + 1] @ p["o"] - y[t]) / x.shape[1]
        d["o"] += h[t + 1].T @ dout
        dh = dout @ p["o"].T + dnext
        slope = {"no slope": 1, "h for slope": h[t + 1]}.get(mistake, 1 - h[t + 1] ** 2)
        if mistake == "slope at z":
            slope = 1 - (x[t] @ p["w"] + h[t] @ p["u"] + p["b"]) ** 2
        dz = dh * slope
        d["w"] += (x[::-1][t] if mistake == "reversed" else x[t]).T @ dz
        d["u"] += (h[t + 1] if mistake == "shifted" else h[t]).T @ dz
        d["b"] = jnp.sum(dz, axis=0) + (0 if mistake == "not added" else d["b"])
        dnext = 0 if mistake == "truncated" else dz @ (p["u"] if mistake == "u for uᵀ" else p["u"].T)
    return d


RNN = {
    "truncated": ({"w", "u", "b"}, ["back through tanh", "into dot_general", "left out"]),
    "shifted": ({"u"}, ["step after it"]),
    "reversed": ({"w"}, ["reversed order"]),
    "no slope": ({"w", "u", "b"}, ["derivative", "tanh", "left out"]),
    "h for slope": ({"w", "u", "b"}, ["value", "tanh"]),
    "slope at z": ({"w", "u", "b"}, ["formed with z where h belongs"]),
    "u for uᵀ": ({"w", "u", "b"}, ["transposed"]),
    "not added": ({"b"}, ["left out in each run of that line but the first"]),
}

# A convolution in one dimension


def convolution_loss(p, x, y):
    z = jax.lax.conv_general_dilated(x, p["k1"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    out = jax.lax.conv_general_dilated(jnp.tanh(z), p["k2"], (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))
    return 0.5 * jnp.mean(jnp.sum((out + p["b"] - y) ** 2, axis=(1, 2)))


def convolution_gradient(p, x, y, mistake=""):
    def windows(a):
        padded = jnp.pad(a, ((0, 0), (1, 1), (0, 0)))
        return jnp.stack([padded[:, k : k + a.shape[1]] for k in range(3)])  # (3, b, t, c)

    h = jnp.tanh(jnp.einsum("kbti,kio->bto", windows(x), p["k1"]))
    dout = (jnp.einsum("kbti,kio->bto", windows(h), p["k2"]) + p["b"] - y) / len(x)
    dk2 = jnp.einsum("kbti,bto->kio", windows(h), dout)
    kernel = p["k2"] if mistake == "not flipped" else p["k2"][::-1]
    kernel = kernel.swapaxes(1, 2) if mistake == "channels" else kernel
    dh = jnp.einsum("kbto,kio->bti", windows(dout), kernel)
    dz = dh * (1 if mistake == "no slope" else 1 - h**2)
    dk1 = jnp.einsum("kbti,bto->kio", windows(x), dz)
    dk1 = dk1[::-1] if mistake == "k1 flipped" else dk1
    dk1 = dk1.swapaxes(1, 2) if mistake == "k1's channels" else dk1
    dk2 = jnp.einsum("kbti,bto->kio", jnp.roll(windows(h), 1, 0), dout) if mistake == "k2 moved" else dk2
    db = jnp.mean(dout, axis=(0, 1)) * len(x) if mistake == "mean over time" else jnp.sum(dout, axis=(0, 1))
    return {"k1": dk1, "k2": dk2, "b": db}


CONVOLUTION = {
    "not flipped": ({"k1"}, ["flipped along axis 0"]),
    "channels": ({"k1"}, ["axes 1 and 2 swapped"]),
    "no slope": ({"k1"}, ["derivative", "left out"]),
    "k1 flipped": ({"k1"}, ["reversed along axis 0"]),
    "k1's channels": ({"k1"}, ["axes 1 and 2 swapped"]),
    "k2 moved": ({"k2"}, ["moved by one along axis 0"]),
    "mean over time": ({"b"}, ["1/7"]),
}

# An embedding, scaled


def embedding_loss(p, ids, y):
    h = p["table"][ids] * 2.0
    return 0.5 * jnp.mean(jnp.sum((jnp.mean(h, axis=1) @ p["w"] - y) ** 2, axis=-1))


def embedding_gradient(p, ids, y, mistake=""):
    rows = p["table"][ids]
    mean = jnp.mean(rows * 2.0, axis=1)
    dout = (mean @ p["w"] - y) / len(ids)
    drow = dout @ p["w"].T * 2.0 / (1 if mistake == "sum" else ids.shape[1])
    drows = jnp.broadcast_to(drow[:, None], rows.shape)
    zeros = jnp.zeros_like(p["table"])
    found = zeros.at[ids].add(drows)
    if mistake == "set":
        for row in np.ndindex(ids.shape):
            found = found.at[ids[row]].set(drows[row])
    found = zeros.at[(ids + 1) % len(zeros)].add(drows) if mistake == "next row" else found
    found = found.at[0].set(0) if mistake == "padding" else found
    found = found / 2 if mistake == "no scale" else found
    return {"table": found, "w": (mean / 2 if mistake == "w of the rows" else mean).T @ dout}


EMBEDDING = {
    "set": ({"table"}, ["only the last counts"]),
    "next row": ({"table"}, ["moved by one along axis 0"]),
    "padding": ({"table"}, ["only row 0 is wrong"]),
    "no scale": ({"table"}, ["0.5 times"]),
    "sum": ({"table"}, ["4 times", "is 1/4 left out?"]),
    "w of the rows": ({"w"}, ["0.5 times"]),
}

# Softmax cross entropy with label smoothing


def smoothed_loss(p, x, labels):
    target = 0.9 * jax.nn.one_hot(labels, 4) + 0.1 / 4
    return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(x @ p["w"] + p["b"]), axis=-1))


def smoothed_gradient(p, x, labels, mistake=""):
    one_hot = jax.nn.one_hot(labels, 4)
    target = 0.9 * one_hot + 0.1 / 4
    target = {"no smoothing": one_hot, "half": 0.9 * one_hot, "over the others": 0.9 * one_hot + 0.1 / 3}.get(
        mistake, target
    )
    z = x @ p["w"] + p["b"]
    given = {"no softmax": z, "sigmoid": jax.nn.sigmoid(z)}.get(mistake, jax.nn.softmax(z))
    dz = (given - target) / (1 if mistake == "sum" else len(x))
    dz = -dz if mistake == "sign" else dz
    return {"w": x.T @ dz, "b": jnp.sum(dz, axis=0)}


SMOOTHED = {
    "no smoothing": ({"w", "b"}, ["formed with", "from which it is made"]),
    "half": ({"w", "b"}, None),
    "no softmax": ({"w", "b"}, None),
    "sum": ({"w", "b"}, ["sum over the batch of 6, not its mean?"]),
    "sign": ({"w", "b"}, ["wrong sign"]),
}

# The solution of linear equations


def solved_loss(p, x, y):
    return 0.5 * jnp.mean(jnp.sum((jnp.linalg.solve(p["a"], p["w"] @ x.T) - y.T) ** 2, axis=0))


def solved_gradient(p, x, y, mistake=""):
    b = p["w"] @ x.T
    z = jnp.linalg.solve(p["a"], b)
    dz = (z - y.T) / (1 if mistake == "sum" else len(x))
    db = jnp.linalg.solve(p["a"] if mistake == "a for aᵀ" else p["a"].T, dz)
    db = p["a"].T @ dz if mistake == "product" else db
    da = db @ (b if mistake == "b for z" else z).T
    da = da if mistake == "no minus" else -da
    da = da.T if mistake == "transposed" else da
    da = (da + da.T) / 2 if mistake == "symmetric" else da
    return {"a": da, "w": (dz if mistake == "w before the solve" else db) @ x}


SOLVED = {
    "a for aᵀ": ({"a", "w"}, None),
    "product": ({"a", "w"}, None),
    "b for z": ({"a"}, None),
    "no minus": ({"a"}, ["wrong sign"]),
    "transposed": ({"a"}, ["transposed"]),
    "symmetric": ({"a"}, None),
    "w before the solve": ({"w"}, None),
    "sum": ({"a", "w"}, ["sum over the batch of 6, not its mean?"]),
}

# A penalty


def penalised_loss(p, x, y):
    fit = jnp.mean(jnp.sum((jnp.tanh(x @ p["w"]) @ p["v"] + p["b"] - y) ** 2, axis=-1))
    return fit + 0.05 * (jnp.sum(p["w"] ** 2) + jnp.sum(p["v"] ** 2))


def penalised_gradient(p, x, y, mistake=""):
    h = jnp.tanh(x @ p["w"])
    dout = 2 * (h @ p["v"] + p["b"] - y) / len(x)
    decay = {"no penalty": 0, "no 2": 0.05, "over the batch": 0.1 / len(x), "with its sign": -0.1}.get(mistake, 0.1)
    dw = x.T @ (dout @ p["v"].T * (1 - h**2)) + decay * p["w"]
    dv = h.T @ dout + (0 if mistake == "of w alone" else decay) * p["v"]
    db = jnp.sum(dout, axis=0) + (0.1 * p["b"] if mistake == "of b too" else 0)
    dw = dw - 0.1 * p["w"] + 0.1 * jnp.sign(p["w"]) if mistake == "l1" else dw
    return {"w": dw, "v": dv, "b": db}


PENALISED = {
    "no penalty": ({"w", "v"}, ["less 0.1 times the parameter", "weight decay"]),
    "no 2": ({"w", "v"}, ["less 0.05 times the parameter"]),
    "over the batch": ({"w", "v"}, ["times the parameter"]),
    "with its sign": ({"w", "v"}, ["less 0.2 times the parameter"]),
    "of w alone": ({"v"}, ["less 0.1 times the parameter"]),
    "of b too": ({"b"}, ["plus 0.1 times the parameter"]),
    "l1": ({"w"}, None),
}


def at(layer):
    """Where to check a layer: its parameters, data and targets."""
    data = drawn(x=(6, 3), s=(3, 5, 4), t=(3, 2, 3), c=(2, 7, 3))
    labels = jnp.array([0, 3, 1, 1, 2, 0])
    ids = jnp.array([[0, 2, 2, 4], [1, 1, 5, 0], [3, 2, 5, 5]])
    y = drawn(1, norm=(6, 5), s=(3, 5, 4), t=(3, 2, 2), c=(2, 7, 2), e=(3, 2), x=(6, 2))
    squares = drawn(2, q=(4, 4), k=(4, 4), v=(4, 4), o=(4, 4))
    return {
        "norm": (drawn(3, w=(3, 5), gamma=(5,), beta=(5,)), data["x"], y["norm"]),
        "attention": (squares, data["s"], y["s"]),
        "rnn": (drawn(4, w=(3, 4), u=(4, 4), b=(4,), o=(4, 2)), data["t"], y["t"]),
        "convolution": (drawn(5, k1=(3, 3, 3), k2=(3, 3, 3), b=(3,)), data["c"], drawn(6, y=(2, 7, 3))["y"]),
        "embedding": (drawn(7, table=(6, 3), w=(3, 2)), ids, y["e"]),
        "smoothed": (drawn(8, w=(3, 4), b=(4,)), data["x"], labels),
        "solved": (drawn(10, a=(3, 3), w=(3, 3)), data["x"], drawn(12, y=(6, 3))["y"]),
        "penalised": (drawn(9, w=(3, 4), v=(4, 2), b=(2,)), data["x"], y["x"]),
    }[layer]


LAYERS = {
    "norm": (norm_loss, norm_gradient, NORM),
    "attention": (attention_loss, attention_gradient, ATTENTION),
    "rnn": (rnn_loss, rnn_gradient, RNN),
    "convolution": (convolution_loss, convolution_gradient, CONVOLUTION),
    "embedding": (embedding_loss, embedding_gradient, EMBEDDING),
    "smoothed": (smoothed_loss, smoothed_gradient, SMOOTHED),
    "solved": (solved_loss, solved_gradient, SOLVED),
    "penalised": (penalised_loss, penalised_gradient, PENALISED),
}


def told(text, words):
    """Whether a diagnosis has the words that tell the mistake."""
    return words is not None and all(word in text for word in words)
