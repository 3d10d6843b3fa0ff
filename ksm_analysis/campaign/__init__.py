"""Launch, show and resume experiments."""
