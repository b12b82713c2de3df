"""Data: reads text, writes token windows and records, yields batches; knows files, not networks."""
