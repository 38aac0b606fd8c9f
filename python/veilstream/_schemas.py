"""What a client without keys knows of schemas: their documents, read for names alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ._types import FieldInfo, IndexInfo
from .errors import ConfigError, UnknownField

__all__ = ["Schemas"]

_FORMATS = {"fernet": "fernet", "pgcrypto": "pgcrypto"}


class Schemas:
    """Schema documents, by name. The service decides by its own."""

    def __init__(self, source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> None:
        self._fields: dict[str, FieldInfo] = {}
        self._parts: dict[str, tuple[str, ...]] = {}
        sources = [source] if isinstance(source, str | os.PathLike) else list(source)
        for path in map(Path, sources):
            files = sorted(path.glob("*.json")) if path.is_dir() else [path]
            for file in files:
                if not file.name.endswith((".cases.json", ".schema.json")):
                    self._read(file)

    def field(self, name: str) -> FieldInfo:
        """What the document says of ``<schema>.<id>``."""
        try:
            return self._fields[name]
        except KeyError:
            raise UnknownField(
                f"{name} is no field of the schemas that Veil.connect was given"
            ) from None

    def ordered(self, name: str, parts: Mapping[str, Any]) -> list[Any]:
        """The parts of a compound index, as the index reads them."""
        order = self._parts.get(name)
        if order is None or set(order) != set(parts):
            wanted = ", ".join(order or ())
            raise ConfigError(f"{name}: a compound index is asked for with its parts: {wanted}")
        return [parts[part] for part in order]

    def _read(self, file: Path) -> None:
        try:
            document = json.loads(file.read_bytes())
            name = document["name"]
            for member in document["fields"]:
                self._add(document, name, member)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
            why = type(fault).__name__
            raise ConfigError(f"schemas: {file} is no schema document ({why})") from None

    def _add(self, document: Mapping[str, Any], name: str, member: Mapping[str, Any]) -> None:
        index = member.get("index") or {}
        protect = member.get("protect", "encrypt")
        own = str(member["path"]).rpartition(".")[2].rstrip("]'\"").rpartition("['")[2]
        bits = int(index.get("bits", 128))
        into = index.get("into", f"{own}_bidx") if protect != "hash" else None
        info = IndexInfo(into=into, bits=bits, unique="bits" not in index)
        full = f"{name}.{member['id']}"
        self._fields[full] = FieldInfo(
            schema=name,
            field=str(member["id"]),
            binds=tuple(sorted(bind["name"] for bind in member.get("bind", ()))),
            has_subject="subject" in document,
            subject_optional=bool(document.get("subject_optional", False)),
            indexes=(info,) if index else (),
            format=_FORMATS.get(str(member.get("format")), "vs1"),
            deterministic=protect in ("deterministic", "hash"),
        )
        if "of" in index:
            names = (str(path).rpartition(".")[2] for path in index["of"])
            self._parts[full] = tuple(names)
