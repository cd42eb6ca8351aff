"""Context parallelism on the GPUs of one host, over NCCL."""

import os
import subprocess
import sys

import pytest
import torch

from lightning_bench.record import read_records
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]


def test_gpus_find_what_one_process_finds(tmp_path):
    ranks = torch.cuda.device_count()
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.context_calls", str(tmp_path), f"on_gpus:{ranks}"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("metric", ["speed", "memory"])
def test_the_harness_measures_sequences_on_two_gpus(metric, tmp_path):
    axes = ["--seq-len", "8191,16k", "--heads", "4", "--layer", "79 of 80", "--ranks", "1,2"]
    quick = ["--quick"] if metric == "speed" else []
    command = [metric, "context-parallel", *axes, *quick, "--out", "rows.csv"]
    ran = subprocess.run(
        [sys.executable, "-m", "lightning_bench", *command],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    rows = read_records(tmp_path / "rows.csv")
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        assert row.status in ("ok", "unstable"), (row.case_id, row.reason)
        assert (row.provider, row.ranks) in {("lightning2", None), ("context-parallel", 2)}
        assert 0 < row.error_o < row.error_budget
        assert (row.median_ms if metric == "speed" else row.extra_mib) > 0
