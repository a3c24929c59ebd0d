"""Owns the way from a finding to the acts that mend it; it must not change anything.

- What can be derived is derived: `link`, `l/`, `lower`, `work` from the index, the index from the
  journal, a row from a whole directory.
- What cannot be derived and is not understood goes to the quarantine, unless something depends on it.
- While the index is not what the journal says, nothing is done by it but to write it again.
- Where the records look lost, nothing is moved away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from layerstore import model as m
from layerstore.audit import Report
from layerstore.audit.codes import CODES, REPAIRS
from layerstore.audit.view import View
from layerstore.errors import InvalidArgument
from layerstore.repair import deciding, rebuilding
from layerstore.repair.case import NOBODY, Case, Overview, Owners
from layerstore.repair.forms import Act, Plan, Remedy

_INDEX: Final = frozenset({"projection-differs", "broken-reference"})
_FIRST: Final = frozenset({"settle", "refold", "upgrade"})
_UNREAD: Final = "the records cannot be read, and come first"
_STALE: Final = "the index is not what the journal says: repair projection-differs first"


def check_only(only: Iterable[str]) -> frozenset[str]:
    """The codes, or InvalidArgument for one that there is not."""
    wanted = frozenset(only)
    for code in sorted(wanted - set(CODES)):
        raise InvalidArgument(
            f"No finding has the code {code!r}.", hint="docs/audit.md lists them; so does an audit."
        )
    return wanted


def plan(
    report: Report,
    view: View,
    *,
    only: frozenset[str] = frozenset(),
    owners: Owners = NOBODY,
) -> Plan:
    """What would mend what was found. Notes are left alone unless they are asked for by `only`."""
    overview = Overview.of(view)
    wanted = [
        item
        for item in report.findings
        if (item.code in only if only else item.severity is not m.Severity.NOTE)
    ]
    stale = any(item.code in _INDEX for item in report.findings)
    remedies = []
    for item in wanted:
        case = Case(view, item, owners, overview)
        remedy = case.leaves(_SERVED) if _is_served(view, item) else _RULES[item.code](case)
        if stale and any(act.repair not in _FIRST for act in remedy.acts):
            # What is derived from an index that is wrong would be wrong, too.
            acts = () if only and not only & _INDEX else deciding.refold(case).acts
            remedy = Remedy(item, acts, "" if acts else _STALE)
        if view.records is None and any(act.repair not in _FIRST for act in remedy.acts):
            old = any(found.code == "old-schema" for found in report.findings)
            acts = deciding.upgrade(case).acts if old and not only else ()
            remedy = Remedy(item, acts, "" if acts else _UNREAD)
        if report.lost_metadata and any(_destroys(act) for act in remedy.acts):
            remedy = Remedy(item, (), _LOST)
        remedies.append(remedy)
    return Plan(view.home, tuple(remedies), report.lost_metadata)


def _is_served(view: View, item: m.Finding) -> bool:
    """Whether what a finding is about, or something in it, is a mount whose server would be asked."""
    path = item.path or ""
    places = [f"{view.home}/{place}" for place in view.tree.served]
    return any(f"{at}/".startswith(f"{path}/") or path.startswith(f"{at}/") for at in places)


def _destroys(act: Act) -> bool:
    return act.moves or REPAIRS[act.repair].destroys


_LOST: Final = (
    "the records look lost, and not the layers, so nothing is moved away; first 'layerstore db "
    "restore FILE' with a copy of the database, or 'layerstore db rebuild', which takes the layers "
    "as the tree has them"
)


def _by_hand(why: str) -> Callable[[Case], Remedy]:
    return lambda case: case.leaves(why)


_IN_USE: Final = (
    "whoever uses it sees what is mounted, so it stays; 'layerstore umount', 'release' or 'cleanup' "
    "end it, and the next mount is right"
)
_RESTORE: Final = (
    "'layerstore db restore FILE' puts a copy of the database in place, 'layerstore db rebuild' makes "
    "it anew from the tree"
)
_SERVED: Final = (
    "a mount lies there whose server may never answer, so nothing is asked of it: unmount that (umount -f, "
    "umount -l), and repair again"
)
_NOT_OURS: Final = "it is another engine's to repair; this program does not write its records"
_NOTHING: Final = "nothing needs to be done"
_CONTENT: Final = (
    "only a copy has the content: put the files back from a backup, or 'layerstore rm' the layer and "
    "fetch it again; if the change is meant, 'layerstore manifest --drop ID'"
)

_RULES: Final[dict[str, Callable[[Case], Remedy]]] = {
    "lost-metadata": _by_hand(_RESTORE),
    "lost-database": _by_hand(_RESTORE),
    "damaged-database": _by_hand(_RESTORE),
    "damaged-journal": _by_hand(_RESTORE),
    "broken-reference": deciding.refold,
    "projection-differs": deciding.refold,
    "archive-gap": _by_hand("what is in no archive is gone; the store does not need it"),
    "damaged-archive": _by_hand("put it back from a backup; the store does not need it"),
    "wrong-mode": rebuilding.set_mode,
    "wrong-owner": rebuilding.set_mode,
    "old-schema": deciding.upgrade,
    "leaked-project": deciding.forget,
    "doubled-project": _by_hand("give one of the two another project id, or 'layerstore rm' it"),
    "quota-not-counted": _by_hand("it is used without its limit; create it anew to have one"),
    "quota-differs": _by_hand("the next first mount sets it right"),
    "unsettled-operation": deciding.settle,
    "dead-owner": deciding.settle,
    "dead-holder": deciding.settle,
    "staging-leftover": deciding.staging,
    "trash-leftover": deciding.trash,
    "archive-leftover": _by_hand("the next compaction removes it: 'layerstore journal compact'"),
    "orphan-data": _by_hand(_NOT_OURS),
    "temporary-file": deciding.quarantine,
    "probe-directory": deciding.quarantine,
    "quarantine-content": _by_hand(
        "'layerstore repair --undo OPERATION' puts it back, 'layerstore repair --empty-quarantine' "
        "removes it for good"
    ),
    "copied-store": _by_hand("'layerstore db adopt-copy' says what it is"),
    "quota-unknown": _by_hand(_NOTHING),
    "stranger": _by_hand(_NOTHING),
    "missing-links": rebuilding.make_links,
    "missing-link": rebuilding.make_link,
    "wrong-link": rebuilding.make_link,
    "orphan-link": deciding.drop_link,
    "doubled-link": deciding.drop_link,
    "outside-link": deciding.drop_link,
    "not-a-link": deciding.quarantine,
    "missing-link-file": rebuilding.write_link,
    "empty-link-file": rebuilding.write_link,
    "garbled-link-file": rebuilding.write_link,
    "wrong-link-file": rebuilding.write_link,
    "missing-lower-file": rebuilding.write_lower,
    "empty-lower-file": rebuilding.write_lower,
    "garbled-lower-file": rebuilding.write_lower,
    "unknown-lower": rebuilding.write_lower,
    "wrong-lower-file": rebuilding.write_lower,
    "lower-cycle": rebuilding.write_lower,
    "too-deep": rebuilding.write_lower,
    "missing-layer": deciding.forget,
    "unreadable": _by_hand("see to the disk first; then put the layer back from a backup"),
    "missing-diff": _by_hand(
        "its content is gone: put it back from a backup, or 'layerstore rm' the layer"
    ),
    "missing-work": rebuilding.make_work,
    "isolated-layer": deciding.reopen,
    "volatile-work": _by_hand(
        "what was written last may be missing; if it is good, remove work/work/incompat/volatile"
    ),
    "half-made-layer": deciding.quarantine,
    "half-unpacked": _by_hand("files may be missing: remove the layer, and fetch it again"),
    "merged-leftover": deciding.drop_merged,
    "unknown-layer": deciding.unknown,
    "unrecorded-layer": _by_hand(_NOT_OURS),
    "recorded-parent-differs": _by_hand(_NOT_OURS),
    "record-without-layer": _by_hand(_NOT_OURS),
    "doubled-record": _by_hand(_NOT_OURS),
    "record-cycle": _by_hand(_NOT_OURS),
    "committed-without-child": deciding.clear_committed,
    "foreign-layer": _by_hand(_NOTHING),
    "draining-layer": deciding.settle,
    "mount-differs": _by_hand(_IN_USE),
    "lower-gone": _by_hand(_IN_USE),
    "lost-mount": deciding.lost_mount,
    "unknown-mount": deciding.found_mount,
    "hold-without-mount": deciding.release,
    "unheld-mount": deciding.settle,
    "mount-of-removed-layer": deciding.removed,
    "kept-mount": _by_hand("it ends with the process that keeps it"),
    "mounted-elsewhere": _by_hand(_NOTHING),
    "lost-records": _by_hand(_NOT_OURS),
    "damaged-record": _by_hand(_NOT_OURS),
    "missing-record": _by_hand(_NOT_OURS),
    "unknown-to-docker": _by_hand("'layerstore rm ID' removes it, once dockerd is not at it"),
    "content-missing": _by_hand(_CONTENT),
    "content-short": _by_hand(_CONTENT),
    "content-zeroed": _by_hand(_CONTENT),
    "content-changed": _by_hand(_CONTENT),
    "content-metadata": _by_hand(_CONTENT),
    "content-extra": _by_hand(_CONTENT),
    "content-unreadable": _by_hand(_CONTENT),
    "lost-manifest": _by_hand("'layerstore manifest --drop ID' forgets what the layer held"),
    "unrecorded-manifest": _by_hand("'layerstore manifest ID' records anew what the layer holds"),
}
"""What is done about each finding; a test holds that it has every code."""
