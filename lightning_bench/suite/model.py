"""The tables of a suite file as frozen models: the keys allowed in each, and their types."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lightning_bench.case import (
    DIRECTIONS,
    DISTRIBUTIONS,
    DTYPES,
    FAMILIES,
    Case,
    Device,
    Direction,
    Distribution,
    Dtype,
    Family,
    ProtocolName,
)
from lightning_bench.models.published import PUBLISHED
from lightning_bench.suite.axes import (
    BOUNDS_ALLOWED,
    LENGTHS_ALLOWED,
    PACKINGS_ALLOWED,
    PARTS_ALLOWED,
    Faults,
    LengthBound,
    packed_batch,
    read_bounds,
    read_lengths,
    read_packings,
    read_parts,
    read_words,
    uneven_heads,
)
from lightning_bench.suite.fields import Providers
from lightning_bench.suite.model_groups import (
    GENERATE_ALLOWED,
    TRAIN_ALLOWED,
    GenerateGroup,
    TrainGroup,
)
from lightning_bench.variant import packing_text

EXCLUDE_ALLOWED = 'a list of entries such as [{family = "softmax", seq_len = "> 65536"}]'
GROUPS_ALLOWED = "one or more tables headed [[group]]"
TEXT_ALLOWED = "a string that is not empty"


def _list_to_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _groups(value: object, info: ValidationInfo) -> object:
    if value in ([], ()) and not (info.data.get("train", True) or info.data.get("generate", True)):
        raise Faults(f"is {'missing' if value == () else 'empty'}; allowed: {GROUPS_ALLOWED}")
    return _list_to_tuple(value)


_Directions = Annotated[
    tuple[Direction, ...],
    BeforeValidator(lambda value: read_words(value, DIRECTIONS)),
    Field(description=", ".join(DIRECTIONS)),
]
_Dtypes = Annotated[
    tuple[Dtype, ...],
    BeforeValidator(lambda value: read_words(value, DTYPES)),
    Field(description=", ".join(DTYPES)),
]
_Families = Annotated[
    tuple[Family, ...],
    BeforeValidator(lambda value: read_words(value, FAMILIES)),
    Field(description=", ".join(FAMILIES)),
]
_Distributions = Annotated[
    tuple[Distribution, ...],
    BeforeValidator(lambda value: read_words(value, DISTRIBUTIONS)),
    Field(description=", ".join(DISTRIBUTIONS)),
]
_Models = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_words(value, tuple(PUBLISHED))),
    Field(description=", ".join(PUBLISHED)),
]
_Lengths = Annotated[tuple[int, ...], BeforeValidator(read_lengths), Field(description=LENGTHS_ALLOWED)]
_Layers = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_parts(value, "layer")),
    Field(description=PARTS_ALLOWED["layer"]),
]
_Ranks = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_parts(value, "rank")),
    Field(description=PARTS_ALLOWED["rank"]),
]
_ExcludedLayers = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_parts(value, "layer", excluded=True)),
    Field(description=PARTS_ALLOWED["layer"]),
]
_ExcludedRanks = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_parts(value, "rank", excluded=True)),
    Field(description=PARTS_ALLOWED["rank"]),
]
_Packings = Annotated[tuple[str, ...], BeforeValidator(read_packings), Field(description=PACKINGS_ALLOWED)]
_Bounds = Annotated[tuple[LengthBound, ...], BeforeValidator(read_bounds), Field(description=BOUNDS_ALLOWED)]
_Text = Annotated[str, Field(min_length=1, description=TEXT_ALLOWED)]
_Count = Annotated[int, Field(ge=1, description="an integer from 1")]
_Seconds = Annotated[float, Field(gt=0, description="a number of seconds above 0")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


LONGEST_COOLING_S = 20.0
"""For which a device may cool down before a window of energy, s."""


class Limits(_Table):
    """How long one case is measured, in seconds and samples, and the precision that ends it earlier.

    Energy is measured in `windows` of `window_s`, after a rest of `rest_s`.
    """

    time_limit_s: _Seconds = 120.0
    sample_limit_s: _Seconds = Field(default=2.0, validate_default=True)
    min_samples: _Count = 20
    max_samples: _Count = Field(default=1000, validate_default=True)
    ci_percent: float = Field(default=1.0, gt=0, le=100, description="a number above 0, at most 100")
    processes: int | None = Field(default=None, ge=1, le=30, description="an integer from 1 to 30")
    windows: int = Field(default=3, ge=3, description="an integer from 3")
    window_s: float = Field(default=5.0, ge=5, description="a number of seconds from 5")
    rest_s: float = Field(default=2.0, ge=2, description="a number of seconds from 2")
    memory_limit_gib: float | None = Field(default=None, gt=0, description="a number of GiB above 0")

    @property
    def windows_limit_s(self) -> float:
        """The longest that the windows of energy take, rests and cooling included, s."""
        return self.windows * (LONGEST_COOLING_S + self.rest_s + self.window_s)

    @field_validator("sample_limit_s")
    @classmethod
    def _sampling_fits_the_case(cls, value: float, info: ValidationInfo) -> float:
        whole = info.data.get("time_limit_s")
        if whole is not None and value >= whole:
            raise Faults(
                f"{value:g} s of sampling do not fit in a case; allowed: less than time_limit_s = {whole:g}"
            )
        return value

    @field_validator("max_samples")
    @classmethod
    def _most_is_not_below_least(cls, value: int, info: ValidationInfo) -> int:
        least = info.data.get("min_samples")
        if least is not None and value < least:
            raise Faults(f"{value} is below min_samples = {least}; allowed: an integer from {least}")
        return value


class Exclude(_Table):
    """An entry of `exclude`: a cell that matches every key given here is left out."""

    provider: Providers | None = None
    family: _Families | None = None
    direction: _Directions | None = None
    dtype: _Dtypes | None = None
    batch: _Bounds | None = None
    heads: _Bounds | None = None
    seq_len: _Bounds | None = None
    head_dim: _Bounds | None = None
    value_dim: _Bounds | None = None
    kv_heads: _Bounds | None = None
    layer: _ExcludedLayers | None = None
    rank: _ExcludedRanks | None = None
    packing: _Packings | None = None
    ranks: _Bounds | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_keys(cls, value: object) -> object:
        if value == {}:
            raise Faults(f"an entry without keys would leave out everything; allowed: {EXCLUDE_ALLOWED}")
        return value

    def matches(self, case: Case, family: Family) -> bool:
        """Return whether the case, whose provider is of this family, is left out."""
        shape = case.shape
        words: list[tuple[tuple[str, ...] | None, str]] = [
            (self.provider, case.provider),
            (self.family, family),
            (self.direction, case.direction),
            (self.dtype, shape.dtype),
            (self.layer, str(shape.variant.layer)),
            (self.rank, str(shape.variant.rank)),
            (self.packing, packing_text(shape.variant.documents)),
        ]
        lengths = [
            (self.batch, shape.batch),
            (self.heads, shape.heads),
            (self.seq_len, shape.seq_len),
            (self.head_dim, shape.head_dim),
            (self.value_dim, shape.value_dim),
            (self.kv_heads, shape.kv_heads),
            (self.ranks, shape.ranks or 1),
        ]
        return all(wanted is None or word in wanted for wanted, word in words) and all(
            bounds is None or any(bound.holds(length) for bound in bounds) for bounds, length in lengths
        )

    def __str__(self) -> str:
        parts = []
        for key, values in self:
            if values is not None:
                texts = [str(value) if isinstance(value, LengthBound) else f'"{value}"' for value in values]
                parts.append(f"{key} = {texts[0] if len(texts) == 1 else '[' + ', '.join(texts) + ']'}")
        return "{" + ", ".join(parts) + "}"


def _shape_of_models(value: object) -> object:
    """Put the heads and the head_dim of the models of a group into their places."""
    if not isinstance(value, dict) or "model" not in value:
        return value
    if both := [key for key in ("heads", "head_dim") if key in value]:
        raise Faults(f"has model and {' and '.join(both)}; allowed: model, whose shape it takes, or these")
    try:
        shapes = [PUBLISHED[name] for name in read_words(value["model"], tuple(PUBLISHED))]
    except Faults:  # the field `model` has the same, and its line
        return {**value, "heads": 1, "head_dim": 1}
    dims = sorted({shape.head_dim for shape in shapes})
    if len(dims) > 1:
        raise Faults(f"has models of head_dim {' and '.join(map(str, dims))}; allowed: a group for each")
    heads = list(dict.fromkeys(shape.heads for shape in shapes))
    return {**value, "heads": heads, "head_dim": dims}


class Group(_Table):
    """Axes; every combination of their values is a cell.

    `model` names models of `PUBLISHED`, in place of `heads` and `head_dim`.
    Without `value_dim` it equals `head_dim`, without `kv_heads` `heads`. `packing` takes the place of
    `seq_len`, which is then the sum of its documents. On so many `ranks` lie the tokens of each sequence, on
    one without.
    """

    providers: Providers
    model: _Models | None = None
    direction: _Directions
    dtype: _Dtypes
    batch: _Lengths
    heads: _Lengths
    seq_len: _Lengths | None = None
    head_dim: _Lengths
    value_dim: _Lengths | None = None
    kv_heads: _Lengths | None = None
    layer: _Layers | None = None
    rank: _Ranks | None = None
    packing: _Packings | None = None
    ranks: _Lengths | None = None
    exclude: Annotated[tuple[Exclude, ...], BeforeValidator(_list_to_tuple)] = Field(
        default=(), description=EXCLUDE_ALLOWED
    )

    @model_validator(mode="before")
    @classmethod
    def _takes_the_shape_of_models(cls, value: object) -> object:
        return _shape_of_models(value)

    @field_validator("kv_heads")
    @classmethod
    def _groups_are_even(cls, value: tuple[int, ...] | None, info: ValidationInfo) -> tuple[int, ...] | None:
        if fault := uneven_heads(info.data.get("heads", ()), value or ()):
            raise Faults(fault)
        return value

    @field_validator("packing")
    @classmethod
    def _packs_a_batch_of_one(
        cls, value: tuple[str, ...] | None, info: ValidationInfo
    ) -> tuple[str, ...] | None:
        if value and (fault := packed_batch(info.data.get("batch", (1,)))):
            raise Faults(fault)
        return value

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.seq_len is None) == (self.packing is None):
            raise Faults(
                f"has {'neither' if self.packing is None else 'both'} of seq_len and packing; "
                f"allowed: seq_len, which is {LENGTHS_ALLOWED}; or packing, {PACKINGS_ALLOWED}"
            )
        return self


class SuiteFile(_Table):
    """A whole suite file: title, description, protocol, device, inputs, graph, limits and groups.

    `train` and `generate` come first: a file that has one of them needs no `group`.
    """

    title: _Text
    description: _Text
    protocol: ProtocolName = Field(default="lbench", description='"lbench" or "paper"')
    device: Device | None = Field(default=None, description='"cuda" or "cpu"')
    inputs: _Distributions = Field(default=("normal", "outliers"), description=", ".join(DISTRIBUTIONS))
    graph: bool = Field(default=False, description="true or false")
    limits: Limits = Field(default=Limits(), description="a table headed [limits]")
    train: Annotated[tuple[TrainGroup, ...], BeforeValidator(_list_to_tuple)] = Field(
        default=(), description=TRAIN_ALLOWED
    )
    generate: Annotated[tuple[GenerateGroup, ...], BeforeValidator(_list_to_tuple)] = Field(
        default=(), description=GENERATE_ALLOWED
    )
    group: Annotated[tuple[Group, ...], BeforeValidator(_groups)] = Field(
        default=(), validate_default=True, description=GROUPS_ALLOWED
    )


@dataclass(frozen=True)
class Suite:
    """What to measure, and for how long. `device` is None if the machine decides.

    Results are judged on every distribution of `inputs`, and timed on the first. With `graph` the replays of
    a CUDA graph are timed too. `train` and `generate` have the groups of the metrics of these names, `groups`
    those of all others.
    """

    name: str
    path: Path
    title: str
    description: str
    protocol: ProtocolName
    device: Device | None
    limits: Limits
    groups: tuple[Group, ...]
    inputs: tuple[Distribution, ...] = ("normal", "outliers")
    graph: bool = False
    train: tuple[TrainGroup, ...] = ()
    generate: tuple[GenerateGroup, ...] = ()


def table_fields(keys: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of the table that is reached by these keys from the top of a suite file."""
    models: dict[tuple[str, ...], type[BaseModel]] = {
        (): SuiteFile,
        ("limits",): Limits,
        ("group",): Group,
        ("train",): TrainGroup,
        ("generate",): GenerateGroup,
        ("group", "exclude"): Exclude,
    }
    return dict(models[keys].model_fields)
