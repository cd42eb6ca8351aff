"""One worker's work: check, then measure, the cases of a shape. Lives in the worker process alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from lightning_bench.case import Case, Device, Dtype, Family
from lightning_bench.errors import Unavailable
from lightning_bench.families.work import Work
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.measure import paper
from lightning_bench.measure.calls import DirectionCall, direction_call
from lightning_bench.measure.check import TENSORS, Reference, poisoned
from lightning_bench.measure.device import memory
from lightning_bench.measure.device.clocks import make_clocks, summarize_clocks
from lightning_bench.measure.device.peaks import measure_ceilings
from lightning_bench.measure.device.timer import CudaTimer, capture_graph, make_timer
from lightning_bench.measure.inputs import TORCH_DTYPES, InputSet
from lightning_bench.measure.job import Job, Outcome
from lightning_bench.measure.sampling import StopRule, summarize
from lightning_bench.measure.speed import Task, run_rounds, take_turn, warm_up
from lightning_bench.providers import get_provider, load_error
from lightning_bench.providers.registry.base import Provider
from lightning_bench.record import Status

_OOM_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")

# Workspaces of cuBLAS and the like, which stay with the process.
_SPARE_BYTES = 2**28

# Warm-up may take this share of the sampling limit.
_WARM_SHARE = 0.25

Enter = Callable[[str, str], None]
Emit = Callable[[Outcome], None]


class PoisonedError(Exception):
    """The CUDA context is lost, or memory is: what this process measures from now on cannot be trusted."""


class _Ended(Exception):  # noqa: N818 - control flow: the case has its outcome
    def __init__(self, status: Status, reason: str, figures: dict[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason
        self.figures = figures or {}


class _NoGraphError(Exception):
    """Why there is no graph_ms; the other figures stand."""


@dataclass
class _Ready:
    """A case that passed the gate."""

    case: Case
    provider: Provider
    call: DirectionCall
    figures: dict[str, Any] = field(default_factory=dict)


class Session:
    """Measures jobs on one device. Providers, ceilings and the timer are kept from job to job."""

    def __init__(self, device: Device) -> None:
        self.device: Device = device
        self._timer = make_timer(device)
        self._clocks = make_clocks(device)
        self._meter = memory.make_meter(device)
        self._ceilings: dict[Dtype, Ceilings] = {}

    def run(self, job: Job, enter: Enter, emit: Emit) -> None:
        """Measure a job; ``emit`` gets one outcome a case, ``enter`` is told (case id, phase) beforehand.

        Raises PoisonedError when that cannot be done in this process; cases without an outcome then must run
        again in another.
        """
        self.assert_clean(0)
        run = _JobRun(self, job, enter, emit)
        try:
            run.all()
        finally:
            del run
            self._release()

    def ceilings(self, dtype: Dtype) -> Ceilings:
        """Measured once a dtype."""
        if dtype not in self._ceilings:
            self._ceilings[dtype] = measure_ceilings(self.device, dtype)
            self._release()
        return self._ceilings[dtype]

    def assert_clean(self, own_bytes: int) -> None:
        """Raise PoisonedError where more than a job's own tensors is held: somebody before did not let go."""
        if self.device == "cuda":
            held = torch.cuda.memory_allocated() - own_bytes
            if held > _SPARE_BYTES:
                raise PoisonedError(f"{held / memory.MIB:.0f} MiB are still held by a case that has ended")

    def _release(self) -> None:
        if isinstance(self._timer, CudaTimer):
            self._timer.release()
        gc.collect()
        if self.device == "cuda":
            try:
                torch.cuda.empty_cache()
            except RuntimeError as error:
                raise PoisonedError(load_error(error)) from error


class _JobRun:
    """The state of one job: shared inputs and references, released when it ends."""

    def __init__(self, session: Session, job: Job, enter: Enter, emit: Emit) -> None:
        self.session, self.job, self.enter, self.emit = session, job, enter, emit
        self._references: dict[Family, Reference] = {}
        limits = job.limits
        self._rule = StopRule(
            ci_percent=limits.ci_percent,
            min_samples=limits.min_samples,
            max_samples=limits.max_samples,
            sample_limit_s=limits.sample_limit_s,
        )

    def all(self) -> None:
        """Every case of the job, each to its outcome."""
        loaded = self._loaded()
        if not loaded:
            return
        interleave = self.job.metric == "speed" and self.job.protocol == "lbench"
        if interleave:
            self.enter("", "warm-up")
            self.session.ceilings(self.job.shape.dtype)
        self.enter("", "inputs")
        try:
            self._inputs = InputSet(self.job.shape, self.job.seed)
        except (RuntimeError, MemoryError) as error:
            if not _is_oom(error):
                raise
            for case, _ in loaded:
                self.emit(Outcome(case, "oom", "the inputs alone do not fit: " + load_error(error)))
            return
        if interleave:
            self._interleaved(loaded)
            return
        for case, provider in loaded:
            with self._outcome(case):
                self._one(case, provider)

    def _loaded(self) -> list[tuple[Case, Provider]]:
        """Cases whose provider loads and takes them; the others get their outcome here."""
        loaded = []
        for case in self.job.cases:
            with self._outcome(case):
                self.enter(case.id, "load")
                provider = get_provider(case.provider)
                try:
                    provider.load()
                except (ImportError, OSError, Unavailable) as error:
                    raise _Ended("unavailable", load_error(error)) from error
                if reason := provider.unsupported(case.shape, case.direction):
                    raise _Ended("unsupported", reason)
                loaded.append((case, provider))
        return loaded

    def _interleaved(self, loaded: list[tuple[Case, Provider]]) -> None:
        """All cases in shuffled rounds; what does not fit beside the others runs alone afterwards."""
        ready: list[tuple[_Ready, Task]] = []
        beside, alone = (loaded, []) if len(loaded) > 1 else ([], loaded)
        for case, provider in beside:
            try:
                with self._outcome(case, oom_ends=False):
                    ready.append(self._prepare(case, provider))
            except (RuntimeError, MemoryError):  # out of memory beside the others
                alone.append((case, provider))
                self.session._release()
        self._time(ready)
        ready.clear()
        for case, provider in alone:
            self.session._release()
            self.session.assert_clean(self._own_bytes())
            with self._outcome(case):
                self._time([self._prepare(case, provider)])

    def _own_bytes(self) -> int:
        references = sum(reference.held_bytes for reference in self._references.values())
        return references + self._inputs.held_bytes

    def _prepare(self, case: Case, provider: Provider) -> tuple[_Ready, Task]:
        """Through the gate and warm."""
        gated = self._gate(case, provider)
        self.enter(gated.case.id, "warm-up")
        task = Task.of(gated.case.id, gated.call.fn, self._rule)
        warm_up(task, self.session._timer, _WARM_SHARE * self._rule.sample_limit_s)
        return gated, task

    def _time(self, ready: list[tuple[_Ready, Task]]) -> None:
        session = self.session
        run_rounds(
            [task for _, task in ready],
            session._timer,
            session._clocks,
            seed=self.job.seed,
            enter=self.enter,
        )
        for gated, task in ready:
            with self._outcome(gated.case):
                self.emit(self._speed_outcome(gated, task))

    def _speed_outcome(self, gated: _Ready, task: Task) -> Outcome:
        case, shape = gated.case, gated.case.shape
        figures = summarize(task.sampler.samples)
        clocks = summarize_clocks(task.readings)
        ceilings = self.session.ceilings(shape.dtype)
        work = Work.of(gated.provider.family, shape, case.direction)
        flops, moved, floor = work.min_flops, work.min_bytes, work.floor_ms(ceilings)
        evidence: dict[str, Any] = {
            "model_flops": flops,
            "model_bytes": moved,
            "floor_ms": floor,
            "ceiling_gbps": ceilings.gbps,
            "ceiling_tflops": ceilings.tflops,
            "sm_clock_mhz": clocks.sm_clock_mhz,
            "power_w": clocks.power_w,
            "temperature_c": clocks.temperature_c,
            "throttle": clocks.throttle,
            **gated.figures,
        }
        samples = {
            "samples_ms": task.sampler.samples,
            "turns": task.turns,
            "call_ms": task.call_samples,
            "clocks": [asdict(reading) for reading in task.readings],
        }
        if reason := work.impossible(figures.median_ms, ceilings):
            return Outcome(case, "wrong", "impossible: " + reason, evidence, samples)
        notes = []
        if self.session._timer.exposed(gated.call.fn):
            notes.append("includes waiting for launches: the call could not be enqueued ahead of the device")
        if self.job.graph:
            try:
                replays = self._graph_samples(gated)
                samples["graph_ms"], evidence["graph_ms"] = replays, summarize(replays).median_ms
            except _NoGraphError as error:
                notes.append(str(error))
        trouble = clocks.trouble or task.sampler.trouble()
        return Outcome(
            case,
            "unstable" if trouble else "ok",
            "; ".join([trouble, *notes] if trouble else notes),
            {
                **asdict(figures),
                "call_ms": summarize(task.call_samples).median_ms,
                "tflops": flops / figures.median_ms / 1e9,
                "gbps": moved / figures.median_ms / 1e6,
                "floor_ratio": figures.median_ms / floor,
                **evidence,
            },
            samples,
        )

    def _graph_samples(self, gated: _Ready) -> list[float]:
        if self.session.device != "cuda":
            raise _NoGraphError("no graph_ms: CUDA graphs need a CUDA device")
        self.enter(gated.case.id, "samples")
        try:
            replay = capture_graph(
                lambda: direction_call(gated.provider, self._inputs, gated.case.direction).fn
            )
        except RuntimeError as error:
            torch.cuda.synchronize()
            raise _NoGraphError(f"no graph_ms: the capture failed: {load_error(error)}") from error
        task = Task.of(gated.case.id, replay, self._rule)
        warm_up(task, self.session._timer, _WARM_SHARE * self._rule.sample_limit_s)
        while not task.sampler.done:
            take_turn(task, self.session._timer)
        return task.sampler.samples

    def _one(self, case: Case, provider: Provider) -> None:
        """Everything but interleaved timing: check alone, memory, and both metrics of protocol paper."""
        gated = self._gate(case, provider)
        figures = gated.figures
        samples: dict[str, Any] = {}
        if self.job.metric == "memory":
            del gated  # the gate's graph must not be held while memory is measured
            self.enter(case.id, "samples")
            figures |= self._memory_figures(case, provider)
        elif self.job.metric == "speed":
            del gated
            self.enter(case.id, "samples")
            call = paper.build_call(provider, self._inputs, case.direction)
            figures["mean_ms"] = paper.mean_ms(call, self.session.device)
        self.emit(Outcome(case, "ok", "", figures, samples))

    def _memory_figures(self, case: Case, provider: Provider) -> dict[str, Any]:
        meter = self.session._meter
        shape, direction = case.shape, case.direction
        ideal = Work.of(provider.family, shape, direction).write_bytes / memory.MIB
        if self.job.protocol == "paper":
            if self.session.device != "cuda":
                raise _Ended("unsupported", "protocol paper reads CUDA's allocator: needs a CUDA device")
            base = meter.settle()
            call = paper.build_call(provider, self._inputs, direction)
            return {"peak_mib": paper.mean_peak_mib(call, base), "ideal_mib": ideal}
        figures = memory.call_memory(provider, self._inputs, direction, meter)
        extra = figures["extra_mib"]
        return {**figures, "ideal_mib": ideal, "extra_ratio": None if extra is None else extra / ideal}

    def _gate(self, case: Case, provider: Provider) -> _Ready:
        """First call, and its results against fp64. Raises _Ended where they are wrong."""
        backward = case.direction != "fwd"
        reference = self._reference(provider.family)
        self.enter(case.id, "warm-up")
        inputs = self._inputs.of(provider.family)
        before = inputs.checksums(provider.layout)
        with poisoned(inputs, gradients=backward):
            call = direction_call(provider, self._inputs, case.direction)
            got = call.tensors()
        after = inputs.checksums(provider.layout)
        self.enter(case.id, "check")
        if changed := [name for name, total in after.items() if total != before[name]]:
            self._inputs = InputSet(self.job.shape, self.job.seed)
            raise _Ended("wrong", f"it changes its inputs: {', '.join(changed)}")
        dtype = TORCH_DTYPES[case.shape.dtype]
        given = inputs.inputs(provider.layout)
        wanted = {"o": dtype, **{f"d{name}": given[name].dtype for name in inputs.gradients}}
        if odd := [f"{name} is {x.dtype}" for name, x in got.items() if x.dtype != wanted[name]]:
            raise _Ended("wrong", f"{', '.join(odd)}, not {dtype}")
        verdict = reference.judge(got, provider.layout)
        figures: dict[str, Any] = {}
        for name, error in verdict.errors.items():
            column = f"error_{name}" if name in TENSORS else "error_dgate"
            figures[column] = max(error, figures.get(column, error))
        figures["error_budget"] = verdict.budget
        figures["provider_config"] = provider.config(case.shape, case.direction)
        if verdict.failure:
            raise _Ended("wrong", verdict.failure, figures)
        return _Ready(case, provider, call, figures)

    def _reference(self, family: Family) -> Reference:
        if family not in self._references:
            self.enter("", "oracle")
            gradients = any(case.direction != "fwd" for case in self.job.cases)
            self._references[family] = Reference(
                family, self._inputs, gradients=gradients, seed=self.job.seed
            )
            if self.session.device == "cuda":
                torch.cuda.synchronize()
        return self._references[family]

    @contextmanager
    def _outcome(self, case: Case, *, oom_ends: bool = True) -> Iterator[None]:
        """Turn what a provider raises into the case's outcome; a lost device is everybody's."""
        try:
            yield
            return
        except _Ended as ended:
            outcome = Outcome(case, ended.status, ended.reason, ended.figures)
        except (Exception, SystemExit) as error:
            self._assert_alive(error)
            if isinstance(error, (RuntimeError, MemoryError)) and _is_oom(error):
                if not oom_ends:
                    raise
                outcome = Outcome(case, "oom", load_error(error))
            else:
                outcome = Outcome(case, "crashed", load_error(error))
        self.emit(outcome)

    def _assert_alive(self, error: BaseException) -> None:
        if self.session.device != "cuda":
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise PoisonedError(load_error(error)) from error


def _is_oom(error: BaseException) -> bool:
    """Out of device or host memory, as torch, CUDA and Python say it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(words in text for words in _OOM_WORDS)
