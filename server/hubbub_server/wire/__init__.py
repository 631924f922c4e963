"""Events, frames and values to protobuf bytes and back; errors to google.rpc.Status."""
