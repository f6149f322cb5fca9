"""Capsules: what a published recipe is and gives, in one file, and installs checked against it."""
