"""From corpora to batches: sources, cleaning, token shards, packing, loading, preference pairs."""
