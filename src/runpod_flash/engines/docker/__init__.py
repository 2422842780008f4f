"""Workers as containers, of any engine that speaks Docker's API."""
