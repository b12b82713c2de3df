"""The data room: text in, batches out; it knows files, not networks."""
