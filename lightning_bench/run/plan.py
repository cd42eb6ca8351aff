"""The plan of a sweep: its cases by shape, without those that the result file has already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lightning_bench.case import TIMED, Case, Device, Distribution, Metric, ProtocolName, Shape
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine
from lightning_bench.providers import declared_provider, load_error
from lightning_bench.providers.registry.base import Provider
from lightning_bench.record import FAILED, Record
from lightning_bench.record.row_values import one_line
from lightning_bench.run.sanitizer import Sanitizer
from lightning_bench.suite import Limits, Overrides, Suite, expand

_PROCESSES: dict[Device, int] = {"cuda": 3, "cpu": 1}
RETRIED = FAILED | {"oom", "unstable"}


@dataclass(frozen=True)
class PlannedProvider:
    """A provider, and what the parent process can know of it without importing its library."""

    provider: Provider
    version: str
    unavailable: str | None
    broken: str | None = None
    """Why not even this can be known: its cases crash."""

    @classmethod
    def of(cls, provider: Provider, device: Device) -> PlannedProvider:
        """Ask a provider for its version and whether it can run on `device`."""
        version = ""
        try:
            version = provider.version()
            return cls(provider, version, provider.unavailable(device))
        except (Exception, SystemExit) as error:
            return cls(provider, version, None, load_error(error))


@dataclass(frozen=True)
class Plan:
    """The cases of a sweep and how to measure them."""

    suite: str
    metric: Metric
    protocol: ProtocolName
    limits: Limits
    machine: Machine
    device: Device
    cases: tuple[Case, ...]
    graph: bool = False
    seed: int = 0
    inputs: tuple[Distribution, ...] = ("normal",)
    sanitizer: Sanitizer | None = None
    providers: dict[str, PlannedProvider] = field(default_factory=dict)

    @classmethod
    def of(cls, suite: Suite, metric: Metric, machine: Machine, overrides: Overrides | None = None) -> Plan:
        """Return the plan of a suite as it is on a machine, with its providers looked up.

        Raise UsageError if the overrides leave no case.
        """
        plan = cls(
            suite=suite.name,
            metric=metric,
            protocol=suite.protocol,
            limits=suite.limits,
            machine=machine,
            device=machine.device,
            cases=tuple(expand(suite, overrides or Overrides(), machine.device, metric)),
            inputs=suite.inputs,
            graph=suite.graph,
        )
        return with_providers(plan)

    @property
    def processes(self) -> int:
        """How many processes measure each case: those that the limits name, else 3 on a GPU and 1 on a CPU.

        Memory, errors and what protocol `paper` repeats are measured in one.
        """
        if self.metric not in TIMED or self.protocol != "lbench":
            return 1
        return self.limits.processes or _PROCESSES[self.device]

    def case_id(self, case: Case) -> str:
        """Return the id that the row of this case has, by the name of its provider."""
        return one_line(case.id_by(self.providers[case.provider].provider.name))

    def why_not(self, case: Case) -> str | None:
        """Return why a case will not run here, as far as what its provider declares tells; or None.

        A library may have further limits, which only a worker knows, that has loaded it.
        """
        planned = self.providers[case.provider]
        return planned.unavailable or planned.broken or self.unsupported(case)

    def unsupported(self, case: Case) -> str | None:
        """Return which declaration of its provider rules a case out on every machine, or None."""
        return Provider.unsupported(self.providers[case.provider].provider, case.shape, case.direction)

    def key(self, case: Case) -> tuple[str, str, str, str, str]:
        """Return the key of the row that this case will have."""
        version = one_line(self.providers[case.provider].version)
        return self.metric, self.protocol, self.case_id(case), version, self.machine.id

    def split(self, records: Iterable[Record], *, retry: bool) -> tuple[list[Case], list[Record]]:
        """Return (cases still to do, rows that stay).

        With `retry`, rows that failed are measured again; so are always those that fewer processes have
        measured than this plan has. With a sanitizer, only rows of cases that have run under it stay, and
        those of cases that cannot run.
        """
        rows = {record.key: record for record in records}
        pending: list[Case] = []
        standing: list[Record] = []
        for case in self.cases:
            row = rows.get(self.key(case)) if rows else None
            few = row is not None and row.worked and (row.processes or 1) < self.processes
            if row is None or few or (retry and row.status in RETRIED) or not self._covers(row):
                pending.append(case)
            else:
                standing.append(row)
        return pending, standing

    def _covers(self, row: Record) -> bool:
        if self.sanitizer is None or row.status in ("unavailable", "unsupported"):
            return True
        return f"{self.sanitizer.tool}:" in row.checks


def with_providers(plan: Plan) -> Plan:
    """Add every provider of the plan's cases, looked up once, and return the plan.

    Raise UsageError if two have one name, by which rows know them.
    """
    for case in plan.cases:
        if case.provider not in plan.providers:
            provider = declared_provider(case.provider)
            plan.providers[case.provider] = PlannedProvider.of(provider, plan.device)
    by_name: dict[str, str] = {}
    for spec, planned in plan.providers.items():
        name = planned.provider.name
        if (other := by_name.setdefault(name, spec)) != spec:
            raise UsageError(
                f"two providers are named {name}: {other} and {spec}; rows tell providers apart by their "
                "names, so rename one of them"
            )
    return plan


def by_shape(cases: Iterable[Case]) -> dict[Shape, list[Case]]:
    """Return the cases that share inputs, by shape, in order of first appearance."""
    groups: dict[Shape, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.shape, []).append(case)
    return groups
