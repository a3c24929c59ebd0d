"""Owns `serve`: servers that daemons talk to."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from layerstore.cli import exits, signals
from layerstore.cli.app import App, Command, pass_app
from layerstore.config import DOCKER_ARCHIVES
from layerstore.errors import LayerstoreError

SOCKET = "/run/docker/plugins/layerstore.sock"


class ServeGroup(click.Group):
    """One command for each kind of daemon."""

    command_class = Command


@click.group("serve", cls=ServeGroup)
def serve_command() -> None:
    """Serve layers to a daemon, until SIGTERM."""


@serve_command.command("docker")
@click.option(
    "--socket",
    "paths",
    metavar="PATH",
    multiple=True,
    help=f"Listen there; several serve several daemons [default: {SOCKET}]. The name of the file, "
    "without .sock, is the name of the storage driver.",
)
@click.option(
    "--root",
    "roots",
    metavar="DIR",
    multiple=True,
    help="Homes may lie below it: Docker's data-root [LAYERSTORE_DOCKER_ROOTS; default: "
    "/var/lib/docker].",
)
@click.option(
    "--metrics",
    metavar="ADDRESS",
    help="Tell Prometheus at /metrics, and /healthz, there: 127.0.0.1:9150, or the path of a socket.",
)
@click.option(
    "--audit-every",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=86_400.0,
    help="With --metrics, audit the store so often, in a process of the least priority, and tell what it "
    "found; 0: never.  [default: a day]",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    help="Answer each request within this time, with an error if its work hangs; archives may take as "
    "long as bytes flow [LAYERSTORE_DOCKER_TIMEOUT; default: 300].",
)
@click.option(
    "--archives",
    type=click.Choice(DOCKER_ARCHIVES),
    help="Write what Docker commits byte for byte as its own driver does since this version, so that it has "
    "the same digest [LAYERSTORE_DOCKER_ARCHIVES; default: 20.10].",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How the log on stderr looks: key=value, or an object of JSON on each line.",
)
@pass_app
@click.pass_context
def docker(
    ctx: click.Context,
    app: App,
    paths: tuple[str, ...],
    roots: tuple[str, ...],
    metrics: str | None,
    audit_every: float,
    timeout: str | None,
    archives: str | None,
    log_format: str,
) -> None:
    """Be a storage driver of dockerd: the graphdriver plugin protocol on a unix socket.

    dockerd --experimental -s layerstore finds the server by its socket and says where its home is.
    Whose restart it was, the server's or the daemon's, no layer and no mount is lost by it. SIGTERM
    ends the server when what is being answered is answered; containers keep their mounts.
    """
    _require(metrics=metrics is not None)
    from layerstore.docker import logs, serving

    app.prepare_to_write()
    app.flags["docker_timeout"] = timeout
    app.flags["docker_archives"] = archives
    settings = app.settings
    allowed = serving.Allowed(
        roots=roots or tuple(settings.docker_roots),
        timeout=settings.timeout,
        durability=settings.durability.value,
        record_applied=settings.manifests == "apply",
        compact_above=settings.compact_above,
        keep_archives=settings.keep_archives,
        options=settings.storage_opts,
        archives=settings.docker_archives,
        answer_within=settings.docker_timeout,
    )
    for root in allowed.roots:
        if not os.path.isabs(root):
            raise click.UsageError(f"--root {root!r} is no absolute path.")
    logs.to_stderr(verbose=bool(app.out.verbose), form=log_format)
    as_json = log_format == "json"

    def say(path: str, home: str | None) -> None:
        if as_json:
            logs.say("ready socket=%s home=%s", path, home)
        else:
            app.out.note(f"layerstore: serving {path}" + (f", home {home}" if home else ""))

    try:
        serving.serve(
            tuple(str(Path(path).absolute()) for path in paths),
            default=SOCKET,
            allowed=allowed,
            environment={**os.environ, "LAYERSTORE_DOCKER_ROOTS": ",".join(allowed.roots)},
            say=say,
            metrics=metrics,
            audit_every=audit_every,
        )
    except signals.EndedBySignal:
        return  # that is how it ends
    except (LayerstoreError, OSError) as error:
        if not as_json:
            raise
        told = f"{error} {getattr(error, 'hint', '')}".rstrip()
        logs.say("failed error=%r", told, level=logging.CRITICAL)
        ctx.exit(error.exit_code if isinstance(error, LayerstoreError) else exits.FAILED)


def _require(*, metrics: bool) -> None:
    try:
        import httptools  # noqa: F401

        if metrics:
            import prometheus_client  # noqa: F401
    except ImportError as error:
        raise LayerstoreError(
            f"The server needs {error.name}, which is not installed.",
            hint="pip install 'layerstore[docker]'",
        ) from error
