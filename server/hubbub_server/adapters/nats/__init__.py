"""JetStream and core NATS behind the ports: the topic log, accounts in KV, signals."""
