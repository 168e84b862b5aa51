# Who is told when, and what there is to see. Metrics are Dataflow's own; those of ami-beam are its user counters.

locals {
  job     = "resource.type = \"dataflow_job\" AND resource.labels.job_name = \"${var.job_name}\""
  counter = "dataflow_googleapis_com:job_user_counter"
  runbook = "See docs/operations.md and docs/runbook in the checkout of ami-beam."
}

resource "google_monitoring_notification_channel" "mail" {
  display_name = "ami-beam"
  type         = "email"
  labels = {
    email_address = var.notify
  }
}

resource "google_monitoring_alert_policy" "failed" {
  display_name          = "ami-beam: job failed"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = [google_monitoring_notification_channel.mail.id]

  conditions {
    display_name = "The job has failed"
    condition_threshold {
      filter          = "metric.type = \"dataflow.googleapis.com/job/is_failed\" AND ${local.job}"
      comparison      = "COMPARISON_GT"
      threshold_value = 0
      duration        = "0s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "No alerts are published any more. Launch the job again with templates/dataflow/run --start=TIME, from before the failure. ${local.runbook}"
  }
}

resource "google_monitoring_alert_policy" "gone" {
  display_name          = "ami-beam: no job"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = [google_monitoring_notification_channel.mail.id]

  conditions {
    display_name = "Nothing was heard of the job for 10 minutes"
    condition_absent {
      filter   = "metric.type = \"dataflow.googleapis.com/job/data_watermark_age\" AND ${local.job}"
      duration = "600s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "Cancelled, drained or never launched. ${local.runbook}"
  }
}

resource "google_monitoring_alert_policy" "watermark" {
  display_name          = "ami-beam: behind"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = [google_monitoring_notification_channel.mail.id]

  conditions {
    display_name = "The watermark is too far behind the clock"
    condition_threshold {
      filter          = "metric.type = \"dataflow.googleapis.com/job/data_watermark_age\" AND ${local.job}"
      comparison      = "COMPARISON_GT"
      threshold_value = var.watermark_age_seconds
      duration        = "300s"
      aggregations {
        alignment_period   = "60s"
        per_series_aligner = "ALIGN_MAX"
      }
    }
  }
  documentation {
    content = "Results come late: too few workers (--max-workers), a slow broker, or a partition without records. ${local.runbook}"
  }
}

# User counters are gauges, which grow as long as the job lives: what they grew by is asked for in PromQL.
resource "google_monitoring_alert_policy" "reads" {
  display_name          = "ami-beam: no reads"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = [google_monitoring_notification_channel.mail.id]

  conditions {
    display_name = "No read was accepted for 30 minutes"
    condition_prometheus_query_language {
      query               = "sum(delta(${local.counter}{job_name=\"${var.job_name}\",metric_name=\"accepted_reads\"}[30m])) <= 0"
      duration            = "300s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "The head-end is silent, or Kafka is out of reach. ${local.runbook}"
  }
}

resource "google_monitoring_alert_policy" "dead_letters" {
  display_name          = "ami-beam: dead letters"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = [google_monitoring_notification_channel.mail.id]

  conditions {
    display_name = "More than 1 % of the records of 15 minutes are dead letters"
    condition_prometheus_query_language {
      query               = "sum(delta(${local.counter}{job_name=\"${var.job_name}\",metric_name=~\"dead_letter_.+\"}[15m])) > 0.01 * sum(delta(${local.counter}{job_name=\"${var.job_name}\",metric_name=~\"accepted_(reads|events)|dead_letter_.+\"}[15m]))"
      duration            = "0s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "The reason is in the topic ami.deadletter. ${local.runbook}"
  }
}

resource "google_monitoring_alert_policy" "counts" {
  display_name          = "ami-beam: reference data not loading"
  combiner              = "OR"
  severity              = "WARNING"
  notification_channels = [google_monitoring_notification_channel.mail.id]

  conditions {
    display_name = "Meter counts, meter registry or producers are refused"
    condition_prometheus_query_language {
      query               = "sum(delta(${local.counter}{job_name=\"${var.job_name}\",metric_name=~\"(meter_counts|meter_registry|producers)_load_failed\"}[15m])) > 0"
      duration            = "0s"
      evaluation_interval = "60s"
    }
  }
  documentation {
    content = "The last good ones stay in use. The worker log says which row is wrong. ${local.runbook}"
  }
}

resource "google_monitoring_dashboard" "ami_beam" {
  dashboard_json = jsonencode({
    displayName = "ami-beam"
    gridLayout = {
      columns = 2
      widgets = [
        for title, metric in {
          "Watermark behind the clock, s"    = "job/data_watermark_age"
          "Longest wait for processing, s"   = "job/system_lag"
          "vCPUs"                            = "job/current_num_vcpus"
          "Failed"                           = "job/is_failed"
          "Counters of ami-beam, by name"    = "job/user_counter"
          "Elements a step has put out, 1/s" = "job/elements_produced_count"
          } : {
          title = title
          xyChart = {
            dataSets = [{
              plotType = "LINE"
              timeSeriesQuery = {
                timeSeriesFilter = {
                  filter = "metric.type = \"dataflow.googleapis.com/${metric}\" AND ${local.job}"
                  aggregation = {
                    alignmentPeriod    = "60s"
                    perSeriesAligner   = metric == "job/elements_produced_count" ? "ALIGN_RATE" : "ALIGN_MAX"
                    crossSeriesReducer = "REDUCE_MAX"
                    groupByFields      = metric == "job/user_counter" ? ["metric.label.metric_name"] : metric == "job/elements_produced_count" ? ["metric.label.ptransform"] : []
                  }
                }
              }
            }]
          }
        }
      ]
    }
  })
}
