"""Suites with layers, ranks, kv heads, packed documents and graphs: their cells, overrides and faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_bench.case import Case
from lightning_bench.errors import UsageError
from lightning_bench.suite import Overrides, expand, load_suite
from lightning_bench.variant import PLAIN, Part

CasesOf = Callable[..., list[Case]]

GROUP = """
title = "t"
description = "d"
[[group]]
providers = ["lightning2-torch", "lightning2-no-decay-torch"]
direction = "fwd"
dtype = "fp32"
batch = 1
heads = 4
head_dim = 16
"""


@pytest.fixture
def cases(tmp_path: Path) -> CasesOf:
    """Return the cases of a group with these lines."""

    def of(lines: str, overrides: Overrides | None = None) -> list[Case]:
        path = tmp_path / "own.toml"
        path.write_text(GROUP + lines)
        return expand(load_suite(path), overrides or Overrides(), "cpu")

    return of


def test_every_layer_meets_every_rank(cases: CasesOf) -> None:
    found = cases('seq_len = [64, 128]\nlayer = ["0 of 80", "79of80"]\nrank = ["0 of 8", "7 of 8"]')
    variants = [(c.shape.variant.rank, c.shape.variant.layer, c.shape.seq_len) for c in found[::2]]
    ranks, layers = (Part(0, 8), Part(7, 8)), (Part(0, 80), Part(79, 80))
    assert variants == [(rank, layer, n) for rank in ranks for layer in layers for n in (64, 128)]
    assert found[0].id == "lightning2-torch/fwd/b1-h4-n64-d16-e16-fp32-cpu-layer0of80-rank0of8"


def test_a_packing_says_how_long_the_sequence_is(cases: CasesOf) -> None:
    found = cases('packing = ["96 + 2 x 1k", "8 x 16"]')[::2]
    assert [(c.shape.seq_len, c.shape.variant.documents) for c in found] == [
        (2144, (96, 1024, 1024)),
        (128, (16,) * 8),
    ]


def test_as_many_kv_heads_as_heads_are_the_default(cases: CasesOf) -> None:
    found = cases("seq_len = 64\nkv_heads = [1, 4]")[::2]
    assert [(c.shape.kv_heads, c.shape.group) for c in found] == [(1, 4), (4, 1)]
    assert found[1].shape.variant == PLAIN


def test_exclude_takes_the_new_keys(cases: CasesOf) -> None:
    found = cases(
        'seq_len = 64\nkv_heads = [1, 2, 4]\nlayer = ["0 of 2", "1 of 2"]\nexclude = [{ layer = "1of2", '
        'kv_heads = "< 4" }, { provider = "lightning2-no-decay-torch", rank = "0 of 1" }]'
    )
    assert [(c.shape.kv_heads, str(c.shape.variant.layer)) for c in found] == [
        (1, "0 of 2"),
        (2, "0 of 2"),
        (4, "0 of 2"),
        (4, "1 of 2"),
    ]
    assert len(cases('packing = ["2 x 8", "3x8"]\nexclude = [{ packing = "2*8" }]')) == 2


def test_ranks_are_an_axis_and_one_is_the_default(cases: CasesOf) -> None:
    lines = (
        'seq_len = [64, 128]\nranks = [1, 2]\nexclude = [{ provider = "lightning2-torch", ranks = "> 1" }]'
    )
    found = cases(lines)
    assert [(c.provider, c.shape.seq_len, c.shape.ranks) for c in found] == [
        ("lightning2-torch", 64, 0),
        ("lightning2-no-decay-torch", 64, 0),
        ("lightning2-torch", 128, 0),
        ("lightning2-no-decay-torch", 128, 0),
        ("lightning2-no-decay-torch", 64, 2),
        ("lightning2-no-decay-torch", 128, 2),
    ]
    assert found[0].shape == cases("seq_len = 64")[0].shape
    assert found[-1].id == "lightning2-no-decay-torch/fwd/b1-h4-n128-d16-e16-fp32-cpu-ranks2"
    assert {c.shape.ranks for c in cases(lines, Overrides(ranks=(4,)))} == {4}


def test_overrides_replace_the_axes_and_packing_the_length_too(cases: CasesOf) -> None:
    found = cases("seq_len = 64", Overrides(packing=("2 x 8",), layer=("1 of 2",), kv_heads=(2,)))
    assert [c.id for c in found[::2]] == [
        "lightning2-torch/fwd/b1-h4-n16-d16-e16-fp32-cpu-kv2-layer1of2-docs2x8"
    ]


@pytest.mark.parametrize(
    ("lines", "overrides", "said"),
    [
        ("", Overrides(), "has neither of seq_len and packing"),
        ('seq_len = 8\npacking = "2x4"', Overrides(), "has both of seq_len and packing"),
        ('packing = "2y4"', Overrides(), "'2y4' is no packing; allowed: "),
        ("packing = 8", Overrides(), "8 is not allowed; allowed: lengths of documents"),
        ('seq_len = 8\nlayer = "80 of 80"', Overrides(), "'80 of 80' is out of range"),
        ('seq_len = 8\nlayer = ["1 of 2", "1of2"]', Overrides(), "1 of 2 is listed more than once"),
        ("seq_len = 8\nkv_heads = 3", Overrides(), "heads 4 in groups of kv_heads 3; allowed: a divisor"),
        ('packing = "2x4"', Overrides(batch=(2,)), "batch 2 with packing; allowed: 1"),
        (
            'packing = "2x4"',
            Overrides(seq_len=(8,)),
            "(2x4), whose documents say how long they are: give --packing in",
        ),
        ("seq_len = 8", Overrides(rank=("8 of 8",)), "--rank: '8 of 8' is out of range"),
        ("seq_len = 8", Overrides(packing=("",)), '--packing: "" is not allowed'),
        ("seq_len = 8\nranks = 0", Overrides(), "ranks: 0 is not allowed; allowed: an integer from 1"),
        ("seq_len = 8", Overrides(ranks=(0,)), "--ranks: 0 is not allowed; allowed: an integer from 1"),
    ],
)
def test_faults_say_what_is_allowed(cases: CasesOf, lines: str, overrides: Overrides, said: str) -> None:
    with pytest.raises(UsageError) as error:
        cases(lines, overrides)
    assert said in str(error.value)


def test_layers_has_the_slopes_of_a_model_on_eight_gpus() -> None:
    shapes = {case.shape for case in expand(load_suite("layers"), Overrides(), "cuda")}
    assert {(s.heads, s.variant.rank.count, s.variant.layer.count) for s in shapes} == {(8, 8, 80)}
    assert {s.variant.layer.index for s in shapes} == {0, 20, 40, 60, 79}
    assert {s.variant.rank.index for s in shapes} == {0, 7}
    assert {s.seq_len for s in shapes} == {8192, 32768, 131072}


def test_packed_has_three_packings_of_as_many_tokens() -> None:
    shapes = {case.shape for case in expand(load_suite("packed"), Overrides(), "cuda")}
    assert {len(s.variant.documents) for s in shapes} == {8, 16, 32}
    assert all(abs(s.seq_len / 131072 - 1) < 0.02 for s in shapes)
    assert {s.heads for s in shapes} == {8, 64}


def test_short_asks_for_graphs() -> None:
    assert load_suite("short").graph
    assert not load_suite("paper").graph


def test_models_give_heads_and_head_dim(tmp_path: Path) -> None:
    lines = 'seq_len = 8\nmodel = ["ling-2.5-1t", "tnl-1b", "minimax-01"]\n'
    path = tmp_path / "own.toml"
    path.write_text(GROUP.replace("heads = 4\nhead_dim = 16\n", "") + lines)
    found = expand(load_suite(path), Overrides(), "cpu")
    assert [(case.shape.heads, case.shape.head_dim) for case in found[::2]] == [(64, 128), (16, 128)]
    narrow = expand(load_suite(path), Overrides(heads=(8,)), "cpu")
    assert {case.shape.heads for case in narrow} == {8}
    path.write_text(GROUP + lines)
    with pytest.raises(UsageError, match="has model and heads and head_dim; allowed: model, whose shape it"):
        load_suite(path)
