"""What providers compute: those that run on a CPU for real, the others against stand-ins for their library.

A stand-in has the signature of the wheel that the provider was written against and computes in fp64 what
that library documents, so that a wrong sign, scale, layout or argument name fails here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_bench import __version__
from lightning_bench.case import Shape
from lightning_bench.errors import Unavailable
from lightning_bench.measure.generation.generation_gate import judge_generation
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import Inputs, bundled, get_provider
from tests.support.paths import ROOT

KERNELS = ROOT / "kernels"


def inputs(layout: str = "bhnd", head_dim: int = 16, value_dim: int = 16, *, grad: bool = True) -> Inputs:
    generator = torch.Generator().manual_seed(7)
    dims = (head_dim, head_dim, value_dim)
    tensors = [torch.randn(2, 3, 37, dim, generator=generator) for dim in dims]
    if layout == "bnhd":
        tensors = [tensor.transpose(1, 2).contiguous() for tensor in tensors]
    q, k, v = (tensor.requires_grad_(grad) for tensor in tensors)
    return Inputs(q=q, k=k, v=v, decay=torch.tensor([0.5, 0.1, 0.0]))


def linear(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """Unscaled causal linear attention with decay, [b, h, n, d], in fp64."""
    n = q.shape[2]
    distance = (torch.arange(n)[:, None] - torch.arange(n)).double()
    weights = torch.exp(-decay.double().view(-1, 1, 1) * distance.clamp(min=0)) * (distance >= 0)
    return (q.double() @ k.double().mT * weights) @ v.double()


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention with scale 1/√head_dim, [b, h, n, d], in fp64, row by row."""
    rows = []
    for i in range(q.shape[2]):
        scores = (q[:, :, i : i + 1].double() @ k[:, :, : i + 1].double().mT) / math.sqrt(q.shape[3])
        weights = torch.exp(scores - scores.amax(-1, keepdim=True))
        rows.append(weights / weights.sum(-1, keepdim=True) @ v[:, :, : i + 1].double())
    return torch.cat(rows, dim=2)


def check(name: str, given: Inputs, *, tolerance: float = 1e-5) -> None:
    """Output and gradients of provider ``name`` against the fp64 formula of its family."""
    provider = get_provider(name)
    provider.load()
    leaves = (given.q, given.k, given.v)
    swap: Callable[[Tensor], Tensor] = (
        (lambda x: x.transpose(1, 2)) if provider.layout == "bnhd" else (lambda x: x)
    )
    q, k, v = map(swap, leaves)
    wanted = softmax(q, k, v) if provider.family == "softmax" else linear(q, k, v, given.decay)
    forward = provider.build(given)
    output = forward()
    assert output.shape == given.v.shape
    assert output.dtype == given.v.dtype
    assert relative(swap(output), wanted) < tolerance
    with torch.no_grad():
        assert not forward().requires_grad
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(8))
    got = torch.autograd.grad(output, leaves, swap(upstream), retain_graph=True)
    for mine, theirs in zip(got, torch.autograd.grad(wanted, leaves, upstream.double()), strict=True):
        assert relative(mine, theirs) < tolerance


def relative(got: Tensor, wanted: Tensor) -> float:
    return ((got.double() - wanted.double()).norm() / wanted.double().norm()).item()


@pytest.mark.parametrize("name", ["sdpa-flash", "sdpa-math"])
def test_sdpa(name: str) -> None:
    check(name, inputs())


def test_sdpa_math_with_another_value_dim() -> None:
    check("sdpa-math", inputs(value_dim=24))


def test_sdpa_runs_one_backend_and_leaves_no_trace() -> None:
    enabled = torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.flash_sdp_enabled
    before = [is_enabled() for is_enabled in enabled]
    output = get_provider("sdpa-flash").build(inputs())()
    assert output.grad_fn is not None
    assert "FlashAttention" in type(output.grad_fn).__name__
    assert "FlashAttention" not in type(get_provider("sdpa-math").build(inputs())().grad_fn).__name__
    assert [is_enabled() for is_enabled in enabled] == before


def test_sdpa_refusal_is_an_error() -> None:
    forward = get_provider("sdpa-cudnn").build(inputs(grad=False))
    with pytest.raises(RuntimeError, match=r"(?i)no (available|viable)"):
        forward()


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if find_spec("lightning_kernels") is None:
        monkeypatch.syspath_prepend(str(KERNELS))
    bundled.source_digest.cache_clear()
    yield
    bundled.source_digest.cache_clear()


@pytest.mark.usefixtures("kernels")
def test_bundled_torch() -> None:
    check("lightning2-torch", inputs(value_dim=24))


@pytest.mark.usefixtures("kernels")
def test_bundled_config_names_the_tiles() -> None:
    shape = Shape(1, 2, 128, 128, 128, "bf16", "cuda")
    assert "block=" in get_provider("lightning2").config(shape, "fwd")


@pytest.mark.usefixtures("kernels")
def test_bundled_functions_exist() -> None:
    for name in ("lightning2", "lightning2-torch", "lightning1"):
        get_provider(name).load()


def test_bundled_version_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lightning_kernels"
    (package / "_triton").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    kernel = package / "_triton" / "kernel.py"
    kernel.write_text("BLOCK = 64\n")
    monkeypatch.delitem(sys.modules, "lightning_kernels", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    versions = []
    for text in ("BLOCK = 64\n", "BLOCK = 128\n", "BLOCK = 64\n"):
        kernel.write_text(text)
        bundled.source_digest.cache_clear()
        versions.append(get_provider("lightning1").version())
    bundled.source_digest.cache_clear()
    assert versions[0] == versions[2] != versions[1]
    assert all(len(version) == len(f"{__version__}+12345678") for version in versions)
    with pytest.raises(ImportError, match="lightning_kernels has no lightning_attn1"):
        get_provider("lightning1").load()
    monkeypatch.delitem(sys.modules, "lightning_kernels")


def test_bundled_without_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "source_digest", lambda: "")
    assert get_provider("lightning2").version() == ""
    assert "lightning_kernels is not importable" in (
        get_provider("lightning2-torch").unavailable("cpu") or ""
    )


def module(monkeypatch: pytest.MonkeyPatch, name: str, **attributes: object) -> ModuleType:
    """Put a stand-in for module ``name`` into sys.modules and its parents, until the test ends."""
    made = ModuleType(name)
    made.__path__ = []
    vars(made).update(attributes)
    monkeypatch.setitem(sys.modules, name, made)
    parent, _, child = name.rpartition(".")
    if parent:
        owner = sys.modules.get(parent) or module(monkeypatch, parent)
        monkeypatch.setattr(owner, child, made, raising=False)
    return made


def bnhd(function: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Tensor:
    return function(*(x.transpose(1, 2) for x in tensors), **options).transpose(1, 2).to(tensors[-1])


@pytest.mark.parametrize("name", ["fla-chunk", "fla-fused-chunk"])
def test_fla(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def simple_gla(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor | None = None,
        g_gamma: Tensor | None = None,
        scale: float | None = None,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
    ) -> tuple[Tensor, None]:
        assert g_gamma is not None
        assert scale is not None
        return bnhd(linear, q, k, v, decay=-g_gamma) * scale, None

    function = {"fla-chunk": "chunk_simple_gla", "fla-fused-chunk": "fused_chunk_simple_gla"}[name]
    module(monkeypatch, "fla.ops.simple_gla", **{function: simple_gla})
    check(name, inputs("bnhd", value_dim=24))


@pytest.mark.parametrize("head_dim", [16, 192])
def test_lightning_official(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def function(label: str) -> Callable[..., Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> Tensor:
            assert s.shape == (3, 1, 1)
            called.append(label)
            return linear(q, k, v, s).to(v)

        return attend

    names = ("lightning_attn2", "lightning_attn_func")
    module(monkeypatch, "lightning_attn.ops", **{name: function(name) for name in names})
    check("lightning-official", inputs(head_dim=head_dim))
    assert set(called) == {names[head_dim > 128]}


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: None = None,
    causal: bool = False,
) -> Tensor:
    """Stand in for the function of flash-attn, which is to be causal."""
    assert causal
    return bnhd(softmax, q, k, v)


def test_flash2(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "flash_attn", flash_attn_func=flash_attn_func)
    check("flash2", inputs("bnhd"))


def test_flash2_decodes_from_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def flash_attn_with_kvcache(
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        k: Tensor | None = None,
        v: Tensor | None = None,
        rotary_cos: None = None,
        rotary_sin: None = None,
        cache_seqlens: Tensor | None = None,
        cache_batch_idx: None = None,
        cache_leftpad: None = None,
        block_table: None = None,
        softmax_scale: None = None,
        causal: bool = False,
    ) -> Tensor:
        assert k is not None
        assert v is not None
        assert cache_seqlens is not None
        assert cache_seqlens.dtype == torch.int32
        assert causal
        (n,) = {int(length) for length in cache_seqlens}
        k_cache[:, n], v_cache[:, n] = k[:, 0], v[:, 0]
        weights = (torch.einsum("bqhd,bnhd->bhn", q, k_cache[:, : n + 1]) * q.shape[-1] ** -0.5).softmax(-1)
        return torch.einsum("bhn,bnhe->bhe", weights, v_cache[:, : n + 1])[:, None]

    functions = {"flash_attn_func": flash_attn_func, "flash_attn_with_kvcache": flash_attn_with_kvcache}
    module(monkeypatch, "flash_attn", **functions)
    of = Shape(1, 1, 1, 1, 1, "fp32", "cpu")
    errors = judge_generation(MODELS["llama-tiny"], get_provider("flash2"), "fp32", of, seed=1)
    assert errors.failure is None
    assert get_provider("flash2").undecodable(of) is None
    assert "whole sequences only" in str(get_provider("flash2-full").undecodable(of))


def test_flash4(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, qv: None = None, softmax_scale: None = None, causal: bool = False
    ) -> tuple[Tensor, None]:
        assert causal
        seen.append(q.requires_grad)
        return bnhd(softmax, q, k, v), None

    module(monkeypatch, "flash_attn.cute", flash_attn_func=flash_attn_func)
    check("flash4", inputs("bnhd", value_dim=24))
    assert seen == [True, False]


class Operator:
    """Stand-in for an operator of xFormers."""

    NAME = "cutlassF-pt"

    @classmethod
    def is_available(cls) -> bool:
        return True


def xformers(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | None = None, operator: Any = Operator
) -> list[Any]:
    seen: list[Any] = []

    class LowerTriangularMask:
        pass

    def memory_efficient_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_bias: object = None,
        p: float = 0.0,
        scale: float | None = None,
        *,
        op: object = None,
    ) -> Tensor:
        assert isinstance(attn_bias, LowerTriangularMask)
        seen.append((op, query.requires_grad))
        return bnhd(softmax, query, key, value)

    fmha = SimpleNamespace(
        memory_efficient_attention=memory_efficient_attention,
        attn_bias=SimpleNamespace(LowerTriangularMask=LowerTriangularMask),
        cutlass=SimpleNamespace(FwOp=operator, BwOp=operator),
    )
    module(monkeypatch, "xformers", _cpp_lib=SimpleNamespace(_cpp_library_load_exception=failure))
    module(monkeypatch, "xformers.ops", fmha=fmha)
    wrapper = sys.modules.get("lightning_bench.providers.xformers")
    assert wrapper is not None
    monkeypatch.setattr(wrapper, "built_for_cuda12", lambda: False)
    return seen


@pytest.mark.parametrize(("name", "op"), [("xformers", (Operator, Operator)), ("xformers-auto", None)])
def test_xformers(name: str, op: object, monkeypatch: pytest.MonkeyPatch) -> None:
    get_provider(name)
    seen = xformers(monkeypatch)
    check(name, inputs("bnhd", value_dim=24))
    assert seen == [(op, True), (op, False)]


def test_xformers_says_why_its_extension_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = get_provider("xformers")
    failure = RuntimeError("xFormers can't load")
    failure.__cause__ = OSError("libcudart.so.12: cannot open shared object file")
    xformers(monkeypatch, failure)
    with pytest.raises(Unavailable, match=r"did not load: libcudart\.so\.12: cannot open"):
        provider.load()


def test_xformers_says_which_operator_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = get_provider("xformers")
    missing = SimpleNamespace(NAME="cutlassF-pt", is_available=lambda: False)
    xformers(monkeypatch, operator=missing)
    with pytest.raises(Unavailable, match="no operator cutlassF-pt"):
        provider.load()
    get_provider("xformers-auto").load()
