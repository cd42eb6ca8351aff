"""``lbench compare --ref``: both commits' kernels measured on this machine, pass by pass."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lightning_bench.case import Device, Metric
from lightning_bench.cli.shared.planner import Planner, axis_overrides
from lightning_bench.errors import UsageError

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.compare.sides import Side
    from lightning_bench.run.plan import Plan
    from lightning_bench.run.worktree import Checkout


def measure(
    sink: Sink,
    ref: str,
    suite: str | None,
    *,
    axes: Sequence[Any],
    device: str | None,
    time_limit: float | None,
    metrics: str,
    pairs: int,
    kernels: Path | None,
    out: Path | None,
) -> tuple[Side, Side]:
    """Check ``ref`` out, measure it and the working tree in turns, and read what was written."""
    from dataclasses import replace

    from lightning_bench.run.pairs import comparable, plan_of_tree
    from lightning_bench.run.worktree import checked_out, working_tree

    tree = working_tree(Path.cwd())
    wanted = _metrics(metrics)
    with ExitStack() as stack:
        stack.enter_context(_terminated_cleanly())
        folder = out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbench-compare-")))
        inside = _import_folder(tree, kernels)
        other = stack.enter_context(checked_out(tree, ref))
        sink.say(f"{tree.name} (this tree) against {other.name} ({ref})")
        if tree.dirty:
            sink.say("this tree has changes that are not committed: they are measured too")
        if not (other.root / inside).is_dir():
            raise UsageError(f"{ref} has no folder {inside}; give --kernels, a folder that both commits have")
        with _importable(tree.root / inside):
            plans = [plan_suite(suite, metric, axes, device, time_limit) for metric in wanted]
        for plan in plans:
            if not axes[0]:
                plan, left_out = comparable(plan, tree.root)
                if left_out and plan.metric == wanted[0]:
                    names = ", ".join(left_out)
                    sink.say(f"left out, since no commit changes them: {names} (--provider takes them)")
            if not plan.cases:
                raise UsageError(
                    "no provider of the suite comes from this repository; name some by --provider"
                )
            sides = (
                plan_of_tree(plan, tree.root, other.root, other.root / inside),
                plan_of_tree(plan, tree.root, tree.root, tree.root / inside),
            )
            ending = "" if plan.metric == wanted[0] else f"-{plan.metric}"
            paths = [folder / f"{side}{ending}.csv" for side in ("base", "head")]
            run_two(sink, sides, [other.root / inside, tree.root / inside], paths, pairs)
        base, head = (_both(folder, side, wanted) for side in ("base", "head"))
        if out is not None:
            sink.say(f"results: {folder}")
        return replace(base, name=f"{ref} ({other.name})"), replace(head, name=f"this tree ({tree.name})")


def plan_suite(
    suite: str | None, metric: Metric, axes: Sequence[Any], device: str | None, time_limit: float | None
) -> Plan:
    """The plan of one suite, or of the default one, with the axes as typed."""
    from lightning_bench.cli.shared.device import resolve_device
    from lightning_bench.suite import default_suite, load_suite

    chosen: Device | None = None if device is None else resolve_device(device)
    name = suite or default_suite(chosen or resolve_device(None))
    return Planner(metric, None, axis_overrides(*axes), chosen, time_limit, False).plan(load_suite(name))


def run_two(
    sink: Sink, plans: Sequence[Plan], import_paths: Sequence[Path | None], paths: Sequence[Path], pairs: int
) -> None:
    """Measure two plans side by side into two files, begun anew."""
    from lightning_bench.cli.shared.progress import make_watcher
    from lightning_bench.record import ResultFile
    from lightning_bench.run.pairs import Tree, run_pairs

    with ExitStack() as stack:
        trees = []
        for plan, folder, path in zip(plans, import_paths, paths, strict=True):
            file = stack.enter_context(ResultFile(path, fresh=True))
            if file.moved:
                sink.say(f"the earlier results are now {file.moved}")
            trees.append(Tree(plan, folder, file))
        name = f"{plans[0].suite} {plans[0].metric}"
        watcher = stack.enter_context(make_watcher(sink.err, name, quiet=sink.quiet))
        run_pairs(trees[0], trees[1], pairs, watcher)


def _both(folder: Path, side: str, metrics: Sequence[Metric]) -> Side:
    from lightning_bench.compare.sides import Side, read_side

    sides = [
        read_side(folder / f"{side}{'' if metric == metrics[0] else f'-{metric}'}.csv") for metric in metrics
    ]
    runs = [run for part in sides for run in part.runs]
    return Side(side, runs, [remark for part in sides for remark in part.remarks])


def _metrics(text: str) -> list[Metric]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",")))
    if not names or any(name not in ("speed", "memory") for name in names):
        raise UsageError(f"--metric {text!r} is not known; allowed: speed,memory, or one of them")
    return cast("list[Metric]", sorted(names, reverse=True))


def _import_folder(tree: Checkout, given: Path | None) -> Path:
    """Relative to the root of the repository."""
    if given is None:
        return next((Path(name) for name in ("kernels", "src") if (tree.root / name).is_dir()), Path("."))
    inside = (tree.root / given).resolve()
    if not inside.is_dir() or not inside.is_relative_to(tree.root.resolve()):
        raise UsageError(f"--kernels {given}: no such folder in {tree.root}; give one relative to it")
    return inside.relative_to(tree.root.resolve())


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """For provider files that import their kernels at the top. Workers inherit the path as it is later."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _terminated_cleanly() -> Iterator[None]:
    """SIGTERM, as a cancelled CI job gets it, unwinds like an interrupt, so that the worktree goes."""

    def unwind(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
