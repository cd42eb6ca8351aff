"""Decisions that are kept by the kind of tensors are those of that kind."""

import random

import pytest
import torch

from lightning_kernels.common import call_kinds


def described(tensors):
    """Return what a decision may depend on."""
    return [
        None if x is None else (x.shape, x.stride(), x.dtype, x.data_ptr() % 16, type(x)) for x in tensors
    ]


def some_tensors(rng):
    """Return three tensors of few elements, some of them alike, the same or absent."""
    base = torch.zeros(64)[rng.choice((0, 0, 0, 1)) :][:8]
    x = rng.choice((base.view(2, 4), base.view(4, 2), base.view(2, 4).t(), base.view(2, 2, 2), base[:0]))
    if rng.random() < 0.2:
        x = x.to(torch.float64)
    return x, *(rng.choice((x, x.clone(), None, x.clone().requires_grad_())) for _ in range(2))


def test_what_is_found_was_decided_for_tensors_alike():
    rng, kept, decided = random.Random(0), call_kinds.KeptByKind(), 0
    for _ in range(3000):
        tensors, flag = some_tensors(rng), rng.random() < 0.3
        also = tensors[1] is None, tensors[2] is None, flag

        def decide(tensors=tensors, flag=flag):
            nonlocal decided
            decided += 1
            return described(tensors), flag

        with torch.set_grad_enabled(rng.random() < 0.5):
            assert kept.find(tensors, also, decide) == (described(tensors), flag)
    assert decided == len(kept) < 1500


@pytest.mark.parametrize("what", ["a plain tensor", "the same tensor twice", "a tensor of odd address"])
def test_a_known_kind_is_found_without_looking_at_each_tensor(monkeypatch, what):
    x = torch.zeros(9)[1:] if "odd" in what else torch.zeros(8)
    tensors = (x, x) if "twice" in what else (x, x.clone())
    kept = call_kinds.KeptByKind()
    assert kept.find(tensors, "also", lambda: 1) == 1
    monkeypatch.setattr(call_kinds, "kind_of", lambda _: None)
    assert kept.find(tensors, "also", lambda: 2) == (1 if what == "a plain tensor" else None)
    assert kept.find(tensors, "other", lambda: 2) is None


def test_errors_are_not_kept():
    kept = call_kinds.KeptByKind()

    def refuse():
        raise ValueError("no")

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            kept.find((torch.zeros(2),), (), refuse)
    assert kept.find((torch.zeros(2),), (), lambda: 3) == 3


def test_kinds_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(call_kinds, "MOST_KINDS", 4)
    kept = call_kinds.KeptByKind()
    for n in range(1, 20):
        assert kept.find((torch.zeros(n),), (), lambda n=n: n) == n
        assert len(kept) <= 4
        assert len(kept._latest) <= 4
