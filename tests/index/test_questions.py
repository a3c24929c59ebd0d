"""What a store is asked about its layers, answered from the index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from layerstore import Layer, Reader, Store
from layerstore import model as m
from layerstore.db import engine
from layerstore.errors import InvalidArgument, StoreClosed, UnknownLayer
from tests.index.conftest import DEPTH, WIDTH

pytestmark = pytest.mark.root

CHAIN = [f"c{number:02}" for number in range(DEPTH)]
STAR = [f"s{number:03}" for number in range(WIDTH)]


@pytest.fixture(scope="module")
def reader(forest: Path) -> Iterator[Reader]:
    """The forest, opened to be asked."""
    with Reader.open(forest) as reader:
        yield reader


def ids(layers: Iterable[Layer]) -> list[str]:
    """The ids of layers."""
    return [layer.id for layer in layers]


def test_a_layer_has_what_it_was_created_with(reader: Reader) -> None:
    """A layer tells parent, depth, labels, and whether it is for a container."""
    found = reader.layer("work")
    facts = (found.parent, found.depth, found.read_write, dict(found.labels), found.state)
    assert ("c03", 4, True, {"role": "work"}, "ready") == facts
    assert found.created_at <= datetime.now(UTC) and found.damage is None


def test_its_files_in_the_tree_agree(reader: Reader) -> None:
    """Link and lower text in the index are those of the files."""
    for layer in (reader.layer(name) for name in (*CHAIN, "hub", "work", "lone")):
        directory = reader.home / layer.id
        assert layer.link == (directory / "link").read_text()
        assert layer.lower == ((directory / "lower").read_text() if layer.parent else "")
        assert f"../{layer.id}/diff" == os.readlink(reader.home / "l" / layer.link)


def test_committed_layers_are_those_with_children(reader: Reader) -> None:
    """A layer is committed when something was built on it, and used when it was mounted or built on."""
    assert ["c00", "hub"] == ids(
        x for x in map(reader.layer, ["c00", "hub", "lone"]) if x.committed
    )
    assert reader.layer("c11").committed  # of `gone`, its child that was
    assert (True, False) == (reader.layer("work").used, reader.layer("s000").used)


def test_layers_come_in_order_over_many_pages(reader: Reader) -> None:
    """Every layer comes once, in the order of ids, though a page holds fewer."""
    found = ids(reader.layers())
    assert sorted([*CHAIN, *STAR, "hub", "work", "lone"]) == found
    assert len(found) > engine.PAGE


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"role": "hub"}, ["hub"]),
        ({"role": ""}, ["hub", "work"]),
        ({"role": "", "empty": ""}, ["hub"]),
        ({"role": "hub", "chain": "1"}, []),
        ({"chain": "7"}, ["c07"]),
        ({"third": "169"}, ["s507"]),
        ({"third": ""}, STAR[::3]),
        ({}, None),
    ],
)
def test_labels_filter(reader: Reader, labels: dict[str, str], expected: list[str] | None) -> None:
    """All given labels must match; an empty value matches any."""
    everything = ids(reader.layers())
    assert (everything if expected is None else expected) == ids(reader.layers(labels=labels))


def test_the_chain_upwards(reader: Reader) -> None:
    """Parent and ancestors are the chain, nearest first."""
    assert [None, "c00", "c03"] == [
        parent and parent.id for parent in map(reader.parent, ["c00", "c01", "work"])
    ]
    assert CHAIN[:3][::-1] == ids(reader.ancestors("c03"))
    assert CHAIN[:-1][::-1] == ids(reader.ancestors(CHAIN[-1]))
    assert () == reader.ancestors("lone")


def test_the_chain_downwards(reader: Reader) -> None:
    """Children are by id, descendants nearest first, however many there are."""
    assert STAR == ids(reader.children("hub")) == ids(reader.descendants("hub"))
    assert ["c04", "work"] == ids(reader.children("c03"))
    assert ["c04", "work", *CHAIN[5:]] == ids(reader.descendants("c03"))
    assert () == reader.children("lone") == reader.descendants("lone")


def test_lower_dirs_are_short_links(reader: Reader) -> None:
    """`lower_dirs` gives `<home>/l/<LINK>`, nearest first, each leading to the next layer below."""
    found = reader.lower_dirs("work")
    assert tuple(f"{reader.home}/l/{reader.layer(c).link}" for c in CHAIN[3::-1]) == found
    below = [f"{reader.home}/{name}/diff" for name in CHAIN[3::-1]]
    assert below == list(map(os.path.realpath, found))
    assert () == reader.lower_dirs("lone")


def test_metadata_has_resolved_paths(reader: Reader) -> None:
    """`metadata` gives Docker's four names, LowerDir resolved, and no LowerDir without a parent."""
    home = reader.home
    assert {
        "UpperDir": f"{home}/work/diff",
        "WorkDir": f"{home}/work/work",
        "MergedDir": f"{home}/work/merged",
        "LowerDir": ":".join(f"{home}/{name}/diff" for name in CHAIN[3::-1]),
    } == reader.metadata("work")
    assert reader.metadata("work") == reader.metadata("work")  # the links are remembered now
    assert "LowerDir" not in reader.metadata("lone")


def test_what_is_remembered_does_not_outlive_its_layer(bare: Path) -> None:
    """A layer asked about and then removed is unknown; made anew elsewhere, it has its new chain."""
    home = bare / "with:a colon"
    Store.initialize(home)
    with Store.open(home) as store, Reader.open(home) as reader:
        store.create("one")
        store.create("two", parent="one")
        store.create("top", parent="two")
        for _ in range(2):
            assert f"{home}/two/diff:{home}/one/diff" == reader.metadata("top")["LowerDir"]
        links = [store.layer(name).link for name in ("two", "one")]
        assert tuple(f"{home}/l/{link}" for link in links) == reader.lower_dirs("top")
        store.remove("top")
        for question in (reader.metadata, reader.lower_dirs):
            with pytest.raises(UnknownLayer):
                question("top")
        store.create("top", parent="one")
        assert f"{home}/one/diff" == reader.metadata("top")["LowerDir"]
        assert (f"{home}/l/{links[1]}",) == reader.lower_dirs("top")


def test_holders_say_who_and_since_when(reader: Reader) -> None:
    """A hold has its holder, count, the event that began it, and the process that took it."""
    docker, cli = reader.holders("work")
    assert [("docker", 2), ("cli", 1)] == [(hold.holder, hold.count) for hold in (docker, cli)]
    for hold in (docker, cli):
        (entry,) = reader.events(after_seq=hold.since_seq - 1, limit=1)
        assert ("work", hold.holder, hold.since) == (entry.layer, entry.event.holder, entry.at)
        assert hold.taken_by is not None
        assert (os.getpid(), True) == (hold.taken_by.pid, hold.taken_by.closed_at is not None)
    assert ["lone", "work", "work"] == [hold.layer for hold in reader.holders()]


def test_mounts_say_how_and_since_when(reader: Reader) -> None:
    """Only a layer with a parent is mounted; the mount tells how and since which event."""
    (mount,) = reader.mounts()
    assert mount == reader.mount("work")
    assert ("work", False) == (mount.layer, mount.read_only)
    (entry,) = reader.events(after_seq=mount.since_seq - 1, limit=1)
    assert ("layer.mounted.v1", mount.mount_id) == (entry.kind, entry.event.mount_id)
    assert reader.mount("lone") is None


def test_removal_effect_says_what_stands_in_the_way(reader: Reader) -> None:
    """Children and holders block a removal, and are named."""
    hub = reader.removal_effect("hub")
    assert (tuple(STAR), 1) == (hub.children, len(hub.blocked_by))
    assert f"{WIDTH} children: s000, s001" in hub.blocked_by[0]
    work = reader.removal_effect("work")
    assert ("docker holds it (2)", "cli holds it (1)") == work.blocked_by
    assert (True, False, None) == (work.mounted, work.unmounts, work.frees_parent)


def test_removal_effect_says_what_would_go(reader: Reader) -> None:
    """A layer that is free is blocked by nothing; the last child frees its parent."""
    last = reader.removal_effect(CHAIN[-1])
    assert ((), (), CHAIN[-2]) == (last.blocked_by, last.children, last.frees_parent)
    assert (reader.removal_effect("s000").frees_parent, False) == (None, last.mounted)


@pytest.mark.parametrize(
    "ask",
    ["layer", "parent", "ancestors", "children", "descendants", "lower_dirs", "metadata", "holders",
     "mount", "removal_effect", "resolve"],
)  # fmt: skip
def test_questions_about_no_layer_are_refused(reader: Reader, ask: str) -> None:
    """Every question about a layer that is not there is UnknownLayer, and names it."""
    for name in ("nothing", "gone", ""):
        with pytest.raises(UnknownLayer, match=f"no layer {name}"):
            getattr(reader, ask)(name)
        assert not reader.exists(name)


def test_remembered_chains_are_bounded(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many chains are asked for, no more than a limit are kept, and every answer is right."""
    monkeypatch.setattr("layerstore.reader._KNOWN_CHAINS", 3)
    for name in (*CHAIN, *CHAIN[::-1]):
        lowers = CHAIN[: CHAIN.index(name)][::-1]
        expected = ":".join(f"{reader.home}/{lower}/diff" for lower in lowers) or None
        assert expected == reader.metadata(name).get("LowerDir")
        assert len(reader._chains) <= 3


def test_resolve_takes_ids_prefixes_and_links(reader: Reader) -> None:
    """An id, a beginning that fits one id, and a link id all mean the layer."""
    link = reader.layer("work").link
    found = [reader.resolve(text) for text in ("work", "wor", "w", link)]
    assert ["work"] * 4 == found
    assert ["hub", "lone", "s507"] == [reader.resolve(text) for text in ("h", "l", "s507")]


def test_resolve_refuses_what_fits_several(reader: Reader) -> None:
    """A beginning that fits several ids is refused, and some of them are named."""
    with pytest.raises(InvalidArgument, match=r"'c1' fits several layers: c10, c11$"):
        reader.resolve("c1")
    with pytest.raises(InvalidArgument, match=r"s000, s001, s002, s003, s004 …"):
        reader.resolve("s")


def test_resolve_takes_paths(reader: Reader, tmp_path: Path) -> None:
    """A path below a layer, its mountpoint, or a short link means the layer, also by way of a symlink."""
    home, link = reader.home, reader.layer("work").link
    alias = tmp_path / "alias"
    alias.symlink_to(home)
    for base in (home, alias):
        for path in (
            base / "work",
            base / "work" / "diff" / "etc" / "passwd",
            base / "work" / "merged",
            base / "work" / "merged" / "any" / "file",
            base / "l" / link,
            base / "l" / link / "etc",
        ):
            assert ("work", str(path)) == (reader.resolve(str(path)), str(path))
    for stranger in (home, tmp_path, home / "nothing" / "diff", home / "l" / ("A" * 26)):
        with pytest.raises(UnknownLayer):
            reader.resolve(f"{stranger}/")


def test_a_home_behind_a_symlink_is_the_same_store(forest: Path, tmp_path: Path) -> None:
    """Opened by a symbolic link, the store answers with real paths."""
    alias = tmp_path / "alias"
    alias.symlink_to(forest)
    with Reader.open(alias) as reader:
        assert (forest, f"{forest}/work/diff") == (reader.home, reader.metadata("work")["UpperDir"])


def test_status_counts_and_names(reader: Reader) -> None:
    """Status counts layers, mounts and holds, and names schema, SQLite and file system."""
    found = reader.status()
    counts = (found.layers, found.mounts, found.holds, found.operations, found.damaged)
    assert (DEPTH + WIDTH + 3, 1, 4, 0, 0) == counts
    assert (str(reader.home), reader.last_seq(), ()) == (found.home, found.seq, found.owners)
    assert (engine.DRIVER, engine.SQLITE_VERSION, "wal") == (
        found.sqlite_driver,
        found.sqlite,
        found.journal_mode,
    )
    assert (m.DEFAULT_DEPTH, engine.ONE_WRITER_NEEDED) == (found.max_depth, bool(found.warnings))
    assert found.database_bytes == os.stat(reader.home / ".layerstore/journal.db").st_size
    assert found.probes and found.file_system not in ("", "not probed")


def test_a_store_answers_like_a_reader(forest: Path, reader: Reader) -> None:
    """An open Store gives the answers of a Reader, and is itself among the owners."""
    with Store.open(forest) as store:
        assert list(reader.layers()) == list(store.layers())
        assert reader.removal_effect("work") == store.removal_effect("work")
        (owner,) = reader.owners()
        assert (os.getpid(), None) == (owner.pid, owner.closed_at)
        assert owner == reader.owner(owner.id)
        assert store.status().owners == (owner,)
    assert () == reader.owners()


def test_a_closed_reader_says_so(forest: Path) -> None:
    """A question after the close is StoreClosed, and a second close does nothing."""
    reader = Reader.open(forest)
    reader.close()
    reader.close()
    with pytest.raises(StoreClosed):
        reader.layer("work")
