"""Owns the plans about records, leftovers, strangers and mounts; it must not change anything.

What is not understood is set aside, unless something depends on it.
"""

from __future__ import annotations

import attrs

from layerstore.audit.view import View
from layerstore.fs import layout
from layerstore.model import LINK_PATTERN
from layerstore.repair import rebuilding
from layerstore.repair.case import Case
from layerstore.repair.forms import Act, Change, Remedy

# --- records --------------------------------------------------------------------------------------


def settle(case: Case) -> Remedy:
    act = Act("settle", "settle what dead processes left in flight", code="unsettled-operation")
    return case.does(act)


def refold(case: Case) -> Remedy:
    return case.does(
        Act("refold", "write the index again from the journal", code="projection-differs")
    )


def upgrade(case: Case) -> Remedy:
    return case.does(
        Act("upgrade", "bring the schema of the database up to date", code="old-schema")
    )


def reopen(case: Case) -> Remedy:
    does = f"look at {case.layer} again, and let it be used if it is whole"
    return case.does(case.act("reopen", does))


def forget(case: Case) -> Remedy:
    view, layer = case.view, case.layer
    row = view.row(layer)
    if row is not None:
        lying = [name for name, link in view.tree.trash.items() if link == row.link]
        if len(lying) == 1 and not view.in_flight(lying[0]) and not _mounted_in_trash(view, lying):
            source = f"{layout.TRASH}/{lying[0]}"
            change = Change("moved", source)
            return case.does(
                case.act("bring-back", f"bring {layer} back from {source}", change, path=layer)
            )
        if lying:
            return case.leaves(
                f"it lies in {layout.TRASH}, twice, or is mounted or being worked on there"
            )
    depend = case.depended_on()
    if depend or layer in view.places:
        why = depend or "it is mounted"
        return case.leaves(
            f"{why}; put its directory back from a backup, or remove what depends on it"
        )
    return case.does(case.act("forget", f"drop what the index says of {layer}, which is gone"))


def _mounted_in_trash(view: View, names: list[str]) -> bool:
    return any(f"{layout.TRASH}/{name}" in view.places for name in names)


def release(case: Case) -> Remedy:
    return case.does(
        case.act("release", f"end the holds of names outside on {case.layer}, which is not mounted")
    )


# --- what is set aside ----------------------------------------------------------------------------


def _aside(case: Case, repair: str) -> Remedy:
    depend = case.depended_on() if repair == "quarantine" else ""
    if depend and case.path == case.layer:
        return case.leaves(f"{depend}, so it is not moved")
    return case.does(case.act(repair, f"set {case.path} aside", Change()))


def quarantine(case: Case) -> Remedy:
    return _aside(case, "quarantine")


def staging(case: Case) -> Remedy:
    name = case.path.rpartition("/")[2]
    records = case.view.records
    if name.startswith(layout.TRIAL) and records is not None and records.living:
        return case.leaves("a process that has the store open may be trying the file system out")
    return quarantine(case)


def trash(case: Case) -> Remedy:
    if _mounted_in_trash(case.view, [case.path.rpartition("/")[2]]):
        return case.leaves("something is mounted upon it; unmount that, and repair again")
    if case.view.tree.trash.get(case.path.rpartition("/")[2]) in case.all.missing:
        return case.leaves("it is a layer that the index has, which is brought back")
    return quarantine(case)


def drop_link(case: Case) -> Remedy:
    if case.path.rpartition("/")[2] in case.all.named:
        return case.leaves("a lower file names it; what that is should be clear first")
    return _aside(case, "drop-link")


def clear_committed(case: Case) -> Remedy:
    return _aside(case, "clear-committed")


def drop_merged(case: Case) -> Remedy:
    view, row = case.view, case.view.row(case.layer)
    if case.layer in view.places or (row is not None and row.draining):
        return case.leaves("it is mounted, or in use; when that ends, repair again")
    if row is None:
        return case.leaves("the index does not know the layer, which comes first")
    probe = case.path.endswith(f"/{layout.MERGED}") and row.parent is not None
    does = f"ask the kernel whether {case.layer} is in use, and set {case.path} aside if it is not"
    return case.does(case.act("drop-merged", does, Change(probe=probe)))


# --- layers that the index does not know ----------------------------------------------------------


def unknown(case: Case) -> Remedy:
    view, layer = case.view, case.layer
    found = view.tree.layers[layer]
    link = found.link or ""
    why = view.tree.broken(layer)
    alone = case.all.claims.get(link) == 1
    if why is None and alone:
        return case.does(case.act("adopt", f"take {layer} into the index"))
    leads = case.all.leading.get(layout.link_target(layer), ())
    leading = [name for name in leads if name not in case.all.indexed]
    has_link = LINK_PATTERN.fullmatch(link) is not None
    if not has_link and len(leading) == 1:
        write = rebuilding.write(case, "write-link", layout.LINK, leading[0])
        return case.does(
            write, case.act("adopt", f"take {layer} into the index, if it is whole then")
        )
    free = alone and link not in case.all.indexed and link not in view.tree.links
    if has_link and free and view.tree.links_facts is not None:
        make = rebuilding.link(case, link)
        return case.does(
            make, case.act("adopt", f"take {layer} into the index, if it is whole then")
        )
    depend = case.depended_on()
    if depend or layer in view.places:
        return case.leaves(f"{depend or 'it is mounted'}, so it is not moved, and it is not whole")
    does = f"set {layer} aside: it is no whole layer ({why or 'another has the same link'})"
    return case.does(case.act("quarantine", does, Change()))


# --- mounts ---------------------------------------------------------------------------------------


def found_mount(case: Case) -> Remedy:
    does = f"write down that {case.layer} is mounted, with the holder 'unknown'"
    return case.does(case.act("record-mount", does))


def lost_mount(case: Case) -> Remedy:
    does = f"ask the kernel, and end the mount of {case.layer} in the journal if there is none"
    return case.does(case.act("end-mount", does))


def removed(case: Case) -> Remedy:
    view = case.view
    mine = [
        place
        for places in view.places.values()
        for place in places
        if place.mine and place.entry.mount_point == case.finding.path
    ]
    if not mine or not case.path.startswith(f"{layout.TRASH}/"):
        return case.leaves(f"unmount it where it is: umount {case.finding.path}")
    act = case.act("unmount", f"unmount {case.path}", Change("unmount"))
    return case.does(attrs.evolve(act, layer=None))
