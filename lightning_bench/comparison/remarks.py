"""What a comparison says beside its verdicts: the noise that it goes by, and what is missing."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_bench.comparison import rule
from lightning_bench.comparison.noise import ASSUMED
from lightning_bench.comparison.overall import Estimated
from lightning_bench.comparison.result import NEW_FAULT, ComparedCell
from lightning_bench.comparison.rule import Floats
from lightning_bench.comparison.sides import Run
from lightning_bench.words import counted

_Place = tuple[Path, str]
"""A file and the id of a case in it."""

_MORE_RUNS = "take more runs (--pairs with --ref, more CSVs in each folder without)"


def noise_remarks(
    cells: Sequence[ComparedCell], estimated: Estimated, resolution: Floats, threshold: float
) -> list[str]:
    """Return what to know of the noise by which the timed cells were judged, and of what they resolve."""
    kinds = Counter(cell.noise.rpartition(", ")[2] for cell in cells)
    found = []
    if kinds["assumed"]:
        found.append(_assumed(kinds["assumed"], estimated))
    if kinds["calibrated on other cases"]:
        found.append(
            f"not calibrated: {counted(kinds['calibrated on other cases'], 'cell')}; the noise of this "
            "machine's noisiest calibrated case is used"
        )
    if elsewhere := kinds["calibrated on another GPU"]:
        found.append(
            f"calibrated on another GPU of this kind: {counted(elsewhere, 'cell')}; GPUs of one kind differ, "
            "`lbench calibrate --gpus all` measures each"
        )
    if estimated.tuning.any():
        names = sorted({cell.provider for cell, tunes in zip(cells, estimated.tuning, strict=True) if tunes})
        found.append(
            f"{', '.join(names)}: an autotuner may choose anew in each process, so one process on a side "
            "never makes it SLOWER; take several: --ref, or folders of CSVs"
        )
    if loaded := int(estimated.loaded.sum()):
        found.append(
            f"{counted(loaded, 'cell')} timed by one process on a side, beside foreign load: that shows no "
            "change; compare on a quieter machine, or take several: --ref, or folders of CSVs"
        )
    if few := _few(cells, estimated, threshold):
        found.append(
            f"{counted(few, 'cell')} changed in every process, but among so many cells so few processes may "
            f"each have started in another of two configurations by chance: {_MORE_RUNS}, or use "
            "`lbench calibrate`"
        )
    undecided = np.array([cell.verdict == "AMBIGUOUS" for cell in cells])
    if doubled := int(np.sum(undecided & estimated.doubled)):
        found.append(
            f"{counted(doubled, 'cell')} at least doubled or halved in every process, but most of these were "
            f"unstable, and on a busy machine times double by themselves: {_MORE_RUNS}, or a quieter machine"
        )
    limit = math.log1p(threshold)
    if coarse := int(np.sum(resolution > limit)):
        usual = float(np.median(resolution[resolution > limit]))
        finest = "100 %" if usual > math.log(2) else f"{100 * math.expm1(usual):.1f} %"
        found.append(
            f"{coarse} of {len(cells)} cells cannot resolve the threshold of {100 * threshold:g} %: in half "
            f"of them a change must exceed {finest} to be found in 95 % of comparisons; {_MORE_RUNS}, a "
            "quieter machine or a wider --threshold"
        )
    return found


def not_in_turns(base: Sequence[Run], head: Sequence[Run]) -> list[str]:
    """Return a remark on cases that the two providers have from two runs of `lbench`, so not side by side."""
    ends: tuple[dict[_Place, str], dict[_Place, str]] = ({}, {})
    for end, side in zip(ends, (base, head), strict=True):
        timed = [run for run in side if run.log_ms is not None]
        end.update(((run.source, run.record.case_id), run.record.run_utc) for run in timed)
    shared = ends[0].keys() & ends[1].keys()
    apart = {place[1] for place in shared if ends[0][place] != ends[1][place]}
    if not apart:
        return []
    return [
        f"{counted(len(apart), 'case')} measured in two runs, one for each provider, and not in turns: what "
        "changed on the machine in between counts as a difference; `lbench speed --fresh` measures all anew"
    ]


def partial_sides(cells: Sequence[ComparedCell]) -> list[str]:
    """Name a side that lacks rows, providers that work nowhere in head, and those whose new cells fail."""
    found = []
    for side, verdict in (("base", "NEW"), ("head", "MISSING")):
        lacking = sum(cell.verdict == verdict and cell.detail.startswith("no row") for cell in cells)
        if lacking:
            found.append(f"{side} has no row of {lacking} of {counted(len(cells), 'cell')}: is it complete?")
    by_provider: defaultdict[str, list[ComparedCell]] = defaultdict(list)
    for cell in cells:
        if cell.verdict != "NEW":
            by_provider[cell.provider].append(cell)
    broken = [
        f"{name} (all {counted(len(members), 'cell')})"
        for name, members in by_provider.items()
        if all(cell.verdict in ("BROKEN", "MISSING") for cell in members)
    ]
    if new := [
        cell.provider for cell in cells if cell.verdict == "NEW" and cell.detail.startswith(NEW_FAULT)
    ]:
        names = ", ".join(dict.fromkeys(new))
        found.append(
            f"{counted(len(new), 'cell')} only in head that failed there, which the exit code does not "
            f"count: {names}"
        )
    return [*found, *([f"works in no cell of head: {', '.join(broken)}"] if broken else [])]


def _assumed(count: int, estimated: Estimated) -> str:
    assume = [versus for versus, scale in zip(estimated.timed, estimated.scale, strict=True) if scale > 0]
    tuning = [v for v in assume if v.base[-1].tunes_itself or v.head[-1].tunes_itself]
    shares = {f"{100 * ASSUMED[v.record.device].process:g} % on {v.record.device}" for v in assume}
    tuned = {f"{100 * ASSUMED[v.record.device].tuning:g} % of a kernel that tunes itself" for v in tuning}
    stated = ", ".join(sorted(shares) + sorted(tuned))
    most = float(estimated.scale.max())
    more = f", up to {most:.1f} times as much by today's spread over the cells" if most > 1 else ""
    return (
        f"one run on a side in {counted(count, 'cell')}: the noise between runs is assumed ({stated}{more}). "
        "`lbench calibrate` measures it; folders of CSVs, one run each, and `lbench compare --ref` have many"
    )


def _few(cells: Sequence[ComparedCell], estimated: Estimated, threshold: float) -> int:
    """Count the cells that are clear but for their few processes."""
    certain = replace(estimated.shift, luck=np.zeros(len(cells)))
    verdicts = rule.judge(certain, threshold).verdicts
    return sum(
        cell.verdict == "AMBIGUOUS" and verdict in ("SLOWER", "FASTER") and not assumes
        for cell, verdict, assumes in zip(cells, verdicts, estimated.scale > 0, strict=True)
    )
