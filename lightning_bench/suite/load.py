"""From a file to a Suite, or to one error that names every fault with its file, line, key and remedy."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lightning_bench.case import Device, Family
from lightning_bench.errors import UsageError
from lightning_bench.record.codec import read_regular
from lightning_bench.suite.axes import Faults, did_you_mean, family_of, show
from lightning_bench.suite.expand import idle_excludes
from lightning_bench.suite.find import default_suite, find_suite
from lightning_bench.suite.lines import Location, line_numbers, nearest_line
from lightning_bench.suite.model import Group, Suite, SuiteFile, table_fields

_OF_SYSTEMS: dict[Device, tuple[str, ...]] = {
    "cuda": ("systems", "fla-readme", "srmsnorm", "decode", "verify"),
    "cpu": ("systems-quick",),
}
"""The suites besides the default one that together have every family."""


def load_suite(name_or_path: str | Path) -> Suite:
    """Read and validate a bundled suite or a file. Raises one UsageError with one line per fault."""
    path = find_suite(name_or_path)
    text = _read(path)
    raw = _parse(path, text)
    try:
        content = SuiteFile.model_validate(raw, context={"folder": path.resolve().parent})
    except ValidationError as error:
        raise UsageError("\n".join(_fault_lines(path, text, raw, error))) from None
    if idle := list(_idle_lines(path, text, raw, content.group)):
        raise UsageError("\n".join(idle))
    return Suite(
        name=path.stem,
        path=path,
        title=content.title,
        description=content.description,
        protocol=content.protocol,
        device=content.device,
        inputs=content.inputs,
        graph=content.graph,
        limits=content.limits,
        groups=content.group,
        train=content.train,
        generate=content.generate,
    )


def suite_with_family(families: Collection[Family], device: Device) -> Suite:
    """Return the first suite that has a provider of one of these families; the default suite comes first.

    It is the default suite if none has one.
    """
    suites = [load_suite(name) for name in (default_suite(device), *_OF_SYSTEMS[device])]
    for suite in suites:
        if any(family_of(spec) in families for group in suite.groups for spec in group.providers):
            return suite
    return suites[0]


def _read(path: Path) -> str:
    data = read_regular(path, advice="; allowed: a readable file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; allowed: a TOML file saved as UTF-8"
        ) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of 5000 digits is a plain ValueError
        message = " ".join(str(error).split())
        where = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
        line = (where[1] or str(text.count("\n") + 1)) if where else "1"
        what = message[: where.start()] if where else message
        raise UsageError(
            f"{path}:{line}: TOML syntax: {what}; allowed: TOML 1.0 (https://toml.io), strings in quotes"
        ) from None


def _fault_lines(path: Path, text: str, raw: dict[str, Any], error: ValidationError) -> list[str]:
    numbers = line_numbers(text, raw)
    faults = []
    for detail in error.errors(include_url=False):
        number = nearest_line(numbers, detail["loc"])
        where = _where(path, number, detail["loc"])
        faults += [(number or 0, f"{where}: {sentence}") for sentence in _sentences(detail)]
    return [line for _, line in sorted(faults, key=lambda fault: fault[0])]


def _idle_lines(path: Path, text: str, raw: dict[str, Any], groups: Sequence[Group]) -> Iterator[str]:
    """Yield a line per exclude entry that leaves out nothing, which is a slip of its writer."""
    for index, group in enumerate(groups):
        for entry in idle_excludes(group):
            location: Location = ("group", index, "exclude", entry)
            where = _where(path, nearest_line(line_numbers(text, raw), location), location)
            yield (
                f"{where}: {group.exclude[entry]} matches no cell of its group; allowed: what leaves out a "
                "cell, so correct it or remove it"
            )


def _where(path: Path, number: int | None, location: Location) -> str:
    return f"{path}:{number}: {_key(location)}" if number else f"{path}: {_key(location)}"


def _sentences(detail: ErrorDetails) -> Iterator[str]:
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, Faults):
        yield from cause.faults
        return
    keys = [part for part in detail["loc"] if isinstance(part, str)]
    fields = table_fields(tuple(keys[:-1]))
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join(fields)
        yield f"unknown key{did_you_mean(keys[-1], fields)}; allowed: {allowed}"
    elif detail["type"] == "missing":
        yield f"is missing; allowed: {fields[keys[-1]].description}"
    else:
        yield f"{show(detail['input'])} is not allowed; allowed: {fields[keys[-1]].description}"


def _key(location: Location) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if re.fullmatch(r"[\w-]+", part) else show(part))
    return text
