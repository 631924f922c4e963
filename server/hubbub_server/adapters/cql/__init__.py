"""The store of a cluster: read models in ScyllaDB or Apache Cassandra, by CQL."""
