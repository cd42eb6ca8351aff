"""Which providers of a plan a diff touches: those with a changed file among their sources.

Sources are what `providers/registry/sources.py` finds, in this tree or in the other: a provider file with all
that it imports of its repository; of a bundled kernel, the module of its function with all that it imports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_bench.providers.bundled import KERNELS, BundledProvider, sources_of_function
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.sources import sources_of
from lightning_bench.providers.registry.specs import is_file_spec
from lightning_bench.run.plan import Plan

COMPILED = frozenset({".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hip", ".hpp", ".ptx", ".pyx", ".so"})
"""Suffixes of files that no import names: a change of one touches every provider of the repository."""


@dataclass(frozen=True)
class Diff:
    """Two trees of one repository, and the paths of the files that differ, relative to both.

    `import_path` is the folder, relative to both, in which the bundled kernels are looked for.
    """

    tree: Path
    other: Path
    files: frozenset[str]
    import_path: Path

    def touches(self, spec: str, provider: Provider) -> bool:
        """Return whether a file that this provider runs differs; False if it is not of this repository."""
        return any(name in self.files for name in self._sources(spec, provider))

    def touches_all(self, suite: Path) -> bool:
        """Return whether the suite's own file differs, or a compiled source, which no import leads to."""
        inside = _relative(suite.resolve(), self.tree.resolve())
        return inside in self.files or any(Path(name).suffix in COMPILED for name in self.files)

    def _sources(self, spec: str, provider: Provider) -> Iterator[str]:
        for root in (self.tree.resolve(), self.other.resolve()):
            for path in self._files_in(root, spec, provider):
                if name := _relative(path, root):
                    yield name

    def _files_in(self, root: Path, spec: str, provider: Provider) -> set[Path]:
        if isinstance(provider, BundledProvider):
            return sources_of_function(root / self.import_path / KERNELS, provider.function)
        if not is_file_spec(spec):
            return set()
        inside = _relative(Path(spec.rpartition(":")[0]).resolve(), self.tree.resolve())
        path = root / inside
        return {path, *sources_of(path)} if inside else set()


def touched(plan: Plan, diff: Diff, suite: Path) -> tuple[Plan, list[str]]:
    """Return the plan with only the providers that the diff touches, and the names of the others."""
    if diff.touches_all(suite):
        return plan, []
    specs = dict.fromkeys(case.provider for case in plan.cases)
    ours = {spec for spec in specs if diff.touches(spec, plan.providers[spec].provider)}
    others = [plan.providers[spec].provider.name for spec in specs if spec not in ours]
    return replace(plan, cases=tuple(case for case in plan.cases if case.provider in ours)), others


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
