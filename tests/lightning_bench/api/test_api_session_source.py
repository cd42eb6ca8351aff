"""The source of a session's functions: what a file gets, what it computes, and what cannot be sent."""

from __future__ import annotations

import linecache
import math
import sys
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_bench.api.session_source import _literal, file_source, name_of
from lightning_bench.errors import UsageError

Session = Callable[[str], dict[str, Any]]


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """Run cells as IPython does: in one module named __main__, with their sources in linecache."""
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    numbers = count()
    names: list[str] = []

    def run(cell: str) -> dict[str, Any]:
        name = f"<cell {next(numbers)} of {id(main)}>"
        names.append(name)
        linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
        exec(compile(cell, name, "exec", dont_inherit=True), vars(main))
        return vars(main)

    yield run
    for name in names:
        del linecache.cache[name]


def in_a_file(found: object) -> Any:
    """Return what a file of the source has under the name, as a worker gets it."""
    scope: dict[str, Any] = {"__name__": "elsewhere"}
    exec(compile(file_source(found), "<file>", "exec", dont_inherit=True), scope)
    return scope[name_of(found)]


def test_a_function_alone(session: Session) -> None:
    source = file_source(session("def f(x, y=2):\n    return x * y\n")["f"])
    assert source == '"""f, as it was defined in a session."""\n\n\n\ndef f(x, y=2):\n    return x * y\n'


CELLS = {
    "modules": """
import math
import os.path as p
def f(x):
    return math.sqrt(x), p.basename("a/b")
""",
    "names of modules": """
from math import hypot as h, pi
def f(x):
    return h(x, pi)
""",
    "constants": """
SIZES, EPS, NONE = (1, [2.5, None], {"a": {True, False}}), 1e-6, ((), [], {})
def f(x):
    return x, SIZES, EPS, NONE
""",
    "functions": """
def g(x):
    return h(x) + 1
def h(x):
    return 2 * x
def f(x):
    return g(x)
""",
    "recursion": """
def g(x):
    return x if x < 1 else f(x - 1)
def f(x):
    return g(x / 2)
""",
    "an alias": """
def g(x):
    return x + 1
h = g
def f(x):
    return h(x)
""",
    "defaults": """
N = 3
def g(x):
    return x + 1
def f(x, y=N, z=g):
    return z(x) + y
""",
    "a decorator": """
import functools
def twice(g):
    @functools.wraps(g)
    def wrapper(x):
        return g(g(x))
    return wrapper
@twice
def f(x):
    return x + 1
""",
    "a decorator of functools": """
import functools
@functools.lru_cache(maxsize=None)
def f(x):
    return x + 1
""",
    "a class": """
class Base:
    K = 2
    def of(self, x):
        return x * self.K
class Mine(Base):
    def of(self, x):
        return super().of(x) + 1
def f(x):
    return Mine().of(x)
""",
    "a local that hides a global": """
import threading
lock = threading.Lock()
def f(x):
    lock = x
    return lock
""",
    "an attribute that is no global": """
import threading
real = threading.Lock()
def f(x):
    return (x + 0j).real
""",
    "inner functions": """
K = 3
def f(x):
    def inner(y):
        return [K * z + y for z in range(int(x))]
    return inner(1), (lambda: K)()
""",
    "below an if": """
if True:
    def f(x):
        return x + 1
""",
    "annotations": """
from __future__ import annotations
def f(x: NotThere) -> Nowhere:
    return x
""",
    "lines of others": """
x = 1

def g(x):
    return x

# about f
def f(x):
    # in f
    return x
y = 2
""",
    "torch": """
import torch
from torch import Tensor
import torch.nn.functional as F
D = torch.float64
WHERE = torch.device("cpu")
def f(x: Tensor):
    return F.relu(torch.tensor(x, dtype=D, device=WHERE)).item()
""",
    "an autograd function": """
import torch
class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x
    @staticmethod
    def backward(ctx, do):
        return 2 * do
def f(x):
    return Twice.apply(torch.tensor(x)).item()
""",
}

TRITON = """
import triton
import triton.language as tl
BLOCK = tl.constexpr(64)
@triton.jit
def double(x):
    return x * 2
@triton.autotune(configs=[triton.Config({"B": 16})], key=["n"])
@triton.jit
def kernel(x, n, B: tl.constexpr):
    tl.store(x, double(tl.load(x)) + BLOCK)
def f(x):
    kernel[(1,)](x, 1)
    return x
"""


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_a_file_of_the_source_computes_the_same(session: Session, cell: str) -> None:
    here = session(cell)["f"]
    there = in_a_file(here)
    assert there is not here
    for x in (0.0, 4.0, 7.0):
        assert there(x) == here(x)


def test_a_provider_class_is_sent_like_a_function(session: Session) -> None:
    cell = """
from lightning_bench.providers import Provider
DTYPES = ("fp32",)
class Mine(Provider):
    name, label, family, package = "mine", "Mine", "softmax", "torch"
    dtypes = DTYPES
    def build(self, inputs):
        return lambda: 1 * inputs.v
"""
    here = session(cell)["Mine"]
    there = in_a_file(here)
    assert there is not here
    assert (there.name, there.dtypes) == ("mine", ("fp32",))
    assert callable(there().build(None))
    assert there.__mro__[1] is here.__mro__[1]


def test_names_mean_what_they_mean_now(session: Session) -> None:
    f = session("K = 1\ndef g():\n    return 1\ndef f():\n    return K + g()\n")["f"]
    session("K = 10\ndef g():\n    return 100\n")
    assert in_a_file(f)() == f() == 110


def test_triton_kernels_are_sent_with_what_they_call(session: Session, tmp_path: Path) -> None:
    """Compiled or interpreted: neither can be pickled, and Triton reads their source from a file."""
    here = session(TRITON)
    path = tmp_path / "kernels.py"
    path.write_text(file_source(here["f"]))
    spec = spec_from_file_location("kernels_of_a_session", path)
    assert spec is not None
    assert spec.loader is not None
    there = module_from_spec(spec)
    spec.loader.exec_module(there)
    assert there.BLOCK.value == 64
    assert type(there.kernel) is type(here["kernel"])
    assert type(there.double) is type(here["double"])
    assert there.kernel.configs[0].kwargs == {"B": 16}
    assert there.double.fn(4) == 8


def test_an_importable_function_is_imported(session: Session) -> None:
    from posixpath import basename

    assert "from posixpath import basename as basename\n" in file_source(basename)
    relu = torch.nn.functional.relu
    assert in_a_file(relu) is relu


def test_the_text_changes_with_the_files_that_it_imports(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the version of a row does, which is a digest of the text."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_helper.py").write_text("def half(x):\n    return x / 2\n")
    f = session("from own_helper import half\ndef f(x):\n    return half(x)\n")["f"]
    before = file_source(f)
    assert before == file_source(f)
    (tmp_path / "own_helper.py").write_text("def half(x):\n    return x * 0.5\n")
    assert file_source(f) != before
    del sys.modules["own_helper"]


literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@given(literals)
def test_a_constant_is_written_down_as_it_is(value: Any) -> None:
    text = _literal(value)
    assert text is not None
    assert repr(eval(text)) == repr(value)


@given(st.sampled_from([torch.float16, torch.bfloat16, torch.int64, torch.device("cuda", 1)]))
def test_so_are_dtypes_and_devices(value: Any) -> None:
    assert eval(str(_literal(value))) == value


@pytest.mark.parametrize("value", [object(), torch.zeros(1), [1, object()], {1: object()}, math])
def test_an_object_is_no_constant(value: Any) -> None:
    assert _literal(value) is None


SAID = {
    "f = lambda x: x": "is a lambda without a name: define it by `def`, or put the function",
    """
import torch
w = torch.zeros(2)
def f(x):
    return x + w
""": "f uses w: w is of type Tensor, an object of this session, which is not sent to the processes",
    """
import threading
lock = threading.Lock()
def g(x):
    return lock
def f(x):
    return g(x)
""": "g uses lock: lock is of type lock",
    """
def outer(k):
    def f(x):
        return x * k
    return f
f = outer(2)
""": "f is defined in another function and uses its k: define it at the top of the session, or put",
    """
def outer():
    def f(x):
        return x
    return f
f = outer()
""": "f is defined in another function: define it at the top of the session",
    """
import torch
layer = torch.nn.Linear(2, 2)
def f(x):
    return layer(x)
""": "layer is of type Linear",
    """
import torch
f = torch.nn.Linear(2, 2)
""": "is of type Linear and without a name",
    """
import functools
def g(x):
    return x
h = functools.wraps(g)(lambda x: g(x))
def f(x):
    return h(x)
""": "f uses h: h is not what `g` was defined as, but made from it by an expression, which is not kept",
    """
import functools
@functools.lru_cache
def h(x):
    return x
f = functools.wraps(h)(lambda x: -h(x))
""": "h is not what `h` was defined as, but made from it by an expression",
    """
import functools
@functools.lru_cache
def g(x):
    return x
f = g.__wrapped__
""": "g is not what `g` was defined as, but made from it",
    "exec('def f(x):\\n    return x')": "the source of f is not kept, as in a Python shell or below %%time",
}


@pytest.mark.parametrize("cell", SAID)
def test_what_cannot_be_sent_is_said(session: Session, cell: str) -> None:
    found = session(cell)["f"]
    with pytest.raises(UsageError) as caught:
        file_source(found)
    assert SAID[cell] in str(caught.value)
    assert "put the function into a file and give path/to/file.py:NAME" in str(caught.value)
