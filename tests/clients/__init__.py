"""Programs of other people's libraries that have their tokens from exchanged."""
