"""The pure part: values, rules and encodings, with no I/O and no event loop."""
