"""Replays are judged as timed calls are; on a CPU, by graphs that run the call again, or do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from lightning_bench.case import Case, Direction
from lightning_bench.measure.device.graph import Replay
from lightning_bench.measure.device.timer import CpuTimer, TimedCall
from lightning_bench.measure.likeness import Likeness, Lot
from lightning_bench.measure.replays import ReplayAudit
from lightning_bench.measure.session import Session
from lightning_bench.measure.signs import InputSigns
from tests.support.exploits import on_gpu
from tests.support.judged import gate, right, shape
from tests.support.measure_jobs import TIMES, Measure, given

Graph = Callable[[TimedCall, dict[str, torch.Tensor]], None]
DIRECTIONS = ["fwd", "bwd", "fwd_bwd"]


def honest(fn: TimedCall, results: dict[str, torch.Tensor]) -> None:
    for name, x in fn().items():
        results[name].copy_(x)


def half(fn: TimedCall, results: dict[str, torch.Tensor]) -> None:
    for name, x in fn().items():
        results[name][:, 1:].copy_(x[:, 1:])


class Stale:
    """A graph of a copy of the first answer that it has seen."""

    def __init__(self) -> None:
        self.kept: dict[str, torch.Tensor] = {}

    def __call__(self, fn: TimedCall, results: dict[str, torch.Tensor]) -> None:
        self.kept = self.kept or {name: x.clone() for name, x in fn().items()}
        for name, x in self.kept.items():
            results[name].copy_(x)


class Graphs(CpuTimer):
    """Stands in for CUDA graphs: a replay is what `graph` does with the call and its results."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    def capture(self, build: Callable[[], TimedCall]) -> Replay:
        fn = build()
        results = {name: x.detach().clone() for name, x in fn().items()}
        return Replay(lambda: self.graph(fn, results), fn, results)


def session(graph: Graph) -> Session:
    made = Session("cpu")
    made.timer = Graphs(graph)
    return made


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_replays_that_compute_get_their_time(measure: Measure, direction: Direction) -> None:
    outcome = measure("Right", direction=direction, graph=True, on=session(honest))["Right"]
    assert outcome.status in ("ok", "unstable"), outcome.reason
    assert outcome.figures.graph_ms > 0
    judged, _, calls = outcome.figures.checks.rpartition("; ")[2].removesuffix(" replays").partition(" of ")
    assert 4 <= int(judged) <= int(calls)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (Stale(), "a replay of its CUDA graph gave another"),
        (lambda fn, results: None, "NaN or Inf in a row"),
        (half, "NaN or Inf in a row"),
    ],
)
def test_replays_that_do_not_compute_are_wrong(
    measure: Measure, direction: Direction, graph: Graph, reason: str
) -> None:
    if isinstance(graph, Stale):
        graph = Stale()
    outcome = measure("Right", direction=direction, graph=True, on=session(graph))["Right"]
    assert outcome.status == "wrong"
    assert reason in outcome.reason
    assert not TIMES & given(outcome.figures)
    assert outcome.figures.graph_ms is None


def test_a_replay_that_writes_to_an_input_is_wrong() -> None:
    of = shape(n=40)
    inputs, reference = gate("linear_decay", of, gradients=False)
    inputs.note_bytes("bhnd")
    given_now = inputs.inputs("bhnd")
    signs = InputSigns(Case(of, "any", "fwd"), "linear_decay", inputs.signed("bhnd"))

    def answer() -> torch.Tensor:
        return right("linear_decay")(given_now.q, given_now.k, given_now.v, given_now.decay).detach()

    results = {"o": answer()}
    likeness = Likeness(reference, "bhnd", results, signs.own())
    watches = []
    for meddles in (False, True):

        def replay(meddles: bool = meddles) -> None:
            results["o"].copy_(answer())
            if meddles:
                given_now.k.data[:, :, -1].neg_()

        watch = ReplayAudit(
            Replay(replay, answer, results), likeness, signs, Lot(1), lambda: inputs.written("bhnd")
        )
        watch.begins()
        watch.before()
        assert bool(results["o"].isnan().all())
        replay()
        watch.after(results)
        watch.ends()
        watches.append(watch)
    assert watches[0].failure is None
    assert watches[1].failure == "it changes its inputs: k"


def test_a_graph_of_a_kept_answer_is_wrong(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider of the test on a GPU, which answers otherwise while it is captured."""
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])

    def replay(fn: TimedCall, results: dict[str, torch.Tensor]) -> None:
        capturing[0] = True
        honest(fn, results)
        capturing[0] = False

    outcome = measure(
        others=(f"{on_gpu.__file__}:GpuKeptInTheCapture",), direction="fwd", graph=True, on=session(replay)
    )
    (row,) = outcome.outcomes
    assert (row.status, row.figures.median_ms) == ("wrong", None)
    assert row.reason.startswith("a replay of its CUDA graph gave another o")
