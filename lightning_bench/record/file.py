"""ResultFile: the CSV that one sweep at a time appends rows to, with repair of its end and rotation."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.record.codec import BadRowError, encode_line
from lightning_bench.record.discover import set_aside_path
from lightning_bench.record.lock import is_at, open_for_appending, open_locked, refuse_target
from lightning_bench.record.read import bad_row, read_header
from lightning_bench.record.row import COLUMNS, SCHEMA, Record
from lightning_bench.record.samples import encode_samples, sample_fields, sidecar_path

_HEADER = encode_line(COLUMNS)


class ResultFile:
    """A CSV that one sweep at a time appends rows to, and the samples beside it in `NAME.samples.jsonl`.

    A row is written by one call the moment its case ends: whatever ends the process, the rows before it stay,
    and opening the file again repairs its end. `records` holds the rows of the file; `repaired` is a
    sentence to show if its end was torn; `moved` is where `fresh` put the file that was there.
    """

    def __init__(self, path: str | Path, *, fresh: bool = False) -> None:
        self.path = Path(path)
        refuse_target(self.path)
        self.samples_path = sidecar_path(self.path)
        self.records: list[Record] = []
        self.repaired: str | None = None
        self.moved: Path | None = None
        self._samples_fd = -1
        self._lengths: dict[int, int] = {}  # by descriptor, bytes: as this sweep left the file
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

    def append(self, record: Record, sample_lines: Iterable[bytes] = ()) -> None:
        """Write one row, and before it the lines of its samples in one go, so that no row lacks them.

        Raises LbenchError if one of the two cannot be written; no part of it stays in its file then.
        """
        if lines := b"".join(sample_lines):
            self._write_samples(lines)
        self._write(self._fd, self.path, SCHEMA.encode(record))
        self.records.append(record)

    def append_samples(self, record: Record, samples: Mapping[str, object]) -> None:
        """Write the samples of `record`; call it before `append`, so that no row lacks its samples."""
        self._write_samples(encode_samples(record, sample_fields(samples)))

    def check_unchanged(self) -> None:
        """Raise LbenchError if the file is no longer at its path, or not of the length that was written."""
        self._check(self._fd, self.path)

    def _load(self) -> None:
        data = self.path.read_bytes()
        head, newline, body = data.partition(b"\n")
        if not newline and _HEADER.startswith(data):  # new, or killed while the header was being written
            self._cut(self._fd, self.path, 0)
            self._write(self._fd, self.path, _HEADER)
            return
        _check_header(self.path, head)
        *lines, tail = body.split(b"\n")
        try:
            self.records = SCHEMA.decode(SCHEMA.columns, lines)
        except BadRowError as error:
            if tail or error.index < len(lines) - 1 or not error.torn:
                raise bad_row(self.path, error.index + 2, error) from None
            tail = lines.pop() + b"\n"
            self.records = SCHEMA.decode(SCHEMA.columns, lines)
        self._cut(self._fd, self.path, len(data) - len(tail))

    def _write_samples(self, lines: bytes) -> None:
        if self._samples_fd < 0:
            self._open_samples()
        self._write(self._samples_fd, self.samples_path, lines)

    def _open_samples(self) -> None:
        self._samples_fd = open_for_appending(self.samples_path)
        data = self.samples_path.read_bytes()
        self._cut(self._samples_fd, self.samples_path, data.rfind(b"\n") + 1)

    def _cut(self, descriptor: int, path: Path, length: int) -> None:
        if length < os.fstat(descriptor).st_size:
            os.ftruncate(descriptor, length)
            torn = f"{path} ended in a torn line, left by an interrupted write: cut off, its case runs again"
            self.repaired = f"{self.repaired}; {torn}" if self.repaired else torn
        self._lengths[descriptor] = length

    def _set_aside(self) -> None:
        aside = set_aside_path(self.path, datetime.now(UTC))  # to the microsecond, and under the lock: unused
        try:
            if os.fstat(self._fd).st_size:
                self.moved = self.path.rename(aside)
                moved_fd, self._fd = self._fd, open_locked(self.path)
                os.close(moved_fd)  # only now: its lock kept others from the file that was moved
            if self.samples_path.exists():
                self.samples_path.rename(sidecar_path(aside))
        except OSError as error:
            raise UsageError(
                f"cannot move {self.path} aside: {error.strerror}; give another --out"
            ) from error

    def _write(self, descriptor: int, path: Path, line: bytes) -> None:
        start = self._check(descriptor, path)
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
        self._lengths[descriptor] = start + len(line)

    def _check(self, descriptor: int, path: Path) -> int:
        """Return the file's length. Raise LbenchError if another process replaced, cut or extended it."""
        if not is_at(descriptor, path):
            raise LbenchError(f"{path} was moved or deleted while the sweep was writing it; run it again")
        length = os.fstat(descriptor).st_size
        if length != self._lengths[descriptor]:
            raise LbenchError(
                f"{path} was changed while the sweep was writing it: it has {length} bytes instead of "
                f"{self._lengths[descriptor]}; run it again for what it lost"
            )
        return length


def _check_header(path: Path, head: bytes) -> None:
    found = read_header(path, head)
    differences = [f"lacks {name}" for name in COLUMNS if name not in found]
    differences += [f"also has {name}" for name in found if name not in COLUMNS]
    if found != list(COLUMNS):
        raise UsageError(
            f"{path} has other columns than this version writes "
            f"(it {', '.join(differences) or 'orders them differently'}): "
            "give --fresh to start a new file (the old one is kept), or another --out"
        )
