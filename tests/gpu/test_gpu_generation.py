"""Generation on a real GPU: caches against fp64, graphs against steps one by one, and a measured case."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.lap_clock import CudaLapClock
from lightning_bench.measure.generation.generation_gate import judge_generation
from lightning_bench.measure.generation.generator import Generator
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.measure.training.model_gate import seeded
from lightning_bench.model_run import ModelRun
from lightning_bench.models.byte_text import ByteText
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import get_provider, provider_names
from lightning_bench.suite import Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

FAMILIES = {"linear_decay": "tnl-7b", "softmax": "llama-7b"}


def shape(model: str, batch: int = 2, prompt: int = 200, new_tokens: int = 80, **how: str) -> Shape:
    size = MODELS[model]
    run = ModelRun(model, new_tokens=new_tokens, **how)  # type: ignore[arg-type]
    return Shape(batch, size.heads, prompt, size.head_dim, size.head_dim, "bf16", "cuda", model_run=run)


def decoding() -> list[tuple[str, str]]:
    """Return (model, provider) of every provider that decodes on a GPU."""
    named = [(FAMILIES.get(get_provider(name).family, ""), name) for name in provider_names()]
    return [
        (model, name) for model, name in named if model and not get_provider(name).undecodable(shape(model))
    ]


@pytest.mark.parametrize(("model", "name"), decoding())
def test_every_cache_gives_the_logits_of_one_pass_in_fp64(model: str, name: str) -> None:
    provider, of = get_provider(name), shape(model)
    if reason := provider.unavailable("cuda"):
        pytest.skip(reason)
    provider.load()
    for dtype in provider.dtypes:
        if provider.unsupported(MODELS[model].layer_shape(of, 0), "fwd") is None:
            assert judge_generation(MODELS[model], provider, dtype, of, seed=1).failure is None


@pytest.mark.parametrize(("model", "name"), [("tnl-tiny", "lightning2"), ("llama-tiny", "sdpa-efficient")])
def test_graphs_choose_the_tokens_of_steps_one_by_one(model: str, name: str) -> None:
    provider, of = get_provider(name), shape(model)  # of 280 tokens: two spans
    provider.load()
    with seeded("cuda", 1):
        generator = Generator(MODELS[model], provider, of)
        prompt = ByteText("cuda", 1).batch(of.batch, of.seq_len)[0]
    generator.prefill(prompt)
    generator.steps(79)
    one_by_one = generator.new.clone()
    generator.capture()
    for _ in range(2):
        generator.generate(prompt, CudaLapClock())
        assert torch.equal(generator.new, one_by_one)


@pytest.mark.parametrize(
    ("model", "provider"), [("tnl-tiny", "lightning2"), ("llama-tiny", "sdpa-efficient")]
)
def test_a_compiled_model_is_measured(model: str, provider: str) -> None:
    limits = Limits(time_limit_s=600, sample_limit_s=1.0, min_samples=6, max_samples=200)
    case = Case(shape(model, 8, 512, 100, compile="parts"), provider, "fwd")
    outcomes: list[Outcome] = []
    run_job(Session("cuda"), Job((case,), "generate", "lbench", limits), lambda *_: None, outcomes.append)
    (outcome,) = outcomes
    assert outcome.status in ("ok", "unstable"), outcome.reason
    f = outcome.figures
    assert "64 tokens without CUDA graphs" in f.checks
    assert f.prefill_ms is not None
    assert f.decode_ms is not None
    assert f.median_ms == pytest.approx(f.prefill_ms + 99 * f.decode_ms, rel=0.2)
    assert f.tokens_per_s == pytest.approx(800e3 / f.median_ms)
