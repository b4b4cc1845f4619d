"""An exchange from end to end, for a person to watch."""
