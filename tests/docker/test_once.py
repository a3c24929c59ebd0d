"""What a server was asked for is done once, whichever step a kill meets and whoever asks again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from layerstore import Store
from layerstore.audit import audit
from tests.docker.forked import Forked
from tests.docker.serving import tar_of, wait_for

pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.campaign]

CONTENT = tar_of({"a": b"x" * 10_000, "b": b"y"})


@attrs.frozen
class Case:
    """A request, what is there before it, and what has to be there after it."""

    method: str
    layer: str
    held: int = 0
    """Holds of docker before it."""
    then: int = 0
    """And after it."""
    parent: str = "base"

    @property
    def body(self) -> bytes:
        return json.dumps({"ID": self.layer, "Parent": self.parent}).encode()

    @property
    def target(self) -> str:
        return f"/GraphDriver.{self.method}"


CASES = {
    "first get": Case("Get", "top", 0, 1),
    "second get": Case("Get", "top", 1, 2),
    "get of a base": Case("Get", "base", 1, 2, parent=""),
    "put": Case("Put", "top", 2, 1),
    "last put": Case("Put", "top", 1, 0),
    "put of a base": Case("Put", "base", 1, 0, parent=""),
    "put of nothing": Case("Put", "top", 0, 0),
    "create": Case("Create", "new"),
    "create read-write": Case("CreateReadWrite", "new"),
    "remove": Case("Remove", "top"),
    "remove what is held": Case("Remove", "top", 2, 0),
}


@pytest.fixture
def server(bare: Path) -> Iterator[Forked]:
    """A server that was told its home, and has ended."""
    made = Forked(bare / "run" / "test.sock", bare, bare / "log")
    try:
        made.start()
        home = bare / "layers"
        body = json.dumps({"Home": str(home)}).encode()
        assert made.ask("/GraphDriver.Init", body) == {}
        made.end()
        yield made
    finally:
        made.end()


def prepare(server: Forked, case: Case) -> None:
    """As a life of dockerd before left it, long enough ago that nobody asks again."""
    Path(f"{server.socket}.pending").unlink(missing_ok=True)
    with Store.open(server.root / "layers", durability="process") as store:
        store.end_outside("docker")
        for layer in ("new", "top", "base"):
            if store.exists(layer):
                store.remove(layer)
        store.create("base")
        store.create_read_write("top", parent="base")
        for _ in range(case.held):
            store.get(case.layer, holder="docker")


def points(server: Forked, ask: Callable[[], object], last: str) -> list[str]:
    """The points that a request passes, in their order, until `last`."""
    server.log.write_bytes(b"")
    server.start("list")
    server.log.write_bytes(b"")
    ask()
    wait_for(lambda: last in server.log.read_text())
    server.end()
    lines = server.log.read_text().splitlines()
    found = list(
        dict.fromkeys(
            line
            for line in lines
            if line.count(":") >= 2 and " " not in line and "Activate" not in line
        )
    )
    return found[: found.index(last) + 1]


def listed(server: Forked, case: Case) -> list[str]:
    """Those of the request of a case."""
    return points(
        server, lambda: server.ask(case.target, case.body), f"docker:{case.method}:answered"
    )


def require_once(server: Forked, case: Case, answer: Any, point: str) -> None:
    """The answer is what it would have been, and the store as after one request."""
    home = server.root / "layers"
    where = "diff" if case.layer == "base" else "merged"
    expected = {"Dir": f"{home}/{case.layer}/{where}"} if case.method == "Get" else {}
    assert answer == expected, point
    with Store.open(home, read_only=True) as reader:
        is_there = not case.method.startswith("Remove")
        assert reader.exists(case.layer) is is_there, point
        held = {(h.layer, h.count) for h in reader.holders() if h.holder == "docker"}
        assert held == ({(case.layer, case.then)} if case.then else set()), point
        is_mounted = bool(case.then) and case.layer != "base"
        assert [m.layer for m in reader.mounts()] == (["top"] if is_mounted else []), point
        assert os.path.ismount(home / "top" / "merged") is is_mounted, point
        assert () == reader.operations(), point
    assert () == audit(home).findings, point


@pytest.mark.parametrize("name", CASES)
def test_a_kill_at_each_step_and_a_repetition_are_one_request(server: Forked, name: str) -> None:
    """dockerd asks again without the body, where it got no answer; what it asked for is done once."""
    case = CASES[name]
    prepare(server, case)
    found = listed(server, case)
    for point in found:
        prepare(server, case)
        server.start(point)
        answer = server.ask(case.target, case.body)
        assert server.died(), point
        server.start()
        if answer is None:
            answer = server.ask(case.target)
        require_once(server, case, answer, point)
        server.end()


@pytest.mark.parametrize("name", ["first get", "second get", "put", "last put"])
def test_a_second_kill_over_the_repetition_is_no_other_request(server: Forked, name: str) -> None:
    """The server dies over a request, its successor dies over the repetition: the third one knows."""
    case = CASES[name]
    prepare(server, case)
    found = listed(server, case)
    own = [p for p in found if p.startswith("docker:") and not p.endswith(":answered")]
    again = [*own, f"docker:{case.method}:again", f"docker:{case.method}:answered"]
    for first in own:
        for second in again:
            prepare(server, case)
            server.start(first)
            assert server.ask(case.target, case.body) is None
            assert server.died()
            server.start(second)
            answer = server.ask(case.target)
            server.died(within=0.05)
            server.start()
            if answer is None:
                answer = server.ask(case.target)
            require_once(server, case, answer, f"{first}, {second}")
            server.end()


@pytest.mark.parametrize("name", ["second get", "put"])
def test_the_next_request_counts_whatever_a_kill_left_on_record(server: Forked, name: str) -> None:
    """The same request with its content is another one, also where the server died after it had answered
    and before its record was gone.
    """
    case = CASES[name]
    prepare(server, case)
    for point in listed(server, case):
        prepare(server, case)
        server.start(point)
        answer = server.ask(case.target, case.body)
        assert server.died(), point
        server.start()
        if answer is None:
            server.ask(case.target)
        server.ask(case.target, case.body)
        with Store.open(server.root / "layers", read_only=True) as reader:
            held = {h.count for h in reader.holders() if h.holder == "docker"}
        assert held == ({3} if case.method == "Get" else set()), point
        server.end()


def test_an_archive_that_a_kill_cut_off_is_there_whole_or_not_at_all(server: Forked) -> None:
    """Whatever step is the last: a repetition with the rest is refused, and the layer can be made anew."""
    case = Case("Create", "new")
    target = "/GraphDriver.ApplyDiff?id=new&parent=base"

    def apply() -> Any:
        assert server.ask(case.target, case.body) == {}
        return server.ask(target, CONTENT)

    prepare(server, case)
    passed = points(server, apply, "docker:ApplyDiff:answered")
    found = [p for p in passed if not p.startswith(("create:", "docker:Create"))]
    diff = server.root / "layers" / "new" / "diff"
    for point in found:
        prepare(server, case)
        server.start(point)
        answer = apply()
        assert server.died(), point
        server.start()
        if answer is None:
            assert server.ask(target, b"")["Err"], point
        whole = sorted(os.listdir(diff))
        assert whole in ([], ["a", "b"]), point
        assert answer is None or whole, point
        assert server.ask("/GraphDriver.Remove", case.body) == {}
        assert apply() == {"Size": 10_001}, point
        assert () == audit(server.root / "layers").findings, point
        server.end()
    assert len(found) > 5


def test_a_create_without_its_answer_takes_its_archive(server: Forked) -> None:
    """A server dies between a Create and its answer: the repetition is answered, and the archive taken."""
    case = CASES["create"]
    for point in ("docker:Create:noted", "docker:Create:done"):
        prepare(server, case)
        server.start(point)
        assert server.ask(case.target, case.body) is None
        assert server.died()
        server.start()
        assert server.ask(case.target) == {}
        answer = server.ask("/GraphDriver.ApplyDiff?id=new&parent=base", CONTENT)
        assert answer == {"Size": 10_001}, point
        server.end()
