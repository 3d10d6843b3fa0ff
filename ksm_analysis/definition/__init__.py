"""Experiment definitions: what they may contain, and the plan that is made from them."""
