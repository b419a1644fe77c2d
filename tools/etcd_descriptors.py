"""Writes etcd's own gRPC definitions, as the `etcd3` package carries them, as a FileDescriptorSet to standard output.

`etcd3`'s modules are too old to be imported by protobuf's compiled implementation, so tools/gen.sh runs this
alone under PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python and compiles what comes out into gen/etcdrpc. The
fields that etcd 3.4 added to those definitions and that we use are appended by number as in
https://github.com/etcd-io/etcd/blob/release-3.4/etcdserver/etcdserverpb/rpc.proto
"""

from __future__ import annotations

import sys

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet

Field = FieldDescriptorProto


def main() -> None:
    from etcd3.etcdrpc import auth_pb2, kv_pb2, rpc_pb2  # a subprocess of its own is what this module is for

    files = FileDescriptorSet()
    for module in (kv_pb2, auth_pb2, rpc_pb2):
        file = files.file.add()
        module.DESCRIPTOR.CopyToProto(file)
        file.name = f"etcdrpc/{file.name}"
        file.dependency[:] = [f"etcdrpc/{name}" for name in file.dependency]
    _, auth, rpc = files.file
    _append_3_4(auth, rpc)
    sys.stdout.buffer.write(files.SerializeToString())


def _append_3_4(auth: FileDescriptorProto, rpc: FileDescriptorProto) -> None:
    _add(auth.message_type.add(name="UserAddOptions"), "no_password", 1, Field.TYPE_BOOL)
    _add(_message(rpc, "AuthUserAddRequest"), "options", 3, Field.TYPE_MESSAGE, ".authpb.UserAddOptions")
    create = _message(rpc, "WatchCreateRequest")
    _add(create, "watch_id", 7, Field.TYPE_INT64)
    _add(create, "fragment", 8, Field.TYPE_BOOL)
    _add(_message(rpc, "WatchResponse"), "fragment", 7, Field.TYPE_BOOL)
    rpc.message_type.add(name="WatchProgressRequest")
    progress = _add(
        _message(rpc, "WatchRequest"), "progress_request", 3, Field.TYPE_MESSAGE, ".etcdserverpb.WatchProgressRequest"
    )
    progress.oneof_index = 0


def _message(file: FileDescriptorProto, name: str) -> DescriptorProto:
    return next(message for message in file.message_type if message.name == name)


def _add(
    message: DescriptorProto, name: str, number: int, kind: FieldDescriptorProto.Type.ValueType, type_name: str = ""
) -> FieldDescriptorProto:
    field = message.field.add(name=name, number=number, type=kind, label=Field.LABEL_OPTIONAL)
    if type_name:
        field.type_name = type_name
    return field


if __name__ == "__main__":
    main()
