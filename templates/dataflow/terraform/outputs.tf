output "settings" {
  description = "For templates/dataflow/settings."
  value = {
    PROJECT        = var.project
    REGION         = var.region
    REPOSITORY     = google_artifact_registry_repository.ami_beam.repository_id
    BUCKET         = google_storage_bucket.ami_beam.name
    JOB_NAME       = var.job_name
    WORKER_ACCOUNT = google_service_account.worker.email
    SUBNETWORK     = "regions/${var.region}/subnetworks/${google_compute_subnetwork.workers.name}"
  }
}
