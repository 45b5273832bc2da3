"""What a task is: where its rows come from, what the model reads and predicts, how it is split."""
