"""The static methods, one file each, and what they share; `table` lists them."""
