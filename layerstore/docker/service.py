"""Owns what each request is in terms of the store: one verb; it must not know HTTP.

What a client asks for again because it lost the answer is done once: it gets the answer that it lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from layerstore.docker import counted, protocol
from layerstore.docker.homes import HOLDER, Allowed, Homes, Opened, log
from layerstore.docker.pending import Lost
from layerstore.errors import (
    InvalidArgument,
    LayerExists,
    LayerstoreError,
    NotHeld,
    Refused,
    UnknownLayer,
)
from layerstore.fs import layout, trace

if TYPE_CHECKING:
    from layerstore.fs.archive import Readable
    from layerstore.store import Store


class Service(Homes):
    """What dockerd can ask of one socket. Safe to use from many threads."""

    def __init__(self, socket: str, allowed: Allowed) -> None:
        super().__init__(socket, allowed)
        self._doing_lost = threading.Lock()
        self._turns = counted.Turns()
        self._gets_refused = 0

    # --- requests -----------------------------------------------------------------------------

    def answer(self, note: Lost) -> dict[str, Any]:
        """The answer to a request that is no stream; what was done of it already is not done again."""
        values = protocol.fields(note.body)
        if note.method not in counted.ADDS:
            answer = _METHODS[note.method](self, values)
            self.pending.did(note)
            return answer
        wanted = protocol.about(values)
        with self._turns.of(wanted.id, self._allowed.timeout), self.using() as opened:
            if note.done:
                log.info("repeated method=%s id=%s counted=already", note.method, wanted.id)
                return {"Dir": _place(opened, wanted.id)}
            self.pending.counts(note, opened.store.held(wanted.id, HOLDER))
            trace.trace(f"docker:{note.method}:counts")
            answer = (self._get if note.method == "Get" else self._put)(opened, wanted)
            trace.trace(f"docker:{note.method}:counted")
            self.pending.did(note)
            return answer

    def answer_anew(self, method: str) -> dict[str, Any]:
        """The answer to a request that has no content, and can be asked as often as one likes."""
        return _METHODS[method](self, {})

    def lost(self, method: str) -> Lost:
        """What a request was that came without a body: the one that a dead server did not answer.

        Where several that differ are possible it is not guessed.
        """
        found = self.pending.take(method)
        if isinstance(found, int):
            if method == "Get":
                self._refuse_gets(found)
            raise Refused(
                f"{method} came without a body, and {found or 'none'} of the requests that a server "
                "before this one did not answer could be it.",
                hint="dockerd repeats without a body what it had sent. Ask for it once more.",
            )
        log.info("repeated method=%s repeated=1", method)
        return found

    def _refuse_gets(self, possible: int) -> None:
        """When as many were refused as are on record, whoever asked for them knows of none: what was
        counted of them is given back.
        """
        with self._doing_lost:
            self._gets_refused += 1
            if not 0 < possible <= self._gets_refused:
                return
            self._gets_refused = 0
            for lost in self.pending.lost("Get"):
                layer = counted.layer_of(lost)
                if lost.done and layer is not None:
                    with contextlib.suppress(NotHeld, UnknownLayer), self.using() as opened:
                        opened.store.put(layer, holder=HOLDER)
                        log.warning("taken-back method=Get body=%r", lost.body)
            self.pending.drop("Get")

    @contextlib.contextmanager
    def doing_lost(self, method: str) -> Iterator[dict[str, Any]]:
        """The answer to a request without a body, of a kind that has nothing in its answer.

        All of this kind that were not done are done, each once: whose repetition this is does not
        matter then. One record is settled for each that was answered: the others are repeated still.
        """
        with self._doing_lost:
            found = self.pending.lost(method)
            if not found:
                self.lost(method)  # raises
            for lost in found:
                if not lost.done:
                    lost.error = self._try_again(lost)
                    if lost.error is None:
                        self.pending.did(lost)
                elif method == "Create" and len(found) == 1 and lost.slot is not None:
                    self._made_before(lost)
            log.info("repeated method=%s repeated=%d", method, len(found))
        try:
            for lost in found:
                if lost.error is not None:
                    raise lost.error
            yield {}
        finally:
            self.pending.settle(next((x for x in found if x.slot is not None), found[0]))

    def _made_before(self, lost: Lost) -> None:
        """Its answer was lost for certain, so no archive was sent to the dead server."""
        layer = protocol.create(protocol.fields(lost.body)).id
        with self.using() as opened, contextlib.suppress(UnknownLayer):
            if not opened.store.layer(layer).applied:
                opened.created.add(layer)

    def _try_again(self, lost: Lost) -> Exception | None:
        try:
            self.answer(lost)
        except LayerExists:
            pass  # it was answered after all, and the layer was used since
        except (LayerstoreError, OSError) as error:
            return error
        return None

    def activate(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"Implements": ["GraphDriver"]}

    def capabilities(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """False: dockerd keeps what it needs to make the same archive again (tar-split)."""
        return {"Capabilities": {"ReproducesExactDiffs": False}}

    def create(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._create(values, read_write=False)

    def create_read_write(self, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._create(values, read_write=True)

    def _create(self, values: Mapping[str, Any], *, read_write: bool) -> dict[str, Any]:
        wanted = protocol.create(values)
        with self.using() as opened:
            verb = opened.store.create_read_write if read_write else opened.store.create
            try:
                verb(
                    wanted.id,
                    parent=wanted.parent,
                    mount_label=wanted.mount_label,
                    storage_options=wanted.storage_options,
                )
            except LayerExists as error:
                if not error.same_and_unused:
                    raise  # else asked for again; what it is for comes after this answer
            if not read_write:
                opened.created.add(wanted.id)
        return {}

    def remove(self, values: Mapping[str, Any]) -> dict[str, Any]:
        layer = protocol.about(values).id
        with self.using() as opened:
            opened.created.discard(layer)
            try:
                opened.store.remove(layer, holder=HOLDER)
            except UnknownLayer:
                pass  # it is gone, which was what was asked for
        return {}

    def _get(self, opened: Opened, wanted: protocol.About) -> dict[str, Any]:
        path = opened.store.get(wanted.id, holder=HOLDER, mount_label=wanted.mount_label)
        return {"Dir": os.fspath(path)}

    def _put(self, opened: Opened, wanted: protocol.About) -> dict[str, Any]:
        """One hold less. Like Docker's own it does not fail for one that is not there."""
        with contextlib.suppress(NotHeld, UnknownLayer):
            opened.store.put(wanted.id, holder=HOLDER)
        return {}

    def exists(self, values: Mapping[str, Any]) -> dict[str, Any]:
        layer = protocol.about(values).id
        with self.using() as opened:
            return {"Exists": opened.store.exists(layer)}

    def tell_status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """What `docker info` shows: the names of Docker's own driver first."""
        from importlib.metadata import version

        with self.using() as opened:
            status = opened.store.status()
        pairs = [
            ["Backing Filesystem", status.file_system],
            ["Supports d_type", "true"],
            ["Native Overlay Diff", "true"],
            ["Layers", str(status.layers)],
            ["Mounts", str(status.mounts)],
            ["Journal Events", str(status.seq)],
            ["Durability", status.durability],
            ["Store", status.store_id],
            ["Layerstore Version", version("layerstore")],
        ]
        pairs += [["Damaged Layers", str(status.damaged)]] if status.damaged else []
        return {"Status": pairs}

    def metadata(self, values: Mapping[str, Any]) -> dict[str, Any]:
        layer = protocol.about(values).id
        with self.using() as opened:
            return {"Metadata": opened.store.metadata(layer)}

    def changes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        wanted = protocol.about(values)
        with self.using() as opened:
            _require_parent(opened.store, wanted)
            return protocol.changes(opened.store.changes(wanted.id))

    def diff_size(self, values: Mapping[str, Any]) -> dict[str, Any]:
        wanted = protocol.about(values)
        with self.using() as opened:
            _require_parent(opened.store, wanted)
            return {"Size": opened.store.diff_size(wanted.id)}

    # --- too late ------------------------------------------------------------------------------

    def take_back(self, note: Lost) -> None:
        """Undo what was done for a request that was given up before, or whose client died over it: it has an
        error for an answer or none, and will not undo it. What ends something stays done.
        """
        with contextlib.suppress(LayerstoreError), self.using() as opened:
            if note.method == "Get":
                wanted = protocol.about(protocol.fields(note.body))
                with self._turns.of(wanted.id, self._allowed.timeout):
                    opened.store.put(wanted.id, holder=HOLDER)
            elif note.method in ("Create", "CreateReadWrite"):
                wanted_layer = protocol.create(protocol.fields(note.body)).id
                opened.created.discard(wanted_layer)
                if not opened.store.layer(wanted_layer).used:
                    opened.store.remove(wanted_layer)
            else:
                return
            log.warning("taken-back method=%s body=%r", note.method, note.body[:200])

    # --- streams ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def diff(self, values: Mapping[str, Any]) -> Iterator[Iterator[bytes]]:
        """The archive of a layer; what can be refused is refused before its first piece."""
        wanted = protocol.about(values)
        with self.using() as opened:
            _require_parent(opened.store, wanted)
            pieces = opened.store.diff(wanted.id, dialect=f"docker-{self._allowed.archives}")
            with contextlib.closing(pieces):  # type: ignore[type-var]  # it is a generator
                first = next(pieces, b"")
                yield _joined(first, pieces)

    def apply_diff(self, wanted: protocol.About, stream: Readable) -> dict[str, Any]:
        """The content of a layer that was asked for in this life of the server.

        A server that was killed before it wrote down that an apply began cannot know how much of
        the stream it had swallowed; a repetition would bring the rest.
        """
        with self.using() as opened:
            _require_parent(opened.store, wanted)
            with self._changed:
                was_made_here = wanted.id in opened.created
                opened.created.discard(wanted.id)
            if not was_made_here:
                raise Refused(
                    f"Layer {wanted.id} was not made since this server started, or was applied to.",
                    hint="An archive that broke off is not taken up again: remove the layer, create "
                    "it, and apply the whole archive.",
                )
            return {"Size": opened.store.apply_diff(wanted.id, stream).size or 0}


def _require_parent(store: Store, wanted: protocol.About) -> None:
    """A comparison with another layer, or the whole view of a layer with a parent, is not offered."""
    parent = store.layer(wanted.id).parent
    if wanted.parent != parent:
        raise InvalidArgument(
            f"{wanted.parent or 'nothing'} is not the parent of {wanted.id}.",
            hint=f"It is compared with its own parent: {parent or 'it has none'}.",
        )


def _place(opened: Opened, layer: str) -> str:
    """Where a layer that is held is to be seen."""
    is_base = opened.store.layer(layer).parent is None
    return f"{opened.home}/{layout.diff(layer) if is_base else layout.merged(layer)}"


def _joined(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


_Method = Callable[[Service, Mapping[str, Any]], dict[str, Any]]
_METHODS: Final[Mapping[str, _Method]] = {
    "Activate": Service.activate,
    "Init": Service.init,
    "Capabilities": Service.capabilities,
    "Create": Service.create,
    "CreateReadWrite": Service.create_read_write,
    "Remove": Service.remove,
    "Exists": Service.exists,
    "Status": Service.tell_status,
    "GetMetadata": Service.metadata,
    "Cleanup": Service.cleanup,
    "Changes": Service.changes,
    "DiffSize": Service.diff_size,
}
"""Get and Put count; Diff and ApplyDiff are streams: these have a way of their own."""
STREAMS: Final = frozenset({"Diff", "ApplyDiff"})
METHODS: Final = frozenset(_METHODS) | frozenset(counted.ADDS) | STREAMS

WITHOUT_EFFECT: Final = frozenset({"Activate", "Capabilities", "Status"})
WITHOUT_BODY: Final = WITHOUT_EFFECT | {"Cleanup"}
SILENT: Final = frozenset({"Create", "CreateReadWrite", "Remove", "Put"})
"""Their answers are empty, whoever asked."""
