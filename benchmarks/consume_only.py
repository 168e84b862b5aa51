"""The least that any Python consumer pays: confluent-kafka `consume()` of whole batches, and nothing else.

`python consume_only.py BOOTSTRAP TOPIC POINT...` prints a JSON line (reads, cpu_s, wall_s, rss_mb) each time as many
reads as a POINT says have been consumed, and ends after the last one.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from confluent_kafka import Consumer, KafkaException, TopicPartition


def main(bootstrap_servers: str, topic: str, points: list[int]) -> None:
    """Consume the topic from its beginning. Raises KafkaException when the broker reports an error."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "consume-only", "enable.auto.commit": "false"}
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
    count = 0
    for point in points:
        while count < point:
            batch = consumer.consume(5_000, timeout=1.0)
            if batch and (error := batch[-1].error()) is not None:
                raise KafkaException(error)
            count += len(batch)
        rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kB on Linux
        now = {"reads": count, "cpu_s": time.process_time(), "wall_s": time.monotonic(), "rss_mb": rss_mb}
        print(json.dumps(now), flush=True)
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], [int(each) for each in sys.argv[3:]])
