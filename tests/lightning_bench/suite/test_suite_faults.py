"""Every fault of a suite file is told: file, line, key, what is wrong, what is allowed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.suite import LengthBound, axes, load_suite

HEAD = 'title = "Mine"\ndescription = "A suite of my own."\n'
GROUP = {
    "providers": '["alpha", "omega"]',
    "direction": '"fwd"',
    "dtype": '"bf16"',
    "batch": "1",
    "heads": "4",
    "seq_len": '"512..2048"',
    "head_dim": "64",
}
LENGTHS = (
    'allowed: an integer from 1 to 2147483647, "4k" for 4096, a list of them, or a range: "512..32768" '
    'doubles, "1k..4k:512" goes by steps of 512'
)
BOUNDS = (
    'allowed: an integer from 1 to 2147483647, a list of them (any of), or a comparison such as "> 65536"'
)

Load = Callable[[str], list[str]]


@dataclass
class FakeProvider:
    name: str
    family: str


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Register providers alpha (linear_decay) and omega (softmax), and those of existing files."""

    def get_provider(spec: str) -> FakeProvider:
        if spec in ("alpha", "omega"):
            return FakeProvider(spec, "softmax" if spec == "omega" else "linear_decay")
        if Path(spec.rpartition(":")[0]).is_file():
            return FakeProvider("own", "linear")
        raise UsageError(f"there is no provider `{spec}`;\nallowed: alpha, omega")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes, "declared_provider", get_provider)
        patch.setattr(axes, "canonical_spec", lambda spec: spec)
        yield


@pytest.fixture
def faults(tmp_path: Path) -> Load:
    """Return the lines of the error from loading this text, without the folder."""

    def load(text: str) -> list[str]:
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            load_suite(str(path))
        lines = str(caught.value).split("\n")
        assert all(line.startswith(str(path)) for line in lines)
        return [line.removeprefix(f"{tmp_path}/") for line in lines]

    return load


def group(**changes: str | None) -> str:
    axes_of_it = {**GROUP, **changes}
    return "\n[[group]]\n" + "".join(f"{key} = {value}\n" for key, value in axes_of_it.items() if value)


def test_a_suite_without_faults_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    exclude = '[{family = "softmax", seq_len = "> 1024", batch = [1, "<= 4"]}]'
    path.write_bytes(("\ufeff" + HEAD + group(exclude=exclude)).replace("\n", "\r\n").encode())
    suite = load_suite(path)
    assert (suite.name, suite.path, suite.title) == ("mine", path, "Mine")
    assert (suite.protocol, suite.device) == ("lbench", None)
    assert (suite.limits.time_limit_s, suite.limits.sample_limit_s) == (120.0, 2.0)
    assert (suite.limits.min_samples, suite.limits.max_samples) == (20, 1000)
    assert (suite.limits.ci_percent, suite.limits.memory_limit_gib) == (1.0, None)
    assert suite.groups[0].seq_len == (512, 1024, 2048)
    assert suite.groups[0].value_dim is None
    assert suite.groups[0].exclude[0].batch == (LengthBound("=", 1), LengthBound("<=", 4))
    assert str(suite.groups[0].exclude[0]) == '{family = "softmax", batch = [1, "<= 4"], seq_len = "> 1024"}'
    assert hash(suite) == hash(load_suite(path))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seq_len": '"512..5000"'},
         'group[0].seq_len: the range "512..5000" does not reach its end by doubling; '
         'allowed: an end that is 512 times a power of two, such as "512..4096" or "512..8192"'),
        ({"seq_len": '"4096..512"'}, 'group[0].seq_len: the range "4096..512" ends before it starts; '
         "allowed: start..end with start <= end"),
        ({"seq_len": '"0..512"'}, f'group[0].seq_len: "0" is not allowed; {LENGTHS}'),
        ({"seq_len": '"512...1024"'}, f'group[0].seq_len: "512...1024" is no range; {LENGTHS}'),
        ({"seq_len": '"1..' + "9" * 30 + '"'}, f'group[0].seq_len: "{"9" * 30}" is not allowed; {LENGTHS}'),
        ({"batch": "0"}, f"group[0].batch: 0 is not allowed; {LENGTHS}"),
        ({"heads": "[4, -2]"}, f"group[0].heads: -2 is not allowed; {LENGTHS}"),
        ({"heads": "true"}, f"group[0].heads: true is not allowed; {LENGTHS}"),
        ({"head_dim": "64.0"}, f"group[0].head_dim: 64.0 is not allowed; {LENGTHS}"),
        ({"value_dim": "[]"}, f"group[0].value_dim: is empty; {LENGTHS}"),
        ({"head_dim": "[64, 128, 64]"},
         "group[0].head_dim: 64 is listed more than once; allowed: each value once"),
        ({"seq_len": '["512..2048", 1024]'}, "group[0].seq_len: 1024 is listed more than once"),
        ({"head_dim": None}, f"group[0].head_dim: is missing; {LENGTHS}"),
        ({"dtype": '["bf16", "fp61"]'}, 'group[0].dtype: "fp61" is not known (did you mean `fp16`?); '
         "allowed: fp32, fp16, bf16"),
        ({"dtype": "16"}, "group[0].dtype: 16 is not known; allowed: fp32, fp16, bf16"),
        ({"direction": '"fwd-bwd"'}, 'group[0].direction: "fwd-bwd" is not known (did you mean `fwd_bwd`?); '
         "allowed: fwd, bwd, fwd_bwd"),
        ({"direction": "[]"}, "group[0].direction: is empty; allowed: fwd, bwd, fwd_bwd"),
        ({"providers": '["alpah"]'},
         "group[0].providers: there is no provider `alpah`; allowed: alpha, omega"),
        ({"providers": "[3]"}, "group[0].providers: 3 is no provider; allowed: a list of provider names"),
        ({"providers": '["alpha", "alpha"]'}, "group[0].providers: alpha is listed more than once"),
        ({"providers": "[]"}, "group[0].providers: is empty; allowed: a list of provider names"),
        ({"seq_lens": "512"}, "group[0].seq_lens: unknown key (did you mean `seq_len`?); allowed: providers, "
         "model, direction, dtype, batch, heads, seq_len, head_dim, value_dim, kv_heads, layer, rank, "
         "packing, ranks, exclude"),
        ({'"a\\nb"': "1"}, 'group[0]."a\\nb": unknown key; allowed: providers'),
        ({"exclude": "3"},
         'group[0].exclude: 3 is not allowed; allowed: a list of entries such as [{family = "softmax"'),
        ({"exclude": "[3]"},
         "group[0].exclude[0]: 3 is not allowed; allowed: a list of entries such as [{family"),
        ({"exclude": "[{}]"},
         "group[0].exclude[0]: an entry without keys would leave out everything; allowed: a list"),
        ({"exclude": '[{providers = "alpha"}]'}, "group[0].exclude[0].providers: unknown key "
         "(did you mean `provider`?); allowed: provider, family, direction, dtype, batch"),
        ({"exclude": '[{provider = "beta"}]'}, "group[0].exclude[0].provider: there is no provider `beta`"),
        ({"exclude": '[{family = "softmx"}]'}, 'group[0].exclude[0].family: "softmx" is not known '
         "(did you mean `softmax`?); allowed: linear_decay, linear, softmax"),
        ({"exclude": "[{dtype = 16}]"},
         "group[0].exclude[0].dtype: 16 is not known; allowed: fp32, fp16, bf16"),
        ({"exclude": '[{dtype = "fp32"}, {seq_len = "long"}]'},
         f'group[0].exclude[1].seq_len: "long" can match no length; {BOUNDS}'),
        ({"exclude": '[{seq_len = "< 1"}]'},
         f'group[0].exclude[0].seq_len: "< 1" can match no length; {BOUNDS}'),
        ({"exclude": '[{seq_len = "> 2147483647"}]'},
         f'group[0].exclude[0].seq_len: "> 2147483647" can match no length; {BOUNDS}'),
        ({"exclude": "[{seq_len = 0.5}]"}, f"group[0].exclude[0].seq_len: 0.5 is not allowed; {BOUNDS}"),
        ({"exclude": "[{seq_len = []}]"}, f"group[0].exclude[0].seq_len: is empty; {BOUNDS}"),
        ({"model": '"minimax-1"', "heads": None, "head_dim": None},
         'group[0].model: "minimax-1" is not known (did you mean `minimax-01`?); allowed: minimax-01, ling'),
        ({"kv_heads": "3"}, "group[0].kv_heads: heads 4 in groups of kv_heads 3; allowed: a divisor"),
        ({"packing": '"2 x 8"', "seq_len": None, "batch": "2"},
         "group[0].packing: batch 2 with packing; allowed: 1, which has all documents"),
        ({"layer": '["0 of 80", "0 of 1"]'}, "group[0].layer: '0 of 1' is the only layer, as without layer"),
        ({"rank": '"8 of 8"'}, "group[0].rank: '8 of 8' is out of range: counted from 0, the last rank is "),
        ({"exclude": '[{dtype = "bf16", seq_len = 512}, {family = "gla"}]'},
         'group[0].exclude[1]: {family = "gla"} matches no cell of its group; allowed: what leaves out a'),
        ({"exclude": '[{provider = "alpha", value_dim = 128}]'},
         'group[0].exclude[0]: {provider = "alpha", value_dim = 128} matches no cell of its group'),
    ],
)  # fmt: skip
def test_a_fault_in_a_group(faults: Load, changes: dict[str, str | None], expected: str) -> None:
    text = HEAD + group(**changes)
    (line,) = faults(text)
    key = next(iter(changes))
    wanted = text.split("\n").index("[[group]]" if changes[key] is None else f"{key} = {changes[key]}") + 1
    if key.startswith('"'):  # a key in quotes with an escape is not looked for: the table's line stands in
        wanted = text.split("\n").index("[[group]]") + 1
    assert line.startswith(f"mine.toml:{wanted}: {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[limits]\nmin_samples = 10.5',
         "5: limits.min_samples: 10.5 is not allowed; allowed: an integer from 1"),
        ('[limits]\nmin_samples = 0', "5: limits.min_samples: 0 is not allowed; allowed: an integer from 1"),
        ('[limits]\nmax_samples = 5', "5: limits.max_samples: 5 is below min_samples = 20; "
         "allowed: an integer from 20"),
        ('[limits]\nmin_samples = 2000', "4: limits.max_samples: 1000 is below min_samples = 2000"),
        ('[limits]\ntime_limit_s = "1m"', '5: limits.time_limit_s: "1m" is not allowed; '
         "allowed: a number of seconds above 0"),
        ('[limits]\ntime_limit_s = inf', "5: limits.time_limit_s: inf is not allowed"),
        ('[limits]\nsample_limit_s = 200',
         "5: limits.sample_limit_s: 200 s of sampling do not fit in a case; "
         "allowed: less than time_limit_s = 120"),
        ('[limits]\nci_percent = true', "5: limits.ci_percent: true is not allowed; "
         "allowed: a number above 0, at most 100"),
        ('[limits]\nmemory_limit_gib = -1', "5: limits.memory_limit_gib: -1 is not allowed; "
         "allowed: a number of GiB above 0"),
        ('[limits]\ntime_limit = 5', "5: limits.time_limit: unknown key (did you mean `time_limit_s`?); "
         "allowed: time_limit_s, sample_limit_s, min_samples, max_samples, ci_percent, "
         "processes, windows, window_s, rest_s, memory_limit_gib"),
        ("limits = 5", "4: limits: 5 is not allowed; allowed: a table headed [limits]"),
        ('protocol = "triton"', '4: protocol: "triton" is not allowed; allowed: "lbench" or "paper"'),
        ('device = "gpu"', '4: device: "gpu" is not allowed; allowed: "cuda" or "cpu"'),
        ('protocl = "lbench"', "4: protocl: unknown key (did you mean `protocol`?); "
         "allowed: title, description, protocol, device, inputs, graph, limits, train, generate, group"),
        ('name = "x"', "4: name: unknown key; allowed: title"),
    ],
)  # fmt: skip
def test_a_fault_outside_groups(faults: Load, text: str, expected: str) -> None:
    (line,) = faults(f"{HEAD}\n{text}\n{group()}")
    assert line.startswith(f"mine.toml:{expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD, "mine.toml: group: is missing; allowed: one or more tables headed [[group]]"),
        (HEAD + "group = []", "mine.toml:3: group: is empty; allowed: one or more tables headed [[group]]"),
        (HEAD + "[group]\nbatch = 1", 'mine.toml:3: group: {"batch": 1} is not allowed; '
         "allowed: one or more tables headed [[group]]"),
        (HEAD + "group = [1]", "mine.toml: group[0]: 1 is not allowed; allowed: one or more tables headed"),
        ('description = "d"' + group(), "mine.toml: title: is missing; allowed: a string that is not empty"),
        ('title = ""\ndescription = "d"' + group(),
         'mine.toml:1: title: "" is not allowed; allowed: a string'),
        ("title = 5\ndescription = 'd'" + group(), "mine.toml:1: title: 5 is not allowed; allowed: a string"),
        (HEAD + "seq_len = \n", "mine.toml:3: TOML syntax: Invalid value; allowed: TOML 1.0"),
        (HEAD + "dtype = [\n", "mine.toml:4: TOML syntax: "),
        (HEAD + "title = 'twice'\n", "mine.toml:3: TOML syntax: Cannot overwrite a value; allowed"),
        (HEAD + f"x = {'9' * 5000}\n", "mine.toml:1: TOML syntax: Exceeds the limit"),
        (HEAD + f"x = {'[' * 5000}\n", "mine.toml:1: TOML syntax: "),
    ],
)  # fmt: skip
def test_a_fault_of_the_whole(faults: Load, text: str, expected: str) -> None:
    (line,) = faults(text)
    assert line.startswith(expected)


def test_six_faults_are_six_lines_in_the_order_of_the_file(faults: Load) -> None:
    text = (
        'title = "Six"\n'
        'description = """\n[[group]]\nbatch = 1\n"""\n'
        'protocl = "paper"\n'
        "[limits]\n"
        "min_samples = -1  # two\n"
        + group(providers='["alpha", "beta"]', seq_len='"512..1000"', exclude='[\n  {dtype = "fp64"},\n]')
        + group(dtype='"int8"')
    )
    assert [line.split(": ")[:2] for line in faults(text)] == [
        ["mine.toml:6", "protocl"],
        ["mine.toml:8", "limits.min_samples"],
        ["mine.toml:11", "group[0].providers"],
        ["mine.toml:16", "group[0].seq_len"],
        ["mine.toml:18", "group[0].exclude[0].dtype"],
        ["mine.toml:25", "group[1].dtype"],
    ]


def test_all_faults_of_one_axis_are_told(faults: Load) -> None:
    lines = faults(HEAD + group(heads='[0, -1, 4, 4, "x"]'))
    assert [line.split("group[0].heads: ")[1].split(";")[0] for line in lines] == [
        "0 is not allowed",
        "-1 is not allowed",
        '"x" is not allowed',
        "4 is listed more than once",
    ]


def test_an_exclude_written_as_tables_has_lines_of_its_own(faults: Load) -> None:
    text = HEAD + group() + '[[group.exclude]]\ndtype = "bf16"\n[[group.exclude]]\nfamily = "soft"\n'
    (line,) = faults(text)
    assert line.startswith(
        f'mine.toml:{text.count(chr(10))}: group[0].exclude[1].family: "soft" is not known'
    )


def test_an_idle_exclude_is_told_with_its_own_line(faults: Load) -> None:
    text = HEAD + group() + '[[group.exclude]]\nheads = 4\n[[group.exclude]]\nfamily = "softmax"\nheads = 2\n'
    (line,) = faults(text)
    number = text.split("\n").index('family = "softmax"')
    assert line.startswith(
        f'mine.toml:{number}: group[0].exclude[1]: {{family = "softmax", heads = 2}} match'
    )


def test_groups_written_inline_are_told_without_a_line(faults: Load) -> None:
    inline = ", ".join(f"{key} = {value}" for key, value in {**GROUP, "batch": "0"}.items())
    (line,) = faults(HEAD + "group = [{" + inline + "}]")
    assert line.startswith("mine.toml: group[0].batch: 0 is not allowed")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('title = "x"\ndescription = "é"\n'.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        load_suite(path)
    assert str(caught.value) == f"{path}:2: byte 0xe9 is not UTF-8; allowed: a TOML file saved as UTF-8"


def test_a_file_that_is_not_there_or_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as missing:
        load_suite(tmp_path / "none.toml")
    assert str(missing.value).startswith(f"{tmp_path}/none.toml: there is no such file; allowed: ")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(
        UsageError, match=r"cannot read .*folder\.toml: Is a directory; allowed: a readable file"
    ):
        load_suite(tmp_path / "folder.toml")


def test_a_provider_file_is_relative_to_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: Load
) -> None:
    (tmp_path / "own.py").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = tmp_path / "good.toml"
    path.write_text(HEAD + group(providers='["own.py:X", "alpha"]', exclude='[{provider = "own.py:X"}]'))
    suite = load_suite("../good.toml")
    assert suite.groups[0].providers == (f"{tmp_path}/own.py:X", "alpha")
    assert suite.groups[0].exclude[0].provider == (f"{tmp_path}/own.py:X",)
    (line,) = faults(HEAD + group(providers='"none.py:X"'))
    assert "group[0].providers: there is no provider `" in line
