"""The models of conformance_cases.py in PyTorch, and their per-example gradients by Opacus and BackPACK.

A reader returns what its library gives for one batch: gradients by name, each (b, …), or norms (b,); and a note. What
the library refuses, it raises. Each is used as its documentation says; a module that Opacus' validator asks to replace
is replaced by the validator's own fix.
"""

import contextlib
import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from conformance_cases import Case, Squares

torch: Any = importlib.import_module("torch")
nn, functional = torch.nn, torch.nn.functional
weight_norm = importlib.import_module("torch.nn.utils.parametrizations").weight_norm
checkpoint = importlib.import_module("torch.utils.checkpoint").checkpoint
warnings.filterwarnings("ignore", "Using padding='same' with even kernel")
torch.set_default_dtype(torch.float64)


class Net(nn.Module):
    """Some parts, and a function of them and of a batch x."""

    def __init__(self, run: Callable[..., Any], **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        """Run on a batch."""
        return self.run(self, x)


# ---- models


def one(layer, name: str, **more):
    """One layer alone, under its name."""
    return Net(lambda m, x: getattr(m, name)(x), **{name: layer}, **more)


def linear():
    return nn.Linear(4, 3)


def conv(*sizes, **options):
    return lambda: one(nn.Conv2d(*sizes, **options), "conv")


def reshaped():
    return Net(lambda m, x: m.linear(x.reshape(-1, 4)).reshape(*x.shape[:2], 3), linear=linear())


def tied():
    model = Net(
        lambda m, ids: m.head(torch.tanh(m.embedding(ids))),
        embedding=nn.Embedding(7, 3),
        head=nn.Linear(3, 7, bias=False),
    )
    model.head.weight = model.embedding.weight
    return model


def loop():
    def run(m, x):
        h = torch.zeros(len(x), 3)
        for t in range(x.shape[1]):
            h = torch.tanh(m.input(x[:, t]) + m.hidden(h))
        return h

    return Net(run, input=linear(), hidden=nn.Linear(3, 3))


def recurrent(kind):
    return lambda: Net(lambda m, x: m.rnn(x)[0], rnn=kind(4, 3, batch_first=True))


def attention():
    return Net(
        lambda m, x: m.attention(x, x, x, need_weights=False)[0],
        attention=nn.MultiheadAttention(4, 2, batch_first=True),
    )


def batch_second():
    def run(m, x):
        x = x.transpose(0, 1)
        return m.attention(x, x, x, need_weights=False)[0].transpose(0, 1)

    return Net(run, attention=nn.MultiheadAttention(4, 2))


def lora():
    A, B = nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)
    return Net(lambda m, x: m.base(x) + m.B(m.A(x)), base=linear(), A=A, B=B)


def soft_experts():
    experts = nn.Parameter(torch.zeros(2, 3, 4))
    return Net(
        lambda m, x: torch.einsum("bte,enm,btm->btn", m.gate(x).softmax(-1), m.experts, x),
        gate=nn.Linear(4, 2),
        experts=experts,
    )


def routed_experts():
    def run(m, x):
        share, chosen = (part.flatten() for part in m.gate(x).softmax(-1).max(-1))
        tokens = x.reshape(-1, 4)
        out = torch.zeros(len(tokens), 3)
        for e, expert in enumerate(m.experts):
            rows = (chosen == e).nonzero()[:, 0]
            out = out.index_add(0, rows, share[rows, None] * expert(tokens[rows]))
        return out.reshape(*x.shape[:2], 3)

    return Net(run, gate=nn.Linear(4, 2), experts=nn.ModuleList([linear(), linear()]))


def stacked():
    def run(m, x):
        for W in m.layers:
            x = x + torch.tanh(x @ W.T)
        return x

    return Net(run, layers=nn.Parameter(torch.zeros(3, 4, 4)))


def checkpointed():
    def run(m, x):
        for block in m.blocks:
            x = checkpoint(lambda h, block=block: h + torch.tanh(block(h)), x, use_reentrant=False)
        return x

    return Net(run, blocks=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))


MODELS: dict[str, Callable[[], Net]] = {
    "linear on (b, d)": lambda: one(linear(), "linear"),
    "linear on (b, t, d)": lambda: one(linear(), "linear"),
    "linear on (b, a, t, d)": lambda: one(linear(), "linear"),
    "linear on (b·t, d), reshaped": reshaped,
    "linear applied twice": lambda: Net(lambda m, x: m.linear(torch.tanh(m.linear(x))), linear=nn.Linear(4, 4)),
    "W and its transpose": lambda: Net(
        lambda m, x: functional.linear(torch.tanh(m.linear(x)), m.linear.weight.T), linear=linear()
    ),
    "embedding": lambda: one(nn.Embedding(7, 3), "embedding"),
    "embedding, repeated ids": lambda: one(nn.Embedding(3, 4), "embedding"),
    "embedding, padding_idx": lambda: one(nn.Embedding(3, 4, padding_idx=0), "embedding"),
    "embedding tied to the head, one Parameter": tied,
    "embedding tied to the head, by F.linear": lambda: Net(
        lambda m, ids: functional.linear(torch.tanh(m.embedding(ids)), m.embedding.weight), embedding=nn.Embedding(7, 3)
    ),
    "positions, a Parameter": lambda: Net(
        lambda m, x: m.linear(torch.tanh(x + m.position)), linear=linear(), position=nn.Parameter(torch.zeros(6, 4))
    ),
    "positions, Embedding(arange(t))": lambda: Net(
        lambda m, x: m.linear(torch.tanh(x + m.position(torch.arange(6)))), linear=linear(), position=nn.Embedding(6, 4)
    ),
    "recurrent network, as a loop": loop,
    "RNN": recurrent(nn.RNN),
    "LSTM": recurrent(nn.LSTM),
    "GRU": recurrent(nn.GRU),
    "conv1d": lambda: one(nn.Conv1d(2, 3, 3, padding=1), "conv"),
    "conv2d": conv(2, 3, 3, padding=1),
    "conv3d": lambda: one(nn.Conv3d(2, 3, 2), "conv"),
    "conv2d, strided, dilated": conv(2, 3, 3, padding=1, stride=2, dilation=2),
    "conv2d, grouped": conv(4, 6, 3, padding=1, groups=2),
    "conv2d, depthwise": conv(3, 6, 3, padding=1, groups=3),
    "ConvTranspose2d": lambda: one(nn.ConvTranspose2d(2, 3, 3, stride=2, padding=1), "conv"),
    "conv2d, padding='same', 4 by 4": conv(2, 3, 4, padding="same"),
    "conv2d, circular padding": conv(2, 3, 3, padding=1, padding_mode="circular"),
    "LayerNorm": lambda: one(nn.LayerNorm(4), "norm"),
    "GroupNorm": lambda: one(nn.GroupNorm(2, 4), "norm"),
    "RMSNorm": lambda: one(nn.RMSNorm(4, eps=1e-5), "norm"),
    "multi-head attention, batch first": attention,
    "multi-head attention, batch second": batch_second,
    "a Parameter used directly": lambda: Net(
        lambda m, x: m.linear(x * m.scale), linear=linear(), scale=nn.Parameter(torch.zeros(4))
    ),
    "PReLU": lambda: Net(lambda m, x: m.prelu(m.linear(x)), linear=linear(), prelu=nn.PReLU(3)),
    "LoRA": lora,
    "weight norm": lambda: one(weight_norm(linear()), "linear"),
    "mean over unmasked tokens": lambda: one(linear(), "linear"),
    "a frozen layer beneath": lambda: Net(
        lambda m, x: m.second(torch.tanh(m.first(x))), first=nn.Linear(4, 5), second=nn.Linear(5, 3)
    ),
    "experts, weighted": soft_experts,
    "experts, each token to one": routed_experts,
    "stacked layers, scanned": stacked,
    "residual blocks, checkpointed": checkpointed,
}


def model_of(name: str, case: Case) -> Net:
    """The model with the case's parameters; what is frozen requires no gradient."""
    model = MODELS[name]()
    found = {n: tuple(p.shape) for n, p in model.named_parameters()}
    if found != case.shapes:
        raise ValueError(f"{name}: PyTorch has the parameters {found}, the case {case.shapes}")
    values = case.parameters()
    for n, p in model.named_parameters():
        p.data.copy_(torch.from_numpy(values[n]))
        p.requires_grad_(n not in case.frozen)
    return model


def total_loss(case: Case, model: Any, x: np.ndarray, y: np.ndarray):
    """The sum of the examples' losses."""
    return case.losses(model(torch.from_numpy(x)), torch.from_numpy(y)).sum()


def oracle(name: str, case: Case) -> dict[str, np.ndarray]:
    """A backward pass for each example, alone."""
    x, y = case.batch()
    rows = []
    for b in range(len(x)):
        model = model_of(name, case)
        total_loss(case, model, x[b : b + 1], y[b : b + 1]).backward()
        parts = [(n, p, p.grad) for n, p in model.named_parameters() if p.requires_grad]
        rows.append({n: (torch.zeros_like(p) if grad is None else grad).numpy() for n, p, grad in parts})
    return {n: np.stack([row[n] for row in rows]) for n in rows[0]}


# ---- Opacus


def replaced(model: Net, case: Case) -> tuple[Net, str]:
    """The model as Opacus' validator wants it, and what that replaced. It has no fix for nn.RNN: DPRNN."""
    validator: Any = importlib.import_module("opacus.validators").ModuleValidator
    x = torch.from_numpy(case.batch()[0])
    for name, part in list(model.named_children()):
        new = dp_rnn(part) if isinstance(part, nn.RNN) else validator.fix(part) if validator.validate(part) else part
        if new is not part:
            before = model(x)
            setattr(model, name, new)
            same = torch.allclose(model(x), before, rtol=1e-10)
            return model, f"by {type(new).__name__}" + ("" if same else ", which computes something else")
    return model, ""


def dp_rnn(part: Any) -> Any:
    """Opacus' replacement of one layer, with the batch first."""
    new = importlib.import_module("opacus.layers").DPRNN(part.input_size, part.hidden_size, batch_first=True)
    new.load_state_dict(part.state_dict())
    return new


def swept(kind: str, name: str, case: Case, **more) -> tuple[Any, Net, str]:
    """After a backward pass of the model in one of Opacus' wrappings: that, the model, and what was replaced."""
    model, note = replaced(model_of(name, case), case)
    wrap = getattr(importlib.import_module("opacus.grad_sample"), kind)
    wrapped = wrap(model, batch_first="batch second" not in name, loss_reduction="sum", **more)
    total_loss(case, wrapped, *case.batch()).backward()
    return wrapped, model, note


def opacus(name: str, case: Case) -> tuple[dict[str, np.ndarray], str]:
    """GradSampleModule, then the optimizer that reads it: alone it leaves out a parameter without a word."""
    wrapped, model, note = swept("GradSampleModule", name, case)
    optimizers: Any = importlib.import_module("opacus.optimizers")
    settings = {"noise_multiplier": 0.0, "max_grad_norm": 1.0, "expected_batch_size": None, "loss_reduction": "sum"}
    trained = [p for p in wrapped.parameters() if p.requires_grad]
    optimizers.DPOptimizer(torch.optim.SGD(trained, lr=0.0), **settings).clip_and_accumulate()
    return by_first_name(model, case), note


def by_first_name(model: Net, case: Case) -> dict[str, np.ndarray]:
    """The gradients under the case's names: a replacement knows them, as it saves its parameters under them."""
    samples = {p: p.grad_sample for p in model.parameters() if p.requires_grad}
    rows = []
    for b in range(len(next(iter(samples.values())))):
        for p, sample in samples.items():
            p.data = sample[b]
        rows.append({n: a.detach().numpy().copy() for n, a in saved(model).items() if n in case.trainable()})
    return {n: np.stack([row[n] for row in rows]) for n in rows[0]}


def saved(model: Net) -> dict[str, Any]:
    """The parameters as each part saves them."""
    parts = {f"{part}.{n}": a for part, module in model.named_children() for n, a in module.state_dict().items()}
    return parts | dict(model.named_parameters(recurse=False))


def opacus_ghost(name: str, case: Case) -> tuple[np.ndarray, str]:
    """The norms of ghost clipping."""
    ghostly = {"max_grad_norm": 1.0, "use_ghost_clipping": True}
    wrapped, _, note = swept("GradSampleModuleFastGradientClipping", name, case, **ghostly)
    return wrapped.get_norm_sample().detach().numpy(), note


# ---- BackPACK


def backpacked(name: str, case: Case, extension: str, field: str, convert: bool) -> dict[str, np.ndarray]:
    """What an extension leaves on the parameters."""
    backpack: Any = importlib.import_module("backpack")
    extensions: Any = importlib.import_module("backpack.extensions")
    model = backpack.extend(model_of(name, case), use_converter=convert)
    with backpack.backpack(getattr(extensions, extension)()):
        total_loss(case, model, *case.batch()).backward()
    left = {n: getattr(p, field, None) for n, p in model.named_parameters() if p.requires_grad}
    return {n: figure.detach().numpy() for n, figure in left.items() if figure is not None}


def with_converter_if_needed(name: str, case: Case, extension: str, field: str) -> tuple[dict[str, np.ndarray], str]:
    """As the model is; if that is refused or leaves something out, converted as BackPACK offers to, if that helps."""
    plain, refusal = {}, None
    try:
        plain = backpacked(name, case, extension, field, convert=False)
    except Exception as error:
        refusal = error
    if plain.keys() < case.trainable().keys():
        with contextlib.suppress(Exception):
            converted = backpacked(name, case, extension, field, convert=True)
            if converted.keys() >= case.trainable().keys():
                return converted, "by its converter"
    if refusal:
        raise refusal
    return plain, ""


def backpack_gradients(name: str, case: Case) -> tuple[dict[str, np.ndarray], str]:
    """BatchGrad."""
    return with_converter_if_needed(name, case, "BatchGrad", "grad_batch")


def backpack_norms(name: str, case: Case) -> tuple[Squares, str]:
    """BatchL2Grad."""
    squares, note = with_converter_if_needed(name, case, "BatchL2Grad", "batch_l2")
    return Squares(squares), note
