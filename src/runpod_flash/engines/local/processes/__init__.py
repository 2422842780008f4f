"""Worker processes: how they start, and how nothing of them is ever left over."""
