"""What hangs: mounts that something keeps busy when a layer is given back, removed, or recovered.

Each is made by a second process and the real kernel. Whatever it is, a verb ends in bounded time, says
who it is, does nothing by halves, and succeeds when that is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from layerstore import Store
from layerstore import model as m
from layerstore.audit import audit
from layerstore.errors import Busy, Refused, UpperBusy
from layerstore.fs import mountinfo
from tests.store.support import NAMESPACE, Worker, check_settled, findings, mounted, run

pytestmark = [pytest.mark.root, pytest.mark.crash]

BOUND = 20.0
"""Seconds that no verb takes, also on a machine that is busy; idle it is half a second."""

OPEN_TREE = """
import ctypes
held = ctypes.CDLL(None, use_errno=True).syscall(428, -100, os.fsencode({0!r}), 1)
assert held >= 0, ctypes.get_errno()
"""
"""open_tree(2) with OPEN_TREE_CLONE: a mount that is in no table."""

FUSE = """
from layerstore.fs import syscalls
device = os.open("/dev/fuse", os.O_RDWR)
syscalls.mount("dead", {0!r}, "fuse", 0, f"fd={{device}},rootmode=40000,user_id=0,group_id=0")
"""
"""A FUSE file system whose server answers nothing, and is dead when its process is."""


@attrs.frozen
class Hanging:
    """What keeps a mount: the way to make it, and to let it go."""

    make: Callable[[Worker, str], None]
    prefix: tuple[str, ...] = ()
    keeps: bool = True
    """The upper stays in use by it, whatever is unmounted here."""
    told: str = r"process {} \("
    """How the refusal names it; of a mount alone, by whoever lives in its namespace."""
    let_go: Callable[[Worker, str], object] = lambda worker, _: worker.kill()


def _says(source: str) -> Callable[[Worker, str], None]:
    return lambda worker, merged: worker.do(source.format(merged))


def _submount(worker: Worker, merged: str) -> None:
    os.mkdir(f"{merged}/sub")
    run("mount", "-t", "tmpfs", "tmpfs", f"{merged}/sub")
    worker.do(f"held = open('{merged}/sub/file', 'w')")


def _bind(worker: Worker, merged: str) -> None:
    del worker
    point = Path(merged).parents[2] / "bound"
    point.mkdir()
    run("mount", "--bind", merged, point)


def _unbind(worker: Worker, merged: str) -> None:
    del worker
    run("umount", Path(merged).parents[2] / "bound")


def _dead(at: str) -> Callable[[Worker, str], None]:
    def make(worker: Worker, merged: str) -> None:
        os.makedirs(f"{merged}/{at}", exist_ok=True)
        worker.do(FUSE.format(f"{merged}/{at}".rstrip("/")))
        worker.kill()

    return make


def _gone(worker: Worker, merged: str) -> None:
    del worker, merged


KINDS = {
    "open file": Hanging(_says("held = open('{0}/file', 'w')")),
    "current directory": Hanging(_says("os.chdir('{0}')")),
    "submount": Hanging(_submount, keeps=False),
    "bind mount": Hanging(
        _bind,
        told=r"process \d+ \(.*/bound",
        let_go=_unbind,
    ),
    "detached clone": Hanging(_says(OPEN_TREE)),
    "another namespace": Hanging(_says("pass"), NAMESPACE, keeps=False),
    "busy in another namespace": Hanging(_says("held = open('{0}/file', 'w')"), NAMESPACE),
    "dead FUSE below": Hanging(_dead("sub"), keeps=False, let_go=_gone),
    "dead FUSE upon it": Hanging(_dead(""), keeps=False, let_go=_gone),
}


@contextmanager
def bounded() -> Iterator[None]:
    """It ends in time."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND


def hold(pair: Store, worker: Callable[..., Worker], kind: str) -> tuple[Hanging, Worker, str]:
    """Let something keep the mount of `c`."""
    hanging = KINDS[kind]
    # The namespace is a copy of the one in which it is mounted already.
    process = worker(pair.home, *hanging.prefix, opened=False)
    merged = str(pair.home / "c/merged")
    hanging.make(process, merged)
    return hanging, process, merged


def refuses(hanging: Hanging, process: Worker, call: Callable[[], object]) -> None:
    """The call says who is in the way, and changes nothing."""
    with bounded(), pytest.raises(UpperBusy, match=hanging.told.format(process.pid_inside)):
        call()


def is_free(pair: Store) -> None:
    """All of it can be done now."""
    with pair.mounted("c") as path:
        (path / "again").write_text("x")
    pair.create("d", parent="c")
    pair.remove("d")
    pair.remove("c")
    assert [] == mounted(pair.home)
    check_settled(pair)


@pytest.fixture
def pair(pair: Path) -> Iterator[Store]:
    """A store with a base layer `p` and its child `c`, open."""
    with Store.open(pair) as store:
        yield store


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["put", "cleanup"])
def test_a_mount_is_given_back_though_it_hangs(pair, worker, kind, verb):
    """The hold ends at once. Nobody uses the layer while something does, and anybody after that."""
    pair.get("c")
    hanging, process, merged = hold(pair, worker, kind)
    with bounded():
        pair.put("c") if verb == "put" else pair.cleanup()
    assert [] == mounted(pair.home) and () == pair.holders("c")
    assert [] == findings(pair.home)
    if hanging.keeps:
        refuses(hanging, process, lambda: pair.get("c"))
        refuses(hanging, process, lambda: pair.create("d", parent="c"))
        refuses(hanging, process, lambda: pair.remove("c"))
        refuses(hanging, process, lambda: pair.create("d", parent="c"))
        assert pair.layer("c").draining
    hanging.let_go(process, merged)
    is_free(pair)


@pytest.mark.parametrize("kind", KINDS)
def test_a_remove_says_who_keeps_the_layer(pair, worker, kind):
    """It is refused as a whole; a child is not built meanwhile on what may still be written to."""
    pair.get("c")
    hanging, process, merged = hold(pair, worker, kind)
    if hanging.keeps:
        refuses(hanging, process, lambda: pair.remove("c"))
        assert pair.layer("c").draining
        refuses(hanging, process, lambda: pair.create("d", parent="c"))
        assert [] == findings(pair.home)
        hanging.let_go(process, merged)
        is_free(pair)
    else:
        with bounded():
            pair.remove("c")
        assert not (pair.home / "c").exists()
        hanging.let_go(process, merged)
        check_settled(pair)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", ["", "unmount:0:Unmount:before", "remove:1:RemoveDirectory:before"])
def test_recovery_of_what_hangs(pair, worker, kind, at):
    """A process that died holding the mount, or ending it, is settled, whatever else keeps it."""
    dying = worker(pair.home, "nsenter", f"--mount=/proc/{os.getpid()}/ns/mnt")
    dying.do("str(store.get('c'))")
    hanging, process, merged = hold(pair, worker, kind)
    if at:
        verb = "put" if at.startswith("unmount") else "remove"
        dying.do(f"stop_at({at!r})")
        dying.send(f"store.{verb}('c')")
        dying.stopped()
    dying.kill()
    with bounded():
        settled = pair.recover()
    assert [] == [item for item in settled if item.what == "failed"]
    assert () == pair.operations() and [] == mounted(pair.home)
    assert [] == findings(pair.home)
    if hanging.keeps:
        refuses(hanging, process, lambda: pair.create("d", parent="c"))
        refuses(hanging, process, lambda: pair.get("c"))
        hanging.let_go(process, merged)
    is_free(pair)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", KINDS)
def test_audit_and_repair_of_what_hangs(pair, worker, kind):
    """They end in time, and leave alone what is mounted and held."""
    pair.get("c", holder="docker")
    hanging, process, merged = hold(pair, worker, kind)
    with bounded():
        found = [item for item in audit(pair.home).findings if item.severity is not m.Severity.NOTE]
    covered = ["mount-differs"] if kind == "dead FUSE upon it" else []
    assert covered == [item.code for item in found]
    with bounded():
        assert () == pair.repair().done
    assert mountinfo.is_mount_root(merged) and 1 == len(pair.holders("c"))
    hanging.let_go(process, merged)
    pair.put("c", holder="docker")
    is_free(pair)


def test_a_dead_server_instead_of_a_mount(pair, worker):
    """What is no overlay is not taken for the layer: a get says so, an audit names it, an open goes on."""
    process = worker(pair.home, opened=False)
    merged = str(pair.home / "c/merged")
    KINDS["dead FUSE upon it"].make(process, merged)
    with bounded(), pytest.raises(Refused, match="no overlay"):
        pair.get("c")
    (found,) = audit(pair.home).findings
    assert "mount-differs" == found.code and "umount -l" in found.message
    with bounded(), Store.open(pair.home):
        pass
    run("umount", "-l", merged)
    is_free(pair)


def test_a_read_only_mount_elsewhere_is_seen(pair, worker):
    """Without an upper the mount tables tell; its holder, a name outside, cannot be asked."""
    pair.create("d", parent="c")
    pair.get("c", holder="docker")
    process = worker(pair.home, *NAMESPACE, opened=False)
    run("umount", pair.home / "c/merged")
    with bounded(), pytest.raises(Busy, match=f"process {process.pid_inside} "):
        pair.get("c")
    assert ["p"] == process.do(f"os.listdir('{pair.home}/c/merged')")
    process.kill()
    assert pair.get("c").is_mount()
