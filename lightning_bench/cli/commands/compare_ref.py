"""`lbench compare --ref`: both commits' kernels measured on this machine, pass by pass."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lightning_bench.case import Metric
from lightning_bench.cli.shared.axis_options import Axes
from lightning_bench.cli.shared.common_options import Running
from lightning_bench.cli.shared.completion import list_of
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.comparison.sides import Side
    from lightning_bench.run.chosen_slots import Chosen
    from lightning_bench.run.worktree import Checkout

_REF_PANEL = "Measuring another commit (--ref)"


@dataclass(frozen=True)
class RefOptions:
    """The commit to compare with, and how both are measured."""

    ref: Annotated[
        str | None,
        typer.Option(
            metavar="GIT_REF",
            help="Measure this commit against the working tree.",
            rich_help_panel=_REF_PANEL,
        ),
    ] = None
    pairs: Annotated[
        int,
        typer.Option(
            metavar="N", min=2, help="Passes, each with a fresh process per side.", rich_help_panel=_REF_PANEL
        ),
    ] = 16
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRICS",
            help="speed,memory or one of them.",
            autocompletion=list_of(("speed", "memory")),
            rich_help_panel=_REF_PANEL,
        ),
    ] = "speed,memory"
    kernels: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the repository that goes first on the import path. Default: kernels, else src, "
            "else the root.",
            rich_help_panel=_REF_PANEL,
        ),
    ] = None
    from_diff: Annotated[
        bool,
        typer.Option(
            "--from-diff",
            help="Measure only providers whose sources differ between the two; all if the suite's file does.",
            rich_help_panel=_REF_PANEL,
        ),
    ] = False
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for base.csv and head.csv of what --ref measures. Default: not kept.",
            rich_help_panel=_REF_PANEL,
        ),
    ] = None


@dataclass(frozen=True)
class Measured:
    """Both sides' rows; none, and why, if `--from-diff` found nothing to measure."""

    base: Side
    head: Side
    untouched: str = ""


def measure(
    sink: Sink, suite: str | None, commit: RefOptions, axes: Axes, running: Running, chosen: Chosen
) -> Measured:
    """Check the commit out, measure it and the working tree in turns, and return both sides' rows."""
    from lightning_bench.cli.shared.side_by_side import run_side_by_side
    from lightning_bench.comparison.sides import Side
    from lightning_bench.machine.scratch import scratch_folder
    from lightning_bench.run.pairs import comparable, plan_of_tree
    from lightning_bench.run.planner import Planner
    from lightning_bench.run.touched import Diff, touched
    from lightning_bench.run.worktree import changed_files, checked_out, import_folders, working_tree

    ref = str(commit.ref)
    tree = working_tree(Path.cwd())
    metrics = _metrics(commit.metric)
    with ExitStack() as stack:
        stack.enter_context(_terminated_cleanly())
        folder = commit.out or stack.enter_context(scratch_folder())
        inside = _import_folder(tree, commit.kernels)
        other = stack.enter_context(checked_out(tree, ref))
        sink.say(f"{tree.name} (this tree) against {other.name} ({ref})")
        if tree.dirty:
            sink.say("this tree has changes that are not committed: they are measured too")
        if not (other.root / inside).is_dir():
            raise UsageError(f"{ref} has no folder {inside}; give --kernels, a folder that both commits have")
        settings = running.settings(machine=chosen.machine)
        with _importable(tree.root / inside):
            planners = [Planner(metric, axes.overrides(), settings) for metric in metrics]
            loaded = planners[0].load(suite)
            plans = [planner.plan(loaded) for planner in planners]
        names = f"{ref} ({other.name})", f"this tree ({tree.name})"
        sides = (other, tree)
        for plan in plans:
            told = plan.metric == metrics[0]
            if planners[0].overrides.providers is None:
                plan, left_out = comparable(plan, tree.root)
                if left_out and told:
                    listed = ", ".join(left_out)
                    sink.say(f"left out, since no commit changes them: {listed} (--provider takes them)")
            if not plan.cases:
                raise UsageError(
                    "no provider of the suite comes from this repository; name some by --provider"
                )
            if commit.from_diff:
                diff = Diff(tree.root, other.root, changed_files(tree, other), inside)
                plan, left_out = touched(plan, diff, loaded.path)
                if left_out and told:
                    sink.say(f"left out, since the diff does not touch them: {', '.join(left_out)}")
                if not plan.cases:
                    reason = (
                        f"Nothing to measure: the diff against {ref} touches no provider of {loaded.name}"
                    )
                    base, head = (Side(name, [], []) for name in names)
                    return Measured(base, head, untouched=reason)
            run_side_by_side(
                sink,
                [plan_of_tree(plan, tree.root, side.root, side.root / inside) for side in sides],
                [(side.root / inside, *import_folders(tree.root, side.root)) for side in sides],
                [_csv(folder, name, plan.metric, metrics) for name in ("base", "head")],
                [f"base {other.name}", f"head {tree.name}"],
                commit.pairs,
                chosen,
            )
        base, head = (_read(folder, name, metrics) for name in ("base", "head"))
        if commit.out is not None:
            sink.say(f"results: {folder}")
        return Measured(replace(base, name=names[0]), replace(head, name=names[1]))


def _csv(folder: Path, name: str, metric: Metric, metrics: Sequence[Metric]) -> Path:
    """Return the file of one side and metric; that of the first metric is named after the side only."""
    return folder / f"{name}{'' if metric == metrics[0] else f'-{metric}'}.csv"


def _read(folder: Path, name: str, metrics: Sequence[Metric]) -> Side:
    """Return one side with the rows of all its metrics."""
    from lightning_bench.comparison.sides import Side, read_side

    sides = [read_side(_csv(folder, name, metric, metrics)) for metric in metrics]
    runs = [run for side in sides for run in side.runs]
    return Side(name, runs, [remark for side in sides for remark in side.remarks])


def _metrics(text: str) -> list[Metric]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not names or any(name not in ("speed", "memory") for name in names):
        raise UsageError(f"--metric {text!r} is not known; allowed: speed,memory, or one of them")
    return cast("list[Metric]", sorted(names, reverse=True))


def _import_folder(tree: Checkout, given: Path | None) -> Path:
    """Return the folder with the kernels, relative to the root of the repository."""
    if given is None:
        return next((Path(name) for name in ("kernels", "src") if (tree.root / name).is_dir()), Path("."))
    inside = (tree.root / given).resolve()
    if not inside.is_dir() or not inside.is_relative_to(tree.root.resolve()):
        raise UsageError(f"--kernels {given}: no such folder in {tree.root}; give one relative to it")
    return inside.relative_to(tree.root.resolve())


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Put a folder first on the import path, for provider files that import their kernels at the top.

    Workers, which start later, inherit the path without it.
    """
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """Let SIGTERM, which a cancelled CI job gets, unwind like an interrupt: the worktree is removed."""

    def unwind(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
