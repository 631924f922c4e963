"""Use cases: active topics, group commit, sessions, sync and reads. Knows ports, no technology."""
