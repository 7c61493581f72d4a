-- The jobs. `document` is the whole job as JSON and comes last: what is searched for stands before
-- it, so that no search reads documents. A running job without a token is held by nobody.
CREATE TABLE jobs (
  id TEXT PRIMARY KEY,
  tenant TEXT NOT NULL,
  status TEXT NOT NULL,
  priority INTEGER NOT NULL,
  created_at REAL NOT NULL,
  finished_at REAL,
  expires_at REAL,
  images INTEGER NOT NULL,
  work_us INTEGER NOT NULL,
  num_bytes INTEGER NOT NULL,
  idempotency_key TEXT,
  pending_action TEXT,
  last_event INTEGER NOT NULL,
  holder TEXT,
  token TEXT,
  renewals INTEGER NOT NULL DEFAULT 0,
  lease_s REAL NOT NULL DEFAULT 0,
  passed_over INTEGER NOT NULL DEFAULT 0,
  last_update TEXT,
  document TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_of_owner ON jobs (tenant, created_at, id, status);
CREATE UNIQUE INDEX jobs_by_key ON jobs (tenant, idempotency_key)
  WHERE idempotency_key IS NOT NULL;
CREATE INDEX jobs_queued ON jobs (priority, tenant, created_at, id, images, work_us)
  WHERE status = 'queued';
CREATE INDEX jobs_running ON jobs (id) WHERE status = 'running';
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX jobs_with_files ON jobs (tenant, finished_at, id, num_bytes)
  WHERE finished_at IS NOT NULL AND num_bytes > 0;

-- Events are numbered from 1 in each job, without gaps.
CREATE TABLE events (
  job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
  number INTEGER NOT NULL,
  type TEXT NOT NULL,
  at REAL NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

-- What a runner has kept of images that are not finished.
CREATE TABLE parts (
  job_id TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
  image INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (job_id, image)
) STRICT;

-- Sums over each tenant's jobs, and its turn (lanes.py); no row without a job.
CREATE TABLE tenants (
  tenant TEXT PRIMARY KEY,
  running INTEGER NOT NULL DEFAULT 0,
  turn INTEGER NOT NULL,
  num_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX tenants_by_bytes ON tenants (num_bytes);

-- Sums over queued jobs by priority and tenant; no row without a job. `running` and `turn` are the
-- tenant's, here for the index.
CREATE TABLE lanes (
  priority INTEGER NOT NULL,
  tenant TEXT NOT NULL,
  jobs INTEGER NOT NULL,
  work_us INTEGER NOT NULL,
  running INTEGER NOT NULL,
  turn INTEGER NOT NULL,
  PRIMARY KEY (priority, tenant)
) STRICT, WITHOUT ROWID;
CREATE INDEX lanes_in_turn ON lanes (priority DESC, running, turn, tenant);
CREATE INDEX lanes_of_tenant ON lanes (tenant, priority);

CREATE TABLE turns (last INTEGER NOT NULL) STRICT;
INSERT INTO turns VALUES (0);

-- What the cursors of lists are signed with.
CREATE TABLE secrets (value BLOB NOT NULL) STRICT;
INSERT INTO secrets VALUES (randomblob(32));

-- `job` is the document of a job that is gone while its message still waits.
CREATE TABLE deliveries (
  id TEXT PRIMARY KEY,
  job_id TEXT NOT NULL,
  tenant TEXT NOT NULL,
  url TEXT NOT NULL,
  created_at REAL NOT NULL,
  next_at REAL NOT NULL,
  status TEXT NOT NULL,
  attempts INTEGER NOT NULL,
  last_error TEXT,
  last_status INTEGER,
  job TEXT
) STRICT;
CREATE INDEX deliveries_due ON deliveries (next_at) WHERE status = 'waiting';
CREATE INDEX deliveries_of_owner ON deliveries (tenant, created_at, id, status);
CREATE INDEX deliveries_of_job ON deliveries (job_id);
