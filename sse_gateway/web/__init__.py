"""HTTP: routes, who is asking, and turning refusals into honest JSON."""
