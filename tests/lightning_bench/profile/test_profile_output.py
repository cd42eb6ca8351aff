"""Profiles as they are shown and kept: the screen, two side by side, JSON and CSVs."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from lightning_bench.cli.shared.sink import Sink
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.profile.data import Memory, Profile, ProtonKernel, Reading, Saved
from lightning_bench.profile.parent import counters
from lightning_bench.profile.profile_export import as_data, write
from lightning_bench.profile.readings import read
from lightning_bench.profile.screen import show
from tests.support.profile_zoo import HOPPER, REDUCE, gpu_profile, kernel, ncu_csv, timing


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def screen(*profiles: Profile, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO(), highlight=False)
    console.print(show(profiles))
    return console.export_text()


def test_no_name_steers_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A kernel, a note, a provider and a tensor may have any name; markup in it is shown, too."""
    hostile = "a\x1b]0;title[bold]b[/]\x9b31m\u202e"
    profile = full().model_copy(
        update={
            "provider": hostile,
            "provider_config": hostile,
            "notes": (hostile,),
            "kernels": (kernel(hostile, 0.284),),
            "memory": full().memory.model_copy(
                update={"saved": (Saved(size_bytes=8, shape=(2,), dtype=hostile, same_as=hostile),)}
            ),
        }
    )
    for profiles in ([profile], [profile, profile]):
        Sink().screen(show(profiles))
        out = capsys.readouterr().out
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]", out)
        assert r"a\x1b]0;title[bold]b[/]" in out.replace("\n", "")


def full() -> Profile:
    """Return a profile of a GPU in which every field has a value."""
    (launch,) = counters.parse(ncu_csv({}))
    profile = gpu_profile(
        kernels=(kernel(HOPPER, 0.284, counters=launch, spills=0, gbps=3754.0),),
        proton=(ProtonKernel(name=HOPPER, time_ms=1.43, count=5),),
        notes=("a note",),
        memory=Memory(
            extra_mib=256.0,
            ideal_mib=256.0,
            saved_mib=0.0,
            peak_mib=1024.0,
            reserved_mib=1100.0,
            saved=(Saved(size_bytes=2**28, shape=(4, 32, 8192, 128), dtype="bfloat16", same_as="q"),),
        ),
    )
    return profile.model_copy(update={"readings": read(profile)})


@pytest.mark.parametrize("width", [80, 120])
def test_one_screen_shows_the_whole_profile(width: int) -> None:
    text = screen(full(), width=width)
    for part in (
        "lightning2 fwd  b4 h32 n8192 d128 e128 bf16  NVIDIA H200",
        "path=hopper block=64",
        "device 0.286 ms, a caller waits 0.330 ms",
        "first call  2.06 s, the second 0.01 s",
        "this call 1.13 ×",
        "89 %  3754 of 4233 GB/s, by the model",
        "1.00 × the model",
        "adds 256 MiB to 256 MiB of results alone; keeps 0 MiB for",
        "256 MiB bfloat16 [4, 32, 8192, 128], which is q",
        "by Nsight Compute",
        "768 MiB",
        "gmma 50 %",
        "0.2860",
        "• Memory-bound at 89 %",
        "a note",
    ):
        assert part in text
    lines = text.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("kernel "))
    wanted = (
        "kernel ms share grid block regs spill smem occ GB/s",
        "0.2840 100 % 528 384 168 0 210K 37 % 3754",
    )
    assert " ".join(lines[head].split()) == wanted[0]
    assert " ".join(lines[head + 1].split()) == f"{HOPPER} {wanted[1]}"
    assert all(len(line) <= width for line in text.splitlines())
    assert len(text.splitlines()) <= 45


def test_two_side_by_side() -> None:
    slower = gpu_profile(
        provider="fla-chunk", timing=timing(device_ms=0.824), kernels=(kernel(REDUCE, 0.8),) * 3
    )
    lines = screen(full(), slower, width=80).splitlines()
    assert next(line for line in lines if line.startswith("device")).split() == [
        *("device", "0.286", "0.824", "2.88", "ms"),
    ]
    assert next(line for line in lines if line.startswith("kernels launched")).split()[2:] == [
        "1",
        "3",
        "3.00",
    ]
    assert any(line.startswith("fla-chunk fwd") for line in lines)


def test_many_kernels_are_summed_by_name() -> None:
    many = tuple(kernel(name, 0.01, 0.025) for name in (HOPPER, REDUCE) * 20)
    lines = screen(gpu_profile(kernels=many)).splitlines()
    (line,) = [line for line in lines if line.startswith(HOPPER)]
    assert line.split()[1:5] == ["0.2000", "50", "%", "20"]


def test_rows_of_a_case_are_replaced_and_others_stay(tmp_path: Path) -> None:
    other = gpu_profile(case_id="flash2/fwd/x", provider="flash2")
    write([gpu_profile(), other], tmp_path)
    write([full()], tmp_path)
    calls = rows(tmp_path / "calls.csv")
    assert [row["case_id"] for row in calls] == ["flash2/fwd/x", full().case_id]
    assert (calls[0]["dram_bytes"], calls[1]["dram_bytes"]) == ("", "1.07374e+09")
    assert calls[1]["traffic_ratio"] == "1"
    (row,) = [row for row in rows(tmp_path / "kernels.csv") if row["case_id"] == full().case_id]
    assert (row["grid"], row["block"], row["dram_read_bytes"]) == ("528x1x1", "384x1x1", "8.05306e+08")
    assert row["stalls"] == "gmma=0.500 long_scoreboard=0.250 barrier=0.125"
    assert as_data(full())["derived"]["traffic_ratio"] == 1.0


def test_launches_that_only_ncu_saw_are_rows_too(tmp_path: Path) -> None:
    apart = counters.parse(ncu_csv({}, {"Kernel Name": "other"}))
    write([gpu_profile(counters=apart)], tmp_path)
    table = rows(tmp_path / "kernels.csv")
    assert [(row["index"], row["name"]) for row in table] == [("0", HOPPER), ("1", HOPPER), ("2", "other")]
    assert [row["dram_read_bytes"] for row in table] == ["", "8.05306e+08", "8.05306e+08"]


def test_a_folder_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file: give the name of a folder"):
        write([gpu_profile()], tmp_path / "file")
    (tmp_path / "calls.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"calls.csv is not a file of `lbench profile`"):
        write([gpu_profile()], tmp_path)
    with pytest.raises(LbenchError, match="cannot write"):
        write([gpu_profile()], tmp_path / "file" / "below")


def test_a_profile_survives_its_json() -> None:
    assert Profile.model_validate_json(full().model_dump_json()) == full()
    assert full().readings[0] == Reading(rule="bound", text=full().readings[0].text)
