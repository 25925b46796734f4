#!/bin/bash
# Repair every differencing disk below a folder whose parent is not where its header says.
#
#   docs/scripts/repair-folder.sh [--dry-run] [--offline] FOLDER [SEARCH_FOLDER...]
#
# For each disk below FOLDER the parent is looked for, by identity, below FOLDER and the
# SEARCH_FOLDERs. Exactly one match: the parent path is updated, and can be taken back with
# "manage.py disk undo-update DISK". None or several: the disk is listed and left alone.
#
#   --dry-run   say what would be done, write nothing
#   --offline   I declare: nobody has these disks, or disks that depend on them, open
#
# Environment: DISK  the command, default "python3 manage.py disk" of this checkout
#              MAP   how Windows names a folder, like 'C:\VMs=/srv/vms' (absolute paths
#                    are written only where this is known)
#
# Exit code: 0 all whole or repaired, 1 some are still broken, 2 wrong usage.
set -u

project=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if [ -x "$project/.venv/bin/python" ]; then python=$project/.venv/bin/python; else python=python3; fi
# Split into words on purpose: a command with its arguments.
read -r -a disk <<<"${DISK:-$python $project/manage.py disk}"

options=()
while [ $# -gt 0 ]; do
    case $1 in
        --dry-run | --offline) options+=("$1") ;;
        -h | --help) sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 0 ;;
        -*) echo "unknown option $1; see --help" >&2; exit 2 ;;
        *) break ;;
    esac
    shift
done
if [ $# -eq 0 ] || [ ! -d "$1" ]; then
    echo "usage: $0 [--dry-run] [--offline] FOLDER [SEARCH_FOLDER...]" >&2
    exit 2
fi

folder=$1
roots=() places=()
for place in "$@"; do
    if [ ! -d "$place" ]; then echo "$place is no directory" >&2; exit 2; fi
    roots+=(--root "$place")
    places+=(--search "$place" --root "$place")
done
map=()
if [ -n "${MAP:-}" ]; then map=(--map "$MAP"); fi

# One value out of a JSON document on stdin; expression is Python, d is the document.
json() { "$python" -c 'import json, sys; d = json.load(sys.stdin); print(eval(" ".join(sys.argv[1].split())))' "$1"; }

whole=0 repaired=0 broken=0 matches=0 parent=
# Names may hold anything, so they are separated by NUL. Copies and our own folders are left out.
while IFS= read -r -d '' file; do
    # Without --search: what Windows would find, which is what "broken" means here.
    if ! found=$("${disk[@]}" inspect "$file" --json "${roots[@]}" "${map[@]}" 2>/dev/null); then
        continue # no virtual disk
    fi
    # "W_PARENT_ELSEWHERE": found by its identity, but no path in the header leads to it.
    status=$(json '"elsewhere" if any(f["code"] == "W_PARENT_ELSEWHERE" for f in d["findings"])
        else (d["parent"] or {}).get("status", "none")' <<<"$found")
    if [ "$status" = none ]; then continue; fi
    if [ "$status" = found ]; then
        whole=$((whole + 1))
        continue
    fi

    list=$("${disk[@]}" candidates "$file" --json "${places[@]}" 2>/dev/null)
    # How many match, then the first one's path as raw bytes, ended by NUL.
    { read -r matches && IFS= read -r -d '' parent; } < <("$python" -c '
import json, os, sys
paths = [c["path"] for c in json.load(sys.stdin)["candidates"] if c["verdict"] == "match"]
sys.stdout.buffer.write(b"%d\n%s\0" % (len(paths), os.fsencode("".join(paths[:1]))))' <<<"$list")
    if [ "$matches" != 1 ]; then
        printf 'left alone: %q: %s disks have the right identity\n' "$file" "${matches:-0}"
        broken=$((broken + 1))
        continue
    fi
    if "${disk[@]}" update-parent "$file" --parent "$parent" "${map[@]}" "${places[@]}" \
        "${options[@]}" >/dev/null; then
        printf 'repaired: %q -> %q\n' "$file" "$parent"
        repaired=$((repaired + 1))
    else
        printf 'left alone: %q: see the error above\n' "$file"
        broken=$((broken + 1))
    fi
done < <(find "$folder" -xdev \( -name .vdtrash -o -name .vdlock -o -name .snapshot \
    -o -name .snapshots -o -name .zfs -o -iname '#recycle' -o -iname '@Recycle' \
    -o -iname '$RECYCLE.BIN' \) -prune -o -type f ! -name '.*.vd*' -print0 | sort -z)

case " ${options[*]-} " in
    *" --dry-run "*) verb="could be repaired" ;;
    *) verb="repaired" ;;
esac
echo "$whole whole, $repaired $verb, $broken still broken"
[ "$broken" -eq 0 ]
