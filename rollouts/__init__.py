"""What runs where with how much traffic."""
