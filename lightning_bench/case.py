"""Case: one cell of a sweep, frozen, with a stable readable id."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from lightning_bench.model_run import NO_MODEL, ModelRun
from lightning_bench.variant import PLAIN, Variant

Direction = Literal["fwd", "bwd", "fwd_bwd"]
Dtype = Literal["fp32", "fp16", "bf16"]
Device = Literal["cuda", "cpu"]
Family = Literal[
    "linear_decay",
    "linear",
    "softmax",
    "softmax_full",
    "retention",
    "gla",
    "based",
    "rwkv6",
    "abc",
    "mamba2",
    "gated_delta",
    "kda",
    "gateloop",
    "gateloop_complex",
    "vq",
    "transnormer",
    "norm",
    "serving",
    "drafting",
]
Layout = Literal["bhnd", "bnhd"]
Metric = Literal["speed", "memory", "check", "train", "generate", "energy"]
ProtocolName = Literal["lbench", "paper"]
Distribution = Literal["normal", "outliers", "large", "small"]

TIMED: frozenset[Metric] = frozenset({"speed", "train", "generate"})
"""Metrics whose rows have a time: of a call, of a training step, or of a generation."""

DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
DEVICES: tuple[Device, ...] = get_args(Device)
FAMILIES: tuple[Family, ...] = get_args(Family)
DISTRIBUTIONS: tuple[Distribution, ...] = get_args(Distribution)

DTYPE_BYTES: dict[Dtype, int] = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True, order=True)
class Shape:
    """What the inputs look like: q and k are [batch, heads, seq_len, head_dim], v is [..., value_dim].

    Cases of one shape share their inputs, their oracle and the rounds in which they are timed. With fewer
    `kv_heads` than heads these are the heads of k and v. With a model in `model_run` this is the shape of its
    attention, in all layers but TransNormerLLM's first, and batch · seq_len are the tokens of a step or of
    the prompts. `ranks` processes share a case, with a device each, 0 for one by itself: in training each has
    such a step, else each has a part of the tokens of every sequence (`rank_tokens`).
    """

    batch: int
    heads: int
    seq_len: int
    head_dim: int
    value_dim: int
    dtype: Dtype
    device: Device
    variant: Variant = PLAIN
    model_run: ModelRun = NO_MODEL
    ranks: int = 0

    @property
    def kv_heads(self) -> int:
        """Heads of k and v."""
        return self.variant.kv_heads or self.heads

    @property
    def group(self) -> int:
        """How many heads of q share one of k and v: query head i reads kv head i // group."""
        return self.heads // self.kv_heads

    @property
    def is_split(self) -> bool:
        """Whether the tokens of each sequence lie on several ranks."""
        return self.ranks > 1 and not self.model_run.model

    @property
    def rank_tokens(self) -> tuple[int, ...]:
        """How many tokens of each sequence every rank has: as many, or one more on the first ones."""
        ranks = max(1, self.ranks)
        least, more = divmod(self.seq_len, ranks)
        return tuple(least + (number < more) for number in range(ranks))

    def of_rank(self, number: int) -> Shape:
        """Return the shape of what a rank has of the sequences; that of rank 0 is the largest."""
        return replace(self, seq_len=self.rank_tokens[number], ranks=0)

    @property
    def q_elements(self) -> int:
        """Elements of q."""
        return self.batch * self.heads * self.seq_len * self.head_dim

    @property
    def o_elements(self) -> int:
        """Elements of the output."""
        return self.batch * self.heads * self.seq_len * self.value_dim

    @property
    def input_bytes(self) -> int:
        """Bytes of q, k and v together."""
        kv = (self.q_elements + self.o_elements) // self.group
        return (self.q_elements + kv) * DTYPE_BYTES[self.dtype]

    @property
    def output_bytes(self) -> int:
        """Bytes of the output."""
        return self.o_elements * DTYPE_BYTES[self.dtype]

    def __str__(self) -> str:
        return (
            f"b{self.batch}-h{self.heads}-n{self.seq_len}-d{self.head_dim}-e{self.value_dim}"
            f"-{self.dtype}-{self.device}{self.variant}{self.model_run}"
            f"{f'-ranks{self.ranks}' if self.ranks else ''}"
        )


@dataclass(frozen=True, order=True)
class Case:
    """One provider in one direction at one shape."""

    shape: Shape
    provider: str
    direction: Direction

    @property
    def id(self) -> str:
        """Stable and readable, for example `lightning2/fwd/b4-h32-n512-d128-e128-bf16-cuda`."""
        return self.id_by(self.provider)

    def id_by(self, name: str) -> str:
        """Return the id with `name` for the provider.

        Rows and files know a provider from a file by its name, wherever the file lies, and not by the path
        that `provider` holds.
        """
        return f"{name}/{self.direction}/{self.shape}"
