"""From a presented token to an identity, or the reason why not."""
