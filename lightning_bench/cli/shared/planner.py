"""From the command line to plans: a suite, with the axes as typed, on a device of this machine."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lightning_bench.case import Device, Metric, ProtocolName
from lightning_bench.cli.shared.axis_options import Axes
from lightning_bench.cli.shared.common_options import Running
from lightning_bench.cli.shared.device import resolve_device
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.machine import Machine
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.sanitizer import Sanitizer
    from lightning_bench.suite import Suite

SANITIZED: Device = "cuda"
"""The device whose kernels a sanitizer can check."""


class Planner:
    """Plans suites for one command line; UsageError for an axis or a device that is wrong."""

    def __init__(
        self,
        metric: Metric,
        axes: Axes,
        running: Running,
        *,
        protocol: ProtocolName | None = None,
        graph: bool = False,
        sanitizer: Sanitizer | None = None,
        limits: Mapping[str, float] | None = None,
    ) -> None:
        self.metric, self.protocol, self.graph, self.sanitizer = metric, protocol, graph, sanitizer
        self.overrides = axes.overrides()
        self.device = None if running.device is None else resolve_device(running.device)
        self.time_limit, self.limits = running.time_limit, limits or {}
        self._machines: dict[Device, Machine] = {}

    def load(self, name: str | None) -> Suite:
        """Return the suite of that name or path, or the default one of the device."""
        from lightning_bench.suite import default_suite, load_suite

        return load_suite(name or default_suite(self.device or resolve_device(None)))

    def plan(self, suite: Suite) -> Plan:
        """Return the plan; UsageError for a device that is missing and for axes that leave nothing to run."""
        from lightning_bench.machine import describe_machine
        from lightning_bench.run.plan import Plan
        from lightning_bench.run.sanitizer import SLOWDOWN

        device = self.device or suite.device or resolve_device(None)
        if self.sanitizer is not None and device != SANITIZED:
            raise UsageError(
                f"--sanitizer {self.sanitizer.tool} checks kernels on a GPU; suite {suite.name} would run on "
                f"{device}. Leave it out, or give --device cuda on a machine with an NVIDIA GPU"
            )
        if device not in self._machines:
            self._machines[device] = describe_machine(device)
        limits = suite.limits.model_copy(update=self.limits)
        if self.time_limit is not None:
            sampling = min(limits.sample_limit_s, 0.9 * self.time_limit)
            limits = limits.model_copy(update={"time_limit_s": self.time_limit, "sample_limit_s": sampling})
        elif self.sanitizer is not None:
            limits = limits.model_copy(update={"time_limit_s": SLOWDOWN * limits.time_limit_s})
        return replace(
            Plan.of(suite, self.metric, self._machines[device], self.overrides),
            protocol=self.protocol or suite.protocol,
            limits=limits,
            graph=self.graph,
            seed=secrets.randbits(31),
            sanitizer=self.sanitizer,
        )
