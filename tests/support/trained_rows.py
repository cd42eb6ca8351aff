"""Rows of an invented training run of suite table1, for tests of reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lightning_bench.case import Case
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.record import Record
from lightning_bench.suite import Overrides, expand, load_suite

LABELS = {"lightning2": "Lightning Attention-2 (ours)", "lightning1": "Lightning Attention-1 (ours)"}
FAMILIES = {"lightning2": "linear_decay", "lightning1": "linear_decay"}


def trained(cases: Iterable[Case] = ()) -> list[Record]:
    """Return one row per case of table1, or of `cases`: flash4 is missing, llama-3b runs out of memory late.

    lightning2 gives 176,000 tokens/s at 0.4B whatever the length; all else takes longer with it.
    """
    chosen = list(cases) or expand(load_suite("table1"), Overrides(), "cuda", "train")
    return [_row(case) for case in chosen]


def _row(case: Case) -> Record:
    shape, size = case.shape, MODELS[case.shape.model_run.model]
    slower = 1.0 if case.provider == "lightning2" else 1.0 + shape.seq_len / 16384
    tokens_per_s = 176_000 * 399e6 / size.product_weights / slower
    tokens = shape.batch * shape.seq_len
    record = Record(
        suite="table1",
        metric="train",
        protocol="lbench",
        status="ok",
        case_id=case.id,
        provider=case.provider,
        label=LABELS.get(case.provider, "SDPA (cuDNN)"),
        family=FAMILIES.get(case.provider, "softmax"),  # type: ignore[arg-type]
        direction="fwd_bwd",
        dtype=shape.dtype,
        batch=shape.batch,
        heads=shape.heads,
        seq_len=shape.seq_len,
        head_dim=shape.head_dim,
        value_dim=shape.value_dim,
        device=shape.device,
        **shape.model_run.columns,
        median_ms=1e3 * tokens / tokens_per_s,
        ci_low_ms=0.99e3 * tokens / tokens_per_s,
        ci_high_ms=1.01e3 * tokens / tokens_per_s,
        tokens_per_s=tokens_per_s,
        mfu_percent=50.0,
        forward_ms=100.0,
        backward_ms=200.0,
        optimizer_ms=10.0,
        peak_mib=40_000.0,
        energy_per_token_j=600 / tokens_per_s,
        device_name="NVIDIA H200",
        machine_id="cafe",
    )
    if case.provider == "flash4":
        return _without_figures(record, "unavailable", "flash-attn-4 is not installed")
    if size.name == "llama-3b" and shape.seq_len > 65536:
        return _without_figures(record, "oom", "CUDA out of memory")
    return record


def _without_figures(record: Record, status: str, reason: str) -> Record:
    names = (
        "median_ms",
        "ci_low_ms",
        "ci_high_ms",
        "tokens_per_s",
        "mfu_percent",
        "peak_mib",
        "energy_per_token_j",
    )
    return replace(record, status=status, reason=reason, **dict.fromkeys(names))  # type: ignore[arg-type]
