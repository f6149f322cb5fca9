"""How far pictures are from what they should be: pure functions, and the weights that LPIPS needs."""
