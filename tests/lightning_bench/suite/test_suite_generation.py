"""Tables headed [[generate]]: which cases they give, which faults they have, and what options replace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_bench.case import Case
from lightning_bench.errors import UsageError
from lightning_bench.suite import Overrides, Suite, default_suite, every_case, expand, load_suite

AXES = {
    "providers": '["lightning2-torch", "sdpa-math", "flash2"]',
    "model": '["tnl-tiny", "llama-tiny"]',
    "dtype": '"fp16"',
    "prompt": '["16..64", 3]',
    "new_tokens": "8",
    "batch": "[1, 4]",
}
Load = Callable[..., Suite]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def of(**axes: str) -> Suite:
        lines = "".join(f"{key} = {value}\n" for key, value in (AXES | axes).items())
        path = tmp_path / "mine.toml"
        path.write_text(f'title = "Mine"\ndescription = "My own."\n[[generate]]\n{lines}')
        return load_suite(path)

    return of


def generating(suite: Suite, **overrides: object) -> list[Case]:
    return expand(suite, Overrides(**overrides), "cpu", "generate")  # type: ignore[arg-type]


def test_each_model_continues_each_prompt_in_each_batch(load: Load) -> None:
    cases = generating(load())
    assert len(cases) == 3 * 4 * 2
    assert {case.direction for case in cases} == {"fwd"}
    assert [(c.shape.seq_len, c.shape.batch) for c in cases[:8]] == [
        (n, batch) for n in (16, 32, 64, 3) for batch in (1, 4)
    ]
    assert cases[0].id == "lightning2-torch/fwd/b1-h2-n16-d64-e64-fp16-cpu-tnl-tiny-new8"
    on_gpu = expand(load(), Overrides(), "cuda", "generate")
    assert on_gpu[0].id.endswith("fp16-cuda-tnl-tiny-compile-parts-new8")


def test_options_replace_axes(load: Load) -> None:
    cases = generating(load(), prompt=(100,), new_tokens=(2,), batch=(7,), model=("llama-tiny",))
    assert {str(case.shape) for case in cases} == {"b7-h2-n100-d64-e64-fp16-cpu-llama-tiny-new2"}
    assert [case.provider for case in cases] == ["sdpa-math", "flash2"]
    with pytest.raises(UsageError, match=r"--new-tokens: 1 is too few; allowed: an integer from 2 to "):
        generating(load(), new_tokens=(1,))


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ({"prompt": "1"}, "prompt: 1 is too few; allowed: an integer from 2 to "),
        ({"model": '"llama-tiny"'}, "provider lightning2-torch computes linear_decay, which none of"),
        ({"tokens": "4"}, "tokens: unknown key .*; allowed: providers, model, compile, dtype, prompt"),
    ],
)
def test_faults_are_named_with_their_lines(load: Load, axes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=rf"mine\.toml:\d+: generate\[0\].*{said}"):
        load(**axes)


def test_other_metrics_have_nothing_of_it(load: Load) -> None:
    assert len(every_case(load(), "cpu")) == 24
    with pytest.raises(UsageError, match=r"nothing for `lbench train`: .* no table headed"):
        expand(load(), Overrides(), "cpu", "train")
    with pytest.raises(UsageError, match="nothing for `lbench speed`; run `lbench generate mine`"):
        expand(load(), Overrides(), "cpu")
    with pytest.raises(UsageError, match="`lbench generate generate`, `lbench generate quick`"):
        expand(load_suite("table1"), Overrides(), "cuda", "generate")


def test_the_default_suite_on_a_gpu_is_that_of_the_figure() -> None:
    assert (default_suite("cuda", "generate"), default_suite("cpu", "generate")) == ("generate", "quick")
    cases = expand(load_suite("generate"), Overrides(), "cuda", "generate")
    of_figure = [c for c in cases if (c.shape.seq_len, c.shape.model_run.new_tokens) == (512, 1024)]
    assert {c.shape.batch for c in of_figure} == {1, 16, 64, 128, 256}
    assert {c.shape.model_run.model for c in of_figure} == {"tnl-7b", "llama-7b"}
