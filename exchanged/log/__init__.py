"""The append-only record of what was asked, decided, made and ended."""
