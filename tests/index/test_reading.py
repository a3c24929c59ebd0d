"""How a Reader reads: from where nothing can be written, beside a writer, and nothing but the index."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Reader, Store
from layerstore.errors import ForkedStore, StoreDamaged
from layerstore.fs import layout
from tests.cli.running import ROOT, environment
from tests.index import children

pytestmark = pytest.mark.root

QUESTIONS = """
import sys
from itertools import islice
from layerstore import Reader
home, link = sys.argv[1:]
with Reader.open(home) as reader:
    reader.layer("work"), reader.exists("work"), reader.exists("nothing")
    list(reader.layers()), list(reader.layers(labels={"role": ""}))
    reader.parent("work"), reader.ancestors("work"), reader.children("hub"), reader.descendants("c00")
    reader.lower_dirs("work"), reader.metadata("work")
    reader.holders(), reader.holders("work"), reader.mount("work"), reader.mounts()
    reader.operations(), reader.owners(), reader.owners(open_only=False)
    reader.owner(reader.owners(open_only=False)[0].id)
    reader.removal_effect("work"), reader.removal_effect("hub")
    list(reader.events()), list(reader.rows(layer="work")), reader.history("gone")
    reader.last_seq(), reader.state_at(reader.last_seq() // 2)
    list(islice(reader.watch(0), 5)), list(islice(reader.watch_rows(0, layer="work"), 2))
    reader.resolve("work"), reader.resolve("wor"), reader.resolve(link)
    reader.resolve(home + "/work/merged/etc/passwd"), reader.resolve(home + "/work/diff/any")
    reader.resolve(home + "/l/" + link)
    reader.status(), reader.select("SELECT 1")
print("asked")
"""


def ids(reader: Reader) -> list[str]:
    """The ids of all layers."""
    return [layer.id for layer in reader.layers()]


@pytest.mark.strace
def test_no_question_reads_the_tree(forest: Path, tmp_path: Path) -> None:
    """Watched by strace, a Reader that is asked everything opens and stats nothing of the tree."""
    with Reader.open(forest) as reader:
        link = reader.layer("work").link
    log = tmp_path / "log"
    command = ["strace", "-f", "-y", "-qq", "-s", "4096", "-o", str(log), "-e", "trace=%file,%desc"]
    command += [sys.executable, "-c", QUESTIONS, str(forest), link]
    done = subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (0, "asked\n") == (done.returncode, done.stdout), done.stderr
    lines = [line for line in log.read_text().splitlines() if "execve(" not in line]
    named = {
        match[1] for line in lines for match in re.finditer(rf"{forest}(/[^\">,\s]*)?", line)
    } - {None}
    assert {"/.layerstore/journal.db", "/.layerstore/store.json"} <= named
    outside = {path for path in named if not path.startswith("/.layerstore")}
    assert set() == outside


@pytest.mark.strace
def test_the_watch_would_notice(forest: Path, tmp_path: Path) -> None:
    """A look at one file of the tree is seen by the same trace: the test above can fail."""
    log = tmp_path / "log"
    code = f"import os; os.stat({str(forest / 'work' / 'link')!r})"
    subprocess.run(
        ["strace", "-f", "-o", log, "-e", "trace=%file,%desc", sys.executable, "-c", code],
        check=True,
    )
    found = [line for line in log.read_text().splitlines() if "/work/link" in line]
    assert [] != [line for line in found if "execve" not in line]


def test_a_reader_writes_nothing(forest: Path) -> None:
    """Asking everything leaves journal and tree byte for byte, and second for second, as they were."""
    command = [sys.executable, "-c", QUESTIONS, str(forest)]
    with Reader.open(forest) as reader:
        command.append(reader.layer("work").link)

    def look() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.lstat().st_mtime_ns, path.lstat().st_size)
            for path in forest.rglob("*")
            if path.suffix not in {".db-shm", ".db-wal"} and path.name != ".layerstore"
        }

    before = look()
    subprocess.run(command, env=environment(), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    assert before == look()


@contextlib.contextmanager
def bound_read_only(home: Path, bare: Path) -> Iterator[Path]:
    """A home, seen through a bind mount that cannot be written."""
    point = bare / "read-only"
    point.mkdir()
    subprocess.run(["mount", "--bind", home, point], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        yield point
    finally:
        subprocess.run(["umount", point], check=True)


@pytest.fixture
def read_only(forest: Path, bare: Path) -> Iterator[Path]:
    """The forest, seen through a mount that cannot be written."""
    with bound_read_only(forest, bare) as point:
        yield point


def test_a_reader_works_where_nothing_can_be_written(forest: Path, read_only: Path) -> None:
    """On a read-only mount a closed store answers every question, with the paths of that mount."""
    with pytest.raises(OSError, match="Read-only"):
        (read_only / "file").touch()
    with Reader.open(forest) as there, Reader.open(read_only) as here:
        assert list(there.layers()) == list(here.layers())
        assert list(there.events()) == list(here.events())
        assert f"{read_only}/work/merged" == here.metadata("work")["MergedDir"]
        assert there.status().seq == here.status().seq
    link = Reader.open(read_only)
    command = [sys.executable, "-c", QUESTIONS, str(read_only), link.layer("work").link]
    link.close()
    subprocess.run(command, env=environment(), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_a_reader_on_a_read_only_mount_sees_what_is_in_the_wal(
    forest: Path, read_only: Path
) -> None:
    """While another process has the store open, its commits are seen through the read-only mount too."""
    with children.Gate() as written, children.Gate() as done:

        def work() -> None:
            with Store.open(forest) as store:
                store.get("lone", holder="of-the-child")
                written.open()
                done.wait()
                store.put("lone", holder="of-the-child")

        with children.running(work) as child:
            written.wait()
            with Reader.open(read_only) as reader:
                assert "of-the-child" in {hold.holder for hold in reader.holders("lone")}
            done.open()
            assert 0 == child.wait().code


def killed_with_a_wal(home: Path) -> None:
    """Create a layer and die: it stands in the WAL only."""

    def work() -> None:
        Store.open(home).create("base")
        os.kill(os.getpid(), signal.SIGKILL)

    assert signal.SIGKILL == children.run(work).signal
    assert 0 < (home / f"{layout.DATABASE}-wal").stat().st_size


def test_what_a_dead_process_left_can_be_read_from_a_read_only_mount(
    home: Path, bare: Path
) -> None:
    """After a kill the WAL that it left is read also through a mount that cannot be written."""
    killed_with_a_wal(home)
    with bound_read_only(home, bare) as point, Reader.open(point) as reader:
        assert ["base"] == ids(reader)
        assert [1] == [len(reader.owners())]


def test_a_wal_that_cannot_be_read_is_not_called_damage_to_rebuild(home: Path, bare: Path) -> None:
    """Where SQLite cannot read a WAL for want of a place to write, nobody is told to rebuild."""
    killed_with_a_wal(home)
    (home / f"{layout.DATABASE}-shm").unlink()
    with bound_read_only(home, bare) as point:
        with pytest.raises(StoreDamaged, match="write-ahead log") as caught:
            Reader.open(point)
        assert "rebuild" not in caught.value.hint
    with Store.open(home) as store:
        assert ["base"] == ids(store)


def test_a_reader_sees_whole_operations_while_a_store_writes(home: Path) -> None:
    """Beside a process that creates and removes, every answer is one that was true at some moment."""
    with Store.open(home) as store:
        store.create("base")

    with children.Gate() as begun, children.Gate() as enough:

        def churn() -> int:
            import select

            made = 0
            with Store.open(home, durability="process") as store:
                begun.open()
                while not select.select([enough._reader], [], [], 0)[0]:
                    name = f"n{made % 5}"
                    store.create(name, parent="base")
                    with store.mounted(name):
                        pass
                    store.remove(name)
                    made += 1
            return made

        with children.running(churn) as child, Reader.open(home) as reader:
            begun.wait()
            last = 0
            for _ in range(300):
                layers = list(reader.layers())
                assert {"base"} <= {layer.id for layer in layers}
                assert {layer.parent for layer in layers if layer.id != "base"} <= {"base"}
                assert all(layer.state != "creating" for layer in layers)
                assert len(reader.mounts()) <= 1
                seq = reader.last_seq()
                assert last <= seq
                last = seq
            enough.open()
            assert child.wait().result > 0
    with Reader.open(home) as reader:
        assert ["base"] == ids(reader)


def test_a_forked_child_cannot_use_its_parents_reader(forest: Path) -> None:
    """In a forked child every question to an inherited Reader is ForkedStore; the parent's works on."""
    with Reader.open(forest) as reader:
        pid = os.getpid()

        def ask() -> tuple[str, ...]:
            refused = []
            for question in (
                reader.layer,
                reader.children,
                reader.holders,
                reader.history,
                reader.resolve,
            ):
                with pytest.raises(ForkedStore, match=f"opened by process {pid}"):
                    question("work")
                refused.append(question.__name__)
            with pytest.raises(ForkedStore):
                next(iter(reader.layers()))
            with Reader.open(forest) as own:
                assert "work" == own.layer("work").id
            return tuple(refused)

        assert 5 == len(children.run(ask).result)
        assert "work" == reader.layer("work").id


def test_a_reader_that_a_forked_child_closes_lives_on(home: Path) -> None:
    """A forked child that closes its copy, and ends as interpreters end, takes no lock from the parent."""
    with Store.open(home) as store:
        store.create("base")
        with Reader.open(home) as reader:
            pid = os.fork()
            if pid == 0:
                try:
                    reader.close()
                finally:
                    os._exit(0)
            assert 0 == os.waitpid(pid, 0)[1]
            writes = "from layerstore import Store\nwith Store.open({!r}) as s: s.create('other')"
            command = [sys.executable, "-c", writes.format(str(home))]
            subprocess.run(command, env=environment(), cwd=ROOT, check=True)
            store.create("after")
            assert ["after", "base", "other"] == ids(reader)
    with Reader.open(home) as reader:
        assert ["after", "base", "other"] == ids(reader)
