"""An ordinary user has a store of its own, in a user namespace, with the promises of every store."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from tests.cli.running import PROGRAM, ROOT
from tests.fs.archive.trees import END, entry, pax
from tests.rootless.outsider import FIRST_SUBORDINATE, SUBORDINATES, UID, Outsider, lines

pytestmark = pytest.mark.root


@pytest.fixture
def single(bare: Path) -> Outsider:
    """A user without subordinate ids."""
    return Outsider.at(bare, subordinate=False)


@pytest.fixture
def ranged(bare: Path) -> Outsider:
    """A user with subordinate ids."""
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap (package uidmap)")
    return Outsider.at(bare, subordinate=True)


def kept(user: Outsider) -> Path:
    """Where the user's store is if nothing says otherwise."""
    return user.home / ".local/share/layerstore"


# -- the namespace -------------------------------------------------------------------------------


def test_unshare_is_root_of_one_id(single: Outsider) -> None:
    """Without subordinate ids the own id is 0 and there is no other; that is said, with the reason."""
    done = single.layerstore("unshare", "sh", "-c", "id -u; id -g; pwd; cat /proc/self/uid_map")
    uid, gid, directory, mapped = lines(done)
    assert ("0", "0", str(single.home)) == (uid, gid, directory)
    assert ["0", str(UID), "1"] == mapped.split()
    assert "/etc/subuid and /etc/subgid give user" in done.err


def test_unshare_with_subordinate_ids(ranged: Outsider) -> None:
    """With subordinate ids those follow from 1 on, for users and groups, and nothing is said."""
    done = ranged.layerstore("unshare", "sh", "-c", "cat /proc/self/uid_map /proc/self/gid_map")
    rows = [[int(word) for word in line.split()] for line in lines(done)]
    assert [[0, UID, 1], [1, FIRST_SUBORDINATE, SUBORDINATES]] * 2 == rows
    assert "" == done.err


def test_unshare_where_the_tool_refuses(ranged: Outsider) -> None:
    """Where newuidmap is there and refuses, one id is mapped and the tool's words are passed on."""
    tools = ranged.home / "tools"
    tools.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (tools / name).write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
        (tools / name).chmod(0o755)
    path = f"{tools}:{ranged.environment()['PATH']}"
    done = ranged.layerstore("unshare", "cat", "/proc/self/uid_map", PATH=path)
    assert ["0", str(UID), "1"] == lines(done)[0].split()
    assert "newgidmap: not today" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [(("sh", "-c", "exit 7"), 7), (("no-such-command",), 127), (("/etc/passwd",), 126), ((), 0)],
    ids=["exits", "is missing", "is no program", "the shell"],
)
def test_unshare_ends_as_the_command_does(
    single: Outsider, words: tuple[str, ...], code: int
) -> None:
    """The exit status is the command's; without a command it is the shell's."""
    assert code == single.inside(*words).code


def test_unshare_dies_of_the_commands_signal(single: Outsider) -> None:
    """A signal that ends the command ends what was started: it is one process, with one pid."""
    program = (*PROGRAM, "-q", "unshare", "sh", "-c", "echo $$; kill -TERM $$")
    process = subprocess.Popen(
        single.command(*program), env=single.environment(), stdout=subprocess.PIPE, text=True
    )
    said, _ = process.communicate(timeout=60)
    assert str(process.pid) == said.strip()
    assert -signal.SIGTERM == process.returncode


def test_unshare_restores_what_python_ignores(single: Outsider) -> None:
    """The command does not inherit that Python ignores SIGPIPE."""
    done = single.inside("sh", "-c", "grep SigIgn /proc/self/status")
    ignored = int(lines(done)[0].split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))


def test_root_needs_no_namespace(bare: Path) -> None:
    """As root the command runs as it is."""
    done = subprocess.run(
        [*PROGRAM, "unshare", "readlink", "/proc/self/ns/user"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert os.readlink("/proc/self/ns/user") == done.stdout.strip()
    assert "root already" in done.stderr


def test_where_namespaces_are_forbidden(ranged: Outsider) -> None:
    """Where the machine permits no more user namespaces, the limit is named."""
    inner = " ".join(PROGRAM)
    text = (
        "echo 0 > /proc/sys/user/max_user_namespaces\n"
        # As another user than root, who would be told that it needs none.
        f"setpriv --reuid 1 --clear-groups {inner} unshare true"
    )
    done = ranged.script(text)
    assert 1 == done.code, done.out + done.err
    assert "user.max_user_namespaces" in done.err


# -- a store -------------------------------------------------------------------------------------


def test_without_a_namespace(single: Outsider) -> None:
    """An ordinary user who forgets `unshare` is told so, whatever it is that changes something."""
    done = single.layerstore("init")
    assert 1 == done.code
    assert "may not mount overlays" in done.err and "'layerstore unshare COMMAND'" in done.err
    assert not kept(single).exists()
    single.program("init")
    single.program("create", "base")
    for words in (
        ("create", "x"),
        ("mount", "base"),
        ("rm", "base"),
        ("recover",),
        ("db", "rebuild"),
    ):
        refused = single.layerstore(*words)
        assert 1 == refused.code, words
        assert "layerstore unshare" in refused.err, words
    assert ["base"] == lines(single.layerstore("ls", "-q"))


LIFE = """
layerstore init
layerstore create base
mkdir -p {base}/kept {base}/hidden; echo old > {base}/kept/file; echo secret > {base}/hidden/file
layerstore create app --parent base
layerstore mount app --holder web
echo new > {app}/kept/file; rm -r {app}/hidden; mkdir {app}/hidden; touch {app}/gone; rm {app}/gone
layerstore umount app --holder web
layerstore create top --parent app
layerstore mount top --holder web
cat {top}/kept/file; ls {top}/hidden; stat -f -c %T {top}
layerstore umount top --holder web
layerstore audit
"""


def test_a_life(single: Outsider) -> None:
    """Layers are created, mounted, changed and stacked; a directory that was replaced hides the old one."""
    home = kept(single)
    places = {"base": f"{home}/base/diff", "app": f"{home}/app/merged", "top": f"{home}/top/merged"}
    assert ["new", "overlayfs"] == lines(single.script(LIFE.format(**places)))[-2:]
    assert b"y" == os.getxattr(home / "app/diff/hidden", "user.overlay.opaque")
    assert {UID} == {path.lstat().st_uid for path in home.rglob("*")}
    single.program("rm", "top", "app", "base")
    assert [".layerstore", "l"] == sorted(os.listdir(home))


APPLY = """
layerstore init
layerstore create base
layerstore apply base base.tar
layerstore create top --parent base
layerstore apply top top.tar
layerstore changes top
layerstore diff top > again.tar && cmp top.tar again.tar
for name in {bad}; do
    layerstore create $name --parent base
    layerstore apply $name $name.tar || test $? -eq 1
done
layerstore changes top --parent null
layerstore audit
"""
FOREIGN = struct.pack("<6I", 0x03000001, 1, 0, 0, 0, 7)
FORBIDDEN = {
    "null": entry("null", kind=b"3", major=b"0000001\0", minor=b"0000003\0"),
    "disk": entry("disk", kind=b"4", major=b"0000010\0"),
    "other": entry("other", uid=b"0000007\0"),
    "able": pax({"SCHILY.xattr.security.capability": FOREIGN}) + entry("able", b"1"),
    "trusted": pax({"SCHILY.xattr.trusted.x": b"1"}) + entry("trusted", b"1"),
}
"""What a namespace of one id may not make, by the name of the entry."""


def test_archives_in_a_namespace(single: Outsider) -> None:
    """Whiteouts and marks are made as a namespace may, and come out again; what it may not is refused
    with the name of the entry, and nothing of it stays.
    """
    tops = entry("d/", kind=b"5", mode=0o755)
    base = tops + entry("d/f", b"content") + entry("gone", b"1") + END
    opaque = entry("d/.wh..wh..opq", mode=0o755, mtime=b"00000000000\0")
    whole = tops + opaque + entry("d/new", b"1") + entry(".wh.gone", mode=0o600) + END
    archives = {name: entry("before", b"1") + bad + END for name, bad in FORBIDDEN.items()}
    for name, data in {"base": base, "top": whole, **archives}.items():
        (single.home / f"{name}.tar").write_bytes(data)
    done = single.script(APPLY.format(bad=" ".join(FORBIDDEN)))
    # Of its parent, and of a sibling that is empty: two ways to compare.
    assert ["C /d", "D /d/f", "A /d/new", "D /gone"] * 2 == [
        line for line in lines(done) if line[1:3] == " /"
    ]
    home = kept(single)
    assert b"y" == os.getxattr(home / "top/diff/d", "user.overlay.opaque")
    for name in FORBIDDEN:
        assert re.search(rf"^.*\b{name}\b", done.err, re.MULTILINE), done.err
        assert [] == os.listdir(home / name / "diff")
    assert [] == os.listdir(home / ".layerstore/staging")


def test_root_reads_it_right(single: Outsider) -> None:
    """Root outside mounts such a store with its own kind of marks, and sees what the user sees."""
    home = kept(single)
    places = {"base": f"{home}/base/diff", "app": f"{home}/app/merged", "top": f"{home}/top/merged"}
    assert 0 == single.script(LIFE.format(**places)).code
    with Store.open(home) as store, store.mounted("top") as path:
        assert [] == os.listdir(path / "hidden")
        assert "new\n" == (path / "kept/file").read_text()
    assert [] == list(audit(home).findings)
    assert 0 == single.program("audit").code


def test_roots_store_cannot_be_mounted_inside(ranged: Outsider, bare: Path) -> None:
    """A store that was made outside can be asked inside, and refuses to be mounted: marks would be lost."""
    home = bare / "roots"
    Store.initialize(home)
    with Store.open(home) as store:
        store.create("base")
        store.create("app", parent="base")
    for path in [home, *home.rglob("*")]:
        os.chown(path, UID, UID, follow_symlinks=False)
    done = ranged.program("--home", str(home), "mount", "app", code=1)
    assert "made outside of a user namespace" in done.err
    assert 0 == ranged.program("--home", str(home), "audit").code
    assert any("another kind" in w or "cannot be mounted" in w for w in _warnings(ranged, home))


def _warnings(user: Outsider, home: Path) -> list[str]:
    return list(
        json.loads(user.program("--home", str(home), "--json", "status").out)["status"]["warnings"]
    )


def test_a_lost_description_keeps_the_marks(single: Outsider) -> None:
    """A rebuild by root of a store whose own files are lost knows by its owner how it was made."""
    home = kept(single)
    assert (
        0
        == single.script(
            "layerstore init; layerstore create base; layerstore create a --parent base"
        ).code
    )
    subprocess.run(["rm", "-r", str(home / ".layerstore")], check=True)
    Store.rebuild(home)
    assert (home / ".layerstore/userxattr").exists()
    with Store.open(home) as store, store.mounted("a"):
        options = Path("/proc/self/mountinfo").read_text()
        (line,) = [x for x in options.splitlines() if f"{home}/a/merged" in x]
        assert "userxattr" in line


def test_files_of_several_owners(ranged: Outsider) -> None:
    """With subordinate ids a layer keeps its files' owners, and inside it can be removed again."""
    home = kept(ranged)
    text = f"""
    layerstore init; layerstore create base; layerstore create app --parent base
    d=$(layerstore mount app --holder me); mkdir $d/locked; touch $d/locked/file
    chown 1000:1000 $d/locked/file $d/locked; chmod 0 $d/locked; layerstore umount app --holder me
    stat -c %u {home}/app/diff/locked
    """
    assert "1000" == lines(ranged.script(text))[-1]
    assert FIRST_SUBORDINATE + 999 == (home / "app/diff/locked/file").stat().st_uid
    ranged.program("rm", "app", "base")
    assert [".layerstore", "l"] == sorted(os.listdir(home))


def test_files_of_others_cannot_be_removed(single: Outsider) -> None:
    """What belongs to ids that the namespace lacks stays in the trash, with the reason."""
    single.program("init")
    single.program("create", "base")
    foreign = kept(single) / "base/diff/foreign"
    foreign.mkdir()
    (foreign / "file").touch()
    os.chown(foreign, FIRST_SUBORDINATE, FIRST_SUBORDINATE)
    single.program("rm", "base")
    assert [] == lines(single.layerstore("ls", "-q"))
    done = single.program("recover", code=3)
    assert "this user namespace lacks" in done.out


# -- the promises --------------------------------------------------------------------------------


def test_two_namespaces_see_each_others_mounts(single: Outsider) -> None:
    """A layer that is mounted in one user namespace is busy in another one: the kernel is asked."""
    single.program("init")
    single.program("create", "base")
    single.program("create", "app", "--parent", "base")
    words = ("sh", "-c", f"{' '.join(PROGRAM)} mount app --holder one; read x")
    first = subprocess.Popen(
        single.command(*PROGRAM, "-q", "unshare", *words),
        env=single.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert first.stdout is not None
        assert f"{kept(single)}/app/merged\n" == first.stdout.readline()
        done = single.program("mount", "app", "--holder", "two", code=11)
        assert "mount namespace" in done.err or "in use" in done.err
    finally:
        first.communicate("\n", timeout=60)
    single.program("mount", "app", "--holder", "two")


ASK = """
import sys
from layerstore.fs.upper import upper_is_free
print(*(upper_is_free(f"{home}/diff", f"{home}/scratch") for home in sys.argv[1:]))
"""


def test_a_copied_home_is_not_busy(single: Outsider) -> None:
    """An upper that was mounted with an index, and copied with its attributes, is free in a namespace."""
    home, copy = single.home / "home", single.home / "copy"
    for name in ("lower", "diff", "work", "merged", "scratch"):
        (home / name).mkdir(parents=True)
    options = f"lowerdir={home}/lower,upperdir={home}/diff,workdir={home}/work,index=on,userxattr"
    options += ",redirect_dir=nofollow"
    subprocess.run(
        ["mount", "-t", "overlay", "-o", options, "overlay", str(home / "merged")], check=True
    )
    subprocess.run(["umount", str(home / "merged")], check=True)
    subprocess.run(["cp", "-a", str(home), str(copy)], check=True)
    assert "user.overlay.origin" in os.listxattr(copy / "diff")
    subprocess.run(["chown", "-R", f"{UID}:{UID}", str(home), str(copy)], check=True)
    asked = single.inside(sys.executable, "-c", ASK, str(home), str(copy))
    assert ["True True"] == lines(asked)


KILL_AT = [
    "create:*:MakeSymlink:after",
    "create:*:Publish:before",
    "mount:*:MountOverlay:after",
    "unmount:*:Unmount:before",
    "remove:*:MoveToTrash:after",
]


@pytest.mark.crash
def test_killed_in_a_namespace(single: Outsider) -> None:
    """Killed at its points, the next open in another namespace settles it, and the audit is clean."""
    single.program("init")
    single.program("create", "base")
    single.program("create", "app", "--parent", "base")
    for point in KILL_AT:
        verb = point.partition(":")[0]
        text = {
            "create": "layerstore create new --parent app",
            "mount": "layerstore mount app --holder x",
            "unmount": "layerstore mount app --holder y; layerstore umount app --holder y",
            "remove": "layerstore rm app",
        }[verb]
        # The failpoint kills the last program of the script.
        *first, last = text.split("; ")
        done = single.script("; ".join([*first, f"export LAYERSTORE_FAILPOINT='{point}'", last]))
        assert done.code in (-9, 137), f"{point}: {done.code}\n{done.out}{done.err}"
        single.program("recover")
        assert 0 == single.program("audit").code, point
    assert ["base"] == lines(single.layerstore("ls", "-q"))


def suite(user: Outsider, *words: str) -> str:
    """Run tests of this suite inside; its last line."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        f"{ROOT}/pyproject.toml",
    ]
    done = user.inside(*command, "--rootdir", str(ROOT), *words)
    assert 0 == done.code, done.out + done.err
    return done.out.splitlines()[-1]


@pytest.mark.crash
def test_the_lifecycle_holds_in_a_namespace(single: Outsider) -> None:
    """Every test of a store's life passes in a user namespace, with none skipped."""
    said = suite(single, f"{ROOT}/tests/store/test_lifecycle.py")
    assert "passed" in said and "skipped" not in said


@pytest.mark.crash
def test_busy_uppers_are_seen_in_a_namespace(single: Outsider) -> None:
    """Whether an upper is in use is answered right in a user namespace: mounted, leaked, detached, killed."""
    # A loop device, an index and its absence are root's.
    chosen = "probe and not ext4 and not copied and not cannot_answer"
    said = suite(single, f"{ROOT}/tests/fs/test_mount.py", "-k", chosen)
    found = re.search(r"(\d+) passed", said)
    assert found is not None and int(found[1]) >= 12 and "skipped" not in said


@pytest.mark.crash
@pytest.mark.parametrize("scenario", ["get-first-own", "put-last-own", "remove-mounted"])
def test_a_stop_at_any_point_in_a_namespace(single: Outsider, scenario: str) -> None:
    """Stopped at any point, and its recovery at any of its own, a store in a namespace loses nothing."""
    command = (sys.executable, "-m", "tests.crash.harness", "enumerate", scenario, "--seed", "1")
    done = single.inside("env", "-C", str(ROOT), *command)
    result = json.loads(done.out.splitlines()[-1])
    assert [] == result["failures"]
    assert result["points"] > 0 and result["again"] >= result["points"] // 2


def test_the_demo_needs_no_root(single: Outsider) -> None:
    """The demo of an ordinary user makes its namespace itself; all claims hold and nothing is left."""
    done = single.layerstore("demo", "--json")
    assert 0 == done.code, done.out + done.err
    document = done.json
    assert document["ok"] is True and len(document["checks"]) >= 15
    assert [] == os.listdir(single.home / "tmp")


# -- the doctor ----------------------------------------------------------------------------------


def test_the_doctor_examines_an_ordinary_user(single: Outsider) -> None:
    """The doctor tries out what works behind `unshare`, and finds that there is one id."""
    done = single.layerstore("--json", "doctor", str(single.home))
    assert 4 == done.code, done.out + done.err
    checks = {check["name"]: check for check in done.json["checks"]}
    assert "user.overlay.*" in checks["overlay"]["value"]
    assert "warning" == checks["subordinate ids"]["state"]
    assert "usermod" in checks["subordinate ids"]["advice"]
    assert ["busy uppers", "locks"] == [
        n for n in ("busy uppers", "locks") if checks[n]["state"] == "fine"
    ]
    assert ["tmp"] == os.listdir(single.home)


def test_the_doctor_is_content_with_subordinate_ids(ranged: Outsider) -> None:
    """With subordinate ids and a store there is nothing to find."""
    ranged.program("init")
    done = ranged.layerstore("--json", "doctor")
    document = done.json
    bad = [c for c in document["checks"] if c["state"] in ("warning", "problem")]
    # How full the machine is, is its own.
    assert [] == [check for check in bad if not check["name"].startswith("free ")]
    assert {check["name"]: check["value"] for check in document["checks"]}["made"].startswith(
        "in a user"
    )
