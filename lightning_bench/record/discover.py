"""Which files are result files: named ones, those of a folder, and those that `--fresh` set aside."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from lightning_bench.errors import UsageError
from lightning_bench.record.row import SCHEMA

_LONGEST_NAME = 160  # a file system takes 255 bytes, an ending among them
_LONGEST_HEADER = 65536
_SET_ASIDE = re.compile(r"\.\d{8}T\d{6,}Z\.csv$")


@dataclass(frozen=True)
class FoundFiles:
    """Result files in order, each once; those of them that were `named` and not found in a folder.

    Of a folder, `skipped` has a sentence for each CSV that cannot be read or is empty, `other` the CSVs of
    another kind, such as ceilings or what a script wrote.
    """

    files: list[Path] = field(default_factory=list)
    named: set[Path] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)


def result_files(paths: Sequence[str | Path], *, set_aside: bool = False) -> FoundFiles:
    """Return the named files, and of folders all result files at any depth, sorted by path.

    A folder's CSVs of another kind are left out, and those that `--fresh` set aside unless
    `set_aside`. A named file is taken whatever it holds. Raises UsageError for a path that does not exist.
    """
    found = FoundFiles()
    seen: set[Path] = set()
    for path in map(Path, paths):
        if path.is_dir():
            files = _of_folder(path, found, set_aside)
        elif path.exists():
            files = [path]
            found.named.add(path)
        else:
            raise UsageError(f"{path}: there is no such file or folder; give a CSV that lbench wrote")
        for file in files:
            if file.resolve() not in seen:
                seen.add(file.resolve())
                found.files.append(file)
    return found


def set_aside_path(path: Path, time: datetime) -> Path:
    """Return where `--fresh` moves `path`: NAME.20261121T072500123456Z.csv; `time` is UTC."""
    return path.with_suffix(f".{time:%Y%m%dT%H%M%S%fZ}.csv")


def file_name(text: str) -> str:
    """Return a name for a file or a folder made of text of a row: one part of a path, at most 160 characters.

    Texts that differ have names that differ; one of letters, digits and `_.+-` is its own name.
    """
    name = re.sub(r"[^\w.+-]", "_", text, flags=re.ASCII)
    if name == text and len(name) <= _LONGEST_NAME and name.strip("."):
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: _LONGEST_NAME - 9].lstrip('.')}-{digest}"


def shown_path(path: Path) -> str:
    """Return the path as a user would type it here: relative if below this folder, with / everywhere."""
    full = Path(os.path.abspath(path))
    here = Path.cwd()
    return (full.relative_to(here) if full.is_relative_to(here) else full).as_posix()


def _of_folder(folder: Path, found: FoundFiles, set_aside: bool) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*.csv")):
        if not path.is_file() or (_SET_ASIDE.search(path.name) and not set_aside):
            continue
        try:
            header = _header(path)
        except (OSError, csv.Error) as error:
            found.skipped.append(f"{shown_path(path)} cannot be read ({error})")
            continue
        if set(header) >= set(SCHEMA.required):
            files.append(path)
        elif header:
            found.other.append(shown_path(path))
        else:
            found.skipped.append(f"{shown_path(path)} is empty")
    return files


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return next(csv.reader([file.readline(_LONGEST_HEADER)]), [])
