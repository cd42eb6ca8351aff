"""The noise between processes that measure the same: from a calibration of this machine, or assumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_bench.errors import UsageError
from lightning_bench.record.codec import Schema, csv_text, read_cells, replace_file
from lightning_bench.record.row_values import one_line

SUFFIX = "-calibration.csv"


@dataclass(frozen=True)
class Assumption:
    """The noise of one process where none was measured, as standard deviations of the log of its figure.

    `process` is each cell's own, `shared` what the cells of a provider and direction have in common
    (machine, day), `jitter_ms` a part that does not shrink with the time. `tuning` is that of a process whose
    autotuner chooses a configuration.
    """

    process: float
    shared: float
    jitter_ms: float
    tuning: float = 0.3

    def of(self, log_ms: float, *, self_tuning: bool) -> float:
        """Return the standard deviation of the log of a figure between processes."""
        own = math.hypot(self.process, self.jitter_ms / math.exp(log_ms))
        return max(own, self.tuning) if self_tuning else own


ASSUMED: dict[str, Assumption] = {
    "cuda": Assumption(process=0.01, shared=0.005, jitter_ms=0.001),
    "cpu": Assumption(process=0.05, shared=0.025, jitter_ms=0.0),
}
"""By device; test_compare_committed.py compares that of cuda with runs of several days."""

ASSUMED_DF = 5.0
"""Degrees of freedom of an assumed noise, of each side: a few cells are much noisier than assumed."""


@dataclass(frozen=True)
class Calibration:
    """The noise floor of one case on one GPU, as `lbench calibrate` measured it.

    In files of older versions `gpu_uuid` is blank: the row is of any GPU of the kind. Percentages are
    standard deviations of one process's figure: `pair_noise_percent` if two processes are measured side by
    side, as a trimmed mean sees it, with `pair_df` degrees of freedom; `run_noise_percent` over the whole
    calibration, with disturbed processes, with `df`. The resolutions are the changes that a comparison of
    all calibrated cases finds in 95 % of runs.
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
    gpu_uuid: str = ""


@dataclass(frozen=True)
class Noise:
    """The input of the rule: log standard deviations, their degrees of freedom, and their source."""

    pair: float
    run: float
    df: float
    pair_df: float
    source: str


class Noises:
    """The noise of cases: of their GPU's calibration, else the worst of their kind of machine, else None."""

    def __init__(self, rows: Iterable[Calibration]) -> None:
        self._own: dict[tuple[str, str], dict[str, Calibration]] = {}
        self._by_machine: dict[str, list[Calibration]] = {}
        for row in sorted(rows, key=lambda row: row.time_utc):
            self._own.setdefault((row.machine_id, row.case_id), {})[row.gpu_uuid] = row
        for (machine_id, _), of_case in self._own.items():
            self._by_machine.setdefault(machine_id, []).extend(of_case.values())

    def __bool__(self) -> bool:
        return bool(self._own)

    def of(self, machine_id: str, case_id: str, gpu_uuid: str = "") -> Noise | None:
        """Return the calibrated noise of a case on a GPU; blank is one that is not known.

        Without a calibration of this GPU it is the worst of other GPUs of its kind, and for a case that was
        not calibrated the worst of all cases.
        """
        of_case = self._own.get((machine_id, case_id), {})
        own = of_case.get(gpu_uuid) or of_case.get("")
        if own is not None:
            return _worst([own], "calibrated")
        if of_case:
            return _worst(
                list(of_case.values()), "calibrated" if not gpu_uuid else "calibrated on another GPU"
            )
        others = self._by_machine.get(machine_id)
        return _worst(others, "calibrated on other cases") if others else None


def _worst(rows: Sequence[Calibration], source: str) -> Noise:
    worst = max(rows, key=lambda row: row.run_noise_percent)
    pair = max(row.pair_noise_percent for row in rows)
    return Noise(pair / 100, worst.run_noise_percent / 100, worst.df, worst.pair_df, source)


def assumed(device: str, log_ms: float, *, self_tuning: bool = False) -> Noise:
    """Return the default for one process with this figure on this device."""
    each = ASSUMED[device].of(log_ms, self_tuning=self_tuning)
    return Noise(each, each, ASSUMED_DF, ASSUMED_DF, "assumed")


def write_calibration(path: Path, rows: Sequence[Calibration]) -> None:
    """Replace the CSV by these rows. Raises LbenchError if that fails, and the old file stays."""
    replace_file(path, csv_text(_SCHEMA.columns, map(_SCHEMA.cells, rows)))


def read_calibration(path: Path) -> list[Calibration]:
    """Return the rows of a calibration. Raises UsageError if `lbench calibrate` did not write the file."""
    if not path.exists():
        raise UsageError(f"cannot read {path}: No such file or directory")
    try:
        return [_SCHEMA.from_cells(cells) for cells in read_cells(path)]
    except ValueError as error:
        raise UsageError(f"{path} is not a calibration of lbench ({error}); run `lbench calibrate`") from None


def find_calibrations(beside: Iterable[Path]) -> list[Path]:
    """Return the files of `lbench calibrate` in results/ here and in the folders of the inputs `beside`."""
    folders = [path if path.is_dir() else path.parent for path in beside]
    found = list(Path("results").rglob(f"*{SUFFIX}"))
    found += (file for folder in folders for file in folder.glob(f"*{SUFFIX}"))
    return list({path.resolve(): path for path in sorted(found) if path.is_file()}.values())


def read_noises(given: Iterable[Path] | None = None, *, beside: Iterable[Path] = ()) -> Noises:
    """Return what these calibrations measured; without any, those that `find_calibrations` finds."""
    files = find_calibrations(beside) if given is None else given
    return Noises(row for file in files for row in read_calibration(file))


def _tidy(name: str) -> Callable[[Any], Any]:
    least = {"df": 1e-3, "pair_df": 1e-3}.get(name, 0.0)

    def tidy(value: Any) -> Any:
        if isinstance(value, int | float) and not least <= value <= _MOST:
            raise ValueError(f"{name}: {value!r} is out of range; allowed: from {least:g} to {_MOST:g}")
        return one_line(value) if isinstance(value, str) else value

    return tidy


_MOST = 1e9
_SCHEMA = Schema(Calibration, digits=6, tidy=_tidy)
