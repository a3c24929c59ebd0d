"""What the audit says, and how: the table of codes, the JSON, the words, what it touches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store
from layerstore.audit import VERSION, audit, codes
from layerstore.fs import layout
from tests.audit import damages
from tests.audit.test_damages import aged, everything, mounts
from tests.cli.running import ROOT, Program, environment, run

pytestmark = pytest.mark.root

DOCUMENT = ROOT / "docs/audit.md"
SCHEMA = ROOT / "docs/audit.schema.json"


@pytest.mark.parametrize(
    ("mark", "table"), [("codes", codes.as_markdown), ("repairs", codes.repairs_as_markdown)]
)
def test_documentation_has_every_code(mark: str, table: Any) -> None:
    """The tables of docs/audit.md are those of the code."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- end of {mark} -->", text, re.DOTALL)
    assert found is not None
    assert table() == found[1]


def test_repairs_are_known() -> None:
    """Every repair of a code is in the table of repairs, with the command that does it."""
    for code in codes.CODES.values():
        assert set(code.repairs) <= set(codes.REPAIRS)
        assert all(codes.REPAIRS[name].command for name in code.repairs)


def test_every_code_is_used() -> None:
    """No code stands in the table that nothing ever finds, and none is found that is not in it."""
    sources = [path.read_text() for path in (ROOT / "layerstore/audit").glob("*.py")]
    used = set(
        re.findall(r'"([a-z]+(?:-[a-z]+)*)"', "".join(s for s in sources if "_ALL: Final" not in s))
    )
    named = set(codes.CODES)
    assert named - used <= {"staging-leftover", "trash-leftover"}  # made of a name
    assert "f\"{place.rpartition('/')[2]}-leftover\"" in "".join(sources)


# --- JSON -----------------------------------------------------------------------------------------


def problems(value: Any, schema: Any, at: str = "$") -> Iterator[str]:
    """What is wrong with a value by the part of JSON Schema that ours uses."""
    kinds = {
        "object": dict, "array": list, "string": str, "boolean": bool, "integer": int,
        "null": type(None),
    }  # fmt: skip
    wanted = schema.get("type", [])
    names = [wanted] if isinstance(wanted, str) else wanted
    fits = [
        n for n in names if isinstance(value, kinds[n]) and (n != "integer" or value is not True)
    ]
    if names and not fits:
        yield f"{at}: {value!r} is no {names}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{at}: {value!r} is not {schema['const']!r}"
    if isinstance(value, dict):
        known = schema.get("properties", {})
        yield from (
            f"{at}: {name} is missing" for name in schema.get("required", []) if name not in value
        )
        for name, inner in value.items():
            other = schema.get("additionalProperties", True)
            if name not in known and other is False:
                yield f"{at}: {name} is not known"
            yield from problems(
                inner, known.get(name, other if isinstance(other, dict) else {}), f"{at}.{name}"
            )
    if isinstance(value, list):
        for number, inner in enumerate(value):
            yield from problems(inner, schema.get("items", {}), f"{at}[{number}]")


def test_json_is_as_documented(bare: Path) -> None:
    """The document of a clean and of a damaged store is what the schema says, with every code there."""
    schema = json.loads(SCHEMA.read_text())
    finding = schema["properties"]["findings"]["items"]
    assert list(codes.CODES) == finding["properties"]["code"]["enum"]
    home = damages.make(bare, damages.STORE)
    clean = run(["--home", str(home), "audit", "--json"])
    assert (0, "") == (clean.code, clean.err)
    assert [] == list(problems(json.loads(clean.out), schema))
    (home / "mid/link").write_text("")
    (home / layout.TRASH / "left").mkdir()
    damaged = run(["--json", "audit", str(home)])
    document = json.loads(damaged.out)
    assert 4 == damaged.code
    assert [] == list(problems(document, schema))
    assert (VERSION, False, False) == (
        document["audit"],
        document["clean"],
        document["lost_metadata"],
    )
    assert {"damage": 1, "leftover": 1, "drift": 0, "note": 0} == document["summary"]
    first, second = document["findings"]
    assert ("empty-link-file", "mid", 1, ["top"]) == tuple(
        first[name] for name in ("code", "layer", "dependents", "depends")
    )
    assert second["bytes"] is not None


# --- words and exit codes -------------------------------------------------------------------------


def test_words_for_the_night(bare: Path) -> None:
    """What is damaged comes first, with whom it hits; many findings of a kind are cut short."""
    home = damages.make(bare, damages.STORE)
    program = Program(home)
    (home / "base/link").write_text("")
    for number in range(15):
        (home / layout.STAGING / f"{number:032}").mkdir()
    done = program("audit", code=4)
    lines = done.out.splitlines()
    assert lines[0].startswith("Damage")
    assert "empty-link-file (1)" in lines[1]
    assert "3 others depend on it" in lines[2]
    assert "… and 5 more (-v lists them)" in done.out
    assert "1 layer is damaged" in done.out
    assert done.err.startswith("16 findings. Checked: ")
    assert f"{14:032}" not in done.out
    assert f"{14:032}" in program("audit", "-v", code=4).out


def test_lost_records_are_said_first(bare: Path) -> None:
    """Where the records are lost, that is the first line, and nothing is offered that removes."""
    home = damages.make(bare, damages.STORE)
    (home / layout.DATABASE).write_bytes(b"")
    (home / f"{layout.DATABASE}-wal").write_bytes(b"")
    done = Program(home)("audit", code=4)
    assert done.out.startswith("THE RECORDS LOOK LOST, NOT THE LAYERS.")
    assert "'layerstore db rebuild' begins a journal anew from the tree." in done.out


def test_progress_on_a_terminal(bare: Path) -> None:
    """Who watches a long run sees how far it is, on stderr; results are not mixed with it."""
    home = damages.make(bare, damages.STORE)
    above, below = os.openpty()
    script = (
        "import layerstore.cli.audit as a; a._SOON = 0.0; from layerstore.cli import main; main()"
    )
    words = ["--home", str(home), "audit"]
    with open(above, "rb", buffering=0) as terminal:
        done = subprocess.run(
            [sys.executable, "-c", script, *words],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=below,
            check=False,
        )
        os.close(below)
        said = terminal.read(1 << 16).decode()
    assert (0, b"") == (done.returncode, done.stdout)
    assert re.search(r"events .*100%", said)
    assert re.search(r"layers .*100%", said)
    assert "Clean." in said


@pytest.mark.parametrize(
    ("words", "code"),
    [(("{bare}",), 8), (("{bare}/nothing",), 8), (("/proc/self/status",), 8), (("--so",), 16), (("a", "b"), 16)],
)  # fmt: skip
def test_what_cannot_be_audited(bare: Path, words: tuple[str, ...], code: int) -> None:
    """What is no tree ends with 8, a mistake in the words with 16."""
    done = run(["audit", *(word.format(bare=bare) for word in words)])
    assert (code, "") == (done.code, done.out)
    assert done.err


# --- what it touches ------------------------------------------------------------------------------

WRITING = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND")
LOOKED_AT = (
    "%file,flock,fcntl,fchmod,fchown,ftruncate,fallocate,write,pwrite64,writev,unlinkat,umount2,"
    "?fsopen,?fsmount,?move_mount,?open_tree,?mount_setattr,fsetxattr,fremovexattr,ioctl"
)
HARMLESS = re.compile(
    r"^(?:open|openat|readlink|readlinkat|l?stat|newfstatat|statx|access|faccessat2?|fstat|statfs|"
    r"getdents64|chdir|getcwd|execve|l?getxattr|l?listxattr)\("
)


def calls(log: Path, place: str) -> Iterator[str]:
    """The calls about a place, or that mount."""
    for line in log.read_text(errors="replace").splitlines():
        call = re.sub(r"^\d+ +", "", line)
        if place in call or re.match(
            r"u?mount|fsopen|fsmount|move_mount|open_tree|mount_setattr", call
        ):
            yield call


def straced(log: Path, home: Path) -> int:
    """Audit a home under strace; the exit code."""
    command = ["strace", "-f", "-y", "-qq", "-s", "300", "-o", str(log), "-e", f"trace={LOOKED_AT}"]
    command += [sys.executable, "-m", "layerstore", "--home", "/nonexistent", "audit", str(home)]
    done = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        cwd="/",
    )
    return done.returncode


@pytest.mark.strace
def test_a_live_tree_of_others_is_only_read(bare: Path) -> None:
    """Under strace: of a mounted Docker tree nothing is opened for writing, locked, or mounted; to the last
    xattr and time of access it is as it was, and so is the mount table.
    """
    (bare / "under").mkdir()
    home = damages.make(bare / "under", damages.TREE)
    damages.overlay(home, "side", "base")
    (home / "l" / damages.LINK).symlink_to("../no/diff")
    aged(home)
    log = bare / "strace.log"
    before = everything(bare / "under"), mounts()
    assert 4 == straced(log, home)
    assert before == (everything(bare / "under"), mounts())
    seen = list(calls(log, str(home)))
    assert len(seen) > 50
    assert [] == [call for call in seen if WRITING.search(call) or (not HARMLESS.match(call)
                  and not re.match(r"fcntl\(\d+<[^>]*>, F_(DUPFD_CLOEXEC|GETFL|GETFD|SETFD)", call))]  # fmt: skip


@pytest.mark.strace
def test_of_a_store_only_its_log_is_opened_by_sqlite(bare: Path) -> None:
    """Under strace: SQLite opens its log as it always does, takes shared locks, and writes nothing.

    When it closes it asks for more, of a descriptor that may not write, and is refused.
    """
    (bare / "under").mkdir()
    home = damages.make(bare / "under", damages.STORE)
    aged(home)
    log = bare / "strace.log"
    before = everything(bare / "under"), mounts()
    assert 0 == straced(log, home)
    assert before == (everything(bare / "under"), mounts())
    seen = [call for call in calls(log, str(home)) if " = -1 " not in call]
    opened = [call for call in seen if WRITING.search(call) and not call.startswith("fcntl")]
    assert {"journal.db-wal"} == {
        name for c in opened for name in re.findall(r"journal\.db[-a-z]*", c)
    }
    assert [] == [
        c for c in seen if re.search(r"F_WRLCK|LOCK_EX|^p?write|^fchmod|^unlink|^ftruncate", c)
    ]


@pytest.mark.strace
def test_one_bad_layer_does_not_hide_the_others(bare: Path) -> None:
    """Where the disk fails under one layer, that is a finding, and everything else is looked at."""
    home = damages.make(bare, damages.STORE)
    (home / "top/lower").write_text("")
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(home / "alone")]
    command += ["-e", "trace=openat", "-e", "inject=openat:error=EIO"]
    command += [sys.executable, "-m", "layerstore", "--json", "audit", str(home)]
    done = subprocess.run(
        command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    )
    found = [(item["code"], item["layer"]) for item in json.loads(done.stdout)["findings"]]
    assert 4 == done.returncode
    assert [("empty-lower-file", "top"), ("unreadable", "alone")] == found


def test_a_medium_that_cannot_be_written(bare: Path) -> None:
    """A store on a read-only mount is audited, with its log and without."""
    home = damages.make(bare, damages.STORE)
    (home / "mid/link").write_text("")
    point = bare / "point"
    point.mkdir()
    for again in (False, True):
        if again:  # as after `journal_mode` was reset, or a copy without the log
            damages.edit(home, "PRAGMA user_version")
            for name in ("-shm", "-wal"):
                Path(f"{home}/{layout.DATABASE}{name}").unlink(missing_ok=True)
        subprocess.run(["mount", "--bind", home, point], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
        try:
            found = audit(point).findings
        finally:
            subprocess.run(["umount", point], check=True)
        assert ["empty-link-file"] == [item.code for item in found if item.severity != "note"]
        assert audit(home).checked["layers"] == len(damages.CHAIN)


def test_a_log_without_its_shared_memory_is_copied(bare: Path) -> None:
    """What only the log has is seen, where nobody has it open, and no file appears beside it."""
    home = damages.make(bare, damages.STORE)
    Path(f"{home}/{layout.DATABASE}-shm").unlink()
    assert os.path.getsize(f"{home}/{layout.DATABASE}-wal") > 0
    before = sorted(os.listdir(home / layout.OWN))
    report = audit(home)
    assert () == report.findings
    assert len(damages.CHAIN) == report.checked["layers"]
    assert before == sorted(os.listdir(home / layout.OWN))


# --- mounts elsewhere -----------------------------------------------------------------------------

HOLDING = "echo here; read line"


@pytest.fixture
def elsewhere(bare: Path) -> Iterator[Any]:
    """Start a shell in a mount namespace of its own; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> subprocess.Popen[str]:
        command = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            f"{script} && {HOLDING}",
        ]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert "here\n" == process.stdout.readline()
        return process

    yield start
    for process in started:
        ended(process)


def ended(process: subprocess.Popen[str]) -> None:
    """Let a shell end, and its namespace with it."""
    if process.poll() is None:
        process.communicate("\n", timeout=30)


def test_a_mount_in_another_namespace_is_not_lost(bare: Path, elsewhere: Any) -> None:
    """It is said where it lives and by which process, and the store is clean."""
    home = damages.make(bare, damages.STORE)
    with Store.open(home) as store:
        store.get("side", holder="docker")
        process = elsewhere("true")
        subprocess.run(["umount", home / "side/merged"], check=True)
        found = audit(home).findings
    assert ["mounted-elsewhere"] == [item.code for item in found]
    assert f"process {process.pid} (" in found[0].message
    ended(process)
    assert ["lost-mount"] == [item.code for item in audit(home).findings]


def test_a_mount_that_another_namespace_keeps(bare: Path, elsewhere: Any) -> None:
    """A mount that the journal does not know and that only another namespace has is said with who keeps it."""
    home = damages.make(bare, damages.STORE)
    top = home / "side"
    options = f"lowerdir={home}/base/diff,upperdir={top}/diff,workdir={top}/work"
    (top / "merged").mkdir()
    process = elsewhere(f"mount -t overlay overlay -o {options} {top}/merged")
    (found,) = audit(home).findings
    assert "kept-mount" == found.code
    assert str(process.pid) in found.message


def test_what_drains_keeps_its_merged_directory(bare: Path) -> None:
    """A layer that is still in use elsewhere has a note, and no leftover."""
    home = damages.make(bare, damages.STORE)
    damages.edit(home, "UPDATE layers SET draining = 1 WHERE id = 'side'")
    (home / "side/merged").mkdir()
    found = {item.code: item.severity for item in audit(home).findings}
    assert {"draining-layer", "projection-differs"} == set(found)
    assert "note" == found["draining-layer"]


def test_two_layers_with_one_quota_id(bare: Path) -> None:
    """A layer whose files count against another's limit is named, with the other."""
    from layerstore.fs import quota

    image, point = bare / "xfs.img", bare / "xfs"
    with image.open("xb") as file:
        file.truncate(320 << 20)
    point.mkdir()
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    home = damages.make(point, damages.STORE)
    damages.edit(home, "INSERT INTO projects VALUES (7, 'side', 4096, 1)")
    quota.set_project(os.fspath(home / "lone/diff"), 7)
    found = {item.code: item for item in audit(home).findings}
    assert ("lone", ("side",)) == (found["doubled-project"].layer, found["doubled-project"].also)
    assert "side" == found["quota-not-counted"].layer
