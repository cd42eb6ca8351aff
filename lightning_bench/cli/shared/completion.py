"""What the shell completes: the values of options and arguments. Nothing here may raise or print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

Words = Sequence[str] | Callable[[], Sequence[str]]
Completer = Callable[[str], list[str]]


def one_of(words: Words) -> Completer:
    """Complete one of the words."""

    def complete(incomplete: str) -> list[str]:
        return _that_begin(incomplete, words)

    return complete


def list_of(words: Words) -> Completer:
    """Complete the last word of a list with commas between; what is in the list is not offered again."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        taken = before.split(",")
        return [f"{before}{comma}{word}" for word in _that_begin(last, words) if word not in taken]

    return complete


def joining_list_of(words: Words) -> Completer:
    """Complete a list whose words may have a + before them, as all then have."""

    def complete(incomplete: str) -> list[str]:
        sign = "+" if incomplete.startswith("+") else ""
        return list_of([sign + word for word in _resolved(words)])(incomplete)

    return complete


def suites(incomplete: str) -> list[str]:
    """Complete a bundled suite, or a file that ends with .toml."""
    from lightning_bench.suite.find import bundled_suites

    folder, slash, _ = incomplete.rpartition("/")
    files: list[str] = []
    with suppress(OSError):
        files = [f"{folder}{slash}{path.name}" for path in sorted(Path(folder + slash).glob("*.toml"))]
    return _that_begin(incomplete, [*bundled_suites(), *files])


def models() -> list[str]:
    """Return every model that can be trained."""
    from lightning_bench.models.model_sizes import MODELS

    return list(MODELS)


def provider_names() -> list[str]:
    """Return every provider that has a name."""
    from lightning_bench.providers import provider_names as names

    return names()


def devices() -> list[str]:
    """Return `cuda`, `cpu` and, of several GPUs, each one."""
    from lightning_bench.machine.gpu import visible_gpus

    count = visible_gpus()
    return ["cuda", "cpu", *(f"cuda:{number}" for number in range(count if count > 1 else 0))]


def case_ids() -> list[str]:
    """Return the cases that have a row below results/."""
    return _column("case_id")


def machine_ids() -> list[str]:
    """Return the machines that have a row below results/."""
    return _column("machine_id")


def _column(name: str) -> list[str]:
    from lightning_bench.record import read_rows

    return sorted({getattr(row.record, name) for row in read_rows([Path("results")]).rows})


def _that_begin(beginning: str, words: Words) -> list[str]:
    return [word for word in _resolved(words) if word.startswith(beginning)]


def _resolved(words: Words) -> Sequence[str]:
    """Return the words, none where they cannot be found: an error would be shown amid what is typed."""
    with suppress(Exception):
        return words() if callable(words) else words
    return ()
