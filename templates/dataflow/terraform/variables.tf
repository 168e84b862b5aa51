variable "project" {
  description = "Project in which the job runs."
  type        = string
}

variable "region" {
  description = "Region of workers, bucket and images; the brokers' own is cheapest."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket for templates, staging and temporary files, BUCKET in templates/dataflow/settings."
  type        = string
}

variable "job_name" {
  description = "Name of the Dataflow job, JOB_NAME in templates/dataflow/settings."
  type        = string
  default     = "ami-beam"
}

variable "subnetwork_range" {
  description = "Addresses of the workers' subnetwork; one for each worker, and as many again while a job is updated."
  type        = string
  default     = "10.20.0.0/26"
}

variable "broker_ranges" {
  description = "Where the brokers are, such as the range of a Managed Service for Apache Kafka's subnetwork."
  type        = list(string)
}

variable "broker_ports" {
  description = "Ports of the brokers."
  type        = list(string)
  default     = ["9092"]
}

variable "managed_kafka" {
  description = "Whether the brokers are Google's Managed Service for Apache Kafka in this project."
  type        = bool
  default     = false
}

variable "operators" {
  description = "Who may launch and update jobs, such as group:ami-operators@example.com."
  type        = list(string)
  default     = []
}

variable "notify" {
  description = "Mail address that alert policies write to."
  type        = string
}

variable "watermark_age_seconds" {
  description = "How far the job's watermark may be behind the clock before somebody is told."
  type        = number
  default     = 1800
}
