"""Owns the table of everything that an audit can find; it must not look at a store.

A code is for ever: programs act on it. What a finding means, how bad it is, and what would repair it
stand here and nowhere else; docs/audit.md has the same table, and a test holds the two alike.
"""

from __future__ import annotations

from typing import Final

import attrs

from layerstore.model import Severity

_DAMAGE, _LEFTOVER, _DRIFT, _NOTE = (
    Severity.DAMAGE,
    Severity.LEFTOVER,
    Severity.DRIFT,
    Severity.NOTE,
)


@attrs.frozen
class Repair:
    """What puts something right, and the command that does it."""

    name: str
    does: str
    command: str
    destroys: bool = False
    """It moves something away, or drops a record: it is refused where metadata looks lost."""


@attrs.frozen
class Code:
    """One kind of finding. `repairs` are those that may be done about it, in their order."""

    name: str
    severity: Severity
    meaning: str
    repairs: tuple[str, ...] = ()
    weighs: bool = False
    """What lies there takes room that nothing needs: it is measured."""


_REPAIR: Final = "layerstore repair"

REPAIRS: Final = {
    r.name: r
    for r in (
        Repair("settle", "settles what dead processes left in flight", "layerstore recover"),
        Repair("restore-database", "puts a copy in place", "layerstore db restore FILE"),
        Repair("rebuild-database", "begins a journal anew from the tree", "layerstore db rebuild"),
        Repair("upgrade", "brings the schema up to date", "layerstore db upgrade"),
        Repair("refold", "writes the index again from the journal", _REPAIR),
        Repair("set-mode", "gives back owner and mode", _REPAIR),
        Repair("make-links", "makes the directory l/ again", _REPAIR),
        Repair("make-link", "makes the link in l/ again", _REPAIR),
        Repair("write-link", "writes the link file again", _REPAIR),
        Repair("write-lower", "writes the lower file again, from the parent's chain", _REPAIR),
        Repair("make-work", "makes the work directory again", _REPAIR),
        Repair("bring-back", "brings a layer back from the trash", _REPAIR),
        Repair("reopen", "looks at a layer again that was set apart", _REPAIR),
        Repair("adopt", "takes the layer into the index", _REPAIR),
        Repair("record-mount", "gives a mount the holder `unknown`", _REPAIR),
        Repair("release", "ends the holds of names outside", _REPAIR, destroys=True),
        Repair("end-mount", "ends a mount that the kernel has not", _REPAIR),
        Repair("unmount", "unmounts what is no layer any more", _REPAIR),
        Repair("drop-merged", "sets a merged directory aside", _REPAIR, destroys=True),
        Repair("drop-link", "sets a link aside that no layer has", _REPAIR, destroys=True),
        Repair("clear-committed", "sets the mark of a layer without children aside", _REPAIR),
        Repair("quarantine", "sets it aside, with a note saying why", _REPAIR, destroys=True),
        Repair("forget", "drops the row of what is gone", _REPAIR, destroys=True),
        Repair("drop-manifest", "forgets what a layer held", "layerstore manifest --drop ID"),
        Repair("empty-quarantine", "removes it for good", "layerstore repair --empty-quarantine"),
    )
}
"""Every repair, in the order in which they are done. None but the last removes anything for good."""


def _codes(
    severity: Severity, *rows: tuple[str, str, str] | tuple[str, str, str, bool]
) -> list[Code]:
    return [
        Code(row[0], severity, row[1], tuple(row[2].split()), weighs=len(row) > 3) for row in rows
    ]


_ALL: Final = [
    # --- the store as a whole
    *_codes(
        _DAMAGE,
        (
            "lost-metadata",
            "the records look lost or foreign, and not the layers: nothing may be removed",
            "restore-database rebuild-database",
        ),
        (
            "lost-database",
            "the store's own description or database is missing, or of another store",
            "restore-database rebuild-database",
        ),
        (
            "damaged-database",
            "SQLite cannot read the database, or finds it damaged",
            "restore-database rebuild-database",
        ),
        (
            "damaged-journal",
            "an event cannot be read or folded",
            "restore-database rebuild-database",
        ),
        ("broken-reference", "a row refers to a row that is not there", "refold"),
        ("projection-differs", "the index is not what the journal folds to", "refold"),
        ("archive-gap", "events are in no archive, or in two", ""),
        ("damaged-archive", "an archive of the journal cannot be read, or is another store's", ""),
        ("wrong-mode", "others may write where only the store may", "set-mode"),
        ("wrong-owner", "a file of the layout belongs to somebody else", "set-mode"),
    ),
    *_codes(
        _DRIFT,
        ("old-schema", "the database has an older schema", "upgrade"),
        ("leaked-project", "a quota id belongs to a layer that is gone", "forget"),
        ("doubled-project", "two layers share a quota id", ""),
        ("quota-not-counted", "the files of a layer do not belong to its project", ""),
        ("quota-differs", "the limit in the kernel is not the one that was asked for", ""),
    ),
    *_codes(
        _LEFTOVER,
        ("unsettled-operation", "an operation was left in flight", "settle"),
        ("dead-owner", "a process ended without closing the store", "settle"),
        ("dead-holder", "a dead process holds a layer", "settle"),
        (
            "staging-leftover",
            "what was being built belongs to no operation",
            "quarantine",
            True,
        ),
        ("trash-leftover", "what was being removed belongs to no operation", "quarantine", True),
        ("archive-leftover", "a compaction did not end", ""),
        ("orphan-data", "the engine keeps data of a layer that has no record", "", True),
        (
            "temporary-file",
            "a writer that was interrupted left a temporary file",
            "quarantine",
            True,
        ),
        ("probe-directory", "a trial of the file system was interrupted", "quarantine", True),
    ),
    *_codes(
        _NOTE,
        (
            "quarantine-content",
            "something was set aside, and waits for a decision",
            "empty-quarantine",
            True,
        ),
        ("copied-store", "this home is a copy of another store, with the same id", ""),
        ("quota-unknown", "the kernel does not tell the limits", ""),
        ("stranger", "a name is not of the layout, and is left alone", ""),
    ),
    # --- links
    *_codes(
        _DAMAGE,
        ("missing-links", "the directory l/ is gone", "make-links make-link"),
        ("missing-link", "the link of a layer is not in l/", "make-link"),
        ("wrong-link", "the link of a layer leads elsewhere, or is no link", "make-link"),
    ),
    *_codes(
        _LEFTOVER,
        ("orphan-link", "a link leads to no layer, and no layer has it", "drop-link"),
        ("doubled-link", "a layer has a second link in l/", "drop-link"),
        ("outside-link", "a link that no layer has leads out of the layout", "drop-link"),
        ("not-a-link", "what has the name of a link is none", "quarantine"),
    ),
    # --- the small files
    *_codes(
        _DAMAGE,
        ("missing-link-file", "a layer has no link file", "write-link"),
        ("empty-link-file", "the link file of a layer is empty", "write-link"),
        ("garbled-link-file", "the link file of a layer is no link id", "write-link"),
        ("wrong-link-file", "the link file is of another layer", "write-link"),
        ("missing-lower-file", "a layer with a parent has no lower file", "write-lower"),
        ("empty-lower-file", "the lower file of a layer is empty", "write-lower"),
        ("garbled-lower-file", "the lower file is not of the form l/LINK:l/LINK…", "write-lower"),
        ("unknown-lower", "the lower file names a link that leads to no layer", "write-lower"),
        (
            "wrong-lower-file",
            "the lower file is not the parent in front of the parent's own",
            "write-lower",
        ),
        ("lower-cycle", "a layer is below itself", "write-lower"),
        ("too-deep", "a layer has more layers below it than can be mounted", "write-lower"),
    ),
    # --- layers
    *_codes(
        _DAMAGE,
        ("missing-layer", "a layer of the index has no directory", "bring-back forget"),
        (
            "unreadable",
            "the file system does not let a layer be read: an error of the disk, perhaps",
            "",
        ),
        ("missing-diff", "a layer has no diff directory", ""),
        ("missing-work", "a layer with a parent has no work directory", "make-work"),
        ("isolated-layer", "recovery set a layer apart", "reopen"),
        (
            "volatile-work",
            "it was mounted with `volatile` and not unmounted: files may be lost",
            "",
        ),
    ),
    *_codes(
        _LEFTOVER,
        ("half-made-layer", "the making of a layer was interrupted", "quarantine", True),
        ("half-unpacked", "an extraction was interrupted: files may be missing", ""),
        ("merged-leftover", "a layer has a merged directory and is not mounted", "drop-merged"),
    ),
    *_codes(
        _DRIFT,
        (
            "unknown-layer",
            "a layer is in the tree and not in the index",
            "write-link make-link adopt quarantine",
            True,
        ),
        ("unrecorded-layer", "a layer has no record in the metadata of its engine", "", True),
        ("recorded-parent-differs", "the engine's record names another parent", ""),
    ),
    *_codes(
        _DAMAGE,
        ("record-without-layer", "the engine has a record of a layer that is gone", ""),
        ("doubled-record", "the engine has two records of one layer", ""),
        ("damaged-record", "a record of the engine cannot be read, or says what cannot be", ""),
        ("missing-record", "an image of the engine has a layer that has no record", ""),
        ("record-cycle", "by the engine's records a layer is its own ancestor", ""),
        ("lost-records", "the engine's records of all layers are gone", ""),
    ),
    *_codes(
        _LEFTOVER,
        (
            "unknown-to-docker",
            "dockerd has no record of a layer: it died before it wrote one, unless it is at it now",
            "",
            True,
        ),
    ),
    *_codes(
        _NOTE,
        (
            "committed-without-child",
            "a layer is marked committed and has no child",
            "clear-committed",
        ),
        ("foreign-layer", "a form that this program does not know: it is left alone", ""),
        ("draining-layer", "it is unmounted, and somebody still uses it", "settle"),
    ),
    # --- mounts
    *_codes(
        _DAMAGE,
        ("mount-differs", "what is mounted is not the layer's chain", ""),
        ("lower-gone", "a mount stands on a layer that is gone", ""),
    ),
    *_codes(
        _DRIFT,
        (
            "lost-mount",
            "a mount of the journal is in no mount namespace that can be seen",
            "end-mount",
        ),
        ("unknown-mount", "a layer is mounted and the journal does not know it", "record-mount"),
        ("hold-without-mount", "a layer is held, and not mounted", "release"),
    ),
    *_codes(
        _LEFTOVER,
        ("unheld-mount", "a layer is mounted and nobody holds it", "settle"),
        ("mount-of-removed-layer", "a mount is on a layer that is gone", "unmount"),
        ("kept-mount", "a mount that ended here lives on in another mount namespace", ""),
    ),
    # --- content, where it is asked for
    *_codes(
        _DAMAGE,
        ("content-missing", "files of a layer are gone", ""),
        ("content-short", "files of a layer are shorter than they were", ""),
        ("content-zeroed", "files of a layer have nothing but zeros", ""),
        ("content-changed", "files of a layer have other content, or are of another kind", ""),
        ("content-metadata", "files of a layer have another mode, owner, time or xattr", ""),
        ("content-extra", "files are in a layer that it did not have", ""),
        ("content-unreadable", "files of a layer cannot be read: a bad disk, perhaps", ""),
    ),
    *_codes(
        _DRIFT,
        (
            "lost-manifest",
            "what a layer held was recorded, and that record is gone or damaged",
            "drop-manifest",
        ),
    ),
    *_codes(
        _NOTE,
        (
            "unrecorded-manifest",
            "a manifest that the index does not know: it counts for nothing",
            "",
        ),
    ),
    *_codes(_NOTE, ("mounted-elsewhere", "a layer is mounted in another mount namespace", "")),
]

CODES: Final = {code.name: code for code in _ALL}
"""Every code, in the order of the documentation."""


def as_markdown() -> str:
    """The table of docs/audit.md."""
    lines = ["| code | severity | what it means | repairs |", "|---|---|---|---|"]
    for code in CODES.values():
        names = ", ".join(code.repairs) or "–"
        lines.append(f"| `{code.name}` | {code.severity} | {code.meaning} | {names} |")
    return "\n".join(lines) + "\n"


def repairs_as_markdown() -> str:
    """The table of the repairs."""
    lines = ["| repair | what it does | by |", "|---|---|---|"]
    lines += [f"| {r.name} | {r.does} | `{r.command}` |" for r in REPAIRS.values()]
    return "\n".join(lines) + "\n"
