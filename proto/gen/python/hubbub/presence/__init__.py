"""Generated from proto/hubbub by `make gen`. Do not edit."""
