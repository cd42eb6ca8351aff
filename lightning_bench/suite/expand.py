"""From a Suite to its Cases: every combination of every group, less the excludes, each case once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import product

from lightning_bench.case import Case, Device, Direction, Dtype, Family, Metric, Shape
from lightning_bench.errors import UsageError
from lightning_bench.suite.axes import (
    distinct,
    family_is_known,
    family_of,
    packed_batch,
    uneven_heads,
)
from lightning_bench.suite.model import Group, Suite
from lightning_bench.suite.model_groups import (
    GenerateGroup,
    TrainGroup,
    expand_models,
)
from lightning_bench.suite.overrides import Overrides, checked_overrides
from lightning_bench.variant import Variant, packing_label, read_packing

MOST_CELLS = 100_000
"""Cells of a suite, those that are excluded too: more are a mistake, and would fill the memory."""


def expand(suite: Suite, overrides: Overrides, device: Device, metric: Metric = "speed") -> list[Case]:
    """Return the cases of a suite for a metric on a device, grouped by shape, providers in the suite's order.

    `train` and `generate` have cases of their own, those of the tables with these heads; all other metrics
    share theirs.

    Shapes are in the order of the groups; within a group, dtype and head_dim change slowest and seq_len
    fastest. UsageError if an override is wrong or the excludes leave nothing.
    """
    overrides = checked_overrides(overrides)
    if groups := _groups_of_models(suite, metric):
        return expand_models(suite.name, groups, overrides, device)
    if metric in ("train", "generate") or not suite.groups:
        raise UsageError(_of_other_metrics(suite, metric))
    ordered: dict[Shape, dict[Direction, dict[Case, None]]] = {}
    empty: list[str] = []
    cells = 0
    chosen = _providers(suite, overrides)
    for index, group in enumerate(suite.groups):
        axes = _Axes.of(group, overrides, chosen[index])
        if not axes.providers:
            continue
        if fault := axes.fault:
            raise UsageError(f"suite {suite.name}: group[{index}]: {fault}")
        families = {provider: family_of(provider) for provider in axes.providers}
        cells += axes.size
        if cells > MOST_CELLS:
            raise UsageError(
                f"suite {suite.name}: up to group[{index}] it has {cells} cells; allowed: {MOST_CELLS}, "
                f"so shorten the axes or split {suite.path}"
            )
        left_out: Counter[int] = Counter()
        kept = False
        for case in axes.cases(device):
            entry = _excluded_by(group, case, families[case.provider])
            if entry is None:
                kept = True
                ordered.setdefault(case.shape, {}).setdefault(case.direction, {})[case] = None
            else:
                left_out[entry] += 1
        if not kept:
            empty.append(_why_empty(index, group, axes, left_out))
    if not ordered:
        raise UsageError(
            "\n".join(
                [
                    f"suite {suite.name}: the excludes leave no case; change the axes given, "
                    f"or the exclude entries in {suite.path}",
                    *empty,
                ]
            )
        )
    return [case for directions in ordered.values() for cases in directions.values() for case in cases]


def every_case(suite: Suite, device: Device) -> list[Case]:
    """Return the cases of a suite for all metrics on a device."""
    attention = expand(suite, Overrides(), device) if suite.groups else []
    of_models: list[Metric] = [metric for metric in ("train", "generate") if _groups_of_models(suite, metric)]
    return [
        *attention,
        *(case for metric in of_models for case in expand(suite, Overrides(), device, metric)),
    ]


def _groups_of_models(suite: Suite, metric: Metric) -> tuple[TrainGroup, ...] | tuple[GenerateGroup, ...]:
    """Return the groups of whole models that a metric has of its own."""
    return suite.train if metric == "train" else suite.generate if metric == "generate" else ()


def _of_other_metrics(suite: Suite, metric: Metric) -> str:
    own = {"train": "table1", "generate": "generate"}
    if metric in own:
        return (
            f"suite {suite.name} has nothing for `lbench {metric}`: {suite.path} has no table headed "
            f"[[{metric}]]; allowed: `lbench {metric} {own[metric]}`, `lbench {metric} quick`, or a suite of "
            "yours that has one"
        )
    runs = " or ".join(f"`lbench {name} {suite.name}`" for name in own if getattr(suite, name))
    return (
        f"suite {suite.name} runs whole models and has nothing for `lbench {metric}`; run {runs}, or name "
        "another suite (`lbench suites` lists them)"
    )


@dataclass(frozen=True)
class _Axes:
    """The axes of one group after the overrides."""

    providers: tuple[str, ...]
    direction: tuple[Direction, ...]
    dtype: tuple[Dtype, ...]
    batch: tuple[int, ...]
    heads: tuple[int, ...]
    seq_len: tuple[int, ...] | None
    head_dim: tuple[int, ...]
    value_dim: tuple[int, ...] | None
    kv_heads: tuple[int, ...] | None
    layer: tuple[str, ...] | None
    rank: tuple[str, ...] | None
    packing: tuple[str, ...] | None
    ranks: tuple[int, ...] | None

    @classmethod
    def of(cls, group: Group, overrides: Overrides, providers: tuple[str, ...]) -> _Axes:
        own = {axis: getattr(group, axis) for axis in _AXES}
        given = {axis: getattr(overrides, axis) for axis in _AXES} | {"providers": providers}
        if overrides.packing is not None:
            own["seq_len"] = None
        return cls(**{axis: own[axis] if given[axis] is None else given[axis] for axis in _AXES})

    @property
    def size(self) -> int:
        """The number of cells, those that are excluded too."""
        return math.prod(len(getattr(self, axis) or (0,)) for axis in _AXES)

    @property
    def fault(self) -> str | None:
        """What in the axes does not go together, in words, or None."""
        if self.packing and self.seq_len:
            labels = ", ".join(packing_label(read_packing(text)) for text in self.packing)
            return (
                f"its sequences are packings ({labels}), whose documents say how long they are: "
                "give --packing in place of --seq-len"
            )
        if self.packing and (fault := packed_batch(self.batch)):
            return fault
        return uneven_heads(self.heads, self.kv_heads or ())

    def cases(self, device: Device) -> Iterator[Case]:
        for shape in self._shapes(device):
            for direction, provider in product(self.direction, self.providers):
                yield Case(shape, provider, direction)

    def _shapes(self, device: Device) -> Iterator[Shape]:
        packings = {text: sum(read_packing(text)) for text in self.packing or ()}
        lengths = [(n, text) for text, n in packings.items()] or [(n, "") for n in self.seq_len or ()]
        for dtype, head_dim in product(self.dtype, self.head_dim):
            for value_dim, heads, kv_heads, batch, rank, layer, ranks, (seq_len, packing) in product(
                self.value_dim or (head_dim,),
                self.heads,
                self.kv_heads or (None,),
                self.batch,
                self.rank or ("",),
                self.layer or ("",),
                self.ranks or (1,),
                lengths,
            ):
                kv_heads = None if kv_heads == heads else kv_heads
                variant = Variant.of_columns(kv_heads, layer, rank, packing)
                shape = Shape(batch, heads, seq_len, head_dim, value_dim, dtype, device, variant)
                yield shape if ranks == 1 else replace(shape, ranks=ranks)

    def __str__(self) -> str:
        return "; ".join(
            f"{axis} {', '.join(map(str, values))}"
            for axis in _AXES
            if (values := getattr(self, axis)) is not None
        )


_AXES = tuple(field.name for field in fields(_Axes))


def _providers(suite: Suite, overrides: Overrides) -> list[tuple[str, ...]]:
    """Return the providers that run in each group of the suite."""
    given, added, kernels = overrides.providers, overrides.added or (), overrides.kernels
    if kernels is not None:
        homes = {index for spec in kernels for index in _homes(suite, family_of(spec))}
        together = distinct((*kernels, *(given or ())))
        return [together if index in homes else () for index in range(len(suite.groups))]
    named = {provider for group in suite.groups for provider in group.providers}
    chosen = [
        group.providers
        if given is None
        else tuple(spec for spec in given if spec in group.providers or spec not in named)
        for group in suite.groups
    ]
    for spec in added:
        for index in _homes(suite, family_of(spec)):
            chosen[index] = distinct((*chosen[index], spec))
    return chosen


def _homes(suite: Suite, family: Family) -> list[int]:
    """Return the groups that have a provider of this family, or all groups if none has."""
    homes = [
        index
        for index, group in enumerate(suite.groups)
        if any(family_of(spec) == family for spec in group.providers)
    ]
    return homes or list(range(len(suite.groups)))


def _excluded_by(group: Group, case: Case, family: Family) -> int | None:
    for index, entry in enumerate(group.exclude):
        if entry.matches(case, family):
            return index
    return None


def idle_excludes(group: Group) -> list[int]:
    """Return which exclude entries match no cell of the group as its suite has it.

    An entry with `family` is not judged beside a provider whose family is unknown because it does not load.
    """
    axes = _Axes.of(group, Overrides(), group.providers)
    families = {provider: family_of(provider) for provider in axes.providers}
    unsure = not all(map(family_is_known, axes.providers))
    idle = [index for index, entry in enumerate(group.exclude) if not (unsure and entry.family)]
    if axes.size > MOST_CELLS:  # refused by `expand`
        return []
    cells = axes.cases("cpu")
    while idle and (case := next(cells, None)):
        idle = [i for i in idle if not group.exclude[i].matches(case, families[case.provider])]
    return idle


def _why_empty(index: int, group: Group, axes: _Axes, left_out: Counter[int]) -> str:
    entries = ", ".join(
        f"{count} by exclude[{entry}] {group.exclude[entry]}" for entry, count in sorted(left_out.items())
    )
    return f"group[{index}]: all {left_out.total()} cells left out, {entries}; axes: {axes}"
