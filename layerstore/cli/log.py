"""Owns `log` and `history`: the journal, for people and programs.

They read rows without decoding them into events, so that a journal of any age can be shown.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from layerstore.cli.app import LAYER, App, Command, pass_app, resolve
from layerstore.cli.output import clean, when

if TYPE_CHECKING:
    from layerstore.reader import Reader

Row = Mapping[str, Any]


def _since(ctx: click.Context, param: click.Parameter, text: str) -> int | datetime:
    """The number of an event, or a time."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        problem = f"{text!r} is neither an event's number nor an ISO 8601 time."
        raise click.BadParameter(problem, ctx, param) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


@click.command("log", cls=Command)
@click.option("--layer", metavar="ID", **LAYER, help="Only what concerns this layer.")
@click.option(
    "--kind",
    metavar="K",
    help="Only events of this kind, such as layer.created, or layer.create, or hold.",
)
@click.option(
    "--since",
    callback=_since,
    default="0",
    metavar="SEQ",
    help="Only events after this number; or from this time on (ISO 8601, UTC unless it says).",
)
@click.option("--follow", is_flag=True, help="Go on as events arrive, until interrupted.")
@pass_app
def log_command(
    app: App, layer: str | None, kind: str | None, since: int | datetime, follow: bool
) -> None:
    """Print the journal: every intent and every outcome, in order.

    With --json each event is one line, with its data in full.
    """
    with app.reader() as reader:
        target = None if layer is None else _layer_ever(reader, layer)
        for row in _rows(reader, target, since, follow):
            if kind is None or _is_kind(row["kind"], kind):
                _print(app, row)
                if follow:
                    sys.stdout.flush()


def _rows(reader: Reader, layer: str | None, since: int | datetime, follow: bool) -> Iterator[Row]:
    """The rows there are, and then those that come."""
    after = since if isinstance(since, int) else 0
    last = after
    for row in reader.rows(
        layer=layer, after_seq=after, since=since if isinstance(since, datetime) else None
    ):
        last = row["seq"]
        yield row
    if follow:
        yield from reader.watch_rows(last, layer=layer)


def _is_kind(kind: str, wanted: str) -> bool:
    """Whether the kind begins with the wanted words: `layer.create` has its intent and its undoing,
    but not `layer.created`.
    """
    return kind == wanted or kind.startswith(f"{wanted}.")


@click.command("history", cls=Command)
@click.argument("id", **LAYER)
@pass_app
def history_command(app: App, id: str) -> None:  # noqa: A002
    """Tell what happened to one layer, also to one that was removed or never came to be."""
    with app.reader() as reader:
        layer = _layer_ever(reader, id)
        rows = list(reader.rows(layer=layer))
    if app.out.json:
        app.out.document(id=layer, events=rows)
        return
    for row in rows:
        _print(app, row)


def _layer_ever(reader: Reader, text: str) -> str:
    """A layer that is, or the exact id of one that was: the journal remembers both."""
    if "/" not in text and any(True for _ in reader.rows(layer=text, limit=1)):
        return text
    return resolve(reader, text)


def _print(app: App, row: Row) -> None:
    if app.out.json:
        app.out.document(**row)
        return
    at = when(datetime.fromisoformat(row["at"]))
    kind = row["kind"].rpartition(".v")[0] or row["kind"]
    layer = row["layer"] or "-"
    head = f"{row['seq']:>6}  {at}  {kind:<24}  {clean(layer)}"
    about = summary(row["data"])
    app.out.line(f"{head}  {app.out.style(about, dim=True)}" if about else head)


_SAID_ALREADY = frozenset({"layer", "lower", "chain", "parent_link", "durable", "sync_parent"})
"""The layer has its own column; the others follow from what is shown, and JSON has them all."""


def summary(data: Mapping[str, Any]) -> str:
    """The facts of an event in one line: empty ones are left out."""
    words = []
    for key, value in data.items():
        if key in _SAID_ALREADY or value in (None, "", False, [], {}):
            continue
        if value is True:
            words.append(key.replace("_", "-"))
        elif isinstance(value, dict):
            words.append(f"{key}={','.join(f'{k}={v}' for k, v in value.items())}")
        else:
            words.append(f"{key}={value}")
    return clean(" ".join(words))
