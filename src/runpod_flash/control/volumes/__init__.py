"""Network volumes of a server: which there are, and the files in them."""
