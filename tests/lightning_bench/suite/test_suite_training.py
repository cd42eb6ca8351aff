"""Tables headed [[train]]: which cases they give, which faults they have, and whose metric they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.case import Case
from lightning_bench.errors import UsageError
from lightning_bench.suite import Overrides, Suite, every_case, expand, load_suite

HEAD = 'title = "Mine"\ndescription = "A suite of my own."\n'
GROUP = """[[group]]
providers = "sdpa-math"
direction = "fwd"
dtype = "fp32"
batch = 1
heads = 1
seq_len = 8
head_dim = 8
"""
AXES = {
    "providers": '["lightning2-torch", "sdpa-math", "flash2"]',
    "model": '["tnl-tiny", "llama-tiny"]',
    "dtype": '"fp32"',
    "seq_len": '["1k", 3000, "8k"]',
    "tokens": '"4k"',
}
Load = Callable[..., Suite]


def table(**axes: str) -> str:
    return "[[train]]\n" + "".join(f"{key} = {value}\n" for key, value in (AXES | axes).items())


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def of(*tables: str) -> Suite:
        (tmp_path / "mine.toml").write_text(HEAD + "".join(tables))
        return load_suite(tmp_path / "mine.toml")

    return of


def training(suite: Suite, **overrides: object) -> list[Case]:
    return expand(suite, Overrides(**overrides), "cpu", "train")  # type: ignore[arg-type]


def test_a_model_of_the_suite_runs_only_in_the_tables_that_name_it(load: Load) -> None:
    small = table(providers='"sdpa-math"', model='"llama-tiny"')
    large = table(providers='"sdpa-math"', model='"llama-3b"', recompute='"layers"')
    suite = load(small, large)

    def ran(*models: str) -> set[tuple[str, bool]]:
        cases = training(suite, model=models)
        return {(case.shape.model_run.model, bool(case.shape.model_run.recompute)) for case in cases}

    assert ran("llama-tiny") == {("llama-tiny", False)}
    assert ran("llama-3b") == {("llama-3b", True)}
    assert ran("llama-tiny", "llama-1b") == {("llama-tiny", False), ("llama-1b", False), ("llama-1b", True)}


def test_each_model_runs_with_the_attention_of_its_family(load: Load) -> None:
    cases = training(load(table()))
    pairs = dict.fromkeys((case.shape.model_run.model, case.provider) for case in cases)
    assert list(pairs) == [
        ("tnl-tiny", "lightning2-torch"),
        ("llama-tiny", "sdpa-math"),
        ("llama-tiny", "flash2"),
    ]
    assert len(cases) == 3 * 3
    assert {case.direction for case in cases} == {"fwd_bwd"}
    assert {(c.shape.heads, c.shape.head_dim, c.shape.value_dim) for c in cases} == {(2, 64, 64)}


def test_a_step_has_as_many_sequences_as_fit_and_at_least_one(load: Load) -> None:
    shapes = {case.shape for case in training(load(table()))}
    batches = {shape.seq_len: shape.batch for shape in shapes}
    assert batches == {1024: 4, 3000: 1, 8192: 1}
    assert {shape.model_run.step_tokens for shape in shapes} == {4096}


def test_ids_say_what_is_trained_and_how(load: Load) -> None:
    suite = load(table(seq_len="1024", recompute='["none", "layers"]', compile='"parts"'))
    ids = [case.id for case in training(suite)]
    assert ids[0] == "lightning2-torch/fwd_bwd/b4-h2-n1024-d64-e64-fp32-cpu-tnl-tiny-tokens4096-compile-parts"
    assert ids[1] == f"{ids[0]}-recompute-layers"
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(("device", "compiled"), [("cpu", ""), ("cuda", "parts")])
def test_compiling_is_the_default_on_a_gpu(load: Load, device: str, compiled: str) -> None:
    cases = expand(load(table()), Overrides(), device, "train")  # type: ignore[arg-type]
    assert {case.shape.model_run.compile for case in cases} == {compiled}


def test_overrides_replace_axes_and_providers(load: Load) -> None:
    suite = load(table())
    cases = training(suite, model=("llama-tiny",), seq_len=(16,), tokens=(64,), compile=("none",))
    assert {(c.shape.model_run.model, c.shape.batch, c.shape.seq_len) for c in cases} == {
        ("llama-tiny", 4, 16)
    }
    assert {case.provider for case in training(suite, providers=("lightning2",))} == {"lightning2"}
    added = {(c.shape.model_run.model, c.provider) for c in training(suite, added=("sdpa-flash",))}
    assert ("llama-tiny", "sdpa-flash") in added
    assert ("tnl-tiny", "lightning2-torch") in added
    assert ("tnl-tiny", "sdpa-flash") not in added


def test_a_named_provider_stays_in_its_groups(load: Load) -> None:
    small = table(providers='"sdpa-math"', model='"llama-tiny"', seq_len="16")
    large = table(providers='"flash2"', model='"llama-0.4b"', seq_len="32")
    suite = load(small, large)
    assert {c.shape.model_run.model for c in training(suite, providers=("flash2",))} == {"llama-0.4b"}
    unnamed = training(suite, providers=("sdpa-flash",))
    assert {c.shape.model_run.model for c in unnamed} == {"llama-tiny", "llama-0.4b"}


def test_providers_that_fit_no_model_are_an_error(load: Load) -> None:
    with pytest.raises(
        UsageError,
        match=r"suite mine: .* allowed: providers of softmax, which `lbench providers` lists",
    ):
        training(load(table(providers='"sdpa-math"', model='"llama-tiny"')), providers=("lightning2",))


def test_each_metric_has_its_own_tables(load: Load) -> None:
    both, attention, models = load(GROUP, table()), load(GROUP), load(table())
    assert len(every_case(both, "cpu")) == 1 + 9
    assert not {case.shape.model_run.model for case in expand(both, Overrides(), "cpu")} - {""}
    assert len(training(both)) == 9
    with pytest.raises(
        UsageError, match=r"suite mine has nothing for `lbench train`: .*mine\.toml has no table headed"
    ):
        training(attention)
    with pytest.raises(
        UsageError,
        match=r"suite mine runs whole models and has nothing for `lbench memory`; run `lbench train",
    ):
        expand(models, Overrides(), "cpu", "memory")


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (
            {"model": '"tnl-0.5b"'},
            'model: "tnl-0.5b" is not known (did you mean `tnl-0.4b`?); allowed: tnl-0.4b,',
        ),
        ({"dtype": '"fp16"'}, 'dtype: "fp16" is not known'),
        ({"dtype": '"fp16"'}, "allowed: fp32, bf16"),
        ({"recompute": '"all"'}, 'recompute: "all" is not known; allowed: none, layers'),
        ({"compile": "true"}, "compile: true is not known; allowed: none, parts"),
        (
            {"head_dim": "64"},
            "head_dim: unknown key; allowed: providers, model, compile, dtype, seq_len, tokens",
        ),
        ({"tokens": "0"}, "tokens: 0 is not allowed; allowed: an integer from 1"),
        (
            {"providers": '"sdpa-math"'},
            "model tnl-tiny gets no attention; allowed: a provider of linear_decay",
        ),
        (
            {"model": '"llama-tiny"'},
            "provider lightning2-torch computes linear_decay, which none of the models llama-tiny has; "
            "allowed: providers of softmax",
        ),
    ],
)
def test_faults_are_named_with_their_lines(load: Load, axes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        load(table(**axes))
    assert said in str(caught.value)
    assert all("mine.toml:" in line and "train[0]" in line for line in str(caught.value).splitlines())


def test_a_suite_without_any_table_is_an_error(load: Load) -> None:
    with pytest.raises(
        UsageError, match=r"group: is missing; allowed: one or more tables headed \[\[group\]\]"
    ):
        load("")


def test_ranks_are_those_of_cases_that_share_their_steps(load: Load) -> None:
    suite = load(table(model='"llama-tiny"', providers='"sdpa-math"', seq_len="1024"))
    assert {c.shape.ranks for c in training(suite)} == {0}
    both = training(suite, parallel=("none", "ddp", "fsdp2"), ranks=(2, 4))
    ends = [case.id.partition("tokens4096")[2] for case in both]
    assert ends == ["", "-ddp-ranks2", "-ddp-ranks4", "-fsdp2-ranks2", "-fsdp2-ranks4"]
    assert {case.shape.batch for case in both} == {4}  # on each rank
    assert {c.shape.ranks for c in training(suite, parallel=("ddp",))} == {2}
    with pytest.raises(UsageError, match=r"--ranks: no case takes its steps together; give --parallel ddp"):
        training(suite, ranks=(4,))
    with pytest.raises(UsageError, match=r"--ranks: 1 is too few"):
        training(suite, parallel=("ddp",), ranks=(1,))
    with pytest.raises(UsageError, match=r'--parallel: "tp" is not known; allowed: none, ddp, fsdp2'):
        training(suite, parallel=("tp",))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"added": ("sdpa-flash",), "model": ("tnl-tiny",)},
         r"--provider: sdpa-flash runs in none of the models \(tnl-tiny\): it is softmax; leave it out"),
        ({"providers": ("lightning2-torch", "retention-torch")}, "--provider: retention-torch runs in none"),
        ({"providers": ("lightning2-torch",), "model": ("tnl-tiny", "llama-tiny")},
         r"--model: llama-tiny runs with none of the providers \(lightning2-torch\): its attention is"),
    ],
)  # fmt: skip
def test_what_is_given_and_has_no_case_is_an_error(load: Load, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        training(load(table()), **given)


def test_a_provider_that_does_not_load_may_be_of_any_family(load: Load, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import a_library_that_nobody_has")
    for name, models in (("Mine", {"tnl-tiny", "llama-tiny"}), ("attn@softmax", {"llama-tiny"})):
        cases = training(load(table()), providers=(f"{tmp_path}/broken.py:{name}",))
        assert {case.shape.model_run.model for case in cases} == models
