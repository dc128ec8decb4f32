"""Pages: tables, sentences and figures of runs, to send to somebody."""
