"""A figure that another tool measured, as a run that the rule of `lbench compare` can judge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lightning_bench.case import Device
from lightning_bench.comparison.sides import Run
from lightning_bench.machine.identity import digits
from lightning_bench.record import Record


@dataclass(frozen=True)
class ForeignPlace:
    """Where a tool measured: a CPU or a GPU, its name, and what else must agree for times to compare."""

    device: Device
    device_name: str = ""
    python: str = ""
    time_utc: str = ""


def foreign_run(
    case_id: str,
    provider: str,
    time_s: float,
    place: ForeignPlace,
    source: Path,
    *,
    spread: tuple[float, int],
) -> Run:
    """Return the run of a time in seconds, which must be above 0; ValueError for any other.

    `spread` is the relative standard deviation of the samples and their number, (0, 0) if the tool kept
    neither: then the noise that is assumed for the device decides. The file says nothing of shapes: a row
    has 1 and 0 for them.
    """
    if not (math.isfinite(time_s) and time_s > 0):
        raise ValueError(f"{case_id} has the time {time_s!r}, which is not above 0")
    deviation, count = spread
    record = Record(
        metric="speed",
        protocol="lbench",
        status="ok",
        case_id=case_id,
        provider=provider,
        family="",
        direction="fwd",
        dtype="fp32",
        batch=1,
        heads=0,
        seq_len=1,
        head_dim=0,
        value_dim=0,
        device=place.device,
        median_ms=1e3 * time_s,
        samples=count or None,
        device_name=place.device_name,
        python=place.python,
        machine_id=digits(f"{place.device_name} {place.python}"),
        time_utc=place.time_utc,
    )
    known = count > 1 and math.isfinite(deviation)
    return Run(
        record,
        source,
        math.log(1e3 * time_s),
        variance=deviation**2 / count if known else 0.0,
        df=count - 1.0 if known else 0.0,
    )
