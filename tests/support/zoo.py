"""Providers that behave and misbehave, each in one way; tests name them as `zoo.py:NAME`.

Those that wait or leave notes do so in the folder of this file: tests that need that copy it first.
As the bundled ones do, it leaves the import of torch to the worker.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_bench.providers import Inputs, Provider

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = Path(__file__).parent
HOARD: list[Tensor] = []


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    from torch.nn.functional import scaled_dot_product_attention

    return scaled_dot_product_attention(q, k, v, is_causal=True)


class Good(Provider):
    name, label, family, package = "good", "Good", "softmax", "torch"
    devices, dtypes = ("cpu",), ("fp32",)

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        return lambda: self.attend(inputs)

    def attend(self, inputs: Inputs) -> Tensor:
        return attention(inputs.q, inputs.k, inputs.v)


class FailsInAnotherProcess(Good):
    name = "fails-in-another-process"

    def attend(self, inputs: Inputs) -> Tensor:
        first = FOLDER / "first-process"
        if not first.exists():
            first.write_text(str(os.getpid()))
        if first.read_text() != str(os.getpid()):
            raise RuntimeError("one process is enough")
        return super().attend(inputs)


class Sleeps(Good):
    name = "sleeps"

    def attend(self, inputs: Inputs) -> Tensor:
        while True:
            time.sleep(1)


class HoldsTheGil(Good):
    name = "holds-the-gil"

    def attend(self, inputs: Inputs) -> Tensor:
        ctypes.PyDLL(None).sleep(3600)
        return super().attend(inputs)


class Aborts(Good):
    name = "aborts"

    def attend(self, inputs: Inputs) -> Tensor:
        os.write(2, b"all is lost\n")
        os.abort()


class Raises(Good):
    name = "raises"

    def attend(self, inputs: Inputs) -> Tensor:
        raise ZeroDivisionError("no luck today")


class SysExits(Good):
    name = "sys-exits"

    def attend(self, inputs: Inputs) -> Tensor:
        sys.exit("enough")


class OsExits(Good):
    name = "os-exits"

    def attend(self, inputs: Inputs) -> Tensor:
        os._exit(0)


class Wrong(Good):
    name = "wrong"

    def attend(self, inputs: Inputs) -> Tensor:
        return super().attend(inputs) * 1.01


class NanInDk(Good):
    name = "nan-in-dk"

    def attend(self, inputs: Inputs) -> Tensor:
        import torch

        k = inputs.k * 1.0
        if k.requires_grad:
            k.register_hook(lambda grad: grad.index_fill(2, torch.tensor([5]), float("nan")))
        return attention(inputs.q, k, inputs.v)


class GreedyForGood(Good):
    """Allocates until it may not, and never lets go."""

    name = "greedy-for-good"

    def attend(self, inputs: Inputs) -> Tensor:
        import torch

        while True:
            HOARD.append(torch.ones(2**22))


class NotThere(Good):
    name = "not-there"

    def load(self) -> None:
        import a_library_that_nobody_has  # noqa: F401


class LoadsBadly(Good):
    name = "loads-badly"

    def load(self) -> None:
        raise ZeroDivisionError("its import divides by zero")


class NeedsGpu(Good):
    name = "needs-gpu"
    devices = ("cuda",)


class Narrow(Good):
    name = "narrow"

    def unsupported(self, shape: object, direction: str) -> str | None:
        return "only sequences of prime length"


class TooLargeAt256(Good):
    name = "too-large-at-256"

    def attend(self, inputs: Inputs) -> Tensor:
        import torch

        if inputs.q.shape[2] >= 256:
            raise torch.OutOfMemoryError("simulated: out of memory")
        return super().attend(inputs)


class NotesItsProcess(Good):
    """Appends `seq_len pid` to `pids` whenever it is built."""

    name = "notes-its-process"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        with (FOLDER / "pids").open("a") as file:
            file.write(f"{inputs.q.shape[2]} {os.getpid()}\n")
        return super().build(inputs)


class DiesAt512(Good):
    name = "dies-at-512"

    def attend(self, inputs: Inputs) -> Tensor:
        if inputs.q.shape[2] == 512:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().attend(inputs)


class WaitsAt128(Good):
    """At seq_len 128 it writes its pid to `waiting` and waits until there is a file `go`."""

    name = "waits-at-128"

    def attend(self, inputs: Inputs) -> Tensor:
        if inputs.q.shape[2] == 128 and not (FOLDER / "go").exists():
            (FOLDER / "pid").write_text(str(os.getpid()))
            (FOLDER / "pid").rename(FOLDER / "waiting")
            while not (FOLDER / "go").exists():
                time.sleep(0.02)
        return super().attend(inputs)


class RaisesUntilGo(Good):
    """Raises until there is a file `go`."""

    name = "raises-until-go"

    def attend(self, inputs: Inputs) -> Tensor:
        if not (FOLDER / "go").exists():
            raise ZeroDivisionError("not yet")
        return super().attend(inputs)


class Visits(Good):
    """Notes each of its calls: the GPU that its process sees, the process and when."""

    name = "visits"

    def attend(self, inputs: Inputs) -> Tensor:
        begin = time.monotonic()
        result = super().attend(inputs)
        time.sleep(0.02)
        number = len(list(FOLDER.glob("visit-*")))
        note = f"{os.environ['CUDA_VISIBLE_DEVICES']} {os.getpid()} {begin} {time.monotonic()}"
        (FOLDER / f"visit-{os.getpid()}-{number}-{begin}").write_text(note)
        return result


class KilledOnce(Good):
    """Its process dies of SIGKILL at the first call at seq_len 96."""

    name = "killed-once"

    def attend(self, inputs: Inputs) -> Tensor:
        if inputs.q.shape[2] == 96 and not (FOLDER / "killed").exists():
            (FOLDER / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().attend(inputs)
