"""Readings: what follows from the figures of a profile, in sentences that name those figures.

A rule is a function from a profile to sentences; it gives none if it does not apply or a figure is missing.
docs/profile.md lists the rules.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator

from lightning_bench.profile.capture.trace import PYTHON
from lightning_bench.profile.data import Counters, Kernel, Profile, Reading
from lightning_bench.profile.kernel_names import base_name

BOUND_SHARE = 0.6
"""A call that reaches this share of a ceiling is bound by it."""
TRAFFIC_RATIO = 1.15
LAUNCH_SHARE = 0.2
BETWEEN_SHARE = 0.1
LARGEST_SHARE = 0.5
HEAVY_SHARE = 0.25
"""Kernels below this share of the time are not worth a sentence of their own."""
LOW_OCCUPANCY_PERCENT = 25.0
TAIL_SHARE = 0.15
STALL_SHARE = 0.3
EXTRA_RATIO = 1.1
SAVED_SHARE = 0.1
COMPILE_S = 1.0

# What Nsight Compute's reasons mean: CUDA's Nsight Compute documentation, "Warp Stall Reasons".
STALLS = {
    "barrier": "the other warps of its block at a barrier",
    "branch_resolve": "a branch",
    "dispatch_stall": "the dispatcher",
    "drain": "its last stores",
    "gmma": "the warp-group matrix unit",
    "imc_miss": "the constant cache",
    "lg_throttle": "room in the queue for local and global memory",
    "long_scoreboard": "data from global or local memory",
    "math_pipe_throttle": "a busy arithmetic pipe",
    "membar": "a memory fence",
    "mio_throttle": "room in the queue for shared memory and special instructions",
    "misc": "a reason without a name",
    "no_instruction": "its next instructions",
    "not_selected": "its turn, another warp having been chosen",
    "short_scoreboard": "data from shared memory or a special unit",
    "sleeping": "its own sleep to end",
    "tex_throttle": "room in the texture queue",
    "wait": "an instruction of fixed latency",
}


def read(profile: Profile) -> tuple[Reading, ...]:
    """Return the readings of all rules for a profile, in the order of `RULES`."""
    return tuple(
        Reading(rule=name, text=sentence) for name, rule in RULES.items() for sentence in rule(profile)
    )


def _impossible(p: Profile) -> Iterator[str]:
    if p.roofline.impossible:
        yield f"The time cannot be true (device_ms {p.timing.device_ms:.4g}): {p.roofline.impossible}."


def _bound(p: Profile) -> Iterator[str]:
    r = p.roofline
    bandwidth = f"{_percent(r.bandwidth_share)} of copy bandwidth (gbps {r.gbps:.4g} of {r.ceiling_gbps:.4g})"
    rate = f"{_percent(r.rate_share)} of the matmul rate (tflops {r.tflops:.3g} of {r.ceiling_tflops:.3g})"
    times = f"{r.floor_ratio:.2f} times its floor (floor_ms {r.floor_ms:.4g})"
    moved = p.dram_bytes
    traffic = 0.0 if moved is None else moved / p.timing.device_ms / 1e6 / r.ceiling_gbps
    if max(r.bandwidth_share, r.rate_share) >= BOUND_SHARE:
        memory = r.bandwidth_share >= r.rate_share
        yield f"{'Memory' if memory else 'Compute'}-bound at {bandwidth if memory else rate}; {times}."
    elif traffic >= BOUND_SHARE:
        yield (
            f"Memory-bound by what it moves, not by what it must: its DRAM bytes take {_percent(traffic)} of "
            f"copy bandwidth (dram_bytes over device_ms), the model's {_percent(r.bandwidth_share)}; {times}."
        )
    else:
        yield f"Bound by neither ceiling: {bandwidth}, {rate}; {times}."


def _traffic(p: Profile) -> Iterator[str]:
    ratio, moved = p.traffic_ratio, p.dram_bytes
    if ratio is None or moved is None:
        return
    sizes = f"dram_bytes {moved / 2**20:.0f} MiB, model_bytes {p.roofline.model_bytes / 2**20:.0f} MiB"
    if ratio >= TRAFFIC_RATIO:
        yield f"Moves {ratio:.2f} times the ideal bytes ({sizes})."
    else:
        yield f"Moves hardly more than it must: {ratio:.2f} times the ideal bytes ({sizes})."


def _launch(p: Profile) -> Iterator[str]:
    share = p.timing.host_share
    if share is not None and share >= LAUNCH_SHARE:
        yield (
            f"{_percent(share)} of an eager call pass with no kernel running (call_ms "
            f"{p.timing.call_ms:.4g}, kernels_ms {p.timing.kernels_ms:.4g}): launch gaps."
        )


def _between(p: Profile) -> Iterator[str]:
    gaps, busy = p.timing.between_ms, p.timing.kernels_ms
    if gaps is not None and busy and gaps / (gaps + busy) >= BETWEEN_SHARE:
        yield (
            f"{_percent(gaps / (gaps + busy))} of the time from the first kernel to the last are gaps "
            f"between them (between_ms {gaps:.4g}, under the profiler)."
        )


def _largest(p: Profile) -> Iterator[str]:
    shares: defaultdict[str, float] = defaultdict(float)
    for kernel in p.kernels:
        shares[kernel.name] += kernel.share
    if len(shares) < 2:
        return
    name = max(shares, key=lambda kernel: shares[kernel])
    if name == PYTHON:
        return
    if shares[name] >= LARGEST_SHARE:
        what = "operator" if p.device == "cpu" else "kernel"
        yield f"One {what} takes {_percent(shares[name])} of the time (share): {base_name(name)}."


def _python(p: Profile) -> Iterator[str]:
    for kernel in p.kernels:
        if kernel.name == PYTHON and kernel.share >= LAUNCH_SHARE:
            share = _percent(kernel.share)
            yield f"{share} of the call pass outside of any operator (time_ms {kernel.time_ms:.4g})."


def _spills(p: Profile) -> Iterator[str]:
    for kernel in _each(p):
        counted = kernel.counters.spill_instructions if kernel.counters else None
        if kernel.spills or counted:
            known = [f"spills {kernel.spills}"] if kernel.spills is not None else []
            known += [f"registers {kernel.registers}"] if kernel.registers is not None else []
            known += [f"spill_instructions {counted:.3g}"] if counted is not None else []
            yield f"{base_name(kernel.name)} spills registers to local memory ({', '.join(known)})."


def _occupancy(p: Profile) -> Iterator[str]:
    for kernel in _heavy(p):
        measured = kernel.counters.occupancy_percent if kernel.counters else None
        percent = kernel.occupancy_percent if measured is None else measured
        if percent is not None and percent < LOW_OCCUPANCY_PERCENT:
            shared = "" if not kernel.shared_bytes else f", shared_bytes {kernel.shared_bytes}"
            yield (
                f"{base_name(kernel.name)} has few warps to hide latency with (occupancy_percent "
                f"{percent:.0f}, registers {kernel.registers}{shared})."
            )


def _waves(p: Profile) -> Iterator[str]:
    for kernel in _heavy(p):
        waves = kernel.counters.waves if kernel.counters else None
        if kernel.blocks is not None and p.processors and kernel.blocks < p.processors:
            yield (
                f"{base_name(kernel.name)} leaves {p.processors - kernel.blocks} of {p.processors} "
                f"multiprocessors without work (blocks {kernel.blocks})."
            )
        elif waves and (empty := 1 - waves / math.ceil(waves)) >= TAIL_SHARE:
            yield (
                f"{base_name(kernel.name)} runs in {waves:.2f} waves, the last not full: {_percent(empty)} "
                "of the places for blocks stay empty (waves)."
            )


def _stall(p: Profile) -> Iterator[str]:
    for name, counters in _counted(p):
        reason, share = next(iter(counters.stalls.items()), ("", 0.0))
        if share >= STALL_SHARE:
            what = STALLS.get(reason, "what it names")
            yield f"A warp of {name} waits {_percent(share)} of its time for {what} (stalls: {reason})."


def _tensor(p: Profile) -> Iterator[str]:
    for name, counters in _counted(p):
        percent = counters.tensor_percent
        if percent is not None:
            yield f"The tensor cores are active {percent:.0f} % of the time of {name} (tensor_percent)."


def _memory(p: Profile) -> Iterator[str]:
    extra, ideal = p.memory.extra_mib, p.memory.ideal_mib
    if extra is not None and extra >= EXTRA_RATIO * ideal:
        yield (
            f"Adds {extra / ideal:.1f} times the memory of its results (extra_mib {extra:.4g}, "
            f"ideal_mib {ideal:.4g})."
        )


def _saved(p: Profile) -> Iterator[str]:
    saved = p.memory.saved_mib
    if saved is not None and saved > SAVED_SHARE * p.memory.ideal_mib:
        yield f"Keeps {saved:.4g} MiB for backward besides its inputs and output (saved_mib)."


def _compile(p: Profile) -> Iterator[str]:
    if p.timing.compile_s >= COMPILE_S:
        variants = len(p.timing.compiled)
        kernels = f", {variants} Triton kernels compiled or tried" if variants else ""
        yield f"The first call takes {p.timing.compile_s:.1f} s more than the second (compile_s{kernels})."


RULES: dict[str, Callable[[Profile], Iterator[str]]] = {
    "impossible": _impossible,
    "bound": _bound,
    "traffic": _traffic,
    "launch": _launch,
    "between": _between,
    "largest": _largest,
    "python": _python,
    "spills": _spills,
    "occupancy": _occupancy,
    "waves": _waves,
    "stall": _stall,
    "tensor": _tensor,
    "memory": _memory,
    "saved": _saved,
    "compile": _compile,
}
"""Every rule by its name in docs/profile.md, in the order of their sentences."""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _each(p: Profile) -> Iterator[Kernel]:
    """Yield each kernel once, however often it is launched."""
    seen = set()
    for kernel in p.kernels:
        if kernel.kind == "kernel" and kernel.name not in seen:
            seen.add(kernel.name)
            yield kernel


def _heavy(p: Profile) -> Iterator[Kernel]:
    return (kernel for kernel in _each(p) if kernel.share >= HEAVY_SHARE)


def _counted(p: Profile) -> Iterator[tuple[str, Counters]]:
    """Yield the heavy kernels that have counters, by their base names."""
    for kernel in _heavy(p):
        if kernel.counters is not None:
            yield base_name(kernel.name), kernel.counters
