"""What workers do with each shard: the roles (projector, relay, state) over durable consumers, and the trimmer."""
