"""What a worker is asked to measure, and what it answers. Plain data: both cross a process boundary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from lightning_bench.case import Case, Distribution, Metric, ProtocolName, Shape
from lightning_bench.record import Status
from lightning_bench.record.samples import sample_fields
from lightning_bench.suite import Limits

# Seconds of a worker are booked under these; everything else is overhead that a sweep should not have.
USEFUL_PHASES = frozenset({"warm-up", "oracle", "samples"})

Enter = Callable[[str, str], None]
"""Called with (case id, phase) before the work; the id is `""` for work that all cases of a job share."""


@dataclass(frozen=True)
class Job:
    """The cases of one shape and how to measure them."""

    cases: tuple[Case, ...]
    metric: Metric
    protocol: ProtocolName
    limits: Limits
    graph: bool = False
    seed: int = 0
    inputs: tuple[Distribution, ...] = ("normal",)

    @property
    def shape(self) -> Shape:
        """The shape that all cases share."""
        return self.cases[0].shape


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What measuring a case gives: the fields of a Record of these names, with its units.

    A figure that was not taken is None. Which are taken depends on the metric, the protocol and the status.
    """

    provider_config: str = ""
    seed: int | None = None
    checks: str = ""
    median_ms: float | None = None
    p20_ms: float | None = None
    p80_ms: float | None = None
    min_ms: float | None = None
    mean_ms: float | None = None
    ci_low_ms: float | None = None
    ci_high_ms: float | None = None
    median_cycles: float | None = None
    samples: int | None = None
    throttled_samples: int | None = None
    processes: int | None = None
    between_percent: float | None = None
    empty_us: float | None = None
    call_ms: float | None = None
    graph_ms: float | None = None
    tflops: float | None = None
    gbps: float | None = None
    model_flops: float | None = None
    model_bytes: float | None = None
    floor_ms: float | None = None
    floor_ratio: float | None = None
    ceiling_gbps: float | None = None
    ceiling_of: str = ""
    ceiling_tflops: float | None = None
    tokens_per_s: float | None = None
    mfu_percent: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    optimizer_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    compile_s: float | None = None
    energy_per_token_j: float | None = None
    call_mj: float | None = None
    token_mj: float | None = None
    rest_w: float | None = None
    energy_spread_percent: float | None = None
    first_loss: float | None = None
    loss: float | None = None
    parameters: int | None = None
    cache_mib: float | None = None
    extra_mib: float | None = None
    peak_mib: float | None = None
    saved_mib: float | None = None
    reserved_mib: float | None = None
    ideal_mib: float | None = None
    extra_ratio: float | None = None
    error_o: float | None = None
    error_dq: float | None = None
    error_dk: float | None = None
    error_dv: float | None = None
    error_dgate: float | None = None
    error_state: float | None = None
    error_budget: float | None = None
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttle: str = ""
    cpu_threads: int | None = None
    foreign_cpu_percent: float | None = None
    cpu_steal_percent: float | None = None
    cpu_wait_percent: float | None = None
    cpu_pressure_percent: float | None = None
    run_queue: float | None = None
    gpu_neighbours: str = ""


@dataclass(frozen=True)
class CaseSamples:
    """A case's line of the samples file: times in ms, and the clock readings beside them.

    `turns` are the numbers of samples kept of one turn, in order. `samples_mhz` has the SM clock during each
    sample, None if no clock is read in the stream. `graph_ms` is None if no replays were timed, `energy`
    if no windows of energy were taken.
    """

    samples_ms: list[float]
    turns: list[int]
    call_ms: list[float]
    clocks: list[dict[str, float]]
    samples_mhz: list[float | None] | None = None
    graph_ms: list[float] | None = None
    energy: list[dict[str, float]] | None = None

    def as_line(self) -> dict[str, object]:
        """Return the fields of the line, without those that were not taken."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Outcome:
    """How one case ended: its figures go to its row, its samples to the file beside it.

    Outside the process that measured it, an outcome is `sealed`: `sample_lines` are its samples as the file
    has them, one line per process, so that whoever writes the file neither holds nor formats numbers.
    """

    case: Case
    status: Status
    reason: str = ""
    figures: Figures = field(default_factory=Figures)
    samples: CaseSamples | None = None
    sample_lines: tuple[str, ...] = ()

    @property
    def sealed(self) -> Outcome:
        """The outcome with its samples as text."""
        if self.samples is None:
            return self
        return replace(self, samples=None, sample_lines=(sample_fields(self.samples.as_line()),))


Emit = Callable[[Outcome], None]


class CaseEnded(Exception):  # noqa: N818 - control flow: the case has its outcome
    """Raised by any step that ends a case before its last one, with the status and the figures so far."""

    def __init__(self, status: Status, reason: str, figures: Figures | None = None) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason
        self.figures = figures or Figures()
