"""Two trees measured side by side: in every pass a fresh worker process for each, shapes in turns A B B A.

Drift over minutes affects both equally, and what is random per process (memory layout, clocks) is drawn again
in the next pass; the pass is the unit that `lbench compare` counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lightning_bench.case import Case
from lightning_bench.providers.bundled import KERNELS, BundledProvider, bundled_version, digest_of
from lightning_bench.providers.registry.probe import FileProvider
from lightning_bench.providers.registry.specs import is_file_spec
from lightning_bench.record import ResultFile
from lightning_bench.run.lane import Crew, Lane
from lightning_bench.run.plan import Plan, PlannedProvider, by_shape
from lightning_bench.run.sweep import Sweep, Watcher


@dataclass(frozen=True)
class Tree:
    """One side: its plan, the folder that is first on its workers' import path, its rows and its name."""

    plan: Plan
    import_path: Path | None
    out: ResultFile
    name: str


def plan_of_tree(plan: Plan, root: Path, tree: Path, import_path: Path) -> Plan:
    """Return the plan with the kernels of the checkout `tree` of the repository `root`.

    A provider from a file of the repository is taken from the same file of the tree, only by its workers;
    if that does not exist, its cases are left out and have no row. Bundled kernels get the version that the
    tree's sources give.
    """
    providers: dict[str, PlannedProvider] = {}
    specs: dict[str, str] = {}
    for spec, planned in plan.providers.items():
        if is_file_spec(spec):
            path, _, name = spec.rpartition(":")
            inside = Path(path).resolve()
            if inside.is_relative_to(root):
                there = tree / inside.relative_to(root)
                specs[spec] = f"{there}:{name}"
                if there.is_file():
                    assert isinstance(planned.provider, FileProvider)
                    version = planned.provider.version_in(there)
                    providers[specs[spec]] = replace(planned, version=version, broken=None)
                continue
        if isinstance(planned.provider, BundledProvider):
            version = bundled_version(digest_of([import_path / KERNELS]))
            providers[spec] = replace(planned, version=version or planned.version)
        else:
            providers[spec] = planned
    cases = (replace(case, provider=specs.get(case.provider, case.provider)) for case in plan.cases)
    return replace(
        plan, providers=providers, cases=tuple(case for case in cases if case.provider in providers)
    )


def comparable(plan: Plan, root: Path) -> tuple[Plan, list[str]]:
    """Return the plan with only the providers that the repository `root` holds, and the others' names."""
    ours = {
        spec
        for spec, planned in plan.providers.items()
        if isinstance(planned.provider, BundledProvider)
        or (is_file_spec(spec) and Path(spec.rpartition(":")[0]).resolve().is_relative_to(root))
    }
    others = [planned.provider.name for spec, planned in plan.providers.items() if spec not in ours]
    return replace(plan, cases=tuple(case for case in plan.cases if case.provider in ours)), others


def run_pairs(base: Tree, head: Tree, pairs: int, watcher: Watcher) -> None:
    """Append `pairs` rows per case and side; memory and check, which are the same each time, get one.

    A case that has no figure on one side is not run again on either.
    """
    plan = base.plan
    passes = pairs if plan.metric == "speed" else 1
    watcher.started(passes * (len(plan.cases) + len(head.plan.cases)), [])
    done: set[str] = set()
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    for number in range(passes):
        sides = [_Side(tree, watcher, f"{stamp}-{number}", done) for tree in (base, head)]
        try:
            for side in sides:
                side.lane.prepare()
            shapes = dict.fromkeys([*by_shape(base.plan.cases), *by_shape(head.plan.cases)])
            for index, shape in enumerate(shapes):
                for side in sides if (number + index) % 2 == 0 else reversed(sides):
                    side.shape([case for case in side.tree.plan.cases if case.shape == shape])
        finally:
            for side in sides:
                side.lane.close()
        done |= {record.case_id for side in sides for record in side.sweep.records if not record.worked}
        names = [{side.tree.plan.case_id(case) for case in side.tree.plan.cases} for side in sides]
        done |= names[0] ^ names[1]  # cases of only one tree need no second figure


class _Side:
    def __init__(self, tree: Tree, watcher: Watcher, pair: str, done: Iterable[str]) -> None:
        self.tree, self.watcher = tree, watcher
        plan = tree.plan
        crew = Crew(plan.device, 1, plan.limits.memory_limit_gib, import_paths=(tree.import_path,))
        self.lane = Lane(crew)
        self.sweep = Sweep(plan, tree.out, watcher, {"pair": pair})
        self._done = set(done)

    def shape(self, cases: list[Case]) -> None:
        left = [case for case in cases if self.tree.plan.case_id(case) not in self._done]
        if left:
            self.watcher.measuring(self.tree.name)
            self.sweep.shape(left, self.lane)
