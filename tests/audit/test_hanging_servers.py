"""A server that never answers, wherever its mount lies in a tree: it is named, and everything else is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerstore import Store
from layerstore.fs import layout, syscalls
from tests.audit import damages
from tests.cli.running import environment

pytestmark = pytest.mark.root

BOUND = 60.0
"""Seconds, on a machine that is busy: whoever asks the server waits for ever."""
TRASHED = f"{layout.TRASH}/{'e' * 32}"


@pytest.fixture
def hang() -> Iterator[Any]:
    """Mount a FUSE file system whose server reads no request."""
    devices: list[int] = []

    def mount(point: Path) -> None:
        point.mkdir(parents=True, exist_ok=True)
        devices.append(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
        options = f"fd={devices[-1]},rootmode=40000,user_id=0,group_id=0"
        syscalls.mount("hanging", os.fspath(point), "fuse", 0, options)

    yield mount
    for device in devices:
        os.close(device)


def asked(*words: str, code: int) -> Any:
    """What a command says, on whichever stream, that ends in time."""
    command = [sys.executable, "-m", "layerstore", "--json", *words]
    done = subprocess.run(
        command,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    assert code == done.returncode, done.stderr
    return json.loads(done.stdout or done.stderr)


def found(document: Any) -> dict[str, Any]:
    """The findings by their codes, notes apart."""
    return {item["code"]: item for item in document["findings"] if item["severity"] != "note"}


PLACES = {
    "mid": "unreadable",
    "mid/diff": "unreadable",
    "mid/work": "unreadable",
    "mid/lower": "unreadable",
    "side/merged": "mount-differs",
}


def prepare(home: Path, place: str, hang: Any) -> None:
    """A layer that is damaged, beside a mount that hangs."""
    (home / "alone/link").write_text("")
    if place == "mid/lower":
        (home / place).unlink()
    hang(home / place)


@pytest.mark.parametrize("place", PLACES)
def test_of_a_store_the_rest_is_audited_and_repaired(bare: Path, hang: Any, place: str) -> None:
    """The place is named, the damage of another layer is found and mended, and no request is waited for."""
    home = damages.make(bare, damages.STORE)
    prepare(home, place, hang)
    seen = found(asked("audit", str(home), code=4))
    assert {"empty-link-file", PLACES[place]} == set(seen)
    hit = seen[PLACES[place]]
    assert place.partition("/")[0] == hit["layer"]
    assert place in hit["message"] and "fuse" in hit["message"]
    done = asked("--home", str(home), "repair", "--yes", code=5)
    assert ["write-link"] == [item["repair"] for item in done["done"]]
    assert [PLACES[place]] == [item["code"] for item in done["left"]]
    assert {PLACES[place]} == set(found(asked("audit", str(home), code=4)))


@pytest.mark.crash
@pytest.mark.campaign
@pytest.mark.parametrize("place", PLACES)
def test_so_is_any_tree(bare: Path, hang: Any, place: str) -> None:
    """The same of a tree without a database."""
    home = damages.make(bare, damages.TREE)
    prepare(home, place, hang)
    seen = found(asked("audit", str(home), code=4))
    assert "empty-link-file" in seen and place in seen[PLACES[place]]["message"]
    assert {"empty-link-file", PLACES[place]} == set(seen)


def test_content_is_not_waited_for(bare: Path, hang: Any) -> None:
    """In what a layer holds: the layer is said to be unread, and the others are compared."""
    home = damages.make(bare, damages.STORE)
    (home / "base/diff/deep").mkdir()
    with Store.open(home) as store:
        for layer in ("base", "mid"):
            store.record_manifest(layer)
    hang(home / "base/diff/deep")
    (home / "mid/diff/of-mid").write_text("mis")
    seen = found(asked("audit", "--content", str(home), code=4))
    assert {"content-unreadable", "content-changed"} | {"content-metadata"} >= set(seen)
    assert "base/diff/deep" in seen["content-unreadable"]["message"]
    assert "mid" == seen["content-changed"]["layer"]


def test_nor_is_what_lies_in_the_trash(bare: Path, hang: Any) -> None:
    """A leftover with such a mount in it is told, is not weighed, and stays until that is gone."""
    home = damages.make(bare, damages.STORE)
    hang(home / TRASHED)
    began = time.monotonic()
    seen = found(asked("audit", str(home), code=4))
    assert {"trash-leftover"} == set(seen)
    done = asked("--home", str(home), "repair", "--yes", code=4)
    assert [] == done["done"] and "server may never answer" in done["left"][0]["left"]
    assert time.monotonic() - began < 2 * BOUND


@pytest.mark.parametrize("name", [layout.LINKS, layout.OWN])
def test_where_nothing_is_left_to_look_at_it_is_said(bare: Path, hang: Any, name: str) -> None:
    """Upon the directory of all links, or upon the store's own: not audited, and in time."""
    home = damages.make(bare, damages.STORE if name == layout.LINKS else damages.TREE)
    hang(home / name)
    assert name in json.dumps(asked("audit", str(home), code=8))


def test_an_open_after_a_power_cut_sets_the_layer_apart(bare: Path, hang: Any) -> None:
    """The comparison of the whole tree ends, too: that layer cannot be used, and every other can."""
    home = damages.make(bare, damages.STORE)
    damages.dying(home, lambda _: None)
    damages.edit(home, "UPDATE owners SET boot_id = 'an-earlier-boot'")
    hang(home / "alone/diff")
    said = asked("--home", str(home), "recover", code=0)
    assert "alone/diff is a mount of fuse" in json.dumps(said)
    assert "alone" in json.dumps(asked("--home", str(home), "ls", code=0))
