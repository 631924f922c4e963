"""The grpc.aio edge: thin servicers and interceptors."""
