"""What workers do with each shard: the roles (projector, relay, state) over the log, and the trimmer."""
