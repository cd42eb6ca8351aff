"""What stands under every table: device, versions, commit, protocol, source file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from lightning_bench.record import Record, Row

VERSIONS: tuple[tuple[str, Callable[[Record], str]], ...] = (
    ("driver", lambda r: r.driver),
    ("CUDA", lambda r: r.cuda),
    ("torch", lambda r: r.torch),
    ("triton", lambda r: r.triton),
    ("Python", lambda r: r.python),
)


def named(provider: str, over: str) -> str:
    """A column's name where one line must hold it."""
    return f"{provider} ({over})" if over else provider


def origin_lines(rows: Sequence[Row]) -> list[str]:
    """One line for each machine and protocol, then the providers, what is cited, and the files."""
    machines: dict[tuple[str, str], list[Record]] = {}
    providers: dict[str, list[Record]] = {}
    cited: dict[str, dict[str, set[int]]] = {}
    for row in rows:
        r = row.record
        machines.setdefault((r.machine_id, r.protocol), []).append(r)
        if r.status not in ("unavailable", "unsupported"):
            providers.setdefault(r.provider, []).append(r)
        if r.status == "ok" and r.reason:
            cited.setdefault(r.reason, {}).setdefault(r.provider, set()).add(r.seq_len)
    lines = [_machine(records) for records in machines.values()]
    if providers:
        lines.append("providers: " + "; ".join(_provider(name, each) for name, each in providers.items()))
    lines += (f"{_where(names, providers)}: {reason}" for reason, names in cited.items())
    return [*lines, f"source: {distinct(row.source for row in rows)}"]


def _where(cited: Mapping[str, set[int]], providers: Mapping[str, Sequence[Record]]) -> str:
    """The providers that a remark is on, with the lengths where it is not on all that have a figure."""
    names = []
    for name, lengths in cited.items():
        whole = lengths >= {r.seq_len for r in providers[name] if r.status == "ok"}
        names.append(name if whole else f"{name} at n = {', '.join(map(str, sorted(lengths)))}")
    return "; ".join(names)


def _machine(records: Sequence[Record]) -> str:
    device = distinct(r.device_name for r in records) or "device not recorded"
    capability = distinct(r.capability for r in records)
    parts = [f"{device} (capability {capability})" if capability else device]
    parts += (f"{name} {text}" for name, part in VERSIONS if (text := distinct(map(part, records))))
    harness, commit = (
        distinct(r.harness_version for r in records),
        distinct(r.harness_commit for r in records),
    )
    by = (
        f"lightning-bench {harness}{f' at {commit}' if commit else ''}"
        if harness
        else "not by lightning-bench"
    )
    identity = distinct(r.machine_id for r in records)
    return f"{', '.join(parts)}; {by}; protocol {records[0].protocol}" + (
        f"; machine {identity}" if identity else ""
    )


def _provider(name: str, records: Sequence[Record]) -> str:
    details = (
        distinct(r.label for r in records),
        distinct(r.family for r in records),
        distinct(r.provider_version for r in records),
    )
    return f"{name} = {', '.join(detail for detail in details if detail)}"


def distinct(texts: Iterable[str]) -> str:
    """Every text that is not blank, once."""
    return " and ".join(dict.fromkeys(text for text in texts if text))
