"""The program as a whole: help, versions, exit codes, and what goes to which stream."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from layerstore.cli import COMMANDS, exits, program
from layerstore.cli.app import App
from layerstore.cli.output import Output, age, clean, plain, size
from layerstore.errors import Busy
from layerstore.model import Settled
from tests.cli.running import PROGRAM, environment, run

NAMES = [name for section in COMMANDS.values() for name in section]


def test_help_lists_every_command_and_imports_none() -> None:
    """The help of the program comes from a table: no command's module is imported for it."""
    code = (
        "import sys\nfrom layerstore.cli import program\n"
        "try: program.main(['--help'])\nexcept SystemExit as end: assert not end.code\n"
        "print('modules', *(m for m in sys.modules if m.startswith('layerstore.cli.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
    )
    *help_text, modules = done.stdout.splitlines()
    listed = {line.split()[0] for line in help_text if line.startswith("  ") and line.split()}
    assert set(NAMES) <= listed
    assert modules.split()[1:] == [
        f"layerstore.cli.{m}" for m in ("exits", "signals", "streams", "output", "app")
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_command_explains_itself(name: str) -> None:
    """Every command has help with a first sentence, and knows --json."""
    result = CliRunner().invoke(program, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: layerstore {name} ")
    command = program.get_command(click.Context(program), name)
    assert command is not None
    assert command.name == name
    assert command.help
    assert isinstance(command, click.Group) or "--json" in result.output


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["create"],
        ["create", "a", "b"],
        ["ls", "--nonsense"],
        ["ls", "--filter", "colour=red"],
        ["inspect", ""],
        ["log", "--since", "yesterday"],
        ["create", "a", "--label", "novalue"],
        ["create", "a", "--label", "k=1", "--label", "k=2"],
        ["create", "../x"],
        ["init", "--max-depth", "500"],
        ["--color", "pink", "ls"],
        ["db"],
        [],
    ],
)
def test_wrong_usage_exits_16(words: list[str]) -> None:
    """Whatever is wrong with the words of a command, the exit code is 16 and stdout stays empty."""
    done = run(words)
    assert (16, "") == (done.code, done.out)
    assert done.err


def test_wrong_usage_is_an_object_with_json() -> None:
    """With --json an error is one object on stderr, wherever the flag stands."""
    for words in (["--json", "create"], ["create", "--json"]):
        error = run(words).error
        assert ("usage", 16) == (error["code"], error["exit_code"])
        assert "ID" in error["message"]
        assert "create --help" in error["hint"]


def test_no_store_exits_10(tmp_path: Path) -> None:
    """A path without a store is exit code 10, for commands that read and for those that write."""
    for words in (["ls"], ["create", "a"], ["recover"], ["db", "current"]):
        done = run(["--home", str(tmp_path), *words])
        assert (10, "") == (done.code, done.out), done.err
        first, second = done.err.splitlines()[:2]
        assert first.startswith("layerstore: ")
        assert str(tmp_path) in first
        assert second.startswith("  hint: ")
        assert not list(tmp_path.iterdir())


def test_version() -> None:
    """--version is one line; with --json it names Python, SQLite and its driver."""
    assert run(["--version"]).out.startswith("layerstore ")
    document = run(["--version", "--json"]).json
    assert set(document) == {"version", "python", "sqlite", "sqlite_driver"}
    assert document == run(["--json", "--version"]).json


def test_the_table_of_exit_codes_is_complete() -> None:
    """Every exit code that the program's description names has a meaning in the table."""
    known = {0, 1, 3, 4, 5, 8, 10, 11, 12, 13, 14, 16, 126, 127, 129, 130, 141, 143}
    assert known == set(exits.table())


def test_an_unexpected_error_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the program is one line with a hint; -v shows the traceback. Exit code 1."""

    def broken(_: App) -> None:
        raise TypeError("oh")

    monkeypatch.setattr(App, "reader", broken)
    result = CliRunner().invoke(program, ["ls"])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "layerstore: unexpected TypeError: oh",
        "  hint: -v shows where it happened.",
    ]
    assert "Traceback" in CliRunner().invoke(program, ["-v", "ls"]).stderr


def test_an_error_of_the_system_names_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """An OSError is shown as the path and the reason, without Python's way of writing it."""

    def broken(_: App) -> None:
        raise PermissionError(13, "Permission denied", "/some/where")

    monkeypatch.setattr(App, "reader", broken)
    result = CliRunner().invoke(program, ["ls"])
    assert result.stderr.splitlines()[0] == "layerstore: /some/where: Permission denied"


def test_each_error_has_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the library ends the program with the code of its class."""

    def busy(_: App) -> None:
        raise Busy("Somebody is at it.", hint="Wait.")

    monkeypatch.setattr(App, "reader", busy)
    result = CliRunner().invoke(program, ["--json", "ls"])
    assert result.exit_code == 11
    assert json.loads(result.stderr)["error"] == {
        "code": "busy",
        "message": "Somebody is at it.",
        "hint": "Wait.",
        "exit_code": 11,
    }


@pytest.mark.parametrize("signal_error", [KeyboardInterrupt, click.Abort])
def test_interruption_exits_130(
    monkeypatch: pytest.MonkeyPatch, signal_error: type[BaseException]
) -> None:
    """An interrupted command exits with 130 and a line."""

    def interrupted(_: App) -> None:
        raise signal_error

    monkeypatch.setattr(App, "reader", interrupted)
    result = CliRunner().invoke(program, ["ls"])
    assert (130, "layerstore: Interrupted.\n") == (result.exit_code, result.stderr)


def test_a_closed_pipe_is_quiet() -> None:
    """A reader that goes away ends the program without a word."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*PROGRAM, "completion", "bash"],
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert (141, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_the_null_device(tmp_path: Path, closed: str) -> None:
    """The program works without a stream, and no file that it opens takes the stream's place."""
    home = tmp_path / "store"
    for words, code in (("init", 0), ("create base", 0), ("create base", 13), ("apply x -", 1)):
        command = shlex.join([*PROGRAM, "--home", str(home), *words.split()])
        done = subprocess.run(
            ["sh", "-c", f"{command} {closed}"],
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (words, code) == (words, done.returncode), done.stderr
        assert "unexpected" not in done.stderr and "Traceback" not in done.stderr
    assert "base" in run(["--home", str(home), "ls"]).out
    assert run(["--home", str(home), "audit"]).code == 0


def test_a_full_disk_is_an_error() -> None:
    """Output that cannot be written is a failure, not a success that lost its words."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PROGRAM, "completion", "bash"],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr.splitlines()[0]


def test_colours_are_obeyed() -> None:
    """Colours appear where --color asks for them; NO_COLOR and a pipe turn them off."""
    assert "\x1b[" in run(["--color", "always", "--home", "/nonexistent", "ls"]).err
    assert "\x1b[" not in run(["--home", "/nonexistent", "ls"]).err


def test_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal there are colours unless NO_COLOR is set, TERM is dumb, or --color says never."""

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert Output().colored(Terminal())
    assert not Output(color="never").colored(Terminal())
    monkeypatch.setenv("TERM", "dumb")
    assert not Output().colored(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Output().colored(Terminal())
    assert Output(color="always").colored(Terminal())


def test_text_cannot_steer_the_terminal() -> None:
    """What is not printable is shown as an escape."""
    assert clean("a\x1b[31m\nb") == "a\\x1b[31m\\nb"
    assert clean("Größe") == "Größe"


def test_values_read_well() -> None:
    """Sizes and ages have a unit; sets of values become JSON lists."""
    from datetime import UTC, datetime, timedelta

    assert ["512 B", "1.5 KiB", "2.0 GiB"] == [size(512), size(1536), size(2**31)]
    assert age(datetime.now(UTC) - timedelta(hours=3)) == "3 hours ago"
    assert age(datetime.now(UTC) + timedelta(hours=3)) == "0 s ago"
    assert plain({"a": (Path("/x"), None, 1)}) == {"a": ["/x", None, 1]}


def test_what_recovery_did_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Recovery is told in one line, or in one each with -v; what failed is told in any case."""
    settled = (
        Settled("undone", "a", "a was undone"),
        Settled("released", None, "b is dead"),
        Settled("failed", "c", "c is damaged"),
    )
    App(Output()).tell(settled)
    assert capsys.readouterr().err.splitlines() == [
        "layerstore: recovery settled 2 things that were left open (-v lists them)",
        "layerstore: recovery failed: c is damaged",
    ]
    App(Output(verbose=1)).tell(settled)
    assert len(capsys.readouterr().err.splitlines()) == 3
    App(Output(quiet=True)).tell(settled)
    App(Output(json=True)).tell(settled)
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("heard_signals")
def test_interrupt_of_a_real_process(tmp_path: Path) -> None:
    """SIGINT to the program that waits ends it with 130, without a traceback."""
    code = (
        "import sys, time\nfrom layerstore.cli import app, main\n"
        "def wait(_):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "app.App.reader = wait\nsys.argv = ['layerstore', 'ls']\nmain()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert (130, "layerstore: Interrupted.\n") == (process.returncode, err)
