"""How much two processes differ that measure the same: from a calibration of this machine, or assumed."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lightning_bench.errors import UsageError

SUFFIX = "-calibration.csv"

ASSUMED: dict[str, float] = {"cuda": 0.01, "cpu": 0.05}
"""Standard deviation of the log of a figure from process to process, by device, where none was measured."""


@dataclass(frozen=True)
class Calibration:
    """The noise floor of one case on one machine, as ``lbench calibrate`` measured it.

    Percentages are standard deviations of one process's figure: ``pair_noise_percent`` where two processes
    are measured side by side, as a trimmed mean sees it, with ``pair_df`` degrees of freedom;
    ``run_noise_percent`` over the whole calibration, disturbed processes too, with ``df``. The resolutions
    are the changes that a comparison of all calibrated cases finds in 95 % of runs.
    """

    case_id: str
    machine_id: str
    device: str
    pairs: int
    df: float
    pair_df: float
    pair_noise_percent: float
    run_noise_percent: float
    resolution_pairs: int
    resolution_percent: float
    resolution_two_runs_percent: float
    threshold_percent: float
    false_alarm_rate: float
    sweep_false_alarm_rate: float
    provider_version: str
    device_name: str
    harness_commit: str
    time_utc: str


@dataclass(frozen=True)
class Noise:
    """What the rule takes of a Calibration: log standard deviations, their degrees of freedom, the source."""

    pair: float
    run: float
    df: float
    pair_df: float
    source: str


class Noises:
    """Looks a case's noise up: its own calibration, else its machine's worst, else None."""

    def __init__(self, rows: Iterable[Calibration]) -> None:
        self._own: dict[tuple[str, str], Calibration] = {}
        self._by_machine: dict[str, list[Calibration]] = {}
        for row in sorted(rows, key=lambda one: one.time_utc):
            self._own[row.machine_id, row.case_id] = row
        for row in self._own.values():
            self._by_machine.setdefault(row.machine_id, []).append(row)

    def __bool__(self) -> bool:
        return bool(self._own)

    def of(self, machine_id: str, case_id: str) -> Noise | None:
        """The calibrated noise; of a case that was not calibrated the worst of its machine's."""
        own = self._own.get((machine_id, case_id))
        if own is not None:
            pair, run = own.pair_noise_percent / 100, own.run_noise_percent / 100
            return Noise(pair, run, own.df, own.pair_df, "calibrated")
        others = self._by_machine.get(machine_id)
        if not others:
            return None
        worst = max(others, key=lambda one: one.run_noise_percent)
        pair = max(one.pair_noise_percent for one in others)
        run = worst.run_noise_percent
        return Noise(pair / 100, run / 100, worst.df, worst.pair_df, "calibrated on other cases")


def assumed(device: str) -> Noise:
    """The stated default for one process a side."""
    return Noise(ASSUMED[device], ASSUMED[device], 1e9, 1e9, "assumed")


def write_calibration(path: Path, rows: Sequence[Calibration]) -> None:
    """Write the CSV; LbenchError's kin where that fails, and the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    try:
        with new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Calibration)], lineterminator="\n")
            writer.writeheader()
            for row in rows:
                cells = asdict(row)
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in cells.items()})
        new.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; give another --out") from error


def read_calibration(path: Path) -> list[Calibration]:
    """Raises UsageError where the file is not one that ``lbench calibrate`` wrote."""
    kinds = {"int": int, "float": float, "str": str}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [
                Calibration(
                    **{field.name: kinds[str(field.type)](row[field.name]) for field in fields(Calibration)}
                )
                for row in csv.DictReader(file)
            ]
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(
            f"{path} is not a calibration of lbench ({error!r}); run `lbench calibrate`"
        ) from None


def find_calibrations(beside: Iterable[Path]) -> list[Path]:
    """Files of ``lbench calibrate`` in results/ here and in the folders of the inputs."""
    folders = [path if path.is_dir() else path.parent for path in beside]
    found = [*Path("results").rglob(f"*{SUFFIX}"), *(f for one in folders for f in one.glob(f"*{SUFFIX}"))]
    return list({path.resolve(): path for path in sorted(found)}.values())
