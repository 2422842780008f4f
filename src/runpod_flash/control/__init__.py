"""What a server knows besides jobs."""
