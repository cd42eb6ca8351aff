"""Two plans measured in turns, as `lbench compare --ref` and `lbench calibrate` need them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_bench.cli.shared.sink import Sink
    from lightning_bench.run.chosen_slots import Chosen
    from lightning_bench.run.plan import Plan


def run_side_by_side(
    sink: Sink,
    plans: Sequence[Plan],
    import_paths: Sequence[tuple[Path, ...]],
    paths: Sequence[Path],
    names: Sequence[str],
    pairs: int,
    chosen: Chosen,
) -> None:
    """Measure two plans in `pairs` passes into two new files; an earlier file is set aside.

    Each plan has folders that go first on its workers' import path, a CSV and a name. Several
    slots divide the shapes, or each has all of them if the plans are one, which is a calibration.
    """
    from lightning_bench.cli.shared.busy import warn_if_busy
    from lightning_bench.record import ResultFile
    from lightning_bench.run.pairs import Tree, pair_crew, run_pairs
    from lightning_bench.run.progress import make_watcher

    if plans[0].metric == "speed":
        warn_if_busy(sink, plans[0].device, chosen.gpus)
    with ExitStack() as stack:
        executor = stack.enter_context(chosen.executor(pair_crew(plans[0], import_paths)))
        trees = []
        for plan, folders, path, name in zip(plans, import_paths, paths, names, strict=True):
            file = stack.enter_context(ResultFile(path, fresh=True))
            if file.moved:
                sink.say(f"the earlier results are now {file.moved}")
            trees.append(Tree(plan, folders, file, name))
        title = f"{plans[0].suite} {plans[0].metric}"
        watcher = stack.enter_context(make_watcher(sink.err, title, quiet=sink.quiet))
        run_pairs(trees, pairs, watcher, executor, on_each=plans[0] is plans[1])
        for tree in trees:
            tree.out.check_unchanged()
