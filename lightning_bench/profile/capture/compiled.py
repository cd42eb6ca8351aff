"""The kernels that Triton compiled in this process: what they take, and which of them a launch was."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from lightning_bench.profile.data import CompiledKernel, Kernel
from lightning_bench.profile.kernel_names import base_name


def compiled_kernels() -> tuple[CompiledKernel, ...]:
    """Return all that are alive, whether Triton's own caches or a library hold them.

    Kernels that were compiled and never loaded have neither registers nor spills.
    """
    compiler = sys.modules.get("triton.compiler.compiler")
    if compiler is None:
        return ()
    found = [kernel for kernel in gc.get_objects() if type(kernel) is compiler.CompiledKernel]
    return tuple(sorted(map(_describe, found), key=lambda kernel: kernel.name))


def _describe(kernel: Any) -> CompiledKernel:
    metadata = kernel.metadata
    return CompiledKernel(
        name=str(getattr(metadata, "name", "")),
        registers=getattr(kernel, "n_regs", None),
        spills=getattr(kernel, "n_spills", None),
        shared_bytes=getattr(metadata, "shared", None),
        warps=getattr(metadata, "num_warps", None),
    )


def with_spills(
    kernels: Sequence[Kernel], compiled: Iterable[CompiledKernel]
) -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Add to launches the spills of the compiled kernel that they were, and a note if several may be meant.

    A launch is identified by its name and, among variants of one name, by registers and shared memory.
    """
    loaded = [variant for variant in compiled if variant.spills is not None]
    notes: dict[str, None] = {}
    launches = []
    for kernel in kernels:
        same = [variant for variant in loaded if variant.name == base_name(kernel.name)]
        for attribute in ("registers", "shared_bytes"):
            wanted = getattr(kernel, attribute)
            same = [variant for variant in same if getattr(variant, attribute) == wanted] or same
        spills = {variant.spills for variant in same}
        if len(spills) > 1:
            notes[f"spills of {kernel.name}: {len(same)} compiled variants look like the one launched"] = None
        launches.append(kernel.model_copy(update={"spills": spills.pop()}) if len(spills) == 1 else kernel)
    return tuple(launches), tuple(notes)
