"""An import that is killed at any step is finished by the next one, and nothing half is taken for whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import Store
from layerstore.audit import audit
from layerstore.errors import LayerstoreError
from layerstore.fs import layout
from layerstore.fs.trace import set_trace
from layerstore.images import import_image, model, records
from tests.crash.invariants import OWN_NAMES
from tests.images.build import HIGH, LOW, docker, sha, tar
from tests.store.support import PATIENCE

pytestmark = [pytest.mark.root, pytest.mark.crash]

IDS = model.chain_ids([sha(LOW), sha(HIGH)])


def in_child(home: Path, archive: Path, hook: Callable[[str], None]) -> int:
    """Import in a process of its own, which calls `hook` at each point; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(PATIENCE))
            with Store.open(home) as store:
                set_trace(hook)
                import_image(store, archive)
            os._exit(0)
        except LayerstoreError:
            os._exit(3)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1]


def killer(number: int) -> Callable[[str], None]:
    """A hook that ends the process at the point with this number."""
    left = number

    def hook(point: str) -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    return hook


def raiser(number: int, error: BaseException) -> Callable[[str], None]:
    """A hook that raises at the point with this number."""
    left = number

    def hook(point: str) -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise error

    return hook


def check_between(home: Path) -> None:
    """What there is after a death: whole layers, at most one empty one, nothing else."""
    findings = [x for x in audit(home).findings if x.severity != "note"]
    assert [] == findings
    with Store.open(home) as store:
        layers = {str(layer.id): layer for layer in store.layers()}
        assert set(layers) == set(IDS[: len(layers)])
        for name, data in zip(IDS, (LOW, HIGH), strict=True):
            if name in layers and layers[name].diff_id is None:
                assert [] == os.listdir(home / name / "diff")
                assert name == max(layers, key=IDS.index)
            elif name in layers:
                assert sha(data) == layers[name].diff_id
                assert data == b"".join(store.diff(name))
        whole = [x for x in layers.values() if x.diff_id is not None]
        if list(records.listed(store)):
            assert 2 == len(whole)
    own = set(os.listdir(home / layout.OWN))
    assert own <= OWN_NAMES


def check_end(home: Path, archive: Path) -> None:
    """Importing again makes it whole, with one record."""
    with Store.open(home) as store:
        done = import_image(store, archive)
        assert IDS == [layer.id for layer in done.chain]
        assert [LOW, HIGH] == [b"".join(store.diff(name)) for name in IDS]
        assert [("web:1",)] == [record.names for record in records.listed(store)]
        assert done.layer == store.create("upon", parent=done.layer).parent
        store.remove("upon")
    assert not audit(home).findings


def points(home: Path, archive: Path, bare: Path) -> list[str]:
    """The points that an import passes, in order."""
    copy = bare / "counted"
    shutil.copytree(home, copy, symlinks=True)
    Store.adopt(copy, this_is="copy")
    found: list[str] = []
    with Store.open(copy) as store:
        set_trace(found.append)
        try:
            import_image(store, archive)
        finally:
            set_trace(None)
    shutil.rmtree(copy)
    return found


def every_point(
    home: Path, archive: Path, bare: Path, ended: Callable[[Path, int], None], *, step: int = 1
) -> None:
    """Have a fresh store and an import in it for each point; `ended` does the rest.

    `step`: only for each second or third of them, another one each time.
    """
    named = points(home, archive, bare)
    assert {"image:record:before", "image:record:after"} <= set(named)
    assert 2 == named.count("apply:intent:before")
    shutil.move(home, bare / "template")
    for number in range(random.randrange(step), len(named), step):
        shutil.copytree(bare / "template", home, symlinks=True)
        try:
            ended(home, number)
        except Exception as error:
            error.add_note(f"at point {number}, {named[number]}")
            raise
        shutil.rmtree(home)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An image of two layers."""
    return tar(tmp_path / "image.tar", docker([LOW, HIGH], tags=["web:1"]))


def test_a_kill_at_any_step(home: Path, bare: Path, archive: Path) -> None:
    """SIGKILL at each named point of an import of two layers."""

    def ended(place: Path, number: int) -> None:
        assert signal.SIGKILL == os.WTERMSIG(in_child(place, archive, killer(number)))
        Store.open(place).close()
        check_between(place)
        check_end(place, archive)

    every_point(home, archive, bare, ended)


def test_an_error_at_any_step(home: Path, bare: Path, archive: Path) -> None:
    """An error leaves nothing of the import, but what is done when everything is whole."""

    def ended(place: Path, number: int) -> None:
        status = in_child(place, archive, raiser(number, LayerstoreError("raised")))
        assert os.WEXITSTATUS(status) in (0, 3)
        check_between(place)
        with Store.open(place) as store:
            found = len(list(store.layers()))
            assert found in (0, 2), "an error left some layers"
        check_end(place, archive)

    every_point(home, archive, bare, ended, step=2)


def test_an_interruption_at_any_step(home: Path, bare: Path, archive: Path) -> None:
    """Ctrl-C leaves whole layers, from which the next import goes on."""

    def ended(place: Path, number: int) -> None:
        in_child(place, archive, raiser(number, KeyboardInterrupt()))
        check_between(place)
        check_end(place, archive)

    every_point(home, archive, bare, ended, step=3)
