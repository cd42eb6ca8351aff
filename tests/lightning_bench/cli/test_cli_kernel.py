"""`--kernel`, `--against`, `--family` and `--provider +…`: your own kernel, measured by real workers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.record import Record, read_records
from lightning_bench.suite import load_suite, suite_with_family
from lightning_bench.suite.axes import family_of

pytestmark = pytest.mark.usefixtures("forked_workers")

Lbench = Callable[..., Any]

MINE = """\
import torch

def attn(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

def linear(q, k, v, slopes):
    steps = torch.arange(q.shape[2], device=q.device)
    away = (steps[:, None] - steps).clamp(min=0)
    return (q @ k.mT * torch.exp(-slopes[:, None, None] * away).tril()) @ v

def transposed(q, k, v):
    return attn(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)).transpose(1, 2).contiguous()

def no_mask(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)

def inference(q, k, v):
    with torch.no_grad():
        return attn(q, k, v)

def two(q, k, v):
    return attn(q, k, v), None
"""

PLAIN = """\
def attn(q, k, v):
    return (q @ k.mT).tril() @ v

def linear(q, k, v, slopes):
    return attn(q, k, v)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file for plans, which are quick where it imports nothing."""
    path = tmp_path_factory.mktemp("plain") / "mine.py"
    path.write_text(PLAIN)
    return path


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(MINE)
    return path


def rows(path: Path) -> dict[tuple[str, str], Record]:
    return {(row.provider, row.direction): row for row in read_records(path)}


@pytest.mark.slow
def test_functions_are_judged_like_providers(lbench: Lbench, mine: Path, tmp_path: Path) -> None:
    kernels = [f"{mine}:{name}" for name in ("attn", "no_mask", "inference", "two")]
    specs = ",".join([*kernels, f"{mine}:linear@linear_decay", f"{mine}:transposed@softmax@bnhd"])
    options = ["--family", "softmax", "--seq-len", "64", "--head-dim", "16", "--device", "cpu"]
    out = tmp_path / "out.csv"
    ran = lbench("check", "--kernel", specs, "--against", "sdpa-math", *options, "--out", out)
    assert ran.code == 1, ran.err
    found = rows(out)
    failed = {name for (name, _), row in found.items() if row.status != "ok"}
    assert {name for name, _ in found} - failed == {"attn", "linear", "transposed", "sdpa-math"}
    assert {found["no_mask", way].status for way in ("fwd", "bwd")} == {"wrong"}
    assert found["inference", "fwd"].status == "ok"
    assert found["inference", "bwd"].status == "unsupported"
    assert "autograd cannot differentiate inference" in found["inference", "bwd"].reason
    assert found["two", "fwd"].status == "crashed"
    assert "not a tensor" in found["two", "fwd"].reason
    assert found["transposed", "fwd"].layout == "bnhd"
    assert found["linear", "fwd"].family == "linear_decay"
    assert "+" in found["attn", "fwd"].provider_version


@pytest.mark.slow
def test_speed_of_a_function_against_a_provider(lbench: Lbench, mine: Path, tmp_path: Path) -> None:
    command = ["speed", "--kernel", f"{mine}:attn", "--family", "softmax", "--against", "sdpa-math"]
    out = tmp_path / "out.csv"
    ran = lbench(*command, "--seq-len", "64", "--quick", "--device", "cpu", "--out", out)
    assert ran.code == 0, ran.err
    found = rows(out)
    assert set(found) == {(name, way) for name in ("attn", "sdpa-math") for way in ("fwd", "bwd")}
    assert all(row.median_ms for row in found.values())
    assert {row.suite for row in found.values()} == {"quick"}


def plan(lbench: Lbench, *arguments: object) -> list[str]:
    ran = lbench("speed", *arguments, "--device", "cpu", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    return [entry["case_id"] for entry in json.loads(ran.out)["cases"]]


def test_times_of_the_interpreter_come_with_a_warning_and_are_unstable(
    lbench: Lbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    case = ["quick", "--device", "cpu", "--seq-len", "16", "--direction", "fwd", "--provider", "sdpa-flash"]
    for metric, warned in (("speed", True), ("check", False)):
        ran = lbench(metric, *case, "--out", str(tmp_path / f"{metric}.csv"))
        assert ran.code == 0
        assert ("TRITON_INTERPRET is set" in ran.err) is warned
        (row,) = read_records(tmp_path / f"{metric}.csv")
        assert row.reason.startswith("TRITON_INTERPRET is set: ") is warned
        assert row.status == ("unstable" if warned else "ok")


def test_plus_joins_the_providers_of_the_suite(lbench: Lbench, plain: Path) -> None:
    axes = ["quick", "--seq-len", "64", "--direction", "fwd"]
    cases = plan(lbench, *axes)
    joined = plan(lbench, *axes, "--provider", f"+{plain}:attn", "--family", "softmax")
    assert joined == [*cases, "attn/fwd/b1-h4-n64-d64-e64-fp32-cpu"]
    two = plan(lbench, *axes, "--provider", f"+{plain}:attn@softmax,+sdpa-math,+lightning1")
    assert [case.partition("/")[0] for case in two[-2:]] == ["attn", "lightning1"]
    assert len(two) == len(cases) + 2


def test_plus_joins_where_its_family_is(lbench: Lbench, plain: Path) -> None:
    cases = plan(lbench, "systems-quick", "--direction", "fwd")
    joined = plan(lbench, "systems-quick", "--direction", "fwd", "--provider", f"+{plain}:attn@softmax")
    assert set(joined) - set(cases) == {"attn/fwd/b1-h2-n128-d16-e16-fp32-cpu"}


def test_a_kernel_runs_in_a_suite_of_its_family(lbench: Lbench, plain: Path) -> None:
    cases = plan(
        lbench, "--kernel", f"{plain}:attn@softmax_full", "--against", "sdpa-math", "--direction", "fwd"
    )
    shape = "fwd/b1-h2-n128-d16-e16-fp32-cpu"  # of systems-quick: quick has no provider of that family
    assert cases == [f"attn/{shape}", f"sdpa-math/{shape}"]
    assert len(plan(lbench, "--kernel", f"{plain}:attn@softmax", "--direction", "fwd")) == 4


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_family_has_a_suite(device: Any) -> None:
    from lightning_bench.case import FAMILIES

    for family in FAMILIES:
        suite = suite_with_family({family}, device)
        assert family in {family_of(spec) for group in suite.groups for spec in group.providers}
        assert suite.device in (device, None)
    assert suite_with_family({"softmax"}, device) == load_suite("paper" if device == "cuda" else "quick")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kernel", "mine.py:attn"], "--kernel: provider file mine.py: attn is a plain function, which "
         "does not say what it computes; give --family"),
        (["--kernel", "mine.py:attn", "--family", "soft"], "provider file mine.py: attn has family 'soft'"),
        (["--kernel", "mine.py:linear", "--family", "softmax"], "linear does not fit family softmax"),
        (["--kernel", "mine.py:attn", "--provider", "flash2"], "--kernel and --provider do not go together"),
        (["--against", "flash2"], "--against names what --kernel is compared with: give --kernel"),
        (["--kernel", "mine.py:attn@softmax", "--against", "flash"], "--against: no provider is named"),
        (["--family", "softmax"], "--family says what a plain function of a file or of the Hub computes"),
        (["--kernel", "mine:attn", "--family", "softmax"], "`mine:attn` names neither a .py file nor"),
        (["--layout", "bnhd"], "--layout goes only with --family"),
        (["--kernel", "mine.py:attn@softmax", "--family", "linear"],
         "--family is linear, and `mine.py:attn@softmax` names softmax itself: leave one of them out"),
        (["--provider", "+mine.py:attn@softmax", "--family", "linear"], "--family is linear, and "),
        (["--kernel", "mine.py:attn@softmax@bnhd", "--family", "softmax", "--layout", "bhnd"],
         "--layout is bhnd, and `mine.py:attn@softmax@bnhd` names bnhd itself: leave one of them out"),
        (["--provider", "+mine.py:attn,flash2"], "some names have a + and some have none"),
        (["--kernel", "mine.py:attn@softmax,other.py:attn@softmax"], "two providers are named attn: "),
    ],
)  # fmt: skip
def test_what_does_not_go_is_said(
    lbench: Lbench, plain: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(plain.parent)
    (plain.parent / "other.py").write_text(PLAIN)
    ran = lbench("speed", *arguments, "--device", "cpu", "--dry-run")
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err.replace(f"{plain.parent}/", "")
