"""Rows for PyTorch's benchmark database, schema v3: one JSON object per line and figure.

The columns are those of `clickhouse_db_schema/benchmark.oss_ci_benchmark_v3/schema.sql` in
pytorch/test-infra. What its uploader adds (commit, workflow and job of the repository that runs it) is not
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from lightning_bench.exchange.exports.json_rows import json_line
from lightning_bench.exchange.exports.metrics import exported_metrics
from lightning_bench.record import Record


def pytorch_lines(records: Sequence[Record]) -> bytes:
    """Return a line per figure of each row, in the order of the rows."""
    lines = []
    for record in records:
        shared = _shared(record)
        lines += [
            json_line({**shared, "metric": {"name": metric.name, "benchmark_values": [metric.value]}})
            for metric in exported_metrics(record)
        ]
    return "".join(f"{line}\n" for line in lines).encode()


def _shared(record: Record) -> dict[str, object]:
    """Return what all figures of a row have in common."""
    time = {"timestamp": _seconds(record.time_utc)} if record.time_utc else {}
    return {
        **time,
        "schema_version": "v3",
        "name": f"lightning-bench {record.suite}".strip(),
        "runners": [_runner(record)],
        "benchmark": {
            "name": "lightning-bench",
            "mode": "inference" if record.direction == "fwd" else "training",
            "dtype": record.dtype,
            "extra_info": _texts(
                suite=record.suite,
                metric=record.metric,
                protocol=record.protocol,
                direction=record.direction,
                status=record.status,
                harness_version=record.harness_version,
                harness_commit=record.harness_commit,
            ),
        },
        "model": {
            "name": record.provider,
            "type": "attention kernel",
            "backend": record.provider_version,
            "origins": ["lightning-bench"],
            "extra_info": _texts(
                case_id=record.case_id, family=record.family, provider_config=record.provider_config
            ),
        },
        "inputs": {
            name: {
                "dtype": record.dtype,
                "extra_info": _texts(
                    batch=record.batch, heads=heads, seq_len=record.seq_len, columns=columns
                ),
            }
            for name, heads, columns in (
                ("q", record.heads, record.head_dim),
                ("k", record.kv_heads or record.heads, record.head_dim),
                ("v", record.kv_heads or record.heads, record.value_dim),
            )
        },
        "dependencies": {
            name: {"repo": repository, "version": version}
            for name, repository, version in (
                ("torch", "pytorch/pytorch", record.torch),
                ("triton", "triton-lang/triton", record.triton),
            )
            if version
        },
    }


def _runner(record: Record) -> dict[str, object]:
    gpu = {"gpu_info": record.device_name, "gpu_count": 1} if record.device == "cuda" else {}
    cpu = {"cpu_info": record.device_name} if record.device == "cpu" else {}
    return {
        "type": record.machine_id,
        **cpu,
        **gpu,
        "extra_info": _texts(driver=record.driver, cuda=record.cuda, python=record.python),
    }


def _texts(**values: object) -> dict[str, str]:
    """Return the values as text, as maps of the schema have them, without those that are blank."""
    return {name: str(value) for name, value in values.items() if value != ""}


def _seconds(time_utc: str) -> int:
    time = datetime.fromisoformat(time_utc)
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
