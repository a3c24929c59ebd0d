"""Owns the SQL text of every statement; it must not be edited: tools/generate_statements.py writes it.

SQLAlchemy Core compiled these once, so that neither a verb nor a query imports SQLAlchemy.
"""

from typing import Final

REVISION: Final = "0006"
CREATE: Final = (
    'CREATE TABLE events ( seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, epoch TEXT NOT NULL, operation TEXT, owner TEXT NOT NULL, boot_id TEXT NOT NULL, at INTEGER NOT NULL, kind TEXT NOT NULL, layer TEXT, data TEXT NOT NULL )',
    'CREATE INDEX ix_events_layer ON events (layer, seq)',
    'CREATE TABLE layers ( id TEXT NOT NULL, link TEXT NOT NULL, parent TEXT, lower TEXT NOT NULL, depth INTEGER NOT NULL, read_write INTEGER NOT NULL, committed INTEGER NOT NULL, labels TEXT NOT NULL, storage_options TEXT NOT NULL, mount_label TEXT NOT NULL, created_at INTEGER NOT NULL, created_seq INTEGER NOT NULL, durable INTEGER NOT NULL, used INTEGER NOT NULL, draining INTEGER NOT NULL, damage TEXT, applied INTEGER DEFAULT 0 NOT NULL, diff_id TEXT, size INTEGER, inodes INTEGER, CONSTRAINT pk_layers PRIMARY KEY (id), CONSTRAINT uq_layers_link UNIQUE (link), CONSTRAINT fk_layers_parent FOREIGN KEY(parent) REFERENCES layers (id) )',
    'CREATE INDEX ix_layers_parent ON layers (parent, id)',
    'CREATE TABLE meta ( "key" TEXT NOT NULL, value TEXT NOT NULL, CONSTRAINT pk_meta PRIMARY KEY ("key") )',
    'CREATE TABLE operations ( id TEXT NOT NULL, verb TEXT NOT NULL, layer TEXT NOT NULL, owner TEXT NOT NULL, intent_seq INTEGER NOT NULL, started_at INTEGER NOT NULL, abandoned INTEGER NOT NULL, CONSTRAINT pk_operations PRIMARY KEY (id), CONSTRAINT uq_operations_layer UNIQUE (layer) )',
    'CREATE TABLE owners ( id TEXT NOT NULL, pid INTEGER NOT NULL, started INTEGER NOT NULL, boot_id TEXT NOT NULL, mount_id INTEGER NOT NULL, command TEXT NOT NULL, durability TEXT NOT NULL, opened_at INTEGER NOT NULL, closed_at INTEGER, CONSTRAINT pk_owners PRIMARY KEY (id) )',
    'CREATE INDEX ix_owners_open ON owners (opened_at) WHERE closed_at IS NULL',
    'CREATE TABLE projects ( id INTEGER NOT NULL, layer TEXT NOT NULL, size INTEGER NOT NULL, since_seq INTEGER NOT NULL, CONSTRAINT pk_projects PRIMARY KEY (id), CONSTRAINT uq_projects_layer UNIQUE (layer) )',
    'CREATE TABLE snapshots ( part INTEGER NOT NULL, seq INTEGER NOT NULL, of_table TEXT NOT NULL, fields TEXT NOT NULL, content TEXT NOT NULL, CONSTRAINT pk_snapshots PRIMARY KEY (part) )',
    'CREATE TABLE holds ( layer TEXT NOT NULL, holder TEXT NOT NULL, count INTEGER NOT NULL, owner TEXT NOT NULL, since_at INTEGER NOT NULL, since_seq INTEGER NOT NULL, CONSTRAINT pk_holds PRIMARY KEY (layer, holder), CONSTRAINT fk_holds_layer FOREIGN KEY(layer) REFERENCES layers (id) )',
    'CREATE INDEX ix_holds_holder ON holds (holder)',
    'CREATE TABLE manifests ( layer TEXT NOT NULL, digest TEXT NOT NULL, files INTEGER NOT NULL, bytes INTEGER NOT NULL, since_at INTEGER NOT NULL, since_seq INTEGER NOT NULL, CONSTRAINT pk_manifests PRIMARY KEY (layer), CONSTRAINT fk_manifests_layer FOREIGN KEY(layer) REFERENCES layers (id) )',
    'CREATE TABLE mounts ( layer TEXT NOT NULL, read_only INTEGER NOT NULL, mount_id INTEGER NOT NULL, boot_id TEXT NOT NULL, since_at INTEGER NOT NULL, since_seq INTEGER NOT NULL, CONSTRAINT pk_mounts PRIMARY KEY (layer), CONSTRAINT fk_mounts_layer FOREIGN KEY(layer) REFERENCES layers (id) )',
)
EVENTS_COLUMNS: Final = ('seq', 'epoch', 'operation', 'owner', 'boot_id', 'at', 'kind', 'layer', 'data')
LAYERS_COLUMNS: Final = ('id', 'link', 'parent', 'lower', 'depth', 'read_write', 'committed', 'labels', 'storage_options', 'mount_label', 'created_at', 'created_seq', 'durable', 'used', 'draining', 'damage', 'applied', 'diff_id', 'size', 'inodes')
META_COLUMNS: Final = ('key', 'value')
OPERATIONS_COLUMNS: Final = ('id', 'verb', 'layer', 'owner', 'intent_seq', 'started_at', 'abandoned')
OWNERS_COLUMNS: Final = ('id', 'pid', 'started', 'boot_id', 'mount_id', 'command', 'durability', 'opened_at', 'closed_at')
PROJECTS_COLUMNS: Final = ('id', 'layer', 'size', 'since_seq')
SNAPSHOTS_COLUMNS: Final = ('part', 'seq', 'of_table', 'fields', 'content')
HOLDS_COLUMNS: Final = ('layer', 'holder', 'count', 'owner', 'since_at', 'since_seq')
MANIFESTS_COLUMNS: Final = ('layer', 'digest', 'files', 'bytes', 'since_at', 'since_seq')
MOUNTS_COLUMNS: Final = ('layer', 'read_only', 'mount_id', 'boot_id', 'since_at', 'since_seq')
LAYER_COLUMNS: Final = ('id', 'link', 'parent', 'lower', 'depth', 'read_write', 'committed', 'labels', 'storage_options', 'mount_label', 'created_at', 'created_seq', 'durable', 'used', 'draining', 'damage', 'applied', 'diff_id', 'size', 'inodes', 'verb')
HOLD_COLUMNS: Final = ('layer', 'holder', 'count', 'owner', 'since_at', 'since_seq', 'pid', 'started', 'boot_id', 'mount_id', 'command', 'opened_at', 'closed_at')
SELECT_META: Final = 'SELECT meta."key", meta.value FROM meta'
PUT_META: Final = 'INSERT INTO meta ("key", value) VALUES (:key, :value) ON CONFLICT ("key") DO UPDATE SET value = :value'
DELETE_META: Final = 'DELETE FROM meta WHERE meta."key" = :key'
SELECT_META_OF: Final = 'SELECT meta.value FROM meta WHERE meta."key" = :key'
INSERT_EVENT: Final = 'INSERT INTO events (epoch, operation, owner, boot_id, at, kind, layer, data) VALUES (:epoch, :operation, :owner, :boot_id, :at, :kind, :layer, :data)'
INSERT_EVENT_AT: Final = 'INSERT INTO events (seq, epoch, operation, owner, boot_id, at, kind, layer, data) VALUES (:seq, :epoch, :operation, :owner, :boot_id, :at, :kind, :layer, :data)'
SELECT_EVENT: Final = 'SELECT events.seq, events.epoch, events.operation, events.owner, events.boot_id, events.at, events.kind, events.layer, events.data FROM events WHERE events.seq = :seq'
SELECT_EVENTS: Final = 'SELECT events.seq, events.epoch, events.operation, events.owner, events.boot_id, events.at, events.kind, events.layer, events.data FROM events WHERE events.seq > :after AND events.seq <= :last ORDER BY events.seq LIMIT :page OFFSET 0'
SELECT_LAYER_EVENTS: Final = 'SELECT events.seq, events.epoch, events.operation, events.owner, events.boot_id, events.at, events.kind, events.layer, events.data FROM events WHERE events.layer = :layer AND events.seq > :after AND events.seq <= :last ORDER BY events.seq LIMIT :page OFFSET 0'
COUNT_ABANDONED: Final = 'SELECT count(*) AS count_1, max(events.at) AS max_1 FROM events WHERE events.layer = :layer AND events.seq > :after AND events.operation = :operation AND events.kind = :kind'
LAST_SEQ: Final = 'SELECT coalesce(max(events.seq), 0) AS coalesce_1 FROM events'
FIRST_SEQ: Final = 'SELECT coalesce(min(events.seq), 0) AS coalesce_1 FROM events'
COUNT_EVENTS: Final = 'SELECT count(*) AS count_1 FROM events'
DELETE_EVENTS: Final = 'DELETE FROM events WHERE events.seq <= :last'
INSERT_SNAPSHOT: Final = 'INSERT INTO snapshots (part, seq, of_table, fields, content) VALUES (:part, :seq, :of_table, :fields, :content)'
DELETE_SNAPSHOTS: Final = 'DELETE FROM snapshots'
SELECT_SNAPSHOT: Final = 'SELECT snapshots.part, snapshots.seq, snapshots.of_table, snapshots.fields, snapshots.content FROM snapshots WHERE snapshots.part > :after ORDER BY snapshots.part LIMIT :page OFFSET 0'
INSERT_OWNER: Final = 'INSERT INTO owners (id, pid, started, boot_id, mount_id, command, durability, opened_at, closed_at) VALUES (:id, :pid, :started, :boot_id, :mount_id, :command, :durability, :opened_at, :closed_at)'
CLOSE_OWNER: Final = 'UPDATE owners SET closed_at=:at WHERE owners.id = :id'
SELECT_OWNER: Final = 'SELECT owners.id, owners.pid, owners.started, owners.boot_id, owners.mount_id, owners.command, owners.durability, owners.opened_at, owners.closed_at FROM owners WHERE owners.id = :id'
SELECT_OPEN_OWNERS: Final = 'SELECT owners.id, owners.pid, owners.started, owners.boot_id, owners.mount_id, owners.command, owners.durability, owners.opened_at, owners.closed_at FROM owners WHERE owners.closed_at IS NULL ORDER BY owners.opened_at'
SELECT_OWNERS: Final = 'SELECT owners.id, owners.pid, owners.started, owners.boot_id, owners.mount_id, owners.command, owners.durability, owners.opened_at, owners.closed_at FROM owners ORDER BY owners.opened_at'
SELECT_WRITERS: Final = 'SELECT owners.id, owners.pid, owners.started, owners.boot_id, owners.mount_id, owners.command, owners.durability, owners.opened_at, owners.closed_at FROM owners WHERE owners.id IN (SELECT events.owner FROM events WHERE events.seq > :after AND events.seq <= :last)'
DELETE_OWNERS: Final = 'DELETE FROM owners WHERE owners.closed_at IS NOT NULL AND (owners.id NOT IN (SELECT events.owner FROM events WHERE events.seq > :after)) AND (owners.id NOT IN (SELECT holds.owner FROM holds)) AND (owners.id NOT IN (SELECT operations.owner FROM operations))'
INSERT_OPERATION: Final = 'INSERT INTO operations (id, verb, layer, owner, intent_seq, started_at, abandoned) VALUES (:id, :verb, :layer, :owner, :intent_seq, :started_at, :abandoned)'
DELETE_OPERATION: Final = 'DELETE FROM operations WHERE operations.id = :operation'
CLAIM_OPERATION: Final = 'UPDATE operations SET owner=:owner, abandoned=0 WHERE operations.id = :operation'
ABANDON_OPERATION: Final = 'UPDATE operations SET abandoned=1 WHERE operations.id = :operation'
SELECT_OPERATION: Final = 'SELECT operations.id, operations.verb, operations.layer, operations.owner, operations.intent_seq, operations.started_at, operations.abandoned FROM operations WHERE operations.id = :operation'
SELECT_OPERATION_ON: Final = 'SELECT operations.id, operations.verb, operations.layer, operations.owner, operations.intent_seq, operations.started_at, operations.abandoned FROM operations WHERE operations.layer = :layer'
SELECT_OPERATION_OF: Final = 'SELECT operations.id FROM operations WHERE operations.owner = :owner LIMIT 1 OFFSET 0'
SELECT_OPERATIONS: Final = 'SELECT operations.id, operations.verb, operations.layer, operations.owner, operations.intent_seq, operations.started_at, operations.abandoned FROM operations ORDER BY operations.intent_seq'
INSERT_LAYER: Final = 'INSERT INTO layers (id, link, parent, lower, depth, read_write, committed, labels, storage_options, mount_label, created_at, created_seq, durable, used, draining, damage, applied, diff_id, size, inodes) VALUES (:id, :link, :parent, :lower, :depth, :read_write, :committed, :labels, :storage_options, :mount_label, :created_at, :created_seq, :durable, :used, :draining, :damage, :applied, :diff_id, :size, :inodes)'
SELECT_LAYER: Final = 'SELECT layers.id, layers.link, layers.parent, layers.lower, layers.depth, layers.read_write, layers.committed, layers.labels, layers.storage_options, layers.mount_label, layers.created_at, layers.created_seq, layers.durable, layers.used, layers.draining, layers.damage, layers.applied, layers.diff_id, layers.size, layers.inodes, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id WHERE layers.id = :id'
SELECT_USE: Final = 'SELECT layers.parent, layers.damage, operations.verb, mounts.layer IS NOT NULL AS anon_1, manifests.layer IS NOT NULL AS anon_2, layers.inodes IS NOT NULL AS anon_3 FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id LEFT OUTER JOIN mounts ON mounts.layer = layers.id LEFT OUTER JOIN manifests ON manifests.layer = layers.id WHERE layers.id = :id'
SELECT_HELD: Final = 'SELECT operations.verb, holds.count, mounts.read_only, (SELECT sum(others.count) AS sum_1 FROM holds AS others WHERE others.layer = layers.id) AS anon_1 FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id LEFT OUTER JOIN mounts ON mounts.layer = layers.id LEFT OUTER JOIN holds ON holds.layer = layers.id AND holds.holder = :holder WHERE layers.id = :id'
SELECT_LOWER: Final = 'SELECT layers.lower, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id WHERE layers.id = :id'
SELECT_LAYER_BY_LINK: Final = 'SELECT layers.id, layers.link, layers.parent, layers.lower, layers.depth, layers.read_write, layers.committed, layers.labels, layers.storage_options, layers.mount_label, layers.created_at, layers.created_seq, layers.durable, layers.used, layers.draining, layers.damage, layers.applied, layers.diff_id, layers.size, layers.inodes, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id WHERE layers.link = :link'
SELECT_LAYERS: Final = 'SELECT layers.id, layers.link, layers.parent, layers.lower, layers.depth, layers.read_write, layers.committed, layers.labels, layers.storage_options, layers.mount_label, layers.created_at, layers.created_seq, layers.durable, layers.used, layers.draining, layers.damage, layers.applied, layers.diff_id, layers.size, layers.inodes, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id WHERE layers.id > :after ORDER BY layers.id LIMIT :page OFFSET 0'
SELECT_CHILDREN: Final = 'SELECT layers.id, layers.link, layers.parent, layers.lower, layers.depth, layers.read_write, layers.committed, layers.labels, layers.storage_options, layers.mount_label, layers.created_at, layers.created_seq, layers.durable, layers.used, layers.draining, layers.damage, layers.applied, layers.diff_id, layers.size, layers.inodes, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id WHERE layers.parent = :id ORDER BY layers.id LIMIT :page OFFSET 0'
COUNT_CHILDREN: Final = 'SELECT count(*) AS count_1 FROM layers WHERE layers.parent = :id'
SELECT_ANCESTORS: Final = 'WITH RECURSIVE above(id, parent, step) AS (SELECT layers.id AS id, layers.parent AS parent, 0 AS step FROM layers WHERE layers.id = :id UNION ALL SELECT layers.id AS id, layers.parent AS parent, above.step + 1 AS anon_1 FROM layers, above WHERE layers.id = above.parent) SELECT layers.id, layers.link, layers.parent, layers.lower, layers.depth, layers.read_write, layers.committed, layers.labels, layers.storage_options, layers.mount_label, layers.created_at, layers.created_seq, layers.durable, layers.used, layers.draining, layers.damage, layers.applied, layers.diff_id, layers.size, layers.inodes, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id JOIN above ON above.id = layers.id WHERE above.step > 0 ORDER BY above.step'
SELECT_CHAIN_IDS: Final = 'WITH RECURSIVE above(id, parent, step) AS (SELECT layers.id AS id, layers.parent AS parent, 0 AS step FROM layers WHERE layers.id = :id UNION ALL SELECT layers.id AS id, layers.parent AS parent, above.step + 1 AS anon_1 FROM layers, above WHERE layers.id = above.parent) SELECT above.id FROM above WHERE above.step > 0 ORDER BY above.step'
SELECT_DESCENDANTS: Final = 'WITH RECURSIVE below(id) AS (SELECT layers.id AS id FROM layers WHERE layers.parent = :id UNION ALL SELECT layers.id AS id FROM layers, below WHERE layers.parent = below.id) SELECT layers.id, layers.link, layers.parent, layers.lower, layers.depth, layers.read_write, layers.committed, layers.labels, layers.storage_options, layers.mount_label, layers.created_at, layers.created_seq, layers.durable, layers.used, layers.draining, layers.damage, layers.applied, layers.diff_id, layers.size, layers.inodes, operations.verb FROM layers LEFT OUTER JOIN operations ON operations.layer = layers.id WHERE layers.id IN (SELECT below.id FROM below) ORDER BY layers.depth, layers.id'
DELETE_LAYER: Final = 'DELETE FROM layers WHERE layers.id = :id'
COMMIT_PARENT: Final = 'UPDATE layers SET committed=1, durable=CASE WHEN (:durable = 1) THEN 1 ELSE layers.durable END, used=1, draining=0 WHERE layers.id = :id AND (layers.committed = 0 OR layers.used = 0 OR layers.draining != 0 OR :durable = 1 AND layers.durable = 0)'
COMMIT_LAYER: Final = 'UPDATE layers SET committed=1, used=1 WHERE layers.id = :id'
CREATED_LAYER: Final = 'UPDATE layers SET created_at=:at, created_seq=:seq WHERE layers.id = :id'
MOUNT_LAYER: Final = 'UPDATE layers SET durable=CASE WHEN (:read_only = 1) THEN layers.durable ELSE 0 END, used=1, inodes=CASE WHEN (:read_only = 1) THEN layers.inodes ELSE NULL END WHERE layers.id = :id'
HOLD_LAYER: Final = 'UPDATE layers SET durable=CASE WHEN (layers.parent IS NULL AND layers.committed = 0) THEN 0 ELSE layers.durable END, used=1, inodes=CASE WHEN (layers.parent IS NULL) THEN NULL ELSE layers.inodes END WHERE layers.id = :id AND (layers.used = 0 OR layers.durable = 1 AND layers.parent IS NULL AND layers.committed = 0 OR layers.inodes IS NOT NULL AND layers.parent IS NULL)'
DRAIN_LAYER: Final = 'UPDATE layers SET draining=:draining WHERE layers.id = :id'
DAMAGE_LAYER: Final = 'UPDATE layers SET damage=:damage, inodes=NULL WHERE layers.id = :id'
APPLYING_LAYER: Final = 'UPDATE layers SET used=1, applied=1 WHERE layers.id = :id'
APPLIED_LAYER: Final = 'UPDATE layers SET durable=:durable, diff_id=:diff_id, size=:size, inodes=:inodes WHERE layers.id = :id'
FOUND_LAYER: Final = 'UPDATE layers SET link=:link, parent=:parent, lower=:lower, depth=:depth, read_write=:read_write, committed=:committed, labels=:labels, storage_options=:storage_options, damage=:damage, diff_id=:diff_id, size=:size WHERE layers.id = :id'
FORGET_INODES: Final = 'UPDATE layers SET inodes=NULL WHERE layers.inodes IS NOT NULL'
COUNT_LAYERS: Final = 'SELECT count(*) AS count_1, coalesce(sum(CAST(layers.damage IS NOT NULL AS INTEGER)), 0) AS coalesce_1 FROM layers'
SELECT_INDEX: Final = 'SELECT layers.id, layers.link, layers.parent, layers.lower, layers.damage, layers.committed, layers.draining FROM layers ORDER BY layers.depth, layers.id'
SELECT_LAYERS_BY_PREFIX: Final = 'SELECT layers.id FROM layers WHERE layers.id >= :low AND layers.id < :high ORDER BY layers.id LIMIT :page OFFSET 0'
TAKE_HOLD: Final = 'INSERT INTO holds (layer, holder, count, owner, since_at, since_seq) VALUES (:layer, :holder, 1, :owner, :since_at, :since_seq) ON CONFLICT (layer, holder) DO UPDATE SET count = (holds.count + 1)'
RELEASE_HOLD: Final = 'UPDATE holds SET count=(holds.count - 1) WHERE holds.layer = :layer AND holds.holder = :holder AND holds.count > 1'
END_HOLDS: Final = 'DELETE FROM holds WHERE holds.layer = :layer AND holds.holder = :holder'
END_HOLDS_OF: Final = 'DELETE FROM holds WHERE holds.holder = :holder'
END_HOLDS_ON: Final = 'DELETE FROM holds WHERE holds.layer = :layer'
SELECT_HOLD: Final = 'SELECT holds.count FROM holds WHERE holds.layer = :layer AND holds.holder = :holder'
SUM_HOLDS: Final = 'SELECT coalesce(sum(holds.count), 0) AS coalesce_1 FROM holds WHERE holds.layer = :layer'
COUNT_HOLDS: Final = 'SELECT coalesce(sum(holds.count), 0) AS coalesce_1 FROM holds'
SELECT_HOLDS: Final = 'SELECT holds.layer, holds.holder, holds.count, holds.owner, holds.since_at, holds.since_seq, owners.pid, owners.started, owners.boot_id, owners.mount_id, owners.command, owners.opened_at, owners.closed_at FROM holds LEFT OUTER JOIN owners ON owners.id = holds.owner ORDER BY holds.layer, holds.since_seq'
SELECT_HOLDS_ON: Final = 'SELECT holds.layer, holds.holder, holds.count, holds.owner, holds.since_at, holds.since_seq, owners.pid, owners.started, owners.boot_id, owners.mount_id, owners.command, owners.opened_at, owners.closed_at FROM holds LEFT OUTER JOIN owners ON owners.id = holds.owner WHERE holds.layer = :layer ORDER BY holds.since_seq'
SELECT_HELD_BY: Final = 'SELECT holds.layer, holds.count FROM holds WHERE holds.holder = :holder ORDER BY holds.layer'
INSERT_MOUNT: Final = 'INSERT INTO mounts (layer, read_only, mount_id, boot_id, since_at, since_seq) VALUES (:layer, :read_only, :mount_id, :boot_id, :since_at, :since_seq)'
DELETE_MOUNT: Final = 'DELETE FROM mounts WHERE mounts.layer = :layer'
SELECT_MOUNT: Final = 'SELECT mounts.layer, mounts.read_only, mounts.mount_id, mounts.boot_id, mounts.since_at, mounts.since_seq FROM mounts WHERE mounts.layer = :layer'
SELECT_MOUNTS: Final = 'SELECT mounts.layer, mounts.read_only, mounts.mount_id, mounts.boot_id, mounts.since_at, mounts.since_seq FROM mounts ORDER BY mounts.layer'
COUNT_MOUNTS: Final = 'SELECT count(*) AS count_1 FROM mounts'
SELECT_UNHELD_MOUNTS: Final = 'SELECT mounts.layer, mounts.read_only, mounts.mount_id, mounts.boot_id, mounts.since_at, mounts.since_seq FROM mounts WHERE NOT (EXISTS (SELECT * FROM holds WHERE holds.layer = mounts.layer)) ORDER BY mounts.layer'
INSERT_MANIFEST: Final = 'INSERT INTO manifests (layer, digest, files, bytes, since_at, since_seq) VALUES (:layer, :digest, :files, :bytes, :since_at, :since_seq)'
DELETE_MANIFEST: Final = 'DELETE FROM manifests WHERE manifests.layer = :layer'
SELECT_MANIFEST: Final = 'SELECT manifests.layer, manifests.digest, manifests.files, manifests.bytes, manifests.since_at, manifests.since_seq FROM manifests WHERE manifests.layer = :layer'
SELECT_MANIFESTS: Final = 'SELECT manifests.layer, manifests.digest, manifests.files, manifests.bytes, manifests.since_at, manifests.since_seq FROM manifests WHERE manifests.layer > :after ORDER BY manifests.layer LIMIT :page OFFSET 0'
INSERT_PROJECT: Final = 'INSERT INTO projects (id, layer, size, since_seq) VALUES (:id, :layer, :size, :since_seq)'
SELECT_PROJECT: Final = 'SELECT projects.id, projects.layer, projects.size, projects.since_seq FROM projects WHERE projects.layer = :layer'
SELECT_PROJECT_BY_ID: Final = 'SELECT projects.id, projects.layer, projects.size, projects.since_seq FROM projects WHERE projects.id = :id'
SELECT_GAP: Final = 'SELECT projects.id + 1 AS anon_1 FROM projects WHERE projects.id >= :first AND NOT (EXISTS (SELECT * FROM projects AS later WHERE later.id = projects.id + 1)) ORDER BY projects.id LIMIT 1 OFFSET 0'
MOVE_PROJECT: Final = 'UPDATE projects SET layer=:place WHERE projects.layer = :layer'
DELETE_PROJECT: Final = 'DELETE FROM projects WHERE projects.layer = :layer'
