"""TorchForm: the base of the systems in plain PyTorch, written as their papers write them.

They are not fast. They run on any device, and show on a CPU that the inputs, the gradients and the
correctness gate of each family work. They share no code with the oracles, which go in blocks of tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench.case import DTYPES
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class TorchForm(Provider):
    """A system by its `attend`, on tensors of fp32 or wider: half precision is computed in fp32."""

    package = "torch"
    devices = ("cuda", "cpu")
    dtypes = DTYPES
    names: ClassVar[tuple[str, ...]] = ("q", "k", "v")
    """The inputs that `attend` takes, in order."""

    def attend(self, *tensors: Any, **_: Any) -> Tensor:
        """Return the output [b, h, n, e] in the dtype of the tensors; a subclass names its parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not implement attend()")

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        given = [inputs[name] for name in self.names]

        def forward() -> Tensor:
            wide = [x.float() if x.element_size() < 4 else x for x in given]
            return self.attend(*wide).to(inputs.v.dtype)

        return forward


def scale_of(q: Tensor) -> float:
    """Return the scale 1/√head_dim."""
    return 1.0 / math.sqrt(q.shape[-1])
