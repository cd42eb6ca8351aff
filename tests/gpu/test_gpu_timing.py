"""Times on a real GPU: what they are compared with, and what is in them besides the call."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.machine.mix import Mix
from lightning_bench.measure.device.mix_stream import mix_gbps
from lightning_bench.measure.device.peaks import measure_ceilings
from lightning_bench.measure.device.timer import CudaTimer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

MIXES = [Mix(1, 0), Mix(4, 1), Mix(3, 1), Mix(2, 1), Mix(7, 4), Mix(4, 3), Mix(1, 1), Mix(0, 1)]


def test_mixes_are_as_fast_as_a_copy_and_near_to_each_other() -> None:
    copy = measure_ceilings("cuda", "bf16").gbps
    found = {str(mix): mix_gbps(mix) for mix in MIXES}
    print(f"copy {copy:.0f} GB/s", {mix: f"{gbps:.0f}" for mix, gbps in found.items() if gbps})
    bandwidths = [gbps for gbps in found.values() if gbps is not None]
    assert len(bandwidths) == len(MIXES)
    assert min(bandwidths) > 0.97 * copy
    assert max(bandwidths) < 1.15 * min(bandwidths)
    again = mix_gbps(Mix(3, 1))
    assert again == pytest.approx(found["3:1"], rel=0.02)


def test_a_sample_of_no_work_takes_some_microseconds() -> None:
    timers = [CudaTimer(), CudaTimer()]
    found = [timer.empty_us() for timer in timers]
    print(f"empty_us {found[0]:.2f}, {found[1]:.2f}")
    assert all(0.5 < empty < 20 for empty in found)
    assert found[0] == pytest.approx(found[1], abs=1.0)
    assert timers[0].empty_us() == found[0]
