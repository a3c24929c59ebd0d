"""`layerstore repair` as people and programs meet it: its words, its JSON, its exit codes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from layerstore.audit import codes
from layerstore.fs import layout
from tests.audit import damages
from tests.audit.test_report import problems
from tests.cli.running import PROGRAM, ROOT, Program, environment
from tests.repair.trees import bad, shape, works

pytestmark = pytest.mark.root


def test_a_night(bare: Path) -> None:
    """The plan changes nothing; the repair does it, says what is left, and can be taken back."""
    home = damages.make(bare, damages.STORE)
    program = Program(home)
    assert 0 == program("repair", "--plan").code
    (home / "mid/link").write_text("")
    (home / "alone/diff/of-alone").rename(bare / "kept")
    (home / "alone/diff").rmdir()
    before = shape(home)
    plan = program("repair", "--plan", code=4).out
    assert "write mid/link again" in plan and "Left as it is" in plan and "backup" in plan
    refused = program("repair", code=16)
    assert "--yes" in refused.err and before == shape(home)
    done = program("repair", "--yes", code=5)
    assert "done    write mid/link again" in done.out and "missing-diff" in done.out
    (operation,) = [line[-33:-1] for line in done.out.splitlines() if line.startswith("done ")]
    note = (home / layout.QUARANTINE / operation / "NOTE").read_text()
    assert all(word in note for word in ("mid/link", "empty-link-file", "UTC", operation))
    program("rm", "alone")
    assert [] == bad(home)
    program("repair", "--undo", operation, "--yes", code=1)
    assert "" == (home / "mid/link").read_text()
    program("repair", "--yes", "--only", "empty-link-file", code=1)
    works(home, apart={"alone"})
    assert 0 == program("repair", "--yes").code


def test_json_is_as_documented(bare: Path) -> None:
    """Plan and outcome are what the schema says, which knows every code and repair."""
    schema = json.loads((ROOT / "docs/repair.schema.json").read_text())
    item = schema["properties"]["done"]["items"]["properties"]
    assert list(codes.REPAIRS) == item["repair"]["enum"]
    assert list(codes.CODES) == schema["properties"]["plan"]["items"]["properties"]["code"]["enum"]
    home = damages.make(bare, damages.STORE)
    program = Program(home)
    (home / "mid/link").write_text("")
    (home / ".tmp-lower2").touch()
    (home / "alone/diff/.pivot_root1").mkdir()
    for words, code in ((("--plan",), 4), (("--yes",), 5), (("--yes",), 4)):
        document = json.loads(program("repair", "--json", *words, code=code).out)
        assert [] == list(problems(document, schema)), document
        if words == ("--yes",) and code == 5:
            assert ["done", "done"] == [done["outcome"] for done in document["done"]]
            assert all(done["operation"] for done in document["done"])


def test_the_quarantine_is_emptied_by_its_own_word_only(bare: Path) -> None:
    """What was set aside stays until somebody says so; then it is gone, and nothing else is."""
    home = damages.make(bare, damages.STORE)
    program = Program(home)
    (home / "new").mkdir()
    program("repair", "--yes", code=1)
    before = shape(home)
    assert [layout.QUARANTINE.rpartition("/")[2]] == [
        name for name in os.listdir(home / layout.OWN) if name == "quarantine"
    ]
    program("repair", "--empty-quarantine", code=16)
    assert 1 == len(os.listdir(home / layout.QUARANTINE))
    emptied = program("repair", "--empty-quarantine", "--yes", "--json").json["emptied"]
    assert [""] == [item["message"] for item in emptied]
    assert [] == os.listdir(home / layout.QUARANTINE) == os.listdir(home / layout.TRASH)
    assert before == shape(home) and [] == bad(home)


def test_wrong_words(bare: Path) -> None:
    """A code that there is not, an operation that was none, words that do not go together."""
    home = damages.make(bare, damages.STORE)
    program = Program(home)
    assert "no-such-code" in program("repair", "--only", "no-such-code", code=16).err
    assert "log --kind repair." in program("repair", "--undo", "0" * 32, "--yes", code=16).err
    program("repair", "--undo", "0" * 32, "--plan", code=16)
    program("repair", "--empty-quarantine", "--undo", "x", code=16)
    assert 8 == Program(bare / "nowhere")("repair", "--plan", code=8).code


def test_lost_records_are_not_believed(bare: Path) -> None:
    """Without its database nothing of a store is touched, and the way out is said."""
    home = damages.make(bare, damages.STORE)
    for path in (home / layout.OWN).glob("journal.db*"):
        path.unlink()
    before = shape(home)
    (home / "new").mkdir()
    told = Program(home)("repair", "--yes", code=4).out
    assert "THE RECORDS LOOK LOST" in told and "db rebuild" in told
    (home / "new").rmdir()
    assert before == shape(home)
    refused = Program(home)("repair", "--empty-quarantine", "--yes", code=8)
    assert "db rebuild" in refused.err


def test_somebody_who_watches_is_asked(bare: Path) -> None:
    """On a terminal the plan is shown, and nothing is done without a yes."""
    home = damages.make(bare, damages.STORE)
    (home / "mid/link").write_text("")
    for answer, code, text in ((b"n\n", 130, ""), (b"y\n", 1, damages.link_of(home, "mid"))):
        ours, theirs = pty.openpty()
        os.write(ours, answer)
        done = subprocess.run(
            [*PROGRAM, "--home", str(home), "repair"],
            env=environment(TERM="dumb"),
            stdin=theirs,
            capture_output=True,
            check=False,
            timeout=60,
        )
        os.close(ours)
        os.close(theirs)
        assert code == done.returncode, done.stderr
        assert b"write mid/link again" in done.stdout
        assert text == (home / "mid/link").read_text()
