"""What the claim about text embeddings needs beside its arms: four tasks of pairs, one MiniLM."""
