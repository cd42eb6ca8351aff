"""Providers whose declarations, methods or outputs are not what the harness asks for."""

from __future__ import annotations

from typing import Any

from lightning_bench.providers import Provider

print("printed at import")


class Plain(Provider):
    name, label, family, package = "plain", "Plain", "softmax", "torch"
    devices, dtypes = ("cpu",), ("fp32",)

    def build(self, inputs: Any) -> Any:
        from torch.nn.functional import scaled_dot_product_attention as attention

        return lambda: self.odd(attention(inputs.q, inputs.k, inputs.v, is_causal=True))

    def odd(self, output: Any) -> Any:
        return output


class ConfigIsADict(Plain):
    def config(self, shape: Any, direction: Any) -> Any:
        return {"BLOCK": 64}


class UnsupportedIsTrue(Plain):
    def unsupported(self, shape: Any, direction: Any) -> Any:
        return True


class BuildGivesNothing(Plain):
    def build(self, inputs: Any) -> Any:
        return None


class OutputIsNone(Plain):
    def odd(self, output: Any) -> Any:
        return None


class OutputIsATuple(Plain):
    def odd(self, output: Any) -> Any:
        return (output,)


class OutputIsNumpy(Plain):
    def odd(self, output: Any) -> Any:
        return output.detach().numpy()


class OutputIsElsewhere(Plain):
    def odd(self, output: Any) -> Any:
        return output.to("meta")


class VersionRaises(Plain):
    name = "version-raises"

    def version(self) -> str:
        raise KeyError("no version today")


class VersionIsANumber(Plain):
    name = "version-is-a-number"

    def version(self) -> Any:
        return 7


class UnavailableRaises(Plain):
    name = "unavailable-raises"

    def unavailable(self, device: Any) -> str | None:
        raise OSError("no such library")


class NameIsANumber(Plain):
    name = 7  # type: ignore[assignment]


class DtypesAreAWord(Plain):
    name = "dtypes-are-a-word"
    dtypes = "fp32"  # type: ignore[assignment]


class NeedsArguments(Plain):
    def __init__(self, size: int) -> None:
        self.size = size
