"""Curation: row-wise steps over documents, deduplication and quality, each with its configuration."""
