"""Context parallelism on the GPUs of one host, over NCCL."""

import subprocess
import sys

import pytest
import torch

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
