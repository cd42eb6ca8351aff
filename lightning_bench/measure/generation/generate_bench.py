"""A job of metric generate: prompts read and continued by a whole model, prefill and decoding apart."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from lightning_bench.case import Case
from lightning_bench.families.work import CEILING_TOLERANCE
from lightning_bench.machine.mix import EVEN
from lightning_bench.measure.device.graph import NoGraphError
from lightning_bench.measure.device.lap_clock import LapClock, in_phases
from lightning_bench.measure.device.memory import MIB
from lightning_bench.measure.generation.generation_gate import judge_generation, missed_by
from lightning_bench.measure.generation.generator import Generator
from lightning_bench.measure.job import CaseEnded, Figures
from lightning_bench.measure.model_bench import ModelBench, ModelFigures
from lightning_bench.measure.outcomes import is_oom
from lightning_bench.measure.training.model_gate import seeded
from lightning_bench.models.byte_text import ByteText
from lightning_bench.models.model_sizes import MODELS, ModelSize
from lightning_bench.providers.registry.base import Provider

PHASES = ("prefill", "decoding")
_PROMPTS = 2
_STEPS_CHECKED = 64
# A token that another beats by more was not chosen by right logits. Right ones were seen at 0 in bf16 and
# fp32, steps without attention at 0.7 to 4 in the median, steps without half of the heads at 0.2 to 2.
_MISSED, _MISSED_IN_THE_MEAN = 0.5, 0.05
# A smaller model may stay in a cache, and is then faster than the memory.
_LEAST_BYTES = 2**30


class Generates(Protocol):
    """A model that generates, as far as a `Repeater` needs it: see `Generator`."""

    @property
    def new(self) -> Tensor:
        """The tokens generated last, [batch, new_tokens]."""

    def generate(self, prompt: Tensor, clock: LapClock) -> None:
        """Continue the prompts by all new tokens."""


class Repeater:
    """Generates again and again, from prompts in turn, and compares the tokens with those of the first time.

    `expected` has the first tokens that the first prompt must give, [batch, some].
    """

    def __init__(self, generator: Generates, prompts: list[Tensor], expected: Tensor | None = None) -> None:
        self._generator, self._prompts, self._expected = generator, prompts, expected
        self.first: list[Tensor] = []
        self._count = 0
        self._differ: list[Tensor] = []

    def generate(self, clock: LapClock) -> None:
        """Generate once; the tokens are compared on the device, and nothing waits."""
        turn = self._count % len(self._prompts)
        self._generator.generate(self._prompts[turn], clock)
        self._count += 1
        if self._count <= len(self._prompts):
            self.first.append(self._generator.new.clone())
        self._differ.append((self._generator.new != self.first[turn]).any())

    @property
    def failure(self) -> str | None:
        """Why the tokens cannot be right, or None."""
        if any(bool((tokens < 0).any()) for tokens in self.first):
            return "a timed generation has left out tokens"
        if self._expected is not None:
            some = self._expected.shape[1]
            if not torch.equal(self.first[0][:, :some], self._expected):
                return f"replays of CUDA graphs choose other tokens than the same {some} steps one by one"
        if wrong := sum(map(bool, self._differ)):
            return (
                f"{wrong} of {self._count} timed generations gave other tokens than the first of their prompt"
            )
        return None

    @property
    def checks(self) -> str:
        """What was judged, for the row."""
        graphs = "" if self._expected is None else f"; {self._expected.shape[1]} tokens without CUDA graphs"
        return f"the same tokens in {self._count} generations of {len(self._prompts)} prompts{graphs}"


class GenerationRunner:
    """The model of a case: random weights, prompts of real text.

    CUDA graphs are captured when it first generates. They use workspaces of cuBLAS, which stay from then on.
    """

    def __init__(self, case: Case, size: ModelSize, provider: Provider, seed: int) -> None:
        self._shape = shape = case.shape
        with seeded(shape.device, seed):
            self.generator = Generator(size, provider, shape)
            text = ByteText(shape.device, seed)
            self._prompts = [text.batch(shape.batch, shape.seq_len)[0] for _ in range(_PROMPTS)]
        if shape.model_run.compile == "parts":
            self.generator.model.compile_parts()
        self.tokens = shape.batch * shape.model_run.new_tokens

    @cached_property
    def repeater(self) -> Repeater:
        """What generates again and again, once the steps are captured."""
        expected = self._captured() if self._shape.device == "cuda" else None
        return Repeater(self.generator, self._prompts, expected)

    @property
    def held_bytes(self) -> int:
        """Bytes of weights and caches."""
        weights = sum(x.numel() * x.element_size() for x in self.generator.model.parameters())
        return weights + self.generator.cache_bytes

    def units(self, count: int, clock: LapClock) -> list[list[float]]:
        """Generate so often. Return the times of prefill and decoding, ms. The device has finished then."""
        for _ in range(count):
            self.repeater.generate(clock)
        clock.mark()
        return in_phases(clock.laps(), len(PHASES))

    def far_off(self, seed: int) -> str | None:
        """Return why timed tokens of a sequence of each prompt cannot be right by exact attention, or None.

        Whatever a provider does once it is timed, its tokens are those of the model or they are not.
        """
        for number, tokens in enumerate(self.repeater.first):
            row = (seed + number) % len(tokens)
            sequence = torch.cat([self._prompts[number][row], tokens[row]])[None]
            missed = missed_by(self.generator.exact_logits(sequence).float(), tokens[row][None])
            if reason := not_chosen(missed[0].tolist()):
                return reason
        return None

    def _captured(self) -> Tensor:
        """Capture the steps. Return the first tokens that they must give, chosen by steps one by one."""
        some = min(_STEPS_CHECKED, self._shape.model_run.new_tokens)
        self.generator.prefill(self._prompts[0])
        self.generator.steps(some - 1)
        expected = self.generator.new[:, :some].clone()
        try:
            self.generator.capture()
        except NoGraphError as error:
            raise CaseEnded("unsupported", f"its decoding step takes no CUDA graph: {error}") from error
        return expected


class GenerateBench(ModelBench[GenerationRunner]):
    """The state of one job of generation."""

    warm_ups = 0  # two whole generations are enough

    def judged(self, case: Case, size: ModelSize, provider: Provider) -> Figures:
        """Return the error of the small model's logits. Raise CaseEnded if it is too large."""
        if reason := provider.undecodable(case.shape):
            raise CaseEnded("unsupported", reason)
        errors = judge_generation(size, provider, case.shape.dtype, case.shape, self.job.seed)
        figures = Figures(error_o=errors.logits, error_budget=errors.budget, checks=errors.checks)
        if errors.failure:
            raise CaseEnded("wrong", errors.failure, figures)
        return figures

    def made(self, case: Case, size: ModelSize, provider: Provider) -> GenerationRunner:
        """Return the model of the case."""
        return GenerationRunner(case, size, provider, self.job.seed)

    def finished(
        self, case: Case, run: ModelFigures[GenerationRunner], figures: Figures
    ) -> tuple[Figures, str | None]:
        """Return the figures with what was judged, and why the tokens cannot be right, or None."""
        repeater = run.runner.repeater
        judged, reason = "timed tokens against exact attention", repeater.failure
        try:
            reason = reason or run.runner.far_off(self.job.seed)
        except RuntimeError as error:
            if not is_oom(error):
                raise
            judged = "no memory to judge timed tokens"
        return replace(figures, checks=f"{figures.checks}; {repeater.checks}; {judged}"), reason

    def timed(
        self, case: Case, run: ModelFigures[GenerationRunner], figures: Figures
    ) -> tuple[Figures, str | None]:
        """Return the figures with both phases, and why no device decodes so fast, or None."""
        shape = case.shape
        size, steps = MODELS[shape.model_run.model], shape.model_run.new_tokens - 1
        ceilings = self.session.ceilings(shape.dtype, EVEN)
        prefill_ms, decoding_ms = run.phase_ms
        least = size.decoding_bytes(shape)
        gbps = least * steps / decoding_ms / 1e6
        figures = replace(
            figures,
            prefill_ms=prefill_ms,
            decode_ms=decoding_ms / steps,
            cache_mib=run.runner.generator.cache_bytes / MIB,
            model_bytes=least,
            gbps=gbps,
            ceiling_gbps=ceilings.gbps,
            ceiling_of=ceilings.bandwidth_of,
        )
        return figures, too_few_bytes(gbps, ceilings.gbps, least)


def not_chosen(missed: list[float]) -> str | None:
    """Return why timed tokens are not the likeliest, or None; `missed` has what `missed_by` says of each."""
    worst = max(range(len(missed)), key=lambda at: (math.isnan(missed[at]), missed[at]))
    mean = statistics.fmean(missed)
    if missed[worst] <= _MISSED and mean <= _MISSED_IN_THE_MEAN:
        return None
    return (
        "timed tokens are not the likeliest by exact attention: their logits are below the largest by "
        f"{mean:.2g} of the root mean square in the mean, and by {missed[worst]:.2g} at new token "
        f"{worst + 1} of {len(missed)}"
    )


def too_few_bytes(gbps: float, ceiling_gbps: float, least_bytes: float) -> str | None:
    """Return why a rate of model traffic cannot be true beside that of a stream, or None if it can."""
    if least_bytes < _LEAST_BYTES or gbps <= CEILING_TOLERANCE * ceiling_gbps:
        return None
    return f"impossible: a decoding step moves {gbps:.0f} GB/s, and a stream reaches {ceiling_gbps:.0f} here"
