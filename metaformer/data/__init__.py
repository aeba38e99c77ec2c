"""From records on disk to batches: data sets, order, targets, loading."""
