"""The ASGI application in front of a plane."""
