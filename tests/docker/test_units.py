"""The units for systemd fit the program."""

from __future__ import annotations

import configparser
import shlex
from pathlib import Path

import click

from layerstore.cli import program
from layerstore.cli.serve import SOCKET

UNITS = Path(__file__).resolve().parent.parent.parent / "share" / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    """A unit; each key is there once in the ones here."""
    found = configparser.ConfigParser(interpolation=None)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    assert [str(UNITS / name)] == found.read(UNITS / name)
    return found


def test_the_service_runs_a_command_that_there_is() -> None:
    """ExecStart names a command of the program with options that it has; it says when it is ready."""
    service = unit("layerstore-docker.service")
    assert service["Service"]["Type"] == "notify"
    _, group, name, *options = shlex.split(service["Service"]["ExecStart"])
    context = click.Context(program)
    commands = program.get_command(context, group)
    assert isinstance(commands, click.Group)
    command = commands.get_command(context, name)
    assert command is not None
    command.make_context(name, options)
    assert "docker.service" in service["Unit"]["Before"].split()


def test_the_socket_is_the_programs_own() -> None:
    """The socket unit has the path that is the program's default, and mode 0600."""
    found = unit("layerstore-docker.socket")["Socket"]
    assert (SOCKET, "0600") == (found["ListenStream"], found["SocketMode"])
