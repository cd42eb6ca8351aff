"""Axes typed on the command line: what is read, and what an error says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.case import DIRECTIONS, DTYPES
from lightning_bench.errors import UsageError
from lightning_bench.suite import axes, parse_ints, parse_providers, parse_words

ALLOWED = (
    "allowed: positive integers and ranges with commas between them, such as 512,4k, 512..32k (doubling) or "
    "1k..4k:512 (by steps)"
)


@pytest.fixture(autouse=True, scope="module")
def _registry() -> Iterator[None]:
    def get_provider(spec: str) -> None:
        if spec not in ("alpha", "omega") and not Path(spec.rpartition(":")[0]).is_file():
            raise UsageError(f"there is no provider `{spec}`")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes, "declared_provider", get_provider)
        patch.setattr(axes, "canonical_spec", lambda spec: spec)
        yield


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512", (512,)),
        ("512,4096", (512, 4096)),
        ("512..4096", (512, 1024, 2048, 4096)),
        (" 3 .. 12 , 100", (3, 6, 12, 100)),
        ("512..2048,1024,7", (512, 1024, 2048, 7)),
        ("64..64", (64,)),
        ("1_000", (1000,)),
        ("4k", (4096,)),
        ("512,1K..4k,1m", (512, 1024, 2048, 4096, 2**20)),
        ("512..2k:512", (512, 1024, 1536, 2048)),
        (" 1 .. 7 : 3 ", (1, 4, 7)),
        ("5..5:100", (5,)),
    ],
)
def test_integers(text: str, expected: tuple[int, ...]) -> None:
    assert parse_ints(text, "--seq-len") == expected


@given(st.integers(1, 4096), st.integers(0, 18))
def test_a_range_doubles_from_end_to_end(start: int, doublings: int) -> None:
    lengths = parse_ints(f"{start}..{start * 2**doublings}", "--seq-len")
    assert lengths == tuple(start * 2**power for power in range(doublings + 1))


@given(st.integers(1, 4096), st.integers(1, 512), st.integers(0, 100))
def test_a_range_by_steps_has_both_ends(start: int, step: int, steps: int) -> None:
    lengths = parse_ints(f"{start}..{start + steps * step}:{step}", "--seq-len")
    assert lengths == tuple(start + number * step for number in range(steps + 1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", f"--seq-len: is empty; {ALLOWED}"),
        ("512,,1024", f'--seq-len: "512,,1024" has nothing between two commas or at an end; {ALLOWED}'),
        ("0", f'--seq-len: "0" is not allowed; {ALLOWED}'),
        ("-5", f'--seq-len: "-5" is not allowed; {ALLOWED}'),
        ("4g", f'--seq-len: "4g" is not allowed; {ALLOWED}'),
        ("k", f'--seq-len: "k" is not allowed; {ALLOWED}'),
        ("4kk", f'--seq-len: "4kk" is not allowed; {ALLOWED}'),
        ("4m..8g", '--seq-len: "4m..8g" is no range; allowed: '),
        ("4096m", f'--seq-len: "4096m" is not allowed; {ALLOWED}'),
        ("1..9:3", '--seq-len: the range "1..9:3" does not reach its end by steps of 3; allowed: an end '
         'such as "1..7:3" or "1..10:3"'),
        ("1..9:0", '--seq-len: "0" is not allowed; allowed: '),
        ("1..9:", '--seq-len: "1..9:" is no range; allowed: '),
        ("1..64k:1", '--seq-len: the range "1..64k:1" has more than 1000 lengths; allowed: a larger step'),
        ("1__0", f'--seq-len: "1__0" is not allowed; {ALLOWED}'),
        ("9" * 5000, f'--seq-len: "{"9" * 56}... is not allowed; {ALLOWED}'),
        ("512..1000", '--seq-len: the range "512..1000" does not reach its end by doubling; allowed: an end '
         'that is 512 times a power of two, such as "512..512" or "512..1024"'),
        ("1024..512", '--seq-len: the range "1024..512" ends before it starts; allowed: start..end'),
        ("a..b", '--seq-len: "a..b" is no range; allowed: '),
    ],
)  # fmt: skip
def test_wrong_integers(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_ints(text, "--seq-len")
    assert str(caught.value).startswith(message)


def test_all_wrong_integers_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        parse_ints("0,512,x,8..9", "--batch")
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert all(line.startswith("--batch: ") for line in lines)


@given(st.text())
def test_any_text_gives_lengths_or_a_usage_error(text: str) -> None:
    try:
        lengths = parse_ints(text, "--heads")
    except UsageError:
        with pytest.raises(UsageError, match=r"\A--heads: .*; allowed: "):
            parse_ints(text, "--heads")
    else:
        assert lengths
        assert all(1 <= length < 2**31 for length in lengths)


def test_words() -> None:
    assert parse_words("fwd, bwd,fwd", DIRECTIONS, "--direction") == ("fwd", "bwd")
    assert parse_words("bf16", DTYPES, "--dtype") == ("bf16",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "fwd,fwd-bwd",
            '--direction: "fwd-bwd" is not known (did you mean `fwd_bwd`?); allowed: fwd, bwd, fwd_bwd',
        ),
        ("", "--direction: is empty; allowed: fwd, bwd, fwd_bwd"),
        (
            "fwd,",
            '--direction: "fwd," has nothing between two commas or at an end; allowed: fwd, bwd, fwd_bwd',
        ),
    ],
)
def test_wrong_words(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_words(text, DIRECTIONS, "--direction")
    assert str(caught.value) == message


def test_providers_are_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").touch()
    assert parse_providers("alpha,own.py:X") == ("alpha", f"{tmp_path}/own.py:X")
    with pytest.raises(UsageError) as caught:
        parse_providers("alpha,omga,beta", "--baseline")
    assert str(caught.value).split("\n") == [
        "--baseline: there is no provider `omga`",
        "--baseline: there is no provider `beta`",
    ]
