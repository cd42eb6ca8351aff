"""What Triton knows of the kernels that it compiled in this process, and which of them a launch was."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from lightning_bench.profile.data import CompiledKernel, Kernel
from lightning_bench.profile.parent.counters import base_name


def compiled_kernels() -> tuple[CompiledKernel, ...]:
    """All that are alive, wherever they are kept: launched through Triton's own caches or held by a library.

    Those that were compiled and never loaded have neither registers nor spills.
    """
    compiler = sys.modules.get("triton.compiler.compiler")
    if compiler is None:
        return ()
    found = [one for one in gc.get_objects() if type(one) is compiler.CompiledKernel]
    return tuple(sorted(map(_describe, found), key=lambda one: one.name))


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
    """Give launches the spills of the compiled kernel that they were, and a note where several may be meant.

    A launch is known by its name and, among variants of one name, by registers and shared memory.
    """
    loaded = [one for one in compiled if one.spills is not None]
    notes: dict[str, None] = {}
    told = []
    for kernel in kernels:
        same = [one for one in loaded if one.name == base_name(kernel.name)]
        for attribute in ("registers", "shared_bytes"):
            wanted = getattr(kernel, attribute)
            same = [one for one in same if getattr(one, attribute) == wanted] or same
        spills = {one.spills for one in same}
        if len(spills) > 1:
            notes[f"spills of {kernel.name}: {len(same)} compiled variants look like the one launched"] = None
        told.append(kernel.model_copy(update={"spills": spills.pop()}) if len(spills) == 1 else kernel)
    return tuple(told), tuple(notes)
