"""The figures of README.md are those of the committed CSVs."""

import csv
import json
import re
import statistics

import pytest

from lightning_bench.record import read_records
from scripts.measured_tables import csv_rows, rival_lines, training_rows
from scripts.two_gpu_tables import TWO, shared_lines, speed_up
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def tokens_per_s(line, size, seq_len):
    rate = training_rows()[line, size, seq_len].tokens_per_s
    assert rate is not None
    return rate


def test_tokens_per_second_of_training():
    claim = re.search(
        r"\*\*([\d,]+) tokens/s at 2K tokens, ([\d,]+) at 92K\*\* .* falls from ([\d,]+) to ([\d,]+)\. "
        r"At 1K it is as fast, LLaMA 1B is (\d+) % faster and LLaMA 3B (\d+) %",
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
    for group, size in ((5, "1b"), (6, "3b")):
        faster = tokens_per_s("LLaMA", size, 1024) / tokens_per_s("LA2", size, 1024) - 1
        assert round(100 * faster) == int(claim.group(group))
    ours_of = {(size, n) for line, size, n in training_rows() if line == "LA2" and n > 1024}
    compared = [(size, n) for line, size, n in training_rows() if line == "LLaMA" and (size, n) in ours_of]
    assert len(compared) >= 20
    for size, n in compared:  # and nowhere else
        assert tokens_per_s("LA2", size, n) > tokens_per_s("LLaMA", size, n)


def test_sweeps_on_two_gpus():
    text = " ".join((ROOT / "docs" / "scale.md").read_text().split())
    one, two = speed_up()
    assert (
        f"One GPU took {one:.0f} s and two took {two:.0f} s, compiling included: "
        f"{one / two:.2f} times as fast." in text
    )
    rows = [row for row in csv_rows(TWO / "remeasured.csv") if row["again"] == "two-gpus"]
    inside = [row for row in rows if row["inside"] == "1"]
    assert f"**{len(inside) / len(rows):.0%} of the cells".replace("%", " %") in text


def test_levels_of_processes_on_two_gpus():
    """As docs/scale.md says: all processes of the run on two GPUs, at every length, and none of `verify`."""
    then = {
        f"lightning-official/bwd/b4-h32-n{row['seq_len']}-d128-e128-bf16-cuda": float(row["median_ms"])
        for row in csv_rows(TWO / "remeasured.csv")
        if (row["again"], row["provider"], row["direction"]) == ("two-gpus", "lightning-official", "bwd")
    }
    lines = [json.loads(line) for line in (TWO / "paper-speed.samples.jsonl").read_text().splitlines()]
    slower = [
        100 * (statistics.median(line["samples_ms"]) / then[line["case_id"]] - 1)
        for line in lines
        if line["case_id"] in then
    ]
    assert len(slower) == 7 * 3
    assert (round(min(slower)), round(max(slower))) == (1, 3)
    verified = [
        abs(float(row["change_percent"]))
        for row in csv_rows(TWO / "remeasured.csv")
        if (row["again"], row["provider"], row["direction"]) == ("verify", "lightning-official", "bwd")
    ]
    assert len(verified) == 7
    assert max(verified) < 0.5


def test_training_on_two_gpus():
    text = " ".join((ROOT / "docs" / "train.md").read_text().split())
    lines = list(shared_lines())
    shares = [1 - float(line[4]) for line in lines if line[4] != "–"]
    assert f"Sharing costs {100 * min(shares):.0f} to {100 * max(shares):.0f} %." in text
    rates = {line[:2]: float(line[2].split()[0].replace(",", "")) for line in lines}
    for size in ("1B", "3B"):
        assert round(100 * abs(rates[f"LA2 {size}", "2048"] / rates[f"LLaMA {size}", "2048"] - 1)) == 1
    ratio = rates["LA2 3B", "16384"] / rates["LLaMA 3B", "16384"]
    assert f"at 16K TransNormerLLM 3B is {ratio:.2f} times as fast as LLaMA 3B" in text


def test_generation_beside_llama():
    text = " ".join((ROOT / "docs" / "generate.md").read_text().split())
    rows = read_records(ROOT / "results" / "h200" / "generate-generate.csv")
    rate = {(row.model, row.batch): row.tokens_per_s for row in rows if row.seq_len == 512}
    alone, many = (rate["tnl-7b", batch] / rate["llama-7b", batch] for batch in (1, 64))
    assert (
        f"makes {alone:.1f} times as many tokens per second as LLaMA with FlashAttention-2 alone "
        f"and {many:.1f} times as many in a batch of 64" in text
    )
    (too_long,) = [row for row in rows if row.status == "oom"]
    assert (too_long.model, too_long.batch, too_long.seq_len) == ("llama-7b", 8, 32768)


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
