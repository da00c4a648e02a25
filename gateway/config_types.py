"""The types of settings: what pydantic is told of the readers, and how a value is shown again.

Called by `gateway.config` alone.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, SecretStr

from gateway import config_reading as reading
from gateway.config_reading import Address, Price
from gateway.config_store import StoreUrl


def _secret(value: object) -> SecretStr | None:
    return value if value is None or isinstance(value, SecretStr) else SecretStr(reading.credential(value))


def _secrets(value: object) -> tuple[SecretStr, ...]:
    return tuple(map(SecretStr, reading.sealing_keys(value)))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of sealing keys, as it was at the start."""

    path: Path
    keys: tuple[SecretStr, ...]

    def __str__(self) -> str:
        return str(self.path)


def _key_file(value: object) -> KeyFile | None:
    if value is None or isinstance(value, KeyFile):
        return value
    path = Path(str(value))
    return KeyFile(path, _secrets(reading.secret_file(path)))


Seconds = Annotated[float, PlainValidator(reading.seconds)]
Pause = Annotated[float, PlainValidator(reading.pause)]
Bytes = Annotated[int, PlainValidator(reading.size)]
Count = Annotated[int, PlainValidator(reading.count)]
Secret = Annotated[SecretStr | None, PlainValidator(_secret)]
Listen = Annotated[Address, PlainValidator(Address.parse)]
SealingKeys = Annotated[tuple[SecretStr, ...], PlainValidator(_secrets)]
SealingKeyFile = Annotated[KeyFile | None, PlainValidator(_key_file)]
SecondsByModel = Annotated[
    reading.Pairs[float], PlainValidator(reading.by_model(reading.seconds, "gpt-5*=90,*-pro=10m"))
]

Prices = Annotated[
    reading.Pairs[reading.Price], PlainValidator(reading.by_model(reading.price, "gpt-5*=1.25/0.125/10"))
]


def plain(value: Any) -> Any:
    """A setting as a JSON value for people to read; a secret that is set is `***`."""
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        table = value and isinstance(value[0], tuple)
        return {name: plain(one) for name, one in value} if table else list(map(plain, value))
    if isinstance(value, StoreUrl):
        return value.shown
    return str(value) if isinstance(value, Address | Price | KeyFile) else value
