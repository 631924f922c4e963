"""What the application needs from the outside world, as Protocols in its own words."""
