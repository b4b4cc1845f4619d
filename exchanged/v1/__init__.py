"""Generated from proto/exchanged/v1; never edited."""
