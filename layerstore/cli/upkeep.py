"""Owns the commands that keep a store in order: `status`, `recover`, `cleanup`, `release`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from layerstore.cli import exits
from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.output import clean, many, pairs, size, when
from layerstore.model import Settled

if TYPE_CHECKING:
    from layerstore.answers import Status


@click.command("status", cls=Command)
@pass_app
def status_command(app: App) -> None:
    """Show what the store is, what it holds, and what it runs on."""
    with app.reader() as reader:
        status = reader.status(durability=app.settings.durability.value)
    if app.out.json:
        app.out.document(status=status)
        return
    owners = (f"process {o.pid} since {when(o.opened_at)}: {o.command}" for o in status.owners)
    app.out.fields(
        row
        for row in (
            ("Home", status.home),
            ("Store", f"{status.store_id}, format {status.format}, schema {status.schema}"),
            ("Layers", _layers(status.layers, status.damaged, status.max_depth)),
            ("Mounts", f"{many(status.mounts, 'mount')}, {many(status.holds, 'hold')}"),
            ("In flight", many(status.operations, "operation")),
            ("Open in", "\n".join(owners) or "no process"),
            ("Journal", _journal(status)),
            ("Archives", _archives(status)),
            ("Durability", f"{status.durability}, synchronous {status.synchronous}"),
            ("SQLite", f"{status.sqlite} by {status.sqlite_driver}, {status.journal_mode} mode"),
            (
                "File system",
                f"{status.file_system}, {_free(status.free_bytes, status.free_inodes)}",
            ),
            ("Probes", "\n".join(_probes(status.probes))),
            ("Warnings", "\n".join(status.warnings)),
        )
        if row[1]
    )


def _layers(count: int, damaged: int, max_depth: int) -> str:
    bad = f", {damaged} damaged" if damaged else ""
    return f"{count}{bad}; at most {max_depth} below one"


def _journal(status: Status) -> str:
    kept = "" if status.events == status.seq else f", the newest {status.events} in the database"
    return f"event {status.seq}{kept}, {_bytes(status.database_bytes, status.wal_bytes)}"


def _archives(status: Status) -> str:
    """Nothing, as long as nothing was ever compacted."""
    if status.compacted_at is None:
        return ""
    there = f"{many(status.archives, 'archive')}, {size(status.archive_bytes)}"
    return f"{there}; compacted {when(status.compacted_at)}"


def _bytes(database: int, wal: int) -> str:
    return f"{size(database)} and {size(wal)} of write-ahead log"


def _free(free: int, inodes: int | None) -> str:
    return f"{size(free)} free" if inodes is None else f"{size(free)} and {inodes} inodes free"


def _probes(probes: Mapping[str, Any]) -> list[str]:
    """What was found out, in words; what does not apply is left out."""
    lines = []
    for key, value in probes.items():
        name = key.replace("_", " ")
        if isinstance(value, bool):
            lines.append(f"{name}: {'yes' if value else 'no'}")
        elif isinstance(value, Mapping):
            lines.append(f"{name}: {pairs(value)}")
        elif value is not None:
            lines.append(f"{name}: {value}")
    return lines


@click.command("recover", cls=Command)
@pass_app
@click.pass_context
def recover_command(ctx: click.Context, app: App) -> None:
    """Settle what dead processes left open, and say what was done.

    Every command that writes does this first; this one does nothing else, and also tries again what
    those leave alone for a while, because it failed several times. What could not be
    settled concerns one layer, and every other one is usable; the exit code is then 1, or 3 if
    something else was settled.
    """
    with app.store(tell=False) as store:
        done = [item for item in store.settled if item.what != "failed"]
        settled = (*done, *store.recover())
    if app.out.json:
        app.out.document(settled=settled)
    else:
        for item in settled:
            app.out.line(settled_line(item))
        if not settled:
            app.out.note("There was nothing to settle.")
    failed = sum(item.what == "failed" for item in settled)
    if failed:
        ctx.exit(exits.SOME_FAILED if failed < len(settled) else exits.FAILED)


def settled_line(item: Settled) -> str:
    return clean(f"{item.what:<10}  {item.layer or '-'}  {item.message}")


@click.command("cleanup", cls=Command)
@pass_app
def cleanup_command(app: App) -> None:
    """Unmount everything that this store has mounted, whoever holds it; print the layers' ids.

    For the end of whatever uses the store. What nobody holds is unmounted without being asked for.
    """
    with app.store() as store:
        _print_ids(app, unmounted=store.cleanup())


@click.command("release", cls=Command)
@click.argument("holder")
@pass_app
def release_command(app: App, holder: str) -> None:
    """End all holds of a name that never returns; print the layers it held."""
    with app.store() as store:
        _print_ids(app, released=store.release(holder))


def _print_ids(app: App, **ids: tuple[str, ...]) -> None:
    if app.out.json:
        app.out.document(**ids)
    elif not app.out.quiet:
        for listed in ids.values():
            for layer in listed:
                app.out.line(layer)
