"""The figures of one row: its own by metric and protocol, and what follows from its shape."""

from __future__ import annotations

from lightning_bench.case import Metric, ProtocolName
from lightning_bench.families.work import Work
from lightning_bench.machine.mix import COPY
from lightning_bench.record import Record
from lightning_bench.variant import Variant

FIGURES: dict[tuple[Metric, ProtocolName], tuple[str, str, int]] = {
    ("speed", "lbench"): ("median_ms", "ms, median of cold samples", 4),
    ("speed", "paper"): ("mean_ms", "ms, mean as the papers took it", 6),
    ("memory", "lbench"): ("extra_mib", "MiB that the call adds", 2),
    ("memory", "paper"): ("peak_mib", "MiB, mean peak, inputs included", 6),
    ("train", "lbench"): ("tokens_per_s", "tokens/s per device, of the median step", 0),
    ("train", "paper"): ("tokens_per_s", "tokens/s per device, as published", 0),
    ("energy", "lbench"): ("call_mj", "mJ per call beyond the device at rest, median of windows", 3),
    ("energy", "paper"): ("call_mj", "mJ per call, as published", 3),
    ("generate", "lbench"): ("tokens_per_s", "new tokens/s per device, prefill included, median", 0),
    ("generate", "paper"): ("tokens_per_s", "new tokens/s per device, as published", 0),
}
"""The column that is the figure of a metric under a protocol, what it is, and its decimals."""


def devices_text(record: Record) -> str:
    """Return on how many devices a step of a whole model was taken, and how: fsdp2 on 2 devices."""
    return f"{record.parallel} on {record.ranks} devices" if record.parallel else "one device"


def title(record: Record, variant: Variant | None = None, ranks: int | None = None) -> str:
    """Return the title of the row's table: as the published ones, with the name of our suite in front.

    `variant` and `ranks` are what all rows of the table share, those of the row if None.
    """
    count = (record.ranks or 0) if ranks is None else ranks
    together = f"-ranks{count}" if count else ""
    if record.metric in ("train", "generate") and record.model:
        how = str(record.shape.model_run).removeprefix(f"-{record.model}")
        return f"{record.suite}-{record.metric}_{model_of(record)}-dtype_{record.dtype}{how}{together}"
    variant = record.shape.variant if variant is None else variant
    name = f"{record.suite}-{record.metric}_{record.direction}-batch{record.batch}"
    if not record.heads:  # a published figure of a whole model, whose shape was not stated
        return name
    dims = f"qk_dim{record.head_dim}-v_dim{record.value_dim}"
    return f"{name}-head{record.heads}-{dims}-dtype_{record.dtype}{variant}{together}"


def model_of(record: Record) -> str:
    """Return the name of the row's model in tables: its size where both architectures share one, as 7b."""
    return size_of(record) if record.metric == "generate" else record.model


def size_of(record: Record) -> str:
    """Return the size in the name of the row's model: 0.4b of tnl-0.4b."""
    return record.model.partition("-")[2] or record.model


def figure(record: Record) -> float | None:
    """Return the row's figure (see `FIGURES`), whatever its status; None if the row has none.

    A row of protocol paper whose script took a median, as flash-linear-attention's did, has that instead.
    """
    if record.metric == "check":
        return worst_error(record)
    value: float | None = getattr(record, FIGURES[record.metric, record.protocol][0])
    if value is None and _is_published_median(record):
        return record.median_ms
    return value


def unit(record: Record) -> str:
    """Return what `figure` is, with its unit."""
    return "ms, median as the script took it" if _is_published_median(record) else protocol_unit(record)


def protocol_unit(record: Record) -> str:
    """Return what the figure of the row's metric and protocol is, with its unit."""
    if record.metric == "check":
        return "worst relative L2 error against fp64"
    return FIGURES[record.metric, record.protocol][1]


def figure_text(record: Record, value: float) -> str:
    """Return a figure of the row's metric and protocol as text, without its unit."""
    if record.metric == "check":
        return f"{value:.1e}"
    return f"{value:.{FIGURES[record.metric, record.protocol][2]}f}"


def figure_with_unit(record: Record) -> str:
    """Return the row's figure with its unit, for a line of its own; "" if the row has none."""
    value = figure(record)
    if value is None:
        return ""
    if record.metric == "check":
        return f"error {figure_text(record, value)}"
    return f"{figure_text(record, value)} {_UNITS[record.metric]}"


_UNITS: dict[Metric, str] = {
    "speed": "ms",
    "memory": "MiB",
    "train": "tokens/s",
    "generate": "tokens/s",
    "energy": "mJ",
}


def worst_error(record: Record) -> float | None:
    """Return the largest error of the output, the gradients and the states; None if none was taken."""
    errors = (
        record.error_o,
        record.error_dq,
        record.error_dk,
        record.error_dv,
        record.error_dgate,
        record.error_state,
    )
    return max((error for error in errors if error is not None), default=None)


def time_ms(record: Record) -> float | None:
    """Return the time of a row of speed, ms; None if it has none or its status says not to show it."""
    return figure(record) if record.metric == "speed" and record.worked else None


def memory_mib(record: Record) -> float | None:
    """Return the memory of a row of memory, MiB; None if it has none or its status says not to show it."""
    return figure(record) if record.metric == "memory" and record.worked else None


def intensity(record: Record) -> float:
    """Return the FLOPs for each byte that the row's work needs at least, FLOP/byte."""
    work = _work(record)
    return work.min_flops / work.min_bytes


def floor_bandwidth(record: Record) -> str:
    """Return by which bandwidth the row's floor is defined: older versions knew only that of a copy."""
    if record.ceiling_of in ("", COPY):
        return "copy bandwidth"
    return f"the bandwidth of {record.ceiling_of} reads and writes"


def bytes_floor_ms(record: Record) -> float | None:
    """Return what the minimum number of bytes takes at the bandwidth measured in the same run, ms."""
    if not record.ceiling_gbps:
        return record.floor_ms
    return _work(record).min_bytes / record.ceiling_gbps / 1e6


def io_mib(record: Record) -> float:
    """Return the size of inputs and outputs together, MiB."""
    return _work(record).min_bytes / 2**20


def _work(record: Record) -> Work:
    return Work.of(record.family, record.shape, record.direction)


def _is_published_median(record: Record) -> bool:
    return record.metric == "speed" and record.protocol == "paper" and record.mean_ms is None
