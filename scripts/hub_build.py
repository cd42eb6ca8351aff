"""Lay out `lightning_kernels` as a repository of the Hugging Face kernels Hub, as kernel-builder does.

    python scripts/hub_build.py OUT --repo-id ORG/lightning-kernels

OUT is a new folder. It gets build.toml, the card (README.md), LICENSE and, for each backend of
kernels/build.toml, the variant build/torch-BACKEND: the sources, metadata.json with a digest of each file,
and an `_ops.py` whose namespace is that of this build. The namespace ends in the digest of the sources, which
is the end of `provider_version` in rows of the bundled kernels. Neither Nix nor a network is needed.

`kernels.get_local_kernel(Path("OUT"))` loads it; `kernel-builder upload OUT` publishes it.
"""

import argparse
import base64
import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

import lightning_kernels
from lightning_bench.providers.bundled import KERNELS, digest_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kernels" / KERNELS
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
_UNIQUE_ID = re.compile(r"[a-z0-9_]+")


def lay_out(out: Path, repo_id: str, unique_id: str = "") -> list[Path]:
    """Write the repository into the new folder `out` and return its variants.

    `unique_id` ends the namespaces of the operators; "" takes the digest of the sources.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise SystemExit(f"--repo-id {repo_id!r} is no repository; give ORG/NAME")
    unique_id = unique_id or digest_of([PACKAGE])
    if not _UNIQUE_ID.fullmatch(unique_id):
        raise SystemExit(f"--unique-id {unique_id!r} cannot end a name; give lower-case letters and digits")
    if out.exists():
        raise SystemExit(f"{out} exists; give a folder that does not")
    text = (ROOT / "kernels" / "build.toml").read_text(encoding="utf-8")
    general = tomllib.loads(text)["general"]
    out.mkdir(parents=True)
    (out / "build.toml").write_text(f'{text}\n[general.hub]\nrepo-id = "{repo_id}"\n', encoding="utf-8")
    shutil.copy(ROOT / "LICENSE", out)
    variants = []
    for backend in general["backends"]:
        variant = out / "build" / f"torch-{backend}"
        _write_variant(variant, general, backend, _identifier(backend, unique_id))
        variants.append(variant)
    card = _card(general, repo_id, _identifier("cuda", unique_id))
    (out / "README.md").write_text(card, encoding="utf-8")
    return variants


def _identifier(backend: str, unique_id: str) -> str:
    """Return the name of the module and of the namespace of a variant."""
    return f"_{KERNELS}_{backend}_{unique_id}"


def _write_variant(variant: Path, general: dict[str, Any], backend: str, identifier: str) -> None:
    shutil.copytree(PACKAGE, variant, ignore=shutil.ignore_patterns("__pycache__"))
    ops = variant / "_ops.py"
    ops.write_text(_renamed(ops.read_text(encoding="utf-8"), identifier), encoding="utf-8")
    metadata = {
        "name": general["name"],
        "id": identifier,
        "version": general["version"],
        "license": general["license"],
        "upstream": general["upstream"],
        "python-depends": [],
        "backend": {"type": backend},
        "digest": {"algorithm": "sha256", "files": _digests(variant)},
    }
    (variant / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")


def _renamed(source: str, identifier: str) -> str:
    old = f"torch.ops.{KERNELS}\n"
    assert source.count(old) == 1, f"_ops.py names {old!r} once"
    return source.replace(old, f"torch.ops.{identifier}\n")


def _digests(variant: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in base64, by its path."""
    files = sorted(path for path in variant.rglob("*") if path.is_file())
    return {
        path.relative_to(variant).as_posix(): base64.b64encode(
            hashlib.sha256(path.read_bytes()).digest()
        ).decode()
        for path in files
    }


def _card(general: dict[str, Any], repo_id: str, identifier: str) -> str:
    template = (ROOT / "kernels" / "CARD.md").read_text(encoding="utf-8")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined
    )
    return environment.from_string(template).render(
        general, repo_id=repo_id, functions=lightning_kernels.__all__, identifier=identifier
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the repository on the Hub")
    parser.add_argument("--unique-id", default="", help="instead of the digest of the sources")
    given = parser.parse_args(arguments)
    for variant in lay_out(given.out, given.repo_id, given.unique_id):
        print(variant)


if __name__ == "__main__":
    main()
