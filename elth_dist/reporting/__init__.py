"""The output of a run: console, TensorBoard, metrics.jsonl, tables."""
