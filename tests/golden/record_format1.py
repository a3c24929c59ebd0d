"""Writes the golden files of the first format. It was run once; it is kept to show how they came to be.

    PYTHONPATH=. python tests/golden/record_format1.py

Names, times, owners and boots are fixed, so that the files are the same each time. Do not run it to
make a failing test pass: the files are what old stores contain.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

from layerstore import codec, projection, replay
from layerstore import events as e
from layerstore.db import engine
from layerstore.model import Verb
from tests.golden.format1 import HERE, INDEX, JOURNAL, TREE

LINKS = {
    "base": "AAAAAAAAAAAAAAAAAAAAAAAAAA",
    "child": "BBBBBBBBBBBBBBBBBBBBBBBBBB",
    "leaf": "CCCCCCCCCCCCCCCCCCCCCCCCCC",
    "work": "DDDDDDDDDDDDDDDDDDDDDDDDDD",
    "adopted": "EEEEEEEEEEEEEEEEEEEEEEEEEE",
    "gone": "FFFFFFFFFFFFFFFFFFFFFFFFFF",
    "never": "GGGGGGGGGGGGGGGGGGGGGGGGGG",
    "half": "HHHHHHHHHHHHHHHHHHHHHHHHHH",
}
FIRST, SECOND = "0" * 31 + "1", "0" * 31 + "2"
BOOTS = {
    FIRST: "11111111-1111-4111-8111-111111111111",
    SECOND: "22222222-2222-4222-8222-222222222222",
}
_operations = (f"{number:032x}" for number in itertools.count(0xA0))

Row = tuple[str | None, str, e.Event]


def lower(*chain: str) -> str:
    """The text of a lower file."""
    return ":".join(f"l/{LINKS[name]}" for name in chain)


def intended(
    name: str, *chain: str, read_write: bool = False, labels: dict[str, str] | None = None
) -> e.LayerCreateIntended:
    """The intent of a create; `chain` is what lies below, nearest first."""
    parent = chain[0] if chain else None
    return e.LayerCreateIntended(
        layer=name,
        link=LINKS[name],
        parent=parent,
        parent_link=LINKS[parent] if parent else "",
        lower=lower(*chain),
        depth=len(chain),
        read_write=read_write,
        labels=labels or {},
        storage_options={},
        mount_label="system_u:object_r:container_file_t:s0" if read_write else "",
        durable=not read_write,
        sync_parent=False,
        probe_parent=False,
    )


def triple(owner: str, intent: e.Intent, outcome: e.Event, *more: e.Event) -> list[Row]:
    """A whole operation: intent, what came between, outcome."""
    operation = next(_operations)
    return [
        (operation, owner, intent),
        *((operation, owner, x) for x in more),
        (operation, owner, outcome),
    ]


def create(owner: str, name: str, *chain: str, **named: Any) -> list[Row]:
    """A create that went well."""
    intent = intended(name, *chain, **named)
    return triple(owner, intent, e.LayerCreated(name, intent.parent, intent.durable))


def mount(name: str, holder: str, *chain: str, read_only: bool) -> e.LayerMountIntended:
    """The intent of a first get."""
    return e.LayerMountIntended(name, LINKS[name], lower(*chain), chain, holder, read_only, "")


def script() -> list[Row]:
    """Every kind of event at least once, as a store of the first format writes them."""
    me = f"owner:{FIRST}"
    half = next(_operations)
    return [
        (None, "", e.StoreInitialized("5" * 32, 128)),
        *create(FIRST, "base", labels={"kind": "image", "name": "Größe ✓"}),
        *create(FIRST, "child", "base"),
        *create(FIRST, "leaf", "child", "base"),
        *create(FIRST, "work", "child", "base", read_write=True),
        *create(FIRST, "gone"),
        *triple(FIRST, intended("never", "base"), e.LayerCreateUndone("never", "OSError: [Errno 28]")),
        *triple(FIRST, mount("work", "docker", "child", "base", read_only=False),
                e.LayerMounted("work", "docker", False, 42, "new")),
        (None, FIRST, e.HoldTaken("work", "docker")),
        (None, FIRST, e.HoldTaken("work", me)),
        (None, FIRST, e.HoldTaken("base", me)),
        (None, FIRST, e.HoldTaken("gone", "cli")),
        (None, FIRST, e.HoldReleased("work", "docker")),
        (None, FIRST, e.HoldsEnded("gone", "cli", "released by name")),
        *triple(FIRST, mount("child", "cli", "base", read_only=True),
                e.LayerMounted("child", "cli", True, 43, "absolute")),
        *triple(FIRST, e.LayerUnmountIntended("child", "cli", "put", True),
                e.LayerUnmountUndone("child", "interrupted")),
        *triple(FIRST, e.LayerUnmountIntended("child", "cli", "put", True),
                e.LayerUnmounted("child", False)),
        *triple(FIRST, mount("leaf", "cli", "child", "base", read_only=False),
                e.LayerMountUndone("leaf", "UpperBusy: in use", True)),
        *triple(FIRST, e.LayerRemoveIntended("leaf", LINKS["leaf"], me, False, True, True),
                e.LayerRemoveUndone("leaf", "UpperBusy: in use", True)),
        *triple(FIRST, e.LayerRemoveIntended("gone", LINKS["gone"], me, False, False, True),
                e.LayerRemoved("gone")),
        *triple(FIRST, e.TrashEmptyIntended("trash/a", "a"), e.TrashEmptyUndone("trash/a", "busy")),
        *triple(FIRST, e.TrashEmptyIntended("trash/a", "a"), e.TrashEmptied("trash/a", 3, 4096)),
        (half, FIRST, intended("half", "child", "base")),
        (half, FIRST, e.OperationAbandoned("half", "OSError: [Errno 5]")),
        (half, SECOND, e.OperationClaimed("half", Verb.CREATE, FIRST)),
        (None, SECOND, e.OwnerDied(FIRST, 4711, "dockerd")),
        (None, SECOND, e.LayerAdopted("adopted", LINKS["adopted"], "base", lower("base"), 1, False,
                                      "the index did not know it")),
        (None, SECOND, e.MountFound("adopted", "unknown", 44, True)),
        (None, SECOND, e.LayerIsolated("leaf", "its link file is empty")),
        (None, SECOND, e.LayerRestored("leaf")),
        (None, SECOND, e.LayerIsolated("adopted", "its directory is gone")),
        *triple(SECOND, e.TreeCorrectIntended("base", "restore-link", LINKS["base"]),
                e.TreeCorrected("base")),
        *triple(SECOND, e.TreeCorrectIntended("staging/x", "sweep-staging", "x"),
                e.TreeCorrectUndone("staging/x", "busy")),
        (None, SECOND, e.StoreRebuilt("5" * 32, "asked for")),
    ]  # fmt: skip


def lines() -> list[dict[str, Any]]:
    """The rows of the script."""
    found = []
    for number, (operation, owner, event) in enumerate(script(), 1):
        kind, data = codec.encode(event)
        found.append(
            {
                "seq": number if owner != SECOND else number + 100,  # a mark was jumped over
                "epoch": "e" * 16,
                "operation": operation,
                "owner": owner,
                "boot_id": BOOTS.get(owner, BOOTS[FIRST]),
                "at": 1_767_225_600_000_000 + number * 1_000_001,
                "kind": kind,
                "layer": getattr(event, "layer", None),
                "data": data,
            }
        )
    return found


def folded(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The tables that the rows fold to."""
    connection = engine.scratch()
    try:
        for row in rows:
            facts = projection.RowFacts(
                row["seq"], row["operation"], row["owner"], row["boot_id"], row["at"]
            )
            projection.fold(
                connection, facts, codec.decode(row["kind"], row["data"], seq=row["seq"])
            )
        found = {}
        for name, query in replay.FOLDED.items():
            cursor = connection.execute(query)
            columns = [column[0] for column in cursor.description]
            found[name] = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return found
    finally:
        connection.close()


def tree() -> dict[str, dict[str, Any]]:
    """The tree that a store of the first format has of these layers, but for the adopted one."""
    found: dict[str, dict[str, Any]] = {"l": {"kind": "directory", "mode": "0700"}}
    chains: dict[str, tuple[str, ...]] = {
        "base": (),
        "child": ("base",),
        "leaf": ("child", "base"),
        "work": ("child", "base"),
    }
    for name, chain in chains.items():
        found[name] = {"kind": "directory", "mode": "0710"}
        found[f"{name}/diff"] = {"kind": "directory", "mode": "0755"}
        found[f"{name}/diff/of-{name}"] = {"kind": "file", "mode": "0644", "content": name}
        found[f"{name}/link"] = {"kind": "file", "mode": "0644", "content": LINKS[name]}
        found[f"l/{LINKS[name]}"] = {"kind": "link", "content": f"../{name}/diff"}
        if chain:
            found[f"{name}/work"] = {"kind": "directory", "mode": "0700"}
            found[f"{name}/lower"] = {"kind": "file", "mode": "0644", "content": lower(*chain)}
        if name in ("base", "child"):
            found[f"{name}/committed"] = {"kind": "file", "mode": "0644", "content": ""}
    return found


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    rows = lines()
    JOURNAL.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    INDEX.write_text(json.dumps(folded(rows), indent=1, ensure_ascii=False) + "\n")
    TREE.write_text(json.dumps(tree(), indent=1, sort_keys=True) + "\n")
