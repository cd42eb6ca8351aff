"""The parent's side: a process for each profiler that looks at a case, bounded in time, and what it saw."""

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
from tempfile import TemporaryDirectory
from typing import Any

from lightning_bench.errors import LbenchError
from lightning_bench.machine import Machine
from lightning_bench.machine.ceilings import Kept
from lightning_bench.profile.data import Mode, Profile, Request
from lightning_bench.profile.parent import counters, proton
from lightning_bench.profile.readings import read
from lightning_bench.providers import get_provider

# Where NVIDIA's packages put ncu when they do not put it on PATH.
_NCU_PLACES = ("/usr/local/cuda*/bin/ncu", "/opt/nvidia/nsight-compute/*/ncu")


@dataclass(frozen=True)
class Options:
    """Which profilers besides torch's, and how long the process of each may run.

    ``warm`` keeps the user's Triton cache; else each case starts with an empty one that its processes share.
    """

    ncu: bool = False
    proton: bool = False
    time_limit_s: float = 300.0
    warm: bool = False


@dataclass(frozen=True)
class _Ended:
    """How a process ended: None for one that was killed at its limit; what it printed; its answer, if any."""

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
    """Profile one case. ``kept`` are this machine's ceilings; None has the two that count measured.

    Raises LbenchError where the case itself cannot be run. Where Nsight Compute or Proton give nothing, a
    note says why.
    """
    if reason := get_provider(request.provider).unavailable(request.device):
        raise LbenchError(f"{request.case.id} cannot run here: {reason}")
    if kept is not None:
        ceilings = kept.ceilings.of(request.dtype)
        pair = (ceilings.gbps, ceilings.tflops, ceilings.l2_bytes)
        request = request.model_copy(update={"ceilings": pair})
    with TemporaryDirectory(prefix="lbench-profile-") as folder:
        work = _Work(Path(folder), request, options)
        say(f"profiling {request.case.id}")
        profile = work.profile()
        if options.ncu:
            say("the same under Nsight Compute")
            profile = work.add_counters(profile)
        if options.proton:
            say("the same under Proton")
            profile = work.add_proton(profile)
    told: dict[str, Any] = {
        "machine": {**asdict(machine), "machine_id": machine.id},
        "time_utc": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if kept is not None:
        source = f"lbench ceilings of {kept.time_utc}"
        told["roofline"] = profile.roofline.model_copy(update={"ceilings_from": source})
    profile = profile.model_copy(update=told)
    return profile.model_copy(update={"readings": read(profile)})


def find_ncu() -> str | None:
    """Where Nsight Compute's command line is, or None."""
    if found := shutil.which("ncu"):
        return found
    places = (path for pattern in _NCU_PLACES for path in sorted(glob.glob(pattern), reverse=True))
    return next((path for path in places if os.access(path, os.X_OK)), None)


class _Work:
    """The processes of one case, which share a folder and a Triton cache."""

    def __init__(self, folder: Path, request: Request, options: Options) -> None:
        self.folder, self.request, self.options = folder, request, options
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
        if not options.warm:
            self.environment["TRITON_CACHE_DIR"] = str(folder / "triton")

    def profile(self) -> Profile:
        """By torch.profiler. Raises LbenchError with what went wrong."""
        ended = self._run("profile")
        if "profile" in ended.answer:
            profile = Profile.model_validate(ended.answer["profile"])
            cache = "kept" if self.options.warm else "empty"
            return profile.model_copy(
                update={"timing": profile.timing.model_copy(update={"triton_cache": cache})}
            )
        raise LbenchError(f"{self.request.case.id}: {self._why(ended)}")

    def add_counters(self, profile: Profile) -> Profile:
        """The profile with Nsight Compute's figures, or with a note why there are none."""
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
                if "metric" in why:  # one that this GPU or version does not have: the section set alone
                    continue
                break
            kernels, apart, note = counters.join(profile.kernels, found)
            return _noted(profile.model_copy(update={"kernels": kernels, "counters": apart}), note)
        return _noted(profile, f"no counters: {why}")

    def _count(self, ncu: str, metrics: Sequence[str]) -> tuple[str, _Ended]:
        """What ncu wrote to its log and printed, and how it ended."""
        log = self.folder / "ncu-table.txt"
        ended = self._run("ncu", lambda target: counters.command(ncu, str(log), target, metrics=metrics))
        written = log.read_text(errors="replace") if log.exists() else ""
        return f"{written}\n{ended.printed}", ended

    def add_proton(self, profile: Profile) -> Profile:
        """The profile with Proton's times, or with a note why there are none."""
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
        """Run a child, ``around`` which another program may stand, to its end or the time limit."""
        asked, answered = self.folder / f"{mode}-request.json", self.folder / f"{mode}-answer.json"
        asked.write_text(self.request.model_copy(update={"mode": mode}).model_dump_json(), encoding="utf-8")
        answered.unlink(missing_ok=True)
        target = [sys.executable, "-m", "lightning_bench.profile.capture.child", str(asked), str(answered)]
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
            finally:  # an interrupt too: nothing may stay behind on the GPU
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        answer = json.loads(answered.read_text(encoding="utf-8")) if answered.exists() else {}
        return _Ended(returncode, printed.read_text(errors="replace"), answer)

    def _why(self, ended: _Ended) -> str:
        """What to tell of a process that gave no result."""
        if "error" in ended.answer:
            return str(ended.answer["error"])
        if ended.returncode is None:
            limit = f"{self.options.time_limit_s:g} s"
            return f"not done within {limit}, and killed; --time-limit gives it more"
        lines = [line.strip() for line in ended.printed.splitlines() if line.strip()]
        died = f"died of {_signal_name(-ended.returncode)}"
        how = died if ended.returncode < 0 else "ended without a result"
        return f"its process {how}" + (f"; its last words: {lines[-1]}" if lines else "")


def _noted(profile: Profile, note: str) -> Profile:
    return profile.model_copy(update={"notes": (*profile.notes, note)}) if note else profile


def _import_path() -> list[str]:
    """Where this process finds modules, so that a child finds the same ones."""
    return [os.path.abspath(entry) for entry in sys.path]


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
