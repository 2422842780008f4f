"""What workers write: kept on disk within a bound, and handed to whoever follows."""
