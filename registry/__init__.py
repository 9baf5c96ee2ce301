"""What exists, and whether it may be deployed."""
