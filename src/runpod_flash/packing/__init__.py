"""From a project to what is deployed: its files, locked packages, and those that it brings."""
