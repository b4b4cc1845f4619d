"""The daemon's own signing keys and certificates."""
