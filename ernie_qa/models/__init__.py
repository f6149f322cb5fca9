"""Models: where one comes from, and the miniature that is shipped."""
