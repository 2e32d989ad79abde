"""What a run shows: console, TensorBoard, metrics.jsonl, tables."""
