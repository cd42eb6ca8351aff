"""Tables headed [[train]] and [[generate]]: whole models × attention, and their expansion to cases."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lightning_bench.case import DTYPES, Case, Device, Direction, Dtype, Family, Shape
from lightning_bench.errors import UsageError
from lightning_bench.model_run import (
    COMPILE_WORDS,
    NONE,
    PARALLEL_WORDS,
    RECOMPUTE_WORDS,
    ModelRun,
    read_compiled,
    read_parallel,
    read_recomputed,
)
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.providers.registry.specs import own_marks
from lightning_bench.suite.axes import (
    LENGTHS_ALLOWED,
    SEVERAL_ALLOWED,
    Faults,
    family_is_known,
    family_of,
    read_lengths,
    read_several,
    read_words,
)
from lightning_bench.suite.fields import Providers
from lightning_bench.suite.overrides import Overrides

TRAINED_DTYPES: tuple[Dtype, ...] = ("fp32", "bf16")
"""fp16 would need a scaled loss, which the steps do not have."""
TRAIN_ALLOWED = "tables headed [[train]]"
GENERATE_ALLOWED = "tables headed [[generate]]"

_Lengths = Annotated[tuple[int, ...], BeforeValidator(read_lengths), Field(description=LENGTHS_ALLOWED)]
_Several = Annotated[
    tuple[int, ...],
    BeforeValidator(read_several),
    Field(description=SEVERAL_ALLOWED),
]
_Models = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_words(value, tuple(MODELS))),
    Field(description=", ".join(MODELS)),
]
_TrainedDtypes = Annotated[
    tuple[Dtype, ...],
    BeforeValidator(lambda value: read_words(value, TRAINED_DTYPES)),
    Field(description=", ".join(TRAINED_DTYPES)),
]
_Dtypes = Annotated[
    tuple[Dtype, ...],
    BeforeValidator(lambda value: read_words(value, DTYPES)),
    Field(description=", ".join(DTYPES)),
]
_Compile = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_words(value, COMPILE_WORDS)),
    Field(description=", ".join(COMPILE_WORDS)),
]
_Recompute = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_words(value, RECOMPUTE_WORDS)),
    Field(description=", ".join(RECOMPUTE_WORDS)),
]
_Parallel = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_words(value, PARALLEL_WORDS)),
    Field(description=", ".join(PARALLEL_WORDS)),
]


class _ModelGroup(BaseModel):
    """Axes of whole models; a case is made of every combination in which the provider has the model's family.

    Without `compile`, all but the attention is compiled on a GPU, and nothing on a CPU.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    providers: Providers
    model: _Models
    compile: _Compile | None = None

    @model_validator(mode="after")
    def _providers_fit_the_models(self) -> Self:
        families = {MODELS[name].family for name in self.model}
        given = {spec: family_of(spec) for spec in self.providers}
        faults = [
            f"provider {spec} computes {family}, which none of the models {', '.join(self.model)} has; "
            f"allowed: providers of {' or '.join(sorted(families))}"
            for spec, family in given.items()
            if family not in families
        ]
        faults += [
            f"model {name} gets no attention; allowed: a provider of {MODELS[name].family} in providers"
            for name in self.model
            if MODELS[name].family not in given.values()
        ]
        if faults:
            raise Faults(*faults)
        return self

    def compiled(self, overrides: Overrides, device: Device) -> tuple[str, ...]:
        """Return the words for what is compiled."""
        return overrides.compile or self.compile or ("parts" if device == "cuda" else NONE,)


class TrainGroup(_ModelGroup):
    """Axes of training: a step takes as many sequences as `tokens` hold, and at least one, on each rank.

    `ranks` are those of cases with `parallel`.
    """

    dtype: _TrainedDtypes
    seq_len: _Lengths
    tokens: _Lengths
    recompute: _Recompute = (NONE,)
    parallel: _Parallel = (NONE,)
    ranks: _Several = (2,)

    def shapes(self, overrides: Overrides, device: Device) -> Iterator[Shape]:
        """Yield every shape, with its model."""
        for model, dtype, compiled, recompute, parallel, ranks, tokens, seq_len in product(
            overrides.model or self.model,
            overrides.dtype or self.dtype,
            self.compiled(overrides, device),
            overrides.recompute or self.recompute,
            overrides.parallel or self.parallel,
            overrides.ranks or self.ranks,
            overrides.tokens or self.tokens,
            overrides.seq_len or self.seq_len,
        ):
            words = read_compiled(_blank(compiled)), read_recomputed(_blank(recompute))
            run = ModelRun(model, tokens, *words)
            run = replace(run, parallel=read_parallel(_blank(parallel)))
            shape = _shape(run, max(1, tokens // seq_len), seq_len, dtype, device)
            yield replace(shape, ranks=ranks) if run.parallel else shape


class GenerateGroup(_ModelGroup):
    """Axes of generation: `batch` prompts of `prompt` tokens, each continued by `new_tokens`."""

    dtype: _Dtypes
    prompt: _Several
    new_tokens: _Several
    batch: _Lengths

    def shapes(self, overrides: Overrides, device: Device) -> Iterator[Shape]:
        """Yield every shape, with its model."""
        for model, dtype, compiled, prompt, new_tokens, batch in product(
            overrides.model or self.model,
            overrides.dtype or self.dtype,
            self.compiled(overrides, device),
            overrides.prompt or self.prompt,
            overrides.new_tokens or self.new_tokens,
            overrides.batch or self.batch,
        ):
            run = ModelRun(model, compile=read_compiled(_blank(compiled)), new_tokens=new_tokens)
            yield _shape(run, batch, prompt, dtype, device)


def expand_models(
    suite: str, groups: Sequence[TrainGroup | GenerateGroup], overrides: Overrides, device: Device
) -> list[Case]:
    """Return the cases of groups of a suite: by model, then shape, with providers in the suite's order.

    A model or a provider that groups of the suite name runs only in these groups, any other in every group,
    the provider with models of its family; those added join such groups. UsageError if that leaves nothing,
    or nothing of a provider or a model that is given, or ranks are given and no case has any.
    """
    named = {name for group in groups for name in (*group.providers, *group.model)}
    added = overrides.added or ()
    cases: dict[Case, None] = {}
    for group in groups:
        direction: Direction = "fwd_bwd" if isinstance(group, TrainGroup) else "fwd"
        chosen = _of_group(overrides.providers, group.providers, named)
        models = _of_group(overrides.model, group.model, named)
        for shape in group.shapes(replace(overrides, model=models), device) if models else ():
            family = MODELS[shape.model_run.model].family
            fitting = [spec for spec in (*chosen, *added) if _may_be(spec, family)]
            cases |= dict.fromkeys(Case(shape, spec, direction) for spec in fitting)
    if not cases:
        asked = overrides.model or [name for group in groups for name in group.model]
        wanted = sorted({MODELS[name].family for name in asked})
        raise UsageError(
            f"suite {suite}: none of the providers has the attention of a model that is run: "
            f"{', '.join(dict.fromkeys(asked))}; allowed: providers of {' or '.join(wanted)}, which "
            "`lbench providers` lists"
        )
    if faults := [*_idle_providers(overrides, cases), *_idle_models(overrides, cases)]:
        raise UsageError("\n".join(faults))
    if overrides.ranks:
        _check_ranks(overrides.ranks)
        if not any(case.shape.ranks for case in cases):
            raise UsageError("--ranks: no case takes its steps together; give --parallel ddp or fsdp2, too")
    return list(cases)


def _may_be(spec: str, family: Family) -> bool:
    """Return whether a provider is of this family, or does not load and may be: its rows then say why."""
    return family_of(spec) == family or not (family_is_known(spec) or own_marks(spec)[0])


def _idle_providers(overrides: Overrides, cases: Collection[Case]) -> Iterator[str]:
    """Yield why a provider that is given has no case."""
    used = {case.provider for case in cases}
    models = ", ".join(dict.fromkeys(case.shape.model_run.model for case in cases))
    for spec in (*(overrides.providers or ()), *(overrides.added or ())):
        if spec not in used:
            yield (
                f"--provider: {spec} runs in none of the models ({models}): it is {family_of(spec)}; leave "
                "it out, or give a model with this attention"
            )


def _idle_models(overrides: Overrides, cases: Collection[Case]) -> Iterator[str]:
    """Yield why a model that is given has no case."""
    used = {case.shape.model_run.model for case in cases}
    providers = ", ".join(dict.fromkeys(case.provider for case in cases))
    for name in overrides.model or ():
        if name not in used:
            yield (
                f"--model: {name} runs with none of the providers ({providers}): its attention is "
                f"{MODELS[name].family}; leave it out, or give a provider of that family"
            )


def _of_group(given: tuple[str, ...] | None, own: tuple[str, ...], named: Collection[str]) -> tuple[str, ...]:
    """Return which of the given names run in a group that has its `own`; `named` are those of any group."""
    return own if given is None else tuple(name for name in given if name in own or name not in named)


def _check_ranks(ranks: tuple[int, ...]) -> None:
    try:
        read_several(ranks)
    except Faults as error:
        raise UsageError("\n".join(f"--ranks: {fault}" for fault in error.faults)) from None


def _shape(run: ModelRun, batch: int, seq_len: int, dtype: Dtype, device: Device) -> Shape:
    size = MODELS[run.model]
    return Shape(
        batch=batch,
        heads=size.heads,
        seq_len=seq_len,
        head_dim=size.head_dim,
        value_dim=size.head_dim,
        dtype=dtype,
        device=device,
        model_run=run,
    )


def _blank(word: str) -> str:
    return "" if word == NONE else word
