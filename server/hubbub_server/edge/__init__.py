"""The stream edge: gRPC over HTTP/2 on nghttp2, for the streaming methods only.

It serves the same calls with the same layers as `rpc/` (`rpc.streaming_calls`) and drives the same sessions
(`app.streams`); what differs is what a delivery costs. `http2.py` alone knows ngh2.
"""
