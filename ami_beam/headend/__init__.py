"""A head-end's HTTP API as a source of reads and events: polled, mapped, published to Kafka exactly once."""
