"""Owns the `layerstore` program: its commands, its global options and how it ends.

The only code that reads the environment, prints, or exits. Each group of commands has its own
module, imported when one of them runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final, NoReturn

import click

from layerstore.cli import exits, signals, streams
from layerstore.cli.app import App, be_verbose
from layerstore.cli.output import Output
from layerstore.errors import LayerstoreError

COMMANDS: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "Layers": {
        "init": ("lifecycle", "Make an empty store."),
        "create": ("lifecycle", "Create a layer."),
        "apply": ("diffs", "Make an archive the content of a layer."),
        "diff": ("diffs", "Write the archive of a layer."),
        "import": ("images", "Make layers of an image."),
        "export": ("images", "Write a layer and all below it as an image."),
        "mount": ("mounts", "Mount a layer and print the path."),
        "umount": ("mounts", "Give a hold back; the last one unmounts."),
        "rm": ("lifecycle", "Remove layers."),
        "manifest": ("manifest", "Record what layers hold, for audits."),
    },
    "Questions": {
        "ls": ("show", "List the layers."),
        "tree": ("show", "Show the layers as a tree."),
        "inspect": ("show", "Tell everything about a layer."),
        "changes": ("diffs", "List what a layer changed of its parent."),
        "du": ("diffs", "Say how large layers are."),
        "lowers": ("show", "List the directories below a layer, nearest first."),
        "holders": ("show", "List who holds which layer."),
        "whose": ("show", "Say which layer a path belongs to."),
    },
    "History": {
        "log": ("log", "Print the journal."),
        "history": ("log", "Tell what happened to one layer."),
    },
    "Upkeep": {
        "status": ("upkeep", "Show what the store is and runs on."),
        "doctor": ("doctor", "Check the machine and the store, and say what to do."),
        "recover": ("upkeep", "Settle what dead processes left open."),
        "audit": ("audit", "Compare journal, index, tree and mounts."),
        "repair": ("repair", "Mend what an audit finds."),
        "adopt": ("adopt", "Make an index of a tree of Docker's or podman's."),
        "release-tree": ("tenancy", "End the index of an adopted tree."),
        "orphans": ("orphans", "List, or remove, what nothing lists."),
        "cleanup": ("upkeep", "Unmount everything that the store mounted."),
        "release": ("upkeep", "End the holds of a name that never returns."),
        "journal": ("journal", "See to the journal's size."),
        "db": ("db", "See to the database."),
    },
    "Servers": {
        "serve": ("serve", "Serve layers to a daemon: Docker."),
    },
    "More": {
        "demo": ("demo", "See it work: mounts, a kill, and recovery."),
        "unshare": ("unshare", "Run a command where an ordinary user may mount."),
        "completion": ("completion", "Print the completion script of a shell."),
    },
}
"""By section: the command's name, its module below `layerstore.cli`, its line in the help."""

_MODULES: Final = {
    name: module for section in COMMANDS.values() for name, (module, _) in section.items()
}


class Program(click.Group):
    """The top group: commands are imported when they run, and every way out has its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"layerstore.cli.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The sections, from the table above: help imports no command."""
        del ctx
        width = max(map(len, _MODULES))
        for section, commands in COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl(
                    [(name.ljust(width), line) for name, (_, line) in commands.items()]
                )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """--version needs the other options, so it is looked at when all of them are read."""
        rest = super().parse_args(ctx, args)
        if ctx.params.get("version") and not ctx.resilient_parsing:
            _print_version(Output(json=ctx.params["json"]))
            ctx.exit()
        return rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program and exit: the one place that maps errors to exit codes."""
        arguments = list(sys.argv[1:] if args is None else args)
        name = prog_name or "layerstore"
        self._main_shell_completion(extra, name, complete_var)
        if not standalone_mode:
            return super().main(arguments, name, complete_var, False, **extra)
        out = Output(json="--json" in arguments)
        try:
            try:
                with self.make_context(name, arguments, obj=App(out), **extra) as ctx:
                    self.invoke(ctx)
                code = 0
            except click.exceptions.Exit as end:
                code = end.exit_code
            sys.stdout.flush()
            signals.over()
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            code = _report(error, out)
        sys.exit(code)


def _report(error: BaseException, out: Output) -> int:
    """Say what went wrong; returns the exit code."""
    signals.over()
    if isinstance(error, signals.EndedBySignal):
        return _report_signal(error, out)
    if isinstance(error, KeyboardInterrupt | EOFError | click.Abort):
        out.error("Interrupted.", code="interrupted", exit_code=exits.INTERRUPTED)
        return exits.INTERRUPTED
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return exits.BROKEN_PIPE
    if isinstance(error, LayerstoreError):
        out.error(error.message, hint=error.hint, code=error.code, exit_code=error.exit_code)
        if out.verbose > 1:
            _traceback()
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return exits.USAGE
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "layerstore"
        hint = f"'{path} --help' shows how it is used."
        out.error(error.format_message(), hint=hint, code="usage", exit_code=exits.USAGE)
        return exits.USAGE
    if isinstance(error, UnicodeEncodeError):
        text = error.object[:60]
        out.error(f"{text!r} is not UTF-8 text.", code="usage", exit_code=exits.USAGE)
        return exits.USAGE
    if isinstance(error, click.ClickException):
        out.error(error.format_message(), code="failed", exit_code=exits.FAILED)
        return exits.FAILED
    return _report_unexpected(error, out)


def _report_signal(error: signals.EndedBySignal, out: Output) -> int:
    """After a SIGHUP there may be no terminal to say anything to."""
    try:
        name = error.signal.name
        out.error(f"Ended by {name}.", code="ended-by-signal", exit_code=error.exit_code)
        sys.stdout.flush()
    except OSError:
        _forget_stdout()
    return error.exit_code


def _report_unexpected(error: BaseException, out: Output) -> int:
    """An error that the library does not know: one line, and with -v the way to it."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
        message = f"{where}{error.strerror}"
        if error.errno is not None and not isinstance(error.filename, str | bytes | None):
            message = str(error)
    else:
        message = f"unexpected {type(error).__name__}: {error}"
    hint = "" if out.verbose else "-v shows where it happened."
    out.error(message, hint=hint, code="unexpected", exit_code=exits.FAILED)
    if out.verbose:
        _traceback()
    return exits.FAILED


def _traceback() -> None:
    import traceback

    traceback.print_exc()


def _forget_stdout() -> None:
    """Let the interpreter's last flush of stdout succeed: nobody is left to read it."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass  # a stdout without a descriptor has no pipe either


def _print_version(out: Output) -> None:
    from layerstore.cli import versions

    versions.show(out)


@click.group(
    "layerstore",
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    no_args_is_help=True,
)
@click.option(
    "--home",
    metavar="DIR",
    help="The store's directory [LAYERSTORE_HOME; default: /var/lib/layerstore; of an ordinary user "
    "~/.local/share/layerstore].",
)
@click.option(
    "--compact-above",
    type=click.IntRange(0),
    metavar="EVENTS",
    help="Events in the journal above which old ones are moved to an archive; 0: never "
    "[LAYERSTORE_COMPACT_ABOVE; default: 100000].",
)
@click.option(
    "--storage-opt",
    "storage_opts",
    metavar="K=V",
    multiple=True,
    help="An option of the driver: overlay2.size=10G limits each read-write layer.",
)
@click.option(
    "--uid-map",
    metavar="IN:OUT:N",
    multiple=True,
    help="User ids of containers, as 0:100000:65536; the root of new layers is what 0 stands for.",
)
@click.option("--gid-map", metavar="IN:OUT:N", multiple=True, help="The same for groups.")
@click.option("--json", is_flag=True, help="Print one JSON document, or one per line of a stream.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing about what was done.")
@click.option("-v", "--verbose", count=True, help="Log to stderr; -vv logs everything.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="When to use colours; auto also obeys NO_COLOR and TERM=dumb.",
)
@click.option("--version", is_flag=True, help="Print the version and exit.")
@click.pass_obj
def program(
    app: App,
    /,
    home: str | None,
    json: bool,
    quiet: bool,
    verbose: int,
    color: str,
    version: bool,
    **settings: Any,
) -> None:
    """A crash-safe overlay2 layer store with a journal that answers questions.

    Where a command asks for an ID, it takes a layer's id, a unique beginning of one, its link id,
    or a path below the layer or its mountpoint.

    New here? 'layerstore demo' shows it at work in a few seconds.
    """
    del version  # parse_args has seen to it
    app.home = home
    app.flags = {key: None if value == () else value for key, value in settings.items()}
    app.out.json = app.out.json or json
    app.out.quiet = quiet
    app.out.color = color
    if verbose:
        be_verbose(app, verbose)


def main() -> NoReturn:
    """The program, as installed."""
    streams.prepare()
    signals.install()
    try:
        program.main()
    except signals.EndedBySignal as end:  # it fell into the moment before it could be reported
        sys.exit(_report(end, Output(json="--json" in sys.argv)))
    raise AssertionError("program.main() exits")
