"""The chaos runner: workers under load on Apache Kafka, with faults injected, and every topic read back afterwards."""
