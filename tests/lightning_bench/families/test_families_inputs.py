"""What the families make: realistic, seeded, in each layout; and the gate on gradients of gates."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from lightning_bench.case import DTYPES, FAMILIES, Dtype, Family, Layout, Shape
from lightning_bench.errors import UsageError
from lightning_bench.families import QKV, definition_of
from lightning_bench.families.work import Work
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.device.memory import CpuMeter
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.memory_row import call_memory
from lightning_bench.measure.oracle import Reference, choose_pairs
from lightning_bench.measure.paper import build_call
from lightning_bench.providers import get_provider

OWN = [family for family in FAMILIES if definition_of(family).own_inputs]
FORMS = ["gla-torch", "rwkv6-torch", "abc-torch", "mamba2-torch", "gated-delta-torch", "kda-torch"]
SHAPE = Shape(2, 3, 70, 16, 8, "bf16", "cpu")


def test_definitions_import_no_torch() -> None:
    code = (
        "import sys\nfrom lightning_bench.case import FAMILIES, Shape\n"
        "from lightning_bench.families.work import Work\n"
        "s = Shape(1, 2, 64, 16, 16, 'bf16', 'cuda')\n"
        "for f in FAMILIES: Work.of(f, s, 'bwd').min_flops; Work.of(f, s, 'bwd').min_bytes\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(UsageError, match="knows no family 'fast'; families are linear_decay, linear, "):
        definition_of("fast")


@pytest.mark.parametrize("layout", ["bhnd", "bnhd"])
@pytest.mark.parametrize("family", OWN)
def test_inputs_are_as_declared(family: Family, layout: Layout) -> None:
    defined, common = definition_of(family), InputSet(SHAPE, 1)
    inputs = common.of(family)
    given, plain = inputs.inputs(layout), inputs.inputs("bhnd")
    for name, spec in defined.inputs.items():
        x = given[name]
        kinds = {None: torch.bfloat16, "fp32": torch.float32, "int64": torch.int64}
        assert x.dtype == kinds[spec.dtype]
        assert x.is_contiguous()
        assert x.is_leaf
        assert x.requires_grad == spec.gradient
        assert tuple(plain[name].shape) == spec.shape(SHAPE, defined.sizes)
        back = x.transpose(1, 2) if layout == "bnhd" and spec.turns else x
        assert torch.equal(back, plain[name])
    assert set(given.more) == set(defined.inputs) - set(QKV)
    assert inputs.grad_output(layout) is common.grad_output(layout)
    assert inputs.inputs(layout) is common.of(family).inputs(layout)


@pytest.mark.parametrize("family", FAMILIES)
def test_inputs_are_seeded_and_of_no_other_family(family: Family) -> None:
    first, again, other = (InputSet(SHAPE, seed) for seed in (1, 1, 2))
    for one in OWN:  # in another order
        first.of(one)
    a, b, c = (made.of(family).inputs("bhnd") for made in (first, again, other))
    for name in definition_of(family).inputs:
        assert torch.equal(a[name], b[name])
        if name != "accepted":  # the same for every seed
            assert not torch.equal(a[name], c[name])


def test_families_without_inputs_of_their_own_share_them() -> None:
    inputs = InputSet(SHAPE, 1)
    held = inputs.held_bytes
    assert all(inputs.of(family) is inputs for family in FAMILIES if family not in OWN)
    gla = inputs.of("gla")
    assert gla.inputs("bhnd").q is inputs.inputs("bhnd").q
    assert inputs.held_bytes == held + gla.more["g"].numel() * 2
    assert gla.of("linear") is inputs
    assert gla.of("gla") is gla


def test_gates_are_realistic() -> None:
    inputs = InputSet(Shape(2, 8, 512, 64, 64, "fp32", "cpu"), 0)
    gla = inputs.of("gla").more["g"]
    assert float(gla.max()) < 0
    assert float(gla.mean()) == pytest.approx(-0.806 / 16, rel=0.02)  # E logsigmoid(x), x normal
    w, u = inputs.of("rwkv6").more.values()
    assert float(w.max()) < 0
    assert float(w[..., 0].mean()) == pytest.approx(-(2.7183**-6) * 1.133, rel=0.05)  # exp(1/8): log-normal
    assert float(w[..., -1].mean()) == pytest.approx(-(2.7183**-1) * 1.133, rel=0.05)
    assert float(u[:, 0].mean()) == pytest.approx(1.0, abs=0.2)
    for family in ("mamba2", "gated_delta", "kda"):
        g = inputs.of(family).more["g"]
        assert -8.0 < float(g.min()) < float(g.max()) < 0
        assert -1.6 < float(g.median()) < -0.01
    for family in ("gated_delta", "kda"):
        made = inputs.of(family)
        assert 0 < float(made.more["beta"].min()) < float(made.more["beta"].max()) < 1
        for x in (made.q, made.k):
            assert torch.allclose(x.norm(dim=-1), torch.ones(()), atol=1e-5)
    s = inputs.of("abc").more["s"]
    assert s.shape[-1] == 64
    assert float(s.std()) == pytest.approx(1.0, abs=0.02)
    slopes = inputs.of("retention").decay
    assert slopes.dtype == torch.float32
    assert slopes.exp().reciprocal().tolist() == pytest.approx([1 - 2.0 ** (-5 - h) for h in range(8)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMS)
def test_the_gate_passes_what_is_right_and_names_the_gate_that_is_wrong(name: str, dtype: Dtype) -> None:
    provider = get_provider(name)
    inputs = InputSet(Shape(2, 3, 70, 16, 8, dtype, "cpu"), 0)
    reference = Reference(provider.family, inputs, gradients=True, seed=0)
    got = direction_call(provider, inputs, "bwd").tensors()
    assert list(got) == ["o", *(f"d{x}" for x in definition_of(provider.family).gradients)]
    verdict = judge(reference, got, "bhnd")
    assert verdict.failure is None
    assert list(verdict.errors) == list(got)
    for gate in [x for x in got if x not in ("o", "dq", "dk", "dv")]:
        off = {**got, gate: got[gate] * 1.02}
        assert (judge(reference, off, "bhnd").failure or "").startswith(f"{gate} is off by ")
        late = {**got, gate: got[gate].roll(1, -1 if gate == "du" else 2)}
        assert (judge(reference, late, "bhnd").failure or "").startswith(f"{gate} is off by ")
        less = {**got, gate: got[gate][..., 1:]}
        assert f"{gate} has shape" in (judge(reference, less, "bhnd").failure or "")


def test_a_gradient_that_sums_over_the_batch_is_checked_over_whole_heads() -> None:
    shape = Shape(4, 5, 40, 8, 8, "fp32", "cpu")
    assert choose_pairs(shape, "rwkv6", 0) == [(b, h) for h in (0, 4) for b in range(4)]
    provider, inputs = get_provider("rwkv6-torch"), InputSet(shape, 0)
    reference = Reference("rwkv6", inputs, gradients=True, seed=0)
    assert reference.tensors["du"].shape == (2, 1, 8)
    got = direction_call(provider, inputs, "bwd").tensors()
    assert judge(reference, got, "bhnd").failure is None
    one = Shape(1, 5, 40, 8, 8, "fp32", "cpu")
    alone = direction_call(provider, InputSet(one, 0), "bwd").tensors()["du"]
    assert "du is off by" in (judge(reference, {**got, "du": alone}, "bhnd").failure or "")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_memory_and_protocol_paper_take_the_gates_along(name: str) -> None:
    provider, inputs = get_provider(name), InputSet(Shape(1, 2, 20, 8, 8, "fp32", "cpu"), 0)
    memory = call_memory(provider, inputs, "bwd", CpuMeter())
    assert memory.extra_mib * 2**20 >= Work.of(provider.family, inputs.shape, "bwd").write_bytes
    for direction in ("fwd", "bwd", "fwd_bwd"):
        build_call(provider, inputs, direction)()


def test_bytes_count_every_input_and_gradient() -> None:
    shape = Shape(2, 3, 100, 16, 8, "bf16", "cuda")
    tokens = 2 * 3 * 100
    qkv, o = tokens * 2 * (16 + 16 + 8), tokens * 2 * 8
    extra = {"gla": tokens * 2 * 16, "rwkv6": tokens * 4 * 16 + 3 * 4 * 16, "abc": tokens * 2 * 64}
    extra |= {"mamba2": tokens * 4, "gated_delta": tokens * 6, "kda": tokens * (4 * 16 + 2)}
    extra |= {"gateloop": tokens * 2 * 16, "gateloop_complex": tokens * 2 * 32}
    for family in FAMILIES:
        if not set(QKV) <= set(definition_of(family).inputs) or definition_of(family).updates:
            continue  # those are counted in test_families_layers.py and test_families_serving.py
        more = extra.get(family, 0)
        own = Work.of(family, shape, "fwd").read_bytes - qkv
        assert own == more, f"{family}: its own inputs have {own} bytes, `extra` above says {more}"
        assert Work.of(family, shape, "fwd").write_bytes == o
        assert Work.of(family, shape, "bwd").read_bytes == qkv + more + o
        assert Work.of(family, shape, "bwd").write_bytes == qkv + more
        assert Work.of(family, shape, "bwd").plan_bytes == 2 * (qkv + more + o)
        assert Work.of(family, shape, "fwd_bwd").min_bytes == 3 * (qkv + more) + 2 * o


def test_flops_by_hand() -> None:
    tokens, shape = 2 * 3 * 100, Shape(2, 3, 100, 16, 8, "bf16", "cuda")
    for family in ("retention", "gla", "rwkv6", "mamba2"):
        assert Work.of(family, shape, "fwd").min_flops == tokens * 4 * 16 * 8
        assert Work.of(family, shape, "bwd").min_flops == tokens * 10 * 16 * 8
    for family in ("gated_delta", "kda"):
        assert Work.of(family, shape, "fwd").min_flops == tokens * 6 * 16 * 8
        assert Work.of(family, shape, "bwd").min_flops == tokens * 16 * 16 * 8
    assert Work.of("abc", shape, "fwd").min_flops == tokens * 4 * 64 * (16 + 8)
    assert Work.of("softmax_full", shape, "bwd").min_flops == 2 * Work.of("softmax", shape, "bwd").min_flops
    # Based: pairs of tokens while the sequence is short, then 1 + 16 + 136 features and the normaliser.
    assert Work.of("based", shape, "fwd").min_flops == tokens * 100 * (16 + 8)
    long = Shape(1, 1, 100000, 16, 8, "bf16", "cuda")
    assert Work.of("based", long, "fwd").min_flops == 100000 * 4 * 153 * 9
