#!/usr/bin/env bash
# What one would guess: to open a file of records that is not there, is cut short or is no such file raises an error, as
# `open` does.
#
# Seen (array_record 0.8.6, its `ArrayRecordReader`): opening raises nothing, and `num_records()` is 0, so that a loop over
# the records finds an empty data set. `ok()` is False from the start; the reason is told by `close()` alone, as a
# RuntimeError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet array_record==0.8.6
cat > try.py <<'PY'
import pathlib

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

writer = ArrayRecordWriter("whole.records", "group_size:1,uncompressed")
for i in range(5):
    writer.write(bytes([i]) * 1000)
writer.close()
pathlib.Path("half.records").write_bytes(pathlib.Path("whole.records").read_bytes()[:70_000])
pathlib.Path("text.records").write_text("a line\n" * 20_000)
seen = {}
for name in ("whole", "half", "text", "absent"):
    reader = ArrayRecordReader(f"{name}.records")
    told = reader.ok(), reader.num_records()
    try:
        reader.close()
        seen[name] = *told, "closed"
    except RuntimeError:
        seen[name] = *told, "RuntimeError"
    print(name, *seen[name])
silent = (False, 0, "RuntimeError")
assert seen == {"whole": (True, 5, "closed"), "half": silent, "text": silent, "absent": silent}, seen
PY
venv/bin/python try.py
