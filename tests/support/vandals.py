"""Providers that harm others in their common process, each in one way, and innocent ones."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_bench.providers import Inputs, Provider

if TYPE_CHECKING:
    from torch import Tensor

HELD: list[Any] = []


class Innocent(Provider):
    name, label, family, package = "innocent", "Innocent", "linear_decay", "torch"
    devices, dtypes = ("cpu",), ("fp32",)

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        import torch

        n = inputs.q.shape[2]
        distance = torch.arange(n)[:, None] - torch.arange(n)

        def forward() -> Tensor:
            decay = torch.exp(-inputs.decay[:, None, None] * distance.clamp(min=0)) * (distance >= 0)
            output = (inputs.q @ inputs.k.mT * decay) @ inputs.v
            self.harm(inputs)
            return output

        return forward

    def harm(self, inputs: Inputs) -> None:
        """Do nothing."""


class InnocentToo(Innocent):
    name = "innocent-too"


class WritesAndRaises(Innocent):
    name = "writes-and-raises"

    def harm(self, inputs: Inputs) -> None:
        inputs.q.detach().zero_()
        raise ValueError("after writing")


class Permutes(Innocent):
    """The sum of what it writes stays."""

    name = "permutes"

    def harm(self, inputs: Inputs) -> None:
        inputs.v.detach().copy_(inputs.v.detach().flip(2))


class ChangesSlopes(Innocent):
    name = "changes-slopes"

    def harm(self, inputs: Inputs) -> None:
        inputs.decay.mul_(2)


class SetsDtypeInBuild(Innocent):
    name = "sets-dtype-in-build"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        import torch

        forward = super().build(inputs)
        torch.set_default_dtype(torch.float64)
        return forward


class StopsGradients(Innocent):
    name = "stops-gradients"

    def unsupported(self, shape: object, direction: str) -> str | None:
        import torch

        torch.set_grad_enabled(False)
        return None


class SetsThreads(Innocent):
    name = "sets-threads"

    def load(self) -> None:
        import torch

        torch.set_num_threads(3)

    def harm(self, inputs: Inputs) -> None:
        import torch

        torch.set_num_threads(4)


class Spins(Innocent):
    name = "spins"

    def load(self) -> None:
        def spin() -> None:
            while True:
                pass

        threading.Thread(target=spin, name="spinner", daemon=True).start()


class Waits(Innocent):
    """Leaves a thread that does nothing."""

    name = "waits"

    def load(self) -> None:
        HELD.append(threading.Event())
        threading.Thread(target=HELD[-1].wait, name="waiter", daemon=True).start()


class HandlesAlarms(Innocent):
    """Changes a signal handler and the environment in every call."""

    name = "handles-alarms"

    def harm(self, inputs: Inputs) -> None:
        signal.signal(signal.SIGALRM, lambda *args: None)
        os.environ.pop("HOME", None)


class LeavesAChild(Innocent):
    """Leaves a process in a session of its own; its pid is in the file that VANDAL_PID names."""

    name = "leaves-a-child"

    def load(self) -> None:
        child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
        HELD.append(child)
        Path(os.environ["VANDAL_PID"]).write_text(str(child.pid))


class InfersForGood(Innocent):
    name = "infers-for-good"

    def load(self) -> None:
        import torch

        HELD.append(torch.inference_mode())
        HELD[-1].__enter__()
