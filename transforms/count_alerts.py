"""The metric of published alerts, one counter a type and status."""

from __future__ import annotations

from apache_beam.metrics import Metrics

from transforms.decode_reads import METRICS


def count_alert(alert_type: str, status: str) -> None:
    """Counts one published alert as `alerts_<TYPE>_<STATUS>`."""
    Metrics.counter(METRICS, f"alerts_{alert_type}_{status}").inc()
