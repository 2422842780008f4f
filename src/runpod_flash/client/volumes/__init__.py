"""Volumes of a server, as programs of its users see them."""
