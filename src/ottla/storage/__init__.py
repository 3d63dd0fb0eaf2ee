"""One partition's log on one disk, in Apache Kafka's file formats. Has never heard of a network."""
