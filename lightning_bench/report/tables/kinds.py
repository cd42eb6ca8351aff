"""Kinds of tables: what a cell shows of a row, in which unit, and which end is the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_bench.case import Metric
from lightning_bench.errors import UsageError
from lightning_bench.record import Record
from lightning_bench.report.tables.paper_tables import FIGURES, worst_error

KindName = Literal["ms", "speedup", "tflops", "gbps", "floor", "per_token", "tokens", "memory", "check"]

KIND_NAMES: tuple[KindName, ...] = get_args(KindName)
_SPEED: tuple[KindName, ...] = ("ms", "speedup", "tflops", "gbps", "floor")


@dataclass(frozen=True)
class Kind:
    """One kind of table. ``value`` is the number in a cell, None where the row has none.

    ``text`` prints it; ``unit`` says what it is, for the rows' metric and protocol.
    """

    name: KindName
    metric: Metric
    unit: Callable[[Record], str]
    value: Callable[[Record], float | None]
    text: Callable[[Record, float], str]
    best: Literal["low", "high"]


def figure(record: Record) -> float | None:
    """The number that stands for the row under its protocol: see ``FIGURES``.

    Where a script took a median, as flash-linear-attention's did, a row of protocol paper has that instead.
    """
    if record.metric == "check":
        return worst_error(record)
    value: float | None = getattr(record, FIGURES[record.metric, record.protocol][0])
    if value is None and _is_published_median(record):
        return record.median_ms
    return value


def unit(record: Record) -> str:
    """What ``figure`` is, with its unit."""
    if record.metric == "check":
        return "worst relative L2 error against fp64"
    if _is_published_median(record):
        return "ms, median as the script took it"
    return FIGURES[record.metric, record.protocol][1]


def _is_published_median(record: Record) -> bool:
    return record.metric == "speed" and record.protocol == "paper" and record.mean_ms is None


def _decimals(record: Record) -> int:
    return FIGURES[record.metric, record.protocol][2]


def _floor(record: Record) -> float | None:
    time_ms = figure(record)
    return time_ms / record.floor_ms if time_ms is not None and record.floor_ms else None


def _tokens_per_s(record: Record) -> float | None:
    time_ms = figure(record)
    return record.batch * record.seq_len / time_ms * 1e3 if time_ms else None


def _per_token_ns(record: Record) -> float | None:
    time_ms = figure(record)
    return time_ms * 1e6 / (record.batch * record.seq_len) if time_ms is not None else None


def _memory_text(record: Record, value: float) -> str:
    text = f"{value:.{_decimals(record)}f}"
    if record.protocol != "lbench" or not record.ideal_mib:
        return text
    return f"{text} ({value / record.ideal_mib:.2f}×)"


def _memory_unit(record: Record) -> str:
    ratio = " (× what its outputs take)" if record.protocol == "lbench" else ""
    return f"{unit(record)}{ratio}"


KINDS: dict[KindName, Kind] = {
    "ms": Kind("ms", "speed", unit, figure, lambda r, x: f"{x:.{_decimals(r)}f}", "low"),
    # Its value is the time; a table divides the baseline's by it.
    "speedup": Kind("speedup", "speed", lambda r: "×", figure, lambda r, x: f"{x:.2f}×", "high"),
    "tflops": Kind(
        "tflops",
        "speed",
        lambda r: "TFLOP/s, model operations over the median",
        lambda r: r.tflops,
        lambda r, x: f"{x:.1f}",
        "high",
    ),
    "gbps": Kind(
        "gbps",
        "speed",
        lambda r: "GB/s, model traffic over the median",
        lambda r: r.gbps,
        lambda r, x: f"{x:.0f}",
        "high",
    ),
    "floor": Kind(
        "floor",
        "speed",
        lambda r: (
            "× floor, the longer of what bytes and operations take here (that floor's share of the time)"
        ),
        _floor,
        lambda r, x: f"{x:.2f} ({100 / x:.0f} %)",
        "low",
    ),
    "per_token": Kind(
        "per_token",
        "speed",
        lambda r: "ns for each of batch · n tokens",
        _per_token_ns,
        lambda r, x: f"{x:.3f}",
        "low",
    ),
    "tokens": Kind("tokens", "speed", lambda r: "tokens/s", _tokens_per_s, lambda r, x: f"{x:.0f}", "high"),
    "memory": Kind("memory", "memory", _memory_unit, figure, _memory_text, "low"),
    "check": Kind("check", "check", unit, figure, lambda r, x: f"{x:.1e}", "low"),
}


def chosen_kinds(names: Sequence[str]) -> tuple[Kind, ...] | None:
    """The kinds of ``--metric``: their names, or ``speed`` for all about time; None where none is named.

    Raises UsageError for a name that is neither.
    """
    chosen: list[KindName] = []
    for name in (part.strip() for each in names for part in each.split(",")):
        match = [each for each in KIND_NAMES if each == name]
        if not match and name != "speed":
            allowed = ", ".join(("speed", *KIND_NAMES))
            raise UsageError(f"--metric {name!r} is not known; allowed: {allowed}")
        chosen += match or _SPEED
    return tuple(KINDS[name] for name in dict.fromkeys(chosen)) or None


def default_kinds(record: Record) -> tuple[Kind, ...]:
    """All kinds that rows like this one can fill; the training of a whole model is told in tokens/s."""
    if record.metric == "speed":
        return tuple(KINDS[name] for name in (_SPEED if record.heads else ("tokens", "ms")))
    return (KINDS[record.metric],)


def page_kinds(record: Record) -> tuple[Kind, ...]:
    """All kinds that a page can switch a table of such rows to."""
    if record.metric == "speed" and record.heads:
        return tuple(KINDS[name] for name in (*_SPEED, "per_token"))
    return default_kinds(record)
