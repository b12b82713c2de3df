"""Files on disk that are whole or absent, checksums, and what a full disk says; under every other room."""
