"""From the command line to a plan: axes that replace a suite's, and the plan of a suite on a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_bench.case import DIRECTIONS, DTYPES, Device, Metric, ProtocolName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_bench.machine import Machine
    from lightning_bench.run.plan import Plan
    from lightning_bench.suite import Overrides, Suite


def axis_overrides(
    provider: Sequence[str] | None = None,
    seq_len: str | None = None,
    head_dim: str | None = None,
    value_dim: str | None = None,
    dtype: str | None = None,
    batch: str | None = None,
    heads: str | None = None,
    direction: str | None = None,
) -> Overrides:
    """The axes as typed; UsageError names the option that is wrong."""
    from lightning_bench.suite import Overrides, parse_ints, parse_providers, parse_words

    def lengths(text: str | None, option: str) -> tuple[int, ...] | None:
        return None if text is None else parse_ints(text, option)

    return Overrides(
        providers=None if not provider else parse_providers(",".join(provider)),
        seq_len=lengths(seq_len, "--seq-len"),
        head_dim=lengths(head_dim, "--head-dim"),
        value_dim=lengths(value_dim, "--value-dim"),
        batch=lengths(batch, "--batch"),
        heads=lengths(heads, "--heads"),
        dtype=None if dtype is None else parse_words(dtype, DTYPES, "--dtype"),
        direction=None if direction is None else parse_words(direction, DIRECTIONS, "--direction"),
    )


class Planner:
    """From a suite and the command line to a plan."""

    def __init__(
        self,
        metric: Metric,
        protocol: ProtocolName | None,
        overrides: Overrides,
        device: Device | None,
        time_limit: float | None,
        graph: bool,
    ) -> None:
        self.metric, self.protocol, self.overrides = metric, protocol, overrides
        self.device, self.time_limit, self.graph = device, time_limit, graph
        self._machines: dict[Device, Machine] = {}

    def plan(self, suite: Suite) -> Plan:
        """Raises UsageError for a device that is not here and for axes that leave nothing to run."""
        from lightning_bench.cli.shared.device import resolve_device
        from lightning_bench.machine import describe_machine
        from lightning_bench.run.plan import Plan, with_providers
        from lightning_bench.suite import expand

        device = self.device or suite.device or resolve_device(None)
        if device not in self._machines:
            self._machines[device] = describe_machine(device)
        limits = suite.limits
        if self.time_limit is not None:
            sampling = min(limits.sample_limit_s, 0.9 * self.time_limit)
            limits = limits.model_copy(update={"time_limit_s": self.time_limit, "sample_limit_s": sampling})
        return with_providers(
            Plan(
                suite=suite.name,
                metric=self.metric,
                protocol=self.protocol or suite.protocol,
                limits=limits,
                machine=self._machines[device],
                device=device,
                cases=tuple(expand(suite, self.overrides, device)),
                graph=self.graph,
            )
        )
