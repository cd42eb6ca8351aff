"""A job of metric train: steps of a whole model, whose loss must fall."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch

from lightning_bench.case import Case
from lightning_bench.families.work import CEILING_TOLERANCE
from lightning_bench.machine.data_sheet import mfu_percent
from lightning_bench.machine.mix import EVEN
from lightning_bench.measure.job import CaseEnded, Figures, Outcome
from lightning_bench.measure.model_bench import ModelBench, ModelFigures
from lightning_bench.measure.outcomes import unless_oom
from lightning_bench.measure.ranks.team import team_of
from lightning_bench.measure.training.attention_gate import judge_attention
from lightning_bench.measure.training.model_gate import judge_model
from lightning_bench.measure.training.trainer import Trainer, follow_steps
from lightning_bench.models.model_sizes import ModelSize
from lightning_bench.providers.registry.base import Provider

_LAST_LOSSES = 3


class TrainBench(ModelBench[Trainer]):
    """The state of one job of training."""

    warm_ups = 1  # the allocator and clocks settle
    _stack: ExitStack

    def measured(self, case: Case, provider: Provider) -> Outcome:
        """Measure a case, and end its ranks."""
        with ExitStack() as self._stack:
            return super().measured(case, provider)

    def judged(self, case: Case, size: ModelSize, provider: Provider) -> Figures:
        """Return the errors of the small model. Raise CaseEnded if it or the attention is too far off."""
        errors = judge_model(size, provider, case.shape.dtype, case.shape, self.job.seed)
        figures = Figures(error_o=errors.logits, error_dgate=errors.gradient, error_budget=errors.budget)
        if errors.failure:
            raise CaseEnded("wrong", errors.failure, figures)
        judge_attention(case, size, provider, self.job.seed)
        return figures

    def made(self, case: Case, size: ModelSize, provider: Provider) -> Trainer:
        """Return the model of the case, to be trained; other ranks start and have theirs."""
        team = self._stack.enter_context(team_of((case,), self.job.seed, follow_steps))
        return Trainer(case.shape, provider, self.job.seed, team.first if team else None)

    def sample(self, case: Case, run: ModelFigures[Trainer]) -> None:
        """Take turns of steps, and look at drawn ones."""
        run.runner.begin_audit()
        super().sample(case, run)

    def finished(
        self, case: Case, run: ModelFigures[Trainer], figures: Figures
    ) -> tuple[Figures, str | None]:
        """Return the figures with the losses, and why these are not those of a model that learns, or None."""
        losses = torch.stack(run.runner.losses).double().tolist()
        figures = replace(figures, first_loss=losses[0], loss=statistics.fmean(losses[-_LAST_LOSSES:]))
        if run.runner.apart():
            return figures, "the ranks' weights have come apart: their gradients are not summed up alike"
        if reason := loss_failure(losses):
            return figures, reason
        assert run.runner.audit is not None
        self.enter(case.id, "oracle")
        reason, there_was_memory = unless_oom(partial(run.runner.audit.failure, self.job.seed))
        judged = run.runner.audit.checks if there_was_memory else "no memory to judge timed steps"
        checks = (
            f"small model and attention at the timed size against fp64; {judged}; loss {losses[0]:.3g} to "
            f"{figures.loss:.3g} in {len(losses)} steps"
        )
        return replace(figures, checks=checks), reason

    def timed(self, case: Case, run: ModelFigures[Trainer], figures: Figures) -> tuple[Figures, str | None]:
        """Return the figures with phases and rates, and why no device computes so fast, or None."""
        shape, device = case.shape, self.session.device
        assert figures.median_ms is not None
        ceilings = self.session.ceilings(shape.dtype, EVEN)
        flops = run.runner.size.step_flops(shape)
        tflops = flops / figures.median_ms / 1e9
        name = torch.cuda.get_device_name() if device == "cuda" else ""
        forward, backward, optimizer = run.phase_ms
        figures = replace(
            figures,
            mfu_percent=mfu_percent(tflops, name, shape.dtype),
            forward_ms=forward,
            backward_ms=backward,
            optimizer_ms=optimizer,
            model_flops=flops,
            tflops=tflops,
            ceiling_tflops=ceilings.tflops,
        )
        return figures, too_fast(tflops, ceilings.tflops)


def too_fast(tflops: float | None, ceiling_tflops: float | None) -> str | None:
    """Return why a rate of model operations cannot be true beside that of a matmul, or None if it can."""
    if not tflops or not ceiling_tflops or tflops <= CEILING_TOLERANCE * ceiling_tflops:
        return None
    return f"impossible: {tflops:.0f} TFLOP/s is above the {ceiling_tflops:.0f} that a matmul reaches here"


def loss_failure(losses: list[float]) -> str | None:
    """Return why losses, one per step in nats, are not those of a model that learns; None if they are."""
    for number, loss in enumerate(losses, start=1):
        if not abs(loss) < float("inf"):  # NaN too
            return f"the loss of step {number} of {len(losses)} is {loss}"
    last = statistics.fmean(losses[-_LAST_LOSSES:])
    if last >= losses[0]:
        return f"the loss did not fall: {losses[0]:.4g} in step 1, {last:.4g} after {len(losses)} steps"
    return None
