"""fla-core's systems: what each provider asks of the library, with the real one where it is installed."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.metadata import version
from types import ModuleType

import pytest
import torch

from lightning_bench.case import DTYPES, Direction, Shape
from lightning_bench.errors import Unavailable
from lightning_bench.families import definition_of
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.oracle import Reference
from lightning_bench.providers import BUILT_IN, get_provider
from lightning_bench.providers.fla import FlaFunction

NAMES = [name for name in BUILT_IN if isinstance(get_provider(name), FlaFunction)]
REFUSED = {"fla-gla-fused-chunk": "`fused_chunk_gla` is deprecated. Please use `chunk_gla` instead."}

MISCOMPILED = ("fla-mamba2-chunk", "fla-gated-delta-chunk")
"""Gradients that fla-core refuses to compute by a triton that gets them wrong on Hopper."""

quiet = pytest.mark.filterwarnings("default")  # the library warns where there is no GPU


def fla(name: str) -> FlaFunction:
    provider = get_provider(name)
    assert isinstance(provider, FlaFunction)
    return provider


@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_the_family_is_passed(name: str) -> None:
    provider = fla(name)
    wanted = set(definition_of(provider.family).inputs)
    assert set(provider.parameters().values()) - {"decay"} == wanted
    shape = Shape(1, 2, 64, 16, 64, "bf16", "cuda")
    assert provider.unsupported(shape, "bwd") is None
    assert provider.dtypes == DTYPES


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("fla-based-parallel", 128),
        ("fla-based-fused-chunk", 16),
        ("fla-gated-delta-chunk", 256),
        ("fla-kda-chunk", 256),
    ],
)
def test_limits_are_said(name: str, most: int) -> None:
    provider = fla(name)
    assert provider.unsupported(Shape(1, 2, 64, most, 64, "bf16", "cuda"), "fwd") is None
    reason = provider.unsupported(Shape(1, 2, 64, most + 1, 64, "bf16", "cuda"), "fwd")
    assert reason == f"{name} takes head_dim up to {most}, not {most + 1}"


def stand_in(monkeypatch: pytest.MonkeyPatch, function: Callable[..., object] | None) -> None:
    """``fla.ops.gla`` with this ``chunk_gla`` or none."""
    parents = ["fla", "fla.ops", "fla.ops.gla"]
    for name in parents:
        made = ModuleType(name)
        made.__path__ = []
        monkeypatch.setitem(sys.modules, name, made)
    if function is not None:
        vars(made)["chunk_gla"] = function


def test_what_the_library_refuses_is_unavailable_in_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(**kwargs: object) -> None:
        raise NotImplementedError("`chunk_gla` is deprecated.")

    stand_in(monkeypatch, gone)
    with pytest.raises(Unavailable, match=r"fla-core .*: `chunk_gla` is deprecated"):
        fla("fla-gla-chunk").load()


def test_a_function_with_other_parameters_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, lambda q, k, v, gates: None)
    with pytest.raises(ImportError, match=r"fla\.ops\.gla\.chunk_gla does not take q, k, v, g"):
        fla("fla-gla-chunk").load()
    stand_in(monkeypatch, None)
    with pytest.raises(ImportError, match=r"fla\.ops\.gla has no chunk_gla"):
        fla("fla-gla-chunk").load()


def test_the_output_is_the_first_of_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def chunk_gla(q: object, k: object, v: object, g: object, scale: float | None = None) -> object:
        seen.update(q=q, k=k, v=v, g=g, scale=scale)
        return v, None

    stand_in(monkeypatch, chunk_gla)
    given = InputSet(Shape(1, 2, 8, 4, 4, "fp32", "cpu"), 0).of("gla").inputs("bnhd")
    provider = fla("fla-gla-chunk")
    provider.load()
    assert provider.build(given)() is given.v
    assert seen == {"q": given.q, "k": given.k, "v": given.v, "g": given["g"], "scale": None}


@quiet
@pytest.mark.parametrize("name", NAMES)
def test_the_real_library_has_the_function(name: str) -> None:
    pytest.importorskip("fla.ops")
    provider = fla(name)
    if name in REFUSED:
        with pytest.raises(Unavailable, match="deprecated") as caught:
            provider.load()
        assert str(caught.value).endswith(REFUSED[name])
        return
    provider.load()
    known = inspect.signature(provider._function()).parameters
    assert set(provider.parameters()) <= set(known)
    assert provider.scale is None or "scale" in known


@pytest.fixture
def one_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autotuners take one configuration of the fewest stages: hundreds would take minutes to compile."""
    from triton.runtime.autotuner import Autotuner

    def fewest(self: Autotuner, kwargs: object) -> list[object]:
        return sorted(self.configs, key=lambda config: (config.num_stages, config.num_warps != 4))[:1]

    monkeypatch.setattr(Autotuner, "prune_configs", fewest)


def wrong_on_hopper() -> bool:
    """Whether this triton is one of 3.4.0 up to 3.7.0 and the GPU a Hopper one."""
    release = tuple(int(part) for part in version("triton").split("+")[0].split(".")[:3])
    return torch.cuda.get_device_capability()[0] == 9 and (3, 4, 0) <= release < (3, 7, 1)


@quiet
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "name", [*NAMES, "lightning2-retention", "lightning2-no-decay", "lightning1-no-decay"]
)
def test_on_a_gpu_it_agrees_with_the_oracle(name: str, one_configuration: None) -> None:
    if name in NAMES:
        pytest.importorskip("fla.ops")
    if name in REFUSED:
        pytest.skip(REFUSED[name])
    provider = get_provider(name)
    provider.load()
    dim = 16 if provider.family == "based" else 64
    inputs = InputSet(Shape(2, 4, 300, dim, 64, "bf16", "cuda"), 0)
    direction: Direction = "bwd"
    if name in MISCOMPILED and wrong_on_hopper():
        with pytest.raises(RuntimeError, match=r"Triton .* on Hopper GPUs produces incorrect results"):
            direction_call(provider, inputs, "bwd").tensors()
        direction = "fwd"
    reference = Reference(provider.family, inputs, gradients=direction == "bwd", seed=0)
    verdict = judge(reference, direction_call(provider, inputs, direction).tensors(), provider.layout)
    assert verdict.failure is None
