"""Calls in a form that a kernel can compute: copies, scales below float16, launches all cut up alike.

The Hopper kernel runs on the emulated device, behind the public function.
"""

import os
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import lightning_kernels as lk
from lightning_kernels.common import call_kinds, switches
from lightning_kernels.lightning2 import cuts, operator, plans
from lightning_kernels.step.step_kernel import step_tile_of
from tests.support.gluon_emulator.trials import Runner
from tests.support.kernel_cases import check_case, make_case

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the emulated device has the tensors of CPUs"
)
BUDGET = {torch.float16: 6e-4, torch.bfloat16: 4e-3}


@pytest.fixture
def device(monkeypatch):
    """Emulate a GPU of compute capability 9.0 that takes the calls of the test."""
    runner = Runner()
    monkeypatch.setattr(plans, "hopper", lambda _: runner.host)
    monkeypatch.setattr(plans, "_plans", call_kinds.KeptByKind())
    monkeypatch.setattr(runner.host, "processors", lambda _: 4)
    return runner


@pytest.fixture(params=["operator", "direct"])
def either_way(request, monkeypatch):
    monkeypatch.setattr(operator, "unobserved", lambda _: request.param == "direct")


def misaligned(x):
    return torch.cat([x, x], dim=-1)[..., 4 : 4 + x.shape[-1]].copy_(x)


def odd_rows(x):
    return torch.nn.functional.pad(x, (0, 3))[..., : x.shape[-1]]


def columns_apart(x):
    return x.repeat_interleave(2, dim=-1)[..., ::2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "change", "layout", "kv_heads"),
    [
        ("q", misaligned, "bhnd", 2), ("q", odd_rows, "bnhd", 1), ("k", columns_apart, "bhnd", 1),
        ("k", misaligned, "bnhd", 2), ("v", odd_rows, "bhnd", 2), ("v", misaligned, "bnhd", 1),
        ("v", columns_apart, "bnhd", 2), ("do", misaligned, "bhnd", 2), ("do", columns_apart, "bnhd", 1),
    ],
)  # fmt: skip
def test_what_the_hopper_kernel_cannot_read_is_copied(device, change, which, layout, kv_heads):
    plain = make_case(1, 2, kv_heads, 66, 64, 32, torch.bfloat16, size=0.3, layout=layout)
    expected = plain.run(lk.lightning_attn2)
    case = replace(plain, **{which: change(getattr(plain, which))})
    # The case's own tensors: copies that require gradients would be aligned.
    inputs = [x.requires_grad_() for x in (case.q, case.k, case.v, case.initial_state)]
    device.machine.launches.clear()
    results = case.call(lk.lightning_attn2, inputs)
    grads = torch.autograd.grad(results, inputs, (case.do, case.d_state))
    assert len(device.machine.launches) == 2
    for x, y in zip((*results, *grads), expected.values(), strict=True):
        assert torch.equal(x, y)
    # What a compiler is told of the results is still so.
    with FakeTensorMode() as mode:
        for name, x in vars(case).items():
            setattr(case, name, mode.from_tensor(x) if isinstance(x, torch.Tensor) else x)
        fake = case.call(lk.lightning_attn2, [case.q, case.k, case.v, case.initial_state])
    assert [x.stride() for x in fake] == [x.stride() for x in results]


@pytest.mark.usefixtures("either_way")
def test_an_expanded_gradient_is_copied(device):
    """As `o.sum().backward()` has it."""
    case = make_case(1, 2, 2, 70, 64, 64, torch.bfloat16, size=0.3)
    case.do, case.d_state = (torch.ones(()).to(x.dtype).expand(x.shape) for x in (case.do, case.d_state))
    check_case(lk.lightning_attn2, case, BUDGET[torch.bfloat16])
    assert len(device.machine.launches) == 2


@pytest.mark.parametrize(
    "change", [lambda x: x.float(), lambda x: x[..., :24].contiguous()], ids=["dtype", "dim"]
)
def test_other_dtypes_and_dims_are_for_the_portable_kernel(device, change):
    case = make_case(1, 2, 2, 70, 64, 64, torch.float16, size=0.3)
    assert len(case.call(lk.lightning_attn2, [change(x) for x in (case.q, case.k, case.v)] + [None])) == 2
    assert not device.machine.launches


@pytest.mark.slow
@pytest.mark.parametrize("on_hopper", [False, True])
@pytest.mark.parametrize(
    ("scale", "losses"), [(1e-3, "both"), (-1e-6, "both"), (1e-5, "o"), (1e-8, "o"), (0.0, "both")]
)
def test_small_scales_in_float16(device, on_hopper, scale, losses, monkeypatch):
    """Weights that are as small as the scale would lose their digits, or all of themselves."""
    if not on_hopper:
        monkeypatch.setenv("LIGHTNING_KERNELS_HOPPER", "0")
    case = make_case(1, 2, 1, 70, 64, 64, torch.float16, slope=0.3, scale=scale)
    # So large that results are normal numbers nevertheless.
    case.v, case.do = case.v * 20, case.do * 100
    if losses == "o":
        case.d_state = torch.zeros_like(case.d_state)
    check_case(lk.lightning_attn2, case, BUDGET[torch.float16])
    assert bool(device.machine.launches) == on_hopper


@pytest.mark.usefixtures("either_way")
def test_the_switch_of_the_hopper_kernel_takes_effect_at_once(device, monkeypatch):
    case = make_case(1, 1, 1, 10, 64, 64, torch.float16, size=0.3)
    for value, launches in ((None, 2), ("0", 0), ("1", 2), ("0", 0)):
        if value is not None:
            monkeypatch.setenv("LIGHTNING_KERNELS_HOPPER", value)
        device.machine.launches.clear()
        case.run(lk.lightning_attn2)
        assert len(device.machine.launches) == launches


@pytest.mark.parametrize(
    ("name", "ask", "value"),
    [("HOPPER", lambda: not switches.hopper_is_on(), "0"), ("INVARIANT", switches.invariant, "1")],
)
def test_switches_follow_the_environment(monkeypatch, name, ask, value):
    """They read the dict behind `os.environ`, which python does not promise to keep."""
    name = f"LIGHTNING_KERNELS_{name}"
    monkeypatch.delenv(name, raising=False)
    assert not ask()
    monkeypatch.setenv(name, value)
    assert ask()
    os.environ[name] = "no"
    assert not ask()
    del os.environ[name]
    assert not ask()


def test_segments_of_many_lengths_are_not_kept_for_ever():
    assert cuts.hopper_segments.cache_info().maxsize is not None
    assert cuts.packed_segments.cache_info().maxsize is not None


def rows_of_one_head(batch, heads, n, bounds=None):
    """Return the first 600 rows of one head beside other sequences, heads and tokens."""
    generators = torch.Generator().manual_seed(0), torch.Generator().manual_seed(n)
    inputs = []
    for _ in range(3):
        x, others = (
            torch.randn(*shape, 64, generator=generator).bfloat16() * 0.3
            for shape, generator in zip(((600,), (batch, heads, n)), generators, strict=True)
        )
        others[0, 0, :600] = x
        inputs.append(others)
    bounds = None if bounds is None else torch.tensor(bounds, dtype=torch.int32)
    return lk.lightning_attn2(*inputs, torch.full((heads,), 0.05), cu_seqlens=bounds)[0, 0, :600]


@pytest.mark.slow
@pytest.mark.parametrize("invariant", [False, True])
def test_bits_of_a_row_do_not_depend_on_what_else_is_computed(device, invariant, monkeypatch):
    monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", str(int(invariant)))
    alone = rows_of_one_head(1, 1, 600)
    beside = (
        rows_of_one_head(1, 5, 600), rows_of_one_head(4, 1, 640), rows_of_one_head(1, 1, 1500),
        rows_of_one_head(1, 1, 1000, bounds=[0, 600, 1000]),
    )  # fmt: skip
    cuts = {(int(launch["segments"]), str(launch["TILES"])) for launch in device.machine.launches}
    if invariant:
        assert all(torch.equal(alone, other) for other in beside)
        assert [segments for segments, _ in cuts] == [1]
    else:
        assert not all(torch.equal(alone, other) for other in beside)
        assert len(cuts) > 1


def test_the_step_too(monkeypatch):
    monkeypatch.delenv("LIGHTNING_KERNELS_INVARIANT", raising=False)
    assert step_tile_of(1, 128, 128) != step_tile_of(4096, 128, 128)
    monkeypatch.setenv("LIGHTNING_KERNELS_INVARIANT", "1")
    assert step_tile_of(1, 128, 128) == step_tile_of(4096, 128, 128)
