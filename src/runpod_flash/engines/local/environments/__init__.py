"""Environments: what workers run in. Resolved and installed by uv, addressed by content, shared."""
