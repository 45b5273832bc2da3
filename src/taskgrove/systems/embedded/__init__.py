"""The library's own models on the embedded pictures, for claims about merging."""
