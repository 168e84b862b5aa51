"""Results beside those of every run, for other consumers than operations: their names, and the topics they go to."""

from __future__ import annotations

FEEDER_SUMMARY = "feeder_summary"
VOLTAGE_HEATMAP = "voltage_heatmap"
FEEDER_TOPIC = "ami.feeder.summary"
HEATMAP_TOPIC = "ami.voltage.heatmap"
VALIDATED_READS = "validated_reads"
CUSTOMER_CONSUMPTION = "customer_consumption"
VALIDATED_TOPIC = "ami.reads.validated"
CUSTOMER_TOPIC = "ami.customer.consumption"
OPTIONAL_TOPICS = {
    FEEDER_SUMMARY: FEEDER_TOPIC,
    VOLTAGE_HEATMAP: HEATMAP_TOPIC,
    VALIDATED_READS: VALIDATED_TOPIC,
    CUSTOMER_CONSUMPTION: CUSTOMER_TOPIC,
}
"""What the pipeline writes where --also_publish names it, and where to."""
