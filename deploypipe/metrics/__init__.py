"""What is measured and where it is read: sufficient statistics per arm and window, never ready-made percentages."""
