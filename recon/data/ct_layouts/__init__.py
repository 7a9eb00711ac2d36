"""Readers of CT files of other layouts, one file each: a detector, and a function that opens the file."""
