"""Models: their sizes, their parts against other forms, and what must not change what they compute."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import lightning_kernels as lk
from lightning_bench.case import Shape
from lightning_bench.measure.training.model_gate import slopes_of_layers
from lightning_bench.models import language_model
from lightning_bench.models.byte_text import TEXT, ByteText
from lightning_bench.models.language_model import LanguageModel, products
from lightning_bench.models.llama import rotated, rotation
from lightning_bench.models.model_sizes import MODELS, ModelSize
from lightning_bench.models.plugged_attention import (
    build_model,
    exact_attention,
    exact_linear,
    exact_softmax,
)
from lightning_bench.models.transnormer_llm import Lrpe
from tests.support.paths import ROOT

TINY = [MODELS["tnl-tiny"], MODELS["llama-tiny"]]
SEQ_LEN = 24
of_each = pytest.mark.parametrize("size", TINY, ids=lambda size: size.name)


def step(size: ModelSize, batch: int, seq_len: int) -> Shape:
    return Shape(batch, size.heads, seq_len, size.head_dim, size.head_dim, "fp32", "cpu")


def made(size: ModelSize, *, dtype: torch.dtype = torch.float64, recompute: bool = False) -> LanguageModel:
    torch.manual_seed(3)
    slopes = slopes_of_layers(size, step(size, 1, 1))
    return build_model(size, exact_attention(size), slopes, SEQ_LEN, dtype, recompute=recompute)


def gradients(model: LanguageModel, text: tuple[Tensor, Tensor]) -> list[Tensor]:
    loss = model(*text)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("size", [*TINY, *(size.small() for size in MODELS.values())], ids=lambda s: s.name)
def test_sizes_count_the_parameters_that_models_have(size: ModelSize) -> None:
    model = made(size)
    assert sum(weight.numel() for weight in model.parameters()) == size.parameters
    products = [w for name, w in model.named_parameters() if w.dim() == 2 and not name.endswith("theta")]
    assert sum(w.numel() for w in products) - model.embed.weight.numel() == size.product_weights


def test_models_have_the_sizes_that_their_names_say() -> None:
    millions = {name: round(size.parameters / 1e6) for name, size in MODELS.items()}
    assert millions["tnl-0.4b"] == 465
    assert millions["llama-0.4b"] == 439
    for name, size in MODELS.items():
        if name.endswith("b"):
            assert size.parameters / 1e9 == pytest.approx(float(name.split("-")[1][:-1]), rel=0.17)
            assert size.head_dim == 128


def test_the_table_of_the_documents_has_these_sizes() -> None:
    found = {}
    for line in (ROOT / "docs/train.md").read_text().splitlines():
        if line.startswith("| `tnl-"):
            names, parameters, *sizes = (cell.strip() for cell in line.strip("|").split("|"))
            millions = re.findall(r"[\d.]+(?= M)", parameters)
            for at, name in enumerate(re.findall(r"`(.+?)`", names)):
                found[name] = (float(millions[min(at, len(millions) - 1)]), *map(int, sizes))
    assert set(found) == set(MODELS)
    for name, (parameters, *shape) in found.items():
        size = MODELS[name]
        assert shape == [size.layers, size.dim, size.heads, size.glu_width]
        assert size.parameters / 1e6 == pytest.approx(parameters, abs=0.5 if parameters > 1 else 0.05)


def test_step_flops_by_hand() -> None:
    linear, softmax = (size.step_flops(step(size, 4, 100)) for size in TINY)
    tokens, head, layers = 400, 256 * 128, 2
    weights = 5 * 128**2 + 3 * 128 * 352
    # Per token and head 4 d e forward and 10 d e backward; q and k of the first layer have 2 · 64 columns.
    attention = tokens * 2 * 14 * 64 * (128 + 64)
    assert linear == 6 * tokens * (layers * weights + head) + attention
    weights -= 128**2
    # Per query 4 d FLOPs for each of n/2 keys, backward 2.5 times that.
    assert softmax == 6 * tokens * (layers * weights + head) + layers * 3.5 * tokens * 2 * 4 * 64 * 50


def test_exact_attention_is_that_of_other_forms() -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 30, 3, d, dtype=torch.float64) for d in (8, 8, 4))
    slopes = torch.tensor([0.5, 0.01, 0.0])
    bhnd = [x.transpose(1, 2) for x in (q, k, v)]
    linear = lk.reference_recurrent(*bhnd, slopes.double().view(3, 1, 1))
    softmax = functional.scaled_dot_product_attention(*bhnd, is_causal=True)
    linear = linear[0] if isinstance(linear, tuple) else linear
    torch.testing.assert_close(exact_linear(slopes)(q, k, v).transpose(1, 2), linear)
    torch.testing.assert_close(exact_softmax(slopes)(q, k, v).transpose(1, 2), softmax)


def test_positions_enter_scores_as_distances() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 2, 8, dtype=torch.float64), torch.randn(1, 2, 8, dtype=torch.float64)
    q, k = (x.expand(18, 2, 8) for x in (q, k))  # two sequences, which begin anew
    lrpe, by = Lrpe(2, 8, 9, torch.float64), rotation(9, 8, torch.float64)
    for turned in (lrpe, lambda x: rotated(x, by)):
        first, second = torch.einsum("bihd,bjhd->bhij", *(turned(x).unflatten(0, (2, 9)) for x in (q, k)))
        torch.testing.assert_close(second, first)
        scores = first.detach()
        for apart in range(9):
            diagonal = scores.diagonal(apart, 1, 2)
            torch.testing.assert_close(diagonal, diagonal[:, :1].expand_as(diagonal))
        assert not torch.allclose(scores[:, 0, 0], scores[:, 0, 4])


@of_each
def test_logits_do_not_depend_on_later_tokens(size: ModelSize) -> None:
    model = made(size)
    tokens, _ = ByteText("cpu", 0).batch(2, SEQ_LEN)
    changed = tokens.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 256
    before, after = model.logits(tokens), model.logits(changed)
    torch.testing.assert_close(after[:, :10], before[:, :10], rtol=0, atol=0)
    assert not torch.allclose(after[:, 10], before[:, 10])


@of_each
def test_loss_is_the_mean_cross_entropy_of_the_logits(
    size: ModelSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_model, "_LOSS_TOKENS", 7)
    model, (tokens, targets) = made(size), ByteText("cpu", 0).batch(2, SEQ_LEN)
    whole = functional.cross_entropy(model.logits(tokens).flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model(tokens, targets), whole)
    assert float(whole.detach()) == pytest.approx(math.log(256), rel=0.05)  # of a model that knows nothing


@pytest.mark.parametrize(
    ("tokens", "parts"), [(65536, 4), (81920, 5), (94208, 8), (16384, 1), (16385, 2), (65521, 4)]
)
def test_the_loss_is_cut_into_equal_parts_where_that_takes_few(tokens: int, parts: int) -> None:
    assert language_model._parts(tokens) == parts


@of_each
def test_recomputing_layers_changes_no_value_and_keeps_less(size: ModelSize) -> None:
    text = ByteText("cpu", 0).batch(2, SEQ_LEN)
    kept: list[int] = []
    found = []
    for recompute in (False, True):
        model = made(size, recompute=recompute)
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=saved: (s.append(x), x)[1], lambda x: x):
            model(*text)
        kept.append(sum(x.numel() for x in saved))
        found.append(gradients(model, text))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert kept[1] < kept[0] / 3


@of_each
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # dynamo looks at it, by intent
def test_compiled_parts_compute_the_same(size: ModelSize) -> None:
    text = ByteText("cpu", 0).batch(2, SEQ_LEN)
    plain, compiled = made(size), made(size)
    compiled.compile_parts(backend="aot_eager")
    torch.testing.assert_close(gradients(compiled, text), gradients(plain, text))
    torch.compiler.reset()


@of_each
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_equal_layers_are_compiled_once(size: ModelSize, recompute: bool) -> None:
    compiled: list[object] = []

    def counted(graph: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled.append(graph)
        return graph.forward  # type: ignore[no-any-return]

    model = made(replace(size, layers=12), recompute=recompute)  # more than dynamo compiles anew
    model.compile_parts(backend=counted)
    for seed in range(2):
        model(*ByteText("cpu", seed).batch(2, SEQ_LEN)).backward()
    # Before and after the attention, the loss, and TransNormerLLM's first layer.
    assert len(compiled) == (4 if size.architecture == "transnormer" else 3)
    torch.compiler.reset()


def test_a_16_bit_model_keeps_the_angles_of_its_positions_in_fp32() -> None:
    model = made(TINY[0], dtype=torch.bfloat16)
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    assert {name for name, dtype in dtypes.items() if dtype == torch.float32} == {
        "blocks.0.before.lrpe.theta"
    }
    by = rotation(4096, 64, torch.bfloat16)
    assert by[0].dtype == torch.float32


def test_text_is_read_as_a_ring_and_targets_follow() -> None:
    raw = TEXT.read_bytes()
    tokens, targets = ByteText("cpu", 5).batch(3, len(raw) + 10)
    assert targets.shape == tokens.shape == (3, len(raw) + 10)
    torch.testing.assert_close(targets[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(tokens[:, :10], tokens[:, len(raw) :])
    for row in tokens:
        assert bytes(row[: len(raw)].tolist()) in raw + raw
    starts = ByteText("cpu", 5)
    assert all(not torch.equal(a, b) for a, b in pairwise(starts.batch(1, 50)[0] for _ in range(4)))


def test_layer_shapes_give_lrpe_twice_the_columns() -> None:
    linear, softmax = TINY
    shape = replace(step(linear, 4, 100), dtype="bf16")
    assert str(linear.layer_shape(shape, 0)) == "b4-h2-n100-d128-e64-bf16-cpu"
    assert str(linear.layer_shape(shape, 1)) == "b4-h2-n100-d64-e64-bf16-cpu"
    assert str(softmax.layer_shape(shape, 0)) == "b4-h2-n100-d64-e64-bf16-cpu"


def test_products_of_parts_are_parts_of_the_product() -> None:
    torch.manual_seed(4)
    linear = torch.nn.Linear(6, 9, bias=False, dtype=torch.float64)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    whole = linear(x)
    parts = products(x, linear, (2, 3, 4))
    assert [part.shape[1] for part in parts] == [2, 3, 4]
    assert all(part.is_contiguous() for part in parts)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    g = torch.randn_like(whole)
    wanted = torch.autograd.grad(whole, (x, linear.weight), g)
    found = torch.autograd.grad(parts, (x, linear.weight), g.split((2, 3, 4), dim=1))
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        read_once = products(x, linear, (2, 3, 4))
    assert len({part.untyped_storage().data_ptr() for part in read_once}) == 1
    torch.testing.assert_close(torch.cat(read_once, dim=1), whole)
