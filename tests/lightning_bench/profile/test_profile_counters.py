"""What Nsight Compute and Proton print, and the sentences where they print nothing."""

from __future__ import annotations

import json

import pytest

from lightning_bench.profile.kernel_names import base_name
from lightning_bench.profile.parent import counters, proton
from tests.support.profile_zoo import HOPPER, METRICS, PROTON, REDUCE, kernel, ncu_csv


def test_a_launch_as_the_raw_page_has_it() -> None:
    (launch,) = counters.parse(ncu_csv({}))
    assert launch.kernel == HOPPER
    assert (launch.dram_read_bytes, launch.dram_write_bytes) == (805306368, 268435456)
    assert launch.dram_bytes == 2**30
    assert launch.l2_bytes == 1610612736
    assert launch.time_ms == pytest.approx(0.286)
    assert (launch.dram_percent, launch.l2_hit_percent, launch.occupancy_percent) == (78.5, 33.25, 18.52)
    assert launch.tensor_percent == 41.25
    assert (launch.registers, launch.waves, launch.spill_instructions, launch.local_instructions) == (
        168,
        2.25,
        0,
        0,
    )
    assert launch.stalls == {"gmma": 0.5, "long_scoreboard": 0.25, "barrier": 0.125}


def test_units_are_those_of_the_second_row() -> None:
    units = {
        "dram__bytes_read.sum": "Mbyte",
        "dram__bytes_write.sum": "Gbyte",
        "gpu__time_duration.sum": "usecond",
        "lts__t_bytes.sum": "Kbyte",
    }
    cells = {
        "dram__bytes_read.sum": "805.31",
        "dram__bytes_write.sum": "0.27",
        "gpu__time_duration.sum": "286.0",
        "lts__t_bytes.sum": "1,610.5",
    }
    (launch,) = counters.parse(ncu_csv(cells, units=units))
    assert (launch.dram_read_bytes, launch.dram_write_bytes) == pytest.approx((805.31e6, 0.27e9))
    assert launch.time_ms == pytest.approx(0.286)
    assert launch.l2_bytes == pytest.approx(1610500)


def test_metrics_that_are_missing_are_none() -> None:
    (launch,) = counters.parse(ncu_csv(dict.fromkeys(METRICS, "n/a")))
    assert launch == counters.Counters(kernel=HOPPER)
    assert launch.dram_bytes is None
    # without its cycles, the tensor pipe goes by its instructions
    cell = {"sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": "(!) nan"}
    assert counters.parse(ncu_csv(cell))[0].tensor_percent == 7.5


@pytest.mark.parametrize("text", ["", "==PROF== Connected\n", ncu_csv(), '"ID","Nothing"\n"",""\n"0","1"\n'])
def test_no_table_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="Nsight Compute"):
        counters.parse(text)


@pytest.mark.parametrize(
    ("log", "returncode", "sentence"),
    [
        (
            "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance "
            "Counters on the target device 0.",
            1,
            "the driver does not permit this user to read GPU counters (ERR_NVGPUCTRPERM): run as root",
        ),
        ("==PROF== Connected", None, "Nsight Compute was not done within the time limit"),
        (
            "==ERROR== Failed to find metric regex:x\n==ERROR== y",
            255,
            "Nsight Compute: Failed to find metric",
        ),
        (
            "==WARNING== No kernels were profiled.",
            0,
            "Nsight Compute saw no kernel in the call",
        ),
        ("", 9, "Nsight Compute ended with exit code 9 and no table"),
    ],
)
def test_why_there_are_no_counters(log: str, returncode: int | None, sentence: str) -> None:
    assert counters.trouble(log, returncode).startswith(sentence)


def test_the_command_leaves_the_clocks_alone_and_counts_the_call_only() -> None:
    line = counters.command("/opt/ncu", "/tmp/log", ["python", "-m", "child"])
    text = " ".join(line)
    assert text.startswith("/opt/ncu --clock-control none --set full --metrics dram__bytes_read.sum,")
    assert "--profile-from-start off" in text
    assert "--target-processes all" in text
    assert text.endswith("--page raw --csv --print-units base --log-file /tmp/log python -m child")
    assert "--metrics" not in counters.command("ncu", "log", [], metrics=())


def test_counters_are_joined_with_their_launches() -> None:
    fill = kernel("Memset (Device)", 0.01, kind="memset")
    ours = [fill, kernel(HOPPER, 0.284, 0.9), kernel(REDUCE, 0.01, 0.05)]
    theirs = counters.parse(ncu_csv({}, {"Kernel Name": "void at::native::reduce_kernel<(int)512>(T1)"}))
    joined, apart, note = counters.join(ours, theirs)
    assert (apart, note) == ((), "")
    assert [launch.counters for launch in joined] == [None, *theirs]
    assert joined[1].gbps == pytest.approx(2**30 / 0.286e6)


def test_counters_of_other_launches_are_kept_separate() -> None:
    theirs = counters.parse(ncu_csv({}, {}))
    joined, apart, note = counters.join([kernel(HOPPER, 0.284)], theirs)
    assert joined == (kernel(HOPPER, 0.284),)
    assert apart == theirs
    assert note.startswith("Nsight Compute saw other launches (2) than torch.profiler (1)")


@pytest.mark.parametrize(
    ("full", "bare"),
    [
        (HOPPER, HOPPER),
        (REDUCE, "at::native::reduce_kernel"),
        ("void (anonymous namespace)::fill<float>(float*)", "_anonymous_::fill"),
        ("cudnn_sdpa_sm90_flash_fprop(x)", "cudnn_sdpa_sm90_flash_fprop"),
        ("", ""),
    ],
)
def test_base_names(full: str, bare: str) -> None:
    assert base_name(full) == bare


def test_the_tree_of_proton() -> None:
    hopper, reduce = proton.parse(json.dumps(PROTON))
    assert (hopper.name, hopper.time_ms, hopper.count) == (HOPPER, pytest.approx(1.43), 5)
    assert (reduce.name, reduce.time_ms, reduce.count) == (REDUCE, pytest.approx(0.05), 5)


@pytest.mark.parametrize(
    ("text", "why"), [("", "no JSON"), ("[]", "no kernel"), ("{}", "no kernel"), ("[3]", "no kernel")]
)
def test_proton_without_a_kernel_is_an_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        proton.parse(text)
