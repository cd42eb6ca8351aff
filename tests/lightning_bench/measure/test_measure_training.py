"""Training steps measured on a CPU for real: figures that hold together, and what ends a case without any."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lightning_bench.case import Case, Shape
from lightning_bench.machine.data_sheet import dense_tflops, mfu_percent
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.lap_clock import CpuLapClock
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.measure.training.model_gate import slopes_of_layers
from lightning_bench.measure.training.step_audit import StepAudit
from lightning_bench.measure.training.train_bench import loss_failure, too_fast
from lightning_bench.measure.training.trainer import Trainer
from lightning_bench.model_run import ModelRun
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import get_provider
from lightning_bench.suite import Limits
from tests.support.paths import SUPPORT

LIMITS = Limits(sample_limit_s=0.3, min_samples=6, max_samples=7, ci_percent=50.0)
ZOO = SUPPORT / "zoo.py"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def shape(model: str, *, batch: int = 2, seq_len: int = 32, **how: object) -> Shape:
    size = MODELS[model]
    run = ModelRun(model, batch * seq_len, **how)  # type: ignore[arg-type]
    return Shape(batch, size.heads, seq_len, size.head_dim, size.head_dim, "fp32", "cpu", model_run=run)


def trained(session: Session, provider: str, of: Shape, seed: int = 0) -> tuple[Outcome, list[str]]:
    outcomes: list[Outcome] = []
    phases: list[str] = []
    job = Job((Case(of, provider, "fwd_bwd"),), "train", "lbench", LIMITS, seed=seed)
    run_job(session, job, lambda _, phase: phases.append(phase), outcomes.append)
    (outcome,) = outcomes
    return outcome, phases


@pytest.mark.parametrize(
    ("model", "provider"), [("tnl-tiny", "lightning2-torch"), ("llama-tiny", "sdpa-math")]
)
def test_figures_of_a_step_hold_together(session: Session, model: str, provider: str) -> None:
    of = shape(model)
    outcome, phases = trained(session, provider, of)
    assert outcome.status in ("ok", "unstable"), outcome.reason
    f, size = outcome.figures, MODELS[model]
    assert f.median_ms is not None
    assert f.tokens_per_s == pytest.approx(64 / f.median_ms * 1e3)
    assert f.model_flops == size.step_flops(of)
    assert f.tflops == pytest.approx(size.step_flops(of) / f.median_ms / 1e9)
    assert f.ceiling_tflops
    assert f.parameters == size.parameters
    # Medians of parts need not add up to that of the whole, but no part is longer than the longest step.
    assert outcome.samples
    parts = (f.forward_ms, f.backward_ms, f.optimizer_ms)
    assert all(part and 0 < part <= max(outcome.samples.samples_ms) for part in parts)
    assert outcome.samples.turns[0] == 1
    assert sum(outcome.samples.turns) == f.samples == len(outcome.samples.samples_ms)
    assert f.mfu_percent is f.energy_per_token_j is f.reserved_mib is None  # of a GPU only
    # Weights, their gradients and two moments; and logits with their gradient.
    assert f.peak_mib
    assert f.peak_mib * 2**20 > 4 * (4 * size.parameters + 2 * 64 * 256)
    assert f.compile_s is not None
    assert f.first_loss == pytest.approx(math.log(256), rel=0.1)
    assert f.loss is not None
    assert f.loss < f.first_loss
    audited = f"attention and gradients of {f.samples} of {f.samples} timed steps, a pair of each"
    assert f.checks.startswith(
        f"small model and attention at the timed size against fp64; {audited}; loss 5."
    )
    assert f.error_o is not None
    assert f.error_budget is not None
    assert 0 < f.error_o < f.error_budget
    assert list(dict.fromkeys(phases)) == ["load", "warm-up", "oracle", "samples"]


def test_recomputing_layers_needs_less_memory(session: Session) -> None:
    peaks = []
    for recompute in ("", "layers"):
        outcome, _ = trained(session, "sdpa-flash", shape("llama-tiny", batch=16, recompute=recompute))
        assert outcome.figures.peak_mib is not None, outcome.reason
        peaks.append(outcome.figures.peak_mib)
    assert peaks[1] < 0.8 * peaks[0]


def test_one_seed_gives_the_same_losses_and_another_seed_others(session: Session) -> None:
    losses = [
        trained(session, "sdpa-math", shape("llama-tiny"), seed)[0].figures.first_loss for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("provider", "status", "reason"),
    [
        ("Raises", "crashed", "ZeroDivisionError: no luck today"),
        ("Wrong", "wrong", "in a small model against fp64, "),
        ("NotThere", "unavailable", "No module named 'a_library_that_nobody_has'"),
        ("Narrow", "unsupported", "only sequences of prime length"),
    ],
)
def test_what_ends_a_case(session: Session, provider: str, status: str, reason: str) -> None:
    outcome, _ = trained(session, f"{ZOO}:{provider}", shape("llama-tiny"))
    assert (outcome.status, outcome.figures.median_ms) == (status, None)
    assert reason in outcome.reason


LATER = """
import torch
from lightning_bench.providers import Provider

class Later(Provider):
    name = label = "later"
    family, package, devices, dtypes = "softmax", "torch", ("cpu",), ("fp32",)
    calls = 0

    def build(self, inputs):
        def forward():
            Later.calls += 1
            o = torch.nn.functional.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, is_causal=True)
            if Later.calls <= 5:  # two layers, for the logits and for the gradients, and at the timed size
                return o
            {then}
        return forward
"""


@pytest.mark.parametrize(
    ("then", "status", "reason"),
    [
        ("return o * float('nan')", "wrong", "the loss of step 1 of "),
        ("raise torch.OutOfMemoryError('CUDA out of memory')", "oom", "CUDA out of memory"),
    ],
)
def test_what_ends_a_case_that_has_passed_the_gate(
    session: Session, tmp_path: Path, then: str, status: str, reason: str
) -> None:
    (tmp_path / "later.py").write_text(LATER.format(then=then))
    outcome, _ = trained(session, f"{tmp_path}/later.py:Later", shape("llama-tiny"))
    assert (outcome.status, outcome.figures.median_ms) == (status, None)
    assert reason in outcome.reason


CHEATS = """
import torch
from lightning_bench.providers import Provider

class Right(Provider):
    name = label = "right"
    family, package, devices, dtypes = "softmax", "torch", ("cpu",), ("fp32",)

    def build(self, inputs):
        def forward():
            type(self).calls = getattr(type(self), "calls", 0) + 1
            o = torch.nn.functional.scaled_dot_product_attention(inputs.q, inputs.k, inputs.v, is_causal=True)
            return o if type(self).calls <= 14 else self.timed(o, inputs)  # after gate, compiling and memory
        return forward

    def timed(self, o, inputs):
        return o

class Lazy(Right):
    name = "lazy"

    def timed(self, o, inputs):
        return inputs.v.clone()

class NoGradient(Right):
    name = "no-gradient"

    def timed(self, o, inputs):
        return o.detach() + 0.0 * inputs.v

class Detached(Right):
    name = "detached"

    def timed(self, o, inputs):
        return o.detach()

class Keeps(Right):
    name, kept = "keeps", {}

    def timed(self, o, inputs):
        return self.kept.setdefault((self.calls % 2, o.shape), o.detach()) + 1e-3 * (o - o.detach())
"""


@pytest.mark.parametrize(
    ("provider", "how", "reason"),
    [
        ("Right", "", None),
        ("Right", "layers", None),
        ("Lazy", "", " o is off by "),
        ("Lazy", "layers", " o is off by "),
        ("NoGradient", "", " it gives no gradient of q"),
        ("Detached", "", " no gradient has come to its output"),
        ("Keeps", "", " is off by "),
    ],
)
def test_attention_that_is_wrong_in_timed_steps_only(
    session: Session, tmp_path: Path, provider: str, how: str, reason: str | None
) -> None:
    (tmp_path / "cheats.py").write_text(CHEATS)
    of = shape("llama-tiny", recompute=how)
    outcome, _ = trained(session, f"{tmp_path}/cheats.py:{provider}", of)
    if reason is None:
        assert outcome.status in ("ok", "unstable"), outcome.reason
    else:
        assert (outcome.status, outcome.figures.median_ms) == ("wrong", None)
        assert outcome.reason.startswith("in timed step ")
        assert reason in outcome.reason


def test_every_timed_step_is_as_likely_to_be_judged() -> None:
    trainer = Trainer(shape("llama-tiny", batch=1, seq_len=4), get_provider("sdpa-math"), seed=0)
    runs, steps = 200, 40
    counts = [0] * (steps + 1)
    for _ in range(runs):
        audit = StepAudit(trainer.size, trainer.shape, slopes_of_layers(trainer.size, trainer.shape))
        for _ in range(steps):
            with audit.step(trainer.model):
                pass
        assert len(audit.sights) == 8
        for sight in audit.sights:
            counts[sight.step] += 1
    # 40 in the mean, with a standard deviation of 6.
    assert all(10 < count < 80 for count in counts[1:])


LONG = """
import torch
from lightning_bench.providers import Provider

class Long(Provider):
    name = label = "long"
    family, package, devices, dtypes = "softmax", "torch", ("cpu",), ("fp32",)

    def build(self, inputs):
        attend = torch.nn.functional.scaled_dot_product_attention
        q, k, v = inputs.q, inputs.k, inputs.v
        short = q.shape[2] <= 400
        return lambda: attend(q, k, v, is_causal=True) if short else 1.5 * v + 0.0 * (q + k)
"""


def test_attention_that_is_wrong_for_long_sequences_only(session: Session, tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text(LONG)
    outcome, _ = trained(session, f"{tmp_path}/long.py:Long", shape("llama-tiny", seq_len=512))
    assert (outcome.status, outcome.figures.median_ms) == ("wrong", None)
    assert outcome.reason.startswith("attention at the timed size, head_dim 64: o is off by ")


TUNES = """
import torch, triton
from lightning_bench.providers import Provider

TWO = [triton.Config({"BLOCK": n}, num_warps=1, num_stages=2) for n in (16, 32)]

@triton.autotune(TWO, key=[])
@triton.jit
def kernel(x):
    pass

class Tunes(Provider):
    name = label = "tunes"
    family, package, devices, dtypes = "softmax", "torch", ("cpu",), ("fp32",)

    def build(self, inputs):
        kernel.best_config, kernel.bench_time = TWO[1], 0.1  # as a run leaves them
        attend = torch.nn.functional.scaled_dot_product_attention
        return lambda: attend(inputs.q, inputs.k, inputs.v, is_causal=True)

    def config(self, shape, direction):
        return "path=own"
"""


def test_what_an_autotuner_has_chosen_is_in_the_row(session: Session, tmp_path: Path) -> None:
    (tmp_path / "tunes.py").write_text(TUNES)
    outcome, _ = trained(session, f"{tmp_path}/tunes.py:Tunes", shape("llama-tiny"))
    chosen = "kernel(BLOCK=32 num_warps=1 num_stages=2)"
    assert outcome.figures.provider_config == f"path=own autotuned: {chosen}", outcome.reason


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([5.5, 5.0, 4.5, 4.0], None),
        ([5.5, 6.0, 5.0, 5.0], None),
        ([5.5, 5.5, 5.5, 5.5], "did not fall"),
        ([5.5, 5.0, math.nan, 4.0], "step 3 of 4 is nan"),
        ([5.5, math.inf, 4.0, 4.0], "step 2 of 4 is inf"),
    ],
)
def test_losses_of_a_model_that_learns(losses: list[float], said: str | None) -> None:
    found = loss_failure(losses)
    assert (found is None) if said is None else (said in str(found))


def test_laps_are_the_times_between_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1_000_000, 3_000_000, 3_500_000, 10_000_000])
    monkeypatch.setattr("lightning_bench.measure.device.lap_clock._now_ns", lambda: next(moments))
    clock = CpuLapClock()
    for _ in range(3):
        clock.mark()
    assert clock.laps() == [2.0, 0.5]
    clock.mark()
    assert clock.laps() == []


def test_a_step_marks_each_phase_and_updates_every_weight() -> None:
    provider = get_provider("sdpa-math")
    trainer = Trainer(shape("llama-tiny"), provider, seed=0)
    before = [weight.clone() for weight in trainer.model.parameters()]
    assert trainer.held_bytes == 4 * MODELS["llama-tiny"].parameters
    phases = trainer.units(3, CpuLapClock())
    assert [len(step) for step in phases] == [3, 3, 3]
    assert len(trainer.losses) == 3
    # Rows of the embedding of bytes that were not read only decay.
    assert all(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert all(weight.grad is None for weight in trainer.model.parameters())
    moments = 2 * 4 * MODELS["llama-tiny"].parameters
    assert moments <= trainer.held_bytes - 4 * MODELS["llama-tiny"].parameters < 1.01 * moments


@pytest.mark.parametrize(
    ("name", "dtype", "rate"),
    [
        ("NVIDIA H200", "bf16", 989.0),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0),
        ("NVIDIA H100 PCIe", "fp16", 756.0),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312.0),
        ("NVIDIA H200", "fp32", None),
        ("NVIDIA GeForce RTX 4090", "bf16", None),
        ("", "bf16", None),
    ],
)
def test_rates_of_data_sheets(
    name: str, dtype: Callable[..., object], rate: float | None, tmp_path: Path
) -> None:
    assert dense_tflops(name, dtype) == rate  # type: ignore[arg-type]
    found = mfu_percent(494.5, name, dtype)  # type: ignore[arg-type]
    assert found == (None if rate is None else pytest.approx(100 * 494.5 / rate))


def test_a_rate_above_that_of_a_matmul_is_impossible() -> None:
    assert too_fast(700.0, 750.0) is too_fast(860.0, 750.0) is too_fast(None, 750.0) is None
    assert too_fast(900.0, 750.0) == "impossible: 900 TFLOP/s is above the 750 that a matmul reaches here"
