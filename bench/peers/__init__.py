"""The Python peers, as their documentation has them."""
