"""gradlab inside other trainers and loggers; each module needs the extra of its name."""
