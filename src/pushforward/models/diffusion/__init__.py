"""Models that turn noise into records step by step."""
