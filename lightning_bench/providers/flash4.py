"""FlashAttention-4 (CuTe DSL), package flash-attn-4: import package `flash_attn.cute`."""

from __future__ import annotations

import base64
import hashlib
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_bench.case import Device, Direction, Shape
from lightning_bench.providers.registry.base import Inputs, Provider

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

INTERFACE = "flash_attn/cute/interface.py"


class Flash4(Provider):
    """`flash_attn.cute.flash_attn_func(q, k, v, causal=True)`, default scale 1/√head_dim: bnhd.

    The first call for a head dim and dtype compiles the kernel, for many seconds.
    """

    name = "flash4"
    label = "FlashAttention-4"
    family = "softmax"
    layout = "bnhd"
    package = "flash-attn-4"
    summary = "the CuTe DSL kernels of package flash-attn-4, causal, for Hopper and Blackwell"

    def unavailable(self, device: Device) -> str | None:
        """Return why it cannot run here, or None; flash-attn ships an older copy under the same name."""
        return super().unavailable(device) or shadowed()

    def load(self) -> None:
        """Import the package, with the folder of nvidia-cutlass-dsl that its .pth file would add."""
        _find_cutlass()
        from flash_attn.cute import flash_attn_func  # noqa: F401

    def unsupported(self, shape: Shape, direction: Direction) -> str | None:
        """Return why the library does not support this case on any GPU, or None."""
        reason = super().unsupported(shape, direction)
        if reason:
            return reason
        for label, dim in (("head_dim", shape.head_dim), ("value_dim", shape.value_dim)):
            if not 8 <= dim <= 256 or dim % 8:
                return f"{self.name} takes a {label} from 8 to 256 in steps of 8, not {dim}"
        return None

    def build(self, inputs: Inputs) -> Callable[[], Tensor]:
        """Return a call that computes the output [b, n, h, value_dim]."""
        import torch
        from flash_attn.cute import flash_attn_func

        grad_enabled = torch.is_grad_enabled
        trained = (inputs.q, inputs.k, inputs.v)
        # The library computes the log-sum-exp whenever inputs require gradients, no_grad or not.
        plain = tuple(tensor.detach() for tensor in trained)

        def forward() -> Tensor:
            q, k, v = trained if grad_enabled() else plain
            result = flash_attn_func(q, k, v, causal=True)
            output: Tensor = result[0] if isinstance(result, tuple) else result
            return output

        return forward


def shadowed() -> str | None:
    """Return why `flash_attn.cute` on the import path is not the copy of flash-attn-4, or None if it is.

    flash-attn has a folder of that name too. In one site-packages the package installed last wins; in two
    folders of the path, the copy found first.
    """
    wanted = _installed_interface()
    spec = find_spec("flash_attn")
    if wanted is None or spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    found = next((path for folder in folders if (path := folder / "cute" / "interface.py").is_file()), None)
    location, digest = wanted
    if found is not None and found.resolve() == location.resolve() and _unchanged(found, digest):
        return None
    return (
        "flash_attn.cute here is the older copy inside flash-attn; pip install flash-attn-4 last, into the "
        "same folder (pip install --force-reinstall --no-deps flash-attn-4)"
    )


def _installed_interface() -> tuple[Path, str] | None:
    """Return where flash-attn-4 installed its interface.py, and the sha256 that it recorded ("" for none)."""
    try:
        files = metadata.files(Flash4.package) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.as_posix() == INTERFACE:
            recorded = file.hash.value if file.hash and file.hash.mode == "sha256" else ""
            return Path(str(file.locate())), recorded
    return None  # an editable install has no such file


def _unchanged(path: Path, recorded: str) -> bool:
    if not recorded:
        return True
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
    return digest.rstrip(b"=").decode() == recorded


def _find_cutlass() -> None:
    """Do what nvidia-cutlass-dsl's .pth file does if Python did not read it (pip install --target)."""
    if find_spec("cutlass") is not None:
        return
    spec = find_spec("nvidia_cutlass_dsl")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        packages = str(Path(folder) / "dsl_packages")
        if packages not in sys.path:
            sys.path.append(packages)
