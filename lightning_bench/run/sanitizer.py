"""NVIDIA's compute-sanitizer around a worker: its command line, its log, and what that makes of an outcome.

Written from the manual of compute-sanitizer 2025.2 and 2026.3 and from `--help` of both.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path

from lightning_bench.errors import UsageError
from lightning_bench.measure.job import Outcome
from lightning_bench.words import counted

PROGRAM = "compute-sanitizer"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SLOWDOWN = 30
"""What a suite's time limit is multiplied by: instrumented kernels are 10 to 100 times slower."""

ENVIRONMENT = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
"""For the worker: within a block of torch's caching allocator, nothing would be out of bounds."""

_EXIT_CODE = 86
_MOST_PRINTED = 20
_LONGEST_TEXT = 500
# An access behind the end of a tensor must not land in the next allocation, where it would be allowed.
_PADDING_BYTES = 2**16
_PREFIX = "========="
_BESIDE_PYTHON = "nvidia/cu*/bin"  # the wheel nvidia-cuda-sanitizer-api
_TOOLKITS = "/usr/local/cuda*/bin"
_VERSION = re.compile(r"^Version (\d+)\.(\d+)", re.MULTILINE)
_VERSION_SECONDS = 20.0
# The release notes of 2025.4 to 2026.3 mend false races with mbarriers and warp groups. On an H200, 2025.3
# found 33 in lightning2, where 2026.4 finds none (results/h200/logs/racecheck.log).
RACECHECK_SOUND = (2026, 3)
_SUMMARY = re.compile(r"^ERROR SUMMARY: ([\d,]+) errors?\b(?! were not printed)")
_RACE_SUMMARY = re.compile(
    r"^RACECHECK SUMMARY: [\d,]+ hazards? displayed \(([\d,]+) errors?, ([\d,]+) warnings?\)"
)
# The program's words about itself, and not about a kernel.
_TROUBLE = re.compile(
    r"^(Error: (?!Race reported|Potential)|Internal|Target application|Device not supported|Unable|"
    r"Tracking kernels|Wait for)",
    re.IGNORECASE,
)
_WARNING = re.compile(r"^Warning: ", re.IGNORECASE)
_BACKTRACE = re.compile(r"^(Saved host backtrace|Host Frame|Device Frame)")


@dataclass(frozen=True)
class SanitizerLog:
    """What a log says: numbers of errors and warnings, the first error, and what kept it from a summary.

    `errors` is None if there is no summary and no error: nothing is known then.
    """

    errors: int | None
    warnings: int = 0
    first: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Sanitizer:
    """One of the tools of compute-sanitizer, the path of that program, and its version if that is known."""

    tool: str
    path: str
    version: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The tool and the program's version."""
        return " ".join(filter(None, [self.tool, self.version and "{}.{}".format(*self.version)]))

    def command(self, log: Path) -> list[str]:
        """Return the words that go before a worker's command line; the report goes to `log`.

        What the driver answers to calls of the host is left to the gate: libraries ask for what may fail.
        """
        only_memcheck = ["--report-api-errors", "no", "--padding", str(_PADDING_BYTES)]
        return [
            *(self.path, "--tool", self.tool, "--target-processes", "all", "--log-file", str(log)),
            *("--error-exitcode", str(_EXIT_CODE), "--check-exit-code", "no"),
            *("--print-limit", str(_MOST_PRINTED), "--show-backtrace", "no", "--demangle", "simple"),
            *(only_memcheck if self.tool == "memcheck" else []),
        ]

    def judged(self, outcome: Outcome, log: str) -> Outcome:
        """Return the outcome of a case that alone had a worker, `log` being the report on it.

        An error makes it `wrong`; a report that is not complete makes what was `ok` `crashed`.
        """
        report = read_report(log)
        status, reason = outcome.status, outcome.reason
        if report.errors:
            also = f"; {reason}" if status == "wrong" else ""
            reason = (
                f"{self.name} found {counted(report.errors, 'error')}{self._doubt()}: {report.first}{also}"
            )
            status = "wrong"
        elif status == "ok" and (report.errors is None or report.trouble):
            status = "crashed"
            reason = f"{self.tool} gave no whole report: {report.trouble or 'its log has no summary'}"
        elif status == "crashed" and report.trouble:
            reason += f"; {self.tool}: {report.trouble}"
        elif status in ("unavailable", "unsupported"):
            return outcome
        note = "no report" if report.errors is None else counted(report.errors, "error")
        if report.warnings:
            note += f", {counted(report.warnings, 'warning')}"
        checks = "; ".join(filter(None, [outcome.figures.checks, f"{self.name}: {note}"]))
        return replace(outcome, status=status, reason=reason, figures=replace(outcome.figures, checks=checks))

    def _doubt(self) -> str:
        """Return that errors of this version may be none."""
        if self.tool != "racecheck" or self.version is None or self.version >= RACECHECK_SOUND:
            return ""
        sound = "{}.{}".format(*RACECHECK_SOUND)
        return (
            f" (before {sound} it reports races that are none in kernels with mbarriers: confirm them with a "
            "newer one, pip install nvidia-cuda-sanitizer-api)"
        )


def find_sanitizer(tool: str, path: Path | None) -> Sanitizer:
    """Return the tool of the program at `path`, or of the newest that is found. Raise UsageError without one.

    It is looked for on PATH, in the CUDA toolkits of this machine and among the packages of this Python; of
    equally new ones the first is taken.
    """
    if path is not None:
        if not os.access(path, os.X_OK) or path.is_dir():
            raise UsageError(f"--compute-sanitizer {path} is not a program; give the path of {PROGRAM}")
        return Sanitizer(tool, str(path.absolute()), _version(str(path.absolute())))
    found = [Sanitizer(tool, place, _version(place)) for place in _places() if os.access(place, os.X_OK)]
    if found:
        return max(found, key=lambda sanitizer: sanitizer.version or (0, 0))
    raise UsageError(
        f"--sanitizer {tool} needs {PROGRAM}, which is neither on PATH nor in CUDA_HOME nor in {_TOOLKITS}. "
        "Install the CUDA toolkit, or `pip install nvidia-cuda-sanitizer-api`; or name the program: "
        "--compute-sanitizer PATH"
    )


def _places() -> Iterator[str]:
    if on_path := shutil.which(PROGRAM):
        yield on_path
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(variable):
            yield str(Path(home) / "bin" / PROGRAM)
    patterns = [_TOOLKITS, *(str(Path(folder) / _BESIDE_PYTHON) for folder in sys.path if folder)]
    for pattern in patterns:
        yield from sorted(glob(f"{pattern}/{PROGRAM}"), reverse=True)


def _version(path: str) -> tuple[int, int] | None:
    """Return year and number of the program's version, or None if it does not say."""
    try:
        said = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None
    found = _VERSION.search(said)
    return (int(found[1]), int(found[2])) if found else None


def read_report(log: str) -> SanitizerLog:
    """Read what compute-sanitizer has written to its log file."""
    errors: int | None = None
    found: list[list[str]] = []
    warnings, trouble = 0, ""
    for lines in _blocks(log):
        head = lines[0]
        if match := _SUMMARY.match(head) or _RACE_SUMMARY.match(head):
            errors = (errors or 0) + _number(match[1])
            warnings += _number(match[2]) if match.re is _RACE_SUMMARY else 0
        elif _TROUBLE.match(head):
            trouble = trouble or head.removeprefix("Error: ")
        elif not _WARNING.match(head) and ("SUMMARY:" not in head and head != PROGRAM.upper()):
            found.append(lines)
    if errors is None:  # it was killed before it could count; a message on a kernel says where in it, too
        found = [lines for lines in found if len(lines) > 1]
        errors = len(found) or None
    first = ", ".join(found[0]).replace(", and ", " and ") if found else "no message"
    first = re.sub("^error: ", "", first, flags=re.IGNORECASE)
    return SanitizerLog(errors, warnings, first[:_LONGEST_TEXT], trouble)


def _blocks(log: str) -> Iterator[list[str]]:
    """Yield the messages of a log, each as its lines without prefix and backtrace.

    The first line of a message is not indented, the others are.
    """
    lines: list[str] = []
    for line in log.splitlines():
        text = line.removeprefix(_PREFIX)
        if text == line or not text.strip():
            continue
        words = " ".join(text.split())
        if text.startswith("  "):
            if lines and not _BACKTRACE.match(words):
                lines.append(words)
            continue
        if lines:
            yield lines
        lines = [words]
    if lines:
        yield lines


def _number(text: str) -> int:
    return int(text.replace(",", ""))
