"""`lbench generate` on the command line: plans, and errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.workspace import Ran

Lbench = Callable[..., Ran]


def test_a_plan_counts_weights_and_what_is_kept(lbench: Lbench) -> None:
    ran = lbench("generate", "--device", "cuda", "--dry-run", "--batch", "64", "--json")
    assert ran.code == 0, ran.err
    needs = {case["case_id"]: case["needs_mib"] for case in json.loads(ran.out)["cases"]}
    ours, theirs = (
        next(need for name, need in needs.items() if name.startswith(start) and "n512-" in name)
        for start in ("lightning2/", "flash2/")
    )
    # bf16 weights; 30 layers of 32 states of 128 × 128 in fp32, and the first layer's have 256 rows.
    assert ours == pytest.approx((2 * 7_193_235_456 + 64 * 31 * 32 * 128 * 128 * 4) / 2**20)
    assert theirs == pytest.approx((2 * 6_690_164_736 + 64 * 30 * 2 * 4096 * 1536 * 2) / 2**20)


def test_a_plan_in_words(lbench: Lbench) -> None:
    ran = lbench("generate", "quick", "--device", "cpu", "--dry-run", "--prompt", "8", "--new-tokens", "2,3")
    assert ran.code == 0, ran.err
    assert "quick generate: 16 cases, 1 × each" in ran.err
    assert "weights and states, or keys and values, take at least" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["paper"], "suite paper has nothing for `lbench generate`"),
        (["quick", "--prompt", "1"], "--prompt: 1 is too few"),
        (["quick", "--dtype", "fp8"], '--dtype: "fp8" is not known'),
        (["quick", "--provider", "gla-torch"], "none of the providers has the attention of a model"),
    ],
)
def test_what_is_wrong_is_named(lbench: Lbench, arguments: list[str], said: str) -> None:
    ran = lbench("generate", *arguments, "--device", "cpu")
    assert ran.code == 2
    assert said in " ".join(ran.err.split())
    assert ran.out == ""
