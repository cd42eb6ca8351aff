"""Read the kernels, operators and allocations of a call from the events of a Kineto trace (Chrome's format).

Pure functions: they take the list `traceEvents` and do not import torch. Times of events are µs.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_bench.profile.data import Allocation, Kernel, KernelKind

CALL = "lbench.call"
"""Annotation around each call; what is launched inside it belongs to it."""
WAIT = "lbench.wait"
"""Annotation around the wait that follows."""
PYTHON = "outside of operators (Python)"

Event = dict[str, Any]

_KINDS: dict[str, KernelKind] = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
_LAUNCHES = frozenset({"cuda_runtime", "cuda_driver"})
_CPU, _CUDA = 0, 1  # "Device Type" of memory events


@dataclass(frozen=True)
class GpuCalls:
    """The kernels of a call and its times, medians over `calls` calls; `note` says if some calls differed."""

    kernels: tuple[Kernel, ...]
    kernels_ms: float
    between_ms: float
    enqueue_ms: float
    calls: int
    note: str = ""


def gpu_calls(events: Sequence[Event]) -> GpuCalls:
    """Return what ran on the GPU in the annotated calls. Raise ValueError if nothing did."""
    windows = _windows(events)
    launched = _launches(events)
    work = sorted((e for e in events if e.get("cat") in _KINDS and "dur" in e), key=lambda e: e["ts"])
    calls: list[list[Event]] = [[] for _ in windows]
    for event in work:
        at = launched.get(_correlation(event), float(event["ts"]))
        for call, (begin, end) in zip(calls, windows, strict=True):
            if begin <= at < end:
                call.append(event)
                break
    sequences = Counter(tuple(event["name"] for event in call) for call in calls)
    usual, times_seen = sequences.most_common(1)[0] if sequences else ((), 0)
    if not usual:
        raise ValueError("the profiler saw no kernel in any call")
    same = [call for call in calls if tuple(event["name"] for event in call) == usual]
    note = ""
    if times_seen < len(calls):
        note = f"{len(calls) - times_seen} of {len(calls)} calls launched other kernels and are left out"
    total = sum(_median_ms([call[i] for call in same]) for i in range(len(usual)))
    kernels = [_kernel([call[i] for call in same], total) for i in range(len(usual))]
    return GpuCalls(
        kernels=tuple(kernels),
        kernels_ms=statistics.median(_busy_ms(call) for call in same),
        between_ms=statistics.median(_span_ms(call) - _busy_ms(call) for call in same),
        enqueue_ms=statistics.median(float(e["dur"]) / 1e3 for e in _annotations(events, CALL)),
        calls=len(same),
        note=note,
    )


def cpu_operators(events: Sequence[Event]) -> tuple[Kernel, ...]:
    """Return the operators of the annotated calls by their own time, the longest first.

    Own time excludes the operators that an operator calls. Times and counts are medians over the calls; time
    outside of all operators is a separate line.
    """
    calls = [_own_times(events, e) for e in _annotations(events, CALL)]
    if not calls:
        raise ValueError("the profiler saw no call")
    names = {name: None for call in calls for name in call}
    times = {name: statistics.median(call.get(name, (0, 0.0))[1] for call in calls) for name in names}
    counts = {name: round(statistics.median(call.get(name, (0, 0.0))[0] for call in calls)) for name in names}
    total = sum(times.values()) or 1.0
    return tuple(
        Kernel(name=name, kind="op", count=counts[name], time_ms=times[name], share=times[name] / total)
        for name in sorted(names, key=lambda name: -times[name])
        if counts[name]
    )


def allocations(events: Sequence[Event], *, cuda: bool) -> tuple[Allocation, ...]:
    """Return what the first annotated call allocated on the device, in order."""
    calls = _annotations(events, CALL)
    if not calls:
        return ()
    begin, end = _span(calls[0])
    wanted = _CUDA if cuda else _CPU
    memory = sorted(
        (
            event
            for event in events
            if event.get("name") == "[memory]"
            and event["args"].get("Device Type") == wanted
            and begin <= event["ts"] <= end
        ),
        key=lambda event: event["ts"],
    )
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    allocated: list[tuple[Event, bool]] = []
    live: dict[int, int] = {}
    for event in memory:
        size, address = int(event["args"]["Bytes"]), int(event["args"]["Addr"])
        if size > 0:
            live[address] = len(allocated)
            allocated.append((event, False))
        elif address in live:
            index = live.pop(address)
            allocated[index] = (allocated[index][0], True)
    return tuple(
        Allocation(size_bytes=int(event["args"]["Bytes"]), made_by=_around(event, operators), freed=freed)
        for event, freed in allocated
    )


def _kernel(runs: Sequence[Event], total_ms: float) -> Kernel:
    first, args = runs[0], runs[0].get("args", {})
    time_ms = _median_ms(runs)
    return Kernel(
        name=first["name"],
        kind=_KINDS[first["cat"]],
        time_ms=time_ms,
        share=time_ms / total_ms if total_ms else 0.0,
        grid=_three(args.get("grid")),
        block=_three(args.get("block")),
        registers=args.get("registers per thread"),
        shared_bytes=args.get("shared memory"),
    )


def _three(sizes: Any) -> tuple[int, int, int] | None:
    return (int(sizes[0]), int(sizes[1]), int(sizes[2])) if sizes else None


def _correlation(event: Event) -> Any:
    return event.get("args", {}).get("correlation")


def _launches(events: Iterable[Event]) -> dict[Any, float]:
    """Return when each correlation was launched."""
    found = {}
    for event in events:
        if event.get("cat") in _LAUNCHES and _correlation(event) is not None:
            found[_correlation(event)] = float(event["ts"])
    return found


def _windows(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Return (begin of the call, end of the wait for it) for each call."""
    waits = [_span(event) for event in _annotations(events, WAIT)]
    windows = []
    for event in _annotations(events, CALL):
        begin, end = _span(event)
        windows.append((begin, next((last for first, last in waits if first >= end), end)))
    return windows


def _annotations(events: Iterable[Event], name: str) -> list[Event]:
    found = [e for e in events if e.get("cat") == "user_annotation" and e.get("name") == name]
    return sorted(found, key=lambda event: event["ts"])


def _span(event: Event) -> tuple[float, float]:
    begin = float(event["ts"])
    return begin, begin + float(event["dur"])


def _median_ms(runs: Iterable[Event]) -> float:
    return statistics.median(float(event["dur"]) for event in runs) / 1e3


def _span_ms(call: Sequence[Event]) -> float:
    spans = [_span(event) for event in call]
    return (max(end for _, end in spans) - min(begin for begin, _ in spans)) / 1e3


def _busy_ms(call: Sequence[Event]) -> float:
    """Return the time in which at least one kernel runs: kernels on several streams may overlap."""
    return sum(end - begin for begin, end in _union(map(_span, call))) / 1e3


def _union(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _own_times(events: Sequence[Event], call: Event) -> dict[str, tuple[int, float]]:
    """Return (runs, own ms) of each operator in a call."""
    begin, end = _span(call)
    inside = [e for e in events if e.get("cat") == "cpu_op" and begin <= e["ts"] < end]
    own: dict[str, tuple[int, float]] = {}

    def book(name: str, runs: int, ms: float) -> None:
        seen, spent = own.get(name, (0, 0.0))
        own[name] = (seen + runs, spent + ms)

    open_operators: list[Event] = []
    for event in sorted(inside, key=lambda e: (str(e["tid"]), e["ts"], -e["dur"])):
        while open_operators and not _holds(open_operators[-1], event):
            open_operators.pop()
        if open_operators:
            book(open_operators[-1]["name"], 0, -float(event["dur"]) / 1e3)
        book(event["name"], 1, float(event["dur"]) / 1e3)
        open_operators.append(event)
    covered = sum(last - first for first, last in _union(map(_span, inside)))
    book(PYTHON, 1, max(0.0, end - begin - covered) / 1e3)
    return own


def _holds(outer: Event, inner: Event) -> bool:
    begin, end = _span(outer)
    return bool(outer["tid"] == inner["tid"] and begin <= inner["ts"] < end)


def _around(event: Event, operators: Iterable[Event]) -> str:
    """Return the outermost and the innermost operator that run where and when the event happened."""
    around = sorted((e for e in operators if _holds(e, event)), key=lambda e: (e["ts"], -e["dur"]))
    names = list(dict.fromkeys(e["name"] for e in (around[:1] + around[-1:])))
    return " > ".join(names)
