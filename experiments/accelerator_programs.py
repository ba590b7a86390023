"""The methods of the accelerator benchmark, for one case each: ours, and what rivals.py has."""

from collections.abc import Callable
from functools import partial

import jax
import measure
import numpy as np
from cases import EXERCISE, LOSS, MAX_NORM, Case
from ceilings import CLIPPED, GRADIENT, NORMS
from contest import Built, Method, full_by_default, on_device, second
from rivals import NotHereError, Torch, by_numpy, clipped_sum, in_tiles, per_example_gradients, plain_loss, scalar_loss

import jaxbackprop as jbp

VMAPPED_BYTES = 2e9  # of per-example gradients held at once


def clipped(fg):
    return jbp.total(jbp.clip(fg, MAX_NORM))


def as_it_is(result):
    return result


def over(count: int) -> Callable:
    """From a sum to the mean."""
    return lambda sums: jax.tree.map(lambda g: g.astype("float32") / count, sums)


# ---- ours


def by_hand(case: Case) -> Built:
    return on_device(jbp.value_and_grad(wiring(case), LOSS), case, second)


HAND = Method(GRADIENT, "jbp.value_and_grad", by_hand)


def wiring(case: Case) -> jbp.Network:
    assert case.subject.widths is not None
    return jbp.skip_mlp(case.subject.widths)


def sweep(case: Case) -> Callable:
    """(params, *data) → (values, factored gradients): of a network, or of any loss."""
    return jbp.per_example(wiring(case), LOSS) if case.subject.widths else jbp.factored(case.subject.loss_of_one)


def whole_clipped(case: Case) -> Built:
    swept = sweep(case)
    return on_device(lambda *args: clipped(swept(*args)[1]), case, over(case.batch))


def norms(case: Case) -> Built:
    swept = sweep(case)
    return on_device(lambda *args: jbp.norms(swept(*args)[1]), case, as_it_is)


def streamed_clipped(case: Case) -> Built:
    return on_device(jbp.stream(wiring(case), LOSS, clipped), case, lambda pair: over(case.batch)(pair[1]))


def fused(readout: Callable, case: Case) -> Built:
    """The kernel, where this device has one; its products are what it makes them, whatever JAX is told."""
    kernel = jbp.fused(wiring(case), LOSS, readout)
    return on_device(kernel, case, lambda pair: over(case.batch)(pair[1]))._replace(highest=None)


# ---- theirs


def elementwise(case: Case) -> Built:
    """The exercise, with plain numbers in place of matrices."""
    return on_device(jax.value_and_grad(scalar_loss), case, second, note="whole, elementwise")


def tuned_jax_grad(case: Case) -> Built:
    """The best of a few tiles and, for the exercise, of both ways to write it."""
    losses = {"": plain_loss} | ({", elementwise": scalar_loss} if case.subject.widths == EXERCISE else {})
    tiles = (1_024, 4_096, 16_384, 131_072) if full_by_default() else (65_536, 524_288)
    tried = {}
    for how, loss in losses.items():
        for tile in (t for t in tiles if 2 * t <= case.batch):
            built = on_device(in_tiles(loss, tile), case, second, note=f"tiles of {tile:,}{how}")
            tried[built.note] = measure.best_of(built.call, queue=3), built
    if scalar_loss in losses.values():
        built = elementwise(case)
        tried[built.note] = measure.best_of(built.call, queue=3), built
    if not tried:
        raise NotHereError(f"a batch of {case.batch:,} is one tile")
    return min(tried.values(), key=lambda pair: pair[0])[1]


def vmapped_clipped(case: Case) -> Built:
    """As many slices of the batch as fit, their time scaled."""
    gradients = per_example_gradients(case.subject.loss_of_one, (None, *[0] * len(case.data)))
    one = sum(a.nbytes for a in jax.tree.leaves(case.params))
    most = min(VMAPPED_BYTES, measure.memory()[1] / 8) / one
    slices = case.batch // case.period
    shares = (n for n in range(1, slices + 1) if slices % n == 0)
    share = next(n for n in shares if case.batch / n <= most or n == slices)
    count = case.batch // share
    note = f"{count:,} examples, time scaled to {case.batch:,}" if share > 1 else ""
    return on_device(lambda *args: clipped_sum(gradients(*args), MAX_NORM), case, over(count), note, share)


def with_numpy(case: Case) -> Built:
    if not measure.on_cpu():
        raise NotHereError("NumPy is timed beside a CPU only")
    if case.dtype != "float32":
        raise NotHereError(f"NumPy has no {case.dtype}")
    return Built(measure.Queue(by_numpy(*jax.tree.map(np.asarray, (case.params, *case.data)))), as_it_is)


def with_torch(torch: Torch, compile_it: bool, case: Case) -> Built:
    params, (x, y) = jax.tree.map(np.asarray, (case.params, case.slice))
    queue, gradient, seconds = torch.build(params, x, y, case.batch // case.period, compile_it)
    return Built(queue, gradient, compile_seconds=seconds)


# ---- all of them


def for_network(torch: Torch) -> tuple[Method, ...]:
    return (
        HAND,
        Method(GRADIENT, "jbp.fused", partial(fused, jbp.total)),
        Method(CLIPPED, "jbp.per_example, clip, total", whole_clipped),
        Method(CLIPPED, "jbp.stream, clipped", streamed_clipped),
        Method(CLIPPED, "jbp.fused, clipped", partial(fused, clipped)),
        Method(NORMS, "jbp.norms", norms),
        Method(GRADIENT, "torch eager", partial(with_torch, torch, False), "PyTorch"),
        Method(CLIPPED, "vmap(jax.grad), clipped", vmapped_clipped, slow=True),
        Method(GRADIENT, "jax.grad, tuned", tuned_jax_grad, slow=True),
        Method(GRADIENT, "torch compiled", partial(with_torch, torch, True), "PyTorch", slow=True),
        Method(GRADIENT, "NumPy by hand", with_numpy, "NumPy", slow=True),
    )


FOR_MODEL = (
    Method(CLIPPED, "jbp.factored, clipped", whole_clipped),
    Method(NORMS, "jbp.factored, norms", norms),
    Method(CLIPPED, "vmap(jax.grad), clipped", vmapped_clipped, slow=True),
)
