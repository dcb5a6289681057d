-- Delivery metrics, as in sql/mysql. Times are milliseconds since 1970.
CREATE TABLE IF NOT EXISTS dora_metrics (
  id INTEGER PRIMARY KEY,
  cycle_id TEXT NOT NULL,
  feature_id TEXT NOT NULL,
  phase_name TEXT NOT NULL
    CHECK (phase_name IN ('planning', 'testing', 'deployment', 'maintenance')),
  decision TEXT NOT NULL
    CHECK (decision IN ('go', 'no-go', 'review', 'blocked', 'success', 'failed')),
  duration_seconds REAL NOT NULL,
  metadata TEXT NOT NULL CHECK (json_valid(metadata)),
  created_at INTEGER NOT NULL,
  service TEXT GENERATED ALWAYS AS (coalesce(json_extract(metadata, '$.service'), '')) STORED,
  team TEXT GENERATED ALWAYS AS (coalesce(json_extract(metadata, '$.team'), '')) STORED,
  UNIQUE (cycle_id, phase_name, created_at)
);
CREATE INDEX IF NOT EXISTS dora_metrics_cycle
  ON dora_metrics (cycle_id, created_at, duration_seconds);
CREATE INDEX IF NOT EXISTS dora_metrics_phase ON dora_metrics (phase_name);
CREATE INDEX IF NOT EXISTS dora_metrics_feature ON dora_metrics (feature_id);
CREATE INDEX IF NOT EXISTS dora_metrics_created ON dora_metrics (created_at);
CREATE INDEX IF NOT EXISTS dora_metrics_phase_created ON dora_metrics (phase_name, created_at);
CREATE INDEX IF NOT EXISTS dora_metrics_service_created ON dora_metrics (service, created_at);
CREATE INDEX IF NOT EXISTS dora_metrics_team_created ON dora_metrics (team, created_at);

CREATE TABLE IF NOT EXISTS dora_deployments (
  id TEXT NOT NULL PRIMARY KEY,
  cycle_id TEXT,
  service TEXT NOT NULL,
  team TEXT NOT NULL,
  version TEXT NOT NULL,
  deployed_at INTEGER NOT NULL,
  succeeded INTEGER NOT NULL,
  rework INTEGER NOT NULL,
  metadata TEXT NOT NULL CHECK (json_valid(metadata))
) STRICT;
CREATE INDEX IF NOT EXISTS dora_deployments_cycle ON dora_deployments (cycle_id);
CREATE INDEX IF NOT EXISTS dora_deployments_deployed ON dora_deployments (deployed_at);
CREATE INDEX IF NOT EXISTS dora_deployments_service_deployed
  ON dora_deployments (service, deployed_at);
CREATE INDEX IF NOT EXISTS dora_deployments_team_deployed ON dora_deployments (team, deployed_at);

CREATE TABLE IF NOT EXISTS dora_changes (
  deployment_id TEXT NOT NULL,
  id TEXT NOT NULL,
  committed_at INTEGER NOT NULL,
  PRIMARY KEY (deployment_id, id)
) STRICT;

CREATE TABLE IF NOT EXISTS dora_incidents (
  id TEXT NOT NULL PRIMARY KEY,
  service TEXT NOT NULL,
  team TEXT NOT NULL,
  deployment_id TEXT,
  summary TEXT NOT NULL,
  opened_at INTEGER NOT NULL,
  closed_at INTEGER,
  metadata TEXT NOT NULL CHECK (json_valid(metadata))
) STRICT;
CREATE INDEX IF NOT EXISTS dora_incidents_deployment ON dora_incidents (deployment_id);
CREATE INDEX IF NOT EXISTS dora_incidents_opened ON dora_incidents (opened_at);
CREATE INDEX IF NOT EXISTS dora_incidents_service_opened ON dora_incidents (service, opened_at);
CREATE INDEX IF NOT EXISTS dora_incidents_team_opened ON dora_incidents (team, opened_at);

CREATE TABLE IF NOT EXISTS dora_pdca (
  id TEXT NOT NULL PRIMARY KEY,
  metric TEXT NOT NULL,
  proposal TEXT NOT NULL,
  service TEXT NOT NULL,
  team TEXT NOT NULL,
  baseline TEXT NOT NULL CHECK (json_valid(baseline)),
  window_days INTEGER NOT NULL,
  status TEXT NOT NULL
    CHECK (status IN ('proposed', 'applied_for_check', 'adopted', 'watching', 'reverted')),
  created_at INTEGER NOT NULL,
  applied_at INTEGER,
  checked_at INTEGER,
  result TEXT NOT NULL CHECK (json_valid(result))
) STRICT;
CREATE INDEX IF NOT EXISTS dora_pdca_created ON dora_pdca (created_at);
