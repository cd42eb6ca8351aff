"""GateLoop, VQ attention, TransNormerLLM's layer, SimpleRMSNorm: oracles, providers and gate on a CPU."""

from __future__ import annotations

import math
from typing import cast

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Dtype, Family, Shape
from lightning_bench.families import Problem, definition_of
from lightning_bench.families.work import Work
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference, solve
from lightning_bench.providers import get_provider
from lightning_bench.providers.forms.vq_attention import vq_attention

SHAPE = Shape(2, 3, 45, 16, 16, "fp32", "cpu")
WIDE = Shape(2, 1, 45, 128, 128, "fp32", "cpu")
PROVIDERS = {
    "gateloop-torch": SHAPE,
    "gateloop-complex-torch": SHAPE,
    "vq-blockwise": SHAPE,
    "vq-sdpa": SHAPE,
    "transnormer-layer-torch": WIDE,
    "srmsnorm-eager": WIDE,
    "rms-norm-torch": SHAPE,
}


def at(shape: Shape, dtype: Dtype) -> Shape:
    return Shape(shape.batch, shape.heads, shape.seq_len, shape.head_dim, shape.value_dim, dtype, "cpu")


def problem(family: Family, shape: Shape) -> Problem:
    """Return inputs of the family in fp64, with every (batch, head) as a pair."""
    inputs = InputSet(shape, 3).of(family)
    given = inputs.inputs("bhnd")

    def pairs(name: str, x: Tensor) -> Tensor:
        axes = definition_of(family).inputs[name].axes if name in definition_of(family).inputs else "bh"
        x = x.detach() if "b" in axes else x.detach().expand(shape.batch, *x.shape)
        return x.flatten(0, 1).double() if x.is_floating_point() else x.flatten(0, 1)

    tensors = [pairs(name, x) for name, x in (("q", given.q), ("k", given.k), ("v", given.v))]
    decay = inputs.decay.double().repeat(shape.batch)
    more = {name: pairs(name, x) for name, x in given.more.items()}
    return Problem(*tensors, inputs.do.flatten(0, 1).double(), decay, more)


def gate_loop(p: Problem) -> Tensor:
    """Token by token."""
    state: Tensor = torch.zeros_like(p.q[:, 0])
    rows = []
    for t in range(p.q.shape[1]):
        gate = p["g"][:, t].exp()
        if "phase" in p.more:
            gate = torch.polar(gate, p["phase"][:, t])
        state = gate * state + p.k[:, t] * p.v[:, t]
        rows.append(p.q[:, t] * (state.real if state.is_complex() else state))
    return torch.stack(rows, 1)


def vq(p: Problem) -> Tensor:
    """Evaluate the quadratic definition, one-hot codes times the codebook."""
    codebook = p["codebook"]
    keys = torch.nn.functional.one_hot(p["codes"], codebook.shape[1]).double() @ codebook
    n = p.q.shape[1]
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    scores = (p.q @ keys.mT / math.sqrt(p.q.shape[2])).masked_fill(hidden, -math.inf)
    return scores.softmax(-1) @ p.v


def srms(x: Tensor) -> Tensor:
    """x / (‖x‖₂ / √d), with the published eps."""
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) / math.sqrt(x.shape[-1])
    return x / (size.square() + 1e-6).sqrt()


def layer(p: Problem) -> Tensor:
    """With the attention as a matrix of decays, head by head."""
    q, k, v, u = (torch.einsum("pnd,ped->pne", p.v, w) for w in p["projections"].unbind(1))
    silu = torch.nn.functional.silu
    n, heads = p.v.shape[1], p.v.shape[2] // 64
    distance = (torch.arange(n)[:, None] - torch.arange(n)).double()
    outputs = []
    for head in range(heads):
        one = slice(64 * head, 64 * head + 64)
        slope = 2.0 ** (-8.0 * (head + 1) / heads) * (1 + 1e-5)
        decay = torch.exp(-slope * distance.clamp(min=0)).tril()
        outputs.append((silu(q[..., one]) @ silu(k[..., one]).mT * decay) @ v[..., one])
    return torch.einsum("pnd,ped->pne", srms(torch.cat(outputs, -1)) * u, p["out"])


DEFINITIONS = {
    "gateloop": (gate_loop, SHAPE),
    "gateloop_complex": (gate_loop, SHAPE),
    "vq": (vq, SHAPE),
    "transnormer": (layer, WIDE),
    "norm": (lambda p: srms(p.v), WIDE),
}


@pytest.mark.parametrize("family", DEFINITIONS)
def test_the_oracle_is_the_definition(family: Family) -> None:
    form, shape = DEFINITIONS[family]
    p = problem(family, shape)
    got = solve(family, p, gradients=True)
    names = definition_of(family).gradients
    leaves = {name: p[name].clone().requires_grad_() for name in names}
    o = form(p.replaced(leaves))
    grads = torch.autograd.grad(o, list(leaves.values()), p.do)
    wanted = {"o": o.detach(), **{f"d{name}": x for name, x in zip(names, grads, strict=True)}}
    assert set(got) == set(wanted)
    for name, x in wanted.items():
        torch.testing.assert_close(got[name], x, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("family", ["gateloop", "gateloop_complex"])
def test_gate_loop_in_finite_differences(family: Family) -> None:
    p = problem(family, Shape(1, 1, 4, 2, 2, "fp32", "cpu"))
    names = definition_of(family).gradients

    def output(*leaves: Tensor) -> Tensor:
        return definition_of(family).output(p.replaced(dict(zip(names, leaves, strict=True))))

    leaves = [p[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(output, leaves)


def judged(name: str, shape: Shape, *, spoil: str = "") -> str | None:
    """Return the gate's answer to output and gradients of a provider, one of them a little changed."""
    provider = get_provider(name)
    provider.load()
    assert provider.unavailable("cpu") is None
    assert provider.unsupported(shape, "bwd") is None
    inputs = InputSet(shape, 0)
    got = direction_call(provider, inputs, "bwd").tensors()
    if spoil:
        got[spoil] = got[spoil] * 1.02
    reference = Reference(provider.family, inputs, gradients=True, seed=0)
    return judge(reference, got, provider.layout).failure


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_providers_pass_the_gate(name: str, dtype: str) -> None:
    assert judged(name, at(PROVIDERS[name], cast(Dtype, dtype))) is None


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gateloop-torch", "dg"),
        ("gateloop-complex-torch", "dphase"),
        ("vq-blockwise", "dcodebook"),
        ("transnormer-layer-torch", "dprojections"),
        ("transnormer-layer-torch", "dout"),
        ("srmsnorm-eager", "dv"),
    ],
)
def test_the_gate_names_the_gradient_that_is_off(name: str, tensor: str) -> None:
    failure = judged(name, PROVIDERS[name], spoil=tensor)
    assert failure
    assert failure.startswith(f"{tensor} is off by 2.0e-02")


@pytest.mark.parametrize("block", [1, 4, 16, 45, 512])
def test_blocks_change_nothing(block: int) -> None:
    inputs = InputSet(SHAPE, 0).of("vq").inputs("bhnd")
    given = inputs.q.double(), inputs["codes"], inputs["codebook"].double(), inputs.v.double()
    torch.testing.assert_close(vq_attention(*given, block=block), vq_attention(*given, block=45))


def test_vq_attention_says_what_does_not_fit() -> None:
    q, codes = torch.zeros(1, 2, 5, 4), torch.zeros(1, 2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"codebook \[h, m, d\]"):
        vq_attention(q, codes, torch.zeros(3, 8, 4), q)
    with pytest.raises(ValueError, match="block"):
        vq_attention(q, codes, torch.zeros(2, 8, 4), q, block=0)


def test_codes_are_the_nearest() -> None:
    inputs = InputSet(SHAPE, 0)
    made = inputs.of("vq").inputs("bhnd")
    distances = torch.cdist(inputs.k, made["codebook"][None])
    assert torch.equal(made["codes"], distances.argmin(-1))
    assert made["codes"].unique().numel() > 50


def test_what_moves_at_least() -> None:
    shape = Shape(12, 1, 512, 2048, 2048, "bf16", "cuda")
    unit = 12 * 512 * 2048 * 2
    assert Work.of("norm", shape, "fwd").min_bytes == 2 * unit
    assert Work.of("norm", shape, "bwd").min_bytes == 3 * unit
    assert Work.of("gateloop", shape, "fwd").min_bytes == 5 * unit
    assert Work.of("gateloop", shape, "bwd").min_bytes == 9 * unit
    weights = 5 * 2048 * 2048 * 2
    assert Work.of("transnormer", shape, "fwd").min_bytes == 2 * unit + weights
    assert Work.of("transnormer", shape, "bwd").min_bytes == 3 * unit + 2 * weights


def test_shapes_that_make_no_layer() -> None:
    provider = get_provider("transnormer-layer-torch")
    reasons = {
        Shape(2, 2, 45, 128, 128, "fp32", "cpu"): "heads = 1",
        Shape(2, 1, 45, 128, 64, "fp32", "cpu"): "heads = 1",
        Shape(2, 1, 45, 192, 192, "fp32", "cpu"): "64 times a power of two",
        Shape(2, 1, 45, 100, 100, "fp32", "cpu"): "64 times a power of two",
    }
    for shape, reason in reasons.items():
        assert reason in (provider.unsupported(shape, "fwd") or "")
    unequal = Shape(2, 2, 45, 32, 16, "fp32", "cpu")
    assert "value_dim = head_dim" in (get_provider("gateloop-torch").unsupported(unequal, "fwd") or "")
