"""The script that measures a MiniMax of Transformers with its layers and with ours: a dry run on a CPU."""

from __future__ import annotations

import importlib

import pytest

from tests.support.paths import ROOT

pytest.importorskip("transformers", minversion="5.24")


def test_every_phase_has_a_row_for_both_kinds_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # as where it runs as a script
    script = importlib.import_module("transformers_minimax")
    monkeypatch.setattr(script, "STEPS", 2)
    monkeypatch.setattr(script, "REPEATS", 1)
    sizes = script.SIZES | {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2, "block_size": 16, "max_position_embeddings": 64,
        "initializer_range": 0.02,
    }  # fmt: skip
    rows = list(script.measure("cpu", sizes, [(2, 20)]))
    assert [(row["phase"], row["layers"]) for row in rows] == [
        (phase, layers) for phase in ("prefill", "decode") for layers in (script.OWN, script.OURS)
    ]
    errors = {row["layers"]: float(str(row["error_to_fp32"])) for row in rows}
    assert errors[script.OWN] == 0  # on a CPU the model is in fp32
    assert 0 < errors[script.OURS] < 1e-3
    assert all(float(str(row["tokens_per_s"])) > 0 for row in rows)
