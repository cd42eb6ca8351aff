"""Record: one CSV row of a sweep; the file that a sweep appends to, and the reading of such files."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import math
import operator
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

from lightning_bench.case import Device, Direction, Dtype, Metric, ProtocolName
from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.record.lock import is_at, open_for_appending, open_locked, refuse_target

Status = Literal["ok", "unavailable", "unsupported", "oom", "timeout", "crashed", "wrong", "unstable"]

STATUSES: tuple[Status, ...] = get_args(Status)
SAMPLES_KEY = ("case_id", "metric", "protocol", "provider_version", "machine_id")  # a line of samples' row
FAILED: frozenset[Status] = frozenset({"crashed", "timeout", "wrong"})

Figure = float | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """One case as it ended: a row of the CSV, each field with its meaning and unit.

    A record equals what its row reads back as: it holds floats to twelve digits, a float that is not
    finite as None, and text as one line.
    """

    suite: Annotated[str, "name of the suite that asked for the case"] = ""
    metric: Annotated[Metric, "what was measured: speed, memory or check"]
    protocol: Annotated[ProtocolName, "how it was measured: lbench or paper"]
    status: Annotated[Status, "how it ended: ok, or what kept it from that; see Status"]
    reason: Annotated[str, "why the status is not ok, in one line"] = ""
    case_id: Annotated[str, "provider/direction/shape"]
    provider: Annotated[str, "name of the implementation"]
    label: Annotated[str, "its name in tables and plots"] = ""
    family: Annotated[str, "what it computes: linear_decay, softmax, gla and so on; see docs/systems.md"]
    layout: Annotated[str, "layout of its inputs: bhnd or bnhd"] = ""
    provider_version: Annotated[str, "package and version that it wraps"] = ""
    provider_config: Annotated[str, "kernel configuration that it chose"] = ""
    direction: Annotated[Direction, "fwd, bwd or fwd_bwd"]
    dtype: Annotated[Dtype, "dtype of inputs and output: fp32, fp16 or bf16"]
    batch: Annotated[int, "batch size"]
    heads: Annotated[int, "number of heads"]
    seq_len: Annotated[int, "sequence length, tokens"]
    head_dim: Annotated[int, "columns of q and k"]
    value_dim: Annotated[int, "columns of v and of the output"]
    device: Annotated[Device, "cuda or cpu"]
    median_ms: Annotated[Figure, "median time, ms"] = None
    p20_ms: Annotated[Figure, "20th percentile of the time, ms"] = None
    p80_ms: Annotated[Figure, "80th percentile of the time, ms"] = None
    min_ms: Annotated[Figure, "shortest time, ms"] = None
    mean_ms: Annotated[Figure, "mean time, ms"] = None
    ci_low_ms: Annotated[Figure, "lower end of the 95 % confidence interval of the median, ms"] = None
    ci_high_ms: Annotated[Figure, "upper end of the 95 % confidence interval of the median, ms"] = None
    samples: Annotated[int | None, "number of timed samples"] = None
    call_ms: Annotated[Figure, "median time that an eager caller waits, launch included, ms"] = None
    graph_ms: Annotated[Figure, "median time of a CUDA-graph replay, ms"] = None
    tflops: Annotated[Figure, "model operations over the median time, TFLOP/s (10^12)"] = None
    gbps: Annotated[Figure, "model traffic over the median time, GB/s (10^9)"] = None
    model_flops: Annotated[Figure, "operations that the task needs, whoever does it"] = None
    model_bytes: Annotated[Figure, "bytes that must cross device memory, whoever moves them"] = None
    floor_ms: Annotated[Figure, "the longer of what bytes and FLOPs take at the two ceilings, ms"] = None
    floor_ratio: Annotated[Figure, "median_ms over floor_ms"] = None
    ceiling_gbps: Annotated[Figure, "copy bandwidth measured in the same run, GB/s (10^9)"] = None
    ceiling_tflops: Annotated[
        Figure, "matrix rate in this dtype measured in the same run, TFLOP/s (10^12)"
    ] = None
    extra_mib: Annotated[Figure, "peak memory that the call adds to inputs already there, MiB (2^20)"] = None
    peak_mib: Annotated[Figure, "absolute peak of allocated memory, MiB (2^20)"] = None
    saved_mib: Annotated[Figure, "memory held between forward and backward, MiB (2^20)"] = None
    reserved_mib: Annotated[Figure, "peak of memory that the allocator reserved, MiB (2^20)"] = None
    ideal_mib: Annotated[Figure, "memory of the call's outputs alone, MiB (2^20)"] = None
    extra_ratio: Annotated[Figure, "extra_mib over ideal_mib"] = None
    error_o: Annotated[Figure, "relative L2 error of the output against the fp64 oracle"] = None
    error_dq: Annotated[Figure, "relative L2 error of the gradient of q"] = None
    error_dk: Annotated[Figure, "relative L2 error of the gradient of k"] = None
    error_dv: Annotated[Figure, "relative L2 error of the gradient of v"] = None
    error_dgate: Annotated[Figure, "worst relative L2 error of the gradients of gates and other inputs"] = (
        None
    )
    error_budget: Annotated[Figure, "largest relative L2 error that passes the gate"] = None
    sm_clock_mhz: Annotated[Figure, "median SM clock beside the samples, MHz"] = None
    power_w: Annotated[Figure, "median board power beside the samples, W"] = None
    temperature_c: Annotated[Figure, "highest GPU temperature beside the samples, degrees Celsius"] = None
    throttle: Annotated[str, "reasons why the GPU slowed its clocks, if any"] = ""
    device_name: Annotated[str, "the GPU's product name, or the CPU's model"] = ""
    capability: Annotated[str, "CUDA compute capability"] = ""
    driver: Annotated[str, "version of the NVIDIA driver"] = ""
    cuda: Annotated[str, "CUDA version that torch was built for"] = ""
    torch: Annotated[str, "version of torch"] = ""
    triton: Annotated[str, "version of triton"] = ""
    python: Annotated[str, "version of Python"] = ""
    harness_version: Annotated[str, "version of lightning-bench"] = ""
    harness_commit: Annotated[str, "its commit, followed by -dirty if the code differed"] = ""
    machine_id: Annotated[str, "fingerprint of device, driver, CUDA, torch, triton and python"] = ""
    time_utc: Annotated[str, "when the case ended, UTC, ISO 8601"] = ""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            if (tidy := _tidy(_HINTS[name], value)) is not value:
                object.__setattr__(self, name, tidy)

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        """What a sweep that goes on knows a finished case by."""
        return self.metric, self.protocol, self.case_id, self.provider_version, self.machine_id


_ANNOTATED = get_type_hints(Record, include_extras=True)
# One object a type, so that readers of many rows compare by identity.
_HINTS = {name: Figure if hint.__origin__ == Figure else hint.__origin__ for name, hint in _ANNOTATED.items()}
_ALLOWED = {id(hint): get_args(hint) for hint in _HINTS.values() if get_origin(hint) is Literal}
COLUMNS: dict[str, str] = {name: hint.__metadata__[0] for name, hint in _ANNOTATED.items()}
"""Every column in the order of the file, with its meaning and unit. A figure that was not taken is blank."""


class ResultFile:
    """A CSV that one sweep at a time appends rows to, and the samples beside it in ``NAME.samples.jsonl``.

    A row is written by one call the moment its case ends: whatever ends the process, the rows before it stay,
    and opening the file again repairs its end. ``records`` holds the rows of the file; ``repaired`` is a
    sentence to show if its end was torn; ``moved`` is where ``fresh`` put the file that was there.
    """

    def __init__(self, path: str | Path, *, fresh: bool = False) -> None:
        self.path = Path(path)
        self.samples_path = self.path.with_suffix(".samples.jsonl")
        self.records: list[Record] = []
        self.repaired: str | None = None
        self.moved: Path | None = None
        self._samples_fd = -1
        refuse_target(self.path)
        self._fd = open_locked(self.path)
        try:
            if fresh:
                self._set_aside()
            self._load()
            if self.samples_path.exists():
                self._open_samples()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file to other sweeps; a second call does nothing."""
        for descriptor in (self._samples_fd, self._fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._fd = self._samples_fd = -1

    def append(self, record: Record) -> None:
        """Write one row; LbenchError if it cannot be written, and then no part of it stays in the file."""
        self._write(self._fd, self.path, _line(vars(record).values()))
        self.records.append(record)

    def append_samples(self, record: Record, samples: Mapping[str, Any]) -> None:
        """Write the samples of ``record``; call it before ``append``, so that no row lacks its samples."""
        identity = {name: getattr(record, name) for name in SAMPLES_KEY}
        if clash := sorted(identity.keys() & samples.keys()):
            raise ValueError(f"samples may not name {', '.join(clash)}: the record gives it")
        text = json.dumps({**identity, **samples}, default=lambda array: array.tolist())
        short = json.loads(
            text, parse_float=lambda number: float(f"{float(number):.6g}"), parse_constant=lambda _: None
        )
        if self._samples_fd < 0:
            self._open_samples()
        self._write(self._samples_fd, self.samples_path, json.dumps(short).encode() + b"\n")

    def _load(self) -> None:
        data = self.path.read_bytes()
        head, newline, body = data.partition(b"\n")
        if not newline and _HEADER.startswith(data):  # new, or killed while the header was being written
            self._cut(self._fd, self.path, 0)
            self._write(self._fd, self.path, _HEADER)
            return
        _check_header(self.path, head)
        *lines, tail = body.split(b"\n")
        for number, line in enumerate(lines, start=2):
            try:
                self.records.append(_record(list(COLUMNS), line))
            except ValueError as error:
                if tail or number <= len(lines) or not isinstance(error, _TornError):
                    raise _bad_row(self.path, number, error) from None
                tail = line + b"\n"
        self._cut(self._fd, self.path, len(data) - len(tail))

    def _open_samples(self) -> None:
        self._samples_fd = open_for_appending(self.samples_path)
        data = self.samples_path.read_bytes()
        self._cut(self._samples_fd, self.samples_path, data.rfind(b"\n") + 1)

    def _cut(self, descriptor: int, path: Path, length: int) -> None:
        if length < os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, length)
            torn = f"{path} ended in a torn line, left by an interrupted write: cut off, its case runs again"
            self.repaired = f"{self.repaired}; {torn}" if self.repaired else torn

    def _set_aside(self) -> None:
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"  # to the microsecond, and under the lock: unused
        try:
            if os.fstat(self._fd).st_size:
                self.moved = self.path.rename(self.path.with_suffix(f".{stamp}.csv"))
                moved_fd, self._fd = self._fd, open_locked(self.path)
                os.close(moved_fd)  # only now: its lock kept others from the file that was moved
            if self.samples_path.exists():
                self.samples_path.rename(self.path.with_suffix(f".{stamp}.samples.jsonl"))
        except OSError as error:
            raise UsageError(
                f"cannot move {self.path} aside: {error.strerror}; give another --out"
            ) from error

    def _write(self, descriptor: int, path: Path, line: bytes) -> None:
        if not is_at(descriptor, path):
            raise LbenchError(f"{path} was moved or deleted while the sweep was writing it; run it again")
        start = os.fstat(descriptor).st_size
        rest = memoryview(line)
        try:
            while rest:  # a second turn only to learn why the first wrote a part
                rest = rest[os.write(descriptor, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, start)
            raise LbenchError(
                f"cannot write {path}: {error.strerror}; the {len(self.records)} earlier rows are whole"
            ) from error


def read_records(path: str | Path) -> list[Record]:
    """Read a CSV of this or another version: absent columns take their defaults, unknown ones are skipped.

    Raises UsageError if the file is no CSV of ours or is empty, or if a row, then named, cannot be parsed.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not data.strip():
        raise UsageError(f"{path} is empty: no sweep has written a row to it")
    head, *lines = data.split(b"\n")
    columns = _columns(path, head)
    required = (field.name for field in fields(Record) if field.default is MISSING)
    if lacking := ", ".join(name for name in required if name not in columns):
        raise UsageError(f"{path} is not a CSV that lbench wrote: it has no column {lacking}")
    records = []
    for number, line in enumerate(lines, start=2):
        try:
            if line.strip():
                records.append(_record(columns, line))
        except ValueError as error:
            raise _bad_row(path, number, error) from None
    return records


def latest(records: Iterable[Record]) -> list[Record]:
    """Keep the last record of each case, metric, protocol and machine, in the order of first appearance."""
    return list({(one.case_id, one.metric, one.protocol, one.machine_id): one for one in records}.values())


def merge(*lists: Iterable[Record]) -> list[Record]:
    """Join the rows of several files in order of time, the same row once; ``latest`` may follow."""
    return sorted(dict.fromkeys(one for records in lists for one in records), key=lambda one: one.time_utc)


class _TornError(ValueError):
    """A line is not a whole row, as an interrupted write leaves it."""


def _tidy(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if hint is Figure:
        return float(format(float(value), ".12g")) if math.isfinite(value) else None
    if hint is int or hint is _HINTS["samples"]:
        return operator.index(value)
    if len(value) <= _LONGEST_TEXT and value.isascii() and value.isprintable():
        return value.strip()  # nearly every cell: files of 20,000 rows are read in a second
    text = value.encode(errors="backslashreplace").decode()
    # Control characters and all that some reader takes for the end of a line.
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip()[:_LONGEST_TEXT].strip()


def _line(cells: Iterable[Any]) -> bytes:
    text = io.StringIO()
    row = [format(cell, ".12g") if isinstance(cell, float) else cell for cell in cells]
    csv.writer(text, lineterminator="\n").writerow(row)  # None is written as a blank
    return text.getvalue().encode()


def _cells(line: bytes) -> list[str]:
    try:
        return next(csv.reader([line.decode()], strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise _TornError(str(error)) from None


def _parse(hint: Any, text: str) -> Any:
    if hint is str:
        return text
    if allowed := _ALLOWED.get(id(hint)):
        if text not in allowed:
            raise ValueError(f"{text!r} is none of {', '.join(allowed)}")
        return text
    if not text and hint is not int:
        return None
    number = float(text)
    if hint is Figure:
        return number
    if not number.is_integer():  # pandas writes a column of integers with blanks as 30.0
        raise ValueError(f"{text!r} is not an integer")
    return int(number)


def _record(columns: list[str], line: bytes) -> Record:
    cells = _cells(line)
    if len(cells) != len(columns):
        raise _TornError(f"{len(cells)} fields where the header has {len(columns)}")
    values = {}
    for name, cell in zip(columns, cells, strict=True):
        if name in _HINTS:
            try:
                values[name] = _parse(_HINTS[name], cell)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return Record(**values)


def _columns(path: Path, head: bytes) -> list[str]:
    with contextlib.suppress(_TornError):
        if "case_id" in (columns := _cells(head.removeprefix(codecs.BOM_UTF8))):
            return columns
    raise UsageError(f"{path} is not a CSV that lbench wrote: give the name of one that is")


def _check_header(path: Path, head: bytes) -> None:
    found = _columns(path, head)
    differences = [f"lacks {name}" for name in COLUMNS if name not in found]
    differences += [f"also has {name}" for name in found if name not in COLUMNS]
    if found != list(COLUMNS):
        raise UsageError(
            f"{path} has other columns than this version writes "
            f"(it {', '.join(differences) or 'orders them differently'}): "
            "give --fresh to begin it anew (the old file is kept), or another --out"
        )


def _bad_row(path: Path, number: int, error: ValueError) -> UsageError:
    return UsageError(f"{path}, line {number}: not a row of lbench ({error}); mend or remove that line")


_LONGEST_TEXT = 2000  # a compiler's error can be longer than a CSV reader takes
_HEADER = _line(COLUMNS)
