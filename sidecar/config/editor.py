"""The JSON Schema of the file as its author writes it, for the YAML language server of an editor.

Not pydantic's own: that describes what the program holds (seconds, bytes, addresses taken apart).
"""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from sidecar.config.fields import JsonSchema, Kind
from sidecar.config.schema import FILLED_IN, Config, Section

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
    fields = {name: field for name, field in model.model_fields.items() if name not in FILLED_IN}
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
    if not field.is_required() and field.default_factory is None:
        schema["default"] = field.default
    return schema


def _value(annotation: Any, metadata: list[Any], sections: dict[str, JsonSchema]) -> JsonSchema:
    if kind := next((each for each in metadata if isinstance(each, Kind)), None):
        return {"anyOf": [kind.schema, _VARIABLE]}
    if isinstance(annotation, type) and issubclass(annotation, Section):
        name = annotation.__name__
        if name not in sections:
            sections[name] = _section(annotation, sections)
        return {"$ref": f"#/$defs/{name}"}
    # Pydantic keeps the constraints of a key among its metadata.
    longest = next(each.max_length for each in metadata if hasattr(each, "max_length"))
    if get_origin(annotation) is tuple:
        item, _ = get_args(annotation)
        return {"type": "array", "items": _value(*_unpacked(item), sections), "maxItems": longest}
    name, section = get_args(annotation)
    return {
        "type": "object",
        "propertyNames": _unpacked(name)[1][0].schema,
        "additionalProperties": _value(section, [], sections),
        "minProperties": 1,
        "maxProperties": longest,
    }


def _unpacked(annotation: Any) -> tuple[Any, list[Any]]:
    """The type in an `Annotated`, and what is annotated."""
    return annotation.__origin__, list(annotation.__metadata__)
