"""`lbench profile` as its user calls it, on this CPU; what a GPU adds, from what its profilers print."""

from __future__ import annotations

import csv
import gzip
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.machine import describe_machine
from lightning_bench.profile.data import Profile, Request
from lightning_bench.profile.parent import profilers
from lightning_bench.profile.parent.profilers import Options, profile_case
from lightning_bench.record import COLUMNS
from tests.support.patience import PATIENCE_S
from tests.support.profile_zoo import gpu_profile, ncu_csv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("forked_workers")]

Lbench = Callable[..., Any]

SMALL = ("--device", "cpu", "--seq-len", "64", "--head-dim", "16", "--calls", "2")

BAD = """
import os, time
from lightning_bench.providers import Provider

class Bad(Provider):
    name = label = "bad"; family = "softmax"; package = "torch"; devices = ("cpu",); dtypes = ("fp32",)
    def build(self, inputs):
        raise RuntimeError("this kernel\\nhas no bottom")

class Dies(Bad):
    name = label = "dies"
    def build(self, inputs):
        print("last output", flush=True)
        os.kill(os.getpid(), 11)

class Hangs(Bad):
    name = label = "hangs"
    def build(self, inputs):
        time.sleep(60)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One profile of a backward pass: its JSON, and the folder with its files."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("profile")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "lightning_bench", "profile", "lightning2-torch", *SMALL, "--json"),
            *("--direction", "bwd", "--out", "out", "--trace", "t.json.gz", "--ncu", "--proton"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert "no ceilings of this machine in results/cpu/ceilings.csv: two are measured on " in done.stderr
    return json.loads(done.stdout), folder


def test_times_and_operators_of_a_cpu(ran: tuple[Any, Path]) -> None:
    (data,) = ran[0]
    profile = Profile.model_validate({key: value for key, value in data.items() if key != "derived"})
    assert profile.case_id == "lightning2-torch/bwd/b1-h2-n64-d16-e16-fp32-cpu"
    t = profile.timing
    assert 0 < t.device_ms < 1000
    assert 0 < t.call_ms < 1000
    assert t.samples >= 5
    assert (t.kernels_ms, t.between_ms, t.enqueue_ms, t.host_share) == (None, None, None, None)
    names = {entry.name for entry in profile.kernels}
    assert {"aten::bmm", "outside of operators (Python)"} <= names
    assert sum(entry.share for entry in profile.kernels) == pytest.approx(1, abs=0.01)
    times = [entry.time_ms for entry in profile.kernels]
    assert times == sorted(times, reverse=True)
    assert profile.threads >= 1
    assert profile.roofline.model_bytes == 7 * 2 * 64 * 16 * 4
    assert profile.roofline.gbps == pytest.approx(profile.roofline.model_bytes / t.device_ms / 1e6)
    assert profile.roofline.ceilings_from == "measured in this run"


def test_memory_of_a_cpu(ran: tuple[Any, Path]) -> None:
    (data,) = ran[0]
    memory = data["memory"]
    tensor = 2 * 64 * 16 * 4
    assert memory["ideal_mib"] == 3 * tensor / 2**20
    kept = [entry for entry in memory["allocations"] if not entry["freed"]]
    assert sum(entry["size_bytes"] >= tensor for entry in kept) >= 3  # dq, dk, dv
    assert all(
        "DecayAttentionBackward" in entry["made_by"] for entry in kept if entry["size_bytes"] >= tensor
    )
    assert {(entry["same_as"], tuple(entry["shape"])) for entry in memory["saved"]} >= {
        (name, (1, 2, 64, 16)) for name in "qkv"
    }
    assert memory["reserved_mib"] is None


def test_notes_name_what_needs_a_gpu(ran: tuple[Any, Path]) -> None:
    (data,) = ran[0]
    assert [note for note in data["notes"] if "unsure" not in note] == [
        "registers, occupancy, DRAM bytes and gaps between kernels need a GPU",
        "no counters: Nsight Compute needs a GPU",
        "no times by Proton: it needs a GPU",
    ]
    assert data["readings"][0]["rule"] == "bound"


def test_files(ran: tuple[Any, Path]) -> None:
    (data,), folder = ran
    out = folder / "out"
    case = "lightning2-torch_bwd_b1-h2-n64-d16-e16-fp32-cpu.json"
    assert {path.name for path in out.iterdir()} == {case, "calls.csv", "kernels.csv", "tensors.csv"}
    assert json.loads((out / case).read_text()) == data
    tables = {name: rows(out / f"{name}.csv") for name in ("calls", "kernels", "tensors")}
    assert len(tables["calls"]) == 1
    assert len(tables["kernels"]) == len(data["kernels"])
    assert len(tables["tensors"]) == len(data["memory"]["allocations"]) + len(data["memory"]["saved"])
    assert float(tables["calls"][0]["device_ms"]) == pytest.approx(data["timing"]["device_ms"], rel=1e-5)
    with gzip.open(folder / "t.json.gz") as trace:
        events = json.load(trace)["traceEvents"]
    assert sum(event["name"] == "lbench.call" for event in events) == 2 * 2 - 2


def test_a_profile_writes_no_speed_row(ran: tuple[Any, Path]) -> None:
    _, folder = ran
    assert not (folder / "results").exists()
    for name in ("calls", "kernels", "tensors"):
        assert not set(rows(folder / "out" / f"{name}.csv")[0]) >= {"metric", "protocol", "status"}
    assert {"metric", "protocol", "status"} <= set(COLUMNS)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lightning3"], "no provider is named 'lightning3'. Did you mean"),
        (["no.py:One"], "no.py does not exist; give path/to/file.py:NAME"),
        (["sdpa-math", "sdpa-math"], "sdpa-math is named twice"),
        (["sdpa-math", "flash2", "lightning2"], "profile takes one provider, or two side by side, not 3"),
        (["sdpa-math", "--direction", "up"], "--direction 'up' is not known; allowed: fwd, bwd, fwd_bwd"),
        (["sdpa-math", "--dtype", "fp8"], "--dtype 'fp8' is not known; allowed: fp32, fp16, bf16"),
        (
            ["sdpa-math", "--device", "tpu"],
            "--device 'tpu' is not known; allowed: cuda, cuda:N for GPU N, cpu",
        ),
        (["sdpa-math", "--trace", "t.txt"], "--trace t.txt ends with neither .json nor .json.gz"),
        (["sdpa-math", "lightning2-torch", "--trace", "t.json"], "--trace is of one provider"),
        (["sdpa-math", "--seq-len", "0"], "Invalid value for '--seq-len'"),
        ([], "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = lbench("profile", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert message in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--out", "file", "file is a file: give the name of a folder"),
        ("--out", "file/deeper", "cannot make the folder file/deeper"),
        ("--trace", "file/t.json", "file is a file: give the name of a folder"),
        ("--trace", "folder.json", "folder.json is a folder: give the name of a file"),
    ],
)
def test_what_cannot_be_written_is_found_before_a_profiler_starts(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str, said: str
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("a profiler was started")

    monkeypatch.setattr("lightning_bench.profile.parent.profilers.profile_case", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    ran = lbench("profile", "sdpa-math", "--device", "cpu", option, value)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


@pytest.mark.parametrize(
    ("provider", "limit", "message"),
    [
        ("Bad", 60, "RuntimeError: this kernel has no bottom"),
        ("Dies", 60, "its process died of SIGSEGV; its last output: last output"),
        ("Hangs", 1, "not done within 1 s, and killed; --time-limit gives it more"),
    ],
)
def test_a_case_that_cannot_be_run(
    lbench: Lbench, tmp_path: Path, provider: str, limit: int, message: str
) -> None:
    (tmp_path / "bad.py").write_text(BAD)
    ran = lbench("profile", f"{tmp_path}/bad.py:{provider}", *SMALL, "--time-limit", limit)
    assert ran.code == 4
    assert message in ran.err
    assert "Traceback" not in ran.err


def test_a_provider_that_is_not_for_this(lbench: Lbench) -> None:
    ran = lbench("profile", "lightning2", *SMALL)
    assert ran.code == 4
    assert "-cpu cannot run here: " in ran.err
    assert "`lbench providers --here` lists what can" in ran.err
    ran = lbench("profile", "lightning2-torch", *SMALL, "--dtype", "bf16", "--time-limit", "0.1")
    assert ran.code == 4
    assert "not done within 0.1 s" in ran.err


def _request() -> Request:
    return Request(
        mode="profile",
        provider="lightning2",
        direction="fwd",
        dtype="bf16",
        batch=4,
        heads=32,
        seq_len=8192,
        head_dim=128,
        value_dim=128,
        device="cuda",
    )


def _ncu(folder: Path, script: str) -> str:
    """Write a program in place of ncu; $LOG is its log file."""
    path = folder / "ncu"
    path.write_text(
        '#!/bin/sh\nwhile [ "$1" != --log-file ]; do [ "$1" = --metrics ] && NAMED=1; shift; done\n'
        f'LOG="$2"\n{script}\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.mark.parametrize(
    ("script", "limit", "note"),
    [
        (
            'echo "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission" >"$LOG"; exit 1',
            30,
            "no counters: the driver does not permit this user to read GPU counters",
        ),
        ("sleep 60", 1, "no counters: Nsight Compute was not done within the time limit"),
        ("exit 3", 30, "no counters: Nsight Compute ended with exit code 3 and no table"),
        (
            'echo "==ERROR== Failed to find metric x" >"$LOG"; exit 1',
            30,
            "no counters: Nsight Compute: Failed to find metric x",
        ),
    ],
)
def test_if_ncu_fails_the_rest_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, limit: float, note: str
) -> None:
    monkeypatch.setattr(profilers, "find_ncu", lambda: _ncu(tmp_path, script))
    work = profilers._Processes(tmp_path, _request(), Options(time_limit_s=limit))
    profile = work.add_counters(gpu_profile())
    assert profile.notes[-1].startswith(note)
    assert profile.model_copy(update={"notes": ()}) == gpu_profile()


def test_a_metric_that_this_gpu_lacks_costs_only_that_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table").write_text(ncu_csv({}))
    script = (
        'if [ "$NAMED" ]; then echo "==ERROR== Failed to find metric lts__t" >"$LOG"; exit 1; fi\n'
        f'cat {tmp_path}/table >"$LOG"'
    )
    monkeypatch.setattr(profilers, "find_ncu", lambda: _ncu(tmp_path, script))
    profile = profilers._Processes(tmp_path, _request(), Options(time_limit_s=30)).add_counters(gpu_profile())
    assert profile.notes == ()
    assert profile.dram_bytes == 2**30
    assert profile.traffic_ratio == 1.0


def test_ncu_is_looked_for_beside_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(profilers, "_NCU_PLACES", (f"{tmp_path}/*/ncu",))
    assert profilers.find_ncu() is None
    profile = profilers._Processes(tmp_path, _request(), Options()).add_counters(gpu_profile())
    assert profile.notes == ("no counters: there is no ncu on PATH; install NVIDIA Nsight Compute",)
    for version in ("2024.1", "2025.3"):
        (tmp_path / version).mkdir()
        _ncu(tmp_path / version, "exit 0")
    assert profilers.find_ncu() == f"{tmp_path}/2025.3/ncu"


def test_kept_ceilings_are_used(tmp_path: Path) -> None:
    from lightning_bench.machine.ceilings import DeviceCeilings, Kept

    machine = describe_machine("cpu")
    kept = Kept(DeviceCeilings(copy_gbps=123.0, fp32_tflops=4.5), machine.id, "2026-11-21T00:00:00+00:00")
    request = _request().model_copy(
        update={
            "provider": "lightning2-torch",
            "dtype": "fp32",
            "device": "cpu",
            "batch": 1,
            "heads": 1,
            "seq_len": 32,
            "calls": 1,
        }
    )
    profile = profile_case(request, machine, kept, Options())
    assert (profile.roofline.ceiling_gbps, profile.roofline.ceiling_tflops) == (123.0, 4.5)
    assert profile.roofline.ceilings_from == "lbench ceilings of 2026-11-21T00:00:00+00:00"
    with pytest.raises(UsageError, match="no matmul rate is kept for bf16"):
        profile_case(request.model_copy(update={"dtype": "bf16"}), machine, kept, Options())
