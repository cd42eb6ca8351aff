"""The parent's side of a profile: one process per profiler, limited in time, and what each reports."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lightning_bench.errors import LbenchError
from lightning_bench.machine import Machine
from lightning_bench.machine.ceilings import Kept
from lightning_bench.machine.scratch import scratch_folder
from lightning_bench.profile.data import Mode, Profile, Request
from lightning_bench.profile.parent import counters, proton
from lightning_bench.profile.readings import read
from lightning_bench.providers import declared_provider

# Where NVIDIA's packages put ncu when they do not put it on PATH.
_NCU_PLACES = ("/usr/local/cuda*/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")


@dataclass(frozen=True)
class Options:
    """Which profilers besides torch's, and how long the process of each may run.

    `warm` keeps the user's Triton cache; else each case starts with an empty cache that its processes share.
    """

    ncu: bool = False
    proton: bool = False
    time_limit_s: float = 300.0
    warm: bool = False


@dataclass(frozen=True)
class _Ended:
    """How a process ended: exit code (None if it was killed at its limit), output, and answer, if any."""

    returncode: int | None
    printed: str
    answer: dict[str, Any]


def profile_case(
    request: Request,
    machine: Machine,
    kept: Kept | None,
    options: Options,
    say: Callable[[str], None] = lambda text: None,
) -> Profile:
    """Profile one case. `kept` are this machine's ceilings; with None the two that count are measured.

    `say` is called with a sentence before each profiler. Raises LbenchError if the case itself cannot be
    run. If Nsight Compute or Proton give nothing, a note says why.
    """
    if reason := declared_provider(request.provider).unavailable(request.device):
        raise LbenchError(
            f"{request.case.id} cannot run here: {reason}; `lbench providers --here` lists what can"
        )
    if kept is not None:
        ceilings = kept.ceilings.of(request.dtype)
        pair = (ceilings.gbps, ceilings.tflops, ceilings.l2_bytes)
        request = request.model_copy(update={"ceilings": pair})
    with scratch_folder() as folder:
        processes = _Processes(folder, request, options)
        say(f"profiling {request.case.id}")
        profile = processes.profile()
        if options.ncu:
            say("the same under Nsight Compute")
            profile = processes.add_counters(profile)
        if options.proton:
            say("the same under Proton")
            profile = processes.add_proton(profile)
    if kept is not None:
        source = f"lbench ceilings of {kept.time_utc}"
        roofline = profile.roofline.model_copy(update={"ceilings_from": source})
        profile = profile.model_copy(update={"roofline": roofline})
    origin = {
        "machine": {**asdict(machine), "machine_id": machine.id},
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    profile = profile.model_copy(update=origin)
    return profile.model_copy(update={"readings": read(profile)})


def find_ncu() -> str | None:
    """Return the path of Nsight Compute's command line, or None."""
    if found := shutil.which("ncu"):
        return found
    places = (path for pattern in _NCU_PLACES for path in sorted(glob.glob(pattern), reverse=True))
    return next((path for path in places if os.access(path, os.X_OK)), None)


class _Processes:
    """The processes of one case, which share a folder and a Triton cache."""

    def __init__(self, folder: Path, request: Request, options: Options) -> None:
        self.folder, self.request, self.options = folder, request, options
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
        if not options.warm:
            self.environment["TRITON_CACHE_DIR"] = str(folder / "triton")

    def profile(self) -> Profile:
        """Profile with torch.profiler. Raise LbenchError with what went wrong."""
        ended = self._run("profile")
        if "profile" in ended.answer:
            profile = Profile.model_validate(ended.answer["profile"])
            cache = "kept" if self.options.warm else "empty"
            return profile.model_copy(
                update={"timing": profile.timing.model_copy(update={"triton_cache": cache})}
            )
        raise LbenchError(f"{self.request.case.id}: {self._why(ended)}")

    def add_counters(self, profile: Profile) -> Profile:
        """Return the profile with Nsight Compute's figures, or with a note why there are none."""
        if profile.device != "cuda":
            return _noted(profile, "no counters: Nsight Compute needs a GPU")
        ncu = find_ncu()
        if ncu is None:
            return _noted(profile, "no counters: there is no ncu on PATH; install NVIDIA Nsight Compute")
        why = ""
        for metrics in (counters.METRICS, ()):
            text, ended = self._count(ncu, metrics)
            if "error" in ended.answer:
                return _noted(profile, f"no counters: under Nsight Compute, {ended.answer['error']}")
            try:
                found = counters.parse(text)
            except ValueError:
                why = counters.trouble(text, ended.returncode)
                if "metric" in why:  # this GPU or version does not have it: only the section set
                    continue
                break
            kernels, apart, note = counters.join(profile.kernels, found)
            return _noted(profile.model_copy(update={"kernels": kernels, "counters": apart}), note)
        return _noted(profile, f"no counters: {why}")

    def _count(self, ncu: str, metrics: Sequence[str]) -> tuple[str, _Ended]:
        """Return what ncu wrote to its log and printed, and how it ended."""
        log = self.folder / "ncu-table.txt"
        ended = self._run("ncu", lambda target: counters.command(ncu, str(log), target, metrics=metrics))
        written = log.read_text(errors="replace") if log.exists() else ""
        return f"{written}\n{ended.printed}", ended

    def add_proton(self, profile: Profile) -> Profile:
        """Return the profile with Proton's times, or with a note why there are none."""
        if profile.device != "cuda":
            return _noted(profile, "no times by Proton: it needs a GPU")
        ended = self._run("proton")
        if "done" not in ended.answer:
            return _noted(profile, f"no times by Proton: {self._why(ended)}")
        written = sorted(self.folder.glob("*.hatchet"))
        try:
            found = proton.parse(written[0].read_text(encoding="utf-8")) if written else ()
        except ValueError as error:
            return _noted(profile, f"no times by Proton: {error}")
        if not found:
            return _noted(profile, "no times by Proton: it wrote no file")
        return profile.model_copy(update={"proton": found})

    def _run(self, mode: Mode, around: Callable[[list[str]], list[str]] = lambda target: target) -> _Ended:
        """Run a child to its end or the time limit; `around` may wrap its command line in another program."""
        request, answer = self.folder / f"{mode}-request.json", self.folder / f"{mode}-answer.json"
        request.write_text(self.request.model_copy(update={"mode": mode}).model_dump_json(), encoding="utf-8")
        answer.unlink(missing_ok=True)
        target = [sys.executable, "-m", "lightning_bench.profile.capture.child", str(request), str(answer)]
        printed = self.folder / f"{mode}.log"
        with printed.open("wb") as log:
            process = subprocess.Popen(
                around(target),
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                returncode: int | None = process.wait(self.options.time_limit_s)
            except subprocess.TimeoutExpired:
                returncode = None
            finally:  # after an interrupt too: no process may stay on the GPU
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        result = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
        return _Ended(returncode, printed.read_text(errors="replace"), result)

    def _why(self, ended: _Ended) -> str:
        """Return why a process gave no result."""
        if "error" in ended.answer:
            return str(ended.answer["error"])
        if ended.returncode is None:
            limit = f"{self.options.time_limit_s:g} s"
            return f"not done within {limit}, and killed; --time-limit gives it more"
        lines = [line.strip() for line in ended.printed.splitlines() if line.strip()]
        died = f"died of {_signal_name(-ended.returncode)}"
        how = died if ended.returncode < 0 else "ended without a result"
        return f"its process {how}" + (f"; its last output: {lines[-1]}" if lines else "")


def _noted(profile: Profile, note: str) -> Profile:
    return profile.model_copy(update={"notes": (*profile.notes, note)}) if note else profile


def _import_path() -> list[str]:
    """Return where this process finds modules, so that a child finds the same ones."""
    return [os.path.abspath(entry) for entry in sys.path]


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
