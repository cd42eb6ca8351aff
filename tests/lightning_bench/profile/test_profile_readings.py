"""Each rule says what its figures say, names them, and is silent otherwise; the docs list them all."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lightning_bench.profile import readings
from lightning_bench.profile.capture.trace import PYTHON
from lightning_bench.profile.data import Counters, Memory, Profile
from lightning_bench.profile.parent import counters
from lightning_bench.profile.readings import RULES, read
from tests.support.paths import ROOT
from tests.support.profile_zoo import HOPPER, REDUCE, gpu_profile, kernel, ncu_csv, roofline, timing

DOCS = ROOT / "docs" / "profile.md"


def says(profile: Profile, rule: str) -> list[str]:
    return [reading.text for reading in read(profile) if reading.rule == rule]


def with_counters(**changes: Any) -> Profile:
    (reading,) = counters.parse(ncu_csv({}))
    return gpu_profile(kernels=(kernel(HOPPER, 0.284, counters=reading.model_copy(update=changes)),))


def test_memory_bound() -> None:
    (text,) = says(gpu_profile(), "bound")
    assert text == (
        "Memory-bound at 89 % of copy bandwidth (gbps 3754 of 4233); 1.13 times its floor (floor_ms 0.2537)."
    )


def test_compute_bound() -> None:
    softmax = gpu_profile(timing=timing(device_ms=3.4), roofline=roofline(3.4, flops=2.2e12))
    (text,) = says(softmax, "bound")
    assert text.startswith("Compute-bound at 81 % of the matmul rate (tflops 647 of 796); 1.23 times its")


def test_bound_by_neither() -> None:
    (text,) = says(gpu_profile(timing=timing(device_ms=2.59), roofline=roofline(2.59)), "bound")
    assert text.startswith("Bound by neither ceiling: 10 % of copy bandwidth (gbps 414.6 of 4233), 3 %")


def test_bound_by_bytes_that_need_not_move() -> None:
    slow = with_counters(dram_read_bytes=2.0**32).model_copy(
        update={"timing": timing(device_ms=1.2), "roofline": roofline(1.2)}
    )
    (text,) = says(slow, "bound")
    assert text.startswith("Memory-bound by what it moves, not by what it must: its DRAM bytes take 90 %")
    (text,) = says(slow, "traffic")
    assert text == "Moves 4.25 times the ideal bytes (dram_bytes 4352 MiB, model_bytes 1024 MiB)."


def test_bytes_as_they_should_be() -> None:
    assert says(gpu_profile(), "traffic") == []
    (text,) = says(with_counters(), "traffic")
    assert text.startswith("Moves hardly more than it must: 1.00 times the ideal bytes (dram_bytes 1024 MiB")


def test_launch_gaps() -> None:
    assert says(gpu_profile(), "launch") == []
    (text,) = says(gpu_profile(timing=timing(call_ms=0.48)), "launch")
    assert text == (
        "41 % of an eager call pass with no kernel running (call_ms 0.48, kernels_ms 0.284): launch gaps."
    )
    (text,) = says(gpu_profile(timing=timing(between_ms=0.071)), "between")
    assert text.startswith("20 % of the time from the first kernel to the last are gaps between them (")


def test_the_largest_kernel_however_often_it_is_launched() -> None:
    assert says(gpu_profile(), "largest") == []
    two = (kernel(REDUCE, 1.0, 0.3), kernel(HOPPER, 1.0, 0.4), kernel(REDUCE, 1.0, 0.3))
    (text,) = says(gpu_profile(kernels=two), "largest")
    assert text == "One kernel takes 60 % of the time (share): at::native::reduce_kernel."
    evenly = tuple(kernel(name, 1.0, 0.25) for name in "abcd")
    assert says(gpu_profile(kernels=evenly), "largest") == []


def test_python_on_a_cpu() -> None:
    ours = (kernel("aten::bmm", 1.0, 0.5, kind="op"), kernel(PYTHON, 1.0, 0.5, kind="op"))
    (text,) = says(gpu_profile(device="cpu", kernels=ours), "python")
    assert text == "50 % of the call pass outside of any operator (time_ms 1)."


def test_spills_by_triton_and_by_counters() -> None:
    spilling = kernel(HOPPER, 1.0, spills=35, registers=255)
    (text,) = says(gpu_profile(kernels=(spilling, spilling)), "spills")
    assert text == f"{HOPPER} spills registers to local memory (spills 35, registers 255)."
    (text,) = says(with_counters(spill_instructions=1.5e6), "spills")
    assert text == f"{HOPPER} spills registers to local memory (registers 168, spill_instructions 1.5e+06)."
    assert says(with_counters(), "spills") == []


def test_few_warps() -> None:
    assert says(gpu_profile(), "occupancy") == []
    (text,) = says(gpu_profile(kernels=(kernel(HOPPER, 1.0, occupancy_percent=9.0),)), "occupancy")
    assert text == (
        f"{HOPPER} has few warps to hide latency with "
        "(occupancy_percent 9, registers 168, shared_bytes 215384)."
    )
    assert "occupancy_percent 19," in says(with_counters(), "occupancy")[0]
    light = (kernel(HOPPER, 1.0, 0.9), kernel(REDUCE, 0.1, 0.1, occupancy_percent=1.0))
    assert says(gpu_profile(kernels=light), "occupancy") == []


def test_grids_that_leave_places_empty() -> None:
    assert says(gpu_profile(), "waves") == []
    (text,) = says(gpu_profile(kernels=(kernel(HOPPER, 1.0, grid=(32, 1, 1)),)), "waves")
    assert text == f"{HOPPER} leaves 100 of 132 multiprocessors without work (blocks 32)."
    (text,) = says(with_counters(), "waves")
    assert text == (
        f"{HOPPER} runs in 2.25 waves, the last not full: 25 % of the places for blocks stay empty (waves)."
    )
    assert says(with_counters(waves=2.9), "waves") == []


def test_what_warps_wait_for_and_tensor_cores() -> None:
    (text,) = says(with_counters(), "stall")
    assert text == f"A warp of {HOPPER} waits 50 % of its time for the warp-group matrix unit (stalls: gmma)."
    assert says(with_counters(stalls={"wait": 0.2}), "stall") == []
    (text,) = says(with_counters(), "tensor")
    assert text == f"The tensor cores are active 41 % of the time of {HOPPER} (tensor_percent)."
    assert says(with_counters(tensor_percent=None), "tensor") == []


def test_memory_and_what_is_kept() -> None:
    assert says(gpu_profile(), "memory") == []
    heavy = Memory(extra_mib=2816.0, ideal_mib=768.0, saved_mib=512.0, peak_mib=None, reserved_mib=None)
    (text,) = says(gpu_profile(memory=heavy), "memory")
    assert text == "Adds 3.7 times the memory of its results (extra_mib 2816, ideal_mib 768)."
    (text,) = says(gpu_profile(memory=heavy), "saved")
    assert text == "Keeps 512 MiB for backward besides its inputs and output (saved_mib)."


def test_the_first_call() -> None:
    (text,) = says(gpu_profile(), "compile")
    assert text == "The first call takes 2.1 s more than the second (compile_s)."
    assert says(gpu_profile(timing=timing(first_call_s=0.9)), "compile") == []


def test_a_time_that_cannot_be_true() -> None:
    never = roofline(0.286).model_copy(update={"impossible": "9000 GB/s is above the 4233 GB/s"})
    (text,) = says(gpu_profile(roofline=never), "impossible")
    assert text == "The time cannot be true (device_ms 0.286): 9000 GB/s is above the 4233 GB/s."


def test_no_rule_guesses_where_figures_are_missing() -> None:
    bare = kernel("k", 1.0, grid=None, block=None, registers=None, shared_bytes=None, occupancy_percent=None)
    empty = bare.model_copy(update={"counters": Counters(kernel="k")})
    nothing = Memory(extra_mib=None, ideal_mib=1.0, saved_mib=None, peak_mib=None, reserved_mib=None)
    times = timing(kernels_ms=None, between_ms=None, enqueue_ms=None, first_call_s=0.0)
    profile = gpu_profile(kernels=(empty,), memory=nothing, timing=times, processors=None)
    assert {reading.rule for reading in read(profile)} == {"bound"}


def test_the_docs_list_every_rule_and_threshold() -> None:
    text = DOCS.read_text().partition("## Readings")[2]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(RULES)
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    for rule, threshold in {
        "bound": f"{100 * readings.BOUND_SHARE:.0f} %",
        "traffic": f"{readings.TRAFFIC_RATIO}",
        "launch": f"{100 * readings.LAUNCH_SHARE:.0f} %",
        "between": f"{100 * readings.BETWEEN_SHARE:.0f} %",
        "largest": f"{100 * readings.LARGEST_SHARE:.0f} %",
        "python": f"{100 * readings.LAUNCH_SHARE:.0f} %",
        "occupancy": f"{readings.LOW_OCCUPANCY_PERCENT:.0f} %",
        "waves": f"{100 * readings.TAIL_SHARE:.0f} %",
        "stall": f"{100 * readings.STALL_SHARE:.0f} %",
        "memory": f"{readings.EXTRA_RATIO}",
        "saved": f"{100 * readings.SAVED_SHARE:.0f} %",
        "compile": f"{readings.COMPILE_S:.0f} s",
    }.items():
        assert threshold in rows[rule], rule
    assert f"{100 * readings.HEAVY_SHARE:.0f} % of the time" in text


def test_every_reading_names_a_figure() -> None:
    names = {
        *Counters.model_fields,
        *Profile.model_fields,
        "stalls",
        "share",
        "blocks",
        "compile_s",
        "dram_bytes",
    }
    for model in ("timing", "roofline", "memory"):
        names |= set(type(getattr(gpu_profile(), model)).model_fields)
    names |= set(type(gpu_profile().kernels[0]).model_fields)
    for reading in read(with_counters(spill_instructions=3.0)):
        assert any(re.search(rf"\b{name}\b", reading.text) for name in names), reading.text


@pytest.mark.parametrize("reason", ["long_scoreboard", "gmma", "wait", "barrier", "short_scoreboard"])
def test_common_stalls_have_words(reason: str) -> None:
    assert reason in readings.STALLS
