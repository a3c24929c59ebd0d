"""SIGKILL at every libc call that changes something."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.crash import campaigns as settings
from tests.crash import shim
from tests.crash.bench import BEGIN, END
from tests.crash.campaigns import Campaigns
from tests.crash.scenarios import LONG, SCENARIOS

pytestmark = [pytest.mark.crash, pytest.mark.root]

QUIET = {"apply-refused", "create-refused", "put-refused", "remove-refused"}
"""A verb that is refused changes nothing, so there is no call to die at."""


SOONER = {
    "apply-child",
    "cleanup",
    "close-holding",
    "compact-again",
    "create-child",
    "create-collides",
    "create-probe-parent",
    "create-read-write",
    "create-sync-parent",
    "get-draining",
    "get-first-own",
    "get-lost-mount",
    "get-more-own",
    "initialize",
    "life",
    "open-close",
    "open-dead",
    "open-lost-intents",
    "put-last-own",
    "put-not-last",
    "rebuild",
    "record-applied",
    "release",
    "remove-child",
    "remove-draining",
    "remove-mounted",
    "repair-file",
}
"""Each verb, and each way of it that has steps of its own; the campaigns have the others."""


@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(name, marks=[] if name in SOONER else [pytest.mark.campaign])
        for name in sorted({*SCENARIOS, *(LONG if settings.LONG else ())} - QUIET)
    ],
)
def test_a_kill_at_any_call_loses_nothing(campaigns: Campaigns, scenario: str) -> None:
    """A process may be killed before, after or in the middle of any mutating call without loss."""
    result = campaigns.run("kills", scenario)
    assert result["points"] > 0
    assert result["points"] == result["kills"]


@pytest.mark.parametrize("scenario", sorted(QUIET))
def test_what_is_refused_changes_nothing(campaigns: Campaigns, scenario: str) -> None:
    """A verb that is refused makes no mutating call at all."""
    assert {} == campaigns.run("count", scenario)["calls"]


NAMES = {"open64": "openat", "ftruncate64": "ftruncate", "open": "openat", "openat64": "openat"}
NAMES |= {"posix_fallocate": "fallocate", "posix_fallocate64": "fallocate"}
TRACED = (
    "mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,rename,renameat,renameat2,unlink,"
    "unlinkat,rmdir,creat,openat,open,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,"
    "fallocate,copy_file_range,sendfile,fsync,fdatasync,syncfs,sync,chmod,fchmod,fchmodat,chown,"
    "lchown,fchown,fchownat,utimensat,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,"
    "fremovexattr,mount,umount2,fsopen,fsconfig,fsmount,fspick,open_tree,move_mount,flock,"
    "mmap,access,faccessat"
)


@pytest.mark.strace
@pytest.mark.parametrize("scenario", ["life", "initialize", "open-lost-intents"])
def test_the_library_sees_what_strace_sees(
    campaigns: Campaigns, scenario: str, tmp_path: Path
) -> None:
    """Every mutating system call of a scenario is one that the preloaded library counts."""
    prefix = ("strace", "-ff", "-qq", "-s", "0", "-e", f"trace={TRACED}", "-o", f"{tmp_path}/of")
    seen = campaigns.run("count", scenario, prefix=prefix)["calls"]
    marked = [text for path in tmp_path.glob("of.*") if BEGIN in (text := path.read_text())]
    (text,) = marked  # of the one child
    _, _, text = text.partition(BEGIN)
    text, _, _ = text.partition(END)
    calls = _system_calls(text)
    # One write for each verb, its acknowledgement, is the harness's own.
    calls["write"] -= len(SCENARIOS[scenario].when)
    assert +calls == _renamed(seen)


def _system_calls(text: str) -> Counter[str]:
    """How often each mutating call was made; opens only where they can create or cut."""
    found: Counter[str] = Counter()
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition("(")
        if name in ("mmap", "access", "faccessat"):
            assert "MAP_SHARED" not in rest or "PROT_WRITE" not in rest or _is_shm(rest), line
        elif name.startswith("syscall_"):
            pass  # statmount and listmount, which an older strace cannot name
        elif name not in ("open", "openat"):
            found[name] += 1
        elif re.search(r"O_CREAT|O_TRUNC|O_TMPFILE", rest):
            found["openat"] += 1
    return found


def _is_shm(rest: str) -> bool:
    """SQLite's shared index of the WAL: nobody needs it after a death."""
    return ", 32768, " in rest


def _renamed(seen: dict[str, int]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, count in seen.items():
        found[NAMES.get(name, name)] += count
    return found


def test_the_library_names_every_call_that_can_be_torn() -> None:
    """What the harness takes for a write is wrapped as a write in the library."""
    wrapped = set(re.findall(r"^WRITE\((\w+)\)", shim.SOURCE.read_text(), re.MULTILINE))
    assert set(shim.TORN) == wrapped
