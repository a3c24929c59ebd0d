"""Owns the command `adopt`: what is in a tree of another program, as `verdicts` knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from layerstore.cli.app import App, Command, pass_app
from layerstore.cli.audit import Bar
from layerstore.cli.output import clean, many, size

if TYPE_CHECKING:
    from layerstore.verdicts import Judged, Plan, Verdict

VERSION: Final = 1
"""Of the reports as data: a field may be added to them, none changes its meaning."""
_SHOWN: Final = 10

_WORDS: Final = {
    "kept": "needed by an image, a container, the build cache or a mount",
    "recorded": "recorded, and reached by nothing",
    "condemned": "its removal or making was interrupted, and is on record",
    "orphaned": "in no record, and held by nothing",
    "unknown": "not of the program's making, or perhaps not; never touched",
}


def options(command: Any) -> Any:
    """What both commands ask for."""
    for option in (
        click.argument("path", type=click.Path(path_type=str)),
        click.option(
            "--kind",
            type=click.Choice(["docker", "containers-storage", "overlay"]),
            help="What it is, where it could be several.",
        ),
        click.option(
            "--driver", metavar="NAME", help="Which driver's tree of Docker's, if several."
        ),
        click.option(
            "--run-root",
            metavar="DIR",
            help="podman's run root, which says what is mounted [default: /run/containers/storage].",
        ),
        click.option(
            "--measure",
            is_flag=True,
            help="Count every layer's bytes, rather than read its record.",
        ),
        click.option(
            "--records-are-right",
            is_flag=True,
            help="Call orphans orphans also where most layers have no record.",
        ),
    ):
        command = option(command)
    return command


def planned(app: App, path: str, wanted: dict[str, Any]) -> Plan:
    from layerstore import verdicts
    from layerstore.legacy import containers_storage, detecting

    found = detecting.detect(path, kind=wanted["kind"], driver=wanted["driver"])
    with Bar(app) as bar:
        return verdicts.plan(
            found,
            run_root=wanted["run_root"] or containers_storage.RUN_ROOT,
            measure=wanted["measure"],
            trust_records=wanted["records_are_right"],
            progress=bar.told,
        )


@click.command("adopt", cls=Command)
@options
@click.option("--plan", is_flag=True, help="Say what is there. Changes nothing.")
@click.option(
    "--journal",
    metavar="DIR",
    help="Where the index goes [default: Docker's tree itself, 'layerstore' beside a graph root].",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Docker will not be asked for the tree again: make it a store.",
)
@pass_app
def adopt_command(
    app: App, /, path: str, plan: bool, journal: str | None, take_over: bool, **wanted: Any
) -> None:
    """Make an index of a tree of Docker's or podman's, in place, without touching a byte of it.

    PATH is a data root of Docker's (/var/lib/docker), a graph root of podman's
    (/var/lib/containers/storage), or the layers in one. Nobody may have it open, but for --plan.
    Repeat it to bring the index up to date; 'layerstore release-tree' ends it.

    With --plan: say what everything in it is. It may be in use then; what the program is making at
    that moment is recorded nowhere.
    """
    if not plan:
        from layerstore.cli import tenancy

        tenancy.adopt(app, path, journal=journal, take_over=take_over, **wanted)
        return
    found = planned(app, path, wanted)
    if app.out.json:
        app.out.document(**document(found, every=True))
        return
    _tell_sources(app, found)
    _tell_counts(app, found)
    _tell_damage(app, found)
    _tell_certainty(app, found)


# --- as data --------------------------------------------------------------------------------------


def document(found: Plan, *, every: bool) -> dict[str, Any]:
    from layerstore.verdicts import Verdict

    manifest = found.manifest
    fields: dict[str, Any] = {
        "adopt": VERSION,
        "kind": manifest.kind,
        "driver": manifest.driver,
        "root": manifest.root,
        "home": manifest.home,
        "daemon": found.daemon or None,
        "lost_metadata": found.lost_metadata,
        "summary": {
            verdict.value: {"layers": len(found.of(verdict)), "bytes": found.bytes_of(verdict)}
            for verdict in Verdict
        },
        "layers": found.layers
        if every
        else [one for one in found.layers if one.verdict is not Verdict.KEPT],
    }
    if every:
        fields |= {
            "images": manifest.images,
            "containers": manifest.containers,
            "findings": found.findings,
            "remarks": manifest.remarks,
        }
    return fields


# --- for a person ---------------------------------------------------------------------------------


def _tell_sources(app: App, found: Plan) -> None:
    manifest = found.manifest
    app.out.fields(
        (
            ("Tree", f"{manifest.kind}, driver {manifest.driver}: {manifest.home}"),
            ("Images", _names([i.names[0] if i.names else i.id[:19] for i in manifest.images])),
            ("Containers", _names([c.name or c.id[:12] for c in manifest.containers])),
            ("Also there", "\n".join(manifest.remarks) or "nothing"),
        )
    )


def _names(unsorted: list[str]) -> str:
    names = sorted(unsorted)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{len(names)}" + (f": {', '.join(names[:_SHOWN])}{more}" if names else "")


def _tell_counts(app: App, found: Plan) -> None:
    from layerstore.verdicts import Verdict

    app.out.line()
    app.out.table(
        ("VERDICT", "LAYERS", "BYTES", "MEANING"),
        (
            (v.value, str(len(found.of(v))), size(found.bytes_of(v)), _WORDS[v.value])
            for v in Verdict
        ),
    )
    for verdict in (Verdict.RECORDED, Verdict.CONDEMNED, Verdict.ORPHANED, Verdict.UNKNOWN):
        _tell_layers(app, found, verdict)


def _tell_layers(app: App, found: Plan, verdict: Verdict) -> None:
    layers = found.of(verdict)
    if not layers:
        return
    app.out.line()
    app.out.line(app.out.style(f"{verdict.value.capitalize()}:", bold=True))
    for one in layers if app.out.verbose else layers[:_SHOWN]:
        app.out.line(clean(f"  {one.layer}  {size_of(one)}  {one.why}"))
    if len(layers) > _SHOWN and not app.out.verbose:
        app.out.line(f"  … and {len(layers) - _SHOWN} more (-v lists them)")


def _tell_damage(app: App, found: Plan) -> None:
    from layerstore.model import Severity

    damage = [item for item in found.findings if item.severity is Severity.DAMAGE]
    if not damage:
        return
    app.out.line()
    app.out.line(app.out.style("Damage:", bold=True))
    for item in damage if app.out.verbose else damage[:_SHOWN]:
        app.out.line(clean(f"  {item.code}: {item.message}"))
    if len(damage) > _SHOWN and not app.out.verbose:
        app.out.line(f"  … and {len(damage) - _SHOWN} more (-v lists them)")


def tell_others(app: App, found: Plan) -> None:
    from layerstore.verdicts import Verdict

    counts = ", ".join(f"{len(found.of(v))} {v.value} ({size(found.bytes_of(v))})" for v in Verdict)
    app.out.note(f"{many(len(found.layers), 'entry', 'entries')}: {counts}.")
    _tell_certainty(app, found)


def _tell_certainty(app: App, found: Plan) -> None:
    """What takes the certainty from the verdicts, and what helps."""
    if found.lost_metadata:
        app.out.note(
            "Most layers have no record: this looks like lost records, and nothing is called an orphan. "
            "Where nothing else can have been there, --records-are-right says so."
        )
    if found.daemon:
        app.out.note(
            f"{found.daemon[0].upper()}{found.daemon[1:]}: what it makes at this moment is recorded "
            "nowhere. Stop it and ask again before you remove anything."
        )
    elif found.manifest.hidden:
        app.out.note(
            f"{many(len(found.manifest.hidden), 'record')} cannot be read, so that nobody knows "
            "which layer is whose, and nothing is called an orphan."
        )


def size_of(one: Judged) -> str:
    return "-" if one.bytes is None else size(one.bytes)
