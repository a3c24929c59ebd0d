"""Owns what every command shares: its settings, its output, the store it works on.

A command's module is imported only when the command runs, and imports what is heavy only in the
function that needs it: `ls` starts in the time that Python, click and SQLite need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import attrs
import click

from layerstore import config, log
from layerstore.cli.output import Output, clean, many
from layerstore.errors import LayerstoreError
from layerstore.model import LayerId, Settled

if TYPE_CHECKING:
    from layerstore.reader import Reader
    from layerstore.store import Store

P = ParamSpec("P")
R = TypeVar("R")


_TOLD: Final = frozenset({"failed", "moved", "copied", "reverted"})
"""What a user is told of what an open settled, without asking."""


@attrs.define(repr=False, eq=False)
class App:
    """One run of the program."""

    out: Output
    home: str | None = None
    """--home, where it was given."""
    flags: dict[str, Any] = attrs.Factory(dict)
    """Other settings that were given as options."""
    _settings: config.Settings | None = None

    @property
    def settings(self) -> config.Settings:
        if self._settings is None:
            ordinary = os.geteuid() != 0 or config.ROOTLESS_UID in os.environ
            flags = {"home": self.home, **self.flags}
            self._settings = config.load(os.environ, flags, ordinary=ordinary)
        return self._settings

    def forget_settings(self) -> None:
        """They are made anew: --home is another one."""
        self._settings = None

    def reader(self) -> Reader:
        """The store, opened to be asked: nothing is settled, nothing is written."""
        from layerstore.reader import Reader

        return Reader.open(self.settings.home)

    @contextmanager
    def store(self, *, tell: bool = True) -> Iterator[Store]:
        """The store, opened to be worked with; says what its recovery did unless told not to."""
        from layerstore.store import Store

        self.prepare_to_write()
        settings = self.settings
        with Store.open(
            settings.home,
            timeout=settings.timeout,
            durability=settings.durability.value,
            compact_above=settings.compact_above,
            keep_archives=settings.keep_archives,
            options=settings.storage_opts,
            uid_maps=settings.uid_map,
            gid_maps=settings.gid_map,
        ) as store:
            store.record_applied = settings.manifests == "apply"
            if tell:
                self.tell(store.settled)
            yield store

    def prepare_to_write(self) -> None:
        """What comes before the library is used for more than questions."""
        from layerstore.cli import failpoint

        failpoint.install(os.environ)
        # Without -v, what is worth a word is said in this program's own words.
        log.keep_silent()

    def tell(self, settled: tuple[Settled, ...]) -> None:
        """Say what recovery did: one line in all, or with -v one line each; failures always."""
        failed = [item for item in settled if item.what == "failed"]
        done = len(settled) - len(failed)
        if done and not self.out.verbose:
            what = many(done, "thing that was", "things that were")
            self.out.note(f"layerstore: recovery settled {what} left open (-v lists them)")
        told = [item for item in settled if item.what in _TOLD]
        for item in settled if self.out.verbose else told:
            word = "recovery failed" if item.what == "failed" else "recovery"
            self.out.note(f"layerstore: {word}: {clean(item.message)}")

    def fail(self, error: LayerstoreError, *, exit_code: int | None = None) -> None:
        """Report an error without ending."""
        code = error.exit_code if exit_code is None else exit_code
        self.out.error(error.message, hint=error.hint, code=error.code, exit_code=code)


def pass_app(
    function: Callable[Concatenate[App, P], R],
) -> Callable[P, R]:
    """The App as the command's first argument."""
    return click.pass_obj(function)


def resolve(reader: Reader, text: str) -> LayerId:
    """The layer that a word of the command line means; a relative path is one from here."""
    return reader.resolve(os.path.abspath(text) if "/" in text else text)


def _json_after(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and ctx.obj is not None:
        ctx.obj.out.json = True


def _verbose_after(ctx: click.Context, _: click.Parameter, value: int) -> None:
    if value and ctx.obj is not None:
        be_verbose(ctx.obj, value)


def _home_after(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None and ctx.obj is not None:
        ctx.obj.home = value


def be_verbose(app: App, level: int) -> None:
    """Send the log of the library to stderr: -v what it does, -vv everything."""
    import logging

    logger = logging.getLogger("layerstore")
    if not app.out.verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))
        logger.addHandler(handler)
    app.out.verbose += level
    logger.setLevel(logging.INFO if app.out.verbose == 1 else logging.DEBUG)


class Command(click.Command):
    """A command that also takes --home, --json and -v behind its name, where people write them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {option for param in self.params for option in param.opts}
        for option in (
            click.Option(
                ["--json"],
                is_flag=True,
                expose_value=False,
                callback=_json_after,
                help="Print JSON; see layerstore(1).",
            ),
            click.Option(["--home"], expose_value=False, callback=_home_after, hidden=True),
            click.Option(
                ["-v", "--verbose"],
                count=True,
                expose_value=False,
                callback=_verbose_after,
                hidden=True,
            ),
        ):
            if taken.isdisjoint(option.opts):
                self.params.append(option)


def _not_empty(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.BadParameter("it is empty.", ctx, param)
    return value


def _complete_layer(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[click.shell_completion.CompletionItem]:
    del param
    given = ctx.params.get("home") or ctx.find_root().params.get("home")
    try:
        with App(Output(), given).reader() as reader:
            return [
                click.shell_completion.CompletionItem(layer.id)
                for layer in reader.layers()
                if layer.id.startswith(incomplete)
            ]
    except (LayerstoreError, OSError):
        return []  # no store, nothing to offer; a completion has nowhere to complain


LAYER: Final[dict[str, Any]] = {"callback": _not_empty, "shell_complete": _complete_layer}
"""For a parameter that means a layer: the shell completes it from the index."""


def key_values(
    ctx: click.Context, param: click.Parameter, value: tuple[str, ...]
) -> dict[str, str]:
    """`K=V` options as a mapping, for a callback."""
    result: dict[str, str] = {}
    for item in value:
        key, equals, text = item.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{item!r} is not KEY=VALUE.", ctx, param)
        if key in result:
            raise click.BadParameter(f"{key!r} is given twice.", ctx, param)
        result[key] = text
    return result
