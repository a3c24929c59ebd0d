"""Owns the command `orphans`: how orphans are told, chosen, and what became of them; it must not judge one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from layerstore.cli import exits
from layerstore.cli.adopt import document, options, planned, size_of, tell_others
from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.output import clean, many, size
from layerstore.cli.repair import ask
from layerstore.config import age
from layerstore.errors import InvalidArgument, LayerstoreError, Refused

if TYPE_CHECKING:
    from layerstore.legacy.detecting import Found
    from layerstore.orphans.acting import Done, Entry
    from layerstore.orphans.asking import Asking, Chosen
    from layerstore.verdicts import Judged

_WORDS: Final = {
    "removed": "set aside",
    "restored": "put back",
    "emptied": "removed for good",
    "left": "left",
}


@click.command("orphans", cls=Command)
@options
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--remove", is_flag=True, help="Set orphans aside: all, or those that are named.")
@click.option("--restore", is_flag=True, help="Put the named ones back, as they were.")
@click.option("--empty", is_flag=True, help="Remove for good what was set aside long enough ago.")
@click.option(
    "--older-than",
    metavar="TIME",
    help="What --empty removes: 12h, 7d [LAYERSTORE_ORPHAN_GRACE; default: 7d].",
)
@click.option("--early", is_flag=True, help="Let --older-than be shorter than the time of grace.")
@click.option("--quarantine", metavar="DIR", help="Where orphans are set aside.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
@click.pass_context
def orphans_command(ctx: click.Context, app: App, /, path: str, **wanted: Any) -> None:
    """List what fills the disk and nothing lists; remove it on request.

    PATH is as for 'adopt'. An orphan is in no record of the program's, below no layer that is, and
    used by no mount in any mount namespace and no process. Without --remove, --restore or --empty
    nothing is changed.

    --remove renames orphans into a quarantine on the same file system, each after it was asked again
    whether it is one still; never while a daemon has the tree open. --restore puts them back, byte
    for byte, and --empty removes them for good after a time of grace. In a store they are removed
    by the store, and for good.

    The exit code is 4 if there are orphans, or if one of those that were meant is left.
    """
    given = [name for name in ("remove", "restore", "empty") if wanted[name]]
    if len(given) > 1:
        raise click.UsageError("--remove, --restore and --empty exclude each other.")
    if wanted["ids"] and not (wanted["remove"] or wanted["restore"]):
        raise click.UsageError("IDs go with --remove or --restore.")
    if (wanted["older_than"] or wanted["early"]) and not wanted["empty"]:
        raise click.UsageError("--older-than and --early go with --empty.")
    work = {"remove": _remove, "restore": _restore, "empty": _empty}
    ctx.exit(work[given[0]](app, path, wanted) if given else _list(app, path, wanted))


def _list(app: App, path: str, wanted: dict[str, Any]) -> int:
    from layerstore.orphans import acting
    from layerstore.verdicts import Verdict

    found = planned(app, path, wanted)
    tree = _tree(path, wanted)
    quarantine = _quarantine(tree, wanted)
    entries = acting.listed(tree, quarantine)
    orphans = found.of(Verdict.ORPHANED)
    if app.out.json:
        aside = [_entry(entry) for entry in entries]
        app.out.document(
            **document(found, every=False), quarantine={"path": quarantine, "layers": aside}
        )
        return exits.FINDINGS if orphans else 0
    _tell(app, orphans)
    if not app.out.quiet:
        tell_others(app, found)
        _tell_entries(app, entries, quarantine)
    return exits.FINDINGS if orphans else 0


# --- acts -----------------------------------------------------------------------------------------


def _remove(app: App, path: str, wanted: dict[str, Any]) -> int:
    from layerstore.orphans import asking
    from layerstore.verdicts import Verdict

    plan = planned(app, path, wanted)
    tree = _tree(path, wanted)
    chosen = asking.choose(tree, plan, wanted["ids"])
    if wanted["only_plan"] or not chosen.layers:
        if app.out.json:
            _document(app, chosen.layers, ())
        else:
            _tell(app, chosen.layers)
            if not app.out.quiet:
                tell_others(app, plan)
        return exits.FINDINGS if chosen.layers else 0
    total = sum(one.bytes or 0 for one in chosen.layers)
    store = _is_store(tree)
    if not app.out.json and not wanted["yes"]:
        _tell(app, chosen.layers)
    how = "Remove for good" if store else "Set aside"
    ask(f"{how} {many(len(chosen.layers), 'orphan')} ({size(total)})?", wanted["yes"])
    again = asking.Asking(
        tree,
        frozenset(one.layer for one in plan.of(Verdict.ORPHANED)),
        run_root=_run_root(wanted),
        trust_records=wanted["records_are_right"],
    )
    done: list[Done] = []
    if store:
        for item in _from_store(app, tree, chosen, again):
            _told(app, done, item)
    else:
        _aside(app, tree, wanted, chosen, again, done)
    return _end(app, chosen.layers, done)


def _aside(
    app: App,
    tree: Found,
    wanted: dict[str, Any],
    chosen: Chosen,
    again: Asking,
    done: list[Done],
) -> None:
    from layerstore.orphans import acting

    app.prepare_to_write()
    with acting.opened(tree, _quarantine(tree, wanted)) as quarantine:
        quarantine.remove(chosen, again, lambda item: _told(app, done, item))


def _from_store(app: App, tree: Found, chosen: Chosen, again: Asking) -> Iterator[Done]:
    """By the store's own verb: journaled, refused for what is held, and without a way back."""
    from layerstore.orphans.acting import Done
    from layerstore.orphans.asking import batches

    app.home = tree.home
    app.forget_settings()
    with app.store() as store:
        for batch in batches(chosen.layers):
            look = again.look()
            for one in batch:
                why = look.why_kept(one.layer)
                try:
                    if not why:
                        store.remove(one.layer)
                        look.went(one.layer)
                except (LayerstoreError, OSError) as error:
                    why = str(error)
                yield Done(one.layer, "left" if why else "emptied", why, one.bytes)


def _restore(app: App, path: str, wanted: dict[str, Any]) -> int:
    from layerstore.orphans import acting

    if not wanted["ids"]:
        raise click.UsageError("--restore needs the IDs of what is to be put back.")
    tree = _aside_of(path, wanted)
    done: list[Done] = []
    app.prepare_to_write()
    with acting.opened(tree, _quarantine(tree, wanted)) as quarantine:
        quarantine.restore(wanted["ids"], lambda item: _told(app, done, item))
    return _end(app, (), done)


def _empty(app: App, path: str, wanted: dict[str, Any]) -> int:
    from layerstore.orphans import acting

    tree = _aside_of(path, wanted)
    before = datetime.now(UTC) - timedelta(seconds=_grace(app, wanted))
    due = [e for e in acting.listed(tree, _quarantine(tree, wanted)) if e.note.at <= before]
    if wanted["only_plan"] or not due:
        if app.out.json:
            _document(app, due, ())
        else:
            _tell_entries(app, tuple(due), _quarantine(tree, wanted), every=True)
            if not due:
                app.out.note("Nothing was set aside long enough ago.")
        return exits.FINDINGS if due else 0
    total = sum(entry.note.bytes or 0 for entry in due)
    ask(f"Remove {many(len(due), 'layer')} for good ({size(total)})?", wanted["yes"])
    done: list[Done] = []
    app.prepare_to_write()
    with acting.opened(tree, _quarantine(tree, wanted)) as quarantine:
        quarantine.empty(before, lambda item: _told(app, done, item), run_root=_run_root(wanted))
    return _end(app, due, done)


def _grace(app: App, wanted: dict[str, Any]) -> float:
    setting = app.settings.orphan_grace
    if wanted["older_than"] is None:
        return setting
    try:
        seconds = age(wanted["older_than"])
    except ValueError as error:
        raise InvalidArgument(f"--older-than {wanted['older_than']}: {error}.") from error
    if seconds < setting and not wanted["early"]:
        raise Refused(
            f"--older-than {wanted['older_than']} is shorter than the time of grace.",
            hint="--early says that it is meant; LAYERSTORE_ORPHAN_GRACE sets that time.",
        )
    return seconds


# --- which tree -----------------------------------------------------------------------------------


def _tree(path: str, wanted: dict[str, Any]) -> Found:
    from layerstore.legacy import detecting

    return detecting.detect(path, kind=wanted["kind"], driver=wanted["driver"])


def _aside_of(path: str, wanted: dict[str, Any]) -> Found:
    from layerstore.legacy import detecting

    tree = _tree(path, wanted)
    detecting.require_readable(tree)
    if not os.path.isdir(_quarantine(tree, wanted)):
        raise Refused(
            f"Nothing of {tree.home} is set aside at {_quarantine(tree, wanted)}.",
            hint="Of a store orphans are removed for good."
            if _is_store(tree)
            else "--quarantine DIR says where else it may be.",
        )
    return tree


def _quarantine(tree: Found, wanted: dict[str, Any]) -> str:
    from layerstore.orphans import place

    return place.chosen(tree, wanted["quarantine"])


def _is_store(tree: Found) -> bool:
    """Whether its layers are a store's to remove: those of an adopted tree are the original program's."""
    from layerstore import adoption
    from layerstore.fs import layout

    home = Path(tree.home)
    return (home / layout.STORE_FILE).is_file() and adoption.read(home) is None


def _run_root(wanted: dict[str, Any]) -> str:
    from layerstore.legacy import containers_storage

    return wanted["run_root"] or containers_storage.RUN_ROOT


# --- as data, and for a person --------------------------------------------------------------------


def _entry(entry: Entry) -> dict[str, Any]:
    note = entry.note
    return {
        "operation": note.operation,
        "layer": note.layer,
        "at": note.at,
        "why": note.why,
        "bytes": note.bytes,
        "parent": note.parent,
        "path": entry.path,
        "whole": entry.whole,
    }


def _document(app: App, meant: Any, done: Any) -> None:
    app.out.document(
        orphans=1,
        meant=[_entry(x) if hasattr(x, "note") else x for x in meant],
        done=list(done),
    )


def _told(app: App, done: list[Done], item: Done) -> None:
    done.append(item)
    if not app.out.json and (not app.out.quiet or item.outcome == "left"):
        why = f": {item.why}" if item.why else ""
        app.out.line(clean(f"{item.layer}  {_WORDS[item.outcome]}{why}"))


def _end(app: App, meant: Any, done: list[Done]) -> int:
    if app.out.json:
        _document(app, meant, done)
    left = sum(item.outcome == "left" for item in done)
    if left:
        app.out.note(f"{many(left, 'layer')} left.")
    return exits.FINDINGS if left else 0


def _tell(app: App, layers: tuple[Judged, ...]) -> None:
    for one in layers:
        app.out.line(clean(f"{one.layer}  {size_of(one)}  {one.why}"))


def _tell_entries(
    app: App, entries: tuple[Entry, ...], quarantine: str, *, every: bool = False
) -> None:
    if not entries:
        return
    if every or app.out.verbose:
        for entry in entries:
            note = entry.note
            taken = "-" if note.bytes is None else size(note.bytes)
            app.out.line(clean(f"{note.layer}  {taken}  set aside {note.at:%Y-%m-%d %H:%M} UTC"))
    total = sum(entry.note.bytes or 0 for entry in entries)
    app.out.note(
        f"{many(len(entries), 'layer')} set aside in {quarantine} ({size(total)}): "
        "--restore puts them back, --empty removes them for good."
    )
