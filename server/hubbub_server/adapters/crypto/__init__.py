"""Password hashes (argon2id) and signed access tokens (JWT)."""
