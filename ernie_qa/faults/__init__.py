"""Damage done on purpose, so that a rung can show that it sees it."""
