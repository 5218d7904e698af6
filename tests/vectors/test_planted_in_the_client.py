"""The vectors catch small mistakes in the Python client.

One line of its source is changed, and some vector fails.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

import pytest

from sealbus import invitation, pins, trust
from sealbus.protocol import (
    admission,
    certificate,
    codec,
    delivery,
    envelope,
    exchange,
    joining,
    keyring,
    keys,
    notice,
    seal,
    sealed,
    sender_links,
    stamp,
    subjects,
)
from sealbus.protocol import bus_keys as bus_key_set
from sealbus.receiving import verifier as handled
from sealbus.sending import matching
from tests.vectors import test_client_vectors as client
from tests.vectors import test_pin_vectors as pinned
from tests.vectors import test_vectors as plain
from tests.vectors.test_planted_mistakes import mutated

Runs = list[tuple[Callable[..., None], list[Any]]]

PAYLOADS: Final[Runs] = [
    (plain.test_payloads_are_read_and_written, plain.PAYLOADS["valid"]),
    (plain.test_whole_floats_are_read_and_written, plain.PAYLOADS["floats"]),
    (plain.test_maps_keep_their_keys_and_their_order, plain.PAYLOADS["maps"]),
    (plain.test_unwritable_values_are_refused, plain.PAYLOADS["unwritable"]),
    (plain.test_payloads_at_the_limits_are_read, plain.PAYLOADS["valid_without_value"]),
    (plain.test_invalid_payloads_are_refused, plain.PAYLOADS["invalid"]),
]
BUNDLES: Final[Runs] = [
    (client.test_bundle_is_split_and_joined_again, client.BUNDLES["valid"]),
    (client.test_invalid_bundle_is_refused, client.BUNDLES["invalid"]),
]
HEADERS: Final[Runs] = [
    (client.test_an_envelope_is_read_and_its_header_written, client.HEADERS["valid"]),
    (client.test_shown_envelope_is_read_but_not_sent, client.HEADERS["shown"]),
    (client.test_an_invalid_envelope_is_refused_by_its_rule, client.HEADERS["invalid"]),
    (
        client.test_an_invalid_shown_envelope_is_refused_by_its_rule,
        client.HEADERS["invalid_shown"],
    ),
]
SEALS: Final[Runs] = [
    (plain.test_batches_hold_and_are_made_again_bit_by_bit, plain.SEALS["batches"]),
    (plain.test_a_seal_holds_in_its_own_context_alone, plain.SEALS["contexts"]),
    (plain.test_no_invalid_seal_holds, plain.SEALS["invalid"]),
    (plain.test_connect_signatures, plain.CONNECT["cases"]),
]
CERTIFICATES: Final[Runs] = [
    (
        client.test_a_certificate_is_read_and_made_again_bit_by_bit,
        client.CERTIFICATES["made"],
    ),
    (client.test_a_certificate_holds_for_what_it_signs, client.CERTIFICATES["cases"]),
    (lambda _: client.test_a_memory_of_certificates_changes_no_answer(), [None]),
    (client.test_an_invalid_certificate_is_refused_by_its_rule, client.CERTIFICATES["invalid"]),
]
JOINS: Final[Runs] = [
    (client.test_a_join_proof_is_read_and_made_again_bit_by_bit, client.JOINS["made"]),
    (client.test_a_join_proof_holds_for_what_it_signs, client.JOINS["cases"]),
    (client.test_an_invalid_join_proof_is_refused_by_its_rule, client.JOINS["invalid"]),
    (client.test_a_join_record_is_read_and_made_again_bit_by_bit, client.JOINS["records"]),
    (client.test_an_invalid_join_record_is_refused_by_its_rule, client.JOINS["invalid_records"]),
    (client.test_a_token_is_read_and_made_again_bit_by_bit, client.JOINS["tokens"]),
    (client.test_an_invalid_token_is_refused_by_its_rule, client.JOINS["invalid_tokens"]),
]
LOGINS: Final[Runs] = [
    (plain.test_admission_texts_are_written_and_read, plain.CONNECT["texts"]),
]
EXCHANGES: Final[Runs] = [
    (client.test_login_with_a_token_has_its_words_and_names, client.EXCHANGES["logins"]),
    (client.test_record_of_an_exchange_holds_for_its_key, client.EXCHANGES["records"]),
    (client.test_invalid_record_of_an_exchange_is_refused, client.EXCHANGES["invalid"]),
]
KEYS: Final[Runs] = [
    (plain.test_key_texts_are_read_and_written, plain.KEY_TEXTS["valid"]),
    (plain.test_invalid_public_keys_are_refused, plain.KEY_TEXTS["invalid_public"]),
    (plain.test_invalid_seeds_are_refused, plain.KEY_TEXTS["invalid_seed"]),
    (plain.test_the_edge_cases_of_ed25519, plain.ED25519["cases"]),
]
STAMPS: Final[Runs] = [
    (plain.test_a_stamp_opens_and_is_sealed_again_bit_by_bit, plain.STAMPS["valid"]),
    (plain.test_an_invalid_stamp_is_refused_by_its_rule, plain.STAMPS["invalid"]),
    (lambda _: plain.test_a_batch_of_stamps_opens_and_is_sealed_again_bit_by_bit(), [None]),
]
NOTICES: Final[Runs] = [
    (plain.test_a_notice_opens_and_is_sealed_again_bit_by_bit, plain.NOTICES["valid"]),
    (plain.test_an_invalid_notice_is_refused_by_its_rule, plain.NOTICES["invalid"]),
    (lambda _: plain.test_a_batch_of_notices_opens_and_is_sealed_again_bit_by_bit(), [None]),
]
KEYRINGS: Final[Runs] = [
    (client.test_a_link_opens_and_is_sealed_again_bit_by_bit, client.KEYRINGS["links"]),
    (client.test_a_list_of_keys_is_followed, client.KEYRINGS["valid"]),
    (client.test_an_invalid_list_is_refused_by_its_rule, client.KEYRINGS["invalid"]),
    (client.test_lists_of_keys_follow_one_another, client.KEYRINGS["sequences"]),
    (client.test_stamps_are_believed_by_the_list, client.KEYRINGS["stamps"]),
]
PINS: Final[Runs] = [
    (pinned.test_a_sender_link_is_signed_again_bit_by_bit, pinned.PINS["links"]),
    (pinned.test_a_pinned_sender_is_believed, pinned.PINS["valid"]),
    (pinned.test_a_stranger_is_refused_by_its_rule, pinned.PINS["invalid"]),
]
DELIVERIES: Final[Runs] = [
    (plain.test_a_delivery_opens, plain.DELIVERIES["valid"]),
    (plain.test_an_invalid_delivery_is_refused_by_its_rule, plain.DELIVERIES["invalid"]),
]
MATCHING: Final[Runs] = [
    (client.test_receipts, client.RECEIPTS["cases"]),
    (client.test_an_answer_is_taken, client.ANSWERS["valid"]),
    (client.test_bad_answer_is_refused_by_its_rule, client.ANSWERS["invalid"]),
]
SUBSCRIBERS: Final[Runs] = [
    (client.test_subscriber_passes_on_each_new_message_once, client.SUBSCRIBERS["sequences"]),
]
SUBJECTS: Final[Runs] = [(lambda _: plain.test_matching_overlapping_and_consumers(), [None])]

_DUMPS: Final = "        orjson.dumps(value, None, orjson.OPT_STRICT_INTEGER)\n"
_ELSE: Final = "    except (ValueError, TypeError):\n        return "

QUICK: Final = [
    ("if ormsgpack.packb(value) != data:", "if False:"),
    (f"{_DUMPS}{_ELSE}_UNSURE", f"{_ELSE}_UNSURE"),
    (f'{_DUMPS}{_ELSE}b""', f'{_ELSE}b""'),
    ("    if len(data) > most or _ODD_FLOAT.search(data):", "    if len(data) > most:"),
    (r"(?:[\x7f\xff][\xf0-\xff]|", r"(?:[\x7f][\xf0-\xff]|"),
    (r"|\x80\0{7})", r"|\x80\0{8})"),
    ("return few or _is_flat_enough(value)", "return True"),
    ("    for _ in range(MAX_DEPTH):", "    for _ in range(MAX_DEPTH + 1):"),
]  # fmt: skip
"""Mistakes in the quick reading and writing of a payload. All others in the codec are planted where
everything is read and written carefully, because the quick way would hide some of them."""

MISTAKES: Final[list[tuple[Runs, ModuleType, str, str]]] = [
    *((PAYLOADS, codec, right, wrong) for right, wrong in QUICK),
    (PAYLOADS, codec, "range(MAX_DEPTH + 1)", "range(MAX_DEPTH)"),
    (PAYLOADS, codec, "range(MAX_DEPTH + 1)", "range(MAX_DEPTH + 2)"),
    (PAYLOADS, codec, "budget = most", "budget = most - 1"),
    (PAYLOADS, codec, "budget = most", "budget = most + 1"),
    (PAYLOADS, codec, "                budget -= len(item)\n", ""),
    (PAYLOADS, codec, "-MAX_INTEGER <= item <= MAX_INTEGER",
     "-MAX_INTEGER <= item <= MAX_INTEGER + 1"),
    (PAYLOADS, codec, "-MAX_INTEGER <= item <= MAX_INTEGER",
     "-MAX_INTEGER - 1 <= item <= MAX_INTEGER"),
    (PAYLOADS, codec, "-MAX_INTEGER <= item <= MAX_INTEGER", "-MAX_INTEGER < item <= MAX_INTEGER"),
    (PAYLOADS, codec, "if not math.isfinite(item)", "if math.isinf(item)"),
    (PAYLOADS, codec, "if not math.isfinite(item)", "if math.isnan(item)"),
    (PAYLOADS, codec, "item == 0.0 and math.copysign(1.0, item) < 0", "False"),
    (PAYLOADS, codec, "if _pack(value) != data", "if False"),
    (PAYLOADS, codec, "use_bin_type=True", "use_bin_type=True, use_single_float=True"),
    (BUNDLES, codec, "len(data) > MAX_BUNDLE_BYTES", "len(data) > MAX_BUNDLE_BYTES + 1"),
    (BUNDLES, codec, "len(data) > MAX_BUNDLE_BYTES", "len(data) >= MAX_BUNDLE_BYTES"),
    (BUNDLES, codec, "not 2 <= len(items) <= MAX_BUNDLE",
     "not 1 <= len(items) <= MAX_BUNDLE"),
    (BUNDLES, codec, "not 2 <= len(items) <= MAX_BUNDLE",
     "not 2 <= len(items) < MAX_BUNDLE"),
    (BUNDLES, codec, "< MIN_BUNDLE_ITEM_BYTES", "< MIN_BUNDLE_ITEM_BYTES - 1"),
    (BUNDLES, codec, "< MIN_BUNDLE_ITEM_BYTES", "<= MIN_BUNDLE_ITEM_BYTES"),
    (BUNDLES, codec, "if len(set(items)) != len(items)", "if False"),
    (BUNDLES, codec,
     "    if not is_bundle(data):\n        raise Malformed(\"not a bundle\")\n", ""),
    (BUNDLES, codec,
     ("if _pack(fields) != data:\n        raise Malformed(\"not the exact encoding\")\n"
      "    return items"),
     "if False:\n        raise Malformed(\"\")\n    return items"),
    (STAMPS, codec, "if version != PROTOCOL_VERSION", "if False"),
    (HEADERS, envelope, "if fields[0] != PROTOCOL_VERSION", "if False"),
    (HEADERS, codec,
     ("if _pack(fields) != data:\n        raise Malformed(\"not the exact encoding\")\n"
      "    return fields"),
     "if False:\n        raise Malformed(\"\")\n    return fields"),
    (STAMPS, codec, "return 2 if len(data) < 1 << 8 else 3",
     "return 2 if len(data) <= 1 << 8 else 2"),
    (HEADERS, envelope, "if not is_name(self.bus)", "if False"),
    (HEADERS, envelope, "if not is_name(self.bot)", "if False"),
    (HEADERS, envelope, "if not is_subject(self.subject)", "if False"),
    (HEADERS, envelope, "if len(self.nonce) != NONCE_BYTES", "if len(self.nonce) < NONCE_BYTES"),
    (HEADERS, envelope, "if len(self.nonce) != NONCE_BYTES", "if len(self.nonce) > NONCE_BYTES"),
    (HEADERS, envelope, "0 <= self.issued_at_ms <= MAX_TIME_MS",
     "0 < self.issued_at_ms <= MAX_TIME_MS"),
    (HEADERS, envelope, "0 <= self.issued_at_ms <= MAX_TIME_MS",
     "0 <= self.issued_at_ms < MAX_TIME_MS"),
    (HEADERS, envelope, "0 <= self.issued_at_ms <= MAX_TIME_MS", "0 <= self.issued_at_ms"),
    (HEADERS, envelope, "1 <= self.ttl_ms <= MAX_TTL_MS", "0 <= self.ttl_ms <= MAX_TTL_MS"),
    (HEADERS, envelope, "1 <= self.ttl_ms <= MAX_TTL_MS", "1 <= self.ttl_ms < MAX_TTL_MS"),
    (HEADERS, envelope, "1 <= self.ttl_ms <= MAX_TTL_MS", "1 <= self.ttl_ms <= MAX_TTL_MS + 1"),
    (HEADERS, envelope, "(self.schema is None) != (self.schema_version is None)", "False"),
    (HEADERS, envelope, "self.schema is not None and not is_subject(self.schema)", "False"),
    (HEADERS, envelope, "len(fields[2]) > MAX_PARENT_BYTES", "len(fields[2]) >= MAX_PARENT_BYTES"),
    (HEADERS, envelope, "len(fields[2]) > MAX_PARENT_BYTES",
     "len(fields[2]) > MAX_PARENT_BYTES + 1"),
    (HEADERS, envelope, "if len(data) > MAX_ENVELOPE_BYTES:\n            raise Malformed",
     "if len(data) >= MAX_ENVELOPE_BYTES:\n            raise Malformed"),
    (HEADERS, envelope, "if len(data) > MAX_ENVELOPE_BYTES:\n            raise Malformed",
     "if len(data) > MAX_ENVELOPE_BYTES + 1:\n            raise Malformed"),
    (HEADERS, envelope, "if len(data) > MAX_SHOWN_BYTES", "if len(data) >= MAX_SHOWN_BYTES"),
    (HEADERS, envelope, "if len(data) > MAX_SHOWN_BYTES", "if len(data) > MAX_SHOWN_BYTES + 1"),
    (HEADERS, envelope, "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS)",
     "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS + 1)"),
    (HEADERS, envelope, "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS)",
     "unpack_array(data, _ENVELOPE_TYPES, MAX_PAYLOADS - 1)"),
    (HEADERS, envelope, "    if not payloads:\n", "    if False:\n"),
    (HEADERS, envelope, "if fields[2] is not None and len(payloads) != 1", "if False"),
    (HEADERS, envelope, "if fields[2] is not None and len(payloads) != 1",
     "if type(fields[2]) is bytes and len(payloads) != 1"),
    (HEADERS, envelope, "type(fields[2]) is list or not all(", "not all("),
    (HEADERS, envelope,
     "type(fields[2]) is list or not all(type(payload) is bytes for payload in fields[3])",
     "type(fields[2]) is list"),
    (HEADERS, envelope, "if hidden == _NO_PARENT", "if False"),
    (HEADERS, envelope, "elif len(payload) < SALT_BYTES", "elif len(payload) < SALT_BYTES - 1"),
    (HEADERS, envelope, "elif len(payload) < SALT_BYTES", "elif len(payload) <= SALT_BYTES"),
    (HEADERS, envelope, "if len(hidden) != HASH_BYTES", "if len(hidden) < HASH_BYTES"),
    (HEADERS, envelope, "if len(hidden) != HASH_BYTES", "if len(hidden) > HASH_BYTES"),
    (HEADERS, envelope, "type(part) is not list or len(part) != 1 or", "type(part) is not list or"),
    (HEADERS, envelope, "payload[SALT_BYTES:] if", "payload if"),
    (HEADERS, envelope, '_HEADER: Final = b"\\x02"', '_HEADER: Final = b"\\x03"'),
    (HEADERS, envelope, '_PARENT: Final = b"\\x03"', '_PARENT: Final = b"\\x02"'),
    (HEADERS, envelope, '[b"\\x05" + at.to_bytes(2, "big")',
     '[b"\\x05" + at.to_bytes(2, "little")'),
    (HEADERS, envelope, '[b"\\x05" + at.to_bytes(2, "big")', '[b"\\x05" + bytes(2)'),
    (HEADERS, envelope, 'sha256(b"\\x04")', 'sha256(b"\\x03")'),
    (HEADERS, envelope, "parts = [len(payloads).to_bytes(2, \"big\"), sha256", "parts = [sha256"),
    (DELIVERIES, envelope, "hashlib.sha256(_DIGEST + outline + sealed).digest(),\n            data",
     "hashlib.sha256(_DIGEST + outline).digest(),\n            data"),
    (SEALS, seal, "0 <= steps <= MAX_PROOF_STEPS", "0 <= steps <= MAX_PROOF_STEPS + 1"),
    (SEALS, seal, "if sides >> steps", "if False"),
    (SEALS, seal, "if sides & 1 else", "if not sides & 1 else"),
    (SEALS, seal, 'b"\\x00" + len(item).to_bytes(8, "big") + item', 'b"\\x00" + item'),
    (SEALS, seal, "return MAGIC + context.value + key + root", "return MAGIC + key + root"),
    (SEALS, seal, "return MAGIC + context.value + key + root",
     "return MAGIC + context.value + root"),
    (SEALS, seal, 'if b"\\n" in challenge:', "if False:"),
    (SEALS, seal, 'or b"\\n" in challenge', ""),
    (HEADERS, envelope, "if self.certificate is not None:\n            return",
     "if False:\n            return"),
    (HEADERS, certificate, "if len(data) != CERTIFICATE_BYTES", "if len(data) < CERTIFICATE_BYTES"),
    (HEADERS, certificate, "if len(data) != CERTIFICATE_BYTES", "if len(data) > CERTIFICATE_BYTES"),
    (HEADERS, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "0 <= life_ms <= MAX_SESSION_KEY_MS"),
    (HEADERS, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "1 < life_ms <= MAX_SESSION_KEY_MS"),
    (HEADERS, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "1 <= life_ms < MAX_SESSION_KEY_MS"),
    (HEADERS, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "1 <= life_ms <= MAX_SESSION_KEY_MS + 1"),
    (JOINS, joining, "if len(data) != PROOF_BYTES", "if len(data) < PROOF_BYTES"),
    (JOINS, joining, "if len(data) != PROOF_BYTES", "if len(data) > PROOF_BYTES"),
    (JOINS, joining, "Verifier().verify(Context.JOIN", "Verifier().verify(Context.SESSION"),
    (JOINS, joining, "Seal(self.token_key, self.signature", "Seal(key, self.signature"),
    (JOINS, joining, "sealed, pack_fields((bus, bot, key)))", "sealed, pack_fields((bot, key)))"),
    (JOINS, joining, "sealed, pack_fields((bus, bot, key)))", "sealed, pack_fields((bus, key)))"),
    (JOINS, joining, "sealed, pack_fields((bus, bot, key)))", "sealed, pack_fields((bus, bot)))"),
    (JOINS, joining, "b64decode(word.removeprefix(PREFIX), validate=True)",
     "b64decode(word.removeprefix(PREFIX))"),
    (JOINS, joining, "if len(key) != KEY_BYTES", "if len(key) < KEY_BYTES"),
    (JOINS, joining, "if len(key) != KEY_BYTES", "if len(key) > KEY_BYTES"),
    (JOINS, joining, "0 <= at_ms <= MAX_TIME_MS", "0 < at_ms <= MAX_TIME_MS"),
    (JOINS, joining, "0 <= at_ms <= MAX_TIME_MS", "at_ms <= MAX_TIME_MS"),
    (JOINS, joining, "0 <= at_ms <= MAX_TIME_MS", "0 <= at_ms < MAX_TIME_MS"),
    (JOINS, joining, "0 <= at_ms <= MAX_TIME_MS", "0 <= at_ms"),
    (JOINS, invitation, "crc != _crc(body) or ", ""),
    (JOINS, invitation, 'zlib.crc32(_BEGIN.encode() + body)', "zlib.crc32(body)"),
    (JOINS, invitation, '_CRC_BYTES, "big")', '_CRC_BYTES, "little")'),
    (JOINS, invitation, "if version[0] != _BEGIN", "if False"),
    (JOINS, invitation, "if not (is_name(bus) and is_name(bot))", "if not is_name(bus)"),
    (JOINS, invitation, "if not (is_name(bus) and is_name(bot))", "if not is_name(bot)"),
    (JOINS, invitation, "0 <= ends_ms <= MAX_TIME_MS", "ends_ms <= MAX_TIME_MS"),
    (JOINS, invitation, "0 <= ends_ms <= MAX_TIME_MS", "0 <= ends_ms < MAX_TIME_MS"),
    (JOINS, invitation, "0 <= ends_ms <= MAX_TIME_MS", "0 <= ends_ms"),
    (JOINS, invitation, "1 <= len(keys) <= MAX_BUS_KEYS", "len(keys) <= MAX_BUS_KEYS"),
    (JOINS, invitation, "1 <= len(keys) <= MAX_BUS_KEYS", "1 <= len(keys) < MAX_BUS_KEYS"),
    (JOINS, invitation, "1 <= len(keys) <= MAX_BUS_KEYS", "1 <= len(keys)"),
    (CERTIFICATES, certificate, "if len(data) != CERTIFICATE_BYTES",
     "if len(data) < CERTIFICATE_BYTES"),
    (CERTIFICATES, certificate, "if len(data) != CERTIFICATE_BYTES",
     "if len(data) > CERTIFICATE_BYTES"),
    (CERTIFICATES, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "0 <= life_ms <= MAX_SESSION_KEY_MS"),
    (CERTIFICATES, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "1 < life_ms <= MAX_SESSION_KEY_MS"),
    (CERTIFICATES, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "1 <= life_ms < MAX_SESSION_KEY_MS"),
    (CERTIFICATES, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS",
     "1 <= life_ms <= MAX_SESSION_KEY_MS + 1"),
    (CERTIFICATES, certificate, "1 <= life_ms <= MAX_SESSION_KEY_MS", "1 <= life_ms"),
    (CERTIFICATES, certificate, "    problem = certificate_problem(data)\n",
     "    problem = None\n"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bus, bot, self.data)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bot, key, self.data)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bus, key, self.data)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bus + bot, key, self.data)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)", "fact = (bus, bot, key)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bus, bot, key, self.signature)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bus, bot, key, self.enrolled)"),
    (CERTIFICATES, certificate, "fact = (bus, bot, key, self.data)",
     "fact = (bus, bot, key, self.data[32:])"),
    (CERTIFICATES, certificate, "        if held:\n", "        if True:\n"),
    (CERTIFICATES, certificate, "held = verifier.verify(", "held = True or verifier.verify("),
    (CERTIFICATES, certificate, "verifier.verify(Context.SESSION",
     "verifier.verify(Context.ENVELOPE"),
    (CERTIFICATES, certificate, "seal(enrolled, Context.SESSION",
     "seal(enrolled, Context.ENVELOPE"),
    (CERTIFICATES, certificate, "Seal(self.enrolled, self.signature", "Seal(key, self.signature"),
    (CERTIFICATES, certificate, "pack_fields((bus, bot, key, not_before_ms, life_ms))",
     "pack_fields((bot, key, not_before_ms, life_ms))"),
    (CERTIFICATES, certificate, "pack_fields((bus, bot, key, not_before_ms, life_ms))",
     "pack_fields((bus, key, not_before_ms, life_ms))"),
    (CERTIFICATES, certificate, "pack_fields((bus, bot, key, not_before_ms, life_ms))",
     "pack_fields((bus, bot, not_before_ms, life_ms))"),
    (CERTIFICATES, certificate, "pack_fields((bus, bot, key, not_before_ms, life_ms))",
     "pack_fields((bus, bot, key, life_ms))"),
    (CERTIFICATES, certificate, "pack_fields((bus, bot, key, not_before_ms, life_ms))",
     "pack_fields((bus, bot, key, not_before_ms))"),
    (CERTIFICATES, certificate, "pack_fields((bus, bot, key, not_before_ms, life_ms))",
     "pack_fields((bot, bus, key, not_before_ms, life_ms))"),
    (CERTIFICATES, certificate, 'int.from_bytes(data[_TIMES:_LIFE], "big")',
     'int.from_bytes(data[_TIMES:_LIFE], "little")'),
    (CERTIFICATES, certificate, 'life_ms = int.from_bytes(data[_LIFE:], "big")',
     'life_ms = int.from_bytes(data[_LIFE:], "little")'),
    (LOGINS, admission, "self.certificate, *self.consumers", "*self.consumers, self.certificate"),
    (LOGINS, admission, "bot, key, certificate, *consumers = words",
     "bot, certificate, key, *consumers = words"),
    (EXCHANGES, exchange, 'token.rpartition(".")[0]', "token"),
    (EXCHANGES, exchange, "if len(data) != RECORD_BYTES", "if False"),
    (EXCHANGES, exchange, "if len(key) != KEY_BYTES", "if False"),
    (EXCHANGES, exchange, 'raise Malformed("exchange record: the cert',
     'str("exchange record: the cert'),
    (EXCHANGES, exchange, 'TOKEN: Final = "token"', 'TOKEN: Final = "tokens"'),
    (EXCHANGES, exchange, 'return f"{TOKEN}.{identity}"', 'return f"inbox.{identity}"'),
    (KEYS, keys, "if raw[0] != kind.value", "if False"),
    (KEYS, keys, "if not nacl.bindings.crypto_core_ed25519_is_valid_point(raw[1:])", "if False"),
    (KEYS, keys, 'or base64.b32encode(raw).decode().rstrip("=") != text', ""),
    (KEYS, keys, "if binascii.crc_hqx(raw[:-2], 0) !=",
     "if False and binascii.crc_hqx(raw[:-2], 0) !="),
    (KEYS, keys, " or raw[1] & 7", ""),
    (STAMPS, sealed, "found.key not in bus_keys", "False"),
    (STAMPS, sealed, "if not verifier.verify(context, found, signed)", "if False"),
    (NOTICES, sealed, "found.key not in bus_keys", "False"),
    (NOTICES, sealed, "if not verifier.verify(context, found, signed)", "if False"),
    (NOTICES, sealed, "verifier.verify(context, found", "verifier.verify(Context.STAMP, found"),
    (KEYRINGS, sealed, "if not verifier.verify(context, found, signed)", "if False"),
    (PINS, sender_links, "if rest or not 1 <= count", "if not 1 <= count"),
    (PINS, sender_links, "1 <= count <= MAX_SENDER_LINKS", "0 <= count <= MAX_SENDER_LINKS"),
    (PINS, sender_links, "1 <= count <= MAX_SENDER_LINKS", "1 <= count < MAX_SENDER_LINKS"),
    (PINS, sender_links, "1 <= count <= MAX_SENDER_LINKS", "1 <= count"),
    (PINS, sender_links, "Seal(self.old, self.signature", "Seal(new, self.signature"),
    (PINS, sender_links, "verifier.verify(Context.SENDER", "verifier.verify(Context.SESSION"),
    (PINS, sender_links, "held = verifier.verify(", "held = True or verifier.verify("),
    (PINS, sender_links, "pack_fields((bus, bot, old, new, at_ms))",
     "pack_fields((bot, old, new, at_ms))"),
    (PINS, sender_links, "pack_fields((bus, bot, old, new, at_ms))",
     "pack_fields((bus, old, new, at_ms))"),
    (PINS, sender_links, "pack_fields((bus, bot, old, new, at_ms))",
     "pack_fields((bus, bot, new, at_ms))"),
    (PINS, sender_links, "pack_fields((bus, bot, old, new, at_ms))",
     "pack_fields((bus, bot, old, at_ms))"),
    (PINS, sender_links, "pack_fields((bus, bot, old, new, at_ms))",
     "pack_fields((bus, bot, old, new))"),
    (PINS, pins, "if not link.holds(", "if False and link.holds("),
    (PINS, pins, "        key = link.old\n", ""),
    (PINS, pins, "        if link.old in pins:\n            return\n", ""),
    (PINS, pins, "if envelope.enrolled not in pins:", "if False:"),
    (PINS, pins, "if envelope.enrolled not in pins:", "if True:"),
    (PINS, pins, "if envelope.enrolled not in pins:", "if envelope.seal.key not in pins:"),
    (PINS, pins, "if not certificate.holds(", "if False and certificate.holds("),
    (PINS, pins, "begin - CERTIFICATE_AHEAD_MS <= header", "begin <= header"),
    (PINS, pins, "header.issued_at_ms <= end", "header.issued_at_ms < end"),
    (PINS, pins, "if not verifier.verify(Context.ENVELOPE",
     "if False and verifier.verify(Context.ENVELOPE"),
    (PINS, delivery, "    split_links(links)\n", ""),
    (PINS, delivery, "if data[:1] != _LINKED", "if True"),
    (KEYRINGS, keyring, "if not is_name(bus)", "if False"),
    (KEYRINGS, keyring, "not 1 <= number <= MAX_TIME_MS", "not 1 <= number < MAX_TIME_MS"),
    (KEYRINGS, keyring, "not 1 <= number <= MAX_TIME_MS", "not 0 <= number <= MAX_TIME_MS"),
    (KEYRINGS, keyring, "not 1 <= number <= MAX_TIME_MS", "not 1 <= number"),
    (KEYRINGS, keyring, "len(old) == len(new) == KEY_BYTES", "len(old) == KEY_BYTES"),
    (KEYRINGS, keyring, "len(old) == len(new) == KEY_BYTES", "len(new) == KEY_BYTES"),
    (KEYRINGS, keyring, "0 <= begin <= end <= MAX_TIME_MS", "begin <= end <= MAX_TIME_MS"),
    (KEYRINGS, keyring, "0 <= begin <= end <= MAX_TIME_MS", "0 <= begin < end <= MAX_TIME_MS"),
    (KEYRINGS, keyring, "0 <= begin <= end <= MAX_TIME_MS", "0 <= begin <= end < MAX_TIME_MS"),
    (KEYRINGS, keyring, "0 <= begin <= end <= MAX_TIME_MS", "0 <= begin <= end"),
    (KEYRINGS, keyring, "0 <= begin <= end <= MAX_TIME_MS",
     "0 <= begin and 0 <= end <= MAX_TIME_MS"),
    (KEYRINGS, keyring, "if key != link.old", "if False"),
    (KEYRINGS, keyring, "context=Context.KEYRING", "context=Context.STAMP"),
    (KEYRINGS, keyring, "if version != PROTOCOL_VERSION", "if False"),
    (KEYRINGS, keyring, "unpack_array(data, _LIST_TYPES, MAX_LINKS)",
     "unpack_array(data, _LIST_TYPES, MAX_LINKS + 1)"),
    (KEYRINGS, keyring, "unpack_array(data, _LIST_TYPES, MAX_LINKS)",
     "unpack_array(data, _LIST_TYPES, MAX_LINKS - 1)"),
    (KEYRINGS, keyring, "if not links or", "if"),
    (KEYRINGS, keyring, "all(type(link) is bytes for link in links)", "True"),
    (KEYRINGS, keyring, "if link.bus != bus", "if False"),
    (KEYRINGS, keyring, "if link.number != before.number + 1", "if link.number <= before.number"),
    (KEYRINGS, keyring, "if link.number != before.number + 1", "if False"),
    (KEYRINGS, keyring, "if link.old != before.new", "if False"),
    (KEYRINGS, keyring, "link.from_ms <= before.from_ms or ", ""),
    (KEYRINGS, keyring, "link.from_ms <= before.from_ms", "link.from_ms < before.from_ms"),
    (KEYRINGS, keyring, "link.from_ms <= before.from_ms", "link.from_ms <= before.from_ms + 1"),
    (KEYRINGS, keyring, " or link.end_ms < before.end_ms", ""),
    (KEYRINGS, keyring, "link.end_ms < before.end_ms", "link.end_ms <= before.end_ms"),
    (KEYRINGS, keyring, "if link.new in seen", "if link.new == link.old"),
    (KEYRINGS, keyring, "if link.new in seen", "if False"),
    (KEYRINGS, trust, "        self._check_pinned(links)\n", ""),
    (KEYRINGS, trust, "if not self._pinned & chain", "if False"),
    (KEYRINGS, trust, "if not self._pinned <= chain", "if False"),
    (KEYRINGS, trust, "if any(known.get(link.number, link) != link for link in links)", "if False"),
    (KEYRINGS, trust, "links[-1].number < self.links[-1].number", "False"),
    (KEYRINGS, trust, "(*[link for link in self.links if link.number < links[0].number], *links)",
     "links"),
    (KEYRINGS, trust, "if len(links) > MAX_LINKS", "if len(links) > MAX_LINKS + 1"),
    (KEYRINGS, trust, "if len(links) > MAX_LINKS", "if len(links) >= MAX_LINKS"),
    (KEYRINGS, trust, "        check_chain(links, self._bus)\n", ""),
    (KEYRINGS, trust, "if link.old in trusted", "if True"),
    (KEYRINGS, trust, "trusted.add(link.new)", "pass"),
    (KEYRINGS, trust, "ends[link.old] = link.end_ms", "pass"),
    (KEYRINGS, trust, "ends[link.old] = link.end_ms", "ends[link.new] = link.end_ms"),
    (KEYRINGS, bus_key_set, "at_ms > end", "at_ms >= end"),
    (KEYRINGS, bus_key_set, "at_ms > end", "at_ms > end + 1"),
    (KEYRINGS, bus_key_set, "at_ms > end", "False"),
    (NOTICES, notice, "is_name(bus) and ", ""),
    (NOTICES, notice, " and is_name(bot)", ""),
    (NOTICES, notice, "0 <= at <= MAX_TIME_MS", "0 <= at"),
    (NOTICES, notice, "0 <= at <= MAX_TIME_MS", "at <= MAX_TIME_MS"),
    (NOTICES, notice, "if reason not in _REASONS", "if False"),
    (NOTICES, notice, "if key is not None and len(key) != KEY_BYTES", "if False"),
    (NOTICES, notice, "in (Ended.BOT_REMOVED, Ended.FLOODING)", "in (Ended.BOT_REMOVED,)"),
    (NOTICES, notice, "in (Ended.BOT_REMOVED, Ended.FLOODING)", "in (Ended.FLOODING,)"),
    (NOTICES, notice, "(pause is not None) is not (reason == Ended.FLOODING)", "False"),
    (NOTICES, notice, "0 < pause <= MAX_PAUSE_MS", "0 <= pause <= MAX_PAUSE_MS"),
    (NOTICES, notice, "0 < pause <= MAX_PAUSE_MS", "0 < pause"),
    (NOTICES, notice, "0 < pause <= MAX_PAUSE_MS", "0 < pause < MAX_PAUSE_MS"),
    (NOTICES, notice, "if notice.bus != bus", "if False"),
    (NOTICES, notice, "if notice.bot != bot", "if False"),
    (NOTICES, notice, "if abs(off_ms) > NOTICE_LIFE_MS", "if abs(off_ms) >= NOTICE_LIFE_MS"),
    (NOTICES, notice, "if abs(off_ms) > NOTICE_LIFE_MS", "if abs(off_ms) > NOTICE_LIFE_MS + 1"),
    (NOTICES, notice, "if abs(off_ms) > NOTICE_LIFE_MS", "if off_ms > NOTICE_LIFE_MS"),
    (NOTICES, notice, "if abs(off_ms) > NOTICE_LIFE_MS", "if -off_ms > NOTICE_LIFE_MS"),
    (STAMPS, stamp, "is_name(bus) and ", ""),
    (STAMPS, stamp, "is_name(bot) and ", ""),
    (STAMPS, stamp, " and is_name(relay)", ""),
    (STAMPS, stamp, "len(envelope) == len(policy) == HASH_BYTES", "len(envelope) == HASH_BYTES"),
    (STAMPS, stamp, "len(envelope) == len(policy) == HASH_BYTES", "len(policy) == HASH_BYTES"),
    (STAMPS, stamp, "0 <= judged_at <= MAX_TIME_MS", "0 <= judged_at"),
    (STAMPS, stamp, "len(detail.encode()) <= MAX_DETAIL_BYTES", "len(detail) <= MAX_DETAIL_BYTES"),
    (STAMPS, stamp, "< MAX_FAULTS", "<= MAX_FAULTS"),
    (STAMPS, stamp, "not 1 <= count <= MAX_PAYLOADS", "not 0 <= count <= MAX_PAYLOADS"),
    (STAMPS, stamp, "not 1 <= count <= MAX_PAYLOADS", "not 1 <= count < MAX_PAYLOADS"),
    (STAMPS, stamp, "not 1 <= count <= MAX_PAYLOADS", "not 1 <= count <= MAX_PAYLOADS + 1"),
    (STAMPS, stamp, "verdict == Verdict.ACCEPTED and len(refused) == count", "False"),
    (STAMPS, stamp, "verdict == Verdict.ACCEPTED and len(refused) == count",
     "len(refused) == count"),
    (STAMPS, stamp, "    if not listed:\n", "    if False:\n"),
    (STAMPS, stamp, "    if count == 1:\n", "    if False:\n"),
    (STAMPS, stamp, "tuple(map(type, item)) not in _REFUSED_TYPES.combinations",
     "len(item) != 3"),
    (STAMPS, stamp, "not last < index < count", "not last <= index < count"),
    (STAMPS, stamp, "not last < index < count", "not last < index <= count"),
    (STAMPS, stamp, "not last < index < count", "not -1 < index < count"),
    (STAMPS, stamp, "    last = -1\n", "    last = -2\n"),
    (STAMPS, stamp, "    last = -1\n", "    last = 0\n"),
    (STAMPS, stamp, "if reason not in PAYLOAD_REASONS", "if reason not in set(Reason)"),
    (STAMPS, stamp, "Reason.SIZE, Reason.PAYLOAD, Reason.SCHEMA}", "Reason.SIZE, Reason.SCHEMA}"),
    (STAMPS, stamp,
     "if not _is_detail(detail):\n            raise Malformed(\"stamp: the detail of a refused",
     "if False:\n            raise Malformed(\"stamp: the detail of a refused"),
    (STAMPS, stamp, 'len((detail or "").encode())', 'len(detail or "")'),
    (STAMPS, stamp, "if details > MAX_LISTED_DETAIL_BYTES",
     "if details >= MAX_LISTED_DETAIL_BYTES"),
    (STAMPS, stamp, "if details > MAX_LISTED_DETAIL_BYTES",
     "if details > MAX_LISTED_DETAIL_BYTES + 1"),
    (STAMPS, stamp, "(verdict == Verdict.ACCEPTED) != (reason is None)", "False"),
    (STAMPS, stamp, "Verdict(verdict),",
     "Verdict(verdict if verdict in set(Verdict) else 'dropped'),"),
    (DELIVERIES, delivery, "if stamp.bus != bus", "if False"),
    (DELIVERIES, delivery, "if stamp.verdict is not Verdict.ACCEPTED", "if False"),
    (DELIVERIES, delivery, "if stamp.subject != subject", "if False"),
    (DELIVERIES, delivery,
     "if envelope.digest != stamp.envelope", "if False"),
    (DELIVERIES, delivery, "len(envelope.payloads) != stamp.count or ", ""),
    (DELIVERIES, delivery, "withheld != [one.index for one in stamp.refused]", "False"),
    (DELIVERIES, delivery, "withheld != [one.index for one in stamp.refused]",
     "not set(withheld) <= {one.index for one in stamp.refused}"),
    (DELIVERIES, delivery, "withheld != [one.index for one in stamp.refused]",
     "not set(withheld) >= {one.index for one in stamp.refused}"),
    (DELIVERIES, delivery, "withheld != [one.index for one in stamp.refused]",
     "len(withheld) != len(stamp.refused)"),
    (DELIVERIES, delivery, "Envelope.decode_shown(envelope_data)",
     "Envelope.decode(envelope_data)"),
    (DELIVERIES, delivery, "            index=index,\n", "            index=0,\n"),
    (DELIVERIES, delivery,
     "(header.bus, header.bot, header.subject, header.nonce) != stamped",
     "(header.bus, header.bot, header.subject) != (bus, stamp.bot, subject)"),
    (DELIVERIES, delivery,
     "(header.bus, header.bot, header.subject, header.nonce) != stamped",
     "(header.bus, header.subject, header.nonce) != (bus, subject, stamp.nonce)"),
    (MATCHING, matching,
     "(stamp.bot, stamp.subject, stamp.nonce) != (header.bot, header.subject, header.nonce)",
     "(stamp.bot, stamp.nonce) != (header.bot, header.nonce)"),
    (MATCHING, matching,
     "(stamp.bot, stamp.subject, stamp.nonce) != (header.bot, header.subject, header.nonce)",
     "(stamp.subject, stamp.nonce) != (header.subject, header.nonce)"),
    (MATCHING, matching, "if accepted and (stamp.bus, stamp.count)", "if (stamp.bus, stamp.count)"),
    (MATCHING, matching, "(stamp.bus, stamp.count) != (header.bus, count)",
     "stamp.count != count"),
    (MATCHING, matching, "(stamp.bus, stamp.count) != (header.bus, count)",
     "stamp.bus != header.bus"),
    (MATCHING, matching, "not (accepted and resumed)", "not accepted"),
    (MATCHING, matching, "not (accepted and resumed)", "not resumed"),
    (MATCHING, matching,
     "stamp.envelope not in attempts and not (accepted and resumed)",
     "stamp.envelope not in attempts"),
    (MATCHING, matching, "return (stamp.position is None) is live", "return True"),
    (MATCHING, envelope, "if not 0 <= parent.index < MAX_PAYLOADS", "if False"),
    (MATCHING, envelope, "if not 0 <= parent.index < MAX_PAYLOADS",
     "if not 0 <= parent.index <= MAX_PAYLOADS"),
    (MATCHING, envelope, "if not 0 <= parent.index < MAX_PAYLOADS",
     "if not parent.index < MAX_PAYLOADS"),
    (MATCHING, matching, "if stamp.bus != request.bus", "if False"),
    (MATCHING, matching, "if stamp.verdict is not Verdict.ACCEPTED", "if False"),
    (MATCHING, matching,
     "(stamp.bot, stamp.subject, stamp.nonce) != (request.bot, request.subject, request.nonce)",
     "(stamp.bot, stamp.nonce) != (request.bot, request.nonce)"),
    (MATCHING, matching, "is_own(request.subject) and message.bot != RELAY", "False"),
    (MATCHING, matching, "is_own(request.subject) and message.bot != RELAY",
     "message.bot != RELAY"),
    (SUBSCRIBERS, handled, "key = message.bot, message.nonce", 'key = "", message.nonce'),
    (SUBSCRIBERS, handled, "key = message.bot, message.nonce", 'key = message.bot, b""'),
    (SUBSCRIBERS, handled, ">> message.index & 1", "& 1"),
    (SUBSCRIBERS, handled, "bool(self.of(message) >> message.index & 1)",
     "bool(self.of(message))"),
    (SUBSCRIBERS, handled, "self._seen.get(key, 0) | 1 << message.index", "1 << message.index"),
    (SUBJECTS, subjects, "return len(given) > at", "return len(given) >= at"),
    (SUBJECTS, subjects, 'given[at] == ">" or ', ""),
    (SUBJECTS, subjects, 'f"{pattern}\\0{durable}"', 'f"{pattern}{durable}"'),
]  # fmt: skip
"""Vectors, a module of the client, a piece of its source, and the mistake in its place."""


def fails(runs: Runs) -> bool:
    """Whether some vector fails."""
    for test, vectors in runs:
        for vector in vectors:
            try:
                test(vector)
            except (Exception, pytest.fail.Exception):  # noqa: BLE001  # however it fails, it is noticed
                return True
    return False


def plant(monkeypatch: pytest.MonkeyPatch, module: ModuleType, made: ModuleType) -> None:
    """Replace what ``module`` defines with the version of ``made``.

    This covers all modules of the client and of these tests.
    """
    own = {
        id(value): getattr(made, name)
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__ and hasattr(made, name)
    }
    for name, other in list(sys.modules.items()):
        if name.split(".")[0] != "sealbus" and other not in (client, pinned, plain):
            continue
        for attribute, value in list(vars(other).items()):
            if id(value) in own:
                monkeypatch.setattr(other, attribute, own[id(value)])


ALL: Final = [
    PAYLOADS,
    BUNDLES,
    HEADERS,
    SEALS,
    CERTIFICATES,
    JOINS,
    LOGINS,
    EXCHANGES,
    KEYS,
    STAMPS,
    NOTICES,
    KEYRINGS,
    PINS,
    DELIVERIES,
    MATCHING,
    SUBSCRIBERS,
    SUBJECTS,
]


def test_the_client_meets_every_vector() -> None:
    assert [runs for runs in ALL if fails(runs)] == []


@pytest.mark.parametrize(
    ("runs", "module", "right", "wrong"),
    MISTAKES,
    ids=[
        f"{module.__name__}: {wrong.strip() or 'without'} ({right.strip()})"[:70]
        for _, module, right, wrong in MISTAKES
    ],
)
def test_a_mistake_in_the_client_is_caught(
    runs: Runs, module: ModuleType, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = mutated(module, right, wrong)
    if module is codec and (right, wrong) not in QUICK:
        never_quick(made)
    plant(monkeypatch, module, made)
    assert fails(runs)


def never_quick(made: ModuleType) -> None:
    """Have a version of the codec leave each payload to the careful way."""
    vars(made).update(_read_quickly=lambda *_: vars(made)["_UNSURE"], _write_quickly=lambda _: b"")


def test_the_careful_codec_alone_meets_every_payload(monkeypatch: pytest.MonkeyPatch) -> None:
    made = mutated(codec, "_UNSURE = object()", "_UNSURE = object()")
    never_quick(made)
    plant(monkeypatch, codec, made)
    assert not fails(PAYLOADS)
