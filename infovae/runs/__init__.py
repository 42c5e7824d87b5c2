"""From configurations to stored numbers: the store, and the sweep that trains and evaluates what it lacks."""
