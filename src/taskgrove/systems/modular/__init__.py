"""Pictures of several kinds for one vision model of experts; the model and its training."""
