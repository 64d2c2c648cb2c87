"""The user's records <-> tensors: schemas, splits, built-in sets."""

from .arrays import ArraySchema
from .densities import Mixture2D
from .features import Features
from .readers import as_data, load_data, read_records, reload
from .records import Data, Records
from .schema import Condition, Schema
from .sequences import SequenceSchema
from .spec import BINARY, REAL, UNIT, DataSpec, Kind, Support, categories, levels
from .tables import TableSchema
from .writers import pictures, write_records

__all__ = [
    "BINARY",
    "REAL",
    "UNIT",
    "ArraySchema",
    "Condition",
    "Data",
    "DataSpec",
    "Features",
    "Kind",
    "Mixture2D",
    "Records",
    "Schema",
    "SequenceSchema",
    "Support",
    "TableSchema",
    "as_data",
    "categories",
    "levels",
    "load_data",
    "pictures",
    "read_records",
    "reload",
    "write_records",
]
