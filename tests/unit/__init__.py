"""Pure tests: no network, no sleep."""
