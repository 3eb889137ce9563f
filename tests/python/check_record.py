"""Holds records against their schema with the package `jsonschema`: check_record.py SCHEMA RECORD..."""

import base64
import copy
import hashlib
import json
import sys

from jsonschema import Draft202012Validator


def broken(record):
    """Records that differ from a good one in a way that a schema can see."""

    def change(path, value):
        other = copy.deepcopy(record)
        *way, last = path
        at = other
        for name in way:
            at = at[name]
        at[last] = value
        return path, other

    predicate = "predicate"
    yield change(["_type"], "https://in-toto.io/Statement/v0.1")
    yield change(["more"], 1)
    yield change(["subject"], [])
    yield change(["subject", 0, "digest", "sha256"], "0")
    yield change([predicate, "more"], 1)
    yield change([predicate, "classes", 0, "id"], -1)
    yield change([predicate, "classes", 0, "nameHmacSha256"], "")
    yield change([predicate, "changes", "initializers", 0, "share"], 2)
    yield change([predicate, "changes", "initializers", 0, "dtype"], "int8")
    yield change([predicate, "measures", "candidates"], 0.5)
    yield change([predicate, "signer"], {})
    yield change([predicate, "buildDefinition", "resolvedDependencies"], [])
    yield change([predicate, "buildDefinition", "internalParameters", "engine"], "other")


def main(schema, records):
    with open(schema) as f:
        schema = json.load(f)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    for path in records:
        with open(path, "rb") as f:
            record = json.loads(f.read())
        validator.validate(record)
        statement = record
        if "payload" in record:
            payload = base64.b64decode(record["payload"], validate=True)
            statement = json.loads(payload)
            validator.validate(statement)
        else:
            with open(path, "rb") as f:
                payload = f.read()
        digest = statement["predicate"]["recordDigest"]["sha256"]
        blank = payload.replace(digest.encode(), b"0" * 64)
        if hashlib.sha256(blank).hexdigest() != digest:
            sys.exit(f"{path}: another hash than its own")
        for what, other in broken(statement):
            if validator.is_valid(other):
                sys.exit(f"{path}: the schema accepts a wrong {what}")
    print(f"{len(records)} records valid")


main(sys.argv[1], sys.argv[2:])
