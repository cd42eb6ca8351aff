"""The available suites: bundled ones by name, the user's own by path."""

from __future__ import annotations

from pathlib import Path

from lightning_bench.case import Device, Metric
from lightning_bench.errors import UsageError
from lightning_bench.words import any_of, nearest_words

_PACKAGE = Path(__file__).resolve().parents[1]


def bundled_suites() -> list[str]:
    """Return the names of the suites that come with lightning-bench, sorted."""
    return sorted(path.stem for path in _bundled_folder().glob("*.toml"))


def default_suite(device: Device, metric: Metric = "speed") -> str:
    """Return the suite that runs if none is named: `quick` on a CPU; on a GPU `paper`, or that of models."""
    if device == "cpu":
        return "quick"
    return {"train": "table1", "generate": "generate"}.get(metric, "paper")


def find_suite(name_or_path: str | Path) -> Path:
    """Return the file of a suite: a name that ends in `.toml` is a path, any other that of a bundled suite.

    UsageError if there is no such file or suite.
    """
    given = str(name_or_path)
    if given.endswith(".toml"):
        path = Path(given).expanduser()
        if not path.exists():
            raise UsageError(f"{path}: there is no such file; allowed: a .toml file that exists")
        return path
    names = bundled_suites()
    if given in names:
        return _bundled_folder() / f"{given}.toml"
    near = nearest_words(given, names)
    hint = f" (did you mean {any_of([f'`{name}`' for name in near])}?)" if near else ""
    own = f" (the file here is read as ./{given}.toml)" if _is_own(given) else ""
    value = "; values of an option have commas between them: 512,4k" if given[:1].isdigit() else ""
    raise UsageError(
        f"there is no suite `{given}`{hint}{own}; allowed: a name that `lbench suites` lists, "
        f"or the path of a file of your own that ends in .toml{value}"
    )


def _is_own(name: str) -> bool:
    return "/" not in name and Path(f"{name}.toml").is_file()


def _bundled_folder() -> Path:
    # In a wheel the suites are in the package; in a checkout, and so in an editable install, beside it.
    packaged = _PACKAGE / "suites"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "suites"
