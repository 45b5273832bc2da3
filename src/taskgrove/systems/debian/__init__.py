"""What the claims about merging share: MiniLM in two halves, Debian tasks, a fine-tune each."""
