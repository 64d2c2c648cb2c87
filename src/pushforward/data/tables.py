"""Tables of named columns: pandas, polars, CSV and Parquet."""

from .schema import Schema


class TableSchema(Schema):
    """Named columns."""
