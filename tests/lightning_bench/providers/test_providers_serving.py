"""Providers of `serving` and `drafting`: what they compute and leave in the pool, judged as in a sweep."""

from __future__ import annotations

import pytest
import torch

from lightning_bench.case import Case, Device, Shape
from lightning_bench.measure.calls import direction_call
from lightning_bench.measure.deviation import judge
from lightning_bench.measure.gate import pass_gate
from lightning_bench.measure.inputs import InputSet
from lightning_bench.measure.job import CaseEnded
from lightning_bench.measure.oracle import Reference
from lightning_bench.providers import get_provider
from lightning_bench.providers.registry.base import Provider
from lightning_bench.providers.registry.functions import function_provider
from lightning_bench.variant import Part, Variant
from tests.support import kernel_cases  # noqa: F401  makes the Triton interpreter quick
from tests.support.documents import DOCS, block

DEVICE: Device = "cuda" if torch.cuda.is_available() else "cpu"
DECODE = Shape(3, 2, 1, 16, 24, "fp16", DEVICE)
PREFILL = Shape(2, 2, 40, 16, 16, "fp16", DEVICE, Variant(layer=Part(5, 6)))
MIXED = Shape(1, 2, 41, 16, 16, "fp16", DEVICE, Variant(documents=(20, 1, 1, 19)))
GROUPED = Shape(2, 4, 5, 16, 16, "fp16", DEVICE, Variant(kv_heads=2))
DRAFTS = Shape(3, 2, 4, 16, 24, "fp16", DEVICE)


def failure(provider: Provider, shape: Shape) -> str | None:
    """Return why a provider is wrong, or None."""
    inputs = InputSet(shape, seed=0)
    reference = Reference(provider.family, inputs, gradients=False, seed=0)
    result = judge(reference, direction_call(provider, inputs, "fwd").tensors(), provider.layout)
    assert set(result.errors) == {"o", "state"}
    return result.failure


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lightning2-step", DECODE),
        ("lightning2-serve", DECODE),
        ("lightning2-serve", PREFILL),
        ("lightning2-serve", MIXED),
        ("lightning2-serve", GROUPED),
        ("lightning2-serve-bitwise", Shape(2, 2, 64, 16, 16, "fp16", DEVICE)),
        ("lightning2-state", PREFILL),
        ("lightning2-state", MIXED),
        ("lightning2-serve-torch", MIXED),
        ("lightning2-verify", DRAFTS),
        ("lightning2-verify-torch", DRAFTS),
    ],
)
def test_output_and_states_are_right(name: str, shape: Shape) -> None:
    provider = get_provider(name)
    assert provider.unsupported(shape, "fwd") is None
    assert failure(provider, shape) is None


def test_the_function_of_the_docs_is_right() -> None:
    found: dict[str, object] = {}
    exec(block((DOCS / "serving-measured.md").read_text(), "python", "def decode"), found)
    assert failure(function_provider(found["decode"], "decode", "serving", "bnhd"), DECODE) is None


def test_steps_take_one_token_and_nobody_has_gradients() -> None:
    step = get_provider("lightning2-step")
    assert step.unsupported(PREFILL, "fwd") == (
        "lightning2-step takes one token of each sequence (seq_len 1), not 40"
    )
    bitwise = get_provider("lightning2-serve-bitwise")
    assert bitwise.unsupported(MIXED, "fwd") == (
        "lightning2-serve-bitwise leaves other states than multiples of 64 tokens do, as 20"
    )
    assert "no packed documents" in str(step.unsupported(MIXED, "fwd"))
    assert (
        get_provider("lightning2-serve").unsupported(DECODE, "bwd") == "lightning2-serve has no bwd direction"
    )
    with pytest.raises(CaseEnded, match="family serving has no gradients; measure --direction fwd only"):
        direction_call(step, InputSet(DECODE, 0), "bwd")


class Meddled(type(get_provider("lightning2-serve-torch"))):  # type: ignore[misc]
    """A provider that does something else with the pool after its call."""

    name = label = "meddled"

    def __init__(self, meddle) -> None:  # type: ignore[no-untyped-def]
        self.meddle = meddle

    def build(self, inputs):  # type: ignore[no-untyped-def]
        call = super().build(inputs)

        def meddled():  # type: ignore[no-untyped-def]
            o = call()
            self.meddle(inputs)
            return o

        return meddled


def forget_decay(inputs) -> None:  # type: ignore[no-untyped-def]
    """Leave states as they are without the last decay."""
    inputs["state"][inputs["slots"].long()] *= torch.exp(inputs.decay)[:, None, None]


def one_row(inputs) -> None:  # type: ignore[no-untyped-def]
    """Get one row of one state wrong."""
    inputs["state"][inputs["slots"][1].long(), 1, 3] *= 1.05


def foreign_slot(inputs) -> None:  # type: ignore[no-untyped-def]
    """Write to the slot of no sequence."""
    (free,) = set(range(len(inputs["state"]))) - set(inputs["slots"].tolist())
    inputs["state"][free] += 1


@pytest.mark.parametrize("meddle", [forget_decay, one_row])
@pytest.mark.parametrize("shape", [DECODE, MIXED])
def test_wrong_states_are_wrong(meddle, shape: Shape) -> None:  # type: ignore[no-untyped-def]
    assert "state is off by" in str(failure(Meddled(meddle), shape))


def gated(provider: Provider, shape: Shape):  # type: ignore[no-untyped-def]
    """Take a provider through the gate."""
    inputs = InputSet(shape, seed=0)
    reference = Reference(provider.family, inputs, gradients=False, seed=0)
    return pass_gate(Case(shape, provider.name, "fwd"), provider, inputs, reference, lambda key, phase: None)


def test_a_slot_of_no_sequence_must_stay_as_it_is() -> None:
    with pytest.raises(CaseEnded, match="it changes its inputs: the pool in a slot of no sequence"):
        gated(Meddled(foreign_slot), MIXED)


def test_later_calls_find_the_states_of_the_first_and_are_judged() -> None:
    provider = Meddled(lambda inputs: None)
    found = gated(provider, GROUPED)
    assert found.figures.error_state is not None
    for _ in range(3):
        found.audit.begins(certain=True)
        found.audit.before()
        found.audit.after(found.call.fn())
        found.audit.ends()
    assert found.audit.failure is None
    provider.meddle = one_row
    found.audit.begins(certain=True)
    found.audit.before()
    found.audit.after(found.call.fn())
    found.audit.ends()
    assert "a timed call gave another state than the call that was checked" in str(found.audit.failure)


def test_a_layer_that_ignores_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers before 5.24 calls it past_key_values, and takes whatever else it is given."""
    minimax = pytest.importorskip("transformers.models.minimax.modeling_minimax")
    provider = get_provider("transformers-minimax")
    provider.load()

    def forward(self: object, hidden: object, past_key_values: object = None, **others: object) -> None: ...

    monkeypatch.setattr(minimax.MiniMaxLightningAttention, "forward", forward)
    with pytest.raises(ImportError, match=r'takes no argument cache: pip install "transformers>=5\.24"'):
        provider.load()
