#!/bin/sh
# Generates the gRPC stubs and their types from proto/ into gen/. Cheap, so it always starts afresh.
set -eu
cd "$(dirname "$0")/.."
exec 9>.venv/.gen.lock
flock 9
py="${PYTHON:-.venv/bin/python}"
bin=$(dirname "$py")
new=$(mktemp -d ./.gen-XXXXXX)
trap 'rm -rf "$new"' EXIT
find proto -name '*.proto' | sort | sed 's,^proto/,,' | PATH="$bin:$PATH" xargs "$py" -m grpc_tools.protoc -I proto \
    -I "$("$py" -c 'import grpc_tools,os;print(os.path.dirname(grpc_tools.__file__))')/_proto" \
    --python_out="$new" --grpc_python_out="$new" --mypy_out="$new" --mypy_grpc_out="$new"
# etcd's own definitions, see the tool.
PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python PYTHONPATH=. "$py" tools/etcd_descriptors.py >"$new/etcd.binpb"
PATH="$bin:$PATH" "$py" -m grpc_tools.protoc --descriptor_set_in="$new/etcd.binpb" --python_out="$new" \
    --grpc_python_out="$new" --mypy_out="$new" --mypy_grpc_out="$new" etcdrpc/kv.proto etcdrpc/auth.proto etcdrpc/rpc.proto
printf 'from etcdrpc.rpc_pb2 import *\nfrom etcdrpc.rpc_pb2_grpc import *\n' >"$new/etcdrpc/__init__.py"
rm "$new/etcd.binpb"
# File by file, so that whoever imports from gen/ meanwhile finds it whole.
mkdir -p gen
(cd "$new" && find . -type f | sort) >"$new.list"
trap 'rm -rf "$new" "$new.list"' EXIT
while read -r file; do
    cmp -s "$new/$file" "gen/$file" || { mkdir -p "gen/$(dirname "$file")" && mv "$new/$file" "gen/$file"; }
done <"$new.list"
(cd gen && find . -type f ! -path '*/__pycache__/*' | sort) | comm -13 "$new.list" - | while read -r stale; do
    rm "gen/$stale"
done
