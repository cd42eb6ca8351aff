"""Plain functions by the files that have them, by which rows of functions of one name are told apart.

A row knows a function by its name only, in `provider` and `case_id`; its `label` has the file, too. A file is
named by its path in its git repository, outside of one by its own name: so it has one name in every checkout.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import replace

from lightning_bench.record.row import Record

_LABEL = re.compile(r"(?P<name>.+) \((?P<file>.+\.py)\)")


def function_label(name: str, file: str) -> str:
    """Return the label of a function of a file."""
    return f"{name} ({file})"


def function_of(record: Record) -> tuple[str, str]:
    """Return the name and the file of the function of a row; the file is "" if the label names none."""
    match = _LABEL.fullmatch(record.label)
    if match and record.provider in (match["name"], _apart(match["name"], match["file"])):
        return match["name"], match["file"]
    return record.provider, ""


def files_of(records: Iterable[Record]) -> dict[str, set[str]]:
    """Return the files of the functions of rows, by the names of the functions."""
    files: dict[str, set[str]] = defaultdict(set)
    for record in records:
        name, file = function_of(record)
        if file:
            files[name].add(file)
    return files


def of_several_files(records: Iterable[Record]) -> set[str]:
    """Return the names of functions that rows have of several files, also where they are told apart."""
    return {name for name, files in files_of(records).items() if len(files) > 1}


def told_apart(record: Record, names: Set[str]) -> Record:
    """Return a row with the file in its `provider` and `case_id`, if its function is one of these names."""
    name, file = function_of(record)
    if name not in names or not file or record.provider != name:
        return record
    provider = _apart(name, file)
    return replace(record, provider=provider, case_id=record.case_id.replace(name, provider, 1))


def _apart(name: str, file: str) -> str:
    return f"{file.replace('/', '-')}:{name}"  # of a case's id what is before the first slash is the provider
