"""The sub-commands that the server adds to `hubbub`: up, node, worker."""
