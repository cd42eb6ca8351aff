"""Run one case in its own process and observe it: times, torch.profiler, memory, saved tensors."""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, record_function

from lightning_bench.case import Device
from lightning_bench.errors import LbenchError, Unavailable
from lightning_bench.families.work import Work
from lightning_bench.machine.ceilings import Ceilings
from lightning_bench.measure.calls import DirectionCall, direction_call
from lightning_bench.measure.device.memory import MIB, make_meter
from lightning_bench.measure.device.peaks import measure_ceilings
from lightning_bench.measure.device.timer import make_timer
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.measure.memory_row import call_memory
from lightning_bench.measure.rounds import Task, take_turn, warm_up
from lightning_bench.measure.sampling import StopRule
from lightning_bench.profile.capture import trace
from lightning_bench.profile.capture.compiled import compiled_kernels, with_spills
from lightning_bench.profile.data import Kernel, Memory, Profile, Request, Roofline, Saved, Timing
from lightning_bench.profile.occupancy import GpuLimits, with_occupancy
from lightning_bench.providers import get_provider, load_error
from lightning_bench.providers.registry.base import Provider

_RULE = StopRule(ci_percent=1.0, min_samples=20, max_samples=200, sample_limit_s=1.5)
_WARM_S = 0.5
_CALL_SAMPLES = 20
_CALL_SECONDS = 1.0
_FLUSH_BYTES = 2**28


class CaseRun:
    """A case that is set up: its provider is loaded, its inputs exist, its first call is done and timed."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.device: Device = request.device
        self.provider = _loaded(request)
        self.inputs = InputSet(request.shape, request.seed)
        self.wait()
        self.call, self.first_call_s = self._timed_call()
        self.call, self.second_call_s = self._timed_call()

    def wait(self) -> None:
        """Wait until the GPU has done all that is enqueued."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _timed_call(self) -> tuple[DirectionCall, float]:
        begin = time.perf_counter()
        try:
            call = direction_call(self.provider, self.inputs, self.request.direction)
            call.fn()
        except CaseEnded as ended:
            raise LbenchError(f"{self.provider.name} does not support this case: {ended.reason}") from ended
        self.wait()
        return call, time.perf_counter() - begin


def _loaded(request: Request) -> Provider:
    provider = get_provider(request.provider)
    try:
        provider.load()
    except (ImportError, OSError, Unavailable) as error:
        raise LbenchError(f"{provider.name} is unavailable: {load_error(error)}") from error
    if reason := provider.unsupported(request.shape, request.direction):
        raise LbenchError(f"{provider.name} does not support this case: {reason}")
    return provider


def take_profile(request: Request) -> Profile:
    """Return everything that this process can observe of the case without other programs.

    Raises LbenchError if the provider cannot run the case, and whatever the provider raises.
    """
    run = CaseRun(request)
    compiled = compiled_kernels() if run.device == "cuda" else ()
    device_ms, call_ms, samples, notes = _times(run)
    events = _traced(run)
    kernels_ms = between_ms = enqueue_ms = None
    kernels: tuple[Kernel, ...] = ()
    if run.device == "cuda":
        try:
            seen = trace.gpu_calls(events)
        except ValueError as error:
            notes.append(f"no kernels: {error}; is CUPTI, which comes with torch for CUDA, in its place?")
        else:
            kernels, spill_notes = with_spills(with_occupancy(seen.kernels, _gpu()), compiled)
            kernels_ms, between_ms, enqueue_ms = seen.kernels_ms, seen.between_ms, seen.enqueue_ms
            notes += [note for note in (seen.note, *spill_notes) if note]
    else:
        kernels = trace.cpu_operators(events)
        notes.append("registers, occupancy, DRAM bytes and gaps between kernels need a GPU")
    roofline = _roofline(run, device_ms)
    case, provider = request.case, run.provider
    return Profile(
        case_id=case.id_by(provider.name),
        provider=provider.name,
        label=provider.label,
        family=provider.family,
        provider_version=provider.version(),
        provider_config=provider.config(case.shape, case.direction),
        **request.model_dump(exclude={"mode", "provider", "seed", "trace", "ceilings", "calls"}),
        processors=_gpu().multiprocessors if run.device == "cuda" else None,
        threads=torch.get_num_threads(),
        calls=request.calls,
        timing=Timing(
            device_ms=device_ms,
            call_ms=call_ms,
            samples=samples,
            kernels_ms=kernels_ms,
            between_ms=between_ms,
            enqueue_ms=enqueue_ms,
            first_call_s=run.first_call_s,
            second_call_s=run.second_call_s,
            compiled=compiled,
        ),
        kernels=_with_bandwidth(kernels, roofline),
        memory=_memory(run),
        roofline=roofline,
        notes=tuple(notes),
    )


def run_calls(request: Request, marker: str) -> None:
    """Run the case under an external profiler: warm up, then only the calls that are to be counted.

    `marker` is the path that Proton writes to, without its suffix; Nsight Compute has its own file.
    """
    run = CaseRun(request)
    if request.mode == "ncu":
        torch.cuda.cudart().cudaProfilerStart()
        run.call.fn()
        run.wait()
        torch.cuda.cudart().cudaProfilerStop()
        return
    import triton.profiler as proton

    proton.start(marker)
    for _ in range(request.calls):
        run.call.fn()
    run.wait()
    proton.finalize()


def _times(run: CaseRun) -> tuple[float, float, int, list[str]]:
    """Return (device ms, ms that a caller waits, samples of the first, doubts), as a speed row has them."""
    timer = make_timer(run.device)
    task = Task.of("", run.call.fn, _RULE)
    warm_up(task, timer, _WARM_S)
    while not task.sampler.done:
        take_turn(task, timer)
    timer.call(run.call.fn, task.watch)  # does not count
    begin = timer.now()
    calls = [timer.call(run.call.fn, task.watch)]
    while len(calls) < _CALL_SAMPLES and timer.now() - begin < _CALL_SECONDS:
        calls.append(timer.call(run.call.fn, task.watch))
    doubts = [f"device_ms is unsure: {trouble}"] if (trouble := task.sampler.trouble()) else []
    if timer.exposed(run.call.fn):
        doubts.append("device_ms includes waiting for launches: they could not be kept ahead of the device")
    timer.release()
    samples = task.sampler.samples
    return statistics.median(samples), statistics.median(calls), len(samples), doubts


def _traced(run: CaseRun) -> list[trace.Event]:
    """Return the events of the calls under torch.profiler, each with a cold L2."""
    activities = [ProfilerActivity.CPU]
    flush: Tensor | None = None
    if run.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
        flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        with torch.profiler.profile(activities=activities, acc_events=True) as profile:
            run.call.fn()  # the profiler's own first steps
            for _ in range(run.request.calls):
                if flush is not None:
                    flush.zero_()
                run.wait()
                _annotated(run)
        profile.export_chrome_trace(str(path))
        if run.request.trace:
            _keep_trace(path, Path(run.request.trace))
        events: list[trace.Event] = json.loads(path.read_bytes())["traceEvents"]
        return events


def _annotated(run: CaseRun) -> dict[str, Tensor]:
    with record_function(trace.CALL):
        result = run.call.fn()
    with record_function(trace.WAIT):
        run.wait()
    return result


def _keep_trace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix != ".gz":
        shutil.copyfile(source, target)
        return
    with source.open("rb") as plain, gzip.open(target, "wb") as packed:
        shutil.copyfileobj(plain, packed)


def _memory(run: CaseRun) -> Memory:
    request = run.request
    meter = make_meter(run.device)
    memory = call_memory(run.provider, run.inputs, request.direction, meter)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if run.device == "cuda" else [])
    with TemporaryDirectory() as folder:
        path = Path(folder) / "memory.json"
        with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profile:
            result = _annotated(run)  # held, so that what it returns does not count as freed
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_bytes())["traceEvents"]
        del result
    return Memory(
        extra_mib=memory.extra_mib,
        peak_mib=memory.peak_mib,
        saved_mib=memory.saved_mib,
        reserved_mib=memory.reserved_mib,
        ideal_mib=Work.of(run.provider.family, request.shape, request.direction).write_bytes / MIB,
        allocations=trace.allocations(events, cuda=run.device == "cuda"),
        saved=_saved(run) if request.direction != "fwd" else (),
    )


def _saved(run: CaseRun) -> tuple[Saved, ...]:
    """Return the tensors that a forward pass saves with autograd."""
    given = run.inputs.of(run.provider.family).inputs(run.provider.layout)
    forward = run.provider.build(given)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    named = {"q": given.q, "k": given.k, "v": given.v, **given.more}
    owners = {_storage(x): name for name, x in named.items()}
    owners |= {_storage(given.decay): "decay", _storage(output): "o"}
    saved: list[Saved] = []
    for tensor in kept:
        size = tensor.numel() * tensor.element_size()
        same_as = owners.setdefault(_storage(tensor), f"saved {len(saved) + 1}")
        saved.append(
            Saved(
                size_bytes=size,
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype).removeprefix("torch."),
                same_as="" if same_as == f"saved {len(saved) + 1}" else same_as,
            )
        )
    return tuple(saved)


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage().data_ptr()


def _roofline(run: CaseRun, device_ms: float) -> Roofline:
    request = run.request
    work = Work.of(run.provider.family, request.shape, request.direction)
    if request.ceilings is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ceilings = measure_ceilings(run.device, request.dtype)
    else:
        ceilings = Ceilings(*request.ceilings)
    flops, moved, floor = work.min_flops, work.min_bytes, work.floor_ms(ceilings)
    return Roofline(
        model_flops=flops,
        model_bytes=moved,
        gbps=moved / device_ms / 1e6,
        tflops=flops / device_ms / 1e9,
        floor_ms=floor,
        floor_ratio=device_ms / floor,
        bound_by=work.bound_by(ceilings),
        ceiling_gbps=ceilings.gbps,
        ceiling_tflops=ceilings.tflops,
        ceilings_from="measured in this run",
        impossible=work.impossible(device_ms, ceilings) or "",
    )


def _with_bandwidth(kernels: tuple[Kernel, ...], roofline: Roofline) -> tuple[Kernel, ...]:
    """Add the bandwidth by the model's bytes if one kernel does the whole call."""
    if len(kernels) != 1 or kernels[0].kind != "kernel":
        return kernels
    gbps = roofline.model_bytes / kernels[0].time_ms / 1e6
    return (kernels[0].model_copy(update={"gbps": gbps}),)


def _gpu() -> GpuLimits:
    return GpuLimits.of(torch.cuda.get_device_properties(0))
