"""Statistics, settings, comparisons and what follows from them."""
