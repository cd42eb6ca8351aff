"""The script that says which targets of the kernels committed results reach, on files made by hand."""

import csv
from pathlib import Path
from typing import Any

import pytest

from scripts import kernel_targets

FAST = [
    {"seq_len": 8192, "median_ms": 1.25},
    {"seq_len": 8192, "median_ms": 1.9, "direction": "bwd"},
    {"seq_len": 131072, "median_ms": 1.4, "batch": 1, "heads": 16},
    {"seq_len": 131072, "median_ms": 2.3, "batch": 1, "heads": 16, "direction": "bwd"},
    {"seq_len": 8192, "median_ms": 1.3, "head_dim": 64},
    {"seq_len": 512, "median_ms": 0.5},
    {"seq_len": 512, "median_ms": 0.5, "provider": "sdpa-cudnn"},
    # 2 and 4 times as fast, and backward 5 times
    *(
        {"suite": "dims", "heads": 16, "seq_len": n, "provider": p, "median_ms": ms} | more
        for n, p, ms, more in (
            (512, "lightning2", 1.0, {}), (512, "fla-chunk", 2.0, {}), (512, "fla-fused-chunk", 9.0, {}),
            (1024, "lightning2", 2.0, {}), (1024, "fla-chunk", 9.0, {}),
            (1024, "fla-fused-chunk", 8.0, {}), (512, "lightning2", 1.0, {"direction": "bwd"}),
            (512, "fla-chunk", None, {"direction": "bwd", "status": "unsupported"}),
            (512, "fla-fused-chunk", 5.0, {"direction": "bwd"}),
        )
    ),
    {"seq_len": 512, "metric": "memory", "extra_mib": 1.02},
    {"seq_len": 512, "metric": "memory", "extra_mib": 1.0, "direction": "bwd"},
]  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write a CSV with the columns that matter."""
    whole = []
    for row in rows:
        base = {
            "suite": "paper", "metric": "speed", "protocol": "lbench", "status": "ok", "dtype": "bf16",
            "provider": "lightning2", "family": "linear_decay", "direction": "fwd", "batch": 4, "heads": 32,
            "head_dim": 128, "device": "cuda", "floor_ms": 1.0, "median_ms": None, "extra_mib": None,
            "ideal_mib": 1.0,
        }  # fmt: skip
        full = {**base, **row}
        full["value_dim"] = full["head_dim"]
        shape = "-".join(str(full[x]) for x in ("batch", "heads", "seq_len", "head_dim", "dtype"))
        full["case_id"] = f"{full['provider']}/{full['direction']}/{shape}"
        whole.append(full)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(whole[0]))
        writer.writeheader()
        writer.writerows(whole)
    return path


def judge(*files: Path) -> int:
    """Exit status of the script."""
    return kernel_targets.main([str(file) for file in files])


def test_figures_at_the_limits_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    halves = write(tmp_path / "a.csv", FAST[:7]), write(tmp_path / "b.csv", FAST[7:])
    assert judge(*halves) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.startswith("geometric")]
    assert [(line[4], line[5], line[7]) for line in lines] == [("fwd", "2", "2.828"), ("bwd", "1", "5.000")]
    assert "all that must be reached is" in out
    assert "MISSED" not in out


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 5, 7, 10, 13, 16, 17])
@pytest.mark.parametrize("change", [{"median_ms": 99.0, "extra_mib": 1.021}, {"status": "crashed"}])
def test_each_target_is_missed(tmp_path: Path, index: int, change: dict[str, Any]) -> None:
    rows = [dict(row) for row in FAST]
    rows[index] |= {"median_ms": None, "extra_mib": None} | change
    assert judge(write(tmp_path / "a.csv", rows)) == 1


@pytest.mark.parametrize("gone", [0, 4, 6, 8, 17])
def test_what_is_not_measured_is_missed(tmp_path: Path, gone: int) -> None:
    assert judge(write(tmp_path / "a.csv", FAST[:gone] + FAST[gone + 1 :])) == 1


@pytest.mark.parametrize(("extra_mib", "status"), [(48.9 + 7.5, 0), (49.1 + 7.5, 1)])
def test_the_workspace_of_segments_is_no_result(tmp_path: Path, extra_mib: float, status: int) -> None:
    """Backward, 8 heads of 8192 tokens: 120 programs of 64 x 128 sums in fp32 beside 48 MiB of gradients."""
    few_heads = {"batch": 1, "heads": 8, "seq_len": 8192, "metric": "memory", "direction": "bwd"}
    row = few_heads | {"extra_mib": extra_mib, "ideal_mib": 48.0}
    assert judge(write(tmp_path / "a.csv", [*FAST, row])) == status
