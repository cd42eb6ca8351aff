"""Tables of docs/ whose figures are those of results/h200-x2: sweeps, training, context parallelism.

`python -m scripts.docs_tables --write` puts them where they belong.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from lightning_bench.record import read_records
from lightning_bench.report.tables.kinds import KINDS
from scripts.measured_tables import RESULTS, TRAINING, csv_rows, trained_line

TWO = RESULTS / "h200-x2"
PUBLISHED = RESULTS / "published" / "lightning2-paper-table1.csv"
PRINTED = {"LLaMA": "llama-fa2", "LA1": "tnl-la1", "LA2": "tnl-la2"}
"""The names in the published table of the lines of ours."""

AGAIN_HEAD = ("measured again", "on", "in the stated interval", "largest change")
SHARED_HEAD = (
    "model", "n", "each of two GPUs, tokens/s", "one GPU, tokens/s", "ratio", "published, two A100", "ratio",
)  # fmt: skip
CONTEXT_HEAD = ("tokens in total", "layer", "pass", "two GPUs, ms", "one with half of them, ms", "efficiency")
OVERLAP_HEAD = (
    "batch",
    "states of both ranks, MiB",
    "gathering, µs",
    "while kernels ran",
    "the whole pass, µs",
)


def again_lines() -> Iterator[tuple[str, ...]]:
    """Yield how many cells each later run found in the interval of the first, by GPU."""
    rows = csv_rows(TWO / "remeasured.csv")
    for (again, gpu), group in groupby(
        sorted(rows, key=lambda row: (row["again"], row["gpu"] != "same")),
        key=lambda row: (row["again"], row["gpu"]),
    ):
        cells = list(group)
        inside = sum(int(row["inside"]) for row in cells)
        largest = max(cells, key=lambda row: abs(float(row["change_percent"])))
        yield (
            again,
            f"{gpu} GPU" if gpu == "another" else "the same GPU",
            f"{inside} of {len(cells)}",
            f"{float(largest['change_percent']):+.1f} % (`{largest['provider']}` {largest['direction']})",
        )


def speed_up() -> tuple[float, float]:
    """Return the seconds that the sweep took on one GPU and on two."""
    row = next(row for row in csv_rows(TWO / "remeasured.csv") if row["again"] == "two-gpus")
    return float(row["run_s"]), float(row["new_run_s"])


def shared_lines() -> Iterator[tuple[str, ...]]:
    """Yield each training on two GPUs beside that on one and the published one."""
    alone_rows = {
        (row.provider, row.model, row.seq_len): row for row in read_records(TRAINING) if row.status == "ok"
    }
    rate = KINDS["tokens"].value
    published = {
        (row.provider, row.provider_config.split()[0], row.seq_len): row for row in read_records(PUBLISHED)
    }
    rows = [row for row in read_records(TWO / "table1-train.csv") if row.status == "ok"]
    for row in sorted(rows, key=lambda row: (row.model.partition("-")[2], row.model, row.seq_len)):
        line, size = trained_line(row), row.model.partition("-")[2]
        here, alone = row.tokens_per_s or 0.0, alone_rows.get((row.provider, row.model, row.seq_len))
        theirs = rate(published[PRINTED[line], f"model={size.upper()}", row.seq_len])
        yield (
            f"{line} {size.upper()}",
            str(row.seq_len),
            f"{here:,.0f} ({row.mfu_percent:.0f} %)",
            f"{alone.tokens_per_s:,.0f}" if alone else "–",
            f"{here / (alone.tokens_per_s or 1):.2f}" if alone else "–",
            f"{theirs:,.0f}" if theirs else "oom",
            f"{here / theirs:.1f}" if theirs else "–",
        )


def context_lines() -> Iterator[tuple[str, ...]]:
    """Yield each pass on two GPUs beside that of one."""
    for row in csv_rows(TWO / "context-parallel.csv"):
        yield (
            row["seq_len"], row["layer"], row["direction"].replace("_", " + "),
            f"{float(row['cp_ms']):.2f}", f"{float(row['alone_ms']):.2f}",
            f"{float(row['efficiency']):.0%}",
        )  # fmt: skip


def overlap_lines() -> Iterator[tuple[str, ...]]:
    """Yield, for each traced pass, how much of the gathering ran while other kernels did."""
    rows = csv_rows(TWO / "context-parallel-trace.csv")
    for batch, group in groupby(rows, key=lambda row: row["batch"]):
        kernels = list(group)
        spans = [_span(row) for row in kernels if "nccl" not in row["kernel"]]
        gathers = [_span(row) for row in kernels if "nccl" in row["kernel"]]
        total = sum(end - begin for begin, end in gathers)
        hidden = sum(
            max(0.0, min(end, until) - max(begin, since)) for begin, end in gathers for since, until in spans
        )
        state = int(batch) * int(kernels[0]["heads"]) * 128 * 128 * 4
        yield (
            batch,
            f"{int(kernels[0]['ranks']) * state / 2**20:.0f}",
            f"{total:.0f}",
            f"{hidden / total:.0%}",
            f"{max(end for _, end in map(_span, kernels)):,.0f}",
        )


def _span(row: dict[str, str]) -> tuple[float, float]:
    begin = float(row["begin_us"])
    return begin, begin + float(row["duration_us"])
