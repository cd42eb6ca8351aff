"""Tables of docs/ whose figures are those of committed CSVs of one GPU: serving, training, generation.

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
GENERATION = RESULTS / "h200" / "generate-generate.csv"
ENERGY = RESULTS / "h200" / "paper-energy.csv"
SWEEPS = RESULTS / "cpu" / "scale-simulation.csv"
SIZES = ("0.4b", "1b", "3b")
TRAINED = ("LA2", "LA1", "LLaMA")
"""Lines of the table of training: TransNormerLLM with both kernels, and LLaMA with its fastest attention."""

SERVING_HEAD = ("batch", "call", "µs", "× a copy of as many bytes")
HOST_HEAD = ("call", "µs", "× SDPA's in the same run")
TRAINING_HEAD = (
    "n",
    *(f"{label} {size.upper()}" for size in SIZES for label in TRAINED),
)
GENERATION_HEAD = (
    "model", "attention", "batch", "prompt", "new", "new tokens/s", "prefill, ms", "a step, ms",
    "caches, MiB", "peak, GiB",
)  # fmt: skip
ENERGY_HEAD = ("attention", "a call, ms", "a call, mJ", "a token, µJ", "mean power, W", "windows differ by")
RIVALS_HEAD = ("batch", "ours, ms", "× floor", "fastest rival measured, ms", "its time over ours")
SWEEPS_HEAD = (
    "slots",
    "10,000 cases, min",
    "efficiency",
    "the driver is busy",
    "slots wait for it",
    "busy for 5 % from a case of, s",
)


def csv_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV that a script wrote."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def serving_lines() -> Iterator[tuple[str, ...]]:
    """Yield each call on each batch, but for those of other tiles and the copies themselves."""
    for row in csv_rows(SERVING):
        if row["call"] != "copy" and "block=" not in row["call"]:
            time, ratio = 1e3 * float(row["median_ms"]), float(row["ratio_to_copy"])
            yield row["workload"], f"`{row['call']}`", f"{time:.1f}", f"{ratio:.2f}"


def rival_lines() -> Iterator[tuple[str, ...]]:
    """Yield each batch of the suites that serve: our fastest row and a rival's, in CUDA graphs if there."""
    for suite in ("decode", "verify", "prefill", "mixed"):
        cells: dict[str, list[Record]] = {}
        for row in read_records(RESULTS / "h200" / f"{suite}-speed.csv"):
            if row.status == "ok":
                cells.setdefault(_workload(suite, row), []).append(row)
        for workload, rows in sorted(cells.items(), key=lambda cell: _size(cell[1][0])):
            ours = min((row for row in rows if row.provider.startswith("lightning2")), key=_ms)
            rival = min((row for row in rows if not row.provider.startswith("lightning2")), key=_ms)
            yield (
                workload, f"{_ms(ours):.4f} (`{ours.provider}`)", f"{_ms(ours) / (ours.floor_ms or 1):.2f}",
                f"{_ms(rival):.4f} (`{rival.provider}`)", f"{_ms(rival) / _ms(ours):.2f}",
            )  # fmt: skip


def _workload(suite: str, row: Record) -> str:
    if suite == "decode":
        return f"{row.batch} decoding"
    if suite == "mixed":
        return f"documents {row.packing}"
    return f"{row.batch} of {row.seq_len} " + ("drafted" if suite == "verify" else "tokens, with a state")


def _size(row: Record) -> tuple[int, int]:
    return row.batch, row.seq_len


def _ms(row: Record) -> float:
    return row.graph_ms or row.median_ms or 0.0


def host_lines() -> Iterator[tuple[str, ...]]:
    """Yield what each kind of call takes of its caller's time."""
    for row in csv_rows(HOST):
        if row["provider"].startswith("lightning2"):
            call = f"`{row['provider']}` {row['mode']}"
            yield call, f"{float(row['median_us']):.1f}", f"{float(row['ratio_to_sdpa']):.2f}"


def trained_line(row: Record) -> str:
    """Return which of the lines of `TRAINED` a row belongs to."""
    return "LLaMA" if row.model.startswith("llama") else row.provider.replace("lightning", "LA")


def training_rows() -> dict[tuple[str, str, int], Record]:
    """Return the fastest row of each line of `TRAINED`, size and length."""
    fastest: dict[tuple[str, str, int], Record] = {}
    for row in read_records(TRAINING):
        line, size = trained_line(row), row.model.partition("-")[2]
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


def generation_lines() -> Iterator[tuple[str, ...]]:
    """Yield each generation that was measured."""
    rows = sorted(read_records(GENERATION), key=lambda r: (r.model, r.seq_len, r.batch, r.provider))
    for r in rows:
        if r.status != "ok":
            yield (
                r.model,
                f"`{r.provider}`",
                str(r.batch),
                str(r.seq_len),
                str(r.new_tokens),
                r.status,
                *4 * ("–",),
            )
            continue
        yield (
            r.model, f"`{r.provider}`", str(r.batch), str(r.seq_len), str(r.new_tokens),
            f"{r.tokens_per_s:,.0f}", f"{r.prefill_ms:,.0f}", f"{r.decode_ms:.2f}", f"{r.cache_mib:,.0f}",
            f"{(r.peak_mib or 0) / 1024:.1f}",
        )  # fmt: skip


def energy_lines() -> Iterator[tuple[str, ...]]:
    """Yield what a call of each attention has needed beyond rest."""
    for r in sorted(read_records(ENERGY), key=lambda r: r.call_mj or 0.0):
        yield (
            f"`{r.provider}`", f"{r.median_ms:.3f}", f"{r.call_mj:,.0f}", f"{1e3 * (r.token_mj or 0):.2f}",
            f"{r.power_w:.0f}", f"{r.energy_spread_percent:.1f} %",
        )  # fmt: skip


def sweep_lines() -> Iterator[tuple[str, ...]]:
    """Yield how busy the driver is with so many slots, in simulation."""
    for row in csv_rows(SWEEPS):
        yield (
            row["slots"],
            f"{float(row['makespan_s']) / 60:,.0f}",
            f"{float(row['efficiency_percent']):.0f} %",
            f"{float(row['driver_percent']):.1f} %",
            f"{float(row['delayed_percent']):.2f} %",
            f"{float(row['least_case_s']):.2f}",
        )
