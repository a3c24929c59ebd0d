"""The server on its socket, without dockerd: verbs, streams, repetitions, and clients of all kinds."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import stat
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Layer, Store
from layerstore.audit import audit
from layerstore.docker.pending import Pending
from tests.cli.running import PROGRAM, environment
from tests.docker.serving import Client, Served, in_threads, serving, tar_of, wait_for

pytestmark = pytest.mark.root

LARGE = int(os.environ.get("LAYERSTORE_LARGE_MIB", "256"))
"""MiB."""


@pytest.fixture
def served(bare: Path) -> Iterator[Served]:
    """A server that was told its home."""
    with serving(bare) as served:
        served.client().ok("Init", Home=str(served.home), Opts=None, UIDMaps=None, GIDMaps=None)
        yield served


def held(served: Served) -> dict[str, int]:
    """Who is held by docker, and how often."""
    with Store.open(served.home, read_only=True) as reader:
        return {str(h.layer): h.count for h in reader.holders() if h.holder == "docker"}


def layer(served: Served, name: str) -> Layer:
    """What the index says of it."""
    with Store.open(served.home, read_only=True) as reader:
        return reader.layer(name)


def test_every_method_does_what_the_protocol_says(served: Served) -> None:
    """One life of two layers, as dockerd leads it; what is left is the store's own."""
    ask = served.client()
    assert ask.ok("Activate") == {"Implements": ["GraphDriver"]}
    assert ask.ok("Capabilities") == {"Capabilities": {"ReproducesExactDiffs": False}}
    ask.ok("Create", ID="base")
    content = tar_of({"a": b"x" * 1000, "b": b"y"})
    assert ask.apply("base", "", [content[:700], content[700:]]) == {"Size": 1001}
    ask.ok("CreateReadWrite", ID="top", Parent="base", MountLabel="", StorageOpt={})
    merged = Path(ask.ok("Get", ID="top")["Dir"])
    assert (merged / "a").read_bytes() == b"x" * 1000
    (merged / "a").unlink()
    (merged / "new").write_bytes(b"1234")
    assert ask.ok("DiffSize", ID="top", Parent="base") == {"Size": 4}
    changes = ask.ok("Changes", ID="top", Parent="base")["Changes"]
    assert changes == [{"Path": "/a", "Kind": 2}, {"Path": "/new", "Kind": 1}]
    with tarfile.open(fileobj=io.BytesIO(ask.diff("top", "base"))) as archive:
        assert sorted(archive.getnames()) == [".wh.a", "new"]
    assert ask.ok("GetMetadata", ID="top")["Metadata"]["UpperDir"].endswith("/top/diff")
    assert ask.ok("Exists", ID="top") == {"Exists": True}
    assert ask.ok("Exists", ID="none") == {"Exists": False}
    assert ["Layers", "2"] in ask.ok("Status")["Status"]
    ask.ok("Put", ID="top")
    assert not merged.exists()
    assert "children" in ask.err("Remove", ID="base")
    for layer in ("top", "base"):
        ask.ok("Remove", ID=layer)
    ask.ok("Cleanup")
    assert "Init" in ask.err("Get", ID="top")
    assert sorted(os.listdir(served.home)) == [".layerstore", "l"]
    assert os.listdir(served.home / "l") == []


def test_refusals_are_errors_in_words(served: Served) -> None:
    """What cannot be done is an Err in an answer of status 200; Diff says it with another status."""
    ask = served.client()
    ask.ok("Create", ID="base")
    assert "base" in ask.err("Create", ID="base", Parent="none")
    assert "none" in ask.err("Get", ID="none")
    assert "parent" in ask.err("Changes", ID="base", Parent="other")
    assert "layer id" in ask.err("Remove", ID="../x")
    assert "storage option" in ask.err("CreateReadWrite", ID="x", StorageOpt={"a": "b"})
    status, content = ask.raw("/GraphDriver.Diff", b'{"ID":"none"}')
    assert (500, True) == (status, b"There is no layer none" in content)
    assert ask.raw("/GraphDriver.Fly", b"{}")[0] == 404
    ask.close()
    assert ask.raw("/GraphDriver.Status", method="GET")[0] == 405


def test_a_repetition_is_answered_and_done_once(served: Served) -> None:
    """Create and Remove of what was created and removed are successes; Put of nothing is none less."""
    ask = served.client()
    for _ in range(2):
        ask.ok("Create", ID="base")
    ask.ok("CreateReadWrite", ID="top", Parent="base")
    assert "exists" in ask.err("Create", ID="base")  # it has a child by now
    ask.ok("Get", ID="top")
    for _ in range(3):
        ask.ok("Put", ID="top")
    for _ in range(2):
        ask.ok("Remove", ID="top")
    ask.ok("Put", ID="top")
    assert held(served) == {}


def test_a_broken_archive_is_not_taken_up_again(served: Served) -> None:
    """A stream that breaks off leaves an empty layer that takes no other; after a removal it does."""
    ask = served.client()
    content = tar_of({"a": b"x" * 100_000})
    ask.ok("Create", ID="cut")
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(os.fspath(served.socket))
        raw.sendall(b"POST /GraphDriver.ApplyDiff?id=cut&parent= HTTP/1.1\r\nHost: p\r\n")
        raw.sendall(b"Transfer-Encoding: chunked\r\n\r\n8000\r\n" + content[:0x8000] + b"\r\n")
        wait_for(lambda: layer(served, "cut").applied)
    wait_for(lambda: layer(served, "cut").state == "ready")
    assert "not made" in ask.apply("cut", "", [content])["Err"]
    ask.ok("Remove", ID="cut")
    ask.ok("Create", ID="cut")
    assert ask.apply("cut", "", [content]) == {"Size": 100_000}
    for number, bad in enumerate((b"", b"garbage" * 1000, content[:-1024])):
        ask.ok("Create", ID=f"bad{number}")
        assert ask.apply(f"bad{number}", "", [bad])["Err"]
    ask.ok("Create", ID="other")
    assert "not the parent" in ask.apply("other", "cut", [content])["Err"]


def test_an_answer_comes_before_the_whole_stream(served: Served) -> None:
    """A refused archive is answered while its client still sends, and that client gets the answer."""
    ask = served.client()

    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 18)

    assert "no layer none" in ask.apply("none", "", endless())["Err"]


def test_streams_pass_in_constant_memory(served: Served) -> None:
    """A layer goes in and out: 256 MiB, or 10 GiB in `make docker-soak`. The server grows by less than 48 MiB,
    whatever the size.
    """
    ask = served.client()
    ask.ok("Create", ID="small")
    ask.apply("small", "", [tar_of({"a": b"x"})])
    before = peak(served)
    ask.ok("Create", ID="large")
    block = bytes(1 << 20)
    entry = tarfile.TarInfo("zeros")
    entry.size = LARGE << 20

    def archive() -> Iterator[bytes]:
        yield entry.tobuf()
        for _ in range(LARGE):
            yield block
        yield bytes(1024)

    assert ask.apply("large", "", archive()) == {"Size": LARGE << 20}
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(os.fspath(served.socket))
        raw.sendall(b"POST /GraphDriver.Diff HTTP/1.1\r\nContent-Length: 14\r\n")
        raw.sendall(b'Connection: close\r\n\r\n{"ID":"large"}')
        count = 0
        while piece := raw.recv(1 << 20):
            count += len(piece)
    assert count > LARGE << 20
    assert peak(served) - before < 48 << 20


def peak(served: Served) -> int:
    """The most memory that the server had, in bytes."""
    assert served.process is not None
    for line in Path(f"/proc/{served.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def test_a_restart_is_not_seen(served: Served) -> None:
    """Killed and started again, the server knows its home, and every hold counts on."""
    ask = served.client()
    ask.ok("Create", ID="base")
    ask.ok("CreateReadWrite", ID="top", Parent="base")
    for _ in range(3):
        merged = ask.ok("Get", ID="top")["Dir"]
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    served.start()
    assert {"top": 3} == held(served)
    assert merged == ask.ok("Get", ID="top")["Dir"]
    for _ in range(4):
        assert os.path.ismount(merged)
        ask.ok("Put", ID="top")
    assert not os.path.exists(merged)


def test_a_put_that_is_repeated_after_a_kill_counts_once(served: Served) -> None:
    """The repetition of an unanswered one, without its content, is answered; the next one counts, and so
    does one with its content after a Put whose answer was sent and may not be on record.
    """
    served.end()
    served.start("docker:Put:done")
    ask = served.client()
    ask.ok("Create", ID="base")
    ask.ok("CreateReadWrite", ID="top", Parent="base")
    for _ in range(2):
        ask.ok("Get", ID="top")
    with pytest.raises((OSError, http.client.HTTPException)):
        ask.ok("Put", ID="top")
    served.end(signal.SIGKILL)
    served.start()
    assert (200, b"{}\n") == ask.raw("/GraphDriver.Put")
    assert {"top": 1} == held(served)
    ask.ok("Get", ID="top")
    served.end()
    served.start("docker:Put:answered")
    ask.ok("Put", ID="top")  # it dies after the answer
    served.end(signal.SIGKILL)
    served.start()
    ask.ok("Put", ID="top")
    assert {} == held(served)


def test_gets_that_were_lost_at_once_are_given_back(served: Served) -> None:
    """Of two layers at once nobody knows whose repetition one is: each is refused, and what a dead server had
    counted of them ends with the last refusal. Two of one layer are answered.
    """
    ask = served.client()
    ask.ok("Create", ID="base")
    for layer in ("one", "two"):
        ask.ok("CreateReadWrite", ID=layer, Parent="base")
    ask.ok("Get", ID="one")
    ask.ok("Get", ID="one")
    ask.ok("Status")  # so the record of the last one is settled
    served.end(signal.SIGKILL)
    record(served, "Get", ID="one", done=True)
    record(served, "Get", ID="two")
    served.start()
    for before in (2, 2):
        assert {"one": before} == held(served)
        assert b"without a body" in ask.raw("/GraphDriver.Get")[1]
    assert {"one": 1} == held(served)
    served.end(signal.SIGKILL)
    record(served, "Get", ID="one", done=True)
    record(served, "Get", ID="one")
    served.start()
    for _ in range(2):
        dir_ = json.loads(ask.raw("/GraphDriver.Get")[1])["Dir"]
        assert str(served.home / "one" / "merged") == dir_
    assert {"one": 2} == held(served)


def test_a_request_that_is_repeated_without_its_body_is_known(served: Served) -> None:
    """dockerd repeats with an empty body: what a dead server had not answered is done, once each."""
    ask = served.client()
    ask.ok("Create", ID="base")
    ask.ok("CreateReadWrite", ID="top", Parent="base")
    ask.ok("CreateReadWrite", ID="gone", Parent="base")
    served.end(signal.SIGKILL)
    record(served, "Get", ID="top")
    record(served, "Remove", ID="gone")
    record(served, "CreateReadWrite", ID="new", Parent="base")
    record(served, "CreateReadWrite", ID="other", Parent="base")
    record(served, "CreateReadWrite", ID="done", Parent="base", done=True)
    record(served, "Changes", ID="top", Parent="base")
    record(served, "Changes", ID="gone", Parent="base")
    served.start()
    empty = {method: f"/GraphDriver.{method}" for method in ("Get", "Remove", "CreateReadWrite")}
    status, content = ask.raw(empty["Get"])
    assert (200, {"Dir": str(served.home / "top" / "merged")}) == (status, json.loads(content))
    for method in ("Remove", "CreateReadWrite", "CreateReadWrite"):
        assert (200, b"{}\n") == ask.raw(empty[method])
    assert ask.ok("Exists", ID="gone") == {"Exists": False}
    assert ask.ok("Exists", ID="done") == {"Exists": False}  # it was, and removed since
    assert ask.ok("Exists", ID="new") == ask.ok("Exists", ID="other") == {"Exists": True}
    for method in ("Get", "Changes", "Put"):  # none, two, and none could be it
        assert b"without a body" in ask.raw(f"/GraphDriver.{method}")[1]
    served.end()
    served.start()
    assert b"without a body" in ask.raw(empty["Remove"])[1]


def record(served: Served, method: str, *, done: bool = False, **values: str) -> None:
    """Leave the record of a request as a server does that is killed while it answers."""
    pending = Pending(f"{served.socket}.pending")
    note = pending.note(method, json.dumps(values).encode())
    if done:
        pending.did(note)
    pending.close()


def test_records_are_young_and_bounded(bare: Path) -> None:
    """Garbage, what is too old and what is too long is no record; a slot is used again."""
    path = bare / "pending"
    pending = Pending(str(path))
    with pending.noted("Get", b"x" * 5000):
        assert path.stat().st_size == 0
    for _ in range(3):
        with pending.noted("Get", b"{}"):
            assert path.stat().st_size == 4096
            found = Pending(str(path))
            assert [b"{}"] == [lost.body for lost in found.lost("Get")]
            found.close()
    pending.close()
    future = json.dumps(["Get", "{}", time.monotonic() + 1000, False]).encode()
    past = json.dumps(["Get", "{}", time.monotonic() - 1, False]).encode()
    pages = (future, past, b"[1,2]", b"garbage", b"{}", b"\xff")
    path.write_bytes(b"".join(page.ljust(4096, b"\0") for page in pages))
    found = Pending(str(path))
    assert [] == found.lost("Get")
    found.close()


def test_a_put_after_a_clean_end_counts(served: Served) -> None:
    """A server that was told to end gave every answer: nothing is taken for a repetition."""
    ask = served.client()
    ask.ok("Create", ID="base")
    ask.ok("CreateReadWrite", ID="top", Parent="base")
    for _ in range(3):
        ask.ok("Get", ID="top")
    ask.ok("Put", ID="top")
    assert served.end() == 0
    served.start()
    ask.ok("Put", ID="top")
    assert {"top": 1} == held(served)


def test_a_daemon_that_starts_anew_counts_by_dockers_rule(served: Served) -> None:
    """After another Init what is mounted counts once, and what is not, not at all."""
    ask = served.client()
    for layer, parent in (("base", ""), ("one", "base"), ("two", "base")):
        ask.ok("CreateReadWrite", ID=layer, Parent=parent)
    for layer in ("base", "one", "one", "two"):
        merged = ask.ok("Get", ID=layer)["Dir"]
    subprocess.run(["umount", merged], check=True)
    ask.ok("Init", Home=str(served.home))
    assert {"one": 1} == held(served)
    with Store.open(served.home, read_only=True) as reader:
        assert ["one"] == [mount.layer for mount in reader.mounts()]
    ask.ok("Remove", ID="one")


def test_an_archive_is_taken_by_the_server_that_made_the_layer(served: Served) -> None:
    """A server that was killed cannot know what it had swallowed, so its successor takes no rest."""
    ask = served.client()
    content = tar_of({"a": b"x"})
    ask.ok("Create", ID="one")
    ask.ok("Create", ID="two")
    served.end(signal.SIGKILL)
    served.start()
    assert "not made" in ask.apply("one", "", [content])["Err"]
    ask.ok("Create", ID="two")  # its answer was lost: what comes now is the whole archive
    assert ask.apply("two", "", [content]) == {"Size": 1}


def test_one_home_at_a_time_and_only_where_it_is_allowed(served: Served, bare: Path) -> None:
    """A second home is refused until Cleanup; one outside of the roots always."""
    ask = served.client()
    other = str(bare / "other")
    assert "already" in ask.err("Init", Home=other)
    ask.ok("Cleanup")
    ask.ok("Cleanup")
    for outside in ("/run/elsewhere", str(bare / ".." / "x"), str(bare), "/"):
        assert "not below" in ask.err("Init", Home=outside)
    (bare / "way-out").symlink_to("/run")
    assert "not below" in ask.err("Init", Home=str(bare / "way-out" / "home"))
    ask.ok("Init", Home=other)
    ask.ok("Init", Home=other)
    ask.ok("Create", ID="base")
    assert (bare / "other" / "base" / "diff").is_dir()


def test_options_of_init_reach_the_store(served: Served, bare: Path) -> None:
    """What a driver does not know is refused, and maps decide who owns the layers."""
    ask = served.client()
    ask.ok("Cleanup")
    assert "no option" in ask.err("Init", Home=str(served.home), Opts=["overlay2.fly=1"])
    maps = [{"container_id": 0, "host_id": 100_000, "size": 65_536}]
    ask.ok("Init", Home=str(served.home), UIDMaps=maps, GIDMaps=maps)
    ask.ok("Create", ID="base")
    assert (served.home / "base" / "diff").stat().st_uid == 100_000


def test_two_daemons_have_a_socket_each(bare: Path) -> None:
    """One server serves two sockets, each with its own home."""
    paths = [bare / "run" / f"{name}.sock" for name in ("one", "two")]
    words = [word for path in paths for word in ("--socket", str(path))]
    process = subprocess.Popen(
        [*PROGRAM, "serve", "docker", *words, "--root", str(bare)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for _ in paths:
            assert "serving" in process.stderr.readline()
        for path in paths:
            ask = Client(path)
            ask.ok("Init", Home=str(bare / path.stem))
            ask.ok("Create", ID=path.stem)
            ask.close()
        for path in paths:
            assert (bare / path.stem / path.stem).is_dir()
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
        if process.stderr is not None:
            process.stderr.close()


def test_the_socket_is_private_and_never_stolen(served: Served) -> None:
    """Mode 0600; a second server is refused; a dead one's socket is replaced, and a file is not."""
    assert stat.S_IMODE(served.socket.lstat().st_mode) == 0o600
    words = [*PROGRAM, "serve", "docker", "--root", "/x", "--socket"]
    for path in (served.socket, served.root / "foreign.sock", served.log):
        with socket.socket(socket.AF_UNIX) as foreign:
            if path.name == "foreign.sock":
                foreign.bind(os.fspath(path))
                foreign.listen()
            done = subprocess.run(
                [*words, str(path)],
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert done.returncode in {11, 16}, done.stderr
    served.client().ok("Status")
    served.end(signal.SIGKILL)
    assert served.socket.exists()
    served.start()
    served.client().ok("Status")
    assert served.end() == 0
    assert not served.socket.exists()


def test_two_servers_never_act_for_docker_in_one_home(served: Served, bare: Path) -> None:
    """A second server that is led to the same home is refused."""
    other = Served(bare / "run" / "second.sock", bare, bare / "second.log")
    try:
        other.start()
        assert "name of docker" in other.client().err("Init", Home=str(served.home))
    finally:
        other.close()


def test_strangers_are_not_heard(served: Served) -> None:
    """A process of another user gets no answer, whatever the mode of the socket is."""
    served.socket.chmod(0o666)
    for directory in (served.root, served.socket.parent):
        directory.chmod(0o755)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "try:\n"
        "    s.sendall(b'POST /Plugin.Activate HTTP/1.1\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
        "    print(len(s.recv(100)))\n"
        "except OSError: print(0)\n"
    )
    done = subprocess.run(
        ["python3", "-c", code, str(served.socket)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "0", done.stderr


def test_garbage_hurts_only_who_sends_it(served: Served) -> None:
    """Garbage, huge heads and bodies, halves and pipelines: each gets an end; others go on."""
    cases = {
        b"\x16\x03\x01\x02\x00 garbage\r\n\r\n": b"400",
        b"GET / HTTP/9.9\r\n\r\n": b"400",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n": b"400",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": b"400",
        b"POST /GraphDriver.Status HTTP/1.1\r\nX: " + b"x" * 100_000: b"431",
        b"POST /" + b"x" * 100_000: b"431",
        b"POST /GraphDriver.Status HTTP/1.1\r\n" + b"A: b\r\n" * 20_000: b"431",
        b"POST /GraphDriver.Get HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n"
        + b" " * 3_000_000: b"413",
        b"POST /GraphDriver.Get HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": b"400",
        b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n": b"400",
        b"POST /caf\xc3\xa9 HTTP/1.1\r\n\r\n": b"400",
        b"POST /GraphDriver.Status HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}" * 2: b"200",
    }
    for sent, expected in cases.items():
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(30)
            raw.connect(os.fspath(served.socket))
            with contextlib.suppress(BrokenPipeError):
                raw.sendall(sent)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := raw.recv(1 << 16):
                    answer += piece
        assert answer.startswith(b"HTTP/1.1 " + expected), (sent[:60], answer[:200])
        assert answer.count(b"HTTP/1.1") == 1
    served.client().ok("Status")


def test_slow_and_silent_clients_keep_nobody_waiting(served: Served) -> None:
    """While a hundred clients send nothing or half a request, others are answered at once."""
    with contextlib.ExitStack() as stack:
        for number in range(100):
            raw = stack.enter_context(socket.socket(socket.AF_UNIX))
            raw.connect(os.fspath(served.socket))
            raw.sendall(b"POST /GraphDriver.Status HTTP/1.1\r\nContent-"[: 20 * (number % 3)])
        began = time.monotonic()
        served.client().ok("Status")
        assert time.monotonic() - began < 5


def test_sixty_four_clients_at_once(served: Served) -> None:
    """Each makes, mounts, writes, packs and removes its own layers; nothing fails, nothing is left."""
    served.client().ok("Create", ID="base")

    def work(number: int) -> None:
        ask, layer = Client(served.socket), f"layer{number}"
        ask.ok("CreateReadWrite", ID=layer, Parent="base")
        (Path(ask.ok("Get", ID=layer)["Dir"]) / "mine").write_text(layer)
        assert layer.encode() in ask.diff(layer, "base")
        ask.ok("Put", ID=layer)
        ask.ok("Remove", ID=layer)
        ask.close()

    in_threads(64, work)
    assert ["base"] == [p.name for p in served.home.iterdir() if p.name not in {".layerstore", "l"}]
    assert () == audit(served.home).findings


def test_nobody_waits_for_the_archive_of_another(served: Served) -> None:
    """Sixty-three clients come to their end while one is in the middle of its archive, which is taken then."""
    ask = served.client()
    ask.ok("Create", ID="large")
    content = tar_of({"a": b"x" * 300_000})
    sent, go_on = threading.Event(), threading.Event()
    answers: list[object] = []

    def slowly() -> Iterator[bytes]:
        yield content[:150_000]
        sent.set()
        assert go_on.wait(120)
        yield content[150_000:]

    def work(number: int) -> None:
        ask, layer = Client(served.socket), f"layer{number}"
        ask.ok("CreateReadWrite", ID=layer)
        for verb in ("Get", "Put", "Remove"):
            ask.ok(verb, ID=layer)
        ask.close()

    large = threading.Thread(target=lambda: answers.append(ask.apply("large", "", slowly())))
    large.start()
    try:
        assert sent.wait(60)
        in_threads(63, work)
        assert [] == answers
    finally:
        go_on.set()
        large.join(60)
    assert [{"Size": 300_000}] == answers


def test_what_is_being_answered_is_answered_first(served: Served) -> None:
    """SIGTERM in the middle of an archive: it is taken whole, answered, and the exit code is 0."""
    ask = served.client()
    ask.ok("Create", ID="base")
    content = tar_of({"a": b"x" * 100_000})

    def slowly() -> Iterator[bytes]:
        yield content[:50_000]
        time.sleep(0.2)
        assert served.process is not None
        served.process.terminate()
        time.sleep(0.5)
        yield content[50_000:]

    assert ask.apply("base", "", slowly()) == {"Size": 100_000}
    assert served.process is not None
    assert served.process.wait(timeout=60) == 0
    served.process = None


def test_the_service_manager_is_told(bare: Path) -> None:
    """READY, STATUS, WATCHDOG and STOPPING come on the socket that systemd names."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(os.fspath(bare / "notify"))
        told.settimeout(30)
        variables = {"NOTIFY_SOCKET": str(bare / "notify"), "WATCHDOG_USEC": "600000"}
        with serving(bare, **variables) as served:
            assert told.recv(1000) == b"READY=1\nSTATUS=Waiting for a daemon"
            served.client().ok("Init", Home=str(served.home))
            said = b""
            while b"STATUS" not in said:
                said = told.recv(1000)
            assert said.endswith(b"STATUS=Serving " + os.fsencode(served.home))
            assert told.recv(1000) == b"WATCHDOG=1"
            served.end()
            while said != b"STOPPING=1":
                said = told.recv(1000)


def test_what_a_dead_daemon_asked_for_is_not_done(bare: Path) -> None:
    """It waits at systemd's socket when nobody hears an answer any more; who only sends no more does."""
    served = Served(bare / "run" / "activated.sock", bare, bare / "log")
    served.activate()
    try:
        served.start()
        ask = served.client()
        ask.ok("Init", Home=str(served.home))
        ask.ok("Create", ID="base")
        ask.ok("CreateReadWrite", ID="top", Parent="base")
        served.end(signal.SIGKILL)

        def post(sock: socket.socket, method: str, body: bytes) -> None:
            head = f"POST /GraphDriver.{method} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
            sock.connect(os.fspath(served.socket))
            sock.sendall(head.encode() + body)

        for method, body in (("Get", b'{"ID":"top"}'), ("Create", b'{"ID":"unknown"}')):
            with socket.socket(socket.AF_UNIX) as dead:
                post(dead, method, body)
        with socket.socket(socket.AF_UNIX) as alive:
            post(alive, "Create", b'{"ID":"wanted"}')
            alive.shutdown(socket.SHUT_WR)
            served.start()
            alive.settimeout(60)
            assert b"200 OK" in alive.recv(1000)
        wait_for(lambda: served.log.read_text().count("outcome=gone") == 2)
        assert {} == held(served)
        assert ask.ok("Exists", ID="unknown") == {"Exists": False}
        assert ask.ok("Exists", ID="wanted") == {"Exists": True}
    finally:
        served.close()


def test_a_socket_of_systemds_own_is_served_and_stays(bare: Path) -> None:
    """Who connects while no server runs is answered by the next one: nobody is refused."""
    served = Served(bare / "run" / "activated.sock", bare, bare / "log")
    served.activate()
    try:
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as early:
                early.connect(os.fspath(served.socket))
                early.sendall(b"POST /Plugin.Activate HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
                served.start()
                early.settimeout(60)
                assert b"GraphDriver" in early.recv(1000)
            assert served.end() == 0
        assert served.socket.exists()
    finally:
        served.close()
