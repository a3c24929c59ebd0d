"""Owns `completion`: the scripts by which shells complete this program's words."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from layerstore.cli.app import App, Command, pass_app

SHELLS: Final[dict[str, type[ShellComplete]]] = {
    "bash": BashComplete,
    "zsh": ZshComplete,
    "fish": FishComplete,
}


def script(shell: str, command: click.Command) -> str:
    """The text that a shell sources."""
    maker = SHELLS[shell](command, {}, "layerstore", "_LAYERSTORE_COMPLETE")
    # The class's own source() would run bash to ask for its version.
    text = ShellComplete.source(maker)
    return text.strip() + "\n"


@click.command("completion", cls=Command)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
@pass_app
def completion_command(app: App, ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    An installed layerstore brings these along. Otherwise, for bash:

        eval "$(layerstore completion bash)"
    """
    text = script(shell, ctx.find_root().command)
    if app.out.json:
        app.out.document(shell=shell, script=text)
    else:
        click.echo(text, nl=False)
