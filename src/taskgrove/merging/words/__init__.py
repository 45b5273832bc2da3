"""Vocabularies that differ: which row belongs to which token, and the tokenizer of a union."""
