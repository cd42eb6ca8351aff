"""`import lightning_bench as lb`: measured by real workers, and errors before anything runs."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pandas as pd
import psutil
import pytest
import torch

import lightning_bench as lb
from lightning_bench.api.arguments import SpeedOptions
from lightning_bench.case import FAMILIES
from lightning_bench.record import ResultFile
from lightning_bench.run import chosen_slots
from tests.support.fake_slots import fake_gpu_slots
from tests.support.paths import ROOT
from tests.support.patience import PATIENCE_S
from tests.support.session_kernels import Mine, attn, no_mask

pytestmark = pytest.mark.usefixtures("forked_workers")

Lbench = Callable[..., Any]

SMALL: Any = {"seq_len": 64, "head_dim": 16, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[lb.Measurement, Path]:
    """Measure a function and a provider, into a file."""
    path = tmp_path_factory.mktemp("kept") / "kept.csv"
    options: Any = SMALL | {"seq_len": [64, 128], "quick": True}
    return lb.speed(attn, family="softmax", against=["sdpa-math", Mine], out=path, **options), path


@pytest.mark.slow
class TestSpeed:
    def test_rows(self, kept: tuple[lb.Measurement, Path]) -> None:
        frame = kept[0].df
        assert set(frame["provider"]) == {"attn", "sdpa-math", "mine"}
        assert set(frame["direction"]) == {"fwd", "bwd"}
        assert set(frame["seq_len"]) == {64, 128}
        assert len(frame) == 12
        assert (frame["median_ms"] > 0).all()
        assert not kept[0].failed

    def test_the_file_has_the_same_rows_and_their_samples(self, kept: tuple[lb.Measurement, Path]) -> None:
        result, path = kept
        pd.testing.assert_frame_equal(lb.load(path), result.df)
        pd.testing.assert_frame_equal(lb.load(result), result.df)
        samples = lb.samples(path)
        pd.testing.assert_frame_equal(samples, result.samples)
        cold = samples[samples["quantity"] == "samples_ms"]
        medians = cold.groupby("case_id")["value"].median()
        for record in result.records:
            assert medians[record.case_id] == pytest.approx(record.median_ms, rel=1e-4)
            assert (cold["case_id"] == record.case_id).sum() == record.samples

    def test_a_second_call_measures_only_what_the_file_lacks(self, kept: tuple[lb.Measurement, Path]) -> None:
        result, path = kept
        before = path.read_bytes()
        options: Any = SMALL | {"seq_len": [64, 128], "quick": True}
        again = lb.speed(attn, family="softmax", against=["sdpa-math", Mine], out=path, **options)
        assert path.read_bytes() == before
        assert {r.case_id for r in again.records} == {r.case_id for r in result.records}

    def test_text_and_html(self, kept: tuple[lb.Measurement, Path]) -> None:
        text, html = repr(kept[0]), kept[0]._repr_html_()
        for shown in (text, html):
            assert shown.count("quick-speed_fwd") == shown.count("quick-speed_bwd") == 1
            assert "sdpa-math" in shown
        lines = kept[0].table(width=20).splitlines()
        heads = [line for line in lines if line.split()[:1] == ["n"]]
        assert len(heads) == 6  # a part of each table for every provider
        assert all(len(line) <= 20 or " " not in line.strip() for line in lines), "notes wrap, too"
        assert html.count("<tr>") == 2 * 3

    def test_plots(self, kept: tuple[lb.Measurement, Path]) -> None:
        figure = kept[0].plot(direction="bwd")
        assert "Backward" in " ".join(text.get_text() for text in figure.findobj(match=_is_text))
        lines = {line.get_gid() for axes in figure.axes for line in axes.get_lines()}
        assert {"series-attn", "series-sdpa-math", "series-mine"} <= lines
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
        with pytest.raises(lb.UsageError, match="no row has direction 'fwd_bwd'; there are fwd, bwd"):
            kept[0].plot(direction="fwd_bwd")
        with pytest.raises(lb.UsageError, match="rows have no column way"):
            kept[0].plot(way="fwd")

    def test_plots_of_one_layer_each(self) -> None:
        options: Any = SMALL | {"seq_len": [64, 128], "heads": 2, "dtype": "fp32", "direction": "fwd"}
        layers = {"layer": ["0 of 80", "79 of 80"], "rank": "7 of 8"}
        found = lb.speed("lightning2-torch", suite="layers", quick=True, **layers, **options)
        assert found.plot().axes
        assert found.plot(layer="79of80").axes
        with pytest.raises(lb.UsageError, match="no row has layer '1 of 80'; there are 0 of 80, 79 of 80"):
            found.plot(layer="1 of 80")
        with pytest.raises(lb.UsageError, match="no row has packing '4 x 16'; there are none"):
            found.plot(packing="4 x 16")
        with pytest.raises(lb.UsageError, match="layer: 'last' is no layer"):
            found.plot(layer="last")
        with pytest.raises(lb.UsageError, match=r"packing: \[64\] is no text"):
            lb.speed("lightning2-torch", suite="packed", packing=[[64]], **options)  # type: ignore[list-item]

    def test_verdicts_are_those_of_the_command(
        self, kept: tuple[lb.Measurement, Path], lbench: Lbench
    ) -> None:
        result, path = kept
        ours = lb.compare(result, provider="attn", against="sdpa-math")
        ran = lbench("compare", path, "--provider", "attn", "--against", "sdpa-math", "--json")
        theirs = json.loads(ran.out)
        assert [cell["verdict"] for cell in theirs["cells"]] == list(ours.df["verdict"])
        assert [cell["ratio"] for cell in theirs["cells"]] == list(ours.df["ratio"])
        assert ours.headline == theirs["headline"]
        assert ours.is_worse == (ran.code == 1)
        assert ours.is_decided == (ran.code != 3)
        assert ours.headline in ours.table()
        assert ours.headline in ours._repr_html_()

    def test_a_file_against_itself_says_nothing(self, kept: tuple[lb.Measurement, Path]) -> None:
        same = lb.compare(kept[0], kept[1])
        assert not same.is_decided
        assert set(same.df["verdict"]) == {"INCOMPARABLE"}


def _is_text(artist: Any) -> bool:
    return hasattr(artist, "get_text")


@pytest.mark.slow
def test_what_is_wrong_has_a_row_and_no_exception() -> None:
    result = lb.check([attn, no_mask], family="softmax", direction="fwd", **SMALL)
    assert dict(zip(result.df["provider"], result.df["status"], strict=True)) == {
        "attn": "ok",
        "no_mask": "wrong",
    }
    assert result.failed
    assert "no_mask: wrong at n = 64: o is off by" in result.table()
    with pytest.raises(lb.UsageError, match="check measures no time"):
        result.plot()


@pytest.mark.slow
def test_memory_and_what_is_kept_of_it() -> None:
    result = lb.memory(attn, family="softmax", direction="fwd", **SMALL | {"seq_len": "64,128"})
    folder = result.path.parent
    assert result.df["ideal_mib"].iloc[0] == pytest.approx(4 * 64 * 16 * 4 / 2**20)
    assert len(lb.load(result)) == 2
    assert result.plot() is not None
    del result
    gc.collect()
    assert not folder.exists()


@pytest.mark.slow
def test_several_gpus_and_shards_of_a_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen_slots, "local_slots", lambda wanted, *_: {"0,1": fake_gpu_slots(2)}[wanted])
    of_all: Any = {"seq_len": [32, 64, 96, 128], "direction": "fwd", "head_dim": 16, "progress": False}
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    whole = lb.check(attn, family="softmax", gpus=[0, 1], **of_all)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before
    assert sorted(whole.df["seq_len"]) == [32, 64, 96, 128]
    assert set(whole.df["gpu_uuid"]) == {"digits-0", "digits-1"}
    assert set(whole.df["executor"]) == {"local 2"}
    part = lb.check(attn, family="softmax", shard="2/2", device="cpu", **of_all)
    assert list(part.df["seq_len"]) == [64, 128]
    assert set(part.df["executor"]) == {""}


@pytest.mark.slow
def test_a_suite_with_a_provider_that_joins(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def two(q, k, v):\n    return q @ k.mT @ v\n")
    spec = f"+{file}:two@linear"
    result = lb.check(suite="quick", provider=spec, direction="fwd", **SMALL)
    assert list(result.df["provider"]) == ["lightning2", "lightning2-torch", "sdpa-flash", "sdpa-math", "two"]


@pytest.mark.slow
def test_a_file_that_was_edited_in_the_meantime_is_measured_again(tmp_path: Path) -> None:
    """A session outlives its files: what they declared at the last call is asked anew."""
    file, out = tmp_path / "mine.py", tmp_path / "out.csv"
    call: Any = SMALL | {"family": "linear", "direction": "fwd", "out": out}
    file.write_text("def mine(q, k, v):\n    return q @ k.mT @ v\n")
    (wrong,) = lb.check(f"{file}:mine", **call).records
    file.write_text("def mine(q, k, v, mask=None):\n    return (q @ k.mT).tril() @ v\n")
    (right,) = lb.check(f"{file}:mine", **call).records
    assert (wrong.status, right.status) == ("wrong", "ok")
    assert wrong.provider_version != right.provider_version


SLOW = """\
import time
from pathlib import Path

import lightning_bench as lb


def quick(q, k, v):
    return (q @ k.mT).tril() @ v


def slow(q, k, v):
    Path("began").touch()
    time.sleep(1000)


options = {"family": "linear", "seq_len": [16, 32], "direction": "fwd", "device": "cpu", "suite": "quick"}
try:
    lb.check(quick, out="out.csv", **options)
    lb.check(slow, out="out.csv", **options)
except KeyboardInterrupt:
    print("interrupted", *lb.load("out.csv")["provider"])
"""


@pytest.mark.slow
def test_an_interrupt_is_one_and_the_rows_are_kept(new_workspace: Any, wait_gone: Any) -> None:
    folder = new_workspace.folder
    (folder / "script.py").write_text(SLOW)
    script = subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    new_workspace.appears("began")
    workers = [process.pid for process in psutil.Process(script.pid).children(recursive=True)]
    assert workers
    script.send_signal(signal.SIGINT)
    out, err = script.communicate(timeout=PATIENCE_S)
    assert out == "interrupted quick quick\n", err
    for pid in workers:
        wait_gone(pid)


SCRIPT = """\
import os

import lightning_bench as lb
import triton
import triton.language as tl
import torch

print("main", os.getpid())
EPS: float = 1e-6

@triton.jit
def norm_kernel(x, o, D: tl.constexpr, eps):
    at = tl.program_id(0) * D + tl.arange(0, D)
    row = tl.load(x + at)
    tl.store(o + at, row / tl.sqrt(tl.sum(row * row) / D + eps))

def norm(v):
    o = torch.empty_like(v)
    norm_kernel[(v.numel() // v.shape[-1],)](v, o, v.shape[-1], EPS)
    return o

result = lb.check(
    norm, family="norm", suite="quick", direction="fwd", seq_len=16, heads=1, head_dim=16, device="cpu"
)
print(result.df[["provider", "family", "status"]].to_csv(index=False))
"""


@pytest.mark.slow
def test_a_script_that_defines_a_triton_kernel_runs_once(tmp_path: Path) -> None:
    """Workers are spawned, which would run the script again: it needs no `if __name__ == "__main__"`."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    first, *table = done.stdout.split("\n", 1)
    assert first.startswith("main ")
    assert table[0].split() == ["provider,family,status", "norm,norm,ok"], done.stderr
    assert "[1/1] ok" in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "script.py"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: lb.speed(attn), "attn is a plain function, which does not say what it computes: give fam"),
        (lambda: lb.speed(attn, family="soft"), "attn has family 'soft', which is not known; did you"),
        (lambda: lb.speed("mine.py:attn@softmax", family="gla"), "family is gla, and `mine.py:attn@"),
        (lambda: lb.speed(attn, family="gla"), "kernel: attn does not fit family gla, whose inputs are q, k"),
        (lambda: lb.speed(attn, family="softmax", against="flash"), "against: no provider is named 'flash'"),
        (lambda: lb.speed(against="flash2"), "against names what kernel is compared with: give kernel file"),
        (lambda: lb.speed("flash2", provider="flash2"), "kernel and provider do not go together"),
        (lambda: lb.speed(lambda q, k, v: v, family="softmax"), "is a lambda without a name"),
        (lambda: lb.speed(Mine()), "mine is an instance of a provider: give its class Mine"),
        (lambda: lb.speed(attn, family="softmax", against=attn), "two functions are named attn, by which"),
        (lambda: lb.speed(3), "3 is no kernel; allowed: a function, a provider class, or a name"),
        (lambda: lb.speed("sdpa-math", seq_length=64), "has no option seq_length (did you mean `seq_len`?)"),
        (lambda: lb.check("sdpa-math", quick=True), "check() has no option quick; allowed: batch, device"),
        (lambda: lb.speed("sdpa-math", seq_len=0), "seq_len: 0 is not allowed; allowed: an integer from 1"),
        (lambda: lb.speed("sdpa-math", seq_len="1..3"), 'seq_len: the range "1..3" does not reach its end'),
        (lambda: lb.speed("sdpa-math", layer="2 of 2"), "layer: '2 of 2' is out of range: counted from"),
        (lambda: lb.check(suite="packed", seq_len=64, device="cpu"), "give packing in place of seq_len"),
        (lambda: lb.speed("sdpa-math", dtype="fp8"), 'dtype: "fp8" is not known'),
        (lambda: lb.speed("sdpa-math", device="tpu"), 'device: "tpu" is not known (did you mean `cpu`?); al'),
        (lambda: lb.speed("sdpa-math", processes=0), "processes 0 is out of range; allowed: 1 to 30"),
        (lambda: lb.speed("sdpa-math", time_limit_s=0), "time_limit_s 0 is no time limit"),
        (lambda: lb.speed("sdpa-math", processes=cast("int", "2")), "processes '2' is out of range; allowed"),
        (lambda: lb.speed("sdpa-math", time_limit_s=cast("int", "9")), "time_limit_s '9' is no time limit"),
        (lambda: lb.speed("sdpa-math", quick=cast("bool", "no")), "quick 'no' is neither True nor False"),
        (lambda: lb.check("sdpa-math", fresh=cast("bool", 0)), "fresh 0 is neither True nor False"),
        (lambda: lb.speed("sdpa-math", ranks=0), "ranks: 0 is not allowed; allowed: an integer from 1"),
        (lambda: lb.speed("sdpa-math", shard="3/2"), "shard '3/2' is no part of a sweep; allowed: "),
        (lambda: lb.speed("sdpa-math", shard=cast("str", 2)), "shard 2 is no text"),
        (lambda: lb.speed("sdpa-math", dtype=cast("Any", torch.half)), 'dtype: "torch.float16" is not known'),
        (lambda: lb.speed("sdpa-math", direction=cast("Any", 1)), 'direction: "1" is not known'),
        (lambda: lb.speed("sdpa-math", device=cast("Any", 3)), 'device: "3" is not known'),
        (lambda: lb.speed("sdpa-math", gpus="cpu:0"), "gpus 'cpu:0' is not known; allowed for a CPU: cpu:1"),
        (lambda: lb.speed("sdpa-math", gpus="cpu:1", device="cpu"), "gpus and executor do not go with"),
        (lambda: lb.speed("sdpa-math", gpus=cast("int", None)), "gpus: None is neither number nor text"),
        (lambda: lb.speed("sdpa-math", gpus=[0, cast("int", 1.5)]), "gpus: 1.5 is neither number nor text"),
        (lambda: lb.speed("sdpa-math", executor=cast("Any", "dask")), "executor 'dask' is not known; allow"),
        (lambda: lb.check(attn, family="softmax", executor="ray"), "attn is in this process only, and exec"),
        (lambda: lb.speed("sdpa-math", layout="bnhd"), "layout goes only with family"),
        (lambda: lb.speed(suite="quikc"), "there is no suite `quikc` (did you mean `quick`?)"),
        (lambda: lb.speed([attn, "x/y.py:attn"], family="softmax"), "x/y.py does not exist"),
        (lambda: lb.load("nowhere.csv"), "nowhere.csv"),
        (lambda: lb.load(), "no CSV was given"),
        (lambda: lb.samples("nowhere.csv"), "nowhere.csv"),
        (lambda: lb.compare("a.csv"), "compare takes two results, compare(base, head), or two"),
        (lambda: lb.compare("a.csv", "b.csv", threshold=3), "threshold 3 is no share of a time"),
        (lambda: lb.compare("a.csv", "b.csv", threshold=cast("float", "3%")), "threshold '3%' is no share"),
    ],
)  # fmt: skip
def test_errors_are_exceptions_with_the_message_of_the_command(call: Callable[[], object], said: str) -> None:
    with pytest.raises(lb.UsageError) as caught:
        call()
    assert said in str(caught.value)
    assert isinstance(caught.value, lb.LbenchError)
    assert "lbench-tmp" not in str(caught.value)


def test_a_file_of_another_sweep_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with ResultFile(path), pytest.raises(lb.LbenchError, match=r"x\.csv; wait for it, or give out"):
        lb.check("sdpa-math", out=path, direction="fwd", **SMALL)


def test_every_option_and_name_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    named = set(re.findall(r"`([a-z_]+)`", text)) | set(re.findall(r"lb\.(\w+)", text))
    assert set(SpeedOptions.__annotations__) <= named
    assert {name for name in lb.__all__ if name != "__version__"} <= named


def test_every_name_is_there_and_listed() -> None:
    assert {name for name in lb.__all__ if getattr(lb, name, None) is None} == set()
    assert set(lb.__all__) <= set(dir(lb))
    assert lb.compare.__module__ == "lightning_bench.api.comparing"
    with pytest.raises(AttributeError, match="no attribute 'speeed'"):
        _ = lb.speeed  # type: ignore[attr-defined]
    assert set(FAMILIES) >= {"softmax"}
