"""What the published tables measured: each finding with its evidence, computed from rows and never typed.

Where the evidence is a measurement that is not among the rows yet, the finding says so and names the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

from lightning_bench.record import Row
from lightning_bench.report.plots.plot_rows import least_ms
from lightning_bench.report.published.evidence import (
    FAULTS_COMMAND,
    Evidence,
    Finding,
    Listing,
    first_peak_mib,
    gradients_mib,
    mib,
    model_tflops,
    ms,
    paper_peak_mib,
    text,
    their_title,
)

_LENGTHS = tuple(512 * 2**i for i in range(7))
_FLA_LENGTHS = tuple(128 * 2**i for i in range(8))
_DIRECTIONS = ("fwd", "bwd")
_COUNTERPARTS = (("lightning2", "lightning-official"), ("flash2", "flash2"), ("xformers", "xformers"))
_NOT_YET = (
    "The clean measurement, the same call with and without the fault in turns, is not among the rows yet: "
    f"`{FAULTS_COMMAND}` makes it."
)


def findings(published: Iterable[Row], measured: Iterable[Row], faults: Iterable[Path] = ()) -> list[Finding]:
    """Every finding, with the files that it used.

    ``measured`` are rows of one machine at the published shapes: batch 4 (8 for flash-linear-attention's),
    32 heads, head_dim 128, bf16. Raises UsageError for a file of faults that is none.
    """
    evidence = Evidence(published, measured, faults)
    made = []
    tellers: tuple[Callable[[Evidence], Finding], ...] = (
        gradients_added_up,
        names_that_do_not_match,
        memory_titled_speed,
        no_causal_mask,
        xformers_then_and_now,
        arithmetic,
    )
    for tell in tellers:
        evidence.used = {}
        finding = tell(evidence)
        made.append(Finding(finding.title, finding.paragraphs, finding.listings, sorted(evidence.used)))
    return made


def gradients_added_up(evidence: Evidence) -> Finding:
    """Speed, backward: each repeat adds its gradients to the ones of the repeats before it."""
    lines = []
    for provider in ("lightning-official", "lightning2", "flash2", "xformers"):
        for n in _LENGTHS:
            cells = product(("bwd", "fwd"), ("paper", "lbench"))
            rows = [evidence.here(protocol, "speed", way, provider, n) for way, protocol in cells]
            if None in rows or len({row.provider_version for row in rows if row}) > 1:
                continue
            times = [ms(row) or 0.0 for row in rows]
            moved = least_ms(rows[1]) if rows[1] else None  # 7 U
            least = 9 / 7 * moved if moved else None
            figures = (*times[:2], times[0] - times[1], least, times[2] - times[3])
            lines.append([provider, str(n), *(text(x, 4) for x in figures)])
    head = [
        "provider",
        "n",
        "as published, ms",
        "without, cold, ms",
        "difference, ms",
        "least that adding up takes, ms",
        "the same difference forward, ms",
    ]
    clean = evidence.fault("gradient accumulation")
    paragraphs = [
        "The published script times `o.backward(do, retain_graph=True)`. From the second repeat on, q, k "
        "and v have a `.grad`, and each repeat reads it, adds the new gradient and writes the sum: three "
        "more passes over three tensors, 9 U beside the 7 U that a backward pass must move. The same "
        "addition stands in every column, so that it hides the more of a kernel's lead the faster the "
        "kernel is.",
        "Below, protocol paper (the script's way) and protocol lbench (`torch.autograd.grad`, nothing is "
        "added up) for rows of the same provider version. The protocols differ in more: one takes a mean "
        "under sustained load with a warm L2, the other a median of cold samples at the clocks of a sweep. "
        "The last column is that rest alone, in the forward direction, where nothing is accumulated in "
        "either.",
    ]
    if not lines:
        paragraphs.append("No provider here was measured by both protocols in one version.")
    if clean is None:
        paragraphs.append(_NOT_YET)
    listings = [clean] if clean else []
    if lines:
        listings.append(Listing("Backward as published, and without accumulation", head, lines))
    return Finding("Gradients are accumulated inside the timed region", paragraphs, listings)


def names_that_do_not_match(evidence: Evidence) -> Finding:
    """benchmarks/README.md: two of the columns of its memory tables are xFormers under another name."""
    lines, alike = [], {"lightning2": 0, "lightning2-no-decay": 0, "flash2": 0}
    cells = 0
    for direction in _DIRECTIONS:
        for n in _LENGTHS:
            cells += 1
            printed = {
                name: mib(evidence.published("lightning2-benchmarks", "memory", direction, name, n))
                for name in (*alike, "xformers")
            }
            for name in alike:
                alike[name] += printed[name] == printed["xformers"]
            earlier = mib(evidence.published("lightning2", "memory", direction, "lightning2", n))
            here = mib(evidence.here("paper", "memory", direction, "lightning-official", n))
            figures = [*printed.values(), earlier, here]
            lines.append([direction, str(n), *(text(x, 6) for x in figures)])
    head = [
        "direction",
        "n",
        "column Lightning2",
        "column Lightning2NoDecay",
        "column Flash2",
        "column Xformers",
        "Lightning2 in the root README",
        "lightning-official here",
    ]
    same = {name: count for name, count in alike.items() if count == cells}
    paragraphs = [
        "The memory benchmark of the lightning-attention repository (benchmarks/benchmark_lightning2.py) "
        "asks for the providers `lightning2` and `flash2` and compares their names with `triton` and "
        "`flash`, what they were called before; whatever matches no name runs xFormers. Its own tables "
        f"show it: {_listed(same)} equal the column of xFormers in all {cells} cells, to six decimals. The "
        f"column without decay, whose name still matches, does not ({alike['lightning2-no-decay']} of "
        f"{cells} cells are equal).",
        "The README at the repository's root is from before the names changed: its three columns differ, and "
        "its figures of Lightning Attention-2 are those that the authors' kernel gives here.",
    ]
    listing = Listing("Memory tables of benchmarks/README.md, MiB", head, lines)
    return Finding("Memory columns that ran xFormers, whatever their heading", paragraphs, [listing])


def memory_titled_speed(evidence: Evidence) -> Finding:
    """README: four tables, two titles."""
    lines = []
    for direction in _DIRECTIONS:
        for name, ours in _COUNTERPARTS:
            for n in (_LENGTHS[0], _LENGTHS[-1]):
                time = ms(evidence.published("lightning2", "speed", direction, name, n))
                printed = mib(evidence.published("lightning2", "memory", direction, name, n))
                here = mib(evidence.here("paper", "memory", direction, ours, n))
                lines.append([direction, name, str(n), text(time, 6), text(printed, 6), text(here, 6)])
    titles = [f"`{their_title(evidence, direction)}`" for direction in ("fwd", "bwd")]
    reason = evidence.published("lightning2", "memory", "fwd", "lightning2", 512).reason
    paragraphs = [
        f"The README prints {' and '.join(titles)} twice each: once over milliseconds and once over MiB "
        f"(\u201c{reason}\u201d). That the second pair is memory can be measured: "
        f"{_come_out_again(evidence)}",
    ]
    head = ["direction", "column", "n", "first table, ms", "second table, same title", "peak here, MiB"]
    return Finding(
        "Two memory tables that are titled as speed",
        paragraphs,
        [Listing("One title, two units", head, lines)],
    )


def no_causal_mask(evidence: Evidence) -> Finding:
    """flash-linear-attention README: softmax attention without the mask beside causal retention."""
    lines, here_too = [], False
    for n in _FLA_LENGTHS:
        flash = evidence.published("fla-performance", "speed", "fwd_bwd", "flash2", n, batch=8)
        retention = evidence.published("fla-performance", "speed", "fwd_bwd", "retention", n, batch=8)
        ours = evidence.here("lbench", "speed", "fwd_bwd", "flash2", n, batch=8)
        theirs = evidence.here("lbench", "speed", "fwd_bwd", "fla-chunk", n, batch=8)
        here_too = here_too or bool(ours and theirs)
        ratio = (ms(flash) or 0.0) / (ms(retention) or 1.0)
        here = (ms(ours) or 0.0) / (ms(theirs) or 1.0) if ours and theirs else None
        lines.append(
            [
                str(n),
                text(ms(flash), 4),
                text(ms(retention), 4),
                text(ratio, 2),
                text(model_tflops(flash, causal=False), 0),
                text(model_tflops(flash, causal=True), 0),
                text(ms(ours), 4),
                text(ms(theirs), 4),
                text(here, 2),
            ]
        )
    head = [
        "n",
        "flash, published, ms",
        "retention, published, ms",
        "flash over retention, published",
        "TFLOP/s of flash if it computes all pairs",
        "if it computes half",
        "flash2 here, causal, ms",
        "fla-chunk here, ms",
        "flash2 over fla-chunk, here",
    ]
    clean = evidence.fault("no causal mask")
    long = evidence.published("fla-performance", "speed", "fwd_bwd", "flash2", _LENGTHS[5], batch=8)
    masked = [evidence.published("lightning2", "speed", way, "flash2", _LENGTHS[5]) for way in _DIRECTIONS]
    work = sum(model_tflops(row, causal=True) * (ms(row) or 0.0) for row in masked)
    with_mask = work / sum(ms(row) or 0.0 for row in masked)
    paragraphs = [
        "The table of the flash-linear-attention README calls FlashAttention without `causal=True`, beside "
        "retention and Based, which are causal. Without the mask there are n² pairs of tokens instead of "
        f"about n²/2: twice the arithmetic, and near twice the time where n is long. At n = {long.seq_len}, "
        f"the published time on an {long.device_name} makes {model_tflops(long, causal=False):.0f} TFLOP/s "
        "if it is of all pairs and half of that if it is of half. The lightning-attention README has the "
        f"same kernel with the mask, on a card that it does not name: {with_mask:.0f} TFLOP/s there, of "
        "half the pairs. So retention leads by about twice what a causal model would see of it.",
    ]
    if not here_too:
        paragraphs.append("That table is not measured here yet: `lbench speed fla-readme` does.")
    if clean is None:
        paragraphs.append(_NOT_YET)
    listings = [clean] if clean else []
    listings.append(
        Listing("Forward and backward together, batch 8, 32 heads, head_dim 128, bf16", head, lines)
    )
    return Finding("FlashAttention without the causal mask beside causal kernels", paragraphs, listings)


def xformers_then_and_now(evidence: Evidence) -> Finding:
    """xFormers' memory-efficient backward kernel takes less scratch memory than it did."""
    lines = []
    version = "not measured"
    for n in _LENGTHS:
        printed = evidence.published("lightning2", "memory", "bwd", "xformers", n)
        row = evidence.here("paper", "memory", "bwd", "xformers", n)
        least = paper_peak_mib(printed)
        then, now = mib(printed), mib(row)
        version = row.provider_version if row else version
        figures = [
            then,
            now,
            now / then if now and then else None,
            (then or 0.0) - least,
            now - least if now else None,
        ]
        lines.append([str(n), *(text(x, 3 if at == 2 else 6) for at, x in enumerate(figures))])
    head = [
        "n",
        "published, MiB",
        "here, MiB",
        "here over published",
        "published above the least, MiB",
        "here above the least, MiB",
    ]
    paragraphs = [
        f"{_sentence(_come_out_again(evidence))} xFormers is version {version} here, its memory-efficient "
        "CUTLASS kernel by name. \u201cThe least\u201d is what the same method gives a kernel that "
        "allocates its results alone, as in the last finding: what stands above it is what the kernel "
        "keeps and its scratch memory. The published figures were right for the xFormers of their time and "
        "are no longer.",
    ]
    listing = Listing("Mean peak of 20 backward calls, inputs included", head, lines)
    return Finding("xFormers' backward memory, then and now", paragraphs, [listing])


def arithmetic(evidence: Evidence) -> Finding:
    """Where 173.600488 comes from."""
    lines = []
    for n in _LENGTHS:
        printed = evidence.published("lightning2", "memory", "bwd", "lightning2", n)
        row = evidence.here("paper", "memory", "bwd", "lightning-official", n)
        one = evidence.here("lbench", "memory", "bwd", "lightning-official", n)
        first, grads = first_peak_mib(printed), gradients_mib(printed)
        figures = [paper_peak_mib(printed), mib(printed), mib(row), mib(one)]
        lines.append([str(n), text(first, 0), text(first + grads, 0), *(text(x, 6) for x in figures)])
    example = evidence.published("lightning2", "memory", "bwd", "lightning2", _LENGTHS[0])
    first, later = first_peak_mib(example), first_peak_mib(example) + gradients_mib(example)
    slopes = paper_peak_mib(example) - (first + 19 * later) / 20
    paragraphs = [
        "The script calls backward 20 times and takes the mean of the peaks. In the first call q, k, v, o, "
        f"do and three gradients are held, {first:g} MiB at n = {example.seq_len}; in the other 19 the sums "
        f"of the earlier gradients too, {later:g} MiB. ({first:g} + 19 · {later:g}) / 20 = "
        f"{(first + 19 * later) / 20:g}, and the slopes take one block of 512 bytes, {slopes:.6f} MiB: "
        f"{paper_peak_mib(example):.6f}. No call ever took that much: the figure lies between two states of "
        "the script, and a training step that clears its gradients has the first.",
    ]
    head = [
        "n",
        "first call, MiB",
        "each later call, MiB",
        "mean and slopes, MiB",
        "published, MiB",
        "here by the same method, MiB",
        "one call here, MiB",
    ]
    return Finding(
        f"Where {mib(example):.6f} comes from", paragraphs, [Listing("The mean, computed", head, lines)]
    )


def _come_out_again(evidence: Evidence) -> str:
    """How many cells of the root README's memory tables are measured here to all six decimals, and which "
    "not."""
    measured, other = 0, dict[str, int]()
    for direction, n in product(_DIRECTIONS, _LENGTHS):
        for name, ours in _COUNTERPARTS:
            here = mib(evidence.here("paper", "memory", direction, ours, n))
            printed = mib(evidence.published("lightning2", "memory", direction, name, n))
            measured += here is not None
            if here is not None and text(here, 6) != text(printed, 6):
                other[f"{name} {direction}"] = other.get(f"{name} {direction}", 0) + 1
    if not measured:
        return "no row here has measured it; `lbench memory paper --protocol paper` does."
    rest = ", ".join(f"{count} of {name}" for name, count in other.items())
    return (
        f"of the {measured} cells of the two memory tables that were measured here by the same method, "
        f"{measured - sum(other.values())} come out again to all six decimals"
        + (f"; those that do not are {rest}." if rest else ".")
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(names: Sequence[str] | dict[str, int]) -> str:
    ticked = [f"`{name}`" for name in names]
    return f"the columns {' and '.join(ticked)}" if ticked else "no columns"
