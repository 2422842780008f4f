"""A machine whose workers serve an endpoint of a server elsewhere."""
