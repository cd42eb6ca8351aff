"""A tiny random MiniMax of Transformers, on a CPU, with its layers and with ours: the same logits."""

import copy

import pytest
import torch


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", minversion="5.24")


@pytest.fixture(scope="module")
def use_lightning_kernels(transformers):
    from lightning_kernels.integrations.transformers_minimax import use_lightning_kernels

    return use_lightning_kernels


@pytest.fixture(scope="module")
def models(transformers, use_lightning_kernels):
    """Return the model with its own layers, and a copy with ours."""
    torch.manual_seed(0)
    config = transformers.MiniMaxConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1, block_size=16,
        max_position_embeddings=128, initializer_range=0.5, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        # Not linear at first, as MiniMax-01 is: Transformers 5.24 counts the tokens of a cache by that layer.
        layer_types=["full_attention", "linear_attention", "linear_attention", "linear_attention"],
    )  # fmt: skip
    own = transformers.MiniMaxForCausalLM(config).eval()
    ours = copy.deepcopy(own)
    assert use_lightning_kernels(ours) == 3
    return own, ours


def tokens(*size):
    return torch.randint(3, 64, size, generator=torch.Generator().manual_seed(1))


def test_logits_of_a_padded_batch(models):
    ids = tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    with torch.no_grad():
        own, ours = (model(ids, attention_mask=mask).logits for model in models)
    torch.testing.assert_close(ours[1], own[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(ours[0, 7:], own[0, 7:], rtol=1e-3, atol=1e-3)


def test_logits_with_a_cache_token_by_token_and_in_a_chunk(models, transformers):
    ids = tokens(2, 30)
    found = []
    for model in models:
        cache = transformers.models.minimax.modeling_minimax.MiniMaxCache()
        parts = [(0, 17), (17, 18), (18, 19), (19, 25), (25, 26)]
        with torch.no_grad():
            logits = [model(ids[:, a:b], cache=cache, use_cache=True).logits for a, b in parts]
        found.append(torch.cat(logits, 1))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
    with torch.no_grad():
        whole = models[1](ids[:, :26]).logits
    torch.testing.assert_close(found[1], whole, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_logits_on_a_gpu(models, transformers):
    ids = tokens(2, 40).cuda()
    found = []
    for model in (copy.deepcopy(model).cuda() for model in models):
        cache = transformers.models.minimax.modeling_minimax.MiniMaxCache()
        with torch.no_grad():
            logits = [model(ids[:, a:b], cache=cache, use_cache=True).logits for a, b in ((0, 38), (38, 39))]
        found.append(torch.cat(logits, 1))
    torch.testing.assert_close(found[1], found[0], rtol=2e-2, atol=2e-2)


def test_generation_gives_the_same_tokens(models):
    own, ours = (model.generate(tokens(2, 9), max_new_tokens=6, do_sample=False) for model in models)
    assert own.shape == (2, 15)
    assert torch.equal(own, ours)


def test_gradients(models):
    ids = tokens(2, 20)
    grads = []
    for model in models:
        model.zero_grad()
        model(ids, labels=ids).loss.backward()
        grads.append(model.model.layers[1].self_attn.qkv_proj.weight.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4)


def test_a_second_call_changes_nothing(models, use_lightning_kernels):
    before = [type(layer) for layer in models[1].modules()]
    assert use_lightning_kernels(models[1]) == 3
    assert [type(layer) for layer in models[1].modules()] == before


def test_another_model_is_refused(use_lightning_kernels):
    with pytest.raises(
        ValueError, match=r"Linear has no MiniMaxLightningAttention layer; load a model of type"
    ):
        use_lightning_kernels(torch.nn.Linear(2, 2))
