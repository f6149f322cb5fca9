"""How the miniature is made: its world (`posters`), its networks, and the stages of its training."""
