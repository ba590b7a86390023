"""What our gradients write on a GPU: bounds on the committed figures, and on what can be seen of a program lowered here."""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxbackprop as jbp
from jaxbackprop.programs.flat import flatten

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
import gpu_compilation as gpu  # noqa: E402

# Of jax.grad's: temporary memory, and bytes read and written. The exercise's own network is read once, and nothing is written;
# its clipped sum keeps two vectors. A clipped sum of others keeps each dz beside each h: 4 arrays where
# jax.grad has 3 in 8-64-64-1, and a few vectors. Leaving out what is not finite is a pass over every h more.
BOUNDS = {
    "value_and_grad": (1.05, 1.05),
    "clipped sum": (1.4, 1.65),
    "clipped sum, nan_safe=False": (1.4, 1.4),
    "norms": (1.05, 1.0),
}


@pytest.fixture(scope="module")
def rows():
    return json.loads((EXPERIMENTS / "results" / "gpu_compilation-h200.json").read_text())["rows"]


def test_the_committed_figures_keep_to_their_bounds(rows):
    seen = set()
    for row in rows:
        if row["program"] in BOUNDS:
            narrow = row["model"] == "1-1-1-1" and row["program"] != "value_and_grad"
            temporary, accessed = (4.1, 2.1) if narrow else BOUNDS[row["program"]]
            assert row["temporary_ratio"] <= temporary, row
            assert row["accessed_ratio"] <= accessed, row
            seen.add((row["model"], row["dtype"]))
    assert len(seen) == 12


@pytest.mark.xfail(
    strict=True, reason="the pass over h for what is not finite, and vectors beside four arrays for three"
)
def test_a_clipped_sum_keeps_to_the_bounds_that_were_hoped_for(rows):
    for row in rows:
        if row["program"] == "clipped sum" and row["model"] != "1-1-1-1":
            assert row["temporary_ratio"] <= 1.35, row
            assert row["accessed_ratio"] <= 1.5, row


def test_ratios_are_to_jax_grad_of_the_same_model(rows):
    first = {(row["model"], row["dtype"]): row for row in rows if row["program"] == gpu.BASELINE}
    for row in rows:
        base = first[row["model"], row["dtype"]]
        assert row["temporary_ratio"] == pytest.approx(row["temporary"] / base["temporary"], abs=6e-4)
        assert row["accessed_ratio"] == pytest.approx(row["accessed"] / base["accessed"], abs=6e-4)


def test_traffic_is_what_kernels_read_and_write():
    text = """
%fused (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %m = f32[8,4]{1,0} multiply(%p, %p)
}
ENTRY %main (x: f32[8,4], w: bf16[4,2]) -> (f32[8,4], f32[8]) {
  %x = f32[8,4]{1,0} parameter(0)
  %w = bf16[4,2]{1,0} parameter(1)
  %gemm_fusion_dot = f32[8,2]{1,0} fusion(%x, %w), kind=kCustom, calls=%gemm
  %both = (f32[8,4]{1,0}, f32[8]{0}) fusion(%gemm_fusion_dot), kind=kInput, calls=%fused
  %one = f32[8,4]{1,0} get-tuple-element(%both), index=0
  ROOT %t = (f32[8,4]{1,0}, f32[8]{0}) tuple(%one, %one)
}"""
    product, both = 128 + 16 + 64, 64 + 128 + 32
    assert gpu.traffic(text, 7, batch=8) == gpu.Traffic(7, product + both, kernels=2, products=1, long_arrays=2)
    with pytest.raises(ValueError, match="has a while"):
        gpu.traffic("ENTRY %m {\n  %l = f32[2]{0} while(%a), body=%b\n}", 0, 8)


@pytest.mark.parametrize("widths", [(8, 64, 64, 1), (64, 128, 128, 10), (1, 1, 1, 1)])
def test_lowered_for_a_gpu_the_batch_is_swept_whole(widths):
    network, batch = jbp.skip_mlp(widths), 65_536
    params = jax.eval_shape(lambda: jbp.init(network, jax.random.key(0)))
    x, y = (jax.ShapeDtypeStruct((batch, n), "float32") for n in (widths[0], widths[-1]))
    clipped = jbp.stream(network, gpu.LOSS, partial(gpu.clipped, nan_safe=False))
    for program in (jax.jit(jbp.value_and_grad(network, gpu.LOSS)), clipped):
        traced = program.trace(params, x, y)
        text = {platform: traced.lower(lowering_platforms=(platform,)).as_text() for platform in ("cuda", "cpu")}
        assert "stablehlo.while" not in text["cuda"]
        if widths[0] == 1:  # elsewhere so few numbers fit into a CPU's cache
            assert "stablehlo.while" in text["cpu"]


def test_what_a_clipped_sum_writes_for_examples_that_are_not_finite():
    """One choice for each h, and one for each dz; without nan_safe none."""
    network = jbp.skip_mlp((8, 64, 64, 1))
    params = jbp.init(network, jax.random.key(0))
    _, fg = jbp.per_example(network, gpu.LOSS)(params, jnp.ones((16, 8)), jnp.ones((16, 1)))

    def choices(nan_safe):
        program = flatten(partial(gpu.clipped, nan_safe=nan_safe), fg)
        return sum(step.name == "select_n" and program.shapes[step.writes[0]].ndim == 2 for step in program.steps)

    assert choices(False) == 0
    assert choices(True) == len(fg.h) + len(fg.dz) == 6


def test_without_the_compiler_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(gpu.ahead, "TOOLS", None)
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--quick"])
    assert stopped.value.code == 2
    assert "pip install 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12" in capsys.readouterr().err
