"""Several processes that train one model: their readings and shards."""
