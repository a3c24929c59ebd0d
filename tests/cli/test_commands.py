"""What the commands do to a real store, and what they say about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.running import PROGRAM, Program, environment, run

pytestmark = pytest.mark.root


@pytest.fixture
def program(home: Path) -> Program:
    """The program with an empty store."""
    return Program(home)


@pytest.fixture
def stacked(program: Program) -> Program:
    """A store with base <- middle <- top, of which top is for a container."""
    program("create", "base", "--label", "os=debian", "--label", "tier=base")
    program("create", "middle", "--parent", "base", "--label", "os=debian")
    program("create", "top", "--parent", "middle", "--read-write")
    return program


# -- init, create, rm ----------------------------------------------------------------------------


def test_init_makes_a_store_once(bare: Path) -> None:
    """init makes a store that other commands find; a second init is refused."""
    program = Program(bare / "new")
    program("init", "--max-depth", "3")
    assert program("ls", "-q").out == ""
    assert program("--json", "status").json["status"]["max_depth"] == 3
    assert "layerstore:" in program("init", code=13).err


def test_create_prints_the_id(program: Program) -> None:
    """create prints the new id; -q prints nothing; --json prints the layer."""
    assert program("create", "a").out == "a\n"
    assert program("-q", "create", "b").out == ""
    layer = program("create", "c", "--parent", "a", "--label", "k=v=w", "--json").json["layer"]
    assert ("c", "a", 1, {"k": "v=w"}) == (
        layer["id"],
        layer["parent"],
        layer["depth"],
        layer["labels"],
    )


def test_create_refuses_with_a_reason(stacked: Program) -> None:
    """An id that is taken, an unknown parent and an impossible id each have their exit code."""
    assert "exists already" in stacked("create", "base", code=13).err
    assert "no layer nobody" in stacked("create", "x", "--parent", "nobody", code=1).err
    assert "'a/b'" in stacked("create", "a/b", code=16).err
    assert stacked("ls", "-q").out.split() == ["base", "middle", "top"]


def test_a_beginning_of_an_id_is_enough(stacked: Program) -> None:
    """A unique beginning, a link id, and a path below the layer all mean the layer."""
    layer = stacked("inspect", "mid", "--json").json["layer"]
    assert layer["id"] == "middle"
    inside = stacked.home / "middle" / "diff"
    for name in (layer["link"], str(inside), f"{stacked.home}/l/{layer['link']}"):
        assert stacked("inspect", name, "--json").json["layer"]["id"] == "middle"
    stacked("create", "midnight")
    error = stacked("inspect", "mid", code=16)
    assert "middle" in error.err
    assert "midnight" in error.err


def test_a_relative_path_means_a_layer(stacked: Program) -> None:
    """A relative path is one from the current directory."""
    done = subprocess.run(
        [*PROGRAM, "--home", str(stacked.home), "lowers", "./diff"],
        cwd=stacked.home / "top",
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 2


def test_rm_takes_several_children_first(stacked: Program) -> None:
    """rm removes several layers in whatever order they are named, and prints each."""
    assert stacked("rm", "base", "middle", "top").out.split() == ["top", "middle", "base"]
    assert stacked("ls", "-q").out == ""


def test_rm_goes_on_after_a_failure(stacked: Program) -> None:
    """Of several removals one that fails does not stop the others; the exit code is 3."""
    done = stacked("rm", "nobody", "top", "base", code=3)
    assert done.out.split() == ["top"]
    assert "nobody" in done.err
    assert "has children" in done.err
    assert stacked("ls", "-q").out.split() == ["base", "middle"]


def test_rm_of_nothing_but_failures(stacked: Program) -> None:
    """If all fail for one reason the exit code is that reason's, otherwise 1."""
    stacked("rm", "base", code=13)
    stacked("rm", "base", "middle", code=13)
    stacked("rm", "base", "nobody", code=1)


def test_rm_with_json(stacked: Program) -> None:
    """With --json stdout has one document, and stderr one object for each failure."""
    done = stacked("--json", "rm", "top", "base", code=3)
    assert done.json == {"removed": ["top"], "failed": [{"id": "base", "code": "has-children"}]}
    assert done.error["exit_code"] == 13


def test_rm_force_can_be_repeated(stacked: Program) -> None:
    """rm -f takes a layer that is gone as removed, and never another whose id begins like it."""
    stacked("create", "top2")
    stacked("rm", "-f", "top")
    stacked("rm", "-f", "top")
    stacked("rm", "-f", "never-was", "top")
    assert "top2" in stacked("ls", "-q").out.split()
    stacked("rm", "-f", "base", code=13)


# -- mount, umount -------------------------------------------------------------------------------


def test_mount_prints_a_path_that_works(stacked: Program) -> None:
    """mount prints where the files are, and the hold outlives the command."""
    path = Path(stacked("mount", "top").out.rstrip("\n"))
    assert os.path.ismount(path)
    (path / "file").write_text("content")
    assert (stacked.home / "top" / "diff" / "file").read_text() == "content"
    assert stacked("holders").out.splitlines()[1].split()[:3] == ["top", "cli", "1"]
    stacked("rm", "top", code=13)
    stacked("umount", "top")
    assert not path.exists()
    stacked("rm", "top")


def test_mounts_are_counted_by_name(stacked: Program) -> None:
    """Each name has its own count; the last hold given back unmounts."""
    path = Path(stacked("mount", "top").out.rstrip("\n"))
    stacked("mount", "top")
    stacked("mount", "top", "--holder", "ci-7")
    stacked("mount", "top", LAYERSTORE_HOLDER="by-variable")
    held = {h["holder"]: h["count"] for h in stacked("--json", "holders", "top").json["holders"]}
    assert held == {"cli": 2, "ci-7": 1, "by-variable": 1}
    stacked("umount", "top")
    assert "keeps 2 holds" in stacked("umount", "top", "--holder", "ci-7").err
    stacked("umount", "top", "--holder", "ci-7", code=1)
    assert stacked("umount", "top", "--json").json["unmounted"] is False
    assert os.path.ismount(path)
    last = stacked("umount", "top", "--holder", "by-variable", "--json").json
    assert (last["unmounted"], last["holds_left"]) == (True, 0)
    assert not path.exists()


def test_a_base_layer_is_its_own_path(stacked: Program) -> None:
    """A layer without a parent is not mounted: its path is its diff directory."""
    document = stacked("mount", "base", "--json").json
    assert document == {"id": "base", "path": str(stacked.home / "base" / "diff"), "holder": "cli"}
    stacked("umount", "base")


def test_a_committed_layer_is_mounted_read_only(stacked: Program) -> None:
    """A layer with children cannot be written through its mount."""
    path = Path(stacked("mount", "middle").out.rstrip("\n"))
    with pytest.raises(OSError, match="Read-only file system"):
        (path / "file").touch()
    stacked("umount", "middle")


def test_bad_holders_are_refused(stacked: Program) -> None:
    """A holder's name that no store could accept is exit code 16."""
    for name in ("", "owner:x", "a b"):
        stacked("mount", "top", "--holder", name, code=16)
    assert stacked("--json", "holders").json["holders"] == []


def test_release_ends_the_holds_of_a_name(stacked: Program) -> None:
    """release gives back everything that a name holds, and unmounts."""
    path = Path(stacked("mount", "top", "--holder", "gone").out.rstrip("\n"))
    stacked("mount", "top", "--holder", "gone")
    assert stacked("release", "gone").out == "top\n"
    assert not path.exists()
    stacked("release", "gone", code=1)
    assert stacked("cleanup", "--json").json == {"unmounted": []}


# -- questions -----------------------------------------------------------------------------------


def test_ls_shows_and_filters(stacked: Program) -> None:
    """ls lists layers with their parents; filters have to hold together."""
    header, *lines = stacked("ls").out.splitlines()
    assert header.split()[:4] == ["ID", "PARENT", "DEPTH", "STATE"]
    assert [line.split()[:3] for line in lines] == [
        ["base", "-", "0"],
        ["middle", "base", "1"],
        ["top", "middle", "2"],
    ]
    assert stacked("ls", "-q", "--filter", "label=os").out.split() == ["base", "middle"]
    assert stacked("ls", "-q", "--filter", "label=tier=base").out.split() == ["base"]
    assert stacked("ls", "-q", "--filter", "label=os=debian", "--filter", "label=tier").out == (
        "base\n"
    )
    assert [layer["id"] for layer in stacked("ls", "--json").json["layers"]] == [
        "base",
        "middle",
        "top",
    ]


def test_tree_draws_the_chain(stacked: Program) -> None:
    """tree puts each layer below its parent."""
    stacked("create", "other", "--parent", "base")
    names = [line.split("  (")[0] for line in stacked("tree").out.splitlines()]
    assert names == ["base", "├── middle", "│   └── top", "└── other"]


def test_inspect_tells_everything(stacked: Program) -> None:
    """inspect names the chain, the directories, and what stands in the way of a removal."""
    document = stacked("inspect", "middle", "--json").json
    assert document["ancestors"] == ["base"]
    assert document["children"] == ["top"]
    assert document["metadata"]["UpperDir"] == str(stacked.home / "middle" / "diff")
    assert document["removal"]["blocked_by"]
    text = stacked("inspect", "middle").out
    for word in ("middle", "base", "top", str(stacked.home / "middle" / "diff"), "Removable"):
        assert word in text


def test_lowers_are_nearest_first(stacked: Program) -> None:
    """lowers prints the short links below a layer, which lead to the parents' directories."""
    lines = stacked("lowers", "top").out.splitlines()
    assert [Path(line).resolve().parent.name for line in lines] == ["middle", "base"]
    assert stacked("lowers", "base").out == ""


def test_whose_knows_paths(stacked: Program) -> None:
    """whose names the layer of a path, its chain, and where a merged file comes from."""
    (stacked.home / "base" / "diff" / "file").write_text("x")
    path = Path(stacked("mount", "top").out.rstrip("\n"))
    document = stacked("whose", str(path / "file"), "--json").json
    assert document["layer"]["id"] == "top"
    assert document["chain"] == ["top", "middle", "base"]
    assert document["source"] == "base"
    assert document["holders"][0]["holder"] == "cli"
    (path / "file").write_text("y")
    assert stacked("whose", str(path / "file"), "--json").json["source"] == "top"
    assert "Chain" in stacked("whose", str(stacked.home / "base" / "diff")).out
    stacked("whose", "/etc/passwd", code=1)
    stacked("umount", "top")


# -- history -------------------------------------------------------------------------------------


def test_log_is_in_order_and_filtered(stacked: Program) -> None:
    """log prints every event in order; --layer, --kind and --since choose among them."""
    documents = [json.loads(line) for line in stacked("--json", "log").out.splitlines()]
    numbers = [document["seq"] for document in documents]
    assert numbers == sorted(numbers)
    assert {1} == {document["schema"] for document in documents}
    kinds = [
        json.loads(line)["kind"]
        for line in stacked(
            "log", "--layer", "top", "--kind", "layer.created", "--json"
        ).out.splitlines()
    ]
    assert kinds == ["layer.created.v1"]
    after = stacked("--json", "log", "--since", str(numbers[-2])).out.splitlines()
    assert json.loads(after[0])["seq"] == numbers[-1]
    assert stacked("log", "--since", "2999-01-01").out == ""
    assert len(stacked("log", "--since", "2020-01-01").out.splitlines()) == len(
        stacked("log").out.splitlines()
    )


def test_history_remembers_what_is_gone(stacked: Program) -> None:
    """history tells of a layer that was removed, by its exact id, and never of another."""
    stacked("create", "top2")
    stacked("rm", "top")
    events = stacked("history", "top", "--json").json["events"]
    assert {event["layer"] for event in events} == {"top"}
    assert "layer.removed.v1" in [event["kind"] for event in events]
    assert "layer.removed" in stacked("history", "top").out
    stacked("history", "never-was", code=1)


@pytest.mark.usefixtures("heard_signals")
def test_log_follows(stacked: Program) -> None:
    """log --follow prints events as they come, and ends with 130 when interrupted."""
    with subprocess.Popen(
        [*PROGRAM, "--home", str(stacked.home), "--json", "log", "--follow", "--layer", "base"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["kind"] == "layer.create.intended.v2"
        stacked("mount", "base")
        while json.loads(process.stdout.readline())["kind"] != "hold.taken.v1":
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    stacked("umount", "base")


def test_a_reader_of_the_log_may_leave(stacked: Program) -> None:
    """`log | head -1` is quiet, whichever side ends first."""
    script = f"'{PROGRAM[0]}' -m layerstore --home '{stacked.home}' log | head -1"
    done = subprocess.run(
        ["bash", "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


# -- upkeep --------------------------------------------------------------------------------------


def test_status_counts(stacked: Program) -> None:
    """status counts layers, holds and mounts, and names SQLite and the file system."""
    stacked("mount", "top")
    status = stacked("status", "--json").json["status"]
    assert (3, 1, 1) == (status["layers"], status["mounts"], status["holds"])
    text = stacked("status").out
    for name in ("Home:", "Layers:", "SQLite:", "File system:"):
        assert name in text
    stacked("umount", "top")


def test_status_tells_how_durable_it_is(stacked: Program) -> None:
    """status has journal mode, durability and what is synced, as this program's settings have them."""
    status = stacked("status", "--json").json["status"]
    assert ("wal", "full") == (status["journal_mode"], status["durability"])
    assert "outcomes FULL; intents, gets and puts NORMAL" == status["synchronous"]
    status = stacked("status", "--json", LAYERSTORE_DURABILITY="process").json["status"]
    assert ("process", "NORMAL") == (status["durability"], status["synchronous"])
    assert "process, synchronous NORMAL" in stacked("status", LAYERSTORE_DURABILITY="process").out


def test_audit_of_a_sound_store(stacked: Program) -> None:
    """audit of a sound store exits with 0 and says what it looked at."""
    assert stacked("audit", "--json").json["clean"] is True
    done = stacked("audit")
    assert done.err.startswith("Clean.")
    assert "layers" in done.err


def test_audit_finds_damage(stacked: Program) -> None:
    """audit exits with 4 where something is wrong, names it, and changes nothing."""
    link = stacked.home / "middle" / "link"
    link.write_text("")
    document = stacked("audit", "--json", code=4).json
    assert document["clean"] is False
    assert "middle" in [finding["layer"] for finding in document["findings"]]
    assert "middle" in stacked("audit", code=4).out
    assert link.read_text() == ""


def test_audit_that_cannot_run(bare: Path) -> None:
    """audit of what is no store exits with 8."""
    done = run(["--home", str(bare), "audit"])
    assert (8, "") == (done.code, done.out)
    assert run(["--home", str(bare), "audit", "--json"]).error["code"] == "no-store"


def test_recover_with_nothing_to_do(stacked: Program) -> None:
    """recover says that there was nothing to settle."""
    assert "nothing to settle" in stacked("recover").err
    assert stacked("recover", "--json").json == {"settled": []}


def test_db_commands(stacked: Program) -> None:
    """db current and upgrade agree, and rebuild makes a database that knows the layers."""
    revisions = stacked("db", "current", "--json").json
    assert revisions["stored"] == revisions["packaged"]
    upgraded = stacked("db", "upgrade", "--json").json
    assert upgraded["before"] == upgraded["after"] == revisions["stored"]
    stacked("db", "rebuild")
    assert stacked("ls", "-q").out.split() == ["base", "middle", "top"]
    assert stacked("audit").code == 0


def test_ids_are_completed(stacked: Program) -> None:
    """The shell completes ids from the index, also after a --home on the line."""
    done = run(
        [],
        _LAYERSTORE_COMPLETE="bash_complete",
        COMP_WORDS=f"layerstore --home {stacked.home} inspect mi",
        COMP_CWORD="4",
    )
    assert done.out.split() == ["plain,middle"]


# -- a process that is killed --------------------------------------------------------------------


def test_the_points_can_be_listed(program: Program) -> None:
    """LAYERSTORE_FAILPOINT=list prints each point to stderr as it is passed."""
    points = program("create", "a", LAYERSTORE_FAILPOINT="list").err.splitlines()
    assert "create:intent:after" in points
    assert any(point.endswith(":Publish:before") for point in points)


@pytest.mark.parametrize("point", ["create:intent:after", "create:*:Publish:after"])
def test_a_killed_create_is_undone(stacked: Program, point: str) -> None:
    """A create that is killed anywhere is undone by the next command, which says so."""
    stacked("create", "x", "--parent", "top", code=-9, LAYERSTORE_FAILPOINT=point)
    done = stacked("recover")
    assert "x" in done.out
    assert stacked("ls", "-q").out.split() == ["base", "middle", "top"]
    assert stacked("audit").code == 0


def test_recovery_is_mentioned_by_any_command(stacked: Program) -> None:
    """A command whose open recovered something says so in one line, with -v in one each."""
    for flags in ((), ("-v",)):
        stacked("create", "x", code=-9, LAYERSTORE_FAILPOINT="create:intent:after")
        done = stacked(*flags, "create", "y")
        assert done.out == "y\n"
        assert "recovery" in done.err
        assert stacked("rm", "y").err == ""
