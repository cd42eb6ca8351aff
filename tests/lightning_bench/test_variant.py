"""Variants: their texts in suites, rows and ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.case import Case, Shape
from lightning_bench.variant import PLAIN, Part, Variant, packing_text, read_packing, read_part

PARTS = (
    st.tuples(st.integers(0, 99), st.integers(1, 100)).filter(lambda p: p[0] < p[1]).map(lambda p: Part(*p))
)
VARIANTS = st.builds(
    Variant,
    kv_heads=st.integers(0, 8),
    layer=PARTS,
    rank=PARTS,
    documents=st.lists(st.integers(1, 5000), max_size=12).map(tuple),
)


@given(VARIANTS)
def test_columns_say_what_the_variant_is(variant: Variant) -> None:
    assert Variant.of_columns(**variant.columns) == variant


@given(VARIANTS, VARIANTS)
def test_ids_tell_variants_apart(one: Variant, other: Variant) -> None:
    ids = {Case(Shape(1, 8, 64, 16, 16, "fp32", "cpu", each), "any", "fwd").id for each in (one, other)}
    assert len(ids) == len({one, other})


def test_the_default_has_blank_columns_and_the_id_of_old_rows() -> None:
    assert Variant.of_columns(None, "", "", "") == PLAIN
    assert not any(PLAIN.columns.values())
    assert str(Shape(4, 32, 512, 128, 128, "bf16", "cuda")) == "b4-h32-n512-d128-e128-bf16-cuda"


def test_an_id_has_every_fact() -> None:
    variant = Variant(2, Part(79, 80), Part(7, 8), (98304, *[1024] * 31))
    assert str(variant) == "-kv2-layer79of80-rank7of8-docs96k+31x1k"
    assert variant.words == "2 kv heads, layer 79 of 80, rank 7 of 8, documents 96k+31x1k"


@pytest.mark.parametrize("text", ["96k + 31 x 1k", "96K+31*1024", "98304 + 31x1k", " 96k+31 X 1k "])
def test_a_packing_is_read_in_several_spellings(text: str) -> None:
    assert read_packing(text) == (98304, *[1024] * 31)
    assert packing_text(read_packing(text)) == "96k+31x1k"


@pytest.mark.parametrize(
    "text", ["0", "x", "1k+", "2x0", "3 y 4", "-5", "1.5k", "99999999999", "4x1g", "70000 x 1"]
)
def test_other_texts_are_no_packing(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no packing; allowed: "):
        read_packing(text)


def test_a_packing_has_limits() -> None:
    with pytest.raises(ValueError, match="has 4294967296 tokens"):
        read_packing("1024 x 4096k")
    with pytest.raises(ValueError, match="so many different lengths"):
        read_packing("+".join(map(str, range(1, 500))))


@pytest.mark.parametrize("text", ["1 of 0", "-1 of 8", "1/8", "of 8", "1 of", "1 of 9999999"])
def test_other_texts_are_no_part(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no layer; allowed: a layer counted from 0, .* of 80"):
        read_part(text, "layer")
    with pytest.raises(ValueError, match=r"is no rank; allowed: a rank counted from 0, such as .7 of 8. for"):
        read_part(text, "rank")


def test_a_part_behind_the_last_is_told_which_is_the_last() -> None:
    with pytest.raises(ValueError, match=r"'80 of 80' is out of range: .*the last layer is '79 of 80'"):
        read_part("80 of 80", "layer")
    with pytest.raises(ValueError, match=r"'9of8' is out of range: .*the last rank is '7 of 8'"):
        read_part("9of8", "rank")
