"""Fixtures of the service tests."""

from disks.tests.services.catalog import either_format, tmp_path

__all__ = ["either_format", "tmp_path"]
