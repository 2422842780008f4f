"""Logging in: OAuth 2.0, and the pages on which a person allows it."""
