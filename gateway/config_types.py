"""The types of settings: what pydantic is told of the readers, and how a value is shown again.

Called by `gateway.config` alone.
"""

from typing import Annotated, Any

from pydantic import PlainValidator, SecretStr

from gateway import config_reading as reading
from gateway.config_reading import Address, Price
from gateway.config_store import StoreUrl


def _secret(value: object) -> SecretStr | None:
    return value if value is None or isinstance(value, SecretStr) else SecretStr(reading.credential(value))


Seconds = Annotated[float, PlainValidator(reading.seconds)]
Pause = Annotated[float, PlainValidator(reading.pause)]
Bytes = Annotated[int, PlainValidator(reading.size)]
Count = Annotated[int, PlainValidator(reading.count)]
Secret = Annotated[SecretStr | None, PlainValidator(_secret)]
Listen = Annotated[Address, PlainValidator(Address.parse)]
SecondsByModel = Annotated[
    reading.Pairs[float], PlainValidator(reading.by_model(reading.seconds, "gpt-5*=90,*-pro=10m"))
]

Prices = Annotated[
    reading.Pairs[reading.Price], PlainValidator(reading.by_model(reading.price, "gpt-5*=1.25/0.125/10"))
]


class Conflict(ValueError):
    """Settings that are each good and not together; `names` are theirs, the first that is written gets the blame."""

    def __init__(self, names: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.names = names


def plain(value: Any) -> Any:
    """A setting as a JSON value for people to read; a secret that is set is `***`."""
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, tuple):
        return {name: plain(one) for name, one in value} if value and isinstance(value[0], tuple) else list(value)
    if isinstance(value, StoreUrl):
        return value.shown
    return str(value) if isinstance(value, Address | Price) else value
