"""The messages of inference.proto, made in a descriptor pool of their own.

`tritonclient` registers the same names in the default pool, and one pool refuses two definitions of a name.
So the descriptors are read from inference.binpb, which `make protos` writes beside the types (.pyi).
"""

from __future__ import annotations

from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

POOL = descriptor_pool.DescriptorPool()

_files = descriptor_pb2.FileDescriptorSet.FromString(
    Path(__file__).with_name("inference.binpb").read_bytes()
)
for _file in _files.file:
    POOL.Add(_file)
    DESCRIPTOR = POOL.FindFileByName(_file.name)
    globals().update(
        (name, message_factory.GetMessageClass(message))
        for name, message in DESCRIPTOR.message_types_by_name.items()
    )
    globals().update(
        (value.name, value.number)
        for enum in DESCRIPTOR.enum_types_by_name.values()
        for value in enum.values
    )
