-- From version 1 of the schema to 2.
ALTER TABLE jobs ADD COLUMN passed_over INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN last_update TEXT;

-- Deliveries outlive their jobs.
DROP INDEX deliveries_due;
DROP INDEX deliveries_of_owner;
DROP INDEX deliveries_of_job;
ALTER TABLE deliveries RENAME TO deliveries_1;
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
INSERT INTO deliveries SELECT id, job_id, tenant, url, created_at, next_at, status, attempts,
  last_error, last_status, NULL FROM deliveries_1;
DROP TABLE deliveries_1;
