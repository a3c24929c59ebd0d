"""Many threads, many processes, and owners that die while others live."""

from __future__ import annotations

import functools
import os
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from layerstore import Store
from layerstore.errors import (
    Busy,
    ForkedStore,
    HasChildren,
    LayerExists,
    LayerHeld,
    LayerstoreError,
    NotHeld,
    OwnerLost,
    UnknownLayer,
)
from layerstore.fs import layout, locks
from tests.store.support import (
    WorkerError,
    check_settled,
    findings,
    mounted,
    overlays,
    traced,
    until,
)

pytestmark = pytest.mark.root


def _attempt(call, *arguments, **more):
    """What a call gives, or the error it raises."""
    try:
        return call(*arguments, **more)
    except LayerstoreError as error:
        return error


def _at_once(*calls):
    """Run calls in threads that begin at the same moment; what each gave or raised, in order."""
    barrier = threading.Barrier(len(calls))

    def body(call):
        barrier.wait()
        return _attempt(call)

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(body, calls))


# --- threads ------------------------------------------------------------------------------------


def test_threads_create_siblings(store):
    """32 threads create children of one parent at once, and all of them are there."""
    store.create("p")

    made = _at_once(*[lambda n=n: store.create(f"c{n}", parent="p") for n in range(32)])
    assert [f"c{n}" for n in range(32)] == [layer.id for layer in made]
    assert 32 == len(store.children("p"))
    assert 33 == len({layer.link for layer in store.layers()})
    check_settled(store)


def test_threads_create_one_layer(store):
    """Of 16 threads that create the same id one succeeds, and the others are told that it exists."""
    results = _at_once(*[lambda: store.create("a")] * 16)

    assert 15 == sum(isinstance(result, LayerExists) for result in results)
    assert ["a"] == [layer.id for layer in store.layers()]
    check_settled(store)


def test_threads_get_one_layer(store):
    """32 threads get one layer: one mount, an exact count, and exactly one put unmounts."""
    store.create("p")
    store.create("c", parent="p")

    paths = _at_once(*[lambda: store.get("c")] * 32)
    assert {store.home / "c/merged"} == set(paths)
    assert 1 == len(overlays(store.home))
    assert [32] == [hold.count for hold in store.holders("c")]
    assert 1 == len(list(store.events(kind="layer.mounted")))
    puts = _at_once(*[lambda: store.put("c")] * 32)
    assert [False] * 31 + [True] == sorted(puts)
    assert isinstance(_attempt(store.put, "c"), NotHeld)
    check_settled(store)


def test_threads_get_and_put_again_and_again(store):
    """Whoever holds a layer finds it mounted, whatever the others do meanwhile."""
    store.create("p")
    store.create("c", parent="p")
    (store.home / "p/diff/file").touch()

    def body():
        for _ in range(20):
            with store.mounted("c") as path:
                assert ["file"] == os.listdir(path)

    assert [None] * 8 == _at_once(*[body] * 8)
    assert [] == mounted(store.home)
    check_settled(store)


@pytest.mark.parametrize("round_", range(5))
def test_create_of_a_child_against_remove_of_its_parent(store, round_):
    """Either the child is created and the parent refused, or the parent goes and the child is refused."""
    for number in range(8):
        store.create(f"p{number}")
        child, gone = _at_once(
            lambda n=number: store.create(f"c{n}", parent=f"p{n}"),
            lambda n=number: store.remove(f"p{n}"),
        )
        if gone is None:
            assert isinstance(child, UnknownLayer)
            assert not store.exists(f"c{number}")
        else:
            assert isinstance(gone, HasChildren)
            assert f"p{number}" == child.parent
    check_settled(store)


@pytest.mark.parametrize("round_", range(5))
def test_get_against_remove(store, round_):
    """Either the layer is got first, and goes with the caller's own hold, or it is gone for the get."""
    store.create("p")
    for number in range(8):
        name = f"c{number}"
        store.create(name, parent="p")
        got, gone = _at_once(
            lambda n=name: store.get(n, holder="cli"), lambda n=name: store.remove(n)
        )
        if gone is None:
            assert isinstance(got, UnknownLayer)
            assert not (store.home / name).exists()
        else:
            assert isinstance(gone, LayerHeld)
            assert got.is_mount()
            store.put(name, holder="cli")
    check_settled(store)


def test_threads_remove_one_layer(store):
    """Of 8 threads that remove one layer one does it, and the others are told that there is none."""
    store.create("p")
    store.create("c", parent="p")
    store.get("c")

    results = _at_once(*[lambda: store.remove("c")] * 8)
    assert 1 == results.count(None)
    assert 7 == sum(isinstance(result, UnknownLayer) for result in results)
    check_settled(store)


def test_get_while_a_child_is_being_created_is_read_only(store, worker, home):
    """From the intent of a child on, a get of its parent is read-only."""
    store.create("p")
    store.create("c", parent="p")
    other = worker(home)
    other.do("stop_at('create:intent:after')")
    other.send("store.create('d', parent='c').id")
    other.stopped()

    assert store.get("c").is_mount()
    assert store.mount("c").read_only
    with pytest.raises(HasChildren, match="d"):
        store.remove("c")
    assert not store.exists("d")
    other.go_on()
    assert "d" == other.value()
    assert "c" == store.layer("d").parent


def test_layer_that_is_being_made_is_not_seen(store, worker, home):
    """A layer exists for others only when its create has succeeded."""
    other = worker(home)
    other.do("stop_at('create:outcome:before')")
    other.send("store.create('a').id")
    other.stopped()

    assert not store.exists("a")
    assert [] == list(store.layers())
    assert isinstance(_attempt(store.history, "a"), tuple)
    other.go_on()
    other.value()
    assert store.exists("a")


# --- waiting ------------------------------------------------------------------------------------


def test_second_verb_waits_for_the_first(store, worker, home):
    """A verb that meets another in flight waits until it is done, and then does its own."""
    store.create("p")
    store.create("c", parent="p")
    other = worker(home)
    other.do("stop_at('mount:3:MountOverlay:before')")
    other.send("str(store.get('c'))")
    other.stopped()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.get, "c")
        assert not waiting.done()
        other.go_on()
        assert str(home / "c/merged") == other.value()
        assert home / "c/merged" == waiting.result(30)
    assert 1 == len(overlays(home))
    assert 2 == len(store.holders("c"))


def test_busy_names_operation_and_owner(home, worker):
    """After its timeout a verb says which operation, and whose, was in its way."""
    other = worker(home)
    other.do("stop_at('create:intent:after')")
    other.send("store.create('a').id")
    other.stopped()

    with Store.open(home, timeout=0.05) as store:
        (operation,) = store.operations()
        with pytest.raises(Busy) as caught:
            store.create("a")
        assert operation.id in caught.value.message
        assert f"process {other.pid}" in caught.value.message
        assert "create" in caught.value.message
        other.go_on()
        other.value()
        with pytest.raises(LayerExists):
            store.create("a")


def test_other_layers_are_not_waited_for(home, worker):
    """An operation in flight on one layer holds up no verb on another one."""
    other = worker(home)
    other.do("store.create('p')")
    other.do("stop_at('create:6:')")
    other.send("store.create('c', parent='p').id")
    other.stopped()

    with Store.open(home, timeout=0.05) as store:
        store.create("x")
        store.create("d", parent="p")
        with store.mounted("d") as path:
            assert path.is_mount()
        store.remove("d")
        store.remove("x")
    other.go_on()
    assert "c" == other.value()


# --- processes ----------------------------------------------------------------------------------

LOOP = """
import random
def loop(name, rounds):
    random.seed(name)
    errors = []
    for n in range(rounds):
        layer = f"{name}-{n}"
        try:
            store.create(layer, parent="p")
            with store.mounted(layer) as path:
                (path / name).touch()
            with store.mounted("shared") as path:
                assert os.path.exists(path / "file")
            if n % 2:
                store.remove(layer)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors
"""


def test_eight_processes_work_on_one_home(home, worker):
    """Eight processes create, mount, write and remove at once: nothing fails and nothing is lost."""
    with Store.open(home) as store:
        store.create("p")
        store.create("shared", parent="p")
        (home / "p/diff/file").touch()
        others = [worker(home) for _ in range(8)]
        for number, other in enumerate(others):
            other.do(LOOP)
            other.send(f"loop('w{number}', 10)")
        assert [[]] * 8 == [other.value() for other in others]

        expected = {f"w{w}-{n}" for w in range(8) for n in range(0, 10, 2)} | {"p", "shared"}
        assert expected == {layer.id for layer in store.layers()}
        assert () == store.holders()
        assert [] == mounted(home)
        check_settled(store)
        for other in others:
            assert 0 == other.end()
    assert [] == findings(home)


def test_processes_share_a_mount(home, worker):
    """Two processes that get one layer share the mount, and the last of them unmounts."""
    one, two = worker(home), worker(home)
    one.do("store.create('p')")
    one.do("store.create('c', parent='p')")

    assert one.do("str(store.get('c'))") == two.do("str(store.get('c'))")
    assert 1 == len(overlays(home))
    assert False is one.do("store.put('c')")
    assert 1 == len(overlays(home))
    assert True is two.do("store.put('c')")
    assert [] == mounted(home)


def test_processes_that_are_killed_again_and_again(home, worker):
    """Processes die at random while others work: the living notice nothing, and all is settled."""
    with Store.open(home) as store:
        store.create("p")
        store.create("shared", parent="p")
        (home / "p/diff/file").touch()
        steady = worker(home)
        steady.do(LOOP)
        steady.send("loop('steady', 60)")
        for number in range(12):
            victim = worker(home)
            victim.do(LOOP)
            victim.send(f"loop('v{number}', 50)")
            name = f"v{number}-{number % 4}"
            until(functools.partial(store.history, name), what="the victim's work")
            victim.kill()
        assert [] == steady.value()
        with Store.open(home) as after:
            assert [] == [item for item in after.settled if item.what == "failed"]
            assert () == after.holders()
            check_settled(after)
        assert [] == mounted(home)


# --- death --------------------------------------------------------------------------------------


def test_dead_owner_gives_its_holds_back(home, worker):
    """What a killed process held is unmounted by the next open; a name's hold stays."""
    other = worker(home)
    for statement in (
        "store.create('p')",
        "store.create('c', parent='p')",
        "store.create('d', parent='p')",
        "str(store.get('c'))",
        "str(store.get('d', holder='cli'))",
        "str(store.get('p'))",
    ):
        other.do(statement)
    other.kill()
    assert ["c", "d"] == mounted(home)

    with Store.open(home) as store:
        assert ["d"] == mounted(home)
        assert [("d", "cli")] == [(hold.layer, hold.holder) for hold in store.holders()]
        assert {"released", "unmounted"} == {item.what for item in store.settled}
        check_settled(store)


def test_dead_owners_hold_blocks_no_remove(store, home, worker):
    """A store that was open all the time removes a layer that only a killed process holds."""
    store.create("p")
    store.create("c", parent="p")
    other = worker(home)
    other.do("str(store.get('c'))")
    with pytest.raises(LayerHeld):
        store.remove("c")
    other.kill()

    store.remove("c")
    assert [] == mounted(home)
    store.remove("p")


def test_dead_owners_mount_blocks_no_child(store, home, worker):
    """A store that was open all the time creates a child of a layer that only a killed process holds."""
    store.create("p")
    store.create("c", parent="p")
    other = worker(home)
    other.do("str(store.get('c'))")
    with pytest.raises(LayerHeld):
        store.create("d", parent="c")
    other.kill()

    assert "c" == store.create("d", parent="c").parent
    assert [] == mounted(home)


def test_dead_owners_operation_is_settled_by_the_living(store, home, worker):
    """A store that was open all the time meets a dead owner's operation, settles it, and goes on."""
    store.create("p")
    other = worker(home)
    other.do("stop_at('create:9:')")
    other.send("store.create('c', parent='p').id")
    other.stopped()
    (operation,) = store.operations()
    other.kill()

    assert "c" == store.create("c", parent="p").id
    kinds = [entry.kind for entry in store.events() if entry.operation == operation.id]
    assert [
        "layer.create.intended.v2",
        "operation.claimed.v1",
        "layer.create.undone.v1",
    ] == kinds
    store.recover()
    check_settled(store)


def test_fork_of_an_owner_does_not_keep_it_alive(home, worker):
    """A child that an owner forked lives on; the owner is dead all the same, and is settled."""
    other = worker(home)
    other.do("store.create('p')")
    other.do("store.create('c', parent='p')")
    other.do("str(store.get('c'))")
    other.do(
        "import signal\n"
        "def fork():\n"
        "    ready, tell = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        os.setsid()\n"
        "        os.close(0); os.close(1)\n"
        "        os.write(tell, b'x')\n"
        "        while True: signal.pause()\n"
        "    os.read(ready, 1)\n"
        "    return pid\n"
    )
    child = other.do("fork()")
    try:
        other.kill()
        with Store.open(home) as store:
            os.kill(child, 0)
            assert () == store.holders()
            assert [] == mounted(home)
            check_settled(store)
    finally:
        os.kill(child, signal.SIGKILL)


def test_store_in_a_forked_child_refuses(store, home):
    """A Store that is used in a child says so, and nothing that the child does harms the parent's."""
    store.create("p")
    store.create("c", parent="p")
    store.get("c")
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        answers = []
        calls = (store.layers, store.cleanup, store.recover, store.operations)
        for call in (*calls, lambda: store.get("c"), lambda: store.put("c")):
            try:
                list(call())
            except ForkedStore:
                answers.append("F")
            except BaseException as error:  # noqa: BLE001 - sent to the parent
                answers.append(type(error).__name__)
        store.close()
        with Store.open(home) as own:
            answers.append(own.get("c").name)
            own.put("c")
        os.write(theirs, " ".join(answers).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        assert "F F F F F F merged" == pipe.read()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert locks.is_alive(str(home / layout.owner_lock(store._hands.journal.author.owner)))
    assert ["c"] == mounted(home)
    with Store.open(home) as other:
        assert () == other.settled
        other.create("x")
    assert store.exists("x")
    for number in range(20):
        store.create(f"y{number}")
    with Store.open(home, read_only=True) as reader:
        assert reader.exists("y19")


def test_forked_children_end_without_harm(home, worker):
    """Children of an owner that exit, collect garbage and close everything take no lock from it."""
    other = worker(home)
    other.do("store.create('p')")
    other.do(
        "import gc, sys\n"
        "def fork(how):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        if how == 'close': store.close()\n"
        "        if how == 'collect': KNOWN = globals().pop('store'); del KNOWN; gc.collect()\n"
        "        os._exit(0)\n"
        "    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])\n"
    )
    assert [0, 0, 0] == [other.do(f"fork({how!r})") for how in ("exit", "close", "collect")]

    with Store.open(home) as store:
        assert () == store.settled
        (hers,) = [owner for owner in store.owners() if owner.pid == other.pid]
        assert locks.is_alive(str(home / layout.owner_lock(hers.id)))
    for number in range(10):
        other.do(f"store.create('a{number}')")
    other.kill()
    with Store.open(home) as store:
        assert 11 == len(list(store.layers()))


@pytest.mark.parametrize("point", ["create:4:", "create:6:", "create:10:", "create:outcome:before"])
def test_owner_that_was_taken_for_dead_stops(store, home, worker, point):
    """An owner whose operation another one claimed meanwhile learns it at its next touch, and stops."""
    store.create("p")
    other = worker(home)
    other.do(f"stop_at({point!r})")
    other.send("store.create('c', parent='p').id")
    other.stopped()
    (operation,) = store.operations()
    (home / layout.owner_lock(operation.owner)).unlink()

    store.recover()
    assert () == store.operations()
    other.go_on()
    with pytest.raises(WorkerError, match=f"Operation {operation.id} was taken over") as caught:
        other.value()
    assert OwnerLost.__name__ == caught.value.name
    assert not store.exists("c")
    assert not (home / "c").exists()


def test_settling_is_claimed_once(home, worker):
    """Of many that settle one dead operation at once, one does it and the others find it done."""
    victim = worker(home)
    victim.do("store.create('p')")
    others = [worker(home) for _ in range(4)]
    victim.do("stop_at('create:10:')")
    victim.send("store.create('c', parent='p').id")
    victim.stopped()
    with Store.open(home, read_only=True) as reader:
        (operation,) = reader.operations()
    victim.kill()

    for other in others:
        other.send("in_threads(*['store.recover()'] * 4)")
    for other in others:
        assert [] == [text for text in other.value() if "failed" in text or "Error" in text]
    with Store.open(home) as store:
        kinds = [entry.kind for entry in store.events() if entry.operation == operation.id]
        assert 1 == kinds.count("operation.claimed.v1")
        assert 1 == kinds.count("layer.create.undone.v1")
        check_settled(store)


def test_abandoned_operation_is_settled_by_another_process(store, home, worker):
    """What a living owner could neither finish nor undo, another process settles when it comes to it."""
    store.create("p")
    other = worker(home)
    failing = ("create:9:", "settle:create:1:")

    def hook(point):
        if point.startswith(failing):
            raise OSError(5, "broken by the test")

    with traced(hook), pytest.raises(OSError, match="broken by the test"):
        store.create("c", parent="p")
    (operation,) = store.operations()
    assert operation.abandoned
    assert ["unsettled-operation c"] == [f for f in findings(home) if f.startswith("unsettled")]

    assert "c" == other.do("store.create('c', parent='p').id")
    assert "c" == store.layer("c").id
    check_settled(store)


def test_abandoned_operation_is_claimed_by_one_only(home):
    """An owner that settles what it had abandoned itself is not joined by another one."""
    with Store.open(home) as store, Store.open(home) as other:

        def hook(point):
            if point.startswith(("create:3:", "settle:create:0:")):
                raise OSError(5, "broken by the test")

        with traced(hook), pytest.raises(OSError, match="broken by the test"):
            store.create("a")
        (operation,) = store.operations()

        assert store._hands.journal.claim(operation)
        assert not other._hands.journal.claim(operation)


def test_owner_lock_is_seen_locked_from_its_first_moment(home):
    """A lock file that has its name is locked: nobody takes an owner for dead that is just opening."""
    seen = []
    rename = os.rename

    def spy(source, target):
        if re.search(r"/owners/[0-9a-f]{32}\.lock$", str(target)):
            assert not os.path.exists(target)
            seen.append(locks.is_alive(source))
        rename(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", spy)
        Store.open(home).close()
    assert [True] == seen
