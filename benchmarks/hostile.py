"""Whole input files of `lbench` and rules that damage them: the corpus of `benchmarks.fuzz_readers`."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.rows import made_up_record
from lightning_bench.comparison.noise import Calibration, write_calibration
from lightning_bench.machine import describe_machine
from lightning_bench.machine.ceilings import DeviceCeilings, keep
from lightning_bench.record import Record, ResultFile

# fmt: off
NUMBERS = (
    "", "0", "-0.0", "-1", "1", "nan", "inf", "-inf", "1e308", "-1e308", "1e-308", "5e-324", "1e400",
    "9" * 400, "1e-12", "1e-11", "1e15", "1e100", "-1e100", "1e-300", "123456.789", "0.1", "1e15", "1e21",
    "2147483647", "2147483648", "9007199254740993", "0x10", "1_000", "٣", "1,5", "+3",
)
TEXTS = (
    "mine[fp8]", "x[/]", "[/bold]", "[link=http://x]y", "[", "\\", "`", "``", "|", "a|b", "*", "%s{}{0}",
    "{{x}}", "::error::x", " ::stop-commands::t", "##[error]x", "##[stop-commands]t",
    "a::set-env name=x::y", ":" * 300, "=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1",
    "../../out", "/tmp/lbench-fuzz", "..", ".", "/", "a\nb", "a\r::error::x", "a\u2028b", "\x1b[31mred",
    "\x9b31m", "\x07", "\x00", "\uffff", "\ufffe", "\u202e", "\ufeff", "\U0010ffff", "x" * 5000,
    "n" * 200_000, "é" * 300, "<script>", "</script>", "]]>", "&amp;", "-->", "lightning2",
    "lightning2-torch", "flash2", "quick", "speed", "paper", "ok", "crashed", "cpu", "bf16", "linear_decay",
    "2026-13-45", "9999-12-31T23:59:59+00:00", "//", "a/b/c/d", "a/b", "$x$ \\frac{", "'\"",
    "lightning2/fwd/b1-h2-n64-d16-fp32-cpu",
)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 1e308, -1e308, 5e-324, 10**400, float("nan"), float("inf"), "", "x",
    "::error::", [], [[]], [{}], {"a": []}, [0], [0, 0], [-1, 31], [1e308, 1e308], ["1"], [None], [True],
    "NaN", [10**400], {},
)
TOML = (
    "0", "-1", "1.5", "inf", "nan", "true", '""', '"x"', '"::error::"', '"[/]"', "[]", "[[]]", "{}",
    "[1, 1]", "1979-05-27", '"512..32768"', '"1..2147483648"', '"> 0"', '">= 99999999999999999999"',
    "9" * 5000, '"fwd"', '["bf16", "fp32"]', f"[{', '.join(map(str, range(1, 100_001)))}]",
    "[" * 2000 + "]" * 2000, '"no.py:X"', '["lightning2"]', '"/dev/zero:X"',
    f"[{', '.join(map(str, range(1, 2001)))}]", f"[{'0, ' * 5000}]", '"\\u0000"', '"\\u001b[31m"',
    '"\\uffff"', "\'\'\'\na\nb\'\'\'",
)
# fmt: on
_EXTREMES = ("", "1e-12", "1e-9", "1", "1e15", "1e14")
_FREE: tuple[str, ...] = (
    "suite",
    "reason",
    "case_id",
    "provider",
    "label",
    "provider_version",
    "device_name",
    "machine_id",
)
_FREE += ("harness_commit", "time_utc", "provider_config", "throttle", "note", "torch", "driver")
_FIGURES: tuple[str, ...] = (
    "median_ms",
    "ci_low_ms",
    "ci_high_ms",
    "mean_ms",
    "floor_ms",
    "extra_mib",
    "peak_mib",
    "floor_ratio",
)
_FIGURES += ("ceiling_gbps", "tflops", "error_o", "pair_noise_percent", "copy_gbps", "resolution_percent")

SUITE = """\
title = "Fuzz"
description = "For the fuzzer."
device = "cpu"
[limits]
time_limit_s = 30.0
sample_limit_s = 0.5
min_samples = 6
[[group]]
providers = ["lightning2-torch", "sdpa-math"]
direction = ["fwd", "bwd"]
dtype = "fp32"
batch = 1
heads = 2
seq_len = [64, 128]
head_dim = 16
exclude = [{family = "softmax", seq_len = "> 64"}]
"""
UNAVAILABLE = SUITE.replace('"lightning2-torch", "sdpa-math"', '"flash2"').replace(
    '"softmax", seq_len', '"softmax", batch'
)


def workspace(folder: Path, kind: str, draw: random.Random) -> str:
    """Write whole files and a damaged one of this kind; return the damaged file, relative to `folder`.

    `whole/` has result files, `mutated/` copies of them of which one is damaged, with its sidecar or its
    calibration beside it.
    """
    for name, files in (("whole", ("rows.csv",)), ("mutated", ("rows.csv", "rows-calibration.csv"))):
        (folder / name).mkdir()
        for file in (*files, "rows.samples.jsonl"):
            (folder / name / file).write_bytes(_whole()[file])
    (folder / "out").mkdir()
    (folder / "unavailable.toml").write_text(UNAVAILABLE)
    names = {"rows": "rows.csv", "samples": "rows.samples.jsonl", "calibration": "rows-calibration.csv"}
    path = folder / "mutated" / names.get(kind, "suite.toml" if kind == "suite" else "ceilings.csv")
    data = SUITE.encode() if kind == "suite" else _whole()[path.name]
    if draw.random() < 0.04:
        path.unlink(missing_ok=True)
        draw.choice(_NO_FILES)(path)
        return str(path.relative_to(folder))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        data = draw.choice(_RULES["csv" if path.suffix == ".csv" else path.suffix[1:]])(data, draw)
    if draw.random() < 0.05 and kind != "samples":
        path = path.with_name(draw.choice(_NAMES) + path.suffix)
    path.write_bytes(data)
    return str(path.relative_to(folder)) if kind != "samples" else "mutated/rows.csv"


_NAMES = (
    *("a[b]", "[bold]", "=x", "a\nb", "::error::", "##[error]", "\x1b[31m"),
    *("a b", "é", "\udcff", "x" * 120, "-o", "$x"),
)


_SAMPLES = {
    "samples_ms": [0.9, 1.0, 1.1] * 10,
    "turns": [5] * 6,
    "pair": "",
    "clocks": [{"sm_clock_mhz": 1000.0, "power_w": None}],
    "call_ms": [1.0],
}


def _records() -> list[Record]:
    base = made_up_record(
        suite="fuzz", label="Lightning Attention-2", layout="bhnd", provider_version="1", heads=2,
        median_ms=1.0, p20_ms=0.9, p80_ms=1.1, min_ms=0.8, mean_ms=1.0, ci_low_ms=0.95, ci_high_ms=1.05,
        samples=20, tflops=1.0, gbps=2.0, model_flops=1e6, model_bytes=1e5, floor_ms=0.5, floor_ratio=2.0,
        ceiling_gbps=10.0, ceiling_tflops=0.1, error_o=1e-7, error_budget=1e-3, device_name="CPU",
        machine_id="machine-a", harness_commit="c0", time_utc="2026-01-01T00:00:00+00:00",
    )  # fmt: skip
    rows = []
    for provider, family in (("lightning2", "linear_decay"), ("flash2", "softmax")):
        for n, machine in ((64, "machine-a"), (128, "machine-a"), (64, "machine-b")):
            case = f"{provider}/fwd/b1-h2-n{n}-d16-fp32-cpu"
            row = replace(base, provider=provider, family=family, seq_len=n, case_id=case, machine_id=machine)
            memory = replace(row, metric="memory", median_ms=None, extra_mib=2.0, peak_mib=3.0, ideal_mib=1.0)
            check = replace(row, metric="check", median_ms=None, error_dq=1e-6)
            rows += [row, memory, check] if machine == "machine-a" else [row]
    rows += [
        replace(rows[0], harness_commit=f"c{i}", time_utc=f"2026-01-0{i + 1}T00:00:00+00:00")
        for i in range(1, 8)
    ]
    return [*rows, replace(rows[0], protocol="paper", median_ms=None, status="crashed", reason="it died")]


@cache
def _whole() -> dict[str, bytes]:
    """Return whole files by name; written once per process."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ResultFile(folder / "rows.csv") as file:
            for record in _records():
                if record.metric == "speed":
                    file.append_samples(record, _SAMPLES)
                file.append(record)
        noise = Calibration(
            "lightning2/fwd/b1-h2-n64-d16-fp32-cpu", "machine-a", "cpu", 24, 40.0, 23.0, 1.0, 2.0, 16, 3.0,
            4.0, 3.0, 0.001, 0.01, "1", "CPU", "c0", "2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        write_calibration(folder / "rows-calibration.csv", [noise, replace(noise, case_id="flash2/other")])
        keep(
            folder / "ceilings.csv",
            DeviceCeilings(copy_gbps=10.0, fp32_tflops=0.1, threads=1),
            describe_machine("cpu"),
        )
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _table(data: bytes) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(data.decode(errors="replace").replace("\x00", ""))))
    except csv.Error:
        return []


def _cells(data: bytes, draw: random.Random) -> bytes:
    """Replace cells, of a column of numbers by numbers in most cases."""
    rows = _table(data)
    if len(rows) < 2:
        return data
    column = draw.randrange(max(1, len(rows[0])))
    everywhere = draw.random() < 0.4
    for row in draw.sample(rows[1:], draw.randint(1, len(rows) - 1)) if not everywhere else rows[1:]:
        if column < len(row):
            number = (
                row[column].replace(".", "").replace("e", "").replace("-", "").isdigit() or not row[column]
            )
            row[column] = draw.choice(NUMBERS if number and draw.random() < 0.85 else TEXTS)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogatepass")


def _accepted(data: bytes, draw: random.Random) -> bytes:
    """Replace free texts by any text and figures by extremes, which readers mostly take."""
    rows = _table(data)
    columns = [at for at, name in enumerate(rows[0] if rows else ()) if name in _FREE or name in _FIGURES]
    for column in draw.sample(columns, min(len(columns), draw.randint(1, 4))):
        free, shared = rows[0][column] in _FREE, draw.choice(TEXTS[:-5])
        for row in rows[1:]:
            if column < len(row) and draw.random() < 0.7:
                row[column] = (
                    (shared if draw.random() < 0.7 else draw.choice(TEXTS))
                    if free
                    else draw.choice(_EXTREMES)
                )
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [[cell.replace("\n", " ") for cell in row] for row in rows]
    )
    return text.getvalue().encode(errors="surrogatepass")


def _columns(data: bytes, draw: random.Random) -> bytes:
    """Remove, repeat or rename a column."""
    rows = _table(data)
    if not rows or not rows[0]:
        return data
    column, how = draw.randrange(len(rows[0])), draw.randrange(3)
    for number, row in enumerate(rows):
        if column < len(row):
            if how == 0:
                del row[column]
            elif how == 1:
                row.append(row[column])
            elif number == 0:
                row[column] = draw.choice(TEXTS)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="surrogatepass")


def _bytes(data: bytes, draw: random.Random) -> bytes:
    """Overwrite, remove or insert bytes."""
    for _ in range(draw.randint(1, 8)):
        start = draw.randrange(len(data) + 1)
        end = min(len(data), start + draw.choice((0, 1, 1, 20)))
        data = (
            data[:start]
            + draw.choice((b"", b"\x00", b"\n", b"\r", b'"', b",", b"\xff", b"[", b"{", b"9"))
            + data[end:]
        )
    return data


def _lines(data: bytes, draw: random.Random) -> bytes:
    """Remove, repeat or shuffle lines, cut the file, or end its lines otherwise."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    return draw.choice(
        [
            b"\n".join(lines[:at] + lines[at + 1 :]),
            b"\n".join(lines[:at] + [lines[at]] * 3 + lines[at:]),
            b"\n".join(draw.sample(lines, len(lines))),
            data[: draw.randrange(len(data) + 1)],
            data.replace(b"\n", b"\r\n"),
            b"\xef\xbb\xbf" + data,
            b"",
            b"\n" * 3,
            data + draw.randbytes(200),
        ]
    )


def _values(data: bytes, draw: random.Random) -> bytes:
    """Replace or remove a value of one or of every line of JSON."""
    lines = data.split(b"\n")
    key, value = (
        draw.choice(("samples_ms", "turns", "clocks", "pair", "call_ms", "case_id", "machine_id")),
        draw.choice(VALUES),
    )
    removed, one = draw.random() < 0.1, draw.choice((None, draw.randrange(len(lines))))
    for number, line in enumerate(lines):
        if one is not None and number != one:
            continue
        try:
            entry = json.loads(line)
            if removed:
                entry.pop(key, None)
            elif isinstance(entry.get(key), list) and draw.random() < 0.6:
                entry[key][draw.randrange(len(entry[key]))] = value
            else:
                entry[key] = value
            lines[number] = json.dumps(entry).encode()
        except (ValueError, AttributeError, RecursionError, IndexError):
            continue
    if draw.random() < 0.05:
        lines.insert(
            0, draw.choice((b"[" * 100_000, b"9" * 10_000, b"null", b"[]", b'"x"', b'{"case_id": ' * 5000))
        )
    return b"\n".join(lines)


def _keys(data: bytes, draw: random.Random) -> bytes:
    """Give a key of a suite another value, or another key."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    key, _, value = lines[at].partition(b" = ")
    if value:
        names = (
            b"x",
            b"group",
            b'"a\\u001bb"',
            b"limits",
            b"device.x",
            b"exclude",
            b"value_dim",
            b"memory_limit_gib",
        )
        changed = draw.choice(TOML).encode() if draw.random() < 0.85 else value
        lines[at] = (key if changed is not value else draw.choice(names)) + b" = " + changed
    return b"\n".join(lines)


Rule = Callable[[bytes, random.Random], bytes]
_RULES: dict[str, list[Rule]] = {
    "csv": [_accepted, _accepted, _accepted, _accepted, _cells, _cells, _columns, _bytes, _lines],
    "jsonl": [_values, _values, _values, _bytes, _lines],
    "toml": [_keys, _keys, _keys, _keys, _bytes, _lines],
}
_NO_FILES: list[Callable[[Path], object]] = [
    Path.mkdir,
    os.mkfifo,
    lambda path: path.symlink_to("/dev/zero"),
    lambda path: path.symlink_to(path),
    lambda path: path.symlink_to("/nowhere"),
    lambda path: path.symlink_to("/dev/null"),
    lambda path: path.write_bytes(b""),
]
