"""What is under every table: device, versions, commit, protocol, source file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from lightning_bench.record import Row
from lightning_bench.report.collect import rows_by, rows_in

VERSIONS = {"driver": "driver", "CUDA": "cuda", "torch": "torch", "triton": "triton", "Python": "python"}
"""The columns of versions, by the names that they are printed with."""


def origin_lines(frame: pd.DataFrame) -> list[str]:
    """Return one line for each machine and protocol, then the providers, what is cited, and the files."""
    lines = [_machine(rows) for rows in rows_by(frame, ["machine_id", "protocol"]).values()]
    took_part = frame[~frame["status"].isin(["unavailable", "unsupported"])]
    if providers := rows_by(took_part, ["provider"]):
        lines.append("providers: " + "; ".join(map(_provider, providers.values())))
    ok = frame[frame["status"] == "ok"]
    for (reason,), cited in rows_by(ok[ok["reason"] != ""], ["reason"]).items():
        lines.append(f"{_where(cited, ok)}: {reason}")
    return [*lines, f"source: {distinct(row.source for row in rows_in(frame))}"]


def distinct(texts: Iterable[str]) -> str:
    """Return every text that is not blank, once."""
    return " and ".join(dict.fromkeys(text for text in texts if text))


def _where(cited: Sequence[Row], ok: pd.DataFrame) -> str:
    """Return the providers that a remark is on, with the lengths if it is not on all that have a figure."""
    names = []
    for name in dict.fromkeys(row.record.provider for row in cited):
        lengths = {row.record.seq_len for row in cited if row.record.provider == name}
        whole = lengths >= set(ok.loc[ok["provider"] == name, "seq_len"])
        names.append(name if whole else f"{name} at n = {', '.join(map(str, sorted(lengths)))}")
    return "; ".join(names)


def _machine(rows: Sequence[Row]) -> str:
    first = rows[0].record
    device = _distinct(rows, "device_name") or "device not recorded"
    capability = _distinct(rows, "capability")
    parts = [f"{device} (capability {capability})" if capability else device]
    parts += (f"{name} {text}" for name, column in VERSIONS.items() if (text := _distinct(rows, column)))
    version, commit = _distinct(rows, "harness_version"), _distinct(rows, "harness_commit")
    by = (
        f"lightning-bench {version}{f' at {commit}' if commit else ''}"
        if version
        else "not by lightning-bench"
    )
    line = f"{', '.join(parts)}; {by}; protocol {first.protocol}"
    return f"{line}; machine {first.machine_id}" if first.machine_id else line


def _provider(rows: Sequence[Row]) -> str:
    details = [_distinct(rows, column) for column in ("label", "family", "provider_version")]
    return f"{rows[0].record.provider} = {', '.join(detail for detail in details if detail)}"


def _distinct(rows: Sequence[Row], column: str) -> str:
    return distinct(getattr(row.record, column) for row in rows)
