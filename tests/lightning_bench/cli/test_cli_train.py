"""`lbench train` on the command line: plans, JSON, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.workspace import Ran

Lbench = Callable[..., Ran]


def test_a_plan_needs_no_gpu_and_counts_weights_gradients_and_moments(lbench: Lbench) -> None:
    ran = lbench("train", "table1", "--dry-run", "--model", "tnl-0.4b", "--seq-len", "1k,94208", "--json")
    assert ran.code == 0, ran.err
    cases = {case["case_id"]: case for case in json.loads(ran.out)["cases"]}
    shapes = [name.split("/")[2] for name in cases]
    assert shapes[0] == "b64-h8-n1024-d128-e128-bf16-cuda-tnl-0.4b-tokens65536-compile-parts"
    assert {name.split("/")[0] for name in cases} == {"lightning2", "lightning1"}
    # Four values of two bytes for each of 464,520,192 parameters.
    for case in cases.values():
        assert case["needs_mib"] == pytest.approx(4 * 2 * 464_520_192 / 2**20)


def test_a_rank_of_fsdp2_holds_its_part(lbench: Lbench) -> None:
    axes = ["--model", "tnl-0.4b", "--seq-len", "1k", "--provider", "lightning2"]
    ran = lbench("train", "table1", "--dry-run", *axes, "--parallel", "ddp,fsdp2", "--ranks", "4", "--json")
    assert ran.code == 0, ran.err
    ddp, fsdp2 = sorted({case["needs_mib"] for case in json.loads(ran.out)["cases"]}, reverse=True)
    assert ddp == 4 * fsdp2 == pytest.approx(4 * 2 * 464_520_192 / 2**20)


def test_a_plan_in_words(lbench: Lbench) -> None:
    ran = lbench("train", "quick", "--device", "cpu", "--dry-run", "--provider", "+sdpa-efficient")
    assert ran.code == 0, ran.err
    assert "quick train: 10 cases, 1 × each" in ran.err
    assert "weights, gradients and the optimizer's moments take at least" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "paper"], "suite paper has nothing for `lbench train`"),
        (
            ["speed", "table1"],
            "suite table1 runs whole models and has nothing for `lbench speed`",
        ),
        (["train", "quick", "--model", "tnl-9b"], '--model: "tnl-9b" is not known'),
        (
            ["train", "quick", "--dtype", "fp16"],
            '--dtype: "fp16" is not known (did you mean `bf16`?); allowed: fp32, bf16',
        ),
        (["train", "quick", "--tokens", "0"], '--tokens: "0" is not allowed'),
        (["train", "quick", "--recompute", "all"], '--recompute: "all" is not known; allowed: none, layers'),
        (["train", "quick", "--compile", "yes"], '--compile: "yes" is not known; allowed: none, parts'),
        (
            ["train", "quick", "--provider", "gla-torch"],
            "linear_decay or softmax, which `lbench providers` lists",
        ),
        (["train", "quick", "--provider", "+sdpa-math,lightning2"], "some names have a + and some have none"),
    ],
)
def test_what_is_wrong_is_named(lbench: Lbench, arguments: list[str], said: str) -> None:
    ran = lbench(*arguments, "--device", "cpu")
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
    assert ran.out == ""
