"""ResultFile: one writer, whole rows whatever happens, and a torn end repaired."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from lightning_bench.errors import LbenchError, UsageError
from lightning_bench.record import COLUMNS, Record, ResultFile, read_records
from lightning_bench.record.lock import refuse_target
from tests.support.patience import PATIENCE_S

PRELUDE = """
    import resource, signal, sys
    from lightning_bench.errors import LbenchError, UsageError
    from lightning_bench.record import Record, ResultFile

    def make(case, **changes):
        return Record(**dict(metric="speed", protocol="lbench", status="ok", case_id=case, provider="p",
            family="linear", direction="fwd", dtype="fp32", batch=1, heads=1, seq_len=1, head_dim=1,
            value_dim=1, device="cpu") | changes)

    path = sys.argv[1]
"""


def make(case: str = "a", **changes: Any) -> Record:
    values: dict[str, Any] = {
        "metric": "speed",
        "protocol": "lbench",
        "status": "ok",
        "case_id": case,
        "provider": "p",
        "family": "linear",
        "direction": "fwd",
        "dtype": "fp32",
        "batch": 1,
        "heads": 1,
        "seq_len": 1,
        "head_dim": 1,
        "value_dim": 1,
        "device": "cpu",
    }
    return Record(**(values | changes))


def start(code: str, path: Path) -> subprocess.Popen[str]:
    """Run ``code`` after PRELUDE in a process of its own."""
    source = textwrap.dedent(PRELUDE) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", source, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate("\n", timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    return output


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "folder" / "speed.csv"


class TestAppending:
    def test_a_row_is_there_when_append_returns(self, path: Path) -> None:
        with ResultFile(path) as file:
            assert read_records(path) == file.records == []
            for case in "abc":
                file.append(make(case))
                assert read_records(path) == file.records
            assert [record.case_id for record in file.records] == ["a", "b", "c"]

    def test_going_on_keeps_the_rows(self, path: Path) -> None:
        for case in "abc":
            with ResultFile(path) as file:
                file.append(make(case))
                assert file.repaired is None
        assert [record.case_id for record in read_records(path)] == ["a", "b", "c"]
        assert path.read_text().count("case_id") == 1

    def test_a_row_is_one_write(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with ResultFile(path) as file:
            calls: list[bytes] = []
            real = os.write
            monkeypatch.setattr(os, "write", lambda fd, data: (calls.append(bytes(data)), real(fd, data))[1])
            file.append(make(reason="x" * 2000))
        assert len(calls) == 1
        assert calls[0].endswith(b"\n")

    def test_kill_9_after_append_loses_nothing(self, path: Path) -> None:
        code = """
            import os
            file = ResultFile(path)
            file.append_samples(make("a"), {"ms": [1.0]})
            file.append(make("a"))
            os.kill(os.getpid(), signal.SIGKILL)
        """
        process = start(code, path)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL
        with ResultFile(path) as file:
            assert file.records == [make("a")]
            assert file.repaired is None

    def test_a_file_moved_away_is_noticed(self, path: Path) -> None:
        with ResultFile(path) as file:
            file.append(make("a"))
            path.rename(path.with_name("away.csv"))
            with pytest.raises(LbenchError, match="was moved or deleted"):
                file.append(make("b"))
        assert read_records(path.with_name("away.csv")) == [make("a")]


class TestTornEnd:
    def test_cut_at_every_byte_of_the_last_row(self, path: Path) -> None:
        last = make("c", reason='torn "here", é漢\nor there', median_ms=1.25)
        with ResultFile(path) as file:
            file.append(make("a"))
            file.append(make("b"))
            whole = path.stat().st_size
            file.append(last)
        data = path.read_bytes()
        for length in range(whole, len(data)):
            path.write_bytes(data[:length])
            with ResultFile(path) as file:
                assert file.records == [make("a"), make("b")], length
                assert path.read_bytes() == data[:whole]
                assert (file.repaired is None) == (length == whole)
                file.append(last)
            assert path.read_bytes() == data
        assert read_records(path) == [make("a"), make("b"), last]

    def test_cut_at_every_byte_of_the_header(self, path: Path) -> None:
        with ResultFile(path):
            header = path.read_bytes()
        for length in range(len(header)):
            path.write_bytes(header[:length])
            with ResultFile(path) as file:
                assert file.records == []
                assert bool(file.repaired) == bool(length)
            assert path.read_bytes() == header

    def test_a_last_line_with_other_fields_is_cut(self, path: Path) -> None:
        with ResultFile(path) as file:
            file.append(make("a"))
        whole = path.read_bytes()
        path.write_bytes(whole + b"s,speed,lbench\n")
        with ResultFile(path) as file:
            assert file.records == [make("a")]
            assert str(path) in str(file.repaired)
        assert path.read_bytes() == whole

    @pytest.mark.parametrize("end", [(b"oops", b"ROW", b"torn"), (b"oops", b"torn"), (b"oops", b"ROW", b"")])
    def test_nothing_is_cut_from_a_file_that_is_refused(self, path: Path, end: tuple[bytes, ...]) -> None:
        with ResultFile(path) as file:
            file.append(make("a"))
        header, row, _ = path.read_bytes().split(b"\n")
        broken = b"\n".join([header, *end]).replace(b"ROW", row)
        path.write_bytes(broken)
        with pytest.raises(UsageError, match="line 2: not a row"):
            ResultFile(path)
        assert path.read_bytes() == broken

    def test_a_whole_last_line_with_a_wrong_value_is_not_cut(self, path: Path) -> None:
        with ResultFile(path) as file:
            file.append(make("a"))
        data = path.read_bytes().replace(b",ok,", b",fine,")
        path.write_bytes(data)
        with pytest.raises(UsageError, match=r"line 2: .*'fine'"):
            ResultFile(path)
        assert path.read_bytes() == data


class TestHeader:
    @pytest.mark.parametrize(
        ("columns", "says"),
        [
            (list(COLUMNS)[:-1], "lacks time_utc"),
            ([*COLUMNS, "colour"], "also has colour"),
            (list(COLUMNS)[::-1], "orders them differently"),
        ],
    )
    def test_other_columns_are_named(self, path: Path, columns: list[str], says: str) -> None:
        path.parent.mkdir(parents=True)
        path.write_text(",".join(columns) + "\n")
        with pytest.raises(UsageError, match=f"(?s){says}.*--fresh.*--out"):
            ResultFile(path)
        assert path.read_text() == ",".join(columns) + "\n"

    @pytest.mark.parametrize("content", ["no newline", "a,b\n1,2\n", "\n"])
    def test_a_file_that_is_not_ours_is_left_alone(self, path: Path, content: str) -> None:
        path.parent.mkdir(parents=True)
        path.write_text(content)
        with pytest.raises(UsageError, match="is not a result file of lbench"):
            ResultFile(path)
        assert path.read_text() == content


class TestPlaces:
    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(UsageError, match="is not a file"):
            ResultFile(tmp_path / "folder.csv")

    def test_a_device_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "full.csv").symlink_to("/dev/full")
        with pytest.raises(UsageError, match="is not a file"):
            ResultFile(tmp_path / "full.csv")

    @pytest.mark.parametrize("name", ["speed", "speed.txt", ".csv", "speed.csv.gz"])
    def test_another_ending_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match=r"does not end with \.csv"):
            ResultFile(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_read_only_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
        with pytest.raises(UsageError, match=r"cannot write in the folder .*: it is read-only"):
            refuse_target(tmp_path / "x.csv")

    def test_a_parent_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match="is a file: give the name of a folder"):
            ResultFile(tmp_path / "file" / "speed.csv")

    def test_a_place_that_cannot_be_written(self) -> None:
        with pytest.raises(UsageError, match=r"cannot open /proc/speed\.csv"):
            ResultFile("/proc/speed.csv")


class TestLock:
    def test_a_second_writer_in_this_process(self, path: Path) -> None:
        with ResultFile(path):
            for fresh in (False, True):
                with pytest.raises(UsageError, match=f"another lbench sweep is writing {path}; wait for it"):
                    ResultFile(path, fresh=fresh)
        ResultFile(path).close()

    def test_a_second_writer_in_another_process(self, path: Path) -> None:
        holder = start(
            """
            with ResultFile(path) as file:
                file.append(make("a"))
                print("held", flush=True)
                sys.stdin.readline()
            """,
            path,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=r"another lbench sweep is writing .* or give --out"):
            ResultFile(path)
        assert read_records(path) == [make("a")]  # reading needs no lock
        finish(holder)
        with ResultFile(path) as file:
            assert file.records == [make("a")]
            refused = start(
                """
                try:
                    ResultFile(path, fresh=True)
                except UsageError as error:
                    print(error)
                """,
                path,
            )
            assert "another lbench sweep is writing" in finish(refused)
        assert list(path.parent.glob("speed.*.csv")) == []

    def test_a_failed_opening_leaves_no_lock(self, path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_text("not ours")
        with pytest.raises(UsageError) as kept:  # its traceback holds the object that failed
            ResultFile(path)
        path.write_text("")  # the same file, which a lock left behind would still hold
        ResultFile(path).close()
        assert kept.traceback

    def test_a_file_moved_aside_before_it_was_locked(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def move_then_lock(descriptor: int, operation: int) -> None:
            path.rename(path.with_name("aside.csv"))
            path.write_text("")

        monkeypatch.setattr("fcntl.flock", move_then_lock)
        with pytest.raises(UsageError, match="another lbench sweep is writing"):
            ResultFile(path)

    def test_closing_twice(self, path: Path) -> None:
        file = ResultFile(path)
        file.close()
        file.close()


class TestFullDisk:
    def test_a_limit_in_the_middle_of_a_row(self, path: Path) -> None:
        code = """
            import os
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            with ResultFile(path) as file:
                file.append(make("a"))
                file.append(make("b"))
                size = os.stat(path).st_size
                limit = size + 17
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                parts, real = [], os.write
                def spy(fd, data):
                    parts.append(0)
                    parts[-1] = real(fd, data)
                    return parts[-1]
                os.write = spy
                for attempt in range(2):
                    try:
                        file.append(make("c"))
                    except LbenchError as error:
                        print(type(error).__name__, error)
                os.write = real
                print(parts, os.stat(path).st_size == size, len(file.records))
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                file.append(make("d"))
        """
        first, second, third = finish(start(code, path)).splitlines()
        assert (
            first
            == second
            == f"LbenchError cannot write {path}: File too large; the 2 earlier rows are whole"
        )
        assert third == "[17, 0, 17, 0] True 2"  # a part really was written, twice, and taken back
        assert read_records(path) == [make("a"), make("b"), make("d")]

    def test_no_space_left(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.write
        with ResultFile(path) as file, open("/dev/full", "wb", buffering=0) as full:
            file.append(make("a"))
            monkeypatch.setattr(os, "write", lambda fd, data: real(full.fileno(), data))
            with pytest.raises(LbenchError) as caught:
                file.append(make("b"))
            assert str(caught.value) == (
                f"cannot write {path}: No space left on device; the 1 earlier rows are whole"
            )
            assert isinstance(caught.value.__cause__, OSError)
            assert caught.value.__cause__.errno == errno.ENOSPC
            with pytest.raises(LbenchError, match=r"cannot write .*samples\.jsonl: No space left"):
                file.append_samples(make("b"), {"ms": [1.0]})
        assert read_records(path) == [make("a")]
