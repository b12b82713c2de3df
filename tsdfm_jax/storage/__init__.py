"""Files on disk that are whole or absent, checksums, and errors of a full disk; every other package may use it."""
