"""Two trees measured side by side: in every pass a fresh worker process for each, shapes in turns A B B A.

Drift over minutes affects both equally, and what is random per process (memory layout, clocks) is drawn again
in the next pass; the pass is the unit that `lbench compare` counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from lightning_bench.case import Shape
from lightning_bench.errors import LbenchError
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.providers.bundled import KERNELS, BundledProvider, bundled_version, digest_of
from lightning_bench.providers.registry.probe import FileProvider
from lightning_bench.providers.registry.specs import is_file_spec
from lightning_bench.record import ResultFile
from lightning_bench.run.dispatch import dispatch
from lightning_bench.run.executor import Executor, Slot, Unit
from lightning_bench.run.lane import Crew, Lane
from lightning_bench.run.plan import Plan, PlannedProvider, by_shape
from lightning_bench.run.sweep import Sweep, Watcher


@dataclass(frozen=True)
class Tree:
    """One side: its plan, the folders that are first on its workers' import path, its rows and its name."""

    plan: Plan
    import_path: tuple[Path, ...]
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


def pair_crew(plan: Plan, import_paths: Sequence[tuple[Path, ...]]) -> Crew:
    """Return what the workers of a plan's sides are like: one process for each."""
    return Crew(plan.device, 1, plan.limits.memory_limit_gib, import_paths=tuple(import_paths))


def run_pairs(
    trees: Sequence[Tree],
    pairs: int,
    watcher: Watcher,
    executor: Executor | None = None,
    *,
    on_each: bool = False,
) -> None:
    """Append `pairs` rows per case and side; memory and check, which are the same each time, get one.

    A case that has no figure on one side is not run again on either. The slots of an `executor` share the
    shapes among them: both sides of a shape, in all passes, are measured on one slot. With `on_each`, each
    slot measures every shape.
    """
    cases = sum(len(tree.plan.cases) for tree in trees)
    passes = pairs if trees[0].plan.metric == "speed" else 1
    shapes = list(dict.fromkeys(shape for tree in trees for shape in by_shape(tree.plan.cases)))
    if executor is None:
        watcher.started(passes * cases, [])
        crew = pair_crew(trees[0].plan, [tree.import_path for tree in trees])
        _on_one(_SlotPasses(trees, passes, watcher, shapes), crew)
        return
    slots = executor.slots()
    watcher.started(passes * cases * (len(slots) if on_each else 1), [])
    parts = {
        slot: _SlotPasses(trees, passes, watcher, shapes if on_each else shapes[number :: len(slots)])
        for number, slot in enumerate(slots)
    }
    units = {slot: part.units() for slot, part in parts.items()}
    dispatch(executor, _PairBooks(parts, watcher), lambda slot: next(units[slot], None))


def _on_one(part: _SlotPasses, crew: Crew) -> None:
    lane = Lane(crew)
    try:
        for unit in part.units():
            if unit.fresh:
                lane.prepare()
            sweep = part.sweeps[unit.side]
            lane.measure(unit.job, sweep.record, sweep.entered, unit.side)
    finally:
        lane.close()


class _SlotPasses:
    """All passes of one slot over its shapes; `sweeps` are those of the sides in the current pass."""

    def __init__(self, trees: Sequence[Tree], passes: int, watcher: Watcher, shapes: Sequence[Shape]) -> None:
        self.trees, self._passes, self._watcher, self._shapes = trees, passes, watcher, shapes
        self._stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
        self.sweeps: list[Sweep] = []

    def units(self) -> Iterator[Unit]:
        """Yield the jobs in their order; each must have ended before the next is asked for."""
        names = [{tree.plan.case_id(case) for case in tree.plan.cases} for tree in self.trees]
        done: set[str] = set()
        for number in range(self._passes):
            tag = {"pair": f"{self._stamp}-{number}"}
            self.sweeps = [Sweep(tree.plan, tree.out, self._watcher, tag) for tree in self.trees]
            fresh = True
            for index, shape in enumerate(self._shapes):
                sides = range(len(self.trees))
                for side in sides if (number + index) % 2 == 0 else reversed(sides):
                    if job := self._job(side, shape, done):
                        yield Unit(job, side, fresh)
                        fresh = False
            done |= {record.case_id for sweep in self.sweeps for record in sweep.records if not record.worked}
            done |= names[0] ^ names[1]  # cases of only one tree need no second figure

    def _job(self, side: int, shape: Shape, done: Collection[str]) -> Job | None:
        tree = self.trees[side]
        left = [
            case for case in tree.plan.cases if case.shape == shape and tree.plan.case_id(case) not in done
        ]
        if not left:
            return None
        self._watcher.measuring(tree.name)
        return self.sweeps[side].job(left)


class _PairBooks:
    """Books what happens on several slots, each in the sweeps of its current pass."""

    def __init__(self, parts: Mapping[Slot, _SlotPasses], watcher: Watcher) -> None:
        self._parts, self._watcher = parts, watcher

    def entered(self, case_id: str, phase: str, slot: Slot, unit: Unit) -> None:
        self._on(slot, unit).entered(case_id, phase)

    def measured(self, outcome: Outcome, slot: Slot, unit: Unit) -> None:
        self._on(slot, unit).record(outcome, slot)

    def idle(self, slot: Slot) -> None:
        self._watcher.on_slot(slot.name)
        self._watcher.entered("", "idle")

    def lost(self, slot: Slot, reason: str) -> None:
        raise LbenchError(f"{slot.name} is lost, and what it measured cannot be compared elsewhere: {reason}")

    def _on(self, slot: Slot, unit: Unit) -> Sweep:
        part = self._parts[slot]
        self._watcher.on_slot(slot.name)
        self._watcher.measuring(part.trees[unit.side].name)
        return part.sweeps[unit.side]
