"""Statistics, settings, comparisons, and the conclusions from them."""
