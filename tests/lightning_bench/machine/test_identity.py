"""Digests of what identifies hosts and GPUs."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from lightning_bench.errors import UsageError
from lightning_bench.machine.identity import host_identity, identity


def test_hashed_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LBENCH_IDENTITY", raising=False)
    digest = identity("GPU-0aaa")
    assert len(digest) == 12
    assert "0aaa" not in digest
    assert identity("GPU-0aaa") == digest != identity("GPU-1aaa")
    assert identity("") == ""
    monkeypatch.setenv("LBENCH_IDENTITY", "plain")
    assert identity("GPU-0aaa") == "GPU-0aaa"
    monkeypatch.setenv("LBENCH_IDENTITY", "public")
    with pytest.raises(UsageError, match=r"'public' is not known; allowed: hashed .*, plain"):
        identity("GPU-0aaa")


def test_a_host_is_its_name_and_its_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LBENCH_IDENTITY", "plain")
    monkeypatch.setattr(platform, "node", lambda: "box")
    assert host_identity(tmp_path / "none") == "box"
    (tmp_path / "machine-id").write_text("0123\n")
    assert host_identity(tmp_path / "machine-id") == "box/0123"
