"""The contract as a document: lint, comments, and what proto/README.md must explain."""
