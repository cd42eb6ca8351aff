"""The harness on a real GPU: its timer, its memory figures, its isolation, and every provider's gate."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_bench.case import Case, Direction, Family, Metric, ProtocolName, Shape
from lightning_bench.machine import describe_machine
from lightning_bench.measure.device.call_watch import NoCallWatch
from lightning_bench.measure.device.persisting_l2 import PersistingL2, loaded_driver
from lightning_bench.providers import describe, provider_names
from lightning_bench.record import Record, ResultFile
from lightning_bench.run.plan import Plan, with_providers
from lightning_bench.run.progress import QuietWatcher
from lightning_bench.run.sweep import run_sweep
from lightning_bench.suite import Limits
from tests.support.exploits.on_gpu import persist

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default"),  # other libraries' warnings are not ours
]

LIMITS = Limits(time_limit_s=120, sample_limit_s=0.5, min_samples=10, max_samples=100)
SHAPE = Shape(2, 4, 512, 128, 128, "bf16", "cuda")

BAD_PROVIDERS = """
import torch
from lightning_bench.providers import Provider

class Good(Provider):
    name = label = "good"; family = "softmax"; package = "torch"; dtypes = ("bf16",)
    def build(self, inputs):
        return lambda: torch.nn.functional.scaled_dot_product_attention(
            inputs.q, inputs.k, inputs.v, is_causal=True)

class IllegalAddress(Good):
    name = label = "illegal"
    def build(self, inputs):
        table = torch.zeros(4, device="cuda")
        index = torch.full((1024,), 2**40, device="cuda")
        return lambda: inputs.q * table.gather(0, index)[0]

class Hang(Good):
    name = label = "hang"
    def build(self, inputs):
        def fn():
            for _ in range(1000):
                torch.cuda._sleep(2**33)
            return inputs.v
        return fn

class Greedy(Good):
    name = label = "greedy"
    def build(self, inputs):
        return lambda: torch.empty(2**45, dtype=torch.int8, device="cuda")

class Stale(Good):
    name = label = "stale"
    def build(self, inputs):
        right = Good.build(self, inputs)
        def fn():
            o = torch.empty_like(inputs.v)
            o[:, :, :-7] = right()[:, :, :-7]
            return o
        return fn
"""


def timer():
    from lightning_bench.measure.device.timer import CudaTimer

    return CudaTimer()


def test_samples_are_cold() -> None:
    x = torch.randn(4 * 2**20, device="cuda")  # 16 MiB: fits in the L2
    y = torch.empty_like(x)

    def copy() -> None:
        y.copy_(x)

    cold = float(np.median(timer().sample(copy, 30, NoCallWatch())))
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    copy()
    start.record()
    for _ in range(100):
        copy()
    end.record()
    end.synchronize()
    assert cold > 1.2 * start.elapsed_time(end) / 100


def test_samples_are_cold_though_lines_persist(monkeypatch: pytest.MonkeyPatch) -> None:
    x, side = torch.randn(4 * 2**20, device="cuda"), torch.cuda.Stream()

    def read() -> torch.Tensor:
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            total = x.sum()
        torch.cuda.current_stream().wait_stream(side)
        return total

    def median_ms() -> float:
        return float(np.median([device.sample(read, 1, NoCallWatch())[0] for _ in range(30)]))

    device = timer()
    cold = median_ms()
    persist(side, x)
    try:
        reset = median_ms()
        monkeypatch.setattr(PersistingL2, "reset", lambda l2: None)
        kept = median_ms()
    finally:
        monkeypatch.undo()
        PersistingL2(loaded_driver()).set_aside = 0
    print(f"cold {cold:.4f} ms, persisting and reset {reset:.4f} ms, not reset {kept:.4f} ms")
    assert reset > 0.95 * cold


def test_samples_are_cold_though_a_kernel_asks_that_its_lines_stay() -> None:
    from tests.support.evict_last import total

    x, device = torch.randn(4 * 2**20, device="cuda"), timer()

    def read() -> torch.Tensor:
        return total(x)

    torch.testing.assert_close(read(), x.double().sum().float(), rtol=1e-2, atol=1.0)
    turns = [device.sample(read, 5, NoCallWatch()) for _ in range(30)]
    first, later = np.median([turn[0] for turn in turns]), np.median([turn[1:] for turn in turns])
    plain = np.median(device.sample(lambda: x.sum(), 150, NoCallWatch()))
    print(f"first of a turn {first:.4f} ms, later {later:.4f} ms; torch's sum {plain:.4f} ms")
    assert later > 0.95 * first


def test_a_reset_of_persisting_lines_takes_no_time_that_matters() -> None:
    torch.zeros(1, device="cuda")  # without which there is no context to reset lines of
    l2 = PersistingL2(loaded_driver())
    l2.reset()
    begin = time.perf_counter()
    for _ in range(100):
        l2.reset()
    ms = (time.perf_counter() - begin) * 10
    print(f"{ms:.4f} ms a reset")
    assert ms < 1.0


def test_launch_cost_is_hidden() -> None:
    x = torch.randn(4 * 2**20, device="cuda")

    def quick() -> None:
        x.mul_(1.0)

    def slow_to_launch() -> None:
        time.sleep(0.002)
        x.mul_(1.0)

    device = timer()
    plain = float(np.median(device.sample(quick, 5, NoCallWatch())))
    late = float(np.median(device.sample(slow_to_launch, 5, NoCallWatch())))
    assert late < 1.5 * plain
    assert device.call(slow_to_launch, NoCallWatch()) > 2.0
    assert not device.exposed(slow_to_launch)


def test_a_call_that_synchronises_is_reported_as_exposed() -> None:
    x = torch.randn(1000, device="cuda")
    device = timer()

    def synchronises() -> float:
        return float(x.sum())

    assert len(device.sample(synchronises, 5, NoCallWatch())) == 5
    assert device.exposed(synchronises)


def test_samples_agree_with_known_work() -> None:
    device = timer()
    cycles = int(device._cycles_per_ms)
    samples = device.sample(lambda: torch.cuda._sleep(3 * cycles), 10, NoCallWatch())
    assert float(np.median(samples)) == pytest.approx(3.0, rel=0.05)


def test_graph_replay_gives_the_same_numbers() -> None:
    from lightning_bench.measure.device.graph import capture_graph

    x = torch.randn(1024, device="cuda")
    out = torch.empty_like(x)

    def double() -> None:
        torch.mul(x, 2.0, out=out)

    replay = capture_graph(lambda: double)
    x.fill_(3.0)
    replay()
    torch.testing.assert_close(out, torch.full_like(out, 6.0))


def test_the_clocks_are_those_of_the_gpu_that_torch_uses() -> None:
    from lightning_bench.machine.gpu import cuda_gpu
    from lightning_bench.measure.device.clocks import NvmlClocks, make_clocks

    gpu = cuda_gpu()
    assert gpu.name == describe_machine("cuda").device_name == torch.cuda.get_device_name(0)
    if "MIG" not in gpu.name:
        assert gpu.board_uuid == f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    clocks = make_clocks("cuda")
    assert isinstance(clocks, NvmlClocks)
    assert clocks.read().sm_clock_mhz > 0


def test_memory_is_exact() -> None:
    from lightning_bench.measure.device.memory import MIB, CudaMeter

    meter = CudaMeter()
    held = torch.empty(int(8 * MIB), dtype=torch.int8, device="cuda")
    before = meter.settle()

    def call() -> torch.Tensor:
        first = torch.empty(int(32 * MIB), dtype=torch.int8, device="cuda")
        kept = torch.empty(int(16 * MIB), dtype=torch.int8, device="cuda")
        del first
        return kept

    kept, peak = meter.measure(call)
    assert peak.before == before >= held.numel()
    assert peak.peak == int(48 * MIB)
    assert peak.held == kept.numel() == int(16 * MIB)


Run = Callable[..., dict[str, Record]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a sweep through worker processes; return rows by `provider/direction`."""

    def sweep(
        cases: list[Case],
        metric: Metric = "speed",
        limits: Limits = LIMITS,
        protocol: ProtocolName = "lbench",
        graph: bool = False,
    ) -> dict[str, Record]:
        plan = Plan("gpu", metric, protocol, limits, describe_machine("cuda"), "cuda", tuple(cases), graph)
        with ResultFile(tmp_path / "rows.csv") as out:
            summary = run_sweep(with_providers(plan), out, QuietWatcher())
        return {f"{record.provider}/{record.direction}": record for record in summary.records}

    return sweep


@pytest.fixture
def bad(tmp_path: Path) -> Callable[[str], str]:
    path = tmp_path / "bad.py"
    path.write_text(BAD_PROVIDERS)
    return lambda name: f"{path}:{name}"


def test_only_the_culprit_is_blamed(bad: Callable[[str], str], run: Run) -> None:
    names = ("Good", "IllegalAddress", "Greedy", "Stale")
    rows = run([Case(SHAPE, bad(name), "fwd") for name in names])
    assert rows["good/fwd"].status in ("ok", "unstable")
    assert rows["good/fwd"].median_ms
    assert rows["illegal/fwd"].status == "crashed"
    assert rows["greedy/fwd"].status == "oom"
    assert rows["stale/fwd"].status == "wrong"


def test_a_hanging_kernel_is_killed(bad: Callable[[str], str], run: Run) -> None:
    limits = LIMITS.model_copy(update={"time_limit_s": 10.0})
    rows = run([Case(SHAPE, bad("Hang"), "fwd"), Case(SHAPE, bad("Good"), "fwd")], limits=limits)
    assert rows["hang/fwd"].status == "timeout"
    assert rows["good/fwd"].status in ("ok", "unstable")


ATTENTION: tuple[Family, ...] = ("linear_decay", "linear", "softmax", "softmax_full")
SCANS: tuple[Family, ...] = ("gateloop", "gateloop_complex", "vq")
LAYERS: tuple[Family, ...] = ("transnormer", "norm")
# fla-core's systems, hundreds of configurations to compile, have test_fla_systems.py.
SHAPES = {
    ATTENTION: SHAPE,
    SCANS: Shape(2, 4, 512, 64, 64, "bf16", "cuda"),
    LAYERS: Shape(2, 1, 300, 256, 256, "bf16", "cuda"),
}


def _here(families: tuple[Family, ...]) -> list[str]:
    if not torch.cuda.is_available():
        return []
    infos = [info for info in describe("cuda", deep=False) if not info.reason]
    return [info.name for info in infos if info.family in families]


def test_a_backward_pass_can_be_captured(run: Run) -> None:
    directions: tuple[Direction, ...] = ("fwd", "bwd", "fwd_bwd")
    rows = run([Case(SHAPE, "lightning2", direction) for direction in directions], graph=True)
    for row in rows.values():
        assert row.reason == ""
        assert row.graph_ms is not None
        assert row.graph_ms == pytest.approx(row.median_ms, rel=0.5)


@pytest.mark.parametrize("metric", ["speed", "memory"])
@pytest.mark.parametrize("families", list(SHAPES), ids=["attention", "scans", "layers"])
def test_every_available_provider_works(families: tuple[Family, ...], metric: Metric, run: Run) -> None:
    directions: tuple[Direction, ...] = ("fwd", "bwd", "fwd_bwd")
    shape, names = SHAPES[families], _here(families)
    assert names
    rows = run([Case(shape, name, direction) for name in names for direction in directions], metric)
    assert {key: row.reason for key, row in rows.items() if row.status not in ("ok", "unstable")} == {}
    assert all(row.median_ms if metric == "speed" else row.extra_mib for row in rows.values())


def test_a_compiled_provider_takes_many_shapes(run: Run) -> None:
    directions: tuple[Direction, ...] = ("fwd", "bwd")
    shapes = [Shape(2, 1, n, 256, 256, "bf16", "cuda") for n in range(64, 64 * 11, 64)]
    cases = [Case(shape, "srmsnorm-compiled", direction) for shape in shapes for direction in directions]
    last = run(cases).values()  # rows of the last shape, after more compilations than dynamo takes by itself
    assert {row.reason for row in last if row.status not in ("ok", "unstable")} == set()


# Published for n = 512 at batch 4, heads 32, head_dim 128, bf16 (lightning-attention README), in MiB.
PUBLISHED: dict[tuple[str, Direction], float] = {
    ("lightning-official", "fwd"): 64.000488,
    ("lightning-official", "bwd"): 173.600488,
    ("lightning2", "fwd"): 64.000488,
    ("flash2", "fwd"): 64.250977,
    ("flash2", "bwd"): 206.100977,
    ("xformers", "fwd"): 64.250488,
}


def test_protocol_paper_gives_the_published_memory(run: Run) -> None:
    shape = Shape(4, 32, 512, 128, 128, "bf16", "cuda")
    expected = {key: mib for key, mib in PUBLISHED.items() if key[0] in _here(ATTENTION)}
    rows = run([Case(shape, *key) for key in expected], "memory", protocol="paper")
    measured = {(row.provider, row.direction): round(row.peak_mib or 0.0, 6) for row in rows.values()}
    assert measured == expected


def test_all_built_in_names_are_known_here() -> None:
    assert {info.name for info in describe("cuda", deep=True)} == set(provider_names())
