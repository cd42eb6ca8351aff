"""Rows of an invented run of generation.toml, under the name of suite generate, for tests of reports."""

from __future__ import annotations

from dataclasses import replace

from lightning_bench.case import Case
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.record import Record
from lightning_bench.suite import Overrides, expand, load_suite
from tests.support.paths import SUPPORT


def generated() -> list[Record]:
    """Return one row per case: flash2 is missing, LLaMA does not fit in batches of 256.

    A decoding step takes 4 ms, and 1 ms more for each GiB that is kept.
    """
    suite = load_suite(SUPPORT / "generation.toml")
    return [_row(case) for case in expand(suite, Overrides(), "cuda", "generate")]


def _row(case: Case) -> Record:
    shape, size = case.shape, MODELS[case.shape.model_run.model]
    new = shape.model_run.new_tokens
    kept = size.cache_bytes(shape, shape.seq_len + new)
    decode_ms = 4.0 + kept / 2**30
    median_ms = 50.0 + (new - 1) * decode_ms
    record = Record(
        suite="generate",
        metric="generate",
        protocol="lbench",
        status="ok",
        case_id=case.id,
        provider=case.provider,
        family=size.family,
        direction="fwd",
        dtype=shape.dtype,
        batch=shape.batch,
        heads=shape.heads,
        seq_len=shape.seq_len,
        head_dim=shape.head_dim,
        value_dim=shape.value_dim,
        device=shape.device,
        **shape.model_run.columns,
        median_ms=median_ms,
        ci_low_ms=0.99 * median_ms,
        ci_high_ms=1.01 * median_ms,
        tokens_per_s=1e3 * shape.batch * new / median_ms,
        prefill_ms=50.0,
        decode_ms=decode_ms,
        gbps=3500.0,
        peak_mib=(2 * size.parameters + kept) / 2**20,
        cache_mib=kept / 2**20,
        device_name="NVIDIA H200",
        machine_id="cafe",
    )
    if case.provider == "flash2":
        return _without_figures(record, "unavailable", "flash-attn is not installed")
    if size.architecture == "llama" and shape.batch == 256:
        return _without_figures(record, "oom", "CUDA out of memory")
    return record


def _without_figures(record: Record, status: str, reason: str) -> Record:
    names = ("median_ms", "ci_low_ms", "ci_high_ms", "tokens_per_s", "prefill_ms", "decode_ms", "peak_mib")
    blank = dict.fromkeys((*names, "cache_mib", "gbps"))
    return replace(record, status=status, reason=reason, **blank)  # type: ignore[arg-type]
