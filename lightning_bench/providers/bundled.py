"""The base of the providers of our own kernels, whose version changes with every edit of their sources."""

from __future__ import annotations

import ast
import hashlib
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_bench import __version__
from lightning_bench.case import DTYPES, Device, Direction, Family, Shape
from lightning_bench.providers.registry.base import Inputs, Provider
from lightning_bench.providers.registry.packages import HARNESS, missing_device
from lightning_bench.providers.registry.sources import sources_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

KERNELS = "lightning_kernels"


class BundledProvider(Provider):
    """A function `(q, k, v, s) -> o` of `lightning_kernels`: q, k, v [b, h, n, d], s [h]."""

    family: ClassVar[Family] = "linear_decay"
    package = HARNESS
    dtypes = DTYPES
    function: ClassVar[str]
    dims: ClassVar[tuple[int, int] | None] = None
    """Least and greatest head_dim and value_dim that the function supports; None if it supports all."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Import packages that the function needs besides torch."""

    def version(self) -> str:
        """Return the version of lightning-bench, then `+` and a digest of the kernels' sources.

        Because of the digest, a resumed sweep never takes an older kernel's figures for the new one's.
        """
        return bundled_version(source_digest())

    def unavailable(self, device: Device) -> str | None:
        """Return why the kernels cannot run on `device`, or None."""
        reason = missing_device(self, device)
        if reason:
            return reason
        if not source_digest():
            return f'{KERNELS} is not importable; pip install {HARNESS}, or put "kernels" on PYTHONPATH'
        missing = [name for name in self.needs if find_spec(name) is None]
        return f"{missing[0]} is not installed; pip install {missing[0]}" if missing else None

    def functions(self, metric: str) -> tuple[str, ...]:
        """Return the functions of the kernels that are run for a row of this metric."""
        return (self.function,)

    def load(self) -> None:
        """Import the function. Raise ImportError if it does not exist."""
        self._function()

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the function does not support this case, or None."""
        reason = super().unsupported(shape, direction)
        if reason or self.dims is None:
            return reason
        low, high = self.dims
        for label, dim in (("head_dim", shape.head_dim), ("value_dim", shape.value_dim)):
            if not low <= dim <= high:
                return f"{self.name} takes {label} {low} to {high}, not {dim}"
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        return partial(self._function(), inputs.q, inputs.k, inputs.v, inputs.decay, **self._packed(inputs))

    def _function(self) -> Callable[..., Tensor]:
        function: Callable[..., Tensor] = kernels_attribute(self.function)
        return function

    def _packed(self, inputs: Inputs) -> dict[str, Tensor]:
        """Return what the function is told of packed documents: nothing if there are none."""
        return {} if inputs.cu_seqlens is None else {"cu_seqlens": inputs.cu_seqlens}


class NoDecay(BundledProvider):
    """Mix-in for a provider of a function whose slopes may be None."""

    family: ClassVar[Family] = "linear"

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, h, n, value_dim]."""
        return partial(self._function(), inputs.q, inputs.k, inputs.v, **self._packed(inputs))


def kernels_attribute(name: str) -> Any:
    """Return `lightning_kernels.<name>`. Raise ImportError if the package or the name is missing."""
    module = import_module(KERNELS)
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ImportError(f"{KERNELS} has no {name}") from error


def bundled_version(digest: str) -> str:
    """Return the version of kernels whose sources have this digest; "" for no sources."""
    return f"{__version__}+{digest}" if digest else ""


def sources_of_function(package: Path, function: str) -> set[Path]:
    """Return the files that `function` of the kernels in the folder `package` runs, without importing them.

    They are the package's own file, which says where the function is, and that module with all that it
    imports. Where the package does not say, they are all files of it.
    """
    init = package / "__init__.py"
    try:
        tree = ast.parse(init.read_bytes())
    except (OSError, SyntaxError, ValueError):
        tree = ast.Module([], [])
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == function for alias in node.names):
            home = package.joinpath(*(node.module or "").split(".")).with_suffix(".py")
            if node.level == 1 and home.is_file():
                return {init.resolve(), *sources_of(home)}
    return {path.resolve() for path in package.rglob("*.py")}


@cache
def source_digest() -> str:
    """Return the digest of the installed kernels' Python sources; "" if there are none."""
    spec = find_spec(KERNELS)
    return (
        "" if spec is None else digest_of([Path(folder) for folder in spec.submodule_search_locations or []])
    )


def digest_of(folders: Iterable[Path]) -> str:
    """Return 8 hex digits of the sha256 over the Python sources below these folders of one package.

    Paths relative to the folder count too, at any depth. "" if there are no sources.
    """
    digest = hashlib.sha256()
    sources = {
        path.relative_to(folder).as_posix(): path for folder in folders for path in folder.rglob("*.py")
    }
    for name in sorted(sources):
        digest.update(name.encode() + b"\0" + sources[name].read_bytes() + b"\0")
    return digest.hexdigest()[:8] if sources else ""
