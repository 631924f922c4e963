"""The hubbub server: nodes and workers of the chat backend."""
