"""The doctor sees what is wrong with a machine, a place and a store, and changes none of them."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store, doctor
from layerstore.doctor import machine
from layerstore.doctor.checks import Check, Gravity
from tests.cli.running import Program, run
from tests.store.support import run as do
from tests.store.support import snapshot

pytestmark = pytest.mark.root


SQLITES = ("-wal", "-shm")
"""What every reader's SQLite makes."""


def checks(place: Path) -> dict[str, Check]:
    """By name, what the doctor says of a place."""
    return {check.name: check for check in doctor.examine(place).checks}


def grave(found: dict[str, Check]) -> set[str]:
    """The names of what is wrong; how full the machine is, is its own."""
    bad = {n for n, check in found.items() if check.state in (Gravity.WARNING, Gravity.PROBLEM)}
    return {name for name in bad if not name.startswith("free ") or found[name].advice == ""}


def everything(home: Path) -> dict[str, bytes]:
    """Names and contents of the store's own directory."""
    own = home / ".layerstore"
    files = [p for p in own.rglob("*") if p.is_file() and not p.name.endswith(SQLITES)]
    return {str(p.relative_to(own)): p.read_bytes() for p in files} | {
        f"{p.relative_to(own)}/": b"" for p in own.rglob("*") if p.is_dir()
    }


def test_a_sound_store(home: Path) -> None:
    """Of a sound store on a sound machine there is nothing to find, and nothing of it changes."""
    with Store.open(home) as store:
        store.create("base")
        store.create("app", parent="base")
    before = snapshot(home), everything(home)
    found = checks(home)
    assert set() == grave(found)
    assert {
        "kernel", "overlay module", "user", "SQLite", "open files", "mounts", "directory",
        "file system", "overlay", "types of entries", "opaque directories", "busy uppers", "renames",
        "native diff", "lowerdir+", "statmount", "locks", "free bytes", "propagation",
        "journal and tree", "made", "store", "journal mode", "synchronous", "durability",
        "kept probes", "layers",
    } <= set(found)  # fmt: skip
    assert before == (snapshot(home), everything(home))


def test_of_a_store_that_is_open(home: Path) -> None:
    """The doctor looks at a store also while somebody works with it."""
    with Store.open(home) as store:
        store.create("base")
        assert set() == grave(checks(home))
        assert "1, 0 mounted" in checks(home)["layers"].value
        store.create("next")


def test_a_place_without_a_store(bare: Path) -> None:
    """An empty directory and a missing one are examined, and left empty and missing."""
    (bare / "empty").mkdir()
    for place in (bare / "empty", bare / "missing"):
        document = run(["--json", "doctor", str(place)]).json
        assert document["is_store"] is False
        assert "two lowers" in {c["name"]: c["value"] for c in document["checks"]}["overlay"]
    assert ["empty"] == os.listdir(bare)
    assert [] == os.listdir(bare / "empty")
    assert "is missing" in checks(bare / "no" / "parent")["directory"].value


def test_the_command(home: Path, bare: Path) -> None:
    """It prints a line for each check, with advice where something is; exit code 0, 4 or 8."""
    done = Program(home)("doctor")
    assert "All is fine." in done.err and "busy uppers" in done.out
    assert "" == Program(home)("-q", "doctor").out
    done = run(["doctor", str(bare / "no" / "parent")])
    assert 4 == done.code
    assert "PROBLEM  directory" in done.out and "-> Make it first" in done.out
    # A directory that takes no entries, not even root's.
    assert 8 == run(["doctor", "/proc"]).code


def test_a_file_system_that_cannot(bare: Path) -> None:
    """On a ramfs it says what is missing, and what is done about it."""
    (bare / "ramfs").mkdir()
    do("mount", "-t", "ramfs", "ramfs", bare / "ramfs")
    found = checks(bare / "ramfs")
    assert {"busy uppers", "opaque directories"} == grave(found)
    assert "ext4" in found["busy uppers"].advice
    assert [] == os.listdir(bare / "ramfs")


def test_an_overlay_cannot(bare: Path) -> None:
    """On an overlay it says that these do not stack."""
    for name in ("l", "u", "w", "m"):
        (bare / name).mkdir()
    options = f"lowerdir={bare}/l,upperdir={bare}/u,workdir={bare}/w"
    do("mount", "-t", "overlay", "-o", options, "overlay", bare / "m")
    found = checks(bare / "m")
    assert "overlay" in grave(found)
    assert "does not stack" in found["overlay"].value


def test_a_journal_on_another_file_system(home: Path) -> None:
    """A bind mount of the own directory is a problem, also of the same file system; status warns too."""
    do("mount", "--bind", home / ".layerstore", home / ".layerstore")
    found = checks(home)["journal and tree"]
    assert Gravity.PROBLEM is found.state
    assert f".layerstore is another mount than {home}" in found.value
    status = Program(home)("--json", "status").json["status"]
    assert any(".layerstore is another mount" in warning for warning in status["warnings"])
    assert 4 == run(["doctor", str(home)]).code


def test_a_journal_in_another_mode(home: Path) -> None:
    """A database that something else took out of WAL mode is a problem."""
    done = sqlite3.connect(home / ".layerstore/journal.db")
    assert ("delete",) == done.execute("PRAGMA journal_mode=DELETE").fetchone()
    done.close()
    assert "delete instead of wal" in checks(home)["journal mode"].value


def test_a_store_that_does_not_open(home: Path) -> None:
    """What is wrong with the database is passed on, with its hint."""
    (home / ".layerstore/journal.db").write_bytes(b"not a database" * 300)
    found = checks(home)["store"]
    assert Gravity.PROBLEM is found.state
    assert "rebuild" in found.advice


def test_a_full_file_system(bare: Path) -> None:
    """Little space and few inodes are warnings."""
    (bare / "small").mkdir()
    do("mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=200", "tmpfs", bare / "small")
    (bare / "small/file").write_bytes(bytes(2_000_000))
    for number in range(190):
        (bare / f"small/{number}").touch()
    found = checks(bare / "small")
    assert "No space" in found["trial"].value
    assert {"free bytes", "free inodes"} <= {
        name for name, check in found.items() if check.state is Gravity.WARNING
    }


def test_a_read_only_file_system(home: Path) -> None:
    """Where nothing can be written nothing is tried, and the rest is told all the same."""
    do("mount", "--bind", home, home)
    do("mount", "-o", "remount,bind,ro", home)
    found = checks(home)
    assert {"trial", "writable"} <= grave(found)
    assert "schema" in found["store"].value


def test_few_open_files(home: Path) -> None:
    """A low limit of open files is a warning that names it."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100));"
        "from layerstore.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--home", str(home), "--json", "doctor"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 4 == done.returncode
    (check,) = [c for c in json.loads(done.stdout)["checks"] if c["name"] == "open files"]
    assert ("warning", True) == (check["state"], "RLIMIT_NOFILE" in check["value"])


@pytest.mark.parametrize(
    ("path", "content", "name", "state"),
    [
        ("/proc/sys/user/max_mnt_namespaces", "0", "user.max_mnt_namespaces", Gravity.WARNING),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces", Gravity.WARNING),
        ("/proc/sys/fs/mount-max", "3", "mounts", Gravity.WARNING),
        ("/proc/filesystems", "ext4\n", "overlay module", Gravity.WARNING),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns",
            Gravity.WARNING,
        ),
    ],
)
def test_limits_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, path: str, content: str, name: str, state: Gravity
) -> None:
    """Each limit that an ordinary user runs into is named, with the sysctl that lifts it."""
    real = machine._text
    monkeypatch.setattr(machine, "_text", lambda of: content if of == path else real(of))
    found = {check.name: check for check in machine.examine(1000)}
    assert state is found[name].state
    assert found[name].advice


def test_probes_are_of_a_kind_of_process(home: Path) -> None:
    """Probes that a process in a user namespace left are not used by root: they are made anew."""
    kept = home / ".layerstore/probes.json"
    document: dict[str, Any] = json.loads(kept.read_text())
    assert document["user_namespace"] is False
    kept.write_text(json.dumps(document | {"user_namespace": True, "kernel": "another"}))
    assert Gravity.NOTE is checks(home)["kept probes"].state
    assert any(
        "another kind" in w for w in Program(home)("--json", "status").json["status"]["warnings"]
    )
    with Store.open(home):
        assert document == json.loads(kept.read_text())


def test_probes_of_this_boot_are_kept(home: Path) -> None:
    """An open of the same boot and kind of process does not try everything out again."""
    kept = home / ".layerstore/probes.json"
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"kernel": "marked"}))
    with Store.open(home):
        assert "marked" == json.loads(kept.read_text())["kernel"]


def test_open_files_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit is not a low one."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert Gravity.FINE is machine._open_files().state
