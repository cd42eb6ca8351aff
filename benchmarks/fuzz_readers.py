"""Feed every reading command of `lbench` files that are damaged or hostile, and count how each ends.

Run in the repository root, on any machine; nothing is measured and no GPU is used:

    python -m benchmarks.fuzz_readers results/cpu/fuzz-readers.csv --count 10000 --seed 1

A mutation takes a whole result file, sidecar, calibration, file of ceilings or suite, damages it by a rule
drawn from `benchmarks.hostile`, and runs one command on it in this process, half of them as GitHub would.
The CSV has one row per command and exit code: how many mutations ended so, and how many of them broke a rule:

- no traceback, no hang, and an exit code that `lightning_bench.errors` documents;
- no terminal escape and no workflow command from data in what is printed;
- no file outside the folder of `--out`; JSON, JUnit XML and SVG that their readers take.

It is written again after every 500. The exit code is 1 if a rule was broken. `--only NUMBER` runs one
mutation again and shows what it printed. `--start NUMBER` leaves out those before NUMBER, which the CSV has
counted already, and adds to its counts.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import io
import json
import multiprocessing
import os
import random
import re
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import hostile
from lightning_bench.errors import ExitCode
from lightning_bench.record.codec import csv_text, replace_file

Counts = Counter[tuple[str, str]]

HANG_S = 60.0
_COMMAND = re.compile(
    r"^\s*::(?!(error|warning) title=lbench compare::|error title=[A-Z]+ )|##\[", re.MULTILINE
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Hang(BaseException):
    """A command did not end; no handler of `Exception` takes it for an error of its own."""


@dataclass
class Ended:
    """How one command ended: its words, exit code (None after a hang), output and broken rules."""

    words: list[str]
    code: int | None = None
    out: str = ""
    err: str = ""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def command(self) -> str:
        """Return the command with what chooses its format."""
        kept = [
            self.words[index + 1] if word == "--format" else word
            for index, word in enumerate(self.words)
            if word in _CHOICES
        ]
        return " ".join([self.words[0], *kept])


_CHOICES = (
    "--format",
    "--json",
    "--markdown",
    "--junit",
    "--against",
    "--plot",
    "--calibration",
    "--dry-run",
    "--out",
)

COMMANDS: dict[str, Sequence[str]] = {
    "rows": (
        "report mutated",
        "report mutated --format md",
        "report mutated --format tex",
        "report mutated --format html",
        "report mutated --format csv",
        "report mutated --mix",
        "report mutated --against published",
        "report mutated --out out --format svg,csv",
        "compare whole/rows.csv mutated --all",
        "compare mutated whole/rows.csv --json",
        "compare whole/rows.csv mutated --markdown --across-machines",
        "compare mutated whole/rows.csv --junit out/junit.xml",
        "compare mutated --provider lightning2 --against flash2",
        "history mutated --case lightning2/fwd/*n64* --machine machine-a",
        "history mutated --by date --json --case lightning2/fwd/*n64* --machine machine-a",
        "history mutated --plot out/history.svg --case lightning2/fwd/*n64* --machine machine-a",
        "check unavailable.toml --device cpu --out {file}",
    ),
    "samples": (
        "compare whole/rows.csv mutated --all",
        "compare mutated whole/rows.csv --json",
        "report mutated --format html",
        "check unavailable.toml --device cpu --out {file}",
    ),
    "calibration": (
        "compare whole/rows.csv whole/rows.csv --calibration {file} --all",
        "compare whole/rows.csv whole/rows.csv --calibration {file} --json",
        "compare whole/rows.csv mutated",
    ),
    "ceilings": ("ceilings --device cpu --out {file}", "ceilings --device cpu --json --out {file}"),
    "suite": (
        "suites {file} --device cpu",
        "suites {file} --device cpu --json",
        "speed {file} --device cpu --dry-run",
        "memory {file} --device cpu --dry-run --json",
    ),
}
SHARES = {"rows": 9, "samples": 4, "calibration": 2, "ceilings": 2, "suite": 3}


def mutation(number: int, seed: int, folder: Path, hang_s: float = HANG_S) -> Ended:
    """Damage one file of a new workspace in `folder` and run one command on it."""
    draw = random.Random(f"{seed}-{number}")
    kind = draw.choices(list(SHARES), list(SHARES.values()))[0]
    file = hostile.workspace(folder, kind, draw)
    words = [word.format(file=file) for word in draw.choice(COMMANDS[kind]).split()]
    before = set(folder.rglob("*"))
    with contextlib.chdir(folder):
        ended = run(words, github=draw.random() < 0.5, hang_s=hang_s)
    inside = ("out", "mutated")
    written = (path.relative_to(folder) for path in set(folder.rglob("*")) - before)
    ended.faults += [f"wrote {path}" for path in sorted(written) if path.parts[0] not in inside]
    ended.faults += _invalid(ended, folder / "out")
    return ended


def run(words: list[str], *, github: bool, hang_s: float = HANG_S) -> Ended:
    """Run `lbench` with these words in this process and return how it ended; its files are not checked."""
    from lightning_bench.cli import main

    ended = Ended(words)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2)]
    environment = {"GITHUB_ACTIONS": "true"} if github else {}
    begin = time.monotonic()
    with _replaced(words, streams, environment), _limited(hang_s):
        try:
            main()
        except SystemExit as error:
            ended.code = error.code if isinstance(error.code, int) else 0
        except Hang:
            ended.faults.append("hang")
    ended.seconds = time.monotonic() - begin
    for stream in streams:
        stream.flush()
    ended.out, ended.err = (stream.buffer.getvalue().decode() for stream in streams)
    if "Traceback (most recent call last)" in ended.err:
        ended.faults.append("traceback")
    if ended.code is not None and ended.code not in set(ExitCode):
        ended.faults.append(f"exit code {ended.code}")
    if github and _COMMAND.search(ended.out + "\n" + ended.err):
        ended.faults.append("workflow command")
    if "traceback" not in ended.faults and _CONTROL.search((ended.out + ended.err).replace("\r\n", "\n")):
        ended.faults.append("control character")
    return ended


def _invalid(ended: Ended, out: Path) -> Iterator[str]:
    """Yield what the readers of the formats do not take."""
    if "--json" in ended.words and ended.code in (0, 1):
        try:
            json.loads(ended.out, parse_constant=_refuse)
        except ValueError as error:
            yield f"JSON: {error}"
    for path in [*out.rglob("*.xml"), *out.rglob("*.svg")]:
        try:
            ET.parse(path)
        except ET.ParseError as error:
            yield f"{path.suffix}: {error}"
    for path in out.rglob("*.csv"):
        for line in path.read_text().split("\n"):
            if re.match(r"[=@]", line) or re.search(r",\"?[=@]", line):
                yield "formula"
                break


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@contextlib.contextmanager
def _replaced(
    words: list[str], streams: Sequence[io.TextIOWrapper], environment: dict[str, str]
) -> Iterator[None]:
    kept = sys.argv, sys.stdout, sys.stderr, dict(os.environ)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "LBENCH_TRACEBACK", "FORCE_COLOR"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    sys.argv, (sys.stdout, sys.stderr) = ["lbench", *words], streams
    try:
        yield
    finally:
        sys.argv, sys.stdout, sys.stderr = kept[:3]
        os.environ.clear()
        os.environ.update(kept[3])


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(numbers: Sequence[int], seed: int, hang_s: float = HANG_S) -> Iterator[tuple[int, Ended]]:
    """Yield every mutation with how it ended."""
    with _instead_of_measuring():
        for number in numbers:
            with tempfile.TemporaryDirectory(prefix="lbench-fuzz-") as name:
                yield number, mutation(number, seed, Path(name).resolve(), hang_s)
            gc.unfreeze()  # `compare` freezes what it read, for a process that ends


@contextlib.contextmanager
def _instead_of_measuring() -> Iterator[None]:
    """Let `lbench ceilings`, which measures where it finds no row, take fixed figures."""
    from lightning_bench.machine.ceilings import DeviceCeilings
    from lightning_bench.measure.device import peaks

    measure = peaks.measure_device
    peaks.measure_device = lambda device: DeviceCeilings(copy_gbps=10.0, fp32_tflops=0.1, threads=1)
    try:
        yield
    finally:
        peaks.measure_device = measure


def _judged(asked: tuple[int, int]) -> tuple[str, str, str]:
    """Return the command of one mutation, its exit code, and a line on the rules that it broke, if any."""
    ((number, ended),) = fuzz([asked[0]], asked[1])
    code = "hang" if ended.code is None else str(int(ended.code))
    if not ended.faults:
        return ended.command, code, ""
    places = re.findall(r'File ".*/([\w/]+\.py)", line (\d+)', ended.err) or [("", "")]
    last = ended.err.split("Traceback (most", 1)[-1].strip().splitlines()[-2:]
    words = [" ".join(ended.words), "; ".join(ended.faults), ":".join(places[-1]), *last]
    return ended.command, code, f"{number}: {' | '.join(words)[:600]}"


def main() -> int:
    """Run the mutations, write the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description="Fuzz the reading commands of lbench.")
    parser.add_argument("csv", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--start", type=int, default=0, metavar="NUMBER")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="Processes.")
    parser.add_argument("--only", type=int, metavar="NUMBER")
    asked = parser.parse_args()
    if asked.only is not None:
        for _, ended in fuzz([asked.only], asked.seed):
            print(ended.words, ended.code, ended.faults, ended.out, ended.err, sep="\n")
        return 0
    ends, faulty = Counts(), Counts()
    if asked.start:
        ends, faulty = read_counts(asked.csv)
        if ends.total() != asked.start:
            parser.error(f"{asked.csv} has counted {ends.total()} mutations: give --start {ends.total()}")
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        numbers = ((number, asked.seed) for number in range(asked.start, asked.count))
        for command, code, fault in pool.imap_unordered(_judged, numbers, chunksize=20):
            ends[command, code] += 1
            faulty[command, code] += bool(fault)
            if fault:
                print(fault, flush=True)
            if ends.total() % 500 == 0 or ends.total() == asked.count:
                print(f"{ends.total()} mutations, {faulty.total()} faults", flush=True)
                if asked.csv is not None:
                    write_counts(asked.csv, ends, faulty)
    return int(faulty.total() > 0)


def read_counts(path: Path) -> tuple[Counts, Counts]:
    """Return how many mutations ended so, and how many of them broke a rule, by command and exit code."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ends, faulty = (
        Counts({(row["command"], row["exit_code"]): int(row[name]) for row in rows})
        for name in ("mutations", "faults")
    )
    return ends, faulty


def write_counts(path: Path, ends: Counts, faulty: Counts) -> None:
    """Write the CSV; what `read_counts` returns."""
    rows = [
        {"command": command, "exit_code": code, "mutations": count, "faults": faulty[command, code]}
        for (command, code), count in sorted(ends.items())
    ]
    replace_file(path, csv_text(["command", "exit_code", "mutations", "faults"], rows))


if __name__ == "__main__":
    sys.exit(main())
