"""Tables headed [[train]]: whole models × attention, and their expansion to cases of `lbench train`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lightning_bench.case import Case, Device, Dtype, Shape
from lightning_bench.errors import UsageError
from lightning_bench.models.model_sizes import MODELS
from lightning_bench.suite.axes import LENGTHS_ALLOWED, Faults, family_of, read_lengths, read_words
from lightning_bench.suite.fields import Providers
from lightning_bench.training import (
    COMPILED,
    NONE,
    RECOMPUTED,
    Training,
    read_compiled,
    read_recomputed,
)

if TYPE_CHECKING:
    from lightning_bench.suite.expand import Overrides
    from lightning_bench.suite.model import Suite

TRAINED_DTYPES: tuple[Dtype, ...] = ("fp32", "bf16")
"""fp16 would need a scaled loss, which the steps do not have."""
COMPILE_WORDS = tuple(word or NONE for word in COMPILED)
RECOMPUTE_WORDS = tuple(word or NONE for word in RECOMPUTED)
TRAIN_ALLOWED = "tables headed [[train]]"

_Lengths = Annotated[tuple[int, ...], BeforeValidator(read_lengths), Field(description=LENGTHS_ALLOWED)]
_Models = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_words(value, tuple(MODELS))),
    Field(description=", ".join(MODELS)),
]
_Dtypes = Annotated[
    tuple[Dtype, ...],
    BeforeValidator(lambda value: read_words(value, TRAINED_DTYPES)),
    Field(description=", ".join(TRAINED_DTYPES)),
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


class TrainGroup(BaseModel):
    """Axes; a case is made of every combination in which the provider has the family of the model.

    A step takes as many sequences as `tokens` hold, and at least one. Without `compile`, all but the
    attention is compiled on a GPU, and nothing on a CPU.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    providers: Providers
    model: _Models
    dtype: _Dtypes
    seq_len: _Lengths
    tokens: _Lengths
    compile: _Compile | None = None
    recompute: _Recompute = (NONE,)

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


def expand_training(suite: Suite, overrides: Overrides, device: Device) -> list[Case]:
    """Return the cases of `lbench train`: by model, then shape, with providers in the suite's order.

    A provider that groups of the suite name runs only in these groups, any other in every group with a model
    of its family; those added join such groups. UsageError if that leaves nothing.
    """
    named = {spec for group in suite.train for spec in group.providers}
    given, added = overrides.providers, overrides.added or ()
    cases: dict[Case, None] = {}
    for group in suite.train:
        chosen = group.providers
        if given is not None:
            chosen = tuple(spec for spec in given if spec in group.providers or spec not in named)
        cases |= dict.fromkeys(_cases(group, (*chosen, *added), overrides, device))
    if not cases:
        models = overrides.model or [name for group in suite.train for name in group.model]
        wanted = sorted({MODELS[name].family for name in models})
        raise UsageError(
            f"suite {suite.name}: none of the providers has the attention of a model that is trained: "
            f"{', '.join(dict.fromkeys(models))}; allowed: providers of {' or '.join(wanted)}"
        )
    return list(cases)


def _cases(
    group: TrainGroup, providers: Sequence[str], overrides: Overrides, device: Device
) -> Iterator[Case]:
    compiled = overrides.compile or group.compile or ("parts" if device == "cuda" else NONE,)
    for model, dtype, compile_, recompute, tokens, seq_len in product(
        overrides.model or group.model,
        overrides.dtype or group.dtype,
        compiled,
        overrides.recompute or group.recompute,
        overrides.tokens or group.tokens,
        overrides.seq_len or group.seq_len,
    ):
        size = MODELS[model]
        training = Training(
            model, tokens, read_compiled(_blank(compile_)), read_recomputed(_blank(recompute))
        )
        shape = Shape(
            batch=max(1, tokens // seq_len),
            heads=size.heads,
            seq_len=seq_len,
            head_dim=size.head_dim,
            value_dim=size.head_dim,
            dtype=dtype,
            device=device,
            training=training,
        )
        for provider in providers:
            if family_of(provider) == size.family:
                yield Case(shape, provider, "fwd_bwd")


def _blank(word: str) -> str:
    return "" if word == NONE else word
