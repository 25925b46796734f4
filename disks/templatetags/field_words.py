"""Words for the fields of headers; one wording for the card, the trace and the plans."""

from __future__ import annotations

SOURCES = {
    "W2ru": "Relative Windows path",
    "W2ku": "Absolute Windows path",
    "Wi2r": "Relative path, old form",
    "Wi2k": "Absolute path, old form",
    "MacX": "File address",
    "Mac ": "Mac OS alias",
    "relative_path": "Relative Windows path",
    "volume_path": "Path below a volume's GUID",
    "absolute_win32_path": "Absolute Windows path",
    "parent_linkage": "Parent's DataWriteGuid",
    "parent_linkage2": "Second DataWriteGuid, unused",
    "name": "Parent name in the header",
    "beside": "Its file name, in the child's folder",
    "identity": "Search by identity",
}
_FIELDS = {
    "parent_unique_id": "Parent identity",
    "parent_unicode_name": "Parent name",
    "parent_timestamp": "Parent time stamp",
    "current_size": "Virtual size",
    "cylinders": "Cylinders",
    "heads": "Heads",
    "sectors_per_track": "Sectors per track",
    "creator_version": "Version of the creator",
    "max_table_entries": "Entries of the block table",
    "table_offset": "Where the block table lies",
    "block_allocation_table": "Room of the block table",
    "virtual_disk_size": "Virtual size",
    "data_write_guid": "Identity",
    "file_write_guid": "Mark of the last write",
    "tdbatmap": "blktap's map of full blocks",
}
_LOCATOR = "parent_locator "


def field_words(field: str) -> tuple[str, str]:
    """A plan's field in words, and the format's own name for it ("" where that is all there is)."""
    if field.startswith(_LOCATOR):
        code = field.removeprefix(_LOCATOR)
        words = SOURCES.get(code) or SOURCES.get(code.ljust(4))
        return words or "Parent locator of an unknown kind", code
    if field in _FIELDS:
        return _FIELDS[field], field
    if field in SOURCES:  # a VHDX's keys are fields of their own
        return SOURCES[field], field
    return field, ""
