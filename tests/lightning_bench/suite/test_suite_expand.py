"""Expansion: every combination, each once, in a stable order, less what is excluded."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lightning_bench.case import DIRECTIONS, DTYPES, FAMILIES, Case
from lightning_bench.errors import UsageError
from lightning_bench.suite import Exclude, Group, Limits, Overrides, Suite, axes, expand
from lightning_bench.suite.expand import idle_excludes
from lightning_bench.variant import packing_text

FAMILY = {"alpha": "linear_decay", "beta": "linear_decay", "gamma": "linear", "omega": "softmax"}
LENGTHS = [1, 2, 3, 64, 100, 128]
COMPARE = {"=": operator.eq, ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
SHAPE_AXES = ("batch", "heads", "seq_len", "head_dim", "value_dim", "ranks")


@dataclass
class FakeProvider:
    family: str


@pytest.fixture(autouse=True, scope="module")
def _registry() -> Iterator[None]:
    def get_provider(spec: str) -> FakeProvider:
        if spec not in FAMILY:
            raise UsageError(f"there is no provider `{spec}`")
        return FakeProvider(FAMILY[spec])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes, "declared_provider", get_provider)
        patch.setattr(axes, "canonical_spec", lambda spec: spec)
        yield


def some(values: Any) -> st.SearchStrategy[list[Any]]:
    """Draw one or two values: three of each axis would be more cells than a suite may have."""
    return st.lists(st.sampled_from(list(values)), min_size=1, max_size=2, unique=True)


def bound() -> st.SearchStrategy[int | str]:
    length = st.sampled_from(LENGTHS)
    return length | st.builds("{} {}".format, st.sampled_from(["<=", ">", ">="]), length)


PARTS = ["0 of 1", "0 of 2", "1 of 2", "7 of 8"]
words = {
    "provider": some(FAMILY),
    "family": some(FAMILIES),
    "direction": some(DIRECTIONS),
    "dtype": some(DTYPES),
    "layer": some(PARTS),
    "rank": some(PARTS),
}
bounds = {axis: bound() | st.lists(bound(), min_size=1, max_size=2, unique=True) for axis in SHAPE_AXES}
excludes = st.fixed_dictionaries({}, optional={**words, **bounds}).filter(bool).map(Exclude.model_validate)
axis_values = {
    "providers": some(FAMILY),
    "direction": some(DIRECTIONS),
    "dtype": some(DTYPES),
    **{axis: some(LENGTHS) for axis in SHAPE_AXES},
    "layer": some(PARTS[1:]),
    "rank": some(PARTS[1:]),
}
OPTIONAL = ("value_dim", "layer", "rank", "ranks")
required = {axis: values for axis, values in axis_values.items() if axis not in OPTIONAL}
groups = st.fixed_dictionaries(
    required,
    optional={axis: axis_values[axis] for axis in OPTIONAL} | {"exclude": st.lists(excludes, max_size=2)},
).map(Group.model_validate)
overrides = st.fixed_dictionaries({}, optional={axis: v.map(tuple) for axis, v in axis_values.items()})


def suite_of(*members: Group) -> Suite:
    return Suite("mine", Path("mine.toml"), "t", "d", "lbench", None, Limits(), members)


suites = st.lists(groups, min_size=1, max_size=3).map(lambda members: suite_of(*members))
one_group = groups.map(suite_of)


def cases_of(suite: Suite, given_overrides: Overrides) -> list[Case]:
    try:
        return expand(suite, given_overrides, "cuda")
    except UsageError:
        return []


def value_of(case: Case, axis: str) -> Any:
    if axis in ("providers", "provider"):
        return case.provider
    if axis in ("layer", "rank"):
        return str(getattr(case.shape.variant, axis))
    if axis == "ranks":
        return case.shape.ranks or 1
    if axis == "packing":
        return packing_text(case.shape.variant.documents)
    return case.direction if axis == "direction" else getattr(case.shape, axis)


def group_of(**changes: Any) -> Group:
    return Group.model_validate(
        {"providers": "alpha", "direction": "fwd", "dtype": "bf16", "batch": 1, "heads": 4, "seq_len": 512}
        | {"head_dim": 64}
        | changes
    )


@pytest.mark.slow
@settings(max_examples=40)
@given(suites, overrides)
def test_no_case_comes_twice(suite: Suite, axes_given: dict[str, Any]) -> None:
    cases = cases_of(suite, Overrides(**axes_given))
    assert len(set(cases)) == len(cases)
    assert len({case.id for case in cases}) == len(cases)


@settings(max_examples=40)
@given(groups)
def test_an_exclude_is_idle_if_without_it_no_cell_more_is_there(group: Group) -> None:
    cells = cases_of(suite_of(group.model_copy(update={"exclude": ()})), Overrides())
    for index, entry in enumerate(group.exclude):
        left = cases_of(suite_of(group.model_copy(update={"exclude": (entry,)})), Overrides())
        assert (index in idle_excludes(group)) == (left == cells)


@settings(max_examples=40)
@given(suites, overrides)
def test_an_override_is_all_there_is_of_an_axis(suite: Suite, axes_given: dict[str, Any]) -> None:
    cases = cases_of(suite, Overrides(**axes_given))
    for axis, values in axes_given.items():
        assert {value_of(case, axis) for case in cases} <= set(values)


@pytest.mark.slow
@settings(max_examples=40)
@given(suites, st.lists(st.sampled_from(sorted(FAMILY)), min_size=1, unique=True))
def test_a_provider_keeps_to_the_groups_that_name_it(suite: Suite, providers: list[str]) -> None:
    """So that `--provider` does not run one that needs a head_dim of its own, or others, at all of them."""
    whole = cases_of(suite, Overrides())
    some = cases_of(suite, Overrides(providers=tuple(providers)))
    named = {name for group in suite.groups for name in group.providers}
    assert {c for c in some if c.provider in named} == {c for c in whole if c.provider in providers}
    for stranger in set(providers) - named:
        shapes = {(c.shape, c.direction) for c in some if c.provider == stranger}
        alone = cases_of(suite, Overrides(providers=(stranger,)))
        assert shapes == {(c.shape, c.direction) for c in alone}


def test_a_provider_of_no_group_joins_every_group() -> None:
    two = suite_of(group_of(providers="alpha", head_dim=64), group_of(providers="omega", head_dim=16))
    cases = expand(two, Overrides(providers=("omega", "beta")), "cuda")
    found = [(case.provider, case.shape.head_dim) for case in cases]
    assert found == [("beta", 64), ("omega", 16), ("beta", 16)]


providers_given = st.lists(st.sampled_from(sorted(FAMILY)), min_size=1, unique=True).map(tuple)


@pytest.mark.slow
@settings(max_examples=40)
@given(suites, providers_given)
def test_added_providers_join_and_displace_none(suite: Suite, added: tuple[str, ...]) -> None:
    whole = set(cases_of(suite_without_excludes(suite), Overrides()))
    joined = set(cases_of(suite_without_excludes(suite), Overrides(added=added)))
    assert whole <= joined
    assert {case.provider for case in joined - whole} <= set(added)
    for spec in added:
        kin = {(c.shape, c.direction) for c in whole if FAMILY[c.provider] == FAMILY[spec]}
        own = {(c.shape, c.direction) for c in joined if c.provider == spec}
        assert own == (kin or {(c.shape, c.direction) for c in whole})


@pytest.mark.slow
@settings(max_examples=40)
@given(suites, providers_given, st.none() | providers_given)
def test_kernels_run_together_with_what_they_are_compared_with(
    suite: Suite, kernels: tuple[str, ...], against: tuple[str, ...] | None
) -> None:
    cases = cases_of(suite_without_excludes(suite), Overrides(kernels=kernels, providers=against))
    of_each: dict[str, set[object]] = {}
    for case in cases:
        of_each.setdefault(case.provider, set()).add((case.shape, case.direction))
    assert set(of_each) == {*kernels, *(against or ())}
    assert all(each == of_each[kernels[0]] for each in of_each.values())


def suite_without_excludes(suite: Suite) -> Suite:
    return suite_of(*(group.model_copy(update={"exclude": ()}) for group in suite.groups))


@settings(max_examples=40)
@given(one_group, overrides)
def test_each_cell_is_there_or_excluded(suite: Suite, axes_given: dict[str, Any]) -> None:
    """Against a reading of the excludes that is written anew here, cell by cell."""
    member = suite.groups[0]
    own = {axis: axes_given.get(axis, getattr(member, axis)) for axis in axis_values}
    left = set()
    for case in cases_of(suite_of(member.model_copy(update={"exclude": ()})), Overrides(**axes_given)):
        if not any(leaves_out(entry, case) for entry in member.exclude):
            left.add(case)
    assert set(cases_of(suite, Overrides(**axes_given))) == left
    if not member.exclude:
        size = 1
        for axis in axis_values:
            size *= len(own[axis]) if own[axis] else 1
        assert len(left) == size


def leaves_out(entry: Exclude, case: Case) -> bool:
    for key in Exclude.model_fields:
        wanted = getattr(entry, key)
        value = FAMILY[case.provider] if key == "family" else value_of(case, key)
        if wanted is None:
            continue
        if key in SHAPE_AXES:
            if not any(COMPARE[bound.operator](value, bound.value) for bound in wanted):
                return False
        elif value not in wanted:
            return False
    return True


@pytest.mark.slow
@settings(max_examples=40)
@given(suites)
def test_the_order_is_stable_and_groups_by_shape(suite: Suite) -> None:
    cases = cases_of(suite, Overrides())
    assume(cases)
    assert cases == cases_of(suite, Overrides())
    shapes = [shape for shape, _ in groupby(cases, key=lambda case: case.shape)]
    assert len(shapes) == len(set(shapes))
    sections = [key for key, _ in groupby(cases, key=lambda case: (case.shape, case.direction))]
    assert len(sections) == len(set(sections))


@settings(max_examples=40)
@given(one_group)
def test_providers_come_in_the_suites_order(suite: Suite) -> None:
    order = list(suite.groups[0].providers)
    for _, cases in groupby(cases_of(suite, Overrides()), key=lambda case: (case.shape, case.direction)):
        ranks = [order.index(case.provider) for case in cases]
        assert ranks == sorted(ranks)


@settings(max_examples=40)
@given(suites, st.sampled_from(["cuda", "cpu"]))
def test_the_device_is_the_one_asked_for(suite: Suite, device: Any) -> None:
    try:
        cases = expand(suite, Overrides(), device)
    except UsageError:
        return
    assert {case.shape.device for case in cases} == {device}


def test_order_is_shapes_then_directions_then_providers() -> None:
    member = group_of(
        providers=["omega", "alpha"], direction=["fwd", "bwd"], seq_len="64..128", dtype=["bf16", "fp16"]
    )
    ids = [case.id for case in expand(suite_of(member), Overrides(), "cpu")]
    assert ids[:5] == [
        "omega/fwd/b1-h4-n64-d64-e64-bf16-cpu",
        "alpha/fwd/b1-h4-n64-d64-e64-bf16-cpu",
        "omega/bwd/b1-h4-n64-d64-e64-bf16-cpu",
        "alpha/bwd/b1-h4-n64-d64-e64-bf16-cpu",
        "omega/fwd/b1-h4-n128-d64-e64-bf16-cpu",
    ]
    assert ids[-1] == "alpha/bwd/b1-h4-n128-d64-e64-fp16-cpu"


def test_groups_that_share_a_shape_are_put_together() -> None:
    suite = suite_of(
        group_of(seq_len=[64, 128]),
        group_of(providers=["omega", "alpha"], direction=["fwd", "bwd"], seq_len=64),
    )
    cases = [(c.shape.seq_len, c.direction, c.provider) for c in expand(suite, Overrides(), "cuda")]
    assert cases == [
        (64, "fwd", "alpha"),
        (64, "fwd", "omega"),
        (64, "bwd", "omega"),
        (64, "bwd", "alpha"),
        (128, "fwd", "alpha"),
    ]


def test_value_dim_follows_head_dim_unless_it_is_given() -> None:
    def dims(suite: Suite, given_overrides: Overrides) -> list[tuple[int, int]]:
        return [(c.shape.head_dim, c.shape.value_dim) for c in expand(suite, given_overrides, "cuda")]

    follows = suite_of(group_of(head_dim=[64, 128]))
    assert dims(follows, Overrides()) == [(64, 64), (128, 128)]
    assert dims(follows, Overrides(head_dim=(256,))) == [(256, 256)]
    assert dims(follows, Overrides(value_dim=(32,))) == [(64, 32), (128, 32)]
    fixed = suite_of(group_of(head_dim=[64, 128], value_dim=256))
    assert dims(fixed, Overrides()) == [(64, 256), (128, 256)]


def test_nothing_left_says_which_entries_left_nothing() -> None:
    suite = suite_of(
        group_of(providers="omega", seq_len=[64, 128], exclude=[{"family": "softmax", "seq_len": "> 32"}]),
        group_of(exclude=[{"dtype": ["bf16", "fp32"]}]),
    )
    with pytest.raises(UsageError) as caught:
        expand(suite, Overrides(head_dim=(32,)), "cuda")
    assert str(caught.value).split("\n") == [
        "suite mine: the excludes leave no case; change the axes given, or the exclude entries in mine.toml",
        'group[0]: all 2 cells left out, 2 by exclude[0] {family = "softmax", seq_len = "> 32"}; axes: '
        "providers omega; direction fwd; dtype bf16; batch 1; heads 4; seq_len 64, 128; head_dim 32",
        'group[1]: all 1 cells left out, 1 by exclude[0] {dtype = ["bf16", "fp32"]}; axes: '
        "providers alpha; direction fwd; dtype bf16; batch 1; heads 4; seq_len 512; head_dim 32",
    ]
    assert len(expand(suite, Overrides(dtype=("fp16",), seq_len=(32,)), "cuda")) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"providers": ("beta2",)}, "--provider: there is no provider `beta2`"),
        ({"providers": ()}, "--provider: is empty; allowed: a list of provider names"),
        ({"seq_len": (0,)}, "--seq-len: 0 is not allowed; allowed: an integer from 1"),
        (
            {"dtype": ("fp8",)},
            '--dtype: "fp8" is not known; allowed: fp32, fp16, bf16',
        ),
        ({"direction": ("up",)}, '--direction: "up" is not known; allowed: fwd, bwd, fwd_bwd'),
    ],
)
def test_a_wrong_override_names_its_option(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        expand(suite_of(group_of()), Overrides(**wrong), "cuda")
    assert str(caught.value).startswith(message)


def test_overrides_have_an_axis_each() -> None:
    others = {"added", "kernels", "kv_heads", "packing"} | {"model", "tokens", "compile", "recompute"}
    others |= {"prompt", "new_tokens", "parallel"}
    assert {field.name for field in fields(Overrides)} == {*axis_values, *others}


def test_an_override_given_twice_counts_once() -> None:
    cases = expand(suite_of(group_of()), Overrides(seq_len=(64, 64), providers=("alpha", "alpha")), "cuda")
    assert len(cases) == 1
