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
        (90, ["--dtype", "bf16", "--dims", "64x64", "128x128"], 4),
        (80, ["--dtype", "fp16", "--dims", "80x96", "--reverse", "--no-decay"], 2),
        (90, ["--kernel", "lightning2", "--dtype", "fp32", "--dims", "128x128", "--reverse"], 1),
    ],
)
def test_variants_compile_and_fit(tmp_path, arch, arguments, variants):
    rows = report(tmp_path, "--arch", str(arch), *arguments)
    assert len(rows) == variants
    for kernel, _, dtype, d, e, shared, _, spill, _ in rows:
        assert int(shared) <= SHARED_LIMIT[arch], (kernel, dtype, d, e)
        assert int(spill) <= 1024, (kernel, dtype, d, e)
