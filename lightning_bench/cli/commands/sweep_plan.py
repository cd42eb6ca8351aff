"""`--dry-run`: what a sweep would measure, how long it will take and how much memory it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_bench.errors import UsageError
from lightning_bench.words import counted, duration

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.record import Record
    from lightning_bench.run.estimate import Estimate
    from lightning_bench.run.plan import Plan


_NEEDED = {
    "train": "weights, gradients and the optimizer's moments",
    "generate": "weights and states, or keys and values,",
}


@dataclass(frozen=True)
class PlannedCase:
    """A case that would be measured: the memory that it needs at least, that it took, and if it can run."""

    suite: str
    case_id: str
    needs_mib: float
    recorded_peak_mib: float | None
    recorded_on: str
    here: str


def show_plans(sink: Sink, plans: Sequence[Plan], slots: int = 1) -> None:
    """Print every case of the plans with its memory, and below them each plan's estimate on so many slots."""
    from lightning_bench.run.estimate import estimated_time

    earlier = _earlier_rows()
    rows = [row for plan in plans for row in _planned(plan, earlier)]
    estimates = []
    for plan in plans:
        gpu = _missing_gpu(plan)  # elsewhere any library may be installed
        why_not = plan.unsupported if gpu else plan.why_not
        cases = [case for case in plan.cases if why_not(case) is None]
        estimates.append((plan, len(cases), gpu, estimated_time(plan, cases, earlier).on(slots)))
    if sink.as_json:
        sink.data(
            {
                "cases": [asdict(row) for row in rows],
                "estimates": [
                    {"suite": plan.suite, "metric": plan.metric, "cases": count, **asdict(estimate)}
                    for plan, count, _, estimate in estimates
                ],
            }
        )
        return
    sink.grid(["suite", "MiB", "peak", "case", "why not here"], [_cells(row) for row in rows])
    for plan, count, gpu, estimate in estimates:
        sink.say(_in_words(plan, count, estimate))
        if gpu:
            sink.say(f"{plan.suite} cannot run here: {gpu}")
    sink.say(_memory_in_words(rows, _NEEDED.get(plans[0].metric, "inputs and outputs")))


def _planned(plan: Plan, earlier: Sequence[Record]) -> list[PlannedCase]:
    from lightning_bench.run.estimate import needed_mib, recorded_peaks_mib

    peaks = recorded_peaks_mib(plan, earlier)
    here = "no GPU" if _missing_gpu(plan) else "yes"
    rows = []
    for case in plan.cases:
        name = plan.case_id(case)
        peak, device = peaks.get(name, (None, ""))
        why_not = plan.why_not(case)
        rows.append(PlannedCase(plan.suite, name, needed_mib(plan, case), peak, device, why_not or here))
    return rows


def _cells(row: PlannedCase) -> list[str]:
    peak = "" if row.recorded_peak_mib is None else f"{row.recorded_peak_mib:,.1f}"
    return [
        row.suite,
        f"{row.needs_mib:,.1f}",
        peak,
        row.case_id,
        "" if row.here in ("yes", "no GPU") else row.here,
    ]


def _earlier_rows() -> list[Record]:
    """Return the rows below results/, by which the plan is estimated; none if they cannot be read."""
    from lightning_bench.record import read_rows

    try:
        return [row.record for row in read_rows([Path("results")]).rows]
    except UsageError:
        return []


def _missing_gpu(plan: Plan) -> str:
    """Return why the device of the plan is not here, "" if it is."""
    from lightning_bench.machine.gpu import why_no_gpu

    return why_no_gpu() if plan.device == "cuda" else ""


def _in_words(plan: Plan, count: int, estimate: Estimate) -> str:
    many = f"{counted(len(plan.cases), 'case')}, {plan.processes} × each"
    if not count:
        return f"{plan.suite} {plan.metric}: {many}, of which none can run"
    if count < len(plan.cases):
        many += f", of which {count} can run"
    time = "time unknown" if estimate.seconds is None else f"about {duration(estimate.seconds)}"
    return f"{plan.suite} {plan.metric}: {many}: {time} ({estimate.basis})"


def _memory_in_words(rows: Sequence[PlannedCase], what: str) -> str:
    most = max(rows, key=lambda row: row.needs_mib)
    text = f"{what} take at least {most.needs_mib:,.1f} MiB ({most.case_id})"
    recorded = [row for row in rows if row.recorded_peak_mib is not None]
    if not recorded:
        return text
    peak = max(recorded, key=lambda row: row.recorded_peak_mib or 0.0)
    return f"{text}; the largest recorded peak is {peak.recorded_peak_mib:,.1f} MiB ({peak.case_id}, " + (
        f"{peak.recorded_on})"
    )
