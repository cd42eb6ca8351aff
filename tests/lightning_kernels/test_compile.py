"""The kernels compile for real GPUs, none being needed, and fit their shared memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPORT = Path(__file__).with_name("compile_report.py")
SHARED_LIMIT = {90: 232448, 80: 166912}


def report(tmp_path, *arguments):
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-W", "ignore", str(REPORT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=8) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arch", "arguments", "variants"),
    [
        (90, ["--dtype", "bf16"], 6),
        (80, ["--dtype", "fp16", "--dims", "128x128", "80x96", "--reverse", "--no-decay"], 4),
        (90, ["--dtype", "fp32", "--dims", "128x128", "256x256", "--reverse"], 4),
    ],
)
def test_variants_compile_and_fit(tmp_path, arch, arguments, variants):
    rows = report(tmp_path, "--arch", str(arch), *arguments)
    assert len(rows) == variants
    for kernel, _, dtype, d, e, shared, _, spill, _ in rows:
        assert int(shared) <= SHARED_LIMIT[arch], (kernel, dtype, d, e)
        assert int(spill) <= 1024, (kernel, dtype, d, e)
