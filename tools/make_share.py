"""Write share/: a manual page for every command, and the completion scripts of three shells.

They are made from the commands themselves and from the tables of exit codes, and committed; a test
holds them equal to what this would write. `make share` runs it.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click
from click_man.man import ManPage

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from layerstore.cli import COMMANDS, exits, program  # noqa: E402 - found by the line above
from layerstore.cli.completion import script  # noqa: E402

ENVIRONMENT = [
    ("LAYERSTORE_HOME", "The store's directory, as --home."),
    ("LAYERSTORE_HOLDER", "The name in which mount and umount hold a layer; cli by default."),
    ("LAYERSTORE_TIMEOUT", "Seconds to wait for an operation of another process; 30 by default."),
    (
        "LAYERSTORE_DURABILITY",
        "full, the default: what is acknowledged survives a power cut. process: it survives the "
        "process only, and is faster.",
    ),
    (
        "LAYERSTORE_DOCKER_ROOTS",
        "Directories, with commas between them, below which Docker may say that its home is; "
        "/var/lib/docker by default.",
    ),
    (
        "LAYERSTORE_ORPHAN_GRACE",
        "How long an orphan that was set aside stays before orphans --empty removes it for good; "
        "7d by default.",
    ),
    ("LAYERSTORE_CONFIG", "One configuration file that is read instead of those below FILES."),
    ("NO_COLOR, TERM=dumb", "No colours, unless --color asks for them."),
    (
        "LAYERSTORE_FAILPOINT",
        "An aid for debugging and tests. The program kills itself with SIGKILL at the first point "
        "of an operation whose name matches this pattern, such as create:*:Publish:before; the "
        "next command that opens the store for writing recovers. The value list prints the name "
        "of each point to stderr as it is passed.",
    ),
]
FILES = [
    (
        "/etc/layerstore.toml",
        "Settings: home, holder, timeout, durability. Anything else in it is an error.",
    ),
    (
        "$XDG_CONFIG_HOME/layerstore.toml",
        "The same, for one user; it prevails. Below ~/.config by default.",
    ),
    ("<home>/<id>/, <home>/l/", "The layers, as Docker's overlay2 lays them out."),
    ("<home>/.layerstore/", "The journal and what else is layerstore's own. Leave it alone."),
]
JSON = """\
With --json, stdout carries one JSON document and nothing else. It has a field schema, now 1, that
changes only if a field changes its meaning; fields may be added. log prints one document per line.
An error is an object on stderr: schema, and error with code, message, hint and exit_code."""


def generate() -> dict[str, str]:
    """Every file below share/, by its path there."""
    files = {
        "bash-completion/completions/layerstore": script("bash", program),
        "zsh/site-functions/_layerstore": script("zsh", program),
        "fish/vendor_completions.d/layerstore.fish": script("fish", program),
    }
    root = click.Context(program, info_name="layerstore")
    for context in contexts(root):
        name = context.command_path.replace(" ", "-")
        files[f"man/man1/{name}.1"] = page(context)
    return files


def contexts(context: click.Context) -> Iterator[click.Context]:
    """The context of a command and of each command below it."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from contexts(click.Context(command, info_name=name, parent=context))


def page(context: click.Context) -> str:
    """One manual page."""
    command = context.command
    man = ManPage(context.command_path)
    # Not the day of the run: the same sources make the same page.
    man.date = ""
    man.version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    man.short_help = roff(short(context))
    man.description = roff(cleandoc(command.help or ""))
    man.synopsis = " ".join(command.collect_usage_pieces(context))
    man.options = [
        (option, roff(text))
        for param in command.params
        if isinstance(param, click.Option) and not param.hidden
        for option, text in [param.get_help_record(context) or ("", "")]
    ]
    if isinstance(command, click.Group):
        man.commands = [(name, roff(line)) for name, line in lines_of(context)]
    return str(man) + (whole_program() if context.parent is None else one_command())


def short(context: click.Context) -> str:
    """The command's line in the help of its group."""
    if context.parent is None:
        return context.command.get_short_help_str(limit=200).rstrip(".")
    return dict(lines_of(context.parent))[str(context.info_name)].rstrip(".")


def lines_of(context: click.Context) -> Iterator[tuple[str, str]]:
    """The commands of a group with their one-line help."""
    if context.parent is None:
        for section in COMMANDS.values():
            for name, (_, line) in section.items():
                yield name, line
        return
    assert isinstance(context.command, click.Group)
    for name in context.command.list_commands(context):
        command = context.command.get_command(context, name)
        assert command is not None
        yield name, command.get_short_help_str(limit=200)


def whole_program() -> str:
    """What only the page of the program has."""
    codes = [(str(code), meaning) for code, meaning in exits.table().items()]
    return (
        definitions("EXIT STATUS", codes)
        + definitions("ENVIRONMENT", ENVIRONMENT)
        + definitions("FILES", FILES)
        + f".SH JSON\n{roff(JSON)}\n"
    )


def one_command() -> str:
    """What the page of a command has at its end."""
    return (
        ".SH EXIT STATUS\n0 on success; the others, the same for every command, stand in\n"
        ".BR layerstore (1).\n.SH SEE ALSO\n.BR layerstore (1)\n"
    )


def definitions(title: str, entries: list[tuple[str, str]]) -> str:
    """A section of terms with their explanations."""
    listed = "".join(f".TP\n.B {roff(term)}\n{roff(text)}\n" for term, text in entries)
    return f".SH {title}\n{listed}"


def roff(text: str) -> str:
    """Text that roff takes literally: no line is a request, and an option's dashes are dashes."""
    text = text.replace("\\", "\\e")
    text = re.sub(r"(?<!\w)-{1,2}(?=\w)", lambda m: "\\-" * len(m[0]), text)
    return re.sub(r"^(?=[.'])", r"\\&", text, flags=re.MULTILINE)


def main() -> None:
    share = ROOT / "share"
    wanted = generate()
    for path, text in wanted.items():
        target = share / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    for path in (share / "man" / "man1").iterdir():
        if f"man/man1/{path.name}" not in wanted:
            path.unlink()
    print(f"{len(wanted)} files in {share}")


if __name__ == "__main__":
    main()
