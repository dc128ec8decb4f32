from tiny_runs import corpus_file, make_config, one_thread

__all__ = ["corpus_file", "make_config", "one_thread"]
