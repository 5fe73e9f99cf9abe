"""Pictures of adapters and of results: singular values, memory, scores."""
