"""Kinds of tables: what a cell shows of a row, in which unit, and which end is the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from lightning_bench.case import Metric
from lightning_bench.errors import UsageError
from lightning_bench.record import Record
from lightning_bench.report.tables.figures import figure, figure_text, floor_bandwidth, protocol_unit, unit

KindName = Literal[
    "ms",
    "speedup",
    "tflops",
    "gbps",
    "floor",
    "graph",
    "per_token",
    "tokens",
    "memory",
    "check",
    "tgs",
    "mfu",
    "peak",
    "phases",
    "train_energy",
    "generated",
    "prefill",
    "decode",
    "held",
    "cache",
    "generate_energy",
    "call_energy",
    "token_energy",
    "power",
]

KIND_NAMES: tuple[KindName, ...] = get_args(KindName)
_SPEED: tuple[KindName, ...] = ("ms", "speedup", "tflops", "gbps", "floor")
_TRAIN: tuple[KindName, ...] = ("tgs", "mfu", "peak", "phases", "train_energy")
_GENERATE: tuple[KindName, ...] = ("generated", "prefill", "decode", "held", "cache", "generate_energy")
_ENERGY: tuple[KindName, ...] = ("call_energy", "token_energy", "power")
_TOGETHER: dict[str, tuple[KindName, ...]] = {
    "speed": _SPEED,
    "train": _TRAIN,
    "generate": _GENERATE,
    "energy": _ENERGY,
}
"""Words of `--metric` that stand for several kinds."""


@dataclass(frozen=True)
class TableKind:
    """One kind of table. `value` is the number in a cell, None if the row has none.

    `text` prints it; `unit` says what it is, for the rows' metric and protocol. `label` is what the page
    calls it.
    """

    name: KindName
    label: str
    metric: Metric
    unit: Callable[[Record], str]
    value: Callable[[Record], float | None]
    text: Callable[[Record, float], str]
    best: Literal["low", "high"]


def _floor(record: Record) -> float | None:
    time_ms = figure(record)
    return time_ms / record.floor_ms if time_ms is not None and record.floor_ms else None


def _floor_unit(record: Record) -> str:
    bandwidth = floor_bandwidth(record)
    return (
        f"× floor, the longer of what bytes take at {bandwidth} and operations at the matmul rate "
        "(that floor's share of the time)"
    )


def _tokens_per_s(record: Record) -> float | None:
    time_ms = figure(record)
    return record.batch * record.seq_len / time_ms * 1e3 if time_ms else None


def _per_token_ns(record: Record) -> float | None:
    time_ms = figure(record)
    return time_ms * 1e6 / (record.batch * record.seq_len) if time_ms is not None else None


def _rate_text(value: float, decimals: int) -> str:
    """Return a rate with so many decimals; one of which these leave no two digits, as of a CPU, has three."""
    return f"{value:.{decimals}f}" if value >= 10 ** (1 - decimals) else f"{value:.3g}"


def _memory_text(record: Record, value: float) -> str:
    text = figure_text(record, value)
    if record.protocol != "lbench" or not record.ideal_mib:
        return text
    return f"{text} ({value / record.ideal_mib:.2f}×)"


def _memory_unit(record: Record) -> str:
    ratio = " (× what its outputs take)" if record.protocol == "lbench" else ""
    return f"{unit(record)}{ratio}"


def _with_interval(record: Record, value: float) -> str:
    """Return tokens/s and half their interval in per cent: over steps, and processes if there are several."""
    text = figure_text(record, value)
    if not (record.ci_low_ms and record.ci_high_ms and record.median_ms):
        return text
    return f"{text} ±{50 * (record.ci_high_ms - record.ci_low_ms) / record.median_ms:.1f} %"


def _with_spread(record: Record, value: float) -> str:
    """Return mJ per call and by how much the windows differ, in per cent."""
    text = figure_text(record, value)
    spread = record.energy_spread_percent
    return text if spread is None else f"{text} (within {spread:.1f} %)"


def _decode_text(record: Record, value: float) -> str:
    """Return the time of a step, and the rate of its model traffic."""
    return f"{value:.3f}" + (f" ({_rate_text(record.gbps, 0)} GB/s)" if record.gbps else "")


def _phases_text(record: Record, value: float) -> str:
    phases = (record.forward_ms, record.backward_ms, record.optimizer_ms)
    return " + ".join("?" if ms is None else f"{ms:.1f}" for ms in phases)


def _board_mj(record: Record) -> float | None:
    """Return what the whole board takes for a token, rest included, mJ."""
    return None if record.energy_per_token_j is None else 1e3 * record.energy_per_token_j


KINDS: dict[KindName, TableKind] = {
    "ms": TableKind("ms", "ms", "speed", unit, figure, figure_text, "low"),
    # Its value is the time; a table divides the baseline's by it.
    "speedup": TableKind(
        "speedup", "speedup", "speed", lambda r: "×", figure, lambda r, x: f"{x:.2f}×", "high"
    ),
    "tflops": TableKind(
        "tflops",
        "TFLOP/s",
        "speed",
        lambda r: "TFLOP/s, model operations over the median",
        lambda r: r.tflops,
        lambda r, x: _rate_text(x, 1),
        "high",
    ),
    "gbps": TableKind(
        "gbps",
        "GB/s",
        "speed",
        lambda r: "GB/s, model traffic over the median",
        lambda r: r.gbps,
        lambda r, x: _rate_text(x, 0),
        "high",
    ),
    "floor": TableKind(
        "floor",
        "× floor",
        "speed",
        _floor_unit,
        _floor,
        lambda r, x: f"{x:.2f} ({100 / x:.0f} %)",
        "low",
    ),
    "graph": TableKind(
        "graph",
        "ms, CUDA graph",
        "speed",
        lambda r: "ms, median of CUDA-graph replays",
        lambda r: r.graph_ms,
        lambda r, x: f"{x:.4f}",
        "low",
    ),
    "per_token": TableKind(
        "per_token",
        "ns per token",
        "speed",
        lambda r: "ns for each of batch · n tokens",
        _per_token_ns,
        lambda r, x: f"{x:.3f}",
        "low",
    ),
    "tokens": TableKind(
        "tokens", "tokens/s", "speed", lambda r: "tokens/s", _tokens_per_s, lambda r, x: f"{x:.0f}", "high"
    ),
    "memory": TableKind("memory", "MiB", "memory", _memory_unit, figure, _memory_text, "low"),
    "check": TableKind("check", "error", "check", unit, figure, figure_text, "low"),
    "tgs": TableKind("tgs", "tokens/s", "train", unit, figure, _with_interval, "high"),
    "mfu": TableKind(
        "mfu",
        "MFU, %",
        "train",
        lambda r: "MFU: model FLOPs of a step over its time, % of the GPU's rate by its data sheet",
        lambda r: r.mfu_percent,
        lambda r, x: f"{x:.1f}",
        "high",
    ),
    "peak": TableKind(
        "peak",
        "MiB",
        "train",
        lambda r: "MiB, peak of a step, weights and optimizer included",
        lambda r: r.peak_mib,
        lambda r, x: f"{x:.0f}",
        "low",
    ),
    "phases": TableKind(
        "phases",
        "ms by phase",
        "train",
        lambda r: "ms of forward + backward + optimizer, each a median",
        lambda r: r.median_ms,
        _phases_text,
        "low",
    ),
    "train_energy": TableKind(
        "train_energy",
        "mJ per token",
        "train",
        lambda r: "mJ per token, of the whole board, rest included",
        _board_mj,
        lambda r, x: _rate_text(x, 2),
        "low",
    ),
    "generated": TableKind("generated", "new tokens/s", "generate", unit, figure, _with_interval, "high"),
    "held": TableKind(
        "held",
        "MiB in all",
        "generate",
        lambda r: "MiB, peak of a generation, weights and caches included",
        lambda r: r.peak_mib,
        lambda r, x: f"{x:.0f}",
        "low",
    ),
    "prefill": TableKind(
        "prefill",
        "ms, prefill",
        "generate",
        lambda r: "ms, median time of the prefill, first new tokens included",
        lambda r: r.prefill_ms,
        lambda r, x: f"{x:.2f}",
        "low",
    ),
    "decode": TableKind(
        "decode",
        "ms per step",
        "generate",
        lambda r: "ms per decoding step (the rate at which it moves weights and caches)",
        lambda r: r.decode_ms,
        _decode_text,
        "low",
    ),
    "cache": TableKind(
        "cache",
        "MiB kept",
        "generate",
        lambda r: "MiB of states, or of keys and values, in all layers",
        lambda r: r.cache_mib,
        lambda r, x: f"{x:.1f}",
        "low",
    ),
    "generate_energy": TableKind(
        "generate_energy",
        "mJ per new token",
        "generate",
        lambda r: "mJ per new token, of the whole board, rest included, prefill and decoding together",
        _board_mj,
        lambda r, x: _rate_text(x, 1),
        "low",
    ),
    "call_energy": TableKind("call_energy", "mJ per call", "energy", unit, figure, _with_spread, "low"),
    "token_energy": TableKind(
        "token_energy",
        "µJ per token",
        "energy",
        lambda r: "µJ for each of batch · n tokens, beyond the device at rest",
        lambda r: None if r.token_mj is None else 1e3 * r.token_mj,
        lambda r, x: _rate_text(x, 2),
        "low",
    ),
    "power": TableKind(
        "power",
        "W",
        "energy",
        lambda r: "W in the windows (at rest, which the energies are without)",
        lambda r: r.power_w,
        lambda r, x: f"{x:.0f}" + ("" if r.rest_w is None else f" ({r.rest_w:.0f})"),
        "low",
    ),
}
_FIRST: tuple[KindName, ...] = ("ms", "memory", "check", "tgs", "generated", "call_energy")
FIGURE_KINDS: dict[Metric, TableKind] = {
    KINDS[name].metric: replace(KINDS[name], unit=protocol_unit, text=figure_text) for name in _FIRST
}
"""The kind that shows nothing but the figure of a metric, as a sweep prints it."""


def chosen_kinds(names: Sequence[str]) -> tuple[TableKind, ...] | None:
    """Return the kinds of `--metric`: their names, or metrics for several kinds; None if none is named.

    Raises UsageError for a name that is neither.
    """
    chosen: list[KindName] = []
    for name in (part.strip() for each in names for part in each.split(",")):
        match = [each for each in KIND_NAMES if each == name]
        if not match and name not in _TOGETHER:
            allowed = ", ".join((*_TOGETHER, *KIND_NAMES))
            raise UsageError(f"--metric {name!r} is not known; allowed: {allowed}")
        chosen += match or _TOGETHER[name]
    return tuple(KINDS[name] for name in dict.fromkeys(chosen)) or None


def default_kinds(record: Record) -> tuple[TableKind, ...]:
    """Return all kinds that rows like this one can fill; the training of a whole model is in tokens/s."""
    if record.metric == "speed":
        return tuple(KINDS[name] for name in ((*_SPEED, "graph") if record.heads else ("tokens", "ms")))
    if record.metric == "memory" or record.metric == "check":
        return (KINDS[record.metric],)
    return tuple(KINDS[name] for name in _TOGETHER[record.metric])


def page_kinds(record: Record) -> tuple[TableKind, ...]:
    """Return all kinds that a page can switch a table of such rows to."""
    if record.metric == "speed" and record.heads:
        return tuple(KINDS[name] for name in (*_SPEED, "graph", "per_token"))
    return default_kinds(record)
