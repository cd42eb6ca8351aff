"""`--gpus` on real GPUs: each worker sees its own only, a shape stays on one, and a GPU in use is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_bench.errors import UsageError
from lightning_bench.machine.gpu import Gpu, usable_gpus
from lightning_bench.machine.identity import identity
from lightning_bench.machine.place_lock import hold
from lightning_bench.record import Record, read_records

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

PROVIDER = """
import os
from pathlib import Path
from lightning_bench.providers import Provider

class Notes(Provider):
    name, label, family, package = "notes", "Notes", "softmax", "torch"

    def build(self, inputs):
        import torch
        seen = f"{os.environ['CUDA_VISIBLE_DEVICES']} {torch.cuda.device_count()}"
        (Path(__file__).parent / f"seen-{inputs.q.shape[2]}").write_text(seen)
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(inputs.q, inputs.k, inputs.v, is_causal=True)
"""
LENGTHS = [256, 512, 1024, 2048]


def lbench(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lightning_bench", *words], cwd=folder, capture_output=True, text=True
    )


@pytest.fixture
def gpus() -> list[Gpu]:
    """Return the GPUs of one kind that are free; skip if others use them."""
    found = usable_gpus()
    try:
        with hold({gpu.uuid: gpu.uuid for gpu in found}):
            return [gpu for gpu in found if gpu.name == found[0].name]
    except UsageError as error:
        pytest.skip(str(error))


def swept(folder: Path, gpus: list[Gpu]) -> list[Record]:
    (folder / "notes.py").write_text(PROVIDER)
    names = ",".join(gpu.uuid for gpu in gpus)
    ran = lbench(
        folder,
        *(
            "speed",
            "--kernel",
            "notes.py:Notes",
            "--against",
            "sdpa-math",
            "--seq-len",
            ",".join(map(str, LENGTHS)),
        ),
        *("--head-dim", "64", "--dtype", "bf16", "--direction", "fwd", "--batch", "1", "--heads", "8"),
        *("--quick", "--out", "rows.csv", "--gpus", names),
    )
    assert ran.returncode == 0, ran.stderr
    return read_records(folder / "rows.csv")


def test_slots_are_gpus_of_their_own(tmp_path: Path, gpus: list[Gpu]) -> None:
    """One test, since its parts must not run beside each other."""
    rows = swept(tmp_path, gpus)
    by_digits = {identity(gpu.uuid): gpu for gpu in gpus}
    for n in LENGTHS:
        of_shape = [row for row in rows if row.seq_len == n]
        assert {row.provider for row in of_shape} == {"notes", "sdpa-math"}
        (digits,) = {row.gpu_uuid for row in of_shape}
        assert (tmp_path / f"seen-{n}").read_text() == f"{by_digits[digits].uuid} 1"
    assert all(row.worked and row.power_limit_w for row in rows), [row.reason for row in rows]
    assert {row.executor for row in rows} == {f"local {len(gpus)}"}
    if len(gpus) > 1:
        assert len({row.gpu_uuid for row in rows}) > 1

    with hold({gpus[-1].uuid: "the last GPU"}):
        refused = lbench(tmp_path, "check", "quick", "--gpus", "all")
        listed = json.loads(lbench(tmp_path, "gpus", "--json").stdout)
    assert refused.returncode == 2
    assert f"is in use by pid {os.getpid()}" in refused.stderr
    assert [gpu["held_by"] for gpu in listed if gpu["uuid"] == gpus[-1].uuid] == [os.getpid()]
