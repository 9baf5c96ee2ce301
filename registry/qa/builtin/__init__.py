"""The checks that come with the product, one module per category."""
