"""Training on a real GPU: every attention in its model, a compiled step, and the clocks of its phases."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.energy import make_energy
from lightning_bench.measure.device.lap_clock import CudaLapClock
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.measure.training.model_gate import judge_model
from lightning_bench.measure.training.trainer import Trainer
from lightning_bench.model_run import ModelRun
from lightning_bench.models.cross_entropy import cross_entropy
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import get_provider, provider_names
from lightning_bench.suite import Limits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

FAMILIES = {"linear_decay": "tnl-0.4b", "softmax": "llama-0.4b"}


def shape(model: str, batch: int, seq_len: int, ranks: int = 0, **how: object) -> Shape:
    size = MODELS[model]
    run = ModelRun(model, batch * seq_len, **how)  # type: ignore[arg-type]
    dims = size.head_dim, size.head_dim
    return Shape(batch, size.heads, seq_len, *dims, "bf16", "cuda", model_run=run, ranks=ranks)


def attentions() -> list[tuple[str, str]]:
    """Return (model, provider) of every provider here that has the attention of a model."""
    names = [name for name in provider_names() if get_provider(name).family in FAMILIES]
    return [(FAMILIES[get_provider(name).family], name) for name in names]


@pytest.mark.parametrize(("model", "name"), attentions())
def test_every_attention_gives_logits_and_gradients_of_fp64(model: str, name: str) -> None:
    provider, of = get_provider(name), shape(model, 2, 200)
    if reason := provider.unavailable("cuda"):
        pytest.skip(reason)
    provider.load()
    for layer in (0, 1):
        if reason := provider.unsupported(MODELS[model].layer_shape(of, layer), "fwd_bwd"):
            pytest.skip(reason)
    assert judge_model(MODELS[model], provider, "bf16", of, seed=1).failure is None


@pytest.mark.parametrize(("model", "provider"), [("tnl-tiny", "lightning2"), ("llama-tiny", "sdpa-flash")])
def test_a_compiled_model_is_measured(model: str, provider: str) -> None:
    limits = Limits(time_limit_s=600, sample_limit_s=4.0, min_samples=100, max_samples=2000, ci_percent=0.01)
    case = Case(shape(model, 8, 1024, compile="parts"), provider, "fwd_bwd")
    outcomes: list[Outcome] = []
    run_job(Session("cuda"), Job((case,), "train", "lbench", limits), lambda *_: None, outcomes.append)
    (outcome,) = outcomes
    assert outcome.status in ("ok", "unstable"), outcome.reason
    f = outcome.figures
    assert f.tokens_per_s == pytest.approx(8192e3 / (f.median_ms or 1))
    assert f.reserved_mib is not None
    assert f.peak_mib is not None
    assert f.reserved_mib >= f.peak_mib > 0
    assert f.loss is not None
    assert f.loss < (f.first_loss or 0)
    assert (f.energy_per_token_j is not None) != ("no energy" in outcome.reason)
    assert (f.energy_per_token_j is None) == (make_energy("cuda").read_j() is None)


def test_the_kernels_of_the_loss_are_right_at_full_size() -> None:
    """64000 words, against fp64; offsets beyond 2^31 elements are right too."""
    tokens, words, some = 34000, 64000, slice(-64, None)
    logits = torch.randn(tokens, words, device="cuda", dtype=torch.bfloat16).requires_grad_()
    targets = torch.randint(words, (tokens,), device="cuda")
    losses = cross_entropy(logits, targets)[0]
    losses.sum().backward()
    exact = logits.detach()[some].double().requires_grad_()
    wanted = torch.nn.functional.cross_entropy(exact, targets[some], reduction="none")
    wanted.sum().backward()
    assert logits.grad is not None
    assert exact.grad is not None
    torch.testing.assert_close(losses[some].double(), wanted, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(logits.grad[some].double(), exact.grad, rtol=2**-8, atol=1e-9)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_kernels_of_the_loss_run_where_the_logits_are() -> None:
    logits = torch.randn(3, 5000, device="cuda:1").requires_grad_()
    targets = torch.tensor([0, 4096, 4999], device="cuda:1")
    losses = cross_entropy(logits, targets)[0]
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(losses, wanted)
    gradients = [torch.autograd.grad(each.sum(), logits)[0] for each in (losses, wanted)]
    torch.testing.assert_close(gradients[0], gradients[1])
    assert torch.cuda.current_device() == 0


def test_compiled_and_plain_models_have_the_same_losses() -> None:
    provider = get_provider("lightning2")
    provider.load()
    losses = []
    for compiled in ("", "parts"):
        trainer = Trainer(shape("tnl-tiny", 4, 512, compile=compiled), provider, seed=1)
        trainer.units(8, CudaLapClock())
        losses.append(torch.stack(trainer.losses).double())
    torch.testing.assert_close(losses[1], losses[0], rtol=0.02, atol=0)
    torch.compiler.reset()


def test_looking_at_steps_waits_for_nothing() -> None:
    provider = get_provider("lightning2")
    provider.load()
    trainer, clock = Trainer(shape("tnl-tiny", 4, 512), provider, seed=1), CudaLapClock()
    trainer.units(2, clock)
    trainer.begin_audit()
    assert trainer.audit is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            with trainer.audit.step(trainer.model):
                trainer.step(clock)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [len(sight.tensors) for sight in trainer.audit.sights] == [8, 8, 8]
    assert trainer.audit.failure(seed=1) is None


def test_laps_are_the_device_s_times() -> None:
    clock = CudaLapClock()
    cycles = 20_000_000
    for _ in range(2):
        clock.mark()
        torch.cuda._sleep(cycles)
    clock.mark()
    first, second = clock.laps()
    assert 1.0 < second < 100.0
    assert first == pytest.approx(second, rel=0.5)
    assert clock.laps() == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_gpus_train_a_compiled_model_together(parallel: str) -> None:
    limits = Limits(time_limit_s=600, sample_limit_s=1.0, min_samples=6, max_samples=50)
    of = shape("tnl-tiny", 8, 1024, compile="parts", parallel=parallel, ranks=2)
    outcomes: list[Outcome] = []
    job = Job((Case(of, "lightning2", "fwd_bwd"),), "train", "lbench", limits)
    run_job(Session("cuda"), job, lambda *_: None, outcomes.append)
    (outcome,) = outcomes
    assert outcome.status in ("ok", "unstable"), outcome.reason
    assert outcome.figures.tokens_per_s == pytest.approx(8192e3 / (outcome.figures.median_ms or 1))
    assert outcome.figures.loss is not None
    assert outcome.figures.loss < (outcome.figures.first_loss or 0)
