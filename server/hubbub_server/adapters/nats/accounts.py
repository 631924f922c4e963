"""AccountStore and DeviceSessionStore on JetStream KV: a key a document, create and update by compare-and-set.

Single documents are read from the leader, so what one node wrote another one reads. Many profiles are read with direct
gets, checked as heads of topics are.
"""
