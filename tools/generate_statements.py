"""Writes `layerstore/db/statements.py`: the SQL text of every statement, as SQLAlchemy Core compiles it.

Run it after a change of the schema or of a statement: `python tools/generate_statements.py`.
A test holds the file equal to what this prints.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Integer,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    literal,
    not_,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateIndex, CreateTable

from layerstore.db import schema
from layerstore.db.schema import (
    events,
    holds,
    layers,
    manifests,
    meta,
    mounts,
    operations,
    owners,
    projects,
    snapshots,
)

TARGET = Path(__file__).parent.parent / "layerstore" / "db" / "statements.py"
DIALECT = sqlite.dialect(paramstyle="named")

B = bindparam


def _insert(table: Any, *names: str) -> Any:
    return insert(table).values({name: B(name) for name in names})


def _columns(table: Any) -> list[str]:
    return [column.name for column in table.columns]


layer_columns = (*layers.c, operations.c.verb)
"""A layer with the verb of its operation in flight, from which its state follows."""
layers_with_verb = layers.outerjoin(operations, operations.c.layer == layers.c.id)
hold_columns = (
    *holds.c,
    owners.c.pid,
    owners.c.started,
    owners.c.boot_id,
    owners.c.mount_id,
    owners.c.command,
    owners.c.opened_at,
    owners.c.closed_at,
)
holds_with_owner = holds.outerjoin(owners, owners.c.id == holds.c.owner)

above = (
    select(layers.c.id, layers.c.parent, literal(0).label("step"))
    .where(layers.c.id == B("id"))
    .cte("above", recursive=True)
)
above = above.union_all(
    select(layers.c.id, layers.c.parent, above.c.step + 1).where(layers.c.id == above.c.parent)
)
below = select(layers.c.id).where(layers.c.parent == B("id")).cte("below", recursive=True)
below = below.union_all(select(layers.c.id).where(layers.c.parent == below.c.id))

later = projects.alias("later")
"""The project id after one, to find the gaps."""

others = holds.alias("others")
all_holds = select(func.sum(others.c.count)).where(others.c.layer == layers.c.id).scalar_subquery()

own_diff = and_(layers.c.parent.is_(None), layers.c.committed == 0)
"""Whoever holds such a layer has its `diff` itself, and may write to it."""

STATEMENTS: dict[str, Any] = {
    # meta
    "SELECT_META": select(meta.c.key, meta.c.value),
    "PUT_META": upsert(meta)
    .values(key=B("key"), value=B("value"))
    .on_conflict_do_update(index_elements=["key"], set_={"value": B("value")}),
    "DELETE_META": delete(meta).where(meta.c.key == B("key")),
    "SELECT_META_OF": select(meta.c.value).where(meta.c.key == B("key")),
    # events
    "INSERT_EVENT": _insert(events, *(c for c in _columns(events) if c != "seq")),
    "INSERT_EVENT_AT": _insert(events, *_columns(events)),
    "SELECT_EVENT": select(*events.c).where(events.c.seq == B("seq")),
    "SELECT_EVENTS": select(*events.c)
    .where(events.c.seq > B("after"), events.c.seq <= B("last"))
    .order_by(events.c.seq)
    .limit(B("page")),
    "SELECT_LAYER_EVENTS": select(*events.c)
    .where(events.c.layer == B("layer"), events.c.seq > B("after"), events.c.seq <= B("last"))
    .order_by(events.c.seq)
    .limit(B("page")),
    # By layer, which has an index: an operation's own events are among the few after its intent.
    "COUNT_ABANDONED": select(func.count(), func.max(events.c.at)).where(
        events.c.layer == B("layer"),
        events.c.seq > B("after"),
        events.c.operation == B("operation"),
        events.c.kind == B("kind"),
    ),
    "LAST_SEQ": select(func.coalesce(func.max(events.c.seq), 0)),
    "FIRST_SEQ": select(func.coalesce(func.min(events.c.seq), 0)),
    "COUNT_EVENTS": select(func.count()).select_from(events),
    "DELETE_EVENTS": delete(events).where(events.c.seq <= B("last")),
    # snapshots
    "INSERT_SNAPSHOT": _insert(snapshots, *_columns(snapshots)),
    "DELETE_SNAPSHOTS": delete(snapshots),
    "SELECT_SNAPSHOT": select(*snapshots.c)
    .where(snapshots.c.part > B("after"))
    .order_by(snapshots.c.part)
    .limit(B("page")),
    # owners
    "INSERT_OWNER": _insert(owners, *_columns(owners)),
    "CLOSE_OWNER": update(owners).where(owners.c.id == B("id")).values(closed_at=B("at")),
    "SELECT_OWNER": select(*owners.c).where(owners.c.id == B("id")),
    "SELECT_OPEN_OWNERS": select(*owners.c)
    .where(owners.c.closed_at.is_(None))
    .order_by(owners.c.opened_at),
    "SELECT_OWNERS": select(*owners.c).order_by(owners.c.opened_at),
    "SELECT_WRITERS": select(*owners.c).where(
        owners.c.id.in_(
            select(events.c.owner).where(events.c.seq > B("after"), events.c.seq <= B("last"))
        )
    ),
    "DELETE_OWNERS": delete(owners).where(
        owners.c.closed_at.is_not(None),
        owners.c.id.not_in(select(events.c.owner).where(events.c.seq > B("after"))),
        owners.c.id.not_in(select(holds.c.owner)),
        owners.c.id.not_in(select(operations.c.owner)),
    ),
    # operations
    "INSERT_OPERATION": _insert(operations, *_columns(operations)),
    "DELETE_OPERATION": delete(operations).where(operations.c.id == B("operation")),
    "CLAIM_OPERATION": update(operations)
    .where(operations.c.id == B("operation"))
    .values(owner=B("owner"), abandoned=0),
    "ABANDON_OPERATION": update(operations)
    .where(operations.c.id == B("operation"))
    .values(abandoned=1),
    "SELECT_OPERATION": select(*operations.c).where(operations.c.id == B("operation")),
    "SELECT_OPERATION_ON": select(*operations.c).where(operations.c.layer == B("layer")),
    "SELECT_OPERATION_OF": select(operations.c.id).where(operations.c.owner == B("owner")).limit(1),
    "SELECT_OPERATIONS": select(*operations.c).order_by(operations.c.intent_seq),
    # layers
    "INSERT_LAYER": _insert(layers, *_columns(layers)),
    "SELECT_LAYER": select(*layer_columns)
    .select_from(layers_with_verb)
    .where(layers.c.id == B("id")),
    "SELECT_USE": select(
        layers.c.parent,
        layers.c.damage,
        operations.c.verb,
        mounts.c.layer.is_not(None),
        manifests.c.layer.is_not(None),
        layers.c.inodes.is_not(None),
    )
    .select_from(
        layers_with_verb.outerjoin(mounts, mounts.c.layer == layers.c.id).outerjoin(
            manifests, manifests.c.layer == layers.c.id
        )
    )
    .where(layers.c.id == B("id")),
    # What a put has to know: one query, because most puts only count.
    "SELECT_HELD": select(operations.c.verb, holds.c.count, mounts.c.read_only, all_holds)
    .select_from(
        layers_with_verb.outerjoin(mounts, mounts.c.layer == layers.c.id).outerjoin(
            holds, and_(holds.c.layer == layers.c.id, holds.c.holder == B("holder"))
        )
    )
    .where(layers.c.id == B("id")),
    "SELECT_LOWER": select(layers.c.lower, operations.c.verb)
    .select_from(layers_with_verb)
    .where(layers.c.id == B("id")),
    "SELECT_LAYER_BY_LINK": select(*layer_columns)
    .select_from(layers_with_verb)
    .where(layers.c.link == B("link")),
    "SELECT_LAYERS": select(*layer_columns)
    .select_from(layers_with_verb)
    .where(layers.c.id > B("after"))
    .order_by(layers.c.id)
    .limit(B("page")),
    "SELECT_CHILDREN": select(*layer_columns)
    .select_from(layers_with_verb)
    .where(layers.c.parent == B("id"))
    .order_by(layers.c.id)
    .limit(B("page")),
    "COUNT_CHILDREN": select(func.count()).select_from(layers).where(layers.c.parent == B("id")),
    "SELECT_ANCESTORS": select(*layer_columns)
    .select_from(layers_with_verb.join(above, above.c.id == layers.c.id))
    .where(above.c.step > 0)
    .order_by(above.c.step),
    "SELECT_CHAIN_IDS": select(above.c.id).where(above.c.step > 0).order_by(above.c.step),
    "SELECT_DESCENDANTS": select(*layer_columns)
    .select_from(layers_with_verb)
    .where(layers.c.id.in_(select(below.c.id)))  # a join would make SQLite scan all layers
    .order_by(layers.c.depth, layers.c.id),
    "DELETE_LAYER": delete(layers).where(layers.c.id == B("id")),
    "COMMIT_PARENT": update(layers)  # the second child changes nothing, and writes nothing
    .where(
        layers.c.id == B("id"),
        or_(
            layers.c.committed == 0,
            layers.c.used == 0,
            layers.c.draining != 0,
            and_(B("durable") == 1, layers.c.durable == 0),
        ),
    )
    .values(
        committed=1,
        used=1,
        draining=0,
        durable=case((B("durable") == 1, 1), else_=layers.c.durable),
    ),
    "COMMIT_LAYER": update(layers).where(layers.c.id == B("id")).values(committed=1, used=1),
    "CREATED_LAYER": update(layers)
    .where(layers.c.id == B("id"))
    .values(created_at=B("at"), created_seq=B("seq")),
    "MOUNT_LAYER": update(layers)
    .where(layers.c.id == B("id"))
    .values(
        used=1,
        durable=case((B("read_only") == 1, layers.c.durable), else_=0),
        inodes=case((B("read_only") == 1, layers.c.inodes), else_=null()),
    ),
    "HOLD_LAYER": update(layers)  # a further get would change nothing, and writes nothing
    .where(
        layers.c.id == B("id"),
        or_(
            layers.c.used == 0,
            and_(layers.c.durable == 1, own_diff),
            and_(layers.c.inodes.is_not(None), layers.c.parent.is_(None)),
        ),
    )
    .values(
        used=1,
        durable=case((own_diff, 0), else_=layers.c.durable),
        inodes=case((layers.c.parent.is_(None), null()), else_=layers.c.inodes),
    ),
    "DRAIN_LAYER": update(layers).where(layers.c.id == B("id")).values(draining=B("draining")),
    "DAMAGE_LAYER": update(layers)
    .where(layers.c.id == B("id"))
    .values(damage=B("damage"), inodes=null()),
    "APPLYING_LAYER": update(layers).where(layers.c.id == B("id")).values(applied=1, used=1),
    "APPLIED_LAYER": update(layers)
    .where(layers.c.id == B("id"))
    .values(durable=B("durable"), diff_id=B("diff_id"), size=B("size"), inodes=B("inodes")),
    "FOUND_LAYER": update(layers)
    .where(layers.c.id == B("id"))
    .values(
        {
            name: B(name)
            for name in (
                *("link", "parent", "lower", "depth", "committed", "read_write", "labels"),
                *("storage_options", "damage", "diff_id", "size"),
            )
        }
    ),
    "FORGET_INODES": update(layers).where(layers.c.inodes.is_not(None)).values(inodes=null()),
    "COUNT_LAYERS": select(
        func.count(), func.coalesce(func.sum(cast(layers.c.damage.is_not(None), Integer)), 0)
    ).select_from(layers),
    "SELECT_INDEX": select(
        layers.c.id,
        layers.c.link,
        layers.c.parent,
        layers.c.lower,
        layers.c.damage,
        layers.c.committed,
        layers.c.draining,
    ).order_by(layers.c.depth, layers.c.id),
    "SELECT_LAYERS_BY_PREFIX": select(layers.c.id)
    .where(layers.c.id >= B("low"), layers.c.id < B("high"))
    .order_by(layers.c.id)
    .limit(B("page")),
    # holds
    "TAKE_HOLD": upsert(holds)
    .values({name: B(name) for name in _columns(holds) if name != "count"} | {"count": 1})
    .on_conflict_do_update(index_elements=["layer", "holder"], set_={"count": holds.c.count + 1}),
    "RELEASE_HOLD": update(holds)
    .where(holds.c.layer == B("layer"), holds.c.holder == B("holder"), holds.c.count > 1)
    .values(count=holds.c.count - 1),
    "END_HOLDS": delete(holds).where(holds.c.layer == B("layer"), holds.c.holder == B("holder")),
    "END_HOLDS_OF": delete(holds).where(holds.c.holder == B("holder")),
    "END_HOLDS_ON": delete(holds).where(holds.c.layer == B("layer")),
    "SELECT_HOLD": select(holds.c.count).where(
        holds.c.layer == B("layer"), holds.c.holder == B("holder")
    ),
    "SUM_HOLDS": select(func.coalesce(func.sum(holds.c.count), 0)).where(
        holds.c.layer == B("layer")
    ),
    "COUNT_HOLDS": select(func.coalesce(func.sum(holds.c.count), 0)),
    "SELECT_HOLDS": select(*hold_columns)
    .select_from(holds_with_owner)
    .order_by(holds.c.layer, holds.c.since_seq),
    "SELECT_HOLDS_ON": select(*hold_columns)
    .select_from(holds_with_owner)
    .where(holds.c.layer == B("layer"))
    .order_by(holds.c.since_seq),
    "SELECT_HELD_BY": select(holds.c.layer, holds.c.count)
    .where(holds.c.holder == B("holder"))
    .order_by(holds.c.layer),
    # mounts
    "INSERT_MOUNT": _insert(mounts, *_columns(mounts)),
    "DELETE_MOUNT": delete(mounts).where(mounts.c.layer == B("layer")),
    "SELECT_MOUNT": select(*mounts.c).where(mounts.c.layer == B("layer")),
    "SELECT_MOUNTS": select(*mounts.c).order_by(mounts.c.layer),
    "COUNT_MOUNTS": select(func.count()).select_from(mounts),
    "SELECT_UNHELD_MOUNTS": select(*mounts.c)
    .where(not_(exists().where(holds.c.layer == mounts.c.layer)))
    .order_by(mounts.c.layer),
    # manifests
    "INSERT_MANIFEST": _insert(manifests, *_columns(manifests)),
    "DELETE_MANIFEST": delete(manifests).where(manifests.c.layer == B("layer")),
    "SELECT_MANIFEST": select(*manifests.c).where(manifests.c.layer == B("layer")),
    "SELECT_MANIFESTS": select(*manifests.c)
    .where(manifests.c.layer > B("after"))
    .order_by(manifests.c.layer)
    .limit(B("page")),
    # projects
    "INSERT_PROJECT": _insert(projects, *_columns(projects)),
    "SELECT_PROJECT": select(*projects.c).where(projects.c.layer == B("layer")),
    "SELECT_PROJECT_BY_ID": select(*projects.c).where(projects.c.id == B("id")),
    "SELECT_GAP": select(projects.c.id + 1)
    .where(
        projects.c.id >= B("first"),
        not_(exists().where(later.c.id == projects.c.id + 1)),
    )
    .order_by(projects.c.id)
    .limit(1),
    "MOVE_PROJECT": update(projects).where(projects.c.layer == B("layer")).values(layer=B("place")),
    "DELETE_PROJECT": delete(projects).where(projects.c.layer == B("layer")),
}

HEADER = '''"""Owns the SQL text of every statement; it must not be edited: tools/generate_statements.py writes it.

SQLAlchemy Core compiled these once, so that neither a verb nor a query imports SQLAlchemy.
"""

from typing import Final

'''


def _sql(statement: Any) -> str:
    compiled = statement.compile(dialect=DIALECT)
    text = " ".join(str(compiled).split())
    for name, value in compiled.params.items():
        if value is not None:
            text = re.sub(rf":{name}\b", repr(value), text)
    return text


def _names(columns: Any) -> str:
    return repr(tuple(column.name for column in columns))


def render() -> str:
    """The whole text of the file."""
    lines = [HEADER, f'REVISION: Final = "{schema.REVISION}"\n']
    ddl = []
    for table in schema.metadata.sorted_tables:
        ddl.append(" ".join(str(CreateTable(table).compile(dialect=DIALECT)).split()))
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        ddl += [" ".join(str(CreateIndex(i).compile(dialect=DIALECT)).split()) for i in indexes]
    lines.append("CREATE: Final = (\n" + "".join(f"    {text!r},\n" for text in ddl) + ")\n")
    for table in schema.metadata.sorted_tables:
        lines.append(f"{table.name.upper()}_COLUMNS: Final = {_names(table.columns)}\n")
    lines.append(f"LAYER_COLUMNS: Final = {_names(layer_columns)}\n")
    lines.append(f"HOLD_COLUMNS: Final = {_names(hold_columns)}\n")
    for name, statement in STATEMENTS.items():
        lines.append(f"{name}: Final = {_sql(statement)!r}\n")
    return "".join(lines)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(TARGET.read_text() != render())
    TARGET.write_text(render())
