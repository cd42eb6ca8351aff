"""Measure the committed results anew: what is stale, in order of importance, in as many parts as it takes.

Run in the root of the repository, on a machine of the kind after which the folder of results/ is named:

    python -m benchmarks.run_all --list              # what is stale, why, and how long it takes
    python -m benchmarks.run_all --budget 480        # measure for eight minutes; the same again goes on
    python -m benchmarks.run_all --out new           # into new/h200/... instead of results/h200/...

The files, their commands and their order are those of benchmarks/committed_files.py. A file is stale if it
does not exist, if it is of other kernels, models or floors (scripts/stale_results.py), if it lacks cases of
its suite, or, for ceilings, if it has no row of this kind of machine; with `--out`, a file that is there and
not stale counts instead of that of results/.

Each file is measured in a folder of its own below `unfinished/` and replaces the old one once it is whole,
so that no file has rows of two versions. A sweep that was stopped goes on from its rows, and so do scripts
that can; the others begin only if they are likely to end in time. What was begun with other kernels, models,
peers, columns or commands, or on another kind of machine, is thrown away. A file that only lacks cases, or a
machine, keeps its rows; one of memory, training or generation, whose cases are measured one by one, those of
the models here and of the versions that are installed, too.

To measure on a machine that is lent for minutes, copy the folder of `--out` there and back each time: it
holds what is finished and what is not. Exit codes: 0, every command that was run has worked; 1, one failed;
130, interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.committed_files import FILES, CommittedFile, is_sweep
from benchmarks.stale_files import RESULTS, machine_of, other_versions, stale_files, versions, why_not
from lightning_bench.errors import ExitCode, UsageError
from lightning_bench.machine import harness_commit
from lightning_bench.machine.gpu import usable_gpus
from lightning_bench.record import ResultFile, read_records
from lightning_bench.record.codec import read_cells, replace_file
from lightning_bench.record.row import COLUMNS
from lightning_bench.record.samples import sidecar_path
from lightning_bench.words import counted, duration
from scripts.stale_results import model_fault, repository_version, stale_results

ROOT = Path(__file__).parents[1]
NOTE = "begun.json"
LBENCH = (sys.executable, "-m", "lightning_bench")
# A command is asked to stop so long before the budget ends; what still runs then is killed.
GRACE_S = 15.0
# Starting torch, compiling, and one case: in less time a sweep would measure nothing.
LEAST_S = 30.0
_WHAT_STAYS = {True: "it goes on from its rows", False: "its last command begins again"}


@dataclass(frozen=True)
class Outcome:
    """What became of a file: `done`, `left`, `skipped` or `failed`, and a few words on it."""

    status: str
    words: str


@dataclass(frozen=True)
class Run:
    """Where results go, which GPUs the sweeps take, and when all must have ended."""

    out: Path
    gpus: str | None = None
    anyway: bool = False
    deadline: float = math.inf

    def left_s(self) -> float:
        """Return how many seconds a command has until it is asked to stop."""
        return self.deadline - time.monotonic() - GRACE_S


def measure(file: CommittedFile, run: Run) -> Outcome:
    """Run the commands of a file that are left, and put it into its place if all have worked."""
    if run.left_s() < min(needed_s(file, command) for command in file.commands):
        return Outcome("left", "no time for a part of it")
    folder, done, seconds = _begin(file, run)
    for number, command in enumerate(file.commands[done:], start=done + 1):
        if run.left_s() < (needed := needed_s(file, command)):
            return Outcome("left", f"the next command takes about {duration(needed)}")
        words = command_words(file, command, folder, run.gpus)
        print(f"\n{file.path}: {shlex.join(words[1:])}", flush=True)
        begin = time.monotonic()
        code = _run(words, environment(file), run)
        seconds += time.monotonic() - begin
        _note(folder, file, number - 1, seconds)
        if code is None:
            return Outcome("left", f"stopped; {_WHAT_STAYS[_goes_on(file, command)]}")
        if code != ExitCode.OK and not (is_sweep(command) and code == ExitCode.FOUND):
            return Outcome("failed", f"exit code {code} of `{command}`; what it wrote is in {folder}")
        _note(folder, file, number, seconds)
    return _finish(file, folder, run, seconds)


def environment(file: CommittedFile) -> dict[str, str]:
    """Return the environment of its commands, which see no more GPUs than the folder of results/ has."""
    if file.gpus < 2:
        return dict(os.environ)
    return os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in usable_gpus()[: file.gpus])}


def _goes_on(file: CommittedFile, command: str) -> bool:
    return is_sweep(command) or file.resumes


def needed_s(file: CommittedFile, command: str) -> float:
    """Return the time without which a command is not begun."""
    return LEAST_S if _goes_on(file, command) else file.seconds / len(file.commands)


def command_words(file: CommittedFile, command: str, folder: Path, gpus: str | None) -> list[str]:
    """Return the command as a process of this Python, whose files go to `folder`."""
    words = shlex.split(command.replace("{}", shlex.quote(str(folder))))
    words = [*(LBENCH if words[0] == "lbench" else (sys.executable,)), *words[1:]]
    if is_sweep(command):
        words.append("--quiet")
        if "--out" not in words:
            words += ["--out", str(folder / file.inside)]
        if gpus and file.gpus < 2:
            words += ["--gpus", gpus]
    return words


def _begin(file: CommittedFile, run: Run) -> tuple[Path, int, float]:
    """Return the folder in which the file is measured, how many of its commands are done, and their seconds.

    Of commands that were stopped, too.
    """
    folder = run.out / "unfinished" / file.name
    note = folder / NOTE
    if note.exists():
        before = json.loads(note.read_text())
        done, seconds = before.pop("done"), before.pop("seconds", 0.0)
        if before == _state(file) and not _stale_within(folder):
            return folder, done, seconds
        print(f"{file.path}: what was begun is of another version or machine, and is thrown away", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for results in (run.out, RESULTS):
        path = results / file.path
        if file.of_machine and path.exists():
            shutil.copy(path, folder / file.inside)
            break
        if path.exists() and (file.is_apart or (file.cases and not other_versions(file, path))):
            _go_on(file, path, folder / file.inside)
            break
    _note(folder, file, 0, 0.0)
    return folder, 0, 0.0


def _begun(file: CommittedFile, run: Run) -> tuple[float, str]:
    """Return which share of an unfinished file is done, and that in words: 0 and "" if it was not begun."""
    folder = run.out / "unfinished" / file.name
    if not (folder / NOTE).exists():
        return 0.0, ""
    if cases := set(file.cases):
        measured = cases & {row["case_id"] for row in read_cells(folder / file.inside)}
        return len(measured) / len(cases), f"with {len(measured)} of {counted(len(cases), 'case')}"
    done = json.loads((folder / NOTE).read_text())["done"]
    return done / len(file.commands), f"with {done} of {counted(len(file.commands), 'command')}"


def _stale_within(folder: Path) -> bool:
    try:
        return bool(stale_results([folder]))
    except UsageError:  # the torn end of a row; the sweep mends it
        return False


def _go_on(file: CommittedFile, source: Path, target: Path) -> None:
    """Copy the rows that this kind of machine has measured with the versions and models that are here."""
    here, machine = versions(file), machine_of(file).id
    with ResultFile(target) as copy:
        for record in read_records(source):
            same_version = here.get(record.provider) == record.provider_version
            if record.machine_id == machine and same_version and model_fault(record) is None:
                copy.append(record)
    if sidecar_path(source).exists():
        shutil.copy(sidecar_path(source), sidecar_path(target))


def _state(file: CommittedFile) -> dict[str, object]:
    """Return what must stay as it is for a file that was begun to be gone on with."""
    return {
        "kernels": repository_version(),
        "peers": versions(file),
        "machine": machine_of(file).id,
        "columns": list(COLUMNS),
        "commands": list(file.commands),
    }


def _note(folder: Path, file: CommittedFile, done: int, seconds: float) -> None:
    replace_file(folder / NOTE, json.dumps({**_state(file), "done": done, "seconds": round(seconds, 1)}))


def _run(words: Sequence[str], variables: dict[str, str], run: Run) -> int | None:
    """Run a command to its end and return its exit code, or stop it in time and return None."""
    process = subprocess.Popen(
        words, cwd=ROOT, env=variables, process_group=0
    )  # Ctrl-C is for this process only
    try:
        return process.wait(None if math.isinf(run.deadline) else max(0.0, run.left_s()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        with suppress(ProcessLookupError):  # what it has started and left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _finish(file: CommittedFile, folder: Path, run: Run, seconds: float) -> Outcome:
    """Move what was measured to where it belongs; a folder replaces that which is there."""
    if not (folder / file.inside).exists():
        return Outcome("failed", f"no command wrote {folder / file.inside}")
    if _begun(file, run)[0] < 1:
        return Outcome("failed", f"the commands ended without all cases; what they wrote is in {folder}")
    source = folder / Path(file.inside).parts[0]
    target = run.out / file.folder / source.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
    else:
        sidecar_path(target).unlink(missing_ok=True)
        if sidecar_path(source).exists():
            sidecar_path(source).rename(sidecar_path(target))
        source.replace(target)
    shutil.rmtree(folder)
    with suppress(OSError):  # other files are unfinished
        folder.parent.rmdir()
    cells = read_cells(run.out / file.path)
    counts = Counter(row.get("status", "") for row in cells)
    statuses = ", ".join(f"{count} {status}" for status, count in counts.items())
    took = f"took {duration(seconds)}, the list says {duration(file.seconds)}"
    return Outcome("done", f"{statuses if file.cases else counted(len(cells), 'row')}; {took}")


def _named(files: Sequence[CommittedFile], names: Sequence[str]) -> list[CommittedFile]:
    """Return the files of these names, as `paper-speed.csv` or `h200/paper-speed.csv`, in their order."""
    by_name = {name: file for file in files for name in (file.inside, file.path, f"results/{file.path}")}
    if unknown := [name for name in names if name not in by_name]:
        raise UsageError(
            f"not in the list: {', '.join(unknown)}; it has {', '.join(file.path for file in files)}"
        )
    chosen = {by_name[name] for name in names}
    return [file for file in files if file in chosen]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--list", action="store_true", help="say what is stale and why; run nothing")
    made.add_argument("--dry-run", action="store_true", help="show the commands that would run; run nothing")
    made.add_argument(
        "--budget", type=float, default=math.inf, metavar="SECONDS", help="end within this time"
    )
    made.add_argument("--only", nargs="+", default=[], metavar="FILE", help="only these, as in the list")
    made.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="in place of results/")
    made.add_argument(
        "--gpus", metavar="LIST", help="for the sweeps, as `lbench speed --gpus` takes it: all, or 0,1"
    )
    made.add_argument(
        "--anyway", action="store_true", help="also sweeps whose providers are not all installed"
    )
    return made


def main(arguments: Sequence[str] | None = None, files: Sequence[CommittedFile] = FILES) -> int:
    """Measure what is stale, say what is left, skipped and failed, and return the exit code."""
    begin = time.monotonic()
    options = parser().parse_args(arguments)
    try:
        chosen = _named(files, options.only) if options.only else list(files)
    except UsageError as error:
        parser().error(str(error))
    run = Run(options.out.resolve(), options.gpus, options.anyway, begin + options.budget)
    due = stale_files(chosen, run.out)
    if options.list:
        _show_list(due, run, len(chosen))
        return ExitCode.OK
    if not options.dry_run:
        _warn_of_commit(harness_commit())
    outcomes: dict[CommittedFile, Outcome] = {}
    code = ExitCode.OK
    try:
        for file in due:
            reason = why_not(file, run.anyway)
            if options.dry_run:
                _show_commands(file, run, reason)
            else:
                outcomes[file] = Outcome("skipped", reason) if reason else measure(file, run)
    except KeyboardInterrupt:
        outcomes[file] = Outcome("left", "interrupted")
        code = ExitCode.INTERRUPTED
    if not options.dry_run:
        _show_outcomes(due, outcomes, run)
    failed = any(outcome.status == "failed" for outcome in outcomes.values())
    return code or (ExitCode.FOUND if failed else ExitCode.OK)


def _warn_of_commit(commit: str) -> None:
    if not commit:
        print("warning: the rows will not say of which commit they are: set LBENCH_COMMIT", file=sys.stderr)
    elif commit.endswith("-dirty"):
        print(f"warning: the rows will be of {commit}: commit the changes first", file=sys.stderr)


def _show_list(due: dict[CommittedFile, list[str]], run: Run, count: int) -> None:
    total = 0.0
    for file, reasons in due.items():
        share, words = _begun(file, run)
        seconds = file.seconds * (1 - share)
        total += seconds
        print(", ".join(filter(None, (file.path, f"about {duration(seconds)}", words))))
        print("".join(f"    {reason}\n" for reason in reasons), end="")
    print(f"{len(due)} of {counted(count, 'file')} to measure: about {duration(total)} on one GPU")


def _show_commands(file: CommittedFile, run: Run, reason: str) -> None:
    print(f"{file.path}, about {duration(file.seconds)}" + (f": skipped: {reason}" if reason else ""))
    for command in file.commands:
        words = command_words(file, command, run.out / "unfinished" / file.name, run.gpus)
        print(f"  {shlex.join(words)}")


def _show_outcomes(due: Iterable[CommittedFile], outcomes: dict[CommittedFile, Outcome], run: Run) -> None:
    print()
    for file in due:
        outcome = outcomes.get(file, Outcome("left", "not begun in this run"))
        words = ", ".join(filter(None, (outcome.words, _begun(file, run)[1])))
        print(f"{file.path}: {outcome.status}: {words}")
    counts = Counter(outcomes[file].status if file in outcomes else "left" for file in due)
    print(", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing is stale")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a job that is cancelled leaves nothing behind
    sys.exit(main())
