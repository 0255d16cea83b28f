"""A memory file that is followed."""

import shutil
import threading
import time

import pytest

from memoir_edge.errors import InputError
from memoir_edge_runtime.serve import watch
from memoir_edge_runtime.serve.watch import follow, signature


@pytest.fixture
def followed(tmp_path):
    """Follow a file; what was loaded, and a way to wait for more."""
    stop, seen, more = threading.Event(), [], threading.Condition()
    threads = []

    def load(path):
        with more:
            seen.append(path.read_bytes())
            more.notify()
        if seen[-1] == b"bad":
            raise InputError("bad")
        if seen[-1] == b"odd":
            raise ZeroDivisionError("odd")

    def start(file):
        threads.append(threading.Thread(target=follow, args=(file, load, stop, signature(file))))
        threads[0].start()

    def wait(n):
        with more:
            assert more.wait_for(lambda: len(seen) >= n, timeout=30)
        return seen

    yield start, wait
    stop.set()
    threads[0].join()


def _put(file, content):
    temporary = file.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(file)


def test_a_file_replaced_by_rename(followed, tmp_path):
    start, wait = followed
    file = tmp_path / "m.safetensors"
    file.write_bytes(b"0")
    start(file)
    for n, content in enumerate((b"1", b"bad", b"2"), start=1):
        _put(file, content)
        assert wait(n)[n - 1] == content
    file.unlink()
    _put(file, b"3")
    assert wait(4) == [b"1", b"bad", b"2", b"3"]  # nothing twice, nothing for its absence


def test_a_file_that_comes_later(followed, tmp_path):
    start, wait = followed
    start(tmp_path / "m")
    time.sleep(0.05)
    _put(tmp_path / "m", b"1")
    assert wait(1) == [b"1"]


def test_a_folder_that_comes_later_goes_and_comes_back(followed, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "_LOOK_MS", 20)
    start, wait = followed
    folder = tmp_path / "a" / "b"
    start(folder / "m")
    time.sleep(0.05)
    for n in (1, 2):
        folder.mkdir(parents=True)
        _put(folder / "m", b"%d" % n)
        assert wait(n)[-1] == b"%d" % n
        shutil.rmtree(folder.parent)


@pytest.mark.parametrize("error", [OSError("no more watches"), RuntimeError("spoiled")])
def test_no_error_ends_the_following(followed, tmp_path, monkeypatch, caplog, error):
    def fails(*given, **options):
        raise error

    monkeypatch.setattr(watch, "_LOOK_MS", 20)
    monkeypatch.setattr(watch.watchfiles, "watch", fails)
    start, wait = followed
    start(tmp_path / "m")
    for n, content in enumerate((b"1", b"odd", b"3"), start=1):
        _put(tmp_path / "m", content)
        assert wait(n)[-1] == content
    told = [record.fields["error"] for record in caplog.records]
    assert f"{type(error).__name__}: {error}" in told
    assert "ZeroDivisionError: odd" in told


def test_a_file_that_can_be_read_later_only(followed, tmp_path, monkeypatch):
    """As one is that is copied with strict rights, and then given to its reader."""
    monkeypatch.setattr(watch, "_LOOK_MS", 20)
    start, wait = followed
    file = tmp_path / "m"
    start(file)
    time.sleep(0.05)
    _put(file, b"bad")  # what cannot be read is refused like this
    wait(1)
    for n, rights in enumerate((0o640, 0o644), start=2):
        file.chmod(rights)
        assert len(wait(n)) == n
    time.sleep(0.1)
    assert wait(3) == [b"bad"] * 3


def test_the_way_of_kubernetes(followed, tmp_path):
    start, wait = followed
    for version in ("1", "2", "3"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "m").write_text(version)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "m").symlink_to("..data/m")
    start(tmp_path / "m")
    for n, version in enumerate(("2", "3"), start=1):
        (tmp_path / "..tmp").symlink_to(f"..{version}")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        assert wait(n)[-1] == version.encode()
