"""Models trained as a game."""
