"""What the application needs from outside, in its own words: Protocols, values and errors."""
