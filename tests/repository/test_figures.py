"""The figures of README.md are those of the committed CSVs."""

import csv
import re

import pytest

from scripts.measured_tables import rival_lines, training_rows
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def tokens_per_s(line, size, seq_len):
    rate = training_rows()[line, size, seq_len].tokens_per_s
    assert rate is not None
    return rate


def test_tokens_per_second_of_training():
    claim = re.search(
        r"\*\*([\d,]+) tokens/s at 2K tokens, ([\d,]+) at 92K\*\* .* falls from ([\d,]+) to ([\d,]+)\. "
        r"At 1K it is as fast, and LLaMA 1B (\d+) % faster",
        README,
    )
    assert claim is not None
    ours, ours_long, llama, llama_long = (float(figure.replace(",", "")) for figure in claim.groups()[:4])
    for figure, line, seq_len in (
        (ours, "LA2", 2048), (ours_long, "LA2", 94208), (llama, "LLaMA", 2048), (llama_long, "LLaMA", 94208),
    ):  # fmt: skip
        assert figure == round(tokens_per_s(line, "0.4b", seq_len), -3)
    at_1k = tokens_per_s("LLaMA", "0.4b", 1024)
    assert at_1k == pytest.approx(tokens_per_s("LA2", "0.4b", 1024), rel=0.005)
    faster = tokens_per_s("LLaMA", "1b", 1024) / tokens_per_s("LA2", "1b", 1024) - 1
    assert round(100 * faster) == int(claim.group(5))
    compared = [(size, n) for line, size, n in training_rows() if line == "LLaMA" and n > 1024]
    assert len(compared) >= 16
    for size, n in compared:  # and nowhere else
        assert tokens_per_s("LA2", size, n) > tokens_per_s("LLaMA", size, n)


def test_serving_beside_sglang():
    claim = re.search(r"\*\*([\d.]+) to ([\d.]+)× prompts, ([\d.]+) to ([\d.]+)× decoding\*\*", README)
    assert claim is not None
    lines = list(rival_lines())
    for kind, figures in (("tokens", claim.groups()[:2]), ("decoding", claim.groups()[2:])):
        ratios = [float(line[-1]) for line in lines if kind in line[0]]
        digits = len(figures[0].partition(".")[2])
        assert [f"{x:.{digits}f}" for x in (min(ratios), max(ratios))] == list(figures)


def test_transformers_with_our_layers():
    text = " ".join((ROOT / "docs" / "serving.md").read_text().split())
    claim = re.search(
        r"reads prompts ([\d.]+) to ([\d.]+) times as fast "
        r"and decodes as fast \(([\d.]+) to ([\d.]+) times\)",
        text,
    )
    assert claim is not None
    with (ROOT / "results" / "h200" / "transformers-minimax.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["layers"] == "lightning_kernels"]
    for phase, figures in (("prefill", claim.groups()[:2]), ("decode", claim.groups()[2:])):
        ratios = [float(row["ratio_to_transformers"]) for row in rows if row["phase"] == phase]
        assert (f"{min(ratios):.2f}", f"{max(ratios):.2f}") == figures
