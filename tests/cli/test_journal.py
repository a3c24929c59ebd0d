"""`journal compact`, and what `status`, `log` and `audit` say afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import Store, config
from layerstore.errors import InvalidOption
from layerstore.fs import layout
from tests.cli.running import Program

pytestmark = pytest.mark.root


@pytest.fixture
def program(home: Path) -> Program:
    """The program on a store with a layer and eleven events."""
    with Store.open(home) as store:
        store.create("base")
        for _ in range(4):
            store.get("base", holder="cli")
            store.put("base", holder="cli")
    return Program(home)


def test_compact_says_what_it_moved(program: Program) -> None:
    """Its words name the events and the file; with --json the same as an object."""
    before = program("log").out
    done = program("journal", "compact", "--keep", "5")
    assert "Moved 6 events (1 to 6) to" in done.err
    assert str(program.home / layout.archive(1, 6)) in done.err
    assert "There was nothing to move." in program("journal", "compact", "--keep", "6").err
    assert program("log").out.startswith(before)
    found = program("--json", "journal", "compact", "--keep", "0", "--keep-archives", "1").json
    compaction = found["compaction"]
    assert (7, 12, 6) == (compaction["first"], compaction["last"], compaction["events"])
    assert [str(program.home / layout.archive(1, 6))] == compaction["deleted"]
    assert program("log").out.split()[0] == "7"


def test_status_tells_of_archives(program: Program) -> None:
    """How many events are in the database, how many archives there are, and since when."""
    assert "Archives" not in program("status").out
    assert program("--json", "status").json["status"]["compacted_at"] is None
    program("journal", "compact", "--keep", "5")
    assert "event 12, the newest 6 in the database" in program("status").out
    assert "1 archive, " in program("status").out
    status = program("--json", "status").json["status"]
    assert (6, 1) == (status["events"], status["archives"])
    assert status["archive_bytes"] > 0
    assert status["compacted_at"].endswith("+00:00")


def test_the_setting_and_the_flag_compact_by_themselves(program: Program) -> None:
    """Past the number that a variable, or a flag, names, a command compacts before it ends."""
    archives = program.home / layout.ARCHIVES
    program("--compact-above", "0", "mount", "base", LAYERSTORE_COMPACT_ABOVE="5")
    assert not archives.exists()
    program("umount", "base", LAYERSTORE_COMPACT_ABOVE="5")
    assert 1 == len(list(archives.iterdir()))
    for _ in range(2):
        program("--compact-above", "1", "mount", "base", LAYERSTORE_KEEP_ARCHIVES="2")
    assert 2 == len(list(archives.iterdir()))
    assert program("audit", "--archives").code == 0


def test_audit_reads_archives_if_asked(program: Program) -> None:
    """A damaged archive is a finding of `audit --archives`, and of nothing else."""
    program("journal", "compact", "--keep", "5")
    (path,) = (program.home / layout.ARCHIVES).iterdir()
    path.write_bytes(b"garbled" * 1000)
    program("audit")
    assert "damaged-archive" in program("audit", "--archives", code=4).out
    assert path.name in program("log", code=1).err


@pytest.mark.parametrize(
    ("text", "value"), [("7", 7), ("0", 0), ("all", None)], ids=["some", "none", "all"]
)
def test_archives_can_be_limited(text: str, value: int | None) -> None:
    """`keep_archives` is a number, or the word `all`."""
    assert config.load({"LAYERSTORE_KEEP_ARCHIVES": text}, {}).keep_archives == value


@pytest.mark.parametrize("name", ["COMPACT_ABOVE", "KEEP_ARCHIVES"])
@pytest.mark.parametrize("text", ["-1", "some", "1.5"])
def test_a_number_is_a_number(name: str, text: str) -> None:
    """Anything else is refused, with the setting's name."""
    with pytest.raises(InvalidOption, match=name.lower()):
        config.load({f"LAYERSTORE_{name}": text}, {})
