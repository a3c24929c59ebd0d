"""Runs in the second kernel, on file systems that have project quotas: prints a line for each check.

    python -m tests.second_kernel.quotas MOUNTPOINT

It is no test module itself: this machine's kernel need not have quotas. `test_second_kernel` boots
the other one and reads the lines.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from layerstore import Reader, Store
from layerstore.audit import audit
from layerstore.db import engine
from layerstore.db import statements as sql
from layerstore.errors import InvalidOption
from layerstore.fs import layout, quota
from layerstore.projects import first_of
from layerstore.testing import dying_at, hooked, points

MIB = 1 << 20
QUOTA_STEPS = {
    "create": {"SetLimit", "SetProject"},
    "mount": {"ClearLimit", "SetLimit"},
    "remove": {"ClearLimit"},
}
"""What each verb does about quotas, so that a kill cannot miss it."""
MOMENTS = 40
"""Kills at any moment."""
CHECKS: list[Callable[[Path], None]] = []


def check(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """One check of one file system, in a new directory of it."""
    CHECKS.append(function)
    return function


def new_home(place: Path) -> Path:
    """A store with a base layer, that nobody has open."""
    home = place / "home"
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("base")
    return home


def create(store: Store, layer: str, size: str = "1m") -> None:
    """A layer upon the base, with a limit."""
    store.create_read_write(layer, parent="base", storage_options={"size": size})


def first(home: Path) -> int:
    """The lowest project id that a store takes."""
    return first_of(json.loads((home / layout.STORE_FILE).read_text())["store_id"])


def projects(home: Path) -> dict[str, int]:
    """The table: which layer has which id."""
    with Reader.open(home) as reader:
        return {row[0]: row[1] for row in reader.select("SELECT layer, id FROM projects")}


def wait_until(true: Callable[[], bool]) -> None:
    """XFS lets go of inodes some time after their last link, and of their blocks with them."""
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_free(home: Path, project: int) -> None:
    """Until the kernel has let go of everything, the id is passed by."""
    wait_until(lambda: quota.usage(str(home), project).free)


def wait_for_room(store: Store, layer: str) -> None:
    """Until most of the layer is free again."""

    def empty() -> bool:
        found = store.quota(layer)
        assert found is not None
        return found.used < found.size // 2

    wait_until(empty)


def fill(path: Path, most: int) -> int:
    """Write until the quota says no; how many bytes that took. More than `most` is too many."""
    written = 0
    descriptor = -1
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
        while written <= most:
            written += os.write(descriptor, b"x" * 65536)
    except OSError as error:
        # XFS says "no space" for a project, ext4 "quota exceeded".
        assert error.errno in (errno.EDQUOT, errno.ENOSPC), error
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return written


def whole(home: Path) -> None:
    """The audit, which folds the journal anew, has nothing to say."""
    findings = [f for f in audit(home).findings if f.severity != "note"]
    assert not findings, findings


@check
def the_limit_holds_through_the_overlay(place: Path) -> None:
    """What is written to the merged view stops at the layer's size; others are not touched by it."""
    home = new_home(place)
    with Store.open(home, options=["overlay2.size=2m"]) as store:
        create(store, "one")
        store.create_read_write("two", parent="base")
        store.create_read_write("free", parent="base", storage_options={" SIZE ": "0"})
        store.create("image", parent="base")
        for layer, size in (("one", 1), ("two", 2)):
            with store.mounted(layer) as merged:
                written = fill(merged / "big", 8 * MIB)
                assert size * MIB // 2 <= written <= size * MIB, (layer, written)
                (merged / "big").unlink()
                wait_for_room(store, layer)
                assert fill(merged / "big", 8 * MIB) >= size * MIB // 2, "space comes back"
            found = store.quota(layer)
            assert found is not None
            assert (size * MIB, size * MIB) == (found.size, found.limit)
            assert size * MIB // 2 <= found.used <= size * MIB, found
        for layer in ("free", "image"):
            assert store.quota(layer) is None
            with store.mounted(layer) as merged:
                assert fill(merged / "big", 3 * MIB) > 3 * MIB
        assert ("2m", "0") == tuple(
            store.layer(layer).storage_options["size"] for layer in ("two", "free")
        )
        # Full to the brim, a layer can still be held, emptied, built upon and removed.
        with store.mounted("one") as merged:
            assert fill(merged / "more", MIB) < MIB // 2
            (merged / "big").unlink()
            wait_for_room(store, "one")
            assert fill(merged / "big", 2 * MIB) >= MIB // 4
        store.create("child", parent="one")
        store.remove("child")
        store.remove("one")
    whole(home)


@check
def an_id_is_released_with_its_limit_and_taken_again(place: Path) -> None:
    """After a removal the limit is gone; the id goes to the next layer that needs one."""
    home = new_home(place)
    with Store.open(home) as store:
        create(store, "a")
        create(store, "b")
        lowest = first(home)
        assert {"a": lowest, "b": lowest + 1} == projects(home)
        held = []
        with hooked(lambda point: held.append(projects(home))):
            store.remove("a")
        # Until its trash is gone the id stays taken, by the name that it has there.
        assert {lowest, lowest + 1} == set(held[-2].values()), held[-2]
        assert {"b": lowest + 1} == projects(home)
        wait_free(home, lowest)
        create(store, "c")
        assert {"b": lowest + 1, "c": lowest} == projects(home)
        assert store.quota("c").limit == MIB  # type: ignore[union-attr]
    whole(home)


@check
def the_ids_of_others_are_passed_by(place: Path) -> None:
    """An id that has a limit or a file on this file system is not taken, whoever has it."""
    home = new_home(place)
    lowest = first(home)
    (place / "other").mkdir()
    quota.set_project(str(place / "other"), lowest)
    quota.set_limit(str(home), lowest + 1, 4096)
    with Store.open(home) as store:
        create(store, "a")
    assert {"a": lowest + 2} == projects(home)


@check
def what_a_layer_has_belongs_to_its_project(place: Path) -> None:
    """The content has its id, and its directory has not; renames from and to there work."""
    home = new_home(place)
    with Store.open(home) as store:
        create(store, "a")
        with store.mounted("a") as merged:
            (merged / "new").mkdir()
        (number,) = projects(home).values()
        for name in ("a/diff", "a/work", "a/diff/new"):
            found = quota.project_of(f"{home}/{name}")
            assert quota.Project(number, True) == found, (name, found)
        for name in ("", "a", "base", "base/diff", layout.STAGING, layout.TRASH):
            found = quota.project_of(f"{home}/{name}")
            assert quota.Project(0, False) == found, (name, found)
        store.remove("a")


@check
def a_lost_database_gets_the_ids_from_the_tree(place: Path) -> None:
    """A rebuilt store knows the projects of its layers, and ends the limits of what it sweeps."""
    home = new_home(place)
    lowest = first(home)
    with Store.open(home) as store:
        create(store, "a", "3m")
    assert killed(home, lambda store: create(store, "b"), "create:.*Publish:before")
    for suffix in ("", "-wal", "-shm"):
        Path(f"{home / layout.DATABASE}{suffix}").unlink(missing_ok=True)
    assert quota.usage(str(home), lowest + 1).limit == MIB
    Store.rebuild(home)
    assert {"a": lowest} == projects(home)
    wait_free(home, lowest + 1)
    with Store.open(home) as store:
        assert ("3145728", 3 * MIB) == (
            store.layer("a").storage_options["size"],
            store.quota("a").size,  # type: ignore[union-attr]
        )
        create(store, "c")
        assert {"a": lowest, "c": lowest + 1} == projects(home)
    whole(home)


@check
def a_kill_at_any_step_leaves_no_id_and_no_limit_behind(place: Path) -> None:
    """Create and remove die at every trace point; the next open settles both, with id and limit."""
    template = new_home(place)
    with Store.open(template) as store:
        create(store, "kept")
    (kept,) = projects(template).values()
    points_of: dict[str, int] = {}
    for name, work in (
        ("create", lambda store: create(store, "new")),
        ("mount", lambda store: store.get("kept")),
        ("remove", lambda store: store.remove("new")),
    ):
        if name == "remove":
            with Store.open(template) as store:
                create(store, "new")
        with points() as passed, Store.open(template) as store:
            opening = len(passed)
            work(store)
        undo(template, name)
        wait_free(template, kept + 1) if name == "create" else None
        # What lies behind a step and in front of the next is one state: half of the points do.
        wanted = [
            index
            for index, point in enumerate(passed)
            if point.startswith((name, "empty")) and point.endswith((":before", "outcome:after"))
        ]
        steps = {passed[index].split(":")[2] for index in wanted}
        assert steps >= QUOTA_STEPS[name], (name, steps)
        points_of[name] = len(wanted)
        for index in wanted:
            assert die_in(template, work, index - opening), passed[index]
            check_settled(template, passed[index], kept)
            if name == "remove" and "new" not in projects(template):
                undo(template, name)
    print(f"killed at {points_of}", flush=True)
    whole(template)


@check
def a_kill_at_any_moment_leaves_no_id_and_no_limit_behind(place: Path) -> None:
    """Killed from outside, in the middle of system calls too, whatever a process was doing."""
    home = new_home(place)
    with Store.open(home) as store:
        create(store, "kept")
    (kept,) = projects(home).values()
    chance = random.Random(11)
    for number in range(MOMENTS):
        child, began = working(home)
        assert began.read(1) == b"\n"
        time.sleep(chance.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        began.close()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        check_settled(home, f"create or another, kill {number}", kept)
    with Reader.open(home) as reader:
        in_flight = len(list(reader.rows(kind="operation.claimed.v1")))
    print(f"killed {MOMENTS} times, with {in_flight} operations in flight", flush=True)
    assert in_flight >= MOMENTS // 4, in_flight
    whole(home)


def working(home: Path) -> tuple[int, BinaryIO]:
    """A process that makes, mounts and removes a layer with a limit, for ever; it says when it begins."""
    said, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with Store.open(home) as store:
                os.write(say, b"\n")
                while True:
                    create(store, "new")
                    with store.mounted("new"):
                        pass
                    store.remove("new")
        finally:
            os._exit(1)
    os.close(say)
    return child, os.fdopen(said, "rb")


def undo(home: Path, name: str) -> None:
    """What the verb changed, back."""
    with Store.open(home, durability="process") as store:
        if name == "create":
            store.remove("new")
        if name == "remove":
            create(store, "new")


def check_settled(home: Path, point: str, kept: int) -> None:
    """The layer is there with its id and limit, or neither is; nothing lies about."""
    with Store.open(home, durability="process") as store:
        there = store.exists("new")
    found = projects(home)
    assert {"kept", *(["new"] if there else [])} == set(found), (point, found)
    assert kept == found["kept"]
    for number in range(kept, kept + 4):
        limit = quota.usage(str(home), number).limit
        assert (limit == MIB) == (number in found.values()), (point, number, limit, found)
    for name in (layout.STAGING, layout.TRASH):
        assert [] == os.listdir(home / name), point
    if there and point.startswith("create"):
        undo(home, "create")


def die_in(home: Path, work: Callable[[Store], None], index: int) -> bool:
    """Do the work in a child that is killed at the trace point; whether it was."""
    child = os.fork()
    if child == 0:
        try:
            store = Store.open(home)
            with dying_at(index):
                work(store)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


def killed(home: Path, work: Callable[[Store], None], point: str) -> bool:
    """Do the work in a child that is killed at the first trace point like this."""
    import re

    child = os.fork()
    if child == 0:
        try:
            with hooked(lambda name: os.kill(os.getpid(), 9) if re.match(point, name) else None):
                work(Store.open(home))
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9


@check
def the_audit_sees_what_holds_no_more(place: Path) -> None:
    """A limit that somebody changed and files that lost their project are findings, no damage."""
    home = new_home(place)
    with Store.open(home) as store:
        create(store, "a", "1000001")
        create(store, "b")
    whole(home)
    numbers = projects(home)
    quota.set_limit(str(home), numbers["a"], 5 * MIB)
    quota.set_project(str(home / "b" / "diff"), 0)
    found = {(f.code, f.layer) for f in audit(home).findings}
    assert {("quota-differs", "a"), ("quota-not-counted", "b")} == found, found
    with Store.open(home) as store, store.mounted("a"):
        pass
    assert {("quota-not-counted", "b")} == {(f.code, f.layer) for f in audit(home).findings}


@check
def the_device_node_says_the_same(place: Path) -> None:
    """The way of older kernels, by a block device, gives the same answer and leaves no node."""
    home = new_home(place)
    with Store.open(home) as store:
        create(store, "a")
    (number,) = projects(home).values()
    buffer = bytearray(quota._DQBLK.size)
    quota.on_device(str(home), quota._XGETQUOTA << 8 | quota._PRJQUOTA, number, buffer)
    assert quota._DQBLK.unpack(buffer)[4] * 512 == MIB
    assert [] == [name for name in os.listdir(home / layout.OWN) if "quota" in name]


@check
def a_home_that_is_in_a_project_is_refused(place: Path) -> None:
    """Nothing with another id can be renamed into such a home, and the message says so."""
    home = new_home(place)
    quota.set_project(str(home), 77)
    with refused("project 77"), Store.open(home, options={"overlay2.size": "1m"}):
        pass
    with Store.open(home) as store, refused("project 77"):
        create(store, "a")


@check
def without_the_mount_option_it_is_refused(place: Path) -> None:
    """The message says which option is missing; what needs no quota works, and removal, too."""
    home = new_home(place)
    with Store.open(home) as store:
        create(store, "a")
    source, kind = next(
        (line.split()[0], line.split()[2])
        for line in Path("/proc/mounts").read_text().splitlines()
        if line.split()[1] == str(place.parent)
    )
    subprocess.run(["umount", place.parent], check=True)
    try:
        subprocess.run(["mount", "-t", kind, "-o", "noquota", source, place.parent], check=True)
        with refused("without project quotas", "pquota" if kind == "xfs" else "prjquota"):
            Store.open(home, options=["overlay2.size=1g"])
        with Store.open(home) as store:
            with refused("without project quotas"):
                create(store, "b")
            store.create_read_write("b", parent="base")
            store.remove("a")
        assert {} == projects(home)
        whole(home)
    finally:
        subprocess.run(["umount", place.parent], check=True)
        subprocess.run(["mount", "-t", kind, "-o", "prjquota", source, place.parent], check=True)
    # The kernel kept the limit meanwhile: that id is passed by.
    with Store.open(home) as store:
        create(store, "c")
        assert store.quota("c").limit == MIB  # type: ignore[union-attr]


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """InvalidOption with these words in its message or hint."""
    try:
        yield
    except InvalidOption as error:
        text = f"{error.message} {error.hint}"
        assert all(word in text for word in words), text
    else:
        raise AssertionError("it was not refused")


def check_all(checks: list[Callable[[Path], None]], mountpoint: Path) -> None:
    """Do checks on one file system, each in a new directory, and say of each how it went."""
    for function in checks:
        place = mountpoint / function.__name__
        place.mkdir()
        began = time.monotonic()
        said: dict[str, Any] = {"check": function.__name__, "failure": ""}
        try:
            function(place)
        except Exception:  # noqa: BLE001 - it goes to the test, which fails with it
            said["failure"] = traceback.format_exc()
        said["seconds"] = round(time.monotonic() - began, 2)
        print("CHECK " + json.dumps(said), flush=True)
        shutil.rmtree(place, ignore_errors=True)
    print("END", flush=True)


if __name__ == "__main__":
    print(f"driver {engine.DRIVER}, schema {sql.REVISION}, Linux {os.uname().release}")
    check_all(CHECKS, Path(sys.argv[1]))
