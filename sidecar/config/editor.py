"""The JSON Schema of the file as its author writes it, for the YAML language server of an editor.

Not pydantic's own: that describes what the program holds (seconds, bytes, addresses taken apart).
"""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic.fields import FieldInfo

from sidecar.config.fields import JsonSchema, Kind, OneOrMore
from sidecar.config.schema import FILLED_IN, Config
from sidecar.config.section import Section, known_keys, unwrapped

# Pydantic's names for how long a list may be, and those of JSON Schema.
_LIMITS = {"min_length": "minItems", "max_length": "maxItems"}
# Whatever the kind, a variable may stand for it or for a part of it.
_VARIABLE: JsonSchema = {"type": "string", "pattern": r"\$\{"}


def json_schema() -> JsonSchema:
    """A JSON Schema, draft 2020-12, with every key, its description and its default as written in YAML."""
    sections: dict[str, JsonSchema] = {}
    root = _section(Config, sections)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Sidecar",
        **root,
        "$defs": sections,
    }


def _section(model: type[Section], sections: dict[str, JsonSchema]) -> JsonSchema:
    fields = {name: field for name, field in known_keys(model).items() if name not in FILLED_IN}
    return {
        # Null as well: a section whose keys are all commented out.
        "type": "object" if model is Config else ["object", "null"],
        "description": model.__doc__,
        "properties": {name: _property(field, sections) for name, field in fields.items()},
        "required": [name for name, field in fields.items() if field.is_required()],
        "additionalProperties": False,
    }


def _property(field: FieldInfo, sections: dict[str, JsonSchema]) -> JsonSchema:
    schema = {"description": field.description, **_value(field.annotation, field.metadata, sections)}
    if field.is_required() and "propertyNames" in schema:
        schema |= {"type": "object", "minProperties": 1}
    if not field.is_required() and field.default_factory is None:
        schema["default"] = field.default
    return schema


def _value(annotation: Any, metadata: list[Any], sections: dict[str, JsonSchema]) -> JsonSchema:
    if kind := next((each for each in metadata if isinstance(each, Kind)), None):
        return {"anyOf": [kind.schema, _VARIABLE]}
    annotation, nullable = unwrapped(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        # Null is an empty section already.
        name = annotation.__name__
        if name not in sections:
            sections[name] = _section(annotation, sections)
        return {"$ref": f"#/$defs/{name}"}
    # Pydantic keeps the constraints of a key among its metadata.
    limits = {limit: getattr(each, limit) for each in metadata for limit in _LIMITS if hasattr(each, limit)}
    if get_origin(annotation) is tuple:
        item, _ = get_args(annotation)
        schema = {"type": "array", "items": _value(*_unpacked(item), sections)}
        schema |= {_LIMITS[limit]: number for limit, number in limits.items()}
        if single := next((each for each in metadata if isinstance(each, OneOrMore)), None):
            return {"anyOf": [single.kind.schema, _VARIABLE, schema]}
        return {"anyOf": [schema, {"type": "null"}]} if nullable else schema
    name, value = get_args(annotation)
    return {
        "type": ["object", "null"],
        "propertyNames": _unpacked(name)[1][0].schema,
        "additionalProperties": _value(*_unpacked(value), sections),
        "maxProperties": limits["max_length"],
    }


def _unpacked(annotation: Any) -> tuple[Any, list[Any]]:
    """The type in an `Annotated`, or one without, and what is annotated."""
    if get_origin(annotation) is not Annotated:
        return annotation, []
    return annotation.__origin__, list(annotation.__metadata__)
