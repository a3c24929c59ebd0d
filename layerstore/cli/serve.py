"""Owns `serve`: servers that daemons talk to."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from layerstore.cli import signals
from layerstore.cli.app import App, Command, pass_app
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
@pass_app
def docker(app: App, paths: tuple[str, ...], roots: tuple[str, ...], metrics: str | None) -> None:
    """Be a storage driver of dockerd: the graphdriver plugin protocol on a unix socket.

    dockerd --experimental -s layerstore finds the server by its socket and says where its home is.
    Whose restart it was, the server's or the daemon's, no layer and no mount is lost by it. SIGTERM
    ends the server when what is being answered is answered; containers keep their mounts.
    """
    try:
        import httptools  # noqa: F401

        if metrics is not None:
            import prometheus_client  # noqa: F401
    except ImportError as error:
        raise LayerstoreError(
            f"The server needs {error.name}, which is not installed.",
            hint="pip install 'layerstore[docker]'",
        ) from error
    from layerstore.docker import serving

    app.prepare_to_write()
    settings = app.settings
    allowed = serving.Allowed(
        roots=roots or tuple(settings.docker_roots),
        timeout=settings.timeout,
        durability=settings.durability.value,
        record_applied=settings.manifests == "apply",
        compact_above=settings.compact_above,
        keep_archives=settings.keep_archives,
        options=settings.storage_opts,
    )
    for root in allowed.roots:
        if not os.path.isabs(root):
            raise click.UsageError(f"--root {root!r} is no absolute path.")
    serving.log_to_stderr(verbose=bool(app.out.verbose))
    with contextlib.suppress(signals.EndedBySignal):  # that is how it ends
        serving.serve(
            tuple(str(Path(path).absolute()) for path in paths),
            default=SOCKET,
            allowed=allowed,
            environment=os.environ,
            say=app.out.note,
            metrics=metrics,
        )
