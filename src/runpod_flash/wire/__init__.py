"""What travels between a caller, a plane and a worker. Standard library only; imports no room."""
