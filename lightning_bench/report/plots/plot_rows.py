"""What plots take from records: which share a plot, their names, and the words around the axes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Literal

from lightning_bench.record import Record, Status
from lightning_bench.report.collect import DIMS, ORIGIN, SHAPE
from lightning_bench.report.tables.figures import devices_text
from lightning_bench.report.tables.origin import VERSIONS, distinct
from lightning_bench.words import DIRECTION_WORDS, counted

SHARED = tuple(column for column in (*ORIGIN, *SHAPE) if column not in DIMS)
"""Columns that the rows of every plot agree in; those of a plot over n agree in `DIMS` too."""

Over = Literal["seq_len", "batch"]
"""What a plot is over: the sequence length, or the number of sequences where each has a length of its own."""

COLORED = 8
"""Lines that color can tell apart in one plot."""

_NAME_WIDTH = 40


def of_one(records: Iterable[Record], *, over: Over = "seq_len", dims: bool = False) -> list[Record]:
    """Return the last record of each cell.

    Raises ValueError if they are not of one table, apart from the batch of a plot over it and, with `dims`,
    `DIMS`.
    """
    records = [r for r in records if r.seq_len > 0 and r.heads > 0]  # a whole model's row states no shape
    columns = SHARED if dims else (*SHARED, *DIMS)
    check_same(records, [column for column in columns if column != over])
    cells = {(r.provider, r.batch, r.seq_len, r.head_dim, r.value_dim): r for r in records}
    return list(cells.values())


def check_same(records: Sequence[Record], columns: Iterable[str]) -> None:
    """Raise ValueError if the records differ in one of the columns."""
    for column in columns:
        if len(found := sorted({str(getattr(r, column)) for r in records})) > 1:
            raise ValueError(f"one plot cannot hold rows of several {column}: {', '.join(found)}")


def names_of(records: Iterable[Record], *, labels: bool) -> dict[str, str]:
    """Return what each provider is called, in order of appearance: its name, or a label that no other has.

    The front of a long one is cut off: a provider given by file has a path there.
    """
    found = {r.provider: (labels and r.label) or r.provider for r in records}
    found = {p: n if len(n) <= _NAME_WIDTH else f"…{n[1 - _NAME_WIDTH :]}" for p, n in found.items()}
    shared = {label for label in found.values() if list(found.values()).count(label) > 1}
    return {provider: provider if label in shared else label for provider, label in found.items()}


def lengths_text(lengths: Iterable[int]) -> str:
    """Return sequence lengths as tables write them: 512, 1024."""
    return ", ".join(map(str, sorted(set(lengths))))


def status_notes(
    records: Sequence[Record],
    names: Mapping[str, str],
    figure: Callable[[Record], float | None],
    over: Over = "seq_len",
) -> list[str]:
    """Return a sentence on each status that left cells out or asks for care, with who and at which lengths.

    Providers that share a status at the same lengths share a clause; a status that holds everywhere has
    no lengths.
    """
    several = len({(r.head_dim, r.value_dim) for r in records}) > 1
    found: dict[tuple[str, str], list[str]] = {}
    for provider, name in names.items():
        own = sorted(
            (r for r in records if r.provider == provider), key=lambda r: (r.head_dim, getattr(r, over))
        )
        by_status: dict[str, list[Record]] = {}
        for record in own:
            if record.status != "ok" or figure(record) is None:
                by_status.setdefault(_word(record.status), []).append(record)
        for status, rows in by_status.items():
            cells = (
                ", ".join(f"{r.seq_len} (head dim {r.head_dim})" for r in rows)
                if several
                else f"{'batch ' if over == 'batch' else ''}{lengths_text(getattr(r, over) for r in rows)}"
            )
            where = "" if len(rows) == len(own) > 1 else f" at {cells}"
            found.setdefault((status, where), []).append(name)
    clauses = [f"{', '.join(who)}: {status}{where}" for (status, where), who in found.items()]
    return ["; ".join(clauses) + "."] if clauses else []


def together_notes(lines: Mapping[str, Mapping[int, float]], apart: float) -> list[str]:
    """Return a sentence on lines (name to value by length) that nowhere differ by more than `apart` times."""
    groups: list[list[str]] = []
    for name, line in lines.items():
        for group in groups:
            first = lines[group[0]]
            if first.keys() == line.keys() and all(1 / apart <= line[n] / first[n] <= apart for n in line):
                group.append(name)
                break
        else:
            groups.append([name])
    clauses = [", ".join(group) for group in groups if len(group) > 1]
    return [f"Too close to tell apart: {'; '.join(clauses)}."] if clauses else []


def highlighted(
    records: Iterable[Record], rank: Callable[[Record], float], over: Over, first: str
) -> set[str]:
    """Return the providers that color tells apart, at most `COLORED`: `first`, and the best of each family.

    The best is the one that comes furthest, then the one with the least `rank` at its last place. Families
    take turns, so that none is grey throughout.
    """
    last: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: getattr(r, over)):
        last[record.provider] = record
    order = sorted(last.values(), key=lambda r: (r.provider != first, -getattr(r, over), rank(r)))
    families: dict[str, list[str]] = {}
    for record in order:
        families.setdefault(record.family, []).append(record.provider)
    turns = [name for turn in zip_longest(*families.values()) for name in turn if name is not None]
    return set(turns[:COLORED])


def batch_label(records: Sequence[Record]) -> str:
    """Return the label of an axis of batches: with the tokens in all, if they are the same everywhere."""
    tokens = {r.batch * r.seq_len for r in records if not r.new_tokens}
    return f"batch ({next(iter(tokens))} tokens in all)" if len(tokens) == 1 else "batch"


def heading(records: Sequence[Record], *, dims: bool = True) -> str:
    """Return what the plot is of, in words: direction, shape and dtype, as far as the records agree."""
    r = records[0]
    if r.model:
        models = ", ".join(dict.fromkeys(each.model for each in records))
        how = [f"{r.compile} compiled"] * bool(r.compile) + [f"{r.recompute} recomputed"] * bool(r.recompute)
        how += [devices_text(r)] * bool(r.parallel)
        if r.new_tokens:
            lengths = {each.seq_len for each in records}
            of = f"prompt of {r.seq_len}, " if len(lengths) == 1 else f"batch {r.batch}, "
            return ", ".join([f"Generation, {models}", f"{of}{r.new_tokens} new tokens", *how, r.dtype])
        longer = any(each.seq_len > (each.step_tokens or each.seq_len) for each in records)
        tokens = f"{r.step_tokens} tokens per step{' or one sequence' if longer else ''}"
        return ", ".join([f"Training {models}", tokens, *how, r.dtype])
    parts = [_capital(DIRECTION_WORDS[r.direction])]
    if len({each.batch for each in records}) == 1:
        parts.append(f"batch {r.batch}")
    if len({each.heads for each in records}) == 1:
        parts.append(counted(r.heads, "head"))
    if dims:
        parts.append(
            f"head dim {r.head_dim}" if r.head_dim == r.value_dim else f"head dim {r.head_dim}/{r.value_dim}"
        )
    if len(found := {each.shape.variant for each in records}) == 1:
        parts += filter(None, [found.pop().words])
    parts += [f"{r.ranks} ranks"] * bool(r.ranks)
    return ", ".join([*parts, r.dtype])


def caption(records: Sequence[Record]) -> str:
    """Return where and with what it was measured: device, versions, commit, protocol; no blank fields."""
    parts = [distinct(r.device_name for r in records) or records[0].device]
    for name, column in {"compute capability": "capability", **VERSIONS}.items():
        if text := distinct(getattr(r, column) for r in records):
            parts.append(f"{name} {text}")
    harness = f"lightning-bench {distinct(r.harness_version for r in records)}".rstrip()
    commit = distinct(r.harness_commit for r in records)
    by = f"{harness} at {commit}" if commit else harness
    suite = f", suite {records[0].suite}" if records[0].suite else ""
    return f"{', '.join(parts)}. {by}{suite}, protocol {records[0].protocol}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _word(status: Status) -> str:
    return "no figure" if status == "ok" else status
