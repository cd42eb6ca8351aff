"""Which of the committed files are to be measured, and why; and why one cannot be measured here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from benchmarks.committed_files import CommittedFile
from lightning_bench.case import Device
from lightning_bench.machine import Machine, describe_machine
from lightning_bench.machine.gpu import visible_gpus
from lightning_bench.providers import get_provider
from lightning_bench.record import read_records
from lightning_bench.record.codec import read_cells
from lightning_bench.words import counted
from scripts.stale_results import stale_results

RESULTS = Path(__file__).parents[1] / "results"


def stale_files(files: Sequence[CommittedFile], out: Path) -> dict[CommittedFile, list[str]]:
    """Return the files that are to be measured, in their order, and why.

    A file that is in `out` and not stale counts instead of that of results/.
    """
    due = {}
    for file in files:
        reasons = why_stale(file, RESULTS)
        if reasons and out != RESULTS and (out / file.path).exists():
            reasons = why_stale(file, out)
        if reasons:
            due[file] = reasons
    return due


def why_stale(file: CommittedFile, results: Path) -> list[str]:
    """Return why the file below `results` is stale: nothing if it is whole and of this repository."""
    path = results / file.path
    if not path.exists():
        return ["it does not exist"]
    return [*other_versions(file, path), *_lacking(file, path), *_of_others_only(file, path)]


def other_versions(file: CommittedFile, path: Path) -> list[str]:
    """Return which rows are of other kernels, models or floors, or that nobody knows."""
    reasons = [
        f"{each.rows} of {counted(each.total, 'row')}: {each.reason}" for each in stale_results([path])
    ]
    cells = read_cells(path)
    if file.ours and not file.cases and not (cells and "provider_version" in cells[0]):
        reasons.append("it does not say of which kernels it is")
    return reasons


def _lacking(file: CommittedFile, path: Path) -> list[str]:
    if not (cases := set(file.cases)):
        return []
    rows = {record.case_id: record for record in read_records(path) if record.case_id in cases}
    lacking = len(cases) - len(rows)
    # The package of such a row was not there: it has no version.
    absent = [row for row in rows.values() if row.status == "unavailable" and not row.provider_version]
    now = sum(get_provider(row.provider).unavailable(row.device) is None for row in absent)
    reasons = [f"it lacks {lacking} of {counted(len(cases), 'case')}"] if lacking else []
    return reasons + ([f"{counted(now, 'row')} lacked a package that is installed here"] if now else [])


def _of_others_only(file: CommittedFile, path: Path) -> list[str]:
    """Return that the file has no row of this machine; nothing on a machine that it is not for."""
    if not file.of_machine or not _is_for_this_machine(file):
        return []
    machine = machine_of(file)
    if machine.id in {row.get("machine_id") for row in read_cells(path)}:
        return []
    driver = f"driver {machine.driver}, " if machine.driver else ""
    return [f"it has no row of this machine ({driver}torch {machine.torch})"]


def _is_for_this_machine(file: CommittedFile) -> bool:
    if file.gpus and not visible_gpus():
        return False
    return machine_of(file).slug == file.folder.partition("-")[0]


def why_not(file: CommittedFile, anyway: bool) -> str:
    """Return why the file cannot be measured here, or ""; `anyway`: whatever packages its providers lack."""
    if file.gpus:
        if (here := visible_gpus()) < file.gpus:
            return f"it needs {counted(file.gpus, 'GPU')}, and {here} can be used here"
        if not _is_for_this_machine(file):
            return f"results/{file.folder} is not for this GPU, an {machine_of(file).device_name}"
    if missing := [name for name in file.needs if not _installed(name)]:
        return f"{', '.join(missing)} not installed"
    device = machine_of(file).device
    reasons = {name: get_provider(name).unavailable(device) for name in versions(file)}
    lacking = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason)
    return "" if anyway or not lacking else f"{lacking} (--anyway measures the others)"


def versions(file: CommittedFile) -> dict[str, str]:
    """Return the version of each provider in the sweeps of a file; "" if its package is not installed."""
    names = dict.fromkeys(case.partition("/")[0] for case in file.cases)
    return {name: get_provider(name).version() for name in names}


def machine_of(file: CommittedFile) -> Machine:
    """Return this machine, as a row of the file describes it. UsageError if it has no GPU and needs one."""
    return _machine("cuda" if file.gpus else "cpu")


@cache
def _machine(device: Device) -> Machine:
    return describe_machine(device)


def _installed(name: str) -> bool:
    """Return whether this is a package that can be imported, or a program."""
    with suppress(ModuleNotFoundError):  # of the package around it
        if find_spec(name) is not None:
            return True
    return shutil.which(name) is not None
