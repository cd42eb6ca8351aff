"""Does what a process measured before change a time? The same cases in four orders, by `lbench speed`.

Run on an otherwise idle GPU, in the repository root:

    python benchmarks/order_of_shapes.py results/h200/order-of-shapes.csv --work sweeps --beside

One row per case and order, in this order of time: ``ascending`` and ``descending`` lengths, each length
``alone`` in a sweep of its own, whose processes have measured nothing before, and ``again``, ascending once
more: what two equal sweeps differ by. With ``--beside``, if there is another GPU, ``ascending-beside`` and
``descending-beside`` while it measures the same cases. ``change_percent`` is against ``ascending``, and
``inside`` is 1 if the median is in the 95 % interval that the row of ``ascending`` states. The summary also
says by how much each process of a sweep is off ``ascending``, by the median over its cases.

`lbench` measures the shapes of ``--seq-len`` in the order in which it is given, all in the same processes;
``--direction fwd bwd`` measures both of each shape in turns, as suite ``paper`` does. A sweep with one
process comes first, so that none of these has kernels to compile; it is not kept.

A sweep counts only if it ran from its first shape to its last: one that was stopped begins again, those
that are whole lie in ``--work``, and the same command goes on after them. On another GPU, or with other
versions or options, all are measured anew.

Exit codes: 0; 2, something is wrong or missing; 1, a sweep has failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rows import write_rows

from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.machine import describe_machine
from lightning_bench.machine.gpu import visible_gpus
from lightning_bench.machine.identity import digits
from lightning_bench.providers import get_provider
from lightning_bench.record import Record, read_records
from lightning_bench.record.row import CaseKey
from lightning_bench.record.samples import read_samples, sidecar_path
from lightning_bench.run.verify import verification

PROVIDERS = ("lightning2", "lightning-official", "flash2")
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
FIRST = "ascending"
LBENCH = (sys.executable, "-m", "lightning_bench")
# A sweep that is stopped ends its workers in this time.
STOP_S = 10.0


@dataclass(frozen=True)
class Order:
    """An order of lengths: those of each of its sweeps, and whether another GPU measures meanwhile."""

    name: str
    sweeps: tuple[tuple[int, ...], ...]
    beside: bool = False


def orders(lengths: Sequence[int], *, beside: bool) -> list[Order]:
    """Return the orders, each of the same lengths, as they are measured."""
    up = tuple(sorted(lengths))
    down = up[::-1]
    found = [
        Order(FIRST, (up,)),
        Order("descending", (down,)),
        Order("alone", tuple((length,) for length in up)),
        Order("again", (up,)),
    ]
    if beside:
        found += [Order("ascending-beside", (up,), True), Order("descending-beside", (down,), True)]
    return found


class Bench:
    """The sweeps of the options, in a folder where those that are whole stay."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._work: Path = options.work
        self._neighbour = neighbour(options.device) if options.beside else None
        machine = describe_machine(options.device)
        versions = [get_provider(name).version() for name in options.providers]
        self._state = [machine.id, machine.gpu_uuid, *versions]
        self.orders = orders(options.seq_len, beside=self._neighbour is not None)

    def measure(self) -> dict[str, list[Path]]:
        """Measure what is missing, and return the files of each order."""
        files = {order.name: [self.path(order, sweep) for sweep in order.sweeps] for order in self.orders}
        if not all(path.exists() for paths in files.values() for path in paths):
            self._warm_up()
        for order in self.orders:
            for sweep, path in zip(order.sweeps, files[order.name], strict=True):
                if not path.exists():
                    print(f"{order.name}: {', '.join(map(str, sweep))}", flush=True)
                    self._run(order, sweep, path)
        return files

    def path(self, order: Order, sweep: Sequence[int]) -> Path:
        """Return where a sweep is kept, by a name that is another for all that would change its times."""
        key = digits(json.dumps([self._words(sweep), self._state]))
        return self._work / f"{order.name}-{len(sweep)}x{sweep[0]}-{key}.csv"

    def _words(self, sweep: Sequence[int]) -> list[str]:
        options = self._options
        return [
            *("speed", options.suite, "--provider", ",".join(options.providers)),
            *("--direction", ",".join(options.direction), "--processes", str(options.processes)),
            *("--seq-len", ",".join(map(str, sweep)), "--quiet"),
        ]

    def _warm_up(self) -> None:
        path = self._work / "warm-up.csv"
        _remove(path)
        words = [*self._words(sorted(self._options.seq_len)), "--quick"]
        words[words.index("--processes") + 1] = "1"
        print("warm-up", flush=True)
        _measured([*words, "--device", self._options.device], None, path)
        _remove(path)

    def _run(self, order: Order, sweep: Sequence[int], target: Path) -> None:
        """Run a sweep from its start; its file gets its name at the end."""
        path = self._work / "unfinished.csv"
        _remove(path)
        words = self._words(sweep)
        other = [*words, "--device", str(self._neighbour)] if order.beside else None
        _measured([*words, "--device", self._options.device], other, path)
        if sidecar_path(path).exists():  # not if no case has a time
            sidecar_path(path).replace(sidecar_path(target))
        path.replace(target)


def neighbour(device: str) -> str | None:
    """Return the device on which a second sweep runs, None if there is no other one."""
    if device == "cpu":
        return "cpu"
    if visible_gpus() > 1:
        return "cuda:1"
    print("--beside: there is no other GPU; the orders beside a second sweep are left out")
    return None


def _measured(words: list[str], other: list[str] | None, path: Path) -> None:
    """Run a sweep into a file, and `other` again and again as long as it runs."""
    main = _lbench([*words, "--out", str(path)])
    beside: subprocess.Popen[bytes] | None = None
    try:
        while main.poll() is None:
            if other and (beside is None or beside.poll() is not None):
                if beside is not None and _failed(beside.returncode):
                    raise SystemExit(f"the sweep beside it has failed: exit code {beside.returncode}")
                _remove(path.with_name("beside.csv"))
                beside = _lbench([*other, "--out", str(path.with_name("beside.csv"))])
            with suppress(subprocess.TimeoutExpired):
                main.wait(0.2)
    finally:
        for process in filter(None, (main, beside)):
            _stop(process)
    if _failed(main.returncode):
        raise SystemExit(f"`lbench {' '.join(words)}` has failed: exit code {main.returncode}")


def _lbench(words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*LBENCH, *words])


def _failed(code: int) -> bool:
    """Return whether a sweep has not made its rows; some of them may be of cases that failed."""
    return code not in (ExitCode.OK, ExitCode.FOUND)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()


def _remove(path: Path) -> None:
    for each in (path, sidecar_path(path)):
        each.unlink(missing_ok=True)


def process_medians(paths: Sequence[Path]) -> dict[CaseKey, str]:
    """Return the medians of the processes that measured each row, ms, in their order, apart by `;`."""
    found: defaultdict[CaseKey, dict[int, float]] = defaultdict(dict)
    for path in paths:
        for line in read_samples(sidecar_path(path)).lines:
            found[line.key][line.process] = float(np.median(line.samples["samples_ms"]))
    return {key: ";".join(f"{of[number]:.6g}" for number in sorted(of)) for key, of in found.items()}


def rows_of(files: dict[str, list[Path]]) -> Iterator[dict[str, object]]:
    """Yield the row of each case in each order."""
    first = [record for path in files[FIRST] for record in read_records(path)]
    for name, paths in files.items():
        medians = process_medians(paths)
        for pair in verification(
            first, (record for path in paths for record in read_records(path))
        ).repetitions:
            change = None if name == FIRST or pair.change is None else 100.0 * pair.change
            yield {
                **_case(pair.now),
                "order": name,
                "status": pair.now.status,
                "median_ms": pair.now.median_ms,
                "ci_low_ms": pair.now.ci_low_ms,
                "ci_high_ms": pair.now.ci_high_ms,
                "process_medians_ms": medians.get(pair.now.key, ""),
                "change_percent": "" if change is None else f"{change:.4f}",
                "inside": "" if change is None else int(pair.inside),
                "device_name": pair.now.device_name,
                "gpu_uuid": pair.now.gpu_uuid,
                "provider_version": pair.now.provider_version,
                "torch": pair.now.torch,
                "harness_commit": pair.now.harness_commit,
                "time_utc": pair.now.time_utc,
            }


def _case(record: Record) -> dict[str, object]:
    names = ("provider", "direction", "seq_len", "batch", "heads", "head_dim", "dtype")
    return {name: getattr(record, name) for name in names}


def summary(rows: Sequence[dict[str, object]]) -> Iterator[str]:
    """Yield a line per provider, direction and order: how many cases are inside, and how far off they are."""
    groups: defaultdict[tuple[object, ...], list[dict[str, object]]] = defaultdict(list)
    for row in rows:
        if row["order"] != FIRST:
            groups[row["provider"], row["direction"], row["order"]].append(row)
    for (provider, direction, order), members in sorted(groups.items(), key=lambda group: str(group[0][:2])):
        changes = [float(str(row["change_percent"])) for row in members if row["change_percent"] != ""]
        inside = sum(row["inside"] == 1 for row in members)
        line = f"{provider} {direction} {order}: {inside} of {len(members)} inside"
        if changes:
            line += (
                f"; median change {statistics.median(changes):+.2f} %, "
                f"from {min(changes):+.2f} to {max(changes):+.2f} %"
            )
        if order != "alone" and (levels := process_levels(members)):
            line += f"; processes {', '.join(f'{level:+.2f}' for level in levels)} %"
        yield line


def process_levels(rows: Sequence[dict[str, object]]) -> list[float]:
    """Return by how many percent each process is off `ascending`: the median over the cases of one sweep.

    Of the cases that all its processes have measured.
    """
    changes: list[list[float]] = []
    for row in rows:
        if row["change_percent"] != "" and row["process_medians_ms"]:
            first_ms = float(str(row["median_ms"])) / (1 + float(str(row["change_percent"])) / 100)
            medians = map(float, str(row["process_medians_ms"]).split(";"))
            changes.append([100 * (median / first_ms - 1) for median in medians])
    most = max(map(len, changes), default=0)
    return np.median([each for each in changes if len(each) == most], axis=0).tolist() if most else []


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("out", type=Path, help="the CSV to write")
    made.add_argument("--work", type=Path, required=True, metavar="DIR", help="the folder of the sweeps")
    made.add_argument("--beside", action="store_true", help="also while another GPU measures the same")
    made.add_argument("--suite", default="paper", help="a name or a path (default: paper)")
    made.add_argument("--providers", nargs="+", default=PROVIDERS, metavar="NAME")
    made.add_argument("--seq-len", nargs="+", type=int, default=LENGTHS, metavar="N", help="in any order")
    made.add_argument("--direction", nargs="+", default=("bwd",), choices=["fwd", "bwd", "fwd_bwd"])
    made.add_argument("--processes", type=int, default=3, metavar="N")
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    return made


def main() -> int:
    """Measure what is left, write the CSV and print the summary; return the exit code."""
    options = parser().parse_args()
    try:
        files = Bench(options).measure()
    except UsageError as error:
        print(error, file=sys.stderr)
        return ExitCode.USAGE
    rows = list(rows_of(files))
    write_rows(options.out, rows)
    print(*summary(rows), sep="\n")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
