"""Verbs on disks in folders, with locks, journals and trash; no Django. A map of the rooms:

merge            merge_plan, merge (by copy), merge_into and merge_in_place/, merge_again;
                 concerned and family (whom it would ruin), stranded (in the trash); pile/
compact          compact_plan, compact_in_place, compact_rewrite; verdicts (why a block stays)
parent links     candidates, pairing, links, link_changes, relink
move, copy, delete   relocation_plan, relocating, move, copy_chain, delete, file_copy; trash/
new disks        create, convert, new_copy, copying, streaming, filling; expand
damage           mending, repair, replay
after a crash    recover, journal, rollback, settling, replacing and steps (commits), unforeseen
writing headers  rewriting/, pages, looks, modification_times
where, and who   storage_roots, root_folders, beneath, paths, windows; locks, in_use, managers,
                 guards, ownership, probing, space, rules, fingerprints
looking          inspection, survey, forest, headers, counting, content, output_blocks
"""
