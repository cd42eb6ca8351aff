"""From what a user asks for to plans: suites, with the axes that replace theirs, on a device."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lightning_bench.case import Device, Metric, ProtocolName
from lightning_bench.errors import UsageError
from lightning_bench.machine import Machine, describe_machine, detect_device
from lightning_bench.run.plan import Plan
from lightning_bench.run.sanitizer import SLOWDOWN, Sanitizer
from lightning_bench.suite import Overrides, Suite, default_suite, load_suite, suite_with_family
from lightning_bench.suite.axes import family_of

SANITIZED: Device = "cuda"
"""The device whose kernels a sanitizer can check."""


@dataclass(frozen=True)
class Settings:
    """How the cases are measured; None and {} leave it to the suite. `limits` are fields of `Limits`.

    With `elsewhere` the device may be one that is not here: the plan can be shown and not run. `machine` is
    that of the slots that measure; it decides the device.
    """

    device: Device | None = None
    machine: Machine | None = None
    time_limit_s: float | None = None
    protocol: ProtocolName | None = None
    graph: bool | None = None
    sanitizer: Sanitizer | None = None
    elsewhere: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)


def measuring_limits(*, quick: bool, processes: int | None) -> dict[str, float]:
    """Return the limits that replace those of a suite; `quick` is one process and ±5 %, a first look."""
    limits = {"processes": 1, "ci_percent": 5.0, "min_samples": 6, "sample_limit_s": 0.3} if quick else {}
    return limits if processes is None else {**limits, "processes": processes}


def check_providers(kernel: Sequence[object], against: Sequence[object], provider: Sequence[str]) -> None:
    """Raise UsageError for options that name providers and do not go together, or are half of a pair."""
    joining = [name for name in provider if name.startswith("+")]
    if joining and len(joining) < len(provider):
        raise UsageError(
            f"--provider {','.join(provider)}: some names have a + and some have none; with + before each "
            "they join the suite's providers, without they replace them"
        )
    if kernel and provider:
        raise UsageError(
            "--kernel and --provider do not go together: name what it is compared with by --against, or "
            "let it join a suite by --provider +file.py:NAME"
        )
    if against and not kernel:
        raise UsageError("--against names what --kernel is compared with: give --kernel file.py:NAME")


class Planner:
    """Plans suites for one command or call; UsageError for an axis or a device that is wrong."""

    def __init__(self, metric: Metric, overrides: Overrides, settings: Settings) -> None:
        self.metric, self.overrides, self.settings = metric, overrides, settings
        self._machines: dict[Device, Machine] = {}

    @property
    def _device(self) -> Device | None:
        return self.settings.machine.device if self.settings.machine else self.settings.device

    def load(self, name: str | None) -> Suite:
        """Return the suite of that name or path, or the default one of the device.

        Kernels run by default in a suite that has providers of their family.
        """
        if name is not None:
            return load_suite(name)
        device = self._device or detect_device()
        if self.overrides.kernels is not None:
            return suite_with_family({family_of(spec) for spec in self.overrides.kernels}, device)
        return load_suite(default_suite(device, self.metric))

    def plan(self, suite: Suite) -> Plan:
        """Return the plan; UsageError for axes that leave nothing to run, and a device that is missing."""
        settings, sanitizer = self.settings, self.settings.sanitizer
        device = self._device or suite.device or detect_device()
        if sanitizer is not None and device != SANITIZED:
            raise UsageError(
                f"--sanitizer {sanitizer.tool} checks kernels on a GPU; suite {suite.name} would run on "
                f"{device}. Leave it out, or give --device cuda on a machine with an NVIDIA GPU"
            )
        if settings.machine is not None:
            self._machines[device] = settings.machine
        elif device not in self._machines:
            self._machines[device] = describe_machine(device, elsewhere=settings.elsewhere)
        limits = suite.limits.model_copy(update=settings.limits)
        if settings.time_limit_s is not None:
            sampling = min(limits.sample_limit_s, 0.9 * settings.time_limit_s)
            update = {"time_limit_s": settings.time_limit_s, "sample_limit_s": sampling}
            limits = limits.model_copy(update=update)
        elif sanitizer is not None:
            limits = limits.model_copy(update={"time_limit_s": SLOWDOWN * limits.time_limit_s})
        if self.metric == "energy":  # a device that is slow to cool down is no fault of a case
            limit_s = limits.time_limit_s + limits.windows_limit_s
            limits = limits.model_copy(update={"time_limit_s": limit_s})
        plan = Plan.of(suite, self.metric, self._machines[device], self.overrides)
        if sanitizer is not None and any(case.shape.is_split for case in plan.cases):
            raise UsageError(
                f"--sanitizer {sanitizer.tool} watches one process, and suite {suite.name} has cases on "
                "several ranks: give --ranks 1"
            )
        return replace(
            plan,
            protocol=settings.protocol or suite.protocol,
            limits=limits,
            graph=plan.graph if settings.graph is None else settings.graph,
            seed=secrets.randbits(31),
            sanitizer=sanitizer,
        )
