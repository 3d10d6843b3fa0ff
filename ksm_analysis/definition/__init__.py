"""What may be asked for, and the plan that is made of it."""
