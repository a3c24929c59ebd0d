"""The server is killed while dockerd works: everything that dockerd says it has works afterwards.

Five rounds here; `make docker-soak` runs LAYERSTORE_DOCKER_ROUNDS of them, 500 by default.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest

from layerstore import Store
from layerstore.audit import audit
from tests.docker.daemon import Both, busybox, docker_on_layerstore, missing
from tests.docker.serving import Served
from tests.docker.test_dockerd import remove_everything, require_empty

pytestmark = [
    pytest.mark.root,
    pytest.mark.crash,
    pytest.mark.campaign,
    pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}"),
]

ROUNDS = int(os.environ.get("LAYERSTORE_DOCKER_ROUNDS", "5"))
SEED = int(os.environ.get("LAYERSTORE_DOCKER_SEED", "1"))
TRIES = 15
MOST_A_ROUND = 4 if ROUNDS == 5 else 12
"""Kills: so that a round ends, however often a build has to be begun again."""


POINTS = (
    *("create:intent:after", "create:*:Publish:before", "create:outcome:after"),
    *("mount:intent:after", "mount:*:Mount*:after", "mount:outcome:after"),
    *("unmount:intent:after", "unmount:*:after", "unmount:outcome:after"),
    *("remove:intent:after", "remove:*:after", "remove:outcome:after", "empty:*:before"),
    "empty:outcome:before",
)
APPLYING = ("apply:intent:after", "apply:*:Unpack*:after", "apply:outcome:after")
"""Where a server kills itself. An archive that breaks off costs dockerd's builder 15 s of repetitions
that cannot succeed: so those are for the long form, and come here only by chance."""


@attrs.define
class Killer:
    """Has the server die, in the middle of its work or at random, and starts it again, as systemd does."""

    served: Served
    chance: random.Random
    kills: int = 0
    deaths: int = 0
    """In the middle of a request."""
    _ended: threading.Event = attrs.Factory(threading.Event)
    _error: BaseException | None = None

    def _run(self) -> None:
        try:
            most = self.kills + MOST_A_ROUND
            while not self._ended.is_set() and self.kills < most:
                self._kill_once()
            if self.served.process is not None:
                self.served.end(signal.SIGKILL)
            self.served.start()
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            self._error = error

    def _kill_once(self) -> None:
        if self.served.process is not None:
            self.served.end(signal.SIGKILL)
        points = POINTS + APPLYING if ROUNDS != 5 else POINTS
        point = self.chance.choice(points) if self.chance.random() < 0.75 else ""
        self.served.start(point)
        self.kills += 1
        until = time.monotonic() + (4 if point else self.chance.uniform(0.3, 1.5))
        while time.monotonic() < until and not self._ended.is_set():
            assert self.served.process is not None
            if self.served.process.poll() is not None:
                self.deaths += 1
                self.served.process = None
                break
            time.sleep(0.01)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """For the length of a `with` block; the server runs afterwards."""
        self._ended.clear()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(120)
        if self._error is not None:
            raise self._error


@attrs.define
class Script:
    """What dockerd is asked to do, and what it said that it did."""

    both: Both
    context: Path
    containers: dict[str, str] = attrs.Factory(dict)
    images: dict[str, str] = attrs.Factory(dict)
    failures: int = 0

    def round(self, number: int) -> None:
        """Run, build, commit, and remove what is older."""
        run = self.both.docker
        (self.context / "given").write_text(f"given {number}\n")
        (self.context / "Dockerfile").write_text(
            f"FROM bb\nCOPY given /data/given\nRUN echo {number} > /data/mine && rm /data/deleted\n"
        )
        name, text = f"c{number}", f"{number}"
        script = f"echo {number} > /data/mine; cat /data/mine"
        self.insist(
            lambda: run("run", "--network", "none", "--name", name, "bb", "/bin/sh", "-c", script),
            again=lambda: run.run("rm", "-f", name, code=None),
        )
        self.containers[name] = text
        image = f"built{number}"
        self.insist(lambda: run("build", "--network", "none", "-t", image, str(self.context)))
        self.images[image] = text
        committed = f"committed{number}"
        self.insist(lambda: run("commit", name, committed))
        self.images[committed] = text
        self.insist(lambda: run("run", "--rm", "--network", "none", image, "/bin/true"))
        for old in [c for c in self.containers if c != name and self.chance_of(number)]:
            self.insist(lambda old=old: run("rm", "-f", old))  # type: ignore[misc]
            del self.containers[old]
        for old in [i for i in self.images if not i.endswith(text) and self.chance_of(number)]:
            self.insist(lambda old=old: run("rmi", "-f", old))  # type: ignore[misc]
            del self.images[old]

    def chance_of(self, number: int) -> bool:
        return number % 2 == 0

    def insist(
        self, action: Callable[[], object], *, again: Callable[[], object] = lambda: None
    ) -> None:
        """Do it, again where it failed: a stream that a kill cut off is dockerd's to report."""
        for number in range(TRIES):
            try:
                action()
            except AssertionError:
                self.failures += 1
                if number == TRIES - 1:
                    raise
                again()
            else:
                return

    def check(self) -> None:
        """Everything that dockerd says it has works, and the audit finds nothing."""
        run = self.both.docker
        for image, text in self.images.items():
            found = run("run", "--rm", "--network", "none", image, "/bin/cat", "/data/mine")
            assert found == text, image
        for container, text in self.containers.items():
            assert "A /data/mine" in run.lines("diff", container)
            assert run("start", "-a", container) == text
        assert () == audit(self.both.home).findings
        with Store.open(self.both.home, read_only=True) as reader:
            assert () == reader.operations()


def test_kills_of_the_server_are_not_seen(
    bare: Path, record_property: Callable[[str, object], None]
) -> None:
    """Killed at random through builds and runs: what dockerd has works, and nothing is left at the end."""
    with docker_on_layerstore(bare, activated=True) as both:
        context = bare / "context"
        context.mkdir()
        killer = Killer(both.served, random.Random(SEED))
        script = Script(both, context)
        both.docker("import", "-", "bb", feed=busybox())
        for number in range(ROUNDS):
            with killer.at_work():
                script.round(number)
            script.check()
        repeated = both.served.log.read_text().count("repeated=")
        counts = f"{killer.kills} kills, {killer.deaths} in the middle of a request"
        print(f"{counts}, {repeated} requests and {script.failures} commands again")
        record_property("kills", killer.kills)
        record_property("commands_repeated", script.failures)
        assert killer.kills >= ROUNDS
        remove_everything(both.docker)
        assert () == audit(both.home).findings
        both.docker.end()
        lost = both.served.log.read_text().count("came without a body")
        forgotten = forget(both.home)
        print(f"{lost} requests lost; layers that dockerd forgot: {forgotten}")
        assert forgotten == 0 or lost + script.failures > 0, troubles(both)
        require_empty(both.home)


def troubles(both: Both) -> str:
    """What the server and dockerd said that is worth a look."""
    words = ("error=", "repeated=", "level=error", "level=warning", "retrying")
    logs = (both.served.log, both.docker.place / "log")
    lines = [line[:300] for log in logs for line in log.read_text().splitlines()]
    return "\n".join(line for line in lines if any(word in line for word in words))


def forget(home: Path) -> int:
    """Remove what dockerd does not know: it drops the layers of a container without a word when a request
    for one of them failed, and what is below them cannot be removed then. How many there were.
    """
    with Store.open(home) as store:
        left = sorted(store.layers(), key=lambda layer: -layer.depth)
        for layer in left:
            store.remove(layer.id)
    return len(left)
