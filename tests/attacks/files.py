"""The bus's folder: changes that a reviewer reads in one way and the bus in another.

The changes are in the policy, the schemas or the keys.
"""

from __future__ import annotations

from tests.attacks.corpus import Family
from tests.policy.folder import POLICY, Folder

FAMILY = Family("files")
attack = FAMILY.folder


def _schema(folder: Folder, text: str) -> None:
    folder.write("schemas/order.v1.json", text)


@attack("the key publish occurs twice")
def a_key_twice(folder: Folder) -> None:
    """Two grants under one name: one reader takes the first, another the last."""
    folder.change(
        "    publish: [orders.placed]\n",
        "    publish: [orders.placed]\n    publish: [stock.reserved]\n",
    )


@attack("this character ends a line for some readers only")
def a_grant_behind_a_line_separator(folder: Folder) -> None:
    """A comment that ends, for some readers, at U+2028: a grant follows in it."""
    folder.write("policy.yaml", POLICY + "# note\u2028    publish: [stock.reserved]\n")


@attack("this character ends a line for some readers only")
def a_grant_behind_a_lone_return(folder: Folder) -> None:
    """The same with a carriage return."""
    folder.write("policy.yaml", POLICY + "# note\r    publish: [stock.reserved]\n")


@attack("this character turns the direction of writing, so people read what no program does")
def a_grant_that_reads_as_a_comment(folder: Folder) -> None:
    """A grant that people see on the other side of its #."""
    folder.change(
        "    publish: [orders.placed]\n",
        "    publish: [orders.placed, stock.reserved] \u202e# \u2066x\u2069\n",
    )


@attack("this control character is shown by no editor, and obeyed by terminals")
def a_grant_that_a_terminal_hides(folder: Folder) -> None:
    """A grant that is erased where the file is shown."""
    folder.change(
        "    publish: [orders.placed]\n", "    publish: [orders.placed, stock.reserved] # \x1b[2K\n"
    )


@attack("the key publish occurs twice")
def a_key_twice_in_two_spellings(folder: Folder) -> None:
    """The same with an escape in one of the two."""
    twice = '    publish: [orders.placed]\n    "p\\u0075blish": [stock.reserved]\n'
    folder.change("    publish: [orders.placed]\n", twice)


@attack("is not read: its name is not policy.yaml")
def a_policy_beside_the_policy(folder: Folder) -> None:
    """A second policy file: people read it, and so does a file system without case."""
    folder.write("Policy.yaml", POLICY)


@attack("anchors (&name) are not used here")
def an_anchor(folder: Folder) -> None:
    """One bot's grants, to which another bot refers, far below."""
    folder.change("    publish: [orders.placed]\n", "    publish: &all [orders.placed]\n")


@attack("tags (!type) are not used here")
def a_tag(folder: Folder) -> None:
    """A tag from which some loaders make an object."""
    folder.change("bus: shop", "bus: !!python/object/apply:os.system ['true']")


@attack("the first token of a grant may not be a wildcard")
def a_grant_of_everything(folder: Folder) -> None:
    """A pattern that also matches the bus's own subjects and other bots' answers."""
    folder.change("    publish: [orders.placed]\n", "    publish: ['>']\n")


@attack("sealbus.* belongs to the bus itself")
def a_subject_of_the_bus(folder: Folder) -> None:
    """A declaration of one of the bus's own subjects, with another schema."""
    folder.change(
        "  stock.check:\n", "  sealbus.subscribe:\n    schema: order.v1\n  stock.check:\n"
    )


@attack("orders.* and orders.placed overlap, so it is not clear which rule holds")
def a_subject_declared_twice(folder: Folder) -> None:
    """A pattern over a declared subject, with a rule of its own."""
    folder.change("  stock.check:\n", "  orders.*:\n    schema: order.v1\n  stock.check:\n")


@attack("unknown name rates")
def a_field_that_nobody_knows(folder: Folder) -> None:
    """A misspelt field, whose rule would not apply."""
    folder.change(
        "  orders.placed:\n    schema: order.v1\n",
        "  orders.placed:\n    schema: order.v1\n    rates: 1/s\n",
    )


@attack("this key is also inventory's: a key belongs to one bot")
def a_key_of_two_bots(folder: Folder) -> None:
    """One bot's key as another's."""
    folder.key("inventory", folder.key("order"))


@attack("the file's name is not a key file's name")
def a_key_file_that_is_not_read(folder: Folder) -> None:
    """A revocation in a file with another ending, which would not apply."""
    folder.write("keys/order.yml", "bot: order\nkeys: []\n")


@attack("is not the bot that the file is named after")
def keys_of_another_bot(folder: Folder) -> None:
    """A file with one bot's name outside and another bot's name inside."""
    folder.key("order")
    folder.change("bot: order", "bot: inventory", "keys/order.yaml")


@attack("the reference points to no schema of this folder")
def a_schema_from_elsewhere(folder: Folder) -> None:
    """A schema that refers to a web page, whose owner would decide which payloads are valid."""
    _schema(folder, '{"$ref": "https://example.org/order.json"}')


@attack("the reference points to no schema of this folder")
def a_schema_out_of_the_folder(folder: Folder) -> None:
    """A schema that refers to a file outside the folder."""
    _schema(folder, '{"$ref": "../../../etc/passwd"}')


@attack("the $id is another file's too")
def an_id_of_another_file(folder: Folder) -> None:
    """A new schema with another spelling of a sibling's $id, which takes the sibling's place."""
    folder.write(
        "schemas/other.v1.json",
        '{"$id": "HTTPS://schemas.sealbus.invalid.:443/x/../%6frder.v1.json"}',
    )


@attack("the anchor is used twice in this schema")
def an_anchor_twice(folder: Folder) -> None:
    """Two places of one name: a reference would reach one of them by chance."""
    _schema(folder, '{"$defs": {"a": {"$anchor": "x"}, "b": {"$anchor": "x"}}}')


@attack("no keyword of Draft 2020-12 that is checked here: propertys")
def a_keyword_that_is_misspelt(folder: Folder) -> None:
    """``propertys``, which JSON Schema ignores: nothing would be checked."""
    _schema(folder, '{"type": "object", "propertys": {}}')


@attack("the key type occurs twice")
def a_schema_key_twice(folder: Folder) -> None:
    """Two types under one name."""
    _schema(folder, '{"type": "object", "type": "string"}')


@attack("the regular expression cannot be used")
def a_pattern_that_looks_back(folder: Folder) -> None:
    """A regular expression whose time is not linear."""
    _schema(folder, r'{"type": "string", "pattern": "(a+)\\1$"}')


@attack("to judge one payload of orders.placed by this schema could take too long")
def a_pattern_with_many_places(folder: Folder) -> None:
    """A regular expression that takes 30 microseconds for each byte of a text."""
    _schema(folder, '{"type": "string", "pattern": "(a{1,50}){1,50}b"}')


@attack("to judge one payload of orders.placed by this schema could take too long")
def an_enum_of_many_objects(folder: Folder) -> None:
    """Each value is compared with each of 300 objects."""
    _schema(folder, '{"items": {"enum": [' + ", ".join(f'{{"a": {n}}}' for n in range(300)) + "]}}")


@attack("to judge one payload of orders.placed by this schema could take too long")
def unique_items_in_items(folder: Folder) -> None:
    """Short lists of large numbers, in which each is compared with each."""
    _schema(folder, '{"items": {"uniqueItems": true}}')


@attack("no keyword of Draft 2020-12 that is checked here: dependencies")
def a_keyword_that_only_the_validator_obeys(folder: Folder) -> None:
    """A keyword of an earlier draft: a recursion behind it doubles with each level of a payload."""
    _schema(
        folder,
        '{"dependencies": {"a": {"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}}]}}}',
    )


@attack("the schema reaches itself in two ways at one place, so each level doubles the work")
def a_recursion_that_doubles(folder: Folder) -> None:
    """A schema with which twenty levels take 100 seconds."""
    _schema(
        folder, '{"anyOf": [{"items": {"$ref": "#"}}, {"items": {"$ref": "#"}, "minItems": 1}]}'
    )


@attack("maxLength checks nothing beside this type")
def a_keyword_in_the_wrong_place(folder: Folder) -> None:
    """A bound that a reviewer sees and that never applies."""
    _schema(folder, '{"type": "array", "maxLength": 10}')
