"""Whether recorded times hold: a random sample of rows, measured again on this machine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lightning_bench.case import Case, Direction, Shape
from lightning_bench.machine import Machine
from lightning_bench.providers import declared_provider, provider_names
from lightning_bench.record import Record, latest
from lightning_bench.record.row_values import one_line
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.suite import Limits, bundled_suites, load_suite

Cell = tuple[str, Direction, Shape]


@dataclass(frozen=True)
class Repetition:
    """A row and the one that measured its case again."""

    then: Record
    now: Record

    @property
    def inside(self) -> bool:
        """Whether the new time is in the interval that the row states; a case that fails now is not."""
        low, high, time = self.then.ci_low_ms, self.then.ci_high_ms, self.now.median_ms
        return None not in (low, high, time) and low <= time <= high  # type: ignore[operator]

    @property
    def change(self) -> float | None:
        """The new time over the old one, minus 1; None if the case has no time now."""
        if self.now.median_ms is None or self.then.median_ms is None:
            return None
        return self.now.median_ms / self.then.median_ms - 1.0


@dataclass(frozen=True)
class Verification:
    """What measuring a sample of rows again has shown."""

    repetitions: tuple[Repetition, ...]

    @property
    def inside(self) -> int:
        """How many new times are in the interval that their row states."""
        return sum(each.inside for each in self.repetitions)

    @property
    def share(self) -> float:
        """The share of them."""
        return self.inside / len(self.repetitions)

    @cached_property
    def changes(self) -> tuple[float, float, float] | None:
        """The median, the 90th percentile and the largest of the changes without their sign; None if none."""
        sizes = [abs(each.change) for each in self.repetitions if each.change is not None]
        if not sizes:
            return None
        median, most = np.percentile(sizes, [50, 90])
        return float(median), float(most), max(sizes)


@dataclass(frozen=True)
class Candidates:
    """Rows that can be measured again here, and how many cannot, by reason."""

    records: tuple[Record, ...]
    left_out: Counter[str]


def candidates(
    records: Iterable[Record], machines: Mapping[str, Machine], specs: Mapping[str, str]
) -> Candidates:
    """Return the latest row of each case that has a time and whose provider and device are here.

    `machines` are those of this host by device, `specs` how providers are found by the name in their rows.
    A provider of another version than in the row would be another measurement.
    """
    found: list[Record] = []
    left_out: Counter[str] = Counter()
    versions: dict[str, str] = {}
    for record in latest(records):
        if record.metric != "speed" or record.protocol != "lbench":
            continue
        name = record.provider
        if name in specs and name not in versions:
            versions[name] = one_line(declared_provider(specs[name]).version())
        machine = machines.get(record.device)
        if record.status != "ok":
            left_out["not ok"] += 1
        elif machine is None or one_line(machine.device_name) != record.device_name:
            left_out[f"of {record.device_name}"] += 1
        elif name not in specs:
            left_out[f"of {name}, which is not a provider here (a file's is named by --provider)"] += 1
        elif versions[name] != record.provider_version:
            left_out[f"of {name} {record.provider_version}; here is {versions[name] or 'none'}"] += 1
        else:
            found.append(record)
    return Candidates(tuple(found), left_out)


def sample(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Return `count` of the rows, or all if there are fewer, in their order."""
    chosen = random.Random(seed).sample(range(len(records)), min(count, len(records)))
    return [records[index] for index in sorted(chosen)]


def plans(records: Iterable[Record], machines: Mapping[str, Machine], specs: Mapping[str, str]) -> list[Plan]:
    """Return the plans that measure these rows again: one per device, suite and number of processes.

    Limits are those of the suite if it is a bundled one, else the defaults.
    """
    groups: dict[tuple[str, str, int], list[Case]] = {}
    for record in records:
        case = Case(shape=record.shape, provider=specs[record.provider], direction=record.direction)
        groups.setdefault((record.device, record.suite, record.processes or 1), []).append(case)
    known = set(bundled_suites())
    found = []
    for (device, suite, processes), cases in groups.items():
        limits = load_suite(suite).limits if suite in known else Limits()
        machine = machines[device]
        plan = Plan(
            suite=suite,
            metric="speed",
            protocol="lbench",
            limits=limits.model_copy(update={"processes": processes}),
            machine=machine,
            device=machine.device,
            cases=tuple(cases),
            seed=random.SystemRandom().getrandbits(31),
        )
        found.append(with_providers(plan))
    return found


def found_providers(specs: Iterable[str]) -> dict[str, str]:
    """Return how each provider is found by the name in its rows: those of `lbench providers`, and `specs`."""
    names = {name: name for name in provider_names()}
    return names | {declared_provider(spec).name: spec for spec in specs}


def verification(then: Iterable[Record], now: Iterable[Record]) -> Verification:
    """Join rows with those that measured their cases again; a case without a new row is left out."""
    new = {_cell(record): record for record in now}
    pairs = [Repetition(record, new[_cell(record)]) for record in then if _cell(record) in new]
    return Verification(tuple(pairs))


def _cell(record: Record) -> Cell:
    return record.provider, record.direction, record.shape
