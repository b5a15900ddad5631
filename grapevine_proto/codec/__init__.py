"""The only place that knows bytes: packets, messages and frames, to and from the wire.

Each file says what it holds to; together they promise that any bytes at all decode to exactly one
value of the right shape or raise `Refused`, at a cost that the bytes in hand pay for.
"""

from __future__ import annotations

from grapevine_proto.codec.envelopes import (
    ENVELOPE_OVERHEAD,
    SPLICE_BYTES,
    Ours,
    Spliced,
    encode_copy,
    encode_repair,
    join_copies,
    room_in_rumor,
)
from grapevine_proto.codec.fields import (
    MAX_PAYLOADS,
    decode_credentials,
    encode_credentials,
    encode_record,
)
from grapevine_proto.codec.frames import (
    FRAGMENT_OVERHEAD,
    PATH_TOKEN_BYTES,
    decode_frame,
    encode_frame,
    fragment_header,
)
from grapevine_proto.codec.messages import (
    decode_message,
    encode_message,
)
from grapevine_proto.codec.packets import (
    BOX_TAG_BYTES,
    CHALLENGE,
    CHALLENGE_BYTES,
    COUNTER_LIMIT,
    DATA,
    DATA_OVERHEAD,
    EPHEMERAL_BYTES,
    HELLO,
    HELLO_BYTES,
    MAX_DATAGRAM,
    MAX_PLAINTEXT,
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

__all__ = [
    "BOX_TAG_BYTES",
    "CHALLENGE",
    "CHALLENGE_BYTES",
    "COUNTER_LIMIT",
    "DATA",
    "DATA_OVERHEAD",
    "ENVELOPE_OVERHEAD",
    "EPHEMERAL_BYTES",
    "FRAGMENT_OVERHEAD",
    "HELLO",
    "HELLO_BYTES",
    "MAX_DATAGRAM",
    "MAX_PAYLOADS",
    "MAX_PLAINTEXT",
    "MAX_VERSIONS",
    "PATH_TOKEN_BYTES",
    "PROOF",
    "SESSION_ID_BYTES",
    "SPLICE_BYTES",
    "VERSION",
    "WELCOME",
    "Challenge",
    "Data",
    "Hello",
    "Ours",
    "Proof",
    "Spliced",
    "Welcome",
    "decode_credentials",
    "decode_frame",
    "decode_message",
    "decode_packet",
    "encode_copy",
    "encode_credentials",
    "encode_data",
    "encode_frame",
    "encode_message",
    "encode_packet",
    "encode_record",
    "encode_repair",
    "fragment_header",
    "join_copies",
    "room_in_rumor",
]
