"""The commit of the harness, in checkouts that are clean, changed, not ours, or not there."""

import subprocess
from pathlib import Path

import pytest

from lightning_bench.machine import harness_commit
from lightning_bench.machine.git import STAMP


class TestCommit:
    @pytest.fixture(autouse=True)
    def _own_git(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("LBENCH_COMMIT", raising=False)
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
        monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")

    @staticmethod
    def git(root: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        root = tmp_path / "checkout"
        (root / "results").mkdir(parents=True)
        (root / "pyproject.toml").write_text('[project]\nname = "lightning-bench"\n')
        (root / "code.py").write_text("one\n")
        (root / "results" / "speed.csv").write_text("one\n")
        self.git(root, "init", "-q")
        self.git(root, "add", "-A")
        self.git(root, "commit", "-q", "-m", "first")
        return root

    def test_clean_then_dirty_then_clean(self, checkout: Path) -> None:
        commit = self.git(checkout, "rev-parse", "HEAD")[:12]
        assert harness_commit(checkout) == commit
        (checkout / "new.py").write_text("untracked\n")
        assert harness_commit(checkout) == commit
        (checkout / "code.py").write_text("two\n")
        assert harness_commit(checkout) == f"{commit}-dirty"
        self.git(checkout, "add", "code.py")
        assert harness_commit(checkout) == f"{commit}-dirty"
        self.git(checkout, "commit", "-q", "-m", "second")
        assert harness_commit(checkout) == self.git(checkout, "rev-parse", "HEAD")[:12] != commit

    def test_rows_written_into_results_are_no_change_of_the_code(self, checkout: Path) -> None:
        (checkout / "results" / "speed.csv").write_text("two\n")
        assert not harness_commit(checkout).endswith("-dirty")

    def test_a_wheel_names_the_commit_that_it_was_built_from(self, tmp_path: Path) -> None:
        (tmp_path / "lightning_bench").mkdir()
        assert harness_commit(tmp_path) == ""
        (tmp_path / STAMP).write_text("0123456789ab-dirty\n")
        assert harness_commit(tmp_path) == "0123456789ab-dirty"

    def test_git_is_asked_before_a_stamp_that_lies_in_a_checkout(self, checkout: Path) -> None:
        (checkout / "lightning_bench").mkdir()
        (checkout / STAMP).write_text("0123456789ab\n")
        assert harness_commit(checkout) == self.git(checkout, "rev-parse", "HEAD")[:12]

    def test_a_deleted_file_is_a_change(self, checkout: Path) -> None:
        (checkout / "code.py").unlink()
        assert harness_commit(checkout).endswith("-dirty")

    def test_only_the_top_of_our_own_checkout(self, checkout: Path) -> None:
        inside = checkout / ".venv" / "site-packages"
        inside.mkdir(parents=True)
        assert harness_commit(inside) == ""
        (inside / "pyproject.toml").write_text('[project]\nname = "lightning-bench"\n')
        assert harness_commit(inside) == ""
        (checkout / "pyproject.toml").write_text('[project]\nname = "other"\n')
        assert harness_commit(checkout) == ""
        (checkout / "pyproject.toml").write_text("not toml [")
        assert harness_commit(checkout) == ""

    def test_the_environment_names_it(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LBENCH_COMMIT", "feedfacef00d")
        assert harness_commit(checkout) == harness_commit(checkout.parent) == "feedfacef00d"
        monkeypatch.setenv("LBENCH_COMMIT", "")
        assert harness_commit(checkout) == self.git(checkout, "rev-parse", "HEAD")[:12]

    def test_a_git_hook_does_not_lead_astray(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commit = harness_commit(checkout)
        monkeypatch.setenv("GIT_DIR", "/nowhere")
        monkeypatch.setenv("GIT_INDEX_FILE", "/nowhere/index")
        assert harness_commit(checkout) == commit != ""

    def test_no_git_no_commit_yet_no_folder(
        self, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        empty = tmp_path / "empty"
        empty.mkdir()
        (empty / "pyproject.toml").write_text('[project]\nname = "lightning-bench"\n')
        assert harness_commit(empty) == ""
        self.git(empty, "init", "-q")
        assert harness_commit(empty) == ""
        assert harness_commit(tmp_path / "none") == ""
        monkeypatch.setenv("PATH", str(empty))
        assert harness_commit(checkout) == ""
