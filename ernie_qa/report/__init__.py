"""What a run is shown as: a table in the terminal, files in a directory."""
