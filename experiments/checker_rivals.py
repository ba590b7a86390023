"""Three gradient checkers, asked the same: ours, JAX's and PyTorch's, with their defaults.

`jax.test_util.check_grads(order=1, modes=("rev",))` sees a `jax.custom_vjp` whose backward pass is the gradient under
test, in the network's dtype. `torch.autograd.gradcheck` sees a `torch.autograd.Function` that calls the same JAX functions
through NumPy in float64, which it asks for; its time grows with the parameters, and it gets networks of 300 at most. An exception
counts as "wrong", which is how the peers say it; one out of `check_gradient` is a crash, and counted as that too.
Neither framework lets its checker see a dtype, nor PyTorch every shape: what a backward pass returns is converted first.
"""

import importlib
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from checker_networks import Case, given_point, point_of
from jax.test_util import check_grads

import jaxbackprop as jbp

GRADCHECK_PARAMETERS = 300
PEERS_EVERY = 4  # pairs of networks; check_grads compiles longer than all else here takes
OURS, CHECK_GRADS, GRADCHECK = "check_gradient", "jax check_grads", "torch gradcheck"


class Verdict(NamedTuple):
    """What a checker says of a gradient: wrong or not, which parameters, the diagnosis of each; an exception's text."""

    wrong: bool
    seconds: float
    diagnoses: dict[str, str | None] = {}  # noqa: RUF012
    error: str = ""


def by_check_gradient(case: Case, gradient: Callable) -> dict[str, str | None]:
    """The wrong parameters with their diagnoses."""
    report = jbp.check_gradient(case.value, gradient, *point_of(case))
    return {row.parameter: row.diagnosis.kind if row.diagnosis else None for row in report.rows if not row.ok}


def by_check_grads(case: Case, gradient: Callable) -> None:
    """Raise if the gradient, as the backward pass of a `jax.custom_vjp`, does not pass."""
    params, x, y = point_of(case)
    value = jax.jit(case.value)

    @jax.custom_vjp
    def f(params):
        return value(params, x, y)

    def backward(params, d):
        return (jax.tree.map(lambda g: (d * g).astype(g.dtype), gradient(params, x, y)),)

    f.defvjp(lambda params: (f(params), params), backward)
    check_grads(f, (params,), order=1, modes=("rev",))


def by_gradcheck(case: Case, gradient: Callable) -> None:
    """Raise if the gradient, as the backward pass of a `torch.autograd.Function`, does not pass."""
    torch: Any = importlib.import_module("torch")
    with jax.enable_x64(True):
        value = jax.jit(case.value)
        params, x, y = given_point(case)
        leaves, structure = jax.tree.flatten(params)

        class F(torch.autograd.Function):
            @staticmethod
            def forward(ctx, *leaves):
                ctx.save_for_backward(*leaves)
                return torch.tensor(float(value(as_params(leaves), x, y)), dtype=torch.float64)

            @staticmethod
            def backward(ctx, d):
                grads = gradient(as_params(ctx.saved_tensors), x, y)
                return tuple(d * torch.from_numpy(np.array(g)) for g in jax.tree.leaves(grads))

        def as_params(leaves):
            return jax.tree.unflatten(structure, [leaf.detach().numpy() for leaf in leaves])

        torch.autograd.gradcheck(F.apply, tuple(torch.tensor(leaf, requires_grad=True) for leaf in leaves))


CHECKERS: dict[str, Callable] = {OURS: by_check_gradient, CHECK_GRADS: by_check_grads, GRADCHECK: by_gradcheck}


def applies(checker: str, case: Case) -> bool:
    """Whether that checker is asked about this network: it is installed, and its time is bearable."""
    if checker == OURS:
        return True
    if case.number // 2 % PEERS_EVERY:
        return False
    if checker == CHECK_GRADS:
        return True
    return (
        importlib.util.find_spec("torch") is not None
        and jbp.network.count_parameters(case.network) <= GRADCHECK_PARAMETERS
    )


def judge(checker: str, case: Case, gradient: Callable) -> Verdict:
    """Ask a checker; whatever it raises, it has not called the gradient right."""
    began = time.perf_counter()
    with jax.enable_x64(case.dtype == "float64"):
        try:
            named = CHECKERS[checker](case, gradient) or {}
            error = ""
        except Exception as e:
            named, error = {}, f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:120]
    return Verdict(bool(named or error), time.perf_counter() - began, named, error)
