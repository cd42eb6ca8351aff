"""Providers for test_measure_bench.py: right ones, and one for each way to go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_bench.case import Direction, Shape
from lightning_bench.errors import Unavailable
from lightning_bench.providers import Inputs, Provider


class Base(Provider):
    """Right; `attend` gets the number of the call since the file was loaded."""

    name = label = "base"
    family = "linear_decay"
    package = "torch"
    devices = ("cpu",)
    dtypes = ("fp32",)
    calls = 0

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        n = inputs.q.shape[2]
        distance = torch.arange(n)[:, None] - torch.arange(n)
        decay = torch.exp(-inputs.decay[:, None, None] * distance.clamp(min=0)) * (distance >= 0)

        def forward() -> Tensor:
            type(self).calls += 1
            return self.attend(inputs, decay, type(self).calls)

        return forward

    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        return (inputs.q @ inputs.k.mT * decay) @ inputs.v


class Right(Base):
    def config(self, shape: Shape, direction: Direction) -> str:
        return f"BLOCK={shape.head_dim} {direction}"


class Also(Base):
    pass


class Softmax(Base):
    family = "softmax"
    layout = "bnhd"

    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        turned = (x.transpose(1, 2) for x in (inputs.q, inputs.k, inputs.v))
        return torch.nn.functional.scaled_dot_product_attention(*turned, is_causal=True).transpose(1, 2)

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        return lambda: self.attend(inputs, inputs.decay, 0)


class Wrong(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        return 1.01 * super().attend(inputs, decay, call)


class BadGradient(torch.autograd.Function):
    """The identity, with one NaN in its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].clone()
        grad[0, 1, 3, 2] = float("nan")
        return grad


class NanGradient(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        return (inputs.q @ BadGradient.apply(inputs.k).mT * decay) @ inputs.v


class Unwritten(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        return torch.empty_like(inputs.v) + 0.0 * (inputs.q + inputs.k + inputs.v)


class Cut(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        return super().attend(inputs, decay, call)[:, :, :-1]


class Raises(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        raise ValueError("block size 48 is no power of two")


class Exits(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        raise SystemExit("bye")


class NeedsDriver(Base):
    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        from triton.runtime import driver

        driver.active.get_current_target()  # as each launch of a Triton kernel does
        return super().build(inputs)


class NoBuild(Base):
    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        raise KeyError("n")


class NoImport(Base):
    def load(self) -> None:
        raise ImportError("No module named 'fast_kernels'")


class NoLibrary(Base):
    def load(self) -> None:
        raise OSError("libfast.so: undefined symbol: _ZN3c10")


class Refuses(Base):
    def load(self) -> None:
        raise Unavailable("needs a newer compiler")


class LoadCrash(Base):
    def load(self) -> None:
        raise AttributeError("half a library")


class Unsupported(Base):
    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        return f"no {direction} at {shape.seq_len}"


class Half(Base):
    dtypes = ("bf16",)


class Memory(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        raise MemoryError


class TorchOom(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


class HostOom(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")


class FitsAlone(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        if call == 1:
            raise RuntimeError("Triton Error [CUDA]: out of memory")
        return super().attend(inputs, decay, call)


class LateOom(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        if call > 4:
            raise RuntimeError("out of memory")
        return super().attend(inputs, decay, call)


class ChangesItsInputs(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        output = super().attend(inputs, decay, call)
        with torch.no_grad():
            inputs.k.data.mul_(1.5)
        return output


class ManyThreads(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        torch.set_num_threads(7)
        return super().attend(inputs, decay, call)


class Widens(Base):
    def attend(self, inputs: Inputs, decay: Tensor, call: int) -> Tensor:
        return super().attend(inputs, decay, call).double()
