"""What Kernel Samepage Merging saves and costs: from experiment files to a page of figures."""
