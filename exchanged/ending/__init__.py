"""How grants end, and what ends them: nobody has to ask."""
