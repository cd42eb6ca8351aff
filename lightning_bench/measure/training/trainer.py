"""One model in training: real steps on real text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from lightning_bench.case import Shape
from lightning_bench.measure.device.lap_clock import CpuLapClock, LapClock, in_phases
from lightning_bench.measure.ranks.rank import Rank, RankRequest
from lightning_bench.measure.training.model_gate import seeded, slopes_of_layers
from lightning_bench.measure.training.step_audit import StepAudit
from lightning_bench.models.byte_text import ByteText
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.models.plugged_attention import attention_of, build_model
from lightning_bench.providers.dtypes import torch_dtype
from lightning_bench.providers.registry.base import Provider

PHASES = ("forward", "backward", "optimizer")
"""What a step consists of; the loss belongs to forward."""

_RATE, _BETAS, _WEIGHT_DECAY = 3e-4, (0.9, 0.95), 0.1


class Trainer:
    """The model of a case on a loaded provider, with fused AdamW and a text, on the device of the shape.

    Weights, gradients and the optimizer's moments have the dtype of the case: nothing is kept in fp32 beside
    16-bit weights. The learning rate is constant. With a `rank` of a process group that this process is in,
    the ranks take steps together, each on a text of its own.
    """

    def __init__(self, shape: Shape, provider: Provider, seed: int, rank: Rank | None = None) -> None:
        self.shape, self.size, self._rank = shape, MODELS[shape.model_run.model], rank
        self._slopes = slopes_of_layers(self.size, shape)
        self.audit: StepAudit | None = None
        with seeded(shape.device, seed):
            self.model = build_model(
                self.size,
                attention_of(provider),
                self._slopes,
                shape.seq_len,
                torch_dtype(shape.dtype),
                recompute=shape.model_run.recompute == "layers",
            )
        if shape.model_run.compile == "parts":
            self.model.compile_parts()
        self._net: nn.Module = self.model
        self.replicated: list[Tensor] = []
        groups: list[dict[str, list[Tensor]]] = [{"params": list(self.model.parameters())}]
        if rank is not None:
            from lightning_bench.measure.training.sharing import shared, weight_groups  # seconds to import

            self._net, self.replicated = shared(self.model, shape.model_run.parallel, rank, shape.device)
            groups = weight_groups(self.model)
        self.optimizer = torch.optim.AdamW(
            groups, lr=_RATE, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=True
        )
        self._text = ByteText(shape.device, seed if rank is None else seed + rank.number)
        self.losses: list[Tensor] = []

    @property
    def tokens(self) -> int:
        """Tokens of a step, on this rank."""
        return self.shape.batch * self.shape.seq_len

    @property
    def held_bytes(self) -> int:
        """Bytes of weights and of the optimizer's moments, on this rank."""
        moments = [x for state in self.optimizer.state.values() for x in state.values()]
        held = [_local(x) for x in (*self.model.parameters(), *moments) if isinstance(x, Tensor)]
        return sum(x.numel() * x.element_size() for x in held)

    def apart(self) -> bool:
        """Return whether weights that all ranks have are not the same everywhere. No steps may follow."""
        if self._rank is None:
            return False
        self._rank.announce(0)
        return self._rank.apart(self.replicated)

    def begin_audit(self) -> None:
        """Look at drawn steps from here on."""
        self.audit = StepAudit(self.size, self.shape, self._slopes)

    def step(self, clock: LapClock) -> None:
        """Take a step and note its loss; the clock is marked before each of `PHASES`, not at the end."""
        clock.mark()
        loss: Tensor = self._net(*self._text.batch(self.shape.batch, self.shape.seq_len))
        clock.mark()
        loss.backward()
        clock.mark()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.append(loss.detach())

    def units(self, count: int, clock: LapClock) -> list[list[float]]:
        """Take steps one after the other without waiting. Return the times of each step's phases, ms.

        The device has finished when this returns.
        """
        if self._rank is not None:
            self._rank.announce(count)
        for _ in range(count):
            with self.audit.step(self.model) if self.audit else nullcontext():
                self.step(clock)
        clock.mark()
        return in_phases(clock.laps(), len(PHASES))


def follow_steps(request: RankRequest, providers: Mapping[str, Provider]) -> None:
    """Take the steps that the first rank announces."""
    (case,), rank = request.cases, request.rank
    trainer = Trainer(case.shape, providers[case.provider], request.seed, rank)
    while count := rank.announce(0):
        clock = CpuLapClock()
        for _ in range(count):
            trainer.step(clock)
    rank.apart(trainer.replicated)


def _local(x: Tensor) -> Tensor:
    """Return the part of a tensor that this rank holds: all of it, unless the tensor is shared."""
    return x.to_local() if hasattr(x, "to_local") else x
