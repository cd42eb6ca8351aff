"""Tables of docs/ whose figures are those of committed CSVs: serving, training, context parallelism.

`python -m scripts.docs_tables --write` puts them where they belong.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from lightning_bench.record import Record, read_records

RESULTS = Path(__file__).parents[1] / "results"
SERVING = RESULTS / "h200" / "serving-batches.csv"
HOST = RESULTS / "h200" / "host-cost.csv"
TRAINING = RESULTS / "h200" / "table1-train.csv"
SWEEPS = RESULTS / "cpu" / "scale-simulation.csv"
CONTEXT = RESULTS / "h200-x2" / "context-parallel.csv"
SIZES = ("0.4b", "1b", "3b")
TRAINED = ("LA2", "LA1", "LLaMA")
"""Lines of the table of training: TransNormerLLM with both kernels, and LLaMA with its fastest attention."""

SERVING_HEAD = ("batch", "call", "µs", "× a copy of as many bytes")
HOST_HEAD = ("call", "µs", "× SDPA's in the same run")
TRAINING_HEAD = (
    "n",
    *(f"{label} {size.upper()}" for size in SIZES for label in TRAINED),
)
RIVALS_HEAD = ("batch", "ours, ms", "× floor", "SGLang seg_la, ms", "its time over ours")
RIVALS = "sglang-seg-la"
SWEEPS_HEAD = (
    "slots",
    "10,000 cases, min",
    "of the shapes' time over the slots",
    "the driver is busy",
    "slots wait for it",
    "busy for 5 % from a case of, s",
)
CONTEXT_HEAD = ("tokens in total", "layer", "pass", "two GPUs, ms", "one with half of them, ms", "efficiency")


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def serving_lines() -> Iterator[tuple[str, ...]]:
    """Yield each call on each batch, but for those of other tiles and the copies themselves."""
    for row in _rows(SERVING):
        if row["call"] != "copy" and "block=" not in row["call"]:
            time, ratio = 1e3 * float(row["median_ms"]), float(row["ratio_to_copy"])
            yield row["workload"], f"`{row['call']}`", f"{time:.1f}", f"{ratio:.2f}"


def rival_lines() -> Iterator[tuple[str, ...]]:
    """Yield each batch of the suites that serve: our fastest row beside SGLang's, in CUDA graphs if there."""
    for suite in ("decode", "verify", "prefill", "mixed"):
        cells: dict[str, list[Record]] = {}
        for row in read_records(RESULTS / "h200" / f"{suite}-speed.csv"):
            if row.status == "ok":
                cells.setdefault(_workload(suite, row), []).append(row)
        for workload, rows in cells.items():
            rival = next(row for row in rows if row.provider.startswith(RIVALS))
            ours = min((row for row in rows if row.provider.startswith("lightning2")), key=_ms)
            yield (
                workload, f"{_ms(ours):.4f} (`{ours.provider}`)", f"{_ms(ours) / (ours.floor_ms or 1):.2f}",
                f"{_ms(rival):.4f}", f"{_ms(rival) / _ms(ours):.2f}",
            )  # fmt: skip


def _workload(suite: str, row: Record) -> str:
    if suite == "decode":
        return f"{row.batch} decoding"
    if suite == "mixed":
        return f"documents {row.packing}"
    return f"{row.batch} of {row.seq_len} " + ("drafted" if suite == "verify" else "tokens, with a state")


def _ms(row: Record) -> float:
    return row.graph_ms or row.median_ms or 0.0


def host_lines() -> Iterator[tuple[str, ...]]:
    """Yield what each kind of call takes of its caller's time."""
    for row in _rows(HOST):
        if row["provider"].startswith("lightning2"):
            call = f"`{row['provider']}` {row['mode']}"
            yield call, f"{float(row['median_us']):.1f}", f"{float(row['ratio_to_sdpa']):.2f}"


def training_rows() -> dict[tuple[str, str, int], Record]:
    """Return the fastest row of each line of `TRAINED`, size and length."""
    fastest: dict[tuple[str, str, int], Record] = {}
    for row in read_records(TRAINING):
        model, _, size = row.model.partition("-")
        line = "LLaMA" if model == "llama" else row.provider.replace("lightning", "LA")
        rate = getattr(fastest.get((line, size, row.seq_len)), "tokens_per_s", 0)
        if row.status == "ok" and (row.tokens_per_s or 0) > rate:
            fastest[line, size, row.seq_len] = row
    return fastest


def training_lines() -> Iterator[tuple[str, ...]]:
    """Yield tokens per second and MFU of each line and size at each length."""
    rows = training_rows()
    for n in sorted({seq_len for *_, seq_len in rows}):
        cells = []
        for size in SIZES:
            for line in TRAINED:
                row = rows.get((line, size, n))
                cells.append("–" if row is None else f"{row.tokens_per_s:,.0f} ({row.mfu_percent:.0f} %)")
        yield str(n), *cells


def context_lines() -> Iterator[tuple[str, ...]]:
    """Yield each pass on two GPUs beside that of one."""
    for row in _rows(CONTEXT):
        yield (
            row["seq_len"], row["layer"], row["direction"].replace("_", " + "),
            f"{float(row['cp_ms']):.2f}", f"{float(row['alone_ms']):.2f}",
            f"{float(row['efficiency']):.0%}",
        )  # fmt: skip


def sweep_lines() -> Iterator[tuple[str, ...]]:
    """Yield how busy the driver is with so many slots, in simulation."""
    for row in _rows(SWEEPS):
        yield (
            row["slots"],
            f"{float(row['makespan_s']) / 60:,.0f}",
            f"{float(row['efficiency_percent']):.0f} %",
            f"{float(row['driver_percent']):.1f} %",
            f"{float(row['delayed_percent']):.2f} %",
            f"{float(row['least_case_s']):.2f}",
        )
