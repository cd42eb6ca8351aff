"""The figures of README.md are those of the committed CSVs."""

import csv
import json
import re
import statistics

from lightning_bench.record import read_records
from scripts.context_table import share
from scripts.measured_tables import TRAINING, csv_rows, rival_lines, training_rows
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
        r"At 1K tokens LLaMA is (\d+) % faster, at 2K as fast",
        README,
    )
    assert claim is not None
    ours, ours_long, llama, llama_long = (float(figure.replace(",", "")) for figure in claim.groups()[:4])
    for figure, line, seq_len in (
        (ours, "LA2", 2048), (ours_long, "LA2", 94208), (llama, "LLaMA", 2048), (llama_long, "LLaMA", 94208),
    ):  # fmt: skip
        assert figure == round(tokens_per_s(line, "0.4b", seq_len), -3)
    llama_first = (("0.4b", 1024), ("3b", 1024), ("1b", 1024))
    faster = [100 * (tokens_per_s("LLaMA", *at) / tokens_per_s("LA2", *at) - 1) for at in llama_first]
    assert round(faster[0]) == int(claim[5])
    assert max(faster) == faster[0]
    (even,) = {
        f"{100 * (tokens_per_s('LA2', size, 2048) / tokens_per_s('LLaMA', size, 2048) - 1):.1f} %"
        for size in ("0.4b", "3b")
    }
    assert f"LA2 is {even} faster in both" in " ".join((ROOT / "docs" / "train.md").read_text().split())
    ours_of = {(size, n) for line, size, n in training_rows() if line == "LA2"}.difference(llama_first)
    compared = [(size, n) for line, size, n in training_rows() if line == "LLaMA" and (size, n) in ours_of]
    assert len(compared) >= 20
    for size, n in compared:  # and nowhere else
        assert tokens_per_s("LA2", size, n) > tokens_per_s("LLaMA", size, n)
    assert {row.provider for (line, *_), row in training_rows().items() if line == "LLaMA"} == {"flash4"}


def test_lengths_of_training_are_alike():
    apart = []
    for size in ("0.4b", "1b", "3b"):
        rates = [tokens_per_s(*key) for key in training_rows() if key[:2] == ("LA2", size) and key[2] >= 2048]
        apart.append(f"{100 * (max(rates) / min(rates) - 1):.1f} %")
    text = " ".join((ROOT / "docs" / "train.md").read_text().split())
    assert f"of LA2 are {apart[0]} apart in 0.4B, {apart[1]} in 1B and {apart[2]} in 3B" in text
    mfu = {
        size: sorted(
            row.mfu_percent or 0
            for (line, of, _), row in training_rows().items()
            if (line, of) == ("LA2", size)
        )
        for size in ("0.4b", "1b", "3b")
    }
    least_most = [f"{mfu[size][0]:.1f} to {mfu[size][-1]:.1f} %" for size in mfu]
    assert f"Its MFU is {least_most[0]} in 0.4B, {least_most[1]} in 1B and {least_most[2]} in 3B" in text


def test_softmax_attentions_of_training():
    text = " ".join((ROOT / "docs" / "train.md").read_text().split())
    rate = {(row.provider, row.model, row.seq_len): row.tokens_per_s for row in read_records(TRAINING)}
    gain = {
        (model, n): 100 * (value / rate["sdpa-cudnn", model, n] - 1)
        for (provider, model, n), value in rate.items()
        if provider == "flash4" and ("sdpa-cudnn", model, n) in rate
    }
    assert len(gain) == 25
    assert all(-0.5 < percent < 1.5 for (_, n), percent in gain.items() if n == 1024)
    late = [percent for (_, n), percent in gain.items() if n >= 32768]
    assert f"at 1K tokens, and {min(late):.0f} to {max(late):.0f} % faster from 32K on" in text


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
    for page in ("README.md", "docs/trust.md"):
        assert f"{len(inside)} of {len(rows)}" in (ROOT / page).read_text()
    verified = [row for row in csv_rows(TWO / "remeasured.csv") if row["again"] == "verify"]
    (again,) = {float(row["new_run_s"]) for row in verified}
    assert f"measured the same {len(verified)} cells on one GPU in {again:.0f} s" in text
    assert f"beside that, two are {again / two:.2f} times as fast." in text


def test_efficiency_of_context_parallelism():
    text = " ".join((ROOT / "docs" / "scale.md").read_text().split())
    rows = csv_rows(TWO / "context-parallel.csv")
    lost = {
        long: [
            100 - 100 * float(row["efficiency"])
            for row in rows
            if row["layer"] == "0 of 80" and (int(row["seq_len"]) // 2 >= 262144) == long
        ]
        for long in (True, False)
    }
    assert (
        f"costs {min(lost[True]):.0f} to {max(lost[True]):.0f} % from 262144 tokens per rank on, "
        f"and {min(lost[False]):.0f} to {max(lost[False]):.0f} % below it" in text
    )
    kept = {
        direction: [
            100 * float(row["efficiency"])
            for row in rows
            if (row["layer"], row["direction"]) == ("79 of 80", direction)
        ]
        for direction in ("fwd", "fwd_bwd")
    }
    assert (
        f"{min(kept['fwd']):.0f} to {max(kept['fwd']):.0f} % of one GPU's speed are to be had there, "
        f"and {min(kept['fwd_bwd']):.0f} to {max(kept['fwd_bwd']):.0f} % in training" in text
    )


def test_model_of_context_parallelism_beside_what_was_measured():
    text = " ".join((ROOT / "docs" / "scale.md").read_text().split())
    rows = [row for row in csv_rows(TWO / "context-parallel.csv") if row["direction"] == "fwd_bwd"]
    model = [share(2, int(row["seq_len"]) // 2)[1:] for row in rows]
    slow, fast = ([100 * pair[kind] for pair in model] for kind in (0, 1))
    measured = {
        layer: [100 * float(row["efficiency"]) for row in rows if row["layer"] == f"{layer} of 80"]
        for layer in (0, 79)
    }
    assert (
        f"the model says {min(slow):.0f} to {max(slow):.0f} % with slow decay and {min(fast):.0f} to "
        f"{max(fast):.0f} % with fast; measured were {min(measured[79]):.0f} to {max(measured[79]):.0f} % "
        f"and {min(measured[0]):.0f} to {max(measured[0]):.0f} %." in text
    )


def test_kernels_measured_again_on_other_gpus():
    rows = [row for row in read_records(TWO / "paper-speed.csv") if row.provider == "lightning2"]
    then = {row.case_id: row.median_ms for row in read_records(ROOT / "results" / "h200" / "paper-speed.csv")}
    largest = max(abs(row.median_ms / then[row.case_id] - 1) for row in rows)
    limits = (ROOT / "docs" / "limits.md").read_text()
    assert f"`lightning2` in suite `paper` differed by at most {100 * largest:.1f} %" in limits


def test_the_floor_by_its_present_definition():
    rows = [row for row in read_records(TWO / "paper-speed.csv") if row.provider == "lightning2"]
    forward, backward = (
        max(row.floor_ratio for row in rows if row.direction == direction and row.seq_len >= 4096)
        for direction in ("fwd", "bwd")
    )
    text = " ".join((ROOT / "docs" / "results-h200.md").read_text().split())
    assert f"has {forward:.2f} and {backward:.2f}." in text


def test_fla_in_the_layout_of_the_published_scripts():
    h200 = ROOT / "results" / "h200"
    own = {row.case_id: row.median_ms for row in read_records(h200 / "paper-speed.csv")}
    ratios = [
        row.mean_ms / own[row.case_id]
        for row in read_records(h200 / "paper-speed-published.csv")
        if (row.provider, row.direction) == ("fla-chunk", "fwd")
    ]
    text = " ".join((h200 / "README.md").read_text().split())
    assert f"its forward takes {min(ratios):.1f} to {max(ratios):.1f} times as long there" in text


def test_host_time_beside_sdpa():
    text = " ".join((ROOT / "results" / "h200" / "README.md").read_text().split())
    rows = csv_rows(ROOT / "results" / "h200" / "host-cost.csv")
    ratios = [
        float(row["ratio_to_sdpa"])
        for row in rows
        if row["provider"] == "lightning2" and row["mode"] != "step"
    ]
    assert f"there `lightning2` takes {min(ratios):.2f} to {max(ratios):.2f} times its host time" in text


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
    costs = {line[:2]: round(100 - 100 * float(line[4])) for line in lines if line[4] != "–"}
    here = [cost for (model, _), cost in costs.items() if model == "LLaMA 3B"]
    others = [cost for (model, _), cost in costs.items() if model != "LLaMA 3B"]
    assert (
        f"In LLaMA 3B, on one host, sharing costs {min(here)} to {max(here)} %. "
        f"The {min(others)} to {max(others)} % of the others may be the other GPU's in part." in text
    )
    rates = {line[:2]: float(line[2].split()[0].replace(",", "")) for line in lines}
    ahead = {size: rates[f"LA2 {size}", "2048"] / rates[f"LLaMA {size}", "2048"] for size in ("1B", "3B")}
    assert round(100 * ahead["1B"] - 100) == round(100 / ahead["3B"] - 100) == 1
    assert "TransNormerLLM is 1 % faster in 1B and LLaMA 1 % faster in 3B" in text
    ratio = rates["LA2 3B", "16384"] / rates["LLaMA 3B", "16384"]
    assert f"at 16K TransNormerLLM 3B is {ratio:.2f} times as fast as LLaMA 3B" in text


def test_generation_beside_llama():
    text = " ".join((ROOT / "docs" / "generate.md").read_text().split())
    rows = read_records(ROOT / "results" / "h200" / "generate-generate.csv")
    rate = {(row.model, row.batch): row.tokens_per_s for row in rows if row.seq_len == 512}
    alone, some, many = (rate["tnl-7b", batch] / rate["llama-7b", batch] for batch in (1, 16, 64))
    assert (
        f"makes {alone:.1f} times as many tokens per second as LLaMA for one sequence, "
        f"{some:.1f} times as many in a batch of 16 and {many:.1f} times as many in a batch of 64" in text
    )
    after = {row.model: row for row in rows if row.seq_len == 8192}
    tnl, llama = after["tnl-7b"], after["llama-7b"]
    assert (
        f"makes {tnl.tokens_per_s / llama.tokens_per_s:.1f} times as many: it reads them in "
        f"{tnl.prefill_ms / llama.prefill_ms:.2f} of LLaMA's time, and a step takes "
        f"{tnl.decode_ms / llama.decode_ms:.2f} of it" in text
    )
    shares = {
        model: [100 * row.gbps / row.ceiling_gbps for row in rows if (row.model, row.status) == (model, "ok")]
        for model in ("tnl-7b", "llama-7b")
    }
    (least, most), (tnl_least, tnl_most) = ((min(x), max(x)) for x in (shares["llama-7b"], shares["tnl-7b"]))
    assert (
        f"its step moves {least:.0f} to {most:.0f} % of the bytes per second of a stream, "
        f"that of TransNormerLLM {tnl_least:.0f} to {tnl_most:.0f} %" in text
    )
    names, rates = re.findall(r"\| ((?:Pythia|252) .*?) \| (?:\||\[)", text)
    printed = dict(zip(names.split(" | "), map(float, rates.split(" | ")), strict=True))
    assert f"TNL-7B makes {printed['TNL-7B'] / printed['LLaMA']:.1f} times as many as LLaMA" in text
    reads = {(row.model, row.seq_len, row.batch): row.prefill_ms for row in rows}
    for n, batch in ((512, 1), (512, 64), (1024, 8)):  # no gain
        assert reads["tnl-7b", n, batch] > 0.99 * reads["llama-7b", n, batch]
    assert (
        f"reads one of 512 in {reads['tnl-7b', 512, 1]:.0f} ms, "
        f"LLaMA in {reads['llama-7b', 512, 1]:.0f}" in text
    )
    (too_long,) = [row for row in rows if row.status == "oom"]
    assert (too_long.model, too_long.batch, too_long.seq_len) == ("llama-7b", 8, 32768)


def test_serving_beside_sglang():
    figure = r"([\d.]+) to ([\d.]+)×"
    claim = re.search(rf"\*\*{figure} prompts, {figure} mixed batches, {figure} decoding\*\*", README)
    assert claim is not None
    lines = list(rival_lines())
    for pattern, figures in (
        (r"tokens|documents [^+]+$", claim.groups()[:2]),
        (r"documents .*\+", claim.groups()[2:4]),
        (r"decoding", claim.groups()[4:]),
    ):
        ratios = [float(line[-1]) for line in lines if re.search(pattern, line[0])]
        digits = len(figures[0].partition(".")[2])
        assert [f"{x:.{digits}f}" for x in (min(ratios), max(ratios))] == list(figures)


def test_what_serving_costs():
    with (ROOT / "results" / "h200" / "serving-batches.csv").open(newline="") as file:
        ms = {(row["workload"], row["call"]): float(row["median_ms"]) for row in csv.DictReader(file)}
    text = {
        name: " ".join((ROOT / "docs" / name).read_text().split())
        for name in ("serving.md", "serving-measured.md")
    }
    fp32 = ms["decode b64", "step-pool"]
    narrow, stochastic = (
        ms["decode b64, states in bf16", call] / fp32 for call in ("step-pool", "step-stochastic")
    )
    assert f"takes {narrow:.2f} of the time, {stochastic:.2f} with stochastic rounding" in text["serving.md"]

    told, equal = (
        [ms[f"decode b{b}", call] / ms[f"decode b{b}", "serve-max-seqlen"] for b in (1, 8, 64, 256)]
        for call in ("serve", "bitwise")
    )
    slower = [100 * (ratio - 1) for ratio in told]
    prompts, mixed = (
        ms[batch, "bitwise"] / ms[batch, "serve"]
        for batch in ("8 prompts of 2048", "8 prompts of 2048 and 56 decodes")
    )
    assert (
        f"without it `serve` is {min(slower):.0f} to {max(slower):.0f} % slower"
        in text["serving-measured.md"]
    )
    assert (
        f"cost a factor of {prompts:.1f} for prompts, {mixed:.1f} for prompts beside decoding tokens "
        f"and {min(equal):.1f} to {max(equal):.1f} for decoding" in text["serving-measured.md"]
    )


def test_errors_of_states_in_bf16():
    with (ROOT / "results" / "cpu" / "state-rounding.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    text = (ROOT / "docs" / "serving.md").read_text()
    lines = re.findall(
        r"^\| (\d+), (\d+) \| (\S+) \| ([01]) \| (\S+) \| (\S+) \| (\S+) \|$", text, re.MULTILINE
    )
    assert len(lines) == 5
    for layer, head, slope, mean, *errors in lines:
        of_head = [
            row
            for row in rows
            if (row["layer"], row["head"], float(row["mean"])) == (layer, head, float(mean))
        ]
        assert [row["state"] for row in of_head] == ["fp32", "bf16, to nearest", "bf16, stochastic"]
        for figure, row in zip(errors, of_head, strict=True):
            assert float(figure) == float(f"{float(row['o_error']):.1e}")
        assert abs(float(slope) - float(of_head[0]["slope"])) < 0.02 * float(slope)


def test_errors_of_prompts_that_are_served():
    rows = [
        row
        for suite in ("prefill", "mixed")
        for row in read_records(ROOT / "results" / "h200" / f"{suite}-speed.csv")
        if row.status == "ok"
    ]
    text = " ".join((ROOT / "docs" / "serving-measured.md").read_text().split())

    def most(provider, column):
        figure = max(getattr(row, column) for row in rows if row.provider == provider)
        return f"{figure:.1e}".replace("e-0", "e-")

    (o, rival_o), (state, rival_state) = (
        [most(provider, column) for provider in ("lightning2-serve", "sglang-seg-la")]
        for column in ("error_o", "error_state")
    )
    assert (
        f"off by up to {o} with ours and {rival_o} with seg_la, and the state by {state} and {rival_state}"
        in text
    )


def test_transformers_with_our_layers():
    text = " ".join((ROOT / "docs" / "serving.md").read_text().split())
    claim = re.search(
        r"reads prompts ([\d.]+) to ([\d.]+) times as fast "
        r"and decodes as fast \(([\d.]+) to ([\d.]+) times\)",
        text,
    )
    assert claim is not None
    with (ROOT / "results" / "h200" / "transformers-minimax.csv").open(newline="") as file:
        every = list(csv.DictReader(file))
    error = {row["layers"]: float(row["error_to_fp32"]) for row in every if row["error_to_fp32"]}
    ours, own = error["lightning_kernels"], error["transformers"]
    assert f"off those in fp32 by {ours:.2f}, Transformers' own by {own:.2f}" in text
    rows = [row for row in every if row["layers"] == "lightning_kernels"]
    for phase, figures in (("prefill", claim.groups()[:2]), ("decode", claim.groups()[2:])):
        ratios = [float(row["ratio_to_transformers"]) for row in rows if row["phase"] == phase]
        assert (f"{min(ratios):.2f}", f"{max(ratios):.2f}") == figures
