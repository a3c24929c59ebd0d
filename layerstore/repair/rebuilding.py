"""Owns the plans that write again what can be derived: modes, `l/`, `link`, `lower`, `work`."""

from __future__ import annotations

import os
import stat
from typing import Final

import attrs

from layerstore.fs import layout
from layerstore.repair.case import Case
from layerstore.repair.forms import Act, Change, Remedy

_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH


def set_mode(case: Case) -> Remedy:
    path = case.path
    try:
        status = os.lstat(f"{case.view.home}/{path}" if path else case.view.home)
    except OSError:
        return case.leaves("it is gone")
    mode = stat.S_IMODE(status.st_mode) & ~_WRITABLE
    wrong_owner = case.finding.code == "wrong-owner"
    uid = case.view.tree.home_facts[1] if wrong_owner else None
    change = Change(
        "mode", mode=mode, uid=uid, old_mode=stat.S_IMODE(status.st_mode), old_uid=status.st_uid
    )
    to = f"back to user {uid}" if wrong_owner else f"the mode {mode:04o}"
    return case.does(case.act("set-mode", f"give {path or 'the home'} {to}", change))


def make_links(case: Case) -> Remedy:
    make = Change("directory", mode=layout.PRIVATE_MODE)
    acts = [case.act("make-links", f"make the directory {layout.LINKS}/ again", make)]
    records = case.view.records
    for row in records.index.values() if records is not None else ():
        if row.id in case.view.tree.layers:
            of_layer = attrs.evolve(case, finding=attrs.evolve(case.finding, layer=row.id))
            acts.append(link(of_layer, row.link))
    return case.does(*acts)


def link(case: Case, link: str) -> Act:
    short, target = layout.short_link(link), layout.link_target(case.layer)
    does = f"make the link {short} to {target} again"
    return case.act("make-link", does, Change("link", target), path=short)


def make_link(case: Case) -> Remedy:
    return case.does(link(case, case.path.rpartition("/")[2]))


def write_link(case: Case) -> Remedy:
    row = case.view.row(case.layer)
    if row is None:
        return case.leaves("the index does not know the layer")
    return case.does(write(case, "write-link", layout.LINK, row.link))


def write(case: Case, repair: str, name: str, text: str) -> Act:
    path = f"{case.layer}/{name}"
    does = f"write {path} again: {text[:60]}{'…' if len(text) > 60 else ''}"
    return case.act(repair, does, Change("file", text, layout.FILE_MODE), path=path)


def write_lower(case: Case) -> Remedy:
    row = case.view.row(case.layer)
    if row is None or (case.view.tree.layers[case.layer].lower or "") == row.lower:
        return case.leaves("the index has it so, too")
    if row.lower:
        return case.does(write(case, "write-lower", layout.LOWER, row.lower))
    path = layout.lower_file(case.layer)
    does = f"set {path} aside: the index knows no parent"
    return case.does(case.act("write-lower", does, Change(), path=path))


def make_work(case: Case) -> Remedy:
    if case.layer in case.view.places:
        return case.leaves("it is mounted; when it is unmounted, repair again")
    owners = case.owners
    made = Change("directory", mode=layout.PRIVATE_MODE, uid=owners.uid, gid=owners.gid)
    return case.does(case.act("make-work", f"make {case.path} again", made))
