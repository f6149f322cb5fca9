"""Many recipes of one file: a grid is expanded to arms, they run, and the best of them are told."""
