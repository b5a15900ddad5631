"""Wire codec: the public names of the modules that encode and decode packets, messages and frames.

Invariants:

- Arbitrary bytes decode to exactly one valid value or raise `Dropped`, at a cost bounded by their length.
- Only the modules of `wire` know encodings.
"""

from __future__ import annotations

from grapevine_proto.wire.fields import (
    MAX_PAYLOADS,
    decode_credentials,
    encode_credentials,
    encode_record,
)
from grapevine_proto.wire.frames import (
    ACK_BYTES,
    ACK_RANGE_BYTES,
    FRAGMENT_OVERHEAD_BYTES,
    PATH_TOKEN_BYTES,
    decode_frame,
    encode_frame,
    fragment_header,
)
from grapevine_proto.wire.message_codec import decode_message, encode_message
from grapevine_proto.wire.packets import (
    BASE_DATAGRAM_BYTES,
    BASE_PLAINTEXT_BYTES,
    BOX_TAG_BYTES,
    CHALLENGE,
    CHALLENGE_BYTES,
    DATA,
    DATA_OVERHEAD_BYTES,
    EPHEMERAL_BYTES,
    HELLO,
    HELLO_BYTES,
    MAX_PACKETS_PER_SESSION,
    MAX_VERSIONS,
    PROOF,
    SESSION_ID_BYTES,
    VERSION,
    WELCOME,
    Challenge,
    Data,
    Hello,
    Proof,
    Welcome,
    decode_packet,
    encode_data,
    encode_packet,
)
from grapevine_proto.wire.rumors import (
    CHUNKED_BODY_BYTES,
    RUMORS_OVERHEAD_BYTES,
    ChunkedMessage,
    encode_repair,
    encode_rumor_copy,
    encode_rumors,
    max_payload_bytes,
    with_tracking,
)
from grapevine_proto.wire.tracked_bytes import TrackedBytes, TrackedKey

__all__ = [
    "ACK_BYTES",
    "ACK_RANGE_BYTES",
    "BASE_DATAGRAM_BYTES",
    "BASE_PLAINTEXT_BYTES",
    "BOX_TAG_BYTES",
    "CHALLENGE",
    "CHALLENGE_BYTES",
    "CHUNKED_BODY_BYTES",
    "DATA",
    "DATA_OVERHEAD_BYTES",
    "EPHEMERAL_BYTES",
    "FRAGMENT_OVERHEAD_BYTES",
    "HELLO",
    "HELLO_BYTES",
    "MAX_PACKETS_PER_SESSION",
    "MAX_PAYLOADS",
    "MAX_VERSIONS",
    "PATH_TOKEN_BYTES",
    "PROOF",
    "RUMORS_OVERHEAD_BYTES",
    "SESSION_ID_BYTES",
    "VERSION",
    "WELCOME",
    "Challenge",
    "ChunkedMessage",
    "Data",
    "Hello",
    "Proof",
    "TrackedBytes",
    "TrackedKey",
    "Welcome",
    "decode_credentials",
    "decode_frame",
    "decode_message",
    "decode_packet",
    "encode_credentials",
    "encode_data",
    "encode_frame",
    "encode_message",
    "encode_packet",
    "encode_record",
    "encode_repair",
    "encode_rumor_copy",
    "encode_rumors",
    "fragment_header",
    "max_payload_bytes",
    "with_tracking",
]
