"""From photographs to training batches: pictures, detection, alignment, records, pipelines."""
