"""The committed rows of the bundled Lightning Attention-2 kernels say what README and docs claim of them."""

import itertools
from operator import attrgetter

import pytest

import lightning_bench as lb
from lightning_bench.record import read_records
from scripts import kernel_targets
from tests.support.documents import DOCS, README, table_after
from tests.support.paths import ROOT

H200 = ROOT / "results" / "h200"
RESULTS = (DOCS / "results-h200.md").read_text()
REACHED = attrgetter("reached")


def test_figures_of_parallelism_are_in_the_csv() -> None:
    _, body = table_after(RESULTS, "parallelism")
    table = {
        (r.batch * r.heads, r.seq_len, r.direction, r.provider): r.median_ms
        for r in read_records(H200 / "parallelism-speed.csv")
    }
    assert len(body) == 6
    for cells in body:
        shape = int(cells[0]), int(cells[1])
        columns = itertools.product(("fwd", "bwd"), ("lightning2", "fla-chunk", "lightning-official"))
        for column, cell in zip(columns, cells[2:], strict=True):
            assert cell == f"{table[*shape, *column]:.3f}"


def test_bundled_kernels_stay_near_the_floor_and_ahead_of_their_peers() -> None:
    """What docs/results-h200.md, README and kernels/NOTES.md claim of them, on the committed rows."""
    text = " ".join(RESULTS.split())
    table = {(r.provider, r.direction, r.seq_len): r for r in read_records(H200 / "paper-speed.csv")}
    floors, ratios = [], []
    for direction in ("fwd", "bwd"):
        ours = [table["lightning2", direction, n] for n in (4096, 8192, 16384, 32768)]
        floors.append(f"{ours[-1].floor_ms:.3f}")
        ratios.append(f"{max((r.median_ms or 0) / (r.floor_ms or 1) for r in ours):.2f}")
    assert f"takes {' and '.join(floors)} ms at n = 32768" in text
    assert f"at most {ratios[0]} times the forward floor and {ratios[1]} times the backward floor" in text
    assert {record.status for record in read_records(H200 / "dims-speed.csv")} == {"ok"}
    ahead = _against_peers("dims")
    assert len(ahead) == 36
    assert all(one.ok for one in ahead)
    means = [f"{one.reached:.2f}" for one in kernel_targets.geometric_means(ahead)]
    assert f"it is {means[0]} times as fast forward and {means[1]} times as fast backward" in text
    assert f"**{means[0]}× forward, {means[1]}× backward**" in README
    hardest = [min((one for one in ahead if one.target.endswith(d)), key=REACHED) for d in ("fwd", "bwd")]
    assert all("/b4-h16-n512-d64-" in one.cell for one in hardest)
    least = [f"{one.reached:.2f}" for one in hardest]
    assert f"smallest ratios are at head_dim 64 and n = 512 ({least[0]} and {least[1]})" in text
    assert f"geometric mean of {len(ahead)} cells, {least[0]} and {least[1]} in the worst" in README


def _against_peers(name: str) -> list[kernel_targets.Finding]:
    """Return the ratios of a file over the faster kernel of fla."""
    found = kernel_targets.findings_of(H200 / f"{name}-speed.csv")
    return [one for one in found if one.target.startswith(kernel_targets.PEER)]


def test_layers_are_as_far_ahead_and_as_near_the_floor_as_the_docs_say() -> None:
    assert {record.status for record in read_records(H200 / "layers-speed.csv")} == {"ok"}
    ahead = _against_peers("layers")
    assert len(ahead) == 60
    assert all(one.ok for one in ahead)
    text, readme = " ".join(RESULTS.split()), " ".join(README.split())
    for direction, name in (("fwd", "forward"), ("bwd", "backward")):
        ratios = [one.reached or 0.0 for one in ahead if one.target.endswith(direction)]
        span = f"{min(ratios):.1f} to {max(ratios):.1f}"
        assert f"{span} times as fast {name}" in text
        assert f"{span}× {name}" in readme
    header, body = table_after(RESULTS, "layers")
    assert header[0] == "n"
    records = [r for r in read_records(H200 / "layers-speed.csv") if r.provider == "lightning2"]
    for n, *cells in body:
        shown = []
        for direction in ("fwd", "bwd"):
            floors = [r.floor_ratio for r in records if (r.seq_len, r.direction) == (int(n), direction)]
            assert len(floors) == 10
            shown += [f"{min(floors, default=0):.2f} to {max(floors, default=0):.2f}"]
        assert cells == shown


def test_short_sequences_are_where_the_docs_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells in which a kernel of fla is faster are named."""
    monkeypatch.setattr(kernel_targets, "PEER_SUITES", ("short",))
    found = _against_peers("short")
    assert len(found) == 48
    slower = {one.cell: one.reached or 0.0 for one in found if not one.ok}
    cells = [f"bwd/b4-h32-n{n}-d64-e64-bf16-cuda" for n in (64, 128)]
    assert set(slower) == set(cells)
    text, readme = " ".join(RESULTS.split()), " ".join(README.split())
    behind = " and ".join(f"{slower[cell]:.2f}" for cell in cells)
    assert f"n = 64 and 128 with 128 (batch, head) pairs of head_dim 64: {behind}" in text
    assert f"{min(slower.values()):.2f}× in the worst" in readme
    for direction, name in (("fwd", "forward"), ("bwd", "backward")):
        each = [one.reached or 0.0 for one in found if one.target.endswith(direction)]
        assert f"{min(each):.2f} to {max(each):.2f} times as fast {name}" in text


def test_fp32_takes_as_much_longer_than_pytorch_as_the_limits_say() -> None:
    table = {
        (r.provider, r.direction, r.head_dim): r.median_ms or 0.0
        for r in read_records(ROOT / "kernels" / "evidence" / "fp32-speed.csv")
    }
    ratios = [
        ms / table[("lightning2-torch", *cell)] for (name, *cell), ms in table.items() if name == "lightning2"
    ]
    assert len(ratios) == 6
    limits = " ".join((DOCS / "limits.md").read_text().split())
    assert f"takes {min(ratios):.1f} to {max(ratios):.1f} times as long as `lightning2-torch`" in limits


def test_the_authors_kernel_is_nowhere_the_faster_peer() -> None:
    for name in ("paper", "parallelism"):
        table = {
            (r.provider, r.direction, r.batch, r.seq_len): r.median_ms or 0.0
            for r in read_records(H200 / f"{name}-speed.csv")
        }
        theirs = {cell[1:]: ms for cell, ms in table.items() if cell[0] == "lightning-official"}
        assert theirs
        assert all(ms > 2.5 * table[("fla-chunk", *cell)] for cell, ms in theirs.items())


def test_what_compare_says_of_the_headline() -> None:
    """Cells of a kernel that tunes itself are not decided, the geometric mean over them is."""
    text, limits = " ".join(RESULTS.split()), " ".join((DOCS / "limits.md").read_text().split())
    for peer in kernel_targets.PEERS:
        compared = lb.compare(H200 / "dims-speed.csv", provider="lightning2", against=peer)
        assert set(compared.df.verdict) == {"AMBIGUOUS"}
        assert {one.verdict for one in compared.comparison.overall} == {"FASTER"}
        for one in compared.comparison.overall:
            assert one.low
            assert one.high
            percent = [100 * (1 - ratio) for ratio in (one.ratio, one.high, one.low)]
            name = {"fwd": "forward", "bwd": "backward"}[one.direction]
            assert f"{percent[0]:.0f} % less time {name} ({percent[1]:.0f} to {percent[2]:.0f})" in text
    assert "of three processes per case" in limits


def test_which_speed_rows_are_of_one_process() -> None:
    limits = " ".join((DOCS / "limits.md").read_text().split())
    several = ("decode", "dims", "head-dim-64", "verify")
    files = [file for file in H200.glob("*-speed.csv") if file.stem.removesuffix("-speed") not in several]
    assert {row.processes for file in files for row in read_records(file)} <= {None, 1}
    for name in ("dims", "head-dim-64"):
        assert {row.processes for row in read_records(H200 / f"{name}-speed.csv")} == {3}
    assert "all but those of `dims` and `head-dim-64` and some of `decode` and `verify` are of one" in limits


def test_the_committed_rows_reach_what_the_kernels_must() -> None:
    names = [f"{name}-speed.csv" for name in ("paper", "dims", "layers", "long", "head-dim-64")]
    assert kernel_targets.main([str(H200 / name) for name in (*names, "kernels-memory.csv")]) == 0


def test_bundled_kernels_allocate_their_results_and_a_workspace_that_is_known() -> None:
    records = read_records(H200 / "kernels-memory.csv")
    assert len(records) == 36
    workspaces = []
    for record in records:
        assert record.extra_mib is not None
        assert record.ideal_mib is not None
        workspaces.append(kernel_targets.workspace_mib(record))
        assert record.extra_mib == pytest.approx(record.ideal_mib + workspaces[-1], abs=1e-3)
    library = " ".join((DOCS / "library.md").read_text().split())
    assert f"at most {max(workspaces):.0f} MiB" in library
