"""Generation measured on a CPU for real: figures that hold together, and what ends a case without any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_bench.case import Case, Shape
from lightning_bench.measure.bench import run_job
from lightning_bench.measure.device.lap_clock import CpuLapClock, LapClock
from lightning_bench.measure.generation import generator
from lightning_bench.measure.generation.generate_bench import (
    Continued,
    first_reason,
    not_chosen,
    too_few_bytes,
)
from lightning_bench.measure.generation.generator import Generator
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.session import Session
from lightning_bench.measure.training.model_gate import seeded
from lightning_bench.model_run import ModelRun
from lightning_bench.models.byte_text import ByteText
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers import get_provider
from lightning_bench.suite import Limits
from tests.support.paths import SUPPORT

LIMITS = Limits(sample_limit_s=0.2, min_samples=6, max_samples=7, ci_percent=50.0)
ZOO = SUPPORT / "zoo.py"


def shape(model: str, *, batch: int = 2, prompt: int = 20, new_tokens: int = 5) -> Shape:
    size, run = MODELS[model], ModelRun(model, new_tokens=new_tokens)
    return Shape(batch, size.heads, prompt, size.head_dim, size.head_dim, "fp32", "cpu", model_run=run)


def generated(session: Session, provider: str, of: Shape) -> tuple[Outcome, list[str]]:
    outcomes: list[Outcome] = []
    phases: list[str] = []
    job = Job((Case(of, provider, "fwd"),), "generate", "lbench", LIMITS, seed=1)
    run_job(session, job, lambda _, phase: phases.append(phase), outcomes.append)
    (outcome,) = outcomes
    return outcome, phases


# A state of fp32 per layer, head and sequence, LRPE's with twice the rows; 256 places of keys and values.
CACHES = {"tnl-tiny": 4 * 2 * 2 * (128 + 64) * 64, "llama-tiny": 4 * 2 * 2 * 2 * 2 * 256 * 64}


@pytest.mark.parametrize(
    ("model", "provider"), [("tnl-tiny", "lightning2-torch"), ("llama-tiny", "sdpa-math")]
)
def test_figures_of_a_generation_hold_together(session: Session, model: str, provider: str) -> None:
    of = shape(model)
    outcome, phases = generated(session, provider, of)
    assert outcome.status in ("ok", "unstable"), outcome.reason
    f, size = outcome.figures, MODELS[model]
    assert f.median_ms is not None
    assert f.tokens_per_s == pytest.approx(2 * 5 / f.median_ms * 1e3)
    assert outcome.samples
    longest = max(outcome.samples.samples_ms)
    assert f.prefill_ms is not None
    assert f.decode_ms is not None
    assert 0 < f.prefill_ms < longest
    assert 0 < 4 * f.decode_ms < longest
    assert f.cache_mib == CACHES[model] / 2**20
    assert f.model_bytes == size.decoding_bytes(of)
    assert f.gbps == pytest.approx(size.decoding_bytes(of) / f.decode_ms / 1e6)
    assert f.parameters == size.parameters
    assert f.peak_mib
    assert f.peak_mib * 2**20 > 4 * size.parameters + CACHES[model]
    assert f.error_o is not None
    assert f.error_budget is not None
    assert 0 < f.error_o < f.error_budget
    assert f"the same tokens of one prompt before and after {f.samples} other prompts" in f.checks
    assert f.checks.endswith(
        "; timed tokens of 4 of them against exact attention; attention of the first layer and another after "
        "20 tokens against fp64"
    )
    assert list(dict.fromkeys(phases)) == ["load", "warm-up", "oracle", "samples"]


def test_bytes_of_a_decoding_step_by_hand() -> None:
    linear, softmax = shape("tnl-tiny", new_tokens=6), shape("llama-tiny", new_tokens=6)
    tnl, llama = MODELS["tnl-tiny"], MODELS["llama-tiny"]
    assert tnl.decoding_bytes(linear) == 4 * tnl.product_weights + 2 * CACHES["tnl-tiny"]
    # Five steps see 21 to 25 tokens, their own included, and write one.
    kept = 4 * 2 * 2 * 2 * 128 * (23 + 1)
    assert llama.decoding_bytes(softmax) == 4 * llama.product_weights + kept


EXACT = """
import torch
from lightning_bench.providers import Provider, get_provider

class Exact(Provider):
    name = label = "exact"
    family, package, devices, dtypes = "softmax", "torch", ("cpu",), ("fp32",)

    def build(self, inputs):
        return get_provider("sdpa-math").build(inputs)

    def undecodable(self, shape):
        return None

    def cache(self, spec):
        return get_provider("sdpa-math").cache(spec)

"""

LATER = (
    EXACT
    + """
class Later(Exact):
    name = label = "later"
    made = 0

    def cache(self, spec):
        cache = super().cache(spec)
        Later.made += 1
        if Later.made > 4:  # past the gate, which has two layers and two prompts
            {then}
        return cache
"""
)


@pytest.mark.parametrize(
    ("provider", "status", "reason"),
    [
        (f"{ZOO}:Good", "unsupported", "good computes whole sequences only: lbench knows no decoding step"),
        ("raise torch.OutOfMemoryError('CUDA out of memory')", "oom", "CUDA out of memory"),
        # The same tokens in every generation, and a gate that it has passed.
        (
            "cache.step = lambda q, k, v, token: torch.zeros_like(q)",
            "wrong",
            "timed tokens are not the likeliest by exact attention: their logits are below the largest by",
        ),
    ],
)
def test_what_ends_a_case(session: Session, tmp_path: Path, provider: str, status: str, reason: str) -> None:
    if "zoo" not in provider:
        (tmp_path / "later.py").write_text(LATER.format(then=provider))
        provider = f"{tmp_path}/later.py:Later"
    outcome, _ = generated(session, provider, shape("llama-tiny", new_tokens=12))
    assert (outcome.status, outcome.figures.median_ms) == (status, None)
    assert reason in outcome.reason


class Played:
    """A generator whose tokens are written beforehand, one list per generation."""

    def __init__(self, *generations: list[int]) -> None:
        self._all = [torch.tensor([each]) for each in generations]
        self.new: Tensor = torch.tensor([[]])

    def generate(self, prompt: Tensor, clock: LapClock) -> None:
        self.new = self._all.pop(0)


@pytest.mark.parametrize(
    ("generations", "said"),
    [
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 3]], None),
        ([[1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]], None),
        ([[1, 2, 3], [4, 5, 6], [7, 8, 9], [1, 2, 4]], "other tokens after 2 other prompts than at first"),
        ([[1, 2, 3], [4, -1, 6], [7, 8, 9], [1, 2, 3]], "has left out tokens"),
        ([[1, 2, -1], [4, 5, 6], [7, 8, 9], [1, 2, -1]], "has left out tokens"),
        ([[1, 9, 3], [4, 5, 6], [7, 8, 9], [1, 9, 3]], "replays of CUDA graphs choose other tokens"),
    ],
)
def test_generations_that_cannot_be_right(generations: list[list[int]], said: str | None) -> None:
    continued = Continued(Played(*generations), torch.zeros(1, 2), torch.tensor([[1, 2]]))
    continued.again(CpuLapClock())
    for number in (1.0, 2.0):
        continued.another(torch.full((1, 2), number), CpuLapClock())
    continued.again(CpuLapClock())
    assert (continued.failure is None) if said is None else (said in str(continued.failure))
    assert [prompt.tolist() for prompt, _ in continued.kept] == [[[1.0, 1.0]], [[2.0, 2.0]]]
    assert [tokens.tolist() for _, tokens in continued.kept] == [[each] for each in generations[1:3]]


REMEMBERS = (
    EXACT
    + """
class Remembers(Exact):
    name = label = "remembers"
    hits = 0

    def cache(self, spec):
        cache, seen = super().cache(spec), {}
        prefill = cache.prefill

        def remember(q, k, v):
            key = q.double().sum().item()
            if key in seen:
                Remembers.hits += 1
                cache.k, cache.v = seen[key][1:]
                return seen[key][0]
            cache.k, cache.v = torch.zeros_like(cache.k), torch.zeros_like(cache.v)
            seen[key] = prefill(q, k, v), cache.k, cache.v
            return seen[key][0]

        cache.prefill = remember
        return cache
"""
)


def test_a_provider_gains_nothing_by_remembering_prompts(session: Session, tmp_path: Path) -> None:
    (tmp_path / "remembers.py").write_text(REMEMBERS)
    spec = f"{tmp_path}/remembers.py:Remembers"
    outcome, _ = generated(session, spec, shape("llama-tiny"))
    assert outcome.status in ("ok", "unstable"), outcome.reason
    # The first prompt again before the samples and after them, in each of two layers; never in a sample.
    assert type(get_provider(spec)).hits == 4


WINDOW = (
    EXACT
    + """
SEEN = 312  # of the tokens before, in sequences that are longer than those of the gate

class {name}(Exact):
    name = label = "window"

    def cache(self, spec):
        cache = super().cache(spec)
        attend = torch.nn.functional.scaled_dot_product_attention
        prefill = cache.prefill

        def shortened(q, k, v):
            o, n = prefill(q, k, v), q.shape[1]
            if n <= 300:
                return o
            at = torch.arange(n)
            mask = (at[:, None] >= at) & (at[:, None] - at < SEEN)
            return attend(*(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask).transpose(1, 2)

        def step(q, k, v, token):
            at = int(token.position)
            for kept, new in ((cache.k, k), (cache.v, v)):
                kept.index_copy_(2, token.position, new[:, :, None])
            first = at + 1 - SEEN if at > 300 else 0
            return attend(q[:, :, None], cache.k[:, :, first:at + 1], cache.v[:, :, first:at + 1])[:, :, 0]

        cache.{what} = {what_else}
        return cache
"""
)


@pytest.mark.parametrize(("what", "what_else"), [("prefill", "shortened"), ("step", "step")])
def test_attention_that_leaves_out_distant_tokens(
    session: Session, tmp_path: Path, what: str, what_else: str
) -> None:
    name = f"Window{what.title()}"
    (tmp_path / "window.py").write_text(WINDOW.format(name=name, what=what, what_else=what_else))
    of = shape("llama-tiny", prompt=320, new_tokens=3)
    outcome, _ = generated(session, f"{tmp_path}/window.py:{name}", of)
    assert (outcome.status, outcome.figures.median_ms) == ("wrong", None)
    assert outcome.reason.startswith("after a prompt of 320 tokens, in layer ")
    assert "o is off by " in outcome.reason


def test_what_memory_does_not_suffice_for_is_said_and_the_rest_is_judged() -> None:
    def exhausted() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken() -> None:
        raise RuntimeError("a bug")

    assert first_reason({"a": exhausted, "b": lambda: "off"}) == ("off", ["no memory for a", "b"])
    assert first_reason({"a": lambda: "off", "b": exhausted}) == ("off", ["a"])
    assert first_reason({"a": lambda: None, "b": exhausted}) == (None, ["a", "no memory for b"])
    with pytest.raises(RuntimeError, match="a bug"):
        first_reason({"a": broken})


def test_tokens_that_were_not_chosen() -> None:
    assert not_chosen([0.0] * 98 + [0.3, 0.1]) is None
    assert "by 0.6 at new token 2 of 3" in str(not_chosen([0.0, 0.6, 0.0]))
    assert "by 0.1 of the root mean square in the mean" in str(not_chosen([0.1] * 9))
    assert "by nan at new token 3 of 3" in str(not_chosen([0.0, 0.9, float("nan")]))


def test_a_step_that_moves_more_than_a_stream_is_impossible() -> None:
    assert too_few_bytes(4500.0, 4000.0, 14e9) is None
    assert too_few_bytes(9000.0, 4000.0, 1e6) is None  # it may stay in a cache
    assert "moves 5000 GB/s, and a stream reaches 4000 here" in str(too_few_bytes(5000.0, 4000.0, 14e9))


def test_captured_steps_choose_the_tokens_of_steps_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed: list[int] = []

    def stand_in(build: Callable[[], Callable[[], object]]) -> Callable[[], object]:
        """Warm up as `capture_graph` does, without a GPU; each replay then is a call."""
        step, number = build(), len(replayed)
        replayed.append(0)
        for _ in range(4):
            step()

        def replay() -> object:
            replayed[number] += 1
            return step()

        return replay

    monkeypatch.setattr(generator, "capture_graph", stand_in)
    of = shape("llama-tiny", prompt=3, new_tokens=14)
    with seeded("cpu", 1):
        model = Generator(MODELS["llama-tiny"], get_provider("sdpa-math"), of, span=8)
        prompt = ByteText("cpu", 1).batch(of.batch, of.seq_len)[0]
    model.prefill(prompt)
    model.steps(13)
    expected = model.new.clone()
    assert expected.min() >= 0
    model.prefill(prompt)  # the tokens of later steps are gone
    model.capture()
    for _ in range(2):
        model.generate(prompt, CpuLapClock())
        assert torch.equal(model.new, expected)
    assert replayed == [10, 16]  # of steps at the positions 3 to 7, and 8 to 15
