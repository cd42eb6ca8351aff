"""The kernels compile for real GPUs, none being needed, and fit their shared memory."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

REPORT = ROOT / "scripts" / "compile_report.py"
SHARED_LIMIT = {80: 166912, 89: 101376, 90: 232448}


def report(tmp_path, *arguments):
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-W", "ignore", str(REPORT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return [line.split(maxsplit=9) for line in done.stdout.splitlines()]


FEW = ["--with", "decay", "initial", "final", "few"]
AHEAD = [*FEW, "long", "ahead"]
WIDE = ["--with", "decay", "initial", "final", "long"]
ALL = ["--with", "decay", "reverse", "initial", "final", "packed"]


@pytest.mark.parametrize(
    ("arch", "arguments", "variants"),
    [
        (90, ["--dtype", "bf16", "--dims", "64x64", "128x128"], 6),
        (90, ["--kernel", "lightning2", "--dims", "128x128", *ALL], 3),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "fp16", "--dims", "64x64", "128x128", "256x256"], 6),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "64x128", "80x192", *ALL], 3),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "128x128", "64x128", "128x64"], 3),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "64x128", "128x128", *FEW], 3),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "64x64", "128x128", "256x256", *AHEAD], 3),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "fp16", "--dims", "256x256", "192x80", *WIDE], 4),
        (90, ["--kernel", "hopper", "--dtype", "bf16", "--dims", "192x240", "--with", "long"], 1),
        (80, ["--dtype", "fp16", "--dims", "80x96", "--with", "reverse"], 3),
        (80, ["--kernel", "lightning2", "--dtype", "bf16", "--dims", "256x256", "128x128", *ALL], 2),
        (
            90,
            ["--kernel", "norm", "--dtype", "bf16", "fp32", "--dims", "64x64", "2048x2048", "32768x32768"],
            6,
        ),
        (
            80,
            ["--kernel", "norm", "--dtype", "fp16", "--dims", "2048x2048", "5120x5120", "--with", "reverse"],
            2,
        ),
        (90, ["--kernel", "gateloop", "--dtype", "bf16", "--dims", "64x64", "--with", "reverse"], 1),
        (80, ["--kernel", "gateloop", "--dtype", "fp32", "--dims", "64x64"], 1),
        (89, ["--kernel", "step", "--dtype", "bf16", "--dims", "128x128"], 1),
        (89, ["--kernel", "lightning2", "--dtype", "bf16", "fp32", "--dims", "128x128", *ALL], 2),
        (89, ["--kernel", "lightning2", "--dtype", "fp16", "--dims", "64x64", "256x64", "64x256"], 3),
    ],
)
def test_variants_compile_and_fit(tmp_path, arch, arguments, variants):
    if "hopper" in arguments:
        pytest.importorskip("triton", minversion="3.6")
    rows = report(tmp_path, "--arch", str(arch), *arguments)
    assert len(rows) == variants
    for kernel, _, dtype, d, e, shared, _, spill, waits, *_ in rows:
        assert int(shared) <= SHARED_LIMIT[arch], (kernel, dtype, d, e)
        assert int(spill) <= 1024, (kernel, dtype, d, e)
        waiting, products = map(int, waits.split("/"))
        assert waiting <= products / 4, (kernel, dtype, d, e)
