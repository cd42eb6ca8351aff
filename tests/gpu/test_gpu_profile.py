"""Ceilings and profiles on a real GPU: what the profilers print there is what the parsers take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_bench.errors import LbenchError
from lightning_bench.machine import describe_machine
from lightning_bench.measure.device.peaks import measure_ceilings, measure_device
from lightning_bench.profile.data import Profile, Request
from lightning_bench.profile.parent.profilers import Options, find_ncu, profile_case

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]


def taken(provider: str, direction: Any, *, n: int = 4096, **options: Any) -> Profile:
    request = Request(
        mode="profile",
        provider=provider,
        direction=direction,
        dtype="bf16",
        batch=4,
        heads=32,
        seq_len=n,
        head_dim=128,
        value_dim=128,
        device="cuda",
    )
    return profile_case(request, describe_machine("cuda"), None, Options(time_limit_s=200, **options))


def test_ceilings_are_in_the_expected_order() -> None:
    ceilings = measure_device("cuda")
    assert ceilings.note == ""
    assert ceilings.read_gbps is not None
    assert ceilings.l2_gbps is not None
    assert ceilings.tf32_tflops is not None
    assert ceilings.fp32_tflops is not None
    assert ceilings.bf16_tflops is not None
    assert 0.7 < ceilings.read_gbps / ceilings.copy_gbps < 1.4
    assert ceilings.l2_gbps > 1.2 * ceilings.read_gbps
    assert ceilings.bf16_tflops > ceilings.tf32_tflops > ceilings.fp32_tflops
    assert ceilings.launch_us is not None
    assert ceilings.call_us is not None
    assert 0.5 < ceilings.launch_us < ceilings.call_us < 200
    again = measure_ceilings("cuda", "bf16")
    assert again.gbps == pytest.approx(ceilings.copy_gbps, rel=0.1)
    assert again.l2_bytes == ceilings.of("bf16").l2_bytes


@pytest.fixture(scope="module")
def forward() -> Profile:
    return taken("lightning2", "fwd", ncu=True, proton=True)


def test_the_kernel_and_what_it_takes(forward: Profile) -> None:
    (kernel,) = forward.kernels
    assert kernel.name == "linear_attention_kernel"
    assert kernel.grid is not None
    assert kernel.block is not None
    assert kernel.registers is not None
    assert kernel.registers > 32
    assert kernel.shared_bytes is not None
    assert kernel.spills is not None
    t = forward.timing
    assert t.kernels_ms is not None
    assert t.kernels_ms == pytest.approx(t.device_ms, rel=0.15)
    assert t.between_ms == 0
    assert t.enqueue_ms is not None
    assert 0 < t.enqueue_ms < 5
    assert t.compile_s > 0.3  # an empty Triton cache
    assert "linear_attention_kernel" in {kernel.name for kernel in t.compiled}
    assert 1 / 1.15 < forward.roofline.floor_ratio < 4
    assert forward.roofline.impossible == ""


def test_memory_is_only_the_output(forward: Profile) -> None:
    sizes = [tensor.size_bytes for tensor in forward.memory.allocations if not tensor.freed]
    assert max(sizes) == 4 * 32 * 4096 * 128 * 2
    assert forward.memory.extra_mib == pytest.approx(forward.memory.ideal_mib, rel=0.02)


@pytest.mark.skipif(find_ncu() is None, reason="needs Nsight Compute")
def test_counters(forward: Profile) -> None:
    if any("ERR_NVGPUCTRPERM" in note for note in forward.notes):
        pytest.skip("the driver does not permit counters")
    (kernel,) = forward.kernels
    assert kernel.counters is not None, forward.notes
    assert forward.traffic_ratio is not None
    assert 0.6 < forward.traffic_ratio < 2
    counters = kernel.counters
    assert counters.l2_bytes is not None
    assert counters.dram_read_bytes is not None
    assert counters.l2_bytes > counters.dram_read_bytes
    assert counters.tensor_percent is not None
    assert 0 < counters.tensor_percent <= 100
    assert counters.registers == kernel.registers
    assert counters.stalls
    assert sum(counters.stalls.values()) <= 1
    assert counters.time_ms == pytest.approx(kernel.time_ms, rel=0.5)
    assert counters.waves is not None
    assert counters.spill_instructions is not None
    assert {"bound", "traffic", "tensor"} <= {reading.rule for reading in forward.readings}


def test_proton_sees_the_same_kernel(forward: Profile) -> None:
    (kernel,) = forward.proton
    assert kernel.name == "linear_attention_kernel"
    assert kernel.count == forward.calls
    assert kernel.time_ms / kernel.count == pytest.approx(forward.kernels[0].time_ms, rel=0.3)


def test_a_backward_pass_on_autograd_s_own_thread() -> None:
    profile = taken("sdpa-flash", "bwd", n=1024)
    assert len(profile.kernels) >= 2
    assert profile.memory.saved
    assert {tensor.same_as for tensor in profile.memory.saved} >= {"q", "k", "v"}
    assert profile.memory.allocations
    assert profile.timing.host_share is not None


def test_a_kernel_that_dies_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "import torch\n"
        "from lightning_bench.providers import Provider\n"
        "class Bad(Provider):\n"
        "    name = label = 'bad'; family = 'softmax'; package = 'torch'\n"
        "    def build(self, inputs):\n"
        "        far = torch.full((1,), 2**40, device='cuda')\n"
        "        return lambda: inputs.q.view(-1)[far]\n"
    )
    with pytest.raises(LbenchError, match=r"bad\.py:Bad/fwd/"):
        taken(f"{path}:Bad", "fwd", n=128)
