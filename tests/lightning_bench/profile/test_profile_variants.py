"""`lbench profile` of layers, ranks, kv heads and packed documents."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.workspace import Ran

Lbench = Callable[..., Ran]
CASE = ("profile", "lightning2-torch", "--device", "cpu", "--head-dim", "16", "--calls", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("forked_workers")
def test_a_profile_is_of_the_case_that_the_options_name(lbench: Lbench) -> None:
    options = ("--packing", "90 + 2 x 20", "--layer", "79 of 80", "--rank", "7of8", "--heads", "4")
    ran = lbench(*CASE, *options, "--kv-heads", "2", "--json")
    (found,) = json.loads(ran.out)
    assert found["case_id"] == (
        "lightning2-torch/fwd/b1-h4-n130-d16-e16-fp32-cpu-kv2-layer79of80-rank7of8-docs90+2x20"
    )
    assert (found["kv_heads"], found["layer"], found["packing"]) == (2, "79 of 80", "90+2x20")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--packing", "8", "--seq-len", "8"), "--seq-len and --packing do not go together"),
        (("--packing", "8", "--batch", "2"), "--batch 2 with --packing; allowed: 1"),
        (("--packing", "many"), "'many' is no packing; allowed: "),
        (("--layer", "4"), "--layer: '4' is no layer; allowed: "),
        (("--rank", "0 of 1"), "--rank: '0 of 1' is the only rank"),
        (("--heads", "4", "--kv-heads", "3"), "--kv-heads 3 does not divide 4 heads"),
    ],
)
def test_options_that_do_not_fit_are_errors(lbench: Lbench, options: tuple[str, ...], said: str) -> None:
    ran = lbench(*CASE, *options)
    assert ran.code == 2
    assert said in ran.err
