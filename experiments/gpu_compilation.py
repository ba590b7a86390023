"""What do our gradients write on an H200, beside `jax.grad`'s? Compiled for one, ahead of time, on a machine without a GPU.

    python experiments/gpu_compilation.py [--quick] [--out FOLDER]
    (its compiler: pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12, 1.2 GB, in an environment of its own with this package)

A gradient of narrow layers is bound by memory: its time goes as the bytes that its kernels read and write. Per program:
temporary memory; those bytes, of every operand and result of a kernel; how many kernels there are, how many of them
products, and how many arrays as long as the batch are written. `jax.grad` is of the loss as one writes it, with
`jax.nn.relu` and the mean; ratios are to it. Nothing runs: kernels are chosen without being tried, and may differ from those
of a real GPU.
"""

import importlib.metadata
import re
from functools import partial
from math import prod
from typing import NamedTuple

import ahead  # before JAX, which it tells of the platform

# isort: split
import any_models as models
import jax
import jax.numpy as jnp
import measure
import rivals
from ahead import clipped

import jaxbackprop as jbp

LOSS = "half_squared_error"
SIZES = (
    ((1, 1, 1, 1), 1 << 26),
    ((8, 64, 64, 1), 1 << 20),
    ((64, 128, 128, 10), 1 << 18),
    ((784, 512, 512, 10), 1 << 16),
    ((4096, 4096, 4096, 4096), 1 << 14),
)
GPTS = ((256, 2, 128, 32, "float32"), (768, 2, 128, 64, "bfloat16"))  # width, layers, positions, batch
BASELINE = "jax.grad"
ITEM = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
# what is no kernel
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "opt-barrier"}


class Traffic(NamedTuple):
    """Of one compiled program; bytes and numbers of kernels."""

    temporary: int
    accessed: int
    kernels: int
    products: int
    long_arrays: int


def of_network(widths: tuple[int, ...], batch: int, dtype: str) -> tuple[dict, tuple]:
    """The programs of a network, by name, and the shapes of their arguments."""
    network = jbp.skip_mlp(widths)
    programs = {
        BASELINE: jax.value_and_grad(rivals.plain_loss),
        "value_and_grad": jbp.value_and_grad(network, LOSS),
        "clipped sum": jbp.stream(network, LOSS, clipped),
        "clipped sum, nan_safe=False": jbp.stream(network, LOSS, partial(clipped, nan_safe=False)),
        "norms": lambda *args: jbp.norms(jbp.per_example(network, LOSS)(*args)[1]),
    }
    return programs, ahead.arguments(network, LOSS, dtype, batch)


def of_gpt(width: int, layers: int, positions: int, batch: int, dtype: str) -> tuple[dict, tuple]:
    """The same of a GPT, whose gradient is factored by following the loss."""
    model = models.gpt(width, layers, positions).cast(dtype)
    sweep, axes = jbp.factored(model.loss, in_axes=model.in_axes), (None, *model.in_axes)
    programs = {
        BASELINE: jax.value_and_grad(lambda *args: jnp.mean(jax.vmap(model.loss, axes)(*args))),
        "clipped sum": lambda *args: clipped(sweep(*args)[1]),
        "clipped sum, nan_safe=False": lambda *args: clipped(sweep(*args)[1], nan_safe=False),
        "norms": lambda *args: jbp.norms(sweep(*args)[1]),
    }
    return programs, jax.eval_shape(lambda: (jax.tree.map(jnp.asarray, model.params), *model.examples(batch)))


def bytes_of(shape: str) -> int:
    """Of an array, or of a tuple of them, as a program writes it.

    >>> bytes_of("(f32[2,3]{1,0}, pred[4]{0})"), bytes_of("bf16[]")
    (28, 2)
    """
    return sum(ITEM.get(dtype, 0) * prod(map(int, filter(None, n.split(",")))) for dtype, n in _arrays(shape))


def _arrays(shape: str) -> list[tuple[str, str]]:
    return re.findall(r"(\w+)\[([\d,]*)\]", shape)


INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*?)\)(.*)")


def traffic(text: str, temporary: int, batch: int) -> Traffic:
    """What an optimised program reads and writes: kernels are the instructions of its entry.

    >>> text = '''
    ... ENTRY %main (a: f32[8,2]) -> f32[8] {
    ...   %a = f32[8,2]{1,0} parameter(0)
    ...   %b = f32[8,2]{1,0} fusion(%a), kind=kLoop, calls=%c
    ...   ROOT %d = f32[8]{0} fusion(%a, %b), kind=kInput, calls=%e
    ... }'''
    >>> traffic(text, 64, batch=8)
    Traffic(temporary=64, accessed=288, kernels=2, products=0, long_arrays=1)
    """
    shapes, accessed, kernels, products, long_arrays = {}, 0, 0, 0, 0
    for line in text[text.index("ENTRY") :].splitlines():
        if not (match := INSTRUCTION.match(line)):
            continue
        name, shape, operation, operands, rest = match.groups()
        shapes[name] = shape
        if operation in ("while", "conditional"):
            raise ValueError(f"the program has a {operation}, whose kernels are not counted: take a smaller batch")
        if operation in FREE:
            continue
        kernels += 1
        products += "gemm" in name or "gemm" in rest
        accessed += bytes_of(shape) + sum(bytes_of(shapes.get(o.strip().lstrip("%"), "")) for o in operands.split(","))
        sizes = [[int(n) for n in numbers.split(",") if n] for _, numbers in _arrays(shape)]
        long_arrays += sum(size[:1] == [batch] and prod(size) > batch for size in sizes)
    return Traffic(temporary, accessed, kernels, products, long_arrays)


def rows_of(device, name: str, batch: int, dtype: str, programs: dict, arguments: tuple) -> list[dict]:
    """One for each program, with ratios to the first."""
    rows: list[dict] = []
    for program, function in programs.items():
        compiled = ahead.compiled(function, arguments, device, "cuda")
        found = traffic(compiled.as_text(), compiled.memory_analysis().temp_size_in_bytes, batch)
        first = rows[0] if rows else found._asdict()
        ratios = {
            "temporary_ratio": round(found.temporary / first["temporary"], 3),
            "accessed_ratio": round(found.accessed / first["accessed"], 3),
        }
        rows.append({"model": name, "batch": batch, "dtype": dtype, "program": program} | found._asdict() | ratios)
    return rows


SHOWN = ("temporary_MB", "temporary_ratio", "accessed_MB", "accessed_ratio", "kernels", "products", "long_arrays")


def main(argv: list[str] | None = None) -> None:
    ahead.flags()
    given = measure.Parser(__doc__, "8-64-64-1 alone").given(argv)
    device, rows = ahead.h200(), []
    dtypes = ("float32", "bfloat16")
    work = [("-".join(map(str, w)), b, d, partial(of_network, w, b, d)) for w, b in SIZES for d in dtypes]
    work += [(f"GPT d={d}, T={t}", b, dtype, partial(of_gpt, d, n, t, b, dtype)) for d, n, t, b, dtype in GPTS]
    small = [w for w in work if w[0] == "8-64-64-1"]
    for name, batch, dtype, make in measure.followed(small[:1] if given.quick else work, "{0[0]}, {0[2]}".format):
        rows += rows_of(device, name, batch, dtype, *make())
    shown = [row | {f"{size}_MB": row[size] / 1e6 for size in ("temporary", "accessed")} for row in rows]
    title = "compiled for an H200 that is not here (nothing was run); ratios to jax.grad"
    measure.show(title, shown, ("model", "batch", "dtype", "program", *SHOWN))
    about = {"device": "none; compiled ahead of time for an NVIDIA H200"}
    about |= {"nvcc": importlib.metadata.version("nvidia-cuda-nvcc-cu12")}
    ahead.write(given, "gpu_compilation-h200.json", rows, about)


if __name__ == "__main__":
    main()
