"""Providers of libraries that serve, against stand-ins with the signatures of their releases.

The stand-ins are those of sglang 0.5.23, vllm 0.33.0, mamba-ssm 2.3.2 and flashinfer 0.7.4.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_bench.case import Shape
from lightning_bench.providers import get_provider
from lightning_bench.providers.registry.package_file import load_package_file
from lightning_bench.variant import Variant
from tests.lightning_bench.providers.test_providers_serving import failure
from tests.support.served_libraries import write_libraries

DECODE = Shape(3, 2, 1, 128, 128, "fp32", "cpu")
PREFILL = Shape(2, 2, 9, 64, 64, "bf16", "cpu")
MIXED = Shape(1, 2, 12, 64, 64, "fp32", "cpu", Variant(documents=(5, 1, 1, 4, 1)))
DRAFTS = Shape(3, 2, 4, 64, 64, "fp32", "cpu")
PACKAGES = ("sglang", "vllm", "mamba_ssm", "flashinfer", "_lightning_bench_")


@pytest.fixture(autouse=True)
def _libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    write_libraries(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith(PACKAGES)]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("sglang-seg-la", (DECODE, PREFILL, MIXED)),
        ("sglang-minimax", (DECODE, PREFILL, MIXED)),
        ("vllm-lightning", (DECODE, PREFILL, MIXED)),
        ("mamba-ssm-step", (DECODE,)),
        ("mamba-ssm-chunk", (DECODE, PREFILL)),
        ("flashinfer-decode", (DECODE,)),
        ("sglang-seg-la-verify", (DRAFTS,)),
    ],
)
def test_the_call_is_that_of_the_library(name: str, shapes: tuple[Shape, ...]) -> None:
    provider = get_provider(name)
    provider.load()
    for shape in shapes:
        assert failure(provider, shape) is None


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("sglang-seg-la", Shape(1, 2, 8, 64, 32, "bf16", "cuda"), "value_dim equal to head_dim 64, not 32"),
        (
            "sglang-seg-la",
            Shape(1, 2, 8, 32, 32, "bf16", "cuda"),
            "takes multiples of 64 as head_dim, not 32",
        ),
        (
            "sglang-seg-la",
            Shape(4, 2, 1, 64, 64, "bf16", "cuda"),
            "decodes multiples of 128 as head_dim, not 64",
        ),
        ("sglang-seg-la", Shape(1, 40, 2048, 128, 128, "bf16", "cuda"), "a power of two as heads · head_dim"),
        ("sglang-seg-la-verify", Shape(4, 2, 1, 64, 64, "bf16", "cuda"), "takes drafts of 2 tokens or more"),
        ("mamba-ssm-step", Shape(4, 2, 2, 64, 64, "bf16", "cuda"), "takes one token of each sequence"),
        (
            "flashinfer-decode",
            Shape(4, 2, 1, 16, 64, "bf16", "cuda"),
            "head_dim from 32 to 256 in steps of 16",
        ),
        ("flashinfer-decode", Shape(4, 2, 1, 40, 64, "bf16", "cuda"), "in steps of 16, not 40"),
        (
            "flashinfer-decode",
            Shape(4, 2, 1, 64, 24, "bf16", "cuda"),
            "value_dim of 32 or more in steps of 8",
        ),
        ("flashinfer-decode", Shape(4, 2, 2, 64, 64, "bf16", "cuda"), "takes one token of each sequence"),
        ("mamba-ssm-chunk", MIXED, "takes fp16, bf16, not fp32"),
        ("vllm-lightning", Shape(1, 2, 8, 64, 64, "fp32", "cuda"), "computes fp32 in TF32"),
    ],
)
def test_what_they_do_not_support(name: str, shape: Shape, reason: str) -> None:
    assert reason in str(get_provider(name).unsupported(shape, "fwd"))


def test_a_prompt_whose_last_decay_is_missing_is_wrong(tmp_path: Path) -> None:
    """As in vLLM 0.33.0: the state is right; what a token reads of earlier ones has decayed too little."""
    file = tmp_path / "sglang/kernels/ops/attention/linear/lightning_attn.py"
    text, right = file.read_text(), "@ state.double()"
    assert text.count(right) == 1
    before = "(state.double() / decay + (1 - 1 / decay) * k_t[:, :, None] * v_t[:, None])"
    file.write_text(text.replace(right, f"@ {before}"))
    found = failure(get_provider("sglang-minimax"), PREFILL)
    assert str(found).startswith("o is off by")
    assert "state" not in str(found)


def test_one_file_of_a_package_is_loaded_without_the_package(tmp_path: Path) -> None:
    seg_la = load_package_file("sglang", "elsewhere.py", "kernels/ops/attention/linear/seg_la.py")
    assert seg_la is load_package_file("sglang", "kernels/ops/attention/linear/seg_la.py")
    assert "sglang" not in sys.modules
    with pytest.raises(ImportError, match=r"sglang has no elsewhere\.py and no other\.py"):
        load_package_file("sglang", "elsewhere.py", "other.py")
    with pytest.raises(ImportError, match="nowhere has no"):
        load_package_file("nowhere", "a.py")
    (tmp_path / "sglang" / "broken.py").write_text("import no_such_module\n")
    with pytest.raises(ImportError, match="no_such_module"):
        load_package_file("sglang", "broken.py")
    assert "_lightning_bench_sglang_broken" not in sys.modules


def test_what_is_missing_is_named_by_its_distribution() -> None:
    reason = get_provider("flashinfer-decode").unavailable("cuda")
    assert reason == "flashinfer-python is not installed; pip install flashinfer-python"
    assert get_provider("sglang-seg-la").unavailable("cuda") == "sglang is not installed; pip install sglang"
