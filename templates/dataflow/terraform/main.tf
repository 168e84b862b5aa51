# What a job needs: APIs, a network without a way in, a bucket, a place for images, a secret, and an identity that may
# do no more than that.

locals {
  services = [
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
  ]
}

resource "google_project_service" "needed" {
  for_each           = toset(local.services)
  service            = each.value
  disable_on_destroy = false
}

# --- network ----------------------------------------------------------------------------------------------------------

resource "google_compute_network" "ami_beam" {
  name                    = "ami-beam"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.needed]
}

resource "google_compute_subnetwork" "workers" {
  name          = "ami-beam"
  network       = google_compute_network.ami_beam.id
  region        = var.region
  ip_cidr_range = var.subnetwork_range
  # Workers have no public addresses, and reach Google's APIs by this.
  private_ip_google_access = true
}

# Dataflow's workers talk to each other on these ports; nobody else may talk to them.
resource "google_compute_firewall" "workers" {
  name        = "ami-beam-workers"
  network     = google_compute_network.ami_beam.id
  source_tags = ["dataflow"]
  target_tags = ["dataflow"]

  allow {
    protocol = "tcp"
    ports    = ["12345-12346"]
  }
}

resource "google_compute_firewall" "brokers" {
  name               = "ami-beam-brokers"
  network            = google_compute_network.ami_beam.id
  direction          = "EGRESS"
  destination_ranges = var.broker_ranges
  target_tags        = ["dataflow"]

  allow {
    protocol = "tcp"
    ports    = var.broker_ports
  }
}

# --- files, images, secrets -------------------------------------------------------------------------------------------

resource "google_storage_bucket" "ami_beam" {
  name                        = var.bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  depends_on                  = [google_project_service.needed]

  # Beam warns of it: temporary files would be kept, and paid for, a week longer.
  soft_delete_policy {
    retention_duration_seconds = 0
  }

  # What a launch stages is needed as long as its job runs: no rule for staging/.
  lifecycle_rule {
    condition {
      age            = 7
      matches_prefix = ["temp/"]
    }
    action {
      type = "Delete"
    }
  }
}

resource "google_artifact_registry_repository" "ami_beam" {
  repository_id = "ami-beam"
  location      = var.region
  format        = "DOCKER"
  depends_on    = [google_project_service.needed]
}

# Its content comes by `gcloud secrets versions add`, and never through Terraform, whose state others can read.
resource "google_secret_manager_secret" "kafka" {
  secret_id  = "ami-beam-kafka"
  depends_on = [google_project_service.needed]

  replication {
    user_managed {
      replicas {
        location = var.region
      }
    }
  }
}

# --- identities -------------------------------------------------------------------------------------------------------

resource "google_service_account" "worker" {
  account_id   = "ami-beam-worker"
  display_name = "Launcher and workers of ami-beam on Dataflow"
}

resource "google_project_iam_member" "worker" {
  project = var.project
  role    = "roles/dataflow.worker"
  member  = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "worker" {
  bucket = google_storage_bucket.ami_beam.name
  role   = "roles/storage.objectAdmin"
  member = google_service_account.worker.member
}

# A launch looks at the buckets of its staging and temporary files.
resource "google_storage_bucket_iam_member" "worker_bucket" {
  bucket = google_storage_bucket.ami_beam.name
  role   = "roles/storage.legacyBucketReader"
  member = google_service_account.worker.member
}

resource "google_artifact_registry_repository_iam_member" "worker" {
  repository = google_artifact_registry_repository.ami_beam.name
  location   = var.region
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.worker.member
}

resource "google_secret_manager_secret_iam_member" "worker" {
  secret_id = google_secret_manager_secret.kafka.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.worker.member
}

resource "google_project_iam_member" "worker_kafka" {
  count   = var.managed_kafka ? 1 : 0
  project = var.project
  role    = "roles/managedkafka.client"
  member  = google_service_account.worker.member
}

resource "google_project_iam_member" "operator" {
  for_each = toset(var.operators)
  project  = var.project
  role     = "roles/dataflow.developer"
  member   = each.value
}

resource "google_service_account_iam_member" "operator" {
  for_each           = toset(var.operators)
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value
}

resource "google_storage_bucket_iam_member" "operator" {
  for_each = toset(var.operators)
  bucket   = google_storage_bucket.ami_beam.name
  role     = "roles/storage.objectUser"
  member   = each.value
}
