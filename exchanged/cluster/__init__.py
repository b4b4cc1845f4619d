"""How clusters come to honour a grant, and cease to."""
