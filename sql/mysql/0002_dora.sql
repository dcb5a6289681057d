-- Delivery metrics. All times are UTC, with milliseconds. Names are compared byte by byte.

-- phases of cycles; service and team are read from the metadata, for the report's filters
CREATE TABLE IF NOT EXISTS dora_metrics (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  cycle_id VARCHAR(100) NOT NULL,
  feature_id VARCHAR(100) NOT NULL,
  phase_name ENUM('planning', 'testing', 'deployment', 'maintenance') NOT NULL,
  decision ENUM('go', 'no-go', 'review', 'blocked', 'success', 'failed') NOT NULL,
  duration_seconds DECIMAL(10,2) NOT NULL,
  metadata JSON NOT NULL,
  created_at DATETIME(3) NOT NULL,
  service VARCHAR(100) GENERATED ALWAYS AS
    (COALESCE(LEFT(JSON_UNQUOTE(JSON_EXTRACT(metadata, '$.service')), 100), '')) STORED,
  team VARCHAR(100) GENERATED ALWAYS AS
    (COALESCE(LEFT(JSON_UNQUOTE(JSON_EXTRACT(metadata, '$.team')), 100), '')) STORED,
  UNIQUE KEY dora_metrics_key (cycle_id, phase_name, created_at),
  -- all that it takes to tell when cycles began
  KEY dora_metrics_cycle (cycle_id, created_at, duration_seconds),
  KEY dora_metrics_phase (phase_name),
  KEY dora_metrics_feature (feature_id),
  KEY dora_metrics_created (created_at),
  KEY dora_metrics_phase_created (phase_name, created_at),
  KEY dora_metrics_service_created (service, created_at),
  KEY dora_metrics_team_created (team, created_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dora_deployments (
  id VARCHAR(100) NOT NULL PRIMARY KEY,
  cycle_id VARCHAR(100) NULL,
  service VARCHAR(100) NOT NULL,
  team VARCHAR(100) NOT NULL,
  version VARCHAR(100) NOT NULL,
  deployed_at DATETIME(3) NOT NULL,
  succeeded BOOLEAN NOT NULL,
  rework BOOLEAN NOT NULL,
  metadata JSON NOT NULL,
  KEY dora_deployments_cycle (cycle_id),
  KEY dora_deployments_deployed (deployed_at),
  KEY dora_deployments_service_deployed (service, deployed_at),
  KEY dora_deployments_team_deployed (team, deployed_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- what a deployment brought
CREATE TABLE IF NOT EXISTS dora_changes (
  deployment_id VARCHAR(100) NOT NULL,
  id VARCHAR(100) NOT NULL,
  committed_at DATETIME(3) NOT NULL,
  PRIMARY KEY (deployment_id, id)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- deployment_id may name a deployment that is told later
CREATE TABLE IF NOT EXISTS dora_incidents (
  id VARCHAR(100) NOT NULL PRIMARY KEY,
  service VARCHAR(100) NOT NULL,
  team VARCHAR(100) NOT NULL,
  deployment_id VARCHAR(100) NULL,
  summary TEXT NOT NULL,
  opened_at DATETIME(3) NOT NULL,
  closed_at DATETIME(3) NULL,
  metadata JSON NOT NULL,
  KEY dora_incidents_deployment (deployment_id),
  KEY dora_incidents_opened (opened_at),
  KEY dora_incidents_service_opened (service, opened_at),
  KEY dora_incidents_team_opened (team, opened_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS dora_pdca (
  id VARCHAR(100) NOT NULL PRIMARY KEY,
  metric VARCHAR(100) NOT NULL,
  proposal TEXT NOT NULL,
  service VARCHAR(100) NOT NULL,
  team VARCHAR(100) NOT NULL,
  baseline JSON NOT NULL,
  window_days INT UNSIGNED NOT NULL,
  status ENUM('proposed', 'applied_for_check', 'adopted', 'watching', 'reverted') NOT NULL,
  created_at DATETIME(3) NOT NULL,
  applied_at DATETIME(3) NULL,
  checked_at DATETIME(3) NULL,
  result JSON NOT NULL,
  KEY dora_pdca_created (created_at)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
