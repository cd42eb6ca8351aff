"""Functions of one name on two sides: told apart by their files, or one file against another."""

from __future__ import annotations

from dataclasses import replace

from lightning_bench.comparison.sides import Side
from lightning_bench.record.function_files import files_of


def by_files(base: Side, head: Side) -> tuple[Side, Side, list[str]]:
    """Return the sides, with functions told apart of which either has several files, and remarks.

    Functions of one file on each side are compared; a remark says so if it is not the same file.
    """
    before, after = (files_of(run.record for run in side.runs) for side in (base, head))
    several = {name for files in (before, after) for name, found in files.items() if len(found) > 1}
    remarks = [
        f"{name} is a function of {', '.join(before[name])} in {base.name} and of "
        f"{', '.join(after[name])} in {head.name}"
        for name in sorted(before.keys() & after.keys() - several)
        if before[name] != after[name]
    ]
    sides = [replace(side, runs=[run.told_apart(several) for run in side.runs]) for side in (base, head)]
    return sides[0], sides[1], remarks
