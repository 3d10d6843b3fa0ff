"""One launch of an experiment: started, shown, resumed."""
