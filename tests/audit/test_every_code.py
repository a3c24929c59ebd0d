"""Nothing that an audit can say is without a test that makes it say so."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.audit.codes import CODES
from layerstore.fs import quota, syscalls
from tests.audit import damages
from tests.cli.running import ROOT

pytestmark = pytest.mark.root

ELSEWHERE: Final = {
    "archive-gap": "tests/store/test_compaction.py::test_the_audit_sees_gaps_and_leftovers",
    "archive-leftover": "tests/store/test_compaction.py::test_the_audit_sees_gaps_and_leftovers",
    "damaged-archive": "tests/store/test_compaction.py::test_an_archive_that_is_garbled_is_named",
    "copied-store": "tests/store/test_copies.py::test_a_copy_can_be_read_and_says_so",
    "damaged-record": "tests/audit/test_dockerd.py::test_records_that_cannot_be_read",
    "missing-record": "tests/legacy/test_verdicts.py::test_records_that_disagree_are_findings",
    "lost-records": "tests/audit/test_dockerd.py::test_records_that_are_gone",
    "unknown-to-docker": "tests/audit/test_dockerd.py::test_layers_that_docker_does_not_know",
    "unreadable": "tests/audit/test_report.py::test_one_bad_layer_does_not_hide_the_others",
    "mounted-elsewhere": "tests/audit/test_report.py::test_a_mount_in_another_namespace_is_not_lost",
    "kept-mount": "tests/audit/test_report.py::test_a_mount_that_another_namespace_keeps",
    "draining-layer": "tests/audit/test_report.py::test_what_drains_keeps_its_merged_directory",
    "doubled-project": "tests/audit/test_report.py::test_two_layers_with_one_quota_id",
    "quota-not-counted": "tests/audit/test_report.py::test_two_layers_with_one_quota_id",
    "quota-differs": "tests/second_kernel/quotas.py::",
    "quota-unknown": "tests/audit/test_every_code.py::test_limits_that_cannot_be_looked_at",
    "isolated-layer": "tests/audit/test_every_code.py::test_a_layer_that_recovery_set_apart",
    "lower-gone": "tests/audit/test_every_code.py::test_a_mount_upon_what_is_gone",
    "foreign-layer": "tests/audit/test_every_code.py::test_forms_that_are_not_known",
    "content-unreadable": "tests/audit/test_every_code.py::test_content_that_cannot_be_read",
}
"""What the table of damages does not have, and the test that does it."""


def test_every_code_is_inflicted() -> None:
    """Each code is in the table of damages, or in a named test, which says it."""
    table = {damage.code for damage in damages.ALL}
    assert set(CODES) - table == set(ELSEWHERE)
    for code, where in ELSEWHERE.items():
        path, _, name = where.partition("::")
        text = (ROOT / path).read_text()
        if name:
            assert f"\ndef {name}(" in text, where
            text = text.partition(f"\ndef {name}(")[2].partition("\n\n\n")[0]
        assert f'"{code}"' in text, where


def codes(home: Path, *, any_tree: bool = False) -> list[str]:
    """The codes of what is found."""
    return sorted({item.code for item in audit(home, any_tree=any_tree).findings})


@pytest.mark.parametrize("by", ["link", "layer"])
def test_a_mount_upon_what_is_gone(bare: Path, by: str) -> None:
    """A lower that was removed under a mount is said, whichever way it was named."""
    home = damages.make(bare, damages.TREE)
    (home / "ghost/diff").mkdir(parents=True)
    link = home / "l" / damages.LINK
    link.symlink_to("../ghost/diff")
    top = home / "side"
    (top / "merged").mkdir(exist_ok=True)
    below = link if by == "link" else home / "ghost/diff"
    options = f"lowerdir={below},upperdir={top}/diff,workdir={top}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, top / "merged"], check=True)
    link.unlink()
    shutil.rmtree(home / "ghost")
    (found,) = audit(home, any_tree=True).findings
    assert ("lower-gone", "side") == (found.code, found.layer)


@pytest.mark.parametrize("path", ["side/composefs-data", "side/mapped", "staging", "tempdirs"])
def test_forms_that_are_not_known(bare: Path, path: str) -> None:
    """What containers/storage adds is a note, and left alone; a `diff` that is a file as well."""
    home = damages.make(bare, damages.TREE)
    (home / path).mkdir()
    assert ["foreign-layer"] == codes(home, any_tree=True)
    assert audit(home, any_tree=True).clean
    shutil.rmtree(home / "alone/diff")
    (home / "alone/diff").write_text("an image")
    assert ["foreign-layer"] == codes(home, any_tree=True)


def test_a_layer_that_recovery_set_apart(bare: Path) -> None:
    """It is said with why, until a repair mends the tree and looks again."""
    home = damages.make(bare, damages.STORE)
    damages.dying(home, lambda _: None)
    damages.edit(home, "UPDATE owners SET boot_id = 'an-earlier-boot'")
    lower = (home / "top/lower").read_text()
    (home / "top/lower").write_text("l")
    with Store.open(home) as store:
        assert ["isolated"] == [item.what for item in store.settled if item.layer == "top"]
    assert ["garbled-lower-file", "isolated-layer"] == codes(home)
    (home / "top/lower").write_text(lower)
    (found,) = audit(home).findings
    assert ("isolated-layer", "top") == (found.code, found.layer)
    with Store.open(home) as store:
        assert ["done"] == [item.outcome for item in store.repair().done]
    assert [] == codes(home)


@pytest.fixture
def xfs(bare: Path) -> Iterator[Path]:
    """An XFS that keeps project ids and counts nothing."""
    image, point = bare / "xfs.img", bare / "xfs"
    with image.open("xb") as file:
        file.truncate(320 << 20)
    point.mkdir()
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, point], check=True)
    yield point


def test_limits_that_cannot_be_looked_at(xfs: Path) -> None:
    """Without quotas there are no limits to compare, which is a note."""
    home = damages.make(xfs, damages.STORE)
    damages.edit(home, "INSERT INTO projects VALUES (7, 'side', 4096, 1)")
    quota.set_project(os.fspath(home / "side/diff"), 7)
    (found,) = [item for item in audit(home).findings if "limits" in item.message]
    assert ("quota-unknown", "note") == (found.code, found.severity)


def test_content_that_cannot_be_read(bare: Path) -> None:
    """A directory of a layer that answers with an I/O error is no missing file."""
    home = damages.make(bare, damages.STORE)
    (home / "base/diff/deep").mkdir()
    (home / "base/diff/deep/file").write_text("x")
    with Store.open(home) as store:
        store.record_manifest("base")
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0"
    syscalls.mount("dead", os.fspath(home / "base/diff/deep"), "fuse", 0, options)
    os.close(device)
    found = {item.code: item for item in audit(home, content=True).findings}
    assert "content-unreadable" in found, found
    assert "base" == found["content-unreadable"].layer
    assert "content-missing" not in found
